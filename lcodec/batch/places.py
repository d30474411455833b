"""Where files are: on this machine, or in a store that fsspec reaches, such as s3://bucket/key."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from lcodec.errors import InputError, LcodecError, OutputError, OutputExists, UsageError

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)  # at least two letters: c:// is a drive of Windows
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs"}


def is_url(text: str) -> bool:
    """Whether it names a place in a store and not one in the file system."""
    return _URL.match(text) is not None


@dataclass(frozen=True)
class Remote:
    """A file or folder in a store, with as much of pathlib's interface as both kinds of places need.

    A write is one request, so that the file appears whole or not at all as far as the store keeps that (S3 does).
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(self.url.split("://", 1)[1])

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def suffix(self) -> str:
        return self._path.suffix

    def with_suffix(self, suffix: str) -> Remote:
        return Remote(f"{self.url.split('://', 1)[0]}://{self._path.with_suffix(suffix)}")

    def __truediv__(self, relative: str | os.PathLike[str]) -> Remote:
        return Remote(f"{self.url.rstrip('/')}/{Path(relative).as_posix()}")

    def read_bytes(self) -> bytes:
        """All bytes. Raises InputError."""
        fs, path = _open_store(self.url)
        try:
            return bytes(fs.cat_file(path))
        except Exception as error:  # each store has its own
            raise InputError(f"cannot read {self.url}: {_reason(error)}") from error

    def exists(self) -> bool:
        """Whether there is a file of this name. Raises OutputError."""
        fs, path = _open_store(self.url)
        try:
            return bool(fs.exists(path))
        except Exception as error:
            raise OutputError(f"cannot look for {self.url}: {_reason(error)}") from error

    def write_bytes(self, data: bytes, overwrite: bool = False) -> None:
        """Raises OutputError if it exists and `overwrite` is false, and when the store refuses."""
        fs, path = _open_store(self.url)
        try:
            if not _is_object_store(fs):
                fs.makedirs(posixpath.dirname(path), exist_ok=True)
            fs.pipe_file(path, data, mode="overwrite" if overwrite else "create")
        except FileExistsError:
            raise OutputExists(f"{self.url} exists", hint="--force overwrites it") from None
        except Exception as error:
            raise OutputError(f"cannot write {self.url}: {_reason(error)}") from error

    def walk(self, on_error: Callable[[Remote, OSError], None]) -> Iterator[Remote]:
        """All files below, folder by folder, each in the order of names; not in hidden folders. Raises InputError.

        on_error: told of folders that cannot be listed, but for those that are not there.
        """
        fs, root = _open_store(self.url)
        try:
            for path in _files_below(fs, root, lambda folder, error: on_error(self._below(root, folder), error)):
                yield self._below(root, path)
        except Exception as error:
            raise InputError(f"cannot list {self.url}: {_reason(error)}") from error

    def match(self, pattern: str) -> Iterator[Remote]:
        """The files below that fit a pattern, in the order of names. Raises InputError."""
        fs, root = _open_store(self.url)
        try:
            found = sorted(fs.glob(f"{root}/{pattern}", detail=True).items())
        except Exception as error:
            raise InputError(f"cannot list {self.url}: {_reason(error)}") from error
        yield from (self._below(root, path) for path, info in found if info["type"] == "file")

    def _below(self, root: str, path: str) -> Remote:
        """The place of a path that the store lists below this one, which it calls `root`."""
        return self / path.removeprefix(root).lstrip("/")


def _files_below(fs: Any, folder: str, on_error: Callable[[str, OSError], None]) -> Iterator[str]:
    """What `fs.walk` would find, which leaves out in silence what it may not list, but not in hidden folders."""
    try:
        found = sorted((info["name"].rstrip("/"), info["type"]) for info in fs.ls(folder, detail=True))
    except FileNotFoundError:
        return
    except OSError as error:
        on_error(folder, error)
        return
    inside = [(name, kind) for name, kind in found if name != folder.rstrip("/")]
    yield from (name for name, kind in inside if kind != "directory")
    for name, kind in inside:
        if kind == "directory" and not posixpath.basename(name).startswith("."):
            yield from _files_below(fs, name, on_error)


Place = Path | Remote


@lru_cache(maxsize=64)
def _store(protocol: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        packages = " ".join(filter(None, ("fsspec", _PACKAGES.get(protocol))))
        raise UsageError(f"{protocol}:// needs fsspec", hint=f"pip install {packages}") from error
    try:
        return fsspec.filesystem(protocol)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        hint = f"pip install {package}" if package else None
        raise UsageError(f"{protocol}:// cannot be reached: {_reason(error)}", hint=hint) from error
    except ValueError as error:
        raise UsageError(f"no kind of store is called {protocol}://") from error
    except Exception as error:
        raise LcodecError(f"{protocol}:// cannot be reached: {_reason(error)}") from error


def _open_store(url: str) -> tuple[Any, str]:
    fs = _store(url.split("://", 1)[0].lower())
    return fs, str(fs._strip_protocol(url))


def _is_object_store(fs: Any) -> bool:
    """Whether folders are only a way to read names, so that none has to be made."""
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return protocol in ("s3", "s3a", "gs", "gcs", "abfs", "az")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((text or type(error).__name__).split()).lower()
