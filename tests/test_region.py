"""A region is what the same part of the whole picture is, and costs what it covers."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from lcodec import container
from lcodec.cli import cli
from lcodec.codec import Codec
from lcodec.errors import Corrupt, LimitExceeded, Truncated, UsageError
from lcodec.limits import Limits
from lcodec.nets import ARCHITECTURES
from lcodec.region import Region, parse_region, slice_region

SLICE_LOG2 = 4  # 256 pixels a side: 2 x 3 slices of the photo


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def coded(request, models, photo):
    codec = Codec(models[request.param], "cpu", 1)
    data = codec.encode(photo[:400, :600], 6.0, slice_log2=SLICE_LOG2).data
    return codec, data, codec.decode(data).pixels


@pytest.mark.parametrize(
    "region",
    [(599, 399, 1, 1), (250, 250, 12, 12), (300, 17, 100, 60), (0, 100, 600, 3)],
)
def test_region_equals_the_crop_of_the_whole(coded, region):
    codec, data, whole = coded
    x, y, width, height = region
    part = codec.decode(data, region=region)
    assert part.pixels.shape == (height, width, 3) and part.digest is None
    difference = np.abs(part.pixels.astype(int) - whole[y : y + height, x : x + width])
    assert difference.max() <= 1


def test_only_slices_within_reach_are_decoded(coded, monkeypatch):
    codec, data, _ = coded
    decoded = []
    original = type(codec.entropy).decode_slice

    def counting(self, payload, *args):
        decoded.append(payload)
        return original(self, payload, *args)

    monkeypatch.setattr(type(codec.entropy), "decode_slice", counting)
    codec.decode(data, region=(570, 340, 20, 20))
    slices = container.unpack(data).slices
    # 84 pixels below and 58 right of a border, which a halo may cross
    assert 0 < len(decoded) <= 4 and slices[5] in decoded and slices[0] not in decoded
    decoded.clear()
    codec.decode(data)
    assert len(decoded) == 6


@pytest.mark.parametrize("region", [(-1, 0, 5, 5), (0, 0, 601, 1), (600, 0, 1, 1), (0, 380, 10, 21), (0, 0, 0, 5)])
def test_region_outside_the_picture_is_named(coded, region):
    codec, data, _ = coded
    with pytest.raises(UsageError, match=",".join(str(n) for n in region)) as caught:
        codec.decode(data, region=region)
    assert "X,Y,W,H" in (caught.value.hint or "")


def test_region_may_be_of_any_integers(coded):
    codec, data, _ = coded
    expected = codec.decode(data, region=(3, 5, 60, 50)).pixels
    for region in (np.array([3, 5, 60, 50], np.uint8), [np.int64(3), 5, 60, 50]):
        assert np.array_equal(codec.decode(data, region=region).pixels, expected)
    for nothing in ((3, 5, 60.0, 50), (3, 5, 60), "3,5,60,50", 3):
        with pytest.raises(UsageError, match="is no region"):
            codec.decode(data, region=nothing)


def test_limit_of_pixels_is_that_of_the_region(coded):
    codec, data, _ = coded
    assert codec.decode(data, region=(0, 0, 20, 10), limits=Limits(pixels=200)).pixels.shape == (10, 20, 3)
    with pytest.raises(LimitExceeded):
        codec.decode(data, region=(0, 0, 20, 11), limits=Limits(pixels=200))


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,0,2,2"])
def test_text_that_is_no_region_is_refused(text):
    with pytest.raises(UsageError, match="is no region"):
        parse_region(text)


def test_text_of_a_region_comes_back():
    assert parse_region(str(Region(1, 20, 300, 4000))) == (1, 20, 300, 4000)


def test_slices_cover_the_picture_once(coded):
    header = container.read_header(coded[1])
    seen = np.zeros((header.height, header.width), int)
    for number in range(header.slice_count):
        x, y, width, height = slice_region(header, number)
        seen[y : y + height, x : x + width] += 1
    assert (seen == 1).all()


def test_command_writes_the_region(models, photo, tmp_path):
    codec = Codec(models["lc-s"], "cpu", 1)
    (tmp_path / "a.lic").write_bytes(codec.encode(photo, 6.0).data)
    options = ["decode", "--device", "cpu", "--threads", "1"]
    out = CliRunner().invoke(cli, [*options, "--json", "--region", "30,40,50,60", str(tmp_path / "a.lic")])
    assert out.exit_code == 0, out.output
    record = json.loads(out.stdout)
    assert (record["width"], record["height"]) == (50, 60) and "digest" not in record
    whole = codec.decode((tmp_path / "a.lic").read_bytes()).pixels
    part = np.asarray(PIL.Image.open(tmp_path / "a.png"))
    assert np.abs(part.astype(int) - whole[40:100, 30:80]).max() <= 1
    out = CliRunner().invoke(cli, [*options, "--force", "--region", "700,40,69,60", str(tmp_path / "a.lic")])
    assert out.exit_code == 2 and "reaches beyond an image of 768x432 pixels" in out.output


def test_damage_that_a_region_does_not_reach_does_not_concern_it(coded):
    codec, data, whole = coded
    section = [s for s in container.list_sections(data) if s.type == container.SectionType.SLICE][0]
    bad = bytearray(data)
    bad[section.end - 10] ^= 1
    part = codec.decode(bytes(bad), region=(570, 340, 20, 20))
    assert np.abs(part.pixels.astype(int) - whole[340:360, 570:590]).max() <= 1
    with pytest.raises(Corrupt):
        codec.decode(bytes(bad), region=(0, 0, 20, 20))
    with pytest.raises(Truncated):
        codec.decode(data[: section.end - 3], region=(570, 340, 20, 20))


@pytest.mark.parametrize("size", [0, 7])
def test_region_of_what_is_no_file_of_ours_is_an_error(size, tmp_path):
    path = tmp_path / "a.lic"
    path.write_bytes(b"\x89" * size)
    out = CliRunner().invoke(cli, ["decode", str(path), "--region", "0,0,1,1", "-o", str(tmp_path / "a.png")])
    assert out.exit_code == 6


def test_preview_is_refused_with_a_reason():
    out = CliRunner().invoke(cli, ["decode", "a.lic", "--scale", "1/8"])
    assert out.exit_code == 2 and "no quick preview" in out.stderr and "--region" in out.stderr
