"""lcodec: a learned image codec.

>>> data = lcodec.encode("photo.png", quality=4)
>>> lcodec.decode(data).save("photo-decoded.png")

Importing this is cheap: torch is loaded by the first call.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from lcodec.errors import InputError, LcodecError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    import PIL.Image

    from lcodec.codec import Codec
    from lcodec.image import Picture
    from lcodec.limits import Limits

__all__ = ["DEFAULT_QUALITY", "LcodecError", "__version__", "clear_cache", "decode", "decode_picture", "encode"]
__version__ = "0.1.0"
DEFAULT_QUALITY = 4.0


def encode(
    image: PIL.Image.Image | Picture | np.ndarray | str | os.PathLike[str] | BinaryIO,
    model: str | os.PathLike[str] | None = None,
    quality: float | None = None,
    *,
    target_size: int | str | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    effort: int = 0,
    orient: bool = True,
    device: str = "auto",
    threads: int | None = None,
    max_pixels: int | None = None,
) -> bytes:
    """The .lic file of an image.

    image: the path of an image file, or one opened in binary mode; a Pillow image; a `lcodec.image.Picture`; or uint8
    or uint16, (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) gray, (H, W, 2) gray and alpha. Alpha, ICC profile,
    EXIF and XMP go along. All of it is held in memory, unlike by the command line.
    orient: turn what comes from a file or from Pillow upright as its EXIF says; otherwise pixels and EXIF stay as they
    are.
    model: name or file of a model, the default one if None; or a checkpoint of `lcodec train` or CompressAI, which is
    finalized at its first use and kept in the cache folder. quality: 1 (small) to 8 (good), fractions too; if None
    4, or the nearest that the model has. target_size (bytes, or "200kB"), target_bpp, target_psnr (dB): the quality
    is searched that meets it, see `lcodec.search.target`. effort: 0 to 9, how long latents are searched that cost this
    very image fewer bits, seconds to a minute; see `lcodec.search.refine`. device: "auto", "cpu", "cuda" or "mps".
    threads: CPU threads, all if None. max_pixels: refuse larger image files; None for the limit of the command line,
    179 megapixels.
    What is lost of the image (frames after the first, CMYK, damaged metadata) is told by warnings of Python.
    Raises InputError, ModelError, DeviceError, UsageError; OutputError if a checkpoint cannot be kept; MemoryError.
    """
    import numpy as np
    import PIL.Image

    from lcodec import weights
    from lcodec.image import Image, Picture, from_array, from_pillow, limit_hint, read_image
    from lcodec.search.target import make_target

    picture: Picture
    if isinstance(image, Picture):
        picture = image
    elif isinstance(image, np.ndarray):
        picture = from_array(image)
    elif isinstance(image, PIL.Image.Image):
        picture = from_pillow(image, orient=orient)
    elif isinstance(image, str | os.PathLike) or hasattr(image, "read"):
        with limit_hint("max_pixels=N allows more"):
            picture = read_image(image, limit_pixels=max_pixels, orient=orient)
    else:
        hint = "a path, a Pillow image or an array, say PIL.Image.open(io.BytesIO(data))"
        raise InputError(f"{type(image).__name__} is no image", hint)
    if picture is not image and isinstance(picture, Image):
        _warn(picture.warnings, stacklevel=3)
    path = weights.find(weights.DEFAULT_MODEL if model is None else model)
    if weights.is_checkpoint(path):
        from lcodec.finalize import finalize_cached

        path = finalize_cached(path)
    codec = _codec(path, device, threads)
    target = make_target(bpp=target_bpp, size=target_size, psnr=target_psnr)
    if quality is None and target is None:
        quality = min(max(DEFAULT_QUALITY, codec.qualities[0]), codec.qualities[-1])
    return codec.encode(picture, quality, target=target, effort=effort).data


def decode(
    data: bytes | str | os.PathLike[str] | BinaryIO,
    *,
    device: str = "auto",
    threads: int | None = None,
    max_pixels: int | None = None,
    limits: Limits | None = None,
    region: tuple[int, int, int, int] | None = None,
    allow_partial: bool = False,
) -> PIL.Image.Image:
    """The image in a .lic file, which is given as bytes, as a path or opened in binary mode: in mode L, LA, RGB or
    RGBA, 16-bit gray in I;16, with its metadata in `info`.

    Pillow has no 16-bit colour, so that is rounded to 8 bits; `decode_picture` keeps it. limits: see `lcodec.limits`,
    None for the usual ones. max_pixels: instead of theirs, if given. Metadata that are damaged are left out, with a
    warning of Python. region: (x, y, width, height) in pixels: this part only, in the time that it takes.
    allow_partial: damaged parts are filled, with a warning, instead of an error.

    Raises StreamError, ModelError, DeviceError, UsageError; InputError for a file that cannot be read; MemoryError.
    """
    from lcodec.image import to_pillow

    picture, lost = _decoded(data, device, threads, max_pixels, limits, region, allow_partial)
    _warn(lost, stacklevel=3)
    return to_pillow(picture)


def decode_picture(
    data: bytes | str | os.PathLike[str] | BinaryIO,
    *,
    device: str = "auto",
    threads: int | None = None,
    max_pixels: int | None = None,
    limits: Limits | None = None,
    region: tuple[int, int, int, int] | None = None,
    allow_partial: bool = False,
) -> Picture:
    """The same as arrays: pixels and alpha of 8 or 16 bits, ICC profile, EXIF and XMP as bytes.

    The model is found by the id in the file. Warns and raises as `decode` does.
    """
    picture, lost = _decoded(data, device, threads, max_pixels, limits, region, allow_partial)
    _warn(lost, stacklevel=3)
    return picture


def _decoded(
    data: bytes | str | os.PathLike[str] | BinaryIO,
    device: str,
    threads: int | None,
    max_pixels: int | None,
    limits: Limits | None,
    region: tuple[int, int, int, int] | None,
    allow_partial: bool,
) -> tuple[Picture, list[str]]:
    """The picture, and what had to be skipped."""
    from lcodec import weights
    from lcodec.container import read_header
    from lcodec.limits import Limits

    data = _read(data)
    path = weights.find(read_header(data).model_id.hex())
    limits = limits or Limits.from_environment()
    if max_pixels is not None:
        limits = replace(limits, pixels=max_pixels)
    codec = _codec(path, device, threads)
    result = codec.decode(data, limits=limits, region=region, allow_partial=allow_partial)
    lost = [f"damaged, and filled: {part}" for part in result.lost]
    return result.picture, [*result.warnings, *lost, *(["alpha is damaged, and left out"] if result.alpha_lost else [])]


def _warn(messages: Iterable[str], stacklevel: int) -> None:
    from lcodec.image.guard import warn

    warn(messages, stacklevel)


def _read(data: bytes | str | os.PathLike[str] | BinaryIO) -> bytes:
    if isinstance(data, str | os.PathLike):
        try:
            with open(data, "rb") as file:
                return file.read()
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"cannot read {data}: {reason.lower()}") from error
    if hasattr(data, "read"):
        from lcodec.image.read import read_all

        return read_all(data, "the file")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InputError(f"{type(data).__name__} is no .lic file", "bytes, a path or a file opened in binary mode is")
    return data.tobytes() if isinstance(data, memoryview) else data


# A model takes far longer to load than an image to code, so the last ones stay; until their file changes. One thread
# loads while the others wait, who mostly want the same.
_KEPT_CODECS = 8
_codecs: OrderedDict[tuple[str, int, str, int | None], Codec] = OrderedDict()
_codecs_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_codecs_lock.acquire, after_in_parent=_codecs_lock.release, after_in_child=_codecs_lock.release
    )


def _codec(path: Path, device: str, threads: int | None) -> Codec:
    from lcodec import weights
    from lcodec.codec import Codec

    key = str(path), weights.changed_ns(path), device, threads
    with _codecs_lock:
        if key not in _codecs:
            _codecs[key] = Codec(path, device, threads)
            while len(_codecs) > _KEPT_CODECS:
                _codecs.popitem(last=False)
        _codecs.move_to_end(key)
        return _codecs[key]


def clear_cache() -> None:
    """Forget the models that `encode` and `decode` keep loaded, the last eight, and so free their memory."""
    with _codecs_lock:
        _codecs.clear()
