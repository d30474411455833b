"""The integer entropy model of a network: from latents to the bytes of a slice and back.

    encode:  z -> z symbols ----------------------------+--> rANS bytes
             z_hat -> h_s (-> context, parameters) -> y symbols --^
    decode:  bytes -> z symbols -> z_hat -> the same -> scale indexes -> y symbols -> y_hat

Everything here is integers, so encoder and decoder agree on every device. See DESIGN.md, "Integer entropy model".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcodec.entropy import _rans
from lcodec.entropy._intnet import (
    MAX_ACTIVATION,
    MAX_MEAN,
    MAX_SYMBOL,
    Layer,
    SliceModel,
    quantize,
    split_layer,
)
from lcodec.errors import Corrupt, ModelError

KINDS = ("factorized", "hyperprior", "mean-scale", "context")
LAYER_ARRAYS = ("weight", "bias", "mult_pos", "mult_neg", "shift")

Tensors = Mapping[str, NDArray[Any]]


class FactorizedTables:
    """One table and one median for each channel, in S sets (one for each table quality).

    Tensors, under a prefix: `cdfs` (S, C, L), `sizes` (S, C), `offsets` (S, C) as for `_rans.Tables`, and `medians`
    int32 (S, C) with `fraction_bits` fraction bits.
    """

    def __init__(self, tensors: Tensors, prefix: str, channels: int, fraction_bits: int) -> None:
        cdfs, sizes, offsets, medians = (
            _tensor(tensors, f"{prefix}.{name}", ndim)
            for name, ndim in (("cdfs", 3), ("sizes", 2), ("offsets", 2), ("medians", 2))
        )
        shape = (cdfs.shape[0], channels)
        if cdfs.shape[0] < 1 or any(a.shape[:2] != shape for a in (cdfs, sizes, offsets, medians)):
            raise ModelError(f"{prefix}: tables for {channels} channels have shapes that do not fit together")
        if medians.min() < -MAX_MEAN or medians.max() > MAX_MEAN:
            raise ModelError(f"{prefix}.medians are out of range")
        self.medians = np.ascontiguousarray(medians, dtype=np.int32)
        self.tables = [_rans.Tables(*set_) for set_ in zip(cdfs, sizes, offsets, strict=True)]
        self.fraction_bits = fraction_bits
        self.channels = channels

    def quantize(self, v: NDArray[np.int32], table_set: int) -> NDArray[np.int32]:
        """v (h, w, C), 16 fraction bits -> symbols (h * w, C)."""
        return quantize(v.reshape(-1, self.channels), self.medians[table_set], self.fraction_bits)

    def dequantize(self, symbols: NDArray[np.int32], table_set: int) -> NDArray[np.int64]:
        """Symbols (n, C) -> v_hat (n, C), `fraction_bits` fraction bits. Corrupt: a symbol is beyond +-MAX_SYMBOL."""
        if symbols.size and (symbols.min() < -MAX_SYMBOL or symbols.max() > MAX_SYMBOL):
            raise Corrupt("a symbol is out of range")
        return (symbols.astype(np.int64) << self.fraction_bits) + self.medians[table_set]

    def indexes(self, n: int) -> NDArray[np.uint16]:
        """Table of each of n * C symbols: its channel."""
        return np.tile(np.arange(self.channels, dtype=np.uint16), n)


class IntegerEntropyModel:
    """Integer entropy model out of a model file's tensors and metadata, checked as a whole.

    Metadata:
        kind: "factorized", "hyperprior" (scales only), "mean-scale" or "context".
        M: channels of y. N: channels of z (not for "factorized").
        fy: fraction bits of y_hat and means, 4 .. 10. fz: of z_hat and its medians, 0 .. 12 (not for "factorized").
        layers: {"h_s": [layer, ...], "context": [layer], "entropy_parameters": [layer, ...]}, the latter two for
            "context" only. A layer is {"kind", "lo", "hi"}, as for `Layer`; other keys are not read.

    Tensors:
        int.h_s.{i}.*, int.context.0.*, int.entropy_parameters.{i}.*: weight int16; bias, mult_pos, mult_neg, shift
            int32, see `Layer`. The last layer of all has M scales (12 fraction bits) and then, but for "hyperprior",
            M means. The first of the entropy parameters reads the output of h_s, then that of the context layer.
        tables.z.*, for "factorized" tables.y.*: see `FactorizedTables`.
        tables.gaussian.cdfs (T, L), .sizes (T,), .offsets (T,), see `_rans.Tables`; scale_thresholds int32 (T - 1,).

    Immutable; threads may share it.

    Raises:
        ModelError: something is missing, out of range, or does not fit the rest.
    """

    def __init__(self, tensors: Tensors, meta: Mapping[str, Any]) -> None:
        self.kind = meta.get("kind")
        if self.kind not in KINDS:
            raise ModelError(f"unknown kind of entropy model {self.kind!r}", "known: " + ", ".join(KINDS))
        self.M = _meta_int(meta, "M", 1, 4096)
        self.fy = _meta_int(meta, "fy", 4, 10)
        self.N = 0
        self._slice: SliceModel | None = None
        if self.kind == "factorized":
            self._factorized = FactorizedTables(tensors, "tables.y", self.M, self.fy)
        else:
            self.N = _meta_int(meta, "N", 1, 4096)
            self.fz = _meta_int(meta, "fz", 0, 12)
            self._factorized = FactorizedTables(tensors, "tables.z", self.N, self.fz)
            self._slice = self._build_slice(tensors, meta)
            if self._slice.N != self.N or self._slice.upsample != 4:
                raise ModelError(
                    f"h_s reads {self._slice.N} channels and enlarges {self._slice.upsample} times, not {self.N} and 4"
                )

    def _build_slice(self, tensors: Tensors, meta: Mapping[str, Any]) -> SliceModel:
        layers = meta.get("layers")
        context = self.kind == "context"
        parts = {"h_s", "context", "entropy_parameters"} if context else {"h_s"}
        if not isinstance(layers, Mapping) or set(layers) != parts:
            raise ModelError(f"a {self.kind} model has the integer layers " + ", ".join(sorted(parts)))
        hyper = _layer_list(tensors, layers, "h_s", last_output="int16" if context else "int32")
        thresholds = _tensor(tensors, "scale_thresholds", 1)
        gaussian = [_tensor(tensors, f"tables.gaussian.{n}", d) for n, d in (("cdfs", 2), ("sizes", 1), ("offsets", 1))]
        self._gaussian = _rans.Tables(*gaussian)
        if thresholds.shape[0] != self._gaussian.n_tables - 1:
            raise ModelError(f"{self._gaussian.n_tables} scale tables have {thresholds.shape[0]} thresholds")
        hyper_layers = [Layer(**p) for p in hyper]
        if not context:
            width = self.M if self.kind == "hyperprior" else 2 * self.M
            n = hyper_layers[-1].out_channels
            if n != width:
                raise ModelError(f"h_s of a {self.kind} model outputs {n} channels, not {width}")
            return SliceModel(hyper_layers, self.M, thresholds, self.fy)
        contexts = _layer_list(tensors, layers, "context", last_output="int16")
        if len(contexts) != 1:
            raise ModelError(f"{len(contexts)} context layers instead of one")
        parameters = _layer_list(tensors, layers, "entropy_parameters", last_output="int32")
        parameter_layers = [
            *split_layer(hyper_layers[-1].out_channels, **parameters[0]),
            *(Layer(**p) for p in parameters[1:]),
        ]
        return SliceModel(hyper_layers, self.M, thresholds, self.fy, Layer(**contexts[0]), parameter_layers)

    @property
    def n_table_sets(self) -> int:
        return len(self._factorized.tables)

    @property
    def bytes_per_latent(self) -> int:
        """Memory that a slice takes for each position of y while it is coded, beside its bytes."""
        return 18 * self.M if self._slice is None else int(self._slice.bytes_per_latent)

    @property
    def medians(self) -> NDArray[np.int32]:
        """(S, C) of the factorized prior: of z with fz fraction bits, for "factorized" of y with fy."""
        return self._factorized.medians

    def encode_slice(
        self,
        y_fix: NDArray[np.int32],
        z_fix: NDArray[np.int32] | None,
        table_set: int = 0,
        threads: int = 1,
        isa: str | None = None,
    ) -> tuple[bytes, NDArray[np.int32]]:
        """Codes one slice.

        Args:
            y_fix: int32 (h, w, M), 16 fraction bits.
            z_fix: int32 (h / 4, w / 4, N), 16 fraction bits; None for "factorized".
            table_set: of the factorized tables, 0 .. n_table_sets - 1.
            threads, isa: do not change the result.

        Returns:
            (bytes, y_hat int32 (h, w, M) with fy fraction bits, exactly as `decode_slice` gives it).

        Raises:
            ValueError: shapes, types or the table set do not fit.
        """
        self._check_table_set(table_set)
        y_fix = _latents(y_fix, self.M, "y_fix")
        prior, tables = self._factorized, self._factorized.tables[table_set]
        if self._slice is None:
            if z_fix is not None:
                raise ValueError("a factorized model has no z")
            symbols = prior.quantize(y_fix, table_set)
            y_hat = prior.dequantize(symbols, table_set).astype(np.int32).reshape(y_fix.shape)
            return _rans.encode([(symbols.ravel(), prior.indexes(len(symbols)), tables)]), y_hat
        if z_fix is None:
            raise ValueError(f"a {self.kind} model needs z")
        z_fix = _latents(z_fix, self.N, "z_fix")
        if y_fix.shape[:2] != (4 * z_fix.shape[0], 4 * z_fix.shape[1]):
            raise ValueError(f"z {z_fix.shape} does not belong to y {y_fix.shape}")
        z_symbols, symbols, indexes, y_hat = self._symbols(y_fix, z_fix, table_set, threads, isa)
        segments = [
            (z_symbols.ravel(), prior.indexes(len(z_symbols)), tables),
            (symbols, indexes, self._gaussian),
        ]
        return _rans.encode(segments), y_hat

    def symbols_of_y(
        self, y_fix: NDArray[np.int32], z_fix: NDArray[np.int32], table_set: int = 0
    ) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        """What `encode_slice` codes of y, and the scale index of each; ValueError for a factorized model."""
        self._check_table_set(table_set)
        _, symbols, indexes, _ = self._symbols(
            _latents(y_fix, self.M, "y_fix"), _latents(z_fix, self.N, "z_fix"), table_set, 1, None
        )
        return symbols, indexes

    def _symbols(
        self, y_fix: NDArray[np.int32], z_fix: NDArray[np.int32], table_set: int, threads: int, isa: str | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint16], NDArray[np.int32]]:
        """Symbols of z, symbols and scale indexes of y, y_hat."""
        if self._slice is None:
            raise ValueError("a factorized model has no scale indexes")
        prior = self._factorized
        z_symbols = prior.quantize(z_fix, table_set)
        z_hat = _saturate(prior.dequantize(z_symbols, table_set)).reshape(z_fix.shape)
        return z_symbols, *self._slice.encode(y_fix, z_hat, threads, isa)

    def decode_slice(
        self, data: bytes, h: int, w: int, table_set: int = 0, threads: int = 1, isa: str | None = None
    ) -> NDArray[np.int32]:
        """Reads one slice of h x w latents (multiples of 4 but for "factorized") from exactly `data`.

        Returns:
            y_hat int32 (h, w, M), fy fraction bits.

        Raises:
            Truncated, Corrupt: the data does not hold such a slice.
            ValueError: h, w or the table set are out of range.
        """
        self._check_table_set(table_set)
        if h < 1 or w < 1 or (self._slice is not None and (h % 4 or w % 4)):
            raise ValueError(f"a slice of {h} x {w} latents cannot be")
        prior, tables = self._factorized, self._factorized.tables[table_set]
        decoder = _rans.Decoder(data)
        if self._slice is None:
            symbols = decoder.decode(prior.indexes(h * w), tables)
            y_hat = prior.dequantize(symbols.reshape(-1, self.M), table_set).astype(np.int32).reshape(h, w, self.M)
        else:
            n = h * w // 16
            z_symbols = decoder.decode(prior.indexes(n), tables).reshape(-1, self.N)
            z_hat = _saturate(prior.dequantize(z_symbols, table_set)).reshape(h // 4, w // 4, self.N)
            y_hat = self._slice.decode(decoder, self._gaussian, z_hat, threads, isa)
        decoder.finish()
        return y_hat

    def _check_table_set(self, table_set: int) -> None:
        if not 0 <= table_set < self.n_table_sets:
            raise ValueError(f"table set {table_set} is not one of {self.n_table_sets}")


def _meta_int(meta: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = meta.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ModelError(f"{name} of the entropy model is {value!r}, not an integer within {low} .. {high}")
    return value


def _layer_list(tensors: Tensors, layers: Mapping[str, Any], part: str, last_output: str) -> list[dict[str, Any]]:
    """The arguments of `Layer` for each layer of a part."""
    described = layers.get(part)
    if not isinstance(described, list) or not described or not all(isinstance(d, Mapping) for d in described):
        raise ModelError(f"the description of the integer layers has no list {part}")
    outputs = ["int16"] * (len(described) - 1) + [last_output]
    return [
        {
            **{name: _tensor_any(tensors, f"int.{part}.{i}.{name}") for name in LAYER_ARRAYS},
            "kind": d.get("kind"),
            "lo": d.get("lo"),
            "hi": d.get("hi"),
            "output": output,
        }
        for i, (d, output) in enumerate(zip(described, outputs, strict=True))
    ]


def _tensor_any(tensors: Tensors, name: str) -> NDArray[Any]:
    array = tensors.get(name)
    if array is None:
        raise ModelError(f"the model has no tensor {name}")
    return np.asarray(array)


def _tensor(tensors: Tensors, name: str, ndim: int) -> NDArray[Any]:
    array = _tensor_any(tensors, name)
    if array.dtype.kind not in "iu" or array.ndim != ndim:
        raise ModelError(f"tensor {name} is {array.dtype} with {array.ndim} dimensions, not integer with {ndim}")
    return array


def _saturate(v_hat: NDArray[np.int64]) -> NDArray[np.int16]:
    """As it enters a convolution."""
    return np.clip(v_hat, -MAX_ACTIVATION, MAX_ACTIVATION).astype(np.int16)


def _latents(v: NDArray[np.int32], channels: int, name: str) -> NDArray[np.int32]:
    if v.dtype != np.int32 or v.ndim != 3 or v.shape[2] != channels or v.size == 0:
        raise ValueError(f"{name} must be int32 (h, w, {channels}), not {v.dtype} {v.shape}")
    return np.ascontiguousarray(v)
