"""Golden vectors: files of earlier versions decode to the same latents; faulty ones raise the error in their name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import lcodec.errors
from lcodec import decoder, weights
from lcodec.codec import Codec
from lcodec.container import read_header
from lcodec.nets import ARCHITECTURES

VECTORS = Path(__file__).parent / "vectors"
EXPECTED = json.loads((VECTORS / "good" / "expected.json").read_text())
BAD = sorted((VECTORS / "bad").glob("*.lic"))


@pytest.fixture(autouse=True)
def vector_models(monkeypatch):
    monkeypatch.setenv(weights.ENVIRONMENT, str(VECTORS / "models"))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_golden_file_decodes_to_the_same_latents(name):
    data = (VECTORS / "good" / name).read_bytes()
    assert decoder.digest(data) == EXPECTED[name]["digest"]
    header = read_header(data)
    assert [header.width, header.height] == EXPECTED[name]["size"]
    assert Codec.for_stream(data, "cpu", 1).decode(data).digest == EXPECTED[name]["digest"]


@pytest.mark.parametrize("name", sorted(name for name in EXPECTED if "mode" in EXPECTED[name]))
def test_golden_file_has_the_same_kind_alpha_and_metadata(name):
    data = (VECTORS / "good" / name).read_bytes()
    picture = Codec.for_stream(data, "cpu", 1).decode(data).picture
    wanted = EXPECTED[name]
    assert (picture.mode, 16 if picture.deep else 8) == (wanted["mode"], wanted["depth"])
    got = {key: getattr(picture, key) for key in ("icc", "exif", "xmp")}
    if picture.alpha is not None:
        got["alpha"] = picture.alpha.astype(picture.alpha.dtype.newbyteorder(">")).tobytes()
    digests = {f"{key}_sha256": hashlib.sha256(block).hexdigest() for key, block in got.items() if block is not None}
    assert digests == {key: value for key, value in wanted.items() if key.endswith("_sha256")}


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_bad_file_raises_the_error_in_its_name(path):
    wanted = getattr(lcodec.errors, path.stem.split("-")[0])
    with pytest.raises(wanted) as caught:
        decoder.digest(path.read_bytes())
    assert type(caught.value) is wanted


def test_every_architecture_and_every_kind_of_error_has_a_vector():
    assert {name.rpartition("-q")[0] for name in EXPECTED} == set(ARCHITECTURES)
    headers = [read_header((VECTORS / "good" / name).read_bytes()) for name in EXPECTED]
    assert {h.slice_count > 1 for h in headers} == {True, False}
    assert {p.stem.split("-")[0] for p in BAD} >= {
        "NotLcodec", "UnsupportedVersion", "Truncated", "Corrupt", "LimitExceeded", "ModelError"
    }  # fmt: skip
