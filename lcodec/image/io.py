"""Image files to arrays and back, through Pillow.

What arrives at the networks is always uint8 RGB, upright. `Image.warnings` tells what is lost on the way.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps

from lcodec.atomic import write_atomically
from lcodec.errors import InputError, UsageError

# Pillow knows many more; these are the ones that photographs come in. PostScript and its like run programs.
_INPUT_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
INPUT_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
_OUTPUT_FORMATS = {
    ".png": "PNG",
    ".ppm": "PPM",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
OUTPUT_SUFFIXES = tuple(_OUTPUT_FORMATS)
# Lossless where the format can be; for JPEG so good that its error stays far below the codec's own.
_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_deflate"},
}

_pillow_limit_lock = threading.Lock()


@dataclass(frozen=True)
class Image:
    """A picture as it was read.

    pixels: uint8 (H, W, 3), RGB, upright. name: for messages. file_bytes: size of the file, if it was one.
    warnings: what the file held that `pixels` does not.
    """

    pixels: np.ndarray
    name: str
    file_bytes: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


def read_image(
    source: str | os.PathLike[str] | BinaryIO, *, name: str | None = None, limit_pixels: int | None = None
) -> Image:
    """Read a PNG, JPEG, WebP, BMP, TIFF or PPM file.

    source: a path, or a file opened in binary mode. name: what messages call it, by default the path.
    limit_pixels: refuse larger pictures before decoding them; by default Pillow's MAX_IMAGE_PIXELS.
    Raises InputError, with the name in its message.
    """
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fspath(source)
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from error
    else:
        name = name or getattr(source, "name", None) or "image"
        data = source.read()
    if not data:
        raise InputError(f"{name} is empty")
    # Pillow's readers raise nearly anything on damaged data (SyntaxError, struct.error, IndexError, ...).
    try:
        with (
            _pillow_limit(limit_pixels) as limit,
            PIL.Image.open(io.BytesIO(data), formats=_INPUT_FORMATS) as image,
        ):
            if limit is not None and image.width * image.height > limit:
                raise _too_large(name, f"{image.width}x{image.height} pixels, more than {limit}")
            deep = _is_deep(image)
            image.load()
            return from_pillow(image, name=name, file_bytes=len(data), reduced_to_8_bits=deep)
    except InputError:
        raise
    except PIL.UnidentifiedImageError:
        raise InputError(
            f"{name} is not an image that can be read", hint="known are PNG, JPEG, WebP, BMP, TIFF and PPM"
        ) from None
    except PIL.Image.DecompressionBombError:
        raise _too_large(name, "more pixels than the limit") from None
    except MemoryError:
        raise InputError(f"{name} does not fit into memory") from None
    except Exception as error:
        raise InputError(f"cannot read {name}: {error or type(error).__name__}".rstrip(".")) from error


def from_pillow(
    image: PIL.Image.Image,
    *,
    name: str = "image",
    file_bytes: int | None = None,
    reduced_to_8_bits: bool = False,
) -> Image:
    """Turn an image of any usual mode upright and into RGB. Raises InputError for what RGB cannot hold."""
    lost = []
    if reduced_to_8_bits or image.mode.startswith("I"):
        lost.append("16-bit samples are reduced to 8 bits")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        lost.append("only the first frame is used")
    profile = image.info.get("icc_profile")
    if profile and not _is_srgb(profile):
        lost.append("the colour profile is not kept")
    try:
        image = PIL.ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the picture itself
        lost.append("the EXIF data cannot be read, orientation is not applied")
    pixels = _rgb(image, name, lost)
    return Image(pixels, name, file_bytes, tuple(lost))


def from_array(pixels: np.ndarray, *, name: str = "array") -> Image:
    """Wrap uint8 (H, W, 3) RGB or (H, W) gray. Raises InputError for other shapes and types."""
    if pixels.dtype != np.uint8:
        raise InputError(f"{name} has samples of type {pixels.dtype}, not uint8")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InputError(f"{name} has shape {pixels.shape}, not (height, width, 3)")
    return Image(np.ascontiguousarray(pixels), name)


def image_bytes(pixels: np.ndarray, suffix: str) -> bytes:
    """The file that holds uint8 (H, W, 3) in the format of `suffix` (".png", ".jpg", ...).

    Raises UsageError for a suffix that is not in OUTPUT_SUFFIXES and for sizes that the format cannot hold.
    """
    kind = _OUTPUT_FORMATS.get(suffix.lower())
    if kind is None:
        known = " ".join(OUTPUT_SUFFIXES)
        raise UsageError(
            f"no image format for the name's ending {suffix or '(none)'!r}", hint=f"known are {known}"
        )
    buffer = io.BytesIO()
    try:
        PIL.Image.fromarray(pixels).save(buffer, format=kind, **_SAVE_OPTIONS.get(kind, {}))
    except (OSError, ValueError) as error:
        height, width = pixels.shape[:2]
        raise UsageError(f"{kind} cannot hold {width}x{height} pixels", hint="png can") from error
    return buffer.getvalue()


def write_image(path: str | os.PathLike[str], pixels: np.ndarray, overwrite: bool = False) -> None:
    """Write uint8 (H, W, 3) in the format of the name's ending, whole or not at all.

    Raises OutputError, and UsageError like image_bytes.
    """
    write_atomically(path, image_bytes(pixels, Path(path).suffix), overwrite)


def _too_large(name: str, what: str) -> InputError:
    return InputError(f"{name} has {what}", hint="--limit-pixels N allows more")


@contextmanager
def _pillow_limit(limit_pixels: int | None) -> Iterator[int | None]:
    """Give Pillow our limit of pixels, which it only takes as a global, and keep its remarks off stderr."""
    with _pillow_limit_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = PIL.Image.MAX_IMAGE_PIXELS
        limit = before if limit_pixels is None else limit_pixels
        PIL.Image.MAX_IMAGE_PIXELS = limit
        try:
            yield limit
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = before


def _is_deep(image: PIL.Image.Image) -> bool:
    """Whether Pillow is about to reduce 16-bit colour to 8 bits; before load the tiles' raw mode tells."""
    for tile in getattr(image, "tile", ()):
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(arg, str) and ";16" in arg for arg in args):
            return True
        if image.format == "PPM" and any(isinstance(arg, int) and arg > 255 for arg in args[1:]):
            return True
    return False


def _is_srgb(profile: bytes) -> bool:
    try:
        opened = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return "srgb" in (opened.profile.profile_description or "").lower()
    except Exception:  # a profile that cannot be read is certainly not kept
        return False


def _rgb(image: PIL.Image.Image, name: str, lost: list[str]) -> np.ndarray:
    """uint8 (H, W, 3) of an image of any mode; appends to `lost` what RGB does not hold."""
    mode = image.mode
    if mode.startswith("I"):
        return _gray_16(image, name)
    if mode == "F":
        raise InputError(f"{name} has floating-point samples", hint="convert it to 8 bits first")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        if rgba[..., 3].min() < 255:
            lost.append("transparency is dropped")
        return np.ascontiguousarray(rgba[..., :3])
    if mode == "CMYK":
        lost.append("CMYK is converted to RGB without colour management")
    return np.array(image.convert("RGB"))


def _gray_16(image: PIL.Image.Image, name: str) -> np.ndarray:
    """16-bit gray, which Pillow keeps in modes I;16 and I, to uint8 (H, W, 3), rounded."""
    samples = np.asarray(image).astype(np.int64)
    if samples.min() < 0 or samples.max() > 65535:
        raise InputError(f"{name} has samples beyond 16 bits", hint="convert it to 8 bits first")
    gray = ((samples * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)
