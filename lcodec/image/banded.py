"""A picture whose pixels come in bands of rows, and are never held as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from lcodec.image.picture import Colour, Picture, backdrop, blended, to_8_bits
from lcodec.image.turning import swaps_sides, turn_bands

# A picture of more pixels is read, coded and written by rows where that is possible.
LARGE_PX = 1 << 25
BAND_ROWS = 256  # that are read at a time


@dataclass(frozen=True, eq=False)
class BandedPicture:
    """Like `Picture` and `Image`, but for its pixels, which can be taken once.

    bands: give the rows from the top, any number at a time: uint8, or uint16 if `deep`, (.., width, channels) for
    `height` rows in all; the channels are gray or R, G, B, and then alpha if there is. height, width in pixels.
    """

    bands: Iterator[np.ndarray]
    height: int
    width: int
    gray: bool = False
    deep: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    has_alpha: bool = False
    name: str = "image"
    file_bytes: int | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, picture: Picture) -> BandedPicture:
        """A picture that is there as a whole."""
        channels = picture.pixels.reshape(picture.height, picture.width, -1)
        if picture.alpha is None:
            bands = (channels[row : row + BAND_ROWS] for row in range(0, picture.height, BAND_ROWS))
        else:
            bands = (
                np.dstack([channels[row : row + BAND_ROWS], picture.alpha[row : row + BAND_ROWS]])
                for row in range(0, picture.height, BAND_ROWS)
            )
        return cls(
            bands,
            picture.height,
            picture.width,
            picture.gray,
            picture.deep,
            picture.icc,
            picture.exif,
            picture.xmp,
            picture.has_alpha,
        )

    @property
    def channels(self) -> int:
        return (1 if self.gray else 3) + self.has_alpha

    @property
    def mode(self) -> str:
        """As `Picture.mode`."""
        return ("L" if self.gray else "RGB") + ("A" if self.has_alpha else "")

    @property
    def raw_bytes(self) -> int:
        """Of all samples."""
        return self.height * self.width * self.channels * (2 if self.deep else 1)

    def without_alpha(self) -> BandedPicture:
        if not self.has_alpha:
            return self
        return replace(self, bands=(band[:, :, :-1] for band in self.bands), has_alpha=False)

    def in_8_bits(self) -> BandedPicture:
        return replace(self, bands=map(to_8_bits, self.bands), deep=False)

    def over(self, colour: Colour) -> BandedPicture:
        """As `Picture.over`."""
        if not self.has_alpha:
            return self
        behind = backdrop(colour, self.gray)
        bands = (blended(band[:, :, :-1], band[:, :, -1], behind) for band in self.bands)
        return replace(self, bands=bands, has_alpha=False)

    def turned(self, orientation: int) -> BandedPicture:
        """As `Picture.turned`; see `turn_bands` for what that takes."""
        height, width = (self.width, self.height) if swaps_sides(orientation) else (self.height, self.width)
        bands = turn_bands(self.bands, orientation, self.height, self.width)
        return replace(self, bands=bands, height=height, width=width)

    def ahead(self) -> BandedPicture:
        """The next band is made on another thread while one is worked on."""
        return replace(self, bands=_ahead(self.bands))

    def whole(self) -> Picture:
        """All of it in memory."""
        pixels = np.empty((self.height, self.width, 1 if self.gray else 3), np.uint16 if self.deep else np.uint8)
        alpha = np.empty(pixels.shape[:2], pixels.dtype) if self.has_alpha else None
        row = 0
        for band in self.bands:
            pixels[row : row + len(band)] = band[:, :, : pixels.shape[2]]
            if alpha is not None:
                alpha[row : row + len(band)] = band[:, :, -1]
            row += len(band)
        return Picture(pixels[:, :, 0] if self.gray else pixels, alpha, self.icc, self.exif, self.xmp)


def _ahead(bands: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, bands, None)
        while (band := coming.result()) is not None:
            coming = pool.submit(next, bands, None)
            yield band


def regrouped(bands: Iterator[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """The same rows, so many at a time, the last ones fewer."""
    held: list[np.ndarray] = []
    missing = rows
    for band in bands:
        while len(band) >= missing:
            yield np.concatenate([*held, band[:missing]]) if held else band[:missing]
            held, band, missing = [], band[missing:], rows
        if len(band):
            held.append(band)
            missing -= len(band)
    if held:
        yield np.concatenate(held)
