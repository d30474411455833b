"""Where crops are cut: two places of an image that show what codecs do to it.

By the structure tensor over 9 x 9 pixels, with eigenvalues l1 >= l2 at each pixel: the place "structure" has the
greatest mean of sqrt(l1) - sqrt(l2), which is high on edges, contours and lettering; "texture" the greatest mean of
sqrt(l2) apart from that, which is high on leaves, hair and fabric.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

CROP_SIDE = 128
WINDOW = 9
STRIDE = 8


class Place(NamedTuple):
    """A rectangle of an image, in pixels."""

    kind: Literal["structure", "texture"]
    x: int
    y: int
    width: int
    height: int

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]


def choose_places(pixels: np.ndarray, side: int = CROP_SIDE) -> list[Place]:
    """One or two places of side x side pixels, less in a small image, that do not overlap. pixels: uint8 (H, W, 3)."""
    height, width = min(side, pixels.shape[0]), min(side, pixels.shape[1])
    structure, texture = (_box_mean(score, height, width)[::STRIDE, ::STRIDE] for score in _scores(pixels))
    row, column = _argmax(structure)
    first = Place("structure", column * STRIDE, row * STRIDE, width, height)
    tops = STRIDE * np.arange(texture.shape[0])[:, None]
    lefts = STRIDE * np.arange(texture.shape[1])[None, :]
    apart = (abs(tops - first.y) >= height) | (abs(lefts - first.x) >= width)
    if not apart.any():
        return [first]
    row, column = _argmax(np.where(apart, texture, -1.0))
    return [first, Place("texture", column * STRIDE, row * STRIDE, width, height)]


def _scores(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structure and texture at each pixel, float32 (H, W)."""
    luma = np.pad(pixels @ np.array([0.299, 0.587, 0.114], np.float32), WINDOW // 2 + 1, mode="edge")
    dy = (luma[2:, 1:-1] - luma[:-2, 1:-1]) / 2
    dx = (luma[1:-1, 2:] - luma[1:-1, :-2]) / 2
    yy, xx, xy = (_box_mean(product, WINDOW, WINDOW) for product in (dy * dy, dx * dx, dx * dy))
    spread = np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    large = np.sqrt((xx + yy) / 2 + spread)
    small = np.sqrt(np.maximum((xx + yy) / 2 - spread, 0))
    return large - small, small


def _box_mean(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over all windows that lie inside: (H - height + 1, W - width + 1)."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    np.cumsum(np.cumsum(values, 0, dtype=np.float64), 1, out=sums[1:, 1:])
    whole = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    return whole / (height * width)


def _argmax(values: np.ndarray) -> tuple[int, int]:
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    return int(row), int(column)
