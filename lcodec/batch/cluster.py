"""The same work on the machines of a Ray cluster: an actor loads the model once and takes jobs in handfuls.

Workers read and write the files themselves, so that a folder must be one that all machines share; places in stores
(s3://) always are. A worker that dies takes nothing with it: what it had is given to others, each file alone, until one
has killed several.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lcodec import __version__
from lcodec.batch.lanes import Record, Stages, StopBatch, Worker, memory_budget, run_lanes
from lcodec.batch.plan import Job
from lcodec.cores import available_cores
from lcodec.errors import LcodecError, UsageError

T = TypeVar("T")
Outcome = Record | None | Exception
MakeWorker = Callable[[int], Worker]  # from the threads for each file

LOCAL = "local"
CORES_PER_ACTOR = 8  # so many threads keep one interpreter far from being the limit
ON_GPU_AT_ONCE = 3
JOBS_PER_CORE = 4  # in one call: enough that asking for more costs nothing, few enough that the end is even
CALLS_AHEAD = 2  # of each actor: one at work, one waiting there
ATTEMPTS = 3  # at a file, before it is blamed for the death of its workers
RESTARTS = 10  # of an actor
PAUSE_S = 0.5
CONNECT_S = 10.0
ROOM_S = 300.0  # until the first worker has room on the cluster, and has started


class Station:
    """The actor: a worker, and lanes for as many files as it has cores.

    together: actors on its machine, which share the memory, itself included.
    """

    def __init__(
        self, make_worker: MakeWorker, at_once: int, threads: int, folder: str | None, together: int = 1
    ) -> None:
        self._at_once, self._together = at_once, together
        self._make_worker, self._threads, self._folder = make_worker, threads, folder
        self._worker: Worker | None = None

    def ready(self) -> str:
        """The version of lcodec here."""
        return __version__

    def process(self, jobs: list[Job]) -> list[Outcome]:
        """What became of the jobs, in their order. Errors are made such that they can travel."""
        if self._worker is None:
            if self._folder is not None:
                try:
                    os.chdir(self._folder)
                except OSError as error:
                    node = os.uname().nodename
                    cause = UsageError(
                        f"worker on {node} does not see folder {self._folder}",
                        hint="all machines of the cluster must share it; or use a store such as s3://",
                    )
                    cause.__cause__ = error
                    return [StopBatch(cause)] * len(jobs)
            self._worker = self._make_worker(self._threads)
        worker, stages = self._worker, Stages(self._at_once, memory_budget() // self._together)
        outcomes = run_lanes(jobs, lambda job: worker.process(job, stages), stages, self._at_once + 2)
        return [_portable(outcome) for _, outcome in outcomes]


def _last_line(error: Exception | None) -> str:
    """What Ray's message, with the whole trace of the other machine, comes to."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _portable(outcome: Outcome) -> Outcome:
    if isinstance(outcome, StopBatch | LcodecError) or not isinstance(outcome, Exception):
        return outcome
    if isinstance(outcome, MemoryError):
        return LcodecError("out of memory")
    return LcodecError(f"internal error: {type(outcome).__name__}: {outcome}")


@dataclass
class _Chunk:
    """Jobs of one call, with their places in the row of all; attempts: how often they were begun before."""

    places: list[int]
    jobs: list[Job]
    attempts: int = 0

    def split(self) -> Iterator[_Chunk]:
        """One for each job, for another attempt; what is there already was written by the last one."""
        for place, job in zip(self.places, self.jobs, strict=True):
            yield _Chunk([place], [replace(job, overwrite=True)], self.attempts + 1)


@dataclass
class _Actor:
    handle: Any
    at_once: int
    calls: dict[Any, _Chunk] = field(default_factory=dict)  # by their references
    ping: Any = None  # the reference of `ready`, while it is not known whether it lives: before, and after a death


def run_cluster(
    address: str,
    items: Iterable[T],
    job_of: Callable[[T], Job | Outcome],
    make_worker: MakeWorker,
    *,
    actors: int | None,
) -> Iterator[tuple[T, Outcome]]:
    """Work through items on the cluster at `address` and yield what became of them, in their order.

    address: "local" for one on this machine that ends with the work, else as `ray.init` takes it. job_of: the job of an
    item, or what became of it if there is none. make_worker: has to travel, so it can be pickled. actors: how many,
    by default one for each GPU and each 8 cores. Raises UsageError without Ray or without that cluster.
    """
    ray = _connect(address, actors)
    crew = _Crew(ray, [])
    try:
        for at_once, together, options in _places(ray, actors):
            station = ray.remote(Station).options(max_restarts=RESTARTS, max_concurrency=1, **options)
            handle = station.remote(make_worker, at_once, 1, str(Path.cwd()), together)
            crew.actors.append(_Actor(handle, at_once, ping=handle.ready.remote()))
        crew.check_versions()
        yield from crew.run(items, job_of)
    finally:
        for actor in crew.actors:
            ray.kill(actor.handle)
        ray.shutdown()


def _connect(address: str, actors: int | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--ray needs Ray", hint="pip install ray") from error
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    _check_reachable(address)
    if address == LOCAL:
        options |= {"num_cpus": actors or available_cores(), "include_dashboard": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"no Ray cluster at {address}: {reason}", hint="--ray local starts one here") from error
    return ray


def _check_reachable(address: str) -> None:
    """Raise UsageError where nothing answers at host:port: Ray itself would try for minutes, and tell of each try."""
    host, colon, port = address.rsplit("://", 1)[-1].rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise UsageError(f"no Ray cluster at {address}: {reason}", hint="--ray local starts one here") from error


def _places(ray: Any, actors: int | None) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """For each actor: how many files at once, how many actors at most on its machine, and where Ray is to put it."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    resources = [(node, int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))) for node in nodes]
    cores = sum(cpus for _, cpus, _ in resources)
    gpus = sum(count for _, _, count in resources)
    if not cores:
        raise UsageError("the Ray cluster has no cores to work with")
    if actors is not None:
        # An actor is on one machine: the largest share of which so many find room.
        sizes = range(CORES_PER_ACTOR, 1, -1)
        share = next((n for n in sizes if sum(cpus // n for _, cpus, _ in resources) >= actors), 1)
        near_gpus = max((cpus for _, cpus, count in resources if count), default=0)
        shares = [max(1, min(share, near_gpus)) if i < gpus else share for i in range(actors)]
        together = min(actors, max(cpus for _, cpus, _ in resources) // min(shares))
        for i, own in enumerate(shares):
            yield own, together, {"num_cpus": own, "num_gpus": int(i < gpus), "scheduling_strategy": "SPREAD"}
        return
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for node, cpus, count in resources:
        near = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        if count:
            share = max(1, min(CORES_PER_ACTOR, cpus // count))
            together = min(count, cpus)
            for _ in range(together):
                yield ON_GPU_AT_ONCE, together, {"num_cpus": share, "num_gpus": 1, "scheduling_strategy": near}
            continue
        for first in range(0, cpus, CORES_PER_ACTOR):
            share = min(CORES_PER_ACTOR, cpus - first)
            yield share, -(-cpus // CORES_PER_ACTOR), {"num_cpus": share, "scheduling_strategy": near}


class _Crew:
    """Gives jobs to actors and gathers what comes back."""

    def __init__(self, ray: Any, actors: list[_Actor]) -> None:
        self.ray = ray
        self.actors = actors
        self.lost = 0
        self._again: deque[_Chunk] = deque()
        self._done: dict[int, Outcome] = {}

    def check_versions(self) -> None:
        """Raise UsageError where no actor answers, or the first one has another lcodec, which may name other options.

        Those that find no room yet get work when they do.
        """
        pings, failed = [actor.ping for actor in self.actors], None
        while pings:
            first, pings = self.ray.wait(pings, num_returns=1, timeout=ROOM_S)
            if not first:
                hint = "others may use it; more and smaller workers (--jobs) need less room each"
                raise UsageError(f"no worker has started on the Ray cluster in {ROOM_S:.0f} s", hint=hint)
            try:
                version = self.ray.get(first[0])
            except self.ray.exceptions.RayError as error:
                failed = error
                continue
            if version != __version__:
                raise UsageError(f"the Ray cluster has lcodec {version}, here it is {__version__}")
            return
        hint = f"lcodec {__version__} has to be installed on all its machines"
        raise UsageError(f"no worker can start on the Ray cluster: {_last_line(failed)}", hint=hint) from failed

    def run(self, items: Iterable[T], job_of: Callable[[T], Job | Outcome]) -> Iterator[tuple[T, Outcome]]:
        source = enumerate(items)
        waiting: deque[T] = deque()  # items whose outcome has not been told, from `told` on
        told, exhausted = 0, False

        def more(size: int) -> _Chunk | None:
            nonlocal exhausted
            chunk = _Chunk([], [])
            while len(chunk.jobs) < size and not exhausted:
                following = next(source, None)
                if following is None:
                    exhausted = True
                    break
                place, item = following
                waiting.append(item)
                job = job_of(item)
                if isinstance(job, Job):
                    chunk.places.append(place)
                    chunk.jobs.append(job)
                else:
                    self._done[place] = job
            return chunk if chunk.jobs else None

        while True:
            self._hand_out(more)
            while told in self._done:
                yield waiting.popleft(), self._done.pop(told)
                told += 1
            if exhausted and not waiting:
                return
            self._gather()

    def _hand_out(self, more: Callable[[int], _Chunk | None]) -> None:
        for actor in self.actors:
            while actor.ping is None and len(actor.calls) < CALLS_AHEAD:
                alone = any(chunk.attempts for chunk in actor.calls.values())
                if alone:
                    break  # should it die, it is known of which file
                if self._again and not actor.calls:
                    chunk: _Chunk | None = self._again.popleft()
                else:
                    chunk = None if self._again else more(JOBS_PER_CORE * actor.at_once)
                if chunk is None:
                    break
                actor.calls[actor.handle.process.remote(chunk.jobs)] = chunk

    def _gather(self) -> None:
        """Wait until something has come of a call."""
        owner = {reference: actor for actor in self.actors for reference in actor.calls}
        owner |= {actor.ping: actor for actor in self.actors if actor.ping is not None}
        if not owner:
            hint = "the same command with --skip-existing, and without --force, goes on from here"
            raise LcodecError("all workers of the Ray cluster are gone", hint=hint)
        ready, _ = self.ray.wait(list(owner), num_returns=1)
        for reference in ready:
            actor = owner[reference]
            if reference == actor.ping:
                self._judge(actor)
            elif reference in actor.calls:
                self._take(actor, reference)

    def _take(self, actor: _Actor, reference: Any) -> None:
        chunk = actor.calls.pop(reference)
        try:
            outcomes = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # the worker lives, and would say the same each time
            if len(chunk.jobs) > 1:
                self._again.extend(chunk.split())  # to see which of them it is
            else:
                self._done[chunk.places[0]] = LcodecError(f"internal error: {_last_line(error)}")
        except self.ray.exceptions.RayError:  # died, or its machine did, or cannot be reached
            self._retry(chunk)
            if actor.ping is None:
                self.lost += 1
                actor.ping = actor.handle.ready.remote()
        else:
            self._done.update(zip(chunk.places, outcomes, strict=True))

    def _retry(self, chunk: _Chunk) -> None:
        """The jobs of a worker that died, each alone, but for those that it happened to too often."""
        for part in chunk.split():
            if part.attempts < ATTEMPTS:
                self._again.append(part)
            else:
                self._done[part.places[0]] = LcodecError(f"its worker died {ATTEMPTS} times")

    def _judge(self, actor: _Actor) -> None:
        """Back to work, if it has been restarted; out of the crew, if it never will be."""
        reference, actor.ping = actor.ping, None
        try:
            self.ray.get(reference)
        except (self.ray.exceptions.ActorDiedError, self.ray.exceptions.ActorUnschedulableError):
            for chunk in actor.calls.values():
                self._retry(chunk)
            self.actors.remove(actor)
        except self.ray.exceptions.RayError:
            time.sleep(PAUSE_S)
            actor.ping = actor.handle.ready.remote()
