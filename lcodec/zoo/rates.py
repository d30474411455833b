"""Rate and quality of models, out of `results.csv` beside them or out of their own cards."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = "results.csv"
ANCHOR = "jpeg-444"
ID_DIGITS = 16  # of a model's id in results.csv


class Point(NamedTuple):
    """Means over images: bits per pixel of whole files, PSNR in dB."""

    quality: float
    bpp: float
    psnr: float


@dataclass(frozen=True)
class Curve:
    """points: by rising quality. images: what they were measured on. bd_rate: per cent of bits against JPEG 4:4:4."""

    points: tuple[Point, ...]
    images: str
    bd_rate: float | None = None

    def summary(self) -> str:
        """Lowest, middle and highest quality, and the BD-rate, on one line."""
        chosen = dict.fromkeys(self.points[i] for i in (0, (len(self.points) - 1) // 2, -1))
        text = ", ".join(f"{p.bpp:.3f} bpp {p.psnr:.1f} dB" for p in chosen) + f" ({self.images})"
        return text if self.bd_rate is None else f"{text}, {self.bd_rate:+.1f} % against JPEG 4:4:4"


def curves(folder: Path) -> dict[str, Curve]:
    """The curve of each model in a folder's results.csv, by the first 16 digits of its id; empty without the file.

    Rows without numbers are left out: PSNR is not defined for what lost nothing.
    """
    rows: dict[str, list[tuple[str, Point]]] = {}
    try:
        with open(folder / RESULTS, newline="") as f:
            for row in csv.DictReader(f):
                try:
                    key = ANCHOR if row["codec"] == ANCHOR else row["model_id"][:ID_DIGITS]
                    image, point = row["image"], Point(float(row["quality"]), float(row["bpp"]), float(row["psnr"]))
                except (KeyError, TypeError, ValueError, OverflowError):  # none of ours, or empty
                    continue
                if all(map(math.isfinite, point)):
                    rows.setdefault(key, []).append((image, point))
    except (OSError, ValueError, csv.Error):  # no file, or no text
        return {}
    rows.pop("", None)  # other codecs, which have no id
    anchor = _means(rows.pop(ANCHOR, []))
    found = {}
    for key, measured in rows.items():
        points = _means(measured)
        found[key] = Curve(points, _name({image for image, _ in measured}), _bd_rate(anchor, points))
    return found


def of_card(card: Mapping[str, Any]) -> Curve | None:
    """The curve that `lcodec finalize` measured, if the card has one."""
    try:
        report = card["report"]
        points = tuple(Point(float(r["quality"]), float(r["bpp"]), float(r["psnr"])) for r in report["rates"])
        images = f"{int(report['images'])} images"
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return Curve(points, images) if points and all(math.isfinite(v) for p in points for v in p) else None


def _means(rows: list[tuple[str, Point]]) -> tuple[Point, ...]:
    groups: dict[float, list[Point]] = {}
    for _, point in rows:
        groups.setdefault(point.quality, []).append(point)
    return tuple(
        Point(quality, sum(p.bpp for p in group) / len(group), sum(p.psnr for p in group) / len(group))
        for quality, group in sorted(groups.items())
    )


def _name(images: set[str]) -> str:
    return "Kodak" if all(image.startswith("kodim") for image in images) else f"{len(images)} images"


def _bd_rate(anchor: tuple[Point, ...], points: tuple[Point, ...]) -> float | None:
    """None where there are too few points, or no scipy."""
    try:
        from lcodec.bench.bdrate import bd_rate

        result = bd_rate(*zip(*[p[1:] for p in anchor], strict=True), *zip(*[p[1:] for p in points], strict=True))
    except (ImportError, TypeError, ValueError):
        return None
    return result.percent if math.isfinite(result.percent) else None
