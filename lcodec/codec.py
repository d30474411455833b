"""The main path: an image to the bytes of a .lic file, and back.

    encode: image -> g_a -> gain -> y -> h_a -> z -> integers -> integer entropy model -> rANS -> container
    decode: container -> rANS -> integer entropy model -> y_hat -> inverse gain -> g_s -> image

Everything between the integers and the container is exact (`lcodec.entropy`); what runs here on torch may differ by a
rounding between machines, and that is all that may.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lcodec import container, weights
from lcodec.container import Container, Header
from lcodec.decoder import (
    DEFAULT_MAX_PIXELS,
    check_model,
    decode_latents,
    integer_model,
    latents_digest,
    read_checked_header,
    run,
)
from lcodec.entropy.tables import table_set
from lcodec.errors import DeviceError, InputError, ModelError, UsageError
from lcodec.header import quality_to_code
from lcodec.image import Picture, crop, decode_alpha, encode_alpha, fill_transparent, pad
from lcodec.nets import NetConfig, Network
from lcodec.nets.tiling import tiled_analysis, tiled_synthesis
from lcodec.search.target import Target, search

Y_FIX_BITS = 16  # fraction bits of what the integer coder rounds to symbols
Y_FIX_LIMIT = 2.0**14  # keeps int32; a latent that large is far outside of what any quality needs


@dataclass
class EncodeResult:
    """data: the file. seconds: "transform", "entropy", "total". y_hat_digest: see `latents_digest`.

    quality: as the file has it, in steps of 1/128. evaluations: how many qualities were tried to meet a target.
    """

    data: bytes
    seconds: dict[str, float]
    y_hat_digest: str
    quality: float
    evaluations: int
    _reconstruct: Callable[[], np.ndarray]

    def reconstruction(self) -> np.ndarray:
        """The pixels that a decoder on this device will give: like `Picture.pixels`, of the input's type and shape."""
        return self._reconstruct()


class _Attempt(NamedTuple):
    """An image coded at one quality. y_hat: int32 (H/16, W/16, M) as the decoder will have it."""

    header: Header
    y_hat: np.ndarray
    data: bytes


@dataclass
class DecodeResult:
    """seconds: "transform", "entropy", "total". digest: see `latents_digest`. warnings: what had to be skipped."""

    picture: Picture
    header: Header
    seconds: dict[str, float]
    digest: str
    warnings: list[str]

    @property
    def pixels(self) -> np.ndarray:
        """uint8, in a deep file uint16; (H, W, 3) RGB, in a gray file (H, W)."""
        return self.picture.pixels


class Codec:
    """A model, loaded and ready on a device.

    model: name, file or id (see `weights.find`). device: "auto" (CUDA if there is one, else the CPU), "cpu", "cuda",
    "mps". threads: CPU threads, all cores if None. Raises ModelError, DeviceError, UsageError.
    """

    def __init__(self, model: str | os.PathLike[str], device: str = "auto", threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"{threads} threads cannot work")
        self.device = choose_device(device)  # first: it costs nothing to find out that it is not there
        self.file = weights.load(weights.find(model))
        self.name, self.id = self.file.name, self.file.id
        self.threads = threads or available_cores()
        torch.set_num_threads(self.threads)
        config = NetConfig.from_json(self.file.config)
        self.qualities = config.qualities
        self.entropy = integer_model(self.file)
        if (self.entropy.M, self.entropy.N) != (config.M, config.N if config.arch.has_hyperprior else 0):
            raise ModelError(f"model {self.name} is damaged: its networks do not fit together")
        self.network = load_network(config, self.file).to(self.device).channels_last()

    @classmethod
    def for_stream(cls, data: bytes, device: str = "auto", threads: int | None = None) -> Codec:
        """The codec for the model that a .lic file names. Raises StreamError, ModelError."""
        return cls(weights.find(container.read_header(data).model_id.hex()), device, threads)

    # ---- encode

    def encode(
        self,
        picture: Picture | np.ndarray,
        quality: float | None = None,
        *,
        target: Target | None = None,
        slice_log2: int = 6,
    ) -> EncodeResult:
        """A picture with all its metadata, or pixels alone -> .lic file.

        Pixels are uint8 or uint16, (H, W, 3) RGB or (H, W) gray. Either quality or target: then the quality is searched
        for that meets it, see `lcodec.search.target`. Raises InputError for pixels of another shape or type, UsageError
        for a quality that the model does not have, or a target that none of its qualities meets.
        """
        start = time.perf_counter()
        if not isinstance(picture, Picture):
            picture = Picture(picture)
        if quality is not None and target is not None:
            raise UsageError("a quality and a target do not go together")
        low, high = self.qualities[0], self.qualities[-1]
        if quality is not None and not low <= quality <= high:
            raise UsageError(f"model {self.name} has qualities {low:g} to {high:g}, not {quality:g}")
        height, width = picture.height, picture.width
        pixels = visible(picture)
        latents = self._analyse(pad(pixels))
        analysed = time.perf_counter()
        alpha = None if picture.alpha is None else encode_alpha(picture.alpha)

        def attempt(code: int) -> _Attempt:
            header = Header(width, height, self.file.stream_id, code, slice_log2, picture.gray, picture.deep)
            slices, y_hat = self._encode_latents(header, *self._apply_gain(latents, self._known_quality(header)))
            box = Container(header, slices, picture.icc, picture.exif, picture.xmp, alpha)
            return _Attempt(header, y_hat, container.pack(box))

        if quality is not None:
            taken, evaluations = attempt(quality_to_code(quality)), 1
        elif target is not None:
            measure = {
                "size": lambda trial: len(trial.data),
                "bpp": lambda trial: 8 * len(trial.data) / (width * height),
                "psnr": lambda trial: psnr(
                    pixels.reshape(picture.pixels.shape), self._synthesise(trial.header, trial.y_hat)
                ),
            }[target.kind]
            found = search(attempt, measure, target, quality_to_code(low), quality_to_code(high))
            taken, evaluations = found.trial, found.evaluations
        else:
            raise UsageError("need a quality or a target")
        seconds = {
            "transform": analysed - start,
            "entropy": time.perf_counter() - analysed,
            "total": time.perf_counter() - start,
        }
        return EncodeResult(
            taken.data,
            seconds,
            latents_digest(taken.y_hat),
            taken.header.quality,
            evaluations,
            lambda: self._synthesise(taken.header, taken.y_hat),
        )

    def _known_quality(self, header: Header) -> float:
        """What the decoder knows of the quality; steps of 1/128 may leave the model's range by half a step."""
        return min(max(header.quality, self.qualities[0]), self.qualities[-1])

    @torch.inference_mode()
    def _analyse(self, pixels: np.ndarray) -> Tensor:
        """g_a of padded pixels, gains not applied: float32 (1, M, H/16, W/16)."""
        return tiled_analysis(self.network, pixels, self.device)

    @torch.inference_mode()
    def _apply_gain(self, latents: Tensor, quality: float) -> tuple[np.ndarray, np.ndarray | None]:
        """y and z in 16-bit fixed point, channels last: int32 (H/16, W/16, M), (H/64, W/64, N) or None."""
        y = latents * self.network.gain(quality)[:, :, None, None]
        z = self.network.hyper_analyse(y) if self.network.config.arch.has_hyperprior else None
        return to_fixed(y), None if z is None else to_fixed(z)

    def _encode_latents(
        self, header: Header, y_fix: np.ndarray, z_fix: np.ndarray | None
    ) -> tuple[list[bytes], np.ndarray]:
        """Slices in the order of the file, and y_hat int32 (H/16, W/16, M) as the decoder will have it."""
        blocks = list(header.slices())
        slices = [b""] * len(blocks)
        y_hat = np.empty_like(y_fix)
        tables = table_set(self.file.table_qualities, header.quality)
        inner = self.threads if len(blocks) == 1 else 1

        def work(i: int) -> None:
            y0, x0, h, w = blocks[i]
            z = None if z_fix is None else z_fix[y0 // 4 : (y0 + h) // 4, x0 // 4 : (x0 + w) // 4]
            y = y_fix[y0 : y0 + h, x0 : x0 + w]
            slices[i], y_hat[y0 : y0 + h, x0 : x0 + w] = self.entropy.encode_slice(y, z, tables, inner)

        run(work, list(range(len(blocks))), self.threads)
        return slices, y_hat

    # ---- decode

    def decode(self, data: bytes, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> DecodeResult:
        """.lic file -> image. Raises StreamError, and ModelError if the file needs another model."""
        start = time.perf_counter()
        read_checked_header(data, max_pixels)
        box = container.unpack(data)
        check_model(box.header, self.file)
        alpha = read_alpha(box)
        y_hat = decode_latents(box, self.file, self.entropy, self.threads)
        decoded = time.perf_counter()
        pixels = self._synthesise(box.header, y_hat)
        end = time.perf_counter()
        seconds = {"entropy": decoded - start, "transform": end - decoded, "total": end - start}
        picture = Picture(pixels, alpha, box.icc, box.exif, box.xmp)
        return DecodeResult(picture, box.header, seconds, latents_digest(y_hat), box.warnings)

    @torch.inference_mode()
    def _synthesise(self, header: Header, y_hat: np.ndarray) -> np.ndarray:
        """y_hat int32 (H/16, W/16, M) in fixed point -> the pixels of a `Picture`."""
        scale = self.network.inverse_gain(self._known_quality(header))[:, :, None, None] * 2.0**-self.entropy.fy
        pixels = tiled_synthesis(self.network, y_hat, scale, self.device, gray=header.gray, deep=header.deep)
        return np.ascontiguousarray(crop(pixels, header.height, header.width))


def visible(picture: Picture) -> np.ndarray:
    """(H, W, 3) or (H, W, 1) for the networks; what is fully transparent is filled so that it costs few bits."""
    pixels = picture.pixels if picture.alpha is None else fill_transparent(picture.pixels, picture.alpha)
    return pixels[:, :, None] if picture.gray else pixels


def read_alpha(box: Container) -> np.ndarray | None:
    """(H, W) as in `Picture`, None without an ALPHA section. Raises StreamError."""
    header = box.header
    return None if box.alpha is None else decode_alpha(box.alpha, header.height, header.width, header.deep)


def to_fixed(v: Tensor) -> np.ndarray:
    """(1, C, h, w) -> int32 (h, w, C) with Y_FIX_BITS fraction bits. InputError if a network ran out of range."""
    v = v[0].permute(1, 2, 0).float()
    if not bool(torch.isfinite(v).all()):
        raise InputError("the network gave values that are not finite for this image")
    fixed = (v.double().clamp(-Y_FIX_LIMIT, Y_FIX_LIMIT) * 2.0**Y_FIX_BITS).round()
    return np.ascontiguousarray(fixed.to(torch.int32).cpu().numpy())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB over all channels of two images of one shape and type, uint8 or uint16; inf if equal."""
    total = 0.0
    for row_a, row_b in zip(a, b, strict=True):  # row by row: no copies of the image
        total += float(np.square(row_a.astype(np.float32) - row_b).sum(dtype=np.float64))
    return 10 * math.log10(np.iinfo(a.dtype).max ** 2 * a.size / total) if total else math.inf


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str) -> torch.device:
    """The torch device of "auto", "cpu", "cuda", "cuda:1", "mps". Raises DeviceError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise DeviceError(f"unknown device {name}") from e
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise DeviceError(f"no CUDA device for {name}", "--device cpu always works and gives the same latents")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("no Metal device", "--device cpu always works and gives the same latents")
    return device


def load_network(config: NetConfig, file: weights.ModelFile) -> Network:
    """The float parts of a model: transforms, hyper-analysis, gains. ModelError if tensors are missing or unfit."""
    with torch.device("meta"):  # no memory: what a description asks for is not there before its tensors are
        network = Network(config)
    # Coding goes through the integer model: what would compute the same in floats is not kept.
    for unused in ("h_s", "context_prediction", "entropy_parameters", "entropy_bottleneck", "prior_log_scale"):
        if hasattr(network, unused):
            delattr(network, unused)
    own = network.state_dict()
    floats = file.floats()
    for key in own:
        if key not in floats or tuple(floats[key].shape) != tuple(own[key].shape):
            raise ModelError(f"model {file.name} is damaged: tensor {key} is missing or has a wrong shape")
        if not np.isfinite(floats[key]).all():
            raise ModelError(f"model {file.name} is damaged: tensor {key} is not finite")
    network.load_state_dict({key: torch.from_numpy(floats[key]) for key in own}, assign=True)
    return network.eval().requires_grad_(False)


