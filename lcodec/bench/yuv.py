"""ITU-R BT.709, full range, 4:4:4. No torch."""

from __future__ import annotations

import numpy as np

_KR, _KG, _KB = 0.2126, 0.7152, 0.0722
# Rows Y, U (Cb), V (Cr); a gray image has U = V = 0.
RGB_TO_YUV = np.array(
    [
        [_KR, _KG, _KB],
        [-_KR / (2 - 2 * _KB), -_KG / (2 - 2 * _KB), 0.5],
        [0.5, -_KG / (2 - 2 * _KR), -_KB / (2 - 2 * _KR)],
    ]
)
OFFSET = np.array([0.0, 128.0, 128.0])


def to_yuv(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> uint8 YUV (H, W, 3)."""
    return np.clip(np.rint(pixels.astype(np.float64) @ RGB_TO_YUV.T + OFFSET), 0, 255).astype(np.uint8)


def to_rgb(yuv: np.ndarray) -> np.ndarray:
    """uint8 YUV (H, W, 3) -> uint8 RGB (H, W, 3)."""
    rgb = (yuv.astype(np.float64) - OFFSET) @ np.linalg.inv(RGB_TO_YUV).T
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
