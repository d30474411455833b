"""Run the fuzzers: C code under sanitizers by libFuzzer, Python by atheris or, without it, by random damage.

    python tests/fuzz/run.py [STAGE...] [--seconds 60] [--seed N] [--random]
    python tests/fuzz/run.py --keep fuzz-long --hours 2 --seconds 300

Each stage runs that long. Exit code 1 after a fault, whose input is kept in fuzz-failures/. Needs clang for the C
stages (apt-get install clang libclang-rt-dev), and uses atheris (pip install 'lcodec[fuzz]') where it is there; without
clang the C stages are skipped, which is said.

`--keep` is for long runs: what libFuzzer learns and a log of all rounds stay in that folder, and the same command goes
on where it was broken off. `--hours` goes round until the log has so many hours of processor time.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.fuzz.fuzz_decode import damage  # noqa: E402
from tests.fuzz.stages import STAGES, Stage, stage  # noqa: E402

FAILURES = Path("fuzz-failures")
SANITIZERS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
COMPILER = ["-std=c11", "-g", "-O1", *SANITIZERS, "-pthread"]
LIBRARIES = ["-lm"]
FLAGS = [*COMPILER, "-fsanitize=fuzzer"]
LAYERS = ("csrc/lc_intnet.c", "csrc/lc_gemm*.c")
ENTROPY = (*LAYERS, "csrc/lc_s*.c", "csrc/lc_wavefront.c", "csrc/lc_team.c", "tests/cross/case.c")
C_STAGES = {
    "rans": ("csrc/lc_symbols.c",),
    "layers": LAYERS,
    "slice": ENTROPY,
    "transforms": ("csrc/lc_mixnet.c", "csrc/lc_gdn.c", "csrc/lc_dense*.c", "csrc/lc_team.c"),
}
SLICE_KINDS = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "mbt2018", "cheng2020-anchor", "lc-s")
MAX_BYTES = 4096  # of an input in C
CASES_A_ROUND = 10**7  # more than there can be, so that rounds have seeds of their own


class Result(NamedTuple):
    """Of one stage: how many inputs, by what, the processor time for them in seconds, and whether none was a fault."""

    stage: str
    how: str
    cases: int
    cpu_s: float
    good: bool

    def say(self) -> None:
        verdict = "no fault" if self.good else "FAULT"
        print(f"{self.stage}: {self.cases} cases by {self.how} in {self.cpu_s:.0f} s, {verdict}", flush=True)


def cpu_s() -> float:
    """Of this process and of those it has waited for."""
    return sum(os.times()[:4])


# ---- C


def sources(name: str) -> list[Path]:
    """fuzz_NAME.c, and what it tests."""
    return [ROOT / "tests" / "fuzz" / f"fuzz_{name}.c"] + [
        p for glob in C_STAGES[name] for p in sorted(ROOT.glob(glob))
    ]


INCLUDES = ["-I", str(ROOT / "csrc"), "-I", str(ROOT / "tests" / "cross")]


def build(name: str, folder: Path) -> Path:
    """A libFuzzer program, unless it is there and new."""
    program = folder / f"fuzz-{name}"
    changed = max(path.stat().st_mtime for path in [*sources(name), *(ROOT / "csrc").glob("*.h")])
    if not program.exists() or program.stat().st_mtime < changed:
        subprocess.run(
            ["clang", *FLAGS, *INCLUDES, *map(str, sources(name)), *LIBRARIES, "-o", str(program)], check=True
        )
    return program


def has_libfuzzer(folder: Path) -> bool:
    """Whether there is clang, with the libraries that its sanitizers and libFuzzer need."""
    source = folder / "empty.c"
    source.write_text("int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { (void)d; (void)n; return 0; }")
    command = ["clang", *FLAGS, str(source), "-o", str(folder / "empty")]
    return shutil.which("clang") is not None and subprocess.run(command, capture_output=True).returncode == 0


def slice_cases(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Architecture -> a model as the C programs read it, and a folder of slices of it."""
    from lcodec import container
    from lcodec.codec import Codec
    from lcodec.entropy.tables import table_set
    from tests.fuzz.stages import model_paths, photo
    from tests.test_cross import model_words

    cases = {}
    for path in model_paths(folder):
        name = path.name.split(".")[0]
        if name not in SLICE_KINDS:
            continue
        codec = Codec(path, "cpu", 1)
        case, corpus = folder / f"{name}.case", folder / f"{name}-corpus"
        corpus.mkdir(exist_ok=True)
        tables = table_set(list(codec.file.entropy["table_qualities"]), 1.0)
        case.write_bytes(model_words(codec.file.integers(), codec.file.entropy, tables))
        for i in range(4):
            height, width = 64 * (1 + i % 2), 64 * (1 + i // 2)
            box = container.unpack(codec.encode(photo()[:height, :width], 1.0).data)
            data = bytes([height // 64 - 1, width // 64 - 1]) + bytes(box.slices[0])
            (corpus / f"slice-{i}").write_bytes(data)
        cases[name] = (case, corpus)
    return cases


def fuzz_c(name: str, seconds: float, seed: int, folder: Path) -> list[Result]:
    program = build(name, folder)
    corpus = folder / f"{name}-corpus"
    if name != "slice":
        corpus.mkdir(exist_ok=True)
        return [libfuzzer(name, program, seconds, seed, corpus, {})]
    return [
        libfuzzer(f"slice of {kind}", program, seconds / len(SLICE_KINDS), seed, corpus, {"LC_FUZZ_MODEL": str(case)})
        for kind, (case, corpus) in slice_cases(folder).items()
    ]


def libfuzzer(
    label: str, program: Path, seconds: float, seed: int, corpus: Path, environment: dict[str, str]
) -> Result:
    limits = [
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={MAX_BYTES}",
        "-timeout=100",
        "-rss_limit_mb=2048",
    ]
    further = [f"-artifact_prefix={FAILURES}/", "-print_final_stats=1", f"-seed={seed + 1}"]
    return watched(label, "libFuzzer", [str(program), *limits, *further, str(corpus)], environment)


def watched(label: str, how: str, command: list[str], environment: dict[str, str]) -> Result:
    """A process that libFuzzer ends."""
    FAILURES.mkdir(exist_ok=True)
    before = cpu_s()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env={**os.environ, **environment})
    found = [int(line.split()[-1]) for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    if done.returncode:
        print(done.stderr[-6000:], file=sys.stderr)
    return Result(label, how, sum(found), cpu_s() - before, done.returncode == 0)


# ---- Python


def run_random(name: str, found: Stage, seconds: float, seed: int) -> int:
    """Random damage to seeds and splices of two; returns the number of cases. Raises what a case raised."""
    seeds = found.seeds()
    end, case = time.monotonic() + seconds, seed
    while time.monotonic() < end or case == seed:
        rng = np.random.default_rng(case)
        data = seeds[int(rng.integers(len(seeds)))]
        head = data[:2]
        if rng.integers(8) == 0:
            other = seeds[int(rng.integers(len(seeds)))]
            data = data[: int(rng.integers(len(data) + 1))] + other[int(rng.integers(len(other) + 1)) :]
        data = damage(data, rng)
        if rng.integers(2):  # what chooses model and mode stays
            data = head + data[2:]
        try:
            found.check(data)
        except BaseException:
            FAILURES.mkdir(exist_ok=True)
            path = FAILURES / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            print(f"{name}: case {case} failed, see {path}", file=sys.stderr)
            raise
        case += 1
    return case - seed


def fuzz_python(name: str, seconds: float, seed: int, guided: bool) -> list[Result]:
    """By atheris, where knowing the way through the code helps, half of the time."""
    results = []
    if guided and name in GUIDED:
        seconds /= 2
        limits = [
            f"-max_total_time={max(1, round(seconds))}",
            f"-seed={seed + 1}",
            "-timeout=300",
            "-rss_limit_mb=4096",
        ]
        further = [f"-artifact_prefix={FAILURES}/{name}-", "-print_final_stats=1"]
        command = [sys.executable, str(ROOT / "tests" / "fuzz" / "guided.py"), name, *limits, *further]
        results.append(watched(name, "atheris", command, {}))
    before, cases, good = cpu_s(), 0, True
    with stage(name) as found:
        try:
            cases = run_random(name, found, seconds, seed)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            good = False
    return [*results, Result(name, "random damage", cases, cpu_s() - before, good)]


# ---- all of them


def one_round(names: Sequence[str], seconds: float, seed: int, folder: Path, guided: bool) -> Iterator[Result]:
    for name in names:
        if name in STAGES:
            results = fuzz_python(name, seconds, seed, guided)
        elif has_libfuzzer(folder):
            results = fuzz_c(name, seconds, seed, folder)
        else:
            print(f"{name}: skipped, clang with libFuzzer is not installed", flush=True)
            continue
        for result in results:
            result.say()
            yield result


def read_log(log: Path) -> list[Result]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [Result(**json.loads(line)) for line in lines]


def summary(results: Iterable[Result]) -> str:
    """A line for each stage and one for all: cases, hours of processor time, faults."""
    found = list(results)
    lines = []
    for name in [*dict.fromkeys(r.stage for r in found), None]:
        chosen = [r for r in found if name in (r.stage, None)]
        hours, faults = sum(r.cpu_s for r in chosen) / 3600, sum(not r.good for r in chosen)
        lines.append(f"{name or 'all':30} {sum(r.cases for r in chosen):>12,} {hours:8.3f} h {faults:4} faults")
    return "\n".join(lines)


def long_run(names: Sequence[str], seconds: float, hours: float, keep: Path, guided: bool) -> bool:
    """Goes round until the log in `keep` has so many hours of processor time; false if any of it was a fault."""
    keep.mkdir(parents=True, exist_ok=True)
    log = keep / "log.jsonl"
    while sum(r.cpu_s for r in read_log(log)) < 3600 * hours:
        rounds = max(Counter(r.stage for r in read_log(log)).values(), default=0)
        for result in one_round(names, seconds, rounds * CASES_A_ROUND, keep, guided):
            with log.open("a") as f:
                print(json.dumps(result._asdict()), file=f)
    results = read_log(log)
    print(summary(results))
    return all(r.good for r in results)


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join([*C_STAGES, *STAGES]))
    parser.add_argument("--seconds", type=float, default=60, help="for each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random", action="store_true", help="not by atheris")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-long"), help="where a long run keeps things")
    parser.add_argument("--hours", type=float, default=0, help="go round until there are so many of processor time")
    chosen = parser.parse_args()
    unknown = set(chosen.stages) - {*C_STAGES, *STAGES}
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}")
    names, guided = chosen.stages or [*C_STAGES, *STAGES], has_atheris() and not chosen.random
    if chosen.hours:
        return 0 if long_run(names, chosen.seconds, chosen.hours, chosen.keep, guided) else 1
    with tempfile.TemporaryDirectory() as folder:
        results = list(one_round(names, chosen.seconds, chosen.seed, Path(folder), guided))
    return 0 if all(r.good for r in results) else 1


# Elsewhere the code that matters is torch's or compiled.
GUIDED = frozenset({"container", "model", "arguments"})

if __name__ == "__main__":
    sys.exit(main())
