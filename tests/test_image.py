"""Reading, writing and padding of pictures."""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
import warnings
import zlib

import numpy as np
import PIL.Image
import pytest

import lcodec
from lcodec.batch.sources import Search
from lcodec.errors import InputError, OutputError, UsageError
from lcodec.image import (
    INPUT_SUFFIXES,
    BandedPicture,
    Picture,
    centre,
    check_fits,
    check_quality,
    crop,
    from_array,
    from_pillow,
    image_bytes,
    limit_hint,
    pad,
    padded_size,
    read_image,
    usual_limit,
    write_atomically,
    write_bands,
    write_image,
)
from lcodec.image.guard import pillow_limit
from lcodec.image.pack import image_sources


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(image: PIL.Image.Image, kind: str, **options) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


def png_16(samples: np.ndarray, interlaced: bool = False, transparent: tuple[int, ...] = ()) -> io.BytesIO:
    """A PNG of uint16 (H, W, 1 to 4), most of which Pillow cannot write."""
    height, width, channels = samples.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    adam7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    passes = adam7 if interlaced else ((0, 1, 0, 1),)
    parts = [samples[y::dy, x::dx] for y, dy, x, dx in passes]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts if part.size for row in part)
    head = struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, interlaced)
    chunks = chunk(b"IHDR", head)
    if transparent:
        chunks += chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    chunks += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks)


# ---- reading ----


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_are_read_exactly(pixels, kind):
    image = read_image(saved(PIL.Image.fromarray(pixels), kind))
    assert np.array_equal(image.pixels, pixels)
    assert image.warnings == ()
    assert (image.height, image.width) == (5, 7)


def test_lossless_webp_is_read_exactly(pixels):
    assert np.array_equal(
        read_image(saved(PIL.Image.fromarray(pixels), "WEBP", lossless=True)).pixels, pixels
    )


def test_jpeg_is_read():
    flat = PIL.Image.new("RGB", (16, 8), (200, 100, 50))
    image = read_image(saved(flat, "JPEG"))
    assert image.pixels.shape == (8, 16, 3)
    assert np.abs(image.pixels.astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("suffix, kind", [("jfif", "JPEG"), ("jpe", "JPEG"), ("dib", "BMP"), ("apng", "PNG")])
def test_other_endings_of_known_formats_are_found_and_read(pixels, tmp_path, suffix, kind):
    PIL.Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", kind)
    (found,) = Search.of([str(tmp_path)], INPUT_SUFFIXES, "images")
    assert read_image(str(found.path)).pixels.shape == pixels.shape


def test_path_gives_name_and_size_of_the_file(pixels, tmp_path):
    path = tmp_path / "a.png"
    PIL.Image.fromarray(pixels).save(path)
    image = read_image(path)
    assert image.name == str(path)
    assert image.file_bytes == path.stat().st_size


def test_gray_stays_gray(pixels):
    image = read_image(saved(PIL.Image.fromarray(pixels[..., 0]), "PNG"))
    assert np.array_equal(image.pixels, pixels[..., 0])
    assert image.mode == "L"
    assert np.array_equal(image.rgb8(), np.repeat(pixels[..., :1], 3, axis=2))


def test_bilevel_becomes_black_and_white():
    image = PIL.Image.new("1", (4, 4))
    image.putpixel((1, 2), 1)
    read = read_image(saved(image, "PNG"))
    assert read.pixels[2, 1] == 255
    assert int(read.pixels.sum()) == 255


def test_palette_is_resolved(pixels):
    few = (pixels // 128) * 200
    image = PIL.Image.fromarray(few).quantize(8, dither=PIL.Image.Dither.NONE)
    read = read_image(saved(image, "PNG"))
    assert np.array_equal(read.pixels, np.asarray(image.convert("RGB")))
    assert read.warnings == ()


def test_alpha_is_read_apart_from_the_colours(pixels):
    alpha = np.arange(35, dtype=np.uint8).reshape(5, 7)
    read = read_image(saved(PIL.Image.fromarray(np.dstack([pixels, alpha])), "PNG"))
    assert np.array_equal(read.pixels, pixels) and np.array_equal(read.alpha, alpha)
    assert (read.mode, read.warnings) == ("RGBA", ())


def test_gray_with_alpha_is_read(pixels):
    image = PIL.Image.fromarray(pixels[..., 0]).convert("LA")
    image.putalpha(7)
    read = read_image(saved(image, "PNG"))
    assert np.array_equal(read.pixels, pixels[..., 0]) and (read.alpha == 7).all()
    assert (read.mode, read.warnings) == ("LA", ())


def test_transparent_palette_is_read():
    image = PIL.Image.new("P", (2, 2), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    read = read_image(saved(image, "PNG", transparency=0))
    assert read.pixels[0].tolist() == [[40, 50, 60], [10, 20, 30]]
    assert read.alpha is not None and read.alpha.tolist() == [[255, 0], [0, 0]]


@pytest.mark.parametrize("multiplied, mode", [("RGBa", "RGBA"), ("La", "LA")])
def test_colours_that_alpha_was_multiplied_into_are_made_straight(multiplied, mode):
    straight = PIL.Image.new(mode, (3, 2), (200, 128) if mode == "LA" else (200, 100, 50, 128))
    read = from_pillow(straight.convert(multiplied))
    assert read.mode == mode and (read.alpha == 128).all()
    wanted = np.array(200) if mode == "LA" else np.array([200, 100, 50])
    assert np.abs(read.pixels.astype(int) - wanted).max() <= 2


def test_16_bit_gray_is_kept():
    samples = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    read = read_image(saved(PIL.Image.fromarray(samples), "PNG"))
    assert np.array_equal(read.pixels, samples) and read.deep and read.warnings == ()
    assert read.rgb8()[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_of_every_kind_is_read_exactly(channels, interlaced):
    samples = np.random.default_rng(0).integers(0, 65536, (9, 11, channels)).astype(np.uint16)
    read = read_image(png_16(samples, interlaced))
    planes = [read.pixels] if read.alpha is None else [read.pixels, read.alpha]
    assert np.array_equal(np.dstack(planes), samples) and read.warnings == ()


def test_16_bit_colour_with_a_transparent_one_is_read_exactly():
    samples = np.array([[[1, 2, 3], [1, 2, 4], [257, 2, 3]]], np.uint16)
    read = read_image(png_16(samples, transparent=(1, 2, 3)))
    assert np.array_equal(read.pixels, samples)
    assert read.alpha is not None and read.alpha.tolist() == [[0, 65535, 65535]]


@pytest.mark.parametrize("top", [1023, 65535])
def test_16_bit_ppm_is_read_over_the_full_range(top):
    samples = np.array([[[0, top, top // 2]]], np.uint16)
    read = read_image(io.BytesIO(f"P6 1 1 {top}\n".encode() + samples.astype(">u2").tobytes()))
    assert read.pixels[0, 0].tolist() == [0, 65535, round(top // 2 * 65535 / top)]
    with pytest.raises(InputError):
        read_image(io.BytesIO(f"P6 1 1 {top}\n".encode() + samples.astype(">u2").tobytes()[:-1]))


def test_16_bits_in_a_plain_ppm_are_reduced_with_a_warning():
    read = read_image(io.BytesIO(b"P3 1 1 65535\n0 65535 32768\n"))
    assert read.pixels.dtype == np.uint8 and read.pixels[0, 0].tolist() == [0, 255, 128]
    assert read.warnings == ("16-bit samples are reduced to 8 bits",)


def test_cmyk_without_a_profile_is_converted_with_a_warning():
    image = PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    read = read_image(saved(image, "TIFF"))
    assert read.pixels[0, 0].tolist() == [255, 0, 0]
    assert read.warnings == ("CMYK is converted to RGB without colour management",)


def test_limits_of_ours_refuse_nothing_to_other_threads(pixels):
    """Their own images, and their own warnings."""
    small, large = saved(PIL.Image.fromarray(pixels), "TIFF"), saved(PIL.Image.new("L", (300, 300)), "PNG")
    stop, told = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            told.update(read_image(io.BytesIO(small.getvalue()), limit_pixels=35).warnings)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for _ in range(300):
                PIL.Image.open(io.BytesIO(large.getvalue())).load()
                lcodec._warn(["ours"], stacklevel=1)
                warnings.warn("another's", stacklevel=1)  # takes no lock
        finally:
            stop.set()
            reader.join()
    assert not told  # nor is the TIFF blamed for them
    counts = {text: sum(str(w.message) == text for w in seen) for text in ("ours", "another's")}
    assert counts == {"ours": 300, "another's": 300}


def test_floating_point_image_is_refused():
    with pytest.raises(InputError, match="floating-point"):
        read_image(saved(PIL.Image.new("F", (4, 4), 0.5), "TIFF"))


def test_samples_beyond_16_bits_are_refused():
    with pytest.raises(InputError, match="beyond 16 bits"):
        read_image(saved(PIL.Image.new("I", (4, 4), 70000), "TIFF"))


def test_only_the_first_frame_is_used_with_a_warning(pixels):
    first, second = PIL.Image.fromarray(pixels), PIL.Image.fromarray(255 - pixels)
    read = read_image(saved(first, "TIFF", save_all=True, append_images=[second]))
    assert np.array_equal(read.pixels, pixels)
    assert read.warnings == ("only the first frame is used",)


# ---- bad input ----


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")


def test_folder_is_not_an_image(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(1000)]
)
def test_what_is_no_image_is_refused_by_name(tmp_path, data):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.png"):
        read_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"])
def test_truncated_image_is_refused(kind):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(PIL.Image.fromarray(noise), kind).getvalue()
    with pytest.raises(InputError, match="half"):
        read_image(io.BytesIO(data[: len(data) // 2]), name="half")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "PPM"])
def test_damaged_image_is_read_or_refused_but_nothing_else(kind):
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    good = saved(PIL.Image.fromarray(noise), kind).getvalue()
    refused = 0
    for _ in range(100):
        data = bytearray(good)
        for _ in range(4):
            data[rng.integers(min(len(data), 200))] = rng.integers(256)
        try:
            assert read_image(io.BytesIO(bytes(data))).pixels.dtype == np.uint8
        except InputError:
            refused += 1
    assert refused > 0


def test_image_above_the_limit_is_refused_before_it_is_decoded(pixels):
    data = saved(PIL.Image.fromarray(pixels), "PNG").getvalue()
    assert read_image(io.BytesIO(data), limit_pixels=35).width == 7
    for limit in (34, 10):  # just above the limit, and above Pillow's own doubled one
        with pytest.raises(InputError, match="pixels") as caught:
            read_image(io.BytesIO(data), limit_pixels=limit)
        assert caught.value.hint is None  # what allows more is for those to say who have such an option
        with pytest.raises(InputError) as caught, limit_hint("more=N"):
            read_image(io.BytesIO(data), limit_pixels=limit)
        assert caught.value.hint == "more=N"
    with pytest.raises(InputError) as caught, limit_hint("more=N"):
        read_image(io.BytesIO(b"no image"))
    assert caught.value.hint != "more=N"


def test_usual_limit_holds_by_default_and_that_of_pillow_comes_back(pixels, tmp_path, monkeypatch):
    data = saved(PIL.Image.fromarray(pixels), "PNG").getvalue()
    (tmp_path / "a.png").write_bytes(data)
    (source,) = image_sources(tmp_path / "a.png")
    for most in (17, 18):  # half of the 35 pixels, which `encode` takes, too
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", most)
        for read in (lambda: read_image(io.BytesIO(data)), source.read):
            if most == 18:
                assert read().width == 7
                continue
            with pytest.raises(InputError, match="more than 34"):
                read()
        assert read_image(io.BytesIO(data), limit_pixels=100).width == 7
        assert most == PIL.Image.MAX_IMAGE_PIXELS


def test_array_of_wrong_type_or_shape_is_refused(pixels):
    assert from_array(pixels[..., 0]).mode == "L"
    assert from_array(np.dstack([pixels, pixels[..., :1]])).mode == "RGBA"
    assert from_array(pixels.astype(np.uint16)).deep
    for bad in (pixels.astype(np.float32), np.dstack([pixels, pixels]), pixels[None], pixels[:0]):
        with pytest.raises(InputError):
            from_array(bad)


# ---- writing ----


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp", ".PNG"])
def test_written_lossless_formats_hold_the_same_pixels(pixels, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    write_image(path, pixels)
    assert np.array_equal(np.asarray(PIL.Image.open(path).convert("RGB")), pixels)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "shape, gray, deep, suffix, message",
    [
        ((5, 7), False, False, ".pgm", "gray only"),
        ((1, 16384), True, False, ".webp", "16384x1"),
        ((16384, 1), True, False, ".webp", "1x16384"),
        ((1, 65536), True, False, ".jpeg", "65536x1"),
        ((40000, 40000), False, False, ".bmp", "40000x40000"),
        ((70000, 70000), False, True, ".tif", "4 GB"),
    ],
)
def test_what_no_file_of_a_format_can_hold_shows_without_pixels(shape, gray, deep, suffix, message):
    with pytest.raises(UsageError, match=message):
        check_fits(*shape, gray, deep, suffix)
    check_fits(*shape, gray, deep, ".png")
    check_fits(16383, 16383, True, deep, suffix)


@pytest.mark.parametrize("error", [ValueError("File size is too large"), OSError("encoder error -2")])
def test_format_that_refuses_a_picture_is_told_by_rows_too(error, pixels, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(PIL.Image.Image, "save", refuse)
    for write in (
        lambda: write_bands(io.BytesIO(), BandedPicture.of(Picture(pixels)), ".bmp"),
        lambda: image_bytes(pixels, ".bmp"),
    ):
        with pytest.raises(UsageError, match="BMP cannot hold 7x5 pixels"):
            write()


def test_full_disk_is_not_a_fault_of_the_format(pixels, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PIL.Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_bands(io.BytesIO(), BandedPicture.of(Picture(pixels)), ".jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_quality_of_what_is_written(suffix, photo):
    small, fine, usual = (image_bytes(photo, suffix, quality) for quality in (20, 95, None))
    assert len(small) < len(fine) / 3
    assert (fine == usual) == (suffix == ".jpg")
    file = io.BytesIO()
    write_bands(file, BandedPicture.of(Picture(photo)), suffix, 20)
    assert file.getvalue() == small
    check_quality(suffix)
    with pytest.raises(UsageError, match="no quality"):
        check_quality(".png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [False, True])
def test_background_is_seen_where_a_picture_is_transparent(dtype, gray):
    rng, top = np.random.default_rng(2), np.iinfo(dtype).max
    samples = rng.integers(0, top, (150, 7) if gray else (150, 7, 3), dtype, endpoint=True)
    samples[0], alpha = top, rng.integers(0, top, (150, 7), dtype, endpoint=True)
    alpha[0], alpha[1], alpha[2] = (0, 1, 2, 3, top - 1, top // 2, top), 0, top
    colour = (200, 200, 200) if gray else (255, 136, 0)
    share = (alpha / top).reshape(150, 7, *[1] * (samples.ndim - 2))
    behind = np.array(colour[0] if gray else colour) * (top / 255)
    picture = Picture(samples, alpha)
    whole = picture.over(colour)
    assert whole.alpha is None and whole.pixels.dtype == dtype
    assert np.array_equal(whole.pixels, np.rint(samples * share + behind * (1 - share)))
    assert np.array_equal(BandedPicture.of(picture).over(colour).whole().pixels, whole.pixels)
    assert whole.over(colour) is whole
    for kind in (picture, BandedPicture.of(picture)):
        if gray:
            with pytest.raises(UsageError, match="gray"):
                kind.over((1, 2, 3))


def test_jpeg_is_written_close(tmp_path):
    flat = np.full((16, 16, 3), (180, 90, 60), np.uint8)
    assert np.abs(read_image(io.BytesIO(image_bytes(flat, ".jpg"))).pixels.astype(int) - flat).max() <= 2


@pytest.mark.parametrize("suffix", ["", ".xyz", ".lic"])
def test_unknown_ending_is_refused(pixels, suffix):
    with pytest.raises(UsageError, match="ending"):
        image_bytes(pixels, suffix)


def test_size_that_a_format_cannot_hold_is_refused():
    with pytest.raises(UsageError, match="cannot hold"):
        image_bytes(np.zeros((1, 20000, 3), np.uint8), ".webp")


def test_existing_file_is_kept_unless_overwriting(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "a"
    fsync = os.fsync

    def other_program(descriptor):
        path.write_bytes(b"other")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", other_program)
    with pytest.raises(OutputError, match="exists"):
        write_atomically(path, b"mine")
    assert path.read_bytes() == b"other"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(143), OSError(28, "No space left on device")]
)
def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(_descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((KeyboardInterrupt, SystemExit, OutputError)):
        write_atomically(tmp_path / "a", b"data")
    assert os.listdir(tmp_path) == []


def test_file_system_without_hard_links_is_served(tmp_path, monkeypatch):
    def no_links(_source, _target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write_atomically(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"
    assert os.listdir(tmp_path) == ["a"]


def test_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", b"new", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_device_is_written_and_stays_a_device():
    write_atomically(os.devnull, b"data")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match="no folder"):
        write_atomically(tmp_path / "none" / "a", b"data")


def test_new_file_has_the_usual_permissions(tmp_path):
    write_atomically(tmp_path / "a", b"data")
    (tmp_path / "b").write_bytes(b"data")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


# ---- padding ----


@pytest.mark.parametrize(
    "size, padded",
    [((1, 1), (64, 64)), ((64, 128), (64, 128)), ((65, 63), (128, 64)), ((512, 768), (512, 768))],
)
def test_padding_goes_to_the_next_multiple_of_64(size, padded):
    assert padded_size(*size) == padded
    assert pad(np.zeros((*size, 3), np.uint8)).shape == (*padded, 3)


def test_padding_repeats_the_border_and_cropping_undoes_it(pixels):
    padded = pad(pixels)
    assert np.array_equal(crop(padded, 5, 7), pixels)
    assert (padded[5:, :7] == pixels[-1]).all()
    assert (padded[:5, 7:] == pixels[:, -1:]).all()
    assert (padded[5:, 7:] == pixels[-1, -1]).all()


def test_nothing_is_copied_when_nothing_is_missing():
    pixels = np.zeros((64, 64, 3), np.uint8)
    assert pad(pixels) is pixels


@pytest.mark.parametrize("height, width, side", [(5, 7, 4), (5, 3, 4), (3, 2, 4), (9, 9, 1)])
def test_centre_is_the_middle_and_never_larger_than_asked(height, width, side):
    pixels = np.stack(np.mgrid[:height, :width], -1)
    middle = centre(pixels, side)
    assert middle.shape == (min(height, side), min(width, side), 2)
    for first, last, size in zip(middle[0, 0], middle[-1, -1], (height, width), strict=True):
        assert 0 <= size - 1 - last - first <= 1  # as much is missing in front as behind


def test_cropping_beyond_the_image_is_refused():
    with pytest.raises(UsageError):
        crop(np.zeros((64, 64, 3), np.uint8), 65, 64)


def test_images_are_read_from_many_threads_at_once(pixels):
    """Pillow's limit, its table of TIFFs and Python's warnings are globals that reading changes."""
    from concurrent.futures import ThreadPoolExecutor

    from PIL.TiffImagePlugin import OPEN_INFO

    known, limit = dict(OPEN_INFO), PIL.Image.MAX_IMAGE_PIXELS
    files = [saved(PIL.Image.fromarray(pixels), kind).getvalue() for kind in ("PNG", "TIFF", "BMP")]
    files.append(png_16(pixels.astype(np.uint16) * np.uint16(257)).getvalue())
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(read_image, io.BytesIO(files[i % 4]), limit_pixels=35 + i) for i in range(200)]
        assert all(np.array_equal(job.result().rgb8(), pixels) for job in jobs)
        tight = [pool.submit(read_image, io.BytesIO(files[i % 4]), limit_pixels=34) for i in range(40)]
        assert all(isinstance(job.exception(), InputError) for job in tight)
    assert (OPEN_INFO, PIL.Image.MAX_IMAGE_PIXELS) == (known, limit)


def test_limit_that_one_thread_sets_for_a_moment_is_not_that_of_another():
    inside, leave, found = threading.Event(), threading.Event(), []

    def hold() -> None:
        with pillow_limit(1 << 62):
            inside.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    asking = threading.Thread(target=lambda: found.append(usual_limit()))
    holder.start()
    assert inside.wait(10)
    asking.start()
    asking.join(0.05)
    leave.set()
    for thread in (holder, asking):
        thread.join(10)
    assert found == [2 * PIL.Image.MAX_IMAGE_PIXELS]
