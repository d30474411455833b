# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# SPDX-License-Identifier: BSD-3-Clause
"""rANS on numpy arrays: a thin layer over csrc/lc_symbols.h.

A stream is a run of symbols; symbol i is coded with the table that `indexes[i]` names. The encoder takes all
segments at once, because rANS encodes from the end; the decoder may ask for the symbols piece by piece, and
with other tables for each piece, since what was decoded may decide how to go on.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

import numpy as np

from lcodec.errors import Corrupt, ModelError, Truncated


cdef int check_status(lc_status status) except -1 with gil:
    if status == LC_OK:
        return 0
    if status == LC_TRUNCATED:
        raise Truncated("entropy coded data ends too early")
    if status == LC_CORRUPT:
        raise Corrupt("entropy coded data is damaged")
    if status == LC_NO_MEMORY:
        raise MemoryError("not enough memory for entropy coding")
    raise ValueError("index of a table that does not exist")


cdef object _array(values, dtype, int ndim, str name):
    """`values` as a C-contiguous array of `dtype`; a conversion that would change a value is refused."""
    array = np.asarray(values)
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), not {array.ndim}")
    if array.dtype != dtype:
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must be integers, not {array.dtype}")
        limits = np.iinfo(dtype)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise ValueError(f"{name} must lie in {limits.min} .. {limits.max}")
    return np.ascontiguousarray(array, dtype=dtype)


cdef class Tables:
    """Probability tables, checked and prepared for both directions.

    Args:
        cdfs: integers (T, L). Row t holds the cumulative distribution in its first `sizes[t]` values:
            0 = cdf[0] < cdf[1] < ... = 65536. Entry k stands for the symbol `offsets[t] + k`, the last one
            for the escape.
        sizes: integers (T,), 3 .. L each.
        offsets: int32 (T,).

    Immutable, so that threads may share it. The layout is that of CompressAI's `_quantized_cdf`,
    `_cdf_length` and `_offset`.

    Raises:
        ModelError: a table breaks these rules.
    """

    def __cinit__(self, cdfs, sizes, offsets):
        try:
            cdfs = _array(cdfs, np.uint32, 2, "cdfs")
            sizes = _array(sizes, np.int32, 1, "sizes")
            offsets = _array(offsets, np.int32, 1, "offsets")
        except (TypeError, ValueError) as error:
            raise ModelError(f"probability tables: {error}") from error
        cdef Py_ssize_t n = cdfs.shape[0]
        if n != sizes.shape[0] or n != offsets.shape[0]:
            raise ModelError(
                f"probability tables: {n} rows, {sizes.shape[0]} sizes, {offsets.shape[0]} offsets"
            )
        if not 1 <= n <= 65536 or cdfs.shape[1] < 3:
            raise ModelError(f"probability tables: shape {cdfs.shape} is not (1 .. 65536, 3 or more)")
        cdef const uint32_t[:, ::1] c_cdfs = cdfs
        cdef const int32_t[::1] c_sizes = sizes
        cdef const int32_t[::1] c_offsets = offsets
        cdef size_t stride = cdfs.shape[1]
        cdef size_t bad_table = 0
        cdef lc_status status
        with nogil:
            status = lc_tables_init(
                &self.c, &c_cdfs[0, 0], n, stride, &c_sizes[0], &c_offsets[0], &bad_table
            )
        if status == LC_INVALID:
            raise ModelError(
                f"probability table {bad_table} is not a cumulative distribution of at least one symbol and"
                f" the escape that rises from 0 to 65536 within its size of {sizes[bad_table]}"
            )
        check_status(status)
        self.n_tables = n

    def __dealloc__(self):
        lc_tables_free(&self.c)

    def __reduce__(self):
        raise TypeError("Tables cannot be pickled; keep the cdfs, sizes and offsets")


cdef class Decoder:
    """Reads symbols from the start of `data` (bytes-like, not copied) to its end.

    Raises:
        Truncated: too short to hold the initial states.
        Corrupt: the initial states or the length are ones that no encoder writes.
    """

    def __cinit__(self, data):
        self.data = memoryview(data).cast("B")
        cdef const uint8_t *start = NULL
        if self.data.shape[0]:
            start = &self.data[0]
        check_status(lc_decoder_init(&self.c, start, self.data.shape[0]))

    def decode(self, indexes, Tables tables not None):
        """The next `len(indexes)` symbols.

        Args:
            indexes: uint16 (n,), the table of each symbol.

        Returns:
            int32 (n,).

        Raises:
            Truncated, Corrupt: the data does not hold these symbols. The decoder is of no use after that.
            ValueError: an index names no table.
        """
        cdef const uint16_t[::1] c_indexes = _array(indexes, np.uint16, 1, "indexes")
        cdef Py_ssize_t n = c_indexes.shape[0]
        symbols = np.empty(n, dtype=np.int32)
        cdef int32_t[::1] c_symbols = symbols
        cdef lc_status status
        if n:
            with nogil:
                status = lc_decode(&self.c, &tables.c, &c_indexes[0], &c_symbols[0], n)
            check_status(status)
        return symbols

    def finish(self):
        """Checks that the data ended with the last symbol decoded.

        Raises:
            Corrupt: bytes are left, or a state is not back where the encoder started.
        """
        check_status(lc_decoder_finish(&self.c))


cdef class _Encoder:
    """Owns the C encoder, so that its buffer is freed whatever happens."""

    cdef lc_encoder c

    def __dealloc__(self):
        lc_encoder_free(&self.c)

    cdef int push(self, const int32_t[::1] symbols, const uint16_t[::1] indexes, Tables tables) except -1:
        cdef size_t n = symbols.shape[0]
        cdef lc_status status
        if n:
            with nogil:
                status = lc_encode(&self.c, &tables.c, &indexes[0], &symbols[0], n)
            check_status(status)
        return 0

    cdef bytes finish(self):
        cdef const uint8_t *data = NULL
        cdef size_t size = 0
        check_status(lc_encoder_finish(&self.c, &data, &size))
        return PyBytes_FromStringAndSize(<const char *>data, size)


def encode(segments):
    """Encodes the symbols of all segments, in order, as one stream.

    Args:
        segments: sequence of (symbols int32 (n,), indexes uint16 (n,), Tables). Symbol i of a segment is
            coded with table `indexes[i]`; any int32 can be, by the escape code where the table lacks it.

    Returns:
        bytes, a multiple of 4, at least 8 for each lane.

    Raises:
        ValueError: lengths differ, or an index names no table.
    """
    checked = []
    cdef uint64_t n_symbols = 0
    for symbols, indexes, tables in segments:
        symbols = _array(symbols, np.int32, 1, "symbols")
        indexes = _array(indexes, np.uint16, 1, "indexes")
        if symbols.shape != indexes.shape:
            raise ValueError(f"{symbols.size} symbols but {indexes.size} indexes")
        if not isinstance(tables, Tables):
            raise TypeError(f"tables must be Tables, not {type(tables).__name__}")
        checked.append((symbols, indexes, tables))
        n_symbols += symbols.size
    cdef _Encoder encoder = _Encoder()
    lc_encoder_init(&encoder.c, n_symbols)
    for symbols, indexes, tables in reversed(checked):
        encoder.push(symbols, indexes, tables)
    return encoder.finish()


# Number of interleaved states, LC_LANES of csrc/lc_params.h: an empty stream is 8 * LANES bytes.
LANES = _LC_LANES
