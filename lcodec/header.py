"""The header of a .lic file, and the two encodings that the whole format is made of: varints and checksums.

    magic, version u8, HEADER_FIELDS, CRC-32 u32     the checksum covers everything before it

container.py holds the sections that follow; FORMAT.md is the specification.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from lcodec.errors import Corrupt, NotLcodec, Truncated, UnsupportedVersion, UsageError

MAGIC = b"\x89LIC\r\n"  # the high bit shows a 7-bit transfer, CR LF a newline translation in either direction
VERSION = 1
VARINT_MAX_BYTES = 5  # 35 bits: a payload length below 2^31 and its type
CRC_BYTES = 4
DIMENSION_MAX = 2**31 - 1  # pixels
QUALITY_STEPS = 128  # quality codes per unit of quality
PIXELS_PER_LATENT = 16
PAD_LATENTS = 4  # images are padded to multiples of 64 pixels

Buffer = bytes | bytearray | memoryview


class HeaderField(NamedTuple):
    """One header field; `low` and `high` bound its value ("bytes": its length)."""

    name: str
    kind: str  # "bytes", "varint", or "bits"/"flag": these share one little endian u16, lowest bit first
    low: int
    high: int
    meaning: str

    @property
    def bits(self) -> int:
        return (self.high - self.low).bit_length()

    def holds(self, value: Any) -> bool:
        return self.low <= (len(value) if self.kind == "bytes" else value) <= self.high


# The only description of the header: writing, reading, range checks and printing walk it.
HEADER_FIELDS = (
    HeaderField("model_id", "bytes", 8, 8, "first 8 bytes of the model's content hash"),
    HeaderField("width", "varint", 1, DIMENSION_MAX, "image width in pixels"),
    HeaderField("height", "varint", 1, DIMENSION_MAX, "image height in pixels"),
    HeaderField("quality_code", "bits", 0, 16 * QUALITY_STEPS - 1, "quality in steps of 1/128"),
    HeaderField("slice_log2", "bits", 4, 11, "log2 of the slice side in latents"),
    HeaderField("gray", "flag", 0, 1, "grayscale output"),
    HeaderField("deep", "flag", 0, 1, "16-bit output"),
)
HEADER_MAX_BYTES = len(MAGIC) + 1 + 8 + 2 * VARINT_MAX_BYTES + 2 + CRC_BYTES


def quality_to_code(quality: float) -> int:
    """Quality in [0, 16) as the header's code, to the nearest 1/128. Raises UsageError outside that range."""
    if not 0 <= quality < 16:
        raise UsageError(f"quality {quality} is not in the range 0 <= quality < 16")
    return min(int(quality * QUALITY_STEPS + 0.5), 16 * QUALITY_STEPS - 1)


@dataclass(frozen=True)
class Header:
    """What a file says about itself. Raises UsageError for a value outside its range in HEADER_FIELDS."""

    width: int  # pixels
    height: int  # pixels
    model_id: bytes  # 8 bytes
    quality_code: int = 0  # units of 1/128
    slice_log2: int = 6
    gray: bool = False
    deep: bool = False

    def __post_init__(self) -> None:
        for f in HEADER_FIELDS:
            if not f.holds(getattr(self, f.name)):
                raise UsageError(f"header field {f.name} is out of range: {getattr(self, f.name)!r}")

    @property
    def quality(self) -> float:
        return self.quality_code / QUALITY_STEPS

    @property
    def latent_height(self) -> int:
        """Rows of y: the image height, padded to a multiple of 64 pixels, over 16."""
        return PAD_LATENTS * -(-self.height // (PAD_LATENTS * PIXELS_PER_LATENT))

    @property
    def latent_width(self) -> int:
        """Columns of y: the image width, padded to a multiple of 64 pixels, over 16."""
        return PAD_LATENTS * -(-self.width // (PAD_LATENTS * PIXELS_PER_LATENT))

    @property
    def slice_grid(self) -> tuple[int, int]:
        """Rows and columns of slices."""
        side = 1 << self.slice_log2
        return -(-self.latent_height // side), -(-self.latent_width // side)

    @property
    def slice_count(self) -> int:
        rows, columns = self.slice_grid
        return rows * columns

    def slices(self) -> Iterator[tuple[int, int, int, int]]:
        """(y0, x0, height, width) of each slice in latents, in the order of the file; all multiples of 4."""
        side = 1 << self.slice_log2
        for y0 in range(0, self.latent_height, side):
            for x0 in range(0, self.latent_width, side):
                yield y0, x0, min(side, self.latent_height - y0), min(side, self.latent_width - x0)

    def describe(self) -> Iterator[tuple[str, str, str]]:
        """(name, value, meaning) of each field, in the order of the file."""
        for f in HEADER_FIELDS:
            value = getattr(self, f.name)
            yield f.name, value.hex() if f.kind == "bytes" else str(int(value)), f.meaning


def pack_header(header: Header) -> bytes:
    out = bytearray(MAGIC + bytes([VERSION]))
    word = bit = 0
    for f in HEADER_FIELDS:
        value = getattr(header, f.name)
        if f.kind == "bytes":
            out += value
        elif f.kind == "varint":
            out += write_varint(value)
        else:
            word |= (value - f.low) << bit
            bit += f.bits
    out += word.to_bytes(2, "little")
    return bytes(out) + crc(out)


def matches(prefix: Buffer) -> bool:
    """Whether data that starts so is a .lic file; six bytes decide."""
    return bytes(prefix[: len(MAGIC)]) == MAGIC


def read_header(prefix: Buffer) -> Header:
    """The header of a file of which at least the first HEADER_MAX_BYTES, or all bytes, are given.

    Raises NotLcodec, UnsupportedVersion, Truncated or Corrupt.
    """
    return parse_header(memoryview(prefix).cast("B"))[0]


def read_header_from(stream: BinaryIO) -> Header:
    """Like read_header, from an open binary file; takes no more than HEADER_MAX_BYTES from it."""
    prefix = b""
    while len(prefix) < HEADER_MAX_BYTES and (chunk := stream.read(HEADER_MAX_BYTES - len(prefix))):
        prefix += chunk  # a pipe may give less than asked
    return read_header(prefix)


def parse_header(view: memoryview) -> tuple[Header, int]:
    """The header and the offset of the first byte after it."""
    if not matches(view):
        start = bytes(view[: len(MAGIC)])
        if MAGIC.startswith(start):
            raise Truncated(f"{len(start)} bytes are too short for a .lic file")
        hint = "a transfer in text mode changed it: transfer it as binary" if b"LIC" in start else None
        raise NotLcodec("not a .lic file", hint)
    offset = len(MAGIC)
    version = _take(view, offset, 1)[0]
    if version != VERSION:
        raise UnsupportedVersion(f"format version {version}, known here is {VERSION}", "try a newer lcodec")
    offset += 1
    values: dict[str, Any] = {}
    word = bit = 0
    for f in HEADER_FIELDS:
        if f.kind == "bytes":
            values[f.name] = bytes(_take(view, offset, f.high))
            offset += f.high
        elif f.kind == "varint":
            values[f.name], offset = read_varint(view, offset)
        else:
            if bit == 0:
                word = int.from_bytes(_take(view, offset, 2), "little")
                offset += 2
            value = f.low + (word >> bit & (1 << f.bits) - 1)
            values[f.name] = bool(value) if f.kind == "flag" else value
            bit += f.bits
        if not f.holds(values[f.name]):
            raise Corrupt(f"header field {f.name} is out of range")
    if bytes(_take(view, offset, CRC_BYTES)) != crc(view[:offset]):
        raise Corrupt("header: checksum does not hold")
    return Header(**values), offset + CRC_BYTES


def _take(view: memoryview, offset: int, size: int) -> memoryview:
    if size > len(view) - offset:
        raise Truncated("the data ends inside the header")
    return view[offset : offset + size]


def read_varint(view: memoryview, offset: int) -> tuple[int, int]:
    """The value and the offset after it. Raises Truncated, or Corrupt for a form that is not the shortest."""
    value = 0
    for i, byte in enumerate(view[offset : offset + VARINT_MAX_BYTES]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if byte == 0 and i > 0:
                raise Corrupt(f"number at byte {offset} is not in its shortest form")
            return value, offset + i + 1
    if len(view) - offset < VARINT_MAX_BYTES:
        raise Truncated(f"the data ends inside the number at byte {offset}")
    raise Corrupt(f"number at byte {offset} is longer than {VARINT_MAX_BYTES} bytes")


def write_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def crc(*parts: Buffer) -> bytes:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value.to_bytes(CRC_BYTES, "little")
