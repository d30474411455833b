"""EXIF and XMP out of Pillow's images as they lie in files, and EXIF back into the tags of a TIFF."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import PIL.Image

from lcodec.image.guard import pillow_warnings

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

EXIF_PREFIX = b"Exif\0\0"  # stands before the TIFF header of EXIF in JPEG
XMP_TAG = 700
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
# Tags of a TIFF's own directory that describe the picture and not how its samples lie.
_DESCRIPTIVE = (
    270,  # ImageDescription
    271,  # Make
    272,  # Model
    282,  # XResolution
    283,  # YResolution
    296,  # ResolutionUnit
    305,  # Software
    306,  # DateTime
    315,  # Artist
    316,  # HostComputer
    318,  # WhitePoint
    319,  # PrimaryChromaticities
    33432,  # Copyright
)
_TECHNICAL = {282, 283, 296, 305}  # every TIFF has these; alone they are not worth a block of EXIF


def read_exif(image: PIL.Image.Image) -> bytes | None:
    """From its TIFF header on, None without any; never raises."""
    try:
        if image.format == "TIFF":
            return _tiff_exif(image)
        exif = image.info.get("exif") or _raw_profile(image, "exif") or _raw_profile(image, "APP1")
    except Exception:  # damaged tags
        return None
    if not isinstance(exif, bytes):
        return None
    return exif.removeprefix(EXIF_PREFIX) or None


def read_xmp(image: PIL.Image.Image) -> bytes | None:
    """The packet, None without one; never raises."""
    try:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or _raw_profile(image, "xmp")
        if xmp is None and image.format == "TIFF":
            xmp = image.tag_v2.get(XMP_TAG)  # type: ignore[attr-defined]
    except Exception:
        return None
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "surrogateescape")
    return xmp if isinstance(xmp, bytes) and xmp else None


def tiff_tags(exif: bytes) -> ImageFileDirectory_v2:
    """What EXIF says, orientation included, as tags of a TIFF. Raises nearly anything for damaged EXIF."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    found = PIL.Image.Exif()
    tags = ImageFileDirectory_v2()
    with pillow_warnings("error"):  # Pillow warns where tags are damaged, and goes on without them
        found.load(exif)
        for tag in (*_DESCRIPTIVE, 0x0112):
            if tag in found:
                tags[tag] = found[tag]
        for directory in (_EXIF_IFD, _GPS_IFD):
            content = dict(found.get_ifd(directory))
            content.pop(0xA005, None)  # the directory of interoperability lies elsewhere
            if content:
                tags[directory] = content
    return tags


def _tiff_exif(image: PIL.Image.Image) -> bytes | None:
    found = image.getexif()
    kept = PIL.Image.Exif()
    worth = False
    for tag in _DESCRIPTIVE:
        if tag in found:
            kept[tag] = found[tag]
            worth |= tag not in _TECHNICAL
    for directory in (_EXIF_IFD, _GPS_IFD):
        content = dict(found.get_ifd(directory))
        content.pop(0xA005, None)
        if content:
            kept.get_ifd(directory).update(content)
            kept[directory] = content
            worth = True
    return kept.tobytes().removeprefix(EXIF_PREFIX) if worth else None


def _raw_profile(image: PIL.Image.Image, kind: str) -> bytes | None:
    """What ImageMagick and others put into the text of a PNG: kind, length and the bytes in hexadecimal."""
    text = image.info.get(f"Raw profile type {kind}")
    match = re.fullmatch(r"\s*[\w ]+\n\s*(\d+)\n([0-9a-fA-F\s]*)", text) if isinstance(text, str) else None
    return bytes.fromhex(match[2])[: int(match[1])] if match else None
