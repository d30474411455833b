"""Rate-distortion optimised quantization: which integers of one block cost least, in bits plus weighted error.

A step looks at one and the same picture of the cost for all latents: the exact bits of the neighbouring integers, and
the error's gradient and curvature. Latents overlap in the image, so what is good for each alone is bad for all at once.
Three things make the steps agree: the curvature is taken larger than it is, only a part of the latents, drawn at
random, may move at a time, and noise of a temperature that falls to zero lets them pass small barriers (annealing).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .proxy import Density, Distortion, ProxyAt

CURVATURE_FACTOR = 1.5  # 1 overshoots, 2 stops early; see the table in DESIGN.md
MOVING_PART = 0.3, 0.1  # at the first and at the last step
TEMPERATURE_BITS = 1.0
COOLING_PART = 0.8  # of the steps; the rest are at zero


def anneal(
    proxy: ProxyAt, distortion: Distortion, y: Tensor, z_hat: Tensor | None, steps: int, generator: torch.Generator
) -> Tensor:
    """y (1, M, h, w) of a block -> y_hat on the coder's grid, after so many steps, each a synthesis forth and back.

    For models without context: scales and means are those that z_hat gives, whatever moves.
    """
    with torch.no_grad():
        density = proxy.density(z_hat, y)
        y_hat = torch.round(y - density.means) + density.means
    curvature = CURVATURE_FACTOR * distortion.curvature(y_hat, generator)
    for step in range(steps):
        y_hat.requires_grad_()
        (gradient,) = torch.autograd.grad(distortion(y_hat), y_hat)
        with torch.no_grad():
            temperature = TEMPERATURE_BITS * max(0.0, 1 - step / (COOLING_PART * steps))
            residual = y_hat - density.means
            part = MOVING_PART[0] + (MOVING_PART[1] - MOVING_PART[0]) * step / steps
            moves = _moves(proxy, residual, density, gradient, curvature, temperature, generator)
            y_hat = y_hat + moves * (torch.rand(moves.shape, generator=generator, device=moves.device) < part)
    return y_hat.detach()


def _moves(
    proxy: ProxyAt,
    residual: Tensor,
    density: Density,
    gradient: Tensor,
    curvature: Tensor,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """-1, 0 or 1 for each latent, what would be best if it alone moved."""
    k = torch.round(residual)
    stay = proxy.bits(k, density)
    best = _noise(k, temperature, generator)
    moves = torch.zeros_like(k)
    for move in (-1.0, 1.0):
        change = proxy.bits(k + move, density) - stay + gradient * move + 0.5 * curvature
        if temperature > 0:
            change = change + _noise(k, temperature, generator)
        better = change < best
        best = torch.where(better, change, best)
        moves = torch.where(better, move, moves)
    return moves


def _noise(like: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Negative Gumbel noise: the least of costs with it is a draw with probabilities exp(-cost / temperature)."""
    if temperature <= 0:
        return torch.zeros_like(like)
    uniform = torch.rand(like.shape, generator=generator, device=like.device).clamp_(1e-6, 1 - 1e-6)
    return temperature * torch.log(-torch.log(uniform))
