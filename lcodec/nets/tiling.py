"""Transforms over images of any size: tiles with a halo as wide as the receptive field.

A convolution does not see beyond its receptive field, so a tile that is computed with enough of its surroundings
and then trimmed equals the same part of the whole (but for float rounding). At the border of the image a tile ends
where the image ends, so zero padding is as in one pass. Memory is bounded by the tile, not by the image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .config import DOWNSAMPLING_Y
from .network import Network

TILE_LATENTS = 64  # side of a tile: 1024 pixels
# Reach of g_a and g_s in latents, rounded up; test_tiling measures that nothing beyond it matters.
HALO_LATENTS = {"gdn": 3, "residual": 8, "attention": 16, "shuffle": 4}

Span = tuple[int, int, int, int]  # first and last + 1 with halo, first and last + 1 without


def _spans(size: int, halo: int) -> Iterator[Span]:
    for first in range(0, size, TILE_LATENTS):
        last = min(first + TILE_LATENTS, size)
        yield max(0, first - halo), min(size, last + halo), first, last


def tiled_analysis(network: Network, pixels: np.ndarray, device: torch.device) -> Tensor:
    """g_a of an image, sides multiples of 64 -> (1, M, H/16, W/16) float32 on `device`, gains not applied.

    pixels: uint8 or uint16, full range, (H, W, 3), or (H, W, 1) for three equal channels.
    """
    halo, s = HALO_LATENTS[network.config.arch.transform], DOWNSAMPLING_Y
    rows, columns = pixels.shape[0] // s, pixels.shape[1] // s
    white = float(np.iinfo(pixels.dtype).max)
    y = torch.empty(1, network.config.M, rows, columns, device=device)
    for r0, r1, top, bottom in _spans(rows, halo):
        for c0, c1, left, right in _spans(columns, halo):
            block = np.array(pixels[r0 * s : r1 * s, c0 * s : c1 * s])
            if block.dtype == np.uint16:  # of which torch knows little
                block = block.astype(np.int32)
            x = torch.from_numpy(block).to(device).permute(2, 0, 1)[None].float().div_(white)
            x = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
            out = network.g_a(x)[:, :, top - r0 : bottom - r0, left - c0 : right - c0]
            y[:, :, top:bottom, left:right] = out
    return y


def tiled_synthesis(
    network: Network,
    y_hat: np.ndarray,
    scale: Tensor,
    device: torch.device,
    *,
    gray: bool = False,
    deep: bool = False,
) -> np.ndarray:
    """g_s of y_hat * scale -> uint8, or uint16 if `deep`, (H, W, 3), or (H, W) if `gray`; clamped and rounded.

    y_hat: int32 (H/16, W/16, M); scale: (1, M, 1, 1), turns its fixed point into what g_s takes. Gray is the mean of
    the three channels, clamped before, rounded after.
    """
    halo, s = HALO_LATENTS[network.config.arch.transform], DOWNSAMPLING_Y
    rows, columns = y_hat.shape[:2]
    dtype = np.uint16 if deep else np.uint8
    white = float(np.iinfo(dtype).max)
    pixels = np.empty((rows * s, columns * s, 1 if gray else 3), dtype)
    for r0, r1, top, bottom in _spans(rows, halo):
        for c0, c1, left, right in _spans(columns, halo):
            block = torch.from_numpy(np.ascontiguousarray(y_hat[r0:r1, c0:c1])).to(device)
            x_hat = network.g_s(block.permute(2, 0, 1)[None].float() * scale)
            x_hat = x_hat[0, :, (top - r0) * s : (bottom - r0) * s, (left - c0) * s : (right - c0) * s]
            out = x_hat.clamp(0, 1)
            out = (out.mean(0, keepdim=True) if gray else out).mul(white).round()
            out = out.to(torch.int32 if deep else torch.uint8).permute(1, 2, 0)
            pixels[top * s : bottom * s, left * s : right * s] = out.cpu().numpy()
    return pixels[:, :, 0] if gray else pixels
