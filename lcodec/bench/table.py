"""A run as text: what the terminal shows, and the table of the README."""

from __future__ import annotations

from collections.abc import Sequence

from lcodec.bench.schema import BDEntry, CodecEntry, Results, SpeedEntry
from lcodec.bench.summary import CONFIDENCE

# A BD-rate in each of these; MS-SSIM in dB stands for MS-SSIM.
SHOWN = ("psnr", "psnr_yuv", "ms_ssim_db", "ssimulacra2")
SHORT = {"psnr": "PSNR", "psnr_yuv": "PSNR-YUV", "ms_ssim_db": "MS-SSIM", "ssimulacra2": "SSIMULACRA2"}


def shown_metrics(results: Results) -> list[str]:
    return [metric for metric in SHOWN if metric in results["metrics"]]


def in_order(results: Results) -> list[CodecEntry]:
    """Codecs with curves, the best BD-rate first, the anchor where 0 is, those without a BD-rate last."""
    metric = next(iter(shown_metrics(results)), "")
    rates = {e["codec"]: e["bd_rate"] for e in results["bd"] if e["metric"] == metric}
    rates[results["anchor"]] = 0.0
    have = {curve["codec"] for curve in results["curves"]}

    def key(entry: CodecEntry) -> tuple[bool, float]:
        rate = rates.get(entry["name"])
        return rate is None, rate or 0.0

    return sorted((entry for entry in results["codecs"] if entry["name"] in have), key=key)


def bd_of(results: Results, codec: str, metric: str) -> BDEntry | None:
    return next((e for e in results["bd"] if e["codec"] == codec and e["metric"] == metric), None)


def speed_of(results: Results, codec: str) -> SpeedEntry | None:
    return next((s for s in results["speed"] if s["codec"] == codec), None)


def percent(entry: BDEntry | None, interval: bool = True) -> str:
    if entry is None or entry["bd_rate"] is None:
        return "-"
    text = f"{entry['bd_rate']:+.1f} %"
    if interval and entry["low"] is not None and entry["high"] is not None:
        text += f" [{entry['low']:+.1f}, {entry['high']:+.1f}]"
    return text


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def describe_images(results: Results) -> str:
    """ "24 images", or "20 to 24 of 24 images" where some curves or BD-rates are over fewer than there are."""
    total = len(results["images"])
    counts = [point.get("images") for curve in results["curves"] for point in curve["points"]]
    used = {count for count in counts if count is not None}  # published curves have none
    # Results of before do not tell it of BD-rates.
    used |= {entry.get("images", total) for entry in results["bd"] if entry["bd_rate"] is not None}
    low, high = min(used, default=total), max(used, default=total)
    if low == total:
        return f"{total} images"
    return f"{low} of {total} images" if low == high else f"{low} to {high} of {total} images"


def describe_machine(results: Results) -> str:
    machine = results["machine"]
    threads = f"{machine['threads']} thread" + ("s" if machine["threads"] != 1 else "")
    device = "" if machine["device"] == "cpu" else f" and {machine['device']}"
    return f"{machine['cpu']}{device}, {threads}"


def table_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """(Heads, a row a codec): BD-rates with their intervals, times of one image, warm."""
    shown = shown_metrics(results)
    heads = ["codec", *(f"BD-rate {SHORT[m]}" for m in shown), "encode", "decode"]
    rows = []
    for entry in in_order(results):
        speed = speed_of(results, entry["name"])
        is_anchor = entry["name"] == results["anchor"]
        rates = ["anchor" if is_anchor else percent(bd_of(results, entry["name"], m)) for m in shown]
        times = [seconds(speed["warm_encode_s"]), seconds(speed["warm_decode_s"])] if speed else ["-", "-"]
        rows.append([entry["label"], *rates, *times])
    return heads, rows


def summary_lines(results: Results) -> list[str]:
    """What the terminal shows at the end of a run."""
    heads, rows = table_rows(results)
    label = next((e["label"] for e in results["codecs"] if e["name"] == results["anchor"]), results["anchor"])
    lines = [
        f"{describe_images(results)}, bits at equal quality against {label} (less is better),"
        f" {CONFIDENCE} % confidence over images",
        "",
        *aligned([heads, *rows]),
        "",
        "ranges that the BD-rates are over:",
        *range_lines(results),
    ]
    if results["speed"]:
        lines += ["", *speed_lines(results)]
    lines += [f"missing: {e['label']}, {e['missing']}" for e in results["codecs"] if e["missing"]]
    failed = [row for row in results["rows"] if row["error"]]
    lines += [f"failed: {row['codec']} q {row['quality']:g} on {row['image']}: {row['error']}" for row in failed]
    lines += [f"skipped: {image['error']}" for image in results["skipped"]]
    return lines


def range_lines(results: Results) -> list[str]:
    """A line a codec; what there is to say about a BD-rate on lines of its own."""
    lines = []
    kinds = {entry["name"]: entry["kind"] for entry in results["codecs"]}
    for entry in in_order(results):
        found = [bd for m in shown_metrics(results) if (bd := bd_of(results, entry["name"], m)) is not None]
        ranges = [
            f"{SHORT[bd['metric']]} {bd['range'][0]:.1f} to {bd['range'][1]:.1f}" if bd["range"] else ""
            for bd in found
        ]
        if any(ranges):
            lines.append(f"  {entry['label']}: {', '.join(filter(None, ranges))}")
        for bd in found:
            if bd["note"] and (kinds[entry["name"]] != "published" or bd["bd_rate"] is not None):
                lines.append(f"    {SHORT[bd['metric']]}: {bd['note']}")
    return lines


def speed_lines(results: Results) -> list[str]:
    """Times of one image, with their parts where they are known."""
    first = results["speed"][0]
    rows = [["codec", "q", "encode", "decode", "MP/s", "MP/s", "cold encode", "cold decode", "peak"]]
    parts = []
    labels = {e["name"]: e["label"] for e in results["codecs"]}
    for s in results["speed"]:
        peak = "-" if s["peak_mib"] is None else f"{s['peak_mib']:.0f} MiB"
        rows.append(
            [
                labels.get(s["codec"], s["codec"]),
                f"{s['quality']:g}",
                seconds(s["warm_encode_s"]),
                seconds(s["warm_decode_s"]),
                f"{s['mp_s_encode']:.2f}",
                f"{s['mp_s_decode']:.2f}",
                seconds(s["cold_encode_s"]),
                seconds(s["cold_decode_s"]),
                peak,
            ]
        )
        if s["parts"]:
            listed = ", ".join(f"{key.replace('_', ' ')} {seconds(value)}" for key, value in s["parts"].items())
            parts.append(f"  {labels.get(s['codec'], s['codec'])}: {listed}")
    image = f"{first['image']}, {first['pixels'] / 1e6:.2f} MP"
    title = f"one image ({image}), median of warm runs, {describe_machine(results)}:"
    return [title, *aligned(rows), *parts]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first one to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def markdown(results: Results) -> list[str]:
    """The table of a README, with the command, the date and the machine."""
    heads, rows = table_rows(results)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    label = next((e["label"] for e in results["codecs"] if e["name"] == results["anchor"]), results["anchor"])
    lines += [
        "",
        f"BD-rate: bits at equal quality against {label}, negative is better; in brackets the {CONFIDENCE} % interval"
        f" over {describe_images(results)} (bootstrap). Times: one image, warm.",
        f"`{results['command']}`, lcodec {results['lcodec']}, {results['date'][:10]}, {describe_machine(results)}.",
    ]
    return lines
