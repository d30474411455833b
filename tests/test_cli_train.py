"""train and finalize on the command line: from photographs to decoded pictures, and what they refuse."""

from __future__ import annotations

import errno
import json
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

from lcodec import checkpoint, cli, weights
from lcodec.errors import OutputError
from lcodec.train.data import Photographs
from tests.test_cli_errors import assert_refused

SMALL = ["-N", "8", "-M", "8", "--crop", "64", "--batch", "1", "--amp", "off", "--threads", "1"]
TRAIN = ["train", "--model", "mbt2018-mean", "--data", "photos", "--out", "run", *SMALL]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments], prog_name="lcodec")


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch, photo):
    """An empty working directory but for a folder of photographs; one thread."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    PIL.Image.fromarray(photo[:150, :200]).save("photos/a.png")
    PIL.Image.fromarray(photo[200:300, 300:400]).save("photos/b.png")
    yield tmp_path
    torch.set_num_threads(threads)


def test_from_photographs_to_a_decoded_picture(work):
    trained = run("train", "--model", "mbt2018", "--data", "photos", "--out", "run", "--steps", "3", *SMALL)
    assert trained.exit_code == 0, trained.output
    assert trained.stdout.splitlines()[-1].startswith("finished after 3 steps, ")

    finalized = run("finalize", "run/checkpoint.pt", "--calibration", "photos", "-o", "mine.safetensors")
    assert finalized.exit_code == 0, finalized.output
    assert finalized.stdout.startswith("mine.safetensors: id ")

    encoded = run("encode", "--verify", "--json", "-q", "3", "--model", "mine.safetensors", "photos/a.png")
    assert encoded.exit_code == 0, encoded.output
    decoded = run("decode", "--json", "--model", "mine.safetensors", "photos/a.lic", "-o", "back.png")
    assert decoded.exit_code == 0, decoded.output
    sent, got = json.loads(encoded.stdout), json.loads(decoded.stdout)
    assert sent["digest"] == got["digest"]
    assert sent["model_id"] == got["model_id"] == weights.info(Path("mine.safetensors")).id
    with PIL.Image.open("back.png") as image:
        assert image.size == (200, 150)


# ---- train


def test_json_of_train_is_rows_with_a_summary_at_the_end(work):
    result = run(*TRAIN, "--valid", "photos", "--steps", "3", "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert (rows[-1]["state"], rows[-1]["step"]) == ("finished", 3)
    assert Path(rows[-1]["checkpoint"]).is_file()
    measured = [row for row in rows if "valid" in row][-1]["valid"]
    assert [q["quality"] for q in measured] == sorted(q["quality"] for q in measured)
    assert all(q["bpp"] > 0 for q in measured)


def test_train_goes_on_only_when_told_so(work):
    assert run(*TRAIN, "--steps", "1").exit_code == 0
    before = Path("run/checkpoint.pt").read_bytes()
    assert_refused(run(*TRAIN, "--steps", "2"), 2, "run/checkpoint.pt exists", hint="--resume")
    assert Path("run/checkpoint.pt").read_bytes() == before
    resumed = run(*TRAIN, "--steps", "2", "--resume", "--json")
    assert json.loads(resumed.stdout.splitlines()[-1])["step"] == 2


HOLD = "import sys, pathlib; from lcodec.train.lock import RunLock; lock = RunLock(pathlib.Path(sys.argv[1])); "
HOLD += "lock.claim(); print('held', flush=True); sys.stdin.read()"


@contextmanager
def another_process_in(folder: Path) -> Iterator[subprocess.Popen[str]]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_one_process_at_a_time_trains_in_a_folder(work, monkeypatch):
    monkeypatch.setattr("lcodec.cli.train.RESTART_S", 0.0)
    with another_process_in(Path("run")):
        assert_refused(run(*TRAIN, "--steps", "1"), 2, "another process trains in run", hint="--out")
        assert names(Path("run")) == [".lock"]
    assert run(*TRAIN, "--steps", "1").exit_code == 0
    before = Path("run/checkpoint.pt").read_bytes()
    with another_process_in(Path("run")):
        for more in ((), ("--resume",), ("--resume", "auto")):  # nobody is told to resume what still runs
            assert_refused(run(*TRAIN, "--steps", "2", *more), 2, "another process trains in run", hint="SIGTERM")
    assert Path("run/checkpoint.pt").read_bytes() == before
    assert run(*TRAIN, "--steps", "2", "--resume").exit_code == 0


def test_a_process_that_comes_while_images_are_read_is_found(work, monkeypatch):
    with ExitStack() as stack:

        class MeanwhileAnother(Photographs):
            def __init__(self, *args: Any, **more: Any) -> None:
                super().__init__(*args, **more)
                stack.enter_context(another_process_in(Path("run")))

        monkeypatch.setattr("lcodec.train.data.Photographs", MeanwhileAnother)
        assert_refused(run(*TRAIN, "--steps", "1"), 2, "another process trains in run", hint="SIGTERM")
    assert names(Path("run")) == [".lock"]


def test_a_restarted_run_waits_for_the_one_before(work):
    with another_process_in(Path("run")) as process:
        threading.Timer(1.0, process.kill).start()
        assert run(*TRAIN, "--steps", "1", "--resume", "auto").exit_code == 0


def test_nobody_is_kept_out_where_files_cannot_be_locked(work, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with another_process_in(Path("run")):
        assert run(*TRAIN, "--steps", "1").exit_code == 0
    Path("run/.lock").unlink()
    Path("run/.lock").mkdir()  # or not even opened
    assert run(*TRAIN, "--steps", "2", "--resume").exit_code == 0


def test_one_command_line_begins_and_goes_on(work):
    """As a scheduler that starts it again needs it."""
    for steps in ("1", "2"):
        result = run(*TRAIN, "--steps", steps, "--resume", "auto", "--rate-balance", "0.2", "--json")
        assert json.loads(result.stdout.splitlines()[-1])["step"] == int(steps), result.output
    for said in ("true", '"auto"'):
        Path("on.toml").write_text(f"resume = {said}\nsteps = 3\n")
        result = run(*TRAIN, "--recipe", "on.toml", "--rate-balance", "0.2", "--json")
        assert json.loads(result.stdout.splitlines()[-1])["step"] == 3, result.output
    assert checkpoint.load(Path("run/checkpoint.pt"))["options"]["rate_balance"] == 0.2


@pytest.mark.parametrize(
    "changed, code, message",
    [
        (["--model", "vgg"], 2, "unknown architecture 'vgg'"),
        (["--data", "nowhere"], 2, "--data nowhere is not a folder"),
        (["--valid", "nowhere"], 2, "--valid nowhere is not a folder"),
        (["--data", "empty"], 3, "no readable image"),
        (["--qualities", "1,x"], 2, "are not numbers"),
        (["--steps", "0"], 2, "either steps or hours"),
        (["--device", "toaster"], 7, "unknown device toaster"),
        (["--init", "nothing.pt"], 5, "no checkpoint nothing.pt"),
        (["--resume"], 5, "no checkpoint run/checkpoint.pt"),
    ],
)
def test_train_that_cannot_be_is_refused_with_one_line(work, changed, code, message):
    Path("empty").mkdir()
    result = run(*TRAIN, "--steps", "1", *changed)
    assert_refused(result, code, message)
    assert not Path("run/checkpoint.pt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_train_on_a_device_that_is_not_there_is_a_device_error(work):
    result = run(*TRAIN, "--steps", "1", "--device", "cuda")
    assert_refused(result, 7, "no CUDA device", hint="--device cpu")
    assert not Path("run").exists()


# ---- finalize


def test_json_of_finalize_describes_the_model(work, training_checkpoint):
    arguments = ["finalize", training_checkpoint, "--calibration", "photos", "-o", "m.safetensors", "--json"]
    result = run(*arguments, "--fp16", "--summary", "three steps")
    report = json.loads(result.stdout)
    model = weights.load(Path("m.safetensors"))
    assert report["id"] == model.id
    assert report["bytes"] == Path("m.safetensors").stat().st_size
    assert set(report["layers"]) == {"h_s.0", "h_s.1", "h_s.2"}
    assert all(0 < layer["bound"] <= 2**31 - 1 for layer in report["layers"].values())
    assert [rate["quality"] for rate in report["rates"]] == [1, 8]
    # After three steps of training there are symbols far out, for which likelihoods stop at 30 bits and escapes do not.
    assert all(-25 < rate["excess_percent"] < 20 for rate in report["rates"])
    assert weights.info(Path("m.safetensors")).summary == "three steps"
    assert model.tensors["g_a.0.weight"].dtype == np.float16


def test_packed_model_is_smaller_and_works(work, training_checkpoint):
    arguments = ["finalize", training_checkpoint, "--calibration", "photos", "-o"]
    kinds = (["h.safetensors", "--fp16"], ["p.safetensors", "--pack"])
    sizes = [json.loads(run(*arguments, *kind, "--json").stdout)["bytes"] for kind in kinds]
    assert sizes[1] < 0.9 * sizes[0]
    assert run("encode", "photos", "-o", "out", "--model", "p.safetensors", "--verify").exit_code == 0


def test_same_checkpoint_gives_the_same_model_file(work, training_checkpoint):
    for name in ("1.safetensors", "2.safetensors"):
        assert run("finalize", training_checkpoint, "--calibration", "photos", "-o", name).exit_code == 0
    assert Path("1.safetensors").read_bytes() == Path("2.safetensors").read_bytes()


def test_finalized_model_is_listed_where_models_are_looked_for(work, training_checkpoint, monkeypatch):
    monkeypatch.setenv(weights.ENVIRONMENT, str(work))
    monkeypatch.setenv("XDG_CACHE_HOME", str(work / "cache"))
    arguments = ["finalize", training_checkpoint, "--calibration", "photos", "-o", "m.safetensors"]
    assert run(*arguments, "--summary", "three steps").exit_code == 0
    assert "three steps" in run("models").stdout
    listed = [json.loads(line) for line in run("models", "--json").stdout.splitlines()]
    assert ("m", weights.info(Path("m.safetensors")).id) in [(model["name"], model["id"]) for model in listed]


def test_existing_model_is_overwritten_only_by_force(work, training_checkpoint):
    output = Path("m.safetensors")
    output.write_bytes(b"kept")
    arguments = ["finalize", training_checkpoint, "--calibration", "photos", "-o", output]
    assert_refused(run(*arguments), 4, "m.safetensors exists", hint="--force")
    assert output.read_bytes() == b"kept"
    assert run(*arguments, "--force").exit_code == 0
    assert weights.load(output).config["architecture"] == "mbt2018-mean"


def test_checkpoint_is_not_overwritten_by_its_model(work, training_checkpoint):
    checkpoint = Path("c.safetensors")
    checkpoint.write_bytes(training_checkpoint.read_bytes())
    assert_refused(run("finalize", checkpoint, "-o", checkpoint, "--force"), 4, "c.safetensors is an input")
    assert checkpoint.read_bytes() == training_checkpoint.read_bytes()


@pytest.mark.parametrize(
    "output, code, message",
    [
        ("m.pt", 2, "model files end in .safetensors"),
        ("nowhere/m.safetensors", 4, "no folder nowhere"),
    ],
)
def test_finalize_refuses_an_output_before_it_works(work, training_checkpoint, monkeypatch, output, code, message):
    monkeypatch.setattr("lcodec.finalize.finalize", lambda *_, **__: pytest.fail("has begun"))
    before = names(work)
    assert_refused(run("finalize", training_checkpoint, "-o", output), code, message)
    assert names(work) == before


class Code:
    """Pickles as a call."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_what_is_no_checkpoint_is_refused_and_never_executed(work, training_checkpoint):
    whole = training_checkpoint.read_bytes()
    Path("text.pt").write_text("not a checkpoint")
    Path("empty.pt").write_bytes(b"")
    Path("cut.pt").write_bytes(whole[: len(whole) // 2])
    Path("code.pt").write_bytes(pickle.dumps(Code()))
    torch.save([1, 2], "list.pt")
    torch.save({"a": torch.zeros(2)}, "other.pt")
    torch.save({"format": "lcodec-checkpoint-1"}, "hollow.pt")
    state = torch.load(training_checkpoint, weights_only=True)
    state["ema"].popitem()
    torch.save(state, "lacking.pt")
    before = names(work)
    for path in ("text", "empty", "cut", "code", "list", "other", "hollow", "lacking", "missing"):
        result = run("finalize", f"{path}.pt", "--calibration", "photos", "-o", "m.safetensors")
        assert_refused(result, 5, "checkpoint")
    assert names(work) == before


def test_checkpoint_with_values_that_are_not_finite_is_refused(work, training_checkpoint):
    state = torch.load(training_checkpoint, weights_only=True)
    for key in ("g_a.0.weight", "h_s.0.weight"):
        broken = {**state, "ema": {**state["ema"], key: state["ema"][key] * float("nan")}}
        torch.save(broken, "broken.pt")
        result = run("finalize", "broken.pt", "--calibration", "photos", "-o", "m.safetensors")
        assert_refused(result, 5, "finite")
    assert not Path("m.safetensors").exists()


def test_finalize_without_calibration_images_is_an_input_error(work, training_checkpoint):
    Path("empty").mkdir()
    result = run("finalize", training_checkpoint, "--calibration", "empty", "-o", "m.safetensors")
    assert_refused(result, 3, "no calibration images in empty")


def test_calibration_image_that_cannot_be_read_is_named_and_left_out(work, training_checkpoint):
    assert run("finalize", training_checkpoint, "--calibration", "photos", "-o", "whole.safetensors").exit_code == 0
    Path("photos/c.jpg").write_bytes(b"no image")
    folders = ("--calibration", "photos", "--report", "photos")
    result = run("finalize", training_checkpoint, *folders, "-o", "m.safetensors", "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("c.jpg") == 2 and result.stderr.count("1 calibration images skipped, 2 used") == 2
    told = json.loads(result.stdout)
    assert told["calibration"]["images"] == 2 and told["id"] == weights.info(Path("whole.safetensors")).id
    for name in ("a.png", "b.png"):
        Path("photos", name).unlink()
    result = run("finalize", training_checkpoint, "--calibration", "photos", "-o", "m.safetensors", "--force")
    assert result.exit_code == 3 and "no calibration image in photos can be read" in result.stderr


def test_model_that_appears_during_finalize_is_not_overwritten(work, training_checkpoint, monkeypatch):
    from lcodec import finalize

    def meanwhile(*arguments, **options):
        Path("mine.safetensors").write_bytes(b"somebody else's")
        return made(*arguments, **options)

    made = finalize.finalize
    monkeypatch.setattr(finalize, "finalize", meanwhile)
    result = run("finalize", training_checkpoint, "--calibration", "photos", "-o", "mine.safetensors")
    assert_refused(result, 4, "mine.safetensors exists")
    assert Path("mine.safetensors").read_bytes() == b"somebody else's"


def test_large_calibration_images_are_cut_to_what_fits_into_memory(work, monkeypatch):
    from lcodec.finalize import assemble, calibration_images

    monkeypatch.setattr(assemble, "MAX_CALIBRATION_PX", 120)
    assert [image.shape for image in calibration_images(Path("photos"))] == [(120, 120, 3), (100, 100, 3)]
    assert all(image.base is None for image in calibration_images(Path("photos")))


def test_training_images_get_what_memory_validation_leaves(work, monkeypatch):
    limits = []

    class Counted(Photographs):
        def __init__(self, folders, limit_bytes, *rest, **more):
            super().__init__(folders, limit_bytes, *rest, **more)
            limits.append((limit_bytes, self.cached_bytes))

    monkeypatch.setattr("lcodec.train.data.Photographs", Counted)
    result = run(*TRAIN, "--valid", "photos", "--steps", "1", "--cache-gib", 100_000 / 2**30)
    assert result.exit_code == 0, result.output
    assert limits == [(100_000, 90_000), (10_000, 0)]


def test_run_that_is_there_is_told_before_images_are_read(work):
    Path("run").mkdir()
    Path("run/checkpoint.pt").touch()
    Path("photos/a.png").write_bytes(b"no image")
    result = run(*TRAIN, "--steps", "1")
    assert result.exit_code == 2 and "skipped" not in result.stderr
    result = run(*[a if a != "run" else "new" for a in TRAIN], "--steps", "1", "--resume")
    assert result.exit_code == 5 and "no checkpoint new/checkpoint.pt" in result.stderr


def test_what_was_taken_of_another_model_is_told(work):
    first = [a if a != "mbt2018-mean" else "mbt2018" for a in TRAIN]
    assert run(*first, "--steps", "1").exit_code == 0
    again = [a if a != "run" else "again" for a in first]
    result = run(*again, "--steps", "1", "--init", "run/checkpoint.pt")
    assert result.exit_code == 0
    assert re.search(r"note: (\d+) of \1 tensors begin as in run/checkpoint.pt", result.stderr), result.stderr


def test_model_with_a_dot_in_its_name_is_found(work, model_file, monkeypatch):
    Path("models").mkdir()
    Path("models/mean-v1.1.safetensors").write_bytes(model_file.read_bytes())
    monkeypatch.setenv(weights.ENVIRONMENT, "models")
    result = run(*[*TRAIN, "-N", "16", "-M", "16"], "--steps", "1", "--init", "mean-v1.1", "--init", "mean-v1.1:g_*")
    assert result.exit_code == 0 and "begin as in models/mean-v1.1.safetensors" in result.stderr, result.output


def test_json_that_cannot_be_written_costs_the_exit_code_and_not_the_run(work, monkeypatch):
    def full(record, file=None):
        raise OutputError("cannot write stdout: no space left on device")

    monkeypatch.setattr("lcodec.cli.train.print_json", full)
    result = run(*TRAIN, "--valid", "photos", "--steps", "3", "--json")
    assert_refused(result, 4, "cannot write stdout")
    assert checkpoint.load(Path("run/checkpoint.pt"))["step"] == 3
