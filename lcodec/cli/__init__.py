"""The command line: commands that are loaded when they are called, and the one place where errors end.

Each command is `command` in the module of its name. None of them imports torch before it has work for it.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

from lcodec import __version__
from lcodec.cli.memory import restart_with_huge_pages
from lcodec.cli.report import DEBUG, complain
from lcodec.stdout import stdout_failed

# What the list of commands says about each: to ask the modules would take longer than all else that --help does.
COMMANDS = {
    "encode": "Encode images as .lic files.",
    "decode": "Decode .lic files to images.",
    "info": "Show what .lic files hold.",
    "models": "List, show, verify, pull, export, remove models.",
    "bench": "Measure models beside JPEG, WebP, AVIF, JPEG XL.",
    "train": "Train a model on photographs.",
    "pack": "Put all images of a folder into one file for training.",
    "finalize": "Make a model file of a checkpoint.",
    "completion": "Print the completion script of a shell.",
    "version": "Show versions.",
}
INTERRUPTED = 130
TERMINATED = 143


class Commands(click.Group):
    """Loads a command's module at its first use and turns every error into one line and its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"lcodec.cli.{cmd_name}").command
        command.short_help = COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here a broken pipe can still be caught, at exit no more
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click itself is silent about a broken pipe
        except OSError as error:
            if _stdout_works():
                ctx.exit(complain(error, debug=ctx.meta.get(DEBUG, False)))
            raise
        except Exception as error:
            ctx.exit(complain(error, debug=ctx.meta.get(DEBUG, False)))

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        run: Callable[[], Any] = partial(super().main, *args, standalone_mode=False, **kwargs)
        if not standalone_mode:
            return run()
        try:
            code = run()
        except click.ClickException as error:
            code = complain(error)
        except BrokenPipeError:
            raise
        except OSError as error:
            code = complain(stdout_failed(error))
        except click.Abort:
            click.echo("lcodec: interrupted", err=True)
            code = INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)


@click.command(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="lcodec", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A learned image codec: files that decode to the same latents on every device."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Entry point of the `lcodec` command."""
    if sys.argv[1:2] == ["train"]:
        restart_with_huge_pages()
    signal.signal(signal.SIGTERM, _terminate)
    _repair_streams()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged images; what matters of it we say ourselves
    cli.main(prog_name="lcodec")


def _repair_streams() -> None:
    """Streams that the caller has closed lead nowhere, and none fails on a name that its encoding cannot show."""
    # In this order, so that none gets the number of another, and what is opened later the number of none.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stdout_works() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    # An exception, not a death: what is half written gets removed.
    raise SystemExit(TERMINATED)
