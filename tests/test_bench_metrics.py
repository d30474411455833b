"""Metrics against numbers that other programs gave for the same images, and against arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lcodec.bench import metrics
from lcodec.bench.metrics import measure, psnr, psnr_yuv
from lcodec.bench.ssimulacra2 import blur_kernel, ssimulacra2
from lcodec.bench.yuv import to_rgb, to_yuv


def coarse(pixels: np.ndarray) -> np.ndarray:
    """Few levels."""
    return pixels // 32 * 32 + 16


def blocks(pixels: np.ndarray) -> np.ndarray:
    """Means of 4 x 4, for sizes that are multiples of 4; the rest repeats them."""
    h, w = pixels.shape[:2]
    means = pixels[: h // 4 * 4, : w // 4 * 4].reshape(h // 4, 4, w // 4, 4, 3).astype(int).sum((1, 3)) // 16
    large = np.repeat(np.repeat(means, 4, 0), 4, 1).astype(np.uint8)
    return np.pad(large, ((0, h % 4), (0, w % 4), (0, 0)), mode="edge")


def shifted(pixels: np.ndarray) -> np.ndarray:
    """Another colour."""
    return np.clip(pixels.astype(int) + [6, -4, 9], 0, 255).astype(np.uint8)


DISTORTIONS = {"coarse": coarse, "blocks": blocks, "shifted": shifted}


@pytest.mark.parametrize(
    ("distortion", "score", "small_score"),
    [
        ("coarse", 36.66057582, -44.38412817),
        ("blocks", 41.29212127, 18.91143537),
        ("shifted", 80.18652772, 81.15820289),
    ],
)
def test_ssimulacra2_is_what_the_reference_program_prints(photo, distortion, score, small_score):
    """`ssimulacra2` of libjxl 0.11.2. Its own single precision is good for some hundredths."""
    for crop, expected in ((photo[100:292, 200:472], score), (photo[120:160, 300:365], small_score)):
        assert ssimulacra2(crop, DISTORTIONS[distortion](crop)) == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize(
    ("distortion", "similarity"), [("coarse", 0.966751), ("blocks", 0.927776), ("shifted", 0.999593)]
)
def test_ms_ssim_is_what_another_implementation_gives(photo, distortion, similarity):
    """`piq.multi_scale_ssim` 0.8, for a size that is halved without rest."""
    pytest.importorskip("pytorch_msssim")
    crop = photo[100:292, 200:472]
    values = measure(crop, DISTORTIONS[distortion](crop), ["ms_ssim", "ms_ssim_db"])
    assert values["ms_ssim"] == pytest.approx(similarity, abs=5e-6)
    assert values["ms_ssim_db"] == pytest.approx(-10 * math.log10(1 - similarity), abs=0.01)


def test_ms_ssim_of_flat_images_is_their_luminance_term():
    """Contrast and structure are 1 there, and the last scale alone has luminance, to the power of its weight."""
    pytest.importorskip("pytorch_msssim")
    a, b = (np.full((176, 176, 3), v, np.uint8) for v in (100, 130))
    c1 = (0.01 * 255) ** 2
    expected = ((2 * 100 * 130 + c1) / (100**2 + 130**2 + c1)) ** 0.1333
    # contrast is 1 but for single precision
    assert measure(a, b, ["ms_ssim"])["ms_ssim"] == pytest.approx(expected, abs=1e-4)


def test_psnr_of_a_known_error():
    a = np.full((4, 5, 3), 100, np.uint8)
    assert psnr(a, a + 1) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(a, a) == math.inf
    b = a.copy()
    b[0, 0, 0] = 110  # one sample of 60
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 / (100 / 60)))


def test_psnr_yuv_of_a_known_error():
    """BT.709: one step of red is 0.2126 of luma, and 0.5 of Cr, and 0.2126 / 1.8556 of Cb."""
    a = np.full((4, 5, 3), 100, np.uint8)
    b = a.copy()
    b[..., 0] += 1
    planes = [20 * math.log10(255 / step) for step in (0.2126, 0.2126 / 1.8556, 0.5)]
    assert psnr_yuv(a, b) == pytest.approx((6 * planes[0] + planes[1] + planes[2]) / 8)


def test_yuv_of_primaries_and_back(photo):
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert to_yuv(colours)[0].tolist() == [
        [0, 128, 128], [255, 128, 128], [54, 99, 255], [182, 30, 12], [18, 255, 116]
    ]  # fmt: skip
    assert np.abs(to_rgb(to_yuv(photo)).astype(int) - photo).max() <= 2


def test_metrics_that_are_not_defined_are_none(photo):
    tiny = photo[:7, :20]
    assert measure(tiny, tiny, ["psnr", "ssimulacra2"]) == {"psnr": None, "ssimulacra2": None}
    assert measure(photo[:160, :200], photo[:160, :200], ["ms_ssim"]) == {"ms_ssim": None}


def test_equal_images_are_best(photo):
    crop = photo[:176, :176]
    assert ssimulacra2(crop, crop) == 100
    values = measure(crop, crop, list(metrics.DIGITS))
    assert (values["psnr"], values["psnr_yuv"], values["ms_ssim_db"]) == (None, None, None)


def test_other_sizes_and_types_are_refused(photo):
    with pytest.raises(ValueError, match="decoded image is 20x30"):
        measure(photo[:30, :30], photo[:30, :20], ["psnr"])
    with pytest.raises(ValueError, match="uint8"):
        measure(photo, photo.astype(np.float32), ["psnr"])


def test_blur_is_normalised_and_symmetric():
    kernel = blur_kernel().numpy()
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert np.allclose(kernel, kernel[::-1])
    variance = float((kernel * np.arange(-4, 5) ** 2).sum())
    assert variance == pytest.approx(1.5**2, rel=1e-9)
