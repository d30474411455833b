"""Packs: many images in one file, quick to move to another machine and read through a memory map.

    MAGIC | image file | image file | … | index | trailer

An image file is a WebP, PNG or JPEG as it would lie in a folder. The index is JSON, {"images": [[name, offset, length,
CRC-32, height, width], …]}, offsets from the start of the pack. The trailer is little-endian: u64 offset of the index,
u32 CRC-32 of the index, and TRAILER_MAGIC.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from lcodec.atomic import open_atomically
from lcodec.errors import InputError, UsageError

from .pad import centre
from .read import INPUT_SUFFIXES, Image, read_image
from .write import image_bytes

SUFFIX = ".pack"
_MAGIC_BEGIN = b"lcodec pack "
MAGIC = _MAGIC_BEGIN + b"1\n"
TRAILER_MAGIC = b"lcpk"
_TRAILER = struct.Struct("<QI4s")
_KEPT = (b"\xff\xd8\xff", b"RIFF")  # JPEG and WebP files are kept as they are: without loss they would grow or stay
WEBP_MAX_PX = 16383  # a side
RUN_PICTURE, RUN_LOG = "strip.webp", "log.jsonl"  # what lcodec train makes of a validation, and what lies beside it


@dataclass(frozen=True)
class Entry:
    """One image of a pack: where its file lies, and its size in pixels."""

    name: str
    offset: int
    length: int
    crc: int
    height: int
    width: int


class Pack:
    """A pack, open for reading; threads may share it. Raises InputError if it is none, or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as f:
                self._data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as e:
            raise InputError(f"cannot read {path}: {(e.strerror or str(e)).lower()}") from e
        except ValueError as e:  # an empty file cannot be mapped
            raise InputError(f"{path} is no pack of images", "lcodec pack makes one") from e
        self.entries = self._read_index()

    def _read_index(self) -> list[Entry]:
        data, size = self._data, len(self._data)
        if data[: len(MAGIC)] != MAGIC and data[: len(_MAGIC_BEGIN)] == _MAGIC_BEGIN:
            raise InputError(f"pack {self.path} was made by another version of lcodec", "lcodec pack makes it anew")
        if data[: len(MAGIC)] != MAGIC:
            raise InputError(f"{self.path} is no pack of images", "lcodec pack makes one")
        damaged = InputError(f"pack {self.path} is damaged or incomplete")
        if size < len(MAGIC) + _TRAILER.size:
            raise damaged
        start, crc, magic = _TRAILER.unpack(data[size - _TRAILER.size :])
        end = size - _TRAILER.size
        if magic != TRAILER_MAGIC or not len(MAGIC) <= start <= end or zlib.crc32(data[start:end]) != crc:
            raise damaged
        try:
            entries = [Entry(str(e[0]), *(int(v) for v in e[1:])) for e in json.loads(data[start:end])["images"]]
        except (ValueError, TypeError, KeyError, IndexError) as e:
            raise damaged from e
        if any(e.offset < len(MAGIC) or e.length < 0 or e.offset + e.length > start for e in entries):
            raise damaged
        return entries

    def __len__(self) -> int:
        return len(self.entries)

    def file(self, i: int) -> bytes:
        """The image file of entry i. Raises InputError if it is damaged."""
        entry = self.entries[i]
        data = self._data[entry.offset : entry.offset + entry.length]
        if zlib.crc32(data) != entry.crc:
            raise InputError(f"{self.path}: image {entry.name} is damaged")
        return data

    def read(self, i: int) -> Image:
        """Image i. Raises InputError."""
        return read_image(io.BytesIO(self.file(i)), name=f"{self.path}: {self.entries[i].name}")


@dataclass(frozen=True)
class ImageSource:
    """An image that can be read: a file, or an entry of a pack. name: below the folder or pack that was asked for."""

    name: str
    path: Path
    pack: Pack | None = None
    index: int = 0

    def file(self) -> bytes:
        """The image file. Raises InputError."""
        if self.pack is not None:
            return self.pack.file(self.index)
        try:
            return self.path.read_bytes()
        except OSError as e:
            raise InputError(f"cannot read {self.path}: {(e.strerror or str(e)).lower()}") from e

    def read(self) -> Image:
        """Raises InputError."""
        return read_image(self.path) if self.pack is None else self.pack.read(self.index)


def image_sources(path: Path) -> list[ImageSource]:
    """All images below a folder, those in its packs included, by name; or those of one pack; or one image file.

    Links to folders are followed, each folder counts once; hidden files and folders do not, nor do pictures of runs.

    Raises InputError for what is not there and for damaged packs.
    """
    if path.is_dir():
        files = sorted(_files_below(path))
    elif path.is_file():
        files = [path]
    else:
        raise InputError(f"no folder, pack or image {path}")
    sources: list[ImageSource] = []
    for file in files:
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        if file.suffix.lower() != SUFFIX:
            sources.append(ImageSource(name, file))
            continue
        pack = Pack(file)
        sources += [ImageSource(e.name, file, pack, i) for i, e in enumerate(pack.entries)]
    return sources


def spread(length: int, count: int) -> list[int]:
    """All indexes below a length: first `count` of them, evenly, then the others, for where some of those fail."""
    first = list(dict.fromkeys(i * length // count for i in range(count)))
    return first + sorted(set(range(length)) - set(first))


def _files_below(root: Path) -> Iterator[Path]:
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:  # by another link, or in a circle
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or (name == RUN_PICTURE and RUN_LOG in names):
                continue
            if path.suffix.lower() in {*INPUT_SUFFIXES, SUFFIX} and os.path.isfile(path):
                yield path


def packed_image(source: ImageSource, max_side: int | None = None, crop: int | None = None) -> tuple[bytes, int, int]:
    """An image as it goes into a pack, without loss but for the change of size: file, height, width.

    max_side: scaled down (Lanczos) until no side is longer. crop: then the middle, at most so large a square. Raises
    InputError, UsageError.
    """
    if any(n is not None and n < 1 for n in (max_side, crop)):
        raise UsageError(f"an image cannot have {min(n for n in (max_side, crop) if n is not None)} pixels a side")
    pixels = source.read().rgb8()
    height, width = pixels.shape[:2]
    if max_side is not None and max(height, width) > max_side:
        scale = max_side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.LANCZOS))
    if crop is not None:
        pixels = np.ascontiguousarray(centre(pixels, crop))
    if pixels.shape[:2] == (height, width) and (original := source.file()).startswith(_KEPT):
        return original, height, width
    suffix = ".webp" if max(pixels.shape[:2]) <= WEBP_MAX_PX else ".png"
    return image_bytes(pixels, suffix), *pixels.shape[:2]


def write_pack(path: Path, images: Iterable[tuple[str, bytes, int, int]], overwrite: bool = False) -> list[Entry]:
    """Write (name, image file, height, width) one after the other; the pack appears whole or not at all.

    Raises OutputError, and whatever the iterable raises.
    """
    entries: list[Entry] = []
    with open_atomically(path, overwrite) as f:
        f.write(MAGIC)
        for name, data, height, width in images:
            entries.append(Entry(name, f.tell(), len(data), zlib.crc32(data), height, width))
            f.write(data)
        start = f.tell()
        rows = [[e.name, e.offset, e.length, e.crc, e.height, e.width] for e in entries]
        index = json.dumps({"images": rows}, separators=(",", ":")).encode()
        f.write(index + _TRAILER.pack(start, zlib.crc32(index), TRAILER_MAGIC))
    return entries
