"""Output files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from lcodec.errors import OutputError

# What link(2) answers on file systems without hard links (FAT, some network mounts).
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_atomically(path: str | os.PathLike[str], data: bytes, overwrite: bool = False) -> None:
    """Write `data` under a temporary name in the folder of `path`, then give it its name in one step.

    A symbolic link is followed; a device or a pipe is written directly, for there is nothing to rename.
    Nothing is left behind on any error, Ctrl-C included. Raises OutputError when the file exists and
    `overwrite` is false, even if it has appeared only meanwhile, and when the operating system refuses.
    """
    try:
        _write(Path(os.path.realpath(path)), data, overwrite)
    except FileExistsError:
        raise OutputError(f"{os.fspath(path)} exists", hint="--force overwrites it") from None
    except FileNotFoundError:
        folder = os.path.dirname(os.fspath(path)) or "."
        raise OutputError(f"cannot write {os.fspath(path)}: no folder {folder}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write {os.fspath(path)}: {reason}") from error


def _write(path: Path, data: bytes, overwrite: bool) -> None:
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        with open(path, "wb") as file:
            file.write(data)
        return
    if mode is not None and not overwrite:
        raise FileExistsError(path)
    # The name is cut so that the addition does not push it over the usual limit of 255 bytes.
    temporary = path.with_name(f".{path.name[:60]}.{secrets.token_hex(6)}.tmp")
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
        )
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _rename_new(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


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
