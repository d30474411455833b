"""Stochastic Gumbel annealing of y and z (Yang, Bamler, Mandt 2020, arXiv 2006.04240).

Each latent is rounded down or up at random, up the more probably the nearer that is, by a relaxed draw through which
gradients pass; the temperature falls until the draw is rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .proxy import Distortion, ProxyAt

RATE = 0.01  # step of Adam, in quantisation steps
FIRST_TEMPERATURE = 0.5
LAST_TEMPERATURE = 0.05
COOLING_FROM = 0.3  # part of the steps at the first temperature
SLOWING_FROM = 0.6  # part of the steps at the full rate
EDGE = 1e-4  # from a whole number, where the logits are infinite


def relaxed_round(v: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Between floor and ceiling of v: a Gumbel-softmax draw with logits -atanh(distance) / temperature."""
    floor = torch.floor(v.detach())
    up = (v - floor).clamp(EDGE, 1 - EDGE)
    uniform = torch.rand((2, *v.shape), generator=generator, device=v.device).clamp_(1e-6, 1 - 1e-6)
    noise = -torch.log(-torch.log(uniform))
    logits = (torch.atanh(up) - torch.atanh(1 - up)) / temperature
    return floor + torch.sigmoid((logits + noise[1] - noise[0]) / temperature)


def stochastic_annealing(
    proxy: ProxyAt, distortion: Distortion, y: Tensor, z: Tensor | None, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """y (1, M, h, w) and z of one block after so many steps, not rounded."""
    y = y.clone(memory_format=torch.channels_last).requires_grad_()
    z = None if z is None else z.clone().requires_grad_()
    optimizer = torch.optim.Adam([y] if z is None else [y, z], lr=RATE)
    shift: Tensor | float = 0.0  # from y to the y_hat that the context saw in the step before
    for step in range(steps):
        done = step / steps
        cooling = max(0.0, done - COOLING_FROM) / (1 - COOLING_FROM)
        temperature = FIRST_TEMPERATURE * (LAST_TEMPERATURE / FIRST_TEMPERATURE) ** cooling
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (1 - done) / (1 - SLOWING_FROM) + 0.02)
        bits_z: Tensor | float = 0.0
        z_hat = None
        if z is not None:
            z_hat = relaxed_round(z - proxy.medians, temperature, generator) + proxy.medians
            bits_z = proxy.bits_z(z_hat).sum()
        density = proxy.density(z_hat, y + shift)
        v = relaxed_round(y - density.means, temperature, generator)
        cost = distortion(v + density.means) + proxy.bits(v, density).sum() + bits_z
        optimizer.zero_grad()
        cost.backward()
        if proxy.proxy.kind == "context":
            with torch.no_grad():
                shift = torch.round(y - density.means) + density.means - y
        optimizer.step()
    return y.detach(), None if z is None else z.detach()
