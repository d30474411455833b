"""Output files that appear whole or not at all.

The bytes go to a hidden name in the same folder, `.NAME.RANDOM.tmp`, which gets its real name in one step when they are
on the disk. Whoever writes such a file holds a lock on it, which the system gives up for a process that dies: one that
can be locked was left behind, by kill -9 or a power cut, and `remove_stale` removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from lcodec.errors import OutputError, OutputExists

_lock: Callable[[int, bool], None] | None
try:
    import fcntl
except ImportError:  # not there on Windows
    _lock = None
else:

    def _lock(descriptor: int, wait: bool) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


# What link(2) answers on file systems without hard links (FAT, some network mounts).
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp", re.DOTALL)
WAITING_HINT = "TMPDIR names another folder for what waits there"
_NAME_BYTES = 200  # of the real name in a temporary one, which must not exceed the usual limit of 255


def write_atomically(path: str | os.PathLike[str], data: bytes, overwrite: bool = False) -> None:
    """Write `data` as a whole file; like `open_atomically` in everything else."""
    with open_atomically(path, overwrite) as file:
        file.write(data)


def waiting_file() -> BinaryIO:
    """A nameless file for what does not fit into memory, in $TMPDIR, else in /var/tmp: /tmp may be memory itself."""
    import tempfile  # rarely needed, and with it come many

    asked = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    folder = "/var/tmp"
    usual = None if asked or not os.path.isdir(folder) or not os.access(folder, os.W_OK) else folder
    file: BinaryIO = tempfile.TemporaryFile(prefix="lcodec-", dir=usual)  # noqa: SIM115
    return file


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write to, which appears as `path` when the block ends without an error.

    A file that is overwritten leaves its permissions to the new one. A symbolic link is followed; a device or a pipe is
    written directly, for there is nothing to rename.
    Nothing is left behind on any error, Ctrl-C included. Raises OutputError when the file exists and
    `overwrite` is false, even if it has appeared only meanwhile, and when the operating system refuses; an OSError
    inside of the block counts as that.
    """
    try:
        mode = _mode(Path(path))
        if mode is not None and not stat.S_ISREG(mode):
            # under its own name: that of a pipe behind /dev/stdout leads nowhere
            with open(path, "wb") as file:
                yield file
        else:
            yield from _open(Path(os.path.realpath(path)), mode, overwrite)
    except FileExistsError:
        raise OutputExists(f"{os.fspath(path)} exists", hint="--force overwrites it") from None
    except FileNotFoundError:
        folder = os.path.dirname(os.fspath(path)) or "."
        reason = "no such file" if os.path.isdir(folder) else f"no folder {folder}"
        raise OutputError(f"cannot write {os.fspath(path)}: {reason}") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write {os.fspath(path)}: {reason}") from error


def remove_stale(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove what killed processes left in a folder, not in those below it; returns what was removed.

    What a living process writes, this one or another, stays. Never raises OSError: it is tidying, no one's purpose.
    """
    removed: list[Path] = []
    if _lock is None:
        return removed
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and _remove_if_stale(entry.path, _lock):
                removed.append(Path(entry.path))
    return removed


def _remove_if_stale(path: str, lock: Callable[[int, bool], None]) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        lock(descriptor, False)
        os.unlink(path)
    except OSError:  # its writer lives, or the file system knows no locks
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _open(path: Path, mode: int | None, overwrite: bool) -> Iterator[BinaryIO]:
    """mode: of the file that is there, None if there is none."""
    if mode is not None and not overwrite:
        raise FileExistsError(path)
    temporary = path  # until it has a name of its own
    name = path.name
    while len(os.fsencode(name)) > _NAME_BYTES:
        name = name[:-1]
    try:
        while True:
            temporary = path.with_name(f".{name}.{os.urandom(6).hex()}.tmp")
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
            )
            with open(descriptor, "wb") as file:
                if not _claim(descriptor):
                    continue
                if mode is not None and hasattr(os, "fchmod"):
                    with contextlib.suppress(OSError):  # a file system without permissions
                        os.fchmod(descriptor, stat.S_IMODE(mode))
                yield file
                file.flush()
                os.fsync(descriptor)
                if overwrite:
                    os.replace(temporary, path)
                else:
                    _rename_new(temporary, path)
                return
    except BaseException:
        if temporary != path:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise


def _claim(descriptor: int) -> bool:
    """Lock a new file; false if `remove_stale` was faster and the file is gone."""
    if _lock is not None:
        with contextlib.suppress(OSError):  # without locks it cannot be told from what is stale, and is left alone
            _lock(descriptor, True)
    return os.fstat(descriptor).st_nlink > 0


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _rename_new(temporary: Path, path: Path) -> None:
    """Rename, but fail with FileExistsError if `path` exists by now; rename(2) alone would overwrite it."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(temporary, path)
    else:
        temporary.unlink()
