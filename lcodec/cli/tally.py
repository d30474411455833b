"""What is told at the end of a batch: its failures, its totals."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import click

from lcodec.batch.lanes import Record, StopBatch
from lcodec.batch.plan import Job
from lcodec.cli.report import Complaint, say


@dataclass(frozen=True)
class Failure:
    """A file that failed; name is None where it was the whole batch."""

    name: str | None
    complaint: Complaint
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return self.complaint.exit_code

    def as_json(self) -> dict[str, Any]:
        return {"error": self.complaint.message, "exit_code": self.exit_code, **self.details}


@dataclass
class Tally:
    """Adds up what became of `total` files."""

    total: int
    debug: bool = False
    failures: list[Failure] = field(default_factory=list)
    done: int = 0
    skipped: int = 0
    pixels: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    _start: float = field(default_factory=time.perf_counter)

    def add(self, job: Job, outcome: Record | Exception | None) -> None:
        """Count a record, an error, or None for a file that was left out."""
        if isinstance(outcome, Exception):
            name, error = (None, outcome.cause) if isinstance(outcome, StopBatch) else (job.source.name, outcome)
            if self.debug:
                traceback.print_exception(error)
            self.failures.append(Failure(name, Complaint.about(error), getattr(error, "details", {})))
        elif outcome is None:
            self.skipped += 1
        else:
            self.done += 1
            self.pixels += outcome.get("width", 0) * outcome.get("height", 0)
            self.input_bytes += outcome.get("input_bytes") or 0
            self.output_bytes += outcome.get("output_bytes") or outcome.get("bytes") or 0

    def tell(self, *, quiet: bool, as_json: bool, interrupted: bool = False, resumable: bool = False) -> None:
        """The failures, one line each and each hint once, then the totals: on stdout, with `as_json` on stderr.

        resumable: whether --skip-existing goes on after an interruption.
        """
        hints: set[str | None] = set()
        for failure in self.failures:
            failure.complaint.tell(failure.name, hint=failure.complaint.hint not in hints)
            hints.add(failure.complaint.hint)
        if self.total < 2 or (quiet and not self.failures):
            return
        if self.pixels and not quiet and not interrupted:
            click.echo(f"total: {self._totals()}", err=as_json)
        line = f"{self.done} of {self.total} files done"
        line += f", {self.skipped} skipped" if self.skipped else ""
        line += f", {len(self.failures)} failed" if self.failures else ""
        line += "; --skip-existing goes on from here" if interrupted and resumable and self.done else ""
        say(line)

    def _totals(self) -> str:
        seconds = time.perf_counter() - self._start
        megapixels = self.pixels / 1e6
        ratio = describe_ratio(self.input_bytes, self.output_bytes, digits=2)
        return (
            f"{megapixels:.1f} MP, {describe_size(self.input_bytes)} -> {describe_size(self.output_bytes)} "
            f"({ratio}), {seconds:.1f} s, {megapixels / seconds:.2f} MP/s"
        )


def describe_size(size: int) -> str:
    """Bytes for people: 532 B, 24.3 kB, 1.20 MB (powers of 1000)."""
    if size < 1000:
        return f"{size} B"
    if size < 1_000_000:
        return f"{size / 1000:.1f} kB"
    return f"{size / 1_000_000:.2f} MB"


def describe_ratio(before: int, after: int, *, digits: int) -> str:
    """What became of a size, for people: 12.5x smaller, 1.1x larger."""
    before, after = max(before, 1), max(after, 1)
    return f"{before / after:.{digits}f}x smaller" if after <= before else f"{after / before:.{digits}f}x larger"


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    """Times in seconds, to a tenth of a millisecond, for JSON."""
    return {key: round(value, 4) for key, value in seconds.items()}
