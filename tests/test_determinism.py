"""One file, one digest: threads, instruction sets, transforms, many files at once.

Each setup is a process of its own; `make determinism` compares thousands of pictures between them. The same files on
emulated processors, 64-bit ARM and s390x, are in test_cross.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from lcodec.codec import Codec
from lcodec.nets import ARCHITECTURES

from . import determinism

QUALITY = 5.3


@pytest.fixture(scope="module")
def processes():
    """Name of a setup -> its process, all of them at work at the same time."""
    started = {name: determinism.Process(setup) for name, setup in determinism.setups().items()}
    yield started
    for process in started.values():
        process.close()


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_file_has_one_digest_in_every_setup(name, processes, models, photo, tmp_path):
    coded = Codec(models[name], "cpu", 2).encode(photo[:200, :300], QUALITY, slice_log2=4)
    (tmp_path / "a.lic").write_bytes(coded.data)
    for process in processes.values():
        process.send(model=str(models[name]), file=str(tmp_path / "a.lic"))
    digests = {setup: process.receive()["digest"] for setup, process in processes.items()}
    assert digests == dict.fromkeys(processes, coded.y_hat_digest)


def test_random_pictures_go_between_setups(processes, models, tmp_path):
    """As `make determinism` does it; and a second run has nothing left to do."""
    chosen = {name: models[name] for name in ("mbt2018", "lc-s")}
    records = determinism.compare(chosen, processes, 3, tmp_path)
    assert len(records) == 6 and all(r["same"] and r["encoder"] != r["decoder"] for r in records)
    assert determinism.compare(chosen, processes, 3, tmp_path) == records
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize(("setup", "same"), [("two threads", True), ("float32", False)])
def test_setups_differ_in_what_they_compute(setup, same, processes, models, tmp_path):
    """Or the matrix would prove nothing: float32 rounds to other latents than bfloat16, in the encoder."""
    job = {"model": str(models["lc-s"]), "file": str(tmp_path / "a.lic"), "seed": 3}
    first, second = (processes[name].ask(**job)["digest"] for name in ("as it comes", setup))
    assert (first == second) == same


def test_many_files_at_once_have_the_digests_of_single_ones(models, photo, tmp_path):
    for i in range(4):
        PIL.Image.fromarray(photo[:64, 64 * i : 64 * i + 100]).save(tmp_path / f"{i}.png")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lcodec", "encode", str(tmp_path), "--json", "--model", str(models["mbt2018"])]
    out = subprocess.run([*command, "--jobs", "3"], env=environment, capture_output=True, text=True, check=True).stdout
    records = [json.loads(line) for line in out.splitlines()]
    codec = Codec(models["mbt2018"], "cpu", 1)
    digests = {Path(r["output"]).name: r["digest"] for r in records if "output" in r}
    assert len(digests) == 4
    for name, digest in digests.items():
        assert codec.decode((tmp_path / name).read_bytes()).digest == digest
