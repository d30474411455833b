# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""`MixNet`: analysis, hyper-analysis and synthesis of lc-s by csrc/lc_mixnet.c."""

import functools
import os
import threading

import numpy as np

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from lcodec.cpu._dense cimport (
    LC_FLOAT_AMX, LC_FLOAT_AVX2, LC_FLOAT_AVX512, LC_FLOAT_PLAIN, LC_NO_MEMORY, LC_OK,
    LC_N_FLOAT_ISAS, lc_bf16, lc_dense_kernels, lc_dense_kernels_get, lc_float_isa, lc_status,
)

from lcodec.errors import ModelError, UsageError


cdef extern from "lc_team.h":
    ctypedef struct lc_team:
        pass
    void lc_team_fail(lc_team *team, lc_status status)


cdef extern from "lc_mixnet.h":
    ctypedef struct lc_dense_layer:
        const lc_bf16 *panels
        const float *bias
        int32_t n_panels, panel_blocks, n_segments
        int32_t segment_blocks[9]
    ctypedef struct lc_mix_block:
        lc_dense_layer enter, leave, expand, contract
        const float *depthwise
        const float *depthwise_bias
    ctypedef struct lc_mixnet:
        int32_t N, M
        lc_dense_layer patch, down
        lc_mix_block analysis[3]
        lc_dense_layer hyper[3]
        lc_dense_layer up[4]
        lc_dense_layer pixels
        lc_mix_block synthesis[3]
    ctypedef enum lc_mix_kind:
        LC_MIX_ANALYSIS
        LC_MIX_HYPER
        LC_MIX_SYNTHESIS
    ctypedef struct lc_mix_job:
        const lc_mixnet *net
        const lc_dense_kernels *kernels
        lc_mix_kind kind
        int32_t height, width
        bint deep
        int32_t n_colours
        const void *pixels_in
        void *pixels_out
        const int32_t *y_hat
        const float *scale
        const float *y
        int32_t y_channels
        float *out
        lc_team team
    int LC_MIX_MAX_SIDE
    lc_status lc_mix_job_init(lc_mix_job *job, int32_t n_threads)
    void lc_mix_job_free(lc_mix_job *job)
    void lc_mix_worker(lc_mix_job *job, int32_t rank) nogil


ISAS = {"plain": LC_FLOAT_PLAIN, "avx2": LC_FLOAT_AVX2, "avx512": LC_FLOAT_AVX512, "amx": LC_FLOAT_AMX}
MAX_THREADS = 64
cdef const lc_dense_kernels *_found[<int>LC_N_FLOAT_ISAS]


@functools.cache
def isas():
    """Names of the instruction sets that this machine has kernels for, slowest first."""
    # Asked for once: a virtual machine leaves its processor to tell what the processor has, which takes long.
    for name, number in ISAS.items():
        _found[<int>number] = lc_dense_kernels_get(<lc_float_isa><int>number)
    return tuple(name for name, number in ISAS.items() if _found[<int>number] != NULL)


def default_isa():
    """The environment variable LCODEC_FLOAT_ISA if it is set, else the fastest there is."""
    return os.environ.get("LCODEC_FLOAT_ISA") or isas()[len(isas()) - 1]  # no [-1] without wraparound


cdef const lc_dense_kernels *_kernels(isa) except NULL:
    name = default_isa() if isa is None else isa
    if name not in isas():
        raise UsageError(f"instruction set {name!r} is not available", "available here: " + ", ".join(isas()))
    return _found[<int>ISAS[name]]


cdef inline uint16_t _to_bf16(float f) noexcept nogil:
    """To the nearest, ties to even."""
    cdef uint32_t bits
    memcpy(&bits, &f, sizeof(bits))
    return <uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


cdef inline float _lower(float f) noexcept nogil:
    """What bfloat16 leaves of it."""
    cdef uint32_t bits = <uint32_t>_to_bf16(f) << 16
    cdef float upper
    memcpy(&upper, &bits, sizeof(upper))
    return f - upper


cdef void _pack_tap(const float[:, :] matrix, bint lower, uint16_t *panels, Py_ssize_t panel_step) noexcept nogil:
    """Into panels from the first block of the tap on; a tile of 16 channels at a time, which is written in order."""
    cdef const char *weights = <const char *>&matrix[0, 0]
    cdef Py_ssize_t inputs = matrix.shape[0], channels = matrix.shape[1], first, block, i, c
    cdef Py_ssize_t step = matrix.strides[0], channel_step = matrix.strides[1]
    cdef uint16_t *tile
    cdef float weight
    for first in range(0, channels, 16):
        for block in range(0, inputs, 32):
            tile = panels + first // 32 * panel_step + first % 32 // 16 * 512 + block * 32
            for i in range(block, min(inputs, block + 32)):
                for c in range(first, min(channels, first + 16)):
                    weight = (<const float *>(weights + i * step + c * channel_step))[0]
                    if lower:
                        weight = _lower(weight)
                    tile[i % 32 // 2 * 32 + (c - first) * 2 + i % 2] = _to_bf16(weight)


def pack_panels(taps, Py_ssize_t outputs):
    """Weights as csrc/lc_dense.h has them: uint16 [panel][block][2 tiles][16 pairs][16 channels][2], aligned.

    taps: (float32 (inputs, channels), padded inputs, whether only what bfloat16 leaves of the weights is meant), which
    follow one another; outputs: padded channels. ValueError if they do not fit.
    """
    cdef const float[:, :] matrix
    cdef uint16_t[::1] panels
    cdef Py_ssize_t start = 0, total = sum(size for _, size, _ in taps)
    if outputs % 32 or any(size % 32 or not 0 < len(tap) <= size or not 0 < tap.shape[1] <= outputs
                           for tap, size, _ in taps):
        raise ValueError("taps do not fit into panels")
    memory = np.zeros(total * outputs + 32, np.uint16)
    packed = memory[-memory.ctypes.data % 64 // 2 :][: total * outputs]
    panels = packed
    for tap, size, lower in taps:
        matrix = tap
        _pack_tap(matrix, lower, &panels[start * 32], total * 32)
        start += size
    return packed


cdef class _Job:
    """Owns the buffers of one call, and what threads that outlive it (an interrupt leaves them behind) still need."""

    cdef lc_mix_job c
    cdef object keep  # what `c` points into

    def __cinit__(self):
        memset(&self.c, 0, sizeof(self.c))

    def __dealloc__(self):
        lc_mix_job_free(&self.c)


cdef class MixNet:
    """The three networks of a `lcodec.cpu.pack.PackedNet`, in a form that threads may share.

    Results differ between instruction sets, and from torch's, by rounding alone. Raises ModelError for a net whose
    parts do not fit together.
    """

    cdef lc_mixnet c
    cdef object keep  # what `c` points into
    cdef readonly int N, M

    def __cinit__(self, net):
        cdef int i
        memset(&self.c, 0, sizeof(self.c))
        self.keep = []
        N, M = self.N, self.M = net.N, net.M
        if N % 32 or M % 32 or N < 32 or M < 32:
            raise ModelError(f"widths {N} and {M} are not padded to multiples of 32")
        self.c.N, self.c.M = N, M
        self._layer(&self.c.patch, net.patch, (192, 192, 192), N)
        self._layer(&self.c.down, net.down, (3 * N,) * 9, M)
        self._layer(&self.c.pixels, net.pixels, (N, N, N), 192)
        self._layer(&self.c.hyper[0], net.hyper[0], (M,), N)
        for i in range(1, 3):
            self._layer(&self.c.hyper[i], net.hyper[i], (3 * N, 3 * N, 3 * N), N)
        for i in range(4):
            self._layer(&self.c.up[i], net.up[i], ((1 + i % 2) * M,) * (1 + i // 2) * 3, N)
        for i in range(3):
            self._block(&self.c.analysis[i], net.analysis[i], N)
            self._block(&self.c.synthesis[i], net.synthesis[i], N)

    cdef int _layer(self, lc_dense_layer *layer, packed, inputs, outputs) except -1:
        cdef const uint16_t[::1] panels = packed.panels
        cdef const float[::1] bias = packed.bias
        blocks = tuple(n // 32 for n in inputs)
        if packed.segment_blocks != blocks or packed.panels.size != sum(inputs) * outputs or bias.shape[0] != outputs:
            raise ModelError("a layer of the transforms has a wrong shape")
        if packed.panels.ctypes.data % 64:
            raise ValueError("panels are not aligned")
        self.keep.append((packed.panels, packed.bias))
        layer.panels, layer.bias = &panels[0], &bias[0]
        layer.n_panels, layer.n_segments, layer.panel_blocks = outputs // 32, len(blocks), sum(blocks)
        for i, n in enumerate(blocks):
            layer.segment_blocks[<int>i] = n
        return 0

    cdef int _block(self, lc_mix_block *block, packed, N) except -1:
        cdef const float[:, ::1] weights = packed.depthwise
        cdef const float[::1] bias = packed.depthwise_bias
        if (weights.shape[0], weights.shape[1], bias.shape[0]) != (9, N, N):
            raise ModelError("a depthwise layer of the transforms has a wrong shape")
        self._layer(&block.enter, packed.enter, (N,), N)
        self._layer(&block.leave, packed.leave, (N,), N)
        self._layer(&block.expand, packed.expand, (N,), 2 * N)
        self._layer(&block.contract, packed.contract, (2 * N,), N)
        self.keep.append((packed.depthwise, packed.depthwise_bias))
        block.depthwise, block.depthwise_bias = &weights[0, 0], &bias[0]
        return 0

    def analyse(self, pixels, int threads=1, isa=None):
        """g_a.

        Args:
            pixels: uint8 or uint16 over the full range, (H, W, 3), or (H, W, 1) for three equal channels; H and W
                multiples of 16.
            threads: 1 .. 64. isa: one of `isas()`; None is the default.

        Returns:
            y float32 (H / 16, W / 16, M), M as padded, gains not applied.

        Raises:
            ValueError: shape or type do not fit.
            UsageError: the instruction set is not available, or the number of threads is out of range.
        """
        cdef _Job job = _Job()
        cdef const uint8_t[::1] samples
        cdef float[:, :, ::1] out
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}")
        height, width = pixels.shape[:2]
        if height % 16 or width % 16:
            raise ValueError(f"{height} x {width} pixels are no multiples of 16")
        pixels = np.ascontiguousarray(pixels)
        samples = pixels.reshape(-1).view(np.uint8)
        y = np.empty((height // 16, width // 16, self.M), np.float32)
        out = y
        job.c.kind, job.c.height, job.c.width = LC_MIX_ANALYSIS, height // 8, width // 8
        job.c.deep, job.c.n_colours = pixels.dtype == np.uint16, pixels.shape[2]
        job.c.pixels_in, job.c.out = &samples[0], &out[0, 0, 0]
        job.keep = (self, pixels, y)
        self._run(job, threads, isa)
        return y

    def hyper_analyse(self, y, int threads=1, isa=None):
        """h_a of y float32 (h, w, C), C <= M, gains applied, h and w multiples of 4 -> z float32 (h/4, w/4, N)."""
        cdef _Job job = _Job()
        cdef const float[:, :, ::1] c_y
        cdef float[:, :, ::1] out
        if y.ndim != 3 or y.dtype != np.float32 or not 1 <= y.shape[2] <= self.M or y.shape[0] % 4 or y.shape[1] % 4:
            raise ValueError(f"y is {y.dtype} {y.shape}")
        y = np.ascontiguousarray(y)
        c_y = y
        z = np.empty((y.shape[0] // 4, y.shape[1] // 4, self.N), np.float32)
        out = z
        job.c.kind, job.c.height, job.c.width, job.c.y_channels = LC_MIX_HYPER, y.shape[0], y.shape[1], y.shape[2]
        job.c.y, job.c.out = &c_y[0, 0, 0], &out[0, 0, 0]
        job.keep = (self, y, z)
        self._run(job, threads, isa)
        return z

    def synthesise(self, y_hat, scale, bint gray=False, bint deep=False, int threads=1, isa=None):
        """g_s.

        Args:
            y_hat: int32 (h, w, C), C <= M. scale: float32 (C,), what a unit of y_hat is worth.
            gray: mean of the three channels. deep: 16 bits.

        Returns:
            (16 h, 16 w, 3 or 1) uint8 or uint16, clamped and rounded.
        """
        cdef _Job job = _Job()
        cdef const int32_t[:, :, ::1] c_y
        cdef const float[::1] c_scale
        cdef uint8_t[::1] out
        if y_hat.ndim != 3 or y_hat.dtype != np.int32 or not 1 <= y_hat.shape[2] <= self.M or y_hat.size == 0:
            raise ValueError(f"y_hat is {y_hat.dtype} {y_hat.shape}")
        if scale.dtype != np.float32 or scale.shape != y_hat.shape[2:]:
            raise ValueError(f"scale is {scale.dtype} {scale.shape}")
        y_hat, scale = np.ascontiguousarray(y_hat), np.ascontiguousarray(scale)
        c_y, c_scale = y_hat, scale
        height, width = y_hat.shape[:2]
        pixels = np.empty((16 * height, 16 * width, 1 if gray else 3), np.uint16 if deep else np.uint8)
        out = pixels.reshape(-1).view(np.uint8)
        job.c.kind, job.c.height, job.c.width, job.c.y_channels = LC_MIX_SYNTHESIS, 2 * height, 2 * width, y_hat.shape[2]
        job.c.deep, job.c.n_colours = deep, 1 if gray else 3
        job.c.y_hat, job.c.scale, job.c.pixels_out = &c_y[0, 0, 0], &c_scale[0], &out[0]
        job.keep = (self, y_hat, scale, pixels)
        self._run(job, threads, isa)
        return pixels

    cdef int _run(self, _Job job, int threads, isa) except -1:
        if not 1 <= threads <= MAX_THREADS:
            raise UsageError(f"number of threads {threads} is not within 1 .. {MAX_THREADS}")
        job.c.net, job.c.kernels = &self.c, _kernels(isa)
        status = lc_mix_job_init(&job.c, threads)
        if status == LC_NO_MEMORY:
            raise MemoryError
        if status != LC_OK:
            raise ValueError(f"a picture of {job.c.width} x {job.c.height} patches cannot be")

        def work(rank):
            cdef int32_t c_rank = rank
            with nogil:
                lc_mix_worker(&job.c, c_rank)

        helpers = []
        try:
            try:
                for rank in range(1, threads):
                    helper = threading.Thread(target=work, args=(rank,), name=f"lcodec-{rank}", daemon=True)
                    helper.start()
                    helpers.append(helper)
            except BaseException:
                lc_team_fail(&job.c.team, LC_NO_MEMORY)  # those who wait for the one that did not start leave
                raise
            work(0)
        finally:
            for helper in helpers:
                helper.join()
        return 0
