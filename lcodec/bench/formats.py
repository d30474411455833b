"""Pillow's image formats as codecs of the benchmark, JPEG XL among them."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import PIL
import PIL.features
import PIL.Image

from lcodec.bench.coder import Coder
from lcodec.bench.programs import built_in


@dataclass
class PillowCoder(Coder):
    """One of Pillow's formats. options: of `save` but for the quality, which goes to the option `quality_option`.

    threads: to decode with, where a format has a choice.
    """

    format: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    quality_option: str = "quality"
    threads: int = 1

    def __post_init__(self) -> None:
        self.kind = "pillow"

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        self._load_plugin()
        out = io.BytesIO()
        value: Any = int(quality) if quality == int(quality) else quality
        if self.quality_option == "quality_layers":
            value = [value]
        PIL.Image.fromarray(pixels).save(out, self.format, **self.options, **{self.quality_option: value})
        return out.getvalue()

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        self._load_plugin()
        self._limit_threads()
        with PIL.Image.open(io.BytesIO(data), formats=[self.format]) as image:
            return np.asarray(image.convert("RGB"))

    def _load_plugin(self) -> None:
        if self.format == "JXL":
            import pillow_jxl  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401

    def _limit_threads(self) -> None:
        """Both plugins decode on all cores unless their module says otherwise; `open` has no argument for it."""
        if self.format == "AVIF":
            from PIL import AvifImagePlugin

            AvifImagePlugin.DEFAULT_MAX_THREADS = self.threads
        elif self.format == "JXL":
            from pillow_jxl import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
                JpegXLImagePlugin,
            )

            JpegXLImagePlugin.DECODE_THREADS = self.threads


def _pillow(feature: str | None, settings: str) -> tuple[str, str | None]:
    """(detail, missing) of a codec that needs a feature of Pillow."""
    version = PIL.features.version(feature) if feature else None
    library = f", {feature} {version}" if version else ""
    missing = None
    if feature and feature != "libjpeg_turbo" and not PIL.features.check(feature):
        missing = f"this Pillow is built without {feature}"
    return f"Pillow {PIL.__version__}{library}; {settings}", missing


JPEG_QUALITIES = (10.0, 20.0, 35.0, 50.0, 65.0, 80.0, 90.0, 95.0)


def jpeg_444(threads: int) -> Coder:
    detail, missing = _pillow("libjpeg_turbo", "4:4:4, optimize")
    options = {"subsampling": 0, "optimize": True}
    return PillowCoder(
        "jpeg-444", "JPEG 4:4:4", ".jpg", JPEG_QUALITIES, detail, missing=missing, format="JPEG", options=options
    )


def jpeg_420(threads: int) -> Coder:
    detail, missing = _pillow("libjpeg_turbo", "4:2:0, optimize")
    options = {"subsampling": 2, "optimize": True}
    return PillowCoder(
        "jpeg-420", "JPEG 4:2:0", ".jpg", JPEG_QUALITIES, detail, missing=missing, format="JPEG", options=options
    )


def webp(threads: int) -> Coder:
    detail, missing = _pillow("webp", "method 6")
    qualities = (0.0, 5.0, 20.0, 50.0, 70.0, 80.0, 90.0, 95.0)
    return PillowCoder(
        "webp", "WebP", ".webp", qualities, detail, missing=missing, format="WEBP", options={"method": 6}
    )


def avif(threads: int) -> Coder:
    detail, missing = _pillow("avif", f"speed 6, 4:4:4, {threads} threads")
    qualities = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
    options = {"speed": 6, "subsampling": "4:4:4", "max_threads": threads}
    return PillowCoder(
        "avif",
        "AVIF",
        ".avif",
        qualities,
        detail,
        missing=missing,
        format="AVIF",
        options=options,
        threads=threads,
    )


def jpeg_2000(threads: int) -> Coder:
    detail, missing = _pillow("jpg_2000", "irreversible, quality is a target in dB")
    qualities = (25.0, 28.0, 31.0, 34.0, 37.0, 40.0)
    options = {"quality_mode": "dB", "irreversible": True, "mct": 1, "num_resolutions": 6}
    return PillowCoder(
        "jpeg2000",
        "JPEG 2000",
        ".jp2",
        qualities,
        detail,
        missing=missing,
        format="JPEG2000",
        options=options,
        quality_option="quality_layers",
    )


def jpeg_xl(threads: int) -> Coder:
    """Through pillow-jxl-plugin, or cjxl and djxl if that is not there."""
    qualities = (0.0, 20.0, 40.0, 60.0, 75.0, 85.0, 90.0, 95.0)
    if importlib.util.find_spec("pillow_jxl") is None:
        coder = built_in(threads)["jxl"]
        if coder.missing:
            coder.missing = f"neither package pillow-jxl-plugin nor {coder.missing}"
        return coder
    detail = f"Pillow {PIL.__version__}, pillow-jxl-plugin {version('pillow-jxl-plugin')}; effort 7, {threads} threads"
    options = {"effort": 7, "num_threads": threads}
    return PillowCoder(
        "jxl", "JPEG XL", ".jxl", qualities, detail, format="JXL", options=options, threads=threads
    )


PILLOW: dict[str, Callable[[int], Coder]] = {
    "jpeg-444": jpeg_444,
    "jpeg-420": jpeg_420,
    "webp": webp,
    "avif": avif,
    "jxl": jpeg_xl,
    "jpeg2000": jpeg_2000,
}
