"""Bjøntegaard deltas: the mean difference of two rate-distortion curves, over the range that both have.

    BD-rate     in per cent of bits at equal quality: mean difference of log rate over quality
    BD-quality  in the metric's unit at equal rate (BD-PSNR for PSNR): mean difference of quality over log rate

Bjøntegaard 2001 (VCEG-M33), with piecewise cubic Hermite interpolation (PCHIP) as in VCEG-AL22; PCHIP does not
overshoot where polynomials do.
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class BDRate(NamedTuple):
    """percent: bits of the curve against the anchor's at equal quality, nan if the curves have no quality in common.

    low, high: the common range of quality.
    """

    percent: float
    low: float
    high: float


class Delta(NamedTuple):
    """value: the mean difference, nan if the curves have no range in common. low, high: the common range."""

    value: float
    low: float
    high: float


def missing() -> str | None:
    """Why no delta can be computed here, None if it can."""
    return "package scipy is not installed" if importlib.util.find_spec("scipy") is None else None


def bd_rate(anchor_bpp: ArrayLike, anchor_quality: ArrayLike, bpp: ArrayLike, quality: ArrayLike) -> BDRate:
    """Per cent of bits of a curve against an anchor, and the common range of quality.

    quality in dB, or on any scale that grows; two points at least, in any order. Raises ValueError for fewer points,
    two of the same quality, or a rate that is not positive.
    """
    delta = mean_difference(anchor_quality, _log(anchor_bpp), quality, _log(bpp))
    return BDRate(float(100 * np.expm1(delta.value)), delta.low, delta.high)


def bd_quality(anchor_bpp: ArrayLike, anchor_quality: ArrayLike, bpp: ArrayLike, quality: ArrayLike) -> Delta:
    """The metric's gain of a curve against an anchor, and the common range of log2 rate. Raises ValueError as above."""
    log2 = [_log(rate) / np.log(2) for rate in (anchor_bpp, bpp)]
    return mean_difference(log2[0], anchor_quality, log2[1], quality)


def _log(rate: ArrayLike) -> np.ndarray:
    values = np.asarray(rate, np.float64)
    if not (values > 0).all():
        raise ValueError("rates must be positive")
    return np.log(values)


def mean_difference(anchor_x: ArrayLike, anchor_y: ArrayLike, x: ArrayLike, y: ArrayLike) -> Delta:
    """Mean of y - anchor_y over the common range of x, both curves interpolated."""
    from scipy.interpolate import PchipInterpolator  # extra "bench"

    curves = []
    for xs, ys in ((anchor_x, anchor_y), (x, y)):
        along, across = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
        order = np.argsort(along)
        along, across = along[order], across[order]
        if len(along) < 2 or not (np.diff(along) > 0).all() or not np.isfinite(across).all():
            raise ValueError("a curve needs two points, all of different quality and rate")
        curves.append((along, across))
    low = float(max(along[0] for along, _ in curves))
    high = float(min(along[-1] for along, _ in curves))
    if high <= low:
        return Delta(float("nan"), low, high)
    anchor, other = (PchipInterpolator(*curve).integrate(low, high) for curve in curves)
    return Delta(float(other - anchor) / (high - low), low, high)
