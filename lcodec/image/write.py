"""Pictures to image files, with all that the format can hold; `fit` tells what it cannot."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import PIL.PngImagePlugin

from lcodec.atomic import write_atomically
from lcodec.errors import UsageError
from lcodec.image.banded import BandedPicture
from lcodec.image.formats import check_tiff, write_png, write_ppm, write_tiff
from lcodec.image.metadata import EXIF_PREFIX, tiff_tags
from lcodec.image.orientation import orientation, upright
from lcodec.image.picture import P, Picture, Pictured, to_8_bits
from lcodec.image.profile import colour_space

_FORMATS = {
    ".png": "PNG",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
OUTPUT_SUFFIXES = tuple(_FORMATS)
_HOLD_ALPHA = {"PNG", "WEBP", "TIFF"}
_HOLD_DEEP = {"PNG", "TIFF", "PPM"}
_HOLD_METADATA = {"PNG", "JPEG", "WEBP", "TIFF"}
_HAVE_QUALITY = {"JPEG", "WEBP"}
_BY_ROWS: dict[str, Callable[[BinaryIO, BandedPicture], None]] = {
    "PNG": write_png,
    "PPM": write_ppm,
    "TIFF": write_tiff,
}
# Lossless where the format can be; for JPEG so good that its error stays far below the codec's own.
_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "PNG": {"compress_level": 3},  # 2 % larger than at 6, in 42 ms instead of 110 (Kodak)
}
_SIDE_MAX = {"JPEG": 65535, "WEBP": 16383}  # pixels
_BMP_MAX_BYTES = (1 << 32) - 1
# A JPEG's segment has 65,533 bytes, some of them for a name; an ICC profile may take 255 segments.
_JPEG_LIMITS = {"exif": 65533 - len(EXIF_PREFIX), "xmp": 65533 - 29, "icc": 255 * 65519}
_NAMES = {"icc": "the colour profile", "exif": "EXIF", "xmp": "XMP"}


def fit(picture: P, suffix: str) -> tuple[P, list[str]]:
    """What the format of `suffix` can hold of a picture, and what is lost by that, in words.

    An orientation that the format has no place for is applied. Raises UsageError for a suffix that is not in
    OUTPUT_SUFFIXES, and for colour in a PGM.
    """
    kind = format_of(suffix)
    _refuse_colour(picture.gray, suffix)
    lost = []
    if picture.has_alpha and kind not in _HOLD_ALPHA:
        picture = picture.without_alpha()
        lost.append("alpha")
    if picture.deep and kind not in _HOLD_DEEP:
        picture = picture.in_8_bits()
        lost.append("16 bits a sample")
    for name, title in _NAMES.items():
        data = getattr(picture, name)
        if data is not None and not _can_hold(kind, name, data):
            nothing: dict[str, Any] = {name: None}
            rest = replace(picture, **nothing)
            said = orientation(rest) == orientation(picture)  # by what stays
            picture = rest if said else replace(upright(picture), **nothing)
            lost.append(title)
    return picture, [f"{kind} cannot hold {_listed(lost)}"] if lost else []


def check_fits(height: int, width: int, gray: bool, deep: bool, suffix: str) -> None:
    """Raise UsageError where the format of `suffix` has no place for such a picture, as far as that shows without it.

    Either side may be the height: what is refused is so for the turned picture, too.
    """
    kind = format_of(suffix)
    _refuse_colour(gray, suffix)
    samples = height * width * (1 if gray else 3)
    if max(height, width) > _SIDE_MAX.get(kind, 1 << 31) or (kind == "BMP" and samples > _BMP_MAX_BYTES):
        raise _too_large(height, width, kind)
    if kind == "TIFF":
        check_tiff(samples * (2 if deep else 1))


def check_quality(suffix: str) -> None:
    """Raise UsageError where the format of `suffix` has no quality to choose."""
    kind = format_of(suffix)
    if kind not in _HAVE_QUALITY:
        raise UsageError(f"{kind} has no quality: it is written without loss", "jpg and webp have one")


def is_by_rows(suffix: str) -> bool:
    """Whether `write_bands` holds some rows only, and not the picture, in the format of `suffix`."""
    return format_of(suffix) in _BY_ROWS


def image_bytes(picture: Picture | np.ndarray, suffix: str, quality: int | None = None) -> bytes:
    """The file that holds a picture, or pixels alone, in the format of `suffix` (".png", ".jpg", ...).

    What the format cannot hold is left out, see `fit`. quality: 1 to 100 for JPEG, and for WebP, which is lossless
    without; see `check_quality`. Raises UsageError for a suffix that is not in OUTPUT_SUFFIXES and for sizes that the
    format cannot hold.
    """
    kind = format_of(suffix)
    picture, _ = fit(picture if isinstance(picture, Picture) else Picture(picture), suffix)
    buffer = io.BytesIO()
    if kind == "TIFF":
        write_tiff(buffer, BandedPicture.of(picture), quick=False)
    elif picture.deep and kind == "PNG":
        write_png(buffer, BandedPicture.of(picture), quick=False)
    elif picture.deep:
        write_ppm(buffer, BandedPicture.of(picture))
    else:
        _save(_joined(picture), buffer, kind, _options(picture, kind, quality))
    return buffer.getvalue()


def write_bands(file: BinaryIO, picture: BandedPicture, suffix: str, quality: int | None = None) -> None:
    """Write the file that holds a picture as its bands come, to where `file` stands, which can be gone back in.

    PNG, PPM and TIFF take the memory of some rows. For the others Pillow holds the picture, with 4 bytes a pixel.
    quality: as for `image_bytes`. Raises UsageError like it, and what its bands raise.
    """
    kind = format_of(suffix)
    picture, _ = fit(picture, suffix)
    check_fits(picture.height, picture.width, picture.gray, picture.deep, suffix)
    if kind in _BY_ROWS:
        _BY_ROWS[kind](file, picture)
        return
    image = PIL.Image.new(picture.mode, (picture.width, picture.height))
    row = 0
    for band in picture.bands:
        image.paste(PIL.Image.fromarray(band[:, :, 0] if picture.channels == 1 else band), (0, row))
        row += len(band)
    _save(image, file, kind, _options(picture, kind, quality))


def _save(image: PIL.Image.Image, file: BinaryIO, kind: str, options: dict[str, Any]) -> None:
    try:
        image.save(file, format=kind, **options)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:  # of the system, say a full disk, and not of the format
            raise
        raise _too_large(image.height, image.width, kind) from error


def write_image(path: str | os.PathLike[str], picture: Picture | np.ndarray, overwrite: bool = False) -> None:
    """Write a picture in the format of the name's ending, whole or not at all.

    Raises OutputError, and UsageError like image_bytes.
    """
    write_atomically(path, image_bytes(picture, Path(path).suffix), overwrite)


def to_pillow(picture: Picture) -> PIL.Image.Image:
    """A Pillow image with the metadata in its `info` as Pillow's own readers have them.

    Its mode is L, LA, RGB or RGBA; for 16-bit gray without alpha I;16. Pillow has no other modes of 16 bits, so what
    would need one is rounded to 8.
    """
    if picture.deep and picture.gray and picture.alpha is None:
        image = PIL.Image.fromarray(picture.pixels)
    else:
        alpha = None if picture.alpha is None else to_8_bits(picture.alpha)
        image = _joined(replace(picture, pixels=to_8_bits(picture.pixels), alpha=alpha))
    if picture.icc is not None:
        image.info["icc_profile"] = picture.icc
    if picture.exif is not None:
        image.info["exif"] = EXIF_PREFIX + picture.exif
    if picture.xmp is not None:
        image.info["xmp"] = picture.xmp
    return image


def pillow_mode(gray: bool, deep: bool, alpha: bool) -> str:
    """The mode that `to_pillow` makes."""
    if gray and deep and not alpha:
        return "I;16"
    return ("L" if gray else "RGB") + ("A" if alpha else "")


def format_of(suffix: str) -> str:
    kind = _FORMATS.get(suffix.lower())
    if kind is None:
        known = " ".join(OUTPUT_SUFFIXES)
        raise UsageError(f"no image format for the name's ending {suffix or '(none)'!r}", hint=f"known are {known}")
    return kind


def _joined(picture: Picture) -> PIL.Image.Image:
    if picture.alpha is None:
        return PIL.Image.fromarray(picture.pixels)
    return PIL.Image.fromarray(np.dstack([picture.pixels, picture.alpha]))


def _can_hold(kind: str, name: str, data: bytes) -> bool:
    if kind not in _HOLD_METADATA:
        return False
    if kind == "JPEG":
        return len(data) <= _JPEG_LIMITS[name]
    if kind == "WEBP" and name == "icc":  # its pixels are in colour always
        return colour_space(data) != "GRAY"
    if kind == "PNG" and name == "xmp":  # as text
        return _is_text(data)
    if kind == "TIFF" and name == "exif":
        try:
            tiff_tags(data).tobytes(0)
        except Exception:  # Pillow raises nearly anything for damaged tags
            return False
    return True


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _refuse_colour(gray: bool, suffix: str) -> None:
    if suffix.lower() == ".pgm" and not gray:
        raise UsageError("a .pgm file holds gray only", ".ppm is for colour")


def _too_large(height: int, width: int, kind: str) -> UsageError:
    return UsageError(f"{kind} cannot hold {width}x{height} pixels", hint="png can")


def _options(picture: Pictured, kind: str, quality: int | None) -> dict[str, Any]:
    """Arguments of Pillow's save, with the metadata."""
    options: dict[str, Any] = dict(_SAVE_OPTIONS.get(kind, {}))
    if quality is not None:
        options |= {"quality": quality, "lossless": False}
    if picture.icc is not None:
        options["icc_profile"] = picture.icc
    if picture.exif is not None:
        options["exif"] = EXIF_PREFIX + picture.exif
    if picture.xmp is not None and kind == "PNG":
        text = PIL.PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8"))
        options["pnginfo"] = text
    elif picture.xmp is not None:
        options["xmp"] = picture.xmp
    return options


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]
