"""Many processes train as one: the same gradients, one writer, one end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch

from lcodec import checkpoint
from lcodec.errors import UsageError
from lcodec.train.data import Photographs
from lcodec.train.loop import Options, Trainer
from lcodec.train.loss import Losses
from lcodec.train.parallel import Ranks

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch without gloo"
)
OPTIONS = {"architecture": "mbt2018-mean", "N": 8, "M": 8, "batch": 4, "crop": 64, "steps": 3, "amp": False}

# What the network draws differs from process to process. For the comparison every image gets the same noise.
STEPS = """
import sys, torch
from pathlib import Path
import lcodec.nets.network as network
from lcodec.train.data import Photographs
from lcodec.train.loop import Options, Trainer
from lcodec.train.parallel import joined

torch.set_num_threads(1)

def add_noise(v):
    noise = torch.rand(v.shape[1:], generator=torch.Generator().manual_seed(v.shape[1])) - 0.5
    return v + noise

network.add_noise = add_noise
with joined("cpu") as (ranks, device):
    trainer = Trainer(Options(**OPTIONS), Photographs(Path(sys.argv[1])), None, Path(sys.argv[2]), ranks=ranks)
    for _ in range(2):
        row = trainer.train_step()
    gradients = {n: p.grad for n, p in trainer.network.named_parameters() if p.grad is not None}
    where = Path(sys.argv[2]).with_name(f"result-{ranks.world}-{ranks.rank}.pt")
    torch.save({"row": row, "gradients": gradients, "weights": trainer.network.state_dict()}, where)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        PIL.Image.fromarray(photo[100 * i : 100 * i + 100, 50 * i : 50 * i + 160]).save(folder / f"{i}.png")
    return folder


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def environment(**more: object) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in more.items()}}


def test_two_processes_have_the_gradients_of_one_on_the_joint_batch(folder, tmp_path, monkeypatch):
    code = f"OPTIONS = {OPTIONS!r}\n{STEPS}"
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    runs = []
    for rank in (0, 1):
        command = [sys.executable, "-c", code, str(folder), str(tmp_path / "run2")]
        runs.append(subprocess.Popen(command, env=environment(WORLD_SIZE=2, RANK=rank, LOCAL_RANK=rank, **place)))
    monkeypatch.setattr("lcodec.nets.network.add_noise", None)  # undone after the code below has changed it
    monkeypatch.setattr(sys, "argv", ["-c", str(folder), str(tmp_path / "run1")])
    exec(code, {})
    assert [r.wait(timeout=300) for r in runs] == [0, 0]
    one, *two = (torch.load(tmp_path / f"result-{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for rank in two:
        assert rank["row"]["loss"] == pytest.approx(one["row"]["loss"], rel=1e-4)
        assert set(rank["gradients"]) == set(one["gradients"])
        for name, gradient in one["gradients"].items():
            scale = float(gradient.abs().max()) + 1e-8
            assert torch.allclose(rank["gradients"][name], gradient, rtol=1e-3, atol=2e-4 * scale), name
    for name, weight in two[0]["weights"].items():
        assert torch.equal(weight, two[1]["weights"][name]), name


def test_signal_while_the_ranks_talk_is_heard_at_the_next_step(folder, tmp_path):
    """Not forgotten, and not by one rank alone, which would leave the others waiting."""
    trainer = Trainer(Options(**OPTIONS), Photographs(folder), None, tmp_path / "run")

    class Two:
        world, rank, main = 2, 1, False

        def sums(self, values: list[float], device: str) -> list[float]:
            trainer._asked_to_stop = True  # as the handler does, in the middle of it
            return values

    trainer.ranks = Two()
    losses = Losses(torch.tensor(1.0), torch.tensor(1.0), None, None)
    trainer._agree(losses)
    assert not trainer.stopped
    trainer._agree(losses)
    assert trainer.stopped


def test_plateau_that_rank_0_has_seen_holds_for_the_same_step_on_all(folder, tmp_path):
    options = Options(**{**OPTIONS, "schedule": "plateau", "warmup": 1})
    trainer = Trainer(options, Photographs(folder), Photographs(folder), tmp_path / "run")

    class Two:
        world, rank, main = 2, 1, False

        def sums(self, values: list[float], device: str) -> list[float]:
            return [*values[:-1], 0.5]  # what rank 0 says of it

    trainer.ranks = Two()
    assert trainer.train_step()["lr"] == pytest.approx(options.lr / 2)


def test_torchrun_trains_writes_once_and_stops_as_a_whole(folder, tmp_path):
    """SIGTERM to one process: all end after the same step, rank 0 has saved, and one process alone can go on."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "lcodec", "train", "--model", "mbt2018-mean", "--data", str(folder), "--out", str(out)]
    command += ["-N", "8", "-M", "8", "--batch", "4", "--crop", "64", "--amp", "off", "--steps", "1000000", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        os.kill(rank_of(process.pid, 1), signal.SIGTERM)
        rest = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    assert rest[-1]["state"] == "stopped" and rest[-1]["step"] >= first["step"]
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))  # one writer
    state = checkpoint.load(out / "checkpoint.pt")
    assert state["step"] == rest[-1]["step"] and state["seconds"] > 0

    options = Options(**{**OPTIONS, "steps": state["step"] + 1, "lr": 4e-4})
    alone = Trainer(options, Photographs(folder), None, out, resume=True)
    alone.run()
    assert alone.step == state["step"] + 1


def rank_of(parent: int, rank: int) -> int:
    """The process id of one of torchrun's children."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    if not children.exists():
        pytest.skip("this system does not tell the children of a process")
    for child in children.read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


def test_shares_of_a_batch_cover_it_once():
    shares = [list(range(12))[Ranks(rank, 3).share(12)] for rank in range(3)]
    assert sum(shares, []) == list(range(12)) and {len(s) for s in shares} == {4}
    with pytest.raises(UsageError, match="evenly"):
        Ranks(0, 3).share(8)
