"""Rectangles of a picture in pixels."""

from __future__ import annotations

import operator
from typing import NamedTuple

from lcodec.container import Header
from lcodec.errors import UsageError
from lcodec.header import PIXELS_PER_LATENT


class Region(NamedTuple):
    """Columns x .. x + width - 1 and rows y .. y + height - 1, in pixels from the top left corner."""

    x: int
    y: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"


def parse_region(text: str) -> Region:
    """Of "X,Y,W,H". Raises UsageError."""
    try:
        x, y, width, height = (int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r} is no region", "X,Y,W,H in pixels, for example 0,0,640,480") from None
    return Region(x, y, width, height)


def check_region(header: Header, region: tuple[int, int, int, int] | None) -> Region:
    """The region, or the whole picture for None. Raises UsageError for what is empty, not inside, or no region."""
    if region is None:
        return Region(0, 0, header.width, header.height)
    try:
        wanted = Region(*(operator.index(number) for number in region))  # those of numpy would overflow
    except TypeError:
        raise UsageError(f"{region!r} is no region", "four integers: x, y, width, height in pixels") from None
    size = f"an image of {header.width}x{header.height} pixels"
    if wanted.width < 1 or wanted.height < 1:
        raise UsageError(f"region {wanted} is empty", f"X,Y,W,H: width and height of at least 1, inside {size}")
    if (
        wanted.x < 0
        or wanted.y < 0
        or wanted.x + wanted.width > header.width
        or wanted.y + wanted.height > header.height
    ):
        raise UsageError(f"region {wanted} reaches beyond {size}", "X,Y,W,H counts from the top left corner")
    return wanted


def slice_region(header: Header, number: int) -> Region:
    """The pixels of slice `number`, as far as they belong to the picture."""
    side = PIXELS_PER_LATENT << header.slice_log2
    row, column = divmod(number, header.slice_grid[1])
    x, y = column * side, row * side
    return Region(x, y, min(side, header.width - x), min(side, header.height - y))
