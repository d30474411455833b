"""Which way up a picture is: the orientation of EXIF, which XMP may repeat, read, applied, set to upright."""

from __future__ import annotations

import re
import struct
from dataclasses import replace

from lcodec.image.picture import P, Pictured

_TAG = 0x0112
_EXIF_DIRECTORY = 0x8769
_SIDES = (0xA002, 0xA003)  # PixelXDimension, PixelYDimension
_FORMATS = {1: "B", 3: "H", 4: "I"}  # types of TIFF that writers use for this tag
# tiff:Orientation="6" and <tiff:Orientation>6</tiff:Orientation>
_XMP = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)([1-8])(?=\s*[\"'<])")


def orientation(picture: Pictured) -> int:
    """1 to 8; EXIF counts before XMP; 1 where neither says anything or what it says cannot be read."""
    return orientation_of(picture.exif, picture.xmp)


def orientation_of(exif: bytes | None, xmp: bytes | None) -> int:
    """The same of metadata alone."""
    place = _find(exif)
    if place is not None:
        return place[2]
    found = _XMP.search(xmp or b"")
    return int(found[2]) if found else 1


def has_orientation(exif: bytes | None, xmp: bytes | None = None) -> bool:
    """Whether metadata say anything about it."""
    return _find(exif) is not None or _XMP.search(xmp or b"") is not None


def upright(picture: P) -> P:
    """The picture as it is to be seen, and metadata that say so: the orientation in EXIF and in XMP becomes 1."""
    stored = orientation(picture)
    return as_upright(picture if stored == 1 else picture.turned(stored))


def as_upright(picture: P) -> P:
    """The same pixels, with the orientation in EXIF and in XMP set to 1."""
    exif, xmp = picture.exif, picture.xmp
    place = _find(exif)
    if exif is not None and place is not None:
        offset, format_, stored = place
        exif = exif[:offset] + struct.pack(format_, 1) + exif[offset + struct.calcsize(format_) :]
        if stored != 1:
            exif = _turned(exif, format_[0], stored)
    if xmp is not None:
        xmp = _XMP.sub(rb"\g<1>1", xmp)
    return picture if (exif, xmp) == (picture.exif, picture.xmp) else replace(picture, exif=exif, xmp=xmp)


def _turned(exif: bytes, order: str, stored: int) -> bytes:
    """EXIF of a picture that is no longer turned: sizes in pixels change places, the thumbnail goes."""
    made = bytearray(exif)
    try:
        (first,) = struct.unpack_from(order + "I", made, 4)
        (count,) = struct.unpack_from(order + "H", made, first)
        struct.pack_into(order + "I", made, first + 2 + 12 * count, 0)  # the place of the next directory
        link = _directory(made, order, first).get(_EXIF_DIRECTORY)
        if stored >= 5 and link is not None:
            inside = _directory(made, order, struct.unpack_from(order + "I", made, link[0])[0])
            sides = [(inside[tag][0], order + _FORMATS[inside[tag][1]]) for tag in _SIDES]
            values = [struct.unpack_from(format_, made, at)[0] for at, format_ in sides]
            for (at, format_), value in zip(sides, reversed(values), strict=True):
                struct.pack_into(format_, made, at, value)
    except (struct.error, KeyError):  # directories that reach beyond the end, or lack what would be changed
        pass
    return bytes(made)


def _directory(exif: bytes | bytearray, order: str, start: int) -> dict[int, tuple[int, int]]:
    """Where each tag with one value has it, and its type. Raises struct.error."""
    found: dict[int, tuple[int, int]] = {}
    (count,) = struct.unpack_from(order + "H", exif, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, type_, values = struct.unpack_from(order + "HHI", exif, entry)
        if values == 1:
            found.setdefault(tag, (entry + 8, type_))
    return found


def _find(exif: bytes | None) -> tuple[int, str, int] | None:
    """Offset, struct format and value (1 to 8) of the tag in the first directory of an EXIF block."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get((exif or b"")[:4])
    if exif is None or order is None:
        return None
    try:
        (first,) = struct.unpack_from(order + "I", exif, 4)
        at, type_ = _directory(exif, order, first)[_TAG]
        format_ = order + _FORMATS[type_]
        (value,) = struct.unpack_from(format_, exif, at)
    except (struct.error, KeyError):  # a directory that reaches beyond the end, or says nothing of it
        return None
    return (at, format_, value) if 1 <= value <= 8 else None
