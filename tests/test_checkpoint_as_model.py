"""A checkpoint in place of a model: finalized once, kept, found again by its id."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

import lcodec
from lcodec import cli, weights
from lcodec.container import read_header
from lcodec.errors import ModelError, OutputError
from lcodec.finalize import cache, finalize, finalize_cached
from lcodec.nets import NetConfig, Network
from tests.test_cli_errors import assert_refused

ROOT = Path(__file__).parents[1]
VECTORS = ROOT.parent / "shared" / "vectors" / "compressai"
NAMES = [
    "bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "mbt2018", "cheng2020-anchor", "cheng2020-attn",
]  # fmt: skip


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch, photo):
    """An empty working directory with a picture, and an empty cache; one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(weights.ENVIRONMENT, raising=False)
    PIL.Image.fromarray(photo[100:190, 100:250]).save("a.png")
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def few_images(monkeypatch, photo):
    """Calibration on one small picture, where the size of the ranges does not matter."""
    monkeypatch.setattr(cache, "calibration_images", lambda: [photo[:128, :128]])


def run(*arguments: object) -> Result:
    command = [str(a) for a in arguments]
    return CliRunner().invoke(cli.cli, [*command, "--threads", "1", "--device", "cpu"], prog_name="lcodec")


def cached() -> list[Path]:
    folder = weights.cache_folder()
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_training_checkpoint_encodes_and_its_files_decode(work, training_checkpoint):
    first = run("encode", "--json", "--verify", "--model", training_checkpoint, "a.png", "-o", "1.lic")
    assert first.exit_code == 0, first.output
    (path,) = cached()
    (line,) = first.stderr.splitlines()
    assert line == f"lcodec: note: finalizing {training_checkpoint} once; what it encodes needs {path}"
    second = run("encode", "--json", "--model", training_checkpoint, "a.png", "-o", "2.lic")
    assert second.stderr == ""
    assert cached() == [path]
    assert Path("1.lic").read_bytes() == Path("2.lic").read_bytes()

    assert weights.info(path).id == json.loads(first.stdout)["model_id"]
    decoded = run("decode", "--json", "1.lic", "-o", "back.png")  # the model is found by the id in the file
    assert decoded.exit_code == 0, decoded.output
    assert json.loads(decoded.stdout)["digest"] == json.loads(first.stdout)["digest"]
    assert run("decode", "--model", training_checkpoint, "1.lic", "-o", "again.png").exit_code == 0
    assert np.array_equal(np.asarray(PIL.Image.open("back.png")), np.asarray(PIL.Image.open("again.png")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(not VECTORS.is_dir(), reason="no CompressAI checkpoints in ../shared/vectors/compressai")
def test_compressai_checkpoint_encodes_and_its_files_decode(few_images, name):
    encoded = run("encode", "--json", "--verify", "--model", VECTORS / f"{name}.pth.tar", "a.png")
    assert encoded.exit_code == 0, encoded.output
    record = json.loads(encoded.stdout)
    assert record["verified"] is True
    assert record["quality"] == 0 == read_header(Path("a.lic").read_bytes()).quality
    decoded = run("decode", "--json", "a.lic", "-o", "back.png")
    assert json.loads(decoded.stdout)["digest"] == record["digest"]
    assert [weights.info(path).architecture for path in cached()] == [name]


def test_python_function_takes_a_checkpoint(few_images, training_checkpoint):
    data = lcodec.encode("a.png", training_checkpoint, device="cpu", threads=1)
    assert lcodec.encode("a.png", str(training_checkpoint), quality=4, device="cpu", threads=1) == data
    assert read_header(data).model_id == bytes.fromhex(weights.info(cached()[0]).id)[:8]
    assert lcodec.decode(data, device="cpu", threads=1).size == (150, 90)


def test_quiet_leaves_the_notice_out(few_images, training_checkpoint):
    result = run("encode", "--quiet", "--model", training_checkpoint, "a.png")
    assert (result.exit_code, result.output) == (0, "")


def test_other_content_or_another_version_of_finalize_is_another_model(training_checkpoint, monkeypatch):
    here = cache.cached_path(training_checkpoint)
    Path("same.pt").write_bytes(training_checkpoint.read_bytes())
    Path("other.pt").write_bytes(training_checkpoint.read_bytes() + b"\0")

    def key(path):
        return cache.cached_path(Path(path)).name.split("-", 1)[1]

    assert key("same.pt") == here.name.split("-", 1)[1] != key("other.pt")
    monkeypatch.setattr(cache, "FINALIZE_VERSION", cache.FINALIZE_VERSION + 1)
    assert cache.cached_path(training_checkpoint) != here


def test_model_of_a_faster_process_is_kept(few_images, training_checkpoint, model_file, monkeypatch):
    """Its files name that model; ours, with a range rounded differently, would leave them without one."""
    finalize = cache.finalize

    def overtaken(*arguments, **options):
        done = finalize(*arguments, **options)
        path = cache.cached_path(training_checkpoint)
        path.write_bytes(model_file.read_bytes())
        return done

    weights.cache_folder().mkdir(parents=True)
    monkeypatch.setattr(cache, "finalize", overtaken)
    path = finalize_cached(training_checkpoint)
    assert path.read_bytes() == model_file.read_bytes()
    assert cached() == [path]


def test_two_processes_at_once_make_one_model(work, training_checkpoint):
    command = [sys.executable, "-m", "lcodec", "encode", "--threads", "1", "--model", str(training_checkpoint), "a.png"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([*command, "-o", name], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for name in ("1.lic", "2.lic")
    ]
    for process in both:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    (path,) = cached()
    for name in ("1.lic", "2.lic"):
        assert read_header(Path(name).read_bytes()).model_id.hex() == weights.load(path).id[:16]


def test_damaged_model_in_the_cache_is_made_again(few_images, training_checkpoint):
    path = finalize_cached(training_checkpoint)
    whole = path.read_bytes()
    for damaged in (b"not a model", whole[:-1000], whole[:-1000] + bytes(1000)):
        path.write_bytes(damaged)
        assert finalize_cached(training_checkpoint) == path
        assert path.read_bytes() == whole


def test_model_is_of_the_content_that_names_it(few_images, training_checkpoint, monkeypatch, tmp_path):
    """A run that goes on replaces its checkpoint while that is finalized."""
    here, later = tmp_path / "checkpoint.pt", torch.load(training_checkpoint, weights_only=True)
    shutil.copy(training_checkpoint, here)
    later["ema"] = {k: v + 0.001 for k, v in later["ema"].items()}

    def images() -> list[np.ndarray]:
        torch.save(later, here)
        return few

    few = cache.calibration_images()
    monkeypatch.setattr(cache, "calibration_images", images)
    path = finalize_cached(here)
    assert weights.load(path).id == finalize(training_checkpoint, few).model.id != finalize(here, few).model.id
    assert weights.info(path).card["checkpoint_sha256"] == hashlib.sha256(training_checkpoint.read_bytes()).hexdigest()


def test_metric_of_a_checkpoint_that_does_not_tell(few_images, training_checkpoint, tmp_path):
    state = Network(NetConfig("mbt2018-mean", 8, 8)).state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith(("log_", "prior_log"))}, tmp_path / "zoo.pth.tar")
    result = run("encode", "--model", tmp_path / "zoo.pth.tar", "--metric", "ms-ssim", "a.png", "-o", "a.lic")
    assert result.exit_code == 0, result.stderr
    assert [weights.metric_of(weights.info(path).card) for path in cached()] == ["ms-ssim"]
    assert finalize_cached(training_checkpoint) == finalize_cached(training_checkpoint, metric="mse")
    made = tmp_path / "made.safetensors"
    invoke = partial(CliRunner().invoke, cli.cli, prog_name="lcodec")
    options = ["-o", str(made), "--metric", "ms-ssim", "--calibration", str(tmp_path)]
    assert invoke(["finalize", str(tmp_path / "zoo.pth.tar"), *options]).exit_code == 0
    assert weights.metric_of(weights.info(made).card) == "ms-ssim"
    result = invoke(["finalize", str(training_checkpoint), *options, "--force"])
    assert_refused(result, 2, "was trained for mse, not ms-ssim")


def test_interrupted_or_failed_writing_leaves_nothing_in_the_cache(few_images, training_checkpoint, monkeypatch):
    for error, raised in ((KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left"), OutputError)):

        def fail(_descriptor, error=error):
            raise error

        with monkeypatch.context() as patch, pytest.raises(raised):
            patch.setattr(os, "fsync", fail)
            finalize_cached(training_checkpoint)
        assert cached() == []


def test_cache_that_cannot_be_made_is_an_output_error(few_images, training_checkpoint, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("a.png").absolute()))
    result = run("encode", "--quiet", "--model", training_checkpoint, "a.png")
    assert_refused(result, 4, "cannot make folder")


def test_what_is_neither_model_nor_checkpoint_is_refused_with_a_hint(work, model_file, training_checkpoint):
    Path("text.txt").write_text("hello, hello, hello")
    Path("empty.pt").write_bytes(b"")
    Path("fake.safetensors").write_bytes(training_checkpoint.read_bytes()[:20])
    Path("cut.pt").write_bytes(training_checkpoint.read_bytes()[:-1000])
    with zipfile.ZipFile("archive.zip", "w") as archive:
        archive.writestr("a", "b")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(2)}}, "resnet.pth.tar")
    for name in ("text.txt", "empty.pt", "archive.zip", "cut.pt", "resnet.pth.tar", "fake.safetensors"):
        for command in (["encode", "a.png"], ["encode", "a.png", "-o", "b.lic", "--verify"]):
            result = run(*command, "--model", name)
            assert_refused(result, 5, hint="CompressAI")
        with pytest.raises(ModelError):
            lcodec.encode("a.png", name)
    assert cached() == []
    assert not Path("a.lic").exists()


def test_device_that_is_not_there_is_found_before_the_work(training_checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cache, "finalize", lambda *_, **__: pytest.fail("has begun"))
    result = CliRunner().invoke(
        cli.cli, ["encode", "--model", str(training_checkpoint), "--device", "cuda", "a.png"], prog_name="lcodec"
    )
    assert_refused(result, 7, "no CUDA device", hint="--device cpu")
