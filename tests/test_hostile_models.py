"""Model files that someone made to do harm: each is refused, before memory is taken for what it claims.

Whoever makes a model makes its id as well: where only content is at fault, the id fits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcodec import packing, weights
from lcodec.codec import Codec
from lcodec.errors import ModelError
from tests.conftest import less_memory_than

MEMORY_KB = 300_000  # more than any of these files may cause

File = tuple[dict[str, Any], bytes]  # header of a safetensors file, and what follows it
HUGE = 1 << 62


def read(path: Path) -> File:
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def write(path: Path, header: str, data: bytes) -> None:
    packed = header.encode()
    path.write_bytes(len(packed).to_bytes(8, "little") + packed + data)


def refused(path: Path) -> None:
    """By the loader or by what uses what it loads; without the memory that the file asks for."""
    with less_memory_than(MEMORY_KB), pytest.raises(ModelError):
        Codec(path, "cpu", 1)


@pytest.fixture(scope="module")
def good(models) -> File:
    Codec(models["mbt2018"], "cpu", 1)  # so that what a model itself takes is taken
    return read(models["mbt2018"])


# ---- the file: name -> what becomes of a good header; the id is not reached


def tensors(header: dict[str, Any]) -> list[str]:
    return [key for key in header if key != "__metadata__"]


def changed(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Of the first tensor."""

    def change(header: dict[str, Any]) -> None:
        header[tensors(header)[0]].update(values)

    return change


def overlap(header: dict[str, Any]) -> None:
    first, second = tensors(header)[:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]


def hole(header: dict[str, Any]) -> None:
    del header[tensors(header)[0]]


def deep(header: dict[str, Any]) -> None:
    header["__metadata__"]["lcodec"] = "[" * 200_000


HEADERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "a shape beyond all memory": changed(shape=[HUGE, HUGE]),
    "a shape that overflows to the right size": changed(shape=[1 << 32, 1 << 32]),
    "a negative shape": changed(shape=[-1]),
    "a shape of no numbers": changed(shape=["8"]),
    "an unknown type": changed(dtype="F12"),
    "a type that numpy lacks": changed(dtype="BF16"),
    "a type of another size": changed(dtype="F64"),
    "offsets beyond the end": changed(data_offsets=[0, HUGE]),
    "offsets that run backwards": changed(data_offsets=[8, 0]),
    "negative offsets": changed(data_offsets=[-8, 0]),
    "overlapping tensors": overlap,
    "a hole between tensors": hole,
    "no metadata": lambda header: header.pop("__metadata__"),
    "metadata that is no text": lambda header: header["__metadata__"].update(lcodec=5),
    "metadata that is no JSON": lambda header: header["__metadata__"].update(lcodec="{"),
    "metadata nested without end": deep,
    "metadata of another program": lambda header: header.update(__metadata__={"format": "pt"}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_file_with_a_false_header_is_refused(name, good, tmp_path):
    header, data = json.loads(json.dumps(good[0])), good[1]
    HEADERS[name](header)
    write(tmp_path / "hostile.safetensors", json.dumps(header), data)
    refused(tmp_path / "hostile.safetensors")


@pytest.mark.parametrize("where", ["tensors", "metadata", "description"])
def test_key_that_stands_twice_is_refused(where, good, tmp_path):
    """Readers differ in which of the two they take."""
    header, data = good
    text = json.dumps(header)
    first = tensors(header)[0]
    twice = {
        "tensors": (f'"{first}": ', f'"{first}": {json.dumps(header[first])}, "{first}": '),
        "metadata": ('"lcodec": ', '"lcodec": "{}", "lcodec": '),
        "description": (r"\"format\":1", r"\"format\":1,\"format\":1"),
    }
    assert twice[where][0] in text
    write(tmp_path / "hostile.safetensors", text.replace(*twice[where], 1), data)
    refused(tmp_path / "hostile.safetensors")


@pytest.mark.parametrize("size", [0, 1, 1 << 21, 1 << 40, (1 << 64) - 1])
def test_length_of_the_header_is_not_believed(size, good, tmp_path):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + json.dumps(good[0]).encode() + good[1])
    refused(path)


@pytest.mark.parametrize("rest", [b"", b"\0", b"\0" * 1000])
def test_file_that_is_too_short_or_too_long_is_refused(rest, good, tmp_path):
    write(tmp_path / "hostile.safetensors", json.dumps(good[0]), good[1][:-1] if not rest else good[1] + rest)
    refused(tmp_path / "hostile.safetensors")


# ---- the content: name -> tensors that differ, the id fits


def filled(key: str, value: float, dtype: Any = None) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        found[key] = np.full_like(found[key], value, dtype=dtype or found[key].dtype)

    return change


def cast(key: str, dtype: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        found[key] = found[key].astype(dtype)

    return change


def swapped(key: str) -> Callable[[dict[str, Any]], None]:
    """Its first two values."""

    def change(found: dict[str, Any]) -> None:
        value = found[key].copy()
        value[:2] = value[1::-1]
        found[key] = value

    return change


CONTENTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "weights that are not a number": filled("g_s.0.weight", np.nan),
    "infinite weights": filled("g_a.0.bias", np.inf),
    "gains that are not a number": filled("log_gain", np.nan),
    "gains beyond floats": filled("log_inverse_gain", 1000.0),
    "float integers": cast("int.h_s.0.weight", np.float32),
    "integers where floats belong": lambda found: found.update({"g_s.0.weight": found["g_s.0.weight"].astype(np.int8)}),
    "integer weights of 64 bits, too large": filled("int.h_s.0.weight", 1 << 40, np.int64),
    "a sum that can overflow": filled("int.h_s.0.bias", 2**31 - 1),
    "weights without a proof": filled("int.entropy_parameters.0.weight", 32767, np.int16),
    "a negative multiplier": filled("int.context.0.mult_pos", -1),
    "a multiplier beyond 16 bits": filled("int.context.0.mult_neg", 1 << 16),
    "a shift of nothing": filled("int.h_s.1.shift", 0),
    "a shift beyond 64 bits": filled("int.h_s.1.shift", 65),
    "tables that do not ascend": filled("tables.z.cdfs", 0),
    "tables that fall": swapped("tables.gaussian.cdfs"),
    "tables that pass their total": filled("tables.gaussian.cdfs", 65535),
    "tables of no size": filled("tables.z.sizes", 0),
    "tables of enormous size": filled("tables.z.sizes", 2**31 - 1),
    "tables of negative size": filled("tables.gaussian.sizes", -5),
    "symbols beyond 32 bits": filled("tables.gaussian.offsets", 2**31 - 1),
    "medians out of range": filled("tables.z.medians", 2**31 - 1),
    "thresholds that do not ascend": filled("scale_thresholds", 0),
    "a layer that is not there": lambda found: found.pop("int.h_s.1.weight"),
    "a network that is not there": lambda found: [found.pop(k) for k in list(found) if k.startswith("g_s.")],
    "scalars instead of tensors": lambda found: found.update({"int.h_s.0.bias": np.int32(1).reshape(())}),
    "empty tensors": lambda found: found.update({"int.h_s.0.bias": np.zeros(0, np.int32)}),
    "an empty table": lambda found: found.update({"tables.z.cdfs": np.zeros(0, np.uint16)}),
}


@pytest.mark.parametrize("compress", [(), ("*",)], ids=["plain", "packed"])
@pytest.mark.parametrize("name", CONTENTS)
def test_content_that_does_not_hold_is_refused(name, compress, models, tmp_path):
    model = weights.load(models["mbt2018"])
    found = dict(model.tensors)
    CONTENTS[name](found)
    packable = all(v.dtype.newbyteorder("<").str in packing.DTYPES for v in found.values())
    if compress and not packable:
        pytest.skip("such a type cannot be packed")
    weights.save(replace(model, tensors=found), tmp_path / "hostile.safetensors", compress=compress)
    refused(tmp_path / "hostile.safetensors")


@pytest.mark.parametrize("name", ["mbt2018", "lc-s"])
def test_parameters_that_would_look_at_their_neighbours_are_refused(name, models, tmp_path):
    """They are computed position by position: beside one there is memory of something else."""
    model = weights.load(models[name])
    last = max(key for key in model.tensors if key.startswith("int.entropy_parameters.") and key.endswith(".weight"))
    weight = model.tensors[last]
    wide = np.zeros((*weight.shape[:2], 3, 3), weight.dtype)
    wide[:, :, 1, 1] = weight[:, :, 0, 0] // 2
    wide[:, :, 0, 0] = 1
    path = tmp_path / "hostile.safetensors"
    weights.save(replace(model, tensors={**model.tensors, last: wide}), path)
    with pytest.raises(ModelError, match="must be 1x1"):
        Codec(path, "cpu", 1)


@pytest.mark.parametrize("transforms", ["c", "torch"])
def test_layer_whose_inputs_and_outputs_are_each_enormous_is_refused(transforms, models, tmp_path, monkeypatch):
    """Each alone is small; their product, the packed layer, would take 80 GB."""
    monkeypatch.setenv("LCODEC_TRANSFORMS", transforms)
    model = weights.load(models["lc-s"])
    found = dict(model.tensors)
    found["g_a.2.enter.weight"] = np.zeros((1, 200_000, 1, 1), np.float16)
    found["g_a.2.enter.bias"] = np.zeros(200_000, np.float16)
    weights.save(replace(model, tensors=found), tmp_path / "hostile.safetensors")
    refused(tmp_path / "hostile.safetensors")


@pytest.mark.parametrize("name", ["g_a.1.bias", "h_a.2.bias", "g_a.2.depthwise.weight", "g_s.0.weight"])
def test_transform_tensor_without_dimensions_is_refused(name, models, tmp_path):
    model = weights.load(models["lc-s"])
    assert name in model.tensors
    scalar = np.zeros((), model.tensors[name].dtype)
    weights.save(replace(model, tensors={**model.tensors, name: scalar}), tmp_path / "hostile.safetensors")
    refused(tmp_path / "hostile.safetensors")


def test_block_that_widens_without_end_is_refused(models, tmp_path):
    """Its packed layers would take terabytes, by a width that another tensor has."""
    model = weights.load(models["lc-s"])
    found, block = dict(model.tensors), "g_a.2"
    found[f"{block}.depthwise.weight"] = np.zeros((1_000_000, 1, 3, 3), np.float16)
    found[f"{block}.depthwise.bias"] = np.zeros(1_000_000, np.float16)
    found[f"{block}.expand.weight"] = np.zeros((1, 1_000_000, 1, 1), np.float16)
    found[f"{block}.expand.bias"] = np.zeros(1, np.float16)
    weights.save(replace(model, tensors=found), tmp_path / "hostile.safetensors")
    refused(tmp_path / "hostile.safetensors")


def test_large_integer_layer_takes_little_more_than_itself(models, tmp_path):
    """49 MB in the file's 94 kB took a gigabyte before it was refused."""
    model = weights.load(models["mbt2018"])
    found = {**model.tensors, "int.h_s.0.weight": np.zeros((1000, 2048, 5, 5), np.int8)}
    weights.save(replace(model, tensors=found), tmp_path / "hostile.safetensors", compress=("*",))
    refused(tmp_path / "hostile.safetensors")


def test_many_narrow_tables_are_refused_before_memory_is_taken(models, tmp_path):
    """Each takes half a kilobyte, and two bytes in the file."""
    model = weights.load(models["bmshj2018-factorized"])
    sets, channels = 256, 2048
    found = {
        **model.tensors,
        "tables.y.cdfs": np.full(2 * sets * channels, 100, np.uint16),
        "tables.y.sizes": np.full((sets, channels), 3, np.int32),
        "tables.y.offsets": np.zeros((sets, channels), np.int32),
        "tables.y.medians": np.zeros((sets, channels), np.int32),
    }
    found["tables.y.cdfs"][::2] = 0
    entropy = {**model.entropy, "M": channels}
    weights.save(replace(model, tensors=found, entropy=entropy), tmp_path / "hostile.safetensors")
    with pytest.raises(ModelError, match="more than any model needs"):
        Codec(tmp_path / "hostile.safetensors", "cpu", 1)


# ---- the description: name -> what it claims


def layers(part: str, **values: Any) -> dict[str, Any]:
    return {"part": part, "values": values}


DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "more channels than there are": {"M": 4096},
    "channels without end": {"M": 1 << 40},
    "a fraction of a channel": {"M": 16.5},
    "true channels": {"M": True},
    "no fraction bits": {"fy": 0},
    "many fraction bits": {"fy": 31},
    "another kind": {"kind": "mean-scale"},
    "an unknown kind": {"kind": "neural"},
    "no layers": {"layers": {}},
    "layers that are a number": {"layers": 5},
    "limits beyond the proof": layers("h_s", lo=-(1 << 40), hi=1 << 40),
    "limits that cross": layers("h_s", lo=5, hi=-5),
    "means that overflow": layers("entropy_parameters", lo=-(2**31) + 1, hi=2**31 - 1),
    "a context layer that looks ahead": layers("context", kind="conv"),
    "a layer of unknown kind": layers("h_s", kind="eval"),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_description_that_lies_is_refused(name, models, tmp_path):
    model = weights.load(models["mbt2018"])
    change, entropy = DESCRIPTIONS[name], json.loads(json.dumps(model.entropy))
    if "part" in change:
        entropy["layers"][change["part"]][-1].update(change["values"])
    else:
        entropy.update(change)
    weights.save(replace(model, entropy=entropy), tmp_path / "hostile.safetensors")
    refused(tmp_path / "hostile.safetensors")


@pytest.mark.parametrize("packed", [["plain", dtype, [1]] for dtype in ("f4,,", "(1,2", 5, [])] + [["plain"], 7, {}])
def test_packing_that_is_none_is_refused(packed, models, tmp_path):
    path = tmp_path / "hostile.safetensors"
    weights.save(weights.load(models["mbt2018"]), path, compress=("log_gain",))
    header, data = read(path)
    metadata = json.loads(header["__metadata__"]["lcodec"])
    metadata["packed"]["log_gain"] = packed
    header["__metadata__"]["lcodec"] = json.dumps(metadata)
    write(path, json.dumps(header), data)
    with pytest.raises(ModelError):
        weights.load(path)


@pytest.mark.parametrize("more", [[], [-(1 << 40)]], ids=["plain", "made up for"])
def test_packed_model_of_many_empty_gigabytes_is_refused(more, models, tmp_path):
    """A thousandth of its tensors lies in the file: zlib's best."""
    path = tmp_path / "hostile.safetensors"
    model = weights.load(models["mbt2018"])
    zeros = {f"g_s.{i}": np.zeros(1 << 20, np.int8) for i in range(100, 120)}
    weights.save(replace(model, tensors={**model.tensors, **zeros}), path, compress=("*",))
    header, data = read(path)
    metadata = json.loads(header["__metadata__"]["lcodec"])
    for key in zeros:
        metadata["packed"][key] = ["plain", "|i1", [1 << 29]]
    if more:
        metadata["packed"]["g_s.100"][2] = more
    header["__metadata__"]["lcodec"] = json.dumps(metadata)
    write(path, json.dumps(header), data)
    with pytest.raises(ModelError, match="cannot have shape" if more else "more than any model needs"):
        weights.load(path)
