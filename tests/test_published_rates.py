"""models/results.csv: its rows are those of the shipped models, and have what these are said to reach.

Numbers that a test finds too weak are measured anew (`make bench FOLDER=kodak`), never the test.
"""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np
import pytest

from lcodec import weights
from lcodec.bench.bdrate import bd_rate
from lcodec.nets import ARCHITECTURES

pytest.importorskip("scipy")  # extra "bench"

Curve = tuple[np.ndarray, np.ndarray]  # bpp and PSNR in dB, means over the images, by quality
MODELS = sorted(ARCHITECTURES)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with open(weights.shipped_folder() / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def curves(rows) -> dict[str, Curve]:
    points: dict[str, dict[float, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        bpp = 8 * int(row["bytes"]) / (int(row["width"]) * int(row["height"]))
        points[row["codec"]][float(row["quality"])].append((bpp, float(row["psnr"])))
    assert {len(images) for curve in points.values() for images in curve.values()} == {24}  # of the Kodak set
    means = {codec: np.array([np.mean(curve[q], 0) for q in sorted(curve)]) for codec, curve in points.items()}
    return {codec: (mean[:, 0], mean[:, 1]) for codec, mean in means.items()}


def against(curve: Curve, anchor: Curve) -> float:
    """Per cent of bits at equal PSNR."""
    return bd_rate(*anchor, *curve).percent


@pytest.mark.parametrize("model", MODELS)
def test_rows_are_of_the_shipped_model(model, rows):
    file = weights.shipped_folder() / f"{model}.safetensors"
    assert {row["model_id"] for row in rows if row["codec"] == model} == {weights.info(file).id[:16]}


@pytest.mark.parametrize("model", MODELS)
def test_every_quality_needs_fewer_bits_than_jpeg(model, curves):
    jpeg_bpp, jpeg_psnr = curves["jpeg-444"]
    bpp, psnr = curves[model]
    assert len(bpp) == 8 and (np.diff(bpp) > 0).all() and (np.diff(psnr) > 0).all()
    assert jpeg_psnr[0] < psnr[0] and psnr[-1] < jpeg_psnr[-1]  # so that nothing is compared beyond a curve's ends
    assert (bpp < np.exp(np.interp(psnr, jpeg_psnr, np.log(jpeg_bpp)))).all()


@pytest.mark.parametrize("model", [m for m in MODELS if m not in ("bmshj2018-factorized", "lc-s")])
def test_hyperpriors_and_context_models_need_fewer_bits_than_webp(model, curves):
    assert against(curves[model], curves["webp"]) < 0


def test_lc_s_needs_a_tenth_fewer_bits_than_avif_and_a_quarter_fewer_than_jpeg_xl(curves):
    assert against(curves["lc-s"], curves["avif"]) < -10
    assert against(curves["lc-s"], curves["jxl"]) < -25
