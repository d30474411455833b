"""The parts of `make bench-speed` and `bench-growth`: what they compute, not how long it takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lcodec.bench import growth, limit, peaks
from lcodec.bench.large import Run
from lcodec.bench.random_models import random_model
from lcodec.codec import Codec


@pytest.mark.parametrize("name", ["mbt2018", "mbt2018-mean"])
def test_random_models_code_about_as_many_bits_as_trained_ones(name, photo, tmp_path):
    path, _ = random_model(name, 16, 16, photo, tmp_path)
    codec = Codec(path, "cpu", 1)
    pixels = photo[:256, :256]
    coded = codec.encode(pixels, 0.0)
    assert 0.2 < 8 * len(coded.data) / pixels[:, :, 0].size * 192 / 16 < 4  # as with 192 channels
    assert codec.decode(coded.data).digest == coded.y_hat_digest


def test_flops_are_two_for_each_product_of_a_convolution():
    layer = torch.nn.Conv2d(3, 5, 3, padding=1)
    assert peaks.flops(layer, torch.zeros(1, 3, 8, 10)) == 2 * 3 * 5 * 9 * 80


def test_peaks_are_found_and_threads_left_as_they_were(monkeypatch):
    monkeypatch.setattr(peaks, "SIDE", 64)
    before = torch.get_num_threads()
    found = peaks.gemm_peaks(before + 1)
    assert found["float32"] > 0 and found["bfloat16"] > 0
    assert torch.get_num_threads() == before


def test_what_compressai_says_stands_in_its_column_when_it_fails(tmp_path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    broken = tmp_path / "python"
    broken.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'raise ImportError(\"no such thing\")'\n")
    broken.chmod(0o755)
    assert limit.compressai_pair(broken, "mbt2018", 8, 8, pixels, 1) == "ImportError: no such thing"
    broken.write_text("#!/bin/sh\necho '[0.5, 0.25]'\n")
    assert limit.compressai_pair(broken, "mbt2018", 8, 8, pixels, 1) == "CompressAI 0.5 / 0.25 s"


def test_table_has_a_line_for_each_row():
    rows = [limit.Row("a", "1 s", "2 s"), limit.Row("b", "3 s", "4 s", "AVIF 5 s")]
    lines = limit.markdown(rows, "said below").splitlines()
    assert lines[2:] == ["| a | 1 s | 2 s |  |", "| b | 3 s | 4 s | AVIF 5 s |", "", "said below"]


def test_line_goes_through_points_that_lie_on_one():
    start, slope, worst = growth.line_through([0.01, 1, 100], [0.3001, 0.31, 1.3])
    assert (start, slope) == (pytest.approx(0.3), pytest.approx(0.01))
    assert worst < 1e-9
    assert growth.line_through([1, 10, 100], [1.0, 10.0, 50.0])[2] > 0.1


def test_growth_runs_whole_commands(monkeypatch, tmp_path):
    calls = []

    def run(*arguments: object) -> Run:
        calls.append(arguments)
        return Run(float(len(calls)), 1.0, 2**20 * len(calls))

    monkeypatch.setattr(growth, "run", run)
    monkeypatch.setattr(growth, "make_image", lambda path, megapixels: (200, 300))
    growth.main(["--megapixels", "0.06", "--threads", "1", "--out", str(tmp_path / "out")], standalone_mode=False)
    assert [call[0] for call in calls] == ["encode"] * 3 + ["decode"] * 3
    taken = json.loads((tmp_path / "out" / "growth.json").read_text())
    assert [(t["direction"], t["seconds"], t["peak_mib"]) for t in taken] == [("encode", 2, 2), ("decode", 5, 5)]
    assert Path(tmp_path / "out" / "growth.svg").read_text().count("svg") > 1
