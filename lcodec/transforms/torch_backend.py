"""The transforms of any network by torch, on any device that it has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lcodec.errors import ModelError
from lcodec.nets import NetConfig, Network
from lcodec.nets.network import empty_network
from lcodec.weights import ModelFile

from . import Floats, Transforms
from .inference import prepare

F = TypeVar("F", bound=Callable[..., Any])


_lock = threading.Lock()
_inside = 0  # threads that have changed the number of torch's
_outside = 0  # that number before the first of them came
_last = 0  # what was set last
_of_thread = threading.local()


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """So many for torch's operators on this thread, which afterwards has as many as its owner gave it.

    A thread that uses torch for the first time begins with the number that was set last, by whatever thread: such
    that come while others are within get what was there before all of them.
    """
    global _inside, _outside, _last
    with _lock:
        before = torch.get_num_threads()
        if _inside and before == _last and not hasattr(_of_thread, "known"):
            before = _outside
        _of_thread.known = True
        if not _inside:
            _outside = before
        _inside, _last = _inside + 1, threads
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        with _lock:
            _inside, _last = _inside - 1, before
            torch.set_num_threads(before)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Want of memory in torch's operators, on whatever device, becomes MemoryError as everywhere else."""
    try:
        yield
    except RuntimeError as error:  # that of CUDA is one
        if isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(str(error).partition("\n")[0]) from error
        raise


def _on_own_threads(method: F) -> F:
    """A method of `TorchTransforms` that computes."""

    @wraps(method)
    def wrapped(self: TorchTransforms, *args: Any, **kwargs: Any) -> Any:
        with torch_threads(self._threads), torch.inference_mode(), memory_errors():
            return method(self, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


class TorchTransforms(Transforms):
    """See `Transforms`. float32 throughout; GPUs may multiply it in TF32, as torch lets cuDNN do for convolutions."""

    def __init__(self, network: Network, device: str, threads: int) -> None:
        super().__init__(network.config, *(rows.detach().cpu().numpy() for rows in _gains(network)))
        self._threads = threads
        self._device = torch.device(device)
        network = network.to(self._device).channels_last().eval().requires_grad_(False)
        self._of_magnitude = network.config.arch.entropy == "hyperprior"
        self._g_a, self._g_s = prepare(network.g_a, threads), prepare(network.g_s, threads)
        self._h_a = prepare(getattr(network, "h_a", nn.Identity()), threads)  # factorized: has none, is not asked

    @_on_own_threads
    def analyse(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Floats:
        white = float(np.iinfo(pixels.dtype).max)
        # torch knows little of uint16
        x = self._batch(pixels.astype(np.int32) if pixels.dtype == np.uint16 else pixels).float().div_(white)
        return _array(self._g_a(x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)))

    @_on_own_threads
    def hyper_analyse(self, y: Floats) -> Floats:
        batch = self._batch(y)
        return _array(self._h_a(batch.abs() if self._of_magnitude else batch))

    @_on_own_threads
    def synthesise(
        self, y_hat: NDArray[np.int32], scale: Floats, *, gray: bool = False, deep: bool = False
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        factor = torch.from_numpy(np.ascontiguousarray(scale)).to(self._device)[:, None, None]
        x_hat = self._g_s(self._batch(y_hat).float() * factor)[0].clamp(0, 1)
        dtype = np.uint16 if deep else np.uint8
        out = (x_hat.mean(0, keepdim=True) if gray else x_hat).mul(float(np.iinfo(dtype).max)).round()
        out = out.to(torch.int32 if deep else torch.uint8).permute(1, 2, 0)
        return out.cpu().numpy().astype(dtype)

    def _batch(self, array: NDArray[np.generic]) -> Tensor:
        """(h, w, C) -> (1, C, h, w) on the device, channels last in memory."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device).permute(2, 0, 1)[None]


def _gains(network: Network) -> tuple[Tensor, Tensor]:
    return network.log_gain, network.log_inverse_gain


def _array(batch: Tensor) -> Floats:
    """(1, C, h, w) -> (h, w, C)"""
    return batch[0].permute(1, 2, 0).cpu().numpy()


def load_network(config: NetConfig, file: ModelFile) -> Network:
    """The float parts of a model: transforms, hyper-analysis, gains. ModelError if tensors are missing or unfit."""
    network = empty_network(config)
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
