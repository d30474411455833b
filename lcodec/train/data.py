"""Photographs for training: a folder tree of images, decoded once into memory, and random crops of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lcodec.errors import InputError
from lcodec.image import INPUT_SUFFIXES, pad, read_image


class Photographs:
    """All readable images below a folder, as uint8 arrays (H, W, 3).

    Unreadable files are reported through `warn`, counted in `skipped` and left out. Images beyond `limit_bytes` of
    decoded pixels are decoded again at each use instead of being kept.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int = 8 << 30,
        warn: Callable[[str], None] = lambda message: print(message, file=sys.stderr),
    ) -> None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in INPUT_SUFFIXES and p.is_file())
        self.paths: list[Path] = []
        self._cache: list[np.ndarray | None] = []
        self.skipped = 0
        used = 0
        for path in paths:
            try:
                pixels = read_image(path).pixels
            except InputError as e:
                warn(f"skipped: {e}")
                self.skipped += 1
                continue
            used += pixels.nbytes
            self.paths.append(path)
            self._cache.append(pixels if used <= limit_bytes else None)
        if not self.paths:
            raise InputError(f"no readable image below {folder}", "known suffixes: " + " ".join(sorted(INPUT_SUFFIXES)))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        pixels = self._cache[i]
        return read_image(self.paths[i]).pixels if pixels is None else pixels

    def crops(self, rng: np.random.Generator, count: int, size: int) -> Tensor:
        """Random crops, flipped and turned at random: (count, 3, size, size) float32 in [0, 1], channels last."""
        out = np.empty((count, size, size, 3), np.uint8)
        for i in range(count):
            pixels = self[int(rng.integers(len(self)))]
            if min(pixels.shape[:2]) < size:
                short = [(0, max(0, size - n)) for n in pixels.shape[:2]]
                pixels = np.pad(pixels, (*short, (0, 0)), mode="edge")
            top, left = (int(rng.integers(n - size + 1)) for n in pixels.shape[:2])
            crop = np.rot90(pixels[top : top + size, left : left + size], int(rng.integers(4)))
            out[i] = crop[:, ::-1] if rng.integers(2) else crop
        return torch.from_numpy(out).permute(0, 3, 1, 2).float().div_(255)


def as_batch(pixels: np.ndarray) -> Tensor:
    """One image uint8 (H, W, 3) -> (1, 3, H', W') float32 in [0, 1], padded by replication to multiples of 64."""
    return torch.from_numpy(np.ascontiguousarray(pad(pixels))).permute(2, 0, 1)[None].float().div_(255)
