"""Latents searched for one image: `--effort`. The decoder knows nothing of it.

    effort 0   y, z -> round                                   what the networks and the coder do by themselves
    slide      gradient steps on y and z as real numbers        error and bits fall together, before anything is rounded
    sga        gradient steps through a random rounding         Yang, Bamler, Mandt 2020, arXiv 2006.04240
    anneal     integers move where error plus bits get less     `rdoq`

What is made small is bits + lmbda * 255^2 * pixels * mean squared error, both in bits, or for a model that was trained
so bits + lmbda * pixels * (1 - MS-SSIM), for the lmbda that the quality was trained with. Slices are searched one after
the other, in the order of the file, so memory is that of one slice and what it sees of its neighbours. Slices with a
side below MIN_MS_SSIM_PX stay as they are in a model for MS-SSIM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lcodec.decoder import Slice
from lcodec.entropy._intnet import LATENT_BITS
from lcodec.nets.config import DOWNSAMPLING_Y, LAMBDAS, table_lambda
from lcodec.nets.similarity import MIN_MS_SSIM_PX, ms_ssim
from lcodec.transforms.tiling import Box
from lcodec.weights import ModelFile

from .plans import Plan, plan_of
from .proxy import Distortion, ProxyAt, counted_pixels
from .rdoq import anneal
from .sga import stochastic_annealing

SLIDE_RATE = 0.05  # step of Adam, in quantisation steps
GAIN_STEP = 1.2
# Along their own curves our models trade bits for error at 1.0 to 1.3 times the lmbda that they were trained with; with
# that one as it is, a search moves away from the quality that was asked for, and saves less; see DESIGN.md.
STEEPER = 1.3


class Refinement:
    """The search for one picture, slice by slice in the order of the file.

    at: the model at the quality. picture: what the decoder shall show, uint8 or uint16, (H, W, 3) or (H, W, 1). y_hat:
    what the picture codes to without search, int32 (H/16, W/16, M) with the model's fraction bits. lmbda: of the
    quality. effort: 1 to 9. seen: bool (H, W), where squared errors count, everywhere if None; MS-SSIM looks
    everywhere. On a CPU the same on every run with the same versions and number of threads; a GPU does not always sum
    gradients in one order.
    """

    def __init__(
        self,
        at: ProxyAt,
        picture: np.ndarray,
        y_hat: np.ndarray,
        lmbda: float,
        effort: int,
        seen: np.ndarray | None = None,
    ) -> None:
        self.at, self.picture, self.seen = at, picture, seen
        metric = at.proxy.file.metric
        # `rdoq` needs a curvature, which is there for squared errors only
        self.plan = plan_of(effort, at.proxy.kind == "context" or metric != "mse")
        self.weight = error_weight(metric, lmbda)
        self.y_hat = y_hat.astype(np.float32) * np.float32(2.0**-at.proxy.entropy.fy)

    def of_slice(
        self, block: Slice, y: np.ndarray, z: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Latents that cost less, as the coder takes them: int32 with LATENT_BITS fraction bits.

        y: float32 (h, w, M), scaled by the gain; z: float32 (h / 4, w / 4, N), None for the factorized family.
        """
        _, y0, x0, h, w = block
        device = self.at.proxy.device
        distortion = self._distortion(block)
        if not distortion.defined:
            return _fixed(to_torch(y, device)), None if z is None else _fixed(to_torch(z, device))
        generator = torch.Generator(device).manual_seed(block.number)
        better, z_better = _search(
            self.at,
            distortion,
            to_torch(y, device),
            None if z is None else to_torch(z, device),
            self.plan,
            generator,
        )
        # the neighbours that follow see it
        self.y_hat[y0 : y0 + h, x0 : x0 + w] = better[0].permute(1, 2, 0).cpu().numpy()
        return _fixed(better), None if z_better is None else _fixed(z_better)

    def _distortion(self, block: Slice) -> Distortion:
        _, y0, x0, h, w = block
        near, counted = counted_pixels(block, *self.y_hat.shape[:2], *self.picture.shape[:2])
        surroundings = to_torch(self.y_hat[near.top : near.bottom, near.left : near.right], self.at.proxy.device)
        inside = Box(y0 - near.top, y0 + h - near.top, x0 - near.left, x0 + w - near.left)
        surroundings[:, :, inside.top : inside.bottom, inside.left : inside.right] = 0
        rows, columns = slice(counted.top, counted.bottom), slice(counted.left, counted.right)
        offset = counted.top - DOWNSAMPLING_Y * near.top, counted.left - DOWNSAMPLING_Y * near.left
        seen = None if self.seen is None else self.seen[rows, columns]
        return Distortion(self.at, self.picture[rows, columns], surroundings, inside, offset, self.weight, seen)


def _search(
    at: ProxyAt, distortion: Distortion, y: Tensor, z: Tensor | None, plan: Plan, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """y and z that round to better integers."""
    if plan.slide:
        y, z = slide(at, distortion, y, z, plan.slide)
    if plan.sga:
        y, z = stochastic_annealing(at, distortion, y, z, plan.sga, generator)
    if plan.anneal:
        z = None if z is None else torch.round(z - at.medians) + at.medians
        y = anneal(at, distortion, y, z, plan.anneal, generator)
    return y, z


def slide(
    at: ProxyAt, distortion: Distortion, y: Tensor, z: Tensor | None, steps: int
) -> tuple[Tensor, Tensor | None]:
    """Gradient steps on y and z as if they were not rounded; few, for what rounding costs is not in their cost."""
    y = y.clone(memory_format=torch.channels_last).requires_grad_()
    z = None if z is None else z.clone().requires_grad_()
    free = [y] if z is None else [y, z]
    optimizer = torch.optim.Adam(free, lr=SLIDE_RATE, betas=(0.9, 0.99), fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = SLIDE_RATE * (1 - 0.8 * step / steps)
        density = at.density(z, y)
        cost = distortion(y) + at.total_bits(y - density.means, density)
        if z is not None:
            cost = cost + at.bits_z(z).sum()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
    return y.detach(), None if z is None else z.detach()


def error_weight(metric: str, lmbda: float) -> float:
    """Bits that a unit of error is worth in each pixel, the samples of which are in [0, 1]."""
    return lmbda if metric == "ms-ssim" else lmbda * 255**2


def similarity_error(picture: np.ndarray, shown: np.ndarray) -> float:
    """1 - MS-SSIM of two pictures of one size and type, uint8 or uint16, (H, W, C) or (H, W); 0 of small ones."""
    if min(picture.shape[:2]) < MIN_MS_SSIM_PX:
        return 0.0
    white, shape = float(np.iinfo(picture.dtype).max), (*picture.shape[:2], -1)
    x, x_hat = (torch.from_numpy(p.reshape(shape) / np.float32(white)).permute(2, 0, 1)[None] for p in (picture, shown))
    return 1 - float(ms_ssim(x, x_hat))


def search_lmbda(file: ModelFile, quality: float) -> float | None:
    """What our own models really trade at a quality; None for one of another program."""
    lmbda = known_lmbda(file, quality)
    return lmbda if lmbda is None or file.metric != "mse" else STEEPER * lmbda


def known_lmbda(file: ModelFile, quality: float) -> float | None:
    """What a model was trained with at a quality; None for one of another program, which does not say."""
    if file.metric not in LAMBDAS:
        return None
    options = file.card.get("options")
    if isinstance(options, Mapping):
        lmbda = options.get("lmbda") or table_lambda(quality, file.metric)
        # A card is for people: nobody has checked what stands there.
        return float(lmbda) if isinstance(lmbda, int | float) and 0 < lmbda < math.inf else None
    return table_lambda(quality, file.metric) if len(file.qualities) > 1 else None


def own_lmbda(at: ProxyAt, picture: np.ndarray, block: Slice, y: np.ndarray, z: np.ndarray | None) -> float | None:
    """lmbda of a model that does not tell it: the slope of its own rate and distortion, for one slice.

    A little more and a little less gain move along a curve that touches the model's best one, where bits fall by
    lmbda * 255^2 for each unit of pixels * MSE, or lmbda for each unit of pixels * (1 - MS-SSIM). y, z: as for
    `Refinement.of_slice`. None where there is no such slope, as in one colour, or too few pixels.
    """
    _, y0, x0, h, w = block
    s, (height, width) = DOWNSAMPLING_Y, picture.shape[:2]
    pixels = picture[s * y0 : min(height, s * (y0 + h)), s * x0 : min(width, s * (x0 + w))]
    y_plain = to_torch(y, at.proxy.device)
    distortion = Distortion(at, pixels, torch.zeros_like(y_plain), Box(0, h, 0, w), (0, 0), 1.0)
    if not distortion.defined:
        return None
    points = []
    with torch.no_grad():
        for factor in (1 / GAIN_STEP, GAIN_STEP):
            y_scaled = y_plain * factor
            bits_z, z_hat = 0.0, None
            if z is not None:
                z_hat = at.proxy.network.hyper_analyse(y_scaled)
                z_hat = torch.round(z_hat - at.medians) + at.medians
                bits_z = float(at.bits_z(z_hat).sum())
            density = at.density(z_hat, y_scaled)
            v = torch.round(y_scaled - density.means)
            bits = float(at.bits(v, density).sum()) + bits_z
            points.append((bits, float(distortion((v + density.means) / factor))))
    (less, coarser), (more, finer) = points
    if not (more > less and coarser > finer):
        return None
    return (more - less) / (coarser - finer) / error_weight(at.proxy.file.metric, 1.0)


def _fixed(v: Tensor) -> np.ndarray:
    """(1, C, h, w) -> int32 (h, w, C) with LATENT_BITS fraction bits."""
    scaled = v[0].permute(1, 2, 0).cpu().double().mul(2.0**LATENT_BITS).round()  # not all devices know float64
    return np.ascontiguousarray(scaled.clamp(-(2.0**30), 2.0**30).to(torch.int32).numpy())


def to_torch(v: np.ndarray, device: torch.device) -> Tensor:
    """float32 (h, w, C) -> (1, C, h, w), channels last in memory; a copy."""
    return torch.from_numpy(v.copy()).to(device).permute(2, 0, 1)[None]
