"""Photographs for training: folders and packs of images, decoded once into memory, and random crops of them."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lcodec.cores import available_cores
from lcodec.errors import InputError
from lcodec.image import INPUT_SUFFIXES, pad
from lcodec.image.pack import SUFFIX, ImageSource, image_sources, spread

from .kept import Kept

DECODERS = 8  # threads that decode images when a run begins
REPLACEMENTS = 8  # images that are tried in place of one that has become unreadable


class Photographs:
    """All readable images of folders and packs, as uint8 arrays (H, W, 3).

    Unreadable files are reported through `warn`, counted in `skipped` and left out. Images for which `limit_bytes` of
    decoded pixels leave no room are decoded again at each use instead of being kept. limit_images: so many of them,
    evenly over the order of names, and no more. least_side: for crops alone, a part of each image is kept where the
    whole of all does not fit, see `Kept`. Threads may share it. Raises InputError if nothing is left.
    """

    def __init__(
        self,
        folders: Path | Sequence[Path],
        limit_bytes: int = 8 << 30,
        warn: Callable[[str], None] = lambda message: print(message, file=sys.stderr),
        limit_images: int | None = None,
        least_side: int | None = None,
    ) -> None:
        folders = [folders] if isinstance(folders, Path) else list(folders)
        sources: list[ImageSource] = []
        for folder in folders:
            found = image_sources(folder)
            if not found:
                raise _nothing([folder])
            sources += found
        if limit_images is not None and limit_images < len(sources):
            sources = [sources[i * len(sources) // limit_images] for i in range(limit_images)]
        self.sources: list[ImageSource] = []
        self.shapes: list[tuple[int, int]] = []  # height, width
        self._kept = Kept(limit_bytes, least_side)
        self.skipped = 0
        self.warn = warn
        self._lost: set[int] = set()  # that have become unreadable
        self._lock = threading.Lock()
        for source, pixels in _decoded(sources):
            if isinstance(pixels, InputError):
                warn(f"skipped: {pixels}")
                self.skipped += 1
                continue
            self.sources.append(source)
            self.shapes.append((pixels.shape[0], pixels.shape[1]))
            self._kept.add(pixels)
        if not self.sources:
            raise _nothing(folders)
        if self.skipped:
            warn(f"{self.skipped} of {len(sources)} images skipped")
        if parts := self._kept.parts:
            share = self.cached_bytes / (3 * sum(h * w for h, w in self.shapes))
            warn(f"{parts} of {len(self)} images are kept in part, {share:.0%} of all: no more fits (--cache-gib)")
        if limit_bytes and (again := self._kept.missing):
            slow = "" if least_side is None else "; lcodec pack --max-side makes smaller ones"
            why = f"they do not fit in memory (--cache-gib){slow}"
            warn(f"{again} of {len(self)} images are decoded at each use: {why}")

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def cached_bytes(self) -> int:
        """Of decoded pixels that are kept in memory."""
        return self._kept.bytes

    @property
    def kept_in_part(self) -> int:
        """`cached_bytes`, by which crops differ, where parts of images are kept; 0 where none are."""
        return self._kept.bytes if self._kept.parts else 0

    def __getitem__(self, i: int) -> np.ndarray:
        """The image, or the part of it that is kept.

        Raises InputError for one that has to be read again, and is not there any more or not the same.
        """
        pixels = self._kept[i]
        if pixels is None:
            pixels = self.sources[i].read().rgb8()
            if pixels.shape[:2] != self.shapes[i]:
                raise InputError(f"{self.sources[i].name} has changed its size since training began")
        return pixels

    def _readable(self, index: int) -> np.ndarray:
        """The image, or one of those after it where it has become unreadable. Raises InputError if they are, too."""
        error: InputError | None = None
        for following in range(min(REPLACEMENTS + 1, len(self))):
            here = (index + following) % len(self)
            if here in self._lost:
                continue
            try:
                return self[here]
            except InputError as e:
                error = e
                self._lose(here, f"{e}; another image takes its place")
        raise error or InputError(f"{self.lost} images have become unreadable")

    def readable(self, count: int | None = None) -> Iterator[np.ndarray]:
        """Those that can still be read; others are told once, and left out. Raises InputError if there are none.

        count: about so many of them, evenly over the order of names; None: all.
        """
        wanted = len(self) if count is None else min(count, len(self))
        found = 0
        for i in spread(len(self), wanted):
            try:
                pixels = self[i]
            except InputError as e:
                self._lose(i, f"{e}; it is left out")
                continue
            yield pixels
            found += 1
            if found == wanted:
                return
        if not found:
            raise InputError("none of the images can be read any more")

    def _lose(self, i: int, message: str) -> None:
        with self._lock:
            if i not in self._lost:
                self.warn(message)
            self._lost.add(i)

    @property
    def lost(self) -> int:
        """How many images have become unreadable since they were found."""
        return len(self._lost)

    def crops(self, rng: np.random.Generator, count: int, size: int, part: slice = slice(None)) -> Tensor:
        """Random crops, flipped and turned at random: (count, 3, size, size) uint8, channels last in memory.

        part: those of them that are made; what is drawn from rng does not depend on it. An image that can no longer be
        read is replaced by another, told and counted in `lost`. Raises InputError if too many are lost.
        """
        plan = []
        for _ in range(count):
            index = int(rng.integers(len(self)))
            top, left = (int(rng.integers(max(n, size) - size + 1)) for n in self.shapes[index])
            plan.append((index, top, left, int(rng.integers(4)), int(rng.integers(2))))
        plan = plan[part]
        out = np.empty((len(plan), size, size, 3), np.uint8)
        for i, (index, top, left, turns, flip) in enumerate(plan):
            pixels = self._readable(index)
            # Drawn for the whole image, which all processes know, it may be a part of it, or another.
            places = [[max(n, size) - size + 1 for n in shape] for shape in (pixels.shape[:2], self.shapes[index])]
            top, left = (at * here // drawn for at, here, drawn in zip((top, left), *places, strict=True))
            pixels = pixels[top : top + size, left : left + size]
            if min(pixels.shape[:2]) < size:
                short = [(0, size - n) for n in pixels.shape[:2]]
                pixels = np.pad(pixels, (*short, (0, 0)), mode="edge")
            crop = np.rot90(_whole_pixels(pixels), turns)
            _whole_pixels(out[i])[:] = crop[:, ::-1] if flip else crop
        return torch.from_numpy(out).permute(0, 3, 1, 2)


def _decoded(sources: Sequence[ImageSource]) -> Iterator[tuple[ImageSource, np.ndarray | InputError]]:
    """Each with its pixels, uint8 (H, W, 3), or what is wrong with it, in order; a few are decoded ahead by threads."""

    def decode(source: ImageSource) -> np.ndarray | InputError:
        try:
            return source.read().rgb8()
        except InputError as e:
            return e

    # Few, and not for each process as many: those ahead are held beside what the limit allows.
    workers = max(1, min(DECODERS, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    with ThreadPoolExecutor(workers, "lcodec-data") as pool:
        ahead: deque[tuple[ImageSource, Future[np.ndarray | InputError]]] = deque()
        for source in sources:
            ahead.append((source, pool.submit(decode, source)))
            if len(ahead) > workers:
                first, decoded = ahead.popleft()
                yield first, decoded.result()
        while ahead:
            first, decoded = ahead.popleft()
            yield first, decoded.result()


def _whole_pixels(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) as (H, W) of three bytes each, moved in one: a crop of 256 x 256 turns in 0.26, not 0.43 ms."""
    return pixels.view("V3")[:, :, 0]


def to_unit(crops: Tensor) -> Tensor:
    """uint8 of any shape -> float32 in [0, 1], on its device, in its order in memory."""
    return crops.float().div_(255)


def _nothing(folders: Sequence[Path]) -> InputError:
    known = " ".join(sorted(INPUT_SUFFIXES | {SUFFIX}))
    return InputError("no readable image below " + ", ".join(map(str, folders)), f"known suffixes: {known}")


def as_batch(pixels: np.ndarray) -> Tensor:
    """One image uint8 (H, W, 3) -> (1, 3, H', W') float32 in [0, 1], padded by replication to multiples of 64."""
    return torch.from_numpy(np.ascontiguousarray(pad(pixels))).permute(2, 0, 1)[None].float().div_(255)
