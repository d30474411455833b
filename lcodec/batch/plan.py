"""Which output each input gets, and what must not happen to either."""

from __future__ import annotations

import os
import shutil
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO

from lcodec.atomic import WAITING_HINT, open_atomically, remove_stale, waiting_file, write_atomically
from lcodec.batch.places import Place, Remote, is_url
from lcodec.batch.sources import STREAM, Search, Source
from lcodec.errors import OutputError, UsageError
from lcodec.stdout import stdout_failed

LIC_SUFFIX = ".lic"
STDOUT_NAMES = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")  # other names of STREAM, where it is an output


@dataclass(frozen=True)
class Job:
    """An input and its output, None for stdout.

    make_folder: the output's folder need not exist. overwrite: what is there was written by an earlier attempt.
    """

    source: Source
    target: Place | None
    make_folder: bool = False
    overwrite: bool = False

    @property
    def target_name(self) -> str:
        return "stdout" if self.target is None else str(self.target)


def write(job: Job, data: bytes, force: bool) -> None:
    """Put `data` where the job says, whole or not at all. Raises OutputError."""
    if job.target is None:
        with _stdout() as out:
            out.write(data)
    elif isinstance(job.target, Remote):
        job.target.write_bytes(data, overwrite=force or job.overwrite)
    else:
        make_folder(job)
        write_atomically(job.target, data, overwrite=force or job.overwrite)


def write_by(job: Job, produce: Callable[[BinaryIO], None], force: bool) -> int:
    """The same for what `produce` writes to a file, bit by bit and perhaps going back; returns its size in bytes.

    Raises OutputError and what `produce` raises: then nothing is there.
    """
    if isinstance(job.target, Path) and not is_special(job.target):
        make_folder(job)
        with open_atomically(job.target, overwrite=force or job.overwrite) as file:
            produce(file)
            return file.seek(0, os.SEEK_END)
    with _spool(produce) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if job.target is None:
            with _stdout() as out:
                shutil.copyfileobj(file, out)
        elif isinstance(job.target, Remote):
            write(job, file.read(), force)
        else:
            with open_atomically(job.target, overwrite=True) as device:
                shutil.copyfileobj(file, device)
        return size


@contextmanager
def _spool(produce: Callable[[BinaryIO], None]) -> Iterator[BinaryIO]:
    """What `produce` writes, in a nameless file that goes with the block."""
    file = None
    try:
        try:
            file = waiting_file()
            produce(file)
            file.flush()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OutputError(f"cannot write a temporary file: {reason}", WAITING_HINT) from error
        yield file
    finally:
        if file is not None:
            with suppress(OSError):  # which tries once more to write what is left
                file.close()


@contextmanager
def _stdout() -> Iterator[BinaryIO]:
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise stdout_failed(error) from error


def make_folder(job: Job) -> None:
    """Make the folder of the output if it need not exist. Raises OutputError."""
    if not job.make_folder or not isinstance(job.target, Path):
        return
    try:
        if not os.path.isdir(job.target.parent):  # as after the first file, and to ask takes less than to try
            job.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot make folder {job.target.parent}: {reason}") from error


@dataclass(frozen=True)
class Naming:
    """How outputs are named.

    output: as given by -o; without, an output goes beside its input (that of stdin to stdout). For several inputs, or
    with `is_folder`, it is a folder in which the structure below a given folder is kept. suffix: the ending of new
    names, in place of the input's, or after it with `keep_suffix`. What would have it twice has it once, so that
    a.png.lic becomes a.png again. of_files: endings of names that no folder has by mistake.
    """

    suffix: str
    output: str | None = None
    is_folder: bool = False
    keep_suffix: bool = False
    of_files: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.output in STDOUT_NAMES:
            object.__setattr__(self, "output", STREAM)

    def rename(self, place: Place) -> Place:
        if self.keep_suffix:
            return place.with_suffix(place.suffix + self.suffix)
        bare = place.with_suffix("")
        return bare if bare.suffix.lower() == self.suffix else place.with_suffix(self.suffix)


@dataclass
class Plan:
    """The jobs of a batch. Iterating searches for the inputs, each time anew, and gives each file once.

    What has to be known of all files before the first is worked on is kept as 8 bytes for each: whether two get
    the same output, and how many there are.
    """

    search: Search
    naming: Naming | None  # None: nothing is written
    count: int = 0
    _repeated: frozenset[int] = frozenset()  # inputs that several arguments stand for
    _several: bool = False
    _tidied: set[str] = field(default_factory=set)

    @classmethod
    def make(cls, search: Search, naming: Naming | None) -> Plan:
        """Search once and decide where outputs go.

        Raises UsageError when two inputs would get the same output, when several would go to stdout or to what looks
        like one file, or one to a terminal; OutputError when `output` is a file but has to be a folder; InputError for
        folders without inputs.
        """
        plan = cls(search, naming)
        if len(search.inputs) > 1:
            plan._repeated = _duplicates(_key(s.path) for s in search if s.path is not None)
        plan._several = search.is_several or len(search.inputs) > 1 and _has_two(plan._sources())
        plan._check_output()
        targets = array("q")
        for job in plan:
            plan.count += 1
            if job.target is not None and not job.source.fault:
                targets.append(_key(job.target))
        plan._refuse_clashes(_duplicates(targets))
        return plan

    def _check_output(self) -> None:
        if self.naming is None:
            return
        output = self.naming.output
        if output == STREAM and (self._several or self.naming.is_folder):
            raise UsageError("several outputs cannot all go to stdout", hint="-o FOLDER/ takes them")
        if self.to_stdout and getattr(sys.stdout, "name", None) == os.devnull:
            raise OutputError("stdout is closed")
        if self.to_stdout and sys.stdout.isatty():
            raise UsageError("binary data is not written to a terminal", hint="redirect it, or name a file with -o")
        if output is None or is_url(output) or not self._into_folder or os.path.isdir(output):
            return
        if os.path.exists(output):
            raise OutputError(f"{output} is a file, and several outputs need a folder")
        if self._names_file(output):
            raise UsageError(
                f"-o names one file, {output}, and the outputs may be several",
                hint=f"-o {output}/ makes a folder of it",
            )

    def _names_file(self, output: str) -> bool:
        """Whether a name that is not there looks like that of an output, and nothing says that it is a folder."""
        if self.naming is None or self.naming.is_folder or output.endswith(("/", os.sep)):
            return False
        return os.path.splitext(output)[1].lower() in {self.naming.suffix, *self.naming.of_files}

    @property
    def to_stdout(self) -> bool:
        """Whether the output, there is but one then, goes there."""
        if self.naming is None:
            return False
        return self.naming.output == STREAM or self.naming.output is None and self.search.inputs == (STREAM,)

    @property
    def in_stores(self) -> bool:
        """Whether files come from or go to stores, which let one wait."""
        output = self.naming.output if self.naming else None
        return any(map(is_url, (*self.search.inputs, output or "")))

    @property
    def sole_target(self) -> Place | None:
        """The output where -o names one file."""
        output = self.naming.output if self.naming else None
        if output is None or output == STREAM or self._into_folder:
            return None
        return Remote(output) if is_url(output) else Path(output)

    @property
    def _into_folder(self) -> bool:
        output = self.naming.output if self.naming else None
        if self.naming is None or output is None or output == STREAM:
            return False
        return self._several or self.naming.is_folder or output.endswith(("/", os.sep)) or os.path.isdir(output)

    def _sources(self) -> Iterator[Source]:
        seen: set[int] = set()
        for source in self.search:
            if self._repeated and source.path is not None and (key := _key(source.path)) in self._repeated:
                if key in seen:
                    continue
                seen.add(key)
            yield source

    def __iter__(self) -> Iterator[Job]:
        naming, into_folder = self.naming, self._into_folder
        for source in self._sources():
            if naming is None or naming.output == STREAM:
                yield Job(source, None)
            elif naming.output is None:
                yield Job(source, None if source.path is None else naming.rename(source.path))
            else:
                place: Place = Remote(naming.output) if is_url(naming.output) else Path(naming.output)
                if into_folder:
                    yield Job(source, place / naming.rename(source.relative), make_folder=True)  # type: ignore[operator]
                else:
                    yield Job(source, place)

    def _refuse_clashes(self, suspects: frozenset[int]) -> None:
        taken: dict[str, Job] = {}
        for job in self if suspects else ():
            if job.target is None or job.source.fault or _key(job.target) not in suspects:
                continue
            other = taken.setdefault(_identity(job.target), job)
            if other is not job:
                raise UsageError(
                    f"{other.source.name} and {job.source.name} would both become {job.target}",
                    hint="--keep-suffix tells them apart, if their endings differ; else use several calls, or -o FILE",
                )

    def admit(self, job: Job, *, force: bool, skip_existing: bool) -> bool:
        """Whether the job is to be done: false when its output is there and `skip_existing` says to leave it.

        Raises OutputError when the output is an input, or exists without `force`; cheap, so asked first. Also tidies
        the output's folder, once.
        """
        target = job.target
        if job.source.fault:
            return True  # to be told, whatever is there
        if isinstance(target, Remote):
            if not target.exists():
                return True
            if skip_existing:
                return False
            if not force or target == job.source.path:
                raise OutputError(f"{target} exists", hint="--force overwrites it")
            return True
        if target is None:
            return True
        self._tidy(target.parent)
        if not os.path.exists(target):  # unlike Path.exists false for a name that is too long, say
            return True
        if self._is_input(target, job.source):
            hint = "choose another name with -o"
            if self.naming is not None and self.naming.output is None and not self._several:
                # most likely the other command was meant
                coded = target.suffix.lower() == LIC_SUFFIX
                hint = "lcodec decode makes an image of it" if coded else "lcodec encode makes a .lic file of it"
            raise OutputError(f"{target} is an input", hint=hint)
        if target.is_dir():
            raise OutputError(f"{target} is a folder")
        if target.is_file():
            if skip_existing:
                return False
            if not force:
                raise OutputError(f"{target} exists", hint="--force overwrites it")
        return True

    def _is_input(self, target: Path, source: Source) -> bool:
        status = target.stat()
        identity = (status.st_dev, status.st_ino)
        if isinstance(source.path, Path) and os.path.exists(source.path) and source.path.samefile(target):
            return True
        if identity in self._named_inputs:
            return True
        # A file of its own with the ending of outputs is none of those that a search finds; a link may be.
        if target.suffix.lower() in self.search.suffixes or target.is_symlink() or status.st_nlink > 1:
            return identity in self._all_inputs
        return False

    @cached_property
    def _named_inputs(self) -> set[tuple[int, int]]:
        """Device and inode of the inputs that were named one by one."""
        return {(s.st_dev, s.st_ino) for s in _statuses(self.search.plain())}

    @cached_property
    def _all_inputs(self) -> set[tuple[int, int]]:
        return {(s.st_dev, s.st_ino) for s in _statuses(s.path for s in self.search if isinstance(s.path, Path))}

    def _tidy(self, folder: Path) -> None:
        """Remove what killed runs left in a folder of outputs, the first time that one goes there."""
        name = os.fspath(folder)
        if name not in self._tidied:
            self._tidied.add(name)
            remove_stale(folder)

    def tidy(self) -> None:
        """Remove what killed workers of this run left."""
        for folder in self._tidied:
            remove_stale(folder)


def is_special(path: Place) -> bool:
    """Whether it is a device or a pipe, whose name says nothing about a format."""
    return (
        isinstance(path, Path) and os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    )


def _statuses(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    return (path.stat() for path in paths if os.path.exists(path))


def _has_two(items: Iterable[object]) -> bool:
    iterator = iter(items)
    return next(iterator, None) is not None and next(iterator, None) is not None


def _identity(place: Place) -> str:
    """The same for all ways to write the place of a file; a link as the last part stays what it is."""
    if isinstance(place, Remote):
        return place.url
    return os.path.join(_real_folder(os.path.join(os.getcwd(), place.parent)), place.name)


_real_folder = lru_cache(maxsize=4096)(os.path.realpath)


def _key(place: Place) -> int:
    return hash(_identity(place))


def _duplicates(keys: Iterable[int]) -> frozenset[int]:
    """Those that occur more than once."""
    if not isinstance(keys, array):
        keys = array("q", keys)
    if len(keys) < 2:
        return frozenset()
    import numpy as np

    found, counts = np.unique(np.frombuffer(keys, np.int64), return_counts=True)
    return frozenset(found[counts > 1].tolist())
