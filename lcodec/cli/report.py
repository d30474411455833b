"""What the commands say, and where: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import Any, Protocol

import click

from lcodec.errors import LcodecError
from lcodec.finite import finite
from lcodec.stdout import stdout_failed

DEBUG = "lcodec.debug"  # key in click's Context.meta
PROGRESS_AFTER_S = 1.0


@dataclass(frozen=True)
class Complaint:
    """What is said about an error. Holds no traceback, which would keep alive what the failed work held."""

    message: str
    hint: str | None
    exit_code: int

    @classmethod
    def about(cls, error: Exception) -> Complaint:
        return cls(*_describe(error))

    def tell(self, name: str | None = None, *, hint: bool = True) -> None:
        """Print it, and its hint, on stderr; name: the file at fault, unless the message has it."""
        in_front = f"{name}: " if name and name not in self.message else ""
        _to_stderr(f"lcodec: error: {in_front}{self.message}")
        if hint and self.hint:
            _to_stderr(f"lcodec: hint: {self.hint}")


def complain(error: Exception, *, name: str | None = None, debug: bool = False) -> int:
    """Print an error (and its hint) on stderr and return the exit code that it stands for.

    name: the file at fault, put in front where the message does not have it yet.
    """
    if debug:
        traceback.print_exception(error)
    complaint = Complaint.about(error)
    complaint.tell(name)
    return complaint.exit_code


def describe(error: Exception) -> str:
    """The message of an error without its hint, on one line."""
    return Complaint.about(error).message


def warn(message: str) -> None:
    _to_stderr(f"lcodec: warning: {message}")


def note(message: str) -> None:
    _to_stderr(f"lcodec: note: {_one_line(message)}")


def say(message: str) -> None:
    """A line on stderr that is neither warning nor error."""
    _to_stderr(f"lcodec: {message}")


def _to_stderr(text: str) -> None:
    print(printable_line(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """What a terminal can be shown: control characters and undecodable bytes, as in file names, are spelled out."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c) & 0xFFFF:02x}" for c in text)


def printable_line(text: str) -> str:
    """The same on one line: what a name or a file says of itself can begin no line that looks like ours."""
    return printable(text).replace("\n", "\\x0a")


def print_json(record: dict[str, Any], file: Any = None) -> None:
    """One JSON object on a line of its own, there at once for whoever reads along. Raises OutputError."""
    print_text(json.dumps(finite(record), allow_nan=False), file)


def print_text(text: str, file: Any = None) -> None:
    """Raises OutputError."""
    try:
        print(text, file=file, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise stdout_failed(error) from error


def _describe(error: Exception) -> tuple[str, str | None, int]:
    if isinstance(error, LcodecError):
        return _one_line(str(error)), error.hint, error.exit_code
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path} --help" if context else None
        message = _one_line(error.format_message()).rstrip(".")
        return message[:1].lower() + message[1:], hint, error.exit_code
    if isinstance(error, MemoryError):
        return "out of memory", None, LcodecError.exit_code
    message = _one_line(f"{type(error).__name__}: {error}")
    return f"internal error: {message}", "--debug shows where", LcodecError.exit_code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def print_result(line: str, record: dict[str, Any], *, verbose: bool, to_stderr: bool) -> None:
    """The line about a coded file, with `verbose` followed by details of its record."""
    lines = [line]
    if verbose:
        lines.append(f"  model {record['model']} ({record['model_id'][:16]}), quality {record['quality']:g}")
        lines.append("  " + ", ".join(f"{key} {value:.3f} s" for key, value in record["seconds"].items()))
        if "digest" in record:
            lines.append(f"  latents {record['digest']}")
    print_text("\n".join(map(printable_line, lines)), sys.stderr if to_stderr else sys.stdout)


class Step(Protocol):
    """A piece of work is done."""

    def __call__(self, *, failed: bool = False) -> None: ...


class Progress:
    """A bar on stderr for a terminal's user, which appears only once the work has taken a second.

    Use as a context manager; `step` after each piece of work.
    """

    def __init__(self, total: int, label: str, enabled: bool = True) -> None:
        self._total, self._label = total, label
        self._done = self._failed = 0
        self._bar: Any = None
        self._task: Any = None
        self._lock = threading.Lock()
        self._closed = False
        enabled = enabled and sys.stderr.isatty()
        self._timer = threading.Timer(PROGRESS_AFTER_S, self._show) if enabled else None

    def __enter__(self) -> Step:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self.step

    def __exit__(self, *_exc: object) -> None:
        with self._lock:
            self._closed = True
            if self._timer:
                self._timer.cancel()
            if self._bar:
                self._bar.stop()

    def step(self, *, failed: bool = False) -> None:
        with self._lock:
            self._done += 1
            self._failed += failed
            if self._bar:
                self._bar.update(self._task, completed=self._done, description=self._description)

    @property
    def _description(self) -> str:
        return f"{self._label}, {self._failed} failed" if self._failed else self._label

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        with self._lock:
            if self._closed:
                return
            # stdout may be a file that wants its lines for itself: rich may take it over only on a terminal.
            self._bar = Bar(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._task = self._bar.add_task(self._description, total=self._total, completed=self._done)
            self._bar.start()
