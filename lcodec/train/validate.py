"""Validation with rounding, at several qualities: what the codec will do, without making files."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lcodec.image import centre
from lcodec.nets import Network

from .data import Photographs, as_batch
from .loss import mse_lambda, psnr

MAX_VALID_PX = 2048  # a side: images run through the network whole


@torch.no_grad()
def validate(
    network: Network, images: Photographs, qualities: Sequence[float], amp: bool
) -> list[dict[str, float]]:
    """Mean bpp, PSNR (8-bit output) and loss over the images (of large ones the middle), a row a quality.

    What the context family's context sees is found by iteration (see `Network.forward`), nearly as the codec has it.
    """
    network.eval()
    device = network.log_gain.device
    rows = []
    for quality in qualities:
        total_bpp = total_psnr = total_loss = 0.0
        for i in range(len(images)):
            pixels = centre(images[i], MAX_VALID_PX)
            height, width = pixels.shape[:2]
            x = as_batch(pixels).to(device, memory_format=torch.channels_last)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=amp):
                out = network(x, quality, mode="coder")
            x_hat = out.x_hat.float().clamp(0, 1).mul(255).round().div(255)
            mse = (x_hat - x)[:, :, :height, :width].square().mean()
            bpp = float(out.bits()) / (height * width)
            total_bpp += bpp
            total_psnr += float(psnr(mse))
            total_loss += mse_lambda(quality) * 255**2 * float(mse) + bpp
        n = len(images)
        rows.append({"quality": quality, "bpp": total_bpp / n, "psnr": total_psnr / n, "loss": total_loss / n})
    network.train()
    return rows
