"""Optimizers by name, behind one face: learning rate, step, state.

adamw   torch's, fused.
muon    Muon (Jordan et al. 2024) for the weights of convolutions as matrices (out, in * k * k), AdamW for the rest.
        Updates are scaled to the size of AdamW's, so that its learning rates hold (Liu et al. 2025, arXiv 2502.16982).
soap    SOAP (Vyas et al. 2024, arXiv 2409.11321) for the same weights, AdamW for the rest; package pytorch_optimizer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lcodec.errors import UsageError
from lcodec.nets import Network

BETAS = (0.9, 0.99)
SOAP_BETAS = (0.95, 0.95)
SOAP_PERIOD = 10  # steps between two bases
SOAP_MAX_SIDE = 1024  # of a preconditioner
MIN_SIDE = 16  # of a weight that is treated as a matrix
MATRIX_OPTIMIZERS = ("muon", "soap")


class Optimizer:
    """Some torch optimizers as one. Raises UsageError where a package is missing."""

    def __init__(self, name: str, network: Network, parameters: dict[str, nn.Parameter], lr: float) -> None:
        chosen = matrices(network, parameters) if name in MATRIX_OPTIMIZERS else {}
        self._flat: list[tuple[nn.Parameter, nn.Parameter]] = []  # Muon's matrix, the weight whose memory it shares
        self.parts: dict[str, torch.optim.Optimizer] = {}
        if name == "muon" and chosen:
            if not hasattr(torch.optim, "Muon"):
                raise UsageError(f"torch {torch.__version__} has no Muon", "later ones have; or --optimizer adamw")
            self._flat = [(nn.Parameter(as_matrix(p.detach())), p) for p in chosen.values()]
            flat = [f for f, _ in self._flat]
            self.parts["muon"] = torch.optim.Muon(flat, lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        elif name == "soap" and chosen:
            self.parts["soap"] = _soap(list(chosen.values()), lr)
        rest = [p for n, p in parameters.items() if n not in chosen]
        if rest:
            self.parts["adamw"] = torch.optim.AdamW(rest, lr=lr, weight_decay=0.0, betas=BETAS, fused=True)

    def zero_grad(self, parameters: list[nn.Parameter]) -> None:
        for p in parameters:
            p.grad = None

    def step(self, lr: float) -> None:
        for flat, weight in self._flat:
            flat.grad = None if weight.grad is None else as_matrix(weight.grad, like=weight)
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
        for flat, _ in self._flat:
            flat.grad = None

    def state(self) -> dict[str, Any]:
        """AdamW alone as torch writes it, several by name."""
        if list(self.parts) == ["adamw"]:
            return self.parts["adamw"].state_dict()
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Raises ValueError if the state is that of other parameters or another optimizer."""
        states = {"adamw": state} if "param_groups" in state else state
        if set(states) != set(self.parts):
            raise ValueError(f"the state of {', '.join(states)}, not of {', '.join(self.parts)}")
        for name, part in self.parts.items():
            part.load_state_dict(states[name])


def matrices(network: Network, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Weights of dense convolutions with enough channels on both sides; depthwise ones and GDN are no matrices."""
    found = {}
    for name, module in network.named_modules():
        weight = f"{name}.weight"
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.groups == 1 and weight in parameters:
            if min(module.in_channels, module.out_channels) >= MIN_SIDE:
                found[weight] = parameters[weight]
    return found


def as_matrix(weight: Tensor, like: Tensor | None = None) -> Tensor:
    """(a, b, k, k) -> (a, b * k * k), a view where memory allows; columns in the memory order of `like`."""
    if (weight if like is None else like).is_contiguous():
        return weight.flatten(1)
    return weight.permute(0, 2, 3, 1).flatten(1)


def _soap(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    try:
        from pytorch_optimizer import SOAP  # extra "train"
    except ImportError as e:
        raise UsageError("SOAP needs the package pytorch_optimizer", "pip install pytorch_optimizer") from e
    soap: torch.optim.Optimizer = SOAP(
        parameters,
        lr=lr,
        betas=SOAP_BETAS,
        weight_decay=0.0,
        precondition_frequency=SOAP_PERIOD,
        max_precondition_dim=SOAP_MAX_SIDE,
    )
    return soap
