"""Whatever image people have: PngSuite, odd files of every format, and broken ones, through a real codec."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from lcodec import cli
from lcodec.codec import Codec
from lcodec.errors import InputError
from lcodec.image import fit, image_bytes, read_image

from .test_image import png_16

SUITE = Path(__file__).parents[1] / "../shared/vectors/pngsuite"
FILES = sorted(SUITE.glob("*.png"))
GOOD = [path for path in FILES if not path.name.startswith("x")]
BROKEN = [path for path in FILES if path.name.startswith("x")]  # "corrupted files", by the suite's naming
needs_suite = pytest.mark.skipif(not FILES, reason="PngSuite is not beside the repository")


@pytest.fixture(scope="module")
def codec(models) -> Codec:
    return Codec(models["bmshj2018-factorized"], "cpu", 1)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(3).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def there_and_back(codec: Codec, data: bytes, name: str):
    """The picture that was read, and the one in the PNG that lcodec makes of it."""
    image = read_image(io.BytesIO(data), name=name)
    picture = codec.decode(codec.encode(image, 1.0).data).picture
    assert fit(picture, ".png") == (picture, [])
    back = read_image(io.BytesIO(image_bytes(picture, ".png")))
    assert (back.mode, back.deep, back.pixels.shape) == (image.mode, image.deep, image.pixels.shape)
    assert np.array_equal(back.alpha, image.alpha)  # type: ignore[arg-type]  # None equals None
    assert (back.icc, back.exif, back.xmp) == (image.icc, image.exif, image.xmp)
    return image, back


# ---- PngSuite


def described(data: bytes) -> tuple[int, int, str, int]:
    """Width, height, mode and depth that a PNG announces, read without any library."""
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    chunks, offset = set(), 8
    while offset < len(data):
        chunks.add(data[offset + 4 : offset + 8])
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")
    alpha = colour in (4, 6) or b"tRNS" in chunks
    return width, height, ("L" if colour in (0, 4) else "RGB") + "A" * alpha, 16 if bits == 16 else 8


@needs_suite
def test_the_whole_suite_is_there():
    assert (len(GOOD), len(BROKEN)) == (162, 14)


@needs_suite
@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_pngsuite_comes_back_with_mode_size_depth_alpha_and_metadata(codec, path):
    image, back = there_and_back(codec, path.read_bytes(), path.name)
    assert (back.width, back.height, back.mode, 16 if back.deep else 8) == described(path.read_bytes())
    assert image.warnings == ()
    if path.name.startswith("exif"):
        assert back.exif is not None and back.exif[:4] in (b"II*\0", b"MM\0*")


@needs_suite
@pytest.mark.parametrize("path", BROKEN, ids=lambda p: p.stem)
def test_broken_file_of_pngsuite_is_a_named_error(path):
    with pytest.raises(InputError, match=path.name):
        read_image(path)
    result = CliRunner().invoke(cli.cli, ["encode", str(path), "-o", "/dev/null"], prog_name="lcodec")
    assert result.exit_code == 3
    assert result.stderr.startswith(f"lcodec: error: {path.parent}") or path.name in result.stderr.splitlines()[0]
    assert "Traceback" not in result.output and "internal" not in result.output


@needs_suite
def test_levels_that_are_transparent_are_those_of_the_file():
    """How many pixels libvips finds fully transparent; levels of 4 bits count before they are spread over 8."""
    counts = {"tbbn0g04": 464, "tbwn0g16": 453, "tbbn2c16": 453, "tbgn3p08": 454, "tbrn2c08": 453, "tp1n3p08": 454}
    for name, count in counts.items():
        alpha = read_image(SUITE / f"{name}.png").alpha
        assert alpha is not None and int((alpha == 0).sum()) == count, name
        assert alpha.max() == (65535 if "16" in name[-3:] else 255)


# ---- odd, but right


def saved(image: PIL.Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(height: int = 20, width: int = 30) -> PIL.Image.Image:
    return PIL.Image.fromarray(noise(height, width, 3))


def tiff(samples: np.ndarray, order: str = "<", photometric: int = 2, **tags: int) -> bytes:
    """An uncompressed TIFF of one strip, of what Pillow writes none."""
    height, width, channels = samples.shape
    bits = samples.itemsize * 8
    entries = {256: width, 257: height, 259: 1, 262: photometric, 277: channels, 278: height}
    entries |= {int(key[1:]): value for key, value in tags.items()}
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    count = len(entries) + 3
    behind = 8 + 2 + 12 * count + 4
    wide = {258: (3, channels, behind), 273: (4, 1, behind + 2 * channels), 279: (4, 1, len(data))}
    if channels <= 2:
        wide[258] = (3, channels, bits | bits << 16 if channels == 2 else bits)
    if order == ">" and channels <= 2:
        wide[258] = (3, channels, bits << 16 | (bits if channels == 2 else 0))
    out = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, count)
    for tag in sorted({*entries, *wide}):
        if tag in wide:
            out += struct.pack(order + "HHII", tag, *wide[tag])
        else:
            out += struct.pack(order + "HHII", tag, 4, 1, entries[tag])
    return out + bytes(4) + struct.pack(f"{order}{channels}H", *[bits] * channels) + data


ODD: dict[str, tuple[Callable[[], bytes], str, int, int]] = {
    # name: file, mode, depth, number of warnings
    "gray.jpg": (lambda: saved(rgb().convert("L"), "JPEG"), "L", 8, 0),
    "progressive.jpg": (lambda: saved(rgb(), "JPEG", progressive=True, optimize=True), "RGB", 8, 0),
    "cmyk.jpg": (lambda: saved(rgb().convert("CMYK"), "JPEG"), "RGB", 8, 1),
    "restart-markers.jpg": (lambda: saved(rgb(), "JPEG", restart_marker_blocks=1), "RGB", 8, 0),
    "thin.jpg": (lambda: saved(rgb(1, 300), "JPEG", subsampling=2), "RGB", 8, 0),
    "really-a.png": (lambda: saved(rgb(), "JPEG"), "RGB", 8, 0),
    "rubbish-behind.jpg": (lambda: saved(rgb(), "JPEG") + b"rubbish" * 50, "RGB", 8, 0),
    "phone.mpo.jpg": (lambda: saved(rgb(), "MPO", save_all=True, append_images=[rgb(5, 5)]), "RGB", 8, 0),
    "two-views.mpo.jpg": (lambda: saved(rgb(), "MPO", save_all=True, append_images=[rgb()]), "RGB", 8, 1),
    "gain-map.jpg": (lambda: saved(rgb(), "JPEG", xmp=b'<d hdrgm:Version="1.0"/>'), "RGB", 8, 1),
    "extended-xmp.jpg": (lambda: saved(rgb(), "JPEG", xmp=b'<d xmpNote:HasExtendedXMP="0"/>'), "RGB", 8, 1),
    "pages.tif": (lambda: saved(rgb(), "TIFF", save_all=True, append_images=[rgb(9, 9)]), "RGB", 8, 1),
    "bilevel-g4.tif": (lambda: saved(rgb().convert("1"), "TIFF", compression="group4"), "L", 8, 0),
    "lzw.tif": (lambda: saved(rgb(), "TIFF", compression="tiff_lzw"), "RGB", 8, 0),
    "jpeg-inside.tif": (lambda: saved(rgb(), "TIFF", compression="jpeg"), "RGB", 8, 0),
    "palette.tif": (lambda: saved(rgb().quantize(7), "TIFF"), "RGB", 8, 0),
    "alpha.tif": (lambda: saved(PIL.Image.fromarray(noise(8, 9, 4)), "TIFF"), "RGBA", 8, 0),
    "gray-alpha.tif": (lambda: saved(PIL.Image.fromarray(noise(8, 9, 2)), "TIFF"), "LA", 8, 0),
    "lab.tif": (lambda: saved(PIL.Image.fromarray(noise(8, 9, 3), "LAB"), "TIFF"), "RGB", 8, 1),
    "gray-16.tif": (lambda: saved(PIL.Image.fromarray(noise(8, 9, dtype=np.uint16)), "TIFF"), "L", 16, 0),
    "deep.tif": (lambda: tiff(noise(8, 9, 3, dtype=np.uint16)), "RGB", 16, 0),
    "deep-motorola.tif": (lambda: tiff(noise(8, 9, 3, dtype=np.uint16), ">"), "RGB", 16, 0),
    "deep-alpha.tif": (lambda: tiff(noise(8, 9, 4, dtype=np.uint16), t338=2), "RGBA", 16, 0),
    "deep-cmyk.tif": (lambda: tiff(noise(8, 9, 4, dtype=np.uint16), photometric=5), "RGB", 8, 2),
    "deep-gray-alpha.tif": (lambda: tiff(noise(8, 9, 2, dtype=np.uint16), photometric=1, t338=2), "LA", 16, 0),
    "deep-gray-alpha-motorola.tif": (
        lambda: tiff(noise(8, 9, 2, dtype=np.uint16), ">", photometric=1, t338=2), "LA", 16, 0
    ),
    "animated.webp": (lambda: saved(rgb(), "WEBP", save_all=True, append_images=[rgb().rotate(180)]), "RGB", 8, 1),
    "alpha.webp": (lambda: saved(PIL.Image.fromarray(noise(8, 9, 4)), "WEBP", lossless=True), "RGBA", 8, 0),
    "animated.png": (lambda: saved(rgb(), "PNG", save_all=True, append_images=[rgb().rotate(180)]), "RGB", 8, 1),
    "animated.gif": (lambda: saved(rgb(), "GIF", save_all=True, append_images=[rgb().rotate(180)]), "RGB", 8, 1),
    "transparent.gif": (lambda: saved(PIL.Image.new("P", (4, 4), 3), "GIF", transparency=3), "RGBA", 8, 0),
    "bilevel.bmp": (lambda: saved(rgb().convert("1"), "BMP"), "L", 8, 0),
    "palette.bmp": (lambda: saved(rgb().quantize(200), "BMP"), "RGB", 8, 0),
    "bits.pbm": (lambda: b"P4 10 3\n" + bytes(range(6)), "L", 8, 0),
    "plain.ppm": (lambda: b"P3 # comment\n2 1 255\n1 2 3 4 5 6\n", "RGB", 8, 0),
    "ten-bit.pgm": (lambda: b"P5 3 1 1023\n" + np.array([0, 512, 1023], ">u2").tobytes(), "L", 16, 0),
    "deep.png": (lambda: png_16(noise(8, 9, 4, dtype=np.uint16), interlaced=True).getvalue(), "RGBA", 16, 0),
    "one-pixel.png": (lambda: saved(rgb(1, 1), "PNG"), "RGB", 8, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_file_comes_back_as_what_it_was(codec, name):
    make, mode, depth, warnings = ODD[name]
    image, back = there_and_back(codec, make(), name)
    assert (back.mode, 16 if back.deep else 8) == (mode, depth)
    assert len(image.warnings) == warnings, image.warnings


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_tiff_whose_zero_is_white_is_not_a_negative(order, dtype):
    samples = noise(6, 9, dtype=dtype)
    black, white = (tiff(samples[..., None], order, photometric) for photometric in (1, 0))
    assert np.array_equal(read_image(io.BytesIO(black)).pixels, samples)
    assert np.array_equal(read_image(io.BytesIO(white)).pixels, np.iinfo(dtype).max - samples)


def test_bitmap_of_16_bits_a_pixel_loses_nothing():
    rows = noise(4, 6, dtype=np.uint16) & 0x7FFF
    info = struct.pack("<IiiHHIIiiII", 40, 6, 4, 1, 16, 0, rows.nbytes, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 54 + rows.nbytes, 0, 0, 54) + info + rows.astype("<u2").tobytes()
    image = read_image(io.BytesIO(data))
    assert image.warnings == () and image.pixels.shape == (4, 6, 3)


def test_deep_tiffs_hold_the_samples_that_were_written():
    for order in "<>":
        samples = noise(8, 9, 4, dtype=np.uint16)
        straight = read_image(io.BytesIO(tiff(samples, order, t338=2)))
        assert np.array_equal(np.dstack([straight.pixels, straight.alpha]), samples)  # type: ignore[list-item]
        pair = read_image(io.BytesIO(tiff(samples[..., :2].copy(), order, photometric=1, t338=2)))
        assert np.array_equal(pair.pixels, samples[..., 0])
        assert pair.alpha is not None and np.array_equal(pair.alpha, samples[..., 1])


@pytest.mark.parametrize("channels", [2, 4])
def test_deep_tiff_with_alpha_multiplied_in_is_made_straight(channels):
    samples = np.full((2, 2, channels), 10000, np.uint16)
    samples[..., -1] = 20000
    samples[0, 0] = 0
    image = read_image(io.BytesIO(tiff(samples, photometric=1 if channels == 2 else 2, t338=1)))
    assert (image.pixels[1, 1] == 32768).all() and (image.pixels[0, 0] == 0).all()
    assert image.alpha is not None and image.alpha.tolist() == [[0, 20000], [20000, 20000]]


def test_pillow_reads_again_as_before(codec):
    """Reading changes globals of Pillow for its time; they come back."""
    from PIL.TiffImagePlugin import OPEN_INFO

    before = dict(OPEN_INFO)
    read_image(io.BytesIO(ODD["deep-gray-alpha.tif"][0]()))
    assert before == OPEN_INFO


# ---- broken


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_of_height(height: int) -> bytes:
    data = saved(rgb(), "JPEG")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">H", height) + data[place + 2 :]


BAD = {
    "zero-wide.png": png(0, 5),
    "zero-high.png": png(5, 0),
    "zero.ppm": b"P6 0 0 255\n",
    "zero-high.jpg": jpeg_of_height(0),
    "absurd.png": png(2**31 - 1, 2**31 - 1),
    "beyond-the-format.png": png(2**32 - 1, 1),
    "absurd.ppm": b"P6 999999999 999999999 255\n",
    "absurd.tif": tiff(noise(2, 2, 3), t256=2**31 - 1, t257=2**31 - 1),
    "absurd.jpg": jpeg_of_height(65535),
    "negative.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, -5, 5, 1, 24, 0, 0, 0, 0, 0, 0),
    "float.tif": saved(PIL.Image.new("F", (4, 4), 0.5), "TIFF"),
    "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "a.lic": b"\x89LIC\r\n\x01" + bytes(30),
    "text.png": b"this is text",
    "empty.jpg": b"",
    **{f"cut-{name}": data()[: len(data()) // 2] for name, (data, *_) in ODD.items() if name in (
        "progressive.jpg", "lzw.tif", "deep.tif", "deep-gray-alpha.tif", "alpha.webp", "deep.png", "palette.bmp",
        "animated.gif", "ten-bit.pgm",
    )},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_image_is_one_named_error_and_nothing_is_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(BAD[name])
    result = CliRunner().invoke(cli.cli, ["encode", name, "-o", "out.lic"], prog_name="lcodec")
    lines = result.stderr.splitlines()
    assert result.exit_code == 3, result.output
    assert lines[0].startswith("lcodec: error: ") and name in lines[0] and "internal" not in lines[0]
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("lcodec: hint: "))
    assert not Path("out.lic").exists()


def test_lic_file_given_to_encode_is_told_what_it_is():
    with pytest.raises(InputError) as caught:
        read_image(io.BytesIO(BAD["a.lic"]), name="a.lic")
    assert "lcodec decode" in (caught.value.hint or "")
