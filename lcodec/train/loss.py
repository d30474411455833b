"""Rate-distortion loss, its metrics, and the lambdas of the qualities."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from lcodec.nets import Network, Output
from lcodec.nets.config import LAMBDAS
from lcodec.nets.similarity import ms_ssim

if TYPE_CHECKING:
    from .options import Options

METRICS = tuple(LAMBDAS)
MIDDLE = {"mse": 0.013, "ms-ssim": 16.64}  # quality 4, the one that weights between qualities leave alone


class _MeanSquare(torch.autograd.Function):
    """Mean of (x_hat - x)^2 over each image, in fewer passes over the pixels than autograd would find.

    x_hat may be bfloat16; the difference is float32, and the gradient keeps the memory order of x_hat.
    """

    @staticmethod
    def forward(ctx, x_hat: Tensor, x: Tensor) -> Tensor:
        difference = torch.sub(x_hat, x)
        ctx.save_for_backward(difference)
        ctx.dtype = x_hat.dtype
        flat = difference.permute(0, 2, 3, 1).flatten(1)
        return torch.linalg.vector_norm(flat, dim=1).square() / flat.shape[1]

    @staticmethod
    def backward(ctx, grad: Tensor):
        (difference,) = ctx.saved_tensors
        factor = (2 * grad / difference[0].numel())[:, None, None, None]
        if torch.compiler.is_compiling():  # which makes one pass of it by itself
            return (difference * factor).to(ctx.dtype), None
        return torch.mul(difference, factor, out=torch.empty_like(difference, dtype=ctx.dtype)), None


def mean_square(x_hat: Tensor, x: Tensor) -> Tensor:
    """Mean of (x_hat - x)^2 over each image, (B,) float32; both (B, C, H, W), no gradient for x, which is float32."""
    result: Tensor = _MeanSquare.apply(x_hat, x)
    return result


def rate_distortion(
    x: Tensor, out: Output, lmbda: Tensor, metric: str = "mse"
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Loss, bpp, MSE in [0, 1]^2 and, if that is the metric, MS-SSIM of each image, each (B,).

    The loss is lmbda * 255^2 * MSE + bpp or lmbda * (1 - MS-SSIM) + bpp. x (B, 3, H, W) in [0, 1]; lmbda (B,).
    """
    bpp = out.bits() / (x.shape[2] * x.shape[3])
    mse = mean_square(out.x_hat if metric == "mse" else out.x_hat.detach(), x)
    if metric == "mse":
        return lmbda * 255**2 * mse + bpp, bpp, mse, None
    similarity = ms_ssim(x, out.x_hat)
    return lmbda * (1 - similarity) + bpp, bpp, mse, similarity


def psnr(mse: Tensor) -> Tensor:
    """dB, of MSE in [0, 1]^2."""
    return -10 * torch.log10(mse.clamp_min(1e-10))


class Losses(NamedTuple):
    """What one step needs, scalars: the weighted loss to minimise; means of bpp, PSNR in dB and MS-SSIM, or nothing."""

    loss: Tensor
    bpp: Tensor
    psnr: Tensor | None
    ms_ssim: Tensor | None


class Objective(nn.Module):
    """From crops to the loss, as one module, so that it can be compiled or distributed as a whole.

    rate_only: the distortion is a constant, because nothing that changes it is trained, and is left out.
    """

    def __init__(self, network: Network, options: Options, rate_only: bool) -> None:
        super().__init__()
        self.network, self.options, self.rate_only = network, options, rate_only

    def forward(self, x: Tensor, levels: Tensor, lmbda: Tensor) -> Losses:
        """x (B, 3, H, W) in [0, 1]; levels, lmbda (B,): the quality of each image and its lambda."""
        o = self.options
        with torch.autocast(x.device.type, torch.bfloat16, enabled=o.amp):
            if self.rate_only:
                out = Output(x, *self.network.latents(x, levels, o.mode)[1:])
            else:
                out = self.network(x, levels, mode=o.mode)
        loss, bpp, mse, similarity = rate_distortion(x, out, lmbda, "mse" if self.rate_only else o.metric)
        weighted = (loss * (lmbda / MIDDLE[o.metric]) ** -o.rate_balance).mean()
        if self.rate_only:
            return Losses(weighted, bpp.detach().mean(), None, None)
        level = psnr(mse.detach()).mean()
        return Losses(weighted, bpp.detach().mean(), level, None if similarity is None else similarity.detach().mean())
