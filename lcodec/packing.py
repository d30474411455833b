"""Tensors of model files in fewer bytes, without loss: DEFLATE over what is alike.

A tensor becomes, in row-major order, either its elements, or (half floats whose rows are multiples of a power of two,
see `round_rows`) an exponent of two for each row, int8, and the multiples, int16. Of elements of several bytes first
come all the lowest bytes, then all the next. That is compressed by zlib (RFC 1950).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from lcodec.errors import ModelError

STEPS = 1 << 11  # of a row's largest weight, at most: as many as a half float can tell apart
ROUNDED_ELEMENTS = 4096  # smaller tensors are not worth rounding, and the last layers among them show it most
MAX_BYTES = 1 << 30  # of all tensors of a model
_BLOCK_ELEMENTS = 1 << 18
KINDS = ("plain", "rows")
DTYPES = ("|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<f2", "<f4")


def round_rows(weight: np.ndarray) -> np.ndarray:
    """Float weights (rows, …) as float16, a row at multiples of a power of two, up to `STEPS` of them.

    Small ones (fewer than `ROUNDED_ELEMENTS`) become float16 alone.
    """
    half = weight.astype(np.float16)
    if weight.ndim < 2 or weight.size < ROUNDED_ELEMENTS:
        return half
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    largest = np.abs(rows).max(1)
    # 2^-24 is the least that a half float can be
    steps = 2.0 ** np.maximum(np.ceil(np.log2(np.maximum(largest, 2.0**-30) / STEPS)), -24.0)
    # + 0.0: no negative zeros, which would not be multiples
    return (np.rint(rows / steps[:, None]) * steps[:, None] + 0.0).reshape(weight.shape).astype(np.float16)


def pack(array: np.ndarray) -> tuple[str, bytes]:
    """Kind ("plain" or "rows") and bytes of a tensor of one of `DTYPES`."""
    if array.dtype == np.float16 and array.ndim > 1 and array.size:
        rows = _multiples(array)
        if rows is not None:
            exponents, multiples = rows
            return "rows", zlib.compress(exponents.tobytes() + _planes(multiples), 9)
    return "plain", zlib.compress(_planes(array), 9)


def sizes(packed: Mapping[str, tuple[str, str, Sequence[int]]]) -> dict[str, int]:
    """Bytes of tensors by their kind, dtype and shape. Raises ModelError, TypeError or ValueError."""
    for _, dtype, shape in packed.values():
        if dtype not in DTYPES:
            raise ModelError(f"unknown packing of {dtype!r}")
        if not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ModelError(f"a packed tensor cannot have shape {list(shape)}")  # and make up for others in the sum
    return {name: math.prod(shape) * np.dtype(dtype).itemsize for name, (_, dtype, shape) in packed.items()}


def unpack(kind: str, data: bytes, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """The tensor that `pack` was given. Raises ModelError if the bytes are not those of such a tensor."""
    if kind not in KINDS or dtype not in DTYPES or (kind == "rows" and (dtype != "<f2" or len(shape) < 2)):
        raise ModelError(f"unknown packing {kind!r} of {dtype!r}")
    count = math.prod(shape)
    itemsize = np.dtype(dtype).itemsize
    rows = shape[0] if kind == "rows" else 0
    if count * itemsize + rows > MAX_BYTES:
        raise ModelError(f"a packed tensor of shape {list(shape)} is too large")
    raw = _inflate(data, rows + count * itemsize)
    if kind == "plain":
        return _elements(raw, dtype, count).reshape(shape)
    exponents = np.frombuffer(raw, np.int8, rows).astype(np.int32)
    multiples = _elements(memoryview(raw)[rows:], "<i2", count).reshape(rows, -1)
    out = np.empty(multiples.shape, np.float16)
    step = max(1, _BLOCK_ELEMENTS * rows // max(count, 1))  # so many rows at once: float32 takes twice as much
    with np.errstate(over="ignore"):  # what is not finite is refused where all weights are looked at
        for row in range(0, rows, step):
            part = slice(row, row + step)
            out[part] = np.ldexp(multiples[part].astype(np.float32), exponents[part, None])
    return out.reshape(shape)


def _multiples(array: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Exponents int8 (rows) and multiples int16 (rows, …) of a half float tensor; None if its rows are not such."""
    rows = array.reshape(len(array), -1).astype(np.float64)
    if not np.isfinite(rows).all():
        return None
    # frexp's mantissa of a half float is a multiple of 2^-11: the lowest bit set in a row is its step.
    mantissas, powers = np.frexp(rows)
    whole = np.rint(np.ldexp(mantissas, 11)).astype(np.int64)
    lowest = np.frexp((whole & -whole).astype(np.float64))[1] - 1 + powers - 11
    exponents = np.where(whole != 0, lowest, 127).min(1)
    exponents[exponents == 127] = 0
    multiples = np.ldexp(rows, -exponents[:, None])
    if np.abs(multiples).max() > STEPS or (np.signbit(rows) & (rows == 0)).any():
        return None
    return exponents.astype(np.int8), multiples.astype(np.int16)


def _planes(array: np.ndarray) -> bytes:
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    return flat.view(np.uint8).reshape(len(flat), array.dtype.itemsize).T.tobytes()


def _elements(raw: bytes | memoryview, dtype: str, count: int) -> np.ndarray:
    planes = np.frombuffer(raw, np.uint8).reshape(np.dtype(dtype).itemsize, count)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(-1).astype(np.dtype(dtype).newbyteorder("="), copy=False)


def _inflate(data: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(data, size + 1)
    except zlib.error as e:
        raise ModelError(f"a packed tensor is damaged: {e}") from e
    if len(raw) != size or not inflater.eof or inflater.unused_data:
        raise ModelError("a packed tensor is damaged: it has another size than it says")
    return raw
