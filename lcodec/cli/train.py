"""`lcodec train`: photographs to a checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lcodec import weights
from lcodec.cli import options, recipe
from lcodec.cli.report import note, print_json, print_text, warn
from lcodec.errors import ModelError, UsageError

if TYPE_CHECKING:
    from lcodec.train.initialize import Source

RESTART_S = 30.0  # how long a run that goes on waits for the process before it to be gone
DEFAULT_QUALITIES = "1,2,3,4,5,6,7,8"


LEAST_KEPT_PX = 512  # a side of what stays in memory of an image that does not fit whole


@click.command("train")
@recipe.option
@click.option("--model", "architecture", required=True, metavar="NAME", help="Architecture, e.g. mbt2018-mean.")
@click.option(
    "--data",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder tree of photographs, or .pack file; repeat for several.",
)
@click.option("--valid", multiple=True, type=click.Path(path_type=Path), help="The same, to measure progress on.")
@click.option("--valid-images", type=click.IntRange(min=1), metavar="N", help="Of those, so many [default: all].")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of this run.")
@click.option("-N", "N", type=int, default=96, show_default=True, help="Hidden channels.")
@click.option("-M", "M", type=int, help="Latent channels [default: 320; 192 up to q 5; at least N].")
@click.option(
    "-q",
    "--qualities",
    help=f"Qualities that the model serves; one alone trains a model of one rate.  [default: {DEFAULT_QUALITIES}]",
)
@click.option("--metric", type=click.Choice(["mse", "ms-ssim"]), default="mse", show_default=True, help="Distortion.")
@click.option(
    "--lambda",
    "lmbda",
    type=float,
    default=0.0,
    help="Weight of the distortion in a model of one rate [default: CompressAI's for -q and the metric].",
)
@click.option("--steps", type=int, default=0, help="Length of the run in steps.")
@click.option("--hours", type=float, default=0.0, help="Length of the run in hours of training.")
@click.option("--batch", type=int, default=8, show_default=True, help="Crops a step, over all processes.")
@click.option("--crop", type=int, default=128, show_default=True, help="Side of a crop in pixels.")
@click.option(
    "--optimizer", type=click.Choice(["adamw", "muon", "soap"]), default="adamw", show_default=True, help="Method."
)
@click.option("--lr", type=float, default=4e-4, show_default=True, help="Peak learning rate.")
@click.option("--warmup", type=int, default=200, show_default=True, help="Steps of warm-up.")
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "plateau", "constant"]),
    default="cosine",
    show_default=True,
    help="What the learning rate does after the warm-up; constant runs can be resumed with more steps.",
)
@click.option(
    "--decay", type=float, default=0.0, metavar="SHARE", help="Last part of the run, with a fall to zero, e.g. 0.3."
)
@click.option("--patience", type=int, default=3, show_default=True, help="Validations that make a plateau.")
@click.option("--clip", type=float, default=1.0, show_default=True, help="Limit of the gradient's norm.")
@click.option(
    "--rate-balance",
    type=click.FloatRange(0, 1),
    default=0.4,
    show_default=True,
    help="Losses are weighted by lambda to minus that: 0 lets high qualities decide, 1 low ones.",
)
@click.option("--ema", type=float, default=0.999, show_default=True, help="Decay of the averaged weights.")
@click.option("--mode", type=click.Choice(["ste", "noise"]), default="ste", show_default=True, help="Quantisation.")
@click.option(
    "--context-passes",
    type=int,
    default=2,
    show_default=True,
    help="How often a context network runs over a crop, with --mode ste; more is nearer to the coder, and slower.",
)
@click.option(
    "--likelihood",
    type=click.Choice(["gaussian", "mixture"]),
    default="gaussian",
    show_default=True,
    help="Of latents, given their scale; mixture is what finalize's tables hold, and slower.",
)
@click.option("--amp", type=click.Choice(["bf16", "off"]), default="bf16", show_default=True, help="Precision.")
@click.option("--compile", is_flag=True, help="Compile the step with torch.compile; for GPUs.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@options.threads
@click.option(
    "--workers", type=click.IntRange(0, 256), default=1, show_default=True, help="Threads that prepare batches."
)
@click.option(
    "--init",
    multiple=True,
    metavar="MODEL[:GLOB,…]",
    help="Model, by name or file, or checkpoint to begin with, as far as it fits; or some of its parameters alone, "
    "'mine.pt:g_*,log_*'. Repeat for several, a later one goes over those before. --resume has no use for it.",
)
@click.option("--freeze", multiple=True, metavar="GLOB", help="Parameters to keep, e.g. 'g_*'; repeat for several.")
@click.option(
    "--cache-gib",
    type=click.FloatRange(min=0),
    default=8.0,
    show_default=True,
    help="Memory for decoded images, of all processes on this machine; of more, parts are kept.",
)
@click.option(
    "--resume",
    type=click.Choice(["yes", "auto"]),
    is_flag=False,
    flag_value="yes",
    help="Go on with the run in --out; auto: if there is one.",
)
@click.option("--save-minutes", type=float, default=5.0, show_default=True, help="Time between checkpoints.")
@click.option("--valid-minutes", type=float, default=20.0, show_default=True, help="Time between validations.")
@click.option("--valid-steps", type=click.IntRange(min=0), default=0, help="Steps between them instead.")
@options.as_json
@options.debug
def command(
    data: tuple[Path, ...],
    valid: tuple[Path, ...],
    valid_images: int | None,
    out: Path,
    qualities: str | None,
    threads: int | None,
    workers: int,
    cache_gib: float,
    init: tuple[str, ...],
    resume: str | None,
    save_minutes: float,
    valid_minutes: float,
    valid_steps: int,
    as_json: bool,
    amp: str,
    M: int | None,
    **settings: Any,
) -> None:
    """Train a model; Ctrl-C saves and stops, --resume goes on. torchrun makes it many processes.

    \b
    lcodec train --recipe lc-s --data photos/ --valid held-out/ --out runs/mine
    lcodec train --model mbt2018-mean --data photos.pack --out runs/mine --hours 2
    torchrun --nproc-per-node 4 -m lcodec train --recipe lc-s --batch 64 --data photos.pack --out runs/mine
    lcodec finalize runs/mine/checkpoint.pt --calibration photos/ -o mine.safetensors
    """
    # What is said here is said instead of what a recipe has for it under another name.
    if _said("hours") and not _said("steps"):
        settings["steps"] = 0
    elif _said("steps") and not _said("hours"):
        settings["hours"] = 0.0
    if _said("lmbda") and not _said("qualities"):
        qualities = None
    levels = _levels(qualities, settings["lmbda"])
    for name, places in (("--data", data), ("--valid", valid)):
        for place in places:
            if not (os.path.isdir(place) or os.path.isfile(place)):
                raise UsageError(f"{name} {place} is not a folder or a pack")

    import torch

    from lcodec.nets import ARCHITECTURES, default_latents
    from lcodec.train.data import Photographs
    from lcodec.train.lock import check_free
    from lcodec.train.loop import Options, Trainer
    from lcodec.train.memory import keep_freed
    from lcodec.train.parallel import joined
    from lcodec.train.start import check_place, checkpoint_path
    from lcodec.transforms import choose_device

    if settings["architecture"] not in ARCHITECTURES:
        raise UsageError(
            f"unknown architecture {settings['architecture']!r}", "known: " + ", ".join(ARCHITECTURES)
        )
    device = str(choose_device(settings.pop("device")))
    if threads:
        torch.set_num_threads(threads)
    keep_freed()
    if M is None:
        M = default_latents(settings["N"], levels)
    again = resume == "yes"
    if os.environ.get("RANK", "0") == "0":  # the others need not see it
        again = resume == "yes" or (resume == "auto" and os.path.exists(checkpoint_path(out)))
        check_free(out, RESTART_S if resume else 0)  # before what takes long
        check_place(out, again)
    with joined(device) as (ranks, own_device):
        tell = warn if ranks.main else _silent
        chosen = Options(qualities=levels, amp=amp == "bf16", M=M, device=own_device, **settings)
        progress = Progress(as_json, ranks.main)
        limit = int(min(cache_gib * 2**30, sys.maxsize) / int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        # First: few images, of which each is looked at several times. Ranks but the main one do not look at them.
        held_out = Photographs(valid, limit, tell, limit_images=valid_images) if valid and ranks.main else None
        limit -= held_out.cached_bytes if held_out else 0
        photographs = Photographs(data, limit, tell, least_side=max(LEAST_KEPT_PX, 2 * chosen.crop))
        trainer = Trainer(
            chosen,
            photographs,
            held_out,
            out,
            resume=again,
            init=[_source(place) for place in init] if ranks.main and not again else None,
            report=progress.show,
            workers=workers,
            ranks=ranks,
            stepped=progress.step,
        )
        progress.trainer = trainer
        if ranks.main and not as_json and not trainer.journal.knows_board:
            note(f"tensorboard is not installed, the curves are in {trainer.journal.path} alone")
        for taken in trainer.taken if ranks.main and not as_json else ():
            note("{} of {} tensors begin as in {}".format(*taken))
        with progress:
            trainer.run(save_minutes=save_minutes, valid_minutes=valid_minutes, valid_steps=valid_steps)
    if not ranks.main:
        return
    if trainer.journal.lost is not None:
        raise trainer.journal.lost
    state = "stopped" if trainer.stopped else "finished"
    if as_json:
        seconds = round(trainer.seconds, 3)
        print_json({"state": state, "step": trainer.step, "seconds": seconds, "checkpoint": str(trainer.path)})
        return
    click.echo(f"{state} after {trainer.step} steps, {trainer.seconds / 3600:.2f} h: {trainer.path}")


def _source(init: str) -> Source:
    """A file, or a model by its name, after a colon what to take of it. Raises ModelError, UsageError."""
    from lcodec.train.initialize import Source

    name, colon, layers = init.rpartition(":")
    if not colon or os.path.isfile(init):
        name, layers = init, ""
    elif not name or not all(layers.split(",")):
        raise UsageError(f"--init {init!r} names no parameters after its colon", "for example mine.pt:g_*,log_*")
    path = Path(name)
    if not path.is_file():  # a run's folder may be called as a model is
        try:
            path = weights.find(name)
        except ModelError:
            if not path.suffix:
                raise
    return Source(path, tuple(layers.split(",")) if layers else ())


def _said(parameter: str) -> bool:
    """Whether an option stands on the command line (or in its environment variable), not in a recipe."""
    said = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    return click.get_current_context().get_parameter_source(parameter) in said


def _levels(qualities: str | None, lmbda: float) -> tuple[float, ...]:
    """The qualities of the network; (0.0,), one rate without a name, for a lambda alone."""
    if qualities is None and lmbda:
        return (0.0,)
    try:
        return tuple(float(q) for q in (qualities or DEFAULT_QUALITIES).split(","))
    except ValueError:
        raise UsageError(f"qualities {qualities!r} are not numbers with commas between them") from None


def _silent(message: str) -> None:
    """For the ranks whose warnings rank 0 gives as well."""


class Progress:
    """A bar on a terminal, a line every so often elsewhere, JSON rows where asked for, on rank 0."""

    def __init__(self, as_json: bool, active: bool = True) -> None:
        self.as_json = as_json
        self.active = active
        self.trainer: Any = None
        self.bar: Any = None
        self.said = ""  # what the last row said

    def __enter__(self) -> Progress:
        if self.active and not self.as_json and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self.bar = RichProgress(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True))
            self.task = self.bar.add_task("starting", total=1.0, completed=self.trainer.progress())
            self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self) -> None:
        """Between the rows of training, which are many steps apart, the bar at least moves."""
        if self.bar is not None:
            text = f"step {self.trainer.step}  {self.said}"
            self.bar.update(self.task, completed=self.trainer.progress(), description=text)

    def show(self, row: dict[str, Any]) -> None:
        if not self.active:
            return
        if self.as_json:
            print_json({"step": getattr(self.trainer, "step", 0), **row})
            return
        if "warning" in row:
            warn(row["warning"])
            return
        lasting = "valid" in row
        text = valid_line(row) if lasting else step_line(row)
        if self.bar is not None and not lasting:
            self.said = text
            self.step()
            return
        if not lasting:
            text = f"step {self.trainer.step}  {text}"
        if self.bar is None:
            print_text(text)
        else:
            self.bar.console.print(text)


def step_line(row: dict[str, Any]) -> str:
    """What a row of training says on a terminal, behind the number of the step."""
    parts = [f"loss {row['loss']:.3f}", f"{row['bpp']:.3f} bpp"]
    if "psnr" in row:
        parts.append(f"{row['psnr']:.2f} dB")
    if "ms_ssim" in row:
        parts.append(f"MS-SSIM {row['ms_ssim']:.4f}")
    parts.append(f"{row['images_per_s']:.3g} images/s")
    parts.append(f"{duration(row['left_s'])} left")
    if row["time"]:
        parts.append(" ".join(f"{name} {share:.0%}" for name, share in row["time"].items()))
    if row.get("skipped"):
        parts.append(f"{row['skipped']} steps skipped")
    return "  ".join(parts)


def valid_line(row: dict[str, Any]) -> str:
    """What a validation says: bpp, dB and what the integer model adds to the rate, for each quality."""
    parts = ["valid:"]
    for r in row["valid"]:
        level = f"{r['ms_ssim']:.4f}" if "ms_ssim" in r else f"{r['psnr']:.2f}"
        integer = f" {r['integer_percent']:+.2f}%" if "integer_percent" in r else ""
        parts.append(f"q{r['quality']:g} {r['bpp']:.3f}/{level}{integer}")
    if "integer_error" in row:
        parts.append(f"(cannot be finalized yet: {row['integer_error']})")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """7380 -> 2:03 h, 95 -> 2 min"""
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02} h" if minutes >= 60 else f"{minutes} min"
