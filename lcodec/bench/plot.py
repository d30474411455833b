"""The rate-distortion plot, rd.svg and rd.png: a panel a metric."""

from __future__ import annotations

import io
from itertools import cycle
from pathlib import Path
from typing import Any

from lcodec.atomic import write_atomically
from lcodec.bench.schema import METRICS, Results
from lcodec.bench.table import in_order, shown_metrics

# Okabe and Ito's colours, which the colour-blind can tell apart; ours in the strongest ones.
OURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")
OTHERS = ("#000000", "#7f7f7f", "#56b4e9", "#e69f00", "#a0522d", "#6a5acd", "#b8b800", "#5f9ea0")
# Text stays text in the SVG, which makes it small; a fixed salt makes it the same for the same results.
SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "lcodec", "font.size": 9}
MARKERS = {"lcodec": "o", "pillow": "s", "program": "^", "compressai": "D", "published": "x"}


def plot(results: Results, out: Path) -> None:
    """Write rd.svg and rd.png. Raises ImportError without matplotlib, OutputError."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        figure = draw(results)
        for suffix, options in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": 150})):
            data = io.BytesIO()
            figure.savefig(data, format=suffix[1:], **options)
            write_atomically(out / f"rd{suffix}", data.getvalue(), overwrite=True)


def draw(results: Results) -> Any:
    from matplotlib.figure import Figure  # not pyplot: no window system, nothing global

    metrics = shown_metrics(results)
    colours = {"ours": cycle(OURS), "others": cycle(OTHERS)}
    styles = {
        entry["name"]: {
            "color": next(colours["ours" if entry["kind"] == "lcodec" else "others"]),
            "marker": MARKERS[entry["kind"]],
            "linewidth": 2.2 if entry["kind"] == "lcodec" else 1.2,
            "linestyle": ":" if entry["kind"] == "published" else "-",
            "zorder": 3 if entry["kind"] == "lcodec" else 2,
        }
        for entry in results["codecs"]
    }
    figure = Figure(figsize=(4.2 * max(len(metrics), 1), 4.2), layout="constrained")
    panels = figure.subplots(1, max(len(metrics), 1), squeeze=False)[0]
    curves = {curve["codec"]: curve["points"] for curve in results["curves"]}
    for panel, metric in zip(panels, metrics, strict=False):
        for entry in in_order(results):
            points: list[Any] = [p for p in curves[entry["name"]] if p.get(metric) is not None]
            points.sort(key=lambda p: p["bpp"])
            if points:
                x, y = [p["bpp"] for p in points], [p[metric] for p in points]
                panel.plot(x, y, label=entry["label"], markersize=4, **styles[entry["name"]])
        panel.set_xscale("log")
        panel.set_xticks([0.125, 0.25, 0.5, 1, 2, 4], ["0.125", "0.25", "0.5", "1", "2", "4"])
        panel.minorticks_off()
        panel.set_xlabel("bits per pixel (whole file)")
        panel.set_title(METRICS[metric], fontsize=10)
        panel.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7), frameon=False)
    return figure
