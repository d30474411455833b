"""What the integer entropy model costs against the float one, measured on images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lcodec.entropy.intmodel import IntegerEntropyModel
from lcodec.entropy.tables import Spread, table_set
from lcodec.errors import ModelError
from lcodec.image import pad
from lcodec.nets import Network
from lcodec.nets.likelihood import gaussian_likelihood


@dataclass(frozen=True)
class Rate:
    """Bits over all images at one quality: real ones, and the float model's estimate for the same symbols.

    psnr: mean over the images, dB over RGB of the 8-bit output; nan if it was not asked for.
    """

    quality: float
    integer_bits: int
    float_bits: float
    pixels: int
    psnr: float = float("nan")

    @property
    def integer_bpp(self) -> float:
        return self.integer_bits / self.pixels

    @property
    def float_bpp(self) -> float:
        return self.float_bits / self.pixels

    @property
    def excess_percent(self) -> float:
        return 100 * (self.integer_bits / self.float_bits - 1)


@torch.no_grad()
def measure(
    network: Network,
    entropy: IntegerEntropyModel,
    table_qualities: Sequence[float],
    images: Sequence[np.ndarray],
    qualities: Sequence[float],
    spread: Spread,
    threads: int = 1,
    psnr: bool = True,
) -> list[Rate]:
    """Code the images' latents with the integer model and estimate them with the float model.

    psnr: synthesise the images too. Both models see the same z_hat, and the same y_hat as context, so that the
    difference is the arithmetic alone. spread: what the tables of y hold, by which the float model estimates, too.
    """
    rates = []
    arch = network.config.arch
    for quality in qualities:
        tables = table_set(table_qualities, quality)
        integer_bits, float_bits, pixels, levels = 0, 0.0, 0, 0.0
        for image in images:
            y, z = network.analyse(_to_torch(image), quality)
            data, y_hat_q = entropy.encode_slice(
                _fixed(y), None if z is None else _fixed(z), tables, threads
            )
            integer_bits += 8 * len(data)
            pixels += image.shape[0] * image.shape[1]
            value_scale = network.prior_scale(quality)
            y_hat = torch.from_numpy(y_hat_q).permute(2, 0, 1)[None].float() * 2.0**-entropy.fy
            levels += _psnr(image, network.synthesise(y_hat, quality)) if psnr else math.nan
            prior = network.entropy_bottleneck
            if z is None:
                float_bits += _bits(prior.likelihood(y_hat, value_scale))
                continue
            medians = torch.from_numpy(entropy.medians[tables]).float()[:, None, None] * 2.0**-entropy.fz
            z_hat = torch.round(z - medians) + medians
            float_bits += _bits(prior.likelihood(z_hat, value_scale))
            params = network.h_s(z_hat)
            if arch.entropy == "context":
                params = network.entropy_parameters(torch.cat((params, network.context_prediction(y_hat)), 1))
            scales, means = (params, torch.zeros_like(y)) if arch.entropy == "hyperprior" else params.chunk(2, 1)
            float_bits += _bits(gaussian_likelihood(torch.round(y - means), scales, spread))
        rates.append(Rate(quality, integer_bits, float_bits, pixels, levels / len(images)))
    return rates


@torch.no_grad()
def coded_symbols(
    network: Network,
    entropy: IntegerEntropyModel,
    table_qualities: Sequence[float],
    images: Sequence[np.ndarray],
    qualities: Sequence[float],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Symbols of y and their scale indexes, of each image at each quality; not for the factorized family."""
    for quality in qualities:
        for image in images:
            y, z = network.analyse(_to_torch(image), quality)
            assert z is not None
            yield entropy.symbols_of_y(_fixed(y), _fixed(z), table_set(table_qualities, quality))


def _to_torch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pad(image))).permute(2, 0, 1)[None].float().div(255)


def _psnr(image: np.ndarray, x_hat: torch.Tensor) -> float:
    """dB of uint8 (H, W, 3) against x_hat (1, 3, >= H, >= W) in [0, 1]."""
    height, width = image.shape[:2]
    decoded = x_hat[0, :, :height, :width].clamp(0, 1).mul(255).round().permute(1, 2, 0).double().numpy()
    mse = float(np.mean((decoded - image) ** 2)) / 255**2
    if not math.isfinite(mse):
        raise ModelError("the network gives values that are not finite")
    return -10 * math.log10(max(1e-10, mse))


def _bits(likelihoods: torch.Tensor) -> float:
    return float(-torch.log2(likelihoods.double()).sum())


def _fixed(v: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray((v[0].permute(1, 2, 0).double() * 65536).round().to(torch.int32).numpy())
