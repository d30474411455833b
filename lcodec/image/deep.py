"""Colour of 16 bits a sample, which Pillow decodes but has no mode for: it hands out one byte of each sample.

So a file is decoded twice, once for the high bytes and once, with the byte order the other way round, for the low ones.
All that Pillow reads of PNG and TIFF (interlacing, compression, tiles, planes) is read so, without another library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import PIL.Image

_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_COLOUR = ("RGB;16", "RGBA;16", "RGBa;16", "RGBX;16")
_GRAY_ALPHA = {"LA;16B": ">u2", "LA;16L": "<u2", "LA;16N": "=u2"}
_EXTRA_SAMPLES = 338
# What Pillow does not open at all: gray and alpha of 16 bits in a TIFF (byte order, black is zero, unsigned, bit order,
# bits, meaning of the second sample: unknown, multiplied in, straight). Its names for such samples are made up here, as
# `read_deep` does not ask Pillow to make an image of them.
TIFF_ADDITIONS = {
    (prefix, 1, (1,), 1, (16, 16), (extra,)): ("RGBA", f"LA;16{order}")
    for prefix, order in ((b"II", "L"), (b"MM", "B"))
    for extra in (0, 1, 2)
} | {(b"MM", 0, (1,), 1, (16,), ()): ("I;16B", "I;16B")}  # white is zero, which of the other byte order it knows

Open = Callable[[], PIL.Image.Image]


def raw_modes(image: PIL.Image.Image) -> list[str]:
    """How the samples lie in the file, tile by tile, as far as Pillow has not loaded them: "RGB;16B", "L;4", ..."""
    found = []
    for tile in getattr(image, "tile", ()):
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        found.append(args[0] if args and isinstance(args[0], str) else "")
    return found


def is_deep(image: PIL.Image.Image, raws: list[str]) -> bool:
    """Whether Pillow reduces 16-bit samples, which lie in the file in `raws`, to the 8 bits of its mode."""
    if image.mode.startswith(("I", "F")):
        return False
    # BGR;16 and BGR;15 of a BMP are bits a pixel
    return any(";16" in raw and not raw.startswith("BGR;") for raw in raws) or bool(image.info.get("deep_ppm"))


def read_deep(image: PIL.Image.Image, open_: Open, data: bytes) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Pixels uint16 (H, W, 3) or (H, W) and alpha of a file with 16-bit colour; None for all other files.

    image: opened, not loaded. open_: opens it again. data: the file. Raises what Pillow raises.
    """
    raws = set(raw_modes(image))
    if image.format == "PPM":
        return _read_ppm(image, data)
    if raws and raws <= set(_GRAY_ALPHA):
        # two samples of two bytes, taken for four of one
        both = _load(image, lambda raw: "RGBA").copy().view(_GRAY_ALPHA[raws.pop()])
        gray, alpha = both[..., 0].astype(np.uint16), both[..., 1].astype(np.uint16)
        multiplied = image.format == "TIFF" and image.tag_v2.get(_EXTRA_SAMPLES) == (1,)  # type: ignore[attr-defined]
        return (_divided(gray, alpha) if multiplied else gray), alpha
    if not raws or not all(raw.startswith(_COLOUR) and raw[-1] in _OTHER for raw in raws):
        return None
    straight = {raw: raw.replace("RGBa", "RGBA") for raw in raws}
    high = _load(open_(), lambda raw: straight[raw])
    low = _load(open_(), lambda raw: straight[raw][:-1] + _OTHER[raw[-1]])
    samples = high.astype(np.uint16) << 8 | low
    pixels = np.ascontiguousarray(samples[..., :3])
    if samples.shape[2] == 4 and not any(raw.startswith("RGBX") for raw in raws):
        alpha = samples[..., 3].copy()
        if any(raw.startswith("RGBa") for raw in raws):
            pixels = _divided(pixels, alpha)
        return pixels, alpha
    image.load()  # a PNG has its transparent colour by now
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and len(transparent) == 3:
        return pixels, np.where((pixels == np.array(transparent)).all(axis=2), 0, 65535).astype(np.uint16)
    return pixels, None


def _load(image: PIL.Image.Image, raw_mode: Callable[[str], str]) -> np.ndarray:
    """uint8 (H, W, C), with the samples taken as `raw_mode` says for how they are said to lie."""
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        codec, extents, offset, args = tile
        args = (raw_mode(args[0]), *args[1:]) if isinstance(args, tuple) else raw_mode(args)
        tiles.append(type(tile)(codec, extents, offset, args))
    image.tile = tiles  # type: ignore[attr-defined]
    image.load()
    return np.asarray(image)


def _divided(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours that alpha was multiplied into, without it; those of no alpha at all stay 0."""
    divisor = np.maximum(alpha, 1).astype(np.uint32).reshape(*alpha.shape, *[1] * (pixels.ndim - 2))
    return np.minimum((pixels.astype(np.uint32) * 65535 + divisor // 2) // divisor, 65535).astype(np.uint16)


def _read_ppm(image: PIL.Image.Image, data: bytes) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Colour of a binary PPM above 255; in plain text Pillow reduces it, which `info` remembers."""
    codec, _, offset, args = image.tile[0]  # type: ignore[attr-defined]
    top = max((arg for arg in (args if isinstance(args, tuple) else ()) if isinstance(arg, int)), default=0)
    if image.mode != "RGB" or top <= 255:
        return None
    count = image.width * image.height * 3
    if codec != "ppm" or len(data) < offset + 2 * count:
        image.info["deep_ppm"] = True
        return None
    samples = np.frombuffer(data, ">u2", count, offset).astype(np.uint32).reshape(image.height, image.width, 3)
    return np.minimum((samples * 65535 + top // 2) // top, 65535).astype(np.uint16), None
