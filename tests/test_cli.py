"""The command line: files, names, errors, exit codes.

Most tests run with a stand-in for the codec, which stores pixels as they are in a real container: they test
what lies around the codec. The tests at the end use a real model.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import pty
import signal
import subprocess
import sys
import time
import types
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import lcodec
from lcodec import cli
from lcodec.cli.decode import Decoding
from lcodec.cli.report import print_json
from lcodec.container import Container, Header, pack, quality_to_code, read_header, unpack
from lcodec.errors import Corrupt, LimitExceeded, ModelError
from lcodec.image import Picture, decode_alpha, encode_alpha, profile
from lcodec.limits import NO_LIMITS

ROOT = Path(__file__).parents[1]
MODEL_ID = bytes(range(8))


class FakeCodec:
    """Has the interface of lcodec.codec.Codec; one slice holds the zlib-compressed pixels."""

    loads: list[str] = []
    broken = ""  # what the decoder gets wrong: "digest", "pixels" or "metadata"
    fail_on_width: int | None = None  # images of this width raise an error that no one foresaw

    def __init__(self, model, device="auto", threads=None):
        if str(model) == "no-such-model":
            raise ModelError("no model no-such-model", hint="looked in nowhere")
        FakeCodec.loads.append(str(model))
        self.name, self.id, self.qualities = "fake", MODEL_ID.hex() * 4, (1.0, 2.0, 8.0)
        if model == "single":
            self.qualities = (0.0,)

    @classmethod
    def for_stream(cls, data, device="auto", threads=None):
        if read_header(data).model_id != MODEL_ID:
            raise ModelError(f"no model with id {read_header(data).model_id.hex()}")
        return cls("for-stream", device, threads)

    def encode(self, picture, quality, **_options):
        picture = picture if isinstance(picture, Picture) else Picture(picture)
        pixels = picture.pixels
        if pixels.shape[1] == FakeCodec.fail_on_width:
            raise ZeroDivisionError("not foreseen")
        flags = {"gray": picture.gray, "deep": picture.deep}
        header = Header(picture.width, picture.height, MODEL_ID, quality_to_code(quality), slice_log2=11, **flags)
        alpha = None if picture.alpha is None else encode_alpha(picture.alpha)
        parts = [zlib.compress(pixels.tobytes())], picture.icc, picture.exif, picture.xmp, alpha
        data = pack(Container(header, *parts))
        return types.SimpleNamespace(
            data=data,
            seconds={"transform": 0.25, "entropy": 0.125, "total": 0.375},
            y_hat_digest=f"{zlib.crc32(pixels.tobytes()):08x}",
            quality=header.quality,
            evaluations=1,
            reconstruction=lambda: pixels,
        )

    def decode(self, data, limits=NO_LIMITS):
        header = read_header(data)
        limits.check_size(header.width, header.height)
        box = unpack(data)
        content = zlib.decompress(box.slices[0])
        pixels = np.frombuffer(content, np.uint16 if header.deep else np.uint8).copy()
        pixels = pixels.reshape(header.height, header.width, *([] if header.gray else [3]))
        alpha = box.alpha and decode_alpha(box.alpha, header.height, header.width, header.deep)
        digest = f"{zlib.crc32(pixels.tobytes()):08x}"
        if FakeCodec.broken == "digest":
            digest = "other"
        if FakeCodec.broken == "pixels":
            pixels[0, 0] ^= 128
        exif = None if FakeCodec.broken == "metadata" else box.exif
        return types.SimpleNamespace(
            pixels=pixels,
            picture=Picture(pixels, alpha, box.icc, exif, box.xmp),
            header=header,
            warnings=box.warnings,
            seconds={"transform": 0.5, "entropy": 0.5, "total": 1.0},
            digest=digest,
            lost=[],
            alpha_lost=False,
        )


class FakeModel(types.SimpleNamespace):
    name, path, id = "fake", Path("/somewhere/fake.safetensors"), MODEL_ID.hex() * 4
    architecture, qualities, size_bytes, summary = "mbt2018", (1.0, 8.0), 1_234_567, "for tests"
    base = None
    card: dict[str, object] = {}


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Stand-ins for codec, weights and decoder; the working directory is an empty folder."""
    modules = {
        "codec": types.SimpleNamespace(Codec=FakeCodec),
        "weights": types.SimpleNamespace(
            DEFAULT_MODEL="fake",
            list_models=lambda: [FakeModel()],
            readable_models=lambda: [FakeModel()],
            search_path=lambda: [Path("/somewhere")],
            find=lambda name: Path("/somewhere/fake.safetensors"),
            is_checkpoint=lambda path: False,
        ),
        "decoder": types.SimpleNamespace(digest=lambda data, limits: f"{zlib.crc32(data):08x}"),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"lcodec.{name}", module)
        monkeypatch.setattr(lcodec, name, module, raising=False)
    monkeypatch.setattr(FakeCodec, "loads", [])
    monkeypatch.setattr(FakeCodec, "broken", "")
    monkeypatch.setattr(FakeCodec, "fail_on_width", None)
    monkeypatch.chdir(tmp_path)
    return FakeCodec


def run(*arguments, stdin=None):
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments], input=stdin, prog_name="lcodec")


def picture(path, width=7, height=5, seed=0, **options) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path, **options)
    return pixels


def stream(pixels: np.ndarray, quality=4.0) -> bytes:
    return FakeCodec("direct").encode(pixels, quality).data


def names(folder=".") -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


# ---- one file ----


def test_encode_and_decode_give_the_picture_back(fake):
    pixels = picture("a.png")
    assert run("encode", "a.png").exit_code == 0
    assert run("decode", "a.lic", "-o", "b.png").exit_code == 0
    assert np.array_equal(np.asarray(PIL.Image.open("b.png")), pixels)
    assert names() == ["a.lic", "a.png", "b.png"]


def test_encode_says_size_rate_ratios_and_time(fake):
    picture("a.png")
    result = run("encode", "a.png")
    size = Path("a.lic").stat().st_size
    assert result.stdout.startswith(f"a.png -> a.lic: 7x5, {size} B, {8 * size / 35:.3f} bpp, ")
    assert f"{Path('a.png').stat().st_size / size:.1f}x smaller than the input" in result.stdout
    assert result.stdout.rstrip().endswith(" s")
    assert result.stderr == ""


def test_file_that_grows_is_called_larger(fake):
    PIL.Image.new("L", (1, 1)).save("a.pgm")
    stdout = run("encode", "a.pgm").stdout
    before, after = (Path(name).stat().st_size for name in ("a.pgm", "a.lic"))
    assert before < after
    assert f", {after / before:.1f}x larger than the input, {after / 1:.1f}x larger than raw, " in stdout


def test_json_is_one_object_per_file_with_the_facts(fake):
    picture("a.png")
    record = json.loads(run("encode", "--json", "-q", "2.5", "a.png").stdout)
    assert record["quality"] == 2.5
    assert record["bytes"] == Path("a.lic").stat().st_size
    assert record["input_bytes"] == Path("a.png").stat().st_size
    assert record["bpp"] == pytest.approx(8 * record["bytes"] / 35, abs=1e-5)
    assert record["ratio_raw"] == pytest.approx(105 / record["bytes"], abs=1e-3)
    assert record["seconds"]["transform"] == 0.25
    decoded = json.loads(run("decode", "--json", "a.lic", "-o", "b.png").stdout)
    assert decoded["digest"] == record["digest"]
    assert (decoded["quality"], decoded["width"], decoded["height"]) == (2.5, 7, 5)


def test_verbose_adds_model_times_and_digest(fake):
    picture("a.png")
    lines = run("encode", "-v", "a.png").stdout.splitlines()
    assert len(lines) == 4
    assert "model fake" in lines[1] and "quality 4" in lines[1]
    assert "transform 0.250 s" in lines[2]


def test_quiet_says_nothing(fake):
    picture("a.png")
    result = run("encode", "--quiet", "a.png")
    assert (result.exit_code, result.output) == (0, "")


def test_what_is_lost_is_a_warning(fake):
    PIL.Image.new("CMYK", (8, 8), (1, 2, 3, 4)).save("a.tif")
    result = run("encode", "a.tif")
    assert result.exit_code == 0
    assert result.stderr == "lcodec: warning: a.tif: CMYK is converted to RGB without colour management\n"


@pytest.mark.parametrize("ending", ["ppm", "bmp", "tiff", "webp"])
def test_ending_of_the_output_chooses_the_format(fake, ending):
    pixels = picture("a.png")
    Path("a.lic").write_bytes(stream(pixels))
    assert run("decode", "a.lic", "-o", f"b.{ending}").exit_code == 0
    with PIL.Image.open(f"b.{ending}") as image:
        assert image.format == ending.upper()
        assert np.array_equal(np.asarray(image.convert("RGB")), pixels)


def test_format_is_for_names_that_lcodec_makes(fake):
    Path("a.lic").write_bytes(stream(picture("x/a.png")))
    assert run("decode", "-f", "ppm", "a.lic").exit_code == 0
    assert Path("a.ppm").read_bytes().startswith(b"P6")
    result = run("decode", "-f", "xyz", "a.lic")
    assert result.exit_code == 2
    assert "known are .png" in result.stderr


def test_format_helps_where_the_name_says_none_and_does_not_contradict_it(fake):
    picture("a.png")
    assert run("encode", "a.png").exit_code == 0
    assert run("decode", "a.lic", "-o", "without", "-f", "jpg").exit_code == 0
    assert Path("without").read_bytes()[:2] == b"\xff\xd8"
    assert run("decode", "a.lic", "-o", "b.jpeg", "-f", "jpg").exit_code == 0
    result = run("decode", "a.lic", "-o", "c.png", "-f", "jpg")
    assert result.exit_code == 2 and "another format" in result.output
    assert not Path("c.png").exists()


def test_pgm_is_for_gray(fake):
    picture("a.png")
    PIL.Image.fromarray(np.zeros((4, 5), np.uint8)).save("gray.png")
    assert run("encode", "a.png", "gray.png").exit_code == 0
    assert run("decode", "gray.lic", "-o", "gray.pgm").exit_code == 0
    result = run("decode", "a.lic", "-o", "a.pgm")
    assert result.exit_code == 2 and "gray only" in result.output and not Path("a.pgm").exists()


def test_unknown_ending_is_refused_before_decoding(fake):
    Path("a.lic").write_bytes(stream(picture("x/a.png")))
    fake.loads.clear()
    result = run("decode", "a.lic", "-o", "b.xyz")
    assert result.exit_code == 2
    assert fake.loads == []


@pytest.mark.parametrize("ending", ["png", "JPG", "jfif", "tiff"])
def test_encode_writes_into_no_name_of_an_image(fake, ending):
    picture("a.png")
    Path(f"b.{ending}").write_bytes(b"kept")
    result = run("encode", "--force", "a.png", "-o", f"b.{ending}")
    assert result.exit_code == 2 and f"-o names a .{ending} file" in result.stderr
    assert "hint: -o b.lic" in result.stderr
    assert Path(f"b.{ending}").read_bytes() == b"kept" and fake.loads == []
    for name in ("photo", "photo.xyz", "photo.lic"):
        assert run("encode", "a.png", "-o", name).exit_code == 0


# ---- quality and model ----


@pytest.mark.parametrize("quality", ["0", "9", "x"])
def test_quality_outside_1_to_8_is_a_usage_error(fake, quality):
    picture("a.png")
    assert run("encode", "-q", quality, "a.png").exit_code == 2


def test_quality_of_a_model_with_one_quality_is_left_out(fake):
    picture("a.png")
    assert run("encode", "--model", "single", "a.png").exit_code == 0
    assert read_header(Path("a.lic").read_bytes()).quality == 0
    result = run("encode", "--model", "single", "-q", "3", "--force", "a.png")
    assert result.exit_code == 2
    assert "one quality only" in result.stderr


def test_unknown_model_is_an_error_of_its_own(fake):
    picture("a.png")
    result = run("encode", "--model", "no-such-model", "a.png")
    assert result.exit_code == 5
    assert names() == ["a.png"]


@pytest.mark.parametrize(
    "command, option", [("encode", "--model"), ("decode", "--model"), ("decode", "-f"), ("encode", "--ray")]
)
def test_empty_value_is_not_the_default(fake, command, option):
    picture("a.png")
    Path("a.lic").write_bytes(stream(picture("x/a.png")))
    fake.loads.clear()
    result = run(command, option, "", "a.png" if command == "encode" else "a.lic", "-o", "out/")
    assert result.exit_code == 2 and f"{option} names nothing" in result.stderr
    assert fake.loads == [] and not Path("out").exists()


def test_stream_of_an_unknown_model_names_the_id(fake):
    header = Header(4, 4, b"\xff" * 8)
    Path("a.lic").write_bytes(pack(Container(header, [b"x"])))
    result = run("decode", "a.lic")
    assert result.exit_code == 5
    assert "ff" * 8 in result.stderr


# ---- many files ----


def test_many_files_need_one_loading(fake):
    for i in range(4):
        picture(f"{i}.png", seed=i)
    assert run("encode", *(f"{i}.png" for i in range(4)), "-o", "out").exit_code == 0
    assert fake.loads == ["fake"]
    assert run("decode", "out", "-o", "back").exit_code == 0
    assert fake.loads == ["fake", "for-stream"]
    assert names("back") == ["0.png", "1.png", "2.png", "3.png"]


def test_folders_are_searched_and_their_structure_kept(fake):
    picture("in/a.png")
    picture("in/sub/b.JPG", format="JPEG")
    picture("in/.hidden.png")
    Path("in/notes.txt").write_text("no image")
    result = run("encode", "in", "-o", "out")
    assert result.exit_code == 0
    assert names("out") == ["a.lic", "sub/b.lic"]
    assert "2 of 2 files done" in result.stderr


def test_folder_without_output_is_encoded_in_place(fake):
    picture("in/a.png")
    assert run("encode", "in").exit_code == 0
    assert names() == ["in/a.lic", "in/a.png"]


def test_pattern_does_not_go_in_circles(fake):
    Path("tree/deep").mkdir(parents=True)
    picture("tree/deep/a.png")
    os.symlink("..", "tree/deep/back")
    os.symlink("deep", "tree/other")
    assert run("encode", "tree/**/*.png", "-o", "out").exit_code == 0
    assert [n for n in names("out") if n.endswith(".lic")] == ["deep/a.lic"]
    assert run("encode", "tree/other/*.png", "-o", "named").exit_code == 0  # a link that is named is followed
    assert names("named") == ["a.lic"]


@pytest.mark.parametrize("command", ["encode", "decode", "info"])
def test_empty_name_is_a_usage_error(fake, command):
    result = run(command, "")
    assert result.exit_code == 2 and "name of an input is empty" in result.output


@pytest.mark.parametrize("command, other, name", [("encode", "decode", "a.lic"), ("decode", "encode", "a.png")])
def test_the_other_command_is_named_where_it_is_meant(fake, command, other, name):
    Path(name).write_bytes(b"whatever")
    result = run(command, name)
    assert result.exit_code == 4 and f"lcodec {other}" in result.output


def test_folder_without_images_is_an_error(fake):
    Path("in").mkdir()
    result = run("encode", "in")
    assert result.exit_code == 3
    assert "no images in folder in" in result.stderr


def test_file_given_twice_is_done_once(fake):
    picture("in/a.png")
    assert run("encode", "in/a.png", "in", "./in/a.png", "-o", "out").exit_code == 0
    assert names("out") == ["a.lic"]


def test_two_inputs_for_one_output_are_refused_by_name(fake):
    picture("a.png")
    picture("a.jpg")
    picture("sub/a.png")
    for arguments in (["a.png", "a.jpg"], ["a.png", "sub/a.png", "-o", "out"]):
        result = run("encode", *arguments)
        assert result.exit_code == 2
        assert arguments[0] in result.stderr and arguments[1] in result.stderr
    assert not any(name.endswith(".lic") for name in names())


def test_in_a_batch_the_others_go_on_and_the_first_failure_gives_the_code(fake):
    picture("a.png")
    Path("b.png").write_bytes(b"no image")
    picture("c.png", seed=1)
    Path("d.lic").write_bytes(b"kept")
    picture("d.png", seed=2)
    result = run("encode", "a.png", "b.png", "c.png", "d.png", "missing.png")
    assert result.exit_code == 3
    assert Path("a.lic").exists() and Path("c.lic").exists() and not Path("b.lic").exists()
    assert Path("d.lic").read_bytes() == b"kept"
    assert "lcodec: error: b.png is not an image" in result.stderr
    assert "lcodec: error: d.png: d.lic exists" in result.stderr
    assert "missing.png: no such file" in result.stderr
    assert "2 of 5 files done, 3 failed" in result.stderr
    assert run("encode", "d.png", "b.png").exit_code == 4


def test_failures_are_json_too(fake):
    picture("a.png")
    Path("b.png").write_bytes(b"no image")
    result = run("encode", "--json", "a.png", "b.png")
    good, bad = (json.loads(line) for line in result.stdout.splitlines())
    assert good["output"] == "a.lic"
    assert (bad["input"], bad["exit_code"]) == ("b.png", 3)


def test_error_that_no_one_foresaw_does_not_stop_the_batch(fake):
    fake.fail_on_width = 9
    picture("a.png", width=9)
    picture("b.png")
    result = run("encode", "a.png", "b.png")
    assert result.exit_code == 1
    assert "a.png: internal error: ZeroDivisionError: not foreseen" in result.stderr
    assert "Traceback" not in result.stderr
    assert Path("b.lic").exists()


def test_several_outputs_into_a_file_or_stdout_are_refused(fake):
    picture("a.png")
    picture("b.png")
    Path("out").write_bytes(b"kept")
    assert run("encode", "a.png", "b.png", "-o", "out").exit_code == 4
    assert run("encode", "a.png", "b.png", "-o", "-").exit_code == 2
    assert Path("out").read_bytes() == b"kept"


def test_output_that_is_a_folder_takes_a_single_file(fake):
    picture("a.png")
    assert run("encode", "a.png", "-o", "new/").exit_code == 0
    assert run("encode", "a.png", "-o", "new", "--force").exit_code == 0
    assert names("new") == ["a.lic"]


# ---- nothing is lost ----


def test_existing_output_is_kept_without_force(fake):
    picture("a.png")
    Path("a.lic").write_bytes(b"kept")
    result = run("encode", "a.png")
    assert result.exit_code == 4
    assert "lcodec: hint: --force" in result.stderr
    assert Path("a.lic").read_bytes() == b"kept"
    assert fake.loads == []  # the model was not even loaded
    assert run("encode", "--force", "a.png").exit_code == 0
    assert Path("a.lic").read_bytes() != b"kept"


@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_output_that_is_the_input_is_refused_even_with_force(fake, link):
    picture("a", format="PNG")
    before = Path("a").read_bytes()
    target = Path("a" if link == "same" else "b.lic")
    if link == "symbolic":
        target.symlink_to("a")
    if link == "hard":
        target.hardlink_to("a")
    result = run("encode", "--force", "a", "-o", target)
    assert result.exit_code == 4
    assert "is an input" in result.stderr
    assert Path("a").read_bytes() == before


def test_missing_folder_of_a_single_output_is_not_made(fake):
    picture("a.png")
    assert run("encode", "a.png", "-o", "none/a.lic").exit_code == 4
    assert names() == ["a.png"]


@pytest.mark.parametrize("broken", ["digest", "pixels", "metadata"])
def test_verify_keeps_a_file_that_does_not_decode_from_appearing(fake, broken):
    picture("a.png", exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    fake.broken = broken
    assert run("encode", "a.png", "-o", "unverified.lic").exit_code == 0
    result = run("encode", "--verify", "a.png")
    assert result.exit_code == 1
    assert "verification failed" in result.stderr
    assert names() == ["a.png", "unverified.lic"]


def test_verify_tells_the_quality_of_the_picture(fake):
    picture("a.png")
    result = run("encode", "--verify", "a.png")
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith("verified, lossless")


def test_interrupt_stops_the_batch_and_leaves_nothing_half_done(fake, monkeypatch):
    picture("a.png")
    picture("b.png")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    result = run("encode", "a.png", "b.png")
    assert result.exit_code == 130
    assert names() == ["a.png", "b.png"]


def test_damaged_stream_writes_nothing(fake):
    data = bytearray(stream(picture("x/a.png")))
    data[-10] ^= 1
    Path("a.lic").write_bytes(data)
    result = run("decode", "a.lic")
    assert result.exit_code == Corrupt.exit_code == 6
    assert result.stderr.startswith("lcodec: error: a.lic: ")
    assert names() == ["a.lic", "x/a.png"]


def test_what_is_no_lic_file_costs_no_loading(fake):
    picture("a.png")
    result = run("decode", "a.png", "-o", "b.png")
    assert result.exit_code == 6
    assert "not a .lic file" in result.stderr
    assert fake.loads == []


def test_image_above_the_limit_is_refused_both_ways(fake):
    Path("a.lic").write_bytes(stream(picture("a.png")))
    refused = run("encode", "--limit-pixels", "34", "a.png", "-o", "b.lic")
    assert refused.exit_code == 3 and "--limit-pixels N allows more" in refused.stderr
    assert run("decode", "--limit-pixels", "34", "a.lic", "-o", "b.png").exit_code == 6
    assert run("decode", "--limit-pixels", "35", "a.lic", "-o", "b.png").exit_code == 0


# ---- what a decoded file is to be ----


def deep_file(name: str = "a.lic", gray: bool = False) -> Picture:
    """A .lic file of 16 bits with alpha, beside the picture in it."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 65536, (5, 7) if gray else (5, 7, 3), np.uint16)
    made = Picture(pixels, rng.integers(0, 65536, (5, 7), np.uint16))
    Path(name).write_bytes(stream(made, 2.0))
    return made


def test_depth_alpha_and_background_of_the_output_are_chosen(fake):
    source = deep_file()
    for options, expected in (
        (["--depth", "8"], source.in_8_bits()),
        (["--drop-alpha"], source.without_alpha()),
        (["--drop-alpha", "--depth", "8"], source.without_alpha().in_8_bits()),
        (["--background", "#ff8800", "--depth", "8"], source.over((255, 136, 0)).in_8_bits()),
    ):
        result = run("decode", "--json", "--force", "--strict", *options, "a.lic")
        record, image = json.loads(result.stdout), lcodec.image.read_image("a.png")
        assert np.array_equal(image.pixels, expected.pixels) and np.array_equal(image.alpha, expected.alpha)
        assert (record["mode"], record["depth"]) == (expected.mode, 16 if expected.deep else 8)
        assert record["warnings"] == []


def test_what_is_dropped_on_purpose_is_no_loss_of_the_format(fake):
    source = deep_file()
    assert run("decode", "--strict", "a.lic", "-o", "a.ppm").exit_code == 4
    for options in (["--drop-alpha"], ["--background", "white"]):
        result = run("decode", "--strict", "--force", *options, "--depth", "8", "a.lic", "-o", "a.bmp")
        assert result.exit_code == 0 and "cannot hold" not in result.stderr
    assert np.array_equal(np.asarray(PIL.Image.open("a.bmp")), source.over((255, 255, 255)).in_8_bits().pixels)


def test_gray_in_front_of_gray_stays_gray_and_colour_is_refused(fake):
    source = deep_file(gray=True)
    assert run("decode", "--background", "gray", "a.lic").exit_code == 0
    assert np.array_equal(lcodec.image.read_image("a.png").pixels, source.over((128, 128, 128)).pixels)
    assert_usage(run("decode", "--force", "--background", "red", "a.lic"), "gray picture")
    PIL.Image.new("L", (7, 5), 100).save("b.png")
    assert run("encode", "b.png").exit_code == 0
    assert run("decode", "--force", "--background", "red", "b.lic").exit_code == 0  # which has nothing transparent


def assert_usage(result, message: str) -> None:
    assert result.exit_code == 2 and message in result.stderr, result.output


def test_quality_of_the_output_is_chosen_where_the_format_has_one(fake, photo):
    PIL.Image.fromarray(photo[:200, :200]).save("a.png")
    assert run("encode", "a.png").exit_code == 0
    sizes = {}
    how = Decoding(output_quality=10, depth="8", background=(1, 2, 3))
    assert pickle.loads(pickle.dumps(how)) == how  # it goes to other machines
    for name in ("jpg", "webp"):
        for quality in ("10", "90"):
            assert run("decode", "a.lic", "--output-quality", quality, "-o", f"{quality}.{name}").exit_code == 0
            sizes[name, quality] = os.path.getsize(f"{quality}.{name}")
        assert sizes[name, "10"] < sizes[name, "90"] / 3
    assert run("decode", "a.lic", "--output-quality", "10", "-f", "jpg", "-o", "out/").exit_code == 0
    assert os.path.getsize("out/a.jpg") == sizes["jpg", "10"]
    for options in (["-o", "b.png"], ["-f", "tif"], ["-o", "out/"], []):
        assert_usage(run("decode", "a.lic", "--output-quality", "10", *options), "has no quality")
    assert_usage(run("decode", "a.lic", "--output-quality", "0", "-o", "b.jpg"), "0 is not in the range")


def test_choices_that_cannot_be_are_refused_at_once(fake):
    deep_file()
    fake.loads.clear()
    for options, message in (
        (["--background", "no-colour"], "'no-colour' is no opaque colour"),
        (["--background", "#ff880080"], "no opaque colour"),
        (["--background", "rgb(300,0,0)"], "no opaque colour"),
        (["--background", "white", "--drop-alpha"], "contradict"),
        (["--depth", "12"], "12"),
    ):
        assert_usage(run("decode", *options, "a.lic"), message)
    assert fake.loads == [] and names() == ["a.lic"]


@pytest.mark.parametrize("output, size, region", [("a.pgm", (7, 5), None), ("a.webp", (9, 20000), "0,0,9,16384")])
def test_what_the_format_cannot_hold_costs_no_decoding(fake, output, size, region):
    header = Header(size[0], size[1], MODEL_ID, 256, slice_log2=11)
    Path("a.lic").write_bytes(pack(Container(header, [b"x"])))
    assert_usage(run("decode", "a.lic", "-o", output), "gray only" if region is None else "9x20000")
    if region is not None:
        assert_usage(run("decode", "a.lic", "-o", output, "--region", region), "9x16384")
    assert fake.loads == [] and names() == ["a.lic"]


# ---- stdin and stdout ----


def test_pipes_carry_image_and_stream(fake):
    pixels = picture("a.png")
    encoded = run("encode", "-", stdin=Path("a.png").read_bytes())
    assert encoded.exit_code == 0
    assert encoded.stderr.startswith("stdin -> stdout: 7x5")
    decoded = run("decode", "-", "-o", "-", "--quiet", stdin=encoded.stdout_bytes)
    assert np.array_equal(np.asarray(PIL.Image.open(io.BytesIO(decoded.stdout_bytes))), pixels)
    assert decoded.stderr == ""
    assert names() == ["a.png"]


def test_stdin_cannot_be_combined_or_share_stdout_with_json(fake):
    picture("a.png")
    assert run("encode", "-", "a.png", stdin=b"").exit_code == 2
    assert run("encode", "--json", "-o", "-", "a.png").exit_code == 2


def test_empty_stdin_is_an_input_error(fake):
    result = run("encode", "-", stdin=b"")
    assert result.exit_code == 3
    assert "stdin is empty" in result.stderr


def test_device_as_output_is_written_not_replaced(fake):
    picture("a.png")
    assert run("encode", "a.png", "-o", "/dev/null").exit_code == 0
    Path("a.lic").write_bytes(stream(picture("a.png")))
    assert run("decode", "a.lic", "-o", "/dev/null").exit_code == 0
    assert not Path("/dev/null").is_file()


def start(*arguments, code="", **options):
    """The command in a process of its own; `code` runs first."""
    script = f"{code}\nfrom lcodec.cli import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=options.pop("cwd", ROOT),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        **options,
    )


def test_binary_data_does_not_go_to_a_terminal(tmp_path):
    picture(tmp_path / "a.png")
    primary, secondary = pty.openpty()
    try:
        process = start("encode", tmp_path / "a.png", "-o", "-", stdout=secondary)
        _, stderr = process.communicate(timeout=30)
    finally:
        os.close(primary)
        os.close(secondary)
    assert process.returncode == 2
    assert stderr.decode().splitlines() == [
        "lcodec: error: binary data is not written to a terminal",
        "lcodec: hint: redirect it, or name a file with -o",
    ]


def test_broken_pipe_is_silent():
    reader, writer = os.pipe()
    os.close(reader)
    process = start("version", stdout=writer)
    os.close(writer)
    _, stderr = process.communicate(timeout=30)
    assert stderr == b""
    assert process.returncode == 1


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_while_writing_leaves_nothing(tmp_path, number, code):
    slow = (
        "import os, time, types, sys\n"
        "def wait(_): print('writing', flush=True); time.sleep(30)\n"
        "os.fsync = wait\n"
        "result = types.SimpleNamespace(data=b'x', seconds={}, y_hat_digest='')\n"
        "codec = types.SimpleNamespace(qualities=(1.0, 8.0), encode=lambda pixels, quality, **_: result)\n"
        "sys.modules['lcodec.codec'] = types.SimpleNamespace(Codec=lambda *a, **k: codec)\n"
        "import lcodec.weights\n"
        "lcodec.weights.find = lambda name: name\n"
    )
    picture(tmp_path / "a.png")
    process = start("encode", "--model", "x", "a.png", code=slow, cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert b"Traceback" not in stderr
    assert names(tmp_path) == ["a.png"]


def test_progress_appears_on_a_terminal_after_a_second_and_goes_again(monkeypatch):
    pytest.importorskip("rich.progress")  # on a busy machine its import alone takes longer than the wait below
    from lcodec.cli import report

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(report, "PROGRESS_AFTER_S", 0.05)
    shown, hidden = Terminal(), io.StringIO()
    for stderr in (shown, hidden):
        monkeypatch.setattr(sys, "stderr", stderr)
        with report.Progress(2, "encoding") as step:
            step()
            time.sleep(0.3)
            step()
    assert "encoding" in shown.getvalue() and "/2" in shown.getvalue()
    assert hidden.getvalue() == ""


def test_progress_does_not_appear_for_quick_work(monkeypatch):
    from lcodec.cli import report

    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    with report.Progress(1, "encoding") as step:
        step()
    assert stderr.getvalue() == ""


# ---- errors ----


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["encode"], "missing argument"),
        (["encode", "--frobnicate", "x"], "no such option"),
        (["frobnicate"], "no such command"),
        (["decode", "--device", "toaster", "x"], "invalid value"),
    ],
)
def test_usage_error_is_one_line_and_a_hint(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    error, hint = result.stderr.splitlines()
    assert error.startswith("lcodec: error: ") and message in error and not error.endswith(".")
    assert hint.startswith("lcodec: hint: ") and hint.endswith("--help")


def test_traceback_appears_only_with_debug(fake):
    assert "Traceback" not in run("encode", "missing.png").stderr
    result = run("encode", "--debug", "missing.png")
    assert "Traceback" in result.stderr
    assert "lcodec: error: " in result.stderr
    assert result.exit_code == 3


@pytest.mark.parametrize("name", ["\x1b[2Jclear", "line\nbreak", "\udcff", "ä ö"])
def test_strange_names_are_coded_and_shown_harmlessly(fake, name):
    picture(f"{name}.png")
    for result in (
        run("encode", f"{name}.png"),
        run("info", f"{name}.lic"),
        run("encode", f"{name}.png"),
        run("encode", "--json", "--force", f"{name}.png"),
    ):
        assert "internal error" not in result.stderr
        assert all(c.isprintable() or c == "\n" for c in result.output)
    assert json.loads(result.stdout)["output"] == f"{name}.lic"


# ---- info, models, version ----


def test_name_and_profile_forge_no_lines_of_info(fake):
    own = profile.from_gamma(0.3, None, gray=False) or b""
    told = own.replace(b"PNG gamma 0.30000", b"PNG\n  model mine!")
    assert told != own and profile.describe(told) == "PNG\n  model mine!"
    Path("a\nforged.lic").write_bytes(fake("direct").encode(Picture(picture("a.png"), icc=told), 4.0).data)
    lines = run("info", "a\nforged.lic").stdout.splitlines()
    assert lines[0] == "a\\x0aforged.lic" and sum(line.startswith("  model") for line in lines) == 1
    assert run("decode", "a\nforged.lic", "-o", "b.png").stdout.count("\n") == 1



def test_info_tells_what_the_header_says(fake):
    Path("a.lic").write_bytes(stream(picture("x/a.png"), 2.5))
    text = run("info", "a.lic").stdout
    for part in ("7x5", "2.5", "fake", MODEL_ID.hex(), "1 slice"):
        assert part in text
    record = json.loads(run("info", "--json", "a.lic").stdout)
    assert (record["width"], record["height"], record["quality"], record["slices"]) == (7, 5, 2.5, 1)
    assert record["bytes"] == Path("a.lic").stat().st_size
    assert 0 < record["overhead_bytes"] <= 32
    assert "digest" not in record
    # the same in the JSON of all commands
    assert (record["stream_id"], record["model_id"]) == (MODEL_ID.hex(), fake("direct").id)
    fake.loads.pop()
    assert fake.loads == ["direct"]


def test_info_digests_on_request(fake):
    data = stream(picture("x/a.png"))
    Path("a.lic").write_bytes(data)
    assert json.loads(run("info", "--json", "--digest", "a.lic").stdout)["digest"] == f"{zlib.crc32(data):08x}"
    assert f"{zlib.crc32(data):08x}" in run("info", "--digest", "a.lic").stdout


def test_info_finds_damage_behind_the_header(fake):
    data = bytearray(stream(picture("x/a.png")))
    data[-10] ^= 1
    Path("a.lic").write_bytes(data)
    result = run("info", "a.lic")
    assert result.exit_code == 6
    assert "1 slice damaged" in result.stdout
    assert "a.lic: slice 0 of 1: checksum does not hold" in result.stderr
    record = json.loads(run("info", "--json", "a.lic").stdout)
    assert record["exit_code"] == 6 and "checksum does not hold" in record["error"]
    assert (record["input"], record["width"], record["sections"][-1]["intact"]) == ("a.lic", 7, False)


def test_info_of_a_file_whose_model_is_not_here_tells_the_rest(fake, monkeypatch):
    def digest(_data, limits):
        raise ModelError("no such model")

    Path("a.lic").write_bytes(pack(Container(Header(4, 4, b"\xff" * 8), [b"x"])))
    monkeypatch.setattr(lcodec.decoder, "digest", digest)
    result = run("info", "--json", "--digest", "a.lic")
    record = json.loads(result.stdout)
    assert result.exit_code == record["exit_code"] == 5 and record["error"] == "no such model"
    assert (record["stream_id"], record["model_id"], record["model"]) == ("ff" * 8, None, None)
    assert "4x4" in run("info", "--digest", "a.lic").stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_full_stdout_ends_info_once(tmp_path, options):
    for name in ("a.lic", "b.lic"):
        (tmp_path / name).write_bytes(pack(Container(Header(4, 4, MODEL_ID), [b"x"])))
    with open("/dev/full", "w") as full:
        process = start("info", *options, tmp_path, stdout=full)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 4
    assert stderr.count(b"cannot write stdout: no space left on device") == 1 and b"internal error" not in stderr
    assert b"0 of 2 files done, 1 failed" in stderr


def test_stdin_that_cannot_be_read_is_an_input_error(tmp_path):
    with open(tmp_path / "only-written", "w") as file:
        process = start("info", "-", stdin=file, stdout=subprocess.PIPE)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 3
    assert b"lcodec: error: cannot read stdin: " in stderr


@pytest.mark.parametrize("size", range(0, 33, 4))
def test_info_of_a_truncated_file_is_a_stream_error(fake, size):
    Path("a.lic").write_bytes(stream(picture("x/a.png"))[:size])
    assert run("info", "a.lic").exit_code == 6


def test_info_of_a_folder_covers_its_files(fake):
    Path("in/sub").mkdir(parents=True)
    for name in ("in/a.lic", "in/sub/b.lic"):
        Path(name).write_bytes(stream(picture("x/a.png")))
    assert [json.loads(line)["input"] for line in run("info", "--json", "in").stdout.splitlines()] == [
        "in/a.lic",
        "in/sub/b.lic",
    ]


def test_info_does_not_load_torch(tmp_path):
    path = tmp_path / "a.lic"
    path.write_bytes(pack(Container(Header(4, 4, MODEL_ID), [b"x"])))
    check = "import atexit, sys\natexit.register(lambda: print('torch', 'torch' in sys.modules))"
    process = start("info", path, code=check, stdout=subprocess.PIPE)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"not on this machine" in stdout
    assert stdout.endswith(b"torch False\n")


def test_models_are_listed_with_the_default_marked(fake):
    text = run("models").stdout
    assert "* fake" in text and "mbt2018, qualities 1 to 8" in text and "1.23 MB" in text
    assert run("models", "list").stdout == text
    assert run("models", "list", "--json").stdout == run("models", "--json").stdout
    record = json.loads(run("models", "--json").stdout)
    assert record["default"] is True
    assert record["qualities"] == [1, 8]


def test_missing_models_are_told_with_the_places(fake, monkeypatch):
    monkeypatch.setattr(lcodec.weights, "list_models", lambda: [])
    result = run("models")
    assert "no models in /somewhere" in result.stderr


def test_version_is_told_both_ways():
    assert run("--version").stdout == f"lcodec {lcodec.__version__}\n"
    assert run("version").stdout.startswith(f"lcodec {lcodec.__version__}\n")


def test_no_arguments_show_the_help():
    result = run()
    assert result.exit_code == 0
    for command in cli.COMMANDS:
        assert command in result.stdout


def test_module_runs_as_a_program():
    result = subprocess.run([sys.executable, "-m", "lcodec", "--version"], capture_output=True, cwd=ROOT)
    assert result.stdout.decode() == f"lcodec {lcodec.__version__}\n"


# ---- with a real model ----


@pytest.fixture
def gradient(tmp_path, monkeypatch):
    """A smooth picture with an odd size."""
    y, x = np.mgrid[0:50, 0:90]
    pixels = np.stack([2 * x, 4 * y, x + y], axis=2).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return pixels


def test_picture_of_odd_size_goes_there_and_back(model_file, gradient):
    encoded = run("encode", "--model", model_file, "--verify", "--json", "--device", "cpu", "photo.png")
    assert encoded.exit_code == 0, encoded.stderr
    decoded = run("decode", "--json", "--device", "cpu", "photo.lic", "-o", "back.png")  # finds its model
    assert decoded.exit_code == 0, decoded.stderr
    assert PIL.Image.open("back.png").size == (90, 50)
    assert json.loads(encoded.stdout)["digest"] == json.loads(decoded.stdout)["digest"]


def test_same_picture_gives_the_same_file(model_file, gradient):
    for name in ("1.lic", "2.lic"):
        assert run("encode", "--model", model_file, "photo.png", "-o", name).exit_code == 0
    assert Path("1.lic").read_bytes() == Path("2.lic").read_bytes()


def test_batch_with_a_real_model_goes_on_after_a_failure(model_file, gradient):
    Path("in").mkdir()
    os.rename("photo.png", "in/photo.png")
    Path("in/bad.png").write_bytes(b"no image")
    result = run("encode", "--model", model_file, "in", "-o", "out")
    assert result.exit_code == 3
    assert names("out") == ["photo.lic"]


def test_every_truncation_of_a_real_stream_is_refused(model_file, gradient):
    assert run("encode", "--model", model_file, "photo.png").exit_code == 0
    data = Path("photo.lic").read_bytes()
    for size in {0, 5, 20, len(data) // 2, len(data) - 1}:
        Path("cut.lic").write_bytes(data[:size])
        result = run("decode", "--model", model_file, "cut.lic")
        assert result.exit_code == 6, (size, result.output)
    assert not Path("cut.png").exists()


def test_info_digest_is_the_digest_of_the_coder(model_file, gradient):
    encoded = json.loads(run("encode", "--model", model_file, "--json", "photo.png").stdout)
    info = json.loads(run("info", "--digest", "--json", "photo.lic").stdout)
    assert info["digest"] == encoded["digest"]
    assert info["model"] == encoded["model"] == model_file.stem


def test_python_functions_do_what_the_commands_do(model_file, gradient):
    options = ["--device", "cpu", "--threads", "1"]
    assert run("encode", "--model", model_file, "-q", "3", *options, "photo.png").exit_code == 0
    assert run("decode", *options, "photo.lic", "-o", "back.png").exit_code == 0
    data = Path("photo.lic").read_bytes()
    for image in (gradient, PIL.Image.fromarray(gradient), "photo.png", Path("photo.png")):
        assert lcodec.encode(image, model_file, quality=3, device="cpu", threads=1) == data
    decoded = lcodec.decode(data, device="cpu", threads=1)
    assert np.array_equal(np.asarray(decoded), np.asarray(PIL.Image.open("back.png")))
    with pytest.raises(LimitExceeded):
        lcodec.decode(data, max_pixels=100)


def test_json_has_null_for_what_is_no_number(capsys):
    print_json({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (float("-inf"), 2)}})
    assert capsys.readouterr().out == '{"a": null, "b": [1.5, null], "c": {"d": [null, 2]}}\n'
