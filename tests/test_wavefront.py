"""The integer entropy model: compiled slices against the position-by-position reference, and what must be refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lcodec.entropy import _intnet, _rans, reference
from lcodec.entropy._intnet import Layer, SliceModel
from lcodec.entropy.intmodel import KINDS, IntegerEntropyModel
from lcodec.errors import Corrupt, ModelError, StreamError, Truncated

M, N, FY, FZ = 6, 5, 6, 3
N_TABLES = 9
TABLE_ARRAYS = ("cdfs", "sizes", "offsets")
WITH_HYPERPRIOR = [kind for kind in KINDS if kind != "factorized"]


def random_layer(rng: np.random.Generator, kind: str, n_in: int, n_out: int, k: int, limit: int, gain: float) -> Any:
    """Weights for which inputs of about 1000 give outputs of about 1000 * gain, with LeakyReLU."""
    n = 4 * n_out if kind == "subpel" else n_out
    shape = (n_in, n, k, k) if kind == "deconv" else (n, n_in, k, k)
    params = {
        "kind": kind,
        "weight": rng.integers(-100, 101, shape).astype(np.int16),
        "bias": rng.integers(-30000, 30001, n).astype(np.int32),
        "mult_pos": rng.integers(40000, 65536, n).astype(np.int32),
        "mult_neg": rng.integers(400, 656, n).astype(np.int32),
        "shift": np.full(n, 22 + round(np.log2(k * np.sqrt(n_in)) - np.log2(gain)), dtype=np.int32),
        "lo": -limit,
        "hi": limit,
    }
    if limit > 32767:
        params["mult_neg"] = params["mult_pos"]
    return params


def random_parts(kind: str, seed: int = 0, flavour: str = "deconv") -> dict[str, list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    top, wide = 32767, 2**20
    outputs = {"hyperprior": M, "mean-scale": 2 * M, "context": 2 * M}[kind]
    k = {"deconv": 5, "subpel": 3}[flavour]
    last = kind != "context"
    parts = {
        "h_s": [
            random_layer(rng, flavour, N, 7, k, top, 20.0),
            random_layer(rng, "conv", 7, 8, 3, top, 3.0),
            random_layer(rng, flavour, 8, 9, k, top, 3.0),
            random_layer(rng, "conv", 9, outputs, 3, wide if last else top, 2.0),
        ]
    }
    if kind == "context":
        parts["context"] = [random_layer(rng, "context", M, 11, k, top, 4.0)]
        parts["entropy_parameters"] = [
            random_layer(rng, "conv", outputs + 11, 35, 1, top, 3.0),
            random_layer(rng, "conv", 35, 10, 1, top, 3.0),
            random_layer(rng, "conv", 10, outputs, 1, wide, 2.0),
        ]
    return parts


def random_tables(rng: np.random.Generator, n: int, n_entries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cuts = np.stack([np.sort(rng.choice(np.arange(1, 65536), n_entries - 1, replace=False)) for _ in range(n)])
    cdfs = np.concatenate([np.zeros((n, 1)), cuts, np.full((n, 1), 65536)], axis=1).astype(np.uint32)
    return cdfs, np.full(n, n_entries + 1, np.int32), rng.integers(-20, -5, n).astype(np.int32)


def random_model(kind: str, seed: int = 0, flavour: str = "deconv") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and metadata as a model file holds them, two table sets."""
    rng = np.random.default_rng(seed + 1000)
    prefix, channels = ("tables.y", M) if kind == "factorized" else ("tables.z", N)
    sets = [random_tables(rng, channels, 20) for _ in range(2)]
    tensors = {f"{prefix}.{name}": np.stack([s[i] for s in sets]) for i, name in enumerate(TABLE_ARRAYS)}
    tensors[f"{prefix}.medians"] = rng.integers(-30, 30, (2, channels)).astype(np.int32)
    meta: dict[str, Any] = {"kind": kind, "M": M, "N": N, "fy": FY, "fz": FZ, "layers": {}}
    if kind != "factorized":
        for name, values in zip(TABLE_ARRAYS, random_tables(rng, N_TABLES, 40), strict=True):
            tensors[f"tables.gaussian.{name}"] = values
        tensors["scale_thresholds"] = np.sort(rng.choice(1000, N_TABLES - 1, replace=False)).astype(np.int32) - 300
        for part, layers in random_parts(kind, seed, flavour).items():
            meta["layers"][part] = [{"kind": p["kind"], "lo": p["lo"], "hi": p["hi"]} for p in layers]
            for i, p in enumerate(layers):
                for name in ("weight", "bias", "mult_pos", "mult_neg", "shift"):
                    tensors[f"int.{part}.{i}.{name}"] = p[name]
    return tensors, meta


def random_latents(kind: str, h: int, w: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    rng = np.random.default_rng(seed)
    y = (rng.laplace(0, 6, (h, w, M)) * 65536).astype(np.int32)
    z = (rng.laplace(0, 6, (h // 4, w // 4, N)) * 65536).astype(np.int32)
    return y, None if kind == "factorized" else z


def reference_slice(kind: str, tensors: Any, y: np.ndarray, z: np.ndarray, seed: int, flavour: str) -> Any:
    medians = tensors["tables.z.medians"][1]
    z_symbols = reference.quantize(z, medians, FZ)
    z_hat = reference.saturate(reference.dequantize(z_symbols, medians, FZ))
    parts = random_parts(kind, seed, flavour)
    context = parts["context"][0] if kind == "context" else None
    parameters = parts.get("entropy_parameters", [])
    return reference.encode_slice(parts["h_s"], context, parameters, tensors["scale_thresholds"], FY, y, z_hat), z_hat


SIZES = [(4, 4), (8, 12), (12, 8), (4, 16), (16, 4)]


@pytest.mark.parametrize("isa", _intnet.isas())
@pytest.mark.parametrize("kind", WITH_HYPERPRIOR)
@pytest.mark.parametrize("channels", [M, 43])  # scales and means in one panel, and in three
def test_slice_equals_the_reference(kind: str, isa: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "M", channels)
    for seed, (h, w) in enumerate(SIZES[: 5 if channels < 32 else 2]):
        flavour = ("deconv", "subpel")[seed % 2]
        tensors, meta = random_model(kind, seed, flavour)
        model = IntegerEntropyModel(tensors, meta)
        y, z = random_latents(kind, h, w, seed)
        assert z is not None
        expected, z_hat = reference_slice(kind, tensors, y, z, seed, flavour)
        assert len(np.unique(expected.indexes)) > 3, "the test's scales must reach several tables"
        assert model._slice is not None
        symbols, indexes, y_hat = model._slice.encode(y, z_hat.astype(np.int16), 2, isa)
        np.testing.assert_array_equal(symbols, expected.symbols)
        np.testing.assert_array_equal(indexes, expected.indexes)
        np.testing.assert_array_equal(y_hat, expected.y_hat)
        data, y_hat = model.encode_slice(y, z, 1, isa=isa)
        np.testing.assert_array_equal(y_hat, expected.y_hat)
        np.testing.assert_array_equal(model.decode_slice(data, h, w, 1, isa=isa), expected.y_hat)


@pytest.mark.parametrize("flavour", ["deconv", "subpel"])  # contexts of 5x5 and of 3x3
@pytest.mark.parametrize("height", range(1, 8))
def test_wavefront_of_any_small_shape_equals_the_reference(height: int, flavour: str) -> None:
    # Without upsampling in h_s every shape is possible, those narrower than the wavefront's skew too.
    parts = random_parts("context", flavour=flavour)
    hyper = [random_layer(np.random.default_rng(1), "conv", N, 2 * M, 3, 32767, 20.0)]
    thresholds = np.arange(0, 900, 100, dtype=np.int32)
    first, *rest = parts["entropy_parameters"]
    model = SliceModel(
        [Layer(**hyper[0])],
        M,
        thresholds,
        FY,
        Layer(**parts["context"][0]),
        [
            *_intnet.split_layer(2 * M, **first, output="int16"),
            *(Layer(**p, output=o) for p, o in zip(rest, ("int16", "int32"), strict=True)),
        ],
    )
    for width in range(1, 8):
        y = random_latents("factorized", height, width)[0]
        z_hat = np.random.default_rng(2).integers(-60, 60, (height, width, N)).astype(np.int16)
        expected = reference.encode_slice(
            hyper, parts["context"][0], parts["entropy_parameters"], thresholds, FY, y, z_hat
        )
        for threads in (1, 2):
            symbols, indexes, y_hat = model.encode(y, z_hat, threads)
            np.testing.assert_array_equal(symbols, expected.symbols)
            np.testing.assert_array_equal(indexes, expected.indexes)
            np.testing.assert_array_equal(y_hat, expected.y_hat)


@pytest.mark.parametrize("channels", [M, 43])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_and_latents_do_not_depend_on_threads_or_instruction_set(
    kind: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "M", channels)
    model = IntegerEntropyModel(*random_model(kind))
    y, z = random_latents(kind, 12, 20)
    data, y_hat = model.encode_slice(y, z)
    for isa in _intnet.isas():
        for threads in (1, 2, 3, 7):
            again, again_hat = model.encode_slice(y, z, 0, threads, isa)
            assert again == data
            np.testing.assert_array_equal(again_hat, y_hat)
            np.testing.assert_array_equal(model.decode_slice(data, 12, 20, 0, threads, isa), y_hat)
    assert np.abs(y_hat / 2**FY - y / 2**16).max() <= 0.5 + 2**-FY


@pytest.mark.parametrize("kind", KINDS)
def test_table_sets_give_other_bytes_and_are_checked(kind: str) -> None:
    model = IntegerEntropyModel(*random_model(kind))
    assert model.n_table_sets == 2
    y, z = random_latents(kind, 4, 8)
    streams = {model.encode_slice(y, z, table_set)[0] for table_set in (0, 1)}
    assert len(streams) == 2
    for table_set in (-1, 2):
        with pytest.raises(ValueError):
            model.encode_slice(y, z, table_set)
        with pytest.raises(ValueError):
            model.decode_slice(b"", 4, 8, table_set)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_latents_are_clamped_and_come_back(kind: str) -> None:
    model = IntegerEntropyModel(*random_model(kind))
    y, z = random_latents(kind, 8, 8)
    limits = np.array([-(2**31), 2**31 - 1], dtype=np.int32)
    y[::2, 1::2] = limits[np.random.default_rng(0).integers(0, 2, y[::2, 1::2].shape)]
    if z is not None:
        z[0] = limits[np.random.default_rng(1).integers(0, 2, z[0].shape)]
    for threads in (1, 2):
        data, y_hat = model.encode_slice(y, z, 0, threads)
        np.testing.assert_array_equal(model.decode_slice(data, 8, 8, 0, threads), y_hat)
    assert np.abs(y_hat).max() > 32767  # further than a convolution sees


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_truncated_slice_is_rejected(kind: str, threads: int) -> None:
    model = IntegerEntropyModel(*random_model(kind))
    y, z = random_latents(kind, 12, 8)
    data, _ = model.encode_slice(y, z)
    for size in [*range(0, 40), len(data) // 2, len(data) - 4, len(data) - 1]:
        with pytest.raises((Truncated, Corrupt)):
            model.decode_slice(data[:size], 12, 8, 0, threads)
    with pytest.raises(Corrupt):
        model.decode_slice(data + bytes(4), 12, 8, 0, threads)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_slice_gives_a_stream_error_or_other_latents(kind: str) -> None:
    model = IntegerEntropyModel(*random_model(kind))
    y, z = random_latents(kind, 8, 8)
    data, y_hat = model.encode_slice(y, z)
    rng = np.random.default_rng(0)
    rejected = 0
    for i in range(300):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            other = model.decode_slice(bytes(damaged), 8, 8, 0, 1 + i % 2)
        except StreamError:
            rejected += 1
        else:
            assert (other != y_hat).any()
    assert rejected > 150


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("kind", "where"), [*((k, "y") for k in KINDS), *((k, "z") for k in WITH_HYPERPRIOR)])
def test_symbol_that_no_encoder_writes_is_corrupt(kind: str, where: str, threads: int) -> None:
    tensors, meta = random_model(kind)
    model = IntegerEntropyModel(tensors, meta)
    y, z = random_latents(kind, 4, 4)
    tables = model._factorized.tables[0]
    medians = model._factorized.medians[0].astype(np.int64)
    for symbol, fine in ((2**20, True), (2**20 + 1, False), (-(2**20) - 1, False), (2**31 - 1, False)):
        if model._slice is None:
            symbols = model._factorized.quantize(y, 0).ravel()
            symbols[17] = symbol
            segments = [(symbols, model._factorized.indexes(16), tables)]
        else:
            assert z is not None
            z_symbols = model._factorized.quantize(z, 0).astype(np.int64)
            if where == "z":
                z_symbols[0, 3] = symbol
            # What a decoder without that check would make of it, so that nothing else is wrong with the slice.
            z_hat = np.clip((z_symbols << FZ) + medians, -32767, 32767).astype(np.int16)
            symbols, indexes, expected = model._slice.encode(y, z_hat.reshape(z.shape))
            symbols = symbols.copy()
            if where == "y":  # the last channel of the last position: nothing that is decoded later depends on it
                symbols[-1] = symbol
            z_symbols = z_symbols.astype(np.int32).ravel()
            segments = [(z_symbols, model._factorized.indexes(1), tables), (symbols, indexes, model._gaussian)]
        data = _rans.encode(segments)
        if fine and where == "y":
            assert model.decode_slice(data, 4, 4, 0, threads).max() >= 2**20 << FY >> 1
        elif fine:
            np.testing.assert_array_equal(model.decode_slice(data, 4, 4, 0, threads), expected)
        else:
            with pytest.raises(Corrupt):
                model.decode_slice(data, 4, 4, 0, threads)


@pytest.mark.parametrize("isa", _intnet.isas())
def test_scale_index_counts_the_thresholds_below(isa: str) -> None:
    thresholds = np.array([-5, 0, 1, 7, 8, 2**31 - 1], dtype=np.int32)
    scales = np.array([-(2**15) + 1, -6, -5, -4, -1, 0, 1, 2, 6, 7, 8, 9, 32767], dtype=np.int16)
    identity = Layer(
        "conv",
        np.eye(13, dtype=np.int16).reshape(13, 13, 1, 1),
        *(np.full(13, v, np.int32) for v in (0, 2, 2)),
        1,
        output="int32",
    )
    model = SliceModel([identity], 13, thresholds, 4)
    _, indexes, y_hat = model.encode(np.full((1, 1, 13), 2**15, np.int32), scales.reshape(1, 1, 13), isa=isa)
    assert indexes.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 5]
    assert indexes.tolist() == reference.scale_indexes(scales, thresholds).tolist()
    assert (y_hat == 1 << 4).all()  # without means; halves are rounded up


def test_thread_that_cannot_start_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    model = IntegerEntropyModel(*random_model("context"))
    y, z = random_latents("context", 8, 8)
    start: Callable[[threading.Thread], None] = threading.Thread.start
    started = []

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError):
        model.encode_slice(y, z, 0, 4)
    assert len(started) == 2 and not any(t.is_alive() for t in started)


@pytest.mark.parametrize("kind", KINDS)
def test_latents_that_do_not_fit_are_rejected(kind: str) -> None:
    model = IntegerEntropyModel(*random_model(kind))
    y, z = random_latents(kind, 8, 8)
    bad: list[tuple[Any, Any]] = [(y[..., :-1], z), (y.astype(np.int64), z), (y[:0], z)]
    bad += [(y, y)] if z is None else [(y, None), (y[:4], z), (y[:-1], z), (y, z[..., 1:]), (y, z.astype(np.int16))]
    for bad_y, bad_z in bad:
        with pytest.raises(ValueError):
            model.encode_slice(bad_y, bad_z)
    for h, w in ((0, 4), (4, -4), *(() if z is None else ((4, 6), (2, 8)))):
        with pytest.raises(ValueError):
            model.decode_slice(bytes(64), h, w)


@pytest.mark.parametrize("count", [16, 17])
def test_as_many_parameter_layers_as_the_format_says(count):
    rng = np.random.default_rng(0)
    tensors, meta = random_model("context")
    first, _, _ = random_parts("context")["entropy_parameters"]
    between = [random_layer(rng, "conv", 35, 35, 1, 32767, 3.0) for _ in range(count - 2)]
    layers = [first, *between, random_layer(rng, "conv", 35, 2 * M, 1, 2**20, 2.0)]
    meta["layers"]["entropy_parameters"] = [{key: p[key] for key in ("kind", "lo", "hi")} for p in layers]
    for i, p in enumerate(layers):
        for name in ("weight", "bias", "mult_pos", "mult_neg", "shift"):
            tensors[f"int.entropy_parameters.{i}.{name}"] = p[name]
    if count == 17:
        with pytest.raises(ModelError, match="17 parameter layers are out of range"):
            IntegerEntropyModel(tensors, meta)
        return
    y, z = random_latents("context", 8, 8)
    model = IntegerEntropyModel(tensors, meta)
    coded = model.encode_slice(y, z)
    assert np.array_equal(model.decode_slice(coded[0], 8, 8), coded[1])


# ---- hostile model files


def bad_models() -> list[tuple[str, str, Any]]:
    """(kind, what to change: a tensor or a path into the metadata, new value; None removes it)."""
    w16, i32 = np.int16, np.int32
    cases: list[tuple[str, str, Any]] = [
        ("context", "meta:kind", "magic"),
        ("context", "meta:kind", "mean-scale"),
        ("mean-scale", "meta:kind", "hyperprior"),
        ("hyperprior", "meta:kind", "mean-scale"),
        ("mean-scale", "meta:kind", "context"),
        ("hyperprior", "meta:kind", "factorized"),
        ("context", "meta:M", M + 1),
        ("context", "meta:M", 0),
        ("context", "meta:M", 10**9),
        ("context", "meta:M", "6"),
        ("factorized", "meta:M", M - 1),
        ("mean-scale", "meta:M", 2 * M),
        ("context", "meta:N", N + 1),
        ("context", "meta:N", None),
        ("context", "meta:fy", 3),
        ("context", "meta:fy", 11),
        ("context", "meta:fy", True),
        ("context", "meta:fz", 13),
        ("context", "meta:fz", 2.0),
        ("context", "meta:layers", None),
        ("context", "meta:layers", []),
        ("context", "meta:layers.h_s", []),
        ("context", "meta:layers.h_s", ["conv"]),
        ("context", "meta:layers.h_s", [{}] * 100),
        ("context", "meta:layers.context", None),
        ("context", "meta:layers.context", [{"kind": "context", "lo": -1, "hi": 1}] * 2),
        ("context", "meta:layers.context.0.kind", "conv"),
        ("context", "meta:layers.entropy_parameters", None),
        ("context", "meta:layers.entropy_parameters.0.kind", "deconv"),
        ("context", "meta:layers.entropy_parameters.2.hi", 2**30),
        ("context", "meta:layers.entropy_parameters.2.lo", -(2**31)),
        ("context", "meta:layers.entropy_parameters.1.hi", 32768),
        ("context", "meta:layers.h_s.0.kind", "conv"),
        ("context", "meta:layers.h_s.0.kind", []),
        ("context", "meta:layers.h_s.0.kind", {}),
        ("context", "meta:layers.h_s.1.kind", "context"),
        ("context", "meta:layers.h_s.0.lo", None),
        ("context", "meta:layers.h_s.0.hi", "many"),
        ("mean-scale", "meta:layers.h_s.3.hi", 2**30),
        ("context", "int.h_s.0.weight", np.zeros((N + 1, 7, 5, 5), w16)),
        ("context", "int.h_s.1.weight", np.zeros((8, 6, 3, 3), w16)),
        ("context", "int.h_s.1.weight", np.zeros((8, 7, 3, 3), np.float32)),
        ("context", "int.h_s.1.weight", np.zeros((), w16)),
        ("context", "int.h_s.1.weight", np.full((8, 7, 3, 3), 2000, w16)),
        ("context", "int.h_s.2.bias", None),
        ("context", "int.h_s.2.bias", np.zeros(8, i32)),
        ("context", "int.h_s.3.weight", np.zeros((2 * M + 1, 9, 3, 3), w16)),
        ("context", "int.context.0.weight", np.zeros((11, M + 1, 5, 5), w16)),
        ("context", "int.context.0.weight", np.zeros((12, M, 5, 5), w16)),
        ("context", "int.entropy_parameters.0.weight", np.zeros((35, 2 * M, 1, 1), w16)),
        ("context", "int.entropy_parameters.0.weight", np.zeros((35, 2 * M + 12, 1, 1), w16)),
        ("context", "int.entropy_parameters.0.weight", np.full((35, 2 * M + 11, 1, 1), 2900, w16)),
        ("context", "int.entropy_parameters.1.weight", np.zeros((10, 34, 1, 1), w16)),
        ("context", "int.entropy_parameters.2.weight", np.zeros((2 * M - 1, 10, 1, 1), w16)),
        ("context", "int.entropy_parameters.1.shift", np.zeros(10, i32)),
        ("context", "int.entropy_parameters.1.mult_pos", np.full(10, 2**16, i32)),
        ("context", "scale_thresholds", np.zeros(N_TABLES - 1, i32)),
        ("context", "scale_thresholds", np.arange(N_TABLES, dtype=i32)),
        ("context", "scale_thresholds", np.arange(N_TABLES - 1, dtype=np.float64)),
        ("context", "scale_thresholds", np.arange(N_TABLES - 1, dtype=np.int64) + 2**31),
        ("context", "scale_thresholds", None),
        ("context", "tables.gaussian.cdfs", np.zeros((N_TABLES, 41), np.uint32)),
        ("context", "tables.gaussian.sizes", np.full(N_TABLES, 42, i32)),
        ("context", "tables.gaussian.offsets", np.zeros(N_TABLES - 1, i32)),
        ("context", "tables.z.cdfs", np.zeros((2, N, 21), np.uint32)),
        ("context", "tables.z.cdfs", np.zeros((0, N, 21), np.uint32)),
        ("context", "tables.z.sizes", np.full((2, N + 1), 21, i32)),
        ("context", "tables.z.medians", np.zeros((1, N), i32)),
        ("context", "tables.z.medians", np.full((2, N), 2**30, i32)),
        ("factorized", "tables.y.medians", np.full((2, M), -(2**30), i32)),
        ("factorized", "tables.y.offsets", None),
    ]
    return cases


@pytest.mark.parametrize(("kind", "what", "value"), bad_models())
def test_model_that_does_not_fit_together_is_rejected(kind: str, what: str, value: Any) -> None:
    tensors, meta = random_model(kind)
    if what.startswith("meta:"):
        *path, last = what[5:].split(".")
        at: Any = meta
        for key in path:
            at = at[int(key) if key.isdigit() else key]
        if value is None:
            del at[last]
        else:
            at[last] = value
    elif value is None:
        del tensors[what]
    else:
        tensors[what] = value
    with pytest.raises(ModelError):
        IntegerEntropyModel(tensors, meta)


def test_h_s_that_does_not_enlarge_four_times_is_rejected() -> None:
    tensors, meta = random_model("hyperprior")
    del meta["layers"]["h_s"][2]
    for name in ("weight", "bias", "mult_pos", "mult_neg", "shift"):
        tensors[f"int.h_s.2.{name}"] = tensors[f"int.h_s.3.{name}"]
    tensors["int.h_s.2.weight"] = tensors["int.h_s.2.weight"][:, :8]
    with pytest.raises(ModelError, match="enlarges"):
        IntegerEntropyModel(tensors, meta)
