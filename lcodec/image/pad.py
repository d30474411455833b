"""Padding at right and bottom, so that every network sees whole blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lcodec.errors import InputError, UsageError

BLOCK_PX = 64  # z lies at 1/64 of the image


def padded_size(height: int, width: int, multiple: int = BLOCK_PX) -> tuple[int, int]:
    """The next (height, width) in pixels that are multiples of `multiple`."""
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad(pixels: np.ndarray, multiple: int = BLOCK_PX) -> np.ndarray:
    """Repeat the last column and the last row until both sides are multiples of `multiple`.

    pixels: (H, W, C) of any dtype. Returns (H', W', C), the array itself when nothing is missing.
    Replication costs fewer bits than zeros: the border block stays as smooth as the picture.
    """
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise UsageError(f"pixels of shape {pixels.shape}, not (height, width, channels)")
    height, width = pixels.shape[:2]
    new_height, new_width = padded_size(height, width, multiple)
    if (new_height, new_width) == (height, width):
        return pixels
    return np.pad(pixels, ((0, new_height - height), (0, new_width - width), (0, 0)), mode="edge")


def padded_bands(
    bands: Iterator[np.ndarray], height: int, width: int, multiple: int = BLOCK_PX
) -> Iterator[np.ndarray]:
    """`pad` for (height, width, C) that comes in bands of rows from the top.

    Raises InputError when the bands do not make up that array.
    """
    new_height, new_width = padded_size(height, width, multiple)
    rows = 0
    last: np.ndarray | None = None
    for band in bands:
        rows += len(band)
        if rows > height or band.shape[1] != width:
            raise InputError(f"rows of {band.shape[1]} pixels, {rows} so far, are not those of {width}x{height} pixels")
        if new_width > width:
            band = np.pad(band, ((0, 0), (0, new_width - width), (0, 0)), mode="edge")
        last = band[-1:]
        yield band
    if last is None or rows != height:
        raise InputError(f"the image ends after {rows} of {height} rows")
    if new_height > height:
        yield np.repeat(last, new_height - height, axis=0)


def crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Undo `pad`: the first `height` rows and `width` columns of (H', W', ...), as a view."""
    if not (0 < height <= pixels.shape[0] and 0 < width <= pixels.shape[1]):
        raise UsageError(f"cannot crop {pixels.shape[1]}x{pixels.shape[0]} to {width}x{height}")
    return pixels[:height, :width]


def centre(pixels: np.ndarray, side: int) -> np.ndarray:
    """The middle of (H, W, C), at most `side` pixels high and wide, as a view."""
    top, left = (max(0, n - side) // 2 for n in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]
