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
_BAND_ROWS = 256


# ---- writing


def encode_alpha(alpha: np.ndarray) -> bytes:
    """The payload of an ALPHA section for uint8 or uint16 (H, W).

    Samples of 16 bits that are all multiples of 257, which is what 8 bits become, are kept as 8.
    """
    if alpha.size > _TRIAL_LIMIT:
        encoder = AlphaEncoder(alpha.dtype == np.uint16)
        for row in range(0, len(alpha), _BAND_ROWS):
            encoder.add(alpha[row : row + _BAND_ROWS])
        return encoder.payload()
    bits = 8
    if alpha.dtype == np.uint16:
        bits = 8 if _is_8_bits(alpha) else 16
        alpha = _in_bytes(alpha, bits)
    chosen = [None, _NONE, _LEFT, _UP, _PLANE]
    packer = _Packer()
    packer.add(min((_write_rows(alpha, type_) for type_ in chosen), key=lambda data: len(zlib.compress(data, 1))))
    return bytes([bits]) + packer.finish()


class AlphaEncoder:
    """`encode_alpha` for rows that come in bands, in the memory of what they are compressed to.

    deep: they are uint16. Alpha of more than 2^24 samples gets the same bytes either way.
    """

    def __init__(self, deep: bool) -> None:
        # Whether 8 bits are enough shows at the end only.
        self._packers = {bits: _Packer() for bits in ((8, 16) if deep else (8,))}
        self._above: dict[int, np.ndarray] = {}

    def add(self, alpha: np.ndarray) -> None:
        """The next rows, (.., W)."""
        if alpha.dtype == np.uint16 and 8 in self._packers and not _is_8_bits(alpha):
            del self._packers[8]
        for bits, packer in self._packers.items():
            rows = _in_bytes(alpha, bits) if alpha.dtype == np.uint16 else alpha
            packer.add(_write_rows(rows, None, self._above.get(bits)))
            self._above[bits] = rows[-1].copy()

    def payload(self) -> bytes:
        """When all rows are there."""
        bits, packer = next(iter(self._packers.items()))
        return bytes([bits]) + packer.finish()


def _is_8_bits(alpha: np.ndarray) -> bool:
    return bool((alpha % 257 == 0).all())


def _in_bytes(alpha: np.ndarray, bits: int) -> np.ndarray:
    """uint16 (H, W) as uint8: (H, W), or the high bytes of a row before its low ones."""
    if bits == 8:
        return (alpha // 257).astype(np.uint8)
    return np.concatenate([(alpha >> 8).astype(np.uint8), (alpha & 255).astype(np.uint8)], axis=1)


class _Packer:
    """The shorter one of a zlib and an LZMA2 stream, behind the number of the method."""

    def __init__(self) -> None:
        self._streams: dict[int, Any] = {_ZLIB: zlib.compressobj(6)}
        if lzma is not None:
            self._streams[_LZMA2] = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=_lzma_filters())
        self._parts: dict[int, list[bytes]] = {method: [] for method in self._streams}

    def add(self, data: bytes) -> None:
        for method, stream in self._streams.items():
            self._parts[method].append(stream.compress(data))

    def finish(self) -> bytes:
        return min(
            (bytes([m]) + b"".join([*self._parts[m], s.flush()]) for m, s in self._streams.items()), key=len
        )


def _lzma_filters() -> list[dict[str, Any]]:
    # lc and pb are not needed for reading, LZMA2 carries them
    return [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": _LZMA_DICTIONARY_BYTES, "lc": 4, "pb": 0}]


def _write_rows(alpha: np.ndarray, type_: int | None, above: np.ndarray | None = None) -> bytes:
    """The rows of uint8 (H, W), all of one type or, with None, each of its cheapest; repeated rows as such.

    above: the row before them, (W,), None for zeros.
    """
    parts = []
    if above is None:
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


def fill_transparent_bands(bands: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """`fill_transparent` for (H, W, channels and alpha) that comes in bands from the top; without alpha.

    What is hidden in a band gets its colours from that band and the last row above it.
    """
    above: np.ndarray | None = None
    for band in bands:
        pixels, alpha = band[..., :-1], band[..., -1]
        if (alpha == 0).any():
            known = 0 if above is None else 1
            if above is not None:
                pixels = np.concatenate([above, pixels])
                alpha = np.concatenate([np.ones_like(alpha[:1]), alpha])
            pixels = fill_transparent(pixels, alpha)[known:]
        above = pixels[-1:].copy()
        yield pixels


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
