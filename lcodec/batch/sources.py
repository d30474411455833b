"""From the arguments of a command to the inputs they stand for, found while the work goes on and not all before it."""

from __future__ import annotations

import errno
import fnmatch
import glob
import mmap
import os
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lcodec.batch.places import Place, Remote, is_url
from lcodec.errors import InputError, UsageError

STREAM = "-"  # stdin or stdout


_START_BYTES = 4096  # which tell what a file is


@dataclass(frozen=True)
class Source:
    """An input: its place (None for stdin), and where it lies below the folder that was given, if one was.

    fault: why it cannot be read, where the search itself met that.
    """

    path: Place | None
    relative: Path
    fault: str | None = None

    @property
    def name(self) -> str:
        return "stdin" if self.path is None else str(self.path)

    def local_or_read(self) -> Path | bytes:
        """The file, where it is one on this machine that can be read more than once; all bytes else. InputError."""
        if self.fault or not isinstance(self.path, Path) or not os.path.isfile(self.path):
            return self.read()
        return self.path

    def mapped(self) -> bytes | memoryview:
        """All bytes; of a file on this machine only those are read that are looked at. Raises InputError."""
        place = self.local_or_read()
        if isinstance(place, bytes):
            return place
        try:
            with open(place, "rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # not readable, or empty
            return self.read()

    def read(self, *, at_most: int = -1, magic: bytes = b"") -> bytes:
        """All bytes; of a local file no more than `at_most`, and of one that does not begin with `magic` only a few.

        Raises InputError.
        """
        if self.fault:
            raise InputError(f"cannot read {self.name}: {self.fault}")
        try:
            if self.path is None:
                return sys.stdin.buffer.read()
            if not isinstance(self.path, Path) or (at_most < 0 and not magic):
                return self.path.read_bytes()
            with open(self.path, "rb") as file:
                if not magic:
                    return file.read(at_most)
                start = file.read(_START_BYTES)
                return start + file.read() if start.startswith(magic) else start
        except OSError as error:
            raise InputError(f"cannot read {self.name}: {(error.strerror or str(error)).lower()}") from error


@dataclass(frozen=True)
class Search:
    """Which files arguments stand for: files as they are, folders and patterns searched for names ending in `suffixes`.

    what: what is searched for, in the plural, for messages. Iterating walks the folders, each time anew: at most the
    names of one folder (or the hits of one pattern) are held. Hidden files and folders are passed over. Links to
    folders are followed, each folder once, but not by ** in a pattern.
    """

    inputs: tuple[str, ...]
    suffixes: frozenset[str]
    what: str

    @classmethod
    def of(cls, inputs: Sequence[str], suffixes: Collection[str], what: str) -> Search:
        """Raises UsageError when stdin is a terminal or mixed with files, or a name is empty."""
        if "" in inputs:
            raise UsageError("the name of an input is empty", hint="an unset variable of the shell, perhaps")
        if STREAM in inputs:
            if len(inputs) > 1:
                raise UsageError("- (stdin) cannot be combined with other inputs")
            if sys.stdin.isatty():
                raise UsageError("stdin is a terminal", hint=f"pipe {what} in or name a file")
        return cls(tuple(inputs), frozenset(suffixes), what)

    @property
    def is_several(self) -> bool:
        """Whether an argument may stand for any number of files."""
        return any(not self._is_plain(text) for text in self.inputs)

    def _is_plain(self, text: str) -> bool:
        """Whether it is one file, whatever its name and whether or not it is there."""
        if text == STREAM:
            return True
        if is_url(text):
            return PurePosixPath(text).suffix.lower() in self.suffixes and not glob.has_magic(text)
        return not os.path.isdir(text) and (os.path.lexists(text) or not glob.has_magic(text))

    def plain(self) -> Iterator[Path]:
        """The files that were named one by one."""
        return (Path(text) for text in self.inputs if text != STREAM and not is_url(text) and self._is_plain(text))

    def __iter__(self) -> Iterator[Source]:
        """Raises InputError for a folder or pattern without any."""
        for text in self.inputs:
            if text == STREAM:
                yield Source(None, Path("stdin"))
                continue
            if self._is_plain(text):
                place: Place = Remote(text) if is_url(text) else Path(text)
                yield Source(place, Path(place.name))
                continue
            if is_url(text):
                found, where = self._walk_store(text), f"in {text}"
            elif os.path.isdir(text):
                found, where = self._walk_folder(Path(text)), f"in folder {Path(text)}"
            else:
                found, where = self._match(text), f"match {text}"
            empty = True
            for source in found:
                empty = False
                yield source
            if empty:
                endings = " ".join(sorted(self.suffixes))
                raise InputError(f"no {self.what} {where}", hint=f"looked for names that end in {endings}")

    def _fits(self, name: str) -> bool:
        return not name.startswith(".") and os.path.splitext(name)[1].lower() in self.suffixes

    def _walk_folder(self, root: Path) -> Iterator[Source]:
        faults: list[OSError] = []
        seen: set[str] = set()
        top = Path(os.path.realpath(root))
        for folder, folders, names in os.walk(root, onerror=faults.append, followlinks=True):
            place = os.path.realpath(folder)
            if place in seen:  # by another link, or in a circle
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(n for n in folders if not n.startswith(".") and not _leads_back(folder, n, top))
            for name in sorted(names):
                if self._fits(name):
                    path = os.path.join(folder, name)
                    yield from _if_file(Path(path), Path(os.path.relpath(path, root)))
            while faults:
                yield _unreadable(faults.pop(), root)
        while faults:
            yield _unreadable(faults.pop(), root)

    def _match(self, pattern: str) -> Iterator[Source]:
        parts = Path(pattern).parts
        first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root = Path(*parts[:first]) if first else Path()
        for path in sorted(set(_expand(root, parts[first:])), key=os.fspath):
            if self._fits(path.name):
                yield from _if_file(path, path.relative_to(root))

    def _walk_store(self, url: str) -> Iterator[Source]:
        scheme, rest = url.split("://", 1)
        parts = rest.rstrip("/").split("/")
        first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        root = f"{scheme}://{'/'.join(parts[:first])}"
        faults: list[Source] = []

        def refused(folder: Remote, error: OSError) -> None:
            reason = (error.strerror or str(error)).lower()
            faults.append(Source(folder, Path(folder.url[len(root) :].lstrip("/") or "store"), fault=reason))

        store = Remote(root)
        for place in store.walk(refused) if first == len(parts) else store.match("/".join(parts[first:])):
            if self._fits(place.name):
                relative = place.url[len(root) :].lstrip("/")
                if not any(part.startswith(".") for part in relative.split("/")):
                    yield Source(place, Path(relative))
        yield from faults


def _if_file(path: Path, relative: Path) -> Iterator[Source]:
    """The source, if it is a file; with its fault where the system does not even tell that."""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            yield Source(path, relative)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # as of links that lead nowhere
            yield Source(path, relative, fault=(error.strerror or str(error)).lower())


def _expand(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """What matches a pattern below a folder. Like `glob.glob`, whose ** follows links though, in circles too."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _expand(folder, rest or ("*",))
        for entry in _entries(folder):
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                yield from _expand(folder / entry.name, parts)
        return
    if not glob.has_magic(part):
        names = [part] if os.path.lexists(folder / part) else []
    else:
        names = [e.name for e in _entries(folder) if part.startswith(".") or not e.name.startswith(".")]
        names = fnmatch.filter(names, part)
    for name in names:
        if not rest:
            yield folder / name
        elif os.path.isdir(folder / name):
            yield from _expand(folder / name, rest)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # what cannot be looked into matches nothing
        return []


def _leads_back(folder: str, name: str, top: Path) -> bool:
    """Whether it is a link to a folder that a walk below `top` meets under its own name, which counts."""
    path = os.path.join(folder, name)
    if not os.path.islink(path):
        return False
    place = Path(os.path.realpath(path))
    return place.is_relative_to(top) and not any(part.startswith(".") for part in place.relative_to(top).parts)


def _unreadable(error: OSError, root: Path) -> Source:
    folder = Path(error.filename or root)
    below = os.path.relpath(folder, root)
    name = os.path.basename(os.path.abspath(root)) or "folder" if below == os.curdir else below
    return Source(folder, Path(name), fault=(error.strerror or str(error)).lower())
