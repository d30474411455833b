"""Speed of the integer entropy model at full width: z and y of one image to bytes and back, hyper-synthesis included.

    python -m lcodec.bench.wavefront [--size 768x512] [--threads 1,2] [--isa avx512] [--repeat 7] [--layers]

Weights are random, with the magnitudes that `finalize` gives; latents are drawn so that a slice costs about what a
photograph does. Where compressai can be imported, its own compress and decompress of mbt2018 are timed beside.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcodec.entropy import _intnet
from lcodec.entropy.intmodel import IntegerEntropyModel
from lcodec.entropy.tables import gaussian_tables, scale_table

N = M = 192
FY, FZ, FS = 7, 8, 12  # fraction bits of y_hat, z_hat, scales
ACTIVATION = 4000.0  # root mean square of hidden activations
WEIGHT = 20.0  # of weights

# part -> (kind, in, out, k) of its layers, as in the networks of those names
HYPER_SYNTHESIS: dict[str, list[tuple[str, int, int, int]]] = {
    "mbt2018": [("deconv", N, M, 5), ("deconv", M, M * 3 // 2, 5), ("conv", M * 3 // 2, 2 * M, 3)],
    "cheng2020": [
        ("conv", N, N, 3),
        ("subpel", N, N, 3),
        ("conv", N, N * 3 // 2, 3),
        ("subpel", N * 3 // 2, N * 3 // 2, 3),
        ("conv", N * 3 // 2, 2 * N, 3),
    ],
}
CONTEXT = [("context", M, 2 * M, 5)]
ENTROPY_PARAMETERS = [
    ("conv", 4 * M, M * 10 // 3, 1),
    ("conv", M * 10 // 3, M * 8 // 3, 1),
    ("conv", M * 8 // 3, 2 * M, 1),
]


def random_layer(rng: np.random.Generator, kind: str, n_in: int, n_out: int, k: int) -> dict[str, Any]:
    """A hidden layer with LeakyReLU whose outputs have about the magnitude of its inputs."""
    n = 4 * n_out if kind == "subpel" else n_out
    shape = (n_in, n, k, k) if kind == "deconv" else (n, n_in, k, k)
    taps = {"context": 12, "deconv": 6.25}.get(kind, k * k)
    shift, mult = multiplier(1 / (WEIGHT * np.sqrt(taps * n_in)))
    return {
        "weight": np.rint(rng.normal(0, WEIGHT, shape)).astype(np.int16),
        "bias": np.zeros(n, np.int32),
        "mult_pos": np.full(n, mult, np.int32),
        "mult_neg": np.full(n, round(mult * 0.01), np.int32),
        "shift": np.full(n, shift, np.int32),
    }


def multiplier(ratio: float) -> tuple[int, int]:
    """(shift, mult) with mult / 2^shift about ratio, 2^15 <= mult < 2^16."""
    shift = int(np.floor(16 - np.log2(ratio)))
    return shift, min(65535, round(ratio * 2.0**shift))


def random_last_layer(
    rng: np.random.Generator, kind: str, n_in: int, n_out: int, k: int, scales: NDArray[np.float64]
) -> dict[str, Any]:
    """The layer that outputs `scales` (M,), and means, each with some noise."""
    layer = random_layer(rng, kind, n_in, n_out, k)
    noise = WEIGHT * np.sqrt(k * k * n_in) * ACTIVATION
    steps = np.concatenate([0.1 * scales * 2**FS, np.full(M, 0.3 * 2**FY)])
    both = [multiplier(step / noise) for step in steps]
    layer["shift"] = np.array([shift for shift, _ in both], np.int32)
    layer["mult_pos"] = layer["mult_neg"] = np.array([mult for _, mult in both], np.int32)
    layer["bias"][:M] = np.rint(10 * noise)
    return layer


def synthetic_model(name: str, seed: int = 0) -> tuple[IntegerEntropyModel, NDArray[np.float64]]:
    """(A context model of full width with the hyper-synthesis of that name, the scale of each channel of y)."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.normal(-1.2, 1.1, M)).clip(0.05, 30)
    tensors: dict[str, NDArray[Any]] = {}
    described: dict[str, list[dict[str, Any]]] = {}
    for part, layers in (
        ("h_s", HYPER_SYNTHESIS[name]),
        ("context", CONTEXT),
        ("entropy_parameters", ENTROPY_PARAMETERS),
    ):
        for i, (kind, n_in, n_out, k) in enumerate(layers):
            last = part == "entropy_parameters" and i == len(layers) - 1
            layer = random_last_layer(rng, kind, n_in, n_out, k, scales) if last else random_layer(rng, *layers[i])
            tensors |= {f"int.{part}.{i}.{key}": value for key, value in layer.items()}
            limit = 2**28 if last else 32767
            described.setdefault(part, []).append({"kind": kind, "lo": -limit, "hi": limit})
    for key, value in gaussian_tables(np.full(N, 2.0, np.float32), 1e-6)._asdict().items():
        tensors[f"tables.z.{key}"] = value[None]
    tensors["tables.z.medians"] = np.zeros((1, N), np.int32)
    for key, value in gaussian_tables(scale_table(), 1e-6)._asdict().items():
        tensors[f"tables.gaussian.{key}"] = value
    tensors["scale_thresholds"] = np.floor(scale_table()[:-1].astype(np.float64) * 2**FS).astype(np.int32)
    meta = {"kind": "context", "M": M, "N": N, "fy": FY, "fz": FZ, "layers": described}
    return IntegerEntropyModel(tensors, meta), scales


def random_latents(scales: NDArray[np.float64], h: int, w: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(y (h, w, M), z (h / 4, w / 4, N)), 16 fraction bits."""
    rng = np.random.default_rng(1)
    y = rng.laplace(0, scales / np.sqrt(2), (h, w, M))
    z = rng.normal(0, 2, (h // 4, w // 4, N))
    return (y * 2**16).astype(np.int32), (z * 2**16).astype(np.int32)


def best_seconds(work: Callable[[], Any], repeat: int) -> tuple[float, float]:
    """(fastest, median) of `repeat` calls after one to warm up."""
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times), float(np.median(times))


def multiply_adds(name: str, h: int, w: int) -> float:
    """Of the integer network for y of h x w."""
    total, pixels = 0.0, h * w / 16
    for kind, n_in, n_out, k in HYPER_SYNTHESIS[name]:
        pixels *= 4 if kind in ("deconv", "subpel") else 1
        total += pixels * n_in * n_out * (6.25 if kind == "deconv" else k * k)
    for kind, n_in, n_out, k in CONTEXT + ENTROPY_PARAMETERS:
        total += h * w * n_in * n_out * (12 if kind == "context" else k * k)
    return total


def bench_slice(
    name: str,
    model: IntegerEntropyModel,
    y: NDArray[np.int32],
    z: NDArray[np.int32],
    threads: int,
    isa: str,
    repeat: int,
    expected: tuple[bytes, NDArray[np.int32]],
) -> None:
    """Times both directions, and says whether bytes and y_hat are the `expected` ones."""
    (h, w), (data, y_hat) = y.shape[:2], expected

    def encode() -> tuple[bytes, NDArray[np.int32]]:
        return model.encode_slice(y, z, 0, threads, isa)

    def decode() -> NDArray[np.int32]:
        return model.decode_slice(data, h, w, 0, threads, isa)

    again, again_hat = encode()
    same = again == data and bool((again_hat == y_hat).all() and (decode() == y_hat).all())
    encode_s, decode_s = best_seconds(encode, repeat), best_seconds(decode, repeat)
    print(
        f"  {threads} thread{'s' if threads > 1 else ' '}: encode {encode_s[0] * 1e3:6.1f} ms"
        f" (median {encode_s[1] * 1e3:.1f}), decode {decode_s[0] * 1e3:6.1f} ms (median {decode_s[1] * 1e3:.1f}),"
        f" {multiply_adds(name, h, w) / decode_s[0] / 1e9:.1f} GMAC/s, result {'the same' if same else 'DIFFERS'}"
    )


def bench_layers(h: int, w: int, repeat: int, isa: str | None) -> None:
    """Every kind of layer alone, on one thread: multiply-adds per second."""
    rng = np.random.default_rng(0)
    for kind, n_in, n_out, k in (*HYPER_SYNTHESIS["mbt2018"], *HYPER_SYNTHESIS["cheng2020"], *CONTEXT):
        enlarges = kind in ("deconv", "subpel")
        layer = _intnet.Layer(kind, **random_layer(rng, kind, n_in, n_out, k))
        x = rng.normal(0, ACTIVATION, (h // 2, w // 2, n_in) if enlarges else (h, w, n_in))
        x16 = x.clip(-32767, 32767).astype(np.int16)
        fastest, _ = best_seconds(partial(_intnet.run, layer, x16, 1, isa), repeat)
        taps = {"context": 12, "deconv": 6.25}.get(kind, k * k)
        speed = h * w * n_in * n_out * taps / fastest / 1e9
        print(f"  {kind:8} {k}x{k} {n_in:4} -> {n_out:4}   {fastest * 1e3:7.1f} ms   {speed:6.1f} GMAC/s")


def bench_compressai(h: int, w: int, repeat: int) -> None:
    try:
        import compressai  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
        import torch
        from compressai.models import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
            JointAutoregressiveHierarchicalPriors,
        )
    except ImportError:
        print("compressai: not installed, so not timed")
        return
    torch.manual_seed(0)
    network = JointAutoregressiveHierarchicalPriors(N, M).eval()
    network.update(force=True)
    x = torch.rand(1, 3, 16 * h, 16 * w)
    with torch.inference_mode():
        transform, _ = best_seconds(lambda: network.h_a(network.g_a(x)), 1)
        encode, _ = best_seconds(lambda: network.compress(x), min(repeat, 2))
        out = network.compress(x)
        synthesis, _ = best_seconds(lambda: network.g_s(torch.zeros(1, M, h, w)), 1)
        decode, _ = best_seconds(lambda: network.decompress(out["strings"], out["shape"]), min(repeat, 2))
    print(
        f"compressai mbt2018, {torch.get_num_threads()} threads: encode {encode - transform:.2f} s, decode"
        f" {decode - synthesis:.2f} s (random weights; g_a, h_a and g_s subtracted)"
    )


def main() -> None:
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m lcodec.bench.wavefront", description=summary)
    parser.add_argument("--size", default="768x512", help="width x height of the image (default 768x512)")
    parser.add_argument("--threads", default="1,2", help="thread counts (default 1,2)")
    parser.add_argument("--isa", default=None, help=f"one of {', '.join(_intnet.isas())} (default: the fastest)")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--layers", action="store_true", help="time each layer alone, too")
    options = parser.parse_args()
    width, height = (int(v) for v in options.size.split("x"))
    h, w = (-(-v // 64) * 4 for v in (height, width))
    isa = options.isa or _intnet.default_isa()
    print(f"image {width} x {height}, y {h} x {w} x {M}, z {h // 4} x {w // 4} x {N}, kernels: {isa}")
    for name in HYPER_SYNTHESIS:
        model, scales = synthetic_model(name)
        y, z = random_latents(scales, h, w)
        data, y_hat = model.encode_slice(y, z)
        print(f"{name}: {len(data)} bytes, {8 * len(data) / (width * height):.2f} bpp, ", end="")
        print(f"{multiply_adds(name, h, w) / 1e9:.2f} G multiply-adds")
        for threads in (int(t) for t in options.threads.split(",")):
            bench_slice(name, model, y, z, threads, isa, options.repeat, (data, y_hat))
    if options.layers:
        print("layers alone, 1 thread:")
        bench_layers(h, w, options.repeat, isa)
    bench_compressai(h, w, options.repeat)


if __name__ == "__main__":
    main()
