"""SSIMULACRA 2.1, a full-reference metric tuned on 17611 opinions about compressed images (Sneyers, 2022 and 2023).

Written from the description and constants of the reference program, `ssimulacra2` of libjxl (BSD 3-Clause, Jon Sneyers,
Cloudinary), and tested against numbers that it printed. The Python package of that name was measured first and is not
used: it is off by up to 6 points at low qualities and 1 at high ones, for it blurs with another kernel and borders.

    both images, linear light -> at 6 scales: XYB -> blurred means, variances, covariance
        -> per channel: 1 - SSIM (structure), edges that are new (ringing), edges that are gone (blur)
        -> mean and 4-norm of each: 108 numbers -> weighted sum -> 100 (equal) down to below 0
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = 6
SMALLEST = 8  # pixels of a side below which a scale is not looked at
SIGMA = 1.5
C2 = 0.0009

OPSIN = ((0.30, 0.622, 0.078), (0.23, 0.692, 0.078), (0.24342268924547819, 0.20476744424496821, 0.5518098665095536))
OPSIN_BIAS = 0.0037930732552754493

# (channel X Y B, scale, norm mean/4-norm, map SSIM/ringing/blur); those that are not here are 0.
WEIGHTS = np.zeros(108)
for _position, _value in (
    (1, 0.0007376606707406586), (4, 0.0007793481682867309), (7, 0.0004371155730107379), (9, 1.1041726426657346),
    (10, 0.00066284834129271), (11, 0.00015231632783718752), (13, 0.0016406437456599754), (15, 1.8422455520539298),
    (16, 11.441172603757666), (18, 0.0007989109436015163), (19, 0.000176816438078653), (21, 1.8787594979546387),
    (22, 10.94906990605142), (24, 0.0007289346991508072), (25, 0.9677937080626833), (27, 0.00014003424285435884),
    (28, 0.9981766977854967), (29, 0.00031949755934435053), (30, 0.0004550992113792063), (33, 0.0013648766163243398),
    (39, 7.466890328078848), (41, 17.445833984131262), (42, 0.0006235601634041466), (45, 6.683678146179332),
    (46, 0.00037724407979611296), (47, 1.027889937768264), (48, 225.20515300849274), (51, 19.213238186143016),
    (52, 0.0011401524586618361), (53, 0.001237755635509985), (54, 176.39317598450694), (57, 24.43300999870476),
    (58, 0.28520802612117757), (59, 0.0004485436923833408), (63, 34.77906344483772), (64, 44.835625328877896),
    (73, 0.0008680556573291698), (79, 0.0005313191874358747), (81, 0.00016533814161379112),
    (87, 0.0004179171803251336), (88, 0.0017290828234722833), (90, 0.0020827005846636437), (93, 8.826982764996862),
    (94, 23.19243343998926), (96, 95.1080498811086), (97, 0.9863978034400682), (98, 0.9834382792465353),
    (99, 0.0012286405048278493), (100, 171.2667255897307), (101, 0.9807858872435379), (105, 0.0005130064588990679),
    (107, 0.00010854057858411537),
):  # fmt: skip
    WEIGHTS[_position] = _value


def ssimulacra2(original: np.ndarray, distorted: np.ndarray) -> float:
    """The score of a distorted image: uint8 (H, W, 3) sRGB, both; nan if a side is below 8 pixels.

    100 equal, 90 not told apart side by side, 70 high, 50 medium, 30 low quality, below 0 very low. Not symmetric.
    """
    if original.shape != distorted.shape or original.ndim != 3 or original.shape[2] != 3:
        raise ValueError(f"images of shape {original.shape} and {distorted.shape} cannot be compared")
    if min(original.shape[:2]) < SMALLEST:
        return float("nan")
    if np.array_equal(original, distorted):
        return 100.0  # rounding would make it 99.99
    norms = []
    with torch.inference_mode():
        a, b = linear_light(original), linear_light(distorted)
        for scale in range(SCALES):
            if min(a.shape[2:]) < SMALLEST:
                break
            if scale:
                a, b = halve(a), halve(b)
            norms.append(compare(positive_xyb(a), positive_xyb(b)))
    # The weights are used up in order: a small image with fewer scales meets those of another channel, as in libjxl.
    values = np.stack(norms).transpose(1, 0, 2, 3).reshape(-1)  # (scale, channel, norm, map) -> channel first
    return score(float((WEIGHTS[: values.size] * values).sum()))


def linear_light(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) sRGB -> float32 (1, 3, H, W), 0 to 1.

    Channels last in memory, in which torch's convolutions of single channels are three times as fast.
    """
    return torch.from_numpy(_srgb_table()[pixels][None]).permute(0, 3, 1, 2)


@lru_cache(maxsize=1)
def _srgb_table() -> np.ndarray:
    v = np.arange(256) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4).astype(np.float32)


def halve(x: Tensor) -> Tensor:
    """(1, 3, h, w) -> (1, 3, ceil(h / 2), ceil(w / 2)), means of 2 x 2; odd sides repeat their last row or column."""
    h, w = x.shape[2:]
    return F.avg_pool2d(F.pad(x, (0, w % 2, 0, h % 2), mode="replicate"), 2)


def positive_xyb(linear: Tensor) -> Tensor:
    """(1, 3, h, w) -> XYB of the same shape, shifted and scaled so that SSIM sees positive numbers."""
    mixed = F.conv2d(linear, torch.tensor(OPSIN, dtype=linear.dtype)[:, :, None, None]) + OPSIN_BIAS
    long, medium, short = (mixed.clamp_min(0) ** (1 / 3) - OPSIN_BIAS ** (1 / 3)).unbind(1)
    x, y = (long - medium) / 2, (long + medium) / 2
    xyb = torch.stack([x * 14 + 0.42, y + 0.01, short - y + 0.55], 1)
    return xyb.contiguous(memory_format=torch.channels_last)


def compare(a: Tensor, b: Tensor) -> np.ndarray:
    """(1, 3, h, w), original and distorted -> float64 (channel, norm, map)."""
    mean_a, mean_b, square_a, square_b, product = (blur(x) for x in (a, b, a * a, b * b, a * b))
    luminance = 1 - (mean_a - mean_b) ** 2
    structure = 2 * (product - mean_a * mean_b) + C2
    contrast = (square_a - mean_a * mean_a) + (square_b - mean_b * mean_b) + C2
    edges = (1 + (b - mean_b).abs()) / (1 + (a - mean_a).abs()) - 1
    norms = []
    for error in (1 - luminance * structure / contrast, edges, -edges):
        error = error.clamp_min(0)
        first = error.mean((0, 2, 3), dtype=torch.float64)
        fourth = (error * error).square().mean((0, 2, 3), dtype=torch.float64) ** 0.25
        norms.append(torch.stack([first, fourth], 1))
    return torch.stack(norms, 2).numpy()


def blur(x: Tensor) -> Tensor:
    """(1, 3, h, w) blurred; zero outside of the image."""
    channels = x.shape[1]
    kernel = blur_kernel().to(x.dtype).expand(channels, 1, 1, -1)
    reach = kernel.shape[3] // 2
    x = F.conv2d(x, kernel.contiguous(), padding=(0, reach), groups=channels)
    return F.conv2d(x, kernel.transpose(2, 3).contiguous(), padding=(reach, 0), groups=channels)


@lru_cache(maxsize=1)
def blur_kernel() -> Tensor:
    """float64 (9,): the sum of three truncated cosines that libjxl blurs with in place of a Gaussian.

    Charalampidis, "Recursive implementation of the Gaussian filter using truncated cosine functions", 2016: the
    numbers in brackets are its equations. Its recursion has this finite response.
    """
    radius = round(3.2795 * SIGMA + 0.2546)  # (57)
    k = np.array([1, 3, 5])
    omega = k * math.pi / (2 * radius)  # (37)
    sign = np.array([1, -1, 1])
    p = sign / np.tan(omega / 2)
    r = sign * p**2 / np.sin(omega)  # (44)
    rho = np.exp(-0.5 * (SIGMA * omega) ** 2) / radius  # (50)
    d13, d35, d51 = (p[i] * r[j] - r[i] * p[j] for i, j in ((0, 1), (1, 2), (2, 0)))
    zeta = np.array([d35 / d13, d51 / d13, 1])  # (52)
    beta = np.linalg.solve(np.stack([p, r, zeta]), [1, radius**2 - SIGMA**2, float(zeta @ rho)])
    taps = np.arange(1 - radius, radius)  # at +-radius the cosines are 0
    return torch.from_numpy(beta @ np.cos(omega[:, None] * taps))


def score(error: float) -> float:
    """The weighted sum of 108 norms -> 100 downwards."""
    error *= 0.9562382616834844
    error = 2.326765642916932 * error - 0.020884521182843837 * error**2 + 6.248496625763138e-05 * error**3
    return 100 - 10 * error**0.6276336467831387 if error > 0 else 100.0
