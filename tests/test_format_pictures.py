"""A second synthesis, written from section 8 of FORMAT.md alone in numpy, against that of the codec."""

from __future__ import annotations

import numpy as np
import pytest

from lcodec import container, decoder
from lcodec.codec import Codec
from lcodec.nets import ARCHITECTURES

F64 = np.ndarray  # (rows, columns, channels), float64


def conv(x: F64, weight: np.ndarray, bias: np.ndarray) -> F64:
    k = weight.shape[2]
    p = (k - 1) // 2
    padded = np.pad(x, ((p, p), (p, p), (0, 0)))
    rows, columns = x.shape[:2]
    taps = (padded[i : i + rows, j : j + columns] @ weight[:, :, i, j].T for i in range(k) for j in range(k))
    return sum(taps, start=np.zeros((rows, columns, len(bias)))) + bias


def deconv(x: F64, weight: np.ndarray, bias: np.ndarray) -> F64:
    """out[y] takes tap i of in[(y + p - i) / 2] where that is whole: in[r] goes to out[2 r + i - p]."""
    k, p = weight.shape[2], (weight.shape[2] - 1) // 2
    rows, columns = x.shape[:2]
    out = np.zeros((2 * rows + k, 2 * columns + k, len(bias)))
    for i in range(k):
        for j in range(k):
            out[i : i + 2 * rows : 2, j : j + 2 * columns : 2] += x @ weight[:, :, i, j]
    return out[p : p + 2 * rows, p : p + 2 * columns] + bias


def leaky(x: F64, slope: float) -> F64:
    return np.where(x >= 0, x, slope * x)


def shuffle(x: F64, r: int) -> F64:
    rows, columns, channels = x.shape
    split = x.reshape(rows, columns, channels // r**2, r, r)  # c r^2 + r i + j
    return split.transpose(0, 3, 1, 4, 2).reshape(rows * r, columns * r, channels // r**2)


class Synthesis:
    """The layers of section 8.1, by the names of their tensors."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.tensors = {name: array.astype(np.float64) for name, array in tensors.items()}

    def conv(self, name: str, x: F64) -> F64:
        return conv(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def deconv(self, name: str, x: F64) -> F64:
        return deconv(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def igdn(self, name: str, x: F64) -> F64:
        beta = np.maximum(self.tensors[f"{name}.beta"], (1e-6 + 2.0**-36) ** 0.5) ** 2 - 2.0**-36
        gamma = np.maximum(self.tensors[f"{name}.gamma"], 2.0**-18) ** 2 - 2.0**-36
        return x * np.sqrt(beta + x**2 @ gamma.T)

    def rb(self, name: str, x: F64) -> F64:
        return x + leaky(self.conv(f"{name}.conv2", leaky(self.conv(f"{name}.conv1", x), 0.01)), 0.01)

    def rbu(self, name: str, x: F64) -> F64:
        inner = self.conv(f"{name}.conv", leaky(shuffle(self.conv(f"{name}.subpel_conv.0", x), 2), 0.01))
        return self.igdn(f"{name}.igdn", inner) + shuffle(self.conv(f"{name}.upsample.0", x), 2)

    def unit(self, name: str, x: F64) -> F64:
        inner = x
        for layer in ("conv.0", "conv.2"):
            inner = np.maximum(0, self.conv(f"{name}.{layer}", inner))
        return np.maximum(0, x + self.conv(f"{name}.conv.4", inner))

    def attention(self, name: str, x: F64) -> F64:
        a = b = x
        for n in range(3):
            a, b = self.unit(f"{name}.conv_a.{n}", a), self.unit(f"{name}.conv_b.{n}", b)
        return x + a / (1 + np.exp(-self.conv(f"{name}.conv_b.3", b)))

    def mixing(self, name: str, x: F64) -> F64:
        depthwise = self.tensors[f"{name}.depthwise.weight"][:, 0]
        weight = np.zeros((len(depthwise), *depthwise.shape))
        weight[range(len(depthwise)), range(len(depthwise))] = depthwise
        entered = leaky(self.conv(f"{name}.enter", x), 0.1)
        u = x + self.conv(f"{name}.leave", conv(entered, weight, self.tensors[f"{name}.depthwise.bias"]))
        return u + self.conv(f"{name}.contract", leaky(self.conv(f"{name}.expand", u), 0.1))

    def run(self, architecture: str, x: F64) -> F64:
        if architecture == "lc-s":
            x = self.deconv("g_s.0", x)
            for i in (1, 2, 3):
                x = self.mixing(f"g_s.{i}", x)
            return shuffle(self.conv("g_s.4", x), 8)
        if not architecture.startswith("cheng"):
            for i in (0, 2, 4):
                x = self.igdn(f"g_s.{i + 1}", self.deconv(f"g_s.{i}", x))
            return self.deconv("g_s.6", x)
        kinds = {"a": self.attention, "b": self.rb, "u": self.rbu}
        layers = "bububub" if architecture == "cheng2020-anchor" else "abubuabub"
        for i, kind in enumerate(layers):
            x = kinds[kind](f"g_s.{i}", x)
        return shuffle(self.conv(f"g_s.{len(layers)}.0", x), 2)


def picture(data: bytes, codec: Codec) -> np.ndarray:
    """Section 8: float64 (H, W, 3 or 1), in steps of the output, not rounded."""
    header = container.read_header(data)
    y_hat = decoder.decode_latents(container.unpack(data), codec.file, codec.entropy)
    rows, qualities = codec.file.floats()["log_inverse_gain"].astype(np.float64), codec.file.qualities
    gain = np.exp([np.interp(header.quality, qualities, row) for row in rows.T])
    x = Synthesis(codec.file.floats()).run(codec.config.architecture, y_hat / 2.0**codec.entropy.fy * gain)
    x = np.clip(x[: header.height, : header.width], 0, 1)
    return (x.mean(2, keepdims=True) if header.gray else x) * (65535 if header.deep else 255)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_a_synthesis_written_from_the_specification_gives_the_same_picture(name, models, photo):
    codec = Codec(models[name], "cpu", 1)
    data = codec.encode(photo[40:150, 200:330], 5.3).data
    expected = picture(data, codec)
    assert np.mean((expected <= 0) | (expected >= 255)) < 0.1 and expected.std() > 20
    pixels = codec.decode(data).pixels
    assert np.abs(pixels - expected).max() < 2.5 and np.abs(pixels - expected).mean() < 0.4  # 0.25 by rounding alone


@pytest.mark.parametrize("name", ["mbt2018-mean", "lc-s"])
@pytest.mark.parametrize("deep", [False, True])
def test_gray_and_deep_samples_are_those_of_the_specification(name, deep, models, photo):
    codec = Codec(models[name], "cpu", 1)
    gray = photo[40:150, 200:330, 1].astype(np.uint16) * 257 if deep else photo[40:150, 200:330, 1]
    data = codec.encode(gray, 3.0).data
    pixels, expected = codec.decode(data).pixels, picture(data, codec)[:, :, 0]
    assert pixels.dtype == gray.dtype
    assert np.abs(pixels - expected).max() < (2.5 * 257 if deep else 2.5)
