"""Probability tables: CompressAI's integers, and what they promise about mass and size."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lcodec.entropy._rans import Tables
from lcodec.entropy.tables import (
    CODING_TAIL_MASS,
    SCALE_SPREAD,
    TAIL_MASS,
    FactorizedDensity,
    compressai_cdf,
    factorized_tables,
    gaussian_tables,
    optimal_cdf,
    scale_table,
    solve_quantiles,
    table_set,
)
from lcodec.errors import ModelError

VECTORS = Path(__file__).parents[2] / "shared" / "vectors" / "compressai"
NAMES = [
    "bmshj2018-factorized",
    "bmshj2018-hyperprior",
    "mbt2018-mean",
    "mbt2018",
    "cheng2020-anchor",
    "cheng2020-attn",
]


def checkpoint(name: str) -> dict[str, np.ndarray]:
    path = VECTORS / f"{name}.pth.tar"
    if not path.exists():
        pytest.skip("no CompressAI checkpoints beside the repository")
    torch = pytest.importorskip("torch")
    return {key: v.numpy() for key, v in torch.load(path, weights_only=True).items()}


def checkpoint_density(state: dict[str, np.ndarray]) -> FactorizedDensity:
    def layers(kind: str, n: int) -> list[np.ndarray]:
        return [state[f"entropy_bottleneck.{kind}.{k}"] for k in range(n)]

    return FactorizedDensity(layers("matrices", 5), layers("biases", 5), layers("factors", 4))


def assert_equals_buffers(arrays, state: dict[str, np.ndarray], prefix: str) -> None:
    for ours, theirs in zip(arrays, ("_quantized_cdf", "_cdf_length", "_offset"), strict=True):
        np.testing.assert_array_equal(ours, state[f"{prefix}.{theirs}"])


def random_density(channels: int = 5, seed: int = 0) -> FactorizedDensity:
    rng = np.random.default_rng(seed)
    widths = [1, 3, 3, 3, 3, 1]
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    return FactorizedDensity(
        [rng.normal(-0.5, 0.5, (channels, o, i)) for i, o in pairs],
        [rng.normal(0, 0.7, (channels, o, 1)) for _, o in pairs],
        [rng.normal(0, 0.5, (channels, o, 1)) for _, o in pairs[:-1]],
    )


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v.astype(np.float64)))


# ---- the same integers as CompressAI ----


@pytest.mark.parametrize("name", NAMES[1:])
def test_gaussian_tables_equal_those_of_compressai(name):
    state = checkpoint(name)
    np.testing.assert_array_equal(scale_table(), state["gaussian_conditional.scale_table"])
    assert_equals_buffers(gaussian_tables(scale_table(), TAIL_MASS, compressai=True), state, "gaussian_conditional")


@pytest.mark.parametrize("name", NAMES)
def test_factorized_tables_equal_those_of_compressai(name):
    state = checkpoint(name)
    arrays = factorized_tables(
        checkpoint_density(state), state["entropy_bottleneck.quantiles"], compressai=True
    )
    assert_equals_buffers(arrays, state, "entropy_bottleneck")


@pytest.mark.parametrize(
    ("pmf", "precision", "expected"),
    [
        ([0.1, 0.2, 0.4, 0.2, 0.1, 1e-9], 16, [0, 6553, 19660, 45874, 58981, 65535, 65536]),
        ([1, 0, 0, 1e-12], 16, [0, 65533, 65534, 65535, 65536]),
        ([1e-6] * 5 + [0.999995], 16, [0, 1, 2, 3, 4, 5, 65536]),
        ([0.5, 0.25, 0.125, 0.0625, 0.0001], 8, [0, 136, 204, 238, 255, 256]),
    ],
)
def test_quantized_pmf_equals_compressai_vectors(pmf, precision, expected):
    assert compressai_cdf(pmf, precision).tolist() == expected


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (0, [0, 1, 65534, 65535, 65536]),
        (5, [0, 1, 458, 65075, 65534, 65535, 65536]),
        (10, [0, 1, 2, 6036, 59499, 65533, 65534, 65535, 65536]),
    ],
)
def test_gaussian_table_equals_compressai_vectors(table, expected):
    arrays = gaussian_tables(scale_table(), TAIL_MASS, compressai=True)
    assert arrays.cdfs[table, : arrays.sizes[table]].tolist() == expected
    assert not arrays.cdfs[table, arrays.sizes[table] :].any()
    assert arrays.offsets[table] == -(len(expected) - 3) // 2


# ---- from probabilities to frequencies ----


pmfs = hnp.arrays(np.float64, st.integers(1, 256), elements=st.floats(0, 1, width=32))


@settings(deadline=None)
@given(pmfs, st.sampled_from([8, 12, 16]), st.sampled_from([compressai_cdf, optimal_cdf]))
def test_every_entry_keeps_a_frequency_and_they_fill_the_total(pmf, precision, rule):
    mass = pmf if rule is optimal_cdf else np.round(pmf * 2**precision)
    if not mass.any():
        with pytest.raises(ValueError, match="mass"):
            rule(pmf, precision)
        return
    cdf = rule(pmf, precision).astype(int)
    assert cdf[0] == 0 and cdf[-1] == 2**precision
    assert (np.diff(cdf) >= 1).all()


@settings(deadline=None)
@given(pmfs.filter(lambda p: p.any()), st.sampled_from([8, 16]))
def test_no_move_of_one_count_shortens_the_optimal_code(pmf, precision):
    frequencies = np.diff(optimal_cdf(pmf, precision).astype(int))
    p = pmf / pmf.sum()
    gain = p * np.log1p(1 / frequencies)
    loss = np.where(frequencies > 1, -p * np.log1p(-1 / np.maximum(frequencies, 2)), np.inf)
    assert gain.max() <= loss.min() * (1 + 1e-9) + 1e-15


def test_optimal_frequencies_of_many_equal_entries():
    frequencies = np.diff(optimal_cdf(np.full(40_000, 1 / 40_000)).astype(int))
    assert set(frequencies) == {1, 2}


@pytest.mark.parametrize("rule", [compressai_cdf, optimal_cdf])
@pytest.mark.parametrize(
    "pmf", [[], [0.0, 0.0], [0.5, -0.1], [0.5, math.nan], [0.5, math.inf], [[0.5, 0.5]], [1 / 300] * 300]
)
def test_what_is_no_pmf_is_rejected(pmf, rule):
    with pytest.raises(ValueError):
        rule(pmf, 8)


def test_pmf_far_from_normalised_is_rejected_where_it_would_overflow():
    with pytest.raises(ValueError, match="about one"):
        compressai_cdf([1e13, 1.0])


# ---- gaussian_tables ----


def gaussian_pmf(scale: float, symbols: np.ndarray) -> np.ndarray:
    """Mass of the unit intervals around the symbols, by differences where the cumulative is small."""
    edges = (np.abs(symbols)[:, None] + [-0.5, 0.5]) / float(scale) / math.sqrt(2)
    cumulative = np.frompyfunc(math.erfc, 1, 1)(edges).astype(float) / 2
    return cumulative[:, 0] - cumulative[:, 1]


def excess(arrays, scales: np.ndarray, t: int, spread=((1.0, 1.0),)) -> float:
    """Expected bits a symbol of table t above the entropy, over the symbols that it holds."""
    frequencies = np.diff(arrays.cdfs[t, : arrays.sizes[t]].astype(float))[:-1] / 65536
    symbols = np.arange(frequencies.size) + arrays.offsets[t]
    p = sum(weight * gaussian_pmf(ratio * scales[t], symbols) for ratio, weight in spread)
    return float((p * (np.log2(p) - np.log2(frequencies))).sum())


def test_frequencies_follow_the_gaussian():
    scales = scale_table()
    arrays = gaussian_tables(scales, CODING_TAIL_MASS)
    Tables(*arrays)
    entropy = np.log2(scales * math.sqrt(2 * math.pi * math.e))  # of the density, hence for large scales only
    for t in range(30, 64):
        assert excess(arrays, scales, t) < 1e-3 * entropy[t]
    for t in range(30):
        assert excess(arrays, scales, t) < 1e-4


def test_frequencies_follow_a_mixture():
    scales = scale_table()
    arrays = gaussian_tables(scales, CODING_TAIL_MASS, spread=SCALE_SPREAD)
    Tables(*arrays)
    entropy = np.log2(scales * math.sqrt(2 * math.pi * math.e))  # about, for large scales
    for t in range(64):  # least frequencies in wide tails cost more than beside a Gaussian
        assert excess(arrays, scales, t, SCALE_SPREAD) < (1e-4 if t < 30 else 2.5e-3 * entropy[t])
    plain = gaussian_tables(scales, CODING_TAIL_MASS)
    for t in range(64):
        own, gaussian = (np.diff(a.cdfs[t, : a.sizes[t]].astype(float)) for a in (arrays, plain))
        assert np.abs(own[:-1] - own[-2::-1]).max() <= 1  # the same to both sides, as far as they can be
        # wider tails, and a higher peak but for the least scales, where what is not in the middle is in the tails
        assert (own[-arrays.offsets[t]] > gaussian[-plain.offsets[t]]) == (t >= 8)
        assert arrays.sizes[t] >= plain.sizes[t]
    assert arrays.sizes.sum() > 1.2 * plain.sizes.sum()
    escapes = 1 - arrays.cdfs[np.arange(64), arrays.sizes - 2] / 65536
    assert (escapes <= 2 / 65536).all()
    one = gaussian_tables(scales, CODING_TAIL_MASS, spread=((0.5, 0.25), (0.5, 0.75)))
    np.testing.assert_array_equal(one.sizes, gaussian_tables(scales / 2, CODING_TAIL_MASS).sizes)


@pytest.mark.parametrize("spread", [(), ((1.0, 0.5),), ((1.0, 1.5), (2.0, -0.5)), ((0.0, 0.5), (1.0, 0.5))])
def test_what_is_no_mixture_is_rejected(spread):
    with pytest.raises(ValueError, match="spread"):
        gaussian_tables([1.0], spread=spread)


def test_optimal_frequencies_cost_less_than_those_of_compressai():
    scales = scale_table()
    ours, theirs = (gaussian_tables(scales, TAIL_MASS, compressai=c) for c in (False, True))
    np.testing.assert_array_equal(ours.sizes, theirs.sizes)
    costs = np.array([[excess(ours, scales, t), excess(theirs, scales, t)] for t in range(64)])
    assert (costs[:, 0] <= costs[:, 1] + 1e-6).all()
    assert costs[-1, 0] < 0.5 * costs[-1, 1]


def test_larger_tail_mass_makes_smaller_tables_and_a_larger_escape():
    small, large = (gaussian_tables(scale_table(), mass) for mass in (1e-3, 1e-9))
    assert (small.sizes <= large.sizes).all()
    assert small.sizes[-1] < 0.6 * large.sizes[-1]
    escape = 1 - small.cdfs[-1, small.sizes[-1] - 2] / 65536
    assert escape == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize(
    ("scales", "tail_mass"),
    [([], 0.1), ([0.0], 0.1), ([-1.0], 0.1), ([math.inf], 0.1), ([math.nan], 0.1), ([[1.0]], 0.1)]
    + [([1.0], 0), ([1.0], 1)],
)
def test_impossible_gaussians_are_rejected(scales, tail_mass):
    with pytest.raises(ValueError):
        gaussian_tables(scales, tail_mass)


@pytest.mark.parametrize("arguments", [(0.0, 1.0, 8), (2.0, 1.0, 8), (0.1, 1.0, 1)])
def test_impossible_scale_tables_are_rejected(arguments):
    with pytest.raises(ValueError):
        scale_table(*arguments)


# ---- factorized densities ----


@pytest.mark.parametrize("tail_mass", [1e-9, 1e-6])
def test_solved_quantiles_reach_their_targets(tail_mass):
    density = random_density()
    quantiles = solve_quantiles(density, tail_mass)
    edge = math.log(2 / tail_mass - 1)
    np.testing.assert_allclose(density.logits(quantiles), [[-edge, 0, edge]] * 5, atol=2e-4)
    assert (np.diff(quantiles) > 0).all()


def test_quantiles_out_of_reach_are_an_error():
    with pytest.raises(ModelError, match="outside"):
        solve_quantiles(random_density(), search_range=0.5)


def test_factorized_frequencies_follow_the_density():
    density = random_density(seed=1)
    quantiles = solve_quantiles(density, 1e-6)
    arrays = factorized_tables(density, quantiles)
    Tables(*arrays)
    for c in range(density.channels):
        n = arrays.sizes[c] - 2
        edges = quantiles[c, 1] + arrays.offsets[c] + np.arange(n + 1) - 0.5
        pmf = np.diff(sigmoid(density.logits(np.broadcast_to(edges, (5, n + 1)).astype(np.float32))[c]))
        frequencies = np.diff(arrays.cdfs[c, : arrays.sizes[c]].astype(float)) / 65536
        np.testing.assert_allclose(frequencies[:-1], pmf, atol=3e-4)
        assert frequencies[-1] < 1e-3


def test_value_scale_evaluates_the_density_at_scaled_values():
    density = random_density(seed=2)
    quantiles = solve_quantiles(density, 1e-6)
    medians = np.round(quantiles[:, 1] * 64) / 64  # as fixed point with 6 bits
    scale = np.array([0.25, 0.5, 1.0, 2.0, 3.7], np.float32)
    arrays = factorized_tables(density, quantiles, medians=medians, value_scale=scale)
    for c in range(density.channels):
        n = arrays.sizes[c] - 2
        edges = (medians[c] + arrays.offsets[c] + np.arange(n + 1) - 0.5) * scale[c]
        cumulative = sigmoid(density.logits(np.broadcast_to(edges, (5, n + 1)).astype(np.float32))[c])
        frequencies = np.diff(arrays.cdfs[c, : arrays.sizes[c]].astype(float)) / 65536
        np.testing.assert_allclose(frequencies[:-1], np.diff(cumulative), atol=3e-4)
        assert cumulative[0] + 1 - cumulative[-1] < 2e-6  # the table reaches the quantiles


def test_unit_value_scale_changes_nothing():
    density = random_density(seed=3)
    quantiles = solve_quantiles(density)
    plain = factorized_tables(density, quantiles)
    scaled = factorized_tables(density, quantiles, quantiles[:, 1], np.ones(5))
    for a, b in zip(plain, scaled, strict=True):
        np.testing.assert_array_equal(a, b)


def test_wild_quantiles_are_cut_and_their_mass_goes_to_the_escape():
    density = random_density(seed=4)
    quantiles = solve_quantiles(density) * 0 + np.array([-1e5, 0.0, 1e5], np.float32)
    arrays = factorized_tables(density, quantiles, value_scale=np.full(5, 0.01), max_half_range=20)
    assert (arrays.sizes == 2 * 20 + 3).all()
    Tables(*arrays)
    escape = 1 - arrays.cdfs[:, 2 * 20 + 1] / 65536
    edges = np.array([-0.205, 0.205], np.float32) * np.ones((5, 1), np.float32)
    outside = 1 - np.diff(sigmoid(density.logits(edges)))[:, 0]
    np.testing.assert_allclose(escape, outside, atol=2e-3)


def test_median_outside_its_quantiles_still_gives_a_table():
    arrays = factorized_tables(random_density(), np.array([[0.0, 0.0, 0.0]] * 5))
    assert (arrays.sizes == 3).all() and (arrays.offsets == 0).all()
    Tables(*arrays)


def test_nearest_set_of_tables_is_taken_and_of_two_the_lower():
    """Section 5.4 of FORMAT.md: encoder and decoder would agree on another rule, too, but not with files of before."""
    qualities = [1.0, 1.5, 2.0, 8.0]
    asked = {0.5: 0, 1.0: 0, 1.25: 0, 1.2578125: 1, 1.75: 1, 1.7578125: 2, 5.0: 2, 5.0078125: 3, 9.0: 3}
    assert {q: table_set(qualities, q) for q in asked} == asked


def test_damaged_densities_are_rejected():
    density = random_density()
    with pytest.raises(ModelError, match="finite"):
        factorized_tables(density, np.full((5, 3), np.nan))
    with pytest.raises(ModelError, match="finite"):
        factorized_tables(density, solve_quantiles(density), value_scale=np.zeros(5))
    with pytest.raises(ValueError, match="shape"):
        factorized_tables(density, solve_quantiles(density), medians=np.zeros(4))
    matrices = [np.full((1, 3, 1), np.nan), np.zeros((1, 1, 3))]
    biases = [np.zeros((1, 3, 1)), np.zeros((1, 1, 1))]
    with pytest.raises(ModelError, match="finite"):
        factorized_tables(FactorizedDensity(matrices, biases, [np.zeros((1, 3, 1))]), [[-1, 0, 1]])
    with pytest.raises(ModelError, match="match"):
        FactorizedDensity(matrices, biases, [])
    with pytest.raises(ModelError, match="match"):
        FactorizedDensity(matrices[::-1], biases, [np.zeros((1, 3, 1))])
    with pytest.raises(ModelError, match="match"):
        FactorizedDensity(matrices, biases, [np.zeros((1, 2, 1))])
