# cython: language_level=3, boundscheck=False, wraparound=False
"""`Gdn`: generalised divisive normalisation by csrc/lc_gdn.c."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from libc.stdint cimport int64_t

from lcodec.cpu import pack
from lcodec.cpu._dense cimport LC_OK, lc_bf16, lc_dense_kernels, lc_dense_kernels_get, lc_float_isa, lc_status
from lcodec.cpu._mixnet import ISAS, default_isa, isas
from lcodec.errors import UsageError


cdef extern from "lc_gdn.h":
    ctypedef struct lc_gdn:
        const lc_bf16 *panels
        const float *beta
        int channels, padded
        bint inverse
    lc_status lc_gdn_apply(
        const lc_gdn *gdn, const lc_dense_kernels *kernels, float *x, const float *add, int64_t rows
    ) nogil


cdef class Gdn:
    """x <- x / sqrt(beta + gamma x^2), or if `inverse` x * sqrt(..), over rows of channels.

    beta: float32 (C,), gamma: float32 (C, C), positive and not negative. isa: one of `isas()`; None is the default.
    Raises ValueError for other shapes, UsageError for an instruction set that is not there.
    """

    cdef lc_gdn c
    cdef const lc_dense_kernels *kernels
    cdef object keep  # what `c` points into

    def __cinit__(self, beta, gamma, bint inverse, isa=None):
        channels = len(beta)
        if gamma.shape != (channels, channels) or not channels:
            raise ValueError(f"gamma is {gamma.shape}, beta {beta.shape}")
        name = default_isa() if isa is None else isa
        if name not in isas():
            raise UsageError(f"instruction set {name!r} is not available", "available here: " + ", ".join(isas()))
        self.kernels = lc_dense_kernels_get(<lc_float_isa><int>ISAS[name])
        layer = pack.pack_layer([pack.Segment([gamma.T])], beta)
        layer.bias[channels:] = 1
        self.keep = layer
        cdef const lc_bf16[::1] panels = layer.panels
        cdef const float[::1] bias = layer.bias
        self.c.panels, self.c.beta = &panels[0], &bias[0]
        self.c.channels, self.c.padded, self.c.inverse = channels, pack.padded(channels), inverse

    def apply(self, x, add=None, int threads=1):
        """In place. x: float32 (rows, C), contiguous. add: the same or None, added afterwards. ValueError, MemoryError."""
        for array in (x, add):
            if array is not None and (array.dtype != np.float32 or array.shape != (len(x), self.c.channels)):
                raise ValueError(f"rows are {array.dtype} {array.shape}")
        parts = min(threads, len(x) // 1024 + 1)
        edges = [len(x) * i // parts for i in range(parts + 1)]
        jobs = [(x[a:b], None if add is None else add[a:b]) for a, b in zip(edges, edges[1:])]
        if parts == 1:
            self._part(*jobs[0])
            return
        with ThreadPoolExecutor(parts - 1) as pool:
            others = [pool.submit(self._part, *job) for job in jobs[1:]]
            self._part(*jobs[0])
            for other in others:
                other.result()

    def _part(self, float[:, ::1] x, add):
        cdef const float[:, ::1] c_add
        cdef const float *added = NULL
        cdef lc_status status
        if x.shape[0] == 0:
            return
        if add is not None:
            c_add = add
            added = &c_add[0, 0]
        with nogil:
            status = lc_gdn_apply(&self.c, self.kernels, &x[0, 0], added, x.shape[0])
        if status != LC_OK:
            raise MemoryError
