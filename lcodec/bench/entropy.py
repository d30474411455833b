"""Speed and size of the rANS coder alone: `python -m lcodec.bench.entropy`.

Symbols are drawn from the Gaussians of the scale table, so that the ideal code length is known:

    uniform   all 64 tables equally often: nothing stays in the first-level cache, half of the symbols are wide
    latent    ln(scale) ~ N(-1.2, 1): most tables narrow, about 0.9 bits a symbol, as in y of a trained model

Neighbouring symbols have unrelated scales, which is harder on caches and branch prediction than a real latent is.
"above ideal" compares with the entropy coded perfectly under the real densities: it holds what 16-bit frequencies,
the escape, and the end of the stream cost.

Coders of other projects are measured beside ours on the same symbols where they are installed:

    constriction   ANS with Gaussian models that it evaluates at each symbol, not with tables
    compressai     its own rANS and tables; its interface takes Python lists, whose making counts
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcodec.entropy._rans import LANES, Decoder, Tables, encode
from lcodec.entropy.tables import CODING_TAIL_MASS, TAIL_MASS, gaussian_tables, scale_table

LATENT_LOG_SCALE_MEAN = -1.2
LATENT_LOG_SCALE_DEVIATION = 1.0

# Other coders are slower by orders of magnitude; they get this share of the symbols.
PEER_SHARE = 16


@dataclass(frozen=True)
class Case:
    """Symbols to code. All arrays have shape (n,)."""

    name: str
    symbols: NDArray[np.int32]
    indexes: NDArray[np.uint16]  # of the scale table
    scales: NDArray[np.float32]  # scale_table()[indexes]
    ideal_bits: float

    def head(self, n: int) -> Case:
        return make_case(self.name, self.indexes[:n], self.symbols[:n])


@dataclass(frozen=True)
class Row:
    """One coder on one case. Times in seconds, one for each repeat."""

    case: str
    coder: str
    n_symbols: int
    n_bytes: int
    ideal_bits: float
    encode_s: list[float]
    decode_s: list[float]

    def __str__(self) -> str:
        def speeds(times: list[float]) -> str:
            return f"{self.n_symbols / min(times) / 1e6:8.1f} {self.n_symbols / statistics.median(times) / 1e6:8.1f}"

        bits = 8 * self.n_bytes
        return (
            f"{self.case:8} {self.coder:18} {speeds(self.encode_s)} {speeds(self.decode_s)}"
            f" {bits / self.n_symbols:9.4f} {100 * (bits / self.ideal_bits - 1):+9.4f} %"
        )


HEADER = (
    f"{'':27} {'encode M/s':>17} {'decode M/s':>17} {'bits per':>9} {'above':>9}\n"
    f"{'case':8} {'coder':18} {'best':>8} {'median':>8} {'best':>8} {'median':>8} {'symbol':>9} {'ideal':>9}"
)


def make_case(name: str, indexes: NDArray[np.uint16], symbols: NDArray[np.int32]) -> Case:
    scales = scale_table()[indexes]
    return Case(name, symbols, indexes, scales, ideal_code_length(symbols, scales))


def ideal_code_length(symbols: NDArray[np.int32], scales: NDArray[np.float32]) -> float:
    """Bits, under zero-mean Gaussians integrated over unit intervals."""
    # Few pairs of magnitude and scale are different, and erfc is slow.
    pairs, counts = np.unique(np.stack([np.abs(symbols).astype(float), scales]), axis=1, return_counts=True)
    magnitudes, deviations = pairs
    erfc = np.frompyfunc(math.erfc, 1, 1)
    inner = erfc((magnitudes - 0.5) / deviations / math.sqrt(2)).astype(float)
    outer = erfc((magnitudes + 0.5) / deviations / math.sqrt(2)).astype(float)
    return float(-(counts * np.log2((inner - outer) / 2)).sum())


def cases(n_symbols: int, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    levels = scale_table()
    uniform = rng.integers(0, levels.size, n_symbols)
    log_scales = rng.normal(LATENT_LOG_SCALE_MEAN, LATENT_LOG_SCALE_DEVIATION, n_symbols)
    latent = np.searchsorted(levels[:-1], np.exp(log_scales))
    for name, indexes in (("uniform", uniform), ("latent", latent)):
        symbols = np.rint(rng.standard_normal(n_symbols) * levels[indexes]).astype(np.int32)
        yield make_case(name, indexes.astype(np.uint16), symbols)


def measure(
    case: Case,
    coder: str,
    repeats: int,
    encode_case: Callable[[], Any],
    decode_case: Callable[[Any], Sequence[int] | NDArray[np.int32]],
    size: Callable[[Any], int] = len,
) -> Row:
    """Times both directions and checks that the symbols come back.

    Raises:
        RuntimeError: they do not.
    """
    encode_s, decode_s = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        data = encode_case()
        encode_s.append(time.perf_counter() - start)
        start = time.perf_counter()
        decoded = decode_case(data)
        decode_s.append(time.perf_counter() - start)
        if not np.array_equal(decoded, case.symbols):
            raise RuntimeError(f"{coder} does not return the symbols of case {case.name}")
    return Row(case.name, coder, case.symbols.size, size(data), case.ideal_bits, encode_s, decode_s)


def measure_lcodec(case: Case, repeats: int, tail_mass: float, compressai: bool = False) -> Row:
    tables = Tables(*gaussian_tables(scale_table(), tail_mass, compressai))

    def decode_case(data: bytes) -> NDArray[np.int32]:
        decoder = Decoder(data)
        symbols = decoder.decode(case.indexes, tables)
        decoder.finish()
        return symbols

    name = "lcodec, their tables" if compressai else "lcodec"
    return measure(case, name, repeats, lambda: encode([(case.symbols, case.indexes, tables)]), decode_case)


def measure_constriction(constriction: Any, case: Case, repeats: int) -> Row:
    largest = int(np.abs(case.symbols).max())
    family = constriction.stream.model.QuantizedGaussian(-largest - 1, largest + 1)
    means = np.zeros(case.symbols.size)
    deviations = case.scales.astype(np.float64)

    def encode_case() -> NDArray[np.uint32]:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(case.symbols, family, means, deviations)
        return coder.get_compressed()

    def decode_case(words: NDArray[np.uint32]) -> NDArray[np.int32]:
        return constriction.stream.stack.AnsCoder(words).decode(family, means, deviations)

    return measure(case, "constriction", repeats, encode_case, decode_case, lambda words: 4 * words.size)


def measure_compressai(ans: Any, case: Case, repeats: int) -> Row:
    arrays = gaussian_tables(scale_table(), TAIL_MASS, compressai=True)
    tables = (arrays.cdfs.tolist(), arrays.sizes.tolist(), arrays.offsets.tolist())

    def encode_case() -> bytes:
        return ans.RansEncoder().encode_with_indexes(case.symbols.tolist(), case.indexes.tolist(), *tables)

    def decode_case(data: bytes) -> list[int]:
        return ans.RansDecoder().decode_with_indexes(data, case.indexes.tolist(), *tables)

    return measure(case, "compressai", repeats, encode_case, decode_case)


PEERS: dict[str, tuple[str, Callable[[Any, Case, int], Row]]] = {
    "constriction": ("constriction", measure_constriction),
    "compressai": ("compressai.ans", measure_compressai),
}


def measure_peers(case: Case, repeats: int) -> Iterator[Row | str]:
    """Rows of the coders that are installed, notes about the others."""
    for name, (module_name, measure_peer) in PEERS.items():
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # an optional peer may fail to load in any way, not only by its absence
            yield f"{case.name:8} {name:18} not measured: {error}"
            continue
        yield measure_peer(module, case, repeats)


def processor() -> str:
    """What the system calls it; on ARM, where Linux knows no name, what tells its kind."""
    told: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for key, _, value in (line.partition(":") for line in lines):
                told.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    kind = [f"{key.split()[1]} {told[key]}" for key in ("CPU implementer", "CPU part", "CPU variant") if key in told]
    made = ", ".join([platform.machine(), *kind]) if kind else ""
    return told.get("model name") or made or platform.processor() or "unknown"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lcodec.bench.entropy", description="Speed of the rANS coder.")
    parser.add_argument("-n", "--symbols", type=int, default=1 << 22, help="symbols a case (default %(default)s)")
    parser.add_argument("-r", "--repeats", type=int, default=7, help="timings of each (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.symbols < PEER_SHARE or options.repeats < 1:
        parser.error(f"at least {PEER_SHARE} symbols and one repeat")

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{processor()}, 1 thread, {cores} core(s) allowed, {platform.system()}, Python {platform.python_version()}")
    print(f"{options.symbols} symbols a case, {LANES} lanes, {options.repeats} repeats, seed {options.seed}\n")
    print(HEADER)
    for case in cases(options.symbols, options.seed):
        print(measure_lcodec(case, options.repeats, CODING_TAIL_MASS))
        print(measure_lcodec(case, options.repeats, TAIL_MASS, compressai=True))
        for row in measure_peers(case.head(options.symbols // PEER_SHARE), min(options.repeats, 3)):
            print(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
