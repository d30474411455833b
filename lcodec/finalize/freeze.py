"""Tables: the densities of the float model as integers, one set for each half step of quality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor
from torch.nn import ParameterList

from lcodec.entropy import _rans
from lcodec.entropy.tables import (
    CODING_TAIL_MASS,
    GAUSSIAN,
    SCALE_SPREAD,
    FactorizedDensity,
    Spread,
    TableArrays,
    factorized_tables,
    gaussian_tables,
    scale_table,
    solve_quantiles,
)
from lcodec.nets import NetConfig, Network
from lcodec.nets.compressai import stored_tables


def table_qualities(config: NetConfig) -> list[float]:
    """Steps over a variable-rate model: halves, as gains a quality apart differ by about 1.4 and scales fit within 9 %.

    Where the factorized tables are all there is, that would be felt: sixteenths, within about 1 %.
    """
    qualities = config.qualities
    if len(qualities) == 1:
        return list(qualities)
    n = max(1, round((2 if config.arch.has_hyperprior else 16) * (qualities[-1] - qualities[0])))
    return [qualities[0] + i * (qualities[-1] - qualities[0]) / n for i in range(n + 1)]


def density(network: Network) -> FactorizedDensity:
    prior = network.entropy_bottleneck

    def arrays(parameters: ParameterList) -> list[np.ndarray]:
        return [p.detach().cpu().numpy() for p in parameters]

    return FactorizedDensity(arrays(prior.matrices), arrays(prior.biases), arrays(prior.factors))


def prior_medians_and_tables(
    network: Network, state: Mapping[str, Tensor], fraction_bits: int
) -> tuple[np.ndarray, list[TableArrays]]:
    """Medians int32 (S, C) with `fraction_bits`, and the tables of each set.

    A checkpoint that has its tables keeps them and its medians. Another one gets its quantiles by bisection. What is
    coded lies whole steps beside the medians that the network was trained with: h_s and context have seen no others.
    """
    own = density(network)
    stored = stored_tables(state, "entropy_bottleneck")
    if stored is not None:
        medians = network.entropy_bottleneck.medians.cpu().numpy()[None]
        cdfs = stored["_quantized_cdf"].numpy().astype(np.uint32)
        tables = TableArrays(cdfs, stored["_cdf_length"].numpy(), stored["_offset"].numpy())
        return np.rint(medians * 2.0**fraction_bits).astype(np.int32), [tables]
    quantiles = solve_quantiles(own, CODING_TAIL_MASS)
    trained = network.entropy_bottleneck.medians.cpu().double().numpy()
    all_medians, all_tables = [], []
    for quality in table_qualities(network.config):
        value_scale = _prior_scale(network, quality)
        nearest = trained + np.rint(quantiles[:, 1] / value_scale - trained)
        medians = np.rint(nearest * 2.0**fraction_bits).astype(np.int32)
        values = (medians * 2.0**-fraction_bits).astype(np.float32)
        all_medians.append(medians)
        all_tables.append(factorized_tables(own, quantiles, values, value_scale))
    return np.stack(all_medians), all_tables


def _prior_scale(network: Network, quality: float) -> np.ndarray:
    """`Network.prior_scale` as float32 (C), through float64: torch's exp differs from processor to processor."""
    rows = network.prior_log_scale.detach().cpu().double().numpy()
    return np.exp([np.interp(quality, network.config.qualities, row) for row in rows.T]).astype(np.float32)


def tables_of_y(spread: Spread) -> TableArrays:
    """The 64 tables of y. Ours, for a CompressAI checkpoint as well: they cost fewer bits."""
    return gaussian_tables(scale_table(), CODING_TAIL_MASS, spread=spread)


def fitting_spread(coded: Iterable[tuple[np.ndarray, np.ndarray]]) -> Spread:
    """GAUSSIAN or SCALE_SPREAD, whichever takes fewer bytes for symbols of y with scale indexes.

    A choice of two is the same on all machines, though symbols are not quite, unless both take about as many.
    """
    spreads = SCALE_SPREAD, GAUSSIAN
    tables = [_rans.Tables(*tables_of_y(spread)) for spread in spreads]
    sizes = [0, 0]
    for symbols, indexes in coded:
        for i in (0, 1):
            sizes[i] += len(_rans.encode([(symbols, indexes, tables[i])]))
    return spreads[sizes[1] < sizes[0]]


def stack_sets(sets: list[TableArrays]) -> TableArrays:
    """Sets of tables of different widths as arrays with a leading axis: (S, C, L), (S, C), (S, C)."""
    width = max(t.cdfs.shape[1] for t in sets)
    cdfs = np.stack([np.pad(t.cdfs, ((0, 0), (0, width - t.cdfs.shape[1]))) for t in sets])
    return TableArrays(cdfs, np.stack([t.sizes for t in sets]), np.stack([t.offsets for t in sets]))
