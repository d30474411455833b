"""Pictures in bands of rows: the same file and the same pixels, whatever the bands, and only a window is held."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lcodec import decoder
from lcodec.codec import Codec
from lcodec.errors import InputError
from lcodec.image import BandedPicture, pad, padded_bands
from lcodec.nets import ARCHITECTURES, NetConfig, Network
from lcodec.transforms import tiling
from lcodec.transforms.bands import Bands
from lcodec.transforms.torch_backend import TorchTransforms


def split(array, *heights):
    row = 0
    for height in heights:
        yield array[row : row + height]
        row += height


def test_block_is_the_part_of_the_whole_array():
    array = np.arange(20 * 6 * 2).reshape(20, 6, 2)
    bands = Bands(split(array, 3, 1, 9, 7))
    assert np.array_equal(bands.block(2, 12, 1, 5), array[2:12, 1:5])
    bands.forget(7)
    assert np.array_equal(bands.block(7, 20, 0, 6), array[7:])
    with pytest.raises(ValueError, match="not held"):
        bands.block(2, 8, 0, 6)
    with pytest.raises(ValueError, match="only 20 rows"):
        bands.block(19, 21, 0, 6)


def test_what_is_forgotten_is_not_held():
    drawn = []

    def source():
        for number in range(100):
            drawn.append(number)
            yield np.full((8, 4, 1), number)

    bands = Bands(source())
    for row in range(0, 800, 8):
        bands.block(row, row + 8, 0, 4)
        assert len(drawn) == row // 8 + 1
        bands.forget(row + 6)
        assert sum(len(band) for _, band in bands._held) == 2
        assert all(band.base is None for _, band in bands._held)  # no view that keeps the whole band


@pytest.mark.parametrize("height, width", [(64, 128), (65, 127), (1, 1), (130, 3)])
def test_padded_bands_equal_the_padded_whole(height, width):
    array = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    bands = padded_bands((array[i : i + 7] for i in range(0, height, 7)), height, width)
    assert np.array_equal(np.concatenate(list(bands)), pad(array))


@pytest.mark.parametrize("rows, width", [(9, 10), (11, 10), (10, 9), (0, 10)])
def test_bands_of_another_size_are_refused(rows, width):
    with pytest.raises(InputError):
        list(padded_bands(iter([np.zeros((rows, width, 3), np.uint8)] if rows else []), 10, 10))


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_file_does_not_depend_on_the_bands(name, models, photo):
    codec = Codec(models[name], "cpu", 1)
    part = photo[:300, :333]
    whole = codec.encode(part, 5.0, slice_log2=4)
    again = codec.encode_bands(BandedPicture(split(part, 100, 1, 150, 49), 300, 333), 5.0, slice_log2=4)
    assert again.data == whole.data and again.y_hat_digest == whole.y_hat_digest == decoder.digest(whole.data)
    decoding = codec.decode_bands(whole.data)
    bands = list(decoding)
    assert np.array_equal(np.concatenate(bands), whole.reconstruction())
    assert decoding.digest == whole.y_hat_digest and decoding.lost == []


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_small_tiles_show_no_seam(name, models, photo, monkeypatch):
    """At most 1 LSB from one pass, and the same latents from the encoder but for roundings."""
    codec = Codec(models[name], "cpu", 1)
    part = photo[:320, :448]
    whole = codec.encode(part, 5.0, slice_log2=5)
    pixels = codec.decode(whole.data).pixels
    monkeypatch.setattr(tiling, "TILE_LATENTS", 8)
    tiled = codec.decode(whole.data).pixels
    assert np.abs(pixels.astype(int) - tiled).max() <= 1
    again = codec.encode(part, 5.0, slice_log2=5)
    assert abs(len(again.data) - len(whole.data)) <= 8


@pytest.mark.parametrize("name", [name for name, arch in ARCHITECTURES.items() if arch.has_hyperprior])
def test_hyper_analysis_by_slices_equals_one_pass(name):
    torch.manual_seed(0)
    network = Network(NetConfig(name, 8, 8)).eval()
    y = np.random.default_rng(0).normal(0, 5, (40, 36, 8)).astype(np.float32)
    gain = np.linspace(0.5, 2, 8, dtype=np.float32)
    transforms = TorchTransforms(network, "cpu", 1)
    with torch.inference_mode():
        whole = network.hyper_analyse(torch.from_numpy(y * gain).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        for top, bottom, left, right in [(0, 16, 0, 16), (16, 32, 16, 32), (12, 16, 8, 12), (32, 40, 20, 36)]:
            box = tiling.Box(top, bottom, left, right)
            part = tiling.hyper_analyse_block(transforms, Bands(iter([y])), gain, box, 40, 36)
            expected = whole[top // 4 : bottom // 4, left // 4 : right // 4]
            assert np.allclose(part, expected, rtol=0, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize("name", [name for name, arch in ARCHITECTURES.items() if arch.has_hyperprior])
def test_hyper_halo_covers_the_receptive_field(name):
    torch.manual_seed(0)
    network = Network(NetConfig(name, 4, 4)).eval()
    halo = tiling.HYPER_HALO_LATENTS
    y = torch.randn(1, 4, 4 * 9, 4 * 9, requires_grad=True)
    network.hyper_analyse(y)[:, :, 4, 4].square().sum().backward()
    seen = y.grad[0].abs().sum(0).nonzero()
    assert int(seen.min()) >= 16 - halo and int(seen.max()) < 20 + halo
