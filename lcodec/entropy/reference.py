"""The integer network in numpy float64: slow, simple, and exact, to hold the compiled one against.

Why floating point is exact here: every number is an integer below 2^53. Products and sums of a layer stay below 2^31 by
the proof that `Layer` checks; a sum times a multiplier below 2^16, plus the rounding half of at most 2^39, stays below
2^48; and division by a power of two only changes the exponent. So float64 arithmetic in any order, on any device, gives
the integers of the definition in DESIGN.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_SYMBOL = 2**20
LATENT_BITS = 16

Params = Mapping[str, Any]  # kind, weight, bias, mult_pos, mult_neg, shift, lo, hi: the arguments of `Layer`


def _windows(x: NDArray[Any], weight: NDArray[Any], mask: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Convolution of x (H, W, in) with weight (out, in, k, k), stride 1, zero padded by k // 2."""
    k = weight.shape[2]
    height, width = x.shape[:2]
    padded = np.pad(x.astype(np.float64), ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    acc = np.zeros((height, width, weight.shape[0]))
    for i in range(k):
        for j in range(k):
            if mask is None or mask[i, j]:
                acc += padded[i : i + height, j : j + width] @ weight[:, :, i, j].T.astype(np.float64)
    return acc


def type_a_mask(k: int) -> NDArray[np.bool_]:
    """(k, k): the taps before the centre in raster order. van den Oord et al. 2016."""
    return (np.arange(k * k) < k * k // 2).reshape(k, k)


def _transposed(x: NDArray[Any], weight: NDArray[Any]) -> NDArray[np.float64]:
    """Transposed convolution with weight (in, out, 5, 5), stride 2, padding 2, output padding 1, by its definition:
    every input adds its weighted kernel to the output around it."""
    height, width = x.shape[:2]
    acc = np.zeros((2 * height + 4, 2 * width + 4, weight.shape[1]))
    for i in range(5):
        for j in range(5):
            term = x.astype(np.float64) @ weight[:, :, i, j].astype(np.float64)
            acc[i : i + 2 * height : 2, j : j + 2 * width : 2] += term
    return acc[2 : 2 + 2 * height, 2 : 2 + 2 * width]


def layer_sums(params: Params, x: NDArray[Any]) -> NDArray[np.float64]:
    """acc = bias + sum weight * x; for "subpel" before the shuffle, (H, W, 4 out)."""
    kind, weight = params["kind"], np.asarray(params["weight"])
    bias = np.asarray(params["bias"]).astype(np.float64)
    if kind == "deconv":
        return bias + _transposed(x, weight)
    return bias + _windows(x, weight, type_a_mask(weight.shape[2]) if kind == "context" else None)


def run_layer(params: Params, x: NDArray[Any]) -> NDArray[np.int64]:
    """Output of one layer for x (H, W, in): (H, W, out), or (2H, 2W, out) for "deconv" and "subpel"."""
    acc = layer_sums(params, x)
    mult = np.where(acc >= 0, np.asarray(params["mult_pos"]), np.asarray(params["mult_neg"])).astype(np.float64)
    scale = np.ldexp(1.0, np.asarray(params["shift"]).astype(np.int64))  # 2^shift
    q = np.floor((acc * mult + scale / 2) / scale)
    out = np.clip(q, params["lo"], params["hi"]).astype(np.int64)
    if params["kind"] == "subpel":
        height, width, channels = out.shape
        out = out.reshape(height, width, channels // 4, 2, 2).transpose(0, 3, 1, 4, 2)
        out = out.reshape(2 * height, 2 * width, channels // 4)
    return out


def scale_indexes(scales: NDArray[Any], thresholds: NDArray[Any]) -> NDArray[np.int64]:
    """Number of thresholds that are < scale."""
    return (np.asarray(thresholds) < np.asarray(scales)[..., None]).sum(axis=-1)


def quantize(v: NDArray[Any], means: NDArray[Any], fraction_bits: int) -> NDArray[np.int64]:
    """Symbols of v (16 fraction bits) about means (`fraction_bits`), rounded half up and clamped to +-2^20."""
    residual = v.astype(np.int64) - (np.asarray(means).astype(np.int64) << (LATENT_BITS - fraction_bits))
    rounded = (residual + (1 << (LATENT_BITS - 1))) >> LATENT_BITS
    return np.clip(rounded, -MAX_SYMBOL, MAX_SYMBOL)


def dequantize(symbols: NDArray[Any], means: NDArray[Any], fraction_bits: int) -> NDArray[np.int64]:
    return (symbols.astype(np.int64) << fraction_bits) + np.asarray(means).astype(np.int64)


def saturate(v: NDArray[Any]) -> NDArray[np.int64]:
    """As it enters a convolution: within +-32767."""
    return np.clip(v, -32767, 32767)


class SliceResult(NamedTuple):
    symbols: NDArray[np.int64]  # (h * w * M,) in coding order
    indexes: NDArray[np.int64]
    y_hat: NDArray[np.int64]  # (h, w, M)


def wavefront_order(height: int, width: int, kernel: int = 5) -> list[tuple[int, int]]:
    """Positions (row, column) in coding order of a slice with a kernel x kernel context: by column + skew row, row.

    skew: 3 of a 5x5 context, 2 of a 3x3 one.
    """
    skew = kernel // 2 + 1
    return sorted(((r, c) for r in range(height) for c in range(width)), key=lambda p: (p[1] + skew * p[0], p[0]))


def encode_slice(
    hyper: Sequence[Params],
    context: Params | None,
    parameters: Sequence[Params],
    thresholds: NDArray[Any],
    fraction_bits: int,
    y: NDArray[Any],
    z_hat: NDArray[Any],
) -> SliceResult:
    """Symbols, indexes and y_hat of a slice y (h, w, M), 16 fraction bits, position by position where there is context.

    The first parameter layer is one layer on the concatenation of hyper-synthesis and context output.
    """
    height, width, M = y.shape
    features = np.asarray(z_hat).astype(np.int64)
    for layer in hyper:
        features = run_layer(layer, features)
    if context is None:
        scales = features[..., :M]
        means = features[..., M:] if features.shape[2] == 2 * M else np.zeros_like(scales)
        symbols = quantize(y, means, fraction_bits)
        y_hat = dequantize(symbols, means, fraction_bits)
        return SliceResult(symbols.ravel(), scale_indexes(scales, thresholds).ravel(), y_hat)

    y_hat = np.zeros(y.shape, dtype=np.int64)
    k = np.asarray(context["weight"]).shape[2]
    m = k // 2
    padded = np.zeros((height + 2 * m, width + 2 * m, M), dtype=np.int64)  # y_hat as the context layer sees it
    all_symbols, all_indexes = [], []
    for r, c in wavefront_order(height, width, k):
        # The window's centre is position (m, m); it and what follows it are still zero, and masked anyway.
        x = run_layer(context, padded[r : r + k, c : c + k])[m : m + 1, m : m + 1]
        x = np.concatenate([features[r : r + 1, c : c + 1], x], axis=2)
        for layer in parameters:
            x = run_layer(layer, x)
        scales, means = x[0, 0, :M], x[0, 0, M:]
        symbols = quantize(y[r, c], means, fraction_bits)
        y_hat[r, c] = dequantize(symbols, means, fraction_bits)
        padded[r + m, c + m] = saturate(y_hat[r, c])
        all_symbols.append(symbols)
        all_indexes.append(scale_indexes(scales, thresholds))
    return SliceResult(np.concatenate(all_symbols), np.concatenate(all_indexes), y_hat)
