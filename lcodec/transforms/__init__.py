"""Analysis, hyper-analysis and synthesis for the codec: arrays in, arrays out, by torch or in C.

The codec does not know which. C is for lc-s on a CPU, where it is several times faster and starts without torch; torch
is for everything else. Both come from one model file; results differ by rounding, which is all that may differ between
machines (see DESIGN.md).
"""

from __future__ import annotations

import importlib.util
import os
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from lcodec.cores import may_have_cuda
from lcodec.errors import DeviceError, ModelError, UsageError
from lcodec.nets.config import NetConfig
from lcodec.weights import ModelFile

from .tiling import HALO_LATENTS

__all__ = ["Transforms", "choose_device", "open_transforms"]

Floats = NDArray[np.float32]
MAX_LOG_GAIN = 80.0  # float32 ends at 88.7


class Transforms(ABC):
    """The float parts of a model on one device.

    halo: reach of analysis and synthesis in latents. All arrays are channels last.
    """

    def __init__(self, config: NetConfig, log_gain: Floats, log_inverse_gain: Floats) -> None:
        """The gains are (Q, M), in the log domain, a row a quality. Raises ModelError where they are not."""
        self.config = config
        self.halo = HALO_LATENTS[config.arch.transform]
        for rows in (log_gain, log_inverse_gain):
            if rows.shape != (len(config.qualities), config.M) or not (np.abs(rows) < MAX_LOG_GAIN).all():
                raise ModelError("the model is damaged: its gains have a wrong shape or are out of range")
        self._log_gain, self._log_inverse_gain = log_gain, log_inverse_gain

    def gain(self, quality: float) -> Floats:
        """(M,), multiplies y. Raises UsageError for a quality that the model does not have."""
        return self._interpolated(self._log_gain, quality)

    def inverse_gain(self, quality: float) -> Floats:
        """(M,), multiplies y_hat before synthesis. Raises UsageError likewise."""
        return self._interpolated(self._log_inverse_gain, quality)

    def _interpolated(self, rows: Floats, quality: float) -> Floats:
        """As `Network.interpolate`: geometric between the rows of two qualities."""
        knots = np.asarray(self.config.qualities, np.float32)
        q = np.float32(quality)
        if len(knots) == 1:
            return np.exp(rows[0])
        if not knots[0] <= q <= knots[-1]:
            raise UsageError(f"quality {quality:g} is outside {knots[0]:g} to {knots[-1]:g}")
        i = min(max(int(np.searchsorted(knots, q, side="right")), 1), len(knots) - 1)
        t = (q - knots[i - 1]) / (knots[i] - knots[i - 1])
        low, high = rows[i - 1], rows[i]
        # as torch.lerp does it, to the last bit
        return np.exp(low + t * (high - low) if t < 0.5 else high - (high - low) * (np.float32(1) - t))

    @abstractmethod
    def analyse(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Floats:
        """g_a of (H, W, 3), or (H, W, 1) for three equal channels -> (H/16, W/16, M), gains not applied.

        Samples use their full range; sides are multiples of 16."""

    @abstractmethod
    def hyper_analyse(self, y: Floats) -> Floats:
        """h_a of (h, w, M), gains applied, sides multiples of 4 -> (h/4, w/4, N)."""

    @abstractmethod
    def synthesise(
        self, y_hat: NDArray[np.int32], scale: Floats, *, gray: bool = False, deep: bool = False
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """g_s of (h, w, M) * scale (M,) -> (16 h, 16 w, 3), clamped and rounded; uint16 if deep.

        gray: one channel, the mean of the three."""


def open_transforms(config: NetConfig, file: ModelFile, device: str, threads: int) -> Transforms:
    """The fastest that there is for a model on a device, as `choose_device` gives it.

    The environment variable LCODEC_TRANSFORMS may ask for "torch" or "c". Raises ModelError for a model whose tensors
    do not fit its description, UsageError if what is asked for does not exist.
    """
    wish = os.environ.get("LCODEC_TRANSFORMS", "")
    if wish not in ("", "c", "torch"):
        raise UsageError(f"LCODEC_TRANSFORMS is {wish!r}", 'known: "c" and "torch"')
    fits = config.arch.transform == "shuffle" and device == "cpu"
    if wish == "c" and not fits:
        raise UsageError(f"there are no transforms in C for {config.architecture} on {device}")
    if fits and wish != "torch" and (wish == "c" or _c_is_fast() or not _has_torch()):
        from .c_backend import CTransforms

        return CTransforms(config, file, threads)
    if not _has_torch():
        raise DeviceError(f"{config.architecture} needs torch, which is not installed", "pip install torch")
    from .torch_backend import TorchTransforms, load_network

    return TorchTransforms(load_network(config, file), device, threads)


def _c_is_fast() -> bool:
    from lcodec.cpu import _mixnet

    return str(_mixnet.default_isa()) != "plain"


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def choose_device(name: str) -> str:
    """The device of "auto", "cpu", "cuda", "cuda:1", "mps" as torch calls it. Raises DeviceError if it is not there."""
    if name == "cpu":
        return name
    if name == "auto" and not may_have_cuda():
        return "cpu"  # to ask torch would take a second
    if not _has_torch():
        if name == "auto":
            return "cpu"
        raise DeviceError(f"{name} needs torch, which is not installed", "--device cpu gives the same latents")
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as e:
        raise DeviceError(f"unknown device {name}") from e
    if device.type == "cpu":
        return "cpu"
    if device.type not in ("cuda", "mps"):
        raise DeviceError(f"unknown device {name}", "known are auto, cpu, cuda and mps")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise DeviceError(f"no CUDA device for {name}", "--device cpu always works and gives the same latents")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("no Metal device", "--device cpu always works and gives the same latents")
    return str(device)
