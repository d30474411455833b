"""BD-rate and PSNR by cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy", reason="extra 'bench' is not installed")

from lcodec.bench.bdrate import bd_rate
from lcodec.bench.rd import curve, jpeg, measure, psnr

BPP = np.array([0.1, 0.25, 0.5, 0.9, 1.4])
DB = np.array([27.5, 30.4, 33.6, 37.0, 39.8])


def test_scaling_all_rates_is_that_many_per_cent():
    assert bd_rate(BPP, DB, 0.8 * BPP, DB).percent == pytest.approx(-20)
    assert bd_rate(BPP, DB, 1.5 * BPP[::-1], DB[::-1]).percent == pytest.approx(50)
    assert bd_rate(BPP, DB, BPP, DB).percent == pytest.approx(0)


def test_common_range_is_used_and_reported():
    bd = bd_rate(BPP, DB, 0.9 * BPP[1:4], DB[1:4])
    assert (bd.low, bd.high) == (30.4, 37.0)
    assert bd.percent == pytest.approx(-10, abs=0.2)


def test_curves_without_a_common_range_have_no_bd_rate():
    assert math.isnan(bd_rate(BPP, DB, BPP, DB + 20).percent)
    with pytest.raises(ValueError, match="two points"):
        bd_rate(BPP, DB, [1.0], [30.0])


def test_psnr_of_a_known_error():
    a = np.full((4, 5, 3), 100, np.uint8)
    assert psnr(a, a + 1) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(a, a) == math.inf


def test_jpeg_curve_rises(photo):
    points = curve(list(measure("jpeg-444", "", jpeg, [("photo", photo)], (20.0, 60.0, 90.0))))
    assert all(a[1] < b[1] and a[2] < b[2] for a, b in zip(points, points[1:], strict=False))
