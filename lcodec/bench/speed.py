"""How long a codec takes: warm, with everything loaded, and cold, as whole processes; and the memory of those."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lcodec import weights
from lcodec.bench.coder import Coder
from lcodec.bench.schema import Point, SpeedEntry
from lcodec.errors import LcodecError

T = TypeVar("T")
TARGET_BPP = 1.0  # codecs are timed where their files are of about this size
RUNS = 7
ENOUGH_S = 20.0  # of runs in one direction
# A process's peak memory counts what its parent had when it was started: so a small parent does that. Resident memory
# is in KiB, on macOS in bytes.
LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - start
size = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, size]))
"""


def choose_quality(points: Sequence[Point]) -> float:
    """The quality whose mean rate is nearest to TARGET_BPP."""
    return min(points, key=lambda p: abs(np.log(p["bpp"] / TARGET_BPP)))["quality"]


def measure(
    coder: Coder,
    quality: float,
    path: Path,
    pixels: np.ndarray,
    threads: int,
    device: str,
    warn: Callable[[str], None] = lambda message: None,
) -> SpeedEntry:
    """Time a codec on one image: the file `path` and its pixels, uint8 (H, W, 3). Raises what the codec raises.

    warn: told why there are no times of processes of their own, where these do not work.
    """
    height, width = pixels.shape[:2]
    data = coder.encode(pixels, quality)
    encode_s, encode_parts, _ = median_of(lambda: coder.encode(pixels, quality), coder)
    decode_s, decode_parts, _ = median_of(lambda: coder.decode(data, height, width), coder)
    try:
        cold_encode_s, cold_decode_s, peak = cold(coder, quality, path, threads, device)
    except LcodecError as error:
        warn(f"{coder.label} could not be timed as a process: {error}")
        cold_encode_s = cold_decode_s = peak = None
    if coder.kind == "program":  # warm is a whole process there, and cold would only add ours
        cold_encode_s, cold_decode_s = encode_s, decode_s
    megapixels = height * width / 1e6
    return {
        "codec": coder.name,
        "quality": quality,
        "image": path.name,
        "pixels": height * width,
        "threads": threads,
        "device": device,
        "warm_encode_s": round(encode_s, 6),
        "warm_decode_s": round(decode_s, 6),
        "parts": {f"encode_{key}": value for key, value in encode_parts.items()}
        | {f"decode_{key}": value for key, value in decode_parts.items()},
        "cold_encode_s": None if cold_encode_s is None else round(cold_encode_s, 4),
        "cold_decode_s": None if cold_decode_s is None else round(cold_decode_s, 4),
        "mp_s_encode": round(megapixels / encode_s, 3),
        "mp_s_decode": round(megapixels / decode_s, 3),
        "peak_mib": None if peak is None else round(peak / 2**20, 1),
    }


def median_of(work: Callable[[], T], coder: Coder) -> tuple[float, dict[str, float], T]:
    """(Median seconds, medians of the parts, a result) of RUNS calls after one that does not count; fewer if slow."""
    result = work()
    times: list[float] = []
    parts: list[dict[str, float]] = []
    while len(times) < RUNS and sum(times) < ENOUGH_S:
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
        parts.append(dict(coder.parts()))
    medians = {key: round(statistics.median(p[key] for p in parts), 5) for key in parts[0]}
    return statistics.median(times), medians, result


def cold(
    coder: Coder, quality: float, path: Path, threads: int, device: str
) -> tuple[float | None, float | None, float | None]:
    """(Seconds to encode, to decode, peak bytes) of processes of their own. Raises LcodecError."""
    with tempfile.TemporaryDirectory(prefix="lcodec-bench-") as folder:
        file = Path(folder) / f"file{coder.suffix}"
        if coder.kind == "lcodec":
            common = ["--quiet", "--threads", str(threads), "--device", device]
            one_rate = len(weights.info(Path(coder.source)).qualities) == 1  # which -q cannot name
            chosen = [] if one_rate else ["-q", str(quality)]
            commands = [
                ["lcodec", "encode", str(path), "-o", str(file), *common, "--model", coder.source, *chosen],
                ["lcodec", "decode", str(file), "-o", str(Path(folder) / "out.png"), *common],
            ]
        else:
            entry = json.dumps(coder.entry())
            tail = [entry, str(threads), str(quality), str(path), str(file)]
            commands = [["lcodec.bench.once", direction, *tail] for direction in ("encode", "decode")]
        done = [whole_process([sys.executable, "-m", *command], coder.source) for command in commands]
    return done[0][0], done[1][0], max(size for _, size in done)


def whole_process(command: Sequence[str], model: str = "") -> tuple[float, float]:
    """(Seconds, peak resident bytes) of a command from start to end. Raises LcodecError if it fails."""
    environment = dict(os.environ)
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    if model.endswith(weights.SUFFIX):  # for the decoder, which looks for it by its id
        places = [str(Path(model).parent), environment.get(weights.ENVIRONMENT)]
        environment[weights.ENVIRONMENT] = os.pathsep.join(filter(None, places))
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", LAUNCHER, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    try:
        result: list[Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        result = [1, 0, 0]
    code, seconds, size = result
    if code:
        said = done.stderr.strip().splitlines()
        raise LcodecError(f"{command[0]} exits with {code}: {said[-1] if said else 'says nothing'}")
    return float(seconds), float(size)
