"""Several files at once on this machine, on threads.

Each lane takes a job, reads its input, runs the networks and writes its output, then takes the next. There are more
lanes than may run networks at once: while some compute, others read and write. Threads and not processes, because
nearly all the time is spent in code that leaves the interpreter to others; so the model is loaded once and the memory
of all is counted in one place.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

from lcodec.batch.plan import Job
from lcodec.cores import cgroup_folders
from lcodec.errors import LcodecError

Record = dict[str, Any]
T = TypeVar("T")
# What a file in work takes at most, measured with the default model: its pixels and latents, and the activations of
# one tile of the transforms.
BYTES_PER_PIXEL = 40
BYTES_OF_A_TILE = 500_000_000
ROWS_IN_WORK = 1024  # of a picture that comes in bands, counted like pixels of one that is there
TILE_PX = 1 << 20
# What --effort makes of the tile, for activations are kept for gradients: of one image of 1024x1024, on one thread,
# mbt2018-mean took 0.9 GB instead of 0.5, cheng2020-attn 1.4 and more.
TILES_OF_A_SEARCH = 3


class StopBatch(Exception):
    """Raised by a worker for what would fail with every other file too, as a model that is not there."""

    def __init__(self, cause: LcodecError) -> None:
        super().__init__(cause)
        self.cause = cause


class Stages:
    """Where the jobs of a batch wait for one another.

    at_once: how many may run networks. memory_bytes: what all that are in work may take together; a file that needs
    more is worked on alone.
    """

    def __init__(self, at_once: int = 1, memory_bytes: int | None = None) -> None:
        self._networks = threading.BoundedSemaphore(at_once)
        self._limit = memory_bytes
        self._used = 0
        self._changed = threading.Condition()
        self._next = threading.Lock()  # only one waits for memory, so that a large file is not overtaken for ever
        self._stopped = False

    def networks(self) -> AbstractContextManager[Any]:
        """Hold it while computing."""
        return self._networks

    @contextmanager
    def memory(self, pixels: int, *, searched: bool = False) -> Iterator[None]:
        """Hold it from before the pixels are there until they are gone. searched: with --effort."""
        needed = bytes_needed(pixels, searched)
        with self._next, self._changed:
            self._changed.wait_for(lambda: self._stopped or self._fits(needed))
            if self._stopped:
                raise _Stopped
            self._used += needed
        try:
            yield
        finally:
            with self._changed:
                self._used -= needed
                self._changed.notify_all()

    def _fits(self, needed: int) -> bool:
        return self._limit is None or self._used == 0 or self._used + needed <= self._limit

    def stop(self) -> None:
        """Wake those who wait for memory, to end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Worker(Protocol):
    """What is done with each file. `process` runs in several threads at once."""

    def process(self, job: Job, stages: Stages) -> Record:
        """Read, compute, write; returns what there is to tell. Raises LcodecError, StopBatch."""


class _Stopped(BaseException):
    """Thrown into the lanes when the batch ends early; what is half written gets removed on its way."""


def run_lanes(
    jobs: Iterable[T], work: Callable[[T], Record | None], stages: Stages, lanes: int
) -> Iterator[tuple[T, Record | None | Exception]]:
    """Work through jobs on `lanes` threads and yield what became of them, in the order of the jobs.

    No job is taken before a lane is free for it. Closing the generator, or any exception in it such as
    KeyboardInterrupt, stops the lanes at once; when it ends, none of them is at work.
    """
    source = iter(jobs)
    taking = threading.Lock()
    stopped = threading.Event()
    done: queue.SimpleQueue[tuple[int, T | None, Record | None | BaseException]] = queue.SimpleQueue()
    count = 0

    def take() -> tuple[int, T] | None:
        nonlocal count
        with taking:
            job = None if stopped.is_set() else next(source, None)
            count += job is not None
            return None if job is None else (count - 1, job)

    def lane() -> None:
        try:
            while (taken := take()) is not None:
                index, job = taken
                try:
                    outcome: Record | None | Exception = work(job)
                except Exception as error:
                    outcome = error
                done.put((index, job, outcome))
                del taken, job, outcome  # no result is held while waiting for the next
            done.put((-1, None, None))
        except _Stopped:
            pass
        except BaseException as error:  # the search for files failed, or something wants to end the program
            stopped.set()
            done.put((-1, None, error))

    threads = [threading.Thread(target=lane, name=f"lane {i}", daemon=True) for i in range(lanes)]
    try:
        for thread in threads:
            thread.start()
        yield from _in_order(done, lanes)
    finally:
        stopped.set()
        stages.stop()
        _stop(threads)


def _in_order(
    done: queue.SimpleQueue[tuple[int, T | None, Record | None | BaseException]], lanes: int
) -> Iterator[tuple[T, Record | None | Exception]]:
    early: dict[int, tuple[T, Record | None | Exception]] = {}
    following = 0
    while lanes:
        index, job, outcome = done.get()
        if job is None:
            if isinstance(outcome, BaseException):
                raise outcome
            lanes -= 1
            continue
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
        early[index] = (job, outcome)
        while following in early:
            yield early.pop(following)
            following += 1


def _stop(threads: list[threading.Thread]) -> None:
    # A thread cannot be ended from outside, but an exception can be put into it, which it meets as soon as it is back
    # from what it computes: a layer of a network, not the whole image.
    import ctypes

    for thread in threads:
        if thread.is_alive() and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Stopped))
    for thread in threads:
        if thread.ident is not None:
            thread.join()


def bytes_needed(pixels: int, searched: bool = False) -> int:
    """What a file of so many pixels takes at most while it is in work."""
    tile_bytes = BYTES_OF_A_TILE * min(pixels, TILE_PX) // TILE_PX
    return BYTES_PER_PIXEL * pixels + tile_bytes * (TILES_OF_A_SEARCH if searched else 1)


def memory_budget() -> int:
    """Half of the memory that this process may still have, in bytes."""
    available = [_available_memory(), *_cgroup_memory()]
    return max(0, min(available)) // 2


def _available_memory() -> int:
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4_000_000_000


def _cgroup_memory() -> Iterator[int]:
    """What the limits of the control groups that this process is in leave."""
    for folder in cgroup_folders("memory"):
        for limit, key in (("memory.max", "anon"), ("memory.limit_in_bytes", "total_rss")):  # versions 2 and 1
            try:
                with open(folder / limit) as most, open(folder / "memory.stat") as used:
                    taken = dict(line.split() for line in used)[key]  # the rest, caches of files, gives way
                    yield int(most.read()) - int(taken)
            except (OSError, ValueError, KeyError):
                continue
