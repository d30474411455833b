"""`lcodec train`: a folder of photographs to a checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from lcodec.cli import options
from lcodec.cli.report import print_json, warn
from lcodec.errors import UsageError

DEFAULT_QUALITIES = "1,2,3,4,5,6,7,8"


@click.command("train", short_help="Train a model on a folder of photographs.")
@click.option("--model", "architecture", required=True, metavar="NAME", help="Architecture, e.g. mbt2018-mean.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder tree of photographs.")
@click.option("--valid", type=click.Path(path_type=Path), help="Photographs to measure progress on.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of this run.")
@click.option("-N", "N", type=int, default=96, show_default=True, help="Hidden channels.")
@click.option("-M", "M", type=int, help="Latent channels [default: 2N, N for cheng2020 and lc-s].")
@click.option(
    "-q",
    "--qualities",
    default=DEFAULT_QUALITIES,
    show_default=True,
    help="Qualities that the model serves; one alone trains a model of one rate.",
)
@click.option("--steps", type=int, default=0, help="Length of the run in steps.")
@click.option("--hours", type=float, default=0.0, help="Length of the run in hours of training.")
@click.option("--batch", type=int, default=8, show_default=True, help="Crops a step.")
@click.option("--crop", type=int, default=128, show_default=True, help="Side of a crop in pixels.")
@click.option("--lr", type=float, default=4e-4, show_default=True, help="Peak learning rate.")
@click.option("--warmup", type=int, default=200, show_default=True, help="Steps of warm-up.")
@click.option("--clip", type=float, default=1.0, show_default=True, help="Limit of the gradient's norm.")
@click.option("--ema", type=float, default=0.999, show_default=True, help="Decay of the averaged weights.")
@click.option("--mode", type=click.Choice(["ste", "noise"]), default="ste", show_default=True, help="Quantisation.")
@click.option("--amp", type=click.Choice(["bf16", "off"]), default="bf16", show_default=True, help="Precision.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, mps.")
@options.threads
@click.option("--init", type=click.Path(path_type=Path), help="Checkpoint or model to begin with, as far as it fits.")
@click.option("--freeze", multiple=True, metavar="GLOB", help="Parameters to keep, e.g. 'g_*'; repeat for several.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--save-minutes", type=float, default=5.0, show_default=True, help="Time between checkpoints.")
@click.option("--valid-minutes", type=float, default=20.0, show_default=True, help="Time between validations.")
@options.as_json
@options.debug
def command(
    data: Path,
    valid: Path | None,
    out: Path,
    qualities: str,
    threads: int | None,
    init: Path | None,
    resume: bool,
    save_minutes: float,
    valid_minutes: float,
    as_json: bool,
    amp: str,
    M: int | None,
    **settings: Any,
) -> None:
    """Train a model; Ctrl-C saves and stops, --resume goes on.

    \b
    lcodec train --model mbt2018-mean --data photos/ --out runs/mine --hours 2
    lcodec finalize runs/mine/checkpoint.pt --calibration photos/ -o mine.safetensors
    """
    try:
        levels = tuple(float(q) for q in qualities.split(","))
    except ValueError:
        raise UsageError(f"qualities {qualities!r} are not numbers with commas between them") from None
    for name, folder in (("--data", data), ("--valid", valid)):
        if folder is not None and not os.path.isdir(folder):
            raise UsageError(f"{name} {folder} is not a folder")

    import torch

    from lcodec.codec import choose_device
    from lcodec.nets import ARCHITECTURES
    from lcodec.train.data import Photographs
    from lcodec.train.loop import Options, Trainer

    if settings["architecture"] not in ARCHITECTURES:
        raise UsageError(
            f"unknown architecture {settings['architecture']!r}", "known: " + ", ".join(ARCHITECTURES)
        )
    settings["device"] = str(choose_device(settings["device"]))
    if threads:
        torch.set_num_threads(threads)
    widths = settings["N"] * (2 if ARCHITECTURES[settings["architecture"]].transform == "gdn" else 1)
    chosen = Options(qualities=levels, amp=amp == "bf16", M=M or widths, **settings)
    progress = Progress(as_json)
    trainer = Trainer(
        chosen,
        Photographs(data, warn=warn),
        Photographs(valid, warn=warn) if valid else None,
        out,
        resume=resume,
        init=init,
        report=progress.show,
    )
    progress.trainer = trainer
    with progress:
        trainer.run(save_minutes=save_minutes, valid_minutes=valid_minutes)
    state = "stopped" if trainer.stopped else "finished"
    if as_json:
        seconds = round(trainer.seconds, 3)
        print_json({"state": state, "step": trainer.step, "seconds": seconds, "checkpoint": str(trainer.path)})
        return
    click.echo(f"{state} after {trainer.step} steps, {trainer.seconds / 3600:.2f} h: {trainer.path}")


class Progress:
    """A bar on a terminal, a line every so often elsewhere, JSON rows where asked for."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.trainer: Any = None
        self.bar: Any = None

    def __enter__(self) -> Progress:
        if not self.as_json and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self.bar = RichProgress(
                BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn(), console=Console(stderr=True)
            )
            self.task = self.bar.add_task("starting", total=1.0)
            self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def show(self, row: dict[str, Any]) -> None:
        if self.as_json:
            print_json({"step": self.trainer.step, **row})
            return
        if "valid" in row:
            text = "valid: " + "  ".join(f"q{r['quality']:g} {r['bpp']:.3f}/{r['psnr']:.2f}" for r in row["valid"])
        else:
            text = (
                f"step {self.trainer.step}  loss {row['loss']:.3f}  {row['bpp']:.3f} bpp  "
                + (f"{row['psnr']:.2f} dB  " if "psnr" in row else "")
                + f"{row['images_per_s']:.0f} images/s"
            )
        if self.bar is None:
            click.echo(text)
        elif "valid" in row:
            self.bar.console.print(text)
        else:
            self.bar.update(self.task, completed=row["progress"], description=text)
