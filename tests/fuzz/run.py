"""Run the fuzzers: C code under sanitizers by libFuzzer, Python by atheris or, without it, by random damage.

    python tests/fuzz/run.py [STAGE...] [--seconds 60] [--seed N] [--random]

Each stage runs that long. Exit code 1 after a fault, whose input is kept in fuzz-failures/. Needs clang for the C
stages (apt-get install clang), and uses atheris (pip install atheris) where it is there; without clang the C stages are
skipped, which is said.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.fuzz.fuzz_decode import damage  # noqa: E402
from tests.fuzz.stages import STAGES, Stage, stage  # noqa: E402

FAILURES = Path("fuzz-failures")
FLAGS = ["-std=c11", "-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-pthread"]
C_STAGES = ("rans", "layers", "slice")
SLICE_KINDS = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "mbt2018", "cheng2020-anchor", "lc-s")
MAX_BYTES = 4096  # of an input in C


# ---- C


def build(name: str, folder: Path) -> Path:
    """A libFuzzer program of csrc/ and fuzz_NAME.c."""
    program = folder / f"fuzz-{name}"
    sources = [ROOT / "tests" / "fuzz" / f"fuzz_{name}.c", *sorted((ROOT / "csrc").glob("*.c"))]
    if name == "slice":
        sources.append(ROOT / "tests" / "cross" / "case.c")
    includes = ["-I", str(ROOT / "csrc"), "-I", str(ROOT / "tests" / "cross")]
    subprocess.run(["clang", *FLAGS, *includes, *map(str, sources), "-o", str(program)], check=True)
    return program


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
        corpus.mkdir()
        tables = table_set(list(codec.file.entropy["table_qualities"]), 1.0)
        case.write_bytes(model_words(codec.file.integers(), codec.file.entropy, tables))
        for i in range(4):
            height, width = 64 * (1 + i % 2), 64 * (1 + i // 2)
            box = container.unpack(codec.encode(photo()[:height, :width], 1.0).data)
            data = bytes([height // 64 - 1, width // 64 - 1]) + bytes(box.slices[0])
            (corpus / f"slice-{i}").write_bytes(data)
        cases[name] = (case, corpus)
    return cases


def fuzz_c(name: str, seconds: float, seed: int) -> bool:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        program = build(name, folder)
        if name != "slice":
            return libfuzzer(name, program, seconds, seed, [], {})
        cases = slice_cases(folder)
        each = seconds / len(cases)
        return all(
            [
                libfuzzer(f"slice of {kind}", program, each, seed, [str(corpus)], {"LC_FUZZ_MODEL": str(case)})
                for kind, (case, corpus) in cases.items()
            ]
        )


def libfuzzer(
    label: str, program: Path, seconds: float, seed: int, corpus: list[str], environment: dict[str, str]
) -> bool:
    FAILURES.mkdir(exist_ok=True)
    limits = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={MAX_BYTES}", "-timeout=20", "-rss_limit_mb=2048"]
    command = [str(program), *limits, f"-seed={seed or 1}", f"-artifact_prefix={FAILURES}/", "-print_final_stats=1"]
    done = subprocess.run([*command, *corpus], capture_output=True, text=True, env={**os.environ, **environment})
    found = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    if done.returncode:
        print(done.stderr[-6000:], file=sys.stderr)
    verdict = "no fault" if done.returncode == 0 else "FAULT"
    print(f"{label}: {found[0] if found else '?'} cases in {seconds:.0f} s, {verdict}", flush=True)
    return done.returncode == 0


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


def run_atheris(name: str, seconds: float, seed: int) -> bool:
    """In a process of its own, which libFuzzer ends."""
    command = [sys.executable, __file__, "--child", name, "--seconds", str(seconds), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    if done.returncode:
        print(done.stderr[-6000:], file=sys.stderr)
    verdict = "no fault" if done.returncode == 0 else "FAULT"
    print(f"{name}: {found[0] if found else '?'} cases in {seconds:.0f} s, guided by atheris, {verdict}", flush=True)
    return done.returncode == 0


def child(name: str, seconds: float, seed: int) -> None:
    import atheris

    with stage(name) as found, tempfile.TemporaryDirectory() as corpus:
        seeds = found.seeds()
        for i, data in enumerate(seeds):
            (Path(corpus) / str(i)).write_bytes(data)
        FAILURES.mkdir(exist_ok=True)
        longest = max(map(len, seeds)) + 1000
        arguments = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={longest}", f"-seed={seed or 1}"]
        arguments += ["-timeout=60", "-rss_limit_mb=4096", "-print_final_stats=1"]
        arguments += [f"-artifact_prefix={FAILURES}/{name}-"]
        atheris.instrument_all() if name == "container" else None
        atheris.Setup([sys.argv[0], *arguments, corpus], found.check)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join([*C_STAGES, *STAGES]))
    parser.add_argument("--seconds", type=float, default=60, help="for each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random", action="store_true", help="not by atheris")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child, chosen.seconds, chosen.seed)
        return 0
    unknown = set(chosen.stages) - {*C_STAGES, *STAGES}
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}")
    try:
        import atheris  # noqa: F401

        guided = not chosen.random
    except ImportError:
        guided = False
    good = True
    for name in chosen.stages or [*C_STAGES, *STAGES]:
        if name in C_STAGES:
            if not shutil.which("clang"):
                print(f"{name}: skipped, clang is not installed", flush=True)
                continue
            good &= fuzz_c(name, chosen.seconds, chosen.seed)
            continue
        if guided and name in GUIDED:
            good &= run_atheris(name, chosen.seconds / 2, chosen.seed)
        share = chosen.seconds / 2 if guided and name in GUIDED else chosen.seconds
        with stage(name) as found:
            try:
                cases = run_random(name, found, share, chosen.seed)
                print(f"{name}: {cases} cases in {share:.0f} s at random, no fault", flush=True)
            except Exception as error:
                print(f"{name}: FAULT {type(error).__name__}: {error}", flush=True)
                good = False
    return 0 if good else 1


# Where knowing the way through the code helps; elsewhere the code that matters is torch's or compiled.
GUIDED = frozenset({"container", "model", "arguments"})

if __name__ == "__main__":
    sys.exit(main())
