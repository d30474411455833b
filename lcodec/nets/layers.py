"""Layers shared by the transforms: convolutions, GDN, residual and attention blocks.

Parameter names and shapes are CompressAI's, so that its checkpoints load unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from .gdn import gdn, suits

GDN_PEDESTAL = 2.0**-36  # keeps the square root of the reparametrisation differentiable at zero
GDN_BETA_MIN = 1e-6


def conv(in_channels: int, out_channels: int, kernel_size: int = 5, stride: int = 2) -> nn.Conv2d:
    """Convolution with zero padding that keeps H/stride x W/stride."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)


def deconv(in_channels: int, out_channels: int, kernel_size: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    """Transposed convolution to exactly H*stride x W*stride."""
    return Deconv(in_channels, out_channels, kernel_size, stride, kernel_size // 2, output_padding=stride - 1)


class _Deconv(torch.autograd.Function):
    """Transposed convolution whose way back is made of a convolution's, which oneDNN has faster kernels for."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer = layer
        padding = cast("tuple[int, ...]", layer.padding)  # a word is for the other convolutions only
        return F.conv_transpose2d(x, weight, bias, layer.stride, padding, layer.output_padding)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        stride, padding = ctx.layer.stride, ctx.layer.padding
        grad_x = F.conv2d(grad, weight, None, stride, padding) if ctx.needs_input_grad[0] else None
        grad_weight = conv2d_weight(grad, weight.shape, x, stride, padding)
        grad_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(grad.dtype)
        return grad_x, grad_weight, grad_bias, None


class Deconv(nn.ConvTranspose2d):
    """A transposed convolution as `deconv` makes it, with many channels faster in training on a CPU under autocast."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        training = self.weight.requires_grad and torch.is_grad_enabled()
        on_cpu = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if self.bias is None or self.out_channels < 16 or not (training and on_cpu):
            return super().forward(x)
        dtype = torch.get_autocast_dtype("cpu")
        y: Tensor = _Deconv.apply(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype), self)
        return y


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return conv(in_channels, out_channels, 3, stride)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride)


def pointwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix product over the channels-last memory of x, which is faster in training."""
    return F.linear(x.permute(0, 2, 3, 1), layer.weight.flatten(1), layer.bias).permute(0, 3, 1, 2)


def subpel_conv3x3(in_channels: int, out_channels: int, r: int) -> nn.Sequential:
    """3x3 convolution and pixel shuffle: upsampling by r."""
    return nn.Sequential(conv3x3(in_channels, out_channels * r * r), nn.PixelShuffle(r))


class _LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient also passes where it would move x up towards the bound."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(x, bound)
        return torch.max(x, bound)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, bound = ctx.saved_tensors
        return grad * ((x >= bound) | (grad < 0)), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    # Made on the device: for torch.tensor, a GPU would have to be waited for.
    return _LowerBound.apply(x, torch.full((), bound, dtype=x.dtype, device=x.device))


class GDN(nn.Module):
    """Generalised divisive normalisation, y = x / sqrt(beta + sum_j gamma_ij x_j^2); inverse multiplies.

    Ballé et al. 2016, arXiv 1511.06281. beta and gamma are stored as sqrt(value + pedestal).
    """

    def __init__(self, channels: int, inverse: bool = False, gamma_init: float = 0.1) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter((torch.ones(channels) + GDN_PEDESTAL).sqrt())
        self.gamma = nn.Parameter((gamma_init * torch.eye(channels) + GDN_PEDESTAL).sqrt())

    def effective(self) -> tuple[Tensor, Tensor]:
        """beta (C) and gamma (C, C) after the reparametrisation, both positive."""
        beta = lower_bound(self.beta, (GDN_BETA_MIN + GDN_PEDESTAL) ** 0.5) ** 2 - GDN_PEDESTAL
        gamma = lower_bound(self.gamma, GDN_PEDESTAL**0.5) ** 2 - GDN_PEDESTAL
        return beta, gamma

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> same
        beta, gamma = self.effective()
        if suits(x, gamma):
            return gdn(x, beta, gamma, self.inverse)
        norm = F.conv2d(x * x, gamma[:, :, None, None], beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with LeakyReLU beside the identity; `inside` channels between them, as many by default."""

    def __init__(self, channels: int, inside: int | None = None) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, inside or channels)
        self.conv2 = conv3x3(inside or channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.conv1(x), 0.01)
        return F.leaky_relu(self.conv2(out), 0.01) + x


class ResidualBlockWithStride(nn.Module):
    """3x3 stride 2, LeakyReLU, 3x3, GDN, beside a 1x1 stride 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride=2)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.gdn = GDN(out_channels)
        self.skip = conv1x1(in_channels, out_channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.gdn(self.conv2(F.leaky_relu(self.conv1(x), 0.01))) + self._shortcut(x)

    def _shortcut(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            plain: Tensor = self.skip(x)
            return plain
        # The same without a stride. oneDNN (that of torch 2.13) writes beyond its arrays in the bfloat16 gradient of a
        # strided 1x1 layer's weights with three inputs, on processors with AVX-512 but not AMX.
        return F.conv2d(x[:, :, ::2, ::2], self.skip.weight, self.skip.bias)


class ResidualBlockUpsample(nn.Module):
    """Sub-pixel 3x3 by 2, LeakyReLU, 3x3, inverse GDN, beside a sub-pixel 3x3."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.subpel_conv = subpel_conv3x3(in_channels, out_channels, 2)
        self.conv = conv3x3(out_channels, out_channels)
        self.igdn = GDN(out_channels, inverse=True)
        self.upsample = subpel_conv3x3(in_channels, out_channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.igdn(self.conv(F.leaky_relu(self.subpel_conv(x), 0.01))) + self.upsample(x)


class AttentionUnit(nn.Module):
    def __init__(self, channels: int, inside: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv1x1(channels, inside), nn.ReLU(), conv3x3(inside, inside), nn.ReLU(), conv1x1(inside, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


class AttentionBlock(nn.Module):
    """x + a(x) * sigmoid(b(x)), the simplified attention of Cheng et al. 2020.

    Units have `inside` channels between their 1x1 layers, half as many as outside by default.
    """

    def __init__(self, channels: int, inside: int | None = None) -> None:
        super().__init__()
        inside = inside or channels // 2
        self.conv_a = nn.Sequential(*(AttentionUnit(channels, inside) for _ in range(3)))
        self.conv_b = nn.Sequential(*(AttentionUnit(channels, inside) for _ in range(3)), conv1x1(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_a(x) * torch.sigmoid(self.conv_b(x))


class MixingBlock(nn.Module):
    """Cheap residual block at one resolution: 1x1, depthwise 3x3, 1x1, and then 1x1 to double width and back.

    Nearly all of its arithmetic is 1x1 convolution, which runs at a CPU's matrix speed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = conv1x1(channels, channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.leave = conv1x1(channels, channels)
        self.expand = conv1x1(channels, 2 * channels)
        self.contract = conv1x1(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + pointwise(self.leave, self.depthwise(F.leaky_relu(pointwise(self.enter, x), 0.1)))
        return x + pointwise(self.contract, F.leaky_relu(pointwise(self.expand, x), 0.1))


def type_a_mask(shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """float32 (out, in, k, k): ones above the middle, and to its left in its own row."""
    mask = torch.ones(tuple(shape), device=device)
    mask[:, :, shape[2] // 2, shape[3] // 2 :] = 0
    mask[:, :, shape[2] // 2 + 1 :] = 0
    return mask


class MaskedConv2d(nn.Conv2d):
    """Convolution with a type A mask: sees rows above and, in its own row, what is strictly to the left."""

    mask: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 5) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.register_buffer("mask", type_a_mask(self.weight.shape, self.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.mask.shape[2] // 2 + 1  # those below see nothing
        side = self.mask.shape[3] // 2
        weight = self.weight[:, :, :rows] * self.mask[:, :, :rows]
        return F.conv2d(F.pad(x, (side, side, rows - 1, 0)), weight, self.bias)
