"""Many small images: the whole command, from the folder to the folder, against the codec alone in memory.

    python -m lcodec.bench.batch [--count 2000] [--side 256] [--model NAME] [--jobs N] [--processes]

Makes crops of the calibration photographs as JPEG files, encodes them with `lcodec encode` and decodes them with
`lcodec decode`, each in a process of its own, start included. References are the mean times of warm `Codec.encode` and
`decode` on images in memory: one image after another, each on all cores, as the codec is timed elsewhere; and on one
thread, shared by as many jobs as have cores, which no program can reach. `--processes` adds the same work split among
as many single-job processes. On a machine that is not idle only the processor times compare.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import PIL.Image

from lcodec.cores import available_cores

PER_FOLDER = 100
WARM_IMAGES = 200
WARM_UP = 10


class Run(NamedTuple):
    """Wall and processor time in seconds; the largest process in bytes."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def make_images(folder: Path, count: int, side: int) -> list[np.ndarray]:
    """Write `count` crops of side x side as JPEG, a hundred in a folder; returns the first of them as they decode."""
    from lcodec.finalize import calibration_images

    rng = np.random.default_rng(0)
    photographs = [pixels for pixels in calibration_images() if min(pixels.shape[:2]) >= side]
    if not photographs:
        raise click.UsageError(f"the calibration photographs are smaller than {side} pixels")
    first = []
    for i in range(count):
        pixels = photographs[i % len(photographs)]
        y, x = (int(rng.integers(0, size - side + 1)) for size in pixels.shape[:2])
        path = folder / f"{i // PER_FOLDER:04}" / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels[y : y + side, x : x + side]).save(path, quality=90)
        if i < WARM_IMAGES:
            first.append(np.asarray(PIL.Image.open(path)))
    return first


class Warm(NamedTuple):
    """Mean seconds for one image: wall and processor time."""

    wall_s: float
    cpu_s: float


def warm(images: Sequence[np.ndarray], model: str, quality: float, threads: int) -> tuple[Warm, Warm]:
    """To encode and to decode an image in memory."""
    from lcodec.codec import Codec

    codec = Codec(model, "cpu", threads=threads)
    for pixels in images[:WARM_UP]:
        codec.decode(codec.encode(pixels, quality).data)
    clocks = [(time.perf_counter(), time.process_time())]
    encoded = [codec.encode(pixels, quality).data for pixels in images]
    clocks.append((time.perf_counter(), time.process_time()))
    for data in encoded:
        codec.decode(data)
    clocks.append((time.perf_counter(), time.process_time()))
    encode, decode = (
        Warm(*((b - a) / len(images) for a, b in zip(*pair, strict=True)))
        for pair in zip(clocks, clocks[1:], strict=False)
    )
    return encode, decode


def start(folder: Path, *arguments: object) -> subprocess.Popen[bytes]:
    """A command of lcodec in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "lcodec", *map(str, arguments), "--quiet"], cwd=folder)


def timed(begin: Callable[[], list[subprocess.Popen[bytes]]]) -> Run:
    """Of processes that run at once. Raises click.ClickException if one fails."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    if any([process.wait() for process in begin()]):
        raise click.ClickException("a command failed")
    wall_s, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall_s, cpu_s, after.ru_maxrss * 1024)  # of all children so far: the largest one


class Reference(NamedTuple):
    """One image at a time on all cores; on one thread; and how many of those run at once."""

    all_cores: Warm
    one_thread: Warm
    at_once: int


def line(what: str, run: Run, count: int, reference: Reference) -> str:
    each_s, cpu_s, single = run.wall_s / count, run.cpu_s / count, reference.one_thread
    warm_s, ideal_s = reference.all_cores.wall_s, single.wall_s / reference.at_once
    return (
        f"{what:22} {run.wall_s:7.1f} s {1e3 * each_s:7.2f} ms an image "
        f"({100 * (each_s / warm_s - 1):+.1f} % against {1e3 * warm_s:.2f} warm on all cores, "
        f"{100 * (each_s / ideal_s - 1):+.1f} % against {1e3 * ideal_s:.2f} with one thread an image), "
        f"processor {1e3 * cpu_s:.2f} ms ({100 * (cpu_s / single.cpu_s - 1):+.1f} % against "
        f"{1e3 * single.cpu_s:.2f}), largest process {run.peak_bytes / 1e6:.0f} MB"
    )


@click.command()
@click.option("--count", type=click.IntRange(2), default=2000, show_default=True, help="Images.")
@click.option("--side", type=click.IntRange(1), default=256, show_default=True, help="Their width and height.")
@click.option("--model", help="Name or file [default: the shipped one].")
@click.option("-q", "--quality", type=float, default=4.0, show_default=True)
@click.option("--jobs", type=click.IntRange(1), help="Files at once [default: one a core].")
@click.option("--processes", is_flag=True, help="Split the work among processes, too.")
def main(count: int, side: int, model: str | None, quality: float, jobs: int | None, processes: bool) -> None:
    """Time encode and decode of many small images."""
    from lcodec import weights

    model, jobs = model or weights.DEFAULT_MODEL, jobs or available_cores()
    with tempfile.TemporaryDirectory(prefix="lcodec-batch-") as name:
        folder = Path(name)
        images = make_images(folder / "in", count, side)
        at_once = min(jobs, available_cores())
        pairs = zip(warm(images, model, quality, available_cores()), warm(images, model, quality, 1), strict=True)
        encode, decode = (Reference(*pair, at_once) for pair in pairs)
        click.echo(f"{count} images of {side}x{side}, {model}, q {quality:g}, {jobs} jobs on {available_cores()} cores")
        common = ["--device", "cpu", "--jobs", jobs]
        run = timed(lambda: [start(folder, "encode", "in", "-o", "lic", "--model", model, "-q", quality, *common)])
        click.echo(line("encode", run, count, encode))
        run = timed(lambda: [start(folder, "decode", "lic", "-o", "back", "-f", "ppm", "--model", model, *common)])
        click.echo(line("decode", run, count, decode))
        if processes:
            folders = sorted(path.name for path in (folder / "in").iterdir())
            parts = [part for i in range(jobs) if (part := folders[i::jobs])]
            single = ["--device", "cpu", "--threads", 1, "--jobs", 1, "--model", model, "-q", quality]
            inputs = [[f"in/{name}" for name in part] for part in parts]
            run = timed(lambda: [start(folder, "encode", *part, "-o", "split", *single) for part in inputs])
            click.echo(line(f"encode, {len(inputs)} processes", run, count, encode))


if __name__ == "__main__":
    main()
