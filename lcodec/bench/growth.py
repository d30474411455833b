"""Cost as work grows: time and peak memory of whole commands from 0.01 to 100 megapixels, and the line through them.

    python -m lcodec.bench.growth [--megapixels 0.01,...,100] [--threads 1,2] [--out DIR]

Prints what each size takes, and for each direction and number of threads the least-squares line seconds = start +
slope * megapixels with its worst relative deviation. Writes DIR/growth.svg if matplotlib is there, and DIR/growth.json.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

import click
import numpy as np

from lcodec.atomic import write_atomically
from lcodec.bench.large import Run, make_image, numbers, run

SIZES = "0.01,0.03,0.1,0.3,1,3,10,30,100"
SEVERAL_BELOW_MP, RUNS = 2.0, 3  # small ones are the median of so many runs


def line_through(megapixels: list[float], seconds: list[float]) -> tuple[float, float, float]:
    """(start, slope, worst relative deviation) of the line with least squares of relative deviations."""
    x, y = np.asarray(megapixels), np.asarray(seconds)
    rows = np.stack([1 / y, x / y], axis=1)
    (start, slope), *_ = np.linalg.lstsq(rows, np.ones(len(x)), rcond=None)
    return float(start), float(slope), float(np.abs((start + slope * x) / y - 1).max())


def median_run(runs: list[Run]) -> Run:
    return sorted(runs, key=lambda r: r.wall_s)[len(runs) // 2]._replace(
        peak_bytes=statistics.median(r.peak_bytes for r in runs)
    )


def measure(megapixels: float, threads: list[int], folder: Path) -> list[dict[str, float | str]]:
    """What encode and decode of a picture of that size take."""
    source, coded, back = folder / "in.ppm", folder / "in.lic", folder / "back.ppm"
    height, width = make_image(source, megapixels)
    taken: list[dict[str, float | str]] = []
    for n in threads:
        common = ["--limit-pixels", height * width, "--quiet", "--force", "--device", "cpu", "--threads", n]
        for direction, files in (("encode", (source, "-o", coded)), ("decode", (coded, "-o", back))):
            times = RUNS if megapixels < SEVERAL_BELOW_MP else 1
            done = median_run([run(direction, *files, *common) for _ in range(times)])
            entry = {"megapixels": height * width / 1e6, "threads": n, "seconds": done.wall_s}
            taken.append({"direction": direction, **entry, "peak_mib": done.peak_bytes / 2**20})
            click.echo(
                f"{height * width / 1e6:8.3f} MP {direction}, {n} threads: {done.wall_s:7.3f} s,"
                f" peak {done.peak_bytes / 2**20:6.0f} MiB"
            )
    return taken


def curves(taken: list[dict[str, float | str]]) -> dict[tuple[str, float], list[dict[str, float | str]]]:
    """The rows by direction and threads."""
    found: dict[tuple[str, float], list[dict[str, float | str]]] = {}
    for row in taken:
        found.setdefault((str(row["direction"]), float(row["threads"])), []).append(row)
    return found


def draw(taken: list[dict[str, float | str]], path: Path) -> None:
    """Seconds and MiB against megapixels, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for (direction, threads), rows in curves(taken).items():
        x = [row["megapixels"] for row in rows]
        label = f"{direction}, {threads:g} thread{'s' if threads > 1 else ''}"
        left.loglog(x, [row["seconds"] for row in rows], "o-", label=label)
        right.loglog(x, [row["peak_mib"] for row in rows], "o-", label=label)
    left.set(xlabel="megapixels", ylabel="seconds, whole process")
    right.set(xlabel="megapixels", ylabel="peak memory, MiB")
    left.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


@click.command()
@click.option("--megapixels", default=SIZES, show_default=True)
@click.option("--threads", default="1,2", show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default="bench-growth", show_default=True)
def main(megapixels: str, threads: str, out: Path) -> None:
    """Time and memory against megapixels."""
    out.mkdir(parents=True, exist_ok=True)
    taken: list[dict[str, float | str]] = []
    for size in numbers(megapixels):
        with tempfile.TemporaryDirectory(prefix="lcodec-growth-") as folder:
            taken += measure(size, [int(n) for n in numbers(threads)], Path(folder))
    write_atomically(out / "growth.json", json.dumps(taken, indent=1).encode(), overwrite=True)
    for (direction, n), rows in curves(taken).items():
        if len(rows) > 1:
            x, y = ([float(row[key]) for row in rows] for key in ("megapixels", "seconds"))
            start, slope, worst = line_through(x, y)
            click.echo(f"{direction}, {n:g} threads: {start:.3f} s + {slope:.4f} s a megapixel, within {worst:.0%}")
    try:
        draw(taken, out / "growth.svg")
    except ImportError:
        click.echo("no matplotlib, no plot: pip install matplotlib")


if __name__ == "__main__":
    main()
