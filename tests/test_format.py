"""A second decoder of slices, written from FORMAT.md alone in plain Python, against the compiled one."""

from __future__ import annotations

import hashlib
import itertools
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from lcodec import container, decoder, weights
from lcodec.entropy.intmodel import IntegerEntropyModel

M, N = 2, 3


# ---- the second decoder: sections 5 to 7 of FORMAT.md, in its order and its letters


class Stream:
    """Section 6."""

    def __init__(self, data: bytes) -> None:
        self.state = list(struct.unpack("<QQ", data[:16]))
        self.words = list(struct.unpack(f"<{len(data) // 4 - 4}I", data[16:]))
        self.i = 0
        assert all(2**31 <= x < 2**63 for x in self.state)

    def refill(self, x: int) -> int:
        return x << 32 | self.words.pop(0) if x < 2**31 else x

    def bits(self, b: int) -> int:
        x = self.state[self.i % 2]
        self.state[self.i % 2] = self.refill(x >> b)
        return x % 2**b

    def pop(self, cdf: list[int], offset: int) -> int:
        n = len(cdf) - 1
        x = self.state[self.i % 2]
        c = x % 65536
        k = next(k for k in range(n) if cdf[k] <= c < cdf[k + 1])
        self.state[self.i % 2] = self.refill((cdf[k + 1] - cdf[k]) * (x >> 16) + c - cdf[k])
        symbol = offset + k
        if k == n - 1:
            length = self.bits(6)
            raw = 2 ** (length - 1) if length else 0
            for first in range(0, length - 1, 16):
                raw |= self.bits(min(16, length - 1 - first)) << first
            symbol = offset - 1 - (raw >> 1) if raw % 2 else offset + n - 1 + (raw >> 1)
        self.i += 1
        return symbol

    def finish(self) -> None:
        assert self.state == [2**31, 2**31] and not self.words


def clamp(v: int, lo: int = -32767, hi: int = 32767) -> int:
    return min(max(v, lo), hi)


class Network:
    """Sections 5.2 and 5.3; arrays are dictionaries (row, column) -> channels, zero outside."""

    def __init__(self, tensors, entropy) -> None:
        self.tensors, self.entropy = tensors, entropy

    def layer(self, part: str, number: int, a: dict, positions) -> dict:
        described = self.entropy["layers"][part][number]
        kind = described["kind"]
        prefix = f"int.{part}.{number}."
        weight, bias, mult_pos, mult_neg, shift = (
            self.tensors[prefix + key].tolist() for key in ("weight", "bias", "mult_pos", "mult_neg", "shift")
        )
        C = len(weight) if kind == "deconv" else len(weight[0])
        zero = [0] * C
        out: dict = {}
        for y, x in positions:
            out[y, x] = []
            for o in range(len(bias) // (4 if kind == "subpel" else 1)):
                if kind == "subpel":
                    source, taps = 4 * o + 2 * (y % 2) + x % 2, itertools.product(range(3), range(3))
                    where = {(i, j): (y // 2 + i - 1, x // 2 + j - 1) for i, j in taps}
                elif kind == "deconv":
                    source, taps = o, itertools.product(range(5), range(5))
                    where = {
                        (i, j): ((y + 2 - i) // 2, (x + 2 - j) // 2)
                        for i, j in taps
                        if (y - i) % 2 == 0 and (x - j) % 2 == 0
                    }
                else:
                    k = len(weight[0][0])
                    p, source, taps = (k - 1) // 2, o, itertools.product(range(k), range(k))
                    where = {
                        (i, j): (y + i - p, x + j - p)
                        for i, j in taps
                        if kind == "conv" or i < p or (i == p and j < p)
                    }
                acc = bias[source]
                for (i, j), position in where.items():
                    values = a.get(position, zero)
                    for c in range(C):
                        w = weight[c][o] if kind == "deconv" else weight[source][c]
                        acc += w[i][j] * values[c]
                m = mult_pos[source] if acc >= 0 else mult_neg[source]
                s = shift[source]
                out[y, x].append(clamp((acc * m + (1 << (s - 1))) >> s, described["lo"], described["hi"]))
        return out

    def scale_index(self, s: int) -> int:
        return sum(t < s for t in self.tensors["scale_thresholds"].tolist())


def decode(data: bytes, h: int, w: int, table_set: int, tensors, entropy) -> dict:
    """Section 7."""
    stream, net = Stream(data), Network(tensors, entropy)
    M, N, fy, fz = (entropy[key] for key in ("M", "N", "fy", "fz"))

    def prior(name: str, channel: int) -> tuple[int, int]:
        at = table_set, channel
        cdf = tensors[f"tables.{name}.cdfs"][at].tolist()[: tensors[f"tables.{name}.sizes"][at]]
        return (
            stream.pop(cdf, int(tensors[f"tables.{name}.offsets"][at])),
            int(tensors[f"tables.{name}.medians"][at]),
        )

    def gaussian(scale: int) -> int:
        t = net.scale_index(scale)
        cdf = tensors["tables.gaussian.cdfs"][t].tolist()[: tensors["tables.gaussian.sizes"][t]]
        return stream.pop(cdf, int(tensors["tables.gaussian.offsets"][t]))

    def grid(rows: int, columns: int) -> list[tuple[int, int]]:
        return list(itertools.product(range(rows), range(columns)))

    y_hat: dict = {}
    if entropy["kind"] == "factorized":
        for position in grid(h, w):
            pairs = [prior("y", m) for m in range(M)]
            y_hat[position] = [(symbol << fy) + median for symbol, median in pairs]
        stream.finish()
        return y_hat
    a = {}
    for position in grid(h // 4, w // 4):
        pairs = [prior("z", n) for n in range(N)]
        a[position] = [clamp((symbol << fz) + median) for symbol, median in pairs]
    rows, columns = h // 4, w // 4
    for number, described in enumerate(entropy["layers"]["h_s"]):
        if described["kind"] in ("deconv", "subpel"):
            rows, columns = 2 * rows, 2 * columns
        a = net.layer("h_s", number, a, grid(rows, columns))
    features = a
    if entropy["kind"] != "context":
        for position in grid(h, w):
            scales, means = features[position][:M], features[position][M:] or [0] * M
            y_hat[position] = [(gaussian(scales[m]) << fy) + means[m] for m in range(M)]
        stream.finish()
        return y_hat
    clamped: dict = {}
    m = (tensors["int.context.0.weight"].shape[-1] - 1) // 2
    for y, x in sorted(grid(h, w), key=lambda position: (position[1] + (m + 1) * position[0], position[0])):
        c = net.layer("context", 0, clamped, [(y, x)])[y, x]
        p = features[y, x] + c
        for number in range(len(entropy["layers"]["entropy_parameters"])):
            p = net.layer("entropy_parameters", number, {(y, x): p}, [(y, x)])[y, x]
        y_hat[y, x] = [(gaussian(p[i]) << fy) + p[M + i] for i in range(M)]
        clamped[y, x] = [clamp(v) for v in y_hat[y, x]]
    stream.finish()
    return y_hat


# ---- models of random integers


def random_layer(rng, tensors, part: str, kind: str, n_in: int, n_out: int, k: int, last: bool = False) -> dict:
    number = sum(key.startswith(f"int.{part}.") for key in tensors) // 5
    n = 4 * n_out if kind == "subpel" else n_out
    shape = (n_in, n, k, k) if kind == "deconv" else (n, n_in, k, k)
    shift = rng.integers(18, 21, n)
    mult = rng.integers(2**13, 2**16, n)
    arrays = {
        "weight": rng.integers(-300, 301, shape).astype(np.int16),
        "bias": rng.integers(-(2**20), 2**20, n),
        "mult_pos": mult,
        "mult_neg": mult if last else np.where(rng.random(n) < 0.5, 0, mult // 100),
        "shift": shift,
    }
    tensors.update({f"int.{part}.{number}.{key}": v if v.dtype == np.int16 else v.astype(np.int32)
                    for key, v in arrays.items()})  # fmt: skip
    limit = 2**28 if last else int(rng.integers(20000, 32768))
    return {"kind": kind, "lo": -limit, "hi": limit}


def random_tables(rng, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = rng.integers(3, 12, rows)
    cdfs = np.zeros((rows, 12), np.uint32)
    for row, size in zip(cdfs, sizes, strict=True):
        row[1 : size - 1] = np.sort(rng.choice(np.arange(1, 65536), size - 2, replace=False))
        row[size - 1] = 65536
    return cdfs, sizes.astype(np.int32), rng.integers(-6, 2, rows).astype(np.int32)


def random_model(kind: str, upsampling: str, seed: int):
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    layers: dict[str, list[dict]] = {}
    entropy = {"kind": kind, "M": M, "N": N, "fy": 7, "fz": 11, "layers": layers, "table_qualities": [1.0, 2.0]}
    name, C = ("y", M) if kind == "factorized" else ("z", N)
    cdfs, sizes, offsets = random_tables(rng, 2 * C)
    tensors[f"tables.{name}.cdfs"] = cdfs.reshape(2, C, -1)
    tensors[f"tables.{name}.sizes"], tensors[f"tables.{name}.offsets"] = sizes.reshape(2, C), offsets.reshape(2, C)
    tensors[f"tables.{name}.medians"] = rng.integers(-5000, 5000, (2, C)).astype(np.int32)
    if kind == "factorized":
        return entropy, tensors
    k = 5 if upsampling == "deconv" else 3
    width = {"hyperprior": M, "mean-scale": 2 * M, "context": 3}[kind]
    layers["h_s"] = [
        random_layer(rng, tensors, "h_s", upsampling, N, 4, k),
        random_layer(rng, tensors, "h_s", "conv", 4, 3, 5),
        random_layer(rng, tensors, "h_s", upsampling, 3, 3, k),
        random_layer(rng, tensors, "h_s", "conv", 3, width, 3, last=kind != "context"),
    ]
    if kind == "context":
        layers["h_s"][-1]["hi"] = 32767
        layers["context"] = [random_layer(rng, tensors, "context", "context", M, 5, k)]  # 5x5, or 3x3 as that of lc-s
        layers["entropy_parameters"] = [
            random_layer(rng, tensors, "entropy_parameters", "conv", 3 + 5, 6, 1),
            random_layer(rng, tensors, "entropy_parameters", "conv", 6, 2 * M, 1, last=True),
        ]
    for key, array in zip(("cdfs", "sizes", "offsets"), random_tables(rng, 6), strict=True):
        tensors[f"tables.gaussian.{key}"] = array
    tensors["scale_thresholds"] = np.array([-20000, -3000, 0, 3000, 20000], np.int32)
    return entropy, tensors


@pytest.mark.parametrize("upsampling", ["deconv", "subpel"])
@pytest.mark.parametrize("kind", ["factorized", "hyperprior", "mean-scale", "context"])
def test_a_decoder_written_from_the_specification_gets_the_same_latents(kind, upsampling):
    for seed, (h, w) in enumerate([(4, 4), (8, 16), (12, 8)]):
        entropy, tensors = random_model(kind, upsampling, seed)
        model = IntegerEntropyModel(tensors, entropy)
        rng = np.random.default_rng(seed + 100)
        y = (rng.normal(0, 300, (h, w, M)) * 65536).clip(-(2**30), 2**30).astype(np.int32)
        z = (rng.normal(0, 30, (h // 4, w // 4, N)) * 65536).astype(np.int32)
        table_set = seed % 2
        data, y_hat = model.encode_slice(y, None if kind == "factorized" else z, table_set)
        got = decode(data, h, w, table_set, tensors, entropy)
        assert [got[y, x] for y in range(h) for x in range(w)] == y_hat.reshape(h * w, M).tolist()


def test_both_decoders_get_the_latents_of_the_worked_example(monkeypatch):
    text = Path(container.__file__).with_name("FORMAT.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- example: whole file -->\n```\n(.*?)```\n\nSHA-256 of the latents: `(\w+)`", text, re.S)
    assert block is not None
    data = bytes.fromhex(block[1].replace("\n", " "))
    models = Path(__file__).parent / "vectors" / "models"
    monkeypatch.setenv(weights.ENVIRONMENT, str(models))
    assert decoder.digest(data) == block[2]
    model = weights.load(models / "vector-mbt2018-mean.safetensors")
    box = container.unpack(data)
    assert (box.header.width, box.header.height, box.header.quality) == (20, 12, 1.0)
    y_hat = decode(bytes(box.slices[0]), 4, 4, 0, model.integers(), model.entropy)
    values = [v for y in range(4) for x in range(4) for v in y_hat[y, x]]
    assert hashlib.sha256(struct.pack(f"<{len(values)}i", *values)).hexdigest() == block[2]
