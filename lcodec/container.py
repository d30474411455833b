"""The .lic container: bytes <-> header, metadata and entropy coded slices. FORMAT.md is the specification.

    file    = header  section*                      header.py
    section = tag varint, payload, CRC-32 u32       tag = payload length << 4 | type; the CRC covers both

Nothing here knows what a payload means beyond its framing. Every failure on bytes that come from outside is a
StreamError; time and memory are linear in the bytes given, whatever sizes they announce.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import IO, NamedTuple

from lcodec.errors import Corrupt, LimitExceeded, StreamError, Truncated, UnsupportedVersion, UsageError
from lcodec.header import (
    CRC_BYTES,
    HEADER_FIELDS,
    HEADER_MAX_BYTES,
    MAGIC,
    VARINT_MAX_BYTES,
    VERSION,
    Buffer,
    Header,
    crc,
    matches,
    pack_header,
    parse_header,
    quality_to_code,
    read_header,
    read_header_from,
    read_varint,
    write_varint,
)

__all__ = [
    "HEADER_FIELDS",
    "HEADER_MAX_BYTES",
    "MAGIC",
    "METADATA_LIMIT_BYTES",
    "VERSION",
    "Container",
    "Header",
    "Section",
    "SectionType",
    "list_sections",
    "matches",
    "pack",
    "quality_to_code",
    "read_header",
    "read_front_from",
    "read_header_from",
    "unpack",
]

PAYLOAD_MAX_BYTES = 2**31 - 1
FRONT_SECTIONS_MAX = 256  # sections before the first slice: bounds the warnings that a hostile file can cause
MIN_SLICE_BYTES = 1 + 1 + CRC_BYTES  # tag, one byte of payload, checksum
METADATA_LIMIT_BYTES = 64 << 20
_READ_BYTES = 1 << 20  # taken from a stream at a time: what a section announces may not be there


class SectionType(IntEnum):
    """Odd: a decoder that does not know the type must refuse the file. Even: it may skip the section."""

    SLICE = 1
    INDEX = 2
    ALPHA = 3
    ICC = 4
    EXIF = 6
    XMP = 8
    COMMENT = 10  # reserved
    EXTENDED = 15  # the type follows as a varint, and is >= 16


_METADATA = {SectionType.ICC: "icc", SectionType.EXIF: "exif", SectionType.XMP: "xmp"}
_METHOD_RAW, _METHOD_ZLIB = 0, 1


@dataclass
class Container:
    """A whole file: slices in raster order, metadata decompressed, `warnings` about what was skipped.

    `alpha` is the payload of that section as it lies in the file.

    After a tolerant reading `damaged` has the numbers of the slices that are lost; these are b"" in `slices`.
    `alpha_lost` says that there was alpha, which is damaged.
    """

    header: Header
    slices: list[bytes]
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    alpha: bytes | None = None
    warnings: list[str] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    alpha_lost: bool = False


class Section(NamedTuple):
    """A section as it lies in the file; `intact` is whether its checksum holds."""

    type: int
    offset: int  # of the tag, in bytes from the start of the file
    end: int
    payload: memoryview  # without the varint of an extended type
    intact: bool

    @property
    def critical(self) -> bool:
        return self.type % 2 == 1

    @property
    def name(self) -> str:
        try:
            return SectionType(self.type).name
        except ValueError:
            return f"type {self.type}"


# ---- writing ----


def pack(container: Container) -> bytes:
    """The bytes of a file. Raises UsageError when slices are missing or empty, or a payload is too long."""
    header, slices = container.header, container.slices
    if len(slices) != header.slice_count:
        raise UsageError(f"the header implies {header.slice_count} slices, not {len(slices)}")
    if not all(slices):
        raise UsageError(f"slice {slices.index(b'')} is empty")
    parts = [pack_header(header)]
    if len(slices) > 1:
        parts.append(_pack_section(SectionType.INDEX, b"".join(write_varint(len(s)) for s in slices)))
    for type_, name in _METADATA.items():
        data = getattr(container, name)
        if data is not None:
            parts.append(_pack_section(type_, _pack_metadata(data)))
    if container.alpha is not None:
        parts.append(_pack_section(SectionType.ALPHA, container.alpha))
    parts.extend(_pack_section(SectionType.SLICE, s) for s in slices)
    return b"".join(parts)


def _pack_section(type_: int, payload: bytes) -> bytes:
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise UsageError(f"a section of {len(payload)} bytes is too long")
    body = write_varint(len(payload) << 4 | type_) + payload
    return body + crc(body)


def _pack_metadata(data: bytes) -> bytes:
    packed = zlib.compress(data, 9)
    return bytes([_METHOD_ZLIB]) + packed if len(packed) < len(data) else bytes([_METHOD_RAW]) + data


# ---- reading the sections ----


def list_sections(data: Buffer) -> Iterator[Section]:
    """The sections in the order of the file, whatever their types.

    Raises what read_header raises; Truncated or Corrupt come after all sections that precede the fault.
    """
    view = memoryview(data).cast("B")
    offset = parse_header(view)[1]
    while offset < len(view):
        section = _read_section(view, offset)
        yield section
        offset = section.end


def unpack(
    data: Buffer,
    *,
    tolerant: bool = False,
    metadata_limit: int = METADATA_LIMIT_BYTES,
    wanted: Collection[int] | None = None,
) -> Container:
    """Header, metadata and slices of a whole file.

    Damaged or unknown ancillary sections are skipped with a warning. With `tolerant`, lost slices are listed
    in `damaged` instead of raising. `metadata_limit` bounds all metadata together, in decompressed bytes. Without
    `tolerant`, slices that are not `wanted` are b"" and neither checked nor, in a file with INDEX, looked at.
    Raises NotLcodec, UnsupportedVersion, Truncated, Corrupt or LimitExceeded.
    """
    view = memoryview(data).cast("B")
    header, offset = parse_header(view)
    room = len(view) - offset
    # before any list of that length exists
    if header.slice_count * (1 if tolerant else MIN_SLICE_BYTES) > room:
        raise Truncated(f"the header implies {header.slice_count} slices, but only {room} bytes follow")
    container = Container(header, [])
    index, offset, sound = _read_front(view, offset, container, tolerant, metadata_limit)
    if tolerant:
        container.slices = _rescue_slices(view, offset, header.slice_count, index, sound)
        container.damaged = [i for i, payload in enumerate(container.slices) if not payload]
    else:
        container.slices = _read_slices(view, offset, header.slice_count, index, wanted)
    return container


def read_front_from(stream: IO[bytes], *, metadata_limit: int = METADATA_LIMIT_BYTES) -> Container:
    """Header, metadata and alpha of a file, from where an open binary file stands: what precedes the first slice.

    Of what follows at most 31 bytes are taken from the stream. `slices` stays empty. Raises what unpack raises.
    """
    front = b""
    while len(front) < HEADER_MAX_BYTES and (chunk := stream.read(HEADER_MAX_BYTES - len(front))):
        front += chunk  # a pipe may give less than asked
    header, start = parse_header(memoryview(front))
    parts, ready = [front[:start]], front[start:]

    def more(size: int) -> bytes:
        """`ready` and what has to be read so that it has `size` bytes, if there are so many."""
        taken = [ready]
        missing = size - len(ready)
        while missing > 0 and (chunk := stream.read(min(missing, _READ_BYTES))):
            taken.append(chunk)
            missing -= len(chunk)
        return b"".join(taken)

    for _ in range(FRONT_SECTIONS_MAX + 1):
        ready = more(VARINT_MAX_BYTES)
        if not ready:
            break
        tag, offset = read_varint(memoryview(ready), 0)
        if tag & 15 == SectionType.SLICE:
            break
        size = offset + (tag >> 4) + CRC_BYTES
        ready = more(size)
        if len(ready) < size:
            raise Truncated("the data ends before the first slice")
        parts.append(ready[:size])
        ready = ready[size:]
    container = Container(header, [])
    _read_front(memoryview(b"".join(parts)), start, container, False, metadata_limit)
    return container


def _read_section(view: memoryview, offset: int) -> Section:
    tag, start = read_varint(view, offset)
    type_, length = tag & 15, tag >> 4
    end = start + length + CRC_BYTES
    if end > len(view):
        raise Truncated(f"section at byte {offset} takes {end - offset} bytes of {len(view) - offset}")
    payload = view[start : start + length]
    intact = bytes(view[end - CRC_BYTES : end]) == crc(view[offset : start + length])
    if type_ == SectionType.EXTENDED and intact:
        try:
            type_, skip = read_varint(payload, 0)
        except StreamError as error:
            raise Corrupt(f"section at byte {offset} has no valid extended type") from error
        if type_ <= SectionType.EXTENDED:
            raise Corrupt(f"section at byte {offset} has type {type_} in extended form")
        payload = payload[skip:]
    return Section(type_, offset, end, payload, intact)


def _read_front(
    view: memoryview, offset: int, container: Container, tolerant: bool, metadata_limit: int
) -> tuple[list[int] | None, int, bool]:
    """Fill in metadata and warnings from what precedes the slices.

    Gives the lengths in INDEX, the offset of the first slice, and whether that offset is certain.
    """
    index, seen, sound = None, set(), True
    for _ in range(FRONT_SECTIONS_MAX + 1):
        if offset == len(view):
            return index, offset, sound
        try:
            section = _read_section(view, offset)
            if section.type == SectionType.SLICE:
                return index, offset, sound
            if section.critical and not section.intact and not (tolerant and section.type == SectionType.ALPHA):
                raise Corrupt(f"section {section.name} at byte {offset}: checksum does not hold")
        except StreamError as error:
            if not tolerant:
                raise
            container.warnings.append(str(error))
            return index, offset, False
        if section.critical and section.type != SectionType.ALPHA:
            raise UnsupportedVersion(f"critical section {section.name} is unknown", "try a newer lcodec")
        where = f"section {section.name} at byte {offset}"
        offset = section.end
        if not section.intact:
            container.warnings.append(f"skipped {where}: checksum does not hold")
            container.alpha_lost |= section.type == SectionType.ALPHA
            sound = False
        elif section.type in seen:
            raise Corrupt(f"{where} is the second of its type")
        elif section.type == SectionType.INDEX:
            seen.add(section.type)
            index = _read_index(section.payload, container.header.slice_count)
        elif section.type == SectionType.ALPHA:
            seen.add(section.type)
            container.alpha = bytes(section.payload)
        elif section.type in _METADATA:
            seen.add(section.type)
            try:
                data = _read_metadata(section.payload, metadata_limit)
            except Corrupt as error:
                container.warnings.append(f"skipped {where}: {error}")
            else:
                metadata_limit -= len(data)
                setattr(container, _METADATA[SectionType(section.type)], data)
        else:
            container.warnings.append(f"skipped {where}: unknown type")
    raise Corrupt(f"more than {FRONT_SECTIONS_MAX} sections precede the first slice")


def _read_index(payload: memoryview, count: int) -> list[int]:
    lengths, offset = [], 0
    try:
        for _ in range(count):
            length, offset = read_varint(payload, offset)
            lengths.append(length)
    except StreamError as error:
        raise Corrupt(f"INDEX does not hold the lengths of {count} slices") from error
    if offset != len(payload) or not all(0 < length <= PAYLOAD_MAX_BYTES for length in lengths):
        raise Corrupt(f"INDEX does not hold the lengths of {count} slices")
    return lengths


def _read_metadata(payload: memoryview, limit: int) -> bytes:
    method, body = (payload[0], payload[1:]) if payload else (None, payload)
    if method == _METHOD_RAW:
        too_long, data = len(body) > limit, body
    elif method == _METHOD_ZLIB:
        inflate = zlib.decompressobj()
        try:
            data = memoryview(inflate.decompress(body, limit + 1))
        except zlib.error as error:
            raise Corrupt("zlib data is damaged") from error
        too_long = len(data) > limit
        if not too_long and (not inflate.eof or inflate.unused_data):
            raise Corrupt("zlib data does not end where the section ends")
    else:
        raise Corrupt(f"unknown compression method {method}")
    if too_long:
        raise LimitExceeded(
            f"metadata takes more than the {limit} bytes left of its limit",
            "if you trust the file: --limit metadata=N, or LCODEC_LIMITS=metadata=N in the environment",
        )
    return bytes(data)


def _read_slices(
    view: memoryview, offset: int, count: int, index: list[int] | None, wanted: Collection[int] | None
) -> list[bytes]:
    slices = []
    for i in range(count):
        if index is not None and wanted is not None and i not in wanted:
            slices.append(b"")
            offset += _slice_section_bytes(index[i])
            if offset > len(view):
                raise Truncated(f"the data ends inside slice {i} of {count}")
            continue
        if offset == len(view):
            raise Truncated(f"the data ends before slice {i} of {count}")
        section = _read_section(view, offset)
        if not section.intact:
            raise Corrupt(f"slice {i} of {count}: checksum does not hold")
        if section.type != SectionType.SLICE:
            raise Corrupt(f"section {section.name} stands where slice {i} of {count} is due")
        if not section.payload:
            raise Corrupt(f"slice {i} of {count} is empty")
        if index is not None and index[i] != len(section.payload):
            raise Corrupt(f"slice {i} of {count} has {len(section.payload)} bytes, but INDEX says {index[i]}")
        slices.append(bytes(section.payload))
        offset = section.end
    if offset != len(view):
        raise Corrupt(f"{len(view) - offset} bytes follow the last slice")
    return slices


def _slice_section_bytes(payload_bytes: int) -> int:
    return len(write_varint(payload_bytes << 4 | SectionType.SLICE)) + payload_bytes + CRC_BYTES


# ---- reading what a damaged file still holds ----


def _rescue_slices(
    view: memoryview, offset: int, count: int, index: list[int] | None, sound: bool
) -> list[bytes]:
    """All slices in order, with b"" for each that is damaged or missing.

    INDEX tells where each slice must be, so a damaged tag costs nothing; the slices start where the sections
    before them end or, as nothing follows them, at their total length from the end of the file. Of these
    readings and the one that follows the tags the most complete wins.
    """
    readings = [_slices_in_sequence(view, offset, count, sound)]
    if index is None:
        index = _index_behind_damaged_tag(view, count)
    if index is not None:
        total = sum(map(_slice_section_bytes, index))
        readings += [_slices_by_index(view, start, index) for start in (offset, max(0, len(view) - total))]
    return max(reversed(readings), key=lambda slices: sum(map(bool, slices)))


def _index_behind_damaged_tag(view: memoryview, count: int) -> list[int] | None:
    """INDEX where `pack` puts it, right behind the header; its content shows its length, and so its tag."""
    start = parse_header(view)[1]
    for tag_bytes in range(1, VARINT_MAX_BYTES + 1):
        end = start + tag_bytes
        try:
            for _ in range(count):
                end = read_varint(view, end)[1]
            payload = view[start + tag_bytes : end]
            tag = write_varint(len(payload) << 4 | SectionType.INDEX)
            if bytes(view[end : end + CRC_BYTES]) == crc(tag, payload):
                return _read_index(payload, count)
        except StreamError:
            continue
    return None


def _slices_by_index(view: memoryview, offset: int, index: list[int]) -> list[bytes]:
    slices = []
    for length in index:
        tag = write_varint(length << 4 | SectionType.SLICE)
        end = offset + len(tag) + length
        payload = view[end - length : end]
        intact = bytes(view[end : end + CRC_BYTES]) == crc(tag, payload)  # the tag that must stand there
        slices.append(bytes(payload) if intact else b"")
        offset = end + CRC_BYTES
    return slices


def _slices_in_sequence(view: memoryview, offset: int, count: int, sound: bool) -> list[bytes]:
    slices: list[bytes] = []
    if not sound:
        slices.append(b"")  # stands for the unknown number of slices lost before `offset`
    lost = len(slices)
    try:
        while offset < len(view) and len(slices) < count + lost:
            section = _read_section(view, offset)
            usable = section.intact and section.type == SectionType.SLICE
            slices.append(bytes(section.payload) if usable else b"")
            offset = section.end
    except StreamError:
        pass  # from here on nothing can be found
    if len(slices) == count + lost and offset == len(view):
        return slices[lost:]
    if b"" in slices:  # a damaged tag may have hidden slices: behind it their numbers are uncertain
        del slices[slices.index(b"") :]
    return slices + [b""] * (count - len(slices))
