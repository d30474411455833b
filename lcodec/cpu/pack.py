"""Weights of lc-s as the C kernels read them: bfloat16, in panels of 32 output channels (see csrc/lc_dense.h)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcodec.cpu._mixnet import pack_panels

PANEL = BLOCK = 32
PATCH = 8


class PackedLayer(NamedTuple):
    """panels: uint16, aligned. bias: float32 (padded outputs,). segment_blocks: inputs of each segment, by 32."""

    panels: NDArray[np.uint16]
    bias: NDArray[np.float32]
    segment_blocks: tuple[int, ...]


class PackedBlock(NamedTuple):
    """One `MixingBlock`. depthwise: float32 (9, N)."""

    enter: PackedLayer
    leave: PackedLayer
    expand: PackedLayer
    contract: PackedLayer
    depthwise: NDArray[np.float32]
    depthwise_bias: NDArray[np.float32]


class PackedNet(NamedTuple):
    """Everything that `MixNet` takes. N, M: padded to multiples of 32."""

    widths: tuple[int, int]  # N and M before that
    N: int
    M: int
    patch: PackedLayer
    analysis: list[PackedBlock]
    down: PackedLayer
    hyper: list[PackedLayer]
    up: list[PackedLayer]
    synthesis: list[PackedBlock]
    pixels: PackedLayer


class Segment(NamedTuple):
    """What is multiplied in one run through memory. taps: float32 (inputs, outputs), in any memory order, one behind
    the other, each padded. lower: what bfloat16 leaves of the weights, instead of them."""

    taps: Sequence[NDArray[np.float32]]
    lower: bool = False


def padded(n: int) -> int:
    """Channels of a plane."""
    return -(-n // BLOCK) * BLOCK


def pack_layer(
    segments: Sequence[Segment], bias: NDArray[np.float32], n_out: int | None = None, n_in: int | None = None
) -> PackedLayer:
    """bias (outputs,). n_out: padded outputs; n_in: padded inputs of a tap. ValueError if these do not fit."""
    n_out = n_out or padded(len(bias))
    if any(tap.shape[1:] != bias.shape for segment in segments for tap in segment.taps):
        raise ValueError("weights and bias of a layer have different widths")  # before memory is taken for both
    sizes = [[n_in or padded(len(tap)) for tap in segment.taps] for segment in segments]
    short = [tap for segment in segments for tap in segment.taps if n_in and n_in > 2 * padded(len(tap))]
    if short or n_out > 2 * padded(len(bias)):
        raise ValueError("layers of a block have widths that do not fit together")  # as far as memory is concerned
    taps = [
        (tap, size, segment.lower)
        for segment, of in zip(segments, sizes, strict=True)
        for tap, size in zip(segment.taps, of, strict=True)
    ]
    return PackedLayer(
        pack_panels(taps, n_out),
        np.pad(bias.astype(np.float32), (0, n_out - len(bias))),
        tuple(sum(of) // BLOCK for of in sizes),
    )


def _exact(segments: Sequence[Segment]) -> list[Segment]:
    """Of a layer whose inputs and weights come in two parts: upper weights for upper inputs, the same for lower ones,
    lower weights for upper inputs."""
    return [*segments, *segments, *(s._replace(lower=True) for s in segments)]


def _patch_order() -> NDArray[np.int64]:
    """Channel of a pixel shuffle (colour, row, column) for each sample of a patch (row, column, colour)."""
    return np.arange(3 * PATCH * PATCH).reshape(3, PATCH, PATCH).transpose(1, 2, 0).ravel()


def pack(tensors: Mapping[str, NDArray[np.float32]]) -> PackedNet:
    """The tensors g_a.*, h_a.*, g_s.* of a network of the transform "shuffle" (lcodec/nets), float32.

    Raises KeyError, IndexError, ValueError or TypeError for tensors of another network.
    """

    def bias(name: str) -> NDArray[np.float32]:
        return tensors[f"{name}.bias"]

    def kernels(name: str, size: int) -> NDArray[np.float32]:
        weight = tensors[name]
        if weight.shape[2:] != (size, size):
            raise ValueError(f"{name} has the shape {weight.shape}, not (…, …, {size}, {size})")
        return weight

    def dense(name: str, n_in: int | None = None, n_out: int | None = None) -> PackedLayer:
        return pack_layer([Segment([kernels(f"{name}.weight", 1)[:, :, 0, 0].T])], bias(name), n_out, n_in)

    def block(name: str) -> PackedBlock:
        depthwise = kernels(f"{name}.depthwise.weight", 3)
        n = padded(len(depthwise))
        return PackedBlock(
            dense(f"{name}.enter"),
            dense(f"{name}.leave"),
            dense(f"{name}.expand", n_out=2 * n),
            dense(f"{name}.contract", n_in=2 * n),
            np.ascontiguousarray(np.pad(depthwise.reshape(len(depthwise), 9).T, ((0, 0), (0, n - len(depthwise))))),
            np.pad(bias(f"{name}.depthwise"), (0, n - len(depthwise))),
        )

    def strided(name: str, exact: bool = False) -> PackedLayer:
        w = kernels(f"{name}.weight", 3)  # (out, in, 3, 3)
        rows = [Segment([w[:, :, ky, kx].T for kx in range(3)]) for ky in range(3)]
        return pack_layer(_exact(rows) if exact else rows, bias(name))

    def transposed(name: str, phase: int) -> PackedLayer:
        # out[2 i - 1 + k] += in[i] * w[k]: even outputs see tap 1 of i, odd ones tap 2 of i and tap 0 of i + 1
        w = kernels(f"{name}.weight", 3)  # (in, out, 3, 3)
        rows, columns = ([1], [2, 0])[phase // 2], ([1], [2, 0])[phase % 2]
        return pack_layer(_exact([Segment([w[:, :, ky, kx] for kx in columns]) for ky in rows]), bias(name))

    order = _patch_order()
    first = Segment([kernels("g_a.1.weight", 1)[:, order, 0, 0].T])
    last = Segment([kernels("g_s.4.weight", 1)[order, :, 0, 0].T])
    return PackedNet(
        widths=(len(tensors["g_a.1.bias"]), len(tensors["g_a.5.bias"])),
        N=padded(len(tensors["g_a.1.bias"])),
        M=padded(len(tensors["g_a.5.bias"])),
        patch=pack_layer([first, first._replace(lower=True), first], bias("g_a.1")),
        analysis=[block(f"g_a.{i}") for i in (2, 3, 4)],
        down=strided("g_a.5", exact=True),
        hyper=[dense("h_a.0"), strided("h_a.2"), strided("h_a.4")],
        up=[transposed("g_s.0", phase) for phase in range(4)],
        synthesis=[block(f"g_s.{i}") for i in (1, 2, 3)],
        pixels=pack_layer(_exact([last]), bias("g_s.4")[order]),
    )
