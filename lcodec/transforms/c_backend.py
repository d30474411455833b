"""The transforms of lc-s by csrc/lc_mixnet.c."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lcodec.cpu import pack
from lcodec.cpu._mixnet import MixNet
from lcodec.errors import ModelError
from lcodec.nets.config import NetConfig
from lcodec.weights import ModelFile

from . import Floats, Transforms


class CTransforms(Transforms):
    """See `Transforms`. Products in bfloat16, sums in float32, whatever the processor has for that."""

    def __init__(self, config: NetConfig, file: ModelFile, threads: int) -> None:
        floats = file.floats()
        for key, array in floats.items():
            if key.startswith(("g_a.", "h_a.", "g_s.")) and not np.isfinite(array).all():
                raise ModelError(f"model {file.name} is damaged: tensor {key} is not finite")
        try:
            super().__init__(config, floats["log_gain"], floats["log_inverse_gain"])
            packed = pack.pack(floats)
            self._net = MixNet(packed)
        except (KeyError, IndexError, ValueError, TypeError) as e:  # TypeError: a scalar has no length
            raise ModelError(f"model {file.name} is damaged: its transforms do not fit together ({e})") from e
        if packed.widths != (config.N, config.M):
            raise ModelError(f"model {file.name} is damaged: widths {packed.widths} are not those of its description")
        self._threads = threads

    def analyse(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Floats:
        y: Floats = self._net.analyse(pixels, self._threads)
        return y[:, :, : self.config.M]

    def hyper_analyse(self, y: Floats) -> Floats:
        z: Floats = self._net.hyper_analyse(y, self._threads)
        return z[:, :, : self.config.N]

    def synthesise(
        self, y_hat: NDArray[np.int32], scale: Floats, *, gray: bool = False, deep: bool = False
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        pixels: NDArray[np.uint8] | NDArray[np.uint16] = self._net.synthesise(
            y_hat, scale, gray, deep, self._threads
        )
        return pixels
