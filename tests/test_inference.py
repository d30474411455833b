"""The prepared layers and the GDN in C give what the modules of lcodec.nets give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lcodec.cpu import _mixnet
from lcodec.cpu._gdn import Gdn
from lcodec.errors import UsageError
from lcodec.nets import ARCHITECTURES, NetConfig, Network
from lcodec.transforms.inference import prepare

SQUARES = 2.0**-8  # relative error of squares, gamma and so of the norm, in bfloat16


def normalised(x: np.ndarray, beta: np.ndarray, gamma: np.ndarray, inverse: bool) -> np.ndarray:
    root = np.sqrt(beta + np.square(x, dtype=np.float64) @ gamma.T.astype(np.float64))
    return x * root if inverse else x / root


@pytest.mark.parametrize("isa", _mixnet.isas())
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (3000, 24), (130, 32), (64, 80)])
@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_agrees_with_its_formula(rows, channels, inverse, isa):
    rng = np.random.default_rng(rows)
    x, added = rng.normal(0, 3, (2, rows, channels)).astype(np.float32)
    gamma = rng.uniform(0, 0.2, (channels, channels)).astype(np.float32)
    beta = rng.uniform(1e-6, 1, channels).astype(np.float32)
    expected = normalised(x, beta, gamma, inverse)
    kernel = Gdn(beta, gamma, inverse, isa)
    alone, both, threaded = x.copy(), x.copy(), x.copy()
    kernel.apply(alone)
    kernel.apply(both, added)
    kernel.apply(threaded, threads=3)
    np.testing.assert_allclose(alone, expected, rtol=SQUARES)
    np.testing.assert_allclose(both, alone + added, rtol=1e-5, atol=1e-5)
    assert (threaded == alone).all()


def test_gdn_refuses_what_does_not_fit():
    kernel = Gdn(np.ones(4, np.float32), np.eye(4, dtype=np.float32), False)
    for wrong in (np.ones((2, 5), np.float32), np.ones((2, 4))):
        with pytest.raises(ValueError, match="rows are"):
            kernel.apply(wrong)
    with pytest.raises(ValueError, match="rows are"):
        kernel.apply(np.ones((2, 4), np.float32), np.ones((3, 4), np.float32))
    with pytest.raises(ValueError, match="gamma is"):
        Gdn(np.ones(4, np.float32), np.ones((4, 3), np.float32), False)
    with pytest.raises(UsageError, match="not available"):
        Gdn(np.ones(4, np.float32), np.eye(4, dtype=np.float32), False, "none")


@pytest.mark.parametrize("isa", ["plain", _mixnet.isas()[-1]])
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.inference_mode()
def test_prepared_networks_agree_with_their_modules(name, isa, monkeypatch):
    monkeypatch.setenv("LCODEC_FLOAT_ISA", isa)
    torch.manual_seed(1)
    network = Network(NetConfig(name, 24, 24)).eval().channels_last()
    parts = [(network.g_a, torch.rand(1, 3, 128, 192)), (network.g_s, torch.randn(1, 24, 6, 10))]
    if network.config.arch.has_hyperprior:
        parts.append((network.h_a, torch.randn(1, 24, 8, 12)))
    for module, x in parts:
        x = x.contiguous(memory_format=torch.channels_last)
        before = x.clone()
        actual, expected = prepare(module, 1)(x), module(x)
        assert (x == before).all()  # what the caller has stays as it is
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() < 0.002 * (expected - expected.mean()).abs().max()


@torch.inference_mode()
def test_narrow_lc_s_by_torch_agrees_with_its_modules():
    """Few channels beside many latents: its transposed convolution is 3x3, not one to be taken for phases of 5x5."""
    torch.manual_seed(1)
    network = Network(NetConfig("lc-s", 32, 192)).eval()
    y = torch.randn(1, 192, 4, 4)
    torch.testing.assert_close(prepare(network.g_s, 1)(y.clone()), network.g_s(y), rtol=1e-4, atol=1e-4)
