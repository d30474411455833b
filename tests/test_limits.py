"""Limits: what a file may ask for. On by default, adjustable everywhere, refused by name before memory is taken."""

from __future__ import annotations

import io
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import lcodec
import lcodec.decoding
import lcodec.pillow
from lcodec import cli, container, decoder
from lcodec.codec import Codec
from lcodec.errors import LimitExceeded, StreamError, UsageError
from lcodec.image import Picture
from lcodec.limits import NO_LIMITS, Limits
from tests.conftest import less_memory_than


@pytest.fixture(scope="module")
def codec(model_file):
    return Codec(model_file, "cpu", 1)


@pytest.fixture(scope="module")
def data(codec, photo):
    """300 x 70 pixels, two slices, ICC of 5000 bytes that compress well."""
    return codec.encode(Picture(photo[:70, :300], icc=b"abcd" * 1250), 2.0, slice_log2=4).data


# What each limit is set to, and what the message says.
EXCEEDED = {
    "pixels": (20_999, "image of 300x70 pixels is above the limit of 20999 pixels by 1"),
    "memory": (20_000, "bytes of memory is above the limit of 20000 bytes of memory by"),
    "seconds": (1e-9, "is above the limit of 1e-09 seconds"),
    "ratio": (2, "to one, is above the limit of 2 to one by"),
}


@pytest.mark.parametrize("name", EXCEEDED)
def test_what_exceeds_a_limit_is_refused_by_name(name, codec, data):
    limit, message = EXCEEDED[name]
    limits = Limits(**{name: limit})
    for use in (codec.decode, lambda d, limits: decoder.digest(d, limits=limits), lcodec.decode):
        with pytest.raises(LimitExceeded, match=re.escape(message)) as caught:
            use(data, limits=limits)
        assert f"LCODEC_LIMITS={name}=" in caught.value.hint


def test_metadata_beyond_its_limit_is_refused(codec, data):
    for use in (codec.decode, lambda d, limits: decoder.digest(d, limits=limits)):
        with pytest.raises(LimitExceeded, match="metadata takes more than the 4999 bytes"):
            use(data, limits=Limits(metadata=4999))
    assert codec.decode(data, limits=Limits(metadata=5000)).picture.icc == b"abcd" * 1250


def latents_of(codec) -> int:
    """Bytes: two bands of one row of slices, and a slice that is being decoded."""
    return 2 * 4 * 8 * 20 * codec.config.M + 8 * 16 * codec.entropy.bytes_per_latent


def needed(codec, data: bytes, **how) -> int:
    """The least memory with which a file is not refused, as errors say it."""
    least = 1
    while True:
        try:
            codec.decode(data, limits=Limits(memory=least), **how)
        except LimitExceeded as error:
            least = int(error.hint.rsplit("=", 1)[1].split()[0])
        else:
            return least


def test_memory_counts_slices_in_work_and_rows_of_alpha(codec, photo):
    pixels = photo[:70, :300]
    plain, large = (codec.encode(pixels, 2.0, slice_log2=n).data for n in (4, 5))
    alpha = codec.encode(Picture(pixels, alpha=np.full((70, 300), 7, np.uint8)), 2.0, slice_log2=4).data
    assert needed(codec, plain) == 300 * 70 * 3 + latents_of(codec)
    assert needed(codec, large) - needed(codec, plain) == (8 * 20 - 8 * 16) * codec.entropy.bytes_per_latent
    corner = (0, 0, 10, 10)
    assert needed(codec, alpha, region=corner) - needed(codec, plain, region=corner) == 4 * 300 + 10 * 10
    with pytest.raises(LimitExceeded):
        codec.decode(alpha, region=corner, limits=Limits(memory=needed(codec, alpha, region=corner) - 1))


def test_time_of_alpha_above_a_region_is_looked_at(codec, photo, monkeypatch):
    picture = Picture(photo[:70, :300], alpha=np.full((70, 300), 7, np.uint8))
    data = codec.encode(picture, 2.0, slice_log2=4).data
    every = lcodec.decoding.alpha_rows

    def slow(*arguments):
        for row in every(*arguments):
            time.sleep(0.01)
            yield row

    monkeypatch.setattr(lcodec.decoding, "alpha_rows", slow)
    with pytest.raises(LimitExceeded, match="decoding of alpha"):
        codec.decode(data, region=(0, 60, 10, 10), limits=Limits(seconds=0.3))


def test_limits_that_are_just_enough_change_nothing(codec, data):
    picture = codec.decode(data).picture
    most = 300 * 70 * 3 + latents_of(codec)
    exact = Limits(pixels=300 * 70, memory=most, metadata=5000, ratio=300 * 70 * 3 / len(data))
    assert np.array_equal(codec.decode(data, limits=exact).pixels, picture.pixels)
    for tighter in (replace(exact, memory=most - 1), replace(exact, ratio=300 * 70 * 3 / len(data) - 0.01)):
        with pytest.raises(LimitExceeded):
            codec.decode(data, limits=tighter)


def test_bands_and_regions_need_less(codec, data):
    little = Limits(memory=latents_of(codec))
    with pytest.raises(LimitExceeded):
        codec.decode(data, limits=little)
    assert sum(len(band) for band in codec.decode_bands(data, limits=little)) == 70
    assert codec.decode(data, region=(0, 0, 10, 10), limits=Limits(pixels=100)).pixels.shape == (10, 10, 3)


def test_without_limits_everything_goes(codec, data):
    assert codec.decode(data, limits=NO_LIMITS).pixels.shape == (70, 300, 3)


def test_time_is_that_of_the_stage_and_looked_at_between_slices(codec, data, monkeypatch):
    slow = type(codec.entropy).decode_slice

    def decode_slice(*arguments):
        time.sleep(0.03)
        return slow(*arguments)

    monkeypatch.setattr(type(codec.entropy), "decode_slice", decode_slice)
    with pytest.raises(LimitExceeded, match="entropy decoding that has taken"):
        codec.decode(data, limits=Limits(seconds=0.01))


def test_time_of_synthesis_is_looked_at(codec, data, monkeypatch):
    fast = codec.transforms.synthesise

    def synthesise(*arguments, **named):
        time.sleep(0.05)
        return fast(*arguments, **named)

    monkeypatch.setattr(codec.transforms, "synthesise", synthesise)
    seen: dict[str, float] = {}
    monkeypatch.setattr(Limits, "check_seconds", lambda self, stage, seconds: seen.update({stage: seconds}))
    codec.decode(data)
    assert seen["synthesis"] >= 0.05 and seen["entropy decoding"] > 0
    monkeypatch.undo()
    with pytest.raises(LimitExceeded, match="synthesis that has taken"):
        Limits(seconds=0.5).check_seconds("synthesis", 0.51)


def bomb(codec, side: int, slice_log2: int) -> bytes:
    """What is large in it is said by 31 bytes; its slices are there, and nothing is in them."""
    header = container.Header(side, side, codec.file.stream_id, 256, slice_log2)
    return container.pack(container.Container(header, [b"\0" * 16] * header.slice_count))


@pytest.mark.parametrize(("side", "slice_log2", "name"), [(16_000, 4, "pixels"), (13_000, 11, "ratio")])
def test_bombs_are_refused_by_default_and_need_no_memory(codec, side, slice_log2, name):
    data = bomb(codec, side, slice_log2)
    with less_memory_than(50_000), pytest.raises(LimitExceeded) as caught:  # kB
        codec.decode(data)
    assert f"{name}=" in caught.value.hint


def test_memory_of_enormous_slices_is_refused_by_default(codec):
    """A slice is decoded as a whole: of 2^11 x 2^11 latents, and pixels are held."""
    with pytest.raises(LimitExceeded, match="above the limit of 8589934592 bytes of memory"):
        codec.decode(bomb(codec, 65_536, 11), limits=Limits(pixels=None, ratio=None))


def test_usual_limits_are_those_that_the_readme_tells():
    assert Limits() == Limits(pixels=178_956_970, memory=8 << 30, seconds=3600, metadata=64 << 20, ratio=60_000)


@pytest.mark.parametrize(("gray", "deep", "size"), [(0, 0, 3), (1, 0, 1), (0, 1, 6), (1, 1, 2)])
def test_ratio_counts_the_samples_that_the_image_has(gray, deep, size):
    header = container.Header(100, 50, b"8 bytes.", gray=bool(gray), deep=bool(deep))
    limits = Limits(ratio=10)
    limits.check_ratio(header, 500 * size)
    with pytest.raises(LimitExceeded, match=f"for {5000 * size} bytes of pixels, 11 to one") as caught:
        limits.check_ratio(header, 500 * size - 1)
    assert "cut off" in caught.value.hint  # as most files are that ask for so much


def test_environment_and_settings_are_read(monkeypatch):
    monkeypatch.setenv("LCODEC_LIMITS", "pixels=1e9, memory=16GiB,seconds=none,ratio=2.5")
    limits = Limits.from_environment()
    assert limits == Limits(10**9, 16 << 30, None, 64 << 20, 2.5)
    assert limits.changed(["metadata=1MiB", "pixels=none"]) == Limits(None, 16 << 30, None, 1 << 20, 2.5)


@pytest.mark.parametrize(
    "setting",
    [
        "pixels", "colour=5", "pixels=", "pixels=many", "pixels=-1", "pixels=0.5", "ratio=0", "seconds=5m",
        "memory=nan", f"memory={'9' * 400}kB",
    ],  # fmt: skip
)
def test_setting_that_cannot_be_read_is_a_usage_error(setting, monkeypatch, data, tmp_path):
    with pytest.raises(UsageError):
        Limits().changed([setting])
    path = tmp_path / "a.lic"
    path.write_bytes(data)
    for arguments, environment in ((["--limit", setting], {}), ([], {"LCODEC_LIMITS": setting})):
        for command in ("decode", "info"):
            result = CliRunner().invoke(cli.cli, [command, *arguments, str(path)], env=environment)
            assert result.exit_code == 2, result.output
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", EXCEEDED)
def test_commands_take_limits(name, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.lic").write_bytes(data)
    setting = f"{name}={EXCEEDED[name][0]}"
    for command in (["decode", "a.lic"], ["info", "--digest", "a.lic"]):
        for arguments, environment in ((["--limit", setting], {}), ([], {"LCODEC_LIMITS": setting})):
            result = CliRunner().invoke(cli.cli, [*command, *arguments], env=environment)
            assert result.exit_code == 6 and "above the limit" in result.output
        result = CliRunner().invoke(cli.cli, [*command, "--limit", f"{name}=none"], env={"LCODEC_LIMITS": setting})
        assert result.exit_code == 0, result.output
    assert Path("a.png").exists()


def test_pillow_plugin_takes_limits(data, monkeypatch):
    monkeypatch.setattr(lcodec.pillow.LicImageFile, "limits", Limits(ratio=2))
    with pytest.raises(OSError, match="limit of 2 to one"):
        PIL.Image.open(io.BytesIO(data)).load()
    monkeypatch.setattr(lcodec.pillow.LicImageFile, "limits", Limits(metadata=100))
    with pytest.raises(OSError):
        PIL.Image.open(io.BytesIO(data))
    monkeypatch.setattr(lcodec.pillow.LicImageFile, "limits", None)
    assert PIL.Image.open(io.BytesIO(data)).size == (300, 70)


def test_limit_of_pixels_alone_has_a_short_form(data):
    with pytest.raises(LimitExceeded):
        lcodec.decode(data, max_pixels=100)
    assert issubclass(LimitExceeded, StreamError)
