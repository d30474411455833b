"""Whole commands, killed at any moment, or on a full or read-only disk: nothing half-written, nothing lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import lcodec.image
from lcodec import checkpoint, cli, weights
from lcodec.atomic import remove_stale
from lcodec.train.data import Photographs
from lcodec.train.loop import Trainer
from lcodec.train.options import Options

if not hasattr(os, "fork"):
    pytest.skip("needs fork", allow_module_level=True)

OLD = b"what was there before"
KILLS = 6


def start(work: Callable[[], int]) -> int:
    """A process of its own, with all that is imported here; it ends with what `work` returns."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            code = work()
        finally:
            os._exit(code)
    return pid


def finish(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(work: Callable[[], int], seconds: float) -> int:
    pid = start(work)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return finish(pid)


def invoke(*arguments: str) -> int:
    return CliRunner().invoke(cli.cli, list(arguments)).exit_code


def visible(folder: Path) -> set[str]:
    return {name for name in os.listdir(folder) if not name.startswith(".")}


@pytest.fixture
def folder(tmp_path, models, photo, training_checkpoint, monkeypatch) -> Path:
    """A picture, a .lic file, a checkpoint, and an output that is there already."""
    monkeypatch.chdir(tmp_path)
    PIL.Image.fromarray(photo).save("in.png")
    code = invoke("encode", "in.png", "-o", "in.lic", "--model", "tiny-mbt2018-mean", "--threads", "1")
    assert code == 0
    Path("run.pt").write_bytes(training_checkpoint.read_bytes())
    Path("calibration").mkdir()
    PIL.Image.fromarray(photo[:64, :64]).save("calibration/a.png")
    Path("out").mkdir()
    return tmp_path


ONE = ("--threads", "1", "--force")
COMMANDS = {
    "encode": ("encode", "in.png", "-o", "out/a.lic", "--model", "tiny-mbt2018-mean", *ONE),
    "decode": ("decode", "in.lic", "-o", "out/a.ppm", *ONE),
    "decode by rows": ("decode", "in.lic", "-o", "out/a.ppm", *ONE),
    "finalize": ("finalize", "run.pt", "-o", "out/a.safetensors", "--calibration", "calibration", "--force"),
}


def outcome(path: Path) -> object:
    """What two runs make equal."""
    return weights.load(path).id if path.suffix == weights.SUFFIX else path.read_bytes()


@pytest.mark.parametrize("name", COMMANDS)
def test_command_killed_at_any_moment_leaves_the_old_file_or_the_whole_new_one(name, folder, monkeypatch):
    if name.endswith("rows"):
        monkeypatch.setattr(lcodec.image, "LARGE_PX", 1000)
    command, moments = COMMANDS[name], random.Random(name)
    target = folder / command[3]
    begin = time.monotonic()
    assert finish(start(lambda: invoke(*command))) == 0
    whole_s, expected = time.monotonic() - begin, outcome(target)
    killed = 0
    for i in range(KILLS):
        target.write_bytes(OLD)
        # some of them near the end, where the file is written
        killed += (
            kill_after(
                lambda: invoke(*command), whole_s * (moments.uniform(0, 1) if i % 2 else moments.uniform(0.9, 1))
            )
            < 0
        )
        assert target.read_bytes() == OLD or outcome(target) == expected
        assert visible(folder / "out") == {target.name}
    assert killed, "no run was still at work: the test proves nothing"
    assert finish(start(lambda: invoke(*command))) == 0
    assert outcome(target) == expected
    remove_stale(folder / "out")
    assert os.listdir(folder / "out") == [target.name]


def test_training_killed_at_any_moment_goes_on_from_a_whole_checkpoint(folder, photo):
    Path("data").mkdir()
    PIL.Image.fromarray(photo[:128, :192]).save("data/a.png")
    out = folder / "run"
    options = Options("mbt2018-mean", N=8, M=8, qualities=(1.0, 8.0), steps=10**6, batch=1, crop=64, amp=False)

    def train() -> int:
        resume = (out / "checkpoint.pt").exists()
        Trainer(options, Photographs(Path("data")), None, out, resume=resume, report=lambda line: None).run(
            save_minutes=0
        )
        return 0

    moments, steps = random.Random(3), [0]
    for _ in range(KILLS):
        pid = start(train)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and last_step(out) <= steps[-1]:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        assert finish(pid) == -signal.SIGKILL
        steps.append(last_step(out))
    assert steps == sorted(set(steps)), "a run did not go on where the one before was"
    Trainer(options, Photographs(Path("data")), None, out, resume=True)
    assert not [name for name in os.listdir(out) if name.endswith(".tmp")]


@pytest.mark.parametrize("architecture", ["mbt2018-mean", "lc-s"])
def test_training_that_was_killed_ends_as_if_it_had_not_been(architecture, folder, photo):
    """Twenty steps; ten, three more, kill -9, and the ten after the checkpoint: equal in every number, on the CPU."""
    Path("data").mkdir()
    PIL.Image.fromarray(photo[:128, :192]).save("data/a.png")
    options = Options(architecture, N=8, M=8, qualities=(1.0, 8.0), steps=20, warmup=3, batch=2, crop=64)
    held = folder / "held"

    class Held(Trainer):
        def train_step(self) -> dict[str, float]:
            if self.step == 10:
                self.save()
            if self.step == 13:
                held.touch()
                time.sleep(600)
            return super().train_step()

    def train(kind: type[Trainer], name: str, resume: bool = False) -> int:
        out, silent = folder / name, lambda row: None
        kind(options, Photographs(Path("data")), None, out, resume=resume, report=silent, workers=1).run()
        return 0

    assert finish(start(lambda: train(Trainer, "whole"))) == 0
    pid = start(lambda: train(Held, "killed"))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not held.exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert finish(pid) == -signal.SIGKILL
    assert last_step(folder / "killed") == 10
    assert finish(start(lambda: train(Trainer, "killed", resume=True))) == 0
    whole, killed = (dict(leaves(checkpoint.load(folder / name / "checkpoint.pt"))) for name in ("whole", "killed"))
    assert whole.keys() == killed.keys() and whole["step",] == 20
    assert {key[0] for key in whole} >= {"network", "ema", "optimizer"}
    for key, value in whole.items():
        if key != ("seconds",):
            same = torch.equal(value, killed[key]) if isinstance(value, torch.Tensor) else value == killed[key]
            assert same, key


def leaves(value: object, path: tuple = ()) -> Iterator[tuple[tuple, object]]:
    """(keys on the way, value) of everything in nested mappings and lists."""
    if isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def last_step(out: Path) -> int:
    """Loading it is what shows that it is whole."""
    path = out / "checkpoint.pt"
    return int(checkpoint.load(path)["step"]) if path.exists() else 0


# ---- disks


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_full_disk_leaves_the_old_file_and_nothing_else(name, folder, small_disk, monkeypatch):
    if name.endswith("rows"):
        monkeypatch.setattr(lcodec.image, "LARGE_PX", 1000)
    command = list(COMMANDS[name])
    target = command[3] = str(small_disk / Path(command[3]).name)
    Path(target).write_bytes(OLD)
    (small_disk / "other").write_bytes(bytes(56 << 10))  # and 4 kB for the old file leave 4 kB
    result = CliRunner().invoke(cli.cli, command)
    assert result.exit_code == 4 and "no space left on device" in result.output, result.output
    assert Path(target).read_bytes() == OLD
    assert set(os.listdir(small_disk)) == {Path(target).name, "other"}


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="others have test_cli_errors.py")
@pytest.mark.parametrize("name", ["encode", "decode", "finalize"])
def test_read_only_folder_is_told_to_who_is_not_root(name, folder):
    """Root may write everywhere, so a process without rights does it."""
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        place.chmod(0o755)
        for source in ("in.png", "in.lic", "run.pt", "calibration"):
            subprocess.run(["cp", "-r", source, text], check=True)
        weights.save(weights.load(weights.find("tiny-mbt2018-mean")), place / "tiny-mbt2018-mean.safetensors")
        subprocess.run(["chmod", "-R", "a+rX", text], check=True)
        (place / "out").mkdir(mode=0o555)
        heard = place / "heard"
        heard.touch()
        heard.chmod(0o666)

        def work() -> int:
            os.chdir(place)
            os.environ[weights.ENVIRONMENT] = text
            os.setgid(65534)
            os.setuid(65534)
            result = CliRunner().invoke(cli.cli, list(COMMANDS[name]))
            heard.write_text(result.output)
            return result.exit_code

        assert finish(start(work)) == 4, heard.read_text()
        assert "permission denied" in heard.read_text()
        assert os.listdir(place / "out") == []
