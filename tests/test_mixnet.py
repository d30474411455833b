"""The C transforms of lc-s against the float network in torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lcodec.cpu import _mixnet, pack
from lcodec.cpu._mixnet import MixNet
from lcodec.errors import ModelError, UsageError
from lcodec.image import read_image
from lcodec.nets import NetConfig, Network
from lcodec.train.initialize import linear_start
from tests.conftest import PHOTO

# bfloat16 has 8 bits; what is added up along the way has 24
RELATIVE = 0.01


def photo(height: int, width: int) -> np.ndarray:
    pixels = read_image(Path(PHOTO)).pixels
    return np.ascontiguousarray(np.tile(pixels, (4, 4, 1))[:height, :width])


def network(N: int, M: int) -> Network:
    """A linear codec with all of its nonlinear branches at work."""
    torch.manual_seed(N)
    net = Network(NetConfig("lc-s", N, M, (1.0, 8.0))).eval()
    x = torch.from_numpy(photo(128, 128)).permute(2, 0, 1)[None].float() / 255
    linear_start(net, x)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.weight.mul_(3)
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
                module.bias.add_(0.05 * torch.randn_like(module.bias))
    return net


def tensors(net: Network) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in net.state_dict().items() if k.startswith(("g_a.", "g_s.", "h_a."))}


@pytest.fixture(scope="module", params=[(192, 48), (24, 40)], ids=["full", "padded"])
def both(request: pytest.FixtureRequest) -> tuple[Network, MixNet]:
    net = network(*request.param)
    return net, MixNet(pack.pack(tensors(net)))


@torch.inference_mode()
def expected_y(net: Network, pixels: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max).permute(2, 0, 1)[None]
    return net.g_a(x.expand(-1, 3, -1, -1))[0].permute(1, 2, 0).numpy()


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    error = np.sqrt(np.mean((actual - expected) ** 2) / np.mean((expected - expected.mean()) ** 2))
    assert error < RELATIVE, error
    assert np.abs(actual - expected).max() < 10 * RELATIVE * np.abs(expected).max()


def assert_same_picture(actual: np.ndarray, expected: np.ndarray) -> None:
    """Within one level of 255, but for a sample in ten thousand: bfloat16 leaves a spread of about a quarter level."""
    difference = np.abs(actual - expected)
    assert difference.max() <= 2
    assert (difference > 1).mean() < 1e-4


SIZES = [(64, 64), (16, 16), (128, 576), (48, 1088)]


@pytest.mark.parametrize("isa", _mixnet.isas())
@pytest.mark.parametrize("size", SIZES)
def test_analysis_agrees_with_torch(both: tuple[Network, MixNet], size: tuple[int, int], isa: str) -> None:
    net, mixnet = both
    pixels = photo(*size)
    y = mixnet.analyse(pixels, isa=isa)
    assert_close(y[:, :, : net.config.M], expected_y(net, pixels))
    assert not y[:, :, net.config.M :].any()


@pytest.mark.parametrize("isa", _mixnet.isas())
def test_gray_and_deep_samples_agree_with_torch(both: tuple[Network, MixNet], isa: str) -> None:
    net, mixnet = both
    deep = photo(64, 96).astype(np.uint16) * 257 + np.arange(64 * 96 * 3).reshape(64, 96, 3).astype(np.uint16) % 200
    for pixels in (deep, deep[:, :, 1:2], photo(64, 96)[:, :, :1]):
        assert_close(mixnet.analyse(pixels, isa=isa)[:, :, : net.config.M], expected_y(net, pixels))


@pytest.mark.parametrize("isa", _mixnet.isas())
@pytest.mark.parametrize("size", [(4, 4), (8, 36), (12, 140)])
def test_hyper_analysis_agrees_with_torch(both: tuple[Network, MixNet], size: tuple[int, int], isa: str) -> None:
    net, mixnet = both
    y = np.random.default_rng(1).laplace(0, 5, (*size, net.config.M)).astype(np.float32)
    with torch.inference_mode():
        z = net.h_a(torch.from_numpy(y).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert_close(mixnet.hyper_analyse(y, isa=isa)[:, :, : net.config.N], z)


@pytest.mark.parametrize("isa", _mixnet.isas())
@pytest.mark.parametrize("size", SIZES)
def test_pictures_agree_with_torch(both: tuple[Network, MixNet], size: tuple[int, int], isa: str) -> None:
    net, mixnet = both
    step = np.float32(0.02)
    y_hat = np.rint(expected_y(net, photo(*size)) / step).astype(np.int32)
    scale = np.full(net.config.M, step)
    with torch.inference_mode():
        scaled = torch.from_numpy(y_hat.astype(np.float32) * step).permute(2, 0, 1)[None]
        x_hat = net.g_s(scaled)[0].permute(1, 2, 0).clamp(0, 1).numpy()
    out = mixnet.synthesise(y_hat, scale, isa=isa)
    assert out.dtype == np.uint8 and out.shape == (*size, 3)
    assert_same_picture(out, np.rint(x_hat * 255))
    gray = mixnet.synthesise(y_hat, scale, gray=True, isa=isa)
    assert_same_picture(gray[:, :, 0], np.rint(x_hat.mean(2) * 255))
    deep = mixnet.synthesise(y_hat, scale, deep=True, isa=isa)
    assert deep.dtype == np.uint16
    assert_same_picture(np.rint(deep / 257), np.rint(x_hat * 255))


@pytest.mark.parametrize("isa", _mixnet.isas())
def test_threads_do_not_change_anything(both: tuple[Network, MixNet], isa: str) -> None:
    net, mixnet = both
    pixels = photo(192, 320)
    y = mixnet.analyse(pixels, isa=isa)
    y_hat = np.rint(50 * y).astype(np.int32)
    scale = np.full(y.shape[2], 0.02, np.float32)
    z, x = mixnet.hyper_analyse(y, isa=isa), mixnet.synthesise(y_hat, scale, isa=isa)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(mixnet.analyse(pixels, threads, isa), y)
        np.testing.assert_array_equal(mixnet.hyper_analyse(y, threads, isa), z)
        np.testing.assert_array_equal(mixnet.synthesise(y_hat, scale, threads=threads, isa=isa), x)


def test_what_does_not_fit_is_rejected(both: tuple[Network, MixNet]) -> None:
    _, mixnet = both
    with pytest.raises(ValueError, match="multiples of 16"):
        mixnet.analyse(np.zeros((24, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="float"):
        mixnet.analyse(np.zeros((16, 16, 3), np.float32))
    with pytest.raises(ValueError, match="y is"):
        mixnet.hyper_analyse(np.zeros((6, 4, 8), np.float32))
    with pytest.raises(ValueError, match="y_hat is"):
        mixnet.synthesise(np.zeros((4, 4, 4096), np.int32), np.ones(4096, np.float32))
    with pytest.raises(ValueError, match="scale is"):
        mixnet.synthesise(np.zeros((4, 4, 8), np.int32), np.ones(7, np.float32))
    with pytest.raises(UsageError, match="threads"):
        mixnet.analyse(np.zeros((16, 16, 3), np.uint8), threads=0)
    with pytest.raises(UsageError, match="instruction set"):
        mixnet.analyse(np.zeros((16, 16, 3), np.uint8), isa="mmx")


def test_a_net_of_unfit_parts_is_rejected() -> None:
    good = pack.pack(tensors(network(24, 40)))
    with pytest.raises(ModelError, match="shape"):
        MixNet(good._replace(down=good.patch))
    with pytest.raises(ModelError, match="padded"):
        MixNet(good._replace(N=24))


@pytest.mark.parametrize("name", "g_a.1 g_a.5 g_a.2.enter g_a.3.depthwise h_a.0 h_a.4 g_s.0 g_s.4".split())
def test_kernels_of_another_size_are_rejected(name: str) -> None:
    """Taps would be left out without a word."""
    larger = tensors(network(24, 40))
    larger[f"{name}.weight"] = np.pad(larger[f"{name}.weight"], ((0, 0), (0, 0), (1, 1), (1, 1)))
    with pytest.raises(ValueError, match="shape"):
        pack.pack(larger)


def bits(values: torch.Tensor) -> np.ndarray:
    return values.view(torch.int16).numpy().view(np.uint16)


def test_panels_hold_weights_to_the_nearest_bfloat16_and_what_is_left_of_them() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20, 0.0, 3e38], np.float32)
    upper = torch.from_numpy(values).bfloat16()
    for lower, expected in ((False, upper), (True, (torch.from_numpy(values) - upper.float()).bfloat16())):
        panels = _mixnet.pack_panels([(values[None], 32, False), (values[None], 32, lower)], 32)
        assert panels.ctypes.data % 64 == 0
        second = panels.reshape(1, 2, 2, 16, 16, 2)[0, 1]
        np.testing.assert_array_equal(second[0, 0, : len(values), 0], bits(expected))
        assert np.count_nonzero(second) == np.count_nonzero(bits(expected))


def test_panels_of_taps_that_do_not_fit_are_refused() -> None:
    tap = np.ones((3, 5), np.float32)
    for size, outputs in ((30, 32), (32, 40), (0, 32)):
        with pytest.raises(ValueError, match="do not fit"):
            _mixnet.pack_panels([(tap, size, False)], outputs)


INTERRUPTED = """
import sys, threading
import numpy as np
from lcodec import weights
from lcodec.cpu import pack
from lcodec.cpu._mixnet import MixNet

model = weights.load(weights.find(sys.argv[1]))
net = MixNet(pack.pack({k: v for k, v in model.floats().items() if k.startswith(("g_a.", "g_s.", "h_a."))}))
join, interrupts = threading.Thread.join, 0

def interrupted(thread, timeout=None):
    raise KeyboardInterrupt

for i in range(20):
    y_hat = np.ones((16 + 4 * (i % 3), 16, net.M), np.int32)
    threading.Thread.join = interrupted
    try:
        net.synthesise(y_hat, np.ones(net.M, np.float32), threads=4)
    except KeyboardInterrupt:
        interrupts += 1
    del y_hat
threading.Thread.join = join
for thread in threading.enumerate():
    if thread.name.startswith("lcodec-"):
        thread.join()
print(interrupts)
"""


def test_threads_that_an_interrupt_leaves_behind_keep_their_memory(models):
    """Else they write into what is something else by then."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(models["lc-s"])], capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"20\n"), done.stderr.decode()[-1000:]
