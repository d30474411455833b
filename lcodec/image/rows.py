"""Image files to pictures that come in bands of rows, for those too large to hold.

Pillow reads what lies beside the pixels, as for all other pictures. The rows of a binary PPM or PGM are read as they
lie there; those of PNG, JPEG, TIFF and WebP by libvips, where pyvips is installed.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from lcodec.errors import InputError
from lcodec.image.banded import BAND_ROWS, BandedPicture
from lcodec.image.deep import raw_modes
from lcodec.image.guard import open_image, usual_limit
from lcodec.image.metadata import read_exif
from lcodec.image.orientation import as_upright
from lcodec.image.read import check_png, frames, has_more, open_binary, own_profile, own_xmp, reading, too_large

_BY_VIPS = ("PNG", "JPEG", "TIFF", "WEBP")
# How the samples lie in the file, as Pillow calls it without ";16B" and the like, and how many there are a pixel.
_CHANNELS = {"L": 1, "I": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_PHOTOMETRIC, _ORIENTATION = 262, 274
_BLACK_IS_ZERO_OR_RGB = (1, 2)
_PAGES = ("TIFF", "MPO")  # of these libvips takes the first picture, as Pillow does


class NotByRows(InputError):
    """The picture is there, but can only be read as a whole; the message says why."""


def open_rows(source: Path | bytes, *, name: str, limit_pixels: int | None = None) -> BandedPicture:
    """The picture of a file, or of its bytes, as `read_image` gives it without turning it.

    limit_pixels: refuse larger pictures; by default `usual_limit`. Raises InputError, also while bands are drawn, and
    NotByRows.
    """
    limit_pixels = usual_limit() if limit_pixels is None else limit_pixels
    file_bytes = len(source) if isinstance(source, bytes) else os.path.getsize(source)
    with reading(name, source), open_image(source, limit_pixels) as image:
        if limit_pixels is not None and image.width * image.height > limit_pixels:
            raise too_large(name, f"{image.width}x{image.height} pixels, more than {limit_pixels}")
        channels, deep = _samples(image, source, name)
        told = ["only the first frame is used"] if has_more(image, source, limit_pixels) else []
        gray = channels <= 2
        height, width = _stored_size(image)
        icc = own_profile(image, image.info.get("icc_profile") or None, gray, told, source)
        if image.format == "PPM":
            bands = _ppm_bands(source, _offset(image), height, width, channels, deep)
        else:
            bands = _vips_bands(source, str(image.format), (width, height, channels), deep)
        picture = BandedPicture(
            _told(bands, name, source),
            height,
            width,
            gray,
            deep,
            icc,
            read_exif(image, told),
            own_xmp(image, told, source),
            channels in (2, 4),
            name,
            file_bytes,
            tuple(told),
        )
        if image.format == "TIFF":
            stored = image.getexif().get(_ORIENTATION, 1)
            picture = as_upright(picture.turned(stored) if stored in range(2, 9) else picture)
        return picture


def _samples(image: PIL.Image.Image, source: Path | bytes, name: str) -> tuple[int, bool]:
    """Channels, and whether they have 16 bits. Raises NotByRows for what libvips and Pillow might read differently."""
    kind = image.format
    raws = set(raw_modes(image))
    if kind == "WEBP":
        raws = {image.mode}
    base, _, bits = raws.pop().partition(";") if len(raws) == 1 else ("", "", "")
    deep = bits in ("16", "16B", "16L", "16N")
    if kind == "PPM":
        codec, args = image.tile[0][0], image.tile[0][3]  # type: ignore[attr-defined]
        if codec == "ppm" and 65535 in args:
            deep = True
        elif codec != "raw":
            raise NotByRows("only binary PPM with 255 or 65535 levels is read by rows")
    elif kind not in _BY_VIPS and kind != "MPO":
        raise NotByRows(f"{kind} is not read by rows")
    if base not in _CHANNELS or (bits and not deep) or "transparency" in image.info:
        raise NotByRows(f"{image.mode} of this kind of {kind} is not read by rows")
    if kind == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) not in _BLACK_IS_ZERO_OR_RGB:  # type: ignore[attr-defined]
        raise NotByRows("the colours of this TIFF are not read by rows")
    if kind not in ("PPM", *_PAGES) and frames(image) > 1:
        raise NotByRows("a moving picture is not read by rows")
    if kind == "PNG":
        with open_binary(source) as file:
            if check_png(file, name) or image.info.get("interlace"):
                raise NotByRows("a PNG that is interlaced, or has metadata behind the pixels, is not read by rows")
    if kind != "PPM" and importlib.util.find_spec("pyvips") is None:
        raise NotByRows("pip install pyvips pyvips-binary lets it be read by rows")
    return _CHANNELS[base], deep


def _told(bands: Iterator[np.ndarray], name: str, source: Path | bytes) -> Iterator[np.ndarray]:
    """The same, with errors that name the file."""
    with reading(name, source):
        yield from bands


def _stored_size(image: PIL.Image.Image) -> tuple[int, int]:
    """Height and width of the rows in the file; those of a TIFF Pillow gives as it will turn them."""
    if image.format == "TIFF":
        return int(image.tag_v2[257]), int(image.tag_v2[256])  # type: ignore[attr-defined]
    return image.height, image.width


def _offset(image: PIL.Image.Image) -> int:
    return int(image.tile[0][2])  # type: ignore[attr-defined]


def _ppm_bands(
    source: Path | bytes, offset: int, height: int, width: int, channels: int, deep: bool
) -> Iterator[np.ndarray]:
    dtype = np.dtype(">u2" if deep else np.uint8)
    with open_binary(source) as file:
        file.seek(offset)
        for row in range(0, height, BAND_ROWS):
            rows = min(BAND_ROWS, height - row)
            count = rows * width * channels
            data = file.read(count * dtype.itemsize)
            if len(data) < count * dtype.itemsize:
                raise EOFError("the file ends before the picture does")
            yield np.frombuffer(data, dtype).reshape(rows, width, channels).astype(dtype.newbyteorder("="), copy=False)


def _vips_bands(source: Path | bytes, kind: str, shape: tuple[int, int, int], deep: bool) -> Iterator[np.ndarray]:
    """shape: width, height, channels that the picture must have."""
    import pyvips

    logging.getLogger("pyvips").setLevel(logging.ERROR)  # what is odd about a file is for Pillow to say
    load = {"PNG": "pngload", "JPEG": "jpegload", "MPO": "jpegload", "TIFF": "tiffload", "WEBP": "webpload"}[kind]
    load += "_source"
    options = {"access": "sequential", "fail_on": "truncated"}
    # How much a picture may be is asked elsewhere; libvips would refuse large compressed strips, say.
    unlimited = {"unlimited": True} if "unlimited" in pyvips.Introspect.get(load).optional_input else {}
    where = pyvips.Source.new_from_memory(source) if isinstance(source, bytes) else pyvips.Source.new_from_file(source)
    image = getattr(pyvips.Image, load)(where, **options, **unlimited)
    dtype = np.uint16 if deep else np.uint8
    if (image.width, image.height, image.bands) != shape or image.format != ("ushort" if deep else "uchar"):
        raise ValueError(f"libvips finds {image.width}x{image.height} pixels of {image.bands} {image.format}")
    region = pyvips.Region.new(image)
    for row in range(0, image.height, BAND_ROWS):
        rows = min(BAND_ROWS, image.height - row)
        data: Any = region.fetch(0, row, image.width, rows)
        yield np.frombuffer(data, dtype).reshape(rows, image.width, image.bands)
