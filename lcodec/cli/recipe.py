"""Recipes: options of a command in a TOML file, under the names that they have on the command line.

    model = "lc-s"
    N = 192
    crop = 256
    lambda = 0.013

What the command line says is stronger.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lcodec import weights
from lcodec.errors import UsageError

FOLDER = "recipes"  # of the shipped ones, among the models
SUFFIX = ".toml"


def find(name: str) -> Path:
    """A file, or a shipped recipe by its name. Raises UsageError."""
    path = Path(name)
    if path.is_file():
        return path
    folder = weights.shipped_folder() / FOLDER
    shipped = folder / f"{name}{SUFFIX}"
    if name == path.name and shipped.is_file():
        return shipped
    known = ", ".join(sorted(p.stem for p in folder.glob(f"*{SUFFIX}")))
    raise UsageError(f"no recipe {name}", f"shipped are {known}" if known else None)


def read(path: Path, command: click.Command) -> dict[str, Any]:
    """The recipe's settings by the names of the command's parameters. Raises UsageError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:  # TOML and UTF-8 errors are ValueErrors
        raise UsageError(f"cannot read recipe {path}: {e}") from e
    names = {opt.lstrip("-"): p.name for p in command.params for opt in p.opts if p.name not in ("recipe", "help")}
    chosen: dict[str, Any] = {}
    for key, value in settings.items():
        name = names.get(key.replace("_", "-"))
        if name is None:
            raise UsageError(f"{path}: {command.name} has no option {key!r}")
        if isinstance(value, dict):
            raise UsageError(f"{path}: {key} is a table, not a value")
        if isinstance(value, bool) and (said := _flag_value(command, name)):  # an option that may have a value
            if not value:
                continue
            value = said
        if _multiple(command, name):
            value = value if isinstance(value, list) else [value]
        elif isinstance(value, list):
            value = ",".join(str(v) for v in value)
        chosen[name] = value
    return chosen


def _multiple(command: click.Command, name: str) -> bool:
    return any(p.name == name and getattr(p, "multiple", False) for p in command.params)


def _flag_value(command: click.Command, name: str) -> str | None:
    """What an option stands for that may have a value and has none."""
    found = next(p for p in command.params if p.name == name)
    value = getattr(found, "flag_value", None)
    return value if isinstance(value, str) and not getattr(found, "is_flag", False) else None


def _apply(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.default_map = {**(ctx.default_map or {}), **read(find(value), ctx.command)}


option = click.option(
    "--recipe",
    metavar="NAME",
    is_eager=True,  # before the options that it has defaults for
    expose_value=False,
    callback=_apply,
    help="A shipped recipe or a TOML file with options; the command line overrides it.",
)
