"""Widening: a wider network that takes over a narrower one begins by computing the same."""

from __future__ import annotations

import pytest
import torch

from lcodec import weights
from lcodec.checkpoint import network_of_model
from lcodec.nets import ARCHITECTURES, NetConfig, Network
from lcodec.train.initialize import transfer

from .conftest import random_network


@pytest.mark.parametrize("name", ["bmshj2018-hyperprior", "mbt2018-mean"])
def test_wider_network_begins_with_the_narrow_ones_scales_and_means(name):
    torch.manual_seed(0)
    narrow, wide = Network(NetConfig(name, 6, 8)).eval(), Network(NetConfig(name, 6, 12)).eval()
    assert set(transfer(wide, narrow.state_dict())) == set(wide.state_dict())
    z_hat = torch.randn(1, 6, 2, 2)
    with torch.no_grad():
        old, new = narrow.h_s(z_hat), wide.h_s(z_hat)
        x = torch.rand(1, 3, 64, 64)
        y_old, y_new = narrow.g_a(x), wide.g_a(x)
        wide_y = torch.cat((y_old, torch.zeros(1, 4, 4, 4)), 1)
        assert torch.allclose(wide.g_s(wide_y), narrow.g_s(y_old), atol=1e-5)
    assert torch.allclose(y_new[:, :8], y_old, atol=1e-5)
    for part in range(1 if name == "bmshj2018-hyperprior" else 2):
        assert torch.allclose(new[:, 12 * part : 12 * part + 8], old[:, 8 * part : 8 * part + 8], atol=1e-5)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_finalized_model_can_be_trained_further(name, models):
    """Its network is the one that was finalized, but for weights of 8 bits."""
    original, reopened = random_network(name), network_of_model(weights.load(models[name]))
    torch.manual_seed(0)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before, after = original(x, 8.0), reopened(x, 8.0)
    assert torch.equal(before.x_hat, after.x_hat) or torch.allclose(before.x_hat, after.x_hat, atol=0.05)
    assert abs(float(after.bits() / before.bits()) - 1) < 0.02
