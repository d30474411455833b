"""Transforms over images of any size: tiles with a halo as wide as the receptive field.

A convolution does not see beyond its receptive field, so a tile that is computed with enough of its surroundings
and then trimmed equals the same part of the whole (but for float rounding). At the border of the image a tile ends
where the image ends, so zero padding is as in one pass. Memory is bounded by the tile where the arrays come and go in
bands, by the arrays otherwise; the tiles are the same either way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcodec.nets.config import DOWNSAMPLING_Y

from .bands import Bands

if TYPE_CHECKING:
    from . import Transforms

TILE_LATENTS = 64  # side of a tile: 1024 pixels
# Reach of g_a and g_s in latents, rounded up; test_tiling measures that nothing beyond it matters.
HALO_LATENTS = {"gdn": 3, "residual": 8, "attention": 16, "shuffle": 4}
HYPER_HALO_LATENTS = 8  # reach of h_a, rounded up to whole positions of z: 7, or 1 + 1 + 1 + 2 + 2 of 3x3
Z_LATENTS = 4  # side of a position of z

Span = tuple[int, int, int, int]  # first and last + 1 with halo, first and last + 1 without


class Box(NamedTuple):
    """A rectangle of latents: rows top .. bottom - 1, columns left .. right - 1."""

    top: int
    bottom: int
    left: int
    right: int


def spans(first: int, last: int, size: int, halo: int) -> Iterator[Span]:
    """Tiles of first .. last - 1, with a halo that ends where the image of `size` latents ends."""
    for start in range(first, last, TILE_LATENTS):
        end = min(start + TILE_LATENTS, last)
        yield max(0, start - halo), min(size, end + halo), start, end


def halo_box(transforms: Transforms, box: Box, rows: int, columns: int) -> Box:
    """What g_s needs of y_hat, an image of rows x columns latents, to give the pixels of `box`."""
    halo = transforms.halo
    return Box(
        max(0, box.top - halo), min(rows, box.bottom + halo), max(0, box.left - halo), min(columns, box.right + halo)
    )


def analyse_bands(transforms: Transforms, pixels: Bands, rows: int, columns: int) -> Iterator[np.ndarray]:
    """g_a of an image -> float32 (rows, columns, M), a tile high each, gains not applied.

    pixels: uint8 or uint16, full range, (16 rows, 16 columns, 3), or one channel for three equal ones.
    """
    halo, s = transforms.halo, DOWNSAMPLING_Y
    for r0, r1, top, bottom in spans(0, rows, rows, halo):
        y = np.empty((bottom - top, columns, transforms.config.M), np.float32)
        for c0, c1, left, right in spans(0, columns, columns, halo):
            out = transforms.analyse(pixels.block(r0 * s, r1 * s, c0 * s, c1 * s))
            y[:, left:right] = out[top - r0 : bottom - r0, left - c0 : right - c0]
        pixels.forget((bottom - halo) * s)
        yield y


def hyper_analyse_block(
    transforms: Transforms, y: Bands, gain: NDArray[np.float32], box: Box, rows: int, columns: int
) -> np.ndarray:
    """h_a of y * gain -> float32 (box height / 4, box width / 4, N) of `box`, whose edges lie on multiples of 4.

    y: float32 (rows, columns, M); gain: (M,).
    """
    halo = HYPER_HALO_LATENTS
    r0, r1 = max(0, box.top - halo), min(rows, box.bottom + halo)
    c0, c1 = max(0, box.left - halo), min(columns, box.right + halo)
    z = transforms.hyper_analyse(y.block(r0, r1, c0, c1) * gain)
    z0, z1 = (box.top - r0) // Z_LATENTS, (box.left - c0) // Z_LATENTS
    height, width = (box.bottom - box.top) // Z_LATENTS, (box.right - box.left) // Z_LATENTS
    return np.ascontiguousarray(z[z0 : z0 + height, z1 : z1 + width])


def synthesise_bands(
    transforms: Transforms,
    y_hat: Bands,
    rows: int,
    columns: int,
    box: Box,
    origin: tuple[int, int],
    scale: NDArray[np.float32],
    *,
    gray: bool = False,
    deep: bool = False,
) -> Iterator[np.ndarray]:
    """g_s of y_hat * scale -> (height, width, 3) of `box`, a tile high each; uint8, or uint16 if `deep`.

    y_hat: int32 (.., .., M), whose first row and column are `origin` in an image of rows x columns latents; it covers
    `halo_box`. scale: (M,), turns its fixed point into what g_s takes. Pixels are clamped and rounded.
    gray: one channel, the mean of the three, clamped before, rounded after.
    """
    dtype = np.uint16 if deep else np.uint8
    halo, s = transforms.halo, DOWNSAMPLING_Y
    row_origin, column_origin = origin
    for r0, r1, top, bottom in spans(box.top, box.bottom, rows, halo):
        pixels = np.empty(((bottom - top) * s, (box.right - box.left) * s, 1 if gray else 3), dtype)
        for c0, c1, left, right in spans(box.left, box.right, columns, halo):
            block = y_hat.block(r0 - row_origin, r1 - row_origin, c0 - column_origin, c1 - column_origin)
            out = transforms.synthesise(block, scale, gray=gray, deep=deep)
            pixels[:, (left - box.left) * s : (right - box.left) * s] = out[
                (top - r0) * s : (bottom - r0) * s, (left - c0) * s : (right - c0) * s
            ]
        y_hat.forget(bottom - halo - row_origin)
        yield pixels


def tiled_synthesis(
    transforms: Transforms, y_hat: np.ndarray, scale: NDArray[np.float32], *, gray: bool = False, deep: bool = False
) -> np.ndarray:
    """g_s of int32 (H/16, W/16, M) * scale -> (H, W, 3), or (H, W, 1) if `gray`; see `synthesise_bands`."""
    rows, columns = y_hat.shape[:2]
    box = Box(0, rows, 0, columns)
    bands = synthesise_bands(
        transforms, Bands(iter([y_hat])), rows, columns, box, (0, 0), scale, gray=gray, deep=deep
    )
    return np.concatenate(list(bands))
