"""A differentiable double of what the decoder does, to search latents with; the real coder has the last word.

A finalized model keeps its entropy model as integers, through which no gradient passes. The same weights as floats give
nearly the same scales and means. Bits are those of a Gaussian, not of the mixture that tables may hold, with which the
file of lc-s takes 0.5 to 0.8 % fewer: searched with the mixture, four crops came out at about the same cost.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcodec.checkpoint import network_of_model
from lcodec.decoder import Slice
from lcodec.entropy.intmodel import IntegerEntropyModel
from lcodec.entropy.tables import table_set
from lcodec.nets import Network
from lcodec.nets.config import DOWNSAMPLING_Y
from lcodec.nets.layers import GDN
from lcodec.nets.likelihood import gaussian_likelihood
from lcodec.nets.similarity import MIN_MS_SSIM_PX, ms_ssim
from lcodec.transforms.tiling import Box
from lcodec.weights import ModelFile

from .gradients import FrozenInverseGDN, gaussian_bits

# Latents around a slice that its search sees but does not move, and how far outside of the slice pixels count. A latent
# reaches about three latents far in the transforms of the gdn family; what it does beyond is left out of the search.
SEEN_LATENTS = 4
COUNTED_LATENTS = 2


class Proxy:
    """The float network of a model on a device, without gradients of its weights.

    Raises ModelError for a model without what it needs.
    """

    def __init__(self, file: ModelFile, entropy: IntegerEntropyModel, device: str) -> None:
        self.file, self.entropy, self.device = file, entropy, torch.device(device)
        self.network = network_of_model(file).to(self.device).channels_last().requires_grad_(False)
        _freeze_gdn(self.network.g_s)
        self.kind = self.network.config.arch.entropy
        self.amp = has_fast_bfloat16(self.device)
        self.exact_g_s = self.network.g_s
        if self.amp:
            self.exact_g_s = copy.deepcopy(self.network.g_s)
            _store_as_bfloat16(self.network)

    def at(self, quality: float, tables: int | None = None) -> ProxyAt:
        """tables: the set that the file is coded with, by the quality in its header; None for that of `quality`."""
        return ProxyAt(self, quality, table_set(self.file.table_qualities, quality) if tables is None else tables)


class Density(NamedTuple):
    """What the entropy model says of y: scales and means (1, M, h, w), or no scales and medians (1, M, 1, 1)."""

    scales: Tensor | None
    means: Tensor


class ProxyAt:
    """A proxy at one quality. Tensors are float32 with a batch of one; y is scaled by the gain."""

    def __init__(self, proxy: Proxy, quality: float, tables: int) -> None:
        network, entropy = proxy.network, proxy.entropy
        self.proxy = proxy
        self.inverse_gain = network.inverse_gain(quality)[:, :, None, None]
        self.value_scale = network.prior_scale(quality)
        self.tables = tables
        fraction_bits = entropy.fz if network.config.arch.has_hyperprior else entropy.fy
        medians = torch.from_numpy(entropy.medians[self.tables]).to(proxy.device).float() * 2.0**-fraction_bits
        self.medians = medians[None, :, None, None]

    def synthesise(self, y_hat: Tensor) -> Tensor:
        """x_hat (1, 3, H, W), float32, not clamped."""
        with torch.autocast(self.proxy.device.type, torch.bfloat16, enabled=self.proxy.amp):
            return self.proxy.network.g_s(y_hat * self.inverse_gain).float()

    def shift(self, y_hat: Tensor) -> Tensor | float:
        """What bfloat16 makes of a picture, most of all of its mean colour: x_hat less the one in float32."""
        if not self.proxy.amp:
            return 0.0
        with torch.no_grad():
            exact: Tensor = self.proxy.exact_g_s(y_hat * self.inverse_gain)
            return self.synthesise(y_hat) - exact

    def density(self, z_hat: Tensor | None, y_hat: Tensor) -> Density:
        """y_hat: what the context sees; not used by the other families."""
        network, kind = self.proxy.network, self.proxy.kind
        if z_hat is None:
            return Density(None, self.medians)
        with torch.autocast(self.proxy.device.type, torch.bfloat16, enabled=self.proxy.amp):
            params = network.h_s(z_hat)
            if kind == "context":
                params = network.entropy_parameters(torch.cat((params, network.context_prediction(y_hat)), 1))
        if kind == "hyperprior":
            return Density(params.float(), torch.zeros_like(self.inverse_gain))
        scales, means = params.float().chunk(2, 1)
        return Density(scales, means)

    def bits(self, v: Tensor, density: Density) -> Tensor:
        """Bits of each latent with residual v = y_hat - means; v need not be whole."""
        if density.scales is None:
            prior = self.proxy.network.entropy_bottleneck
            return -torch.log2(prior.likelihood(v + density.means, self.value_scale))
        return -torch.log2(gaussian_likelihood(v, density.scales))

    def total_bits(self, v: Tensor, density: Density) -> Tensor:
        """Of all latents together, a scalar; see `bits`."""
        if density.scales is None:
            return self.bits(v, density).sum()
        return gaussian_bits(v, density.scales)

    def bits_z(self, z_hat: Tensor) -> Tensor:
        return -torch.log2(self.proxy.network.entropy_bottleneck.likelihood(z_hat, self.value_scale))


class Distortion:
    """Weighted error of one block of latents, as a function of its y_hat, with what surrounds it held fixed.

    The error is the one that the model was trained for: MSE, the mean over the channels, or 1 - MS-SSIM of the pixels
    that count.

    picture: the pixels that count, uint8 or uint16, (h, w, 3) or (h, w, 1), inside the image. y_hat: the surroundings
    (1, M, rows, columns) with zeros in the block. block: where the block is in y_hat.
    offset: (row, column) of `picture` in the synthesis of y_hat, in pixels. weight: bits per unit of error and
    pixel, of samples in [0, 1]. seen: bool (h, w), where squared errors count; everywhere if None.
    """

    def __init__(
        self,
        proxy: ProxyAt,
        picture: np.ndarray,
        y_hat: Tensor,
        block: Box,
        offset: tuple[int, int],
        weight: float,
        seen: np.ndarray | None = None,
    ) -> None:
        self.proxy, self.surroundings, self.offset, self.weight = proxy, y_hat, offset, weight
        samples = torch.from_numpy(picture.astype(np.float32) / np.iinfo(picture.dtype).max)
        self.x = samples.permute(2, 0, 1)[None].to(y_hat.device)
        self.pixels = picture.shape[0] * picture.shape[1]
        self.seen = None if seen is None else torch.from_numpy(seen).to(y_hat.device)
        rows, columns = y_hat.shape[2:]
        self.padding = (block.left, columns - block.right, block.top, rows - block.bottom)
        self.shift: Tensor | float | None = None  # as it is where the search begins

    @property
    def defined(self) -> bool:
        """Whether there is such an error; not where pixels are too few for MS-SSIM."""
        return self.proxy.proxy.file.metric != "ms-ssim" or min(self.x.shape[2:]) >= MIN_MS_SSIM_PX

    def picture_of(self, y_hat: Tensor) -> Tensor:
        """x_hat where pixels count, as the decoder gives it but for the rounding to whole samples."""
        whole = F.pad(y_hat, self.padding) + self.surroundings
        whole = whole.contiguous(memory_format=torch.channels_last)
        if self.shift is None:
            self.shift = self.proxy.shift(whole.detach())
        x_hat = self.proxy.synthesise(whole) - self.shift
        row, column = self.offset
        x_hat = x_hat[:, :, row : row + self.x.shape[2], column : column + self.x.shape[3]].clamp(0, 1)
        return x_hat.mean(1, keepdim=True) if self.x.shape[1] == 1 else x_hat

    def __call__(self, y_hat: Tensor) -> Tensor:
        """In bits."""
        x_hat = self.picture_of(y_hat)
        if self.proxy.proxy.file.metric == "ms-ssim":
            return self.weight * self.pixels * (1 - ms_ssim(self.x, x_hat)[0])
        errors = (x_hat - self.x).square()
        if self.seen is not None:
            errors = errors * self.seen
        return self.weight / self.x.shape[1] * errors.sum()

    def curvature(self, y_hat: Tensor, generator: torch.Generator) -> Tensor:
        """Second derivative for each channel, (1, M, 1, 1): the mean diagonal of 2 weight J^T J; of MSE.

        By Hutchinson's estimate with one random sign a sample: the square of J^T e has J^T J's diagonal as its mean.
        """
        y_hat = y_hat.detach().requires_grad_()
        x_hat = self.picture_of(y_hat)
        signs = torch.randint(0, 2, x_hat.shape, generator=generator, device=x_hat.device) * 2.0 - 1
        (back,) = torch.autograd.grad(x_hat, y_hat, signs)
        return 2 * self.weight / self.x.shape[1] * back.square().mean((2, 3), keepdim=True)


def _freeze_gdn(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, GDN):
            setattr(module, name, FrozenInverseGDN(child))
        else:
            _freeze_gdn(child)


def _store_as_bfloat16(network: Network) -> None:
    """The convolutions that run under autocast, which would else convert their weights at every step."""
    for name in ("g_s", "h_s", "context_prediction", "entropy_parameters"):
        for layer in getattr(network, name, nn.Identity()).modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.to(torch.bfloat16)


def counted_pixels(block: Slice, rows: int, columns: int, height: int, width: int) -> tuple[Box, Box]:
    """Of a slice in an image of rows x columns latents and height x width pixels: the latents that are seen, and the
    pixels that count."""
    _, y0, x0, h, w = block
    s, near, far = DOWNSAMPLING_Y, COUNTED_LATENTS, SEEN_LATENTS
    seen = Box(max(0, y0 - far), min(rows, y0 + h + far), max(0, x0 - far), min(columns, x0 + w + far))
    counted = Box(
        max(0, y0 - near) * s,
        min(height, (y0 + h + near) * s),
        max(0, x0 - near) * s,
        min(width, (x0 + w + near) * s),
    )
    return seen, counted


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 are faster than in float32 there."""
    if device.type == "cuda":
        # Older ones, for which torch says that they support it, take float32 and round.
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))
