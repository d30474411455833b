"""The layers of `lcodec.nets` as they are fastest where no gradient is asked for: the same values but for rounding.

What comes fresh out of a convolution is worked on in place: on a CPU, memory that nobody has used yet costs as much
as a pass over it costs three times. All tensors are (B, C, H, W), channels last in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lcodec.cpu._gdn import Gdn
from lcodec.cpu._mixnet import default_isa
from lcodec.nets import layers

Step = Callable[[Tensor], Tensor]
Norm = Callable[[Tensor, "Tensor | None"], Tensor]


def prepare(module: nn.Module, threads: int) -> Step:
    """The forward of a network or one of its layers. threads: of what is not torch's."""
    steps: dict[type[nn.Module], Callable[[Any, int], Step]] = {
        nn.Sequential: _sequence,
        layers.GDN: lambda m, n: partial(_normalised, gdn(m, n)),
        layers.ResidualBlock: _residual_block,
        layers.ResidualBlockWithStride: _block_with_stride,
        layers.ResidualBlockUpsample: _block_upsample,
        layers.AttentionBlock: _attention_block,
    }
    found = steps.get(type(module))
    return module if found is None else found(module, threads)


def _sequence(module: nn.Sequential, threads: int) -> Step:
    parts: list[Step] = []
    for i, layer in enumerate(module):
        if isinstance(layer, nn.LeakyReLU | nn.ReLU) and i:
            parts.append(partial(F.leaky_relu_, negative_slope=getattr(layer, "negative_slope", 0.0)))
        elif (
            isinstance(layer, nn.ConvTranspose2d)
            and layer.kernel_size == (5, 5)
            and layer.out_channels < layer.in_channels / 4
        ):
            parts.append(narrow_deconv(layer))
        else:
            parts.append(prepare(layer, threads))
    return _one_after_another(parts)


def _one_after_another(parts: Sequence[Step]) -> Step:
    return lambda x: reduce(lambda value, part: part(value), parts, x)


def _normalised(norm: Norm, x: Tensor) -> Tensor:
    return norm(x, None)


def gdn(module: layers.GDN, threads: int) -> Norm:
    """f(x, added): x, which is used up, normalised, and `added` unless None; in C (csrc/lc_gdn.c) if that is fast."""
    beta, gamma = (p.detach() for p in module.effective())
    if beta.device.type != "cpu" or default_isa() == "plain":
        return partial(_torch_gdn, beta, gamma[:, :, None, None], module.inverse)
    kernel = Gdn(beta.numpy(), gamma.numpy(), module.inverse)

    def apply(x: Tensor, added: Tensor | None) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        kernel.apply(_rows(x), None if added is None else _rows(added), threads)
        return x

    return apply


def _torch_gdn(beta: Tensor, gamma: Tensor, inverse: bool, x: Tensor, added: Tensor | None) -> Tensor:
    norm = F.conv2d(x * x, gamma, beta)
    x = x.mul_(norm.sqrt_() if inverse else norm.rsqrt_())
    return x if added is None else x.add_(added)


def _rows(x: Tensor) -> NDArray[np.float32]:
    """(positions, C), the memory of x"""
    rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    array: NDArray[np.float32] = rows.numpy()
    return array


def narrow_deconv(module: nn.ConvTranspose2d) -> Step:
    """A 5x5 transposed convolution of stride 2 as a 3x3 one to the four phases of its few channels, and a shuffle."""
    taps = F.pad(module.weight.detach(), (0, 1, 0, 1))  # (in, out, 6, 6)
    # output 2 j + p sees input j - 1 + t through tap p + 4 - 2 t
    phases = [taps[:, :, [p + 4, p + 2, p]][:, :, :, [q + 4, q + 2, q]] for p in range(2) for q in range(2)]
    weight = torch.stack(phases, 2).permute(1, 2, 0, 3, 4).flatten(0, 1)  # (4 out, in, 3, 3)
    weight = weight.contiguous(memory_format=torch.channels_last)
    bias = None if module.bias is None else module.bias.detach().repeat_interleave(4)
    return lambda x: F.pixel_shuffle(F.conv2d(x, weight, bias, padding=1), 2)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, 0.01)


def _residual_block(m: layers.ResidualBlock, _threads: int) -> Step:
    return lambda x: _leaky(m.conv2(_leaky(m.conv1(x)))).add_(x)


def _block_with_stride(m: layers.ResidualBlockWithStride, threads: int) -> Step:
    norm = gdn(m.gdn, threads)
    return lambda x: norm(m.conv2(_leaky(m.conv1(x))), m.skip(x))


def _block_upsample(m: layers.ResidualBlockUpsample, threads: int) -> Step:
    norm = gdn(m.igdn, threads)
    return lambda x: norm(m.conv(_leaky(m.subpel_conv(x))), m.upsample(x))


def _attention_block(m: layers.AttentionBlock, threads: int) -> Step:
    def unit(u: layers.AttentionUnit) -> Step:
        inner = _sequence(u.conv, threads)
        return lambda x: inner(x).add_(x).relu_()

    def branch(modules: nn.Sequential) -> Step:
        return _one_after_another([unit(m) if isinstance(m, layers.AttentionUnit) else m for m in modules])

    a, b = branch(m.conv_a), branch(m.conv_b)
    return lambda x: a(x).mul_(b(x).sigmoid_()).add_(x)
