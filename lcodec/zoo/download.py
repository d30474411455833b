"""One file over HTTP: goes on where an earlier attempt stopped, and is believed only when its hash fits."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from lcodec import __version__
from lcodec.errors import ModelError, OutputError, UsageError

TIMEOUT_S = 30.0  # without a byte
ATTEMPTS = 4  # in a row that bring next to nothing
PAUSE_S = 1.0  # before the second attempt, doubled each time
WORTHWHILE_BYTES = 1 << 16  # an attempt that brings as much begins a new row
MAX_BYTES = 1 << 30  # several times the largest checkpoint of the zoo: a server cannot fill the disk
BLOCK_BYTES = 1 << 18
MAX_DIGITS = 18  # of a number in a header
PARTIAL = ".part"
SCHEMES = ("http://", "https://", "file://")

Progress = Callable[[int, "int | None"], None]  # bytes that are there, bytes in all if the server says so


class _Broken(Exception):
    """A transfer that ended early, or could not begin for a reason that may pass."""


def sha256(path: Path) -> str:
    """Hex digest of a file. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(
    url: str,
    target: Path,
    sha256_prefix: str,
    *,
    progress: Progress = lambda done, total: None,
    timeout_s: float = TIMEOUT_S,
    pause_s: float = PAUSE_S,
) -> str:
    """Download `url` to `target`, whose folder exists; returns the hex SHA-256, which begins with `sha256_prefix`.

    What an interrupted transfer brought stays in `target`.part and is not asked for again (HTTP Range). A file of
    another content is removed. Raises ModelError when the file cannot be had, OutputError when it cannot be written,
    UsageError for an address of another kind.
    """
    if not url.startswith(SCHEMES):
        raise UsageError(f"cannot fetch {url}", "addresses begin with https://, http:// or file://")
    partial = target.with_name(target.name + PARTIAL)
    try:
        with open(partial, "ab") as out:
            _lock(out, target)
            try:
                transfer = _Transfer(out, url, progress, timeout_s)
                digest = _fetch_checked(transfer, partial, sha256_prefix, pause_s)
                os.fsync(out.fileno())
                os.replace(partial, target)
            finally:
                if os.fstat(out.fileno()).st_size == 0:
                    partial.unlink(missing_ok=True)
    except OSError as e:
        raise OutputError(f"cannot write {partial}: {(e.strerror or str(e)).lower()}") from e
    return digest


def _fetch_checked(transfer: _Transfer, partial: Path, prefix: str, pause_s: float) -> str:
    for first in (True, False):
        _fetch_whole(transfer, pause_s)
        digest = sha256(partial)
        if digest.startswith(prefix):
            return digest
        pieced, transfer.pieced = transfer.pieced, False
        transfer.restart()
        if not (first and pieced):  # pieces of different files perhaps: once more from the beginning
            break
    raise ModelError(
        f"{transfer.url} has another content than expected: SHA-256 {digest[: len(prefix)]}, not {prefix}",
        "nothing of it was kept; another mirror (--url) may have the right one",
    )


def _fetch_whole(transfer: _Transfer, pause_s: float) -> None:
    failures = 0
    while True:
        before = transfer.received
        try:
            transfer.attempt()
            return
        except _Broken as e:
            failures = 1 if transfer.received - before >= WORTHWHILE_BYTES else failures + 1
            kept = transfer.size()
            # Without any answer there is no network, or no such server: waiting would not help.
            if failures >= ATTEMPTS or not transfer.answered:
                hint = f"{kept} bytes are kept, the next try goes on there" if kept else "is there a network?"
                raise ModelError(f"cannot fetch {transfer.url}: {e}", f"{hint}; --url names a mirror") from e
            time.sleep(pause_s * 2 ** (failures - 1))


class _Transfer:
    """Requests for one file, whose bytes are appended to `out`.

    received: bytes over all attempts. answered: whether the server ever did. pieced: whether what is in `out` came in
    more than one piece.
    """

    def __init__(self, out: BinaryIO, url: str, progress: Progress, timeout_s: float) -> None:
        self.out, self.url, self.progress, self.timeout_s = out, url, progress, timeout_s
        self.received = 0
        self.answered = self.pieced = False

    def size(self) -> int:
        self.out.flush()
        return os.fstat(self.out.fileno()).st_size

    def restart(self) -> None:
        self.out.seek(0)
        self.out.truncate()

    def attempt(self) -> None:
        """One request, to its end. Raises _Broken, ModelError, and OSError only for what is wrong with `out`."""
        start = self.size()
        headers = {"User-Agent": f"lcodec/{__version__}", **({"Range": f"bytes={start}-"} if start else {})}
        try:
            response = urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=self.timeout_s)
        except urllib.error.HTTPError as e:
            self.answered = True
            e.close()
            if e.code == 416 and start:  # nothing behind what is there: whole, or of another file, which the hash tells
                self.pieced = True
                return
            problem = f"the server answers {e.code} {e.reason}".strip()
            if e.code in (408, 425, 429) or e.code >= 500:
                raise _Broken(problem) from e
            raise ModelError(f"cannot fetch {self.url}: {problem}", "--url names a mirror") from e
        except (OSError, http.client.HTTPException, ValueError) as e:  # URLError is an OSError
            raise _Broken(_reason(e)) from e
        with response:
            self.answered = True
            self._receive(start, response)
        self.out.flush()

    def _receive(self, start: int, response: Any) -> None:
        if start and not (response.status == 206 and _first_byte(response.headers) == start):
            self.restart()  # the server sends it all again
            start = 0
        self.pieced |= start > 0
        length = _number(response.headers.get("Content-Length") or "")
        total = None if length is None else start + length
        done = start
        while True:
            if max(done, total or 0) > MAX_BYTES:
                self.restart()
                raise ModelError(f"{self.url} has more than {MAX_BYTES} bytes, larger than any model of the zoo")
            self.progress(done, total)
            try:
                block = response.read(BLOCK_BYTES)
            except (OSError, http.client.HTTPException, ValueError) as e:
                raise _Broken(f"after {done} bytes: {_reason(e)}") from e
            if not block:
                break
            self.out.write(block)
            done += len(block)
            self.received += len(block)
        if total is not None and done < total:
            raise _Broken(f"the connection ended after {done} of {total} bytes")


def _first_byte(headers: http.client.HTTPMessage) -> int | None:
    """100 for `Content-Range: bytes 100-199/200`."""
    return _number(headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0])


def _number(text: str) -> int | None:
    """None for what is no number of bytes; int refuses thousands of digits, and nothing is that large."""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    return (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).lower()


def _lock(out: BinaryIO, target: Path) -> None:
    """One process at a time appends; on a system without such locks the hash finds what went wrong."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise ModelError(f"another process is fetching {target.name} already") from e
    except OSError:  # a file system without locks
        return
