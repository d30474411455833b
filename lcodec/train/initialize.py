"""A start from linear transform coding instead of noise.

Random networks spend their first hours on rediscovering the block transform. Here the four stride-2 stages of the GDN
transform begin as a cascade of 2x2 Karhunen-Loève transforms fitted to the training data (orthonormal, the strongest
components kept where the width does not suffice), synthesis as their transpose, GDN nearly linear, and the gains at
the steps that high-rate theory gives for each lambda.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lcodec.nets import Network
from lcodec.nets.layers import GDN, GDN_PEDESTAL, MixingBlock

from .loss import mse_lambda

GAMMA = 1e-3  # with activations of up to 7 this bends the transform by some per cent only
BRANCH = 0.05  # of residual branches
NOISE = 0.02  # relative amplitude of everything that starts beside the linear transform


def _stage_basis(x: Tensor, out_channels: int) -> Tensor:
    """x (B, C, H, W) -> orthonormal rows (min(4C, out), C, 2, 2) of the 2x2 blocks, by falling energy."""
    B, C, H, W = x.shape
    blocks = x.reshape(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4 * C).double()
    energies, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
    order = torch.argsort(energies, descending=True)[:out_channels]
    return vectors[:, order].T.reshape(-1, C, 2, 2).to(x.dtype)


def linear_start(network: Network, x: Tensor) -> None:
    """Set g_a, g_s and the gains of a GDN network in place; x (B, 3, H, W) in [0, 1], sample crops."""
    if network.config.arch.transform == "shuffle":
        _shuffle_start(network, x)
        _gain_start(network)
        return
    if network.config.arch.transform != "gdn":
        raise ValueError(f"no linear start is defined for the {network.config.arch.transform} transform")
    convs = [m for m in network.g_a if isinstance(m, nn.Conv2d)]
    deconvs = [m for m in network.g_s if isinstance(m, nn.ConvTranspose2d)]
    mean = x.mean((0, 2, 3))
    h = x - mean[:, None, None]
    with torch.no_grad():
        for i, (down, up) in enumerate(zip(convs, reversed(deconvs), strict=True)):
            basis = _stage_basis(h, down.out_channels)  # (K, C, 2, 2)
            K, C = basis.shape[:2]
            for layer in (down, up):
                layer.weight.mul_(NOISE)
                assert layer.bias is not None
                layer.bias.zero_()
            # Taps 2 and 3 of a 5x5 stride-2 window are the pixels 2i and 2i + 1, in both directions.
            down.weight[:K, :C, 2:4, 2:4] = basis
            up.weight[:K, :C, 2:4, 2:4] = basis
            if i == 0:
                assert down.bias is not None and up.bias is not None
                down.bias[:K] = -torch.einsum("kcij,c->k", basis, mean)
                up.bias.copy_(mean)
            h = torch.einsum("kcij,bchiwj->bkhw", basis, h.reshape(*h.shape[:2], h.shape[2] // 2, 2, -1, 2))
            if K < down.out_channels:
                h = torch.cat((h, h.new_zeros(h.shape[0], down.out_channels - K, *h.shape[2:])), 1)
        for module in network.modules():
            if isinstance(module, GDN):
                module.gamma.copy_((GAMMA * torch.eye(len(module.beta)) + GDN_PEDESTAL).sqrt())
    _gain_start(network)


def _gain_start(network: Network) -> None:
    """Quantisation steps at the optimum of high-rate theory, for orthonormal coefficients of pixels in [0, 1]."""
    if not network.config.variable_rate:
        return
    with torch.no_grad():
        for row, quality in enumerate(network.config.qualities):
            # d(lmbda * 255^2 * step^2 / 12 / 3) / d ln(step) = 1 / ln 2 bits, per coefficient
            step = math.sqrt(18 / math.log(2) / mse_lambda(quality)) / 255
            network.log_gain[row] = -math.log(step)
            network.log_inverse_gain[row] = math.log(step)
            # the prior starts as if made for the middle quality
            network.prior_log_scale[row] = math.log(step / 0.1)


def _shuffle_start(network: Network, x: Tensor) -> None:
    """KLT of 8x8 blocks and of 2x2 blocks of its coefficients; the blocks between begin close to the identity."""
    plain: list[Any] = [
        m for t in (network.g_a, network.g_s) for m in t if not isinstance(m, MixingBlock | nn.PixelShuffle)
    ]
    unshuffle, enter, down, up, leave = plain
    mean = x.mean((0, 2, 3))
    h = unshuffle(x - mean[:, None, None])
    with torch.no_grad():
        flat = h.permute(0, 2, 3, 1).reshape(-1, h.shape[1]).double()
        energies, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        K = min(len(energies), enter.out_channels)
        basis = vectors[:, torch.argsort(energies, descending=True)[:K]].T.float()  # (K, 192)
        means = mean.repeat_interleave(64)  # the unshuffled order: colour, then position
        for layer in (enter, down, up, leave):
            layer.weight.mul_(NOISE)
            layer.bias.zero_()
        enter.weight[:K, :, 0, 0] = basis
        enter.bias[:K] = -basis @ means
        leave.weight[:, :K, 0, 0] = basis.T
        leave.bias.copy_(means)
        h = torch.einsum("kc,bchw->bkhw", basis, h)
        second = _stage_basis(h, down.out_channels)
        # Taps 1 and 2 of a 3x3 stride-2 window are the positions 2i and 2i + 1, in both directions.
        for layer in (down, up):
            layer.weight[: len(second), :K, 1:3, 1:3] = second
        for module in network.modules():
            if isinstance(module, MixingBlock):
                for branch in (module.leave, module.contract):
                    for parameter in branch.parameters():
                        parameter.mul_(BRANCH)


def transfer(network: Network, source: Mapping[str, Tensor]) -> list[str]:
    """Copy what fits of another network's state_dict; returns the names of the tensors that took something.

    A tensor of other widths is copied as far as both reach. What the old channels would read from new ones becomes
    zero, so that a wider network begins by computing what the narrower one did; new channels keep the start they have.
    """
    # The outputs of this layer are two halves, scales and means: each is copied on its own.
    part = {"mean-scale": "h_s", "context": "entropy_parameters"}.get(network.config.arch.entropy)
    halved = f"{part}.{len(getattr(network, part)) - 1}." if part else "-"
    taken = []
    with torch.no_grad():
        for name, own in network.state_dict().items():
            other = source.get(name)
            if other is None or other.dim() != own.dim() or own.shape[2:] != other.shape[2:] or name.endswith("mask"):
                continue
            parts = 2 if name.startswith(halved) and own.shape[0] % 2 == 0 == other.shape[0] % 2 else 1
            for new, old in zip(own.chunk(parts), other.chunk(parts), strict=True):
                _copy_corner(new, old.to(new.dtype), transposed=isinstance(_owner(network, name), nn.ConvTranspose2d))
            taken.append(name)
    return taken


def _owner(network: Network, name: str) -> nn.Module:
    return network.get_submodule(name.rpartition(".")[0])


def _copy_corner(new: Tensor, old: Tensor, transposed: bool) -> None:
    if new.dim() == 1:
        new[: len(old)] = old[: len(new)]
        return
    rows, columns = (min(a, b) for a, b in zip(new.shape[:2], old.shape[:2], strict=True))
    if new.dim() > 2:  # weights: (out, in, …), transposed convolutions (in, out, …)
        if transposed:
            new[rows:, :columns] = 0
        else:
            new[:rows, columns:] = 0
    new[:rows, :columns] = old[:rows, :columns]
