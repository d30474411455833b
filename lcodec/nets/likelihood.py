"""Densities for training and for rate estimates: the factorized prior and the conditional Gaussian.

Coding does not use this module; `finalize` turns these densities into integer tables once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcodec.entropy.tables import GAUSSIAN, Spread

from .layers import lower_bound

SCALE_BOUND = 0.11  # smallest standard deviation of the Gaussian, in quantisation steps
LIKELIHOOD_BOUND = 1e-9
TAIL_MASS = 1e-9
FILTERS = (1, 3, 3, 3, 3, 1)  # widths of the monotone network of the cumulative


def round_ste(v: Tensor) -> Tensor:
    """Round half to even; the gradient passes unchanged (straight-through estimator)."""
    return v + (torch.round(v) - v).detach()


def add_noise(v: Tensor) -> Tensor:
    """Additive uniform noise in [-1/2, 1/2), the differentiable stand-in for rounding (Ballé et al. 2017)."""
    return v + torch.empty_like(v).uniform_(-0.5, 0.5)


def gaussian_likelihood(v: Tensor, scales: Tensor, spread: Spread = GAUSSIAN) -> Tensor:
    """Probability of the unit interval around v under N(0, max(scales, 0.11)^2); same shape as v, float32.

    spread: a mixture instead, (ratio to the scale, weight) of each of its Gaussians; see `SCALE_SPREAD`.
    """
    v = v.float().abs()
    scales = lower_bound(scales.float(), SCALE_BOUND)
    c = -(2.0**-0.5)
    total: Tensor | None = None
    for ratio, weight in spread:
        wide = scales * ratio if ratio != 1 else scales
        upper = 0.5 * torch.erfc(c * ((0.5 - v) / wide))
        lower = 0.5 * torch.erfc(c * ((-0.5 - v) / wide))
        part = upper - lower if weight == 1 else weight * (upper - lower)
        total = part if total is None else total + part
    assert total is not None
    return lower_bound(total, LIKELIHOOD_BOUND)


class FactorizedPrior(nn.Module):
    """One learned univariate density a channel (Ballé et al. 2018, appendix 6.1).

    The cumulative is sigmoid(L(v)) with L a monotone network of widths 1-3-3-3-3-1.
    `quantiles` (C, 1, 3): lower tail, median, upper tail.
    """

    def __init__(self, channels: int, init_scale: float = 10.0) -> None:
        super().__init__()
        self.channels = channels
        scale = init_scale ** (1 / (len(FILTERS) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for i, (fan_in, fan_out) in enumerate(zip(FILTERS[:-1], FILTERS[1:], strict=True)):
            init = math.log(math.expm1(1 / scale / fan_out))
            self.matrices.append(nn.Parameter(torch.full((channels, fan_out, fan_in), init)))
            self.biases.append(nn.Parameter(torch.empty(channels, fan_out, 1).uniform_(-0.5, 0.5)))
            if i < len(FILTERS) - 2:
                self.factors.append(nn.Parameter(torch.zeros(channels, fan_out, 1)))
        self.quantiles = nn.Parameter(torch.tensor([-init_scale, 0.0, init_scale]).repeat(channels, 1, 1))

    def logits(self, v: Tensor) -> Tensor:
        """L(v) for v (C, 1, n)."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            v = torch.matmul(F.softplus(matrix), v) + bias
            if i < len(self.factors):
                v = v + torch.tanh(self.factors[i]) * torch.tanh(v)
        return v

    @property
    def medians(self) -> Tensor:
        """(C,)"""
        return self.quantiles[:, 0, 1].detach()

    def likelihood(self, v: Tensor, value_scale: Tensor | None = None) -> Tensor:
        """Probability of the unit interval around v (B, C, H, W), float32.

        value_scale (B, C) or None: the density is that of v * value_scale (variable rate).
        """
        B, C, H, W = v.shape
        v = v.float()
        half = 0.5 * torch.ones(B, C, 1, 1, device=v.device)
        if value_scale is not None:
            s = value_scale.float()[:, :, None, None]
            v, half = v * s, half * s

        def fold(t: Tensor) -> Tensor:  # (B, C, H, W) -> (C, 1, B*H*W)
            return t.expand(B, C, H, W).permute(1, 0, 2, 3).reshape(C, 1, -1)

        with torch.autocast(v.device.type, enabled=False):
            lower, upper = self.logits(fold(v - half)), self.logits(fold(v + half))
            # the difference of two sigmoids is taken in the tail where both are small
            sign = -torch.sign(lower + upper).detach()
            p = torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))
        p = lower_bound(p, LIKELIHOOD_BOUND)
        return p.reshape(C, B, H, W).permute(1, 0, 2, 3)
