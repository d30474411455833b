"""What a picture is to this program: samples, alpha and the metadata that go with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from lcodec.errors import InputError, UsageError
from lcodec.image.turning import turn

P = TypeVar("P", bound="Pictured")
Q = TypeVar("Q", bound="Picture")
Colour = tuple[int, int, int]  # R, G, B, each 0 to 255
_ROWS_TO_BLEND = 64  # at a time, for they take 32 bits a sample meanwhile


class Pictured(Protocol):
    """What a picture is, whether its pixels are there or come in bands. See `Picture`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def icc(self) -> bytes | None: ...
    @property
    def exif(self) -> bytes | None: ...
    @property
    def xmp(self) -> bytes | None: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def gray(self) -> bool: ...
    @property
    def deep(self) -> bool: ...
    @property
    def has_alpha(self) -> bool: ...
    def without_alpha(self: P) -> P: ...
    def in_8_bits(self: P) -> P: ...
    def over(self: P, colour: Colour) -> P: ...
    def turned(self: P, orientation: int) -> P: ...


@dataclass(frozen=True, eq=False)
class Picture:
    """Samples and what belongs to them.

    pixels: uint8, or uint16 over the full range to 65535; (H, W, 3) RGB or (H, W) gray. alpha: (H, W) of the same type,
    straight (not multiplied into the colours), or None. icc, exif (from its TIFF header on), xmp: bytes as they are in
    files, or None. Without icc the colour space is sRGB. Raises InputError for other shapes and types.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype not in (np.uint8, np.uint16):
            raise InputError(f"samples of type {dtype}, not uint8 or uint16")
        if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)) or 0 in shape:
            raise InputError(f"pixels of shape {shape}, not (height, width) or (height, width, 3)")
        if self.alpha is not None and (self.alpha.shape != shape[:2] or self.alpha.dtype != dtype):
            raise InputError(
                f"alpha is {self.alpha.dtype} {self.alpha.shape}, not {dtype} {shape[:2]} as the pixels are"
            )

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def gray(self) -> bool:
        return self.pixels.ndim == 2

    @property
    def deep(self) -> bool:
        """Whether samples have 16 bits."""
        return bool(self.pixels.dtype == np.uint16)

    @property
    def mode(self) -> str:
        """L, LA, RGB or RGBA, as Pillow names them; the same for 8 and 16 bits."""
        return ("L" if self.gray else "RGB") + ("" if self.alpha is None else "A")

    @property
    def has_alpha(self) -> bool:
        return self.alpha is not None

    @property
    def raw_bytes(self) -> int:
        """Of all samples."""
        return self.pixels.nbytes + (0 if self.alpha is None else self.alpha.nbytes)

    def without_alpha(self: Q) -> Q:
        return replace(self, alpha=None)

    def in_8_bits(self: Q) -> Q:
        return self._mapped(to_8_bits)

    def over(self: Q, colour: Colour) -> Q:
        """Without alpha, in front of a colour. Raises UsageError for gray in front of one that is not gray."""
        if self.alpha is None:
            return self
        behind, pixels = backdrop(colour, self.gray), np.empty_like(self.pixels)
        for row in range(0, self.height, _ROWS_TO_BLEND):
            part = slice(row, row + _ROWS_TO_BLEND)
            pixels[part] = blended(self.pixels[part], self.alpha[part], behind)
        return replace(self, pixels=pixels, alpha=None)

    def turned(self: Q, orientation: int) -> Q:
        """As orientation 1 to 8 says that stored pixels are seen; the metadata stay as they are."""
        return self._mapped(lambda samples: turn(samples, orientation))

    def _mapped(self: Q, change: Callable[[np.ndarray], np.ndarray]) -> Q:
        alpha = None if self.alpha is None else change(self.alpha)
        return replace(self, pixels=change(self.pixels), alpha=alpha)

    def rgb8(self) -> np.ndarray:
        """uint8 (H, W, 3), without alpha: gray three times, 16 bits rounded to 8."""
        pixels = to_8_bits(self.pixels)
        return np.repeat(pixels[:, :, None], 3, axis=2) if self.gray else pixels


def backdrop(colour: Colour, gray: bool) -> np.ndarray:
    """A colour as `blended` takes it."""
    if gray and len(set(colour)) > 1:
        raise UsageError("a gray picture has no place for a background in colour", "one of gray, say white, goes")
    return np.array(colour[0] if gray else colour, np.uint32)


def blended(samples: np.ndarray, alpha: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """uint8 or uint16 (H, W) or (H, W, channels) in front of a colour, to the nearest; alpha: straight, (H, W)."""
    top = np.uint32(np.iinfo(samples.dtype).max)
    opacity = alpha.astype(np.uint32).reshape(*alpha.shape, *[1] * (samples.ndim - 2))
    sums = samples * opacity + behind * (top // 255) * (top - opacity)  # at most 65535^2, and a half more
    return ((sums + top // 2) // top).astype(samples.dtype)


def to_8_bits(samples: np.ndarray) -> np.ndarray:
    """uint16 of any shape to the nearest uint8; uint8 stays what it is."""
    if samples.dtype == np.uint8:
        return samples
    # 65535 = 255 * 257, so the nearest is a division by 257, rounded
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_16_bits(samples: np.ndarray) -> np.ndarray:
    """uint8 of any shape to uint16, 255 to 65535; uint16 stays what it is."""
    return samples if samples.dtype == np.uint16 else samples * np.uint16(257)
