"""A small benchmark run for the tests of its report, measured on crops of the test photograph.

Names are as nasty as a file system and a TOML entry allow, numbers are real.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image

from lcodec.bench.bdrate import bd_rate
from lcodec.bench.page.pictures import psnr
from lcodec.bench.schema import Row
from lcodec.errors import InputError

NASTY = "</script><script>alert(1)</script>"
FIRST = f"a & b '\"<img src=x onerror=alert(2)> % # ? {NASTY.replace('/', '')}.png"
SECOND = "folder/second.png"
UNPICTURED = "third.png"
METRICS = ["psnr", "ms_ssim", "ssimulacra2"]

# name: (label, kind, Pillow format, qualities as Pillow's options)
FORMATS: dict[str, tuple[str, str, str, dict[float, dict[str, Any]]]] = {
    "jpeg": (f"JPEG {NASTY}", "pillow", "JPEG", {q: {"quality": q} for q in (5, 20, 40, 60, 80, 90)}),
    "webp": ("WebP", "pillow", "WEBP", {q: {"quality": q} for q in (1, 20, 40, 60, 80, 90)}),
    # Stands for one of our models: first among codecs when rates are matched, and of a format that no browser reads.
    "ours": (
        "ours",
        "lcodec",
        "JPEG2000",
        {
            quality: {"quality_mode": "rates", "quality_layers": [ratio], "irreversible": True}
            for quality, ratio in ((1, 60), (4, 30), (8, 12))
        },
    ),
}


class Run:
    """results: as in results.json. Also the source of its pictures, from memory."""

    def __init__(self, photo: np.ndarray) -> None:
        self.images = {FIRST: photo[40:296, 100:500], SECOND: photo[100:300, 300:460], UNPICTURED: photo[:120, :100]}
        self.streams: dict[tuple[str, float, str], bytes] = {}
        self.results = self._results()

    def original(self, image: str) -> np.ndarray:
        return self.images[image]

    def decoded(self, codec: str, quality: float, image: str) -> np.ndarray:
        data = self.stream(codec, quality, image)
        if data is None:
            raise InputError(f"no stream {NASTY}")
        return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))

    def stream(self, codec: str, quality: float, image: str) -> bytes | None:
        return self.streams.get((codec, quality, image))

    def row(self, codec: str, quality: float, image: str) -> dict[str, Any]:
        return next(
            row
            for row in self.results["rows"]
            if (row["codec"], row["quality"], row["image"]) == (codec, quality, image)
        )

    def _results(self) -> dict[str, Any]:
        rows = [
            self._measure(codec, float(quality), image)
            for image in self.images
            for codec, (_, _, _, qualities) in FORMATS.items()
            for quality in qualities
        ]
        rows.append(empty_row("webp", 95.0, FIRST) | {"error": f"broke {NASTY}"})
        curves = [{"codec": codec, "points": mean_points(rows, codec)} for codec in FORMATS]
        curves.append({"codec": "paper", "points": [point(1, 0.3, 28.0), point(2, 0.9, 32.0)]})
        return {
            "format": 1,
            "lcodec": "0.0",
            "command": f"lcodec bench {NASTY}",
            "date": "2026-01-02T03:04:05Z",
            "folder": "images",
            "complete": True,
            "machine": {"cpu": "a processor", "cores": 2},
            "anchor": "jpeg",
            "metrics": METRICS,
            "images": [
                {"name": name, "sha256": "", "width": pixels.shape[1], "height": pixels.shape[0]}
                for name, pixels in self.images.items()
            ],
            "skipped": [{"name": f"broken {NASTY}", "error": "cannot be read"}],
            "codecs": codec_entries(),
            "rows": rows,
            "curves": curves,
            "bd": bd_entries(curves),
            "speed": [speed_entry("jpeg", 0.004), speed_entry("webp", 0.1), speed_entry("ours", 0.02)],
        }

    def _measure(self, codec: str, quality: float, image: str) -> dict[str, Any]:
        _, _, form, qualities = FORMATS[codec]
        pixels = self.images[image]
        data = io.BytesIO()
        PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(data, form, **qualities[quality])
        self.streams[codec, quality, image] = data.getvalue()
        level = psnr(pixels, self.decoded(codec, quality, image))
        bits = 8 * len(data.getvalue())
        values = {
            "bytes": len(data.getvalue()),
            "bpp": bits / (pixels.shape[0] * pixels.shape[1]),
            "psnr": level,
            # Only there to have other values, one of them below zero.
            "ms_ssim": 1 - 10 ** (-(level or 60) / 20),
            "ssimulacra2": 4 * (level or 60) - 110,
        }
        return empty_row(codec, quality, image) | values


def empty_row(codec: str, quality: float, image: str) -> dict[str, Any]:
    return {**dict.fromkeys(Row.__annotations__), "image": image, "codec": codec, "quality": quality}


def mean_points(rows: list[dict[str, Any]], codec: str) -> list[dict[str, Any]]:
    points = []
    for quality in FORMATS[codec][3]:
        own = [row for row in rows if row["codec"] == codec and row["quality"] == quality]
        means = {name: float(np.mean([row[name] for row in own])) for name in ("bpp", *METRICS)}
        points.append({"quality": float(quality), "images": len(own), **means})
    return points


def point(quality: float, bpp: float, level: float) -> dict[str, Any]:
    return {"quality": float(quality), "images": 24, "bpp": bpp, "psnr": level, "ms_ssim": None, "ssimulacra2": None}


def codec_entries() -> list[dict[str, Any]]:
    entry = {"missing": None, "model_id": None, "detail": "", "source": ""}
    entries = [{**entry, "name": name, "label": label, "kind": kind} for name, (label, kind, _, _) in FORMATS.items()]
    entries[-1] |= {"model_id": "0123456789abcdef" * 4, "detail": "a_very_long_setting_" * 8}
    entries.append({**entry, "name": "paper", "label": "from a paper", "kind": "published"})
    entries.append({**entry, "name": "jxl", "label": "JPEG XL", "kind": "program", "missing": f"no cjxl {NASTY}"})
    return entries


def bd_entries(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    points = {curve["codec"]: curve["points"] for curve in curves}
    entries = []
    for codec in ("webp", "ours"):
        for metric in METRICS:
            pairs = [[p[key] for p in points[name]] for name in ("jpeg", codec) for key in ("bpp", metric)]
            result = bd_rate(*pairs)
            note = f"few points {NASTY}" if codec == "ours" else ""
            entry = {"codec": codec, "metric": metric, "bd_rate": result.percent, "note": note, "bd_quality": 0.5}
            spread = {"low": result.percent - 3, "high": result.percent + 4, "overlap": 0.8}
            entries.append(entry | spread | {"range": [result.low, result.high]})
    return entries


def speed_entry(codec: str, seconds: float) -> dict[str, Any]:
    times = {"warm_encode_s": seconds, "warm_decode_s": seconds / 2, "cold_encode_s": None, "cold_decode_s": None}
    rates = {"mp_s_encode": 0.1 / seconds, "mp_s_decode": 0.2 / seconds, "peak_mib": None}
    parts = {"encode_transform": seconds / 2, "decode_entropy": seconds / 8} if codec == "ours" else {}
    where = {"image": FIRST, "pixels": 102400, "threads": 1, "device": "cpu"}
    return {"codec": codec, "quality": 4.0, **where, **times, **rates, "parts": parts}
