"""Decoded images in memory, up to a limit: whole ones while they fit, then parts of them, so that all have some."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CHANNELS = 3  # bytes a pixel
SHRINK = 0.85  # of the area at a time: less is copied more often, more leaves more of the limit unused
LEAST_AREA = 1.0  # which leaves of each image the least side alone


class Kept:
    """Images, uint8 (H, W, 3), added one after the other, and looked up by their number.

    limit_bytes: of all together. least_side: of images whose wholes do not fit together, parts are kept, nearly as
    large as the limit allows and all of about the same area, but of no fewer pixels a side; None: whole images alone.
    What fits in neither way is not kept. Which part it is depends on the images and the limit alone.
    """

    def __init__(self, limit_bytes: int, least_side: int | None = None) -> None:
        self.bytes = 0
        self.area: float = math.inf  # pixels that are kept of an image at most
        self._limit, self._least = limit_bytes, least_side
        self._images: list[np.ndarray | None] = []
        self._shapes: list[tuple[int, ...]] = []  # of the wholes
        self._parts: set[int] = set()  # of which less than the whole is kept

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> np.ndarray | None:
        return self._images[i]

    @property
    def parts(self) -> int:
        """How many images are kept in part."""
        return len(self._parts)

    @property
    def missing(self) -> int:
        """How many are not kept."""
        return sum(pixels is None for pixels in self._images)

    def add(self, pixels: np.ndarray) -> None:
        number = len(self._images)
        self._images.append(None)
        self._shapes.append(pixels.shape[:2])
        if self._least is not None and self._limit:
            fits = self.bytes + self._bytes_of([number], self.area) <= self._limit
            if not fits and self.area > LEAST_AREA:
                self._make_room(number)
            pixels = self._part(number, pixels)
        if self.bytes + pixels.nbytes <= self._limit:
            self._images[number] = pixels
            self.bytes += pixels.nbytes
        else:
            self._parts.discard(number)

    def _make_room(self, number: int) -> None:
        """Make parts smaller, down to the least, until an image has a place, too."""
        those = [i for i, pixels in enumerate(self._images) if pixels is not None or i == number]
        area = min(self.area, max(math.prod(self._shapes[i]) for i in those))
        if self._bytes_of(those, LEAST_AREA) > self._limit:
            area = LEAST_AREA  # some will not be kept, of others the least
        while self._bytes_of(those, area) > self._limit and area > LEAST_AREA:
            area *= SHRINK
        if area < self.area:
            self.area = area
            for i, pixels in enumerate(self._images):  # one at a time: for two copies of all there may be no memory
                if pixels is not None:
                    self._images[i] = self._part(i, pixels)
                    del pixels
            self.bytes = sum(pixels.nbytes for pixels in self._images if pixels is not None)

    def _bytes_of(self, numbers: Sequence[int], area: float) -> int:
        return CHANNELS * sum(math.prod(self._size(i, area)) for i in numbers)

    def _size(self, number: int, area: float) -> tuple[int, int]:
        """Of the part of an image: at most the area, of the same proportions, no side below the least."""
        assert self._least is not None
        height, width = self._shapes[number]
        scale = math.sqrt(min(1.0, area / (height * width)))
        rows, columns = (max(min(n, self._least), int(n * scale)) for n in (height, width))
        return rows, columns

    def _part(self, number: int, pixels: np.ndarray) -> np.ndarray:
        """Some place of what is left of an image, as large as may be kept now."""
        height, width = pixels.shape[:2]
        rows, columns = self._size(number, self.area)
        if (rows, columns) == (height, width):
            return pixels
        self._parts.add(number)
        rng = np.random.default_rng((number, height, width))
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        return pixels[top : top + rows, left : left + columns].copy()  # a view would keep the whole
