"""The commands with large pictures, which come and go by rows: the same files and words as with small ones."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from lcodec import container
from lcodec.batch.lanes import Stages
from lcodec.batch.plan import Job
from lcodec.batch.sources import Source
from lcodec.cli import cli
from lcodec.cli.decode import Decoder, Decoding
from lcodec.cli.encode import Encoder, Encoding
from lcodec.codec import Codec
from lcodec.errors import InputError
from lcodec.image import Picture, image_bytes, read_image
from tests.test_partial import damage
from tests.test_rows import ICC, exif, picture_of, same, saved

MODEL = ("--model", "tiny-lc-s", "--device", "cpu", "--threads", "2", "--json")


@pytest.fixture
def large(monkeypatch):
    """Calls a command; with `by_rows` every picture is a large one."""

    def call(command: str, *arguments: object, by_rows: bool = True, code: int = 0, stdin: bytes | None = None):
        monkeypatch.setattr("lcodec.image.LARGE_PX", 0 if by_rows else 1 << 40)
        result = CliRunner().invoke(cli, [command, *map(str, arguments), *MODEL], input=stdin)
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    return call


@pytest.fixture
def both(large, tmp_path):
    """Encodes a file by rows and as a whole, and gives the two records and the two .lic files."""

    def encode(source, *options: object):
        paths = [tmp_path / "rows.lic", tmp_path / "whole.lic"]
        records = [large("encode", source, "-o", path, *options, by_rows=path is paths[0], code=0) for path in paths]
        return records, [path.read_bytes() for path in paths]

    return encode


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "PPM"])
def test_file_has_the_same_bytes_by_rows(kind, both, models, photo, tmp_path):
    if kind != "PPM":
        pytest.importorskip("pyvips", reason="extra 'large' is not installed")
    options = {} if kind in ("PPM", "TIFF") else {"exif": exif(6), "icc_profile": ICC}
    source = tmp_path / "a.image"
    source.write_bytes(saved(photo, kind, **options))
    (rows, whole), files = both(source, "-q", 5)
    assert files[0] == files[1]
    for record in (rows, whole):
        for name in ("output", "seconds"):
            del record[name]
    assert rows == whole and rows["warnings"] == []
    if options:
        assert (rows["width"], rows["height"]) == (200, 133)


@pytest.mark.parametrize("arguments", [["--strip"], ["--orient", "keep"], ["--icc", "none", "--exif", "none"]])
def test_options_for_metadata_do_the_same_by_rows(arguments, both, models, photo, tmp_path):
    pytest.importorskip("pyvips", reason="extra 'large' is not installed")
    source = tmp_path / "a.jpg"
    source.write_bytes(saved(photo, "JPEG", exif=exif(8), icc_profile=ICC))
    assert len(set(both(source, *arguments)[1])) == 1


@pytest.mark.parametrize("mode, deep", [("L", False), ("RGBA", False), ("LA", True)])
def test_gray_depth_and_alpha_come_back_by_rows(mode, deep, large, models, photo, tmp_path):
    pytest.importorskip("pyvips", reason="extra 'large' is not installed")
    source, coded, back = tmp_path / "a.png", tmp_path / "a.lic", tmp_path / "b.png"
    picture = picture_of(photo, mode, deep)
    source.write_bytes(image_bytes(picture, ".png"))
    found = [large("encode", source, "-o", coded, "-q", 8, "--verify", "--force", by_rows=b) for b in (False, True)]
    assert found[1]["verified"] and abs(found[0]["psnr_db"] - found[1]["psnr_db"]) < 0.2
    record = large("decode", coded, "-o", back)
    assert (record["mode"], record["depth"]) == (mode, 16 if deep else 8)
    by_rows = read_image(back)
    assert np.array_equal(by_rows.alpha, picture.alpha) if "A" in mode else by_rows.alpha is None
    large("decode", coded, "-o", back, "--force", by_rows=False)
    assert same(by_rows, read_image(back))
    large("encode", source, "-o", coded, "--force", "--drop-alpha")
    assert container.unpack(coded.read_bytes()).alpha is None


@pytest.fixture
def coded(models, photo, tmp_path):
    """A .lic file of 600x400 pixels in six slices, to be turned by 90 degrees."""
    codec = Codec(models["lc-s"], "cpu", 1)
    picture = Picture(photo[:400, :600], icc=ICC, exif=exif(6).removeprefix(b"Exif\0\0"))
    path = tmp_path / "coded.lic"
    path.write_bytes(codec.encode(picture, 6.0, slice_log2=4).data)
    return path


@pytest.mark.parametrize("suffix", ["png", "ppm", "tif", "jpg"])
@pytest.mark.parametrize("options", [[], ["--region", "30,40,500,300"], ["--orient", "apply"]])
def test_decoded_picture_is_the_same_by_rows(suffix, options, large, coded, tmp_path):
    records = []
    for by_rows in (True, False):
        path = tmp_path / f"{by_rows}.{suffix}"
        records.append(large("decode", coded, "-o", path, *options, by_rows=by_rows))
    assert same(read_image(tmp_path / f"True.{suffix}"), read_image(tmp_path / f"False.{suffix}"))
    for record in records:
        for name in ("output", "output_bytes", "seconds"):
            del record[name]
    assert records[0] == records[1]


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
@pytest.mark.parametrize(
    "options",
    [
        ["--depth", "8"],
        ["--drop-alpha", "--strict", "--depth", "8"],
        ["--background", "#ff8800", "--region", "30,40,400,300", "--orient", "apply"],
    ],
)
def test_choices_for_the_output_do_the_same_by_rows(suffix, options, large, models, photo, tmp_path):
    coded = tmp_path / "a.lic"
    alpha = np.tile(np.linspace(0, 65535, 600).astype(np.uint16), (400, 1))
    picture = Picture(photo[:400, :600] * np.uint16(257), alpha, exif=exif(6).removeprefix(b"Exif\0\0"))
    coded.write_bytes(Codec(models["lc-s"], "cpu", 1).encode(picture, 6.0).data)
    quality = ["--output-quality", "30"] if suffix in ("jpg", "webp") else []
    found = []
    for by_rows in (True, False):
        path = tmp_path / f"{by_rows}.{suffix}"
        record = large("decode", coded, "-o", path, *options, *quality, by_rows=by_rows)
        found.append((read_image(path), {name: record[name] for name in ("mode", "depth", "width", "warnings")}))
    assert same(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    dropped = "--drop-alpha" in options or "--background" in options or suffix == "jpg"
    assert found[0][0].has_alpha != dropped
    assert found[0][0].deep == ("--depth" not in options and suffix in ("png", "tif"))


@pytest.mark.parametrize("suffix, rows", [("png", 100), ("jpg", 400)])
def test_memory_of_a_large_picture_is_that_of_what_is_held(suffix, rows, coded, tmp_path, monkeypatch):
    monkeypatch.setattr("lcodec.image.LARGE_PX", 0)
    monkeypatch.setattr("lcodec.cli.decode.ROWS_IN_WORK", 100)
    stages, asked = Stages(), []
    memory = stages.memory
    monkeypatch.setattr(stages, "memory", lambda pixels: asked.append(pixels) or memory(pixels))
    job = Job(Source(coded, Path(coded.name)), tmp_path / f"a.{suffix}")
    Decoder(Decoding(model="tiny-lc-s", device="cpu", threads=1)).process(job, stages)
    assert asked == [rows * 600]


def test_damaged_slices_are_filled_by_rows(large, coded, tmp_path):
    coded.write_bytes(damage(coded.read_bytes(), 4))
    pictures = []
    for by_rows in (True, False):
        path = tmp_path / f"{by_rows}.png"
        large("decode", coded, "-o", path, by_rows=by_rows, code=6)
        assert not path.exists() and not list(tmp_path.glob(".*"))
        record = large("decode", coded, "-o", path, "--allow-partial", by_rows=by_rows, code=3)
        assert record["lost"] == [[256, 256, 256, 144]]
        pictures.append(read_image(path))
    assert same(*pictures)


def test_pipes_work_by_rows(coded, photo, models, monkeypatch):
    monkeypatch.setattr("lcodec.image.LARGE_PX", 0)
    data = saved(photo, "PPM")
    options = [*MODEL[:-1], "--quiet"]
    encoded = CliRunner().invoke(cli, ["encode", "-", "-q", "5", *options], input=data)
    assert encoded.exit_code == 0
    decoded = CliRunner().invoke(cli, ["decode", "-", "-f", "tif", *options], input=encoded.stdout_bytes)
    assert decoded.exit_code == 0
    assert PIL.Image.open(io.BytesIO(decoded.stdout_bytes)).size == (133, 200)
    bad = CliRunner().invoke(cli, ["decode", "-", "-f", "ppm", *options], input=damage(coded.read_bytes(), 5))
    assert bad.exit_code == 6 and bad.stdout_bytes == b""


def test_what_is_held_as_a_whole_after_all_says_why(large, models, photo, tmp_path):
    source = tmp_path / "a.bmp"
    source.write_bytes(saved(photo, "BMP"))
    assert "BMP is not read by rows" in large("encode", source, "-o", tmp_path / "a.lic")["warnings"][0]
    source = tmp_path / "a.ppm"
    source.write_bytes(saved(photo, "PPM"))
    picture, words = Encoder(Encoding(effort=1)).open_large(source, "a", 1)
    assert picture is None and "effort" in words[0]
    assert large("encode", source, "-o", tmp_path / "c.lic")["warnings"] == []


def test_what_verification_by_rows_finds(large, models, photo, tmp_path, monkeypatch):
    source, target = tmp_path / "a.ppm", tmp_path / "a.lic"
    source.write_bytes(saved(photo, "PPM"))
    plain = Codec.encode_bands

    def wrong(self, picture, quality, **options):
        result = plain(self, picture, quality, **options)
        result.y_hat_digest = "other"
        return result

    monkeypatch.setattr(Codec, "encode_bands", wrong)
    record = large("encode", source, "-o", target, "--verify", code=1)
    assert "latents" in record["error"] and not target.exists()


@pytest.mark.parametrize("ending", [b"", b"\0" * 7])
def test_input_that_ends_early_leaves_nothing(ending, large, models, photo, tmp_path):
    source = tmp_path / "a.ppm"
    source.write_bytes(saved(photo, "PPM")[:-3000] + ending)
    record = large("encode", source, "-o", tmp_path / "a.lic", code=3)
    assert "a.ppm" in record["error"] and not (tmp_path / "a.lic").exists()


def test_what_does_not_fit_into_memory_says_what_would_read_it_by_rows(models, photo, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise InputError("a.png does not fit into memory")

    monkeypatch.setattr("lcodec.image.LARGE_PX", 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("lcodec.image.read_image", full)
    source = tmp_path / "a.png"
    source.write_bytes(saved(photo, "PNG"))
    result = CliRunner().invoke(cli, ["encode", str(source), *MODEL])
    assert result.exit_code == 3 and "pip install pyvips" in result.stderr


@pytest.mark.parametrize("by_rows", [True, False])
def test_usual_limit_is_the_same_by_rows_and_names_the_option(by_rows, models, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("lcodec.image.LARGE_PX", 0 if by_rows else 1 << 40)
    source = tmp_path / "a.ppm"
    source.write_bytes(saved(photo, "PPM"))
    for most, code in ((200 * 133 // 2 - 1, 3), (200 * 133 // 2, 0)):
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", most)
        result = CliRunner().invoke(cli, ["encode", str(source), *MODEL])
        assert result.exit_code == code
        assert code == 0 or "--limit-pixels" in result.stderr
