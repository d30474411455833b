"""The codec for what --model names: a model, or a checkpoint that becomes one first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lcodec.cli.report import note

if TYPE_CHECKING:
    from lcodec.codec import Codec


def load_codec(model: str, device: str, threads: int | None, *, quiet: bool) -> Codec:
    """Raises ModelError, DeviceError. A checkpoint's model is made at its first use, which a line on stderr tells."""
    from lcodec import weights
    from lcodec.codec import Codec

    path = weights.find(model)
    if not weights.is_checkpoint(path):
        return Codec(model, device=device, threads=threads)

    import torch

    from lcodec.codec import choose_device
    from lcodec.finalize import finalize_cached

    choose_device(device)  # before the work
    if threads:
        torch.set_num_threads(threads)
    made = finalize_cached(path, (lambda message: None) if quiet else note)
    return Codec(made, device=device, threads=threads)
