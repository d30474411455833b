"""Two runs of the benchmark: what changed from A to B, and whether it is worse than a threshold allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lcodec.bench import store, summary
from lcodec.bench.schema import METRICS, Results, Row
from lcodec.bench.table import shown_metrics


@dataclass
class Comparison:
    """lines: for people. worse: what is beyond the threshold, a line each."""

    lines: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)


def compare(a: Results, b: Results, threshold: float, speed_threshold: float | None = None) -> Comparison:
    """Codec by codec, over the images that both runs have.

    A codec is worse if it needs more than `threshold` per cent more bits at equal quality in any metric (BD-rate of B
    against A); where that is not defined, if at some quality files grew by more than that and the metric did not, or
    the metric fell by more than that and files did not shrink; if it fails or is missing where it was not before; and,
    with `speed_threshold`, if warm encoding or decoding takes more than that many per cent longer or is not timed now.
    """
    found = Comparison()
    common = {i["name"]: i["sha256"] for i in a["images"]}
    images = [i for i in b["images"] if common.get(i["name"]) == i["sha256"]]
    if len(images) < max(len(a["images"]), len(b["images"])):
        found.lines.append(f"{len(images)} images are in both, of {len(a['images'])} and {len(b['images'])}")
    if not images:
        found.worse.append("the runs have no image in common")
        return found
    gone = [METRICS[m] for m in shown_metrics(a) if m not in b["metrics"]]
    if gone:
        found.lines.append(f"not measured in B: {', '.join(gone)}")
    if len(gone) == len(shown_metrics(a)):
        found.worse.append("the runs have no metric in common")
    a, b = _only(a, images), _only(b, images)
    after = {e["name"]: e for e in b["codecs"]}
    for entry in a["codecs"]:
        name = entry["name"]
        if entry["kind"] == "published" or entry["missing"]:
            continue
        if name not in after or after[name]["missing"]:
            reason = after[name]["missing"] if name in after else "not measured"
            found.lines.append(f"{name}: gone, {reason}")
            found.worse.append(f"{name} is not in B: {reason}")
            continue
        _codec(found, name, a, b, threshold)
        _speed(found, name, a, b, speed_threshold)
    before = {e["name"] for e in a["codecs"]}
    found.lines += [f"{name}: new" for name in after if name not in before and after[name]["kind"] != "published"]
    return found


def _only(results: Results, images: list[Any]) -> Results:
    names = {i["name"] for i in images}
    chosen: Results = {**results, "images": images, "rows": [r for r in results["rows"] if r["image"] in names]}
    return chosen


def _codec(found: Comparison, name: str, a: Results, b: Results, threshold: float) -> None:
    rows_a, rows_b = ({store.key_of(r): r for r in x["rows"] if r["codec"] == name} for x in (a, b))
    failed = [key for key, row in rows_b.items() if row["error"] and key in rows_a and not rows_a[key]["error"]]
    if failed:
        found.worse.append(f"{name} fails on {len(failed)} rows that went well, {failed[0][0]} among them")
    lost = [key for key, row in rows_a.items() if not row["error"] and key not in rows_b]
    if lost:
        found.worse.append(f"{name} lacks {len(lost)} rows that A has, {lost[0][0]} q {lost[0][2]:g} among them")
    both = [(rows_a[key], rows_b[key]) for key in rows_a if key in rows_b]
    pairs = [(x, y) for x, y in both if not x["error"] and not y["error"]]
    metrics = [m for m in shown_metrics(a) if m in b["metrics"]]
    if pairs and len(pairs) == len(rows_a) == len(rows_b) and all(_equal(x, y, metrics) for x, y in pairs):
        found.lines.append(f"{name}: the same, {len(pairs)} rows")
        return
    before, after = summary.table(a, name), summary.table(b, name)
    if before is None or after is None:
        found.lines.append(f"{name}: no rows to compare")
        return
    common = [image for image in before.images if image in after.images]
    if not common:
        found.lines.append(f"{name}: no image went well in both")
        return
    before, after = before.of(common), after.of(common)
    for metric in metrics:
        # Where no image has the metric at all qualities, some of them can still be compared.
        defined = summary.defined_in_both(metric, before, after) or common
        x, y = before.of(defined), after.of(defined)
        bd = summary.compare(name, metric, x.mean("bpp"), x.mean(metric), y.mean("bpp"), y.mean(metric))
        if bd["bd_rate"] is None:
            _at_equal_quality(found, name, metric, x, y, threshold)
            continue
        line = f"{name}, {METRICS[metric]}: {bd['bd_rate']:+.2f} % of bits"
        found.lines.append(line + (f" ({bd['note']})" if bd["note"] else ""))
        if bd["bd_rate"] > threshold:
            found.worse.append(line)


def _equal(x: Row, y: Row, metrics: list[str]) -> bool:
    p: dict[str, Any] = dict(x)
    q: dict[str, Any] = dict(y)
    return p["bytes"] == q["bytes"] and all(p[m] == q[m] for m in metrics)


def _at_equal_quality(
    found: Comparison, name: str, metric: str, before: summary.Table, after: summary.Table, threshold: float
) -> None:
    for quality in (q for q in before.qualities if q in after.qualities):
        i, j = before.qualities.index(quality), after.qualities.index(quality)
        rates = before.mean("bpp")[i], after.mean("bpp")[j]
        levels = before.mean(metric)[i], after.mean(metric)[j]
        if not np.isfinite(levels).all():
            continue
        rate, level = 100 * (rates[1] / rates[0] - 1), 100 * (levels[1] - levels[0]) / max(abs(levels[0]), 1e-9)
        line = f"{name} q {quality:g}: {rate:+.2f} % bytes, {METRICS[metric]} {levels[1] - levels[0]:+.4g}"
        found.lines.append(line)
        if (rate > threshold and level <= 0) or (level < -threshold and rate >= 0):
            found.worse.append(line)


def _speed(found: Comparison, name: str, a: Results, b: Results, threshold: float | None) -> None:
    before, after = ({s["codec"]: s for s in x["speed"]}.get(name) for x in (a, b))
    if before is not None and after is None and threshold is not None:
        found.worse.append(f"{name} is timed in A, not in B")
    if before is None or after is None:
        return
    for what, old, new in (
        ("encode", before["warm_encode_s"], after["warm_encode_s"]),
        ("decode", before["warm_decode_s"], after["warm_decode_s"]),
    ):
        line = f"{name}, warm {what}: {old:.4f} s -> {new:.4f} s ({100 * (new / old - 1):+.0f} %)"
        found.lines.append(line)
        if threshold is not None and 100 * (new / old - 1) > threshold:
            found.worse.append(line)
