"""lcodec's own models as codecs of the benchmark."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcodec import weights
from lcodec.bench.coder import Coder
from lcodec.errors import ModelError, UsageError
from lcodec.limits import NO_LIMITS

if TYPE_CHECKING:
    from lcodec.codec import Codec

ALL, NONE = "all", "none"
DEFAULT_QUALITIES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)


@dataclass
class LcodecCoder(Coder):
    """A finalized model file, loaded at its first use."""

    device: str = "auto"
    threads: int = 1
    effort: int = 0
    _codec: Codec | None = None
    _parts: dict[str, float] = field(default_factory=dict)
    parallel = False  # it uses all threads itself

    def __post_init__(self) -> None:
        self.kind = "lcodec"

    def load(self) -> Codec:
        if self._codec is None:
            from lcodec.codec import Codec

            self._codec = Codec(self.source, self.device, self.threads)
        return self._codec

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        result = self.load().encode(pixels, quality, effort=self.effort)
        self._parts = _parts(result.seconds)
        return result.data

    def warm_up(self, pixels: np.ndarray, quality: float) -> None:
        codec = self.load()
        codec.decode(codec.encode(pixels, quality, effort=min(self.effort, 1)).data)

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        result = self.load().decode(data, limits=NO_LIMITS)
        self._parts = _parts(result.seconds)
        return result.pixels

    def parts(self) -> dict[str, float]:
        return self._parts


def _parts(seconds: dict[str, float]) -> dict[str, float]:
    return {key: seconds[key] for key in ("transform", "entropy")}


def find_models(names: Sequence[str]) -> list[Path]:
    """The files, of models or checkpoints, that --models stands for. Raises ModelError."""
    paths: dict[str, Path] = {}
    for name in names:
        if name == NONE:
            continue
        if name == ALL:
            # Not of `list_models`, where another of the same name may come first.
            found = [m.path for m in weights.readable_models() if m.path.parent == weights.shipped_folder()]
        else:
            found = [weights.find(name)]
        for path in found:
            paths.setdefault(os.path.realpath(path), path)
    return list(paths.values())


def model_coders(
    models: Sequence[Path],
    qualities: tuple[float, ...] | None,
    device: str,
    threads: int,
    notice: Callable[[str], None] = lambda message: None,
) -> list[LcodecCoder]:
    """A codec for each model; checkpoints are finalized first, with a `notice`.

    qualities: None for whole steps within what a model has. A model of one quality is measured at that one.
    Raises ModelError, UsageError for a quality that a model does not have, and for two models of one name.
    """
    coders: dict[str, LcodecCoder] = {}
    for path in models:
        name = path.name.split(".")[0] if weights.is_checkpoint(path) else path.name.removesuffix(weights.SUFFIX)
        if weights.is_checkpoint(path):
            from lcodec.finalize import finalize_cached

            path = finalize_cached(path, notice)
        model = weights.info(path)
        if name in coders:
            raise UsageError(f"two models are called {name}", hint="copy one of them to another name")
        if not name.strip(".") or "/" in name:
            raise ModelError(f"model {path} has no name that could be a folder's")
        coders[name] = LcodecCoder(
            name,
            name,
            ".lic",
            choose_qualities(name, model.qualities, qualities),
            f"{model.architecture}, {model.size_bytes / 1e6:.1f} MB",
            model.id,
            str(path.resolve()),
            device=device,
            threads=threads,
        )
    return list(coders.values())


def choose_qualities(name: str, known: tuple[float, ...], wanted: tuple[float, ...] | None) -> tuple[float, ...]:
    low, high = known[0], known[-1]
    if low == high:
        return (low,)
    if wanted is None:
        return tuple(q for q in DEFAULT_QUALITIES if low <= q <= high) or known
    for q in wanted:
        if not low <= q <= high:
            raise UsageError(f"model {name} has qualities {low:g} to {high:g}, not {q:g}")
    return wanted
