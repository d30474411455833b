"""Pictures that come and go by rows are the same as those that are read and written as a whole."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from lcodec.errors import InputError, OutputError, UsageError
from lcodec.image import (
    AlphaEncoder,
    BandedPicture,
    NotByRows,
    Picture,
    alpha,
    decode_alpha,
    encode_alpha,
    fill_transparent_bands,
    fit,
    image_bytes,
    limit_hint,
    open_rows,
    read_image,
    regrouped,
    turning,
    upright,
    write_bands,
)

ICC = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'
NAMES = ("pixels", "alpha", "icc", "exif", "xmp")


def exif(orientation: int = 6) -> bytes:
    tags = PIL.Image.Exif()
    tags[0x0112], tags[0x010F] = orientation, "a camera"
    return tags.tobytes()


def same(a: Picture, b: Picture, names: tuple[str, ...] = NAMES) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


def picture_of(photo: np.ndarray, mode: str, deep: bool = False) -> Picture:
    pixels = photo[:70, :90] if mode.startswith("RGB") else photo[:70, :90, 1]
    transparency = np.tile(np.arange(90, dtype=np.uint8) * 2, (70, 1)) if mode.endswith("A") else None
    if deep:
        pixels = pixels * np.uint16(257) + np.arange(90, dtype=np.uint16).reshape(90, *[1] * (pixels.ndim - 2))
        transparency = None if transparency is None else transparency * np.uint16(300)
    return Picture(np.ascontiguousarray(pixels), transparency)


def saved(photo: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(photo[:200, :133]).save(buffer, kind, **options)
    return buffer.getvalue()


# ---- reading


@pytest.fixture
def vips() -> None:
    pytest.importorskip("pyvips", reason="extra 'large' is not installed")


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
def test_lossless_files_are_read_by_rows_as_they_are_as_a_whole(suffix, mode, deep, photo, vips, monkeypatch):
    monkeypatch.setattr("lcodec.image.rows.BAND_ROWS", 16)
    data = image_bytes(picture_of(photo, mode, deep), suffix)
    whole = read_image(io.BytesIO(data), orient=False)
    by_rows = open_rows(data, name="a")
    assert (by_rows.deep, by_rows.file_bytes, by_rows.mode) == (deep, len(data), whole.mode)
    assert same(by_rows.whole(), whole)


@pytest.mark.parametrize(
    "kind, options",
    [
        ("JPEG", {"quality": 80, "subsampling": 2, "exif": exif(), "icc_profile": ICC, "xmp": XMP}),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
        ("PNG", {"exif": exif(3), "icc_profile": ICC}),
        ("TIFF", {"compression": "tiff_lzw", "icc_profile": ICC, "tiffinfo": {274: 8, 271: "a camera"}}),
        ("TIFF", {"compression": "tiff_adobe_deflate", "tiffinfo": {274: 2}}),
        ("WEBP", {"quality": 80, "exif": exif(7), "xmp": XMP}),
        ("WEBP", {"lossless": True, "icc_profile": ICC}),
        ("PPM", {}),
    ],
)
@pytest.mark.parametrize("from_file", [True, False])
def test_metadata_and_orientation_are_those_of_the_whole(kind, options, from_file, photo, vips, tmp_path):
    data = saved(photo, kind, **options)
    path = tmp_path / "a[page=1].image"
    path.write_bytes(data)
    for turn in (lambda picture: picture, upright):
        whole = turn(read_image(path, orient=False))
        by_rows = turn(open_rows(path if from_file else data, name=str(path)))
        assert (by_rows.height, by_rows.width) == (whole.height, whole.width)
        assert (by_rows.warnings, by_rows.name) == (whole.warnings, whole.name)
        assert same(by_rows.whole(), whole)


def test_16_bit_gray_ppm_needs_no_library(photo, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    gray = picture_of(photo, "L", deep=True)
    assert same(open_rows(image_bytes(gray, ".pgm"), name="a").whole(), gray)


def unreadable_by_rows(photo: np.ndarray) -> dict[str, bytes]:
    palette = io.BytesIO()
    PIL.Image.fromarray(photo[:50, :50]).quantize(16).save(palette, "PNG")
    frames = io.BytesIO()
    first, second = (PIL.Image.fromarray(photo[i : 50 + i, :50]) for i in range(2))
    first.save(frames, "WEBP", save_all=True, append_images=[second])
    return {
        "P": palette.getvalue(),
        "GIF": saved(photo, "GIF"),
        "BMP": saved(photo, "BMP"),
        "moving": frames.getvalue(),
        "PPM": b"P3 1 1 255\n1 2 3\n",
        "RGB of": saved(photo, "PNG", transparency=(1, 2, 3)),
        "CMYK": cmyk(photo),
    }


def cmyk(photo: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(photo[:50, :50]).convert("CMYK").save(buffer, "JPEG")
    return buffer.getvalue()


def test_what_libraries_may_take_differently_is_left_to_the_whole(photo, vips):
    for words, data in unreadable_by_rows(photo).items():
        with pytest.raises(NotByRows, match=f"(?i){words}"):
            open_rows(data, name="a")
        assert read_image(io.BytesIO(data)).height > 0


def test_large_strip_of_a_tiff_is_read(vips):
    """Which libvips refuses by itself, as a bomb."""
    pixels = np.zeros((4300, 4300, 3), np.uint8)
    pixels[:, ::7] = 200
    data = io.BytesIO()
    PIL.Image.fromarray(pixels).save(data, "TIFF", compression="tiff_adobe_deflate", strip_size=2**30)
    picture = open_rows(data.getvalue(), name="a")
    assert all(np.array_equal(band, pixels[: len(band)]) for band in picture.bands)


def test_missing_library_is_named(photo, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotByRows, match="pip install pyvips"):
        open_rows(saved(photo, "PNG"), name="a")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "PPM"])
def test_truncated_files_end_in_an_error_with_their_name(kind, photo, vips):
    data = saved(photo, kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
    with pytest.raises(InputError, match=r"a\.image"):
        open_rows(data[: len(data) * 2 // 3], name="a.image").whole()


def test_wrong_checksum_of_a_png_is_found_before_its_rows(photo, vips):
    data = bytearray(saved(photo, "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(InputError, match="checksum of its IDAT"):
        open_rows(bytes(data), name="a")


def test_limit_of_pixels_holds_by_rows(photo, monkeypatch):
    data = saved(photo, "PPM")
    assert open_rows(data, name="a", limit_pixels=133 * 200).width == 133
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 133 * 100)
    assert open_rows(data, name="a").width == 133
    for limit in (133 * 200 - 1, 100):
        with pytest.raises(InputError, match="pixels") as caught, limit_hint("more=N"):
            open_rows(data, name="a", limit_pixels=limit)
        assert caught.value.hint == "more=N"


# ---- turning


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_by_way_of_the_disk_equals_turning_in_memory(orientation, photo, monkeypatch):
    monkeypatch.setattr(turning, "STRIP_PX", 32)
    part = photo[:75, :101]
    bands = iter([part[:1], part[1:60], part[60:]])
    turned = np.concatenate(list(turning.turn_bands(bands, orientation, 75, 101)))
    assert np.array_equal(turned, turning.turn(part, orientation))


def test_full_disk_is_an_error_of_output(photo, monkeypatch):
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OutputError, match="no space left"):
        list(turning.turn_bands(iter([photo]), 6, *photo.shape[:2]))


# ---- writing


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm", ".bmp", ".webp", ".jpg"])
def test_written_by_rows_is_read_as_what_is_written_as_a_whole(suffix, mode, deep, photo, monkeypatch):
    monkeypatch.setattr("lcodec.image.formats._BAND_BYTES", 4000)
    source = picture_of(photo, mode, deep)
    whole = Picture(source.pixels, source.alpha, ICC if "RGB" in mode else None, exif(1).removeprefix(b"Exif\0\0"), XMP)
    banded, lost = fit(BandedPicture.of(whole), suffix)
    assert lost == fit(whole, suffix)[1]
    file = io.BytesIO()
    write_bands(file, banded, suffix)
    by_rows, expected = read_image(io.BytesIO(file.getvalue())), read_image(io.BytesIO(image_bytes(whole, suffix)))
    assert same(by_rows, expected)


def test_orientation_that_a_format_cannot_hold_is_applied_by_rows_too(photo):
    whole = Picture(photo[:70, :90], exif=exif(6).removeprefix(b"Exif\0\0"))
    file = io.BytesIO()
    write_bands(file, BandedPicture.of(whole), ".ppm")
    assert np.array_equal(read_image(io.BytesIO(file.getvalue())).pixels, np.rot90(photo[:70, :90], -1))


@pytest.mark.parametrize("suffix, side", [(".jpg", 65536), (".webp", 16384)])
def test_size_that_a_format_cannot_hold_is_refused_before_the_first_row(suffix, side):
    with pytest.raises(UsageError, match=str(side)):
        write_bands(io.BytesIO(), BandedPicture(iter(()), 1, side), suffix)


def test_tiff_beyond_its_offsets_is_refused(photo, monkeypatch):
    monkeypatch.setattr("lcodec.image.formats._TIFF_MAX_BYTES", 300_000)
    monkeypatch.setattr("lcodec.image.formats._BAND_BYTES", 100_000)
    file = io.BytesIO()
    with pytest.raises(UsageError, match="TIFF"):  # 995,328 bytes of samples may have fitted
        write_bands(file, BandedPicture.of(Picture(photo)), ".tif")
    assert file.getvalue()
    with pytest.raises(UsageError, match="TIFF"):
        write_bands(file := io.BytesIO(), BandedPicture(iter(()), 600, 768), ".tif")
    assert not file.getvalue()


def test_rows_are_regrouped_and_none_is_lost():
    rows = np.arange(23)[:, None]
    for splits in ([5, 9], [1, 2, 3, 20], []):
        got = list(regrouped(iter(np.split(rows, splits)), 4))
        assert [len(band) for band in got] == [4, 4, 4, 4, 4, 3]
        assert np.array_equal(np.concatenate(got), rows)


# ---- alpha


@pytest.mark.parametrize("factor", [1, 257, 300])
def test_alpha_in_bands_has_the_bytes_of_the_whole(factor, monkeypatch):
    monkeypatch.setattr(alpha, "_TRIAL_LIMIT", 0)
    rng = np.random.default_rng(0)
    samples = np.minimum(rng.integers(0, 50, (40, 60)).cumsum(1), 255 if factor == 1 else 65535 // factor)
    samples = (samples * factor).astype(np.uint8 if factor == 1 else np.uint16)
    samples[10:20] = samples[9]
    encoder = AlphaEncoder(deep=factor > 1)
    for first, last in ((0, 1), (1, 15), (15, 40)):
        encoder.add(samples[first:last])
    assert encoder.payload() == encode_alpha(samples)
    assert np.array_equal(decode_alpha(encode_alpha(samples), 40, 60, factor > 1), samples)


def test_hidden_pixels_are_filled_from_the_band_above_and_others_stay(photo):
    opacity = np.zeros((300, 90), np.uint8)
    opacity[:20] = opacity[250:, 40:] = 200
    both = np.dstack([photo[:300, :90], opacity])
    filled = np.concatenate(list(fill_transparent_bands(iter(np.split(both, [100, 110, 260])))))
    assert filled.shape == (300, 90, 3)
    seen = opacity > 0
    assert np.array_equal(filled[seen], photo[:300, :90][seen])
    steps = np.abs(np.diff(filled[20:250].astype(int), axis=0)).max(axis=(1, 2))
    assert steps.max() < 100 and steps[79] < 30 and steps[89] < 30  # no edge where a band ends
    hidden = list(fill_transparent_bands(iter([both[30:60], both[60:90]])))
    assert (np.concatenate(hidden) == 127).all()


def test_path_and_bytes_are_both_sources(photo, tmp_path: Path):
    path = tmp_path / "a.ppm"
    path.write_bytes(saved(photo, "PPM"))
    assert same(open_rows(path, name="a").whole(), open_rows(path.read_bytes(), name="a").whole())
