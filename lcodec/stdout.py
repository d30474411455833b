"""A stdout that takes no more."""

from __future__ import annotations

import contextlib
import os
import sys

from lcodec.errors import OutputError


def stdout_failed(error: OSError) -> OutputError:
    """Where nothing can be printed, on a full disk say; what is left in the buffer would fail once more at the end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OutputError(f"cannot write stdout: {(error.strerror or str(error)).lower()}")
