"""How many threads there is room for."""

from __future__ import annotations

import os

MAX_THREADS = 64  # for one image, more than that the C code does not take


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
