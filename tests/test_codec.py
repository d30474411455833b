"""The main path, for every architecture: exact latents, honest sizes, any image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

import lcodec
from lcodec import container, decoder, weights
from lcodec.codec import Codec
from lcodec.container import Header
from lcodec.cores import MAX_THREADS
from lcodec.cpu import _mixnet
from lcodec.encoding import to_fixed
from lcodec.entropy import _intnet
from lcodec.entropy.tables import GAUSSIAN, SCALE_SPREAD, table_set
from lcodec.errors import Corrupt, DeviceError, InputError, LimitExceeded, ModelError, StreamError, UsageError
from lcodec.finalize.assemble import finalize_network
from lcodec.finalize.freeze import tables_of_y
from lcodec.finalize.report import measure
from lcodec.image import Picture, to_8_bits
from lcodec.limits import Limits
from lcodec.nets import ARCHITECTURES

from .conftest import random_network


@pytest.fixture(params=list(ARCHITECTURES))
def codec(request, models) -> Codec:
    return Codec(models[request.param], "cpu", 1)


def test_pictures_of_the_test_models_are_no_flat_colour(codec, photo):
    """What is black, white or one colour would pass for equal in all tests that compare pixels."""
    for quality in (1.0, 8.0):
        pixels = codec.encode(photo[:256, :256], quality).reconstruction()
        assert np.mean((pixels == 0) | (pixels == 255)) < 0.05 and pixels.std() > 20


def test_decoder_gets_the_latents_and_the_picture_of_the_encoder(codec, photo):
    for quality in (1.0, 3.3, 8.0):
        result = codec.encode(photo[:200, :333], quality)
        decoded = codec.decode(result.data)
        assert decoded.digest == result.y_hat_digest == decoder.digest(result.data)
        assert decoded.pixels.shape == (200, 333, 3)
        assert np.array_equal(decoded.pixels, result.reconstruction())


@pytest.mark.parametrize("height, width", [(1, 1), (1, 300), (64, 64), (65, 63), (130, 7)])
def test_any_size_comes_back(codec, photo, height, width):
    data = codec.encode(photo[:height, :width], 4.0).data
    assert codec.decode(data).pixels.shape == (height, width, 3)


def test_file_size_is_the_estimate_of_the_float_model(codec, photo):
    """0.5 % + 64 bytes: what the integer arithmetic, the tables, the coder and the container cost together."""
    name = codec.config.architecture
    network = random_network(name)
    table_qualities = codec.file.entropy["table_qualities"]
    sizes = codec.file.tensors.get("tables.gaussian.sizes")
    spread = SCALE_SPREAD if np.array_equal(sizes, tables_of_y(SCALE_SPREAD).sizes) else GAUSSIAN
    for quality in (1.0, 2.5, 4.5, 8.0):
        rate = measure(network, codec.entropy, table_qualities, [photo], [quality], spread)[0]
        estimate = rate.float_bits / 8
        data = codec.encode(photo, quality).data
        assert len(data) <= 1.005 * estimate + 64, (quality, len(data), estimate)
        # Where random scales do not fit the latents, an escape takes fewer bits than the 1e-9 that the estimate counts.
        assert len(data) >= (0.85 if codec.config.arch.has_hyperprior else 0.995) * estimate
        payload = sum(len(s) for s in container.unpack(data).slices)
        assert rate.integer_bits == pytest.approx(8 * payload, rel=5e-3)  # the codec's transforms are not torch's
        assert rate.integer_bpp == rate.integer_bits / (432 * 768)


def test_slices_are_independent_and_agree_with_any_thread_count(codec, photo):
    result = codec.encode(photo, 6.0, slice_log2=4)
    box = container.unpack(result.data)
    assert len(box.slices) == 2 * 3
    parallel = Codec(weights.find(codec.id), "cpu", 2)
    assert parallel.encode(photo, 6.0, slice_log2=4).data == result.data
    assert parallel.decode(result.data).digest == result.y_hat_digest
    latents = decoder.decode_latents(box, codec.file, codec.entropy)
    y0, x0, h, w = list(box.header.slices())[4]
    tables = table_set(list(codec.file.entropy["table_qualities"]), 6.0)
    alone = codec.entropy.decode_slice(box.slices[4], h, w, tables, 1)
    assert np.array_equal(alone, latents[y0 : y0 + h, x0 : x0 + w])


def test_quality_changes_size_and_fraction_lies_between(codec, photo):
    sizes = [len(codec.encode(photo, q).data) for q in (1.0, 4.5, 8.0)]
    assert sizes[0] < sizes[1] < sizes[2]
    with pytest.raises(UsageError, match="qualities 1 to 8"):
        codec.encode(photo, 8.5)


def test_public_functions_take_paths_arrays_and_images(models, model_file, photo, tmp_path):
    small = photo[:64, :96]
    PIL.Image.fromarray(small).save(tmp_path / "small.png")
    options = {"model": model_file, "quality": 3.0, "device": "cpu", "threads": 1}
    data = lcodec.encode(small, **options)
    assert lcodec.encode(PIL.Image.fromarray(small), **options) == data
    assert lcodec.encode(tmp_path / "small.png", **options) == data
    image = lcodec.decode(data, device="cpu", threads=1)
    assert image.mode == "RGB" and image.size == (96, 64)


def test_limit_device_and_model_are_checked(codec, models, photo):
    data = codec.encode(photo[:64, :64], 2.0).data
    with pytest.raises(LimitExceeded):
        codec.decode(data, limits=Limits(pixels=64 * 64 - 1))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no CUDA device"):
            Codec(models["mbt2018"], "cuda")
    with pytest.raises(UsageError, match="threads"):
        Codec(models["mbt2018"], "cpu", 0)
    other = next(path for name, path in models.items() if name != codec.config.architecture)
    with pytest.raises(ModelError, match="was made with model"):
        Codec(other, "cpu", 1).decode(data)


@pytest.mark.parametrize("quality", [0.5, 8.0 + 1 / 128])
def test_file_of_a_quality_that_the_model_lacks_is_corrupt(models, photo, quality):
    codec = Codec(models["mbt2018-mean"], "cpu", 1)
    box = container.unpack(codec.encode(photo[:64, :64], 2.0).data)
    data = container.pack(replace(box, header=replace(box.header, quality_code=container.quality_to_code(quality))))
    for decode in (codec.decode, decoder.digest):
        with pytest.raises(Corrupt, match="qualities 1 to 8"):
            decode(data)


def test_qualities_between_two_steps_of_the_header_are_coded(photo, tmp_path):
    """The outer ones are rounded out of the model's range in the file, and the range is below a half step."""
    low, high = 4.103, 4.31
    assert container.quality_to_code(low) / 128 < low and container.quality_to_code(high) / 128 > high
    path = tmp_path / f"narrow{weights.SUFFIX}"
    network = random_network("mbt2018-mean", qualities=(low, high))
    weights.save(finalize_network(network, {}, [photo[:128, :128]]).model, path)
    codec = Codec(path, "cpu", 1)
    for quality in (low, high):
        result = codec.encode(photo[:64, :64], quality)
        assert codec.decode(result.data).digest == result.y_hat_digest


def test_unknown_model_is_named_with_where_it_was_looked_for(codec, photo, monkeypatch, tmp_path):
    data = codec.encode(photo[:64, :64], 2.0).data
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path))
    with pytest.raises(ModelError, match=codec.id[:16]) as caught:
        decoder.digest(data)
    assert str(tmp_path) in (caught.value.hint or "")


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_picture_comes_back_as_what_it_was(models, photo, gray, deep, alpha):
    codec = Codec(models["mbt2018-mean"], "cpu", 1)
    pixels = photo[:70, :90]
    pixels = pixels[..., 1] if gray else pixels
    dtype = np.uint16 if deep else np.uint8
    pixels = pixels.astype(dtype) * dtype(257 if deep else 1)
    opacity = np.random.default_rng(0).integers(0, 65536, (70, 90)).astype(dtype) if alpha else None
    picture = Picture(pixels, opacity, b"profile", b"exif", b"xmp")
    result = codec.encode(picture, 8.0)
    decoded = codec.decode(result.data)
    got = decoded.picture
    assert (decoded.header.gray, decoded.header.deep, got.mode) == (gray, deep, picture.mode)
    assert got.pixels.dtype == dtype and got.pixels.shape == pixels.shape
    assert np.array_equal(got.pixels, result.reconstruction())
    assert (got.icc, got.exif, got.xmp) == (b"profile", b"exif", b"xmp")
    if opacity is None:
        assert got.alpha is None
    else:
        assert got.alpha is not None and got.alpha.dtype == dtype and np.array_equal(got.alpha, opacity)
    assert decoder.digest(result.data) == result.y_hat_digest


@pytest.fixture(scope="module")
def shipped() -> Codec:
    """Trained weights: random ones make no pictures. In float32, for differences that are far below a step."""
    return Codec("mbt2018-mean", "cpu", 1)


def test_sixteen_bits_reach_the_networks_and_come_out_again(shipped, photo):
    """A change below one step of 8 bits changes the latents before rounding; the output is not on the steps of 8."""
    codec = shipped
    deep = photo[:64, :64].astype(np.uint16) * 257

    def latents(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            y = codec._encoding.analyse(Header(64, 64, codec.file.stream_id), iter([pixels])).block(0, 4, 0, 4)
            return to_fixed(y * codec.transforms.gain(8.0))

    same = latents(photo[:64, :64])
    assert np.abs(latents(deep) - same).max() <= 64  # float rounding; 65536 is one step of the latents
    assert np.abs(latents(deep + np.uint16(100)) - same).max() > 640
    decoded = codec.decode(codec.encode(deep, 8.0).data)
    assert np.count_nonzero(decoded.pixels % 257) > 0.9 * decoded.pixels.size
    eight = codec.decode(codec.encode(photo[:64, :64], 8.0).data)
    assert eight.digest == decoded.digest
    difference = np.abs(to_8_bits(decoded.pixels).astype(int) - eight.pixels)
    assert difference.max() <= 1 and difference.mean() < 0.001  # a value between two steps may go either way


def test_gray_is_what_three_equal_channels_are(shipped, photo):
    codec = shipped
    gray = np.ascontiguousarray(photo[:64, :80, 0])
    alone = codec.decode(codec.encode(gray, 4.0).data)
    threefold = codec.decode(codec.encode(np.repeat(gray[..., None], 3, axis=2), 4.0).data)
    assert alone.digest == threefold.digest
    mean = threefold.pixels.mean(axis=2)
    assert np.abs(alone.pixels - mean).max() <= 1


def test_hidden_pixels_cost_no_bits(shipped, photo):
    codec = shipped
    alpha = np.zeros((256, 256), np.uint8)
    alpha[64:128, 64:128] = 255
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    pixels = np.where(alpha[..., None] > 0, photo[:256, :256], noise)
    with_noise = codec.encode(Picture(pixels, alpha), 4.0).data
    assert with_noise == codec.encode(Picture(photo[:256, :256], alpha), 4.0).data
    assert len(with_noise) < 0.3 * len(codec.encode(photo[:256, :256], 4.0).data)


@pytest.mark.parametrize("effort", [0, 1])
def test_latents_that_are_too_many_to_keep_are_decoded_again(models, photo, monkeypatch, effort):
    codec = Codec(models["mbt2018-mean"], "cpu", 1)
    kept = codec.encode(photo[:90, :128], 4.0, effort=effort)
    monkeypatch.setattr("lcodec.encoding.KEPT_LATENTS", 0)
    result = codec.encode(photo[:90, :128], 4.0, effort=effort)
    assert result.data == kept.data
    assert np.array_equal(result.reconstruction(), kept.reconstruction())


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.cuda.OutOfMemoryError("CUDA")]
)
def test_want_of_memory_in_torch_is_a_memory_error(models, photo, monkeypatch, error):
    codec = Codec(models["mbt2018-mean"], "cpu", 1)

    def fail(x: torch.Tensor) -> torch.Tensor:
        raise error

    monkeypatch.setattr(codec.transforms, "_g_a", fail)
    with pytest.raises(MemoryError):
        codec.encode(photo[:64, :64], 4.0)


def test_latents_become_fixed_point_and_what_none_is_an_error():
    values = np.array([0.5, -1.25, 3e-6, 8e-6, 1e9, -1e9], np.float32)
    assert to_fixed(values).tolist() == [1 << 15, -5 << 14, 0, 1, 1 << 30, -1 << 30]
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(InputError, match="not finite"):
            to_fixed(np.array([0.0, bad], np.float32))


def test_damaged_alpha_is_refused(models, photo):
    codec = Codec(models["mbt2018-mean"], "cpu", 1)
    data = codec.encode(Picture(photo[:64, :64], np.full((64, 64), 7, np.uint8)), 4.0).data
    box = container.unpack(data)
    for payload in (b"", b"\x08\x09", b"\x10" + (box.alpha or b"")[1:], (box.alpha or b"")[:-1]):
        with pytest.raises(StreamError):
            codec.decode(container.pack(replace(box, alpha=payload)))


def test_machine_of_many_cores(models, monkeypatch):
    """More threads than the C code takes are no reason to fail, neither found nor asked for."""
    assert min(_mixnet.MAX_THREADS, _intnet.MAX_THREADS) == MAX_THREADS
    pixels = np.random.default_rng(5).integers(0, 256, (200, 130, 3), np.uint8)
    model = models["lc-s"]
    expected = Codec(model, "cpu", 1).encode(pixels, 3.0).data
    monkeypatch.setattr("lcodec.codec.available_cores", lambda: 96)
    for codec in (Codec(model, "cpu"), Codec(model, "cpu", 100)):
        assert codec.encode(pixels, 3.0).data == expected
        codec.decode(expected)


def test_metadata_that_decoders_refuse_are_not_written(codec, photo):
    with pytest.raises(UsageError, match="bytes of metadata are more than"):
        codec.encode(Picture(photo[:64, :64], icc=b"i", xmp=bytes(container.METADATA_LIMIT_BYTES)), 4.0)
