"""What Pillow cannot write: PNG and PPM with 16 bits a sample, TIFF with those or with all of EXIF."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from lcodec.image.metadata import XMP_TAG, tiff_tags
from lcodec.image.picture import Picture

_PNG_COLOUR_TYPES = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}
_BAND_BYTES = 1 << 22  # about what is filtered and compressed at a time


def deep_png(picture: Picture) -> bytes:
    """PNG, third edition: chunks IHDR, iCCP, eXIf, iTXt (XMP), IDAT, IEND; filters left, up and Paeth."""
    samples = _interleaved(picture)
    head = struct.pack(">IIBBBBB", picture.width, picture.height, 16, _PNG_COLOUR_TYPES[picture.mode], 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", head)]
    if picture.icc is not None:
        parts.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc)))
    if picture.exif is not None:
        parts.append(_chunk(b"eXIf", picture.exif))
    if picture.xmp is not None:
        parts.append(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.xmp))
    height, row_bytes = samples.shape[0], samples[0].size * 2
    pixel_bytes = samples.shape[2] * 2
    deflate = zlib.compressobj(6)
    band = max(1, _BAND_BYTES // row_bytes)
    above = np.zeros((1, row_bytes), np.uint8)
    for y in range(0, height, band):
        rows = np.frombuffer(samples[y : y + band].astype(">u2").tobytes(), np.uint8).reshape(-1, row_bytes)
        packed = deflate.compress(_filtered(rows, np.concatenate([above, rows[:-1]]), pixel_bytes))
        above = rows[-1:]
        if packed:
            parts.append(_chunk(b"IDAT", packed))
    parts += [_chunk(b"IDAT", deflate.flush()), _chunk(b"IEND", b"")]
    return b"".join(parts)


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


def tiff(picture: Picture) -> bytes:
    """TIFF 6.0, little endian: the directory with all tags, then strips with horizontal prediction and deflate."""
    samples = _interleaved(picture)
    height, width, channels = samples.shape
    rows = max(1, _BAND_BYTES // samples[0].nbytes)
    strips = []
    for y in range(0, height, rows):
        strip = samples[y : y + rows]
        predicted = np.concatenate([strip[:, :1], np.diff(strip, axis=1)], axis=1)  # modulo 256 or 65536
        strips.append(zlib.compress(predicted.astype(predicted.dtype.newbyteorder("<")).tobytes(), 6))
    offsets = np.cumsum([0, *(len(s) + len(s) % 2 for s in strips)]).tolist()
    tags = tiff_tags(picture.exif or b"")
    tags[256], tags[257] = width, height
    tags[258] = (8 * samples.itemsize,) * channels
    tags[259] = 8  # deflate
    tags[262] = 1 if picture.gray else 2
    tags[273] = tuple(offsets[:-1])  # counted from where the directory ends: tobytes adds that
    tags[277] = channels
    tags[278] = rows
    tags[279] = tuple(len(s) for s in strips)
    tags[317] = 2  # differences of neighbours
    if picture.alpha is not None:
        tags[338] = 2  # straight alpha
    if picture.icc is not None:
        tags.tagtype[34675] = 7
        tags[34675] = picture.icc
    if picture.xmp is not None:
        tags.tagtype[XMP_TAG] = 1
        tags[XMP_TAG] = picture.xmp
    head = struct.pack("<2sHI", b"II", 42, 8)
    return head + tags.tobytes(8) + b"".join(s + bytes(len(s) % 2) for s in strips)


def deep_ppm(picture: Picture) -> bytes:
    kind = b"P5" if picture.gray else b"P6"
    return kind + f"\n{picture.width} {picture.height}\n65535\n".encode() + picture.pixels.astype(">u2").tobytes()


def _interleaved(picture: Picture) -> np.ndarray:
    """(H, W, C), alpha last."""
    planes = [picture.pixels] if picture.alpha is None else [picture.pixels, picture.alpha]
    return np.dstack(planes)
