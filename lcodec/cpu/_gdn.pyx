# cython: language_level=3, boundscheck=False, wraparound=False
"""`Gdn`: generalised divisive normalisation by csrc/lc_gdn.c."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from libc.stdint cimport int64_t, uint16_t

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
    lc_status lc_gdn_forward(
        const lc_gdn *gdn, const lc_dense_kernels *kernels, const lc_bf16 *x, lc_bf16 *y, int64_t rows
    ) nogil
    ctypedef struct lc_gdn_gradients:
        const lc_bf16 *x
        const lc_bf16 *grad_y
        lc_bf16 *grad_x
        float *grad_beta
        lc_bf16 *grad_norm
        lc_bf16 *squares
    lc_status lc_gdn_backward(
        const lc_gdn *gdn, const lc_bf16 *transposed, const lc_dense_kernels *kernels, const lc_gdn_gradients *of,
        int64_t rows
    ) nogil


cdef class Gdn:
    """x <- x / sqrt(beta + gamma x^2), or if `inverse` x * sqrt(..), over rows of channels.

    beta: float32 (C,), gamma: float32 (C, C), positive and not negative. isa: one of `isas()`; None is the default.
    Raises ValueError for other shapes, UsageError for an instruction set that is not there.
    """

    cdef lc_gdn c
    cdef const lc_dense_kernels *kernels
    cdef object keep  # what `c` points into
    cdef object gamma, transposed

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
        self.keep, self.gamma = layer, gamma
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

    def forward(self, const uint16_t[:, ::1] x not None, uint16_t[:, ::1] y not None):
        """From x to y, bfloat16 as uint16, (rows, C). ValueError, MemoryError."""
        cdef lc_status status
        self._check(x.shape[0], x.shape[1])
        self._check(y.shape[0], y.shape[1], x.shape[0])
        if x.shape[0] == 0:
            return
        with nogil:
            status = lc_gdn_forward(&self.c, self.kernels, &x[0, 0], &y[0, 0], x.shape[0])
        if status != LC_OK:
            raise MemoryError

    def backward(
        self,
        const uint16_t[:, ::1] x not None,
        const uint16_t[:, ::1] grad_y not None,
        uint16_t[:, ::1] grad_x not None,
        float[::1] grad_beta not None,
        uint16_t[:, ::1] grad_norm not None,
        uint16_t[:, ::1] squares not None,
    ):
        """Gradients of `forward`.

        Args:
            x, grad_y: bfloat16 as uint16, (rows, C).
            grad_x: the same, written. grad_beta: float32 (C,), added to.
            grad_norm, squares: bfloat16 as uint16, (rows, C), written: the gradient of gamma is grad_norm.T @ squares.

        Raises: ValueError, MemoryError.
        """
        cdef lc_gdn_gradients of
        cdef lc_status status
        cdef int64_t rows = x.shape[0]
        cdef const lc_bf16[::1] transposed
        self._check(rows, x.shape[1])
        self._check(grad_y.shape[0], grad_y.shape[1], rows)
        self._check(grad_x.shape[0], grad_x.shape[1], rows)
        self._check(grad_norm.shape[0], grad_norm.shape[1], rows)
        self._check(squares.shape[0], squares.shape[1], rows)
        if grad_beta.shape[0] != self.c.channels:
            raise ValueError(f"grad_beta has {grad_beta.shape[0]} channels, not {self.c.channels}")
        if rows == 0:
            return
        if self.transposed is None:
            self.transposed = pack.pack_layer([pack.Segment([self.gamma])], np.zeros(len(self.gamma), np.float32))
        transposed = self.transposed.panels
        of.x, of.grad_y, of.grad_x = &x[0, 0], &grad_y[0, 0], &grad_x[0, 0]
        of.grad_beta, of.grad_norm, of.squares = &grad_beta[0], &grad_norm[0, 0], &squares[0, 0]
        with nogil:
            status = lc_gdn_backward(&self.c, &transposed[0], self.kernels, &of, rows)
        if status != LC_OK:
            raise MemoryError

    cdef int _check(self, int64_t rows, int64_t channels, int64_t expected=-1) except -1:
        if channels != self.c.channels or (expected >= 0 and rows != expected):
            raise ValueError(f"rows are ({rows}, {channels})")
        return 0
