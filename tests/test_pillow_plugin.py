"""`import lcodec.pillow`: Pillow opens .lic files from what precedes the slices, decodes late, and writes them."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

import lcodec
import lcodec.pillow
from lcodec import container, weights
from lcodec.codec import Codec
from lcodec.container import Container, Header
from lcodec.errors import InputError, StreamError
from lcodec.image import Picture, from_array, from_pillow

from .test_metadata import SRGB, make_exif, make_xmp


@pytest.fixture(scope="module", autouse=True)
def on_one_core():
    cls = lcodec.pillow.LicImageFile
    before = cls.device, cls.threads
    cls.device, cls.threads = "cpu", 1
    yield
    cls.device, cls.threads = before


@pytest.fixture(scope="module")
def codec(models) -> Codec:
    return Codec(models["mbt2018-mean"], "cpu", 1)


@pytest.fixture(scope="module")
def full(codec, photo) -> bytes:
    alpha = np.random.default_rng(0).integers(0, 256, (48, 70), dtype=np.uint8)
    return codec.encode(Picture(photo[:48, :70], alpha, SRGB, make_exif(6), make_xmp()), 2.5).data


def test_every_option_of_encode_can_be_given_to_save(monkeypatch, photo):
    given: dict = {}
    monkeypatch.setattr(lcodec, "encode", lambda picture, **options: given.update(options) or b"")
    PIL.Image.fromarray(photo[:8, :8]).save(io.BytesIO(), "LIC", quality=2, effort=3, model="m", threads=1)
    assert given == {"quality": 2, "effort": 3, "model": "m", "threads": 1}


def test_api_takes_paths_and_names_what_it_cannot_take(full, tmp_path, photo, codec):
    (tmp_path / "a.lic").write_bytes(full)
    assert lcodec.decode(tmp_path / "a.lic", device="cpu").tobytes() == lcodec.decode(full, device="cpu").tobytes()
    with pytest.raises(InputError, match="no.lic"):
        lcodec.decode(str(tmp_path / "no.lic"))
    for wrong in (b"bytes", [1, 2], None):
        with pytest.raises(InputError, match="is no image"):
            lcodec.encode(wrong)  # type: ignore[arg-type]
    for wrong in (None, 5.0, 3, [1, 2]):
        with pytest.raises(InputError, match=r"is no \.lic file"):
            lcodec.decode(wrong)  # type: ignore[arg-type]
    for take in (lcodec.encode, lcodec.decode):
        with pytest.raises(InputError, match="cannot read a\0b"):
            take("a\0b")
    for mode in ("I", "RGB", "L"):
        with pytest.raises(InputError, match="0x0 pixels"):
            lcodec.encode(PIL.Image.new(mode, (0, 0)))
    assert lcodec.decode(io.BytesIO(full), device="cpu", threads=1).size == (70, 48)
    gray = photo[:16, :16, 0]
    one, flat = (lcodec.encode(p, codec.name, 1, device="cpu", threads=1) for p in (gray[..., None], gray))
    assert one == flat


def test_files_are_taken_up_to_the_limit_of_the_command_line(photo, codec, monkeypatch):
    options = {"model": codec.name, "quality": 1, "device": "cpu", "threads": 1}
    file = io.BytesIO()
    PIL.Image.fromarray(photo[:16, :16]).save(file, "PNG")
    file.seek(0)
    data = lcodec.encode(file, **options)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 200)
    file.seek(0)
    assert lcodec.encode(file, **options) == data  # 256 pixels, twice the number is the limit
    file.seek(0)
    with pytest.raises(InputError, match="16x16 pixels") as caught:
        lcodec.encode(file, **options, max_pixels=255)
    assert "max_pixels" in (caught.value.hint or "")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    file.seek(0)
    assert lcodec.encode(file, **options, max_pixels=256) == data


def test_what_is_lost_is_told_by_warnings_where_the_caller_stands(photo, codec, full):
    options = {"model": codec.name, "quality": 1, "device": "cpu", "threads": 1}
    first, second = (PIL.Image.fromarray(photo[i : i + 9, :9]) for i in (0, 9))
    file = io.BytesIO()
    first.save(file, "TIFF", save_all=True, append_images=[second])
    file.seek(0)
    with pytest.warns(UserWarning, match="only the first frame") as told:
        lcodec.encode(file, **options)
    assert [warning.filename for warning in told] == [__file__]
    place = next(s.offset for s in container.list_sections(full) if s.name == "ICC")
    bad = full[: place + 20] + bytes([full[place + 20] ^ 1]) + full[place + 21 :]
    for decode in (lcodec.decode, lcodec.decode_picture):
        with pytest.warns(UserWarning, match="skipped section ICC") as told:
            decode(bad, device="cpu", threads=1)
        assert [warning.filename for warning in told] == [__file__]
    with pytest.warns(UserWarning, match="skipped section ICC") as told:
        image = PIL.Image.open(io.BytesIO(bad))
    assert [warning.filename for warning in told] == [__file__]
    assert "icc_profile" not in image.info and "exif" in image.info


def test_metadata_that_are_given_to_save_leave_the_others_of_a_tiff(model_file, photo):
    file = io.BytesIO()
    PIL.Image.fromarray(photo[:9, :9]).save(file, "TIFF", tiffinfo={315: "Somebody"})
    for given in ({"icc_profile": SRGB}, {"xmp": make_xmp()}):
        buffer = io.BytesIO()
        PIL.Image.open(file).save(buffer, "LIC", quality=1, model=model_file, device="cpu", threads=1, **given)
        made = container.unpack(buffer.getvalue())
        assert b"Somebody" in (made.exif or b"")
        assert (made.icc, made.xmp) == (given.get("icc_profile"), given.get("xmp"))
    buffer = io.BytesIO()
    options = {"exif": make_exif(), "xmp": make_xmp().decode()}
    PIL.Image.open(file).save(buffer, "LIC", quality=1, model=model_file, device="cpu", threads=1, **options)
    made = container.unpack(buffer.getvalue())
    assert (made.exif, made.xmp) == (make_exif(), make_xmp())


def test_open_tells_size_mode_and_info_without_decoding(full, codec, monkeypatch):
    monkeypatch.setattr(lcodec, "decode_picture", lambda *_a, **_k: pytest.fail("was decoded"))
    with PIL.Image.open(io.BytesIO(full)) as image:
        assert (image.format, image.size, image.mode) == ("LIC", (70, 48), "RGBA")
        assert image.get_format_mimetype() == "image/x-lic"
        assert (image.info["quality"], image.info["model_id"], image.info["depth"]) == (2.5, codec.id[:16], 8)
        assert (image.info["icc_profile"], image.info["xmp"]) == (SRGB, make_xmp())
        assert image.getexif()[0x0112] == 6 and image.getexif()[0x010F] == "ABC"


def test_open_reads_nothing_of_the_slices(full):
    """A file object that ends right behind the front is enough to open it."""

    class Counting(io.BytesIO):
        furthest = 0

        def read(self, size=-1):
            data = super().read(size)
            self.furthest = max(self.furthest, self.tell())
            return data

    slice_start = [s.offset for s in container.list_sections(full) if s.type == 1][0]
    file = Counting(full)
    PIL.Image.open(file)
    assert file.furthest <= slice_start + container.HEADER_MAX_BYTES < len(full)


def test_load_decodes_once_and_as_the_library_does(full, monkeypatch):
    wanted = lcodec.decode(full, device="cpu", threads=1)
    calls = []
    decode = lcodec.decode_picture
    monkeypatch.setattr(lcodec, "decode_picture", lambda *a, **k: calls.append(a) or decode(*a, **k))
    image = PIL.Image.open(io.BytesIO(full))
    assert calls == []
    assert np.array_equal(np.asarray(image), np.asarray(wanted))
    assert image.getpixel((3, 4)) == wanted.getpixel((3, 4))
    image.load()
    assert len(calls) == 1
    assert PIL.ImageOps.exif_transpose(image).size == (48, 70)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_mode_that_is_announced_is_the_mode_that_comes(codec, photo, gray, deep, alpha, tmp_path):
    dtype = np.uint16 if deep else np.uint8
    pixels = photo[:20, :30].astype(dtype)
    pixels = pixels[..., 0].copy() if gray else pixels
    path = tmp_path / "a.lic"
    path.write_bytes(codec.encode(Picture(pixels, np.full((20, 30), 9, dtype) if alpha else None), 4.0).data)
    with PIL.Image.open(path) as image:
        mode = image.mode
        assert mode == ("I;16" if gray and deep and not alpha else ("L" if gray else "RGB") + "A" * alpha)
        assert image.info["depth"] == (16 if deep else 8)
        image.load()
        assert image.mode == mode and image.size == (30, 20)
    want = lcodec.decode(path.read_bytes(), device="cpu", threads=1)
    assert np.array_equal(np.asarray(image), np.asarray(want))


def test_save_writes_what_the_library_does(model_file, photo, tmp_path):
    image = PIL.Image.fromarray(photo[:40, :50])
    options = {"quality": 2, "model": model_file, "device": "cpu", "threads": 1}
    image.save(tmp_path / "a.lic", **options)
    data = (tmp_path / "a.lic").read_bytes()
    assert data == lcodec.encode(image, **options)
    buffer = io.BytesIO()
    image.save(buffer, "LIC", **options)
    assert buffer.getvalue() == data
    with PIL.Image.open(tmp_path / "a.lic") as again:
        assert again.size == (50, 40) and again.info["quality"] == 2
        again.load()


def test_save_without_options_takes_the_default_model(photo, tmp_path):
    PIL.Image.fromarray(photo[:16, :16]).save(tmp_path / "a.lic", device="cpu", threads=1)
    header = container.read_header((tmp_path / "a.lic").read_bytes())
    from lcodec import weights

    default = weights.info(weights.find(weights.DEFAULT_MODEL))
    assert header.model_id.hex() == default.id[:16] and header.quality == lcodec.DEFAULT_QUALITY


def test_save_keeps_metadata_or_takes_other_ones(model_file, photo, full):
    source = PIL.Image.open(io.BytesIO(full))
    options = {"quality": 1, "model": model_file, "device": "cpu", "threads": 1}

    def front(**given) -> Container:
        buffer = io.BytesIO()
        source.save(buffer, "LIC", **options, **given)
        return container.unpack(buffer.getvalue())

    kept = front()
    assert (kept.icc, kept.exif, kept.xmp) == (SRGB, make_exif(6), make_xmp())
    assert (kept.header.width, kept.header.height) == (70, 48)  # not turned: EXIF still says how it lies
    assert kept.alpha == container.unpack(full).alpha
    other = front(exif=b"", xmp=b"<x/>", icc_profile=None)
    assert (other.icc, other.exif, other.xmp) == (None, None, b"<x/>")
    assert source.info["exif"]  # the image itself is as before
    exif = PIL.Image.Exif()
    exif[0x010F] = "Other"
    assert b"Other" in (front(exif=exif).exif or b"")


def test_loss_is_a_warning_of_python(model_file):
    image = PIL.Image.new("CMYK", (8, 8))
    with pytest.warns(UserWarning, match="CMYK"):
        image.save(io.BytesIO(), "LIC", model=model_file, device="cpu", threads=1)


def test_failed_save_leaves_no_file(photo, tmp_path):
    with pytest.raises(lcodec.LcodecError):
        PIL.Image.fromarray(photo[:9, :9]).save(tmp_path / "a.lic", quality=99, device="cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 3, 8, 20, 30, 200])
def test_cut_file_is_an_os_error_when_opened(full, size):
    with pytest.raises(OSError):
        PIL.Image.open(io.BytesIO(full[:size]))


def test_damaged_slice_is_an_os_error_when_loaded(full):
    bad = full[:-10] + bytes([full[-10] ^ 1]) + full[-9:]
    image = PIL.Image.open(io.BytesIO(bad))
    with pytest.raises(OSError, match="checksum"):
        image.load()


def test_every_flipped_byte_is_read_or_an_os_error(full):
    front = [s.offset for s in container.list_sections(full) if s.type == 1][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about the size
        for place in range(0, front, 3):
            bad = full[:place] + bytes([full[place] ^ 0x55]) + full[place + 1 :]
            try:
                PIL.Image.open(io.BytesIO(bad))
            except OSError:
                pass


def test_file_of_an_unknown_model_can_be_opened_but_not_loaded():
    data = container.pack(Container(Header(4, 4, b"\xff" * 8), [b"x"]))
    image = PIL.Image.open(io.BytesIO(data))
    assert image.size == (4, 4)
    with pytest.raises(OSError, match="ff" * 8):
        image.load()


def test_size_is_checked_by_pillow(monkeypatch, full):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PIL.Image.DecompressionBombError):
        PIL.Image.open(io.BytesIO(full))


def test_other_formats_are_still_opened(photo):
    buffer = io.BytesIO()
    PIL.Image.fromarray(photo[:9, :9]).save(buffer, "PNG")
    assert PIL.Image.open(buffer).format == "PNG"


def test_opening_loads_no_torch(full, tmp_path):
    (tmp_path / "a.lic").write_bytes(full)
    code = (
        "import sys, lcodec.pillow, PIL.Image\n"
        f"print(PIL.Image.open({str(tmp_path / 'a.lic')!r}).size, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "(70, 48) False\n"


# ---- the front of a file


def test_front_is_what_unpack_finds_before_the_slices(full):
    front, whole = container.read_front_from(io.BytesIO(full)), container.unpack(full)
    assert front.slices == [] and front.warnings == whole.warnings
    for name in ("header", "icc", "exif", "xmp", "alpha"):
        assert getattr(front, name) == getattr(whole, name)


def test_front_comes_through_a_pipe_that_gives_a_byte_at_a_time(full):
    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 1))

    assert container.read_front_from(Slow(full)).xmp == make_xmp()


# ---- images of others, and the rest of the process, stay as they are


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_what_was_painted_on_the_first_of_several_frames_is_encoded(kind, photo, codec):
    """Counting frames makes Pillow read them again."""
    frames = [PIL.Image.fromarray(photo[i : i + 40, :64]).quantize(16) for i in (0, 40)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    for change in (
        lambda image: image.paste(0, (0, 0, 32, 40)),
        lambda image: image.thumbnail((32, 32)),
        lambda image: image.putalpha(100),
    ):
        image = PIL.Image.open(file)
        change(image)
        seen, size, mode = image.convert("RGBA").tobytes(), image.size, image.mode
        picture = from_pillow(image)
        assert (image.convert("RGBA").tobytes(), image.size, image.mode) == (seen, size, mode)
        alpha = np.full(size[::-1], 255, np.uint8) if picture.alpha is None else picture.alpha
        rgb = picture.pixels if picture.pixels.ndim == 3 else np.repeat(picture.pixels[..., None], 3, 2)
        assert np.dstack((rgb, alpha)).tobytes() == seen
    with PIL.Image.open(file) as image:  # as it was opened
        assert from_pillow(image).warnings == ("only the first frame is used",)
        image.seek(1)
        assert from_pillow(image).warnings == ("only this frame is used",)


def test_copies_of_an_image_have_its_pixels(full):
    image = PIL.Image.open(io.BytesIO(full))
    for twin in (pickle.loads(pickle.dumps(image)), copy.deepcopy(image), copy.copy(image)):
        assert np.array_equal(np.asarray(twin), np.asarray(image)) and twin.size == image.size


def test_what_cannot_be_saved_or_read_is_an_os_error_as_in_pillow(photo):
    with pytest.raises(OSError, match="floating-point"):
        PIL.Image.new("F", (8, 8)).save(io.BytesIO(), "LIC")
    with pytest.raises(OSError, match="no model"):
        PIL.Image.fromarray(photo[:8, :8]).save(io.BytesIO(), "LIC", model="none-such")
    file = io.BytesIO()
    PIL.Image.fromarray(photo).save(file, "JPEG")
    cut = PIL.Image.open(io.BytesIO(file.getvalue()[:9000]))
    with pytest.raises(InputError, match="truncated"):
        lcodec.encode(cut)


def test_files_that_give_text_choose_no_other_file(tmp_path, monkeypatch, photo):
    PIL.Image.fromarray(photo[:8, :8]).save(tmp_path / "x.png")
    monkeypatch.chdir(tmp_path)
    for call in (lcodec.encode, lcodec.decode):
        with pytest.raises(InputError, match="text instead of bytes"):
            call(io.StringIO("x.png"))
    closed = open(tmp_path / "x.png", "rb")
    closed.close()
    with pytest.raises(InputError, match="closed file"):
        lcodec.encode(closed)


def test_arrays_of_other_byte_orders_and_with_gray_and_alpha(photo):
    deep = photo[:9, :7].astype(">u2") * 257
    assert np.array_equal(from_array(deep).pixels, deep) and from_array(deep).deep
    both = from_array(photo[:9, :7, :2])
    assert both.gray and np.array_equal(both.pixels, photo[:9, :7, 0])
    assert np.array_equal(both.alpha, photo[:9, :7, 1])


def test_part_of_a_picture_and_what_damage_leaves_of_it(codec, photo):
    data = codec.encode(photo[:256, :512], 2.0, slice_log2=4).data
    whole = np.asarray(lcodec.decode(data, device="cpu"))
    part = np.asarray(lcodec.decode(data, device="cpu", region=(300, 20, 60, 50)))
    assert part.shape == (50, 60, 3) and np.abs(part.astype(int) - whole[20:70, 300:360]).max() <= 1
    twice = np.repeat(np.frombuffer(data, np.uint8), 2)
    for view in (memoryview(data), memoryview(twice)[::2], bytearray(data)):
        assert np.array_equal(np.asarray(lcodec.decode(view, device="cpu")), whole)
    place = [s.offset for s in container.list_sections(data) if s.name == "SLICE"][1]
    bad = data[: place + 30] + bytes([data[place + 30] ^ 1]) + data[place + 31 :]
    with pytest.raises(StreamError):
        lcodec.decode(bad, device="cpu")
    with pytest.warns(UserWarning, match="damaged, and filled: 256,0,256,256"):
        left = np.asarray(lcodec.decode(bad, device="cpu", allow_partial=True))
    assert np.array_equal(left[:, :200], whole[:, :200])


def test_models_are_loaded_once_and_can_be_forgotten(full, monkeypatch):
    lcodec.clear_cache()
    loaded = []
    load = weights.load
    monkeypatch.setattr(weights, "load", lambda path: loaded.append(path) or load(path))
    with ThreadPoolExecutor(6) as pool:
        pictures = list(pool.map(lambda _: lcodec.decode(full, device="cpu", threads=1).tobytes(), range(6)))
    assert len(set(pictures)) == 1 and len(loaded) == 1
    lcodec.clear_cache()
    lcodec.decode(full, device="cpu", threads=1)
    assert len(loaded) == 2


def test_threads_of_torch_are_those_of_the_caller(codec, photo):
    import torch

    from lcodec.transforms.torch_backend import torch_threads

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        data = lcodec.encode(photo[:64, :64], codec.name, 2, device="cpu", threads=1, effort=1)
        lcodec.decode(data, device="cpu", threads=2)
        assert torch.get_num_threads() == 3
        meet, found = threading.Barrier(2, timeout=20), {}

        def first() -> None:
            with torch_threads(1):
                meet.wait()
                meet.wait()
            meet.wait()

        def second() -> None:
            meet.wait()
            with torch_threads(2):  # the first time that this thread uses torch, with another's number
                meet.wait()
                meet.wait()
                found["within"] = torch.get_num_threads()
            found["afterwards"] = torch.get_num_threads()

        threads = [threading.Thread(target=target) for target in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fresh = threading.Thread(target=lambda: found.update(fresh=torch.get_num_threads()))
        fresh.start()
        fresh.join()
        assert found == {"within": 2, "afterwards": 3, "fresh": 3} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_codec_goes_to_other_processes(codec, full):
    again = pickle.loads(pickle.dumps(codec))
    assert again.id == codec.id and np.array_equal(again.decode(full).pixels, codec.decode(full).pixels)


def test_child_of_a_process_that_reads_an_image_can_read_one(photo):
    """Forked while another thread holds what Pillow has only once."""
    code = """
import io, os, sys, threading, time
import numpy as np, PIL.Image
from lcodec.image import read_image
from lcodec.image.guard import pillow_limit

file = io.BytesIO()
PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")

def hold():
    for _ in range(200):
        with pillow_limit(100):
            time.sleep(0.001)

threading.Thread(target=hold, daemon=True).start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        file.seek(0)
        read_image(file)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print("read")
"""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout == "read\n", run.stderr
