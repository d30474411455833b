"""The codec for what --model names: a model, or a checkpoint that becomes one first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from lcodec.batch.lanes import StopBatch
from lcodec.cli.report import note
from lcodec.errors import LcodecError

if TYPE_CHECKING:
    from lcodec.codec import Codec


def load_codec(model: str, device: str, threads: int | None, *, quiet: bool, metric: str | None = None) -> Codec:
    """Raises ModelError, DeviceError. A checkpoint's model is made at its first use, which a line on stderr tells.

    metric: what a checkpoint that does not tell was trained for.
    """
    from lcodec import weights
    from lcodec.codec import Codec

    path = weights.find(model)
    if not weights.is_checkpoint(path):
        return Codec(model, device=device, threads=threads)

    import torch

    from lcodec.finalize import finalize_cached
    from lcodec.transforms import choose_device

    choose_device(device)  # before the work
    if threads:
        torch.set_num_threads(threads)
    made = finalize_cached(path, (lambda message: None) if quiet else note, metric=metric)
    return Codec(made, device=device, threads=threads)


class Codecs:
    """Loads each model once, when the first file needs it, for all threads of a worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[object, Codec | LcodecError] = {}

    def get(self, key: object, load: Callable[[], Codec], *, for_all: bool) -> Codec:
        """The codec of that key, loaded if it is not yet; an error stays the same error.

        for_all: every file needs this one, so that its error is raised as StopBatch. Raises ModelError, DeviceError.
        """
        with self._lock:
            if key not in self._loaded:
                try:
                    self._loaded[key] = load()
                except LcodecError as error:
                    self._loaded[key] = error
            found = self._loaded[key]
        if not isinstance(found, LcodecError):
            return found
        if for_all:
            raise StopBatch(found)
        raise found.with_traceback(None)
