"""Layers that train in another way than autograd would: gradients against those of the formula in float64."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lcodec.cpu._gdn import Gdn
from lcodec.cpu._mixnet import isas
from lcodec.nets.gdn import gdn
from lcodec.nets.layers import GDN, MaskedConv2d, deconv

BF16 = 2.0**-8


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of a against b, relative to the size of b."""
    return float((a.double() - b).norm() / b.norm())


def formula(x, beta, gamma, inverse):
    norm = F.conv2d(x * x, gamma[:, :, None, None], beta)
    return x * (norm.sqrt() if inverse else norm.rsqrt())


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("channels", "shape"), [(96, (2, 13, 17)), (40, (1, 9, 8)), (3, (3, 5, 5)), (8, (2, 99, 97))])
def test_gradients_of_gdn(channels, shape, inverse):
    """Also with more rows than go back at once, and enough for several threads."""
    generator = torch.Generator().manual_seed(1)
    x, grad = torch.randn(2, shape[0], channels, *shape[1:], generator=generator).bfloat16()
    beta = torch.rand(channels, generator=generator) + 0.3
    gamma = torch.rand(channels, channels, generator=generator) * 0.1

    def gradients(function, *arguments):
        arguments = [a.clone().requires_grad_() for a in arguments]
        y = function(*arguments, inverse)
        y.backward(grad.to(y.dtype))
        return [y.detach(), *(a.grad for a in arguments)]

    expected = gradients(formula, x.double(), beta.double(), gamma.double())
    ours = gradients(gdn, x, beta, gamma)
    assert ours[0].dtype == torch.bfloat16 and ours[0].shape == x.shape
    for i, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert error(a, b) < BF16, i


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("inverse", [False, True])
def test_all_kernels_of_gdn_agree(isa, inverse):
    """Also past the last whole run of 64 rows, and with channels that need padding."""
    rng = np.random.default_rng(2)
    for rows, channels in ((64, 32), (77, 40), (200, 96), (1, 1)):
        beta = rng.random(channels, np.float32) + np.float32(0.3)
        gamma = rng.random((channels, channels), np.float32) * np.float32(0.1)
        x, grad = torch.from_numpy(rng.standard_normal((2, rows, channels), np.float32)).bfloat16()
        bits = [v.view(torch.uint16).numpy() for v in (x, grad)]
        kernel = Gdn(beta, gamma, inverse, isa)
        y, grad_x, norms, squares = (np.full((rows, channels), 0xFFFF, np.uint16) for _ in range(4))
        grad_beta = np.ones(channels, np.float32)
        kernel.forward(bits[0], y)
        kernel.backward(*bits, grad_x, grad_beta, norms, squares)
        values = [torch.from_numpy(v).view(torch.bfloat16).double() for v in (y, grad_x, norms, squares)]
        leaves = [v.double().requires_grad_() for v in (x, torch.from_numpy(beta), torch.from_numpy(gamma))]
        out = formula(leaves[0].t()[None, :, :, None], leaves[1], leaves[2], inverse)[0, :, :, 0].t()
        out.backward(grad.double())
        for a, b in (
            (values[0], out.detach()),
            (values[1], leaves[0].grad),
            (torch.from_numpy(grad_beta).double() - 1, leaves[1].grad),
            (values[2].t() @ values[3], leaves[2].grad),
        ):
            assert error(a, b) < BF16, (rows, channels)


def test_gdn_refuses_rows_of_other_shapes():
    kernel = Gdn(np.ones(4, np.float32), np.eye(4, dtype=np.float32), False)
    rows, other = np.zeros((8, 4), np.uint16), np.zeros((7, 4), np.uint16)
    beta = np.zeros(4, np.float32)
    for arrays in ((np.zeros((8, 3), np.uint16), rows), (rows, other)):
        with pytest.raises(ValueError, match="rows are"):
            kernel.forward(*arrays)
    for i in (1, 2, 4, 5):
        arguments = [rows, rows, rows.copy(), beta, rows.copy(), rows.copy()]
        arguments[i] = other
        with pytest.raises(ValueError, match="rows are"):
            kernel.backward(*arguments)
    with pytest.raises(ValueError, match="channels"):
        kernel.backward(rows, rows, rows.copy(), np.zeros(5, np.float32), rows.copy(), rows.copy())


@pytest.mark.parametrize("layer", [deconv(24, 32), deconv(24, 32, 3), deconv(24, 3), GDN(16), GDN(16, inverse=True)])
def test_layers_train_in_bfloat16_as_in_float64(layer):
    channels = getattr(layer, "in_channels", 16)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, channels, 10, 6, generator=generator).bfloat16().to(memory_format=torch.channels_last)

    def gradients(x, amp):
        x = x.clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            y = layer(x)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).bfloat16().to(y.dtype))
        return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]

    ours = gradients(x, True)
    layer.double()
    expected = gradients(x.double(), False)
    layer.float()
    for i, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert error(a, b) < 2 * BF16, i


def test_block_with_stride_stays_within_its_arrays():
    """In a process of its own, which oneDNN's strided 1x1 layer killed on processors with AVX-512 but not AMX."""
    code = """
import torch
from lcodec.nets.layers import ResidualBlockWithStride

block = ResidualBlockWithStride(3, 64)
x = torch.rand(4, 3, 256, 256).to(memory_format=torch.channels_last)
with torch.no_grad():
    expected = block.eval()(x)
for _ in range(8):
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    y.backward(torch.randn_like(y))
    held = [torch.rand(64) for _ in range(200)]
print(float((y - expected).norm() / expected.norm()))
"""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 2 * BF16


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_masked_convolution_is_that_of_the_masked_weights(kernel_size):
    layer = MaskedConv2d(6, 8, kernel_size)
    x = torch.randn(2, 6, 7, 9, generator=torch.Generator().manual_seed(4))
    expected = F.conv2d(x, layer.weight * layer.mask, layer.bias, padding=kernel_size // 2)
    torch.testing.assert_close(layer(x), expected)
    layer(x).square().sum().backward()
    assert not layer.weight.grad[layer.mask == 0].any() and layer.weight.grad[layer.mask == 1].all()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_what_is_freed_is_taken_again_without_new_pages():
    """In a process of its own, for it cannot be undone."""
    code = """
import resource
import numpy as np
from lcodec.train.memory import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        held = [np.ones(2_500_000) for _ in range(4)]  # of a single one glibc learns by itself to keep it
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before, kept = faults(), keep_freed()
faults()
print(kept, before, faults())
"""
    kept, before, after = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert kept == "True" and int(after) < int(before) / 10
