"""What a machine has to compute with, found out without torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# What a driver leaves: NVIDIA's, that of Windows below WSL2, AMD's, which torch calls CUDA as well.
_GPU_TRACES = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
MAX_THREADS = 64  # for one image, more than that the C code does not take
_ROOT = Path("/")  # of the files in which Linux tells of itself


def available_cores() -> int:
    """Cores that this process may use: those it may run on, or fewer where a container has a share of their time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *_cgroup_cores()]))


def _cgroup_cores() -> Iterator[int]:
    """What the limits of the control groups that this process is in come to, rounded up."""
    for folder in cgroup_folders("cpu"):
        quota = _text(folder / "cpu.max") or _text(folder / "cpu.cfs_quota_us") + _text(folder / "cpu.cfs_period_us")
        try:
            time_us, period_us = map(int, quota.split())
        except ValueError:  # no limit, or no such file
            continue
        if time_us > 0 and period_us > 0:  # -1 is no limit either
            yield -(-time_us // period_us)


def cgroup_folders(kind: str) -> Iterator[Path]:
    """Of the own control groups of a kind ("cpu", "memory") and of those around them, as far as they are seen here."""
    for line in _text(_ROOT / "proc/self/cgroup").splitlines():
        kinds, _, path = line.partition(":")[2].partition(":")
        if kinds and kind not in kinds.split(","):
            continue
        group = PurePosixPath(path.lstrip("/"))
        if ".." in group.parts:
            group = PurePosixPath()
        for mounted in {kinds, kind} if kinds else {""}:  # none: version 2
            for inside in (group, *group.parents):
                yield _ROOT / "sys/fs/cgroup" / mounted / inside


def _text(path: Path) -> str:
    """Of a file; nothing if it cannot be read."""
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def may_have_cuda() -> bool:
    """False where torch, which takes a second to import, need not be asked."""
    return os.name == "nt" or any(map(os.path.exists, _GPU_TRACES))
