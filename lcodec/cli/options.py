"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from lcodec.cli.report import DEBUG

F = TypeVar("F", bound=Callable[..., Any])


def _remember_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.meta[DEBUG] = value


debug = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show where an error came from.",
)
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where the networks run; the latents are the same everywhere.",
)
threads = click.option(
    "--threads", type=click.IntRange(1, 1024), metavar="N", help="CPU threads [default: all]."
)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object per file on stdout.")
force = click.option("--force", is_flag=True, help="Overwrite what exists.")
quiet = click.option("--quiet", is_flag=True, help="Say nothing but errors.")
verbose = click.option("-v", "--verbose", is_flag=True, help="Say more about each file.")


def coding(function: F) -> F:
    """The options of both encode and decode, in the order of their help."""
    for option in (debug, verbose, quiet, force, as_json, threads, device):
        function = option(function)
    return function


def target(function: F) -> F:
    """What an encoder may aim at instead of a quality."""
    for option in (
        click.option("--target-psnr", type=float, metavar="DB", help="Least quality with this PSNR, RGB of 8 bits."),
        click.option("--target-bpp", type=float, metavar="BPP", help="Best quality within these bits per pixel."),
        click.option("--target-size", metavar="SIZE", help="Best quality within a file of 200kB, 1.5MiB, ..."),
    ):
        function = option(function)
    return function
