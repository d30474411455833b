"""What a machine has to compute with, found out without torch."""

from __future__ import annotations

import os

# What a driver leaves: NVIDIA's, that of Windows below WSL2, AMD's, which torch calls CUDA as well.
_GPU_TRACES = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
MAX_THREADS = 64  # for one image, more than that the C code does not take


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def may_have_cuda() -> bool:
    """False where torch, which takes a second to import, need not be asked."""
    return os.name == "nt" or any(map(os.path.exists, _GPU_TRACES))
