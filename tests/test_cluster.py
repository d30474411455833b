"""The parts of the work on a cluster that need none; `test_ray` has the rest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lcodec.batch import cluster
from lcodec.batch.cluster import ATTEMPTS, Station, _Actor, _Chunk, _Crew, _places
from lcodec.batch.lanes import Stages
from lcodec.batch.plan import Job
from lcodec.batch.sources import Source
from lcodec.errors import LcodecError, UsageError


class FakeRay:
    """nodes: cores and GPUs of each machine. answers: what the first actors say, an exception or a version."""

    class exceptions:  # noqa: N801  # as Ray calls it
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

        class ActorDiedError(RayError):
            pass

        class ActorUnschedulableError(RayError):
            pass

    def __init__(self, *nodes: tuple[int, int], answers: tuple[object, ...] = ()) -> None:
        self._nodes, self._answers = nodes, answers

    def nodes(self) -> list[dict]:
        return [{"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus}} for cpus, gpus in self._nodes]

    def wait(self, references, num_returns, timeout):
        answers, self._answers = self._answers, self._answers[1:]
        return list(answers[:1]), list(answers[1:])

    def get(self, reference):
        if isinstance(reference, Exception):
            raise reference
        return reference


@pytest.mark.parametrize(
    "nodes, actors, share, together",
    [
        (((4, 0), (4, 0)), 1, 4, 1),
        (((16, 0),), 1, 8, 1),
        (((4, 0), (4, 0), (4, 0)), 2, 4, 1),
        (((1, 0), (1, 0)), 5, 1, 1),
        (((8, 0), (4, 0)), 2, 4, 2),
        (((4, 0),), 4, 1, 4),
        (((64, 0), (2, 0)), 8, 8, 8),
    ],
)
def test_a_worker_fits_on_one_machine(nodes, actors, share, together):
    places = list(_places(FakeRay(*nodes), actors))
    assert len(places) == actors
    assert {at_once for at_once, _, _ in places} == {options["num_cpus"] for _, _, options in places} == {share}
    assert {count for _, count, _ in places} == {together}


def test_a_worker_with_a_gpu_fits_on_a_machine_that_has_one():
    places = list(_places(FakeRay((16, 0), (2, 1)), 2))
    assert [(options["num_cpus"], options["num_gpus"]) for _, _, options in places] == [(2, 1), (8, 0)]


def test_cluster_without_cores_is_refused():
    with pytest.raises(UsageError, match="no cores"):
        list(_places(FakeRay((0, 1)), 2))


@pytest.mark.parametrize(
    "answers, message",
    [
        ((), "no worker has started"),
        (("0.0.1",), "has lcodec 0.0.1, here it is"),
        ((FakeRay.exceptions.RayError("died"), "0.0.2"), "has lcodec 0.0.2"),
        ((FakeRay.exceptions.RayError("Traceback …\n\nModuleNotFoundError: lcodec\n"),), "ModuleNotFoundError: lcodec"),
    ],
)
def test_workers_that_cannot_work_are_told(answers, message):
    crew = _Crew(FakeRay(answers=answers), [_Actor(SimpleNamespace(), 1, ping=object())])
    with pytest.raises(UsageError, match=message):
        crew.check_versions()


def chunk_of(*names: str, attempts: int = 0) -> _Chunk:
    return _Chunk(list(range(len(names))), [Job(Source(Path(name), Path(name)), None) for name in names], attempts)


def test_error_of_the_worker_itself_is_that_of_the_file_and_is_not_tried_again():
    error = FakeRay.exceptions.RayTaskError("ray::Station.process()\n  File …\nZeroDivisionError: not foreseen\n")
    crew = _Crew(FakeRay(), [actor := _Actor(SimpleNamespace(), 1)])
    actor.calls[error] = chunk_of("a", "b")
    crew._take(actor, error)
    assert [part.places for part in crew._again] == [[0], [1]] and not crew._done
    actor.calls[error] = crew._again.popleft()
    crew._take(actor, error)
    assert len(crew._again) == 1 and crew.lost == 0 and actor.ping is None
    assert str(crew._done[0]) == "internal error: ZeroDivisionError: not foreseen"


def test_files_of_a_worker_that_is_gone_for_good_are_each_tried_alone_and_not_for_ever():
    gone = FakeRay.exceptions.ActorDiedError("gone")
    crew = _Crew(FakeRay(), [actor := _Actor(SimpleNamespace(), 1, ping=gone)])
    actor.calls = {1: chunk_of("a", "b")}
    crew._judge(actor)
    assert crew.actors == [] and [part.attempts for part in crew._again] == [1, 1]
    assert all(job.overwrite for part in crew._again for job in part.jobs)
    crew = _Crew(FakeRay(), [actor := _Actor(SimpleNamespace(), 1, ping=gone)])
    actor.calls = {1: chunk_of("a", attempts=ATTEMPTS - 1)}
    crew._judge(actor)
    assert not crew._again and "died" in str(crew._done[0])
    with pytest.raises(LcodecError, match="are gone") as caught:
        crew._gather()
    assert "without --force" in (caught.value.hint or "")


def test_workers_on_one_machine_share_its_memory(monkeypatch):
    budgets = []

    class Worker:
        def process(self, job: Job, stages: Stages) -> dict:
            budgets.append(stages._limit)
            return {}

    monkeypatch.setattr(cluster, "memory_budget", lambda: 9000)
    for together in (1, 3):
        Station(lambda threads: Worker(), 1, 1, None, together).process(chunk_of("a").jobs)
    assert budgets == [9000, 3000]
