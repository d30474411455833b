"""One run of everything that has a target: codecs warm, commands cold, shares of what the processor can do.

    python -m lcodec.bench.limit [--image FILE] [--threads 2] [--out DIR] [--compressai PYTHON]

Networks of the CompressAI zoo are timed with random weights at their full width (see `random_models`), with CompressAI
in the same run where --compressai names a Python that has it. Medians. Writes DIR/speed.json and DIR/speed.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from lcodec.atomic import write_atomically
from lcodec.bench.peaks import best_seconds, flops, gemm_peaks
from lcodec.bench.random_models import random_model
from lcodec.bench.registry import find_codecs
from lcodec.bench.speed import whole_process
from lcodec.codec import Codec
from lcodec.cores import available_cores
from lcodec.image import read_image
from lcodec.transforms.torch_backend import load_network

RUNS, ENOUGH_S = 5, 6.0
WIDE = (("cheng2020-attn", 192, 192), ("mbt2018", 192, 192), ("mbt2018-mean", 128, 192))
TARGETS = {  # decode, encode in seconds
    "cheng2020-attn": (2.0, 1.6),
    "mbt2018": (0.5, 0.45),
    "mbt2018-mean": (0.22, 0.18),
    "lc-s": (0.035, 0.05),
}
AVIF_QUALITY = 75
# Times CompressAI's own compress and decompress of an image that a raw file holds; prints what the second run takes.
COMPRESSAI = """
import json, sys, time
import numpy as np, torch
from compressai.models import Cheng2020Attention, JointAutoregressiveHierarchicalPriors, MeanScaleHyperprior
name, N, M, height, width, threads, raw = sys.argv[1:]
kinds = {"cheng2020-attn": lambda n, m: Cheng2020Attention(n), "mbt2018": JointAutoregressiveHierarchicalPriors,
         "mbt2018-mean": MeanScaleHyperprior}
torch.set_num_threads(int(threads))
torch.manual_seed(0)
network = kinds[name](int(N), int(M)).eval()
network.update(force=True)
pixels = np.fromfile(raw, np.uint8).reshape(int(height), int(width), 3)
x = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255
times = []
with torch.inference_mode():
    for _ in range(2):
        a = time.perf_counter()
        out = network.compress(x)
        b = time.perf_counter()
        network.decompress(out["strings"], out["shape"])
        times.append((time.perf_counter() - b, b - a))
print(json.dumps(times[1]))
"""


class Row(NamedTuple):
    """A line of the table. measured, target, peer: as they are shown."""

    work: str
    measured: str
    target: str
    peer: str = ""


def median_seconds(work: Callable[[], Any]) -> float:
    """Of up to RUNS calls after one that does not count."""
    work()
    times: list[float] = []
    while len(times) < RUNS and sum(times) < ENOUGH_S:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def pair(decode_s: float, encode_s: float) -> str:
    return f"{decode_s:.2g} / {encode_s:.2g} s" if decode_s >= 0.1 else f"{decode_s:.3f} / {encode_s:.3f} s"


def warm(codec: Codec, pixels: np.ndarray, quality: float) -> tuple[float, float]:
    """Seconds to decode, to encode, all of it."""
    data = codec.encode(pixels, quality).data
    return median_seconds(lambda: codec.decode(data)), median_seconds(lambda: codec.encode(pixels, quality))


def compressai_pair(python: Path, name: str, N: int, M: int, pixels: np.ndarray, threads: int) -> str:
    """CompressAI's times, or why there are none."""
    with tempfile.NamedTemporaryFile(suffix=".raw") as raw:
        raw.write(pixels.tobytes())
        raw.flush()
        arguments = [name, N, M, *pixels.shape[:2], threads, raw.name]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        command = [str(python), "-c", COMPRESSAI, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["CompressAI failed"])[-1]
    decode_s, encode_s = json.loads(done.stdout)
    return f"CompressAI {pair(decode_s, encode_s)}"


def share(codec: Codec, network: torch.nn.Module, pixels: np.ndarray, peaks: dict[str, float]) -> str:
    """What g_s gets of the peaks of one thread."""
    height, width = pixels.shape[0] // 16, pixels.shape[1] // 16
    y_hat = np.random.default_rng(0).integers(-300, 300, (height, width, codec.config.M), np.int32)
    scale = np.full(codec.config.M, 0.01, np.float32)
    work = flops(network, torch.zeros(1, codec.config.M, height, width))
    speed = work / best_seconds(lambda: codec.transforms.synthesise(y_hat, scale), 3) / 1e9
    shares = ", ".join(f"{speed / peaks[kind]:.0%} {kind}" for kind in ("bfloat16", "float32") if kind in peaks)
    return f"{speed:.0f} GFLOP/s: {shares}"


def wide_rows(pixels: np.ndarray, threads: int, peaks: dict[str, float], python: Path | None) -> list[Row]:
    rows, shares = [], []
    with tempfile.TemporaryDirectory(prefix="lcodec-limit-") as folder:
        for name, N, M in WIDE:
            path, network = random_model(name, N, M, pixels, Path(folder))
            times = warm(Codec(path, "cpu", threads), pixels, 0.0)
            peer = compressai_pair(python, name, N, M, pixels, threads) if python else ""
            what = f"{name}, N = {N}, decode / encode"
            rows.append(Row(what, pair(*times), pair(*TARGETS[name]), peer))
            codec = Codec(path, "cpu", 1)
            shares.append(Row(f"g_s of {name}, one thread", share(codec, network.g_s, pixels, peaks), "70 % bfloat16"))
    return rows + shares


def small_rows(pixels: np.ndarray, threads: int, peaks: dict[str, float]) -> list[Row]:
    """The default model, and AVIF."""
    codec = Codec("lc-s", "cpu", threads)
    avif = find_codecs(["avif"], [], threads)[0]
    peer = f"no AVIF: {avif.missing}"
    if not avif.missing:
        data = avif.encode(pixels, AVIF_QUALITY)
        height, width = pixels.shape[:2]
        times = (
            median_seconds(lambda: avif.decode(data, height, width)),
            median_seconds(lambda: avif.encode(pixels, AVIF_QUALITY)),
        )
        peer = f"AVIF {pair(*times)}"
    rows = [Row("lc-s, decode / encode", pair(*warm(codec, pixels, 4)), pair(*TARGETS["lc-s"]), peer)]
    one = Codec("lc-s", "cpu", 1)
    network = load_network(one.config, one.file)
    rows.append(Row("g_s of lc-s, one thread", share(one, network.g_s, pixels, peaks), "70 % bfloat16"))
    return rows


def cold_rows(image: Path, threads: int) -> list[Row]:
    """Whole processes; the interpreter alone as the peer."""

    def seconds(*command: object) -> float:
        return statistics.median(whole_process([sys.executable, *map(str, command)])[0] for _ in range(RUNS))

    with tempfile.TemporaryDirectory(prefix="lcodec-limit-") as folder:
        coded, out = Path(folder) / "a.lic", Path(folder) / "a.png"
        common = ["--quiet", "--force", "--threads", threads]
        whole_process([sys.executable, "-m", "lcodec", "encode", str(image), "-o", str(coded), *map(str, common)])
        python = f"python {seconds('-c', 'pass'):.3f} s, with numpy {seconds('-c', 'import numpy'):.3f} s"
        return [
            Row("process: lcodec --help", f"{seconds('-m', 'lcodec', '--help'):.3f} s", "0.1 s", python),
            Row("process: lcodec info", f"{seconds('-m', 'lcodec', 'info', coded):.3f} s", "0.1 s"),
            Row(
                "process: lcodec decode, to PNG",
                f"{seconds('-m', 'lcodec', 'decode', coded, '-o', out, *common):.3f} s",
                "0.35 s",
            ),
        ]


def peak_rows(peaks: dict[int, dict[str, float]]) -> list[Row]:
    kinds = peaks[min(peaks)]
    text = {kind: " / ".join(f"{peaks[n][kind]:.0f}" for n in sorted(peaks)) for kind in kinds}
    threads = " / ".join(map(str, sorted(peaks)))
    return [Row(f"GEMM of torch, {kind}, {threads} threads", f"{text[kind]} GFLOP/s", "") for kind in kinds]


def markdown(rows: list[Row], heading: str) -> str:
    lines = ["| work | measured | to reach | beside it |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", heading, ""])


@click.command()
@click.option("--image", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--threads", type=click.IntRange(1), default=available_cores(), show_default="all")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="bench-speed", show_default=True)
@click.option(
    "--compressai", type=click.Path(exists=True, path_type=Path), envvar="COMPRESSAI_PYTHON", help="Its Python."
)
def main(image: Path, threads: int, out: Path, compressai: Path | None) -> None:
    """Time what has a target."""
    pixels = read_image(image).rgb8()
    pixels = np.ascontiguousarray(pixels[: len(pixels) // 64 * 64, : pixels.shape[1] // 64 * 64])
    peaks = {n: gemm_peaks(n) for n in sorted({1, threads})}
    rows = cold_rows(image, threads) + small_rows(pixels, threads, peaks[1]) + peak_rows(peaks)
    rows = wide_rows(pixels, threads, peaks[1], compressai) + rows
    heading = f"{pixels.shape[1]} x {pixels.shape[0]} pixels, {threads} threads, medians; {time.strftime('%Y-%m-%d')}."
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "speed.json", json.dumps([r._asdict() for r in rows], indent=1).encode(), overwrite=True)
    write_atomically(out / "speed.md", markdown(rows, heading).encode(), overwrite=True)
    click.echo(markdown(rows, heading))


if __name__ == "__main__":
    main()
