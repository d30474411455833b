"""Targets: a size, bits per pixel or a PSNR instead of a quality."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import lcodec
from lcodec import container
from lcodec.bench.metrics import psnr
from lcodec.cli import cli
from lcodec.codec import Codec
from lcodec.codec import psnr as psnr_of_seen
from lcodec.errors import UsageError
from lcodec.image import Picture
from lcodec.limits import parse_size
from lcodec.search.target import Target, make_target, search

LOW, HIGH = 128, 1024


@pytest.mark.parametrize(
    "text, size",
    [
        ("200kB", 200_000),
        ("200k", 200_000),
        ("1.5MiB", 3 << 19),
        (" 2 MB ", 2_000_000),
        ("0.5KiB", 512),
        ("1GB", 10**9),
        ("65536", 65536),
        ("12b", 12),
        (".5k", 500),
    ],
)
def test_sizes_are_read_as_they_are_written(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "kB", "-3kB", "3 apples", "1e5", "3i", "3iB", "1.2.3", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_target_that_nothing_meets_is_refused(value):
    with pytest.raises(UsageError, match="must be positive"):
        make_target(bpp=value)


def test_two_targets_are_refused():
    with pytest.raises(UsageError, match="one target is enough: target bpp and target psnr"):
        make_target(bpp=1.0, psnr=30)
    assert make_target() is None


# Sizes that rise by 0.05 to 2 % a step of quality, more at one end, as real ones do, and fall now and then.
curves = st.tuples(st.floats(0.0005, 0.02), st.floats(-1, 1), st.floats(0, 0.004), st.floats(50, 1e6))


def sizes_of(curve: tuple[float, float, float, float]) -> np.ndarray:
    slope, bend, dip, scale = curve
    x = np.linspace(0, 1, HIGH - LOW + 1)
    level = slope * (HIGH - LOW) * (x + bend * x * (1 - x))
    return np.round(scale * np.exp(level - dip * np.floor(13.7 * x)))


@given(curves, st.floats(0, 1))
def test_search_finds_a_size_next_to_the_target_in_few_evaluations(curve, part):
    sizes = sizes_of(curve)
    target = Target("size", float(sizes[0] + part * (sizes[-1] - sizes[0])))
    found = search(lambda code: sizes[code - LOW], float, target, LOW, HIGH)
    assert found.trial == sizes[found.code - LOW] <= target.value
    near = found.trial >= 0.995 * target.value
    assert near or sizes[found.code + 1 - LOW] > target.value
    assert found.evaluations <= 16


@given(st.floats(20, 32), st.floats(0.004, 0.02), st.floats(0.02, 0.98))
def test_search_finds_a_psnr_just_above_the_target(first, slope, part):
    levels = first + slope * np.arange(HIGH - LOW + 1)
    goal = float(levels[0] + part * (levels[-1] - levels[0]))
    found = search(lambda code: levels[code - LOW], float, Target("psnr", goal), LOW, HIGH)
    assert goal <= found.trial <= goal + max(0.03, slope)
    assert found.evaluations <= 8


@pytest.mark.parametrize(
    "kind, value, message",
    [
        ("size", 2000.0, "2000 bytes cannot be reached: the most .* is 1024 bytes, at quality 8"),
        ("size", 100.0, "100 bytes cannot be reached: the least .* is 128 bytes, at quality 1"),
        ("psnr", 2000.0, "2000.000 dB cannot be reached: the most .* is 1024.000 dB, at quality 8"),
        ("psnr", 10.0, "10.000 dB cannot be reached: the least .* is 128.000 dB, at quality 1"),
    ],
)
def test_unreachable_target_names_the_nearest_reachable(kind, value, message):
    with pytest.raises(UsageError, match=message):
        search(lambda code: code, float, Target(kind, value), LOW, HIGH)


@pytest.fixture(scope="module")
def codec(models) -> Codec:
    return Codec(models["mbt2018-mean"], "cpu", 1)


@pytest.fixture(scope="module")
def reach(codec, photo) -> tuple[int, int]:
    """Sizes at the lowest and the highest quality."""
    return len(codec.encode(photo, 1.0).data), len(codec.encode(photo, 8.0).data)


@pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
def test_file_is_within_a_percent_below_its_target_size(codec, photo, reach, part):
    size = int(reach[0] + part * (reach[1] - reach[0]))
    result = codec.encode(photo, target=Target("size", size))
    assert 0.99 * size <= len(result.data) <= size
    assert result.evaluations <= 8
    header = container.read_header(result.data)
    assert header.quality == result.quality
    # nothing of the search is in the file
    assert codec.encode(photo, result.quality).data == result.data
    decoded = codec.decode(result.data)
    assert decoded.digest == result.y_hat_digest
    assert np.array_equal(decoded.pixels, result.reconstruction())


def test_bits_per_pixel_are_within_a_percent_below_their_target(codec, photo, reach):
    pixels = photo[:300, :500]
    bpp = 8 * 0.6 * reach[1] / (photo.shape[0] * photo.shape[1])
    got = 8 * len(codec.encode(pixels, target=Target("bpp", bpp)).data) / (300 * 500)
    assert 0.99 * bpp <= got <= bpp


def test_psnr_is_just_above_its_target(photo):
    """With the shipped model: the pictures of random ones do not get better with quality."""
    codec = Codec(Path(__file__).parents[1] / "models" / "mbt2018-mean.safetensors", "cpu", 1)
    pixels = photo[:200, :300]
    low, high = (psnr(codec.encode(pixels, q).reconstruction(), pixels) for q in (1.0, 8.0))
    goal = 0.4 * low + 0.6 * high
    result = codec.encode(pixels, target=Target("psnr", goal))
    assert goal <= psnr(codec.decode(result.data).pixels, pixels) <= 1.01 * goal


def test_psnr_of_a_target_is_that_of_what_can_be_seen(photo):
    """With the shipped model: the filled part, which costs next to nothing, would count for most of it."""
    codec = Codec(Path(__file__).parents[1] / "models" / "mbt2018-mean.safetensors", "cpu", 1)
    pixels, alpha = photo[:128, :192], np.zeros((128, 192), np.uint8)
    alpha[20:84, 30:94] = 1
    alpha[20:52, 30:94] = 255
    seen = alpha > 0

    def shown(shown_pixels: np.ndarray) -> float:
        return psnr(shown_pixels[seen], pixels[seen])

    low, high = (shown(codec.encode(Picture(pixels, alpha), q).reconstruction()) for q in (1.0, 8.0))
    goal = 0.5 * (low + high)
    result = codec.encode(Picture(pixels, alpha), target=Target("psnr", goal))
    assert goal <= shown(codec.decode(result.data).pixels) <= 1.02 * goal


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_psnr_counts_the_pixels_that_are_seen(shape):
    a, b = (np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8) for seed in (1, 2))
    seen = np.arange(35).reshape(5, 7) % 3 == 0
    assert psnr_of_seen(a, b, seen) == pytest.approx(psnr(a[seen], b[seen]))
    assert psnr_of_seen(a, b) == pytest.approx(psnr(a, b))
    assert psnr_of_seen(np.where(seen.reshape(5, 7, *[1] * (a.ndim - 2)), a, b), a, seen) == math.inf


def test_picture_of_which_nothing_is_seen_has_a_psnr(codec, photo):
    hidden = Picture(photo[:64, :64], np.zeros((64, 64), np.uint8))
    with pytest.raises(UsageError, match="cannot be reached: the least"):
        codec.encode(hidden, target=Target("psnr", 0.001))


def test_search_gets_past_qualities_without_any_error():
    found = search(lambda code: math.inf if code > 540 else code / 20, float, Target("psnr", 26.0), LOW, HIGH)
    assert 26 <= found.trial <= 26.1


def test_analysis_runs_once(codec, photo, monkeypatch):
    calls = []
    analyse = codec._encoding.analyse
    monkeypatch.setattr(codec._encoding, "analyse", lambda *arguments: calls.append(1) or analyse(*arguments))
    assert codec.encode(photo, target=Target("bpp", 1.0)).evaluations > 1
    assert len(calls) == 1


def test_encode_takes_a_quality_or_a_target(codec, photo):
    with pytest.raises(UsageError, match="do not go together"):
        codec.encode(photo, 3.0, target=Target("bpp", 1.0))
    with pytest.raises(UsageError, match="need a quality or a target"):
        codec.encode(photo)


def test_model_of_one_quality_reaches_that_one_only(photo, tmp_path):
    from lcodec import weights
    from lcodec.finalize.assemble import finalize_network

    from .conftest import random_network

    path = tmp_path / f"one{weights.SUFFIX}"
    network = random_network("mbt2018-mean", qualities=(0.0,))
    weights.save(finalize_network(network, {}, [photo[:128, :128]]).model, path)
    codec = Codec(path, "cpu", 1)
    size = len(codec.encode(photo[:64, :64], 0.0).data)
    assert len(codec.encode(photo[:64, :64], target=Target("size", size)).data) == size
    for wrong in (size / 2, size * 2):
        with pytest.raises(UsageError, match=f"is {size} bytes, at quality 0"):
            codec.encode(photo[:64, :64], target=Target("size", wrong))


def test_public_function_takes_targets(model_file, photo, reach):
    size = (reach[0] + reach[1]) // 2
    data = lcodec.encode(photo, model_file, target_size=f"{size}B", device="cpu", threads=1)
    assert 0.99 * size <= len(data) <= size
    with pytest.raises(UsageError, match="do not go together"):
        lcodec.encode(photo, model_file, 3.0, target_bpp=1.0, device="cpu", threads=1)


def run(*args: object) -> object:
    return CliRunner().invoke(cli, ["encode", "--threads", "1", *map(str, args)])


def test_command_says_which_quality_it_took(model_file, photo, reach, tmp_path):
    PIL.Image.fromarray(photo).save(tmp_path / "a.png")
    size = (reach[0] + reach[1]) // 2
    result = run("--model", model_file, "--json", "--target-size", size, tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert 0.99 * size <= record["bytes"] == (tmp_path / "a.lic").stat().st_size <= size
    assert record["quality"] == container.read_header((tmp_path / "a.lic").read_bytes()).quality
    assert record["evaluations"] > 1


@pytest.mark.parametrize(
    "options, message",
    [
        (["--target-size", "3 apples"], "'3 apples' is no size"),
        (["--target-bpp", "1", "--target-psnr", "30"], "one target is enough"),
        (["--target-bpp", "1", "-q", "3"], "a quality and a target do not go together"),
        (["--target-bpp", "0"], "must be positive"),
        (["--target-bpp", "90"], "90.0000 bpp cannot be reached: the most that this image takes is"),
    ],
)
def test_command_refuses_targets_that_cannot_be(model_file, photo, tmp_path, options, message):
    PIL.Image.fromarray(photo[:64, :64]).save(tmp_path / "a.png")
    result = run("--model", model_file, *options, tmp_path / "a.png")
    assert message in result.output
    assert result.exit_code == 2
    assert not (tmp_path / "a.lic").exists()
