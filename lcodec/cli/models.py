"""`lcodec models`: which models there are, what they are, whether they are whole; to fetch and to remove them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lcodec.cli import files, options
from lcodec.cli.report import DEBUG, complain, print_json, printable_line, warn
from lcodec.errors import ModelError, UsageError

if TYPE_CHECKING:
    from lcodec.weights import ModelInfo
    from lcodec.zoo.rates import Curve

# in modules of their own, loaded when they are called
ELSEWHERE = {name: f"lcodec.cli.{name}" for name in ("show", "pull", "remove", "export")}


class Subcommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ELSEWHERE:
            command: click.Command = import_module(ELSEWHERE[cmd_name]).command
            return command
        return super().get_command(ctx, cmd_name)


@click.group("models", cls=Subcommands, invoke_without_command=True)
@options.as_json
@options.debug
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the models that encode and decode find by name, with their rate and quality.

    \b
    lcodec models                       the list
    lcodec models show mbt2018-mean     all that is known about one
    lcodec models verify --all          checksums, tables and proofs
    lcodec models pull mbt2018 -q 4     one of CompressAI's

    They are looked for in the folders that $LCODEC_MODELS names, among those that came with lcodec, and in
    ~/.cache/lcodec/models ($XDG_CACHE_HOME).
    """
    if ctx.invoked_subcommand is None:
        list_models(as_json)
    elif as_json:
        raise UsageError(f"--json belongs behind {ctx.invoked_subcommand}")


@command.command("list")
@options.as_json
@options.debug
def list_command(as_json: bool) -> None:
    """List the models, as without a subcommand."""
    list_models(as_json)


def list_models(as_json: bool) -> None:
    from lcodec import weights
    from lcodec.zoo import rates

    found = weights.list_models()
    measured = {k: v for folder in reversed(weights.search_path()) for k, v in rates.curves(folder).items()}
    if as_json:
        for model in found:
            print_json({**describe(model), "rates": as_records(curve_of(model, measured))})
        return
    places = ", ".join(str(place) for place in weights.search_path())
    if not found:
        warn(f"no models in {places}")
        return
    width = max(len(model.name) for model in found)
    for model in found:
        mark = "*" if model.name == weights.DEFAULT_MODEL else " "
        click.echo(
            printable_line(
                f"{mark} {model.name:{width}}  {model.id[:16]}  {files.describe_size(model.size_bytes):>8}  "
                f"{model.architecture}, {describe_qualities(model.qualities)}"
            )
        )
        curve = curve_of(model, measured)
        for line in filter(None, (model.summary, curve.summary() if curve else "")):
            click.echo(printable_line(f"  {'':{width}}  {line}"))
    click.echo(printable_line(f"* is the default; looked for in {places}"))


def describe(model: ModelInfo) -> dict[str, Any]:
    from lcodec import weights

    return {
        "name": model.name,
        "path": str(model.path),
        "id": model.id,
        "architecture": model.architecture,
        "qualities": list(model.qualities),
        "bytes": model.size_bytes,
        "shares_with": model.base.id if model.base else None,
        "summary": model.summary,
        "default": model.name == weights.DEFAULT_MODEL,
    }


def describe_qualities(qualities: tuple[float, ...]) -> str:
    low, high = min(qualities), max(qualities)
    return "one quality" if low == high else f"qualities {low:g} to {high:g}"


def curve_of(model: ModelInfo, measured: dict[str, Curve]) -> Curve | None:
    """What was measured on real files, else what finalize measured."""
    from lcodec.zoo import rates

    return measured.get(model.id[: rates.ID_DIGITS]) or rates.of_card(model.card)


def as_records(curve: Curve | None) -> dict[str, Any] | None:
    if curve is None:
        return None
    points = [point._asdict() for point in curve.points]
    return {"images": curve.images, "points": points, "bd_rate_jpeg_444_percent": curve.bd_rate}


@command.command("verify", short_help="Check models for damage.")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--all", "everything", is_flag=True, help="Every file where models are looked for.")
@options.quiet
@options.as_json
@options.debug
@click.pass_context
def verify_command(ctx: click.Context, names: tuple[str, ...], everything: bool, quiet: bool, as_json: bool) -> None:
    """Check model files: the id over their whole content, the tensors of their network, their tables, the proofs that
    no integer sum can overflow, and that latents come back as they were coded.

    Each damaged one is named, and the exit code is 5.
    """
    from lcodec.zoo.verify import SUM_MAX, verify

    codes = []
    for path in _paths(names, everything):
        try:
            done = verify(path)
        except ModelError as error:
            codes.append(complain(error, name=str(path), debug=bool(ctx.meta.get(DEBUG))))
            if as_json:
                print_json({"path": str(path), "ok": False, "error": str(error)})
            continue
        if as_json:
            print_json(
                {
                    "path": str(path),
                    "ok": True,
                    "name": done.name,
                    "id": done.id,
                    "tensors": done.tensors,
                    "tables": done.tables,
                    "layers": done.layers,
                    "bound": done.bound,
                }
            )
        elif not quiet:
            layers = (
                f"{done.layers} integer layers, sums <= {done.bound / SUM_MAX:.1%} of int32"
                if done.layers
                else ("no integer layers")
            )
            counts = f"{done.tensors} tensors, {done.tables} tables"
            click.echo(printable_line(f"{path}: good: id {done.id[:16]}, {counts}, {layers}"))
    if codes:
        ctx.exit(codes[0])


def _paths(names: Sequence[str], everything: bool) -> list[Path]:
    from lcodec import weights

    if everything == bool(names):
        raise UsageError("verify needs either names of models or --all")
    if everything:
        found = weights.model_files()
        if not found:
            raise ModelError("no models in " + ", ".join(str(place) for place in weights.search_path()))
        return found
    # A damaged file is found by its name, too, which `find` passes over.
    by_name = {path.name.removesuffix(weights.SUFFIX): path for path in reversed(weights.model_files())}
    return [by_name[name] if name in by_name else weights.find(name) for name in names]
