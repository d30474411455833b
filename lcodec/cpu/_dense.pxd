"""What the modules here share of csrc/lc_dense.h."""

from libc.stdint cimport uint16_t


cdef extern from "lc_status.h":
    ctypedef enum lc_status:
        LC_OK
        LC_NO_MEMORY


cdef extern from "lc_dense.h":
    ctypedef uint16_t lc_bf16
    ctypedef struct lc_dense_kernels:
        pass
    ctypedef enum lc_float_isa:
        LC_FLOAT_PLAIN
        LC_FLOAT_AVX2
        LC_FLOAT_AVX512
        LC_FLOAT_AMX
        LC_N_FLOAT_ISAS
    const lc_dense_kernels *lc_dense_kernels_get(lc_float_isa isa)
