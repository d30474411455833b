"""Model files: what changes them changes their id, what damages them is found."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from lcodec import decoder, weights
from lcodec.cli import cli
from lcodec.codec import Codec
from lcodec.errors import ModelError, OutputError
from lcodec.header import read_header
from lcodec.nets import ARCHITECTURES, NetConfig
from lcodec.transforms.torch_backend import load_network
from tests.conftest import less_memory_than


def test_saved_model_comes_back(model_file, tmp_path):
    model = weights.load(model_file)
    weights.save(model, tmp_path / "copy.safetensors")
    copy = weights.load(tmp_path / "copy.safetensors")
    assert copy.id == model.id and copy.tensors.keys() == model.tensors.keys()
    assert (tmp_path / "copy.safetensors").read_bytes() == model_file.read_bytes()


def test_card_does_not_change_the_id_and_content_does(model_file):
    model = weights.load(model_file)
    assert replace(model, card={"summary": "other"}).id == model.id
    key = "g_a.0.bias"
    changed = {**model.tensors, key: model.tensors[key] + np.float32(1e-3)}
    assert replace(model, tensors=changed).id != model.id
    assert replace(model, entropy={**model.entropy, "fy": 3}).id != model.id


def test_every_damaged_byte_is_found(model_file, tmp_path):
    good = model_file.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    path = tmp_path / "bad.safetensors"
    rng = np.random.default_rng(0)
    places = [*range(0, 12), *rng.integers(12, header, 60), *rng.integers(header, len(good), 30)]
    found = 0
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 0x41
        path.write_bytes(bad)
        try:
            same = weights.load(path)
        except ModelError:
            found += 1
        else:
            # only the card may differ without notice, it decides nothing
            assert same.id == weights.load(model_file).id
    assert found >= len(places) - 20
    for size in (0, 4, 8, 100, header - 1, header, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(ModelError):
            weights.load(path)


def test_id_does_not_depend_on_the_byte_order_of_the_machine(model_file):
    model = weights.load(model_file)
    turned = {k: v.astype(v.dtype.newbyteorder(">")) for k, v in model.tensors.items()}
    assert weights.ModelFile(model.config, model.entropy, turned).id == model.id


def test_digest_is_not_made_with_a_damaged_model(model_file, photo, tmp_path, monkeypatch):
    """A digest says whether two machines agree; one of other integers would say that the file differs."""
    data = Codec(model_file, "cpu", 1).encode(photo[:64, :64], 1.0).data
    name = "int.h_s.0.bias"
    raw = model_file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    start = 8 + size + json.loads(raw[8 : 8 + size])[name]["data_offsets"][0]
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(raw[:start] + bytes([raw[start] ^ 1]) + raw[start + 1 :])
    monkeypatch.setattr(weights, "find", lambda wanted: path)
    with pytest.raises(ModelError, match="damaged"):
        decoder.digest(data)


def test_models_are_found_by_name_path_and_id(models, model_file):
    model = weights.load(model_file)
    for wanted in ("tiny-mbt2018-mean", str(model_file), model.id, model.id[:16]):
        assert weights.find(wanted) == model_file
    with pytest.raises(ModelError, match="no model nonesuch"):
        weights.find("nonesuch")


def test_model_of_an_id_is_found_beside_damaged_ones_and_such_as_are_only_called_so(model_file, tmp_path, monkeypatch):
    model = weights.load(model_file)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.setenv(weights.ENVIRONMENT, os.pathsep.join((str(first), str(second))))
    (first / "cut.safetensors").write_bytes(model_file.read_bytes()[:-100])
    assert weights.find(model.id) == first / "cut.safetensors"  # the only one
    weights.save(model, second / "whole.safetensors")
    assert weights.find(model.id) == second / "whole.safetensors"
    other = replace(model, config={**model.config, "qualities": [1.0, 7.0]})
    weights.save(other, first / f"{model.id[:16]}.safetensors")
    assert weights.find(model.id[:16]) == second / "whole.safetensors"


@pytest.mark.parametrize("path", sorted(weights.shipped_folder().glob("*.safetensors")), ids=lambda p: p.stem)
def test_shipped_model_is_the_one_of_its_card(path):
    model = weights.load(path)  # checks the id
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert model.name == path.stem and f"| id | `{model.id[:16]}` |" in card
    Codec(path, "cpu", 1)


def test_shipped_models_are_those_that_there_are_to_be():
    names = {path.stem for path in weights.shipped_folder().glob("*.safetensors")}
    assert names == set(ARCHITECTURES) and weights.DEFAULT_MODEL in names


def test_encode_takes_lc_s_where_no_model_is_named(photo, tmp_path):
    Image.fromarray(photo[:64, :64]).save(tmp_path / "photo.png")
    result = CliRunner().invoke(cli, ["encode", str(tmp_path / "photo.png"), "-q", "1"])
    assert result.exit_code == 0, result.output
    header = read_header((tmp_path / "photo.lic").read_bytes())
    assert header.model_id.hex() == weights.info(weights.shipped_folder() / "lc-s.safetensors").id[:16]


def test_list_leaves_damaged_files_out(models, tmp_path, monkeypatch):
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path))
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 100)
    model = weights.load(models["mbt2018-mean"])
    for i, qualities in enumerate(([10**400], ["a"], 5, [], [2.0, 1.0])):
        weights.save(replace(model, config={**model.config, "qualities": qualities}), tmp_path / f"{i}.safetensors")
    weights.save(model, tmp_path / "good.safetensors")
    assert [m.name for m in weights.list_models() if m.path.parent == tmp_path] == ["good"]


@pytest.mark.parametrize("key", ["int.h_s.0.mult_pos", "tables.z.cdfs", "scale_thresholds", "g_s.0.weight"])
def test_hostile_content_with_a_right_id_is_refused(model_file, tmp_path, key):
    """Whoever makes a model file makes its id as well, so the content itself is checked too."""
    model = weights.load(model_file)
    for change in ("shape", "values", "absent"):
        tensors = dict(model.tensors)
        value = np.array(tensors[key])
        if change == "shape":
            tensors[key] = value[:-1]
        elif change == "absent":
            del tensors[key]
        elif value.dtype.kind == "f":
            tensors[key] = np.full_like(value, np.nan)
        else:
            tensors[key] = np.full_like(value, np.iinfo(value.dtype).max)
        path = tmp_path / f"{change}.safetensors"
        weights.save(replace(model, tensors=tensors), path)
        with pytest.raises(ModelError):
            Codec(path, "cpu", 1)


@pytest.mark.parametrize("value", [None, 5, [], ["a"], [float("nan")], [4.0], [i / 128 for i in range(100)]])
def test_table_qualities_that_do_not_fit_the_tables_are_refused(model_file, tmp_path, value):
    model = weights.load(model_file)
    path = tmp_path / "hostile.safetensors"
    weights.save(replace(model, entropy={**model.entropy, "table_qualities": value}), path)
    with pytest.raises(ModelError):
        Codec(path, "cpu", 1)


@pytest.mark.parametrize("change", [{"N": float("inf")}, {"N": None}, {"qualities": [10**400]}, {"architecture": 1}])
def test_network_description_with_odd_values_is_refused(model_file, tmp_path, change):
    model = weights.load(model_file)
    path = tmp_path / "hostile.safetensors"
    weights.save(replace(model, config={**model.config, **change}), path)
    with pytest.raises(ModelError):
        Codec(path, "cpu", 1)


def test_memory_follows_the_tensors_and_not_the_widths_that_a_description_claims(model_file):
    with less_memory_than(500_000), pytest.raises(ModelError, match="wrong shape"):  # kB; the network would take 18 GB
        load_network(NetConfig("mbt2018-mean", 4096, 4096), weights.load(model_file))


def test_description_of_a_newer_format_is_refused(model_file, tmp_path):
    good = model_file.read_bytes()
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    header["__metadata__"]["lcodec"] = header["__metadata__"]["lcodec"].replace('"format":1', '"format":2')
    packed = json.dumps(header).encode()
    (tmp_path / "new.safetensors").write_bytes(len(packed).to_bytes(8, "little") + packed + good[8 + size :])
    with pytest.raises(ModelError, match="format 2"):
        weights.load(tmp_path / "new.safetensors")


# ---- where they are looked for


def test_pipe_among_the_models_is_passed_over(models, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.safetensors")
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path))
    assert "pipe" not in [model.name for model in weights.list_models()]
    with pytest.raises(ModelError, match="not a file"):
        weights.info(tmp_path / "pipe.safetensors")


def test_models_are_found_where_nobody_has_a_home(model_file, tmp_path, monkeypatch):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(weights.ENVIRONMENT, str(model_file.parent))
    assert weights.find(model_file.name.removesuffix(weights.SUFFIX)) == model_file
    with pytest.raises(OutputError, match="no home folder"):
        weights.cache_folder()


def test_information_is_that_of_the_file_that_is_there_now(models, tmp_path):
    path = tmp_path / "m.safetensors"
    for name in ("mbt2018", "mbt2018-mean"):
        (tmp_path / "new").write_bytes(models[name].read_bytes())
        os.replace(tmp_path / "new", path)
        assert weights.info(path).architecture == name
    path.unlink()
    with pytest.raises(ModelError, match="no such file"):
        weights.info(path)


def test_want_of_memory_is_no_damage(model_file, monkeypatch):
    from lcodec import packing

    def full(*_arguments: object) -> None:
        raise MemoryError

    packed = model_file.with_name("packed.safetensors")
    weights.save(weights.load(model_file), packed, compress=["*"])
    try:
        monkeypatch.setattr(packing, "unpack", full)
        with pytest.raises(MemoryError):
            weights.load(packed)
    finally:
        packed.unlink()


def test_file_of_more_than_a_model_can_need_is_not_read(model_file, tmp_path):
    """Sparse, so that it takes nothing on disk."""
    raw = model_file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    end = len(raw) - 8 - size
    header["g_a.zeros"] = {"dtype": "U8", "shape": [5 << 28], "data_offsets": [end, end + (5 << 28)]}
    new = json.dumps(header).encode()
    path = tmp_path / "large.safetensors"
    with open(path, "wb") as f:
        f.write(len(new).to_bytes(8, "little") + new + raw[8 + size :])
        f.truncate(8 + len(new) + end + (5 << 28))
    with less_memory_than(200_000), pytest.raises(ModelError, match="more than any model needs"):
        weights.load(path)


def test_info_knows_a_model_behind_another_of_its_name(model_file, tmp_path, monkeypatch, photo):
    codec = Codec(model_file, "cpu", 1)
    (tmp_path / "a.lic").write_bytes(codec.encode(photo[:64, :64], 2.0).data)
    other = replace(codec.file, config={**codec.file.config, "qualities": [1.0, 7.0]})
    weights.save(other, tmp_path / model_file.name)
    monkeypatch.setenv(weights.ENVIRONMENT, os.pathsep.join((str(tmp_path), str(model_file.parent))))
    result = CliRunner().invoke(cli, ["info", "--json", str(tmp_path / "a.lic")])
    assert json.loads(result.stdout)["model_id"] == codec.id
