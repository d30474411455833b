"""EXIF and XMP out of Pillow's images as they lie in files, and EXIF back into the tags of a TIFF."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import PIL.Image

from lcodec.image.guard import noted_warnings, pillow_warnings

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

EXIF_PREFIX = b"Exif\0\0"  # stands before the TIFF header of EXIF in JPEG
XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"  # and this before XMP
XMP_DAMAGED = "XMP is damaged; it is dropped"
XMP_TAG = 700
_EXIF_IFD, _GPS_IFD, _INTEROP_IFD = 0x8769, 0x8825, 0xA005
_ORIENTATION = 0x0112
_TIFF_HEADS = (b"II*\0", b"MM\0*")
_CLASSIC_TYPES = range(1, 13)  # of TIFF 6.0; 13 is the place of another directory, 16 to 18 are those of BigTIFF
_PLACE = 13
# Tags of a TIFF's own directory that say how its samples lie, where something is, or are blocks of another kind;
# all others describe the picture.
_LAYOUT = frozenset(
    {
        *range(254, 267),  # kind of picture, size, bits, compression, photometric interpretation, order of bits
        273,  # StripOffsets
        *range(277, 282),  # samples, strips, least and greatest sample
        284,  # PlanarConfiguration
        *range(288, 294),  # free space, gray response, options of fax
        297,  # PageNumber
        301,  # TransferFunction
        317,  # Predictor
        *range(320, 329),  # palette, halftones, tiles, fax
        330,  # SubIFDs
        *range(332, 337),  # inks
        *range(338, 348),  # further samples and their format, JPEG tables
        *range(512, 522),  # JPEG, in the first directory of EXIF the thumbnail
        529,  # YCbCrCoefficients
        530,  # YCbCrSubSampling
        532,  # ReferenceBlackWhite
        559,  # StripRowCounts
        XMP_TAG,
        34377,  # resources of Photoshop
        34675,  # ICC profile
        37724,  # layers of Photoshop
        50706,  # DNGVersion, which makes a DNG of a TIFF
        50707,  # DNGBackwardVersion
    }
)
# XResolution, YResolution, ResolutionUnit, Software, YCbCrPositioning: nearly every file has these; alone they are not
# worth a block of EXIF.
_TECHNICAL = {282, 283, 296, 305, 531}


class _Latin(str):
    """Text of a tag for Pillow, which reads bytes as Latin-1 and would write "?" for all beyond ASCII."""

    def encode(self, *_: object) -> bytes:
        return str.encode(self, "latin-1", "replace")


def read_exif(image: PIL.Image.Image, told: list[str]) -> bytes | None:
    """From its TIFF header on, None without any; never raises. told grows by what is damaged, and dropped."""
    try:
        if image.format == "TIFF":
            with noted_warnings() as noted:  # of a damaged tag, without which Pillow goes on
                exif = _tiff_exif(image)
            if noted:
                _tell(told, "tags of the TIFF are damaged; they are dropped")
            return exif
        exif = image.info.get("exif") or _raw_profile(image, "exif") or _raw_exif(image)
    except Exception:  # damaged tags
        _tell(told, "EXIF is damaged; it is dropped")
        return None
    if not isinstance(exif, bytes):
        return None
    return exif.removeprefix(EXIF_PREFIX) or None


def read_xmp(image: PIL.Image.Image, told: list[str]) -> bytes | None:
    """The packet, None without one; never raises. told grows by what is damaged, and dropped."""
    try:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or _raw_profile(image, "xmp")
        if xmp is None and image.format == "TIFF":
            xmp = image.tag_v2.get(XMP_TAG)  # type: ignore[attr-defined]
        if xmp is None and _raw_exif(image) is None:
            xmp = _raw_profile(image, "APP1")
            xmp = xmp and xmp.removeprefix(XMP_PREFIX)
    except Exception:
        _tell(told, XMP_DAMAGED)
        return None
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "surrogateescape")
    if xmp and not isinstance(xmp, bytes):  # numbers in a TIFF
        _tell(told, XMP_DAMAGED)
        return None
    return xmp or None


def tiff_tags(exif: bytes) -> ImageFileDirectory_v2:
    """What EXIF says, orientation included, as tags of a TIFF. Raises nearly anything for damaged EXIF."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    if not exif:
        return ImageFileDirectory_v2()
    found, first = PIL.Image.Exif(), ImageFileDirectory_v2(exif[:8])
    with pillow_warnings("error"):  # Pillow warns where tags are damaged, and goes on without them
        found.load(exif)
        file = io.BytesIO(exif)
        file.seek(first.next)
        first.load(file)
        return _descriptive(found, first.tagtype)


def _descriptive(found: PIL.Image.Exif, types: Mapping[int, int]) -> ImageFileDirectory_v2:
    """All that does not say how samples lie, for a TIFF. types: of the tags in the first directory, as they were."""
    from PIL import TiffTags
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    for tag in sorted(set(found) - _LAYOUT - {_EXIF_IFD, _GPS_IFD}):
        if types.get(tag) == _PLACE:
            continue
        if TiffTags.lookup(tag).type is None and types.get(tag) in _CLASSIC_TYPES:  # else Pillow knows, or finds one
            tags.tagtype[tag] = types[tag]
        tags[tag] = _in_latin(found[tag])
    for directory in (_EXIF_IFD, _GPS_IFD):
        content = {tag: _in_latin(value) for tag, value in found.get_ifd(directory).items()}
        content.pop(_INTEROP_IFD, None)  # the directory of interoperability lies elsewhere
        if content:
            tags[directory] = content
    return tags


def _in_latin(value: Any) -> Any:
    return _Latin(value) if isinstance(value, str) else value


def _tiff_exif(image: PIL.Image.Image) -> bytes | None:
    tags = _descriptive(image.getexif(), image.tag_v2.tagtype)  # type: ignore[attr-defined]
    tags.pop(_ORIENTATION, None)  # Pillow turns a TIFF
    if _TECHNICAL.issuperset(tags):
        return None
    return b"II*\0\x08\0\0\0" + tags.tobytes(8)


def _tell(told: list[str], what: str) -> None:
    if what not in told:
        told.append(what)


def _raw_exif(image: PIL.Image.Image) -> bytes | None:
    """The segment APP1 of a JPEG in the text of a PNG, where it is EXIF; it may be XMP as well."""
    data = _raw_profile(image, "APP1")
    return data if data is not None and data.removeprefix(EXIF_PREFIX).startswith(_TIFF_HEADS) else None


def _raw_profile(image: PIL.Image.Image, kind: str) -> bytes | None:
    """What ImageMagick and others put into the text of a PNG: kind, length and the bytes in hexadecimal.

    Raises ValueError for text that is not so.
    """
    text = image.info.get(f"Raw profile type {kind}")
    if not isinstance(text, str):
        return None
    match = re.fullmatch(r"\s*[\w ]+\n\s*(\d+)\n([0-9a-fA-F\s]*)", text)
    if match is None:
        raise ValueError("no length and hexadecimal digits")
    return bytes.fromhex(match[2])[: int(match[1])]
