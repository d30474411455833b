"""Work on a Ray cluster of two workers on this machine. Slow to start, so that only `make test-ray` runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

from lcodec.batch.plan import Job
from lcodec.batch.sources import Source
from lcodec.errors import LcodecError, UsageError

ray = pytest.importorskip("ray", reason="Ray is not installed (extra lcodec[ray])")
pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes with one core each, and a head with none."""
    from ray.cluster_utils import Cluster

    os.environ.update(ENVIRONMENT)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


def start(folder: Path, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "lcodec", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def stations() -> list[int]:
    """Process ids of the actors."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(b"ray::Station"):
                found.append(int(entry.name))
    return found


def wait_for(condition, what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


@pytest.fixture
def photos(tmp_path, photo) -> Path:
    """48 pictures in two folders."""
    for i in range(48):
        path = tmp_path / "in" / f"{i % 2}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(photo[i : i + 256, 2 * i : 2 * i + 384]).save(path)
    return tmp_path


def test_worker_killed_half_way_costs_no_file_and_all_are_as_without_a_cluster(cluster, photos, model_file):
    options = ["--model", model_file, "--device", "cpu", "--threads", "1"]
    others = stations()
    process = start(photos, "encode", *options, "--ray", cluster, "in", "-o", "out")
    out = photos / "out"
    wait_for(lambda: len(list(out.rglob("*.lic"))) >= 4 or process.poll() is not None, "the first files")
    (victim, *rest) = [pid for pid in stations() if pid not in others]
    os.kill(victim, signal.SIGKILL)
    done = len(list(out.rglob("*.lic")))
    stdout, stderr = process.communicate(timeout=240)
    assert len(rest) == 1, "there were not two workers"
    assert done < 48, "the worker was killed too late"
    assert process.returncode == 0, stderr
    assert b"48 of 48 files done" in stderr
    assert stdout.count(b" -> out/") == 48
    assert {p.name.split(".")[-1] for p in out.rglob("*") if p.is_file()} == {"lic"}  # no litter of the dead one
    assert start(photos, "encode", *options, "in", "-o", "here").wait(timeout=240) == 0
    for path in (photos / "here").rglob("*.lic"):
        assert path.read_bytes() == (out / path.relative_to(photos / "here")).read_bytes()


def test_interrupt_leaves_whole_files_and_no_litter_and_a_rerun_completes_it(cluster, photos, model_file):
    command = ["encode", "--model", model_file, "--ray", cluster, "in", "-o", "out"]
    process = start(photos, *command)
    out = photos / "out"
    wait_for(lambda: len(list(out.rglob("*.lic"))) >= 4 or process.poll() is not None, "the first files")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 130, stderr
    assert b"Traceback" not in stderr
    done = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in done} == {".lic"} and len(done) < 48
    process = start(photos, *command, "--skip-existing")
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert f"{48 - len(done)} of 48 files done, {len(done)} skipped".encode() in stderr


@pytest.mark.parametrize("jobs", ["1", "5"])
def test_workers_fit_on_the_machines_and_more_than_those_are_not_waited_for(cluster, photos, model_file, jobs):
    """The machines have a core each."""
    process = start(photos, "encode", "--model", model_file, "--ray", cluster, "--jobs", jobs, "in", "-o", "out")
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert len(list((photos / "out").rglob("*.lic"))) == 48
    refused = start(photos, "encode", "--model", model_file, "--ray", cluster, "--threads", "2", "in", "-o", "no")
    assert refused.wait(timeout=240) == 2 and b"--threads does not go with --ray" in refused.communicate()[1]


def test_bad_model_is_told_once(cluster, photos):
    process = start(photos, "encode", "--model", "no-such-model", "--ray", cluster, "in", "-o", "out")
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 5
    assert stderr.count(b"lcodec: error: ") == 1 and b"no model no-such-model" in stderr


def make_worker(threads: int):
    """In the function, so that it travels as it is: the workers cannot import this file."""

    class Worker:
        def process(self, job, stages):
            import os

            from lcodec.errors import InputError

            if "poison" in job.source.name:
                os._exit(9)
            if "bad" in job.source.name:
                raise InputError("is bad", hint="a hint")
            if "strange" in job.source.name:
                raise ZeroDivisionError("not foreseen")
            return {"name": job.source.name, "overwrite": job.overwrite, "threads": threads}

    return Worker()


def test_file_that_kills_its_workers_fails_alone_and_errors_come_back_as_they_were(cluster):
    from lcodec.batch.cluster import ATTEMPTS, run_cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    names = [f"{i}-{kind}" for i, kind in enumerate(["good"] * 9 + ["poison", "bad", "strange", "skip"] + ["good"] * 9)]

    def job_of(name: str) -> Job | None:
        return None if "skip" in name else Job(Source(Path(name), Path(name)), Path("out", name))

    outcomes = list(run_cluster(cluster, names, job_of, make_worker, actors=None))
    assert [name for name, _ in outcomes] == names
    for name, outcome in outcomes:
        if "good" in name:
            assert isinstance(outcome, dict) and outcome["name"] == name
        if "skip" in name:
            assert outcome is None
    failed = {name.split("-")[1]: outcome for name, outcome in outcomes if isinstance(outcome, Exception)}
    assert set(failed) == {"poison", "bad", "strange"}
    assert str(failed["poison"]) == f"its worker died {ATTEMPTS} times"
    assert (failed["bad"].exit_code, failed["bad"].hint) == (3, "a hint")
    assert isinstance(failed["strange"], LcodecError) and "ZeroDivisionError" in str(failed["strange"])
    assert any(isinstance(outcome, dict) and outcome["overwrite"] for _, outcome in outcomes)


def test_cluster_that_is_not_there_is_a_usage_error():
    from lcodec.batch.cluster import run_cluster

    with pytest.raises(UsageError, match="no Ray cluster at"):
        list(run_cluster("127.0.0.1:1", [], lambda item: None, make_worker, actors=None))
