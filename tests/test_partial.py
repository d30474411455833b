"""A damaged slice loses itself only: the rest is exact, the hole is filled, and everybody is told where it is."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from lcodec import container, decoder
from lcodec.cli import cli
from lcodec.codec import Codec
from lcodec.errors import Corrupt, LimitExceeded, StreamError
from lcodec.image import Picture
from lcodec.limits import Limits
from lcodec.region import slice_region

SLICE_LOG2 = 4


@pytest.fixture(scope="module", params=["bmshj2018-factorized", "mbt2018", "lc-s"])
def coded(request, models, photo):
    codec = Codec(models[request.param], "cpu", 1)
    data = codec.encode(photo[:400, :600], 6.0, slice_log2=SLICE_LOG2).data
    return codec, data, codec.decode(data).pixels


def damage(data: bytes, *numbers: int) -> bytes:
    """A byte changed in the middle of the payload of each of these slices."""
    out = bytearray(data)
    slices = [s for s in container.list_sections(data) if s.type == container.SectionType.SLICE]
    for number in numbers:
        out[(slices[number].offset + slices[number].end) // 2] ^= 0x55
    return bytes(out)


@pytest.mark.parametrize("number", [0, 4, 5])
def test_damaged_slice_changes_only_its_surroundings(coded, number):
    codec, data, whole = coded
    bad = damage(data, number)
    with pytest.raises(Corrupt):
        codec.decode(bad)
    result = codec.decode(bad, allow_partial=True)
    assert result.lost == [slice_region(result.header, number)]
    reach = 16 * codec.transforms.halo
    x, y, width, height = result.lost[0]
    untouched = np.ones(whole.shape[:2], bool)
    untouched[max(0, y - reach) : y + height + reach, max(0, x - reach) : x + width + reach] = False
    assert np.array_equal(result.pixels[untouched], whole[untouched])


def test_fill_is_finite_and_continues_the_surroundings(models, photo):
    """On a plain picture the hole has the colour of what is around it."""
    codec = Codec(models["mbt2018-mean"], "cpu", 1)
    plain = np.broadcast_to(photo[10, 10], photo.shape).copy()
    data = codec.encode(plain, 8.0, slice_log2=SLICE_LOG2).data
    whole = codec.decode(data).pixels.astype(int)
    for numbers in ((4,), (0, 1), (2, 5)):
        filled = codec.decode(damage(data, *numbers), allow_partial=True).pixels.astype(int)
        x, y, width, height = slice_region(container.read_header(data), numbers[0])
        inside = np.s_[y + 64 : y + height - 64, x + 64 : x + width - 64]
        assert np.abs(filled[inside].mean((0, 1)) - whole[inside].mean((0, 1))).max() < 12


def test_latents_of_a_hole_are_the_mean_of_its_border(models, photo):
    codec = Codec(models["mbt2018-mean"], "cpu", 1)
    data = codec.encode(photo, 8.0, slice_log2=SLICE_LOG2).data
    box = container.unpack(damage(data, 4), tolerant=True)
    bands = decoder.LatentBands(box, codec.file, codec.entropy, 1, tolerant=True)
    y_hat = np.concatenate(list(bands))
    side = 1 << SLICE_LOG2
    top, left = side, side  # slice 4 of 2 x 3, which nothing is below of
    bottom, right = min(2 * side, len(y_hat)), 2 * side
    hole = y_hat[top:bottom, left:right]
    border = [y_hat[top:bottom, left - 1], y_hat[top:bottom, right], y_hat[top - 1, left:right]]
    assert (hole == np.rint(np.concatenate(border).mean(0))).all() and np.abs(hole).max() > 1 << codec.entropy.fy


def test_several_damaged_slices_are_all_listed(coded):
    codec, data, _ = coded
    result = codec.decode(damage(data, 1, 3, 4), allow_partial=True)
    assert result.lost == [slice_region(result.header, i) for i in (1, 3, 4)]


def test_slice_that_its_checksum_does_not_betray_is_lost_too(coded):
    """The bytes of another slice under a valid checksum."""
    codec, data, _ = coded
    box = container.unpack(data)
    box.slices[2] = box.slices[0]  # which is wider
    wrong = container.pack(box)
    with pytest.raises(StreamError):
        codec.decode(wrong)
    result = codec.decode(wrong, allow_partial=True)
    assert result.lost == [slice_region(result.header, 2)]


def test_truncated_file_gives_what_it_still_holds(coded):
    codec, data, whole = coded
    sections = [s for s in container.list_sections(data) if s.type == container.SectionType.SLICE]
    result = codec.decode(data[: sections[3].offset + 5], allow_partial=True)
    assert result.lost == [slice_region(result.header, i) for i in (3, 4, 5)]
    reach = 16 * codec.transforms.halo
    if reach < 256:
        assert np.array_equal(result.pixels[: 256 - reach], whole[: 256 - reach])


def test_damage_outside_of_a_region_is_not_listed(coded):
    codec, data, _ = coded
    bad = damage(data, 0)
    assert codec.decode(bad, region=(580, 390, 9, 9), allow_partial=True).lost == []
    assert codec.decode(bad, region=(250, 100, 20, 9), allow_partial=True).lost != []


def test_sound_file_is_whole_with_the_option(coded):
    codec, data, whole = coded
    result = codec.decode(data, allow_partial=True)
    assert result.lost == [] and np.array_equal(result.pixels, whole)


def test_file_without_an_intact_slice_is_corrupt(coded):
    codec, data, _ = coded
    with pytest.raises(Corrupt, match="nothing is left"):
        codec.decode(damage(data, *range(6)), allow_partial=True)


def test_command_fills_says_where_and_exits_with_3(models, photo, tmp_path):
    codec = Codec(models["lc-s"], "cpu", 1)
    data = codec.encode(photo, 6.0, slice_log2=SLICE_LOG2).data
    path = tmp_path / "a.lic"
    path.write_bytes(damage(data, 4))
    options = ["decode", "--device", "cpu", "--threads", "1", str(path)]
    out = CliRunner().invoke(cli, options)
    assert out.exit_code == 6 and not (tmp_path / "a.png").exists()
    out = CliRunner().invoke(cli, [*options, "--allow-partial"])
    assert out.exit_code == 3
    assert "256,256,256,176" in out.stderr and "a.png was written" in out.stderr
    assert PIL.Image.open(tmp_path / "a.png").size == (768, 432)
    out = CliRunner().invoke(cli, [*options, "--allow-partial", "--force", "--json"])
    assert out.exit_code == 3
    record = json.loads(out.stdout)
    assert record["lost"] == [[256, 256, 256, 176]] and record["exit_code"] == 3
    path.write_bytes(data)
    assert CliRunner().invoke(cli, [*options, "--allow-partial", "--force"]).exit_code == 0


def test_what_a_format_loses_is_told_of_a_partial_picture_too(models, photo, tmp_path):
    codec = Codec(models["lc-s"], "cpu", 1)
    picture = Picture(photo[:300, :300], np.full((300, 300), 128, np.uint8))
    path = tmp_path / "a.lic"
    path.write_bytes(damage(codec.encode(picture, 6.0, slice_log2=SLICE_LOG2).data, 1))
    options = ["decode", "--device", "cpu", "--threads", "1", "--allow-partial", str(path), "-o"]
    told = CliRunner().invoke(cli, [*options, str(tmp_path / "a.jpg")])
    assert told.exit_code == 3 and "lcodec: warning: " in told.stderr and "alpha" in told.stderr
    quiet = CliRunner().invoke(cli, [*options, str(tmp_path / "b.jpg"), "--quiet"])
    assert quiet.exit_code == 3 and "warning" not in quiet.stderr


def test_region_and_partial_decoding_keep_gray_depth_and_alpha(models, photo):
    codec = Codec(models["lc-s"], "cpu", 1)
    gray = photo[:300, :400, 1].astype(np.uint16) * 257
    alpha = np.tile(np.arange(400, dtype=np.uint16) * 150, (300, 1))
    data = codec.encode(Picture(gray, alpha, exif=b"II*\0"), 8.0, slice_log2=SLICE_LOG2).data
    whole = codec.decode(data).picture
    part = codec.decode(data, region=(33, 44, 300, 200)).picture
    assert part.mode == "LA" and part.deep and part.exif == b"II*\0"
    assert np.array_equal(part.alpha, alpha[44:244, 33:333])
    assert np.abs(part.pixels.astype(int) - whole.pixels[44:244, 33:333]).max() <= 257
    result = codec.decode(damage(data, 3), allow_partial=True)
    assert np.array_equal(result.picture.alpha, alpha) and len(result.lost) == 1 and not result.alpha_lost
    section = next(s for s in container.list_sections(data) if s.type == container.SectionType.ALPHA)
    bad = bytearray(data)
    bad[(section.offset + section.end) // 2] ^= 1
    with pytest.raises(Corrupt):
        codec.decode(bytes(bad))
    result = codec.decode(bytes(bad), allow_partial=True)
    assert result.alpha_lost and result.lost == [] and result.picture.alpha is None
    assert np.array_equal(result.pixels, whole.pixels)


def test_limit_is_no_damage(models, photo, monkeypatch):
    codec = Codec(models["mbt2018-mean"], "cpu", 1)
    data = codec.encode(Picture(photo[:100, :80], np.full((100, 80), 9, np.uint8)), 4.0).data

    def too_long(limits: Limits, stage: str, seconds: float) -> None:
        if "alpha" in stage:
            raise LimitExceeded(f"{stage} is above the limit")

    monkeypatch.setattr(Limits, "check_seconds", too_long)
    with pytest.raises(LimitExceeded, match="alpha"):
        codec.decode(data, region=(0, 90, 10, 10), allow_partial=True)


def test_alpha_that_its_checksum_does_not_betray_is_opaque_from_there_on(models, photo):
    codec = Codec(models["lc-s"], "cpu", 1)
    alpha = np.random.default_rng(0).integers(0, 255, (100, 80), np.uint8)
    box = container.unpack(codec.encode(Picture(photo[:100, :80], alpha), 8.0).data)
    box.alpha = box.alpha[:2000]
    data = container.pack(box)
    with pytest.raises(StreamError):
        codec.decode(data)
    result = codec.decode(data, allow_partial=True)
    assert result.alpha_lost and (result.picture.alpha[-1] == 255).all()
