"""Huge pages for long runs on a CPU."""

from __future__ import annotations

import os
import platform
import sys

TUNABLES = "GLIBC_TUNABLES"  # read by the C library when a process starts
HUGE = "glibc.malloc.hugetlb=1"


def restart_with_huge_pages() -> None:
    """Begin again as the same process, with an allocator that asks the kernel for transparent huge pages.

    Tensors of some megabytes come and go with every layer, and 4 kB pages cost a step of lc-s 14 % of its time. The C
    library takes this setting from the environment alone, so there is no way but to start again; whoever sets
    GLIBC_TUNABLES decides, also by setting it to nothing. Does nothing where there is no glibc.
    """
    if sys.platform != "linux" or TUNABLES in os.environ or platform.libc_ver()[0] != "glibc":
        return
    if not sys.executable or len(sys.orig_argv) < 2:
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, TUNABLES: HUGE})
