"""Pictures to image files, with all that the format can hold; `fit` tells what it cannot."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import PIL.PngImagePlugin

from lcodec.atomic import write_atomically
from lcodec.errors import UsageError
from lcodec.image.banded import BandedPicture
from lcodec.image.formats import write_png, write_ppm, write_tiff
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
# Lossless where the format can be; for JPEG so good that its error stays far below the codec's own.
_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "PNG": {"compress_level": 3},  # 2 % larger than at 6, in 42 ms instead of 110 (Kodak)
}
_SIDE_MAX = {"JPEG": 65535, "WEBP": 16383}  # pixels
# A JPEG's segment has 65,533 bytes, some of them for a name; an ICC profile may take 255 segments.
_JPEG_LIMITS = {"exif": 65533 - len(EXIF_PREFIX), "xmp": 65533 - 29, "icc": 255 * 65519}
_NAMES = {"icc": "the colour profile", "exif": "EXIF", "xmp": "XMP"}


def fit(picture: P, suffix: str) -> tuple[P, list[str]]:
    """What the format of `suffix` can hold of a picture, and what is lost by that, in words.

    An orientation that the format has no place for is applied. Raises UsageError for a suffix that is not in
    OUTPUT_SUFFIXES, and for colour in a PGM.
    """
    kind = format_of(suffix)
    if suffix.lower() == ".pgm" and not picture.gray:
        raise UsageError("a .pgm file holds gray only", ".ppm is for colour")
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


def image_bytes(picture: Picture | np.ndarray, suffix: str) -> bytes:
    """The file that holds a picture, or pixels alone, in the format of `suffix` (".png", ".jpg", ...).

    What the format cannot hold is left out, see `fit`. Raises UsageError for a suffix that is not in OUTPUT_SUFFIXES
    and for sizes that the format cannot hold.
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
        try:
            _joined(picture).save(buffer, format=kind, **_options(picture, kind))
        except (OSError, ValueError) as error:
            raise _too_large(picture, kind) from error
    return buffer.getvalue()


def write_bands(file: BinaryIO, picture: BandedPicture, suffix: str) -> None:
    """Write the file that holds a picture as its bands come, to where `file` stands, which can be gone back in.

    PNG, PPM and TIFF take the memory of some rows. For the others Pillow holds the picture, with 4 bytes a pixel.
    Raises UsageError like image_bytes, and what its bands raise.
    """
    kind = format_of(suffix)
    picture, _ = fit(picture, suffix)
    writer = {"PNG": write_png, "PPM": write_ppm, "TIFF": write_tiff}.get(kind)
    if writer is not None:
        writer(file, picture)
        return
    if max(picture.height, picture.width) > _SIDE_MAX.get(kind, 1 << 31):
        raise _too_large(picture, kind)
    image = PIL.Image.new(picture.mode, (picture.width, picture.height))
    row = 0
    for band in picture.bands:
        image.paste(PIL.Image.fromarray(band[:, :, 0] if picture.channels == 1 else band), (0, row))
        row += len(band)
    image.save(file, format=kind, **_options(picture, kind))


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


def _too_large(picture: Pictured, kind: str) -> UsageError:
    return UsageError(f"{kind} cannot hold {picture.width}x{picture.height} pixels", hint="png can")


def _options(picture: Pictured, kind: str) -> dict[str, Any]:
    """Arguments of Pillow's save, with the metadata."""
    options: dict[str, Any] = dict(_SAVE_OPTIONS.get(kind, {}))
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
