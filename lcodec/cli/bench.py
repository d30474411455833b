"""`lcodec bench`: rate, distortion and speed of our models beside what else there is."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lcodec.cli import options
from lcodec.cli.report import Progress, note, printable, warn
from lcodec.errors import InputError, LcodecError, UsageError

if TYPE_CHECKING:
    from lcodec.bench.schema import Results, Row

NOTE_EVERY_S = 30.0


@click.command("bench")
@click.argument("inputs", nargs=-1, metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="OUT", help="Folder [default: bench-DIR].")
@click.option("--models", default="all", show_default=True, metavar="LIST", help="Names, files, all or none.")
@click.option("-q", "--qualities", metavar="LIST", help="Of our models: 1-8, or 1,2.5,4 [default: all whole ones].")
@click.option(
    "--codecs",
    default="jpeg,webp,avif,jxl",
    show_default=True,
    metavar="LIST",
    help="Others: jpeg2000, bpg, x265, vtm, compressai, FILE.toml, all or none, too.",
)
@click.option("--metrics", metavar="LIST", help="Of psnr, psnr-yuv, ms-ssim, ssimulacra2 [default: all].")
@click.option("--anchor", metavar="NAME", help="What BD-rates are against [default: jpeg-444].")
@click.option("--published", multiple=True, metavar="JSON[:NAMES]", help="Curves to overlay, in CompressAI's form.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, help="Other codecs at once; these get no times.")
@click.option("--speed/--no-speed", default=True, show_default=True, help="Time codecs and measure memory at the end.")
@click.option(
    "--pictures",
    type=click.IntRange(min=0),
    default=24,
    show_default=True,
    metavar="N",
    help="Images with pictures in report.html, the first ones.",
)
@click.option("--compare", is_flag=True, help="Two results.json (or their folders) instead of DIR: what changed.")
@click.option(
    "--threshold",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="PERCENT",
    help="With --compare: more bits than that is an error.",
)
@click.option(
    "--speed-threshold",
    type=click.FloatRange(min=0),
    metavar="PERCENT",
    help="With --compare: slower than that is an error, too.",
)
@options.device
@options.threads
@options.quiet
@options.debug
@click.pass_context
def command(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    output: Path | None,
    models: str,
    qualities: str | None,
    codecs: str,
    metrics: str | None,
    anchor: str | None,
    published: tuple[str, ...],
    jobs: int,
    speed: bool,
    pictures: int,
    compare: bool,
    threshold: float,
    speed_threshold: float | None,
    device: str,
    threads: int | None,
    quiet: bool,
) -> None:
    """Measure models and other codecs on the images of a folder, through real files.

    \b
    lcodec bench kodak/                        all shipped models, JPEG, WebP, AVIF, JPEG XL
    lcodec bench kodak/ --models mine.safetensors --codecs avif --anchor avif
    lcodec bench --compare before/ after/      exit code 1 if anything got worse

    OUT gets results.csv, results.json, rd.svg, rd.png, report.html and every compressed file. The same command goes on
    where it was broken off.
    """
    if compare:
        if len(inputs) != 2:
            raise UsageError("--compare takes two results of lcodec bench")
        compare_runs(inputs[0], inputs[1], threshold, speed_threshold)
        return
    if len(inputs) != 1:
        raise UsageError("give one folder of images", hint="lcodec bench kodak/")
    results = measure(
        folder=inputs[0],
        out=output or Path(f"bench-{inputs[0].resolve().name}"),
        models=split(models),
        qualities=None if qualities is None else read_qualities(qualities),
        codecs=split(codecs),
        metrics=None if metrics is None else split(metrics),
        anchor=anchor,
        published=published,
        jobs=jobs,
        speed=speed,
        pictures=pictures,
        device=device,
        threads=threads,
        quiet=quiet,
    )
    if results["skipped"]:
        ctx.exit(InputError.exit_code)
    if any(row["error"] for row in results["rows"]):
        ctx.exit(LcodecError.exit_code)


def split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def read_qualities(text: str) -> tuple[float, ...]:
    """ "1-8" or "1,2.5,4", also mixed -> ascending. Raises UsageError."""
    found: set[float] = set()
    try:
        for item in split(text):
            first, dash, last = item.partition("-")
            if dash and first:
                low, high = int(first), int(last)
                if low > high:
                    raise ValueError
                found.update(map(float, range(low, high + 1)))
            else:
                found.add(float(item))
    except ValueError:
        raise UsageError(f"-q takes numbers and ranges like 1-8 or 1,2.5,4, not {text}") from None
    outside = [q for q in found if not 0 <= q < 16]
    if outside or not found:
        raise UsageError(f"no model has quality {outside[0]:g}" if outside else "-q names no quality")
    return tuple(sorted(found))


def measure(
    *,
    folder: Path,
    out: Path,
    models: list[str],
    qualities: tuple[float, ...] | None,
    codecs: list[str],
    metrics: list[str] | None,
    anchor: str | None,
    published: tuple[str, ...],
    jobs: int,
    speed: bool,
    pictures: int,
    device: str,
    threads: int | None,
    quiet: bool,
) -> Results:
    """Check everything that can be checked before anything is measured; then measure, and print the table."""
    from lcodec.bench import table
    from lcodec.bench.learned import find_models, model_coders
    from lcodec.bench.registry import find_codecs
    from lcodec.bench.run import Listener, Settings, run
    from lcodec.bench.summary import read_published

    check_bd_rates()
    chosen_metrics = choose_metrics(metrics)
    found = find_models(models)
    overlays = [pair for text in published for pair in read_published(*split_published(text))]
    from lcodec.cores import available_cores
    from lcodec.transforms import choose_device

    choose_device(device)
    threads = threads or available_cores()
    coders = [*model_coders(found, qualities, device, threads, note), *find_codecs(codecs, found, threads)]
    names = [coder.name for coder in coders if not coder.missing]
    if doubled := next((n for n in names if names.count(n) > 1), None):
        raise UsageError(f"a model and another codec are both called {doubled}")
    if not names:
        reasons = "; ".join(f"{c.label}: {c.missing}" for c in coders)
        raise UsageError("nothing to measure" + (f": {reasons}" if reasons else ""))
    settings = Settings(
        folder=folder,
        out=out,
        coders=coders,
        metrics=chosen_metrics,
        anchor=choose_anchor(anchor, names),
        threads=threads,
        device=device,
        jobs=jobs,
        speed=speed,
        pictures=pictures,
        published=overlays,
        command=" ".join(["lcodec", *map(shlex.quote, sys.argv[1:])]),
    )
    with Follower(quiet) as follower:
        listener = Listener(note=lambda text: None if quiet else note(text), warn=warn, step=follower.step)
        results = run(settings, listener)
    if not quiet:
        click.echo(printable("\n".join(table.summary_lines(results))))
        click.echo(f"everything is in {out}", err=True)
    return results


def split_published(text: str) -> tuple[Path, list[str]]:
    """ "curves.json:vtm,mbt2018" -> the file and the names; a file whose name has a colon is taken as it is."""
    path, colon, names = text.rpartition(":")
    return (Path(path), split(names)) if colon and not Path(text).exists() else (Path(text), [])


def choose_metrics(wanted: list[str] | None) -> list[str]:
    """Names of the schema. Raises UsageError for one that is unknown, or asked for and not there."""
    from lcodec.bench import metrics

    names = wanted if wanted is not None else list(metrics.CHOICES)
    found: list[str] = []
    for name in names:
        if name.replace("_", "-") not in metrics.CHOICES:
            raise UsageError(f"no metric {name}", hint=f"known: {', '.join(metrics.CHOICES)}")
        for metric in metrics.CHOICES[name.replace("_", "-")]:
            reason = metrics.missing(metric)
            if reason and wanted is not None:
                raise UsageError(f"metric {name} is missing: {reason}", hint="pip install scipy pytorch-msssim")
            if reason:
                warn(f"metric {metric} is left out: {reason}")
            else:
                found.append(metric)
    if not found:
        raise UsageError("--metrics names none")
    return [m for m in metrics.DIGITS if m in found]


def check_bd_rates() -> None:
    """Raises UsageError where there is not what they need."""
    from lcodec.bench import bdrate

    if reason := bdrate.missing():
        raise UsageError(f"no BD-rates here: {reason}", hint="pip install scipy pytorch-msssim")


def choose_anchor(wanted: str | None, names: list[str]) -> str:
    if wanted is None:
        return "jpeg-444" if "jpeg-444" in names else names[0]
    from lcodec.bench.registry import ALIASES

    for name in (wanted, *ALIASES.get(wanted, ())):
        if name in names:
            return name
    raise UsageError(f"the anchor {wanted} is not among what is measured", hint=f"it is one of {', '.join(names)}")


class Follower:
    """A bar for a terminal's user, and a line now and then for a log."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Progress | None = None
        self._step: Any = None
        self._begun = self._said = time.monotonic()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(*exc)
            self._bar = None

    def step(self, done: int, total: int, row: Row | None) -> None:
        if row is not None and row["error"]:
            warn(f"{row['codec']} q {row['quality']:g} on {row['image']}: {row['error']}")
        if self._quiet or not total:
            return
        if row is None:
            self._bar = Progress(total, "measuring")
            self._step = self._bar.__enter__()
            return
        self._step()
        if not sys.stderr.isatty() and time.monotonic() - self._said > NOTE_EVERY_S:
            self._said = time.monotonic()
            left = (self._said - self._begun) / done * (total - done)
            note(f"{done} of {total} rows, about {max(left / 60, 1):.0f} min to go")
        if done == total:
            self.__exit__(None, None, None)


def compare_runs(a: Path, b: Path, threshold: float, speed_threshold: float | None) -> None:
    """Print what changed. Raises LcodecError if anything got worse by more than the threshold."""
    from lcodec.bench import store
    from lcodec.bench.compare import compare

    check_bd_rates()
    found = compare(store.load(a), store.load(b), threshold, speed_threshold)
    for line in found.lines:
        click.echo(printable(line))
    if found.worse:
        raise LcodecError("worse than the threshold allows: " + "; ".join(found.worse))
