"""A float layer to an integer layer, with the proof that its sums cannot overflow.

    real value of an activation   a * s_in            one s_in a layer
    real value of a weight        w[o] * s_w[o]       one s_w an output channel
    acc[o] = bias[o] + sum w[o] a                     real value acc * s_in * s_w[o]
    out[o] = acc[o] * mult[o] >> shift[o]             real value out * s_out,  mult / 2^shift = s_in * s_w[o] / s_out

s_w[o] is the smallest for which weights are within +-127 and |bias[o]| + 32767 * sum |w[o]| <= 2^31 - 1, so that int32
sums of int16 products are safe for every input there can be. Where a few large weights would leave the others of their
channel less than `FEWEST_UNITS`, s_w[o] is smaller, the large ones exceed 127, and the layer is int16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from lcodec.errors import ModelError

ACTIVATION_MAX = 32767
WEIGHT_MAX = 32767
BYTE_MAX = 127  # 8 bits suffice for weights that are alike, and the model file is half as large
FEWEST_UNITS = 4  # for (mean sqrt |w|)^2 of a channel, which is 0.68 standard deviations if weights are normal
SUM_MAX = 2**31 - 1
MULT_BITS = 16  # mult_pos and mult_neg are below 2^16
SHIFT_MAX = 40
OUT_MAX = 2**28  # of the last layers: means and scales in int32, far from its ends


@dataclass(frozen=True)
class FloatLayer:
    """A linear layer and the activation behind it, as finalize found them in the float network.

    kind: "conv", "deconv", "subpel" or "context". weight: as torch keeps it. slope: 1 none, 0.01 LeakyReLU, 0 ReLU.
    """

    kind: str
    weight: np.ndarray
    bias: np.ndarray
    slope: float

    @property
    def out_channels(self) -> int:
        return len(self.bias)


@dataclass(frozen=True)
class IntegerLayer:
    """tensors: weight int8 or int16, bias, mult_pos, mult_neg, shift int32; lo, hi: clamp of the output.

    weight_scale: float32 (out, 2), what one unit of a weight, and of the bias, of each output channel stands for.
    """

    kind: str
    tensors: dict[str, np.ndarray]
    lo: int
    hi: int
    bound: int  # worst |sum| over the output channels, for any input
    weight_scale: np.ndarray
    weight_error: float  # root mean square error of the weights, relative


def float_layers(sequence: nn.Sequential) -> list[FloatLayer]:
    """The layers of h_s or of the entropy parameters. ModelError for a module that has no integer form."""
    layers: list[FloatLayer] = []
    for module in sequence:
        if isinstance(module, nn.ReLU | nn.LeakyReLU):
            last = layers[-1]
            slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
            layers[-1] = FloatLayer(last.kind, last.weight, last.bias, slope)
            continue
        kind = "deconv" if isinstance(module, nn.ConvTranspose2d) else "conv"
        if isinstance(module, nn.Sequential):
            module, kind = module[0], "subpel"
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d) or module.bias is None:
            raise ModelError(f"no integer form of a {type(module).__name__}")
        weight = module.weight.detach().double().cpu().numpy()
        layers.append(FloatLayer(kind, weight, module.bias.detach().double().cpu().numpy(), 1.0))
    return layers


def quantize_layer(
    layer: FloatLayer, s_in: float | np.ndarray, s_out: float | np.ndarray, *, last: bool = False
) -> IntegerLayer:
    """s_in: scale of the input activations; s_out: of the outputs, a number or (out,). last: int32 outputs."""
    in_axis = 0 if layer.kind == "deconv" else 1
    w = np.moveaxis(layer.weight, in_axis, 1) if in_axis == 0 else layer.weight  # (out, in, k, k)
    if not (np.isfinite(w).all() and np.isfinite(layer.bias).all()):
        raise ModelError("a layer of the entropy model has weights that are not finite")
    flat = w.reshape(len(w), -1)
    norm = np.abs(flat).sum(1) * ACTIVATION_MAX + np.abs(layer.bias) / s_in
    # rounding adds at most 1/2 a weight; the proof below is exact, this only gets close to it
    room = SUM_MAX - 1 - 0.5 * ACTIVATION_MAX * np.minimum(flat.shape[1], 60000)
    largest = np.abs(flat).max(1)
    typical = (np.sqrt(np.abs(flat)).sum(1) / np.maximum(1, np.count_nonzero(flat, axis=1))) ** 2
    s_w = np.minimum(largest / BYTE_MAX, typical / FEWEST_UNITS)
    s_w = np.maximum.reduce((s_w, norm / room, largest / WEIGHT_MAX, np.full(len(flat), 1e-12)))
    # mult < 2^16 with a shift of at most 40: a dead channel must not ask for a finer scale than that has
    ratio_min = 2.0 ** (MULT_BITS - 2 - SHIFT_MAX)
    s_w = np.maximum(s_w, ratio_min * np.broadcast_to(s_out, s_w.shape) / s_in)
    q = np.rint(flat / s_w[:, None]).astype(np.int64)
    bias = np.rint(layer.bias / (s_in * s_w)).astype(np.int64)
    bound = np.abs(bias) + ACTIVATION_MAX * np.abs(q).sum(1)
    if int(bound.max()) > SUM_MAX or int(np.abs(q).max()) > WEIGHT_MAX:
        raise ModelError(f"a sum of a {layer.kind} layer could reach {int(bound.max())}, int32 ends at {SUM_MAX}")
    ratio = s_in * s_w / s_out
    shift = np.floor(MULT_BITS - np.log2(ratio)).astype(np.int64)
    shift = np.minimum(shift, SHIFT_MAX)
    mult = np.rint(ratio * 2.0**shift).astype(np.int64)
    full = mult >= 1 << MULT_BITS
    shift, mult = shift - full, np.where(full, np.rint(ratio * 2.0 ** (shift - 1)).astype(np.int64), mult)
    if int(shift.min()) < 1:
        raise ModelError(f"a {layer.kind} layer multiplies by up to {float(ratio.max()):.3g}: no integer form")
    error = np.sqrt(np.mean((q * s_w[:, None] - flat) ** 2) / max(1e-30, np.mean(flat**2)))
    weight = q.reshape(w.shape)
    if in_axis == 0:
        weight = np.moveaxis(weight, 1, 0)
    limit = OUT_MAX if last else ACTIVATION_MAX
    return IntegerLayer(
        layer.kind,
        {
            "weight": np.ascontiguousarray(weight, np.int8 if np.abs(q).max() <= BYTE_MAX else np.int16),
            "bias": bias.astype(np.int32),
            "mult_pos": mult.astype(np.int32),
            "mult_neg": np.rint(mult * layer.slope).astype(np.int32),
            "shift": shift.astype(np.int32),
        },
        -limit,
        limit,
        int(bound.max()),
        np.stack((s_w, s_w * s_in), 1).astype(np.float32),
        float(error),
    )
