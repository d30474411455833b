"""How large the activations of the entropy model get, measured on a few photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from lcodec.errors import ModelError
from lcodec.image import pad
from lcodec.nets import Network

HEADROOM = 1.5  # of hidden activations above the largest one seen; beyond it they saturate
LATENT_HEADROOM = 2.0
STEPS_PER_OCTAVE = 8  # of the ranges that are kept, see `steady`


@dataclass
class Ranges:
    """Largest magnitudes seen. layers: behind each layer's activation, in the order of the network."""

    y: float = 0.0
    z: float = 0.0
    layers: dict[str, list[float]] = field(default_factory=dict)

    def see(self, part: str, index: int, value: Tensor) -> None:
        peaks = self.layers.setdefault(part, [])
        if index == len(peaks):
            peaks.append(0.0)
        peaks[index] = max(peaks[index], peak(value))


def steady(range_: float) -> float:
    """The next larger eighth of an octave.

    Float networks round differently with every processor and thread count. Ranges in coarse steps make the same
    integers of them, and so the same model id, unless one lies within a rounding of a step.
    """
    return 2.0 ** (math.ceil(math.log2(range_) * STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE) if range_ > 0 else 0.0


def peak(value: Tensor) -> float:
    """The largest magnitude. Raises ModelError if it is not finite."""
    largest = float(value.abs().max())
    if not math.isfinite(largest):
        raise ModelError("the network gives values that are not finite")
    return largest


def run_layers(sequence: nn.Sequential, x: Tensor, part: str, ranges: Ranges) -> Tensor:
    """The sequence's output; what comes out of each linear layer (behind its activation, if it has one) is seen."""
    index = -1
    for i, module in enumerate(sequence):
        x = module(x)
        activation = isinstance(module, nn.ReLU | nn.LeakyReLU)
        index += not activation
        following = sequence[i + 1] if i + 1 < len(sequence) else None
        if activation or not isinstance(following, nn.ReLU | nn.LeakyReLU):
            ranges.see(part, index, x)
    return x


@torch.no_grad()
def calibrate(network: Network, images: Sequence[np.ndarray], qualities: Sequence[float]) -> Ranges:
    """images: uint8 (H, W, 3). Raises ModelError if the network gives values that are not finite."""
    ranges = Ranges()
    arch = network.config.arch
    medians = network.entropy_bottleneck.medians[:, None, None]
    for pixels in images:
        x = torch.from_numpy(np.ascontiguousarray(pad(pixels))).permute(2, 0, 1)[None].float().div(255)
        base = network.g_a(x)
        for quality in qualities:
            y = base * network.gain(quality)[:, :, None, None]
            ranges.y = max(ranges.y, peak(y))
            if not arch.has_hyperprior:
                continue
            z = network.hyper_analyse(y)
            ranges.z = max(ranges.z, peak(z))
            params = run_layers(network.h_s, torch.round(z - medians) + medians, "h_s", ranges)
            if arch.entropy == "context":
                context = network.context_prediction(torch.round(y))
                ranges.see("context", 0, context)
                run_layers(
                    network.entropy_parameters, torch.cat((params, context), 1), "entropy_parameters", ranges
                )
    return ranges


def fraction_bits(largest: float, low: int, high: int) -> int:
    """Most fraction bits with which `largest` and its headroom still fit int16."""
    return int(np.clip(math.floor(math.log2(32767 / max(1e-6, LATENT_HEADROOM * largest))), low, high))
