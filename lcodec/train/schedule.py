"""The learning rate over a run: warm-up, then a cosine, a constant, or halving on a plateau, and a linear end.

A cosine is made for one length. A run of "constant" can be resumed with more steps as often as there is time for it,
and ends well with a last part in which the rate falls to zero ("warm-up, stable, decay", Hu et al. 2024, arXiv
2404.06395).
"""

from __future__ import annotations

import math
from typing import Any

from .options import Options

FACTOR = 0.5  # of the learning rate on a plateau
THRESHOLD = 1e-3  # relative improvement that counts


def learning_rate(options: Options, step: int, progress: float, plateau: float = 1.0) -> float:
    """At a step, counted from 0; progress: 0 to 1 of the run; plateau: `Plateau.factor`."""
    warm = min(1.0, (step + 1) / max(1, options.warmup))
    if options.schedule == "cosine":
        return options.lr * warm * 0.5 * (1 + math.cos(math.pi * progress))
    end = min(1.0, (1 - progress) / options.decay) if options.decay else 1.0
    return options.lr * warm * plateau * end


class Plateau:
    """Halves the rate when validations stop getting better: `factor` is the share that is left."""

    def __init__(self, patience: int, state: dict[str, Any] | None = None) -> None:
        self.patience = patience
        self.best, self.waited, self.factor = math.inf, 0, 1.0
        if state is not None:
            self.best, self.waited, self.factor = float(state["best"]), int(state["waited"]), float(state["factor"])

    def see(self, loss: float) -> None:
        """The loss of a validation."""
        if loss < self.best * (1 - THRESHOLD):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.waited, self.factor = 0, self.factor * FACTOR

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "factor": self.factor}
