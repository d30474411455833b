"""The parts of the work on a cluster that need none; `test_ray` has the rest."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lcodec.batch.cluster import _Actor, _Crew, _places
from lcodec.errors import UsageError


class FakeRay:
    """nodes: cores and GPUs of each machine. answers: what the first actors say, an exception or a version."""

    class exceptions:  # noqa: N801  # as Ray calls it
        class RayError(Exception):
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
    "nodes, actors, share",
    [
        (((4, 0), (4, 0)), 1, 4),
        (((16, 0),), 1, 8),
        (((4, 0), (4, 0), (4, 0)), 2, 4),
        (((1, 0), (1, 0)), 5, 1),
        (((8, 0), (4, 0)), 2, 4),
    ],
)
def test_a_worker_fits_on_one_machine(nodes, actors, share):
    places = list(_places(FakeRay(*nodes), actors))
    assert len(places) == actors
    assert {at_once for at_once, _ in places} == {options["num_cpus"] for _, options in places} == {share}


def test_a_worker_with_a_gpu_fits_on_a_machine_that_has_one():
    places = list(_places(FakeRay((16, 0), (2, 1)), 2))
    assert [(options["num_cpus"], options["num_gpus"]) for _, options in places] == [(2, 1), (8, 0)]


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
