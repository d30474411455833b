"""The eight orientations of EXIF 2.3, 4.6.4: what to do with stored pixels to see the picture as it is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from lcodec.atomic import WAITING_HINT, waiting_file
from lcodec.errors import OutputError

_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
_LAST_FIRST = {3, 4, 7, 8}  # what is stored last is seen on top
STRIP_PX = 256  # rows or columns that are turned at a time


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as orientation 1 to 8 says that it is seen, contiguous."""
    return np.ascontiguousarray(_TURNS[orientation](pixels)) if orientation in _TURNS else pixels


def swaps_sides(orientation: int) -> bool:
    """Whether stored rows are seen as columns."""
    return orientation >= 5


def turn_bands(bands: Iterator[np.ndarray], orientation: int, height: int, width: int) -> Iterator[np.ndarray]:
    """`turn` for (height, width, channels) that comes in bands of rows from the top.

    Except for 1 and 2 the rows wait in a temporary file, not in memory. Raises OutputError where there is no room.
    """
    if orientation <= 2:
        yield from (turn(band, orientation) for band in bands)
        return
    try:
        with waiting_file() as file:
            by_columns = swaps_sides(orientation)
            length = width if by_columns else height
            strips = [(first, min(first + STRIP_PX, length)) for first in range(0, length, STRIP_PX)]
            row, pixel_bytes, tail, dtype = 0, 0, (1,), np.dtype(np.uint8)
            for band in bands:
                tail, dtype = band.shape[2:], band.dtype
                pixel_bytes = band[:1, :1].nbytes
                # Strips of columns lie one behind the other, so that each is read in one piece.
                for first, last in strips if by_columns else [(0, width)]:
                    file.seek((first * height + row * (last - first)) * pixel_bytes)
                    file.write(np.ascontiguousarray(band[:, first:last]).data)
                row += len(band)
            for first, last in reversed(strips) if orientation in _LAST_FIRST else strips:
                shape = (height, last - first) if by_columns else (last - first, width)
                file.seek(first * (height if by_columns else width) * pixel_bytes)
                strip = np.frombuffer(file.read(shape[0] * shape[1] * pixel_bytes), dtype)
                yield turn(strip.reshape(*shape, *tail), orientation)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot turn the picture in a temporary file: {reason}", WAITING_HINT) from error
