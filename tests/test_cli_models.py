"""`lcodec models`: list, show, verify, remove. Fetching is in test_pull.py."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from lcodec import cli, weights
from lcodec.errors import ModelError
from lcodec.nets import ARCHITECTURES, NetConfig, Network
from lcodec.zoo import rates
from lcodec.zoo.complexity import complexity
from lcodec.zoo.verify import verify
from tests.test_cli_errors import assert_refused

ROOT = Path(__file__).parents[1]
HEADER = "codec,model_id,quality,image,width,height,bytes,bpp,psnr\n"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch, models):
    """The small models on the search path, and a user's folder that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(weights.ENVIRONMENT, str(models["mbt2018-mean"].parent))
    weights.cache_folder().mkdir(parents=True)
    return tmp_path


def run(*arguments: object, **options: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments], prog_name="lcodec", **options)


# ---- list


def test_list_has_the_rates_of_results_csv(tmp_path, monkeypatch, model_file):
    path = tmp_path / "mine" / "m.safetensors"
    path.parent.mkdir()
    shutil.copy(model_file, path)
    id_ = weights.info(path).id[:16]
    rows = [f"jpeg-444,,{q},kodim0{i}.png,8,8,1,{0.4 * q},{25 + 2 * q + i}" for q in (1, 2, 3) for i in (1, 2)]
    rows += [f"m,{id_},{q},kodim0{i}.png,8,8,1,{0.2 * q},{25 + 2 * q + i}" for q in (1, 2, 3) for i in (1, 2)]
    (path.parent / "results.csv").write_text(HEADER + "\n".join(rows))
    monkeypatch.setenv(weights.ENVIRONMENT, str(path.parent))
    text = run("models").stdout
    assert "0.200 bpp 28.5 dB, 0.400 bpp 30.5 dB, 0.600 bpp 32.5 dB (Kodak), -50.0 % against JPEG 4:4:4" in text
    (record,) = (r for r in map(json.loads, run("models", "--json").stdout.splitlines()) if r["name"] == "m")
    assert record["rates"]["bd_rate_jpeg_444_percent"] == pytest.approx(-50)
    assert record["rates"]["points"][0] == {"quality": 1, "bpp": pytest.approx(0.2), "psnr": pytest.approx(28.5)}


def test_results_that_are_damaged_or_of_another_kind_do_not_stop_the_list(tmp_path, monkeypatch, model_file):
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path))
    shutil.copy(model_file, tmp_path / "m.safetensors")
    lines = ("m,0123456789abcdef,x,y\n", "m,,1,a,1,1,1,1,nan\n", "m,0123456789abcdef,1,a,1,1,1,1,nan\n")
    for text in ("", "a,b\n1,2\n", *(HEADER + line for line in lines)):
        (tmp_path / "results.csv").write_text(text)
        assert rates.curves(tmp_path) == {}
        assert run("models").exit_code == 0


def test_what_files_say_of_themselves_begins_no_line_and_moves_no_cursor(tmp_path, monkeypatch, model_file):
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path))
    model = weights.load(model_file)
    forged = "x\n* lc-s  the default\x1b[2J"
    odd = {"summary": forged, "origin": forged, "seconds": 10**400, "images": float("inf")}
    card = {**odd, "report": {"images": float("inf"), "rates": []}}
    weights.save(replace(model, card=card), tmp_path / "m.safetensors")
    config = {**model.config, "architecture": "a\x1b]0;owned\x07\n* b"}
    weights.save(replace(model, config=config), tmp_path / "n\x1b[1m.safetensors")
    (tmp_path / "results.csv").write_text(HEADER + "m," + '"' + 200_000 * "x")
    for arguments in (("models",), ("models", "show", "m")):
        result = run(*arguments)
        assert result.exit_code == 0, result.stderr
        assert "\x1b" not in result.stdout and "\x07" not in result.stdout
        assert not any(line.startswith(("* lc-s  the", "* b")) for line in result.stdout.splitlines())
    assert run("models", "show", "m", "--json").exit_code == 0


def test_row_without_a_number_leaves_the_other_rows(tmp_path):
    levels = {1: 30, 2: 32, 3: "", 4: "nan"}
    rows = [f"m,0123456789abcdef,{q},kodim01.png,8,8,1,{q},{psnr}" for q, psnr in levels.items()]
    (tmp_path / "results.csv").write_text(HEADER + "\n".join(["jpeg-444,,1,kodim01.png,8,8,1,1,", *rows]))
    assert rates.curves(tmp_path)["0123456789abcdef"].points == ((1, 1, 30), (2, 2, 32))


def test_rates_that_finalize_measured_stand_in_for_results():
    points = [{"quality": 1.0, "bpp": 0.2, "psnr": 30.0}, {"quality": 8.0, "bpp": 1.0, "psnr": 40.0}]
    curve = rates.of_card({"report": {"images": 6, "rates": points}})
    assert curve is not None
    assert curve.summary() == "0.200 bpp 30.0 dB, 1.000 bpp 40.0 dB (6 images)"
    for card in ({}, {"report": 1}, {"report": {"images": 1, "rates": [{}]}}, {"report": {"images": 1, "rates": []}}):
        assert rates.of_card(card) is None


# ---- show


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_show_tells_what_is_in_the_file(name, models):
    result = run("models", "show", f"tiny-{name}", "--json")
    assert result.exit_code == 0, result.output
    told, model = json.loads(result.stdout), weights.load(models[name])
    assert (told["id"], told["architecture"], told["N"], told["M"]) == (model.id, name, 16, 16)
    biases = [key for key in model.tensors if key.startswith("int.") and key.endswith(".bias")]
    assert set(told["integer_layers"]) == {key.removeprefix("int.").removesuffix(".bias") for key in biases}
    for layer in told["integer_layers"].values():
        assert 0 < layer["bound"] < 2**31 and layer["bits"] == 8 and 0 <= layer["weight_error"] < 0.05
    cost = told["kmac_per_pixel"]
    assert cost["decode"] == pytest.approx(cost["g_s"] + cost["entropy"], abs=0.002)
    text = run("models", "show", f"tiny-{name}").stdout
    assert model.id in text and ARCHITECTURES[name].source in text
    assert all(layer in text for layer in told["integer_layers"])


def test_debug_is_heard_before_and_behind_the_subcommand():
    for arguments in (["--debug", "show", "nonesuch"], ["show", "--debug", "nonesuch"]):
        result = run("models", *arguments)
        assert result.exit_code == 5 and "Traceback" in result.stderr
    assert "Traceback" not in run("models", "show", "nonesuch").stderr


def test_show_prints_the_written_card(tmp_path, monkeypatch, model_file):
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path))
    shutil.copy(model_file, tmp_path / "m.safetensors")
    (tmp_path / "m.md").write_text("# m\nlicence: CC0\n")
    assert "licence: CC0" in run("models", "show", "m").stdout
    assert "licence: CC0" not in run("models", "show", "m", "--no-text").stdout
    assert json.loads(run("models", "show", "m", "--json").stdout)["text"] == "# m\nlicence: CC0\n"
    assert_refused(run("models", "show", "nonesuch"), 5, "no model nonesuch")


def test_costs_are_those_that_counting_by_hand_gives():
    small = complexity(NetConfig("lc-s", 192, 320))
    block = 2 * 192 * 192 + 2 * 192 * 384 + 9 * 192  # of an MixingBlock at each of the positions at 1/8
    assert small.g_s == pytest.approx((9 * 192 * 320 / 256 + (3 * block + 192 * 192) / 64) / 1000)
    cost = complexity(NetConfig("mbt2018-mean", 128, 192))
    # convolutions 3 -> 128 -> 128 -> 128 -> 192 of 25 taps at 1/4, 1/16, 1/64, 1/256 of the pixels;
    # GDN behind the first three
    convolutions = 25 * 128 * (3 / 4 + 128 / 16 + 128 / 64 + 192 / 256)
    gdn = 128 * 128 * (1 / 4 + 1 / 16 + 1 / 64)
    assert cost.g_a * 1000 == pytest.approx(convolutions + gdn)
    assert cost.g_s * 1000 == pytest.approx(convolutions + gdn)
    context = complexity(NetConfig("mbt2018", 128, 192)).entropy - cost.entropy
    assert context * 256 * 1000 == pytest.approx(12 * 192 * 384 + 768 * 640 + 640 * 512 + 512 * 384)
    network = Network(NetConfig("mbt2018-mean", 8, 12))
    own = sum(p.numel() for name, p in network.named_parameters() if "quantiles" not in name)
    assert complexity(network.config).parameters == own


# ---- verify


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_whole_models_are_verified(name, models):
    done = verify(models[name])
    model = weights.load(models[name])
    assert (done.id, done.tensors) == (model.id, len(model.tensors))
    assert done.layers == sum(key.endswith(".shift") for key in model.tensors)
    assert (0 < done.bound < 2**31) == (name != "bmshj2018-factorized")


def test_damaged_models_are_named_and_the_others_go_on(tmp_path, monkeypatch, model_file):
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path))
    data = bytearray(model_file.read_bytes())
    (tmp_path / "good.safetensors").write_bytes(data)
    data[-5] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(data)
    (tmp_path / "cut.safetensors").write_bytes(data[:1000])
    (tmp_path / "text.safetensors").write_text("hello")
    result = run("models", "verify", "--all")
    assert result.exit_code == 5
    assert "good.safetensors: good: id " in result.stdout and str(weights.shipped_folder()) in result.stdout
    errors = [line for line in result.stderr.splitlines() if "error" in line]
    assert len(errors) == 3
    for name in ("flipped", "cut", "text"):
        assert any(f"{name}.safetensors" in line for line in errors)
        assert_refused(run("models", "verify", name), 5, f"{name}.safetensors")
    records = [json.loads(line) for line in run("models", "verify", "--all", "--json").stdout.splitlines()]
    named = {Path(r["path"]).name: r["ok"] for r in records if Path(r["path"]).parent == tmp_path}
    assert named == {"good.safetensors": True, "flipped.safetensors": False, "cut.safetensors": False,
                     "text.safetensors": False}  # fmt: skip
    assert run("models", "verify", "good", "--quiet").output == ""


@pytest.mark.parametrize("damage", ["overflow", "table", "network", "bound"])
def test_what_only_looks_right_is_found(damage, model_file, tmp_path):
    """With an id that fits, as whoever makes a model file makes that as well."""
    model = weights.load(model_file)
    tensors, entropy = dict(model.tensors), json.loads(json.dumps(model.entropy))
    if damage == "overflow":
        tensors["int.h_s.1.bias"] = np.full_like(tensors["int.h_s.1.bias"], 2**31 - 1)
    elif damage == "table":
        cdfs = tensors["tables.gaussian.cdfs"].copy()
        cdfs[1] = cdfs[2]
        tensors["tables.gaussian.cdfs"] = cdfs
    elif damage == "network":
        del tensors["g_s.3.gamma"]
    else:
        entropy["layers"]["h_s"][0]["bound"] -= 1
    path = tmp_path / "hostile.safetensors"
    weights.save(replace(model, tensors=tensors, entropy=entropy), path)
    with pytest.raises(ModelError, match="hostile"):
        verify(path)


def test_verify_needs_to_know_what():
    assert_refused(run("models", "verify"), 2, "either names of models or --all")
    assert_refused(run("models", "verify", "x", "--all"), 2, "either names of models or --all")
    assert_refused(run("models", "verify", "nonesuch"), 5, "no model nonesuch")
    assert_refused(run("models", "--json", "verify", "--all"), 2, "--json belongs behind verify")


# ---- remove


@pytest.fixture
def fetched(model_file) -> Path:
    path = weights.cache_folder() / "fetched.safetensors"
    shutil.copy(model_file, path)
    return path


def test_model_in_the_users_folder_is_removed(fetched):
    result = run("models", "remove", "fetched", "--yes")
    assert (result.exit_code, result.stdout) == (0, f"{fetched} removed\n")
    assert not fetched.exists()


def test_file_that_is_named_twice_is_removed_once(fetched, monkeypatch):
    id_ = weights.info(fetched).id
    monkeypatch.setenv(weights.ENVIRONMENT, f"{fetched.parent}/../{fetched.parent.name}")  # the same folder
    result = run("models", "remove", "fetched", id_, "--yes")
    assert (result.exit_code, result.stdout) == (0, f"{fetched} removed\n"), result.output
    assert not fetched.exists()


def test_user_is_asked_where_there_is_one(fetched):
    result = run("models", "remove", "fetched", input="y\n")
    assert_refused(result, 2, "nobody is there to be asked", hint="--yes")
    assert fetched.exists()

    for answer, code, left in ((b"n\n", 1, True), (b"y\n", 0, False)):
        terminal, other = pty.openpty()
        command = [sys.executable, "-m", "lcodec", "models", "remove", "fetched"]
        process = subprocess.Popen(command, stdin=other, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        os.write(terminal, answer)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == code and b"will not decode any more" in stderr
        assert fetched.exists() == left
        for descriptor in (terminal, other):
            os.close(descriptor)


def test_models_elsewhere_are_not_removed(models, fetched):
    shipped = weights.shipped_folder() / f"{weights.DEFAULT_MODEL}{weights.SUFFIX}"
    result = run("models", "remove", weights.DEFAULT_MODEL, "--yes")
    assert_refused(result, 5, str(shipped), hint="came with the package")
    assert_refused(run("models", "remove", "tiny-mbt2018", "fetched", "--yes"), 5, "tiny-mbt2018", hint="by hand")
    assert_refused(run("models", "remove", "nonesuch", "--yes"), 5, "no model nonesuch")
    assert shipped.exists() and models["mbt2018"].exists() and fetched.exists()


def test_remove_takes_the_users_model_and_not_another_of_its_name(models, fetched):
    twin = fetched.with_name(models["mbt2018"].name)
    shutil.copy(models["mbt2018"], twin)
    assert run("models", "remove", "tiny-mbt2018", "--yes").exit_code == 0
    assert models["mbt2018"].exists() and not twin.exists()


def test_remove_tells_of_models_that_lose_what_they_share(tmp_path, monkeypatch, model_file):
    base, folder = weights.load(model_file), weights.cache_folder()
    other = replace(base, tensors={**base.tensors, "log_gain": base.tensors["log_gain"] + np.float32(1)})
    weights.save(base, folder / "one.safetensors")
    weights.save(other, folder / "two.safetensors", base=base)
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path / "first"))
    (tmp_path / "first").mkdir()
    # Another model of that name comes first, and is none of its kind.
    weights.save(other, tmp_path / "first" / "one.safetensors")
    result = run("models", "remove", "--yes", "one")
    assert result.exit_code == 0 and "two.safetensors shares tensors with what is removed" in result.stderr
    weights.save(base, folder / "one.safetensors")
    weights.save(base, folder / "copy.safetensors")
    assert "shares tensors" not in run("models", "remove", "--yes", "one").stderr  # the copy does as well


def test_list_and_pull_names_do_not_load_torch():
    for arguments in ("'models'", "'models', 'pull', '--list'"):
        code = f"import sys; from lcodec.cli import cli; cli([{arguments}], standalone_mode=False)"
        check = f"{code}; sys.exit('torch' in sys.modules)"
        result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
        assert result.returncode == 0, result.stderr


def test_threads_are_left_alone():
    before = torch.get_num_threads()
    run("models", "verify", "--all", "--quiet")
    assert torch.get_num_threads() == before
