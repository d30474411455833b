"""`lcodec models remove`: models that lcodec fetched or made itself."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lcodec.cli import files, options
from lcodec.cli.replaced import left_alone
from lcodec.cli.report import note, print_json, printable
from lcodec.errors import ModelError, OutputError, UsageError


@click.command("remove", short_help="Remove models from the user's folder.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@options.as_json
@options.debug
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove models, by name or id, from the folder in which lcodec keeps what it has fetched or made itself.

    Models that came with the package, and those in other folders, stay.
    """
    from lcodec import weights

    own = weights.cache_folder()

    def place(path: Path) -> Path:
        """One path for each file of that folder, however the search path spells it; a link in it stays a link."""
        return own / path.name if path.parent.resolve() == own.resolve() else path

    candidates = list(dict.fromkeys(path for path in map(place, weights.model_files()) if path.parent == own))
    chosen: list[Path] = []
    for name in dict.fromkeys(names):
        paths = [path for path in candidates if path.name.removesuffix(weights.SUFFIX) == name]
        if not paths:
            elsewhere = place(weights.find(name))  # ModelError where there is none at all
            paths = [path for path in candidates if path == elsewhere]
        if not paths:
            raise ModelError(
                f"{name} is not removed: {elsewhere} is not in {own}",
                "it came with the package" if elsewhere.parent == weights.shipped_folder() else "remove it by hand",
            )
        chosen += (path for path in paths if path not in chosen)
    for path in left_alone(chosen):
        note(f"{path} shares tensors with what is removed: it will need another copy of that")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to be asked", "--yes removes without asking")
        total = files.describe_size(sum(path.stat().st_size for path in chosen))
        question = f"remove {', '.join(map(str, chosen))} ({total})? Files made with them will not decode any more"
        if not click.confirm(printable(question), err=True):
            note("nothing is removed")
            ctx.exit(1)
    for path in chosen:
        try:
            path.unlink()
        except OSError as e:
            raise OutputError(f"cannot remove {path}: {(e.strerror or str(e)).lower()}") from e
        if as_json:
            print_json({"removed": str(path)})
        else:
            click.echo(printable(f"{path} removed"))
