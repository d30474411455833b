"""`lcodec version`: the versions that matter in a report of a fault."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from lcodec import __version__
from lcodec.cli import options


@click.command("version")
@options.debug
def command() -> None:
    """Show the version of lcodec and of what it stands on."""
    click.echo(f"lcodec {__version__}")
    click.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in ("torch", "numpy", "pillow"):
        try:
            click.echo(f"{name} {version(name)}")
        except PackageNotFoundError:
            click.echo(f"{name} is missing")
