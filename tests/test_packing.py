"""Packed tensors: nothing lost, what is damaged refused."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from lcodec import packing, weights
from lcodec.codec import Codec
from lcodec.errors import ModelError
from lcodec.finalize import finalize
from tests.test_cli_errors import assert_refused, run

RNG = np.random.default_rng(7)
WEIGHT = (RNG.standard_normal((48, 32, 3, 3)) * RNG.uniform(0.001, 2, (48, 1, 1, 1))).astype(np.float32)
ARRAYS = {
    "rounded": packing.round_rows(WEIGHT),
    "rows with zeros": packing.round_rows(np.where(np.arange(48)[:, None, None, None] % 3 == 0, np.float32(0), WEIGHT)),
    "any half": WEIGHT.astype(np.float16),
    "not finite": np.array([[np.inf, np.nan], [1.0, -2.0]], np.float16),
    "negative zero": np.array([[-0.0, 1.0], [0.5, 2.0]], np.float16),
    "subnormal": np.array([[2.0**-24, -(2.0**-20)]], np.float16),
    "vector": RNG.standard_normal(50).astype(np.float16),
    "float32": WEIGHT,
    "int8": RNG.integers(-128, 128, (5, 6, 7), np.int8),
    "uint16": RNG.integers(0, 65536, 1000).astype(np.uint16),
    "int32": RNG.integers(-(2**31), 2**31, (3, 4), np.int32),
    "empty": np.zeros((0, 3), np.float16),
    "scalar": np.array(3, np.int32),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_packed_tensor_comes_back_bit_by_bit(name):
    array = ARRAYS[name]
    kind, data = packing.pack(array)
    back = packing.unpack(kind, data, array.dtype.str, array.shape)
    assert back.dtype == array.dtype and back.shape == array.shape and back.tobytes() == array.tobytes()
    assert kind == ("rows" if name in ("rounded", "rows with zeros", "subnormal") else "plain")


def test_rounding_keeps_eleven_bits_of_each_row():
    rounded = packing.round_rows(WEIGHT).astype(np.float64)
    largest = np.abs(WEIGHT).max((1, 2, 3), keepdims=True)
    assert (np.abs(rounded - WEIGHT) <= largest / packing.STEPS * 1.0001).all()
    assert np.abs(rounded - WEIGHT).max() > 0
    small = WEIGHT[:2, :2]
    assert (packing.round_rows(small) == small.astype(np.float16)).all()


def test_rounded_gaussian_weights_take_four_fifths_of_half_precision():
    assert len(packing.pack(ARRAYS["rounded"])[1]) < 0.8 * ARRAYS["rounded"].nbytes


KIND, GOOD = packing.pack(ARRAYS["rounded"])


@pytest.mark.parametrize(
    ("kind", "data", "dtype", "shape"),
    [
        (KIND, GOOD[:-1], "<f2", WEIGHT.shape),
        (KIND, GOOD[:100], "<f2", WEIGHT.shape),
        (KIND, GOOD + b"x", "<f2", WEIGHT.shape),
        (KIND, b"", "<f2", WEIGHT.shape),
        (KIND, b"no zlib stream", "<f2", WEIGHT.shape),
        (KIND, GOOD, "<f2", (47, 32, 3, 3)),
        (KIND, GOOD, "<f2", (49, 32, 3, 3)),
        (KIND, GOOD, "<f2", (-48, -32, 3, 3)),
        (KIND, GOOD, "<f2", (WEIGHT.size,)),
        (KIND, GOOD, "<f4", WEIGHT.shape),
        (KIND, GOOD, "<f2", (2**40, 2**40)),
        ("other", GOOD, "<f2", WEIGHT.shape),
        ("plain", GOOD, "|O", (1,)),
        ("plain", GOOD, "<f8", (1,)),
        ("plain", zlib.compress(bytes(10_000_000)), "|i1", (10,)),
    ],
)
def test_damaged_packing_is_refused(kind, data, dtype, shape):
    with pytest.raises(ModelError):
        packing.unpack(kind, data, dtype, shape)


# ---- whole files


@pytest.fixture(scope="module")
def packed_file(training_checkpoint, photo, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "packed.safetensors"
    weights.save(finalize(training_checkpoint, [photo[:64, :64]], rounded=True).model, path, compress=("*",))
    return path


def test_packed_model_is_the_same_model(packed_file, photo, tmp_path):
    model = weights.load(packed_file)
    weights.save(model, tmp_path / "plain.safetensors")
    plain = weights.load(tmp_path / "plain.safetensors")
    assert plain.id == model.id and packed_file.stat().st_size < (tmp_path / "plain.safetensors").stat().st_size
    codec = Codec(packed_file, "cpu", 1)
    data = codec.encode(photo[:64, :96], 0.0 if len(model.qualities) == 1 else model.qualities[0]).data
    assert codec.decode(data).pixels.shape == (64, 96, 3)


def test_some_tensors_are_packed_and_the_rest_lie_as_they_are(packed_file, tmp_path):
    path = tmp_path / "partly.safetensors"
    result = run("models", "export", packed_file, "-o", path, "--pack-only", "g_a.*", "--pack-only", "h_a.*")
    assert result.exit_code == 0, result.stderr
    assert weights.load(path).id == weights.load(packed_file).id
    with safe_open(path, framework="numpy") as f:
        stored = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - not a mapping
        named = json.loads(f.metadata()["lcodec"])["packed"].keys()
    assert named == {key for key in stored if key.startswith(("g_a.", "h_a."))} and named
    whole = weights.load(packed_file).tensors
    assert all((stored[key] == whole[key]).all() for key in stored.keys() - named)


def test_patterns_of_tensors_to_pack_must_mean_something(packed_file, tmp_path):
    arguments = ["models", "export", packed_file, "-o", tmp_path / "x.safetensors", "--pack-only"]
    assert_refused(run(*arguments, "q_a.*"), 5, "no tensor 'q_a.*'")
    assert_refused(run(*arguments, "g_a.*", "--pack"), 2, "exclude each other")
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed.__setitem__("nowhere", ["plain", "|i1", [1]]),
        lambda packed: packed.pop("g_a.0.weight"),
        lambda packed: packed["g_a.0.weight"].__setitem__(2, [1, 2, 3]),
        lambda packed: packed["g_a.0.weight"].__setitem__(2, "shape"),
        lambda packed: packed["g_a.0.weight"].__setitem__(1, 7),
        lambda packed: packed.__setitem__("g_a.0.weight", None),
        lambda packed: packed.__setitem__("g_a.0.weight", ["plain", "<f4", [1 << 40, 1 << 40]]),
    ],
)
def test_packed_model_with_a_false_description_is_refused(packed_file, tmp_path, damage):
    with safe_open(packed_file, framework="numpy") as f:
        metadata = json.loads(f.metadata()["lcodec"])
        tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - not a mapping
    damage(metadata["packed"])
    save_file(tensors, tmp_path / "bad.safetensors", {"lcodec": json.dumps(metadata)})
    with pytest.raises(ModelError):
        weights.load(tmp_path / "bad.safetensors")
