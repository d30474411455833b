"""MS-SSIM with a gradient, for training and for the search of latents; `bench.metrics` measures without torch."""

from __future__ import annotations

import torch
from torch import Tensor

from lcodec.errors import UsageError

MIN_MS_SSIM_PX = 161  # five scales under a window of 11


def ms_ssim(x: Tensor, x_hat: Tensor) -> Tensor:
    """MS-SSIM of each image (Wang et al. 2003), (B,); both (B, C, H, W) in [0, 1], float32, sides over 160 pixels.

    Raises UsageError where the package for it is missing.
    """
    try:
        from pytorch_msssim import ms_ssim as measure  # extra "train"
    except ImportError as e:
        raise UsageError("MS-SSIM needs the package pytorch-msssim", "pip install pytorch-msssim") from e
    with torch.autocast(x.device.type, enabled=False):
        return measure(x_hat.float(), x.float(), data_range=1.0, size_average=False)
