"""Generalised divisive normalisation for training in bfloat16 on a CPU, by csrc/lc_gdn.c.

What autograd makes of the formula goes over all of x a dozen times, here a few rows at a time go through all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from lcodec.cpu._gdn import Gdn
from lcodec.cpu._mixnet import default_isa

T = TypeVar("T")
ROWS = 16384  # at once on the way back
ROWS_PER_THREAD = 1024  # at least


def suits(x: Tensor, gamma: Tensor) -> bool:
    """Whether `gdn` is for these, and faster than the formula: for that the processor needs kernels of its own."""
    if x.dtype != torch.bfloat16 or gamma.dtype != torch.float32 or x.dim() != 4 or x.device.type != "cpu":
        return False
    return torch.is_grad_enabled() and default_isa() != "plain"


def _bits(x: Tensor) -> NDArray[np.uint16]:
    """The memory of a bfloat16 tensor."""
    return x.detach().view(torch.uint16).numpy()


def _on_all_threads(work: Callable[[slice], T], rows: int) -> list[T]:
    """What `work` returns for parts of so many rows, in their order."""
    parts = min(torch.get_num_threads(), rows // ROWS_PER_THREAD + 1)
    edges = [rows * i // parts for i in range(parts + 1)]
    slices = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
    if parts == 1:
        return [work(slices[0])]
    with ThreadPoolExecutor(parts) as pool:
        return list(pool.map(work, slices))


def _part_of_backward(kernel: Gdn, arrays: list[Tensor], norms: Tensor, squares: Tensor) -> NDArray[np.float32]:
    """arrays: x, the gradient of y and that of x. Returns the gradient of beta, (C,)."""

    def work(part: slice) -> NDArray[np.float32]:
        grad_beta = np.zeros(norms.shape[1], np.float32)
        kernel.backward(*(_bits(a[part]) for a in arrays), grad_beta, _bits(norms[part]), _bits(squares[part]))
        return grad_beta

    return np.sum(_on_all_threads(work, len(arrays[0])), axis=0)


class _RowGDN(torch.autograd.Function):
    """x bfloat16 (rows, C), beta (C,) and gamma (C, C) float32."""

    @staticmethod
    def forward(ctx, x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool) -> Tensor:
        ctx.save_for_backward(x)
        kernel = ctx.kernel = Gdn(beta.numpy(), gamma.numpy(), inverse)
        y = torch.empty_like(x)
        _on_all_threads(lambda part: kernel.forward(_bits(x[part]), _bits(y[part])), len(x))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        kernel, grad = ctx.kernel, grad.contiguous()
        grad_x = torch.empty_like(x)
        grad_beta = np.zeros(x.shape[1], np.float32)
        grad_gamma = torch.zeros(x.shape[1], x.shape[1])
        norms, squares = x.new_empty(2, min(ROWS, len(x)), x.shape[1])
        for start in range(0, len(x), ROWS):
            n = min(ROWS, len(x) - start)
            grad_beta += _part_of_backward(kernel, [a[start : start + n] for a in (x, grad, grad_x)], norms, squares)
            grad_gamma += norms[:n].t() @ squares[:n]
        return grad_x, torch.from_numpy(grad_beta), grad_gamma, None


@torch.compiler.disable
def gdn(x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool) -> Tensor:
    """x / sqrt(beta + gamma x^2), or x * sqrt(..) if `inverse`, over the channels of x, bfloat16 (B, C, H, W) -> same.

    beta (C,) and gamma (C, C), float32, positive. x is copied unless it is channels-last.
    """
    rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).contiguous()
    y: Tensor = _RowGDN.apply(rows, beta, gamma, inverse)
    return y.view(x.shape[0], x.shape[2], x.shape[3], x.shape[1]).permute(0, 3, 1, 2)
