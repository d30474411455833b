"""From the arguments of a command to pairs of files, and the loop that works through them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from lcodec.cli.report import DEBUG, Progress, complain, describe, print_json
from lcodec.errors import InputError, OutputError, UsageError

STREAM = "-"  # stdin or stdout


@dataclass(frozen=True)
class Source:
    """An input: its path (None for stdin), and where it lies below the folder that was given, if one was."""

    path: Path | None
    relative: Path

    @property
    def name(self) -> str:
        return "stdin" if self.path is None else str(self.path)

    def read(self) -> bytes:
        """All bytes. Raises InputError."""
        if self.path is None:
            return sys.stdin.buffer.read()
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {(error.strerror or str(error)).lower()}") from error


@dataclass(frozen=True)
class Job:
    """An input and its output, None for stdout; `make_folder` if the output's folder need not exist."""

    source: Source
    target: Path | None
    make_folder: bool = False

    @property
    def target_name(self) -> str:
        return "stdout" if self.target is None else str(self.target)


def find_sources(inputs: Sequence[str], suffixes: Collection[str], what: str) -> list[Source]:
    """Files as they are, folders searched through for `suffixes`, "-" as stdin; each file once.

    what: what is searched for, in the plural, for messages. Raises InputError for a folder without any,
    UsageError when stdin is a terminal or mixed with files.
    """
    if STREAM in inputs and len(inputs) > 1:
        raise UsageError("- (stdin) cannot be combined with other inputs")
    sources: dict[str, Source] = {}
    for text in inputs:
        if text == STREAM:
            if sys.stdin.isatty():
                raise UsageError("stdin is a terminal", hint=f"pipe {what} in or name a file")
            return [Source(None, Path("stdin"))]
        path = Path(text)
        if os.path.isdir(path):
            found = _search(path, suffixes)
            if not found:
                endings = " ".join(sorted(suffixes))
                raise InputError(
                    f"no {what} in folder {path}", hint=f"looked for names that end in {endings}"
                )
            pairs = [(file, file.relative_to(path)) for file in found]
        else:
            pairs = [(path, Path(path.name))]
        for file, relative in pairs:
            sources.setdefault(os.path.realpath(file), Source(file, relative))
    return list(sources.values())


def _search(folder: Path, suffixes: Collection[str]) -> list[Path]:
    found = [p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith(".")]
    return sorted(p for p in found if p.is_file())


def plan(sources: Sequence[Source], inputs: Sequence[str], output: str | None, suffix: str) -> list[Job]:
    """Decide where each output goes.

    Without `output` it goes beside its input, with `suffix` for ending (stdin: to stdout). "-" is stdout. For
    several inputs or a folder `output` is a folder, in which the structure below a given folder is kept.
    Raises UsageError when two inputs would get the same output, when several would go to stdout, or one to a
    terminal; OutputError when `output` is a file but has to be a folder.
    """
    many = len(sources) > 1 or any(os.path.isdir(text) for text in inputs if text != STREAM)
    if output is None:
        jobs = [Job(s, None if s.path is None else s.path.with_suffix(suffix)) for s in sources]
    elif output == STREAM:
        if len(sources) > 1:
            raise UsageError("several outputs cannot all go to stdout", hint="-o FOLDER/ takes them")
        jobs = [Job(sources[0], None)]
    elif many or output.endswith(("/", os.sep)) or os.path.isdir(output):
        folder = Path(output)
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise OutputError(f"{output} is a file, and several outputs need a folder")
        jobs = [Job(s, folder / s.relative.with_suffix(suffix), make_folder=True) for s in sources]
    else:
        jobs = [Job(sources[0], Path(output))]
    if any(job.target is None for job in jobs) and sys.stdout.isatty():
        raise UsageError(
            "binary data is not written to a terminal", hint="redirect it, or name a file with -o"
        )
    _refuse_collisions(jobs)
    return jobs


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    taken: dict[str, Job] = {}
    for job in jobs:
        if job.target is None:
            continue
        other = taken.setdefault(os.path.realpath(job.target), job)
        if other is not job:
            raise UsageError(
                f"{other.source.name} and {job.source.name} would both become {job.target}",
                hint="encode or decode them one at a time with -o FILE",
            )


def refuse_target(job: Job, sources: Sequence[Source], force: bool) -> None:
    """Raise OutputError when the target is an input, or exists without `force`; cheap, so asked first."""
    target = job.target
    if target is None or not os.path.exists(target):  # unlike Path.exists false for a name that is too long, say
        return
    if any(s.path is not None and os.path.exists(s.path) and s.path.samefile(target) for s in sources):
        raise OutputError(f"{target} is an input", hint="choose another name with -o")
    if target.is_dir():
        raise OutputError(f"{target} is a folder")
    if target.is_file() and not force:
        raise OutputError(f"{target} exists", hint="--force overwrites it")


def is_special(path: Path) -> bool:
    """Whether it is a device or a pipe, whose name says nothing about a format."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def write(job: Job, data: bytes, force: bool) -> None:
    """Put `data` where the job says, whole or not at all. Raises OutputError."""
    if job.target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    from lcodec.atomic import write_atomically

    if job.make_folder:
        try:
            job.target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OutputError(f"cannot make folder {job.target.parent}: {reason}") from error
    write_atomically(job.target, data, overwrite=force)


def run_jobs(
    jobs: Sequence[Job], work: Callable[[Job], None], *, label: str, quiet: bool, as_json: bool
) -> None:
    """Do `work` for each job. One that fails is reported and the others go on.

    Leaves with the exit code of the first failure. With `as_json` a failure is a line on stdout too.
    """
    ctx = click.get_current_context()
    debug = bool(ctx.meta.get(DEBUG, False))
    codes: list[int] = []
    with Progress(len(jobs), label, enabled=not quiet) as step:
        for job in jobs:
            try:
                work(job)
            except BrokenPipeError:
                raise
            except Exception as error:
                codes.append(complain(error, name=job.source.name, debug=debug))
                if as_json:
                    record = {"input": job.source.name, "error": describe(error), "exit_code": codes[-1]}
                    print_json(record | getattr(error, "details", {}))
            step()
    if len(jobs) > 1 and (codes or not quiet):
        done = len(jobs) - len(codes)
        click.echo(
            f"lcodec: {done} of {len(jobs)} files done" + (f", {len(codes)} failed" if codes else ""),
            err=True,
        )
    if codes:
        ctx.exit(codes[0])


def describe_size(size: int) -> str:
    """Bytes for people: 532 B, 24.3 kB, 1.20 MB (powers of 1000)."""
    if size < 1000:
        return f"{size} B"
    if size < 1_000_000:
        return f"{size / 1000:.1f} kB"
    return f"{size / 1_000_000:.2f} MB"


def rounded(seconds: dict[str, float]) -> dict[str, Any]:
    """Times in seconds, to a tenth of a millisecond, for JSON."""
    return {key: round(value, 4) for key, value in seconds.items()}
