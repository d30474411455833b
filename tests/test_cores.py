"""What a machine has to compute with."""

from __future__ import annotations

import os

import pytest
import torch

from lcodec import cores
from lcodec.errors import DeviceError
from lcodec.transforms import choose_device


@pytest.mark.skipif(os.name == "nt", reason="there torch is always asked")
@pytest.mark.parametrize("trace", [None, *cores._GPU_TRACES])
def test_torch_is_asked_for_a_gpu_where_a_driver_left_a_trace(trace, monkeypatch):
    monkeypatch.setattr(os.path, "exists", lambda path: path == trace)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cores.may_have_cuda() == (trace is not None)
    assert choose_device("auto") == ("cpu" if trace is None else "cuda")


def test_device_is_the_cpu_where_the_driver_has_no_gpu(monkeypatch):
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"


def cgroups(root, own: str, **files: str) -> None:
    """The files by which Linux tells of control groups. own: /proc/self/cgroup; files: folders with "/" as __."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    "own, files, expected",
    [
        ("0::/\n", {"cpu_max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu_max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu_max": "nonsense\n"}, 64),
        ("0::/\n", {"cpu_max": "12800000 100000\n"}, 64),
        ("0::/a/b\n", {"a__b__cpu_max": "max 100000\n", "a__cpu_max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a__b__cpu_max": "100000 100000\n", "a__cpu_max": "300000 100000\n"}, 1),
        ("0::/../../a\n", {"cpu_max": "200000 100000\n"}, 2),
        (
            "5:memory:/\n3:cpu,cpuacct:/docker/1f\n2:cpuset:/\n",
            {"cpu,cpuacct__cpu_cfs_quota_us": "500000\n", "cpu,cpuacct__cpu_cfs_period_us": "100000\n"},
            5,
        ),
        ("3:cpu,cpuacct:/\n", {"cpu__cpu_cfs_quota_us": "50000\n", "cpu__cpu_cfs_period_us": "25000\n"}, 2),
        ("3:cpu:/\n", {"cpu__cpu_cfs_quota_us": "-1\n", "cpu__cpu_cfs_period_us": "100000\n"}, 64),
        ("nonsense", {}, 64),
    ],
)
def test_share_of_a_container_counts_like_cores(own, files, expected, tmp_path, monkeypatch):
    cgroups(tmp_path, own, **files)
    monkeypatch.setattr(cores, "_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert cores.available_cores() == expected


def test_cores_are_those_of_the_system_where_it_tells_of_no_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "_ROOT", tmp_path)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert cores.available_cores() == 12


def test_only_devices_that_are_told_of_are_taken():
    assert choose_device("cpu:0") == "cpu"
    for name in ("meta", "xpu", "vulkan", "none-such", None):
        with pytest.raises(DeviceError, match="unknown device"):
            choose_device(name)  # type: ignore[arg-type]
