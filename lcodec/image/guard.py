"""What Pillow only takes as globals of its module or of Python's, set for a moment, one thread at a time."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
import PIL.PngImagePlugin

from lcodec.image.deep import TIFF_ADDITIONS

# Pillow knows many more; these are the ones that photographs come in. PostScript and its like run programs.
INPUT_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")

# Of one block of a PNG, profile or text, decompressed: what `container.METADATA_LIMIT_BYTES` allows for all of them.
_PNG_BLOCK_BYTES = 64 << 20

_PILLOW = r"PIL\."  # its modules; other threads may warn meanwhile
_PILLOW_FOLDER = os.path.dirname(PIL.Image.__file__)

_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child with a lock that a thread of its parent held would wait for ever
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@contextmanager
def pillow_warnings(action: str) -> Iterator[None]:
    """Warnings of Pillow as "ignore" or "error"."""
    with _lock, warnings.catch_warnings():
        warnings.filterwarnings(action, module=_PILLOW)  # type: ignore[arg-type]
        yield


@contextmanager
def noted_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Warnings of Pillow as a list, which has them at the end, instead of being shown."""
    noted: list[warnings.WarningMessage] = []
    with _lock:
        with warnings.catch_warnings(record=True) as all_of_them:
            warnings.filterwarnings("ignore", module=_PILLOW)
            warnings.filterwarnings("always", category=UserWarning, module=_PILLOW)
            yield noted
        for warning in all_of_them:
            if os.path.dirname(warning.filename) == _PILLOW_FOLDER:
                noted.append(warning)
            else:  # of another thread, which could not know
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def warn(messages: Iterable[str], stacklevel: int) -> None:
    """As `warnings.warn`, where no thread that reads an image can take it for a warning of Pillow."""
    for message in messages:
        with _lock:
            warnings.warn(message, stacklevel=stacklevel + 1)


@contextmanager
def pillow_limit(limit_pixels: int | None) -> Iterator[int | None]:
    """At least so many pixels for Pillow, None for the limit that it has, which is yielded; profiles of any size; and
    the TIFFs opened for `deep`.

    Pillow's own limit is never lowered, for other threads may open what they like meanwhile: whoever asks for less has
    to look at the size.
    """
    with pillow_warnings("ignore"):
        from PIL.TiffImagePlugin import OPEN_INFO  # here, since whoever only writes PNG starts faster without it

        before, block_bytes = PIL.Image.MAX_IMAGE_PIXELS, PIL.PngImagePlugin.MAX_TEXT_CHUNK
        limit = before if limit_pixels is None else limit_pixels
        added = {key: value for key, value in TIFF_ADDITIONS.items() if key not in OPEN_INFO}
        PIL.Image.MAX_IMAGE_PIXELS = None if before is None or limit is None else max(before, limit)
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


def usual_limit() -> int | None:
    """The pixels from which on Pillow does not only warn of a picture, but refuses it; None if it has no limit."""
    most = pillow_pixels()
    return None if most is None else 2 * most


def open_image(source: bytes | Path, limit_pixels: int | None) -> PIL.Image.Image:
    """An image file, or its bytes, opened, not loaded: that needs no guard. Raises what Pillow raises."""
    with pillow_limit(limit_pixels):
        return PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=INPUT_FORMATS)
