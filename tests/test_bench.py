"""BD-rates, summaries, comparison and tables by cases whose answer is known, and against an independent program."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy", reason="extra 'bench' is not installed")

from lcodec.bench import summary, table
from lcodec.bench.bdrate import bd_quality, bd_rate
from lcodec.bench.compare import compare
from lcodec.bench.readme import BEGIN, END, replace_table, rows_with_ids
from lcodec.bench.schema import FORMAT, Results
from lcodec.bench.store import empty_row
from lcodec.errors import InputError

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "compressai-kodak-results.json"
BPP = np.array([0.1, 0.25, 0.5, 0.9, 1.4])
DB = np.array([27.5, 30.4, 33.6, 37.0, 39.8])


def codec(name: str, **more: Any) -> Any:
    entry = {"name": name, "label": name.upper(), "kind": "pillow", "missing": None, "model_id": None, "detail": ""}
    return entry | {"source": ""} | more


def results_of(curves: dict[str, tuple[np.ndarray, np.ndarray]], n_images: int = 4, anchor: str = "a") -> Results:
    """Rows whose means are the curves: images differ by factors of rate and steps of quality that cancel out."""
    names = [f"{i}.png" for i in range(n_images)]
    steps = np.linspace(-1, 1, n_images)
    rows = []
    for name, (bpp, db) in curves.items():
        for q, (rate, level) in enumerate(zip(bpp, db, strict=True)):
            for image, step in zip(names, steps, strict=True):
                bpp_here = float(rate * (1 + step / 4))
                values = {"bytes": round(1e6 * bpp_here), "bpp": bpp_here, "psnr": float(level + 3 * step)}
                rows.append(empty_row(image, name, float(q)) | values)
    return {
        "format": FORMAT,
        "lcodec": "0",
        "command": "lcodec bench x",
        "date": "2026-01-02T03:04:05+00:00",
        "folder": "x",
        "complete": True,
        "machine": {"cpu": "a processor", "threads": 1, "device": "cpu"},
        "anchor": anchor,
        "metrics": ["psnr"],
        "images": [{"name": n, "sha256": n, "width": 8, "height": 8} for n in names],
        "skipped": [],
        "codecs": [codec(name) for name in curves],
        "rows": rows,
        "curves": [],
        "bd": [],
        "speed": [],
    }


# ---- deltas of two curves


def test_scaling_all_rates_is_that_many_per_cent():
    assert bd_rate(BPP, DB, 0.8 * BPP, DB).percent == pytest.approx(-20)
    assert bd_rate(BPP, DB, 1.5 * BPP[::-1], DB[::-1]).percent == pytest.approx(50)
    assert bd_rate(BPP, DB, BPP, DB).percent == pytest.approx(0)


def test_raising_the_quality_is_that_many_db():
    assert bd_quality(BPP, DB, BPP, DB + 1.25).value == pytest.approx(1.25)


def test_common_range_is_used_and_reported():
    bd = bd_rate(BPP, DB, 0.9 * BPP[1:4], DB[1:4])
    assert (bd.low, bd.high) == (30.4, 37.0)
    assert bd.percent == pytest.approx(-10, abs=0.2)


def test_curves_without_a_common_range_have_no_bd_rate():
    assert math.isnan(bd_rate(BPP, DB, BPP, DB + 20).percent)
    with pytest.raises(ValueError, match="two points"):
        bd_rate(BPP, DB, [1.0], [30.0])
    with pytest.raises(ValueError, match="positive"):
        bd_rate(BPP, DB, [0.0, 1.0], [30.0, 31.0])


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="needs the published curves in ../shared/data")
def test_deltas_of_published_curves_agree_with_the_bjontegaard_package_to_a_tenth_of_a_per_cent():
    peer = pytest.importorskip("bjontegaard")
    curves = [c for _, c in summary.read_published(PUBLISHED) if c["points"][0].get("psnr")]
    xy = [([p["bpp"] for p in c["points"]], [p["psnr"] for p in c["points"]]) for c in curves]
    compared = 0
    for anchor in xy[::7]:
        for other in xy:
            ours = bd_rate(*anchor, *other)
            if math.isnan(ours.percent) or not (np.diff(np.log(anchor[0])) > 0).all():
                continue
            options = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}
            theirs = peer.bd_rate(*anchor, *other, **options)
            # to 0.1 % of the rate, whose ratio it is
            assert 100 + ours.percent == pytest.approx(100 + theirs, rel=1e-3)
            gain = bd_quality(*anchor, *other)
            if not math.isnan(gain.value):
                assert gain.value == pytest.approx(peer.bd_psnr(*anchor, *other, **options), rel=1e-3, abs=1e-3)
            compared += 1
    assert compared > 100


# ---- runs


def test_bd_rate_of_a_run_is_that_of_its_mean_curves_with_an_interval_around():
    results = results_of({"a": (BPP, DB), "b": (0.7 * BPP, DB)}, n_images=6)
    results["curves"] = summary.curves(results)
    means = [(p["bpp"], p["psnr"]) for p in results["curves"][0]["points"]]
    assert np.allclose(means, np.stack([BPP, DB], 1))
    (entry,) = summary.bd_entries(results)
    assert (entry["codec"], entry["metric"]) == ("b", "psnr")
    assert entry["bd_rate"] == pytest.approx(-30, abs=0.01)
    # every image says the same here, and so does every sample of images
    assert entry["low"] == pytest.approx(-30, abs=0.01) and entry["high"] == pytest.approx(-30, abs=0.01)
    assert entry["range"] == [27.5, 39.8] and entry["overlap"] == 1 and entry["note"] == ""


def test_interval_is_wide_where_images_disagree():
    results = results_of({"a": (BPP, DB), "b": (0.7 * BPP, DB)}, n_images=6)
    for row in results["rows"]:
        if row["codec"] == "b" and row["image"] in ("0.png", "1.png"):
            row["bpp"] *= 1.5
    (entry,) = summary.bd_entries(results)
    assert entry["low"] < entry["bd_rate"] - 2 and entry["high"] > entry["bd_rate"] + 2


def test_bd_rate_that_is_not_defined_is_none_and_says_why():
    results = results_of({"a": (BPP, DB), "far": (BPP, DB + 40), "one": (BPP[:1], DB[:1]), "none": (BPP, DB)})
    for row in results["rows"]:
        if row["codec"] == "none" and row["quality"] == 4:  # lossless there
            row["psnr"] = None
    found = {e["codec"]: e for e in summary.bd_entries(results)}
    assert all(e["bd_rate"] is None and e["low"] is None and e["range"] is None for e in found.values())
    assert "no quality in common" in found["far"]["note"]
    assert "one quality only" in found["one"]["note"]
    assert "no image has PSNR RGB (dB) at all qualities" in found["none"]["note"]
    assert all(e["images"] == 0 for e in found.values())


def test_small_overlap_is_a_warning():
    results = results_of({"a": (BPP, DB), "b": (BPP, DB + 8)})
    (entry,) = summary.bd_entries(results)
    assert entry["overlap"] == pytest.approx((39.8 - 35.5) / (47.8 - 27.5), abs=1e-3)
    assert "share 21 % of their range" in entry["note"]


def test_an_image_that_failed_is_left_out_on_both_sides():
    results = results_of({"a": (BPP, DB), "b": (0.5 * BPP, DB)})
    for row in results["rows"]:
        if row["codec"] == "b" and row["image"] == "3.png":
            row.update({"bytes": None, "bpp": None, "psnr": None, "error": "broken"})
    (entry,) = summary.bd_entries(results)
    assert entry["bd_rate"] == pytest.approx(-50, abs=0.01)
    assert "over 3 images" in entry["note"]
    assert {p["images"] for c in summary.curves(results) for p in c["points"]} == {3, 4}


def test_image_without_a_metric_is_left_out_of_its_bd_rates_alone():
    results = results_of({"a": (BPP, DB), "b": (0.7 * BPP, DB), "c": (0.5 * BPP, DB)}, n_images=6)
    results["metrics"] = ["psnr", "ms_ssim", "ms_ssim_db"]
    for row in results["rows"]:
        row["ms_ssim"] = None if row["image"] == "0.png" else 1 - 10 ** (-row["psnr"] / 20)
        row["ms_ssim_db"] = None if row["image"] == "0.png" else row["psnr"] / 2
        if (row["codec"], row["image"], row["quality"]) == ("b", "1.png", 4):  # lossless
            row["psnr"] = None
    found = {(e["codec"], e["metric"]): e for e in summary.bd_entries(results)}
    assert {key: e["images"] for key, e in found.items()} == {
        ("b", "psnr"): 5, ("b", "ms_ssim"): 5, ("b", "ms_ssim_db"): 5,
        ("c", "psnr"): 6, ("c", "ms_ssim"): 5, ("c", "ms_ssim_db"): 5,
    }  # fmt: skip
    assert found["c", "ms_ssim_db"]["bd_rate"] == pytest.approx(-50, abs=0.01)
    assert found["c", "ms_ssim_db"]["low"] == pytest.approx(-50, abs=0.01)
    assert found["b", "psnr"]["note"] == "over 5 images that both have" and found["c", "psnr"]["note"] == ""


def test_ms_ssim_of_1_is_as_good_as_it_is_in_a_mean():
    """It has no decibels, but the mean that becomes decibels has."""
    results = results_of({"a": (BPP, DB), "b": (0.7 * BPP, DB)})
    results["metrics"] = ["ms_ssim", "ms_ssim_db"]
    for row in results["rows"]:
        best = (row["image"], row["quality"]) == ("3.png", 4)
        row["ms_ssim"] = 1.0 if best else 1 - 10 ** (-row["psnr"] / 20)
        row["ms_ssim_db"] = None if best else row["psnr"] / 2
    assert [e["images"] for e in summary.bd_entries(results)] == [4, 4]


def test_ms_ssim_is_averaged_before_it_becomes_db():
    results = results_of({"a": (BPP[:1], DB[:1])}, n_images=2)
    results["metrics"] = ["ms_ssim", "ms_ssim_db"]
    for row, value in zip(results["rows"], (0.9, 0.99), strict=True):
        row.update({"ms_ssim": value, "ms_ssim_db": -10 * math.log10(1 - value)})
    (point,) = summary.curves(results)[0]["points"]
    assert point["ms_ssim_db"] == pytest.approx(-10 * math.log10(1 - 0.945))


# ---- published curves


def test_both_forms_of_published_curves_are_read(tmp_path):
    values = {"bpp": [0.1, 0.2], "psnr": [28.0, 30.0], "ms-ssim": [0.9, 0.95]}
    (tmp_path / "many.json").write_text(json.dumps({"x": values, "y": values}))
    (tmp_path / "one.json").write_text(json.dumps({"name": "x", "results": values}))
    many, one = (summary.read_published(tmp_path / f"{n}.json") for n in ("many", "one"))
    assert [e["name"] for e, _ in many] == ["published:x", "published:y"]
    assert one[0][1] == many[0][1]
    assert many[0][1]["points"][1] == pytest.approx(
        {"quality": 2, "bpp": 0.2, "psnr": 30.0, "ms_ssim": 0.95, "ms_ssim_db": 13.0103}
    )
    assert [e["name"] for e, _ in summary.read_published(tmp_path / "many.json", ["y"])] == ["published:y"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no published curves"),
        ('{"x": {"psnr": [1]}}', "needs lists|no list"),
        ('{"x": {"bpp": [1, 2], "psnr": [1]}}', "one length"),
        ('{"x": {"bpp": [1, "2"], "psnr": [1, 2]}}', "numbers"),
        ('{"x": {"bpp": [1, 2], "psnr": [1, Infinity]}}', "numbers"),
        ('{"x": {"bpp": [1, NaN], "psnr": [1, 2]}}', "numbers"),
        ('{"x": {"bpp": [true, 2], "psnr": [1, 2]}}', "numbers"),
        (f'{{"x": {{"bpp": [1, 1{"0" * 400}], "psnr": [1, 2]}}}}', "numbers"),
    ],
)
def test_damaged_published_curves_are_named(tmp_path, content, message):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(InputError, match=message):
        summary.read_published(tmp_path / "p.json")
    with pytest.raises(InputError, match="cannot read"):
        summary.read_published(tmp_path / "other.json")


# ---- comparison of two runs


def test_equal_runs_have_nothing_to_tell():
    run = results_of({"a": (BPP, DB)})
    found = compare(run, run, 0.0)
    assert found.worse == [] and found.lines == ["a: the same, 20 rows"]


def test_more_bits_than_the_threshold_are_worse_and_fewer_are_not():
    before, after = results_of({"a": (BPP, DB)}), results_of({"a": (1.03 * BPP, DB)})
    assert compare(before, after, 5.0).worse == []
    assert compare(before, after, 2.0).worse == ["a, PSNR RGB (dB): +3.00 % of bits"]
    assert compare(after, before, 0.0).worse == []


def test_a_single_quality_is_compared_point_by_point():
    before = results_of({"a": (BPP[:1], DB[:1])})
    assert compare(before, results_of({"a": (1.1 * BPP[:1], DB[:1])}), 5.0).worse != []
    assert compare(before, results_of({"a": (BPP[:1], 0.9 * DB[:1])}), 5.0).worse != []
    assert compare(before, results_of({"a": (1.1 * BPP[:1], 1.1 * DB[:1])}), 5.0).worse == []


def test_what_is_gone_or_fails_is_worse_and_what_is_new_is_not():
    before = results_of({"a": (BPP, DB), "b": (BPP, DB)})
    after = results_of({"a": (BPP, DB), "c": (BPP, DB)})
    found = compare(before, after, 1.0)
    assert found.worse == ["b is not in B: not measured"] and "c: new" in found.lines
    after = results_of({"a": (BPP, DB), "b": (BPP, DB)})
    after["rows"][-1].update({"bytes": None, "bpp": None, "psnr": None, "error": "broken"})
    assert any("b fails on 1 rows" in line for line in compare(before, after, 1.0).worse)


def test_rows_that_are_lost_are_worse_and_more_rows_are_not():
    before = results_of({"a": (BPP, DB), "b": (BPP, DB)})
    after = results_of({"a": (BPP, DB), "b": (BPP, DB)})
    after["rows"] = [r for r in after["rows"] if (r["codec"], r["quality"]) != ("b", 2) or r["image"] == "0.png"]
    assert compare(before, after, 1.0).worse == ["b lacks 3 rows that A has, 1.png q 2 among them"]
    assert compare(after, before, 1.0).worse == []
    after["rows"] = [r for r in after["rows"] if r["codec"] != "b"]
    assert compare(before, after, 1.0).worse == ["b lacks 20 rows that A has, 0.png q 0 among them"]


def test_one_image_without_a_metric_does_not_hide_what_is_worse():
    before, after = results_of({"a": (BPP, DB)}), results_of({"a": (1.03 * BPP, DB)})
    for results in (before, after):
        for row in results["rows"]:
            row["psnr"] = None if row["image"] == "0.png" else row["psnr"]
    assert compare(before, after, 2.0).worse == ["a, PSNR RGB (dB): +3.00 % of bits"]


def test_codec_that_is_not_timed_any_more_is_worse_where_speed_is_asked_for():
    before, after = results_of({"a": (BPP, DB)}), results_of({"a": (BPP, DB)})
    times = {"warm_encode_s": 0.2, "warm_decode_s": 0.1}
    before["speed"] = [{"codec": "a", **times}]  # type: ignore[typeddict-item]
    assert compare(before, after, 1.0).worse == []
    assert compare(before, after, 1.0, 20.0).worse == ["a is timed in A, not in B"]
    assert compare(after, before, 1.0, 20.0).worse == []


def test_slower_is_worse_only_if_asked_for():
    before, after = results_of({"a": (BPP, DB)}), results_of({"a": (BPP, DB)})
    for results, factor in ((before, 1.0), (after, 1.5)):
        times = {"warm_encode_s": 0.2 * factor, "warm_decode_s": 0.1}
        results["speed"] = [{"codec": "a", **times}]  # type: ignore[typeddict-item]
    assert compare(before, after, 1.0).worse == []
    assert compare(before, after, 1.0, 60.0).worse == []
    assert compare(before, after, 1.0, 20.0).worse == ["a, warm encode: 0.2000 s -> 0.3000 s (+50 %)"]


def test_runs_of_other_metrics_cannot_be_compared():
    a, b = (results_of({"a": (BPP, DB), "m": (factor * BPP, DB)}) for factor in (1, 2))
    for row in b["rows"]:
        row["ssimulacra2"], row["psnr"] = row["psnr"], None
    b["metrics"] = ["ssimulacra2"]
    found = compare(a, b, 1.0)
    assert found.worse == ["the runs have no metric in common"] and "PSNR RGB (dB)" in found.lines[0]


def test_runs_of_other_images_cannot_be_compared():
    before, after = results_of({"a": (BPP, DB)}), results_of({"a": (BPP, DB)})
    for image in after["images"]:
        image["sha256"] = "other"
    assert compare(before, after, 1.0).worse == ["the runs have no image in common"]


# ---- tables


def test_table_of_the_readme_has_command_date_and_machine(tmp_path):
    results = results_of({"a": (BPP, DB), "b": (0.7 * BPP, DB)}, n_images=6)
    results["curves"] = summary.curves(results)
    results["bd"] = summary.bd_entries(results)
    lines = table.markdown(results)
    assert lines[2].startswith("| B | -30.0 % [-30.0, -30.0] |") and lines[3].startswith("| A | anchor |")
    assert "`lcodec bench x`, lcodec 0, 2026-01-02, a processor, 1 thread" in lines[-1]
    text = replace_table(f"before\n{BEGIN}\nold\n{END}\nafter\n", lines)
    assert text == "\n".join(["before", BEGIN, *lines, END, "after", ""])
    assert replace_table(text, lines) == text
    for entry in results["codecs"]:
        entry["model_id"] = {"a": "0123456789abcdef" * 4, "b": None}[entry["name"]]
    rows = list(csv.DictReader(rows_with_ids(results).decode().splitlines()))
    assert {(row["codec"], row["model_id"]) for row in rows} == {("a", "0123456789abcdef"), ("b", "")}
    assert len(rows) == len(results["rows"]) and rows[0]["width"] == str(results["images"][0]["width"])
    for damaged in ("nothing", f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"):
        with pytest.raises(InputError, match="needs the lines"):
            replace_table(damaged, lines)


def test_what_is_missing_failed_or_skipped_is_in_the_terminal_table():
    results = results_of({"a": (BPP, DB), "b": (0.7 * BPP, DB)})
    results["codecs"].append(codec("gone", missing="program gone is not installed"))
    results["skipped"] = [{"name": "x.png", "error": "x.png is empty"}]
    results["rows"][-1].update({"bytes": None, "bpp": None, "psnr": None, "error": "broken"})
    results["curves"] = summary.curves(results)
    results["bd"] = summary.bd_entries(results)
    text = "\n".join(table.summary_lines(results))
    assert "missing: GONE, program gone is not installed" in text
    assert "skipped: x.png is empty" in text
    assert "failed: b q 4 on 3.png: broken" in text
    assert "  B: PSNR 26.5 to 38.8\n    PSNR: over 3 images that both have" in text


def test_number_of_images_in_the_texts_is_that_of_the_curves():
    results = results_of({"a": (BPP, DB), "b": (0.7 * BPP, DB)})
    results["rows"] = [r for r in results["rows"] if r["codec"] == "a" or r["image"] != "3.png" or r["quality"] < 4]
    results["curves"] = summary.curves(results)
    results["bd"] = summary.bd_entries(results)
    assert table.summary_lines(results)[0].startswith("3 to 4 of 4 images, bits at equal quality")
    assert "interval over 3 to 4 of 4 images (bootstrap)" in table.markdown(results)[-2]
    for entry in results["bd"]:
        del entry["images"]  # as it was before
    assert table.summary_lines(results)[0].startswith("3 to 4 of 4 images")
    results["codecs"][1]["qualities"] = [0, 1, 2, 3]
    results["curves"] = summary.curves(results)
    results["bd"] = summary.bd_entries(results)
    assert table.summary_lines(results)[0].startswith("4 images, bits at equal quality")


def test_plot_has_a_colour_for_however_many_codecs():
    pytest.importorskip("matplotlib", reason="extra 'bench' is not installed")
    from lcodec.bench.plot import draw

    results = results_of({f"m{i}": (BPP, DB) for i in range(40)}, anchor="m0")
    for i, entry in enumerate(results["codecs"]):
        entry["kind"] = "lcodec" if i < 20 else "pillow"
    results["curves"] = summary.curves(results)
    assert len(draw(results).axes[0].lines) == 40


def test_processor_of_an_arm_machine_is_known_by_its_kind(monkeypatch):
    from lcodec.bench import entropy

    def info(text):
        monkeypatch.setattr("builtins.open", lambda *a, **o: io.StringIO(text))

    info("processor\t: 0\nBogoMIPS\t: 50\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\nCPU part\t: 0x1\n")
    monkeypatch.setattr(entropy.platform, "machine", lambda: "aarch64")
    assert entropy.processor() == "aarch64, implementer 0x41, part 0xd0c"
    info("processor : 0\nmodel name : A Processor: 3 GHz\n")
    assert entropy.processor() == "A Processor: 3 GHz"
