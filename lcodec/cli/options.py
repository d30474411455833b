"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lcodec.cli.report import DEBUG
from lcodec.errors import UsageError

if TYPE_CHECKING:
    from lcodec.limits import Limits

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


# click would ask by itself whether files can be read, of outputs too, and end it all where one cannot.
PATH = click.Path(readable=False)


def _remember_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.meta[DEBUG] = value or ctx.meta.get(DEBUG, False)  # perhaps said before the subcommand


def not_empty(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Callback of options that name something. Raises UsageError for an empty name, which stands for no default."""
    if value == "":
        raise UsageError(f"{param.opts[0]} names nothing", hint="an unset variable of the shell, perhaps")
    return value


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
    help="Where the networks run, auto: CUDA (or ROCm) where there is one; the latents are the same everywhere.",
)
threads = click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="CPU threads [default: all].")
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object per file on stdout.")
force = click.option("--force", is_flag=True, help="Overwrite what exists.")
quiet = click.option("--quiet", is_flag=True, help="Say nothing but errors.")
verbose = click.option("-v", "--verbose", is_flag=True, help="Say more about each file.")


def limits(function: F) -> F:
    """What files may ask for: values `limit` and `limit_pixels`, for `limits_of`."""
    for option in (
        click.option(
            "--limit",
            multiple=True,
            metavar="NAME=VALUE",
            help="Refuse what asks for more: pixels, memory, seconds, metadata, ratio; none for no limit. "
            "Also in $LCODEC_LIMITS.",
        ),
        click.option("--limit-pixels", type=click.IntRange(1), metavar="N", help="Refuse larger images."),
    ):
        function = option(function)
    return function


def limits_of(settings: Iterable[str], pixels: int | None) -> Limits:
    """Raises UsageError for a setting that cannot be read."""
    from lcodec.limits import Limits

    found = Limits.from_environment().changed(settings)
    return found if pixels is None else replace(found, pixels=pixels)


def coding(function: F) -> F:
    """The options of both encode and decode that say how each file is coded, in the order of their help."""
    for option in (debug, verbose, quiet, force, as_json, threads, device):
        function = option(function)
    return function


def target(function: F) -> F:
    """What an encoder may aim at instead of a quality."""
    for option in (
        click.option("--target-psnr", type=float, metavar="DB", help="Least quality with this PSNR of what is seen."),
        click.option("--target-bpp", type=float, metavar="BPP", help="Best quality within these bits per pixel."),
        click.option("--target-size", metavar="SIZE", help="Best quality within a file of 200kB, 1.5MiB, ..."),
    ):
        function = option(function)
    return function


def many(function: F) -> F:
    """The options of both encode and decode for many files: those of `files.Batch`."""
    for option in (
        click.option(
            "--ray",
            metavar="ADDRESS|local",
            callback=not_empty,
            help="Work on a Ray cluster (pip install ray): host:port, auto for the running one, or one made here.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(1, 1024),
            metavar="N",
            help="Files at once [default: one a core]; with --ray workers [default: one a GPU or eight cores].",
        ),
        click.option("--keep-suffix", is_flag=True, help="a.png becomes a.png.lic, beside that of a.jpg."),
        click.option("--skip-existing", is_flag=True, help="Leave out what has its output already."),
        click.option("--out-dir", metavar="DIR", help="Like -o DIR/: takes the structure below the inputs."),
    ):
        function = option(function)
    return function


def take(kind: type[T], values: Mapping[str, Any]) -> T:
    """An instance of a dataclass whose fields are named like the options."""
    return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})  # type: ignore[arg-type]
