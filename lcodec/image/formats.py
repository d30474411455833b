"""What Pillow cannot write: PNG and PPM with 16 bits a sample, TIFF with those or with all of EXIF, and all by rows."""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from lcodec.errors import UsageError
from lcodec.image.banded import BandedPicture, regrouped
from lcodec.image.metadata import XMP_TAG, tiff_tags

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

_PNG_COLOUR_TYPES = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}
_BAND_BYTES = 1 << 22  # about what is filtered and compressed at a time
_TIFF_MAX_BYTES = 4_000_000_000  # of strips; offsets have 32 bits
_TIFF_MAX_RATIO = 4  # of samples and what they come to: photographs have 2, and 3 where they were enlarged four times


def write_png(file: BinaryIO, picture: BandedPicture, quick: bool = True) -> None:
    """PNG, third edition: chunks IHDR, iCCP, eXIf, iTXt (XMP), IDAT, IEND.

    quick: at about 100 MB/s instead of 10, for pictures in which nothing repeats; some percent larger. All rows get the
    filter of the average, and deflate looks for runs only. Otherwise filters left, up and Paeth.
    """
    bits, colours = (16 if picture.deep else 8), _PNG_COLOUR_TYPES[picture.mode]
    head = struct.pack(">IIBBBBB", picture.width, picture.height, bits, colours, 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head))
    if picture.icc is not None:
        file.write(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc)))
    if picture.exif is not None:
        file.write(_chunk(b"eXIf", picture.exif))
    if picture.xmp is not None:
        file.write(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.xmp))
    pixel_bytes = picture.channels * bits // 8
    row_bytes = picture.width * pixel_bytes
    deflate = _deflate(quick)
    filtered = _averaged if quick else _filtered
    above = np.zeros((1, row_bytes), np.uint8)
    for band in regrouped(picture.bands, _rows_at_a_time(row_bytes)):
        rows = np.ascontiguousarray(band, ">u2" if picture.deep else np.uint8).view(np.uint8).reshape(-1, row_bytes)
        packed = deflate.compress(filtered(rows, np.concatenate([above, rows[:-1]]), pixel_bytes))
        above = rows[-1:]
        if packed:
            file.write(_chunk(b"IDAT", packed))
    file.write(_chunk(b"IDAT", deflate.flush()) + _chunk(b"IEND", b""))


def _deflate(quick: bool) -> zlib._Compress:
    return zlib.compressobj(6, strategy=zlib.Z_RLE if quick else zlib.Z_DEFAULT_STRATEGY)


def _rows_at_a_time(row_bytes: int) -> int:
    return max(1, _BAND_BYTES // row_bytes)


def _averaged(rows: np.ndarray, above: np.ndarray, pixel_bytes: int) -> bytes:
    """Each row (R, B) behind a 3, the filter that takes off the mean of what is left of and above a byte."""
    out = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    out[:, 0] = 3
    left = np.zeros_like(rows)
    left[:, pixel_bytes:] = rows[:, :-pixel_bytes]
    np.subtract(rows, (left & above) + ((left ^ above) >> 1), out=out[:, 1:])  # the mean, rounded down, in 8 bits
    return out.tobytes()


def _filtered(rows: np.ndarray, above: np.ndarray, pixel_bytes: int) -> bytes:
    """Each row (R, B) behind the number of the filter that leaves the smallest differences."""
    zeros = np.zeros((len(rows), pixel_bytes), np.uint8)
    left = np.concatenate([zeros, rows], axis=1)[:, : rows.shape[1]]
    corner = np.concatenate([zeros, above], axis=1)[:, : rows.shape[1]]
    a, b, c = (x.astype(np.int16) for x in (left, above, corner))
    pa, pb, pc = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, above, corner))
    forms = {1: rows - left, 2: rows - above, 4: rows - paeth}
    costs = [np.minimum(form, 0 - form).sum(axis=1, dtype=np.int64) for form in forms.values()]
    best = np.array(list(forms), np.uint8)[np.argmin(costs, axis=0)]
    out = np.select([(best == number)[:, None] for number in forms], list(forms.values()))
    return np.concatenate([best[:, None], out], axis=1).tobytes()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_tiff(file: BinaryIO, picture: BandedPicture, quick: bool = True) -> None:
    """TIFF 6.0, little endian: the directory with all tags, then strips with horizontal prediction and deflate.

    file: one that can be gone back in, for the directory says where the strips are. quick: see `write_png`.
    Raises UsageError for a picture that does not fit into the 4 GB of a TIFF.
    """
    rows = _rows_at_a_time(picture.raw_bytes // picture.height)
    tags, count = _tags(picture, rows), -(-picture.height // rows)
    begin = file.tell()
    file.write(_tiff_head(tags, [0] * count))
    offset, lengths = 0, []
    for strip in regrouped(picture.bands, rows):
        predicted = np.concatenate([strip[:, :1], np.diff(strip, axis=1)], axis=1)  # modulo 256 or 65536
        deflate = _deflate(quick)
        packed = deflate.compress(predicted.astype(predicted.dtype.newbyteorder("<"), copy=False).tobytes())
        packed += deflate.flush()
        file.write(packed + bytes(len(packed) % 2))
        lengths.append(len(packed))
        offset += len(packed) + len(packed) % 2
        if offset > _TIFF_MAX_BYTES:
            raise _tiff_is_full()
    file.seek(begin)
    file.write(_tiff_head(tags, lengths))
    file.seek(0, os.SEEK_END)


def check_tiff(raw_bytes: int) -> None:
    """Raise UsageError for so many bytes of samples if they will not fit into a TIFF; of what may fit, `write_tiff`."""
    if raw_bytes > _TIFF_MAX_RATIO * _TIFF_MAX_BYTES:
        raise _tiff_is_full()


def _tiff_is_full() -> UsageError:
    return UsageError("TIFF cannot hold this picture in its 4 GB", hint="png can")


def _tags(picture: BandedPicture, rows: int) -> ImageFileDirectory_v2:
    """All but those of where the strips are. rows: in a strip."""
    tags = tiff_tags(picture.exif or b"")
    tags[256], tags[257] = picture.width, picture.height
    tags[258] = (16 if picture.deep else 8,) * picture.channels
    tags[259] = 8  # deflate
    tags[262] = 1 if picture.gray else 2
    tags[277] = picture.channels
    tags[278] = rows
    tags[317] = 2  # differences of neighbours
    if picture.has_alpha:
        tags[338] = 2  # straight alpha
    if picture.icc is not None:
        tags.tagtype[34675] = 7
        tags[34675] = picture.icc
    if picture.xmp is not None:
        tags.tagtype[XMP_TAG] = 1
        tags[XMP_TAG] = picture.xmp
    return tags


def _tiff_head(tags: ImageFileDirectory_v2, lengths: list[int]) -> bytes:
    """Header and directory before strips of so many bytes, each padded to an even number; as long for any lengths."""
    offsets = np.cumsum([0, *(n + n % 2 for n in lengths)]).tolist()
    tags.tagtype[273] = tags.tagtype[279] = 4
    tags[273] = tuple(offsets[:-1])  # counted from where the directory ends: tobytes adds that
    tags[279] = tuple(lengths)
    return struct.pack("<2sHI", b"II", 42, 8) + tags.tobytes(8)


def write_ppm(file: BinaryIO, picture: BandedPicture) -> None:
    """Binary PPM, or PGM where the picture is gray, of 8 or 16 bits."""
    kind, top = ("P5" if picture.gray else "P6"), (65535 if picture.deep else 255)
    file.write(f"{kind}\n{picture.width} {picture.height}\n{top}\n".encode())
    for band in picture.bands:
        file.write(np.ascontiguousarray(band, ">u2" if picture.deep else np.uint8).data)
