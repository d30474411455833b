"""What Pillow only takes as globals of its module or of Python's, set for a moment, one thread at a time."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
import PIL.PngImagePlugin

from lcodec.image.deep import TIFF_ADDITIONS

# Pillow knows many more; these are the ones that photographs come in. PostScript and its like run programs.
INPUT_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")

# Of one block of a PNG, profile or text, decompressed: what `container.METADATA_LIMIT_BYTES` allows for all of them.
_PNG_BLOCK_BYTES = 64 << 20

_lock = threading.RLock()


@contextmanager
def pillow_warnings(action: str) -> Iterator[None]:
    """Warnings of Pillow as "ignore" or "error"."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter(action)  # type: ignore[arg-type]
        yield


@contextmanager
def noted_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Warnings of Pillow as a list that grows, instead of being shown."""
    with _lock, warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"PIL\.")
        yield noted


@contextmanager
def pillow_limit(limit_pixels: int | None) -> Iterator[int | None]:
    """Pillow's limit of pixels, None for the one that it has; profiles of any size; and the TIFFs opened for `deep`."""
    from PIL.TiffImagePlugin import OPEN_INFO  # here, since whoever only writes PNG starts faster without it

    with pillow_warnings("ignore"):
        before, block_bytes = PIL.Image.MAX_IMAGE_PIXELS, PIL.PngImagePlugin.MAX_TEXT_CHUNK
        limit = before if limit_pixels is None else limit_pixels
        added = {key: value for key, value in TIFF_ADDITIONS.items() if key not in OPEN_INFO}
        PIL.Image.MAX_IMAGE_PIXELS = limit
        PIL.PngImagePlugin.MAX_TEXT_CHUNK = max(block_bytes, _PNG_BLOCK_BYTES)
        for key, value in added.items():
            OPEN_INFO[key] = value
        try:
            yield limit
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = before
            PIL.PngImagePlugin.MAX_TEXT_CHUNK = block_bytes
            for key in added:
                OPEN_INFO.pop(key, None)


def pillow_pixels() -> int | None:
    """Pillow's own limit, also while another thread has set one for a moment."""
    with _lock:
        return PIL.Image.MAX_IMAGE_PIXELS


def open_image(source: bytes | Path, limit_pixels: int | None) -> PIL.Image.Image:
    """An image file, or its bytes, opened, not loaded: that needs no guard. Raises what Pillow raises."""
    with pillow_limit(limit_pixels):
        return PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=INPUT_FORMATS)
