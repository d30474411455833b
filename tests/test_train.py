"""The trainer: exact resume, safe checkpoints, a start that is already a transform codec."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from lcodec import checkpoint
from lcodec.errors import InputError, LcodecError, ModelError, OutputError, UsageError
from lcodec.image.pack import image_sources
from lcodec.nets.config import table_lambda
from lcodec.train import loop
from lcodec.train.data import Photographs, to_unit
from lcodec.train.initialize import linear_start
from lcodec.train.loop import Options, Trainer

PHOTO = Path(__file__).parent / "images" / "colosseum.webp"
SMALL = {"architecture": "mbt2018-mean", "N": 8, "M": 8, "batch": 2, "crop": 64, "qualities": (1.0, 4.0, 8.0)}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    photo = np.asarray(PIL.Image.open(PHOTO).convert("RGB"))
    (folder / "sub").mkdir()
    PIL.Image.fromarray(photo[:200, :300]).save(folder / "a.png")
    PIL.Image.fromarray(photo[100:150, 300:500]).save(folder / "sub" / "narrower-than-a-crop.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


@pytest.fixture(scope="module")
def data(folder):
    return Photographs(folder, warn=lambda message: None)


def test_unreadable_images_are_named_counted_and_skipped(folder, tmp_path):
    messages: list[str] = []
    data = Photographs(folder, warn=messages.append)
    assert len(data) == 2 and data.skipped == 1
    assert "broken.png" in messages[0] and messages[1:] == ["1 of 3 images skipped"]
    with pytest.raises(InputError, match="no readable image"):
        Photographs(tmp_path)


def test_crops_are_parts_of_the_images(data):
    crops = data.crops(np.random.default_rng(0), 20, 64)
    assert crops.shape == (20, 3, 64, 64) and crops.dtype == torch.uint8
    colours = {tuple(c) for i in range(len(data)) for c in data[i].reshape(-1, 3)}
    assert {tuple(c) for c in crops.permute(0, 2, 3, 1).reshape(-1, 3).numpy()} <= colours
    unit = to_unit(crops)
    assert torch.equal(unit, crops.float() / 255) and unit.is_contiguous(memory_format=torch.channels_last)


def test_every_turn_and_flip_of_a_crop_occurs(photo, tmp_path):
    """Of an image of one crop's size, of which nothing else can differ."""
    PIL.Image.fromarray(photo[:64, :64]).save(tmp_path / "one.png")
    crops = Photographs(tmp_path / "one.png").crops(np.random.default_rng(0), 200, 64).permute(0, 2, 3, 1).numpy()
    ways = [np.rot90(side, turns) for side in (photo[:64, :64], photo[:64, :64][:, ::-1]) for turns in range(4)]
    found = [[np.array_equal(crop, way) for way in ways] for crop in crops]
    assert all(sum(row) == 1 for row in found) and min(np.sum(found, 0)) > 10


def test_resumed_run_equals_an_uninterrupted_one(data, tmp_path):
    options = Options(steps=6, **SMALL)
    whole = Trainer(options, data, None, tmp_path / "whole")
    whole.run()
    part = Trainer(options, data, None, tmp_path / "part")
    for _ in range(3):
        part.train_step()
    part.save()
    part.train_step()  # work after the checkpoint is lost, as with kill -9
    resumed = Trainer(options, data, None, tmp_path / "part", resume=True)
    assert resumed.step == 3
    resumed.run()
    a, b = (checkpoint.load(t.path) for t in (whole, resumed))
    for part_name in ("network", "ema"):
        for key, value in a[part_name].items():
            assert torch.equal(value, b[part_name][key]), key


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_stops(sent, folder, tmp_path):
    command = [sys.executable, "-m", "lcodec", "train", "--model", "mbt2018-mean", "--data", str(folder)]
    command += ["--out", str(tmp_path), "-N", "8", "-M", "8", "--crop", "64", "--batch", "1", "--steps", "1000000"]
    command += ["--threads", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        row = json.loads(process.stdout.readline())
        process.send_signal(sent)
        process.communicate(timeout=60)
    assert process.returncode == 0
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["step"] >= row["step"] > 0


def test_started_run_is_not_overwritten(data, tmp_path):
    options = Options(steps=1, **SMALL)
    Trainer(options, data, None, tmp_path).save()
    with pytest.raises(UsageError, match="exists"):
        Trainer(options, data, None, tmp_path)
    with pytest.raises(UsageError, match="another network"):
        Trainer(Options(steps=1, **{**SMALL, "N": 9}), data, None, tmp_path, resume=True)


def test_failed_write_keeps_the_previous_checkpoint(data, tmp_path, monkeypatch):
    trainer = Trainer(Options(steps=1, **SMALL), data, None, tmp_path)
    trainer.save()
    before = trainer.path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="no space left"):
        trainer.save()
    assert trainer.path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} - {"tensorboard"} == {trainer.path.name, ".lock"}


def test_steps_that_are_not_finite_change_nothing_and_end_the_run(data, tmp_path, monkeypatch):
    trainer = Trainer(Options(steps=100, **SMALL), data, None, tmp_path)
    trainer.save()
    file = trainer.path.read_bytes()
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    monkeypatch.setattr(loop, "MAX_BAD_STEPS", 3)
    monkeypatch.setattr(trainer.data.__class__, "crops", lambda *a: torch.full((2, 3, 64, 64), float("nan")))
    with pytest.raises(LcodecError, match="not finite"):
        trainer.run()
    assert trainer.bad_steps == 3
    assert trainer.path.read_bytes() == file  # weights that nothing good comes of are no checkpoint to go on from
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(value, before[key])


def test_linear_start_is_already_a_codec(data):
    """With all coefficients kept, the start is an orthonormal transform: little is lost in g_s(g_a(x))."""
    torch.manual_seed(0)
    network = loop.Network(loop.NetConfig("mbt2018-mean", 48, 192, (1.0, 8.0)))
    x = to_unit(data.crops(np.random.default_rng(1), 8, 64))
    linear_start(network, x)
    with torch.no_grad():
        mse = (network.g_s(network.g_a(x)) - x).square().mean()
    assert -10 * torch.log10(mse) > 25
    gain = network.gain(torch.tensor([1.0, 8.0])).detach()
    assert torch.allclose(gain[1] / gain[0], torch.tensor((table_lambda(8) / table_lambda(1)) ** 0.5))


@pytest.mark.parametrize(
    "rate",
    [
        {"qualities": (8.0,)},
        {"qualities": (0.0,), "lmbda": table_lambda(8)},
        {"qualities": (0.0,), "lmbda": table_lambda(8, "ms-ssim"), "metric": "ms-ssim", "crop": 192},
    ],
)
def test_network_of_one_rate_begins_with_the_step_of_its_lambda(rate, data, tmp_path):
    if rate.get("metric") == "ms-ssim":
        pytest.importorskip("pytorch_msssim")
    variable = Trainer(Options(steps=1, **{**SMALL, "qualities": (1.0, 8.0)}), data, None, tmp_path / "all").network
    network = Trainer(Options(steps=1, **{**SMALL, **rate}), data, None, tmp_path / "one").network
    assert torch.allclose(network.log_gain[0], variable.log_gain[1], atol=1e-5)
    assert torch.allclose(network.log_inverse_gain[0], variable.log_inverse_gain[1], atol=1e-5)
    assert float(network.log_gain[0, 0].exp()) > 20  # without it nearly all latents would be zero


def test_init_takes_fitting_layers_of_another_network(data, tmp_path):
    first = Trainer(Options(steps=1, warmup=1, **SMALL), data, None, tmp_path / "a")
    first.train_step()  # without it and with the same seed, the start alone would make them equal
    first.save()
    options = Options(steps=1, seed=2, **{**SMALL, "architecture": "mbt2018"})
    without = Trainer(options, data, None, tmp_path / "c")
    second = Trainer(options, data, None, tmp_path / "b", init=first.path)
    for key in ("g_a.0.weight", "g_s.6.weight", "log_gain"):
        assert not torch.equal(without.network.state_dict()[key], first.ema[key])
        assert torch.equal(second.network.state_dict()[key], first.ema[key])


def test_foreign_file_is_no_checkpoint(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match="cannot read"):
        checkpoint.load(path)
    with pytest.raises(ModelError, match="no checkpoint"):
        checkpoint.load(tmp_path / "absent.pt")


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="steps or hours"):
        Options()
    with pytest.raises(UsageError, match="multiple of 64"):
        Options(steps=1, crop=100)
    with pytest.raises(UsageError, match="at least one crop"):
        Options(steps=1, batch=0)
    with pytest.raises(UsageError, match="negative"):
        Options(steps=1, seed=-1)
    for change in ({"lr": float("nan")}, {"lr": 0.0}, {"clip": 0.0}, {"ema": 1.0}):
        with pytest.raises(UsageError, match="makes no sense"):
            Options(steps=1, **change)


def test_resuming_with_other_frozen_parameters_is_refused(data, tmp_path):
    Trainer(Options(steps=2, **SMALL), data, None, tmp_path).save()
    with pytest.raises(UsageError, match="other parameters"):
        Trainer(Options(steps=2, freeze=("g_*",), **SMALL), data, None, tmp_path, resume=True)


@pytest.mark.parametrize("age", ["now", "before"])
def test_resuming_with_as_many_other_frozen_parameters_is_refused(data, tmp_path, age):
    """Their state would be read beyond its end."""
    Trainer(Options(steps=2, freeze=("g_a.0.*",), **SMALL), data, None, tmp_path).save()
    if age == "before":  # checkpoints did not say what they train
        state = checkpoint.load(tmp_path / "checkpoint.pt")
        torch.save({k: v for k, v in state.items() if k != "trained"}, tmp_path / "checkpoint.pt")
    with pytest.raises(UsageError, match="other parameters"):
        Trainer(Options(steps=2, freeze=("g_a.2.*",), **SMALL), data, None, tmp_path, resume=True)
    Trainer(Options(steps=2, freeze=("g_a.0.*",), **SMALL), data, None, tmp_path, resume=True)


def test_model_without_a_fitting_layer_is_no_beginning(data, tmp_path):
    other = Trainer(Options(steps=1, **{**SMALL, "architecture": "lc-s"}), data, None, tmp_path / "other")
    other.save()
    with pytest.raises(ModelError, match="has no layer that fits mbt2018-mean"):
        Trainer(Options(steps=1, **SMALL), data, None, tmp_path / "new", init=other.path)
    assert not (tmp_path / "new" / "checkpoint.pt").exists()


def test_changed_settings_and_images_are_told_when_a_run_goes_on(data, folder, tmp_path):
    rows: list[dict] = []
    Trainer(Options(steps=2, **SMALL), data, None, tmp_path).save()
    options = Options(steps=4, lr=1e-4, **{**SMALL, "crop": 128})
    Trainer(options, data, None, tmp_path, resume=True, report=rows.append)
    assert [r["warning"] for r in rows] == ["other settings than before: crop 128 (was 64), lr 0.0001 (was 0.0004)"]
    rows.clear()
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    del state["options"]["likelihood"]  # as of a run from before there was a choice
    checkpoint.save(tmp_path / "checkpoint.pt", state)
    mixture = Options(steps=4, likelihood="mixture", **SMALL)
    Trainer(mixture, data, None, tmp_path, resume=True, report=rows.append)
    assert [r["warning"] for r in rows] == ["other settings than before: likelihood mixture (was gaussian)"]
    rows.clear()
    fewer = Photographs(folder / "a.png")
    Trainer(Options(steps=4, **SMALL), fewer, None, tmp_path, resume=True, report=rows.append)
    assert len(rows) == 1 and "other images than before" in rows[0]["warning"]
    rows.clear()
    Trainer(Options(steps=4, **SMALL), data, None, tmp_path, resume=True, report=rows.append)
    assert rows == []


def test_pictures_of_a_run_are_no_photographs(folder, tmp_path):
    tree = tmp_path / "tree"
    (tree / "run").mkdir(parents=True)
    (tree / "a.png").write_bytes((folder / "a.png").read_bytes())
    for name in ("run/strip.webp", "strip.webp"):
        PIL.Image.new("RGB", (70, 70)).save(tree / name)
    (tree / "run" / "log.jsonl").touch()
    assert [source.name for source in Photographs(tree).sources] == ["a.png", "strip.webp"]
    assert [source.name for source in image_sources(tree)] == ["a.png", "strip.webp"]


def test_image_that_is_read_again_must_be_the_same(folder, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes((folder / "a.png").read_bytes())
    data = Photographs(path, limit_bytes=0)
    assert data.cached_bytes == 0 and data[0].shape == (200, 300, 3)
    PIL.Image.new("RGB", (70, 70)).save(path)
    with pytest.raises(InputError, match="changed its size"):
        data.crops(np.random.default_rng(0), 1, 64)


def test_image_that_becomes_unreadable_is_replaced_told_and_counted(photo, tmp_path):
    for i in range(3):
        PIL.Image.fromarray(photo[100 * i : 100 * i + 70 + 9 * i, :90]).save(tmp_path / f"{i}.png")
    messages: list[str] = []
    data = Photographs(tmp_path, limit_bytes=0, warn=messages.append)
    (tmp_path / "1.png").unlink()
    crops = data.crops(np.random.default_rng(0), 12, 64)
    assert crops.shape == (12, 3, 64, 64)
    assert data.lost == len(messages) == 1 and "1.png" in messages[0]
    for i in (0, 2):
        (tmp_path / f"{i}.png").unlink()
    with pytest.raises(InputError, match=r"\.png|unreadable"):
        data.crops(np.random.default_rng(0), 12, 64)


def test_memory_is_kept_for_what_fits_after_what_does_not(photo, tmp_path):
    PIL.Image.fromarray(photo).save(tmp_path / "a.png")
    PIL.Image.fromarray(photo[:64, :64]).save(tmp_path / "b.png")
    messages: list[str] = []
    assert Photographs(tmp_path, limit_bytes=20_000, warn=messages.append).cached_bytes == 64 * 64 * 3
    assert len(messages) == 1 and messages[0].startswith("1 of 2 images are decoded at each use")


@pytest.fixture(scope="module")
def many(tmp_path_factory, photo):
    """Five pictures, 400 x 600 to 200 x 300, then a panorama; 1.3 MB decoded."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(5):
        picture = photo[: 400 - 50 * i, : 600 - 75 * i]
        PIL.Image.fromarray(picture).save(folder / f"{i}.png")
    PIL.Image.fromarray(photo[:70]).save(folder / "panorama.png")
    return folder


@pytest.mark.parametrize("limit", [80_000, 150_000, 400_000, 1_000_000])
def test_parts_of_all_images_are_kept_where_wholes_do_not_fit(many, limit):
    messages: list[str] = []
    whole, data = Photographs(many), Photographs(many, limit, messages.append, least_side=64)
    parts = [data[i] for i in range(len(data))]
    assert data.shapes == whole.shapes  # what is drawn does not depend on what is kept
    assert 0.7 * limit < sum(part.nbytes for part in parts) == data.cached_bytes <= limit
    assert all(min(part.shape[:2]) >= 64 and part.base is None for part in parts)
    areas = [part.shape[0] * part.shape[1] for part in parts]
    assert max(areas[:5]) < 1.1 * min(areas[:5]) or max(areas) > min(h * w for h, w in data.shapes)
    for part, picture in zip(parts, (whole[i] for i in range(len(whole))), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], (1, 64))[:, :, 0]
        assert (windows == part[0, :64, 0]).all(-1).any()
    smaller = sum(part.shape != (*shape, 3) for part, shape in zip(parts, data.shapes, strict=True))
    assert smaller and len(messages) == 1
    assert re.match(rf"{smaller} of 6 images are kept in part, \d+% of all: no more fits", messages[0])


def test_what_does_not_fit_in_part_either_is_decoded_at_each_use(many):
    messages: list[str] = []
    data = Photographs(many, 40_000, messages.append, least_side=64)
    assert data.cached_bytes == 3 * 64 * 64 * 3 and [data[i].shape for i in (0, 2)] == [(64, 64, 3)] * 2
    assert data[5].shape == (70, 768, 3)
    assert [m.split(":")[0] for m in messages][1:] == ["3 of 6 images are decoded at each use"]
    assert data.crops(np.random.default_rng(0), 20, 64).shape == (20, 3, 64, 64)


def test_crops_come_from_all_of_what_is_kept(many):
    data = Photographs(many, 150_000, lambda message: None, least_side=64)
    parts = [data[i] for i in range(len(data))]
    for part in parts:
        part[:] = 1
        part[0], part[-1], part[:, 0], part[:, -1] = 0, 2, 3, 4
    edges = [int(v) for crop in data.crops(np.random.default_rng(0), 600, 64) for v in crop.unique()]
    assert {0, 1, 2, 3, 4} == set(edges)


def test_run_whose_steps_are_bad_every_other_time_ends_too(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MAX_BAD_STEPS", 4)
    trainer = Trainer(Options(steps=40, **SMALL), data, None, tmp_path)
    objective = trainer.objective

    def broken(*arguments):
        losses = objective(*arguments)
        return losses._replace(loss=losses.loss * float("nan")) if trainer.step % 2 else losses

    trainer.objective = broken
    with pytest.raises(LcodecError, match="5 of 10 steps had a loss that is not finite"):
        trainer.run()


def test_run_with_a_bad_step_now_and_then_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MAX_BAD_STEPS", 2)
    trainer = Trainer(Options(steps=16, **SMALL), data, None, tmp_path)
    objective = trainer.objective

    def broken(*arguments):
        losses = objective(*arguments)
        return losses._replace(loss=losses.loss * float("nan")) if trainer.step % 5 == 1 else losses

    trainer.objective = broken
    trainer.run()
    assert (trainer.step, trainer.skipped) == (16, 3)


def test_pattern_that_freezes_nothing_is_refused(data, tmp_path):
    with pytest.raises(UsageError, match="g_x"):
        Trainer(Options(steps=1, freeze=("g_x.*",), **SMALL), data, None, tmp_path)


def test_validation_is_logged_for_a_selection_of_qualities(data, tmp_path):
    trainer = Trainer(Options(steps=1, amp=False, **SMALL), data, data, tmp_path)
    trainer.run()
    rows = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["valid"]
    assert [row["quality"] for row in rows] == [1.0, 4.0, 8.0]
    assert rows[0]["bpp"] < rows[-1]["bpp"] and rows[0]["psnr"] < rows[-1]["psnr"]


def test_checkpoint_of_another_program_is_not_resumed(data, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match="no checkpoint of a run"):
        Trainer(Options(steps=1, **SMALL), data, None, tmp_path, resume=True)


def test_run_folder_that_cannot_be_made_is_an_output_error(data, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot make folder"):
        Trainer(Options(steps=1, **SMALL), data, None, tmp_path / "file" / "run")


def test_frozen_parameters_stay_and_the_rest_learns(data, tmp_path):
    trainer = Trainer(Options(steps=3, freeze=("g_*", "log_*"), **SMALL), data, None, tmp_path)
    assert trainer.rate_only
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    trainer.run()
    for name, value in trainer.network.state_dict().items():
        frozen = name.startswith(("g_", "log_")) or name.endswith("quantiles")
        assert torch.equal(value, before[name]) == frozen, name
    with pytest.raises(UsageError, match="everything is frozen"):
        Trainer(Options(steps=3, freeze=("*",), **SMALL), data, None, tmp_path / "b")


def test_error_in_the_middle_does_not_cost_the_work(data, tmp_path):
    def closed_pipe(row):
        raise BrokenPipeError

    trainer = Trainer(Options(steps=9, **SMALL), data, None, tmp_path, report=closed_pipe)
    with pytest.raises(BrokenPipeError):
        trainer.run(log_steps=4)
    assert checkpoint.load(trainer.path)["step"] == 4


def test_run_that_goes_on_with_other_parts_of_its_images_is_told(many, tmp_path):
    def trainer(limit: int, resume: bool, rows: list[dict]) -> Trainer:
        data = Photographs(many, limit, lambda message: None, least_side=64)
        return Trainer(Options(steps=2, **SMALL), data, None, tmp_path / "run", resume=resume, report=rows.append)

    trainer(150_000, False, []).save()
    for limit, count in ((150_000, 0), (400_000, 1)):
        rows: list[dict] = []
        trainer(limit, True, rows)
        assert sum("other parts of the images" in row.get("warning", "") for row in rows) == count
