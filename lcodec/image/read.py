"""Image files to pictures, through Pillow: samples as they are, and the metadata that lie beside them.

`Image.warnings` tells what could not be taken along.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageCms

from lcodec.errors import InputError
from lcodec.image import profile
from lcodec.image.deep import is_deep, raw_modes, read_deep
from lcodec.image.guard import open_image, pillow_limit, usual_limit
from lcodec.image.metadata import XMP_DAMAGED, read_exif, read_xmp
from lcodec.image.orientation import as_upright, upright
from lcodec.image.picture import Picture

INPUT_SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .webp .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .gif".split()
)

_PNG_METADATA = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
_PNG_XMP = b"XML:com.adobe.xmp\0"
_READ_BYTES = 1 << 20
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


@dataclass(frozen=True, eq=False)
class Image(Picture):
    """A picture as it was read.

    name: for messages. file_bytes: size of the file, if it was one. warnings: what the file held that the picture
    does not, and what is odd about it.
    """

    name: str = "image"
    file_bytes: int | None = None
    warnings: tuple[str, ...] = ()


class TooLarge(InputError):
    """A picture has more pixels than the limit; see `limit_hint`."""


def read_image(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    name: str | None = None,
    limit_pixels: int | None = None,
    orient: bool = True,
) -> Image:
    """Read a PNG, JPEG, WebP, BMP, TIFF, PPM or GIF file, of several frames or pages the first.

    source: a path, or a file opened in binary mode. name: what messages call it, by default the path.
    limit_pixels: refuse larger pictures before decoding them; by default `usual_limit`. orient: turn the
    picture upright as its EXIF says; otherwise pixels and EXIF stay as they are (but for TIFF, which Pillow turns).
    Raises InputError, with the name in its message.
    """
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fspath(source)
        try:
            data = Path(source).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"cannot read {name}: {reason.lower()}") from error
    else:
        name = name or getattr(source, "name", None) or "image"
        data = read_all(source, name)
    if not data:
        raise InputError(f"{name} is empty")
    limit_pixels = usual_limit() if limit_pixels is None else limit_pixels
    with reading(name, data):
        with pillow_limit(limit_pixels) as limit:
            image = open_image(data, limit)
        with image:
            if limit is not None and image.width * image.height > limit:
                raise too_large(name, f"{image.width}x{image.height} pixels, more than {limit}")
            if image.format == "PNG":
                check_png(io.BytesIO(data), name)
            made = _convert(image, name, data, limit)
    return upright(made) if orient else made


def read_all(source: Any, name: str) -> bytes:
    """What a file object has from where it stands. Raises InputError, also for one that gives text."""
    try:
        data = source.read()
    except (OSError, ValueError) as error:  # ValueError: a closed file, text that cannot be decoded
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read {name}: {reason.lower()}") from error
    if not isinstance(data, bytes | bytearray | memoryview):
        what = "text" if isinstance(data, str) else type(data).__name__
        raise InputError(f"{name} gives {what} instead of bytes", "open it in binary mode")
    return bytes(data)


def from_pillow(image: PIL.Image.Image, *, name: str = "image", orient: bool = True) -> Image:
    """Take over an image of any usual mode with its ICC profile, EXIF and XMP; it stays as it is.

    Raises InputError for other modes, and for images that cannot be loaded.
    """
    with reading(name, b""):
        made = _convert(image, name)
    return upright(made) if orient else made


def from_array(pixels: np.ndarray, *, name: str = "array") -> Image:
    """Wrap uint8 or uint16, (H, W, 3) RGB, (H, W, 4) RGBA, (H, W) or (H, W, 1) gray, (H, W, 2) gray and alpha.

    Raises InputError for other shapes and types.
    """
    alpha = None
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels, alpha = pixels[..., :-1], np.ascontiguousarray(pixels[..., -1])
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    try:
        return Image(np.ascontiguousarray(pixels), alpha, name=name)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def open_binary(source: Path | bytes) -> BinaryIO:
    """A file, or its bytes as one."""
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


@contextmanager
def reading(name: str, source: Path | bytes) -> Iterator[None]:
    """Errors of whoever reads the image file `source` as InputError with its name."""
    # Pillow's readers raise nearly anything on damaged data (SyntaxError, struct.error, IndexError, ...).
    try:
        yield
    except InputError:
        raise
    except PIL.UnidentifiedImageError:
        raise InputError(f"{name} is not an image that can be read", hint=_hint(source)) from None
    except PIL.Image.DecompressionBombError:
        raise too_large(name, "more pixels than the limit") from None
    except MemoryError:
        raise InputError(f"{name} does not fit into memory") from None
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"cannot read {name}: {reason[-1]}".rstrip(".")) from error


def _hint(source: Path | bytes) -> str:
    with open_binary(source) as file:
        if file.read(4) == b"\x89LIC":
            return "it is a .lic file: lcodec decode makes an image of it"
    return "known are PNG, JPEG, WebP, BMP, TIFF, PPM and GIF"


def check_png(file: BinaryIO, name: str) -> bool:
    """Raise InputError where the checksum of a chunk that matters does not hold; Pillow looks at some of them only.

    Returns whether text or EXIF come after the pixels.
    """
    pixels = late = False
    file.seek(8)
    while len(head := file.read(8)) == 8:
        left, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind[:1].isupper():
            checksum = zlib.crc32(kind)
            while left and (part := file.read(min(left, _READ_BYTES))):
                checksum, left = zlib.crc32(part, checksum), left - len(part)
            stored = file.read(4)
            if not left and len(stored) == 4 and int.from_bytes(stored, "big") != checksum:
                raise InputError(f"{name} is damaged: the checksum of its {kind.decode('latin-1')} does not hold")
        else:
            file.seek(left + 4, os.SEEK_CUR)
        late |= pixels and kind in _PNG_METADATA
        pixels |= kind == b"IDAT"
        if kind == b"IEND":
            break
    return late


def read_cicp(file: BinaryIO) -> bytes | None:
    """The four bytes of a PNG's cICP: primaries, transfer, matrix (0) and range, numbered as in ITU-T H.273."""
    for kind, length in _png_chunks(file):
        if kind == b"IDAT":
            break
        if kind == b"cICP" and length == 4:
            return file.read(4)
    return None


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of all chunks before the end, the file standing where the content begins."""
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        kind, length = head[4:], int.from_bytes(head[:4], "big")
        behind = file.tell() + length + 4
        yield kind, length
        file.seek(behind)


def too_large(name: str, what: str) -> TooLarge:
    return TooLarge(f"{name} has {what}")


@contextmanager
def limit_hint(hint: str) -> Iterator[None]:
    """For those whose users can allow more pixels: how, where that is the error."""
    try:
        yield
    except TooLarge as error:
        error.hint = hint
        raise


# ---- from Pillow's image to ours


def _convert(image: PIL.Image.Image, name: str, data: bytes | None = None, limit_pixels: int | None = None) -> Image:
    """`image` is loaded; with `data`, its file, samples that Pillow would cut to 8 bits are read from that."""
    told: list[str] = []
    if 0 in image.size:
        raise InputError(f"{name} is {image.width}x{image.height} pixels large")
    with pillow_limit(limit_pixels):
        if has_more(image, data, limit_pixels):
            told.append(f"only {'this' if _place(image) else 'the first'} frame is used")
        raws = raw_modes(image)
        exif = read_exif(image, told)  # TIFF forgets what of it is orientation when it loads
    deep = read_deep(image, lambda: open_image(data, limit_pixels), data) if data is not None else None
    image.load()
    if deep is None and is_deep(image, raws):
        told.append("16-bit samples are reduced to 8 bits")
    icc = image.info.get("icc_profile") or None
    mode = image.mode
    if deep is not None:
        pixels, alpha = deep
    elif mode == "F":
        raise InputError(f"{name} has floating-point samples", hint="convert it to 8 bits first")
    elif mode.startswith("I"):
        pixels, alpha = _deep_gray(image, name, raws)
    else:
        plain = image
        if mode in ("CMYK", "LAB"):
            plain, icc = _to_rgb(image, icc, told), None
        elif mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"):
            plain = image.convert("RGB")  # YCbCr, HSV, RGBX
        pixels, alpha = _samples(plain, raws)
    icc = own_profile(image, icc, pixels.ndim == 2, told, data)
    if exif is None and image.format == "PNG":
        exif = read_exif(image, told)  # which may lie behind the pixels
    made = Image(pixels, alpha, icc, exif, own_xmp(image, told, data), name=name)
    if image.format == "TIFF":
        made = as_upright(made)  # Pillow has turned it
    return replace(made, file_bytes=None if data is None else len(data), warnings=tuple(told))


def frames(image: PIL.Image.Image) -> int:
    """Frames or pages of an image that we opened. Counting them may seek, which takes back what was done to it."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # of a damaged list of pages the first may still be whole
        return 1


def _known_frames(image: PIL.Image.Image) -> int:
    """The same of an image that is somebody else's, as far as can be known without touching it."""
    if image.format == "TIFF":
        pages = getattr(image, "tag_v2", None)
        return _place(image) + 1 + bool(getattr(pages, "next", 0))
    if image.format != "GIF" or getattr(image, "tile", None):  # a GIF that is not loaded yet was not painted on either
        info = image.info.copy()
        count = frames(image)
        image.info = info
        return count
    return int(getattr(image, "_n_frames", None) or _place(image) + 1)


def _place(image: PIL.Image.Image) -> int:
    try:
        return image.tell()
    except Exception:
        return 0


def has_more(image: PIL.Image.Image, source: Path | bytes | None, limit_pixels: int | None) -> bool:
    """Whether an image that is open has a second picture, which is not used.

    source: its file; None for an image that is somebody else's, where a GIF that is loaded may not tell.
    """
    if (_known_frames(image) if source is None else frames(image)) <= 1:
        return False
    if image.format != "MPO":
        return True
    # A phone's MPO is a JPEG with a preview behind it; one as large as the first is a picture of its own.
    if source is None:
        return False
    try:
        with pillow_limit(limit_pixels), open_image(source, limit_pixels) as again:
            again.seek(1)
            return again.size == image.size
    except Exception:  # of a damaged list of pictures the first may still be whole
        return False


def _samples(image: PIL.Image.Image, raws: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels and alpha, uint8, of the modes with 8 bits, palettes resolved."""
    mode = image.mode
    transparency = image.info.get("transparency")
    if mode in ("1", "L"):
        gray = np.array(image.convert("L"))
        if not isinstance(transparency, int):
            return gray, None
        # The transparent level is meant before levels of fewer bits are spread over all of 8, which Pillow forgets.
        spread = {"L;2": 85, "L;4": 17}.get(raws[0] if raws else "", 1)
        return gray, np.where(gray == transparency * spread, 0, 255).astype(np.uint8)
    if mode in ("LA", "La"):
        both = np.array(image.convert("LA"))
        return both[..., 0].copy(), both[..., 1].copy()
    if mode in ("RGBA", "RGBa", "PA") or transparency is not None:
        rgba = np.array(image.convert("RGBA"))
        if raws == ["LA;16B"]:  # which Pillow spreads over RGB
            return rgba[..., 0].copy(), rgba[..., 3].copy()
        return np.ascontiguousarray(rgba[..., :3]), rgba[..., 3].copy()
    return np.array(image.convert("RGB")), None


def _deep_gray(image: PIL.Image.Image, name: str, raws: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """16-bit gray, which Pillow keeps in modes I;16 and I."""
    samples = np.asarray(image).astype(np.int64)
    if samples.min() < 0 or samples.max() > 65535:
        raise InputError(f"{name} has samples beyond 16 bits", hint="convert it to 8 bits first")
    transparency = image.info.get("transparency")
    alpha = None
    if isinstance(transparency, int):
        alpha = np.where(samples == transparency, 0, 65535).astype(np.uint16)
    if raws and raws[0].startswith("I;12"):
        samples = (samples * 65535 + 2047) // 4095
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
        samples = 65535 - samples  # which Pillow does with 8 bits only
    return samples.astype(np.uint16), alpha


# ---- colour spaces


def _to_rgb(image: PIL.Image.Image, icc: bytes | None, told: list[str]) -> PIL.Image.Image:
    """CMYK through its profile, Lab by its definition, to sRGB."""
    srgb = PIL.ImageCms.createProfile("sRGB")
    try:
        if image.mode == "LAB":
            told.append("Lab is converted to sRGB")
            return _transformed(image, PIL.ImageCms.createProfile("LAB"), srgb)
        if icc is not None:
            made = _transformed(image, PIL.ImageCms.ImageCmsProfile(io.BytesIO(icc)), srgb)
            told.append("CMYK is converted to sRGB through its colour profile")
            return made
        told.append("CMYK is converted to RGB without colour management")
    except Exception:  # littlecms and Pillow: a damaged profile, or one of another colour space
        told.append("CMYK is converted to RGB without colour management, for its profile cannot be used")
    return image.convert("RGB")


def _transformed(image: PIL.Image.Image, source: Any, target: Any) -> PIL.Image.Image:
    made = PIL.ImageCms.profileToProfile(
        image,
        source,
        target,
        PIL.ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=PIL.ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if made is None:
        raise InputError("the colour transform gave nothing")
    return made


def own_profile(
    image: PIL.Image.Image, icc: bytes | None, gray: bool, told: list[str], source: Path | bytes | None
) -> bytes | None:
    """The colour profile of an image: `icc`, which the file has, or what a PNG says in other words.

    source: its file, where there is one. told grows by what is odd.
    """
    if icc is not None:
        return checked_profile(icc, gray, told)
    # Pillow's word for one that it could not unpack, or whose parts are not all there.
    if image.format in ("PNG", "JPEG", "MPO") and image.info.get("icc_profile", b"") is None:
        told.append("the colour profile is damaged; it is dropped")
    if image.format != "PNG":
        return None
    cicp = None
    if source is not None:
        with open_binary(source) as file:
            cicp = read_cicp(file)
    if cicp is None:
        return _png_profile(image, gray)
    primaries, transfer = cicp[:2]
    if (primaries, transfer) == profile.CICP_SRGB or (gray and transfer == profile.CICP_SRGB[1]):
        return None
    if (primaries, transfer) == profile.CICP_DISPLAY_P3:
        return profile.display_p3()
    told.append(f"colours of cICP {primaries}, {transfer} (primaries, transfer) are taken for sRGB")
    return None


def own_xmp(image: PIL.Image.Image, told: list[str], source: Path | bytes | None) -> bytes | None:
    """The XMP of an image. source: its file, where there is one. told grows by what is damaged, and by what the XMP
    says to be in a JPEG that is not taken along.
    """
    xmp = read_xmp(image, told)
    if image.format == "PNG" and source is not None and "xmp" not in image.info and XMP_DAMAGED not in told:
        with open_binary(source) as file:
            if any(kind == b"iTXt" and file.read(min(n, len(_PNG_XMP))) == _PNG_XMP for kind, n in _png_chunks(file)):
                told.append(XMP_DAMAGED)  # for Pillow gave nothing
    if xmp is not None and image.format in ("JPEG", "MPO"):
        if b"hdrgm:" in xmp:
            told.append("the gain map is dropped: the picture is kept without its HDR")
        if b"HasExtendedXMP" in xmp:
            told.append("extended XMP is dropped")
    return xmp


def checked_profile(icc: bytes, gray: bool, told: list[str]) -> bytes | None:
    """The profile, untouched; None and a word about it where it is for other samples than these."""
    space = profile.colour_space(icc)
    if space is None:
        told.append("the colour profile is damaged; it is kept as it is")
    elif space not in ("RGB", "GRAY") or (space == "GRAY" and not gray):
        told.append(f"the colour profile is for {space}, which the pixels are not; it is dropped")
        return None
    return icc


def _png_profile(image: PIL.Image.Image, gray: bool) -> bytes | None:
    """What gAMA and cHRM of a PNG say, as a profile, where that is not what everybody assumes anyway."""
    info = image.info
    gamma, chromaticities = info.get("gamma"), info.get("chromaticity")
    if "srgb" in info or gamma is None:
        return None
    usual = profile.SRGB_CHROMATICITIES
    same = chromaticities is None or np.allclose(chromaticities, usual, atol=2e-3)
    if abs(gamma - profile.SRGB_GAMMA) < 5e-3 and (gray or same):
        return None
    return profile.from_gamma(gamma, chromaticities, gray)
