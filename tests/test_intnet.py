"""Layers of the integer network: the compiled kernels against the float64 reference, value for value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lcodec.entropy import _intnet, reference
from lcodec.entropy._intnet import Layer
from lcodec.errors import ModelError, UsageError

INT32_MAX = 2**31 - 1


def random_params(
    rng: np.random.Generator, kind: str, n_in: int, n_out: int, k: int = 3, **changes: Any
) -> dict[str, Any]:
    """A layer with weights near the proof's limit, an activation, and outputs that reach the limits here and there."""
    k = {"conv": k, "context": k, "deconv": 5, "subpel": 3}[kind]
    n = 4 * n_out if kind == "subpel" else n_out
    shape = (n_in, n, k, k) if kind == "deconv" else (n, n_in, k, k)
    top = min(32767, INT32_MAX // 32767 // (n_in * k * k) - 1)
    params = {
        "kind": kind,
        "weight": rng.integers(-top, top + 1, shape).astype(np.int16),
        "bias": rng.integers(-30000, 30001, n).astype(np.int32),
        "mult_pos": rng.integers(0, 65536, n).astype(np.int32),
        "shift": rng.integers(24, 34, n).astype(np.int32),
        "lo": -32767,
        "hi": 32767,
    }
    params["mult_neg"] = params["mult_pos"] // rng.integers(1, 100)
    return {**params, **changes}


def random_input(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.integers(-32767, 32768, shape).astype(np.int16)
    return np.where(rng.random(shape) < 0.1, np.int16(32767), x)


def layer_of(params: dict[str, Any], output: str = "int16") -> Layer:
    return Layer(**params, output=output)


KINDS = [("conv", 1), ("conv", 3), ("conv", 5), ("context", 3), ("context", 5), ("deconv", 5), ("subpel", 3)]
SIZES = [
    # height, width, in, out
    (1, 1, 1, 1),
    (1, 1, 16, 32),
    (1, 7, 3, 5),
    (5, 1, 7, 33),
    (3, 2, 2, 31),
    (4, 13, 17, 40),
    (3, 25, 32, 64),
    (2, 12, 5, 16),
    (2, 11, 8, 17),
]


@pytest.mark.parametrize("isa", _intnet.isas())
@pytest.mark.parametrize(("kind", "k"), KINDS)
def test_layer_equals_the_reference(isa: str, kind: str, k: int) -> None:
    for seed, (height, width, n_in, n_out) in enumerate(SIZES):
        rng = np.random.default_rng(seed)
        params = random_params(rng, kind, n_in, n_out, k)
        x = random_input(rng, height, width, n_in)
        expected = reference.run_layer(params, x)
        out = _intnet.run(layer_of(params), x, isa=isa)
        assert out.dtype == np.int16
        np.testing.assert_array_equal(out, expected, err_msg=f"{height, width, n_in, n_out}")


@pytest.mark.parametrize("isa", _intnet.isas())
@pytest.mark.parametrize("n_positions", range(1, 30))
def test_every_number_of_positions_equals_the_reference(isa: str, n_positions: int) -> None:
    rng = np.random.default_rng(n_positions)
    params = random_params(rng, "conv", 4, 35, 3)
    x = random_input(rng, 2, n_positions, 4)
    np.testing.assert_array_equal(_intnet.run(layer_of(params), x, isa=isa), reference.run_layer(params, x))


@pytest.mark.parametrize("isa", _intnet.isas())
def test_int32_output_and_sums_equal_the_reference(isa: str) -> None:
    rng = np.random.default_rng(1)
    params = random_params(rng, "conv", 9, 37, 3, shift=17, lo=-(2**30), hi=2**31 - 1)
    x = random_input(rng, 3, 14, 9)
    expected = reference.run_layer(params, x)
    assert expected.max() > 2**20  # or the test would not need int32
    np.testing.assert_array_equal(_intnet.run(layer_of(params, "int32"), x, isa=isa), expected)
    acc = _intnet.run(layer_of(params, "acc"), x, isa=isa)
    np.testing.assert_array_equal(acc, reference.layer_sums(params, x))


@pytest.mark.parametrize("isa", _intnet.isas())
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("mult", [0, 1, 65535])
@pytest.mark.parametrize("shift", [1, 2, 16, 31, 32, 33, 39, 40])
def test_sums_at_the_edge_of_int32_are_requantised_exactly(isa: str, sign: int, mult: int, shift: int) -> None:
    # 2 * 32767 * 32767 + bias = 2^31 - 1, the largest sum that the proof allows.
    weight = np.full((3, 2, 1, 1), 32767 * sign, dtype=np.int16)
    edge = INT32_MAX - 2 * 32767 * 32767
    params = {
        "kind": "conv",
        "weight": weight,
        "bias": np.array([edge, edge - 1, 0], dtype=np.int32) * sign,
        "mult_pos": np.full(3, mult, dtype=np.int32),
        "mult_neg": np.full(3, mult, dtype=np.int32),
        "shift": shift,
        "lo": -INT32_MAX,
        "hi": INT32_MAX,
    }
    layer = layer_of(params, "int32")
    assert layer.worst_sum == INT32_MAX
    x = np.full((1, 3, 2), 32767, dtype=np.int16)
    x[0, 1] *= -1
    x[0, 2, 0] *= -1
    np.testing.assert_array_equal(_intnet.run(layer, x, isa=isa), reference.run_layer(params, x))


@pytest.mark.parametrize("isa", _intnet.isas())
def test_rounding_is_half_up_for_both_signs(isa: str) -> None:
    params = {
        "kind": "conv",
        "weight": np.ones((1, 1, 1, 1), dtype=np.int16),
        "bias": np.zeros(1, dtype=np.int32),
        "mult_pos": np.ones(1, dtype=np.int32),
        "mult_neg": np.ones(1, dtype=np.int32),
        "shift": 1,
        "lo": -100,
        "hi": 2,
    }
    x = np.array([-4, -3, -2, -1, 0, 1, 2, 3, 9], dtype=np.int16).reshape(1, 9, 1)
    out = _intnet.run(layer_of(params), x, isa=isa).ravel()
    assert out.tolist() == [-2, -1, -1, 0, 0, 1, 1, 2, 2]


def test_relu_and_leaky_relu_are_multipliers() -> None:
    weight = np.ones((2, 1, 1, 1), dtype=np.int16)
    layer = Layer("conv", weight, np.zeros(2, np.int32), np.full(2, 256), np.array([0, 3]), 8)
    out = _intnet.run(layer, np.array([[[-1000], [1000]]], dtype=np.int16))
    assert out.tolist() == [[[0, -12], [1000, 1000]]]  # 3/256 is a slope of about 0.01


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize(("kind", "k"), KINDS)
def test_threads_do_not_change_the_output(kind: str, k: int, threads: int) -> None:
    rng = np.random.default_rng(5)
    params = random_params(rng, kind, 6, 10, k)
    x = random_input(rng, 5, 9, 6)
    np.testing.assert_array_equal(_intnet.run(layer_of(params), x, threads=threads), reference.run_layer(params, x))


@pytest.mark.parametrize("k", [3, 5])
def test_masked_taps_of_a_context_layer_are_not_read(k: int) -> None:
    rng = np.random.default_rng(6)
    params = random_params(rng, "context", 3, 4, k)
    masked = {**params, "weight": np.where(reference.type_a_mask(k), params["weight"], np.int16(0))}
    x = random_input(rng, 6, 7, 3)
    np.testing.assert_array_equal(_intnet.run(layer_of(params), x), _intnet.run(layer_of(masked), x))
    assert layer_of(params).worst_sum == layer_of(masked).worst_sum


def test_context_sees_nothing_at_or_after_its_position() -> None:
    rng = np.random.default_rng(7)
    layer = layer_of(random_params(rng, "context", 2, 3, shift=14, mult_neg=np.full(3, 9, np.int32)))
    x = random_input(rng, 5, 6, 2)
    changed = x.copy()
    changed[2, 3:], changed[3:] = 11, -7
    before, after = _intnet.run(layer, x), _intnet.run(layer, changed)
    np.testing.assert_array_equal(before[:2], after[:2])
    np.testing.assert_array_equal(before[2, :4], after[2, :4])
    assert (before[2, 4] != after[2, 4]).any()


def test_layers_agree_with_torch() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(8)
    x = random_input(rng, 4, 5, 6)
    x_torch = torch.from_numpy(x.astype(np.float64)).permute(2, 0, 1)[None]
    for kind, k in KINDS:
        params = random_params(rng, kind, 6, 3, k)
        weight = torch.from_numpy(params["weight"].astype(np.float64))
        bias = torch.from_numpy(params["bias"].astype(np.float64))
        if kind == "deconv":
            y = functional.conv_transpose2d(x_torch, weight, bias, stride=2, padding=2, output_padding=1)
        elif kind == "subpel":
            y = functional.pixel_shuffle(functional.conv2d(x_torch, weight, bias, padding=1), 2)
        else:
            mask = torch.from_numpy(reference.type_a_mask(k)) if kind == "context" else 1.0
            y = functional.conv2d(x_torch, weight * mask, bias, padding=weight.shape[2] // 2)
        acc = _intnet.run(Layer(**{**params, "lo": -INT32_MAX, "hi": INT32_MAX}, output="acc"), x)
        np.testing.assert_array_equal(acc, y[0].permute(1, 2, 0).numpy(), err_msg=kind)


def good_params() -> dict[str, Any]:
    return random_params(np.random.default_rng(0), "conv", 4, 6, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "conv7"},
        {"kind": "deconv"},
        {"weight": np.zeros((6, 4, 3), np.int16)},
        {"weight": np.zeros((6, 4, 2, 2), np.int16)},
        {"weight": np.zeros((6, 4, 3, 5), np.int16)},
        {"weight": np.zeros((0, 4, 3, 3), np.int16)},
        {"weight": np.zeros((6, 0, 3, 3), np.int16)},
        {"weight": np.zeros((6, 4, 3, 3), np.float32)},
        {"weight": np.full((6, 4, 3, 3), -32768, np.int16)},
        {"weight": np.full((6, 4, 3, 3), 2000, np.int16)},
        {"bias": np.zeros(5, np.int32)},
        {"bias": np.full(6, -(2**31), np.int64)},
        {"bias": np.full(6, 2**31 - 1, np.int32)},
        {"mult_pos": np.full(6, 65536, np.int32)},
        {"mult_neg": np.full(6, -1, np.int32)},
        {"shift": 0},
        {"shift": 41},
        {"shift": np.full(4, 8, np.int32)},
        {"lo": -32768},
        {"hi": 32768},
        {"lo": 5, "hi": 4},
        {"lo": 0.5},
        {"hi": True},
        {"output": "int8"},
    ],
)
def test_bad_layer_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        Layer(**{**good_params(), **changes})


@pytest.mark.parametrize(("kind", "k"), KINDS)
def test_overflow_proof_is_sharp_for_each_kind(kind: str, k: int) -> None:
    n = 4 if kind == "subpel" else 1
    taps = {"context": k * k // 2, "deconv": 9}.get(kind, k * k)  # a pixel sees at most 9 of the 25 taps of a deconv
    weight = np.full((1, n, k, k) if kind == "deconv" else (n, 1, k, k), 100, dtype=np.int16)
    bias = INT32_MAX - 32767 * 100 * taps
    rest = np.ones(n), np.ones(n), 8
    fits = Layer(kind, weight, np.full(n, -bias), *(np.asarray(v, np.int32) for v in rest))
    assert fits.worst_sum == INT32_MAX
    with pytest.raises(ModelError, match="overflow"):
        Layer(kind, weight, np.full(n, bias + 1), *(np.asarray(v, np.int32) for v in rest))


def test_input_that_does_not_fit_is_rejected() -> None:
    layer = layer_of(good_params())
    for x in (
        np.zeros((2, 2, 5), np.int16),
        np.zeros((2, 2, 4), np.int32),
        np.zeros((2, 4), np.int16),
        np.zeros((0, 2, 4), np.int16),
        np.full((2, 2, 4), -32768, np.int16),
    ):
        with pytest.raises(ValueError):
            _intnet.run(layer, x)


def test_unknown_instruction_set_or_thread_count_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_of(good_params()), np.zeros((2, 2, 4), np.int16)
    for bad in ({"isa": "mmx"}, {"threads": 0}, {"threads": 65}):
        with pytest.raises(UsageError):
            _intnet.run(layer, x, **bad)
    monkeypatch.setenv("LCODEC_ISA", "mmx")
    with pytest.raises(UsageError):
        _intnet.run(layer, x)
    monkeypatch.setenv("LCODEC_ISA", "scalar")
    assert _intnet.default_isa() == "scalar"


def test_strided_input_is_read_correctly() -> None:
    rng = np.random.default_rng(9)
    params = good_params()
    x = random_input(rng, 6, 8, 8)[::2, ::-1, 4:]
    np.testing.assert_array_equal(_intnet.run(layer_of(params), x), reference.run_layer(params, x))
