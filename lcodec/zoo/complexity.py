"""What a network costs: parameters, and multiplications per pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lcodec.nets import NetConfig, Network
from lcodec.nets.layers import GDN, MaskedConv2d, MixingBlock

SIDE = 256  # pixels: a multiple of 64


@dataclass(frozen=True)
class Complexity:
    """parameters: of all networks, quantiles left out. Thousands of multiply-accumulates per pixel:

    g_a and h_a are what an encoder needs beside the entropy part; g_s is a decoder's. entropy: h_s, context and entropy
    parameters, in integers, which both need. GDN counts as a 1x1 convolution, a masked tap as none.
    """

    parameters: int
    g_a: float
    h_a: float
    g_s: float
    entropy: float

    @property
    def encode(self) -> float:
        return self.g_a + self.h_a + self.entropy

    @property
    def decode(self) -> float:
        return self.g_s + self.entropy


def complexity(config: NetConfig) -> Complexity:
    """Counted on a network without memory (torch's meta device), at any width."""
    with torch.device("meta"):
        network = Network(config).eval()
        x = torch.empty(1, 3, SIDE, SIDE)
    parts = dict.fromkeys(("g_a", "h_a", "g_s", "h_s", "context_prediction", "entropy_parameters"), 0)

    def counter(part: str) -> Any:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            parts[part] += _macs(module, inputs[0], output)

        return count

    for part in parts:
        for module in getattr(network, part, nn.Module()).modules():
            module.register_forward_hook(counter(part))
    with torch.no_grad():
        y = network.g_a(x)
        network.g_s(y)
        if config.arch.has_hyperprior:
            params = network.h_s(network.hyper_analyse(y))
            if config.arch.entropy == "context":
                network.entropy_parameters(torch.cat((params, network.context_prediction(y)), 1))
    parameters = sum(p.numel() for name, p in network.named_parameters() if not name.endswith("quantiles"))
    k = {part: macs / 1000 / SIDE**2 for part, macs in parts.items()}
    entropy = k["h_s"] + k["context_prediction"] + k["entropy_parameters"]
    return Complexity(parameters, k["g_a"], k["h_a"], k["g_s"], entropy)


def _macs(module: nn.Module, x: Tensor, output: Tensor) -> int:
    if isinstance(module, MaskedConv2d):
        rows, columns = module.kernel_size[0] // 2, module.kernel_size[1]
        taps = rows * columns + columns // 2
        return output.shape[2] * output.shape[3] * module.in_channels * module.out_channels * taps
    if isinstance(module, nn.ConvTranspose2d):
        return x.shape[2] * x.shape[3] * module.weight.numel()
    if isinstance(module, nn.Conv2d):
        return output.shape[2] * output.shape[3] * module.weight.numel()
    if isinstance(module, MixingBlock):  # whose 1x1 layers are matrix products, and only its depthwise one is called
        pointwise = (module.enter, module.leave, module.expand, module.contract)
        return x.shape[2] * x.shape[3] * sum(layer.weight.numel() for layer in pointwise)
    if isinstance(module, GDN):
        return x.shape[2] * x.shape[3] * len(module.beta) ** 2
    return 0
