"""Bjøntegaard delta rate: the mean difference of two rate-distortion curves, in per cent of bits.

Bjøntegaard 2001 (VCEG-M33), with piecewise cubic Hermite interpolation (PCHIP) of log rate over quality, as in
VCEG-AL22; PCHIP does not overshoot where polynomials do.
"""

from __future__ import annotations

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


def bd_rate(anchor_bpp: ArrayLike, anchor_quality: ArrayLike, bpp: ArrayLike, quality: ArrayLike) -> BDRate:
    """BD-rate of a curve against an anchor; quality in dB (or any scale that grows), two points at least, any order."""
    from scipy.interpolate import PchipInterpolator  # extra "bench"

    curves = []
    for rate, level in ((anchor_bpp, anchor_quality), (bpp, quality)):
        r, q = np.asarray(rate, np.float64), np.asarray(level, np.float64)
        order = np.argsort(q)
        r, q = r[order], q[order]
        if len(q) < 2 or (np.diff(q) <= 0).any() or (r <= 0).any():
            raise ValueError("a curve needs two points of different quality, and positive rates")
        curves.append((np.log(r), q))
    low = max(q[0] for _, q in curves)
    high = min(q[-1] for _, q in curves)
    if high <= low:
        return BDRate(float("nan"), low, high)
    anchor, other = (PchipInterpolator(q, r).integrate(low, high) for r, q in curves)
    return BDRate(float(100 * np.expm1((other - anchor) / (high - low))), low, high)
