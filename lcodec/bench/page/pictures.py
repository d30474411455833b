"""Pictures inside the report: whole images for the slider, lossless crops to look at closely.

A crop is lossless WebP. A whole picture is the codec's own file where browsers read that (JPEG, WebP, AVIF), and the
page cuts its crops out of it; else it is AVIF 4:4:4 of high quality. Images longer than WHOLE_SIDE are scaled down
first. What does not fit the budget of an image is left out, as LAYOUTS says.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.features
import PIL.Image

from lcodec.bench.page.blocks import encode_block
from lcodec.bench.page.matching import Match, match_targets
from lcodec.bench.page.places import Place, choose_places
from lcodec.bench.page.source import Source
from lcodec.bench.schema import CodecEntry, ImageEntry, Row
from lcodec.errors import InputError, LcodecError

WHOLE_SIDE = 768
WHOLE_QUALITY = 80  # of AVIF 4:4:4, and of WebP where Pillow has no AVIF
THUMBNAIL = (320, 240)

# What a page keeps of an image, the first that fits: targets with whole pictures, and places with crops at all targets.
LAYOUTS = ((3, 2), (2, 2), (2, 1), (1, 1), (0, 1))

# A place for a data URI, and what may be put there.
Hole = tuple[dict[str, Any], str]


class Pictures(NamedTuple):
    """What is shown of one file: data URIs. exact: `whole` is the file itself, so that crops can be cut out of it."""

    whole: str
    exact: bool
    crops: list[str]


def embed(
    source: Source,
    image: ImageEntry,
    original: np.ndarray,
    rows: Sequence[Row],
    codecs: Sequence[CodecEntry],
    budget: int,
) -> dict[str, Any]:
    """All pictures of one image as JSON of at most `budget` bytes, or a little more without any picture.

    original: uint8 (H, W, 3). rows: those of this image. A decoded picture that cannot be had becomes a note. Raises
    InputError when the original is not of the size that was measured.
    """
    if _size(original) != (image["width"], image["height"]):
        raise InputError(f"{image['name']} is no longer {image['width']} x {image['height']}")
    places = choose_places(original)
    shown = _shown_size(original)
    block: dict[str, Any] = {"width": shown[0], "height": shown[1], "whole": {"uri": None}}
    block["crops"] = [{**place._asdict(), "uri": None} for place in places]
    own = Pictures(high_quality(original, shown), False, [lossless(place.cut(original)) for place in places])
    found: list[list[tuple[dict[str, Any], Pictures]]] = []
    block["targets"] = []
    for target in match_targets(rows, codecs):
        pairs = [_entry(source, match, original, places, shown) for match in target.matches]
        found.append([(entry, pictures) for entry, pictures in pairs if pictures is not None])
        entries = [entry for entry, _ in pairs]
        block["targets"].append({"nominal": target.nominal, "bpp": target.bpp, "entries": entries})
    budget -= len(encode_block(block))
    for layout in LAYOUTS:
        holes = list(_holes((block, own), found, *layout))
        if sum(len(uri) for _, uri in holes) <= budget:
            for hole, uri in holes:
                hole["uri"] = uri
            break
    return block


def _entry(
    source: Source, match: Match, original: np.ndarray, places: Sequence[Place], shown: tuple[int, int]
) -> tuple[dict[str, Any], Pictures | None]:
    """A file as the page describes it, with holes for its pictures, and these, or None beside a note that says why."""
    row = match.row
    entry: dict[str, Any] = {"codec": match.codec, "quality": row["quality"], "bpp": row["bpp"], "note": None}
    entry |= {"whole": {"uri": None, "exact": False}, "crops": []}
    if not match.near:
        entry["note"] = "no file near this rate"
        return entry, None
    try:
        decoded = source.decoded(match.codec, row["quality"], row["image"])
        stream = source.stream(match.codec, row["quality"], row["image"])
    except Exception as error:  # a codec may fail in any way
        entry["note"] = f"no picture: {reason(error)}"
        return entry, None
    if decoded.shape != original.shape:
        entry["note"] = f"no picture: decoded to {decoded.shape[1]} x {decoded.shape[0]}"
        return entry, None
    file = browser_readable(stream) if stream is not None and shown == _size(original) else None
    entry["whole"]["exact"] = file is not None
    entry["crops"] = [{"uri": None, "psnr": psnr(place.cut(original), place.cut(decoded))} for place in places]
    crops = [lossless(place.cut(decoded)) for place in places]
    return entry, Pictures(file or high_quality(decoded, shown), file is not None, crops)


def _holes(
    original: tuple[dict[str, Any], Pictures],
    targets: Sequence[Sequence[tuple[dict[str, Any], Pictures]]],
    wholes: int,
    places: int,
) -> Iterator[Hole]:
    """What a layout fills in. A crop that the page can cut out of a whole picture stays empty."""
    shown = [(*original, wholes > 0)]
    shown += [(entry, pictures, number < wholes) for number, pairs in enumerate(targets) for entry, pictures in pairs]
    for entry, pictures, whole in shown:
        if whole:
            yield entry["whole"], pictures.whole
        if not (whole and pictures.exact):
            yield from zip(entry["crops"][:places], pictures.crops, strict=False)


def reason(error: Exception) -> str:
    """What an error says, in a line; its kind, too, where it is none of ours."""
    text = str(error) if isinstance(error, LcodecError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def psnr(a: np.ndarray, b: np.ndarray) -> float | None:
    """dB over all channels of two uint8 images; None if they are equal."""
    mse = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10 * math.log10(255**2 / mse) if mse else None


def thumbnail(pixels: np.ndarray) -> str:
    """A small lossy WebP as a data URI."""
    image = PIL.Image.fromarray(pixels)
    image.thumbnail(THUMBNAIL)
    return _data_uri(image, "WEBP", quality=80, method=4)


def lossless(pixels: np.ndarray) -> str:
    """A lossless WebP as a data URI."""
    return _data_uri(PIL.Image.fromarray(np.ascontiguousarray(pixels)), "WEBP", lossless=True, quality=75, method=3)


def high_quality(pixels: np.ndarray, size: tuple[int, int]) -> str:
    """The picture scaled to size = (width, height), as a data URI; chroma is not subsampled where Pillow has AVIF."""
    image = PIL.Image.fromarray(pixels)
    if image.size != size:
        image = image.resize(size, PIL.Image.Resampling.LANCZOS)
    if PIL.features.check("avif"):
        return _data_uri(image, "AVIF", quality=WHOLE_QUALITY, subsampling="4:4:4", speed=9)
    return _data_uri(image, "WEBP", quality=WHOLE_QUALITY, method=4)


def browser_readable(stream: bytes) -> str | None:
    """The stream itself as a data URI, if it is of a format that every current browser shows."""
    if stream[:3] == b"\xff\xd8\xff":
        return _uri("image/jpeg", stream)
    if stream[:4] == b"RIFF" and stream[8:12] == b"WEBP":
        return _uri("image/webp", stream)
    if stream[4:12] == b"ftypavif":
        return _uri("image/avif", stream)
    return None


def _data_uri(image: PIL.Image.Image, form: str, **options: Any) -> str:
    data = io.BytesIO()
    image.save(data, form, **options)
    return _uri(f"image/{form.lower()}", data.getvalue())


def _uri(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def _size(pixels: np.ndarray) -> tuple[int, int]:
    """(width, height)"""
    return pixels.shape[1], pixels.shape[0]


def _shown_size(pixels: np.ndarray) -> tuple[int, int]:
    """(width, height) of whole pictures on the page."""
    width, height = _size(pixels)
    scale = min(1.0, WHOLE_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
