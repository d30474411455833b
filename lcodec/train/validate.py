"""Validation with rounding, at several qualities: what the codec will do, without making files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lcodec.errors import LcodecError
from lcodec.finalize import integer_rates
from lcodec.image import centre
from lcodec.nets import Network
from lcodec.nets.similarity import MIN_MS_SSIM_PX, ms_ssim

from .data import Photographs, as_batch
from .loss import MIDDLE, psnr
from .options import Options

MAX_VALID_PX = 2048  # a side: images run through the network whole
INTEGER_IMAGES = 3  # on which the integer model is tried
INTEGER_PX = 384  # a side


@torch.no_grad()
def validate(
    network: Network,
    images: Photographs,
    qualities: Sequence[float],
    options: Options,
    stopped: Callable[[], bool] = lambda: False,
) -> list[dict[str, float]] | None:
    """Means over the images (of large ones the middle), a row a quality: quality, bpp, psnr, loss and, if it is the
    metric, ms_ssim (of the images that are large enough for it). PSNR and MS-SSIM are those of 8-bit pictures.
    What the context family's context sees is found by iteration (see `Network.forward`), nearly as the codec has it.
    Images that can no longer be read are left out. stopped: asked before each image; once it says so, None is returned.
    Raises InputError if no image is left.
    """
    network.eval()
    device = network.log_gain.device
    sums = [{"bpp": 0.0, "psnr": 0.0, "loss": 0.0} for _ in qualities]
    similarities: list[list[float]] = [[] for _ in qualities]
    count = 0
    for whole in images.readable():
        pixels = centre(whole, MAX_VALID_PX)
        height, width = pixels.shape[:2]
        x = as_batch(pixels).to(device, memory_format=torch.channels_last)
        original = x[:, :, :height, :width]
        count += 1
        for quality, total, similar in zip(qualities, sums, similarities, strict=True):
            if stopped():
                return None
            with torch.autocast(x.device.type, torch.bfloat16, enabled=options.amp):
                out = network(x, quality, mode="coder")
            x_hat = out.x_hat.float().clamp(0, 1).mul(255).round().div(255)[:, :, :height, :width]
            mse = (x_hat - original).square().mean()
            bpp = float(out.bits()) / (height * width)
            distortion = 255**2 * float(mse)
            if options.metric == "ms-ssim":
                if min(height, width) < MIN_MS_SSIM_PX:
                    distortion = 0.0
                else:
                    similar.append(float(ms_ssim(original, x_hat)))
                    distortion = 1 - similar[-1]
            total["bpp"] += bpp
            total["psnr"] += float(psnr(mse))
            total["loss"] += options.lambda_of(quality) * distortion + bpp
    rows = []
    for quality, total, similar in zip(qualities, sums, similarities, strict=True):
        row = {"quality": quality, **{k: v / count for k, v in total.items()}}
        if similar:
            row["ms_ssim"] = sum(similar) / len(similar)
        rows.append(row)
    network.train()
    return rows


def add_integer_rates(rows: list[dict[str, Any]], network: Network, images: Photographs) -> str:
    """Add to the rows of `validate` what the integer model needs more than the float one, integer_percent.

    The network is finalized for that, on the middles of a few of the images, which the real coder then codes. Returns
    "" or, if the network cannot be finalized as it is, why: training goes on, for it may still become possible.
    """
    chosen = [centre(pixels, INTEGER_PX).copy() for pixels in images.readable(INTEGER_IMAGES)]
    try:
        rates = integer_rates(copy.deepcopy(network).cpu(), chosen, [row["quality"] for row in rows])
    except LcodecError as e:
        return str(e)
    for row, rate in zip(rows, rates, strict=True):
        row["integer_percent"] = rate.excess_percent
    return ""


def validation_loss(rows: list[dict[str, Any]], options: Options) -> float:
    """One number for a validation: the mean loss over the qualities, weighted as in training."""
    weights = [(options.lambda_of(r["quality"]) / MIDDLE[options.metric]) ** -options.rate_balance for r in rows]
    return sum(w * r["loss"] for w, r in zip(weights, rows, strict=True)) / len(rows)
