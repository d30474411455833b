"""What `--effort` saves, against what it takes: a run of the benchmark in which a codec is a model at an effort.

    python -m lcodec.bench.effort FOLDER -o OUT [--models LIST] [--efforts 0,2,5,9] [-q 2,4,6,8] [--every N]

Prints for each model and effort the BD-rate against the same model at effort 0, by PSNR or, for a model trained for
MS-SSIM, by that, and the mean seconds of encoding an image. The same command goes on where it was broken off.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from lcodec.bench.learned import LcodecCoder, find_models, model_coders
from lcodec.bench.run import Listener, Settings, run
from lcodec.bench.schema import Results, Row
from lcodec.bench.summary import bd_of_tables, table
from lcodec.bench.table import aligned, percent, seconds
from lcodec.errors import LcodecError
from lcodec.search.plans import plan_of

METRIC = {"mse": "psnr", "ms-ssim": "ms_ssim_db"}  # by what a model was trained for


def effort_coders(
    models: Sequence[Path], efforts: Sequence[int], qualities: tuple[float, ...], device: str, threads: int
) -> list[LcodecCoder]:
    """A codec for each model and effort, called "MODEL effort N"; effort 0 is always there."""
    coders = []
    for plain in model_coders(models, qualities, device, threads):
        for effort in sorted({0, *efforts}):
            name = f"{plain.name} effort {effort}"
            coders.append(replace(plain, name=name, label=name, effort=effort, detail=f"{plain.detail}, {effort}"))
    return coders


def summary_lines(results: Results, coders: Sequence[LcodecCoder]) -> list[str]:
    """A line for each codec, as far as rows are there."""
    rows = [["model", "BD-rate against effort 0", "seconds an image", "images"]]
    for coder in coders:
        plain = replace(coder, effort=0, name=coder.name.rsplit(" ", 1)[0] + " 0")
        anchor, numbers = table(results, plain.name), table(results, coder.name)
        if anchor is None or numbers is None:
            continue
        entry = bd_of_tables(coder.name, METRIC[coder.load().metric], anchor, numbers)
        saved = "-" if coder.effort == 0 else percent(entry)
        rows.append([coder.label, saved, seconds(mean_seconds(results["rows"], coder.name)), str(len(numbers.images))])
    return aligned(rows)


def mean_seconds(rows: Sequence[Row], codec: str) -> float | None:
    """Of encoding an image, over all its rows."""
    times = [row["encode_s"] for row in rows if row["codec"] == codec and row["encode_s"] is not None]
    return float(np.mean(times)) if times else None


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("bench-effort"), show_default=True)
@click.option("--models", default="all", show_default=True, help="Names or files, with commas between.")
@click.option("--efforts", default="2,5,9", show_default=True)
@click.option("-q", "--qualities", default="2,4,6,8", show_default=True)
@click.option("--every", type=click.IntRange(1), default=1, help="Only each N-th image of the folder.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--device", default="auto", show_default=True)
def main(
    folder: Path, output: Path, models: str, efforts: str, qualities: str, every: int, threads: int, device: str
) -> None:
    """Bits saved by --effort on the images of a folder, and the seconds that it takes."""
    try:
        wanted = [int(text) for text in efforts.split(",")]
        levels = tuple(float(text) for text in qualities.split(","))
    except ValueError:
        raise click.UsageError("--efforts and -q take numbers with commas between") from None
    try:
        for effort in wanted:
            plan_of(effort)
        coders = effort_coders(find_models(models.split(",")), wanted, levels, device, threads)
        settings = Settings(
            folder=folder,
            out=output,
            coders=coders,
            metrics=sorted({METRIC[coder.load().metric] for coder in coders}),
            anchor=coders[0].name,
            threads=threads,
            device=device,
            speed=False,
            report=False,
            every=every,
            command=" ".join(["python -m lcodec.bench.effort", *map(shlex.quote, sys.argv[1:])]),
        )
        results = run(settings, Listener(note=note, warn=note))
    except LcodecError as error:
        raise click.ClickException(str(error)) from error
    click.echo("\n".join(summary_lines(results, coders)))


def note(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
