"""Where the pictures of a report come from."""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np

from lcodec.bench.schema import Results
from lcodec.bench.store import STREAMS, decoded
from lcodec.errors import InputError


class Source(Protocol):
    """Pictures of a run by name. What cannot be had raises whatever it may; the page then says why."""

    def original(self, image: str) -> np.ndarray:
        """The image as it was measured, uint8 (H, W, 3)."""

    def decoded(self, codec: str, quality: float, image: str) -> np.ndarray:
        """What the codec made of it, uint8 (H, W, 3)."""

    def stream(self, codec: str, quality: float, image: str) -> bytes | None:
        """The compressed file, None if it was not kept."""


class RunFolder:
    """The files that a run keeps below OUT/streams, and the folder of images that it was made from."""

    def __init__(self, out: Path, results: Results) -> None:
        self._out = out
        self._folder = Path(results["folder"])
        self._hashes = {image["name"]: image["sha256"] for image in results["images"]}

    def original(self, image: str) -> np.ndarray:
        from lcodec.bench.run import read_rgb

        path = self._folder / image
        if hashlib.sha256(path.read_bytes()).hexdigest() != self._hashes[image]:
            raise InputError(f"{path} is no longer the image that was measured")
        return read_rgb(path)

    def decoded(self, codec: str, quality: float, image: str) -> np.ndarray:
        return decoded(self._out, codec, quality, image)

    def stream(self, codec: str, quality: float, image: str) -> bytes | None:
        folder = self._out / STREAMS / codec / f"q{quality:g}"
        found = [path for path in folder.glob(f"{glob.escape(image)}.*") if path.stem == Path(image).name]
        return found[0].read_bytes() if found else None
