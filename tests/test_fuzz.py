"""A short run of the fuzzers, what they found before, and every prefix and byte of one small file."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

from lcodec import container
from lcodec.codec import Codec
from lcodec.decoder import decode_latents
from lcodec.errors import StreamError

from .fuzz import fuzz_decode, run
from .fuzz.stages import STAGES, stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """For all stages, which share their models."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", list(STAGES))
def test_stage_finds_no_fault_in_a_second(name, folder, monkeypatch):
    monkeypatch.chdir(folder)  # where the input of a fault would go
    with stage(name, folder) as found:
        assert run.run_random(name, found, seconds=1, seed=10**9) > 0


@pytest.mark.parametrize("name", ["rans", "transforms"])  # the others are under sanitizers in test_cross.py
def test_stage_in_c_finds_no_fault_in_random_input(name, tmp_path):
    """By any compiler with sanitizers; `make fuzz` needs clang."""
    program, inputs, rng = tmp_path / "replay", [tmp_path / str(i) for i in range(60)], np.random.default_rng(5)
    sources = [*run.sources(name), run.ROOT / "tests" / "fuzz" / "replay.c"]
    command = [
        "cc",
        "-Wall",
        "-Wextra",
        "-Werror",
        *run.COMPILER,
        *run.INCLUDES,
        *map(str, sources),
        *run.LIBRARIES,
        "-o",
        str(program),
    ]
    if shutil.which("cc") is None:
        pytest.skip("not installed: cc")
    built = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in built.stderr:
        pytest.skip("not installed: the sanitizers' libraries")
    assert built.returncode == 0, built.stderr
    for path in inputs:
        path.write_bytes(rng.bytes(int(rng.integers(2000))))
    done = subprocess.run([program, *inputs], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_log_of_a_long_run_adds_up(tmp_path):
    one = run.Result("rans", "libFuzzer", 1000, 1800.0, True)
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(r._asdict()) + "\n" for r in (one, one, one._replace(stage="model", good=False))))
    lines = run.summary(run.read_log(log)).splitlines()
    assert [line.split() for line in lines] == [
        ["rans", "2,000", "1.000", "h", "0", "faults"],
        ["model", "1,000", "0.500", "h", "1", "faults"],
        ["all", "3,000", "1.500", "h", "1", "faults"],
    ]


def test_damaged_files_end_in_named_errors(tmp_path):
    assert fuzz_decode.fuzz(fuzz_decode.seeds(tmp_path), seconds=3, first=1000) > 100


@pytest.fixture(scope="module")
def small(model_file, photo):
    codec = Codec(model_file, "cpu", 1)
    return codec, codec.encode(photo[:40, :50], 1.0).data


def test_every_prefix_is_rejected(small):
    codec, data = small
    for size in range(len(data)):
        with pytest.raises(StreamError):
            container.unpack(data[:size])


def test_every_changed_byte_is_rejected(small):
    codec, data = small
    for place in range(len(data)):
        for value in (1, 0x80, 0xFF):
            bad = bytearray(data)
            bad[place] ^= value
            with pytest.raises(StreamError):
                container.unpack(bytes(bad))


def test_payload_that_fits_its_checksum_but_not_the_coder_is_rejected(small):
    """The coder's final state is a checksum of its own: 31 bits a lane."""
    codec, data = small
    box = container.unpack(data)
    payload = bytes(box.slices[0])
    rng = np.random.default_rng(0)
    for place in rng.permutation(len(payload))[:60]:
        bad = bytearray(payload)
        bad[place] ^= 0x10
        with pytest.raises(StreamError):
            decode_latents(container.Container(box.header, [bytes(bad)]), codec.file, codec.entropy)
