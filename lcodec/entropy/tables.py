"""Integer probability tables: from densities to what the rANS coder reads.

All functions return tables in the layout of `lcodec.entropy._rans.Tables`, which is also CompressAI's:

    cdfs     uint32 (T, L)   cumulative frequencies, 0 .. 65536, in cdfs[t, :sizes[t]]; zeros behind
    sizes    int32 (T,)      number of those values: symbols + escape + 1
    offsets  int32 (T,)      symbol of the first entry

Tables are made once, when a model is finalized, and stored as integers: no decoder evaluates what is below.

The float32 roundings follow CompressAI 1.2 step by step, so that a checkpoint's stored tables come out again.
Where it calls float32 special functions, float64 results are rounded to float32; its libraries are within one
unit of that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lcodec.errors import ModelError

PRECISION = 16  # bits; frequencies of a table add up to 2**PRECISION

# Standard deviations of the Gaussian tables, in quantisation steps (Minnen et al. 2018; CompressAI).
SCALE_MIN = 0.11
SCALE_MAX = 256.0
SCALE_LEVELS = 64

# Probability outside a table, both sides together. CompressAI's value makes tables so wide that the least frequency,
# 1 / 65536, takes visibly from the middle: 0.3 % of the bits at the largest scale, against 0.1 % with the other one (of
# the mixture below, whose tables are wider, 0.2 %; on real symbols less saves nothing).
TAIL_MASS = 1e-9
CODING_TAIL_MASS = 1e-5

# A mixture of Gaussians around a scale: ratios of their deviations to it, and weights.
Spread = Sequence[tuple[float, float]]
GAUSSIAN: Spread = ((1.0, 1.0),)
# Networks know a scale up to a factor: residuals of one scale have wider tails than a Gaussian, and but for the least
# scales a higher peak. As fitted to the symbols of four of our models on photographs of the training set (DESIGN.md).
SCALE_SPREAD: Spread = ((0.6, 0.214), (0.85, 0.381), (1.2, 0.381), (1.7, 0.024))

# Symbols on one side of the median that a factorized table may hold; what lies further out is escaped.
MAX_HALF_RANGE = 4095

F32 = NDArray[np.float32]


class TableArrays(NamedTuple):
    """Arguments of `_rans.Tables`; see the module's docstring."""

    cdfs: NDArray[np.uint32]  # (T, L)
    sizes: NDArray[np.int32]  # (T,)
    offsets: NDArray[np.int32]  # (T,)


def scale_table(minimum: float = SCALE_MIN, maximum: float = SCALE_MAX, levels: int = SCALE_LEVELS) -> F32:
    """Standard deviations in geometric progression from `minimum` to `maximum`, float32 (levels,)."""
    if levels < 2 or not 0 < minimum < maximum:
        raise ValueError("a scale table needs two levels and 0 < minimum < maximum")
    # As torch.linspace: float32 ends and step, each half counted from its own end by a fused multiply-add.
    start, end = np.float32(math.log(minimum)), np.float32(math.log(maximum))
    step = float((end - start) / np.float32(levels - 1))
    i = np.arange(levels)
    logs = np.where(i < levels // 2, float(start) + step * i, float(end) - step * (levels - 1 - i))
    return _exp(logs.astype(np.float32))


def optimal_cdf(pmf: ArrayLike, precision: int = PRECISION) -> NDArray[np.uint32]:
    """Cumulative frequencies (n + 1,) of a probability mass function (n,), the escape's mass last.

    Every entry gets at least one of the 2**precision, and of all such frequencies f these make the expected code
    length sum(-pmf * log2 f) smallest.

    Raises:
        ValueError: not finite, negative, all zero, or more entries than 2**precision.
    """
    p = _checked_pmf(pmf, precision).astype(np.float64)
    if not p.any():
        raise ValueError("a pmf must have some mass")
    total = 1 << precision
    p /= p.sum()

    # Raising f - 1 to f gains p * ln(f / (f - 1)), less with each step. So the best choice takes all steps that gain
    # at least some price, for f as large as 1 / (1 - exp(-price / p)), and the price is found by bisection.
    def frequencies_at(price: float) -> NDArray[np.int64]:
        with np.errstate(divide="ignore", over="ignore"):
            f = np.floor(1 / -np.expm1(-price / p))
        return np.clip(f, 1, total).astype(np.int64)

    low, high = 1e-30, 1.0  # at the high price all f are 1, since p * ln 2 < 1
    while high - low > 1e-14 * high:
        price = math.sqrt(low * high)
        if frequencies_at(price).sum() > total:
            low = price
        else:
            high = price
    frequencies = frequencies_at(high)
    # The steps that gain just the price: they tie, or bisection could not tell them apart.
    while left := total - int(frequencies.sum()):
        gains = p * np.log1p(1 / frequencies)
        frequencies[np.argsort(-gains, kind="stable")[:left]] += 1
    return _cumulative(frequencies)


def compressai_cdf(pmf: ArrayLike, precision: int = PRECISION) -> NDArray[np.uint32]:
    """The same integers as CompressAI's `pmf_to_quantized_cdf`; arguments and errors as for `optimal_cdf`.

    What rounding leaves over goes to the escape, a few percent in wide tables, so `optimal_cdf` makes smaller files.
    Every entry gets at least one of the 2**precision; frequencies that rounded to zero take theirs from the
    smallest that can spare one.
    """
    p = _checked_pmf(pmf, precision)
    total = 1 << precision
    # Rounds half away from zero: scaling is exact, and so is adding 0.5 wherever it decides.
    frequencies = np.floor(p.astype(np.float64) * total + 0.5).astype(np.int64)
    mass = int(frequencies.sum())
    if mass == 0:
        raise ValueError("a pmf must have some mass")
    if mass >= 1 << (63 - precision):
        raise ValueError("a pmf must add up to about one")  # and total * frequencies below would overflow
    frequencies = total * frequencies // mass
    frequencies[-1] += total - frequencies.sum()
    taken = np.iinfo(np.int64).max
    spare = np.where(frequencies > 1, frequencies, taken)
    for i in np.flatnonzero(frequencies == 0):
        j = int(spare.argmin())
        frequencies[i] = 1
        frequencies[j] -= 1
        spare[j] = frequencies[j] if frequencies[j] > 1 else taken
    return _cumulative(frequencies)


def _checked_pmf(pmf: ArrayLike, precision: int) -> NDArray[np.floating]:
    p = np.asarray(pmf)
    if p.ndim != 1 or p.size == 0:
        raise ValueError("a pmf must have one dimension and at least one entry")
    p = p if p.dtype == np.float32 else p.astype(np.float64)
    if not np.isfinite(p).all() or (p < 0).any():
        raise ValueError("a pmf must be finite and not negative")
    if p.size > 1 << precision:
        raise ValueError(f"{p.size} entries do not fit into {precision}-bit probabilities")
    return p


def _cumulative(frequencies: NDArray[np.int64]) -> NDArray[np.uint32]:
    cdf = np.zeros(frequencies.size + 1, dtype=np.uint32)
    np.cumsum(frequencies, out=cdf[1:])
    return cdf


_BUCKETS = 256


def pack_cdfs(cdfs: NDArray[np.uint32], sizes: NDArray[np.int32]) -> NDArray[np.uint16]:
    """Padded tables (..., L) one behind the other, each without its last value 65536, uint16: as in model files."""
    rows = cdfs.reshape(-1, cdfs.shape[-1])
    return np.concatenate([row[: size - 1] for row, size in zip(rows, sizes.ravel(), strict=True)]).astype(np.uint16)


def unpack_cdfs(packed: NDArray[np.uint16], sizes: NDArray[np.int32]) -> NDArray[np.uint32]:
    """Undo `pack_cdfs`: uint32 (*sizes.shape, L). Raises ModelError if the sizes do not fit the values."""
    lengths = sizes.astype(np.int64).ravel() - 1
    fits = packed.ndim == 1 and packed.dtype == np.uint16 and lengths.size > 0
    if not fits or lengths.min() < 1 or int(lengths.sum()) != packed.size:
        raise ModelError("tables and their sizes do not fit together")
    width = int(lengths.max()) + 1
    if lengths.size * max(width, _BUCKETS) > 1 << 26:  # however narrow, a table has that many buckets in memory
        raise ModelError(f"{lengths.size} tables of up to {width} values are more than any model needs")
    cdfs = np.zeros((lengths.size, width), np.uint32)
    cdfs[np.arange(width) < lengths[:, None]] = packed
    cdfs[np.arange(lengths.size), lengths] = 1 << PRECISION
    return cdfs.reshape(*sizes.shape, width)


def stack_tables(cdfs: Sequence[NDArray[np.uint32]], offsets: ArrayLike) -> TableArrays:
    """Pads cumulative distributions of different lengths into one array."""
    sizes = np.array([cdf.size for cdf in cdfs], dtype=np.int32)
    padded = np.zeros((len(cdfs), int(sizes.max())), dtype=np.uint32)
    for row, cdf in zip(padded, cdfs, strict=True):
        row[: cdf.size] = cdf
    return TableArrays(padded, sizes, np.asarray(offsets, dtype=np.int32))


def gaussian_tables(
    scales: ArrayLike,
    tail_mass: float = TAIL_MASS,
    compressai: bool = False,
    spread: Spread = GAUSSIAN,
) -> TableArrays:
    """Tables of zero-mean Gaussians, or scale mixtures of them, integrated over unit intervals around the integers.

    Args:
        scales: float32 (T,), standard deviations, positive.
        tail_mass: probability left to the escape, 0 < tail_mass < 1. Table t holds the symbols -c .. c with
            c = ceil(scales[t] * -ppf(tail_mass / 2)), ppf of the mixture.
        compressai: frequencies by `compressai_cdf` instead of `optimal_cdf`. With `scale_table()` and the default
            mass the result is CompressAI's `GaussianConditional` buffers.
        spread: the mixture, (ratio to the scale, weight) of each of its Gaussians; both positive, weights add up to 1.

    Returns:
        TableArrays of T tables.
    """
    s = np.asarray(scales, dtype=np.float32)
    if s.ndim != 1 or s.size == 0 or not (np.isfinite(s).all() and (s > 0).all()):
        raise ValueError("scales must be positive and finite, in one dimension")
    if not 0 < tail_mass < 1:
        raise ValueError("tail_mass must lie between 0 and 1")
    if not spread or min(min(part) for part in spread) <= 0 or abs(sum(weight for _, weight in spread) - 1) > 1e-9:
        raise ValueError("a spread has positive ratios and weights, which add up to 1")
    multiplier = np.float32(_half_width(spread, tail_mass))
    centers = np.ceil(s * multiplier).astype(np.int32)
    quantize = compressai_cdf if compressai else optimal_cdf
    cdfs = []
    for scale, center in zip(s, centers, strict=True):
        half = np.arange(center, -1, -1, dtype=np.float32)  # |symbol| for -c .. 0; the other side mirrors it
        lower = _mixture_cdf((np.float32(-0.5) - half) / scale, spread)
        pmf = _mixture_cdf((np.float32(0.5) - half) / scale, spread) - lower
        cdfs.append(quantize(np.concatenate([pmf, pmf[-2::-1], 2 * lower[:1]])))
    return stack_tables(cdfs, -centers)


def _half_width(spread: Spread, tail_mass: float) -> float:
    """Distance from the middle beyond which a mixture has `tail_mass`, on both sides together."""
    normal = NormalDist()
    ends = [-ratio * normal.inv_cdf(tail_mass / 2) for ratio, _ in spread]
    low, high = min(ends), max(ends)
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if sum(weight * normal.cdf(-middle / ratio) for ratio, weight in spread) > tail_mass / 2:
            low = middle
        else:
            high = middle
    return high


class FactorizedDensity:
    """C univariate densities with cumulative sigmoid(L(v)), L a monotone network.

    Source: Ballé et al. 2018, "Variational image compression with a scale hyperprior", appendix 6.1.

    Args:
        matrices: for each layer k float32 (C, r[k+1], r[k]), before the softplus; r[0] = r[-1] = 1.
        biases: for each layer float32 (C, r[k+1], 1).
        factors: for each layer but the last float32 (C, r[k+1], 1), before the tanh.
    """

    def __init__(
        self, matrices: Sequence[ArrayLike], biases: Sequence[ArrayLike], factors: Sequence[ArrayLike]
    ) -> None:
        self.weights = [_softplus(np.asarray(m, np.float32)) for m in matrices]
        self.biases = [np.asarray(b, np.float32) for b in biases]
        self.gates = [_tanh(np.asarray(f, np.float32)) for f in factors]
        if not len(self.weights) == len(self.biases) == len(self.gates) + 1:
            raise ModelError("factorized density: layers of matrices, biases and factors do not match")
        self.channels = self.weights[0].shape[0]
        width = 1
        for w, b in zip(self.weights, self.biases, strict=True):
            if w.ndim != 3 or w.shape[::2] != (self.channels, width) or b.shape != (*w.shape[:2], 1):
                raise ModelError("factorized density: shapes of matrices and biases do not match")
            width = w.shape[1]
        if width != 1 or any(g.shape != b.shape for g, b in zip(self.gates, self.biases, strict=False)):
            raise ModelError("factorized density: shapes of factors and biases do not match")

    def logits(self, v: F32) -> F32:
        """L(v), float32 (C, n) for float32 (C, n)."""
        x = np.asarray(v, dtype=np.float32)[:, None, :]  # (C, r, n)
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = _matmul(weight, x) + bias
            if k < len(self.gates):
                x = x + self.gates[k] * _tanh(x)
        return x[:, 0, :]


def solve_quantiles(
    density: FactorizedDensity, tail_mass: float = TAIL_MASS, search_range: float = 1e5
) -> NDArray[np.float32]:
    """Lower tail, median and upper tail of every channel, float32 (C, 3), by bisection.

    The logits there are -ln(2 / tail_mass - 1), 0 and +ln(2 / tail_mass - 1). Moves the medians of a model,
    which are part of what its streams mean: for new models only.

    Raises:
        ModelError: a quantile lies outside +-search_range.
    """
    edge = math.log(2 / tail_mass - 1)
    target = np.array([-edge, 0.0, edge], dtype=np.float32)
    low = np.full((density.channels, 3), -search_range, dtype=np.float64)
    high = -low
    if (density.logits(low.astype(np.float32)) > target).any() or (
        density.logits(high.astype(np.float32)) < target
    ).any():
        raise ModelError(f"factorized density: a quantile lies outside +-{search_range:g}")
    # 2e5 / 2**50 is far below what float32 resolves, so the loop ends at the float32 neighbour of the root.
    for _ in range(50):
        middle = (low + high) / 2
        below = density.logits(middle.astype(np.float32)) < target
        low = np.where(below, middle, low)
        high = np.where(below, high, middle)
    return ((low + high) / 2).astype(np.float32)


def factorized_tables(
    density: FactorizedDensity,
    quantiles: ArrayLike,
    medians: ArrayLike | None = None,
    value_scale: ArrayLike | None = None,
    max_half_range: int = MAX_HALF_RANGE,
    compressai: bool = False,
) -> TableArrays:
    """Tables of a factorized density, one a channel, over symbols k that stand for the value k + median.

    Args:
        quantiles: (C, 3) or CompressAI's (C, 1, 3): lower tail, median, upper tail of the density. They limit
            the symbols of a table to -ceil(median - lower) .. ceil(upper - median), and to +-max_half_range.
        medians: (C,) the values that symbol 0 stands for; quantiles[:, 1] if not given. A coder with
            fixed-point medians gives here what its integers stand for.
        value_scale: (C,) positive or None. The probability of k is the mass of the density between
            (k + median - 1/2) * value_scale and (k + median + 1/2) * value_scale. With other scales this
            makes the tables of one model's other qualities.
        compressai: frequencies by `compressai_cdf` instead of `optimal_cdf`, and the mass above a table, part of
            the escape's, taken not behind its own last symbol but behind as many symbols as the widest table has.
            Without `medians` and `value_scale` the result is CompressAI's `EntropyBottleneck` buffers.

    Returns:
        TableArrays of C tables.
    """
    q = np.asarray(quantiles, dtype=np.float32).reshape(density.channels, 3)
    center = q[:, 1] if medians is None else np.asarray(medians, np.float32)
    scale = np.ones_like(center) if value_scale is None else np.asarray(value_scale, np.float32)
    if scale.shape != (density.channels,) or center.shape != (density.channels,):
        raise ValueError(f"medians and value_scale must have shape ({density.channels},)")
    if not all(np.isfinite(v).all() for v in (q, center, scale)) or (scale <= 0).any():
        raise ModelError("factorized density: quantiles, medians and scales must be finite, scales positive")
    minima = np.clip(np.ceil(center - q[:, 0] / scale), 0, max_half_range).astype(np.int32)
    maxima = np.clip(np.ceil(q[:, 2] / scale - center), 0, max_half_range).astype(np.int32)
    lengths = minima + maxima + 1

    half = np.float32(0.5)
    start = center - minima.astype(np.float32)
    samples = np.arange(lengths.max(), dtype=np.float32)[None, :] + start[:, None]  # (C, n)
    lower = _sigmoid(density.logits((samples - half) * scale[:, None]))
    logits_upper = density.logits((samples + half) * scale[:, None])
    pmf = np.maximum(_sigmoid(logits_upper) - lower, np.float32(0))  # rounding can turn a flat piece downhill
    above = _sigmoid(-logits_upper)
    if not np.isfinite(pmf).all():
        raise ModelError("factorized density: parameters give no finite probabilities")
    quantize = compressai_cdf if compressai else optimal_cdf
    cdfs = []
    for c, length in enumerate(lengths):
        last = -1 if compressai else length - 1
        tail = lower[c, 0] + above[c, last]
        cdfs.append(quantize(np.concatenate([pmf[c, :length], [tail]]).astype(np.float32)))
    return stack_tables(cdfs, -minima)


def table_set(qualities: Sequence[float], quality: float) -> int:
    """Index of the table set nearest to `quality`, the lower one on a tie."""
    return min(range(len(qualities)), key=lambda i: (abs(qualities[i] - quality), i))


_erfc = np.frompyfunc(math.erfc, 1, 1)


def _normal_cdf(v: F32) -> F32:
    return np.float32(0.5) * _erfc((np.float32(-(2**-0.5)) * v).astype(np.float64)).astype(np.float32)


def _mixture_cdf(v: F32, spread: Spread) -> F32:
    parts = [np.float32(weight) * _normal_cdf(v / np.float32(ratio)) for ratio, weight in spread]
    return np.sum(parts, axis=0, dtype=np.float32)


def _exp(v: F32) -> F32:
    with np.errstate(over="ignore"):
        return np.exp(v.astype(np.float64)).astype(np.float32)


def _softplus(v: F32) -> F32:
    with np.errstate(invalid="ignore"):
        return np.logaddexp(0.0, v.astype(np.float64)).astype(np.float32)


def _tanh(v: F32) -> F32:
    return np.tanh(v.astype(np.float64)).astype(np.float32)


def _sigmoid(v: F32) -> F32:
    return np.float32(1) / (np.float32(1) + _exp(-v))


def _matmul(weight: F32, x: F32) -> F32:
    """(C, m, k) times (C, k, n), each sum rounded term by term from the first to the last."""
    total = weight[:, :, :1] * x[:, :1]
    for k in range(1, weight.shape[2]):
        total = total + weight[:, :, k : k + 1] * x[:, k : k + 1]
    return total
