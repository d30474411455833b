"""CompressAI itself as a codec, on the same checkpoints as ours, where it is installed.

What `compress` returns is written to one file: its strings and the size of z, as little as a decoder needs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcodec import weights
from lcodec.bench.coder import DIGEST_DIGITS, Coder
from lcodec.errors import LcodecError

COMPRESSAI = "compressai"
HEADER = struct.Struct("<BHH")  # number of strings, height and width of z; then lengths of all strings but the last


@dataclass
class CompressaiCoder(Coder):
    """A checkpoint in CompressAI's own network, on the CPU."""

    _network: Any = None
    parallel = False

    def __post_init__(self) -> None:
        self.kind = "compressai"

    def load(self) -> Any:
        if self._network is None:
            from compressai.zoo import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
                load_state_dict,
            )
            from compressai.zoo.image import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
                model_architectures,
            )

            from lcodec import checkpoint
            from lcodec.nets import compressai

            state = checkpoint.load(Path(self.source))
            for wrapper in compressai.WRAPPERS:
                if isinstance(state.get(wrapper), dict):
                    state = state[wrapper]
            architecture = compressai.infer_config(compressai.unwrap(state)).architecture
            network = model_architectures[architecture].from_state_dict(load_state_dict(state)).eval()
            network.update()
            self._network = network
        return self._network

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        import torch

        network = self.load()
        padding, _ = _paddings(*pixels.shape[:2])
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255
            out = network.compress(torch.nn.functional.pad(x, padding))
        strings = [strings[0] for strings in out["strings"]]
        lengths = struct.pack(f"<{len(strings) - 1}I", *(len(s) for s in strings[:-1]))
        return HEADER.pack(len(strings), *out["shape"]) + lengths + b"".join(strings)

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        import torch

        n_strings, *shape = HEADER.unpack_from(data)
        lengths = struct.unpack_from(f"<{n_strings - 1}I", data, HEADER.size)
        start = HEADER.size + 4 * len(lengths)
        strings = []
        for length in lengths:
            strings.append([data[start : start + length]])
            start += length
        strings.append([data[start:]])
        _, cropping = _paddings(height, width)
        with torch.inference_mode():
            x = self.load().decompress(strings, tuple(shape))["x_hat"]
            x = torch.nn.functional.pad(x, cropping)[0].clamp(0, 1).mul(255).round().byte()
        return x.permute(1, 2, 0).contiguous().numpy()


def _paddings(height: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """To multiples of 64, and back, as CompressAI's own evaluation pads."""
    from compressai.ops import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
        compute_padding,
    )

    padding, cropping = compute_padding(height, width, min_div=64)
    return tuple(padding), tuple(cropping)


def compressai_coders(models: Sequence[Path]) -> list[Coder]:
    """A codec for each of CompressAI's checkpoints among `models`; one that is missing if it cannot be done."""
    reason = None
    version = ""
    if importlib.util.find_spec("compressai") is None:
        reason = "package compressai is not installed"
    else:
        try:
            import compressai

            version = f"compressai {compressai.__version__}"
        except Exception as error:  # it may fail to load in any way, by its own dependencies too
            reason = f"package compressai does not load: {error}"
    checkpoints = [path for path in models if weights.is_checkpoint(path)]
    if reason is None and not checkpoints:
        reason = "no checkpoint of CompressAI among --models"
    if reason is not None:
        return [CompressaiCoder(COMPRESSAI, "CompressAI", ".bin", (1.0,), missing=reason)]
    return [_coder(path, version) for path in checkpoints]


def _coder(path: Path, version: str) -> Coder:
    from lcodec import checkpoint

    stem = path.name.split(".")[0]
    coder = CompressaiCoder(
        f"{COMPRESSAI}-{stem}", f"CompressAI {stem}", ".bin", (1.0,), version, source=str(path.resolve())
    )
    try:
        if checkpoint.is_ours(checkpoint.load(path)):
            coder.missing = "the checkpoint is lcodec's own, of several qualities"
        # A network that was trained on has the same path.
        coder.digest = hashlib.sha256(path.read_bytes()).hexdigest()[:DIGEST_DIGITS]
    except (LcodecError, OSError) as error:
        coder.missing = str(error)
    return coder
