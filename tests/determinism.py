"""Random pictures at random qualities, encoded by one process and decoded by another that is set up differently.

    python tests/determinism.py [ARCHITECTURE...] [--images 1000] [--keep determinism-run]

Processes differ in instruction sets (the integer networks, the transforms in C, torch and its oneDNN), in their number
of threads and in whether transforms are bfloat16 in C or float32 in torch. Each case takes two of them by lot: the
latents that the decoder finds have to be those that the encoder wrote. Shipped models where there are, else random
weights.

The log in the folder of --keep has a line a case, and the same command goes on where it was broken off. Exit code 1
after a mismatch, whose file is kept there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MAX_SIDE = 300


class Setup(NamedTuple):
    """What a process starts with."""

    environment: Mapping[str, str]
    threads: int = 1


AVX2 = {"LCODEC_ISA": "avx2", "LCODEC_FLOAT_ISA": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
LEAST = {"LCODEC_ISA": "scalar", "ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
SETUPS = {
    "as it comes": Setup({}),
    "two threads": Setup({}, 2),
    "AVX2": Setup(AVX2),
    "plain C, SSE4.1": Setup({**LEAST, "LCODEC_TRANSFORMS": "torch"}, 2),
    "float32": Setup({"LCODEC_TRANSFORMS": "torch"}),
}


def setups() -> dict[str, Setup]:
    """Those that this processor has."""
    from lcodec.cpu import _mixnet
    from lcodec.entropy import _intnet

    has_avx2 = "avx2" in _intnet.isas() and "avx2" in _mixnet.isas()
    return {name: setup for name, setup in SETUPS.items() if has_avx2 or setup.environment is not AVX2}


# ---- pictures and models


def picture(seed: int) -> np.ndarray:
    """uint8 or uint16, (H, W, 3) or (H, W): a crop of a photograph, or one of the contents that the fuzzers use."""
    from tests.fuzz.stages import CONTENTS, photo

    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, MAX_SIDE + 1, 2))
    deep, gray = rng.integers(4) == 0, rng.integers(4) == 0
    top, dtype = (65535, np.uint16) if deep else (255, np.uint8)
    shape = (height, width) if gray else (height, width, 3)
    if rng.integers(2):
        source = photo().astype(float) / 255
        y, x = (int(rng.integers(n)) for n in source.shape[:2])
        crop = np.roll(source, (-y, -x), (0, 1))
        crop = np.pad(crop, ((0, max(height - len(crop), 0)), (0, max(width - crop.shape[1], 0)), (0, 0)), "symmetric")
        crop = crop[:height, :width]
        values = crop.mean(2) if gray else crop
    else:
        values = CONTENTS[int(rng.integers(len(CONTENTS)))](rng, shape)
    return np.clip(np.rint(values * top), 0, top).astype(dtype)


def model_files(folder: Path) -> dict[str, Path]:
    """Architecture -> a model of it, a shipped one if there is one."""
    from lcodec import weights
    from lcodec.errors import ModelError
    from tests.fuzz.stages import model_paths

    found = {path.name.removesuffix(weights.SUFFIX): path for path in model_paths(folder, 16)}
    for path in sorted(weights.shipped_folder().glob("*" + weights.SUFFIX)):
        try:
            found[weights.info(path).architecture] = path
        except ModelError:
            continue
    return found


# ---- processes


class Process:
    """One that encodes and decodes, line by line."""

    def __init__(self, setup: Setup) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(setup.threads), **setup.environment}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", str(setup.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def send(self, **job: Any) -> None:
        """One at a time."""
        assert self._process.stdin is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)

    def receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def ask(self, **job: Any) -> dict[str, Any]:
        self.send(**job)
        return self.receive()

    def close(self) -> None:
        self._process.communicate(timeout=60)


def work(threads: int) -> None:
    """Jobs on stdin: {"model", "file", "seed"} encodes `picture(seed)`, without a seed a file is decoded."""
    from lcodec.codec import Codec

    codecs: dict[str, Codec] = {}
    for line in sys.stdin:
        job = json.loads(line)
        if job["model"] not in codecs:
            codecs[job["model"]] = Codec(job["model"], "cpu", threads)
        codec, file = codecs[job["model"]], Path(job["file"])
        if "seed" in job:
            rng = np.random.default_rng([job["seed"], 1])
            low, high = codec.qualities[0], codec.qualities[-1]
            coded = codec.encode(picture(job["seed"]), rng.uniform(low, high), slice_log2=int(rng.integers(4, 7)))
            file.write_bytes(coded.data)
            answer = {"digest": coded.y_hat_digest, "quality": coded.quality}
        else:
            answer = {"digest": codec.decode(file.read_bytes()).digest}
        print(json.dumps(answer), flush=True)


def compare(
    models: Mapping[str, Path], processes: Mapping[str, Process], images: int, keep: Path
) -> list[dict[str, Any]]:
    """The log once every model has so many cases: "architecture", "seed", "encoder", "decoder", "same" and more.

    models: architecture -> file. processes: setup -> process.
    """
    log = keep / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = Counter(record["architecture"] for record in records)
    for architecture, model in models.items():
        for seed in range(done[architecture], images):
            rng = np.random.default_rng([seed, zlib.crc32(architecture.encode())])
            encoder, decoder = (list(processes)[i] for i in rng.choice(len(processes), 2, replace=False))
            file = keep / f"{architecture}-{seed}.lic"
            coded = processes[encoder].ask(model=str(model), file=str(file), seed=seed)
            same = processes[decoder].ask(model=str(model), file=str(file))["digest"] == coded["digest"]
            record = {"architecture": architecture, "seed": seed, "encoder": encoder, "decoder": decoder, "same": same}
            records.append(record | {"model": model.name, "quality": coded["quality"]})
            with log.open("a") as f:
                print(json.dumps(records[-1]), file=f)
            if same:
                file.unlink()
    return records


def main() -> int:
    from lcodec.nets.config import ARCHITECTURES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", metavar="ARCHITECTURE", help=", ".join(ARCHITECTURES))
    parser.add_argument("--images", type=int, default=1000, help="of each")
    parser.add_argument("--keep", type=Path, default=Path("determinism-run"))
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.work)
        return 0
    chosen.keep.mkdir(parents=True, exist_ok=True)
    found = model_files(chosen.keep)
    models = {name: found[name] for name in chosen.architectures or ARCHITECTURES}
    processes = {name: Process(setup) for name, setup in setups().items()}
    try:
        records = compare(models, processes, chosen.images, chosen.keep)
    finally:
        for process in processes.values():
            process.close()
    for architecture, count in Counter(r["architecture"] for r in records).items():
        wrong = sum(r["architecture"] == architecture and not r["same"] for r in records)
        print(f"{architecture:24} {count:6} images {wrong:4} mismatches")
    pairs = Counter((r["encoder"], r["decoder"]) for r in records)
    print(f"{len(pairs)} pairs of {len(setups())} setups, {min(pairs.values())} to {max(pairs.values())} images each")
    return 0 if all(r["same"] for r in records) else 1


if __name__ == "__main__":
    sys.exit(main())
