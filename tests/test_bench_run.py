"""Runs of `lcodec bench`: what they leave, how they go on, and what they do with what is broken."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

pytest.importorskip("scipy", reason="extra 'bench' is not installed")

from lcodec import weights
from lcodec.bench import decoded, speed, store
from lcodec.bench import run as run_module
from lcodec.bench.coder import Coder
from lcodec.bench.learned import model_coders
from lcodec.bench.metrics import psnr
from lcodec.bench.registry import find_codecs
from lcodec.bench.run import Listener, Settings, run
from lcodec.cli import cli
from lcodec.cli.bench import choose_metrics, read_qualities, split_published
from lcodec.errors import InputError, OutputError, UsageError
from lcodec.finalize.assemble import finalize_network

from .conftest import random_network

N_IMAGES = 3


@dataclass
class Steps(Coder):
    """Keeps every `16 - quality`-th level. calls: what was encoded. hook: called before each encoding."""

    calls: list[float] = field(default_factory=list)
    hook: Callable[[np.ndarray], None] = lambda pixels: None

    def __post_init__(self) -> None:
        self.kind = "pillow"

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        self.hook(pixels)
        self.calls.append(quality)
        step = 16 - int(quality)
        return (pixels // step * step).tobytes()[: 100 * int(quality)] + bytes([step]) + pixels.tobytes()

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        pixels = np.frombuffer(data[-3 * height * width :], np.uint8).reshape(height, width, 3)
        step = data[-3 * height * width - 1]
        return pixels // step * step


def steps(name: str = "steps", **more: Any) -> Steps:
    return Steps(name, name, ".steps", (2.0, 5.0, 8.0), **more)


@pytest.fixture
def images(tmp_path, photo) -> Path:
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "deeper/a.png")):
        PIL.Image.fromarray(photo[50 * i : 50 * i + 24, 100:132]).save(folder / name)
    return folder


def settings(images: Path, coders: list[Coder], **more: Any) -> Settings:
    options: dict[str, Any] = {"metrics": ["psnr"], "anchor": coders[0].name, "threads": 1, "device": "cpu"}
    options |= {"out": images.parent / "out", "speed": False, **more}
    return Settings(images, coders=coders, **options)


def csv_keys(out: Path) -> list[tuple[str, str, str]]:
    with open(out / store.CSV, newline="") as file:
        return [(r["image"], r["codec"], r["quality"]) for r in csv.DictReader(file)]


REAL_DRAW = run_module.draw


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Plots take longer than everything else here."""
    monkeypatch.setattr(run_module, "draw", lambda keeper, listener, pictures: None)


def test_run_leaves_rows_curves_and_files(images):
    coder = steps()
    results = run(settings(images, [coder, *find_codecs(["webp"], [], 1)]))
    out = images.parent / "out"
    assert results == store.load(out) and results["complete"]
    assert len(results["rows"]) == N_IMAGES * (3 + 8)
    assert store.load_rows(out) == results["rows"]
    row = next(r for r in results["rows"] if (r["image"], r["codec"], r["quality"]) == ("deeper/a.png", "steps", 5))
    original = np.asarray(PIL.Image.open(images / "deeper" / "a.png"))
    picture = decode_of(coder, original, 5)
    assert row["bytes"] == 500 + 1 + original.size
    assert row["bpp"] == pytest.approx(8 * row["bytes"] / (24 * 32), abs=1e-6)
    assert row["psnr"] == pytest.approx(psnr(original, picture), abs=1e-4) and row["error"] is None
    assert row["encode_s"] > 0 and row["decode_s"] > 0 and row["ms_ssim"] is None
    assert (out / "streams" / "steps" / "q5" / "deeper" / "a.png.steps").stat().st_size == row["bytes"]
    assert [c["codec"] for c in results["curves"]] == ["steps", "webp"]
    assert [len(c["points"]) for c in results["curves"]] == [3, 8]
    assert [e["codec"] for e in results["bd"]] == ["webp"]


def decode_of(coder: Coder, pixels: np.ndarray, quality: float) -> np.ndarray:
    return coder.decode(coder.encode(pixels, quality), *pixels.shape[:2])


def test_picture_of_a_row_can_be_decoded_again(images):
    results = run(settings(images, find_codecs(["webp"], [], 1)))
    out = images.parent / "out"
    row = results["rows"][4]
    original = np.asarray(PIL.Image.open(images / row["image"]))
    picture = decoded(out, row["codec"], row["quality"], row["image"])
    assert psnr(original, picture) == pytest.approx(row["psnr"], abs=1e-4)
    for codec, quality, image in (("webp", 1.5, "a.png"), ("avif", 50, "a.png"), ("webp", 50, "c.png")):
        with pytest.raises(InputError):
            decoded(out, codec, quality, image)


# ---- going on


def interrupt_after(n: int) -> Callable[[np.ndarray], None]:
    left = [n]

    def hook(pixels: np.ndarray) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    return hook


def test_interrupted_run_goes_on_without_repeating_rows(images):
    out = images.parent / "out"
    with pytest.raises(KeyboardInterrupt):
        run(settings(images, [steps(hook=interrupt_after(6))]))
    assert len(csv_keys(out)) == 5 and not store.load(out)["complete"]  # the first call of all warms up
    assert store.load(out)["rows"] == store.load_rows(out)
    kept = store.load_rows(out)
    coder = steps()
    results = run(settings(images, [coder]))
    assert len(coder.calls) == 1 + 9 - 5
    assert len(set(csv_keys(out))) == len(csv_keys(out)) == len(results["rows"]) == 9
    assert all(row in results["rows"] for row in kept)


def test_row_that_was_broken_off_in_the_file_is_made_again(images):
    run(settings(images, [steps()]))
    out = images.parent / "out"
    data = (out / store.CSV).read_bytes()
    (out / store.CSV).write_bytes(data[:-7])  # in the middle of the last row
    (out / store.JSON).write_bytes((out / store.JSON).read_bytes().replace(b'"complete": true', b'"complete": false'))
    coder = steps()
    results = run(settings(images, [coder]))
    assert coder.calls[1:] == [8] and len(csv_keys(out)) == len(results["rows"]) == 9


def test_finished_run_measures_nothing_again(images):
    first = run(settings(images, [steps()]))
    coder = steps()
    assert run(settings(images, [coder]))["rows"] == first["rows"]
    assert coder.calls == []


def test_more_codecs_and_qualities_are_added(images):
    run(settings(images, [steps()]))
    more, other = steps(), steps("other")
    more.qualities = (2.0, 6.0)
    results = run(settings(images, [more, other], anchor="steps"))
    assert more.calls[1:] == [6.0] * N_IMAGES and len(other.calls) == 1 + 9
    assert len(results["rows"]) == 9 + 3 + 9
    results = run(settings(images, [steps("third")], anchor="third"))
    assert {e["name"] for e in results["codecs"]} == {"third", "steps", "other"}
    assert len(results["rows"]) == 9 + 3 + 9 + 9


def test_metrics_that_are_added_come_from_the_kept_files(images):
    first = run(settings(images, [steps()]))
    coder = steps()
    results = run(settings(images, [coder], metrics=["psnr_yuv"]))
    assert coder.calls == [] and results["metrics"] == ["psnr", "psnr_yuv"]
    for before, after in zip(first["rows"], results["rows"], strict=True):
        assert after["psnr_yuv"] is not None
        assert {**after, "psnr_yuv": None} == before


def test_metric_that_small_images_have_not_is_not_looked_for_again(images):
    pytest.importorskip("pytorch_msssim", reason="extra 'bench' is not installed")
    run(settings(images, [steps()], metrics=["psnr", "ms_ssim", "ms_ssim_db"]))
    coder, done = steps(), []
    coder.decode = lambda *what: done.append(what)  # type: ignore[method-assign]
    results = run(settings(images, [coder], metrics=["psnr", "ms_ssim", "ms_ssim_db"]))
    assert not coder.calls and not done and {row["ms_ssim"] for row in results["rows"]} == {None}


def test_another_model_of_the_same_name_is_measured_again(images):
    run(settings(images, [steps(model_id="11")]))
    coder = steps(model_id="22")
    results = run(settings(images, [coder]))
    assert len(coder.calls) == 1 + 9 and len(results["rows"]) == 9


def test_same_model_in_a_smaller_file_is_not_measured_again(images):
    """Its detail has the size of the file; what it does is in its id."""
    run(settings(images, [steps(model_id="11", detail="steps, 3.1 MB")]))
    coder = steps(model_id="11", detail="steps, 0.6 MB")
    results = run(settings(images, [coder]))
    assert coder.calls == [] and len(results["rows"]) == 9
    program = steps(detail="steps 2.0")  # of a program it is the version
    run(settings(images, [steps(detail="steps 1.0")], out=images / "program"))
    assert len(run(settings(images, [program], out=images / "program"))["rows"]) == 9 and program.calls


def test_codec_with_another_command_or_checkpoint_is_measured_again(images):
    """Its name and detail are the same; what its files depend on is in the digest."""
    run(settings(images, [steps(digest="11")]))
    coder = steps(digest="11")
    assert len(run(settings(images, [coder]))["rows"]) == 9 and coder.calls == []
    coder = steps(digest="22")
    results = run(settings(images, [coder]))
    assert len(coder.calls) == 1 + 9 and len(results["rows"]) == 9
    assert results["codecs"][0]["digest"] == "22"


def test_program_whose_command_has_changed_is_measured_again(images):
    script = images.parent / "enc.py"
    script.write_text(
        "import sys\n"
        "data = open(sys.argv[1], 'rb').read() + bytes(int(sys.argv[3]))\n"
        "open(sys.argv[2], 'wb').write(data)\n"
    )
    sizes = []
    for more in (4, 0):
        toml = images.parent / "codec.toml"
        toml.write_text(
            f"[codec.own]\nencode = '{sys.executable} {script} {{input}} {{output}} {more}'\n"
            f"decode = '{sys.executable} {script} {{input}} {{output}} 0'\nsuffix = 'own'\nqualities = [1]\n"
        )
        results = run(settings(images, find_codecs([str(toml)], [], 1)))
        assert not [row["error"] for row in results["rows"] if row["error"]]
        sizes.append([row["bytes"] for row in results["rows"]])
    assert sizes[1] == [size - 4 for size in sizes[0]]


def without_new_keys(out: Path) -> None:
    """Make results.json what it was before codecs told their qualities and a digest."""
    content = json.loads((out / store.JSON).read_text())
    for entry in content["codecs"]:
        del entry["qualities"], entry["digest"]
    for entry in content["bd"]:
        del entry["images"]
    (out / store.JSON).write_text(json.dumps(content))


def test_results_of_before_go_on(images):
    run(settings(images, [steps(digest="11"), steps("other")]))
    without_new_keys(images.parent / "out")
    coder = steps(digest="11")
    results = run(settings(images, [coder]))
    assert coder.calls == [] and len(results["rows"]) == 9 + 9
    assert [len(c["points"]) for c in results["curves"]] == [3, 3]


def test_rows_of_another_version_are_warned_of(images):
    said: list[str] = []
    run(settings(images, [steps()]))
    run(settings(images, [steps()]), Listener(warn=said.append))
    assert said == []
    out = images.parent / "out"
    content = store.load(out)
    content["lcodec"], content["machine"]["torch"] = "0.0.1", "1.0"
    (out / store.JSON).write_text(json.dumps(content))
    run(settings(images, [steps()]), Listener(warn=said.append))
    assert [text.split(",")[0] for text in said] == [
        "rows that are kept were made with lcodec 0.0.1",
        "rows that are kept were made with torch 1.0",
    ]


def test_curves_are_of_the_qualities_that_were_asked_for(images):
    """Of a run that was broken off, some images have qualities that the others never get."""
    with pytest.raises(KeyboardInterrupt):
        run(settings(images, [steps(hook=interrupt_after(5))]))
    coder = steps()
    coder.qualities = (2.0, 8.0)
    results = run(settings(images, [coder]))
    assert len(results["rows"]) == 3 + 2 + 2  # the first image has 5, too
    (curve,) = results["curves"]
    assert [(p["quality"], p["images"]) for p in curve["points"]] == [(2, N_IMAGES), (8, N_IMAGES)]
    with pytest.raises(KeyboardInterrupt):
        run(settings(images, [steps(hook=interrupt_after(0))]))
    assert store.load(images.parent / "out")["codecs"][0]["qualities"] == [2, 5, 8]


def test_what_a_run_leaves_below_its_folder_is_no_image(images, monkeypatch):
    monkeypatch.chdir(images)
    first = run(settings(Path("."), find_codecs(["jpeg-444"], [], 1), out=Path("bench-images")))
    Path("bench-images/rd.png").write_bytes(Path("a.png").read_bytes())
    assert list(Path("bench-images").rglob("*.jpg"))
    again = run(settings(Path("."), find_codecs(["jpeg-444"], [], 1), out=Path("bench-images")))
    assert [i["name"] for i in again["images"]] == ["a.png", "b.png", "deeper/a.png"]
    assert again["rows"] == first["rows"]


def test_folder_of_other_images_or_of_another_machine_is_refused(images, photo):
    run(settings(images, [steps()]))
    with pytest.raises(UsageError, match="threads 1, here it is 2"):
        run(settings(images, [steps()], threads=2))
    PIL.Image.fromarray(photo[:16, :16]).save(images / "b.png")
    with pytest.raises(UsageError, match="other images"):
        run(settings(images, [steps()]))


def test_folder_with_something_else_in_it_is_left_alone(images):
    out = images.parent / "out"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="holds no results"):
        run(settings(images, [steps()]))
    assert [p.name for p in out.iterdir()] == ["letter.txt"]


# ---- what is broken


def test_codec_that_fails_on_one_image_says_so_in_its_row_and_is_tried_again(images):
    def refuse(pixels: np.ndarray) -> None:
        if refused and np.array_equal(pixels, np.asarray(PIL.Image.open(images / "b.png"))):
            raise RuntimeError("too\nblue")

    refused = True
    results = run(settings(images, [steps(hook=refuse), steps("other")]))
    failed = [r for r in results["rows"] if r["error"]]
    assert [(r["image"], r["codec"], r["error"]) for r in failed] == [("b.png", "steps", "RuntimeError: too blue")] * 3
    assert all(r["bytes"] is None and r["psnr"] is None for r in failed)
    assert len(results["rows"]) == 18 and results["curves"][0]["points"][0]["images"] == N_IMAGES - 1
    refused = False
    results = run(settings(images, [steps(hook=refuse), steps("other")]))
    assert not [r for r in results["rows"] if r["error"]] and len(results["rows"]) == 18


def test_decoder_that_gives_another_size_is_an_error_of_the_row(images):
    @dataclass
    class Cropped(Steps):
        def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
            return super().decode(data, height, width)[:-1]

    results = run(settings(images, [Cropped("c", "c", ".c", (2.0,))]))
    assert {r["error"] for r in results["rows"]} == {"the decoded image is 32x23 pixels"}


def test_unreadable_images_are_named_and_skipped(images):
    (images / "broken.png").write_bytes(b"\x89PNG nonsense")
    (images / "notes.txt").write_text("no image")
    said: list[str] = []
    results = run(settings(images, [steps()]), Listener(warn=said.append))
    assert [s["name"] for s in results["skipped"]] == ["broken.png"] and len(said) == 1
    assert "broken.png" in said[0] and len(results["images"]) == N_IMAGES


def test_no_images_are_an_error(tmp_path):
    with pytest.raises(InputError, match="no images"):
        run(settings(tmp_path, [steps()]))
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"none of the 1 images .*broken.png is not an image") as caught:
        run(settings(tmp_path, [steps()]))
    assert caught.value.hint is None
    with pytest.raises(InputError, match="no folder"):
        run(settings(tmp_path / "nowhere", [steps()]))


def test_full_disk_keeps_the_rows_so_far(images, monkeypatch):
    """The fifth compressed file does not fit."""
    real, written = store.write_atomically, []

    def write(path: Path, data: bytes, overwrite: bool = False) -> None:
        if path.suffix == ".steps":
            if len(written) == 4:
                raise OutputError(f"cannot write {path}: no space left on device")
            written.append(path)
        real(path, data, overwrite)

    monkeypatch.setattr(store, "write_atomically", write)
    with pytest.raises(OutputError, match="no space left"):
        run(settings(images, [steps()]))
    out = images.parent / "out"
    assert len(csv_keys(out)) == len(store.load(out)["rows"]) == 4
    monkeypatch.setattr(store, "write_atomically", real)
    assert len(run(settings(images, [steps()]))["rows"]) == 9


def test_side_by_side_gives_the_same_rows_without_times(images):
    alone = run(settings(images, [steps(), steps("other")]))
    beside = run(settings(images, [steps(), steps("other")], jobs=3, out=images.parent / "beside"))
    assert all(r["encode_s"] is None and r["decode_s"] is None for r in beside["rows"])
    for row in alone["rows"]:
        row["encode_s"] = row["decode_s"] = None
    assert beside["rows"] == alone["rows"]


def test_missing_codec_is_named_and_the_others_are_measured(images):
    said: list[str] = []
    results = run(settings(images, [steps(), steps("gone", missing="program gone is not installed")]),
                  Listener(warn=said.append))
    assert said == ["gone is missing: program gone is not installed"]
    assert len(results["rows"]) == 9 and results["codecs"][1]["missing"]


def test_rows_of_a_codec_that_is_not_to_be_had_any_more_stay(images):
    first = run(settings(images, [steps(), steps("gone", detail="Pillow 1, gone 2")]))
    said: list[str] = []
    missing = steps("gone", detail="Pillow 1", missing="this Pillow is built without gone")
    again = run(settings(images, [steps(), missing]), Listener(warn=said.append))
    assert said == ["gone is missing: this Pillow is built without gone"]
    assert again["rows"] == first["rows"] and again["codecs"] == first["codecs"]
    assert [curve["codec"] for curve in again["curves"]] == ["steps", "gone"]


def test_metric_that_cannot_be_computed_any_more_costs_no_rows(images, photo, monkeypatch):
    PIL.Image.fromarray(photo[:170, :170]).save(images / "a.png")
    run(settings(images, [steps()], metrics=["psnr", "ms_ssim"]))
    monkeypatch.setattr(run_module.metrics, "missing", lambda name: "gone" if name == "ms_ssim" else None)
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    results = run(settings(images, [steps(), steps("more")]))
    rows = {row["codec"]: row for row in results["rows"] if row["image"] == "a.png"}
    assert rows["steps"]["ms_ssim"] is not None
    assert (rows["more"]["ms_ssim"], rows["more"]["error"]) == (None, None) and rows["more"]["psnr"] is not None


def test_damaged_results_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        store.load(tmp_path)
    for content, message in (("{", "damaged"), ("[]", "holds no results"), ('{"rows": [], "codecs": []}', "format")):
        (tmp_path / store.JSON).write_text(content)
        with pytest.raises(InputError, match=message):
            store.load(tmp_path)
    (tmp_path / store.JSON).write_text('{"format": 1, "rows": [], "codecs": []}')
    with pytest.raises(InputError, match="lacks anchor, bd, command"):
        store.load(tmp_path)
    assert_one_line(call("--compare", tmp_path, tmp_path), InputError.exit_code, "lacks anchor")


# ---- the command


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli, ["bench", *map(str, arguments)])


def assert_one_line(result: Any, code: int, message: str) -> None:
    assert (result.exit_code, result.exception.__class__) == (code, SystemExit)
    assert message in result.stderr and "Traceback" not in result.stderr


def test_command_measures_models_and_codecs_and_draws(images, model_file, photo, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(run_module, "draw", REAL_DRAW)
    PIL.Image.fromarray(photo[100:276, 200:376]).save(images / "a.png")
    out = images.parent / "out"
    result = call(images, "-o", out, "--models", model_file, "-q", "1,8", "--codecs", "jpeg-444,bpg", "--threads", 1,
                  "--device", "cpu", "--metrics", "psnr,ms-ssim", "--no-speed")
    assert result.exit_code == 0, result.output
    assert "missing: BPG" in result.stdout and "tiny-mbt2018-mean" in result.stdout
    results = store.load(out)
    assert results["metrics"] == ["psnr", "ms_ssim", "ms_ssim_db"] and results["anchor"] == "jpeg-444"
    assert len(results["rows"]) == N_IMAGES * (2 + 8)
    svg = (out / "rd.svg").read_text()
    assert ">JPEG 4:4:4</text>" in svg and ">tiny-mbt2018-mean" in svg  # as text, not as outlines of letters
    run_module.draw(store.Store(out, results), run_module.Listener(), 0)
    assert (out / "rd.svg").read_text() == svg
    assert PIL.Image.open(out / "rd.png").width > 500
    own = next(e for e in results["codecs"] if e["kind"] == "lcodec")
    picture = decoded(out, own["name"], 8.0, "b.png")
    row = next(r for r in results["rows"] if (r["codec"], r["quality"], r["image"]) == (own["name"], 8.0, "b.png"))
    assert psnr(np.asarray(PIL.Image.open(images / "b.png")), picture) == pytest.approx(row["psnr"], abs=0.01)


def test_speed_is_measured_warm_and_cold(images):
    results = run(settings(images, find_codecs(["jpeg-444"], [], 1), speed=True))
    (entry,) = results["speed"]
    assert entry["codec"] == "jpeg-444" and entry["pixels"] == 24 * 32 and entry["threads"] == 1
    assert 0 < entry["warm_encode_s"] < entry["cold_encode_s"] and 0 < entry["warm_decode_s"] < entry["cold_decode_s"]
    assert entry["mp_s_encode"] == pytest.approx(24 * 32 / 1e6 / entry["warm_encode_s"], rel=0.02)
    assert 5 < entry["peak_mib"] < 300
    again = run(settings(images, find_codecs(["jpeg-444"], [], 1), speed=True))
    assert again["speed"] == [entry]


def test_processes_of_a_model_of_one_rate_are_timed(images, tmp_path, photo):
    path = tmp_path / "one.safetensors"
    network = random_network("mbt2018-mean", qualities=(0.0,))
    weights.save(finalize_network(network, {}, [photo[:128, :128]]).model, path)
    said: list[str] = []
    (coder,) = model_coders([path], None, "cpu", 1)
    pixels = np.asarray(PIL.Image.open(images / "a.png"))
    entry = speed.measure(coder, 0.0, images / "a.png", pixels, 1, "cpu", said.append)
    assert said == [] and entry["cold_encode_s"] > 0 and entry["cold_decode_s"] > 0 and entry["peak_mib"] > 5
    path.unlink()
    entry = speed.measure(coder, 0.0, images / "a.png", pixels, 1, "cpu", said.append)
    assert entry["cold_encode_s"] is None and len(said) == 1 and "could not be timed as a process" in said[0]


def test_processes_are_timed_at_the_quality_that_was_asked_for(images, model_file, monkeypatch):
    commands: list[list[str]] = []

    def whole_process(command, model=""):
        commands.append(list(command))
        return 1.0, 2.0

    monkeypatch.setattr(speed, "whole_process", whole_process)
    (coder,) = model_coders([model_file], (7.0,), "cpu", 1)
    assert speed.cold(coder, 7.0, images / "a.png", 1, "cpu") == (1.0, 1.0, 2.0)
    assert commands[0][-2:] == ["-q", "7.0"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{images}", "--models", "none", "--codecs", "none"], 2, "nothing to measure"),
        (["{images}", "--models", "none", "--codecs", "jpegs"], 2, "no codec jpegs"),
        (["{images}", "--models", "none", "--metrics", "vmaf"], 2, "no metric vmaf"),
        (["{images}", "--models", "none", "--anchor", "bpg"], 2, "the anchor bpg is not among"),
        (["{images}", "--models", "nothing"], 5, "no model nothing"),
        (["{images}", "--models", "{model}", "-q", "9"], 2, "qualities 1 to 8, not 9"),
        (["{images}", "-q", "4-1"], 2, "-q takes numbers"),
        (["{images}", "--models", "none", "--published", "none.json"], 3, "cannot read none.json"),
        (["{images}/nowhere", "--models", "none"], 3, "no folder"),
        ([], 2, "one folder of images"),
        (["--compare", "{images}"], 2, "takes two results"),
        (["--compare", "{images}", "{images}"], 3, "cannot read"),
    ],
)
def test_bad_options_end_in_one_line_and_write_nothing(images, model_file, arguments, code, message):
    filled = [a.format(images=images, model=model_file) for a in arguments]
    result = call(*filled, *(["-o", images.parent / "out"] if filled[:1] == [str(images)] else []))
    assert_one_line(result, code, message)
    assert not (images.parent / "out").exists()


def test_without_scipy_nothing_is_measured(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    out = images.parent / "out"
    result = call(images, "-o", out, "--models", "none", "--codecs", "webp", "--metrics", "psnr", "--no-speed")
    assert_one_line(result, UsageError.exit_code, "scipy is not installed")
    assert "pip install scipy" in result.stderr and not out.exists()
    assert_one_line(call("--compare", images, images), UsageError.exit_code, "scipy is not installed")


def test_exit_code_tells_of_skipped_images_and_of_failed_rows(images, monkeypatch):
    (images / "broken.png").write_bytes(b"x")
    options = ["--models", "none", "--codecs", "webp", "--metrics", "psnr", "--no-speed", "--device", "cpu"]
    assert call(images, "-o", images.parent / "out", *options).exit_code == InputError.exit_code
    (images / "broken.png").unlink()
    PIL.Image.new("RGB", (17000, 1)).save(images / "wide.png")  # more than WebP can
    result = call(images, "-o", images.parent / "out2", *options)
    assert result.exit_code == 1 and "wide.png" in result.stdout


def test_compare_ends_with_an_error_beyond_the_threshold(images):
    for name, coder in (("one", steps()), ("two", steps())):
        run(settings(images, [coder], out=images.parent / name))
    a, b = images.parent / "one", images.parent / "two" / store.JSON
    result = call("--compare", a, b)
    assert result.exit_code == 0 and "steps: the same, 9 rows" in result.stdout
    content = json.loads(b.read_text())
    for row in content["rows"]:
        row["bpp"] *= 1.1
        row["bytes"] += 1
    b.write_text(json.dumps(content))
    result = call("--compare", a, b)
    assert result.exit_code == 1 and "+10.00 % of bits" in result.stderr
    assert call("--compare", a, b, "--threshold", "11").exit_code == 0


def test_lists_of_options():
    assert read_qualities("1-3, 2.5,8") == (1.0, 2.0, 2.5, 3.0, 8.0)
    for text in ("", "a", "3-1", "-1", "20", "1-"):
        with pytest.raises(UsageError):
            read_qualities(text)
    assert choose_metrics(["psnr_yuv", "psnr"]) == ["psnr", "psnr_yuv"]
    assert split_published("a/b.json:x,y") == (Path("a/b.json"), ["x", "y"])
    assert split_published("a/b.json") == (Path("a/b.json"), [])
