# cython: language_level=3
# SPDX-License-Identifier: BSD-3-Clause
"""The integer network on numpy arrays: a thin layer over csrc/lc_intnet.h and csrc/lc_slice.h.

Everything a C function relies on is checked here, once, when a layer or a model is made.
"""

from libc.stdint cimport int16_t, int32_t, uint16_t
from libc.string cimport memcpy, memset

from lcodec.entropy._rans cimport Decoder, Tables, check_status, lc_decoder, lc_status, lc_tables

import os
import threading

import numpy as np

from lcodec.errors import ModelError, UsageError


cdef extern from "lc_status.h" nogil:
    lc_status _OK "LC_OK"
    lc_status _NO_MEMORY "LC_NO_MEMORY"


cdef extern from "lc_gemm.h" nogil:
    ctypedef enum lc_isa:
        LC_ISA_SCALAR
        LC_ISA_AVX2
        LC_ISA_AVX512
        LC_ISA_NEON

    ctypedef enum lc_output:
        LC_OUTPUT_ACC
        LC_OUTPUT_INT32
        LC_OUTPUT_INT16

    ctypedef struct lc_kernels:
        pass

    int32_t LC_MAX_SHIFT
    const lc_kernels *lc_kernels_get(lc_isa isa)
    lc_isa lc_isa_best()


cdef extern from "lc_intnet.h" nogil:
    ctypedef enum lc_layer_kind:
        LC_CONV
        LC_CONTEXT
        LC_DECONV
        LC_SUBPEL

    ctypedef struct lc_layer_spec:
        lc_layer_kind kind
        int32_t kernel, in_channels, out_channels
        const int16_t *weight
        const int32_t *bias
        const int32_t *mult_pos
        const int32_t *mult_neg
        const int32_t *shift
        int32_t lo, hi
        lc_output output

    ctypedef struct lc_layer:
        int32_t in_channels, out_channels, upsample, margin

    ctypedef struct lc_plane:
        pass

    ctypedef struct lc_sink:
        void *data
        Py_ssize_t row_step, column_step

    int32_t LC_MAX_CHANNELS
    int32_t LC_MAX_EXTENT
    lc_status lc_layer_init(lc_layer *layer, const lc_layer_spec *spec)
    void lc_layer_free(lc_layer *layer)
    lc_status lc_plane_init(lc_plane *plane, int32_t height, int32_t width, int32_t channels, int32_t margin)
    void lc_plane_free(lc_plane *plane)
    int16_t *lc_plane_at(const lc_plane *plane, int32_t row, int32_t column)
    void lc_layer_rows(const lc_layer *layer, const lc_kernels *kernels, const lc_plane *plane, int32_t first,
                       int32_t end, const lc_sink *out)


cdef extern from "lc_latents.h" nogil:
    int32_t LC_MAX_FRACTION_BITS
    int32_t LC_MAX_SYMBOL
    int32_t LC_LATENT_BITS
    void lc_quantize(const int32_t *v, const int32_t *means, Py_ssize_t mean_step, int32_t fraction_bits, size_t n,
                     int32_t *symbols)


cdef extern from "lc_team.h" nogil:
    ctypedef struct lc_team:
        pass

    void lc_team_fail(lc_team *team, lc_status status)
    lc_status lc_team_status(lc_team *team)


cdef extern from "lc_slice.h" nogil:
    int32_t LC_MAX_LAYERS
    int32_t LC_MAX_SLICE_EXTENT

    ctypedef struct lc_entropy_model:
        int32_t M, n_hyper
        const lc_layer **hyper
        bint has_means
        const lc_layer *context
        const lc_layer *hyper_half
        int32_t n_parameters
        const lc_layer **parameters
        int32_t fraction_bits, n_thresholds
        const int32_t *thresholds

    ctypedef struct lc_slice:
        lc_team team
        const int32_t *y
        int32_t *symbols
        uint16_t *indexes
        int32_t *y_hat
        lc_decoder *decoder
        const lc_tables *tables
        lc_plane *planes

    lc_status lc_slice_init(lc_slice *slice, const lc_entropy_model *model, const lc_kernels *kernels, int32_t height,
                            int32_t width, int32_t z_height, int32_t z_width, int32_t n_threads)
    void lc_slice_free(lc_slice *slice)
    void lc_slice_worker(lc_slice *slice, int32_t rank)


_ISAS = {"scalar": LC_ISA_SCALAR, "avx2": LC_ISA_AVX2, "avx512": LC_ISA_AVX512, "neon": LC_ISA_NEON}
_KINDS = {"conv": LC_CONV, "context": LC_CONTEXT, "deconv": LC_DECONV, "subpel": LC_SUBPEL}
_OUTPUTS = {"int16": LC_OUTPUT_INT16, "int32": LC_OUTPUT_INT32, "acc": LC_OUTPUT_ACC}

MAX_THREADS = 64
MAX_ACTIVATION = 32767  # of int16 activations and weights, either sign
MAX_SUM = 2**31 - 1
MAX_MEAN = 2**30 - 1
_BLOCK_TAPS = 1 << 20
MAX_SYMBOL = LC_MAX_SYMBOL
MAX_SLICE_EXTENT = LC_MAX_SLICE_EXTENT
LATENT_BITS = LC_LATENT_BITS


def isas():
    """Names of the instruction sets that this processor has kernels for, slowest first."""
    return tuple(name for name, number in _ISAS.items() if lc_kernels_get(<lc_isa><int>number) != NULL)


def default_isa():
    """The environment variable LCODEC_ISA if it is set, else the fastest there is."""
    return os.environ.get("LCODEC_ISA") or {v: k for k, v in _ISAS.items()}[<int>lc_isa_best()]


cdef const lc_kernels *_kernels(isa) except NULL:
    name = default_isa() if isa is None else isa
    if name not in isas():
        raise UsageError(f"instruction set {name!r} is not available", "available here: " + ", ".join(isas()))
    return lc_kernels_get(<lc_isa><int>_ISAS[name])


cdef int _threads(threads) except -1:
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"number of threads {threads} is not within 1 .. {MAX_THREADS}")
    return threads


cdef object _integers(values, dtype, str name, low, high):
    """`values` as a contiguous array of `dtype`, all within low .. high, or ModelError."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ModelError(f"{name} must be integers, not {array.dtype}")
    if array.size and not (low <= array.min() and array.max() <= high):
        raise ModelError(f"{name} must lie in {low} .. {high}, not {array.min()} .. {array.max()}")
    return np.ascontiguousarray(array, dtype=dtype)


cdef object _worst_sums(str kind, weight, bias):
    """Largest magnitude of a sum for each output channel, int64: |bias| + 32767 * sum |weight| over the taps used."""
    if kind == "deconv":
        weight = weight.transpose(1, 0, 2, 3)
    middle = weight.shape[2] // 2
    sums = np.zeros(len(weight), np.int64)
    step = max(1, _BLOCK_TAPS // max(weight[0].size, 1))  # output channels at a time: copies are larger than weights
    for first in range(0, len(weight), step):
        taps = np.abs(weight[first : first + step].astype(np.int32))
        total = sums[first : first + step]
        if kind == "deconv":
            # An output pixel sees the kernel rows, and columns, of one parity.
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                np.maximum(total, taps[:, :, i::2, j::2].sum(axis=(1, 2, 3), dtype=np.int64), out=total)
        elif kind == "context":
            total += taps[:, :, :middle].sum(axis=(1, 2, 3), dtype=np.int64)
            total += taps[:, :, middle, :middle].sum(axis=(1, 2), dtype=np.int64)
        else:
            total += taps.sum(axis=(1, 2, 3), dtype=np.int64)
    return np.abs(bias.astype(np.int64)) + MAX_ACTIVATION * sums


def _checked(kind, weight, bias, mult_pos, mult_neg, shift, lo, hi, output):
    """The parameters of a layer as arrays that the C code may rely on, by name; see `Layer`."""
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ModelError(f"unknown kind of layer {kind!r}", "known: " + ", ".join(_KINDS))
    if output not in _OUTPUTS:
        raise ModelError(f"unknown output {output!r}", "known: " + ", ".join(_OUTPUTS))
    weight = _integers(weight, np.int16, "weight", -MAX_ACTIVATION, MAX_ACTIVATION)
    kernels = {"conv": (1, 3, 5), "context": (3, 5), "deconv": (5,), "subpel": (3,)}[kind]
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] not in kernels:
        raise ModelError(f"weight of a {kind} layer cannot have the shape {weight.shape}")
    n, n_in = weight.shape[:2] if kind != "deconv" else weight.shape[1::-1]
    if kind == "subpel" and n % 4:
        raise ModelError(f"a subpel layer has a multiple of 4 channels, not {n}")
    n_out = n // 4 if kind == "subpel" else n
    if not (1 <= n_in <= LC_MAX_CHANNELS and 1 <= n_out <= LC_MAX_CHANNELS):
        raise ModelError(f"a layer of {n_in} to {n_out} channels is out of range 1 .. {LC_MAX_CHANNELS}")
    limit = MAX_ACTIVATION if output == "int16" else MAX_SUM
    if isinstance(lo, bool) or isinstance(hi, bool) or not isinstance(lo, int) or not isinstance(hi, int):
        raise ModelError(f"limits {lo!r}, {hi!r} of a layer are not integers")
    if not -limit <= lo <= hi <= limit:
        raise ModelError(f"limits {lo} .. {hi} of a layer are not ascending within +-{limit}")
    arrays = {
        "bias": _integers(bias, np.int32, "bias", -MAX_SUM, MAX_SUM),
        "mult_pos": _integers(mult_pos, np.int32, "mult_pos", 0, 2**16 - 1),
        "mult_neg": _integers(mult_neg, np.int32, "mult_neg", 0, 2**16 - 1),
        "shift": _integers(shift, np.int32, "shift", 1, LC_MAX_SHIFT),
    }
    if arrays["shift"].ndim == 0 or arrays["shift"].shape == (1,):
        arrays["shift"] = np.full(n, int(arrays["shift"].reshape(-1)[0]), dtype=np.int32)
    for name, array in arrays.items():
        if array.shape != (n,):
            raise ModelError(f"{name} has the shape {array.shape}, not ({n},)")
    sums = _worst_sums(kind, weight, arrays["bias"])
    if sums.max() > MAX_SUM:
        channel = int(sums.argmax())
        raise ModelError(f"sums of channel {channel} can reach {sums[channel]} and overflow 32 bits")
    return {"kind": kind, "weight": weight, **arrays, "lo": lo, "hi": hi, "output": output,
            "worst_sum": int(sums.max())}


cdef class Layer:
    """One layer of the integer network, checked and packed for the kernels; immutable.

        acc = bias[o] + sum weight * x                              int32
        m   = acc >= 0 ? mult_pos[o] : mult_neg[o]
        out = clamp((acc * m + (1 << (shift[o] - 1))) >> shift[o], lo, hi)

    Args:
        kind, weight: within +-32767, laid out as torch does:
            "conv"    (out, in, k, k), k = 1, 3, 5: stride 1, padding k // 2
            "context" (out, in, k, k), k = 3, 5: the same with type A mask; masked taps are ignored
            "deconv"  (in, out, 5, 5): transposed, stride 2, padding 2, output padding 1
            "subpel"  (4 out, in, 3, 3): stride 1, padding 1, then pixel shuffle by 2
        bias, mult_pos, mult_neg: int32 (out,), subpel (4 out,); 0 <= mult_* < 2^16.
        shift: 1 .. 40, one for the layer or one for each channel as `bias`.
        lo, hi: limits of the output.
        output: "int16" (lo, hi within +-32767), "int32", or "acc" for the sums themselves.

    Raises:
        ModelError: a value or a shape is out of range, or a sum could overflow:
            |bias| + 32767 * sum |weight| > 2^31 - 1 over the taps that one output sees.
    """

    cdef lc_layer c
    cdef readonly str kind
    cdef readonly str output
    cdef readonly int lo, hi
    cdef readonly long long worst_sum

    def __cinit__(self, kind, weight, bias, mult_pos, mult_neg, shift, lo=-MAX_ACTIVATION, hi=MAX_ACTIVATION,
                  output="int16"):
        p = _checked(kind, weight, bias, mult_pos, mult_neg, shift, lo, hi, output)
        cdef const int16_t[:, :, :, ::1] c_weight = p["weight"]
        cdef const int32_t[::1] c_bias = p["bias"]
        cdef const int32_t[::1] c_mult_pos = p["mult_pos"]
        cdef const int32_t[::1] c_mult_neg = p["mult_neg"]
        cdef const int32_t[::1] c_shift = p["shift"]
        cdef lc_layer_spec spec
        cdef lc_status status
        spec.kind = <lc_layer_kind><int>_KINDS[kind]
        spec.kernel = <int32_t>c_weight.shape[2]
        spec.in_channels = <int32_t>c_weight.shape[0 if kind == "deconv" else 1]
        spec.out_channels = <int32_t>c_weight.shape[1 if kind == "deconv" else 0]
        if kind == "subpel":
            spec.out_channels //= 4
        spec.weight = &c_weight[0, 0, 0, 0]
        spec.bias = &c_bias[0]
        spec.mult_pos = &c_mult_pos[0]
        spec.mult_neg = &c_mult_neg[0]
        spec.shift = &c_shift[0]
        spec.lo = lo
        spec.hi = hi
        spec.output = <lc_output><int>_OUTPUTS[output]
        with nogil:
            status = lc_layer_init(&self.c, &spec)
        check_status(status)
        self.kind = kind
        self.output = output
        self.lo = lo
        self.hi = hi
        self.worst_sum = p["worst_sum"]

    def __dealloc__(self):
        lc_layer_free(&self.c)

    def __reduce__(self):
        raise TypeError("Layer cannot be pickled; keep its parameters")

    @property
    def in_channels(self):
        return self.c.in_channels

    @property
    def out_channels(self):
        return self.c.out_channels

    @property
    def upsample(self):
        """1, or 2 where the output is twice as high and wide."""
        return self.c.upsample

    @property
    def margin(self):
        """How many positions the layer looks at on each side of its own."""
        return self.c.margin


def split_layer(channels, kind, weight, bias, mult_pos, mult_neg, shift, lo, hi, output):
    """A "conv" layer of a concatenated input as two: sums over the first `channels`, and the layer that goes on there.

    Returns:
        (Layer with output "acc", Layer), to be used together in `SliceModel`; the proof is that of the whole layer.

    Raises:
        ModelError: as `Layer`; or not so many channels.
    """
    p = _checked(kind, weight, bias, mult_pos, mult_neg, shift, lo, hi, output)
    weight = p["weight"]
    if kind != "conv" or weight.shape[2] != 1 or not 1 <= channels < weight.shape[1]:
        raise ModelError(f"a {kind} layer {weight.shape} cannot be split at channel {channels}")
    rest = p["mult_pos"], p["mult_neg"], p["shift"], lo, hi
    return (Layer(kind, weight[:, :channels], p["bias"], *rest, output="acc"),
            Layer(kind, weight[:, channels:], np.zeros_like(p["bias"]), *rest, output=output))


def _in_threads(work, n, keep):
    """Calls work(rank) for 0 <= rank < n at the same time, rank 0 here; all have returned when this does.

    A rank that cannot be started is reported as work(None), after which the others are expected to return by
    themselves. Only an interrupt can end the wait for them early; `keep`, what their C code points into, then lives on
    with them.
    """
    helpers = []
    try:
        for rank in range(1, n):
            helper = threading.Thread(target=_run_rank, args=(work, rank, keep), name=f"lcodec-{rank}", daemon=True)
            helper.start()
            helpers.append(helper)
    except BaseException:
        work(None)
        raise
    else:
        work(0)
    finally:
        for helper in helpers:
            helper.join()


def _run_rank(work, rank, keep):
    work(rank)


cdef class _Plane:
    """Owns a zero padded copy of an activation array."""

    cdef lc_plane c

    def __cinit__(self, const int16_t[:, :, ::1] x, int margin):
        check_status(lc_plane_init(&self.c, <int32_t>x.shape[0], <int32_t>x.shape[1], <int32_t>x.shape[2], margin))
        _fill_plane(&self.c, x)

    def __dealloc__(self):
        lc_plane_free(&self.c)


cdef void _fill_plane(const lc_plane *plane, const int16_t[:, :, ::1] x) noexcept nogil:
    cdef Py_ssize_t row, column
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            memcpy(lc_plane_at(plane, <int32_t>row, <int32_t>column), &x[row, column, 0],
                   <size_t>x.shape[2] * sizeof(int16_t))


cdef object _activations(x, int channels):
    array = np.asarray(x)
    if array.dtype != np.int16 or array.ndim != 3 or array.shape[2] != channels:
        raise ValueError(f"activations must be int16 (height, width, {channels}), not {array.dtype} {array.shape}")
    if not all(1 <= n <= LC_MAX_EXTENT for n in array.shape[:2]):
        raise ValueError(f"activations of {array.shape[0]} x {array.shape[1]} pixels are out of range")
    if array.min() < -MAX_ACTIVATION:
        raise ValueError("activations must not hold -32768")
    return np.ascontiguousarray(array)


def run(Layer layer not None, x, threads=1, isa=None):
    """The layer's output for one image.

    Args:
        x: int16 (height, width, in), no -32768.
        threads: over rows.
        isa: one of `isas()`; None is the default. All give the same numbers.

    Returns:
        (height, width, out), or twice as high and wide for "deconv" and "subpel"; int16 or int32 as the layer says.

    Raises:
        ValueError: x does not fit.
        UsageError: the instruction set is not available, or the number of threads is out of range.
    """
    cdef const lc_kernels *kernels = _kernels(isa)
    cdef int n = _threads(threads)
    x = _activations(x, layer.c.in_channels)
    cdef _Plane plane = _Plane(x, layer.c.margin)
    height, width = x.shape[:2]
    out = np.empty((height * layer.c.upsample, width * layer.c.upsample, layer.c.out_channels),
                   dtype=np.int16 if layer.output == "int16" else np.int32)
    cdef char[::1] view = out.reshape(-1).view(np.int8)
    cdef lc_sink sink
    sink.data = &view[0]
    sink.column_step = layer.c.out_channels
    sink.row_step = <Py_ssize_t>out.shape[1] * sink.column_step

    def work(rank):
        cdef int32_t first, end
        if rank is not None:
            first, end = height * rank // n, height * (rank + 1) // n
            with nogil:
                lc_layer_rows(&layer.c, kernels, &plane.c, first, end, &sink)

    _in_threads(work, n, (layer, plane, out))
    return out


cdef class _Slice:
    """Owns the buffers of one slice in one direction."""

    cdef lc_slice c
    cdef object keep  # what else `c` points into

    def __dealloc__(self):
        lc_slice_free(&self.c)


cdef class SliceModel:
    """Scales, means and symbols of one slice: the network of an entropy model with hyperprior, with or without context.

    Args:
        hyper: Layers from z_hat to the hyper-parameters. Without context: the last one is int32, M scales, or M scales
            and then M means; with it: all are int16.
        M: channels of y.
        thresholds: int32 (n,), strictly ascending; scale index = number of thresholds < scale.
        fraction_bits: 4 .. 10, of means and y_hat.
        context: "context" Layer M -> anything, int16, or None.
        parameters: with context: the pair of `split_layer` for the first 1x1 layer, then the further ones; the last
            is int32, M scales and then M means.

    Raises:
        ModelError: the layers do not fit together.
    """

    cdef lc_entropy_model c
    cdef readonly int M, N, upsample
    cdef object layers  # keeps the layers alive that `c` points into
    cdef const int32_t[::1] thresholds

    def __cinit__(self, hyper, M, thresholds, fraction_bits, Layer context=None, parameters=()):
        cdef Layer layer
        cdef Py_ssize_t i
        hyper, parameters = list(hyper), list(parameters)
        self._check(hyper, M, fraction_bits, context, parameters)
        thresholds = _integers(thresholds, np.int32, "scale thresholds", -MAX_SUM - 1, MAX_SUM)
        steps = np.diff(thresholds.astype(np.int64).ravel())
        if thresholds.ndim != 1 or not 1 <= thresholds.size < 65536 or (steps <= 0).any():
            raise ModelError("scale thresholds are not a strictly ascending row")
        self.thresholds = thresholds
        self.layers = (hyper, context, parameters)
        memset(&self.c, 0, sizeof(self.c))
        for i in range(len(hyper)):
            layer = hyper[i]
            self.c.hyper[i] = &layer.c
        if context is not None:
            self.c.context = &context.c
            layer = parameters[0]
            self.c.hyper_half = &layer.c
            for i in range(1, len(parameters)):
                layer = parameters[i]
                self.c.parameters[i - 1] = &layer.c
            self.c.n_parameters = <int32_t>len(parameters) - 1
        self.c.M = M
        self.c.n_hyper = <int32_t>len(hyper)
        self.c.has_means = context is not None or hyper[-1].out_channels == 2 * M
        self.c.fraction_bits = fraction_bits
        self.c.n_thresholds = <int32_t>thresholds.size
        self.c.thresholds = &self.thresholds[0]
        self.M = M
        self.N = hyper[0].in_channels
        self.upsample = 1
        for other in hyper:
            self.upsample *= other.upsample

    @staticmethod
    def _check(hyper, M, fraction_bits, context, parameters):
        if not (1 <= M <= LC_MAX_CHANNELS and 4 <= fraction_bits <= LC_MAX_FRACTION_BITS):
            raise ModelError(f"M={M} or the fraction bits {fraction_bits} are out of range")
        count = max(0, len(parameters) - 1)  # the first comes in two parts
        if not 1 <= len(hyper) <= LC_MAX_LAYERS or count > LC_MAX_LAYERS:
            raise ModelError(f"{len(hyper)} hyper-synthesis or {count} parameter layers are out of range")
        if not all(isinstance(x, Layer) for x in [*hyper, *parameters]):
            raise TypeError("layers must be Layer")
        if any(x.kind == "context" for x in hyper):
            raise ModelError("a context layer cannot be part of hyper-synthesis")
        outputs = [x.output for x in hyper]
        if context is None:
            if parameters:
                raise ModelError("parameter layers need a context layer")
            chains, last, widths, outputs[-1:] = [hyper], hyper[-1], (M, 2 * M), []
        else:
            if len(parameters) < 2 or parameters[0].output != "acc":
                raise ModelError("the first parameter layer must be split in two")
            if any(x.kind != "conv" or x.upsample != 1 or x.margin for x in parameters):
                raise ModelError("parameter layers must be 1x1 convolutions")
            if context.kind != "context" or context.in_channels != M:
                raise ModelError(f"the context layer does not read the {M} channels of y")
            first, *rest = parameters
            if first.out_channels != rest[0].out_channels:
                raise ModelError("the parts of the first parameter layer do not belong together")
            chains, last, widths = [[*hyper, first], [context, *rest]], rest[-1], (2 * M,)
            outputs += [context.output] + [x.output for x in rest[:-1]]
        for chain in chains:
            for a, b in zip(chain, chain[1:]):
                if a.out_channels != b.in_channels:
                    raise ModelError(f"a layer of {a.out_channels} outputs precedes one of {b.in_channels} inputs")
        if any(output != "int16" for output in outputs) or last.output != "int32":
            raise ModelError("all layers but the last must output int16, and the last int32")
        if last.out_channels not in widths:
            raise ModelError(f"the last layer outputs {last.out_channels} channels, not one of {widths}")
        if not (-MAX_MEAN <= last.lo and last.hi <= MAX_MEAN):
            raise ModelError(f"limits {last.lo} .. {last.hi} of the last layer are not within +-{MAX_MEAN}")

    @property
    def bytes_per_latent(self):
        """Memory that coding takes for each position of y, all channels together; margins of planes are left out."""
        hyper, context, parameters = self.layers
        area = 1 / self.upsample**2
        size = 10 * self.M + 32 * area * self.N  # symbols, indexes and values of y, and of z, which are int64
        for layer in hyper:
            size += 2 * area * layer.in_channels
            area *= layer.upsample**2
        if context is None:
            size += 4 * hyper[-1].out_channels
        else:
            size += 2 * (hyper[-1].out_channels + self.M) + 4 * parameters[0].out_channels
        return int(size) + 1

    cdef _Slice _start(self, z_hat, int32_t height, int32_t width, int n, isa):
        cdef _Slice slice = _Slice()
        z_hat = _activations(z_hat, self.N)
        if (height, width) != (z_hat.shape[0] * self.upsample, z_hat.shape[1] * self.upsample):
            raise ValueError(f"z_hat {z_hat.shape} does not belong to y of {height} x {width}")
        if not (height <= LC_MAX_SLICE_EXTENT and width <= LC_MAX_SLICE_EXTENT):
            raise ValueError(f"a slice of {height} x {width} is larger than {LC_MAX_SLICE_EXTENT}")
        check_status(lc_slice_init(&slice.c, &self.c, _kernels(isa), height, width,
                                   <int32_t>z_hat.shape[0], <int32_t>z_hat.shape[1], n))
        _fill_plane(&slice.c.planes[0], z_hat)
        return slice

    cdef int _work(self, _Slice slice, n) except -1:
        def work(rank):
            cdef int32_t c_rank
            if rank is None:
                lc_team_fail(&slice.c.team, _NO_MEMORY)
                return
            c_rank = rank
            with nogil:
                lc_slice_worker(&slice.c, c_rank)

        _in_threads(work, n, (self, slice))
        check_status(lc_team_status(&slice.c.team))
        return 0

    def encode(self, y, z_hat, threads=1, isa=None):
        """Symbols of a slice.

        Args:
            y: int32 (height, width, M), 16 fraction bits.
            z_hat: int16 (height / upsample, width / upsample, N), no -32768.
            threads, isa: do not change the result.

        Returns:
            (symbols int32 (n,), indexes uint16 (n,), y_hat int32 (height, width, M)), n = height * width * M in
            coding order.

        Raises:
            ValueError: shapes or types do not fit.
        """
        cdef int n = _threads(threads)
        if y.dtype != np.int32 or y.ndim != 3 or y.shape[2] != self.M or y.size == 0:
            raise ValueError(f"y must be int32 (height, width, {self.M}), not {y.dtype} {y.shape}")
        y = np.ascontiguousarray(y)
        cdef _Slice slice = self._start(z_hat, y.shape[0], y.shape[1], n, isa)
        cdef const int32_t[:, :, ::1] c_y = y
        symbols, indexes, y_hat = _outputs(slice, y.shape)
        slice.c.y = &c_y[0, 0, 0]
        slice.keep = (y, symbols, indexes, y_hat)
        self._work(slice, n)
        return symbols, indexes, y_hat

    def decode(self, Decoder decoder not None, Tables tables not None, z_hat, threads=1, isa=None):
        """Reads the symbols of a slice from `decoder`.

        Args:
            tables: one more than there are thresholds.
            z_hat, threads, isa: as for `encode`.

        Returns:
            y_hat int32 (height, width, M).

        Raises:
            Truncated, Corrupt: the data does not hold these symbols.
            ValueError: shapes or types do not fit.
        """
        cdef int n = _threads(threads)
        if tables.n_tables <= self.c.n_thresholds:
            raise ValueError(f"{tables.n_tables} tables are too few for {self.c.n_thresholds} thresholds")
        shape = (z_hat.shape[0] * self.upsample, z_hat.shape[1] * self.upsample, self.M)
        cdef _Slice slice = self._start(z_hat, shape[0], shape[1], n, isa)
        symbols, indexes, y_hat = _outputs(slice, shape)
        slice.c.decoder = &decoder.c
        slice.c.tables = &tables.c
        slice.keep = (decoder, tables, symbols, indexes, y_hat)
        self._work(slice, n)
        return y_hat


cdef object _outputs(_Slice slice, shape):
    cdef int32_t[::1] c_symbols, c_y_hat
    cdef uint16_t[::1] c_indexes
    symbols = np.empty(shape[0] * shape[1] * shape[2], dtype=np.int32)
    indexes = np.empty(symbols.size, dtype=np.uint16)
    y_hat = np.empty(shape, dtype=np.int32)
    c_symbols, c_indexes, c_y_hat = symbols, indexes, y_hat.reshape(-1)
    slice.c.symbols = &c_symbols[0]
    slice.c.indexes = &c_indexes[0]
    slice.c.y_hat = &c_y_hat[0]
    return symbols, indexes, y_hat


def quantize(const int32_t[:, ::1] v not None, const int32_t[::1] means not None, int fraction_bits):
    """Symbols of latents that have one mean for each channel.

    Args:
        v: int32 (n, channels), 16 fraction bits.
        means: int32 (channels,), within +-MAX_MEAN, 0 .. 16 fraction bits.

    Returns:
        int32 (n, channels), clamped to +-MAX_SYMBOL.
    """
    if means.shape[0] != v.shape[1] or not 0 <= fraction_bits <= LATENT_BITS:
        raise ValueError(f"{means.shape[0]} means of {fraction_bits} fraction bits do not fit {v.shape[1]} channels")
    symbols = np.empty((v.shape[0], v.shape[1]), dtype=np.int32)
    cdef int32_t[:, ::1] c_symbols = symbols
    cdef Py_ssize_t i
    if symbols.size:
        with nogil:
            for i in range(v.shape[0]):
                lc_quantize(&v[i, 0], &means[0], 1, fraction_bits, v.shape[1], &c_symbols[i, 0])
    return symbols
