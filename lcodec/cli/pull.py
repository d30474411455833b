"""`lcodec models pull`: pretrained models of the CompressAI zoo."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from lcodec.cli import files, options
from lcodec.cli.report import DEBUG, complain, describe, note, print_json, printable
from lcodec.errors import LcodecError, OutputError, UsageError


@click.command("pull", short_help="Fetch a model of the CompressAI zoo.")
@click.argument("name", required=False)
@click.option("-q", "--quality", metavar="Q", help="Of an architecture: 4, 1,4, 1-4 or all.")
@click.option("--metric", type=click.Choice(["mse", "ms-ssim"]), help="What it was trained for [default: mse].")
@click.option("--url", help="Folder of a mirror, with the zoo's file names [default: the zoo itself].")
@click.option("--keep-checkpoint", is_flag=True, help="Keep the fetched file beside the models.")
@click.option("--list", "listing", is_flag=True, help="Name every model that can be fetched.")
@options.force
@options.quiet
@options.as_json
@options.debug
@click.pass_context
def command(
    ctx: click.Context,
    name: str | None,
    quality: str | None,
    metric: str | None,
    url: str | None,
    keep_checkpoint: bool,
    listing: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fetch checkpoints of the CompressAI zoo, check their hashes and make models of them.

    \b
    lcodec models pull mbt2018-mean -q 4
    lcodec encode photo.png --model mbt2018-mean-q4-mse

    An interrupted transfer goes on where it stopped.
    """
    from lcodec.zoo import catalog

    if listing:
        for entry in catalog.CATALOG:
            if as_json:
                print_json({"name": entry.name, "file": entry.file, "sha256_prefix": entry.sha256_prefix})
            else:
                click.echo(f"{entry.name:32} {entry.file}")
        return
    if name is None:
        raise UsageError("pull needs the name of a model", "lcodec models pull --list names them all")
    if quality is None and all(entry.name != name for entry in catalog.CATALOG):
        catalog.select(name, None, metric)  # an unknown name is the graver mistake
        raise UsageError(f"{name} comes in several qualities", "choose with -q 4, -q 1-4 or -q all")
    wanted = catalog.select(name, None if quality is None else catalog.parse_qualities(quality), metric)

    from lcodec.cli.replaced import before
    from lcodec.weights import is_whole
    from lcodec.zoo.pull import model_path, pull

    codes: list[int] = []
    for entry in wanted:
        there = before(model_path(entry))
        if len(wanted) > 1 and not force and is_whole(model_path(entry)):
            there_already(entry.name, str(model_path(entry)), quiet, as_json)
            continue
        began = time.monotonic()
        bar = Bar(entry.file, enabled=not quiet)
        try:
            with bar:
                done = pull(
                    entry,
                    url=url or catalog.BASE_URL,
                    keep_checkpoint=keep_checkpoint,
                    overwrite=force,
                    progress=bar.progress,
                    finalizing=bar.finalizing,
                )
        except LcodecError as error:
            if len(wanted) > 1 and not force and isinstance(error, OutputError) and is_whole(model_path(entry)):
                there_already(entry.name, str(model_path(entry)), quiet, as_json)  # by another process, meanwhile
                continue
            codes.append(complain(error, name=entry.name, debug=bool(ctx.meta.get(DEBUG))))
            if as_json:
                print_json({"name": entry.name, "error": describe(error), "exit_code": codes[-1]})
            if isinstance(error, OutputError):
                break  # what holds for one file holds for the next
            continue
        there.tell(done.id)
        record = {
            "name": entry.name,
            "path": str(done.path),
            "id": done.id,
            "checkpoint_sha256": done.sha256,
            "checkpoint": None if done.checkpoint is None else str(done.checkpoint),
            "downloaded": done.downloaded,
            "seconds": round(time.monotonic() - began, 2),
        }
        if as_json:
            print_json(record)
        elif not quiet:
            size = files.describe_size(done.path.stat().st_size)
            click.echo(printable(f"{entry.name}: id {done.id[:16]}, {size}, {done.path}"))
    if codes:
        ctx.exit(codes[0])


def there_already(name: str, path: str, quiet: bool, as_json: bool) -> None:
    """Of several, one that is there is no error."""
    if as_json:
        print_json({"name": name, "path": path, "downloaded": False})
    elif not quiet:
        note(f"{name} is there already")


class Bar:
    """Bytes, speed and time left on a terminal; a line for each of the two parts elsewhere."""

    def __init__(self, label: str, enabled: bool) -> None:
        self._label, self._enabled = label, enabled
        self._bar: Any = None
        self._task: Any = None
        self._begun = False

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def progress(self, done: int, total: int | None) -> None:
        if not self._enabled:
            return
        if not sys.stderr.isatty():
            if not self._begun:
                size = "" if total is None else f", {files.describe_size(total)}"
                where = f", from byte {done} on" if done else ""
                note(f"fetching {self._label}{size}{where}")
            self._begun = True
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._label, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)

    def finalizing(self) -> None:
        self.__exit__()
        if self._enabled:
            note(f"finalizing {self._label}")
