"""Colour profiles, EXIF, XMP and orientation: kept, replaced, left out, applied once; through files of every format."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import PIL.PngImagePlugin
import pytest

from lcodec.errors import InputError
from lcodec.image import (
    BandedPicture,
    Image,
    Picture,
    fit,
    image_bytes,
    orientation,
    profile,
    read_image,
    to_pillow,
    upright,
)
from lcodec.image.metadata import EXIF_PREFIX
from lcodec.image.profile import P3_CHROMATICITIES, SRGB_CHROMATICITIES, _made

from .test_cli import fake, run  # noqa: F401  # the fixture

SRGB = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
WIDE = profile.from_gamma(1 / 2.2, (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06), gray=False) or b""
GRAY = profile.from_gamma(1 / 1.8, None, gray=True) or b""


def make_exif(turn: int = 1, order: str = "<", type_: int = 3) -> bytes:
    """Make, Orientation, and bytes behind the directory that must stay: a maker's note, say."""
    value = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}[type_], turn)
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    directory = struct.pack(order + "HHHI4s", 2, 0x010F, 2, 4, b"ABC\0")
    directory += struct.pack(order + "HHI", 0x0112, type_, 1) + value + bytes(4)
    return head + directory + b"note\xff\x00\x01"


def make_xmp(turn: int = 1, attribute: bool = True) -> bytes:
    inner = f'tiff:Orientation="{turn}"/>' if attribute else f"><tiff:Orientation>{turn}</tiff:Orientation></d>"
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d {inner}</x:xmpmeta>'.encode()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def stored_as(pixels: np.ndarray, turn: int) -> np.ndarray:
    """How a camera that was held so stores the picture: what Pillow turns upright."""
    undo = {
        2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
        3: PIL.Image.Transpose.ROTATE_180,
        4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
        5: PIL.Image.Transpose.TRANSPOSE,
        6: PIL.Image.Transpose.ROTATE_90,
        7: PIL.Image.Transpose.TRANSVERSE,
        8: PIL.Image.Transpose.ROTATE_270,
    }
    image = PIL.Image.fromarray(pixels)
    return np.asarray(image if turn == 1 else image.transpose(undo[turn]))


# ---- orientation


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_applied_once_and_then_says_upright(pixels, turn):
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    image = read_image(io.BytesIO(saved(stored_as(pixels, turn), exif=exif)))
    assert np.array_equal(image.pixels, pixels)
    assert orientation(image) == 1
    assert upright(image) is image
    back = PIL.ImageOps.exif_transpose(to_pillow(image))
    assert np.array_equal(np.asarray(back), pixels)


@pytest.mark.parametrize("turn", range(1, 9))
def test_kept_orientation_is_applied_by_who_reads_the_output(pixels, turn):
    stored = stored_as(pixels, turn)
    image = read_image(io.BytesIO(saved(stored, exif=EXIF_PREFIX + make_exif(turn))), orient=False)
    assert np.array_equal(image.pixels, stored) and image.exif == make_exif(turn)
    for suffix in (".png", ".webp", ".tiff", ".jpg"):
        data = image_bytes(image, suffix)
        again = read_image(io.BytesIO(data)).pixels
        if suffix == ".jpg":
            assert again.shape == pixels.shape
        else:
            assert np.array_equal(again, pixels), suffix
    for suffix in (".ppm", ".bmp"):  # no place for EXIF: it is applied before it goes
        assert np.array_equal(np.asarray(PIL.Image.open(io.BytesIO(image_bytes(image, suffix)))), pixels)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("type_", [1, 3, 4])
def test_nothing_but_the_orientation_changes_in_exif(pixels, order, type_):
    picture = Picture(pixels, exif=make_exif(6, order, type_))
    assert orientation(picture) == 6
    assert upright(picture).exif == make_exif(1, order, type_)
    assert upright(picture).pixels.shape == (7, 5, 3)


@pytest.mark.parametrize("attribute", [False, True])
def test_orientation_in_xmp_counts_without_exif_and_becomes_upright(pixels, attribute):
    picture = Picture(pixels, pixels[..., 0].copy(), xmp=make_xmp(8, attribute))
    turned = upright(picture)
    assert np.array_equal(turned.pixels, np.rot90(pixels)) and np.array_equal(turned.alpha, np.rot90(pixels[..., 0]))
    assert turned.xmp == make_xmp(1, attribute)
    both = Picture(pixels, exif=make_exif(1), xmp=make_xmp(8, attribute))
    assert orientation(both) == 1 and upright(both).xmp == make_xmp(1, attribute)


def test_tiff_that_pillow_turns_is_not_turned_twice(pixels):
    data = image_bytes(Picture(stored_as(pixels, 6), exif=make_exif(6)), ".tif")
    for orient in (True, False):
        image = read_image(io.BytesIO(data), orient=orient)
        assert np.array_equal(image.pixels, pixels)
        assert orientation(image) == 1


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        make_exif(6)[:25],
        make_exif(9),
        make_exif(0),
        b"rubbish" * 9,
    ],
)
def test_broken_exif_says_nothing_and_is_kept_as_it_is(pixels, exif):
    picture = Picture(pixels, exif=exif)
    assert orientation(picture) == 1 and upright(picture) is picture
    if exif:
        image = read_image(io.BytesIO(saved(pixels, exif=EXIF_PREFIX + exif)))
        assert np.array_equal(image.pixels, pixels) and image.exif == exif
        assert fit(image, ".png")[1] == fit(image, ".jpg")[1] == fit(image, ".webp")[1] == []
        for suffix in (".png", ".jpg", ".webp", ".tiff", ".ppm"):
            assert read_image(io.BytesIO(image_bytes(image, suffix))).width == 7


# ---- through the formats


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg", ".tiff"])
def test_metadata_go_into_every_format_that_has_a_place(pixels, mode, suffix, deep):
    dtype = np.uint16 if deep else np.uint8
    samples = (pixels.astype(dtype) << (8 if deep else 0)) + dtype(7)
    alpha = samples[..., 2].copy() if mode.endswith("A") else None
    icc = GRAY if mode.startswith("L") else WIDE
    picture = Picture(samples[..., 0].copy() if mode[0] == "L" else samples, alpha, icc, make_exif(), make_xmp())
    wanted, lost = fit(picture, suffix)
    holds = {".png": "a 16", ".tiff": "a 16", ".webp": "a", ".jpg": ""}[suffix]
    assert (wanted.alpha is not None) == (alpha is not None and "a" in holds)
    assert wanted.deep == (deep and "16" in holds)
    colour_only = suffix == ".webp" and mode[0] == "L"  # WebP is always in colour, which a gray profile is not for
    assert (wanted.icc is None) == colour_only
    assert bool(lost) == (wanted.mode != mode or wanted.deep != deep or colour_only)
    image = read_image(io.BytesIO(image_bytes(picture, suffix)))
    assert image.xmp == make_xmp()
    assert image.exif == make_exif() if suffix != ".tiff" else b"ABC" in (image.exif or b"")
    assert image.warnings == ()  # not even of a profile for other samples
    if not colour_only:
        assert image.icc == icc
        assert image.mode == wanted.mode
    if suffix in (".png", ".tiff"):
        assert np.array_equal(image.pixels, wanted.pixels)
        assert alpha is None or np.array_equal(image.alpha, alpha)


def test_what_a_format_cannot_hold_is_told(pixels):
    full = Picture(pixels.astype(np.uint16), pixels[..., 0].astype(np.uint16), SRGB, make_exif(), make_xmp())
    assert fit(full, ".png") == (full, [])
    assert fit(full, ".ppm")[1] == ["PPM cannot hold alpha, the colour profile, EXIF and XMP"]
    assert fit(full, ".bmp")[1] == ["BMP cannot hold alpha, 16 bits a sample, the colour profile, EXIF and XMP"]
    assert fit(full, ".jpg")[1] == ["JPEG cannot hold alpha and 16 bits a sample"]
    assert fit(full, ".webp")[1] == ["WEBP cannot hold 16 bits a sample"]
    long = Picture(pixels, exif=make_exif(6) + bytes(70000), xmp=make_xmp() + b" " * 70000)
    fitted, lost = fit(long, ".jpg")
    assert lost == ["JPEG cannot hold EXIF and XMP"]
    assert fitted.pixels.shape == (7, 5, 3)  # the orientation is not lost with the EXIF
    assert fit(Picture(pixels, xmp=b"\xff\xfe"), ".png")[1] == ["PNG cannot hold XMP"]
    assert fit(Picture(pixels[..., 0].copy(), icc=GRAY), ".webp")[1] == ["WEBP cannot hold the colour profile"]


@pytest.mark.parametrize("exif", [None, make_exif(6)])
@pytest.mark.parametrize("banded", [False, True])
def test_orientation_in_xmp_is_applied_before_it_goes(pixels, exif, banded):
    picture = Picture(stored_as(pixels, 6), exif=exif, xmp=make_xmp(6))
    for suffix in (".ppm", ".bmp"):
        fitted, _ = fit(BandedPicture.of(picture) if banded else picture, suffix)
        shown = fitted.whole() if isinstance(fitted, BandedPicture) else fitted
        assert np.array_equal(shown.pixels, pixels)
    long = Picture(stored_as(pixels, 6), exif=exif, xmp=make_xmp(6) + b" " * 70000)
    fitted, lost = fit(long, ".jpg")
    assert lost == ["JPEG cannot hold XMP"]
    # EXIF that stays goes on saying how the pixels lie
    assert np.array_equal(upright(fitted).pixels, pixels) and orientation(fitted) == (1 if exif is None else 6)


def test_exif_of_a_tiff_survives_its_directories(pixels):
    exif = PIL.Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    exif.get_ifd(0x8825)[1] = "N"
    block = exif.tobytes().removeprefix(EXIF_PREFIX)
    image = read_image(io.BytesIO(image_bytes(Picture(pixels, exif=block), ".tiff")))
    again = PIL.Image.Exif()
    again.load(image.exif or b"")
    assert again[0x010F] == "Maker"
    assert again.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
    assert again.get_ifd(0x8825)[1] == "N"


def full_exif() -> bytes:
    """Text beyond ASCII in UTF-8 and in Latin-1, and tags that Pillow does not know."""

    class Text(str):
        def encode(self, *_: object) -> bytes:
            return str.encode(self, "utf-8")

    exif = PIL.Image.Exif()
    exif[0x8298] = Text("\xa9 J\xfcrgen M\xfcller")  # Copyright
    exif[0x010E] = "\xfc".encode("latin-1")  # ImageDescription
    exif[0x4746] = 4  # Rating
    exif[0x9C9B] = "T\xeftle".encode("utf-16-le")  # XPTitle
    exif[0x0213] = 1  # YCbCrPositioning
    exif[0xC4A5] = b"PrintIM\0abc"
    exif[0x0100], exif[0x0111] = 7, 8  # ImageWidth, StripOffsets
    exif.get_ifd(0x8769)[0xA430] = Text("\xd6")  # CameraOwnerName
    return exif.tobytes().removeprefix(EXIF_PREFIX)


def test_text_and_tags_of_exif_survive_tiff(pixels):
    picture = Picture(pixels, exif=full_exif())
    assert fit(picture, ".tiff") == (picture, [])
    image = read_image(io.BytesIO(image_bytes(picture, ".tiff")))
    assert image.warnings == () and np.array_equal(image.pixels, pixels)
    before, after = PIL.Image.Exif(), PIL.Image.Exif()
    before.load(full_exif())
    after.load(image.exif or b"")
    for tag in (0x8298, 0x010E, 0x4746, 0x9C9B, 0x0213, 0xC4A5):
        assert after[tag] == before[tag], tag
    assert before[0x8298].encode("latin-1").decode() == "\xa9 J\xfcrgen M\xfcller"
    assert after.get_ifd(0x8769)[0xA430] == before.get_ifd(0x8769)[0xA430]
    assert not {0x0100, 0x0111} & set(after)  # of samples that lie otherwise now


def test_exif_and_xmp_that_imagemagick_hides_in_text_are_found(pixels):
    text = PIL.PngImagePlugin.PngInfo()
    exif = EXIF_PREFIX + make_exif(6)
    text.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n")
    text.add_text("Raw profile type xmp", f"\nxmp\n{len(make_xmp()):8}\n{make_xmp().hex()}\n")
    image = read_image(io.BytesIO(saved(pixels, pnginfo=text)), orient=False)
    assert (image.exif, image.xmp) == (make_exif(6), make_xmp())


def test_segment_that_imagemagick_hides_in_text_is_what_it_is(pixels):
    for content in (EXIF_PREFIX + make_exif(6), b"http://ns.adobe.com/xap/1.0/\0" + make_xmp()):
        text = PIL.PngImagePlugin.PngInfo()
        text.add_text("Raw profile type APP1", f"\ngeneric profile\n{len(content):8}\n{content.hex()}\n")
        image = read_image(io.BytesIO(saved(pixels, pnginfo=text)), orient=False)
        wanted = (make_exif(6), None) if content.startswith(EXIF_PREFIX) else (None, make_xmp())
        assert (image.exif, image.xmp) == wanted and image.warnings == ()


# ---- profiles


def test_wide_gamut_profile_survives_untouched(pixels):
    image = read_image(io.BytesIO(saved(pixels, icc_profile=WIDE)))
    assert image.icc == WIDE and image.warnings == () and np.array_equal(image.pixels, pixels)


@pytest.mark.parametrize(
    "icc, word, kept",
    [
        (b"something else", "damaged", True),
        (SRGB[:200], None, True),
        (SRGB[:16] + b"CMYK" + SRGB[20:], "for CMYK", False),
        (GRAY, "for GRAY", False),
    ],
)
def test_odd_profile_is_kept_or_dropped_with_a_warning(pixels, icc, word, kept):
    image = read_image(io.BytesIO(saved(pixels, icc_profile=icc)))
    assert image.icc == (icc if kept else None)
    assert [word in text for text in image.warnings] == ([True] if word else [])
    assert np.array_equal(read_image(io.BytesIO(image_bytes(image, ".png"))).pixels, pixels)


def test_cmyk_goes_through_its_profile_with_a_notice(pixels, monkeypatch):
    """No CMYK profile is at hand; the transform is asked for with what the file has, and its outcome is used."""
    asked = []

    def transform(image, source, target, intent, mode, flags):
        asked.append((image.mode, source.tobytes(), mode))
        return PIL.Image.new("RGB", image.size, (9, 8, 7))

    monkeypatch.setattr(PIL.ImageCms, "profileToProfile", transform)
    buffer = io.BytesIO()
    PIL.Image.new("CMYK", (4, 3), (10, 20, 30, 40)).save(buffer, "JPEG", icc_profile=SRGB, xmp=b"<x/>")
    image = read_image(io.BytesIO(buffer.getvalue()))
    assert image.pixels[0, 0].tolist() == [9, 8, 7]
    assert image.icc is None and image.xmp == b"<x/>"
    assert image.warnings == ("CMYK is converted to sRGB through its colour profile",)
    assert [(mode, out) for mode, _, out in asked] == [("CMYK", "RGB")]


def test_profile_that_cannot_convert_cmyk_is_told():
    buffer = io.BytesIO()
    PIL.Image.new("CMYK", (4, 3), (0, 255, 255, 0)).save(buffer, "JPEG", icc_profile=SRGB)
    image = read_image(io.BytesIO(buffer.getvalue()))
    assert image.warnings == (
        "CMYK is converted to RGB without colour management, for its profile cannot be used",
    )
    assert image.icc is None and image.pixels[0, 0, 0] > 240


@pytest.mark.parametrize("gamma", [0.35, 1.0])
def test_gamma_of_a_png_becomes_a_profile_that_means_the_same(pixels, gamma):
    gray = read_image(io.BytesIO(with_gamma(saved(np.full((2, 2), 128, np.uint8)), gamma)))
    assert profile.colour_space(gray.icc or b"") == "GRAY"
    image = read_image(io.BytesIO(with_gamma(saved(np.full((2, 2, 3), 128, np.uint8)), gamma)))
    assert profile.colour_space(image.icc or b"") == "RGB" and image.warnings == ()
    made = PIL.ImageCms.profileToProfile(
        PIL.Image.fromarray(image.pixels), io.BytesIO(image.icc or b""), PIL.ImageCms.createProfile("sRGB")
    )
    light = (128 / 255) ** (1 / gamma)
    srgb = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(np.asarray(made).astype(float) - srgb).max() < 2


def test_profile_of_any_size_comes_back_from_a_png(pixels):
    """Pillow reads a MiB by itself."""
    large = WIDE + np.random.default_rng(0).bytes(3 << 20)
    before = PIL.PngImagePlugin.MAX_TEXT_CHUNK
    assert read_image(io.BytesIO(image_bytes(Picture(pixels, icc=large), ".png"))).icc == large
    assert PIL.PngImagePlugin.MAX_TEXT_CHUNK == before
    with pytest.raises(InputError):
        read_image(io.BytesIO(image_bytes(Picture(pixels, icc=WIDE + bytes(64 << 20)), ".png")))


def test_gamma_that_everybody_assumes_needs_no_profile(pixels):
    assert read_image(io.BytesIO(with_gamma(saved(pixels), 0.45455))).icc is None
    assert read_image(io.BytesIO(with_gamma(saved(pixels), 0.0))).icc is None


def with_gamma(png: bytes, gamma: float) -> bytes:
    import zlib

    chunk = b"gAMA" + struct.pack(">I", round(100000 * gamma))
    return png[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def test_pillow_images_bring_and_get_their_metadata(pixels):
    source = Picture(pixels, pixels[..., 1].copy(), SRGB, make_exif(), make_xmp())
    image = to_pillow(source)
    assert image.mode == "RGBA" and image.getexif()[0x010F] == "ABC"
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=image.info["exif"])
    assert read_image(buffer := io.BytesIO(buffer.getvalue())).exif == make_exif()
    assert to_pillow(Picture(pixels[..., 0].astype(np.uint16))).mode == "I;16"


# ---- the command line


def info(name: str) -> dict:
    return json.loads(run("info", "--json", name).stdout)


def decoded(name: str = "a.lic", *options: str) -> Image:
    result = run("decode", "--force", *options, name, "-o", "out.png")
    assert result.exit_code == 0, result.output
    return read_image("out.png", orient=False)


def test_everything_is_kept_by_default(fake, pixels):  # noqa: F811
    alpha = pixels[..., 0].copy()
    Path("a.png").write_bytes(image_bytes(Picture(pixels, alpha, WIDE, make_exif(), make_xmp()), ".png"))
    assert run("encode", "--verify", "a.png").exit_code == 0
    image = decoded()
    assert np.array_equal(image.pixels, pixels) and np.array_equal(image.alpha, alpha)
    assert (image.icc, image.exif, image.xmp) == (WIDE, make_exif(), make_xmp())


def test_strip_leaves_what_the_colours_need(fake, pixels):  # noqa: F811
    for name, icc, kept in (("wide", WIDE, WIDE), ("srgb", SRGB, None)):
        stored = stored_as(pixels, 6)
        Path(f"{name}.png").write_bytes(image_bytes(Picture(stored, None, icc, make_exif(6), make_xmp(6)), ".png"))
        assert run("encode", "--strip", "--orient", "keep", f"{name}.png").exit_code == 0
        image = decoded(f"{name}.lic")
        assert (image.icc, image.exif, image.xmp) == (kept, None, None)
        assert np.array_equal(image.pixels, pixels)  # turned, for nothing can say any more how it lies
        assert run("encode", "--force", f"{name}.png").exit_code == 0
        image = decoded(f"{name}.lic", "--strip")
        assert (image.icc, image.exif, image.xmp) == (kept, None, None)


def test_profile_that_is_only_called_srgb_stays(fake, pixels):  # noqa: F811
    linear = _made("GIMP built-in Linear sRGB", SRGB_CHROMATICITIES, struct.pack(">I", 0), gray=False)
    wide = _made("Rec2020-elle-V4-srgbtrc", P3_CHROMATICITIES, struct.pack(">IH", 1, 563), gray=False)
    gray = _made("Gray with sRGB in its name", SRGB_CHROMATICITIES, struct.pack(">IH", 1, 563), gray=True)
    assert linear and wide and gray and profile.is_srgb(SRGB)
    for icc, name in ((linear, "Linear"), (wide, "Rec2020"), (gray, "Gray")):
        assert "sRGB" in profile.describe(icc) or "srgb" in profile.describe(icc), name
        assert not profile.is_srgb(icc), name
    Path("a.png").write_bytes(image_bytes(Picture(pixels, None, linear), ".png"))
    assert run("encode", "--strip", "a.png").exit_code == 0
    assert decoded("a.lic").icc == decoded("a.lic", "--strip").icc == linear


def test_orientation_through_the_commands_is_never_lost_or_applied_twice(fake, pixels):  # noqa: F811
    Path("a.png").write_bytes(image_bytes(Picture(stored_as(pixels, 8), exif=make_exif(8)), ".png"))
    for encode in ("apply", "keep"):
        assert run("encode", "--force", "--orient", encode, "a.png").exit_code == 0
        for decode in ("apply", "keep"):
            image = decoded("a.lic", "--orient", decode)
            assert orientation(image) == (8 if (encode, decode) == ("keep", "keep") else 1)
            assert np.array_equal(upright(image).pixels, pixels)
        assert run("decode", "--force", "a.lic", "-o", "out.ppm").exit_code == 0
        assert np.array_equal(np.asarray(PIL.Image.open("out.ppm")), pixels)


def test_metadata_can_be_given_and_taken(fake, pixels):  # noqa: F811
    Path("a.png").write_bytes(image_bytes(Picture(pixels, None, SRGB, make_exif(), make_xmp()), ".png"))
    Path("wide.icc").write_bytes(WIDE)
    Path("new.exif").write_bytes(EXIF_PREFIX + make_exif(order=">"))
    Path("new.xmp").write_bytes(b"<other/>")
    options = ["--icc", "wide.icc", "--exif", "new.exif", "--xmp", "new.xmp"]
    assert run("encode", *options, "a.png").exit_code == 0
    image = decoded()
    assert (image.icc, image.exif, image.xmp) == (WIDE, make_exif(order=">"), b"<other/>")
    assert run("encode", "--force", "--icc", "none", "--exif", "none", "--xmp", "none", "a.png").exit_code == 0
    image = decoded()
    assert (image.icc, image.exif, image.xmp) == (None, None, None)


@pytest.mark.parametrize("turn", [1, 6])
def test_strip_leaves_what_is_given(fake, pixels, turn):  # noqa: F811
    stored = stored_as(pixels, 6)
    Path("a.png").write_bytes(image_bytes(Picture(stored, None, WIDE, make_exif(6), make_xmp(6)), ".png"))
    block = make_exif(turn, order=">")
    Path("new.exif").write_bytes(block)
    assert run("encode", "--strip", "--exif", "new.exif", "--orient", "keep", "a.png").exit_code == 0
    image = decoded()
    assert (image.exif, image.xmp) == (block, None)
    assert np.array_equal(image.pixels, stored)  # it says how they lie


@pytest.mark.parametrize("options", [["--strip"], ["--exif", "none"]])
@pytest.mark.parametrize("orient", ["apply", "keep"])
def test_xmp_that_is_given_does_not_turn_again(fake, pixels, options, orient):  # noqa: F811
    Path("a.png").write_bytes(image_bytes(Picture(stored_as(pixels, 6), exif=make_exif(6), xmp=make_xmp(6)), ".png"))
    Path("new.xmp").write_bytes(make_xmp(6))
    assert run("encode", *options, "--xmp", "new.xmp", "--orient", orient, "a.png").exit_code == 0
    image = decoded()
    assert np.array_equal(image.pixels, pixels) and image.xmp == make_xmp(1)


@pytest.mark.parametrize("given", [6, None])
def test_exif_that_is_given_does_not_lose_the_orientation(fake, pixels, given):  # noqa: F811
    """The block that goes along says how the pixels lie; if it says nothing, they are turned as the old one says."""
    stored = stored_as(pixels, 6)
    Path("a.png").write_bytes(image_bytes(Picture(stored, exif=make_exif(6)), ".png"))
    block = make_exif(given or 1)
    if given is None:
        block = block.replace(struct.pack("<H", 0x0112), struct.pack("<H", 0x0113))
    Path("new.exif").write_bytes(block)
    for options in ([], ["--orient", "keep"]):
        assert run("encode", "--force", "--exif", "new.exif", *options, "a.png").exit_code == 0
        image = decoded()
        assert np.array_equal(upright(image).pixels, pixels)
    assert run("encode", "--force", "--exif", "none", "--orient", "keep", "a.png").exit_code == 0
    assert np.array_equal(decoded().pixels, pixels)


@pytest.mark.parametrize("given", ["none", "new.xmp"])
@pytest.mark.parametrize("orient", ["apply", "keep"])
def test_xmp_that_is_given_does_not_lose_the_orientation(fake, pixels, given, orient):  # noqa: F811
    """Where nothing that goes along says how the pixels lie they are turned as the old packet says."""
    stored = stored_as(pixels, 6)
    Path("new.xmp").write_bytes(b"<x/>")
    Path("a.png").write_bytes(image_bytes(Picture(stored, xmp=make_xmp(6)), ".png"))
    assert run("encode", "--xmp", given, "--orient", orient, "a.png").exit_code == 0
    image = decoded()
    assert np.array_equal(image.pixels, pixels) and image.xmp == (None if given == "none" else b"<x/>")
    Path("a.png").write_bytes(image_bytes(Picture(stored, exif=make_exif(6), xmp=make_xmp(6)), ".png"))
    assert run("encode", "--force", "--xmp", given, "--orient", orient, "a.png").exit_code == 0
    image = decoded()  # EXIF stays and says it
    assert orientation(image) == (6 if orient == "keep" else 1)
    assert np.array_equal(upright(image).pixels, pixels)


@pytest.mark.parametrize(
    "options, code, message",
    [
        (["--icc", "missing"], 3, "cannot read missing"),
        (["--exif", "empty"], 3, "empty is empty"),
        (["--xmp", ""], 2, "--xmp names nothing"),
        (["--icc", "text"], 2, "is not an ICC profile"),
        (["--exif", "text"], 2, "is not EXIF"),
        (["--icc", "gray.icc"], 3, "other samples than the profile is for, GRAY"),
        (["--orient", "sideways"], 2, "orient"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(fake, pixels, options, code, message):  # noqa: F811
    Path("a.png").write_bytes(saved(pixels))
    Path("empty").write_bytes(b"")
    Path("text").write_bytes(b"some text that is long enough" * 9)
    Path("gray.icc").write_bytes(GRAY)
    result = run("encode", *options, "a.png")
    assert result.exit_code == code and message in result.stderr
    assert not Path("a.lic").exists()


def test_strict_makes_losses_errors(fake, pixels):  # noqa: F811
    first = PIL.Image.fromarray(pixels)
    first.save("a.tif", save_all=True, append_images=[PIL.Image.fromarray(255 - pixels)])
    result = run("encode", "--strict", "a.tif")
    assert result.exit_code == 3 and "only the first frame" in result.stderr
    assert not Path("a.lic").exists()
    result = run("encode", "a.tif")
    assert result.exit_code == 0 and "warning: a.tif: only the first frame is used" in result.stderr
    assert np.array_equal(decoded().pixels, pixels)
    Path("b.png").write_bytes(image_bytes(Picture(pixels, pixels[..., 0].copy()), ".png"))
    assert run("encode", "--strict", "b.png").exit_code == 0
    result = run("decode", "--strict", "b.lic", "-o", "b.jpg")
    assert result.exit_code == 4 and "JPEG cannot hold alpha" in result.stderr
    assert not Path("b.jpg").exists()
    result = run("decode", "b.lic", "-o", "b.jpg")
    assert result.exit_code == 0 and "warning: b.lic: JPEG cannot hold alpha" in result.stderr


def test_strict_png_names_a_format_that_holds_what_it_cannot(fake, pixels):  # noqa: F811
    Path("a.png").write_bytes(saved(pixels))
    Path("latin.xmp").write_bytes(b"<x>\xe4</x>")
    assert run("encode", "--xmp", "latin.xmp", "a.png").exit_code == 0
    result = run("decode", "--strict", "a.lic", "-o", "b.png")
    assert result.exit_code == 4 and "PNG cannot hold XMP" in result.stderr
    assert "hint: tiff holds it, --strip leaves it out" in result.stderr
    assert run("decode", "--strict", "a.lic", "-o", "b.tiff").exit_code == 0
    assert run("decode", "--strict", "--strip", "a.lic", "-o", "b.png").exit_code == 0


def test_alpha_can_be_dropped(fake, pixels):  # noqa: F811
    Path("a.png").write_bytes(image_bytes(Picture(pixels, pixels[..., 0].copy()), ".png"))
    assert run("encode", "--drop-alpha", "a.png").exit_code == 0
    image = decoded()
    assert image.alpha is None and np.array_equal(image.pixels, pixels)


def test_damaged_metadata_is_a_warning_or_with_strict_an_error(fake, pixels):  # noqa: F811
    Path("a.png").write_bytes(saved(pixels, icc_profile=WIDE))
    assert run("encode", "a.png").exit_code == 0
    data = bytearray(Path("a.lic").read_bytes())
    data[60] ^= 1
    Path("a.lic").write_bytes(data)
    result = run("decode", "a.lic", "-o", "b.png", "--strict")
    assert result.exit_code == 6 and "ICC" in result.output and not Path("b.png").exists()
    result = run("decode", "a.lic", "-o", "b.png")
    assert result.exit_code == 0 and "skipped section ICC" in result.output


def damaged_inputs(pixels: np.ndarray) -> dict[str, tuple[bytes, str]]:
    """Image files with damaged metadata, by name, and what is told of each."""
    profile_chunk = b"name\0\0" + b"not of zlib"
    late = saved(pixels)
    packet = b"XML:com.adobe.xmp\0\1\0\0\0" + b"not of zlib"
    chunk = struct.pack(">I", len(packet)) + b"iTXt" + packet + struct.pack(">I", zlib.crc32(b"iTXt" + packet))
    parts = saved(pixels, "JPEG", icc_profile=WIDE + bytes(100000))
    first = parts.index(b"\xff\xe2")
    without = parts[:first] + parts[first + 2 + int.from_bytes(parts[first + 2 : first + 4], "big") :]
    tiff = bytearray(saved(pixels, "TIFF", tiffinfo={270: "Description", 315: "Somebody"}))
    artist = tiff.index(struct.pack("<HHI", 315, 2, 9))
    tiff[artist + 8 : artist + 12] = struct.pack("<I", len(tiff) - 3)
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "no hexadecimal digits")
    return {
        "icc.png": (with_chunk(saved(pixels), b"iCCP", profile_chunk), "the colour profile is damaged"),
        "xmp.png": (with_chunk(saved(pixels), b"iTXt", packet), "XMP is damaged"),
        "late-xmp.png": (late[:-12] + chunk + late[-12:], "XMP is damaged"),
        "exif.png": (saved(pixels, pnginfo=text), "EXIF is damaged"),
        "icc.jpg": (without, "the colour profile is damaged"),
        "artist.tif": (bytes(tiff), "tags of the TIFF are damaged"),
    }


def test_damaged_metadata_of_an_input_are_told(pixels):
    for name, (data, word) in damaged_inputs(pixels).items():
        image = read_image(io.BytesIO(data), name=name)
        assert [word in text for text in image.warnings] == [True], (name, image.warnings)
        assert image.icc is None and image.xmp is None
        if name == "artist.tif":
            assert b"Description" in (image.exif or b"")  # what is whole stays
    empty = with_chunk(saved(pixels), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0")
    assert read_image(io.BytesIO(empty)).warnings == ()


def test_damaged_metadata_of_an_input_are_an_error_with_strict(fake, pixels):  # noqa: F811
    for name, (data, word) in damaged_inputs(pixels).items():
        Path(name).write_bytes(data)
        result = run("encode", "--strict", name, "-o", "a.lic")
        assert result.exit_code == 3 and word in result.stderr, name
        assert not Path("a.lic").exists()


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_report_is_about_the_picture_as_it_was_written(fake, pixels, suffix):  # noqa: F811
    Path("a.png").write_bytes(saved(pixels, exif=make_exif(6)))
    assert run("encode", "a.png", "--orient", "keep").exit_code == 0
    result = run("decode", "a.lic", "-o", f"b.{suffix}", "--orient", "apply" if suffix == "png" else "keep", "--json")
    told = json.loads(result.stdout)
    with PIL.Image.open(f"b.{suffix}") as image:
        assert image.size == (told["width"], told["height"]) == (5, 7)


@pytest.mark.parametrize("order, sizes", [("<", "HI"), (">", "IH"), ("<", "HH")])
def test_what_exif_says_of_the_pixels_turns_with_them(pixels, order, sizes):
    """Directories: the first with orientation and a link, that of sizes, and the one of a thumbnail."""
    types = {"H": 3, "I": 4}
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    first = struct.pack(order + "HHHIHHHHII", 2, 0x0112, 3, 1, 6, 0, 0x8769, 4, 1, 38) + struct.pack(order + "I", 68)
    sides = struct.pack(order + "H", 2)
    for tag, kind, value in ((0xA002, sizes[0], 7), (0xA003, sizes[1], 5)):
        sides += struct.pack(order + "HHI", tag, types[kind], 1) + struct.pack(order + kind, value).ljust(4, b"\0")
    thumbnail = struct.pack(order + "HHHIHHI", 1, 0x0103, 3, 1, 6, 0, 0)
    exif = head + first + sides + bytes(4) + thumbnail
    before = PIL.Image.Exif()
    before.load(EXIF_PREFIX + exif)
    assert (before[0x0112], before.get_ifd(0x8769)[0xA002], before.get_ifd(0x8769)[0xA003]) == (6, 7, 5)

    turned = upright(Picture(pixels, exif=exif))
    after = PIL.Image.Exif()
    after.load(EXIF_PREFIX + (turned.exif or b""))
    inside = after.get_ifd(0x8769)
    assert (after[0x0112], inside[0xA002], inside[0xA003]) == (1, 5, 7)
    assert (turned.width, turned.height) == (5, 7)
    link = 8 + 2 + 2 * 12  # to the next directory
    assert struct.unpack_from(order + "I", exif, link) == (68,)
    assert struct.unpack_from(order + "I", turned.exif or b"", link) == (0,)


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return png[:33] + chunk + png[33:]


def test_display_p3_of_a_png_becomes_its_profile(pixels):
    image = read_image(io.BytesIO(with_chunk(saved(pixels), b"cICP", bytes([12, 13, 0, 1]))))
    assert image.warnings == () and profile.describe(image.icc or b"") == "Display P3"
    to_srgb = PIL.ImageCms.buildTransform(
        PIL.ImageCms.ImageCmsProfile(io.BytesIO(image.icc or b"")), PIL.ImageCms.createProfile("sRGB"), "RGB", "RGB"
    )
    seen = PIL.ImageCms.applyTransform(PIL.Image.new("RGB", (1, 1), (200, 100, 50)), to_srgb)
    assert seen is not None
    # by the matrices of IEC 61966-2-1 and SMPTE EG 432-1: linear P3 to linear sRGB
    light = np.array([200, 100, 50]) / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    light = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]]) @ light
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)
    assert np.abs(np.array(seen.getpixel((0, 0))) - expected).max() < 2


@pytest.mark.parametrize("values, warned", [((1, 13), False), ((9, 16), True), ((9, 18), True)])
def test_other_colours_of_cicp_are_warned_of(pixels, values, warned):
    image = read_image(io.BytesIO(with_chunk(saved(pixels), b"cICP", bytes([*values, 0, 1]))))
    assert image.icc is None and ("cICP" in "".join(image.warnings)) == warned
    both = with_chunk(saved(pixels, icc_profile=WIDE), b"cICP", bytes([*values, 0, 1]))
    assert read_image(io.BytesIO(both)).icc == WIDE


def test_strict_reading_names_the_file():
    from lcodec.cli.metadata import Wanted

    with pytest.raises(InputError, match="x.tif: only"):
        Wanted(strict=True).apply(Image(np.zeros((1, 1), np.uint8), name="x.tif", warnings=("only the first",)))
