"""A start from linear transform coding instead of noise.

Random networks spend their first hours on rediscovering the block transform. Here the four stride-2 stages of a
transform begin as a cascade of 2x2 Karhunen-Loève transforms fitted to the training data (orthonormal, the strongest
components kept where the width does not suffice), synthesis as their transpose, GDN nearly linear, residual branches
small, and the gains at the steps that high-rate theory gives for each lambda.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lcodec.nets import Network
from lcodec.nets.config import table_lambda
from lcodec.nets.layers import (
    GDN,
    GDN_PEDESTAL,
    AttentionBlock,
    MixingBlock,
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
)

GAMMA = 1e-3  # with activations of up to 7 this bends the transform by some per cent only
GAMMA_RESIDUAL = 1e-4  # where synthesis goes around the inverse GDN, so that nothing undoes the bend
SLOPE = 0.01  # of the LeakyReLU in residual blocks
BRANCH = 0.05  # of residual branches
NOISE = 0.02  # relative amplitude of everything that starts beside the linear transform
PAIRED = 1 / 16  # of the channels of a residual block with stride, at least, are the second of a pair
GATE = 1e-5  # what attention lets through at first
LAYERS = ("g_a", "g_s", "h_a", "h_s", "context_prediction", "entropy_parameters")  # where a network keeps them


@dataclass(frozen=True)
class Source:
    """What a run begins with: a checkpoint or model, and patterns (as in file names) of what to take; none is all."""

    path: Path
    layers: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        return not self.layers or any(fnmatchcase(name, pattern) for pattern in self.layers)

    def __str__(self) -> str:
        return ":".join([str(self.path), *filter(None, [",".join(self.layers)])])


def _stage_basis(x: Tensor, out_channels: int) -> Tensor:
    """x (B, C, H, W) -> orthonormal rows (min(4C, out), C, 2, 2) of the 2x2 blocks, by falling energy."""
    B, C, H, W = x.shape
    blocks = x.reshape(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 4 * C).double()
    energies, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
    order = torch.argsort(energies, descending=True)[:out_channels]
    return vectors[:, order].T.reshape(-1, C, 2, 2).to(x.dtype)


def linear_start(network: Network, x: Tensor, lambdas: Sequence[float] | None = None) -> None:
    """Set g_a, g_s and the gains of a network in place; x (B, 3, H, W) in [0, 1], sample crops, sides multiples of 16.

    lambdas: weight of the MSE at each quality of the network, CompressAI's if None. What the network then does without
    any training is code a linear block transform.
    """
    starts = {"gdn": _gdn_start, "shuffle": _shuffle_start, "residual": _residual_start, "attention": _residual_start}
    with torch.no_grad():
        starts[network.config.arch.transform](network, x)
    _gain_start(network, lambdas or _table(network.config.qualities))


def _table(qualities: Sequence[float]) -> list[float]:
    return [table_lambda(q) for q in qualities]


def _gdn_start(network: Network, x: Tensor) -> None:
    convs = [m for m in network.g_a if isinstance(m, nn.Conv2d)]
    deconvs = [m for m in network.g_s if isinstance(m, nn.ConvTranspose2d)]
    mean = x.mean((0, 2, 3))
    h = x - mean[:, None, None]
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
        h = _apply(basis, h)
        if K < down.out_channels:
            h = torch.cat((h, h.new_zeros(h.shape[0], down.out_channels - K, *h.shape[2:])), 1)
    _straighten(network, GAMMA)


def _apply(basis: Tensor, h: Tensor) -> Tensor:
    """Coefficients (B, K, H/2, W/2) of the 2x2 blocks of h (B, C, H, W) in a basis (K, C, 2, 2)."""
    return torch.einsum("kcij,bchiwj->bkhw", basis, h.reshape(*h.shape[:2], h.shape[2] // 2, 2, -1, 2))


def _straighten(network: Network, gamma: float) -> None:
    """Every GDN close to linear."""
    for module in network.modules():
        if isinstance(module, GDN):
            module.gamma.copy_((gamma * torch.eye(len(module.beta)) + GDN_PEDESTAL).sqrt())


def _residual_start(network: Network, x: Tensor) -> None:
    """The Cheng networks. A block with stride works by its two convolutions, as its 1x1 skip sees one pixel in four:

        conv1   v = KLT(x), the 2x2 block in taps 1 and 2 of the 3x3 window
        lrelu   made linear, see below
        conv2   v again, in its middle tap

    A strong component has two channels, v and -v, and lrelu(v) - lrelu(-v) = (1 + slope) v. Where the width does not
    suffice for that, the weak ones have one, v + b with a bias b beyond which it did not go in x, which conv2 takes off
    again; in bfloat16 that costs precision, which is why the strong ones are not done so. Upsampling goes through the
    sub-pixel skip, which is linear.
    """
    blocks = [m for m in network.g_a if isinstance(m, ResidualBlockWithStride)]
    ups: list[Any] = [m.upsample[0] for m in network.g_s if isinstance(m, ResidualBlockUpsample)]
    last: Any = next(m for m in reversed(network.g_a) if isinstance(m, nn.Conv2d))
    leave: Any = network.g_s[-1]
    mean = x.mean((0, 2, 3))
    h = x - mean[:, None, None]
    for block, up in zip([*blocks, last], [leave[0], *reversed(ups)], strict=True):
        whole = isinstance(block, nn.Conv2d)
        width = block.out_channels if whole else block.conv2.out_channels * (1 - PAIRED)
        basis = _stage_basis(h, int(width))  # (K, C, 2, 2)
        K, C = basis.shape[:2]
        for layer in (up, *((block,) if whole else (block.conv1, block.conv2, block.skip))):
            layer.weight.mul_(NOISE)
            layer.bias.zero_()
        down = block if whole else block.conv1
        offset = torch.einsum("kcij,c->k", basis, mean) if block is blocks[0] else torch.zeros(K)
        down.weight[:K, :C, 1:3, 1:3] = basis
        down.bias[:K] = -offset
        following = _apply(basis, h)
        if not whole:
            paired = min(K, block.conv2.out_channels - K)
            block.conv1.weight[K : K + paired, :C, 1:3, 1:3] = -basis[:paired]
            block.conv1.bias[K : K + paired] = offset[:paired]
            reach = following[:, paired:].abs().amax((0, 2, 3))
            block.conv1.bias[paired:K] += reach
            block.conv2.weight[:, paired:K] = 0
            block.conv2.bias[paired:K] = -reach
            for k in range(K):
                block.conv2.weight[k, k, 1, 1] = 1 / (1 + SLOPE) if k < paired else 1
                if k < paired:
                    block.conv2.weight[k, K + k, 1, 1] = -1 / (1 + SLOPE)
        # Channel 4c + 2i + j of a sub-pixel convolution becomes channel c at pixel (2h + i, 2w + j).
        up.weight[: 4 * C, :K, 1, 1] = basis.permute(1, 2, 3, 0).reshape(4 * C, K)
        if block is blocks[0]:
            up.bias.copy_(mean.repeat_interleave(4))
        h = following
    for module in network.modules():
        if isinstance(module, ResidualBlock | ResidualBlockUpsample):
            for parameter in (module.conv2 if isinstance(module, ResidualBlock) else module.conv).parameters():
                parameter.mul_(BRANCH)
        elif isinstance(module, AttentionBlock):
            close_gate(module)
    _straighten(network, GAMMA_RESIDUAL)


@torch.no_grad()
def close_gate(block: AttentionBlock) -> None:
    """x + a(x) * sigmoid(b(x)) with a gate that is nearly shut, everywhere: the identity, up to GATE * a(x).

    Shut for good it could not be opened by training: a(x) ends in a ReLU and the gate in a sigmoid, which where they
    are exactly zero have no gradient.
    """
    gate: Any = block.conv_b[-1]
    gate.weight.zero_()
    gate.bias.fill_(math.log(GATE / (1 - GATE)))


def _gain_start(network: Network, lambdas: Sequence[float]) -> None:
    """Quantisation steps at the optimum of high-rate theory, for orthonormal coefficients of pixels in [0, 1]."""
    with torch.no_grad():
        for row, lmbda in enumerate(lambdas):
            # d(lmbda * 255^2 * step^2 / 12 / 3) / d ln(step) = 1 / ln 2 bits, per coefficient
            step = math.sqrt(18 / math.log(2) / lmbda) / 255
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


def transfer(
    network: Network,
    source: Mapping[str, Tensor],
    qualities: Sequence[float] | None = None,
    lambdas: Sequence[float] | None = None,
    known: Sequence[float] | None = None,
    wants: Callable[[str], bool] = lambda name: True,
) -> dict[str, torch.Size]:
    """Copy what fits of another network's state_dict; returns what took something, with the shapes that the source has.

    qualities: those of the source, this network's own if None. lambdas: as in `linear_start`; gains are those that the
    source has, or by high-rate theory would have, there. known: what the source was trained with at its qualities, if
    not what their names say. wants: which tensors of this network, by name, are to change.

    A tensor of other widths is copied as far as both reach. What the old channels would read from new ones becomes
    zero, so that a wider network begins by computing what the narrower one did; new channels keep the start they have.
    Attention that the source does not have begins as the identity (see `close_gate`), attention that is too much is
    left out: cheng2020-attn continues where cheng2020-anchor was.
    """
    own_qualities = network.config.qualities
    wanted = lambdas or _table(own_qualities)
    gains = _gains(source, known or _named(qualities or own_qualities, wanted), wanted)
    source = {**_at_positions_of(network, source), **gains}
    if any(name.startswith("h_s.") for name in source) != network.config.arch.has_hyperprior:
        # One has a density of y, the other of z, under the same names.
        source = {n: t for n, t in source.items() if not n.startswith(("entropy_bottleneck.", "prior_log_scale"))}
    if not _has_transforms(network, source):  # whose channels they are for
        source = {name: tensor for name, tensor in source.items() if name not in gains}
    # The outputs of this layer are two halves, scales and means: each is copied on its own.
    part = {"mean-scale": "h_s", "context": "entropy_parameters"}.get(network.config.arch.entropy)
    halved = f"{part}.{len(getattr(network, part)) - 1}." if part else "-"
    bias = source.get(f"{halved}bias")
    scales_alone = bias is not None and "log_gain" in source and len(bias) == source["log_gain"].shape[1]
    taken = {}
    with torch.no_grad():
        for name, module in network.named_modules():
            gate = f"{name}.conv_b.3.weight"
            if isinstance(module, AttentionBlock) and gate not in source and wants(gate):
                close_gate(module)
        for name, own in network.state_dict().items():
            other = source.get(name)
            if other is None or not _alike(own, other) or name.endswith("mask") or not wants(name):
                continue
            weight = name.removesuffix(".bias") + ".weight"
            if weight in source and not _alike(network.state_dict()[weight], source[weight]):
                continue  # a bias says nothing without its weights
            parts = 2 if name.startswith(halved) and own.shape[0] % 2 == 0 == other.shape[0] % 2 else 1
            if name.startswith(halved) and scales_alone:  # of a scale hyperprior: the means begin anew
                own, parts = own[: len(own) // 2], 1
            # What goes into the first one is two halves as well, what h_s says and what the context does.
            sides = 2 if name == "entropy_parameters.0.weight" else 1
            transposed = isinstance(_owner(network, name), nn.ConvTranspose2d)
            for new_rows, old_rows in zip(own.chunk(parts), other.chunk(parts), strict=True):
                axis = min(1, own.dim() - 1)
                for new, old in zip(new_rows.chunk(sides, axis), old_rows.chunk(sides, axis), strict=True):
                    _copy_corner(new, old.to(new.dtype), transposed)
            taken[name] = other.shape
    return taken


@torch.no_grad()
def hand_on(network: Network) -> None:
    """Entropy parameters that begin with what h_s says, which came from a mean-scale hyperprior; for mbt2018.

    Its h_s is built alike, and its output of 2M channels is scales and means there. A scale goes through one channel of
    each hidden layer: where LeakyReLU bends it, below zero, it is as good as zero. A mean m has two, as
    lrelu(m) - lrelu(-m) = (1 + slope) m. The second hidden layer, of 8M/3 channels, has no room for the means of M/6
    latents, those to which the last layer of h_s gives the smallest weights; theirs begin at zero.
    """
    layers: Any = [m for m in network.entropy_parameters if isinstance(m, nn.Conv2d)]
    last: Any = network.h_s[-1]
    M = network.config.M
    paired = min(M, *((layer.out_channels - M) // 2 for layer in layers[:-1]))
    kept = last.weight[M:].square().sum((1, 2, 3)).argsort(descending=True)[:paired]
    for layer in layers:
        used = 2 * M if layer is layers[-1] else M + 2 * paired
        layer.weight[:used] = 0
        layer.bias[:used] = 0
    scales, means = torch.arange(M), M + torch.arange(paired)
    opposite = means + paired
    first, *inner, final = layers
    first.weight[scales, scales] = 1
    first.weight[means, M + kept] = 1
    first.weight[opposite, M + kept] = -1
    for layer in (*inner, final):
        layer.weight[scales, scales] = 1
        targets = [(M + kept, 1)] if layer is final else [(means, 1), (opposite, -1)]
        for rows, sign in targets:
            layer.weight[rows, means] = sign / (1 + SLOPE)
            layer.weight[rows, opposite] = -sign / (1 + SLOPE)


def _has_transforms(network: Network, source: Mapping[str, Tensor]) -> bool:
    """Whether the source has a layer of g_a or g_s for the network."""
    own = network.state_dict()
    names = (name for name in source if name.startswith(("g_a.", "g_s.")) and name.endswith("weight"))
    return any(name in own and _alike(own[name], source[name]) for name in names)


def _alike(new: Tensor, old: Tensor) -> bool:
    """Whether one of them is the other at another width."""
    return new.dim() == old.dim() and new.shape[2:] == old.shape[2:]


def _named(qualities: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """Weights of the MSE by the names of qualities; a rate without a name is taken for the middle of those wanted."""
    middle = math.exp(sum(math.log(v) for v in wanted) / len(wanted))
    return [table_lambda(q) if q else middle for q in qualities]


def _gains(source: Mapping[str, Tensor], rows_at: Sequence[float], lambdas: Sequence[float]) -> dict[str, Tensor]:
    """The gains of the source, whose rows are those of some weights of the MSE, at others.

    Between rows they are interpolated. Beyond them, and from a source of one rate, the quantisation step goes with the
    inverse square root of lambda.
    """
    wanted = torch.tensor(lambdas, dtype=torch.float64).log()
    known = torch.tensor(rows_at, dtype=torch.float64).log()
    inside = wanted.clamp(known[0], known[-1])
    above = torch.searchsorted(known, inside, right=True).clamp(max=len(known) - 1)
    below = (above - 1).clamp_min(0)
    t = ((inside - known[below]) / (known[above] - known[below]).clamp_min(1e-9))[:, None]
    found = {}
    for name, sign in (("log_gain", 1), ("log_inverse_gain", -1), ("prior_log_scale", -1)):
        if name in source:
            rows = source[name].double()
            beyond = sign * 0.5 * (wanted - inside)[:, None]
            found[name] = (torch.lerp(rows[below], rows[above], t) + beyond).float()
    return found


def _at_positions_of(network: Network, source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The source with the layers of g_a and g_s where this network has them; attention blocks shift what follows."""
    renamed: dict[str, Tensor] = {k: v for k, v in source.items() if not k.startswith(("g_a.", "g_s."))}
    for part in ("g_a", "g_s"):
        names = [name for name in source if name.startswith(f"{part}.")]
        there = {int(name.split(".")[1]) for name in names if ".conv_b." in name}
        own = {i for i, module in enumerate(getattr(network, part)) if isinstance(module, AttentionBlock)}
        if bool(own) == bool(there):
            renamed |= {name: source[name] for name in names}
            continue
        layers = [i for i in range(1 + max(int(name.split(".")[1]) for name in names)) if i not in there]
        places = [i for i in range(len(getattr(network, part))) if i not in own]
        if len(layers) == len(places):
            moved = dict(zip(layers, places, strict=True))
            for name in names:
                _, old, rest = name.split(".", 2)
                if int(old) in moved:
                    renamed[f"{part}.{moved[int(old)]}.{rest}"] = source[name]
    return renamed


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
