"""How far two pictures are from each other."""

from __future__ import annotations

import math

import numpy as np


def psnr(a: np.ndarray, b: np.ndarray, seen: np.ndarray | None = None) -> float:
    """dB over all channels of two images of one shape and type, uint8 or uint16; inf if equal.

    seen: bool (H, W), the pixels that count; all if None.
    """
    total, samples = 0.0, 0
    for row, (row_a, row_b) in enumerate(zip(a, b, strict=True)):  # row by row: no copies of the image
        if seen is not None:
            row_a, row_b = row_a[seen[row]], row_b[seen[row]]
        total += float(np.square(row_a.astype(np.float32) - row_b).sum(dtype=np.float64))
        samples += row_a.size
    return 10 * math.log10(np.iinfo(a.dtype).max ** 2 * samples / total) if total else math.inf
