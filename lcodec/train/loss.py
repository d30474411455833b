"""Rate-distortion loss and the lambdas of the qualities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lcodec.nets import Output
from lcodec.nets.config import MSE_LAMBDAS


def mse_lambda(quality: float) -> float:
    """CompressAI's lambda at quality 1 to 8, geometrically between them."""
    position = min(max(quality - 1.0, 0.0), 7.0)
    i = min(int(position), 6)
    t = position - i
    return math.exp((1 - t) * math.log(MSE_LAMBDAS[i]) + t * math.log(MSE_LAMBDAS[i + 1]))


def rate_distortion(x: Tensor, out: Output, lmbda: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """lmbda * 255^2 * MSE + bpp of each image: loss, bpp, MSE in [0, 1]^2, each (B,).

    x (B, 3, H, W) in [0, 1]; lmbda (B,).
    """
    mse = (out.x_hat.float() - x).square().mean((1, 2, 3))
    bpp = out.bits() / (x.shape[2] * x.shape[3])
    return lmbda * 255**2 * mse + bpp, bpp, mse


def psnr(mse: Tensor) -> Tensor:
    """dB, of MSE in [0, 1]^2."""
    return -10 * torch.log10(mse.clamp_min(1e-10))
