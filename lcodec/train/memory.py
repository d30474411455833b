"""The C library's memory, told to keep what is freed."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MMAP_BYTES = 1 << 25  # the most that glibc takes on 64 bits
TRIM_BYTES = (1 << 31) - 1


def keep_freed() -> bool:
    """Keep blocks of up to 32 MiB that are freed, until the process ends; false if this C library cannot be told so.

    A step frees and takes the same large arrays each time. If they come from the system, every page of them is a fault:
    16,000 in a step of lc-s, which took 0.29 s with them and 0.24 s without.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_BYTES) and mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))
