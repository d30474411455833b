"""From rows to curves, and to BD-rates with their confidence over images."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcodec.bench.bdrate import bd_quality, bd_rate
from lcodec.bench.metrics import decibel
from lcodec.bench.schema import METRICS, BDEntry, CodecEntry, Curve, Point, Results
from lcodec.errors import InputError

SAMPLES = 400  # of the bootstrap
CONFIDENCE = 95
LEAST_SAMPLES = 0.95  # of the samples must have a BD-rate, or there is no interval
LEAST_IMAGES = 3
SMALL_OVERLAP = 0.5  # of the range of both curves together
PUBLISHED = "published:"


@dataclass
class Table:
    """A codec's numbers. values: name of a metric or "bpp" -> float64 (images, qualities), nan if undefined."""

    images: list[str]
    qualities: list[float]
    values: dict[str, np.ndarray]

    def mean(self, key: str, pick: np.ndarray | None = None) -> np.ndarray:
        """float64 (qualities,), over all images or over those of the indexes `pick`.

        MS-SSIM is averaged before it becomes dB, as in CompressAI's published curves.
        """
        if key == "ms_ssim_db" and "ms_ssim" in self.values:
            return np.array([decibel(1 - mean) for mean in self.mean("ms_ssim", pick)])
        value = self.values[key]
        return (value if pick is None else value[pick]).mean(0)

    def defined(self, metric: str) -> list[str]:
        """The images in which `mean` of a metric is finite at every quality."""
        key = "ms_ssim" if metric == "ms_ssim_db" and "ms_ssim" in self.values else metric
        finite = np.isfinite(self.values[key]).all(1)
        return [name for name, whole in zip(self.images, finite, strict=True) if whole]

    def of(self, images: list[str]) -> Table:
        rows = [self.images.index(name) for name in images]
        return Table(images, self.qualities, {k: v[rows] for k, v in self.values.items()})


def table(results: Results, codec: str) -> Table | None:
    """Of the images that went well at all qualities that were asked for; a quality at which none did is left out.

    None if nothing did. Rows of other qualities, which an earlier run made of some images perhaps, do not count.
    """
    entry = next((e for e in results["codecs"] if e["name"] == codec), None)
    asked = entry.get("qualities") if entry else None  # results of before do not tell
    rows = [r for r in results["rows"] if r["codec"] == codec and not r["error"]]
    if asked is not None:
        rows = [r for r in rows if r["quality"] in asked]
    qualities = sorted({r["quality"] for r in rows})
    by_image: dict[str, dict[float, Any]] = {}
    for row in rows:
        by_image.setdefault(row["image"], {})[row["quality"]] = row
    images = [i["name"] for i in results["images"] if set(by_image.get(i["name"], ())) == set(qualities)]
    if not images or not qualities:
        return None
    values = {
        key: np.array([[_number(by_image[i][q][key]) for q in qualities] for i in images])
        for key in ("bpp", *results["metrics"])
    }
    return Table(images, qualities, values)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def curves(results: Results) -> list[Curve]:
    """Mean curves, of every codec that has rows."""
    found: list[Curve] = []
    for entry in results["codecs"]:
        numbers = table(results, entry["name"])
        if numbers is None:
            continue
        points: list[Point] = []
        means = {key: numbers.mean(key).tolist() for key in numbers.values}
        for i, quality in enumerate(numbers.qualities):
            point: dict[str, Any] = {"quality": quality, "images": len(numbers.images)}
            for key, mean in means.items():
                point[key] = round(mean[i], 7) if math.isfinite(mean[i]) else None
            points.append(point)  # type: ignore[arg-type]
        found.append({"codec": entry["name"], "points": points})
    return found


# ---- BD-rate


def bd_entries(results: Results, notice: Callable[[str], None] = lambda text: None) -> list[BDEntry]:
    """Every codec and published curve against the anchor, in each metric."""
    anchor = table(results, results["anchor"])
    published = {c["codec"]: c["points"] for c in results["curves"] if c["codec"].startswith(PUBLISHED)}
    entries: list[BDEntry] = []
    for codec in results["codecs"]:
        name = codec["name"]
        numbers = table(results, name)
        if name == results["anchor"] or (numbers is None and name not in published):
            continue
        for metric in results["metrics"]:
            if anchor is None:
                entries.append(_undefined(name, metric, f"the anchor {results['anchor']} has no numbers"))
            elif numbers is None:
                entries.append(_of_published(name, metric, anchor, published[name]))
            else:
                entries.append(bd_of_tables(name, metric, anchor, numbers))
    return entries


def _undefined(codec: str, metric: str, note: str) -> BDEntry:
    return {
        "codec": codec,
        "metric": metric,
        "bd_rate": None,
        "low": None,
        "high": None,
        "range": None,
        "overlap": 0.0,
        "bd_quality": None,
        "images": 0,
        "note": note,
    }


def bd_of_tables(codec: str, metric: str, anchor: Table, numbers: Table) -> BDEntry:
    """A codec against the anchor, over the images in which both have the metric, with the interval of the bootstrap."""
    if not set(anchor.images) & set(numbers.images):
        return _undefined(codec, metric, "no image went well both here and with the anchor")
    common = defined_in_both(metric, anchor, numbers)
    if not common:
        note = f"no image has {METRICS.get(metric, metric)} at all qualities both here and with the anchor"
        return _undefined(codec, metric, note)
    a, b = anchor.of(common), numbers.of(common)
    entry = compare(codec, metric, a.mean("bpp"), a.mean(metric), b.mean("bpp"), b.mean(metric))
    entry["images"] = 0 if entry["bd_rate"] is None else len(common)
    if len(common) < max(len(anchor.images), len(numbers.images)):
        entry["note"] = "; ".join(filter(None, [f"over {len(common)} images that both have", entry["note"]]))
    if entry["bd_rate"] is None or len(common) < LEAST_IMAGES:
        return entry
    rng = np.random.default_rng(1)
    samples = []
    for _ in range(SAMPLES):
        pick = rng.integers(0, len(common), len(common))
        try:
            one, two = ((t.mean("bpp", pick), t.mean(metric, pick)) for t in (a, b))
            value = bd_rate(*one, *two).percent
        except ValueError:  # two points of a sample may fall together
            continue
        if math.isfinite(value):
            samples.append(value)
    if len(samples) >= LEAST_SAMPLES * SAMPLES:
        tail = (100 - CONFIDENCE) / 2
        low, high = np.percentile(samples, [tail, 100 - tail])
        entry["low"], entry["high"] = round(float(low), 3), round(float(high), 3)
    return entry


def defined_in_both(metric: str, one: Table, other: Table) -> list[str]:
    """The images in which both have a metric at all their qualities."""
    theirs = set(other.defined(metric))
    return [name for name in one.defined(metric) if name in theirs]


def _of_published(codec: str, metric: str, anchor: Table, points: list[Point]) -> BDEntry:
    levels = [_number(p.get(metric)) for p in points]  # type: ignore[arg-type]
    if not all(map(math.isfinite, levels)):
        return _undefined(codec, metric, "not published")
    rates = [p["bpp"] for p in points]
    entry = compare(codec, metric, anchor.mean("bpp"), anchor.mean(metric), rates, levels)
    entry["images"] = 0 if entry["bd_rate"] is None else len(anchor.images)
    return entry


def compare(codec: str, metric: str, rates_a: Any, levels_a: Any, rates_b: Any, levels_b: Any) -> BDEntry:
    """Two mean curves, the anchor's first. What is not defined is None, and the note says why."""
    for who, levels in (("the anchor", levels_a), ("the codec", levels_b)):
        if not np.isfinite(levels).all():
            return _undefined(codec, metric, f"{METRICS.get(metric, metric)} is not defined for all images of {who}")
        if len(levels) < 2:
            return _undefined(codec, metric, f"{who} has one quality only")
    try:
        rate = bd_rate(rates_a, levels_a, rates_b, levels_b)
        quality = bd_quality(rates_a, levels_a, rates_b, levels_b)
    except ValueError as error:
        return _undefined(codec, metric, str(error))
    both = max(max(levels_a), max(levels_b)) - min(min(levels_a), min(levels_b))
    overlap = max(rate.high - rate.low, 0) / both
    entry = _undefined(codec, metric, "")
    if not math.isfinite(rate.percent):
        entry["note"] = "the curves have no quality in common"
        return entry
    entry["bd_rate"] = round(rate.percent, 3)
    entry["range"] = [round(rate.low, 4), round(rate.high, 4)]
    entry["overlap"] = round(float(overlap), 3)
    entry["bd_quality"] = round(quality.value, 4) if math.isfinite(quality.value) else None
    if overlap < SMALL_OVERLAP:
        entry["note"] = f"the curves share {100 * overlap:.0f} % of their range only"
    if not _monotone(rates_a, levels_a) or not _monotone(rates_b, levels_b):
        entry["note"] = "; ".join(filter(None, [entry["note"], "a curve is not monotone"]))
    return entry


def _monotone(rates: Any, levels: Any) -> bool:
    """Whether quality grows with rate."""
    return bool((np.diff(np.asarray(levels)[np.argsort(rates)]) > 0).all())


# ---- published curves


def read_published(path: Path, names: Sequence[str] = ()) -> list[tuple[CodecEntry, Curve]]:
    """Curves in either of CompressAI's two JSON forms: {name: {"bpp": [...], "psnr": [...], "ms-ssim": [...]}}, or
    {"name", "results": {...}}, one a file; those of `names`, all if there are none. Raises InputError.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("results"), dict):
        content = {str(content.get("name", path.stem)): content["results"]}
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} has no published curves")
    for name in names:
        if name not in content:
            raise InputError(f"{path} has no curve {name}", hint=f"it has {', '.join(map(str, content))}")
    return [_published(path, name, value) for name, value in content.items() if not names or name in names]


def _published(path: Path, name: str, value: Any) -> tuple[CodecEntry, Curve]:
    lists = {k: v for k, v in value.items() if isinstance(v, list)} if isinstance(value, dict) else {}
    rates = lists.get("bpp", [])
    psnrs = lists.get("psnr", lists.get("psnr-rgb"))
    similarities = lists.get("ms-ssim", lists.get("ms-ssim-rgb"))
    for numbers in (rates, psnrs, similarities):
        if numbers is not None and (
            len(numbers) != len(rates) or not all(map(_is_positive, numbers))
        ):
            raise InputError(f"{path}: {name} needs lists of numbers of one length, \"bpp\" among them")
    if not rates:
        raise InputError(f"{path}: {name} has no list \"bpp\"")
    points: list[Point] = []
    for i, bpp in enumerate(rates):
        point: Point = {"quality": i + 1, "bpp": bpp, "psnr": psnrs[i] if psnrs else None}
        if similarities:
            db = decibel(1 - similarities[i])
            point["ms_ssim"] = similarities[i]
            point["ms_ssim_db"] = round(db, 4) if math.isfinite(db) else None
        points.append(point)
    entry: CodecEntry = {
        "name": PUBLISHED + name,
        "label": f"{name} (published)",
        "kind": "published",
        "missing": None,
        "model_id": None,
        "detail": f"numbers of {path.name}",
        "source": str(path.resolve()),
        "qualities": [point["quality"] for point in points],
        "digest": "",
    }
    return entry, {"codec": PUBLISHED + name, "points": points}


def _is_positive(value: Any) -> bool:
    """A number that is finite as a float too: JSON has Infinity, and integers of any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
