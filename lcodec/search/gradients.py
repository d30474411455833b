"""Bits of latents, rounding by chance, and inverse GDN, each with its gradient worked out by hand.

torch would derive the same from `nets`, in many passes over memory, which is what a step then spends its time on. Here
a few rows are worked on at a time, so that everything between stays in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lcodec.nets.layers import GDN
from lcodec.nets.likelihood import LIKELIHOOD_BOUND, SCALE_BOUND

EDGE = 1e-4  # from a whole number, where the logits of rounding are infinite
FAR = 12.0  # standard deviations; beyond the mass is nothing, and its numbers are denormal, which are slow
BLOCK = 1 << 14  # elements at a time
BLOCK_GDN = 1 << 17  # the same, where there is a matrix product for each


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of (1, C, h, w), so many that there are BLOCK elements, the same of each tensor; views."""
    _, channels, height, width = tensors[0].shape
    rows = height if tensors[0].is_cuda else max(1, BLOCK // (channels * width))
    return zip(*(t.split(rows, 2) for t in tensors), strict=True)


class _GaussianBits(torch.autograd.Function):
    """-log2 of the mass of N(0, s^2) over v - 1/2 .. v + 1/2, summed, with s = max(scales, SCALE_BOUND).

    With a = |v|, upper = (1/2 - a) / s, lower = (-1/2 - a) / s, mass p = Phi(upper) - Phi(lower) and density phi:
    dp/da = (phi(lower) - phi(upper)) / s, dp/ds = (lower phi(lower) - upper phi(upper)) / s.
    """

    @staticmethod
    def forward(ctx, v: Tensor, scales: Tensor) -> Tensor:
        by_v, by_scales = torch.empty_like(v), torch.empty_like(v)
        bits = torch.zeros((), device=v.device)
        for block in _blocks(v, scales, by_v, by_scales):
            bits += _bits_and_slopes(*block)
        ctx.save_for_backward(by_v, by_scales)
        return bits

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        by_v, by_scales = ctx.saved_tensors
        return by_v.mul_(gradient), by_scales.mul_(gradient)


def _bits_and_slopes(v: Tensor, scales: Tensor, by_v: Tensor, by_scales: Tensor) -> Tensor:
    a, inverse = v.abs(), scales.clamp_min(SCALE_BOUND).reciprocal_()
    upper, lower = ((edge - a).mul_(inverse).clamp_(-FAR, FAR) for edge in (0.5, -0.5))
    p = _twice_mass_below(upper).sub_(_twice_mass_below(lower)).mul_(0.5).clamp_min_(LIKELIHOOD_BOUND)
    # phi / s, over -p log 2: the derivative of the bits by p comes along
    factor = inverse.div_(p).mul_(-1 / (math.log(2) * math.sqrt(2 * math.pi)))
    at_upper = (upper * upper).mul_(-0.5).exp_().mul_(factor)
    at_lower = (lower * lower).mul_(-0.5).exp_().mul_(factor)
    torch.mul(at_lower - at_upper, v.sign(), out=by_v)
    slope = at_lower.mul_(lower).sub_(at_upper.mul_(upper))
    # below the bound the gradient passes where a step would lead back up, as in `nets.layers.lower_bound`
    torch.where(scales < SCALE_BOUND, slope.clamp_max(0), slope, out=by_scales)
    return -p.log2_().sum()


def _twice_mass_below(v: Tensor) -> Tensor:
    """2 Phi(v), exact where it is small."""
    return (v * -math.sqrt(0.5)).erfc_()


def gaussian_bits(v: Tensor, scales: Tensor) -> Tensor:
    """Bits of all v together, a scalar. v, scales: float32 (1, C, h, w); see `nets.likelihood.gaussian_likelihood`."""
    bits: Tensor = _GaussianBits.apply(v, scales)
    return bits


class _RelaxedRound(torch.autograd.Function):
    """floor(v) + sigmoid((logits + noise) / temperature), noise the difference of two Gumbel draws.

    With u = v - floor(v), logits = (atanh(u) - atanh(1 - u)) / temperature = log(odds) / (2 temperature),
    odds = (1 + u) u / ((2 - u) (1 - u)); the noise is logistic, log(r / (1 - r)) of a uniform r.
    """

    @staticmethod
    def forward(ctx, v: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
        rounded, slope = torch.empty_like(v), torch.empty_like(v)
        for block in _blocks(v, rounded, slope):
            _round_and_slope(block, temperature, generator)
        ctx.save_for_backward(slope)
        return rounded

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope.mul_(gradient), None, None


def _round_and_slope(block: tuple[Tensor, ...], temperature: float, generator: torch.Generator) -> None:
    v, rounded, slope = block
    floor = v.floor()
    u = (v - floor).clamp_(EDGE, 1 - EDGE)
    down = 1 - u
    rising, falling = (1 + u).mul_(u), (1 + down).mul_(down)
    r = torch.empty_like(u).uniform_(1e-6, 1 - 1e-6, generator=generator)
    noise = r.div_(1 - r).log_()
    up = (rising / falling).log_().mul_(0.5 / temperature).add_(noise).div_(temperature).sigmoid_()
    # d log(odds) / du = (1 + 2u) / rising + (1 + 2 down) / falling
    by_u = (1 + 2 * u).div_(rising).add_((1 + 2 * down).div_(falling)).mul_(0.5 / temperature**2)
    torch.mul(by_u.mul_(up), 1 - up, out=slope)
    torch.add(up, floor, out=rounded)


def relaxed_round(v: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Between floor and ceiling of v (1, C, h, w): a Gumbel-softmax draw, logits -atanh(distance) / temperature."""
    rounded: Tensor = _RelaxedRound.apply(v, temperature, generator)
    return rounded


class _InverseGDN(torch.autograd.Function):
    """y_i = x_i s_i, s_i^2 = beta_i + sum_j gamma_ij x_j^2; rows are pixels, columns channels.

    With the gradient e by y: dx_j = e_j s_j + x_j sum_i gamma_ij e_i x_i / s_i.
    """

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        y, s = torch.empty_like(x), torch.empty_like(x)
        for x_rows, y_rows, s_rows in _rows(x, y, s):
            torch.addmm(beta, x_rows * x_rows, gamma.T, out=s_rows).sqrt_()
            torch.mul(x_rows, s_rows, out=y_rows)
        ctx.save_for_backward(x, s, gamma)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, s, gamma = ctx.saved_tensors
        by_x = torch.empty_like(x)
        for x_rows, s_rows, e_rows, by_rows in _rows(x, s, gradient, by_x):
            through_norm = (e_rows * x_rows).div_(s_rows) @ gamma
            torch.mul(e_rows, s_rows, out=by_rows).addcmul_(x_rows, through_norm)
        return by_x, None, None


def _rows(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Of (rows, C), so many rows at a time that there are BLOCK_GDN elements; views."""
    rows = len(tensors[0]) if tensors[0].is_cuda else max(1, BLOCK_GDN // tensors[0].shape[1])
    return zip(*(t.split(rows) for t in tensors), strict=True)


class FrozenInverseGDN(nn.Module):
    """What an inverse `GDN` computes, (B, C, H, W) -> same, with a gradient by its input alone."""

    def __init__(self, layer: GDN) -> None:
        super().__init__()
        beta, gamma = (v.detach() for v in layer.effective())
        self.register_buffer("beta", beta)
        self.register_buffer("gamma", gamma)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = _InverseGDN.apply(rows, self.gamma.to(x.dtype), self.beta.to(x.dtype))
        return y.view(batch, height, width, channels).permute(0, 3, 1, 2)
