"""Tiles give what one pass over the whole image gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lcodec.nets import ARCHITECTURES, NetConfig, Network
from lcodec.transforms import tiling
from lcodec.transforms.bands import Bands
from lcodec.transforms.torch_backend import TorchTransforms

from .conftest import like_a_picture


def analyse(transforms, pixels):
    """y, float32 (rows, columns, M)"""
    rows, columns = pixels.shape[0] // 16, pixels.shape[1] // 16
    bands = tiling.analyse_bands(transforms, Bands(iter([pixels])), rows, columns)
    return np.concatenate(list(bands))


@pytest.mark.parametrize("name", ["mbt2018-mean", "cheng2020-anchor", "cheng2020-attn", "lc-s"])
def test_tiles_equal_one_pass(name, monkeypatch):
    torch.manual_seed(0)
    network = Network(NetConfig(name, 8, 8)).eval()
    halo = tiling.HALO_LATENTS[ARCHITECTURES[name].transform]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16 * (2 * halo + 9), 16 * (halo + 5), 3), np.uint8)
    y_hat = rng.integers(-500, 500, (pixels.shape[0] // 16, pixels.shape[1] // 16, 8), np.int32)
    scale = np.full(8, 0.05, np.float32)
    like_a_picture(network, torch.from_numpy(y_hat.astype(np.float32) * scale).permute(2, 0, 1)[None])
    transforms = TorchTransforms(network, "cpu", 1)
    y, x_hat = analyse(transforms, pixels), tiling.tiled_synthesis(transforms, y_hat, scale)
    monkeypatch.setattr(tiling, "TILE_LATENTS", 4)
    y_tiled = analyse(transforms, pixels)
    x_hat_tiled = tiling.tiled_synthesis(transforms, y_hat, scale)
    assert np.allclose(y, y_tiled, rtol=0, atol=1e-5 * np.abs(y).max())
    assert np.abs(x_hat.astype(int) - x_hat_tiled.astype(int)).max() <= 1
    assert np.mean((x_hat == 0) | (x_hat == 255)) < 0.05  # clamped pixels would agree whatever the tiles did


@pytest.mark.parametrize("name", ["mbt2018-mean", "cheng2020-anchor", "cheng2020-attn", "lc-s"])
def test_halo_covers_the_receptive_field(name):
    torch.manual_seed(0)
    network = Network(NetConfig(name, 4, 4)).eval()
    halo = tiling.HALO_LATENTS[ARCHITECTURES[name].transform]
    side = 2 * (halo + 2) + 1
    middle = side // 2
    y_hat = torch.randn(1, 4, side, side, requires_grad=True)
    block = slice(16 * middle, 16 * middle + 16)
    network.g_s(y_hat)[:, :, block, block].square().sum().backward()
    seen = y_hat.grad[0].abs().sum(0).nonzero()
    assert int((seen - middle).abs().max()) <= halo
    x = torch.rand(1, 3, 16 * side, 16 * side, requires_grad=True)
    network.g_a(x)[:, :, middle, middle].square().sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero().float() / 16
    assert float(seen.min()) >= middle - halo and float(seen.max()) < middle + 1 + halo
