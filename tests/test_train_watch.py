"""What a run shows of itself, what it does ahead, and what a full disk can not do to it."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

from lcodec import checkpoint
from lcodec.cli.train import Progress, duration, step_line, valid_line
from lcodec.errors import InputError, LcodecError, ModelError, OutputError
from lcodec.finalize import integer_rates
from lcodec.train.batches import Batches, make_batch
from lcodec.train.data import Photographs
from lcodec.train.loop import Options, Trainer
from lcodec.train.parallel import Ranks
from lcodec.train.pictures import curve_svg, history, jpeg_curve, strip
from lcodec.train.timing import PARTS, Stopwatch
from lcodec.train.validate import add_integer_rates, validate, validation_loss

from .conftest import random_network

SMALL = {"architecture": "mbt2018-mean", "N": 8, "M": 8, "batch": 2, "crop": 64, "amp": False}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("photos")
    PIL.Image.fromarray(photo[:150, :200]).save(folder / "a.png")
    PIL.Image.fromarray(photo[200:330, 300:420]).save(folder / "b.png")
    return folder


@pytest.fixture(scope="module")
def data(folder):
    return Photographs(folder)


# ---- batches made ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batch_of_a_step_is_the_same_whoever_makes_it(workers, folder):
    few = Photographs(folder, limit_bytes=0)  # decoded by the threads
    options = Options(steps=9, **SMALL)
    batches = Batches(few, options, Ranks(), workers)
    for step in (5, 6, 7, 8):  # as after a restart at step 5
        made, expected = batches.get(step), make_batch(few, options, Ranks(), step)
        assert made.noise_seed == expected.noise_seed and made.levels == expected.levels
        assert torch.equal(made.x, expected.x)
    batches.close()


def test_next_batch_is_made_while_a_step_runs(data, monkeypatch):
    made = threading.Semaphore(0)
    seen: list[str] = []
    original = Photographs.crops

    def crops(self, *arguments):
        seen.append(threading.current_thread().name)
        made.release()
        return original(self, *arguments)

    monkeypatch.setattr(Photographs, "crops", crops)
    batches = Batches(data, Options(steps=9, **SMALL), Ranks(), 1)
    batches.get(0)
    for _ in range(3):  # the one that was asked for and two more
        assert made.acquire(timeout=30)
    batches.close()
    assert all(name.startswith("lcodec-data") for name in seen)


def test_image_that_vanishes_ends_the_run_with_its_name_and_a_checkpoint(photo, tmp_path):
    PIL.Image.fromarray(photo[:80, :80]).save(tmp_path / "gone.png")
    data = Photographs(tmp_path / "gone.png", limit_bytes=0)
    trainer = Trainer(Options(steps=9, **SMALL), data, None, tmp_path / "run", workers=1)
    step = trainer.train_step

    def then_gone() -> dict[str, float]:
        row = step()
        (tmp_path / "gone.png").unlink(missing_ok=True)
        return row

    trainer.train_step = then_gone
    with pytest.raises(LcodecError, match="gone.png"):
        trainer.run()
    assert checkpoint.load(trainer.path)["step"] >= 1


def test_shares_of_time_are_those_of_the_parts():
    watch = Stopwatch("cpu")
    watch.start(0)
    time.sleep(0.02)
    watch.lap("data")
    watch.lap("forward")
    time.sleep(0.06)
    watch.lap("backward")
    shares = watch.shares()
    assert set(shares) == set(PARTS) and sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert shares["backward"] > shares["data"] > shares["forward"] and shares["optimizer"] == 0
    assert watch.shares() == {}


# ---- validation


@pytest.mark.parametrize("architecture", ["bmshj2018-factorized", "mbt2018-mean", "mbt2018"])
def test_integer_rate_of_a_validation_is_that_of_the_real_coder(architecture, data):
    network = random_network(architecture)
    rows = [{"quality": 1.0}, {"quality": 8.0}]
    assert add_integer_rates(rows, network, data) == ""
    rates = integer_rates(network, [data[0], data[1]], [1.0, 8.0])
    for row, rate in zip(rows, rates, strict=True):
        assert row["integer_percent"] == pytest.approx(rate.excess_percent)
        assert rate.integer_bits > 1000 and rate.pixels == 150 * 200 + 130 * 120


def test_network_that_cannot_be_finalized_is_told_and_training_goes_on(data, tmp_path, monkeypatch):
    network = random_network("mbt2018-mean")
    with torch.no_grad():
        network.h_s[0].weight[:] = float("nan")
    rows = [{"quality": 1.0}]
    assert "not finite" in add_integer_rates(rows, network, data)
    assert rows == [{"quality": 1.0}]

    def refuse(*arguments, **named):
        raise ModelError("sums that cannot be proven safe")

    monkeypatch.setattr("lcodec.train.validate.integer_rates", refuse)
    told: list[dict] = []
    trainer = Trainer(Options(steps=3, **SMALL), data, data, tmp_path, report=told.append)
    trainer.run(valid_steps=1)
    assert [r["integer_error"] for r in told if "valid" in r] == ["sums that cannot be proven safe"] * 3
    assert checkpoint.load(trainer.path)["step"] == 3


def test_validation_weighs_qualities_as_training_does(folder):
    options = Options(steps=1, **{**SMALL, "qualities": (1.0, 8.0)})
    rows = validate(random_network("mbt2018-mean"), Photographs(folder, limit_images=1), (1.0, 8.0), options)
    for row in rows:
        mse = 255**2 * 10 ** (-row["psnr"] / 10)
        assert row["loss"] == pytest.approx(row["bpp"] + options.lambda_of(row["quality"]) * mse)
    alone = validation_loss(rows[:1], options) * 1, validation_loss(rows[1:], options)
    assert validation_loss(rows, options) == pytest.approx(sum(alone) / 2)
    assert alone[1] / rows[1]["loss"] == pytest.approx((0.18 / 0.013) ** -0.4)


def test_signal_breaks_a_validation_off_and_the_step_before_it_is_saved(data, tmp_path, monkeypatch):
    options = Options(steps=9, **{**SMALL, "qualities": (1.0, 8.0)})
    rows: list[dict] = []
    trainer = Trainer(options, data, data, tmp_path, report=rows.append)

    def slow(network, images, qualities, options, stopped):
        assert checkpoint.load(trainer.path)["step"] == 2
        signal.raise_signal(signal.SIGTERM)
        return validate(network, images, qualities, options, stopped)

    monkeypatch.setattr("lcodec.train.loop.validate", slow)
    trainer.run(valid_steps=2)
    assert trainer.stopped and trainer.step == 2
    assert not [r for r in rows if "valid" in r]


def test_step_that_is_skipped_leaves_no_trace_in_the_means(data, tmp_path):
    rows: list[dict] = []
    trainer = Trainer(Options(steps=6, **SMALL), data, None, tmp_path, report=rows.append)
    objective = trainer.objective

    def broken_once(*arguments):
        losses = objective(*arguments)
        return losses._replace(loss=losses.loss * float("nan")) if trainer.step == 1 else losses

    trainer.objective = broken_once
    trainer.run(log_steps=1)
    means = [r for r in rows if "loss" in r]
    assert len(means) == 6 and all(np.isfinite(r["loss"]) and np.isfinite(r["grad_norm"]) for r in means)
    assert means[-1]["skipped"] == 1


def test_validation_that_is_not_finite_is_logged_and_costs_its_curve_alone(data, tmp_path):
    trainer = Trainer(Options(steps=9, **{**SMALL, "qualities": (1.0, 8.0)}), data, data, tmp_path)
    trainer.validate()
    good = {name: weight.clone() for name, weight in trainer.ema.items()}
    trainer.ema["g_s.0.weight"].mul_(float("nan"))
    trainer.validate()
    for name, weight in good.items():
        trainer.ema[name].copy_(weight)
    trainer.step = 3
    trainer.validate()
    logged = [json.loads(line, parse_constant=pytest.fail) for line in trainer.journal.path.read_text().splitlines()]
    valid = [r for r in logged if "valid" in r]
    assert [r["valid_loss"] is None for r in valid] == [False, True, False]
    assert [step for step, _ in history(trainer.journal.path, "mse")] == [0, 3]


def test_validation_goes_on_without_an_image_that_vanishes(photo, data, tmp_path):
    for name in ("a", "b", "c"):
        PIL.Image.fromarray(photo[:96, :80]).save(tmp_path / f"{name}.png")
    messages: list[str] = []
    valid = Photographs(tmp_path, 0, messages.append)
    rows: list[dict] = []
    trainer = Trainer(Options(steps=4, **SMALL), data, valid, tmp_path / "run", report=rows.append)
    trainer.validate()
    (tmp_path / "a.png").unlink()
    trainer.validate()
    first, second = (r["valid"][0] for r in rows if "valid" in r)
    assert second == pytest.approx(first)  # the means of equal images
    assert len(messages) == 1 and "a.png" in messages[0] and messages[0].endswith("it is left out")
    for name in ("b", "c"):
        (tmp_path / f"{name}.png").unlink()
    with pytest.raises(InputError, match="none of the images can be read any more"):
        trainer.validate()
    PIL.Image.fromarray(photo[:96, :80]).save(tmp_path / "b.png")
    assert len(list(valid.readable(1))) == 1  # the only one, wherever it stands


def test_tensorboard_that_cannot_write_is_told_once_and_left_alone(data, tmp_path):
    class Board:
        def add_scalar(self, *_):
            raise OSError(28, "No space left on device")

        add_image = close = add_scalar

    rows: list[dict] = []
    trainer = Trainer(Options(steps=3, **SMALL), data, None, tmp_path, report=rows.append)
    trainer.journal._board = Board()
    trainer.run(log_steps=1)
    assert [r["warning"] for r in rows if "warning" in r] == ["TensorBoard gets no more: no space left on device"]
    assert len([r for r in rows if "loss" in r]) == 3


def test_run_leaves_a_log_a_curve_and_a_strip(data, tmp_path):
    rows: list[dict] = []
    options = Options(steps=4, **{**SMALL, "qualities": (1.0, 4.0, 8.0)})
    Trainer(options, data, data, tmp_path, report=rows.append).run(log_steps=2, valid_steps=2)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in logged if "valid" in r] == [2, 4]
    step = next(r for r in logged if "loss" in r)
    assert sum(step["time"].values()) == pytest.approx(1, abs=1e-3) and step["images_per_s"] > 0
    assert [{k: v for k, v in r.items() if k not in ("step", "hours")} for r in logged] == rows

    svg = ET.parse(tmp_path / "curve.svg").getroot()
    titles = [t.text for t in svg.iter(f"{SVG}title")]
    assert titles == ["JPEG 4:4:4", "step 2", "step 4"]
    assert len(svg.findall(f"{SVG}g")[-1].findall(f"{SVG}circle")) == 3
    with PIL.Image.open(tmp_path / "strip.webp") as image:
        assert image.size == (4 * 256, 2 * 256)


def test_strip_begins_with_the_original_and_gets_closer_to_it(data):
    options = Options(steps=1, **{**SMALL, "qualities": (1.0, 8.0)})
    network = random_network("mbt2018-mean")
    with torch.no_grad():  # a codec for once: the network answers with its input, coarser at quality 1
        network.forward = lambda x, quality, mode: _Answer(x, 4 / quality)
    pixels = strip(network, data, options)
    tiles = [pixels[20:140, 256 * i + 1 : 256 * i + 190].astype(int) for i in range(3)]
    assert np.array_equal(tiles[0], data[0][20:140, 1:190])
    errors = [np.abs(t - tiles[0]).mean() for t in tiles[1:]]
    assert errors[0] > errors[1]


class _Answer:
    def __init__(self, x: torch.Tensor, step: float) -> None:
        self.x_hat = torch.round(x * 64 / step) * step / 64

    def bits(self) -> torch.Tensor:
        return torch.ones(1)


def test_curve_of_a_cut_log_is_that_of_its_whole_lines(tmp_path):
    log = tmp_path / "log.jsonl"
    row = {"step": 7, "valid": [{"quality": 1.0, "bpp": 0.2, "psnr": 30.0}]}
    log.write_text("\n".join([json.dumps(row), '{"step": 8, "loss": 1}', json.dumps({**row, "step": 9})[:-5]]))
    assert history(log, "mse") == [(7, [(0.2, 30.0)])]
    ET.fromstring(curve_svg([], [(0.5, 30.0)], "mse"))
    ET.fromstring(curve_svg(history(log, "mse"), [], "mse"))


def test_jpeg_on_the_curve_needs_more_bits_for_more_quality(data):
    curve = jpeg_curve(data, "mse")
    assert curve == sorted(curve) and [p[1] for p in curve] == sorted(p[1] for p in curve)
    assert curve[0][1] > 20 and curve[-1][1] < 60


def test_tensorboard_gets_scalars_and_pictures(data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Trainer(Options(steps=2, **{**SMALL, "qualities": (4.0,)}), data, data, tmp_path).run(log_steps=1)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/bpp", "time/backward", "valid psnr/q 4"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2]
    assert events.Tags()["images"] == ["reconstructions"]


def test_lines_say_what_the_rows_hold():
    row = {"loss": 1.5, "bpp": 0.4, "psnr": 31.2, "images_per_s": 17.31, "left_s": 7380}
    row |= {"time": {"data": 0.01, "backward": 0.99}, "skipped": 2}
    line = step_line(row)
    for part in ("loss 1.500", "0.400 bpp", "31.20 dB", "17.3 images/s", "2:03 h left", "backward 99%"):
        assert part in line
    assert "2 steps skipped" in line and duration(95) == "2 min"
    measured = {"quality": 1.0, "bpp": 0.25, "psnr": 30.0, "integer_percent": 0.13}
    assert "q1 0.250/30.00 +0.13%" in valid_line({"valid": [measured]})
    assert "cannot be finalized" in valid_line({"valid": [measured], "integer_error": "sums"})


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_on_a_terminal_moves_with_every_step(monkeypatch):
    """Rows come every fifty steps; validations stay above the bar."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    trainer = SimpleNamespace(step=49, progress=lambda: trainer.step / 100)
    progress = Progress(as_json=False)
    progress.trainer = trainer
    row = {"loss": 1.5, "bpp": 0.4, "psnr": 31.2, "images_per_s": 17.31, "left_s": 7380, "time": {"data": 1.0}}
    with progress:
        progress.step()
        assert progress.bar.tasks[0].description.startswith("step 49")
        trainer.step = 50
        progress.show(row)
        trainer.step = 51
        progress.step()
        progress.show({"valid": [{"quality": 1.0, "bpp": 0.25, "psnr": 30.0}]})
        progress.bar.refresh()
        task = progress.bar.tasks[0]
        assert task.completed == 0.51 and task.description.startswith("step 51  loss 1.500")
    written = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())  # colours, and back to the line's begin
    assert "step 51" in written and "2:03 h left" in written and "valid:  q1 0.250/30.00" in written


def test_there_is_no_bar_where_nobody_looks(monkeypatch, capsys):
    progress = Progress(as_json=False)
    progress.trainer = SimpleNamespace(step=7, progress=lambda: 0.5)
    with progress:
        progress.step()
        progress.show({"loss": 1.5, "bpp": 0.4, "images_per_s": 17.31, "left_s": 95, "time": {}})
    assert progress.bar is None
    assert capsys.readouterr().out.startswith("step 7  loss 1.500  0.400 bpp")


# ---- a full disk


def test_disk_that_is_full_in_between_costs_nothing_but_the_checkpoint(data, tmp_path, monkeypatch):
    """The write fails twice, the run goes on, and the next checkpoint is whole."""
    failures = iter([True, True])
    save = checkpoint.save

    def full(path, state):
        if next(failures, False):
            raise OutputError(f"cannot write checkpoint {path}: no space left on device")
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", full)
    rows: list[dict] = []
    trainer = Trainer(Options(steps=4, **SMALL), data, None, tmp_path, report=rows.append)
    trainer.run(save_minutes=0)
    assert checkpoint.load(trainer.path)["step"] == 4
    assert ["no space left" in r.get("warning", "") for r in rows].count(True) == 2


def test_write_that_hits_a_real_limit_keeps_the_good_checkpoint(folder, tmp_path):
    """The system cuts the file off in the middle, as a full disk does."""
    pytest.importorskip("resource")
    code = f"""
import resource, signal, sys
from pathlib import Path
from lcodec.errors import OutputError
from lcodec.train.data import Photographs
from lcodec.train.loop import Options, Trainer

trainer = Trainer(Options(steps=9, **{SMALL!r}), Photographs(Path({str(folder)!r})), None, Path(sys.argv[1]))
trainer.train_step()
trainer.save()
trainer.train_step()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (trainer.path.stat().st_size // 2,) * 2)
try:
    trainer.save()
except OutputError as e:
    sys.exit(str(e))
"""
    run = [sys.executable, "-c", code, str(tmp_path / "run")]
    result = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1 and "cannot write" in result.stderr, result.stderr
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")["step"] == 1
    assert {p.name for p in (tmp_path / "run").iterdir()} - {"tensorboard"} == {"checkpoint.pt", ".lock"}


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path):
    trainer = Trainer(Options(steps=9, **SMALL), data, None, tmp_path)
    trainer.save()
    before = trainer.path.read_bytes()
    with torch.no_grad():
        trainer.parameters[0][:] = float("inf")
    with pytest.raises(LcodecError, match="not finite"):
        trainer.save()
    assert trainer.path.read_bytes() == before


def test_log_that_cannot_be_written_is_told_once(data, tmp_path):
    rows: list[dict] = []
    trainer = Trainer(Options(steps=4, **SMALL), data, None, tmp_path, report=rows.append)
    (tmp_path / "log.jsonl").mkdir()
    trainer.run(log_steps=1)
    assert [list(r) for r in rows].count(["warning"]) == 1
    assert len([r for r in rows if "loss" in r]) == 4 and Path(trainer.path).is_file()


def test_line_that_was_cut_does_not_take_the_next_with_it(data, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 7, "valid": [{"qual')
    Trainer(Options(steps=1, **SMALL), data, None, tmp_path).run(log_steps=1)
    assert json.loads(log.read_text().splitlines()[-1])["step"] == 1


def test_output_that_takes_no_more_costs_lines_and_not_the_run(data, tmp_path):
    def full(row: dict) -> None:
        raise OSError(28, "No space left on device")

    trainer = Trainer(Options(steps=3, **SMALL), data, None, tmp_path, report=full)
    trainer.run(log_steps=1)
    assert checkpoint.load(trainer.path)["step"] == 3
    assert "no space left on device" in str(trainer.journal.lost)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_error_after_a_skipped_step_does_not_cost_the_work(data, tmp_path):
    trainer = Trainer(Options(steps=9, **SMALL), data, None, tmp_path)
    step = trainer.train_step

    def fails() -> dict[str, float]:
        if trainer.step == 3:
            raise LcodecError("no more")
        row = step()
        trainer.bad_steps = int(trainer.step == 3)
        return row

    trainer.train_step = fails
    with pytest.raises(LcodecError, match="no more"):
        trainer.run()
    assert checkpoint.load(trainer.path)["step"] == 3


def test_tensorboard_that_does_not_start_is_told(data, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "tensorboard" or find_spec(name))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # cannot be imported
    rows: list[dict] = []
    Trainer(Options(steps=1, **SMALL), data, None, tmp_path, report=rows.append)
    assert len(rows) == 1 and rows[0]["warning"].startswith("TensorBoard gets nothing: ")
