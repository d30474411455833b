"""Stochastic Gumbel annealing of y and z (Yang, Bamler, Mandt 2020, arXiv 2006.04240).

Each latent is rounded down or up at random, up the more probably the nearer that is, by a relaxed draw through which
gradients pass; the temperature falls until the draw is rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .gradients import relaxed_round
from .proxy import Distortion, ProxyAt

# Found on crops of held-out photographs, at 60 and 150 steps; see the table in DESIGN.md.
RATE = 0.012  # step of Adam, in quantisation steps
BETAS = (0.8, 0.99)  # of Adam; the steps are too few for longer memories
FIRST_TEMPERATURE = 0.4
LAST_TEMPERATURE = 0.15
COOLING_FROM = 0.5  # part of the steps at the first temperature
SLOWING_FROM = 0.7  # part of the steps at the full rate


def stochastic_annealing(
    proxy: ProxyAt, distortion: Distortion, y: Tensor, z: Tensor | None, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """y (1, M, h, w) and z of one block after so many steps, not rounded."""
    y = y.clone(memory_format=torch.channels_last).requires_grad_()
    z = None if z is None else z.clone().requires_grad_()
    optimizer = torch.optim.Adam([y] if z is None else [y, z], lr=RATE, betas=BETAS, fused=True)
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
        cost = distortion(v + density.means) + proxy.total_bits(v, density) + bits_z
        optimizer.zero_grad()
        cost.backward()
        if proxy.proxy.kind == "context":
            with torch.no_grad():
                shift = torch.round(y - density.means) + density.means - y
        optimizer.step()
    return y.detach(), None if z is None else z.detach()
