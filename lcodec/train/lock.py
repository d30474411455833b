"""One process at a time trains in a folder."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import BinaryIO

from lcodec.errors import UsageError

NAME = ".lock"
PAUSE_S = 0.5

try:
    import fcntl
except ImportError:  # not there on Windows, where nobody is kept out
    fcntl = None  # type: ignore[assignment]


class RunLock:
    """Held from `claim` until `release`, or until the process ends in whatever way.

    The lock is on a file of its own, which is left lying: on some network shares nobody reads or writes a locked one.
    It is one of POSIX: children do not inherit it, network file systems know it, and within a process it does nothing.
    Where files cannot be locked or written, there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: BinaryIO | None = None

    def claim(self, wait_s: float = 0.0) -> None:
        """Raises UsageError if another process has it, after so many seconds: one that was told to stop still saves."""
        if fcntl is None or self._file is not None:
            return
        end = time.monotonic() + wait_s
        try:
            self._file = open(self.folder / NAME, "ab")  # noqa: SIM115  # as long as the lock is held
        except OSError:
            return
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except (BlockingIOError, PermissionError):  # POSIX lets systems choose between the two
                if time.monotonic() >= end:
                    self.release()
                    hint = f"SIGTERM ends it, with its state saved; or choose another --out ({NAME} there is locked)"
                    raise UsageError(f"another process trains in {self.folder}", hint) from None
                time.sleep(PAUSE_S)
            except OSError:
                return

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def check_free(folder: Path, wait_s: float = 0.0) -> None:
    """Raise UsageError if another process trains in a folder, before anything is done; see `RunLock.claim`."""
    if os.path.exists(folder / NAME):  # also false where one may not look
        lock = RunLock(folder)
        lock.claim(wait_s)
        lock.release()
