"""Averaged weights: an exponential moving average of the network, which is what gets validated and finalized."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EVERY = 8  # steps between two updates, once the memory is long; every step costs 2 % of the time of lc-s
EARLY = 500  # steps in which the memory is still short
LONG = 0.99  # a decay from which on some steps more or less make no difference


class Average:
    """decay: of the average a step. weights: where it begins, the network itself if None."""

    def __init__(self, network: nn.Module, decay: float, weights: dict[str, Tensor] | None = None) -> None:
        own = network.state_dict()
        self.decay = decay
        self.weights = weights or {k: v.detach().clone() for k, v in own.items()}
        floating = [k for k, v in own.items() if v.is_floating_point()]
        # state_dict gives the tensors themselves, and those of the network stay the same objects
        self._own = [own[k] for k in floating]
        self._averaged = [self.weights[k] for k in floating]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After `step` steps: now and then for all steps since the last time, always at the start."""
        decay = min(self.decay, (1 + step) / (10 + step))  # short memory at the start
        if step >= EARLY and self.decay >= LONG:
            if step % EVERY:
                return
            decay **= EVERY
        torch._foreach_lerp_(self._averaged, self._own, 1 - decay)
