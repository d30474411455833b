"""How far a decoded image is from its original. Every metric is larger for the better of two images.

    psnr         dB over all samples of R, G and B, as CompressAI reports it
    psnr_yuv     dB, (6 PSNR(Y) + PSNR(U) + PSNR(V)) / 8, BT.709 full range, 4:4:4, not rounded
    ms_ssim      0 to 1, Wang, Simoncelli, Bovik 2003, RGB, 11 x 11 window, no padding (pytorch-msssim)
    ms_ssim_db   -10 log10(1 - MS-SSIM)
    ssimulacra2  SSIMULACRA 2.1

A metric that is not defined is None: PSNR of equal images, MS-SSIM of an image with a side below 161 pixels.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Collection

import numpy as np
import torch

from lcodec.bench.schema import METRICS
from lcodec.bench.ssimulacra2 import ssimulacra2
from lcodec.bench.yuv import RGB_TO_YUV

DIGITS = {"psnr": 4, "psnr_yuv": 4, "ms_ssim": 7, "ms_ssim_db": 4, "ssimulacra2": 4}
# Names that --metrics takes; ms-ssim is both of its scales.
CHOICES: dict[str, tuple[str, ...]] = {
    "psnr": ("psnr",),
    "psnr-yuv": ("psnr_yuv",),
    "ms-ssim": ("ms_ssim", "ms_ssim_db"),
    "ssimulacra2": ("ssimulacra2",),
}
MS_SSIM_SMALLEST = 161  # (11 - 1) * 2^4 + 1: the window still fits in the last of five scales


def missing(name: str) -> str | None:
    """Why a metric of METRICS cannot be computed here, None if it can."""
    if name in ("ms_ssim", "ms_ssim_db") and importlib.util.find_spec("pytorch_msssim") is None:
        return "package pytorch-msssim is not installed"
    return None


def is_defined(name: str, height: int, width: int) -> bool:
    """Whether images of this size have the metric at all."""
    return not name.startswith("ms_ssim") or min(height, width) >= MS_SSIM_SMALLEST


def measure(original: np.ndarray, decoded: np.ndarray, names: Collection[str]) -> dict[str, float | None]:
    """The metrics `names` of METRICS for two images, uint8 (H, W, 3), rounded. Raises ValueError for other arrays."""
    for image in (original, decoded):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"metrics need uint8 (height, width, 3), not {image.dtype} {image.shape}")
    if original.shape != decoded.shape:
        raise ValueError(f"the decoded image is {decoded.shape[1]}x{decoded.shape[0]} pixels")
    values: dict[str, float] = {}
    if "psnr" in names:
        values["psnr"] = psnr(original, decoded)
    if "psnr_yuv" in names:
        values["psnr_yuv"] = psnr_yuv(original, decoded)
    if "ms_ssim" in names or "ms_ssim_db" in names:
        values["ms_ssim"] = similarity = ms_ssim(original, decoded)
        values["ms_ssim_db"] = decibel(1 - similarity)
    if "ssimulacra2" in names:
        values["ssimulacra2"] = ssimulacra2(original, decoded)
    return {
        name: round(values[name], DIGITS[name]) if math.isfinite(values[name]) else None
        for name in METRICS
        if name in names
    }


def decibel(error: float) -> float:
    """-10 log10 of an error, inf for none, nan for nan."""
    return -10 * math.log10(error) if error > 0 else math.nan if math.isnan(error) else math.inf


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB over all samples of two uint8 images of the same shape; inf if they are equal."""
    return decibel(float(np.mean((a.astype(np.float64) - b) ** 2)) / 255**2)


def psnr_yuv(a: np.ndarray, b: np.ndarray) -> float:
    """dB, weights 6:1:1; inf if any of the three planes is equal."""
    # The conversion is linear, so that it can be applied to the difference.
    difference = (a.astype(np.float64) - b) @ RGB_TO_YUV.T
    planes = [decibel(float(mse) / 255**2) for mse in np.mean(difference**2, (0, 1))]
    return (6 * planes[0] + planes[1] + planes[2]) / 8


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM over RGB, nan for an image that is too small for it."""
    if min(a.shape[:2]) < MS_SSIM_SMALLEST:
        return math.nan
    import pytorch_msssim

    with torch.inference_mode():
        # Channels last: its convolutions of single channels take a quarter of the time that planes take.
        x, y = (torch.from_numpy(v.astype(np.float32)[None]).permute(0, 3, 1, 2) for v in (a, b))
        return float(pytorch_msssim.ms_ssim(x, y, data_range=255, size_average=True))
