"""A picture whose pixels come in bands of rows, and are never held as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class BandedPicture:
    """Like `Picture`, but for its pixels and for alpha, which it does not have.

    bands: give the rows once, from the top, any number at a time: uint8, or uint16 if `deep`, (.., width, 3), or
    (.., width, 1) if `gray`. height, width in pixels.
    """

    bands: Iterator[np.ndarray]
    height: int
    width: int
    gray: bool = False
    deep: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
