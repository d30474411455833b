"""Alpha without loss: rows as differences, then a general compressor. FORMAT.md, section 3.4, has the bytes.

Where nothing is seen nothing should cost bits: `fill_transparent` puts smooth colours under fully transparent pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from lcodec.errors import Corrupt, UnsupportedVersion

try:  # a Python that was built without liblzma codes alpha a little larger, and reads what it wrote itself
    import lzma
except ImportError:  # pragma: no cover
    lzma = None  # type: ignore[assignment]

_ZLIB, _LZMA2 = 1, 2
_NONE, _LEFT, _UP, _PLANE, _REPEAT = range(5)  # how a row is written
_LZMA_DICTIONARY_BYTES = 1 << 22
_CHUNK_BYTES = 1 << 20
_TRIAL_LIMIT = 1 << 24  # samples; above, the choice row by row has to do


# ---- writing


def encode_alpha(alpha: np.ndarray) -> bytes:
    """The payload of an ALPHA section for uint8 or uint16 (H, W).

    Samples of 16 bits that are all multiples of 257, which is what 8 bits become, are kept as 8.
    """
    bits = 8
    if alpha.dtype == np.uint16:
        if (alpha % 257 == 0).all():
            alpha = (alpha // 257).astype(np.uint8)
        else:
            bits = 16
            alpha = np.concatenate([(alpha >> 8).astype(np.uint8), (alpha & 255).astype(np.uint8)], axis=1)
    chosen = [None] if alpha.size > _TRIAL_LIMIT else [None, _NONE, _LEFT, _UP, _PLANE]
    rows = min((_write_rows(alpha, type_) for type_ in chosen), key=lambda data: len(zlib.compress(data, 1)))
    packed = bytes([_ZLIB]) + zlib.compress(rows, 6)
    if lzma is not None:
        packed = min(packed, bytes([_LZMA2]) + lzma.compress(rows, lzma.FORMAT_RAW, filters=_lzma_filters()), key=len)
    return bytes([bits]) + packed


def _lzma_filters() -> list[dict[str, Any]]:
    # lc and pb are not needed for reading, LZMA2 carries them
    return [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": _LZMA_DICTIONARY_BYTES, "lc": 4, "pb": 0}]


def _write_rows(alpha: np.ndarray, type_: int | None) -> bytes:
    """The rows of uint8 (H, W), all of one type or, with None, each of its cheapest; repeated rows as such."""
    parts = []
    above = np.zeros_like(alpha[0])
    for row in alpha:
        if (row == above).all():
            parts.append(bytes([_REPEAT]))
            continue
        if type_ is None:
            forms = [_difference(row, above, t) for t in (_NONE, _LEFT, _UP, _PLANE)]
            # as PNG's encoders do: small differences of either sign are likely cheap
            costs = [int(np.minimum(form, 0 - form).sum(dtype=np.int64)) for form in forms]
            best = costs.index(min(costs))
            parts += [bytes([best]), forms[best].tobytes()]
        else:
            parts += [bytes([type_]), _difference(row, above, type_).tobytes()]
        above = row
    return b"".join(parts)


def _difference(row: np.ndarray, above: np.ndarray, type_: int) -> np.ndarray:
    """uint8 modulo 256."""
    if type_ in (_UP, _PLANE):
        row = row - above
    if type_ in (_LEFT, _PLANE):
        row = np.diff(row, prepend=np.uint8(0))
    return row


# ---- reading


def decode_alpha(payload: bytes, height: int, width: int, deep: bool) -> np.ndarray:
    """The alpha of an image: uint8 (height, width), uint16 if `deep`. Raises Corrupt, UnsupportedVersion."""
    alpha = np.empty((height, width), np.uint16 if deep else np.uint8)
    for y, row in enumerate(alpha_rows(payload, height, width, deep)):
        alpha[y] = row
    return alpha


def alpha_rows(payload: bytes, height: int, width: int, deep: bool) -> Iterator[np.ndarray]:
    """Row by row, in the memory of some rows and about 6 MB; whether the stream is whole shows after the last one.

    Raises Corrupt for data that do not hold exactly these rows, UnsupportedVersion for an unknown method.
    """
    if len(payload) < 2:
        raise Corrupt("alpha is empty")
    bits, method = payload[0], payload[1]
    if bits not in (8, 16) or (bits == 16 and not deep):
        raise Corrupt(f"alpha of {bits} bits in an image of {16 if deep else 8}")
    source = _Inflated(method, payload[2:])
    row = np.zeros(width * bits // 8, np.uint8)
    for _ in range(height):
        type_ = source.take(1)[0]
        if type_ > _REPEAT:
            raise Corrupt(f"alpha has a row of unknown type {type_}")
        if type_ != _REPEAT:
            above, row = row, np.frombuffer(source.take(len(row)), np.uint8)
            if type_ in (_LEFT, _PLANE):
                row = np.cumsum(row, dtype=np.uint8)
            if type_ in (_UP, _PLANE):
                row = row + above
        if bits == 16:
            yield row[:width].astype(np.uint16) << 8 | row[width:]
        else:
            yield row * np.uint16(257) if deep else row
    source.finish()


class _Inflated:
    """The bytes of a compressed stream, a piece at a time: what it expands to is never held as a whole."""

    def __init__(self, method: int, data: bytes) -> None:
        self._ready = bytearray()
        self._rest = data
        self._zlib = self._lzma = None
        if method == _ZLIB:
            self._zlib = zlib.decompressobj()
        elif method == _LZMA2:
            if lzma is None:
                raise UnsupportedVersion("alpha is compressed with LZMA, which this Python was built without")
            self._lzma = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_lzma_filters())
        else:
            raise UnsupportedVersion(f"alpha is compressed with unknown method {method}", "try a newer lcodec")

    def take(self, size: int) -> bytes:
        while len(self._ready) < size:
            piece = self._more()
            if not piece:
                raise Corrupt("alpha ends early")
            self._ready += piece
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken

    def finish(self) -> None:
        if self._ready or self._more() or not self._whole():
            raise Corrupt("alpha does not end where its stream ends")

    def _more(self) -> bytes:
        try:
            if self._zlib is not None:
                piece = self._zlib.decompress(self._rest, _CHUNK_BYTES)
                self._rest = self._zlib.unconsumed_tail
                return piece
            if self._lzma is None or self._lzma.eof:
                return b""
            piece = self._lzma.decompress(self._rest, _CHUNK_BYTES)
            self._rest = b""
            return piece
        except (zlib.error, EOFError) as error:
            raise Corrupt("the compressed data of alpha are damaged") from error
        except Exception as error:
            if lzma is not None and isinstance(error, lzma.LZMAError):
                raise Corrupt("the compressed data of alpha are damaged") from error
            raise

    def _whole(self) -> bool:
        stream: Any = self._zlib if self._zlib is not None else self._lzma
        return bool(stream.eof) and not stream.unused_data


# ---- colours that no one sees


def fill_transparent(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Pixels of alpha 0 get the colours of their surroundings, ever smoother with the distance; others stay.

    pixels: uint8 or uint16 (H, W) or (H, W, 3). Returns the array itself where every pixel is visible. Every level of
    a pyramid of 2 x 2 means over visible pixels fills the holes of the finer one.
    """
    hidden = alpha == 0
    if not hidden.any():
        return pixels
    if hidden.all():
        return np.full_like(pixels, np.iinfo(pixels.dtype).max // 2)
    colours = pixels.reshape(*pixels.shape[:2], -1)
    filled = np.empty_like(colours)
    for channel in range(colours.shape[2]):
        values = _filled(np.where(hidden, 0, colours[..., channel]).astype(np.float32), ~hidden)
        filled[..., channel] = np.where(hidden, np.rint(values), colours[..., channel]).astype(pixels.dtype)
    return filled.reshape(pixels.shape)


def _filled(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """float32 (H, W), 0 where not `known` -> without holes."""
    if known.all():
        return values
    height, width = values.shape
    edge = ((0, height % 2), (0, width % 2))

    def sums(a: np.ndarray) -> np.ndarray:
        a = np.pad(a, edge)
        return a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]

    counts = sums(known.astype(np.float32))
    coarse = _filled(sums(values) / np.maximum(counts, 1), counts > 0)
    return np.where(known, values, _enlarged(coarse)[:height, :width])


def _enlarged(a: np.ndarray) -> np.ndarray:
    """Twice as high and wide, bilinear, the samples of the coarse grid in the middle of their four."""
    for axis in (0, 1):
        a = np.moveaxis(a, axis, 0)
        before, after = np.concatenate([a[:1], a[:-1]]), np.concatenate([a[1:], a[-1:]])
        out = np.empty((2 * len(a), *a.shape[1:]), np.float32)
        out[::2], out[1::2] = 0.75 * a + 0.25 * before, 0.75 * a + 0.25 * after
        a = np.moveaxis(out, 0, axis)
    return a
