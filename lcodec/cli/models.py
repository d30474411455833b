"""`lcodec models`: which models there are and where they are looked for."""

from __future__ import annotations

import click

from lcodec.cli import files, options
from lcodec.cli.report import print_json, warn


@click.command("models", short_help="List the models.")
@options.as_json
@options.debug
def command(as_json: bool) -> None:
    """List the models that encode and decode find by name."""
    from lcodec import weights

    found = weights.list_models()
    if as_json:
        for model in found:
            print_json(
                {
                    "name": model.name,
                    "path": str(model.path),
                    "id": model.id,
                    "architecture": model.architecture,
                    "qualities": list(model.qualities),
                    "bytes": model.size_bytes,
                    "summary": model.summary,
                    "default": model.name == weights.DEFAULT_MODEL,
                }
            )
        return
    places = ", ".join(str(place) for place in weights.search_path())
    if not found:
        warn(f"no models in {places}")
        return
    width = max(len(model.name) for model in found)
    for model in found:
        mark = "*" if model.name == weights.DEFAULT_MODEL else " "
        click.echo(
            f"{mark} {model.name:{width}}  {model.id[:16]}  {files.describe_size(model.size_bytes):>8}  "
            f"{model.architecture}, {describe_qualities(model.qualities)}"
        )
        if model.summary:
            click.echo(f"  {'':{width}}  {model.summary}")
    click.echo(f"* is the default; looked for in {places}")


def describe_qualities(qualities: tuple[float, ...]) -> str:
    low, high = min(qualities), max(qualities)
    return "one quality" if low == high else f"qualities {low:g} to {high:g}"
