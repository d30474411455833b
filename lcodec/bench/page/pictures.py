"""Pictures inside the report: whole images for the slider, lossless crops to look at closely.

Codecs are compared at about the same rate: for each target the measured file of nearest bpp is taken. Where one of our
own models has a file near the target, the rate of that file becomes the target of this image, because models are
measured at few qualities and other codecs at many.

A crop is lossless WebP. A whole picture is the codec's own file where browsers read that (JPEG, WebP, AVIF), else AVIF
4:4:4 of high quality; images longer than WHOLE_SIDE are scaled down first. What does not fit the budget of an image is
left out, in the order of PIECES.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.features
import PIL.Image

from lcodec.bench.page.blocks import encode_block
from lcodec.bench.page.places import Place, choose_places
from lcodec.bench.page.source import Source
from lcodec.bench.schema import CodecEntry, ImageEntry, Row
from lcodec.errors import InputError, LcodecError

TARGETS_BPP = (0.25, 0.5, 1.0)
TOLERANCE = 1.5  # a file is "about" the target within this factor
WHOLE_SIDE = 768
WHOLE_QUALITY = 88  # of AVIF 4:4:4, and of WebP where Pillow has no AVIF
THUMBNAIL = (320, 240)

# What a page keeps of an image when it cannot keep all: crops of a place, whole pictures at a target.
PIECES = (("crops", 0), ("whole", 0), ("whole", 1), ("crops", 1), ("whole", 2))

# A hole for a data URI, and what belongs there if the budget allows.
Hole = tuple[dict[str, Any], str]


class Match(NamedTuple):
    """The file of a codec that is nearest to a target; near: within TOLERANCE."""

    codec: str
    row: Row
    near: bool


class Target(NamedTuple):
    """nominal: the rate that the target stands for on the page; bpp: what files are matched to."""

    nominal: float
    bpp: float
    matches: list[Match]


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
    holes: dict[tuple[str, int], list[Hole]] = {piece: [] for piece in PIECES}
    whole: dict[str, Any] = {"uri": None}
    holes["whole", 0].append((whole, high_quality(original, shown)))
    crops: list[dict[str, Any]] = [{**place._asdict(), "uri": None} for place in places]
    for number, place in enumerate(places):
        holes["crops", number].append((crops[number], lossless(place.cut(original))))
    targets = []
    for number, target in enumerate(match_targets(rows, codecs)):
        entries = []
        for match in target.matches:
            entry, found = _entry(source, match, original, places, shown)
            entries.append(entry)
            for (part, place_number), hole in found:
                holes[part, number if part == "whole" else place_number].append(hole)
        targets.append({"nominal": target.nominal, "bpp": target.bpp, "entries": entries})
    block = {"width": shown[0], "height": shown[1], "whole": whole, "crops": crops, "targets": targets}
    _fill(holes, budget - len(encode_block(block)))
    return block


def _entry(
    source: Source, match: Match, original: np.ndarray, places: Sequence[Place], shown: tuple[int, int]
) -> tuple[dict[str, Any], list[tuple[tuple[str, int], Hole]]]:
    row = match.row
    entry: dict[str, Any] = {"codec": match.codec, "quality": row["quality"], "bpp": row["bpp"], "note": None}
    entry |= {"whole": {"uri": None}, "crops": []}
    if not match.near:
        entry["note"] = "no file near this rate"
        return entry, []
    try:
        decoded = source.decoded(match.codec, row["quality"], row["image"])
        stream = source.stream(match.codec, row["quality"], row["image"])
    except Exception as error:  # a codec may fail in any way
        entry["note"] = f"no picture: {reason(error)}"
        return entry, []
    if decoded.shape != original.shape:
        entry["note"] = f"no picture: decoded to {decoded.shape[1]} x {decoded.shape[0]}"
        return entry, []
    own = browser_readable(stream) if stream is not None and shown == _size(original) else None
    found = [(("whole", 0), (entry["whole"], own or high_quality(decoded, shown)))]
    for number, place in enumerate(places):
        crop = {"uri": None, "psnr": psnr(place.cut(original), place.cut(decoded))}
        entry["crops"].append(crop)
        found.append((("crops", number), (crop, lossless(place.cut(decoded)))))
    return entry, found


def reason(error: Exception) -> str:
    """What an error says, in a line; its kind, too, where it is none of ours."""
    text = str(error) if isinstance(error, LcodecError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _fill(holes: dict[tuple[str, int], list[Hole]], budget: int) -> None:
    """Put in the pieces in their order, each whole or not at all, up to the first that is too much."""
    for piece in PIECES:
        budget -= sum(len(uri) for _, uri in holes[piece])
        if budget < 0:
            return
        for hole, uri in holes[piece]:
            hole["uri"] = uri


def match_targets(rows: Sequence[Row], codecs: Sequence[CodecEntry]) -> list[Target]:
    """The files to be shown beside each other, for each of TARGETS_BPP that two codecs at least come near to.

    rows: those of one image. Codecs keep their order; one without any file of this image does not appear.
    """
    targets: list[Target] = []
    for nominal in TARGETS_BPP:
        bpp = nominal
        for codec in codecs:
            own = nearest(rows, codec["name"], nominal) if codec["kind"] == "lcodec" else None
            if own is not None and own.near and own.row["bpp"]:
                bpp = own.row["bpp"]
                break
        found = (nearest(rows, codec["name"], bpp) for codec in codecs)
        matches = [match for match in found if match is not None]
        repeats = any(target.bpp == bpp for target in targets)
        if sum(match.near for match in matches) >= 2 and not repeats:
            targets.append(Target(nominal, bpp, matches))
    return targets


def nearest(rows: Sequence[Row], codec: str, bpp: float) -> Match | None:
    """The row of the codec whose rate has the smallest ratio to `bpp`; None if there is no row with a rate."""
    own = [(abs(math.log(row["bpp"] / bpp)), row) for row in rows if row["codec"] == codec and row["bpp"]]
    if not own:
        return None
    distance, row = min(own, key=lambda pair: pair[0])
    return Match(codec, row, distance <= math.log(TOLERANCE))


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
