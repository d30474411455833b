# The C declarations of the rANS coder and the extension types that own its structs,
# for other compiled modules.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "lc_status.h" nogil:
    ctypedef enum lc_status:
        LC_OK
        LC_TRUNCATED
        LC_CORRUPT
        LC_INVALID
        LC_NO_MEMORY


cdef extern from "lc_params.h" nogil:
    const int _LC_LANES "LC_LANES"


cdef extern from "lc_symbols.h" nogil:
    ctypedef struct lc_tables:
        uint32_t n_tables

    ctypedef struct lc_decoder:
        pass

    ctypedef struct lc_encoder:
        pass

    lc_status lc_tables_init(lc_tables *tables, const uint32_t *cdfs, size_t n_tables, size_t stride,
                             const int32_t *sizes, const int32_t *offsets, size_t *bad_table)
    void lc_tables_free(lc_tables *tables)
    lc_status lc_decoder_init(lc_decoder *decoder, const uint8_t *data, size_t size)
    lc_status lc_decode(lc_decoder *decoder, const lc_tables *tables, const uint16_t *indexes,
                        int32_t *symbols, size_t n)
    lc_status lc_decoder_finish(const lc_decoder *decoder)
    void lc_encoder_init(lc_encoder *encoder, uint64_t n_symbols)
    lc_status lc_encode(lc_encoder *encoder, const lc_tables *tables, const uint16_t *indexes,
                        const int32_t *symbols, size_t n)
    lc_status lc_encoder_finish(lc_encoder *encoder, const uint8_t **data, size_t *size)
    void lc_encoder_free(lc_encoder *encoder)


# Raises what a status of the coder means; 0 for LC_OK.
cdef int check_status(lc_status status) except -1 with gil


cdef class Tables:
    cdef lc_tables c  # read-only after __cinit__: may be read without the GIL, by several threads
    cdef readonly int n_tables


cdef class Decoder:
    cdef lc_decoder c
    cdef const uint8_t[::1] data  # keeps the bytes alive that `c` points into
