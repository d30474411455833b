"""Model files that share tensors with another: the same model, found or refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import save_file

from lcodec import container, decoder, packing, weights
from lcodec.cli import cli
from lcodec.codec import Codec
from lcodec.errors import ModelError


@pytest.fixture(scope="module")
def base(models):
    return weights.load(models["mbt2018-mean"])


@pytest.fixture(scope="module")
def relative(base):
    """Another model with the transforms of the base."""
    gains = {k: base.tensors[k] + np.float32(0.25) for k in ("log_gain", "log_inverse_gain")}
    return replace(base, tensors={**base.tensors, **gains}, name="relative")


@pytest.fixture
def pair(base, relative, tmp_path, monkeypatch):
    """base.safetensors and the relative that shares with it, in a folder of their own; no other models."""
    monkeypatch.setenv(weights.ENVIRONMENT, "")
    weights.save(base, tmp_path / "base.safetensors")
    weights.save(relative, tmp_path / "relative.safetensors", base=weights.load(tmp_path / "base.safetensors"))
    return tmp_path / "base.safetensors", tmp_path / "relative.safetensors"


@pytest.mark.parametrize("compress", [(), ("*",)])
def test_sharing_model_is_the_same_model(base, relative, pair, photo, compress):
    weights.save(relative, pair[1], base=base, compress=compress)
    assert pair[1].stat().st_size < pair[0].stat().st_size / 3
    loaded = weights.load(pair[1])
    assert loaded.id == relative.id != base.id
    assert loaded.tensors.keys() == relative.tensors.keys()
    shares = weights.info(pair[1]).base
    assert shares is not None and (shares.id, shares.name) == (base.id, base.name)
    assert set(shares.tensors) == relative.tensors.keys() - {"log_gain", "log_inverse_gain"}
    data = Codec(pair[1], "cpu", 1).encode(photo[:64, :96], 1.0).data
    whole = pair[1].with_name("whole.safetensors")
    weights.save(relative, whole)
    assert Codec(whole, "cpu", 1).encode(photo[:64, :96], 1.0).data == data
    whole.unlink()
    y_hat = decoder.decode_latents(container.unpack(data), loaded, decoder.integer_model(loaded))
    assert y_hat.shape[:2] == (4, 8)


def test_base_beside_the_file_comes_first(base, relative, pair, tmp_path, monkeypatch):
    """Where another copy on the search path is broken, say."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    wrong = bytearray(pair[0].read_bytes())
    wrong[-100] ^= 1
    (elsewhere / "base.safetensors").write_bytes(wrong)
    monkeypatch.setenv(weights.ENVIRONMENT, str(elsewhere))
    assert weights.load(pair[1]).id == relative.id
    pair[0].unlink()
    with pytest.raises(ModelError, match="does not match its id, or not with the"):
        weights.load(pair[1])
    shutil.copy(pair[1], elsewhere / "relative.safetensors")
    weights.save(base, elsewhere / "base.safetensors")
    assert weights.load(pair[1]).id == relative.id  # from the search path
    (tmp_path / "base.safetensors").write_bytes(wrong)
    assert weights.load(pair[1]).id == relative.id  # a damaged copy beside it hides no whole one


def test_missing_base_is_named(base, pair):
    pair[0].unlink()
    with pytest.raises(ModelError, match=f"base .{base.id[:16]}., which is not there") as error:
        weights.load(pair[1])
    assert "export" in str(error.value.hint)
    assert weights.info(pair[1]).name == "relative"  # it can still be listed


def test_what_shares_is_no_base(pair, relative):
    with pytest.raises(ModelError, match="shares tensors itself"):
        weights.load_base(pair[1])
    with pytest.raises(ModelError, match="nothing to share"):
        weights.pack(relative, base=relative)
    with pytest.raises(ModelError, match="nothing to share"):
        weights.pack(relative, base=replace(relative, tensors={}))


def test_shared_tensors_may_have_other_names(base, tmp_path, monkeypatch):
    """As those of cheng2020-attn have, behind attention that cheng2020-anchor does not have."""
    monkeypatch.setenv(weights.ENVIRONMENT, "")
    moved = {**base.tensors, "h_a.7.weight": base.tensors["h_a.0.weight"], "g_a.1.beta": base.tensors["g_a.3.beta"]}
    model = replace(base, tensors=moved, name="moved")
    weights.save(base, tmp_path / "base.safetensors")
    weights.save(model, tmp_path / "moved.safetensors", base=base)
    shares = weights.info(tmp_path / "moved.safetensors").base
    assert shares is not None and shares.tensors["h_a.7.weight"] == "h_a.0.weight"
    assert shares.tensors["h_a.0.weight"] == "h_a.0.weight"
    assert weights.load(tmp_path / "moved.safetensors").id == model.id


def _rewrite(path, change):
    with safe_open(path, framework="numpy") as f:
        metadata = json.loads(f.metadata()["lcodec"])
        tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - not a mapping
    change(metadata, tensors)
    save_file(tensors, path, {"lcodec": json.dumps(metadata)})


HOSTILE = {
    "no object": lambda m, t: m.__setitem__("base", ["x"]),
    "no id": lambda m, t: m["base"].pop("id"),
    "id that is no hex": lambda m, t: m["base"].__setitem__("id", "z" * 64),
    "short id": lambda m, t: m["base"].__setitem__("id", "ab"),
    "number for a name": lambda m, t: m["base"].__setitem__("name", 1),
    "tensors that are none": lambda m, t: m["base"].__setitem__("tensors", ["g_a.0.weight"]),
    "a number for a tensor": lambda m, t: m["base"]["tensors"].__setitem__("g_a.0.weight", 1),
    "a tensor of another name": lambda m, t: m["base"]["tensors"].__setitem__("g_a.0.weight", "g_a.2.weight"),
    "tensors that the base has not": lambda m, t: m["base"]["tensors"].__setitem__("g_a.99.weight", "g_a.99.weight"),
    "a tensor less": lambda m, t: m["base"]["tensors"].pop("g_a.0.weight"),
    "a tensor in both": lambda m, t: t.__setitem__("g_a.0.weight", np.zeros(3, np.float32)),
    "itself as base": lambda m, t: m["base"].__setitem__("id", m["id"]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_false_base_is_refused(pair, name):
    _rewrite(pair[1], HOSTILE[name])
    with pytest.raises(ModelError):
        weights.load(pair[1])


def test_base_that_shares_itself_is_not_followed(pair, base):
    """No chains, and no circles."""
    _rewrite(pair[0], lambda m, t: m.__setitem__("base", {"id": base.id, "name": "me", "tensors": {}}))
    with pytest.raises(ModelError, match="not there"):
        weights.load(pair[1])


def test_one_tensor_under_many_names_counts_each_time(pair, monkeypatch):
    """Every name becomes a tensor of its own sooner or later: 23 kB took gigabytes."""
    monkeypatch.setattr(packing, "MAX_BYTES", 1 << 25)
    many = {f"g_a.many{i}": "g_a.2.weight" for i in range(2000)}
    _rewrite(pair[1], lambda m, t: m["base"]["tensors"].update(many))
    with pytest.raises(ModelError, match="more than any model needs"):
        weights.load(pair[1])


# ---- as a user does it


def run(*args):
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_export_makes_a_file_that_stands_alone_and_back(pair, relative, tmp_path):
    whole = tmp_path / "alone" / "relative.safetensors"
    whole.parent.mkdir()
    result = run("models", "export", pair[1], "-o", whole)
    assert result.exit_code == 0 and relative.id[:16] in result.stdout
    assert weights.info(whole).base is None and weights.load(whole).id == relative.id
    assert run("models", "export", pair[1], "-o", whole).exit_code == 4  # exists
    assert run("models", "export", whole, "-o", whole, "--force").exit_code == 4  # itself
    again = tmp_path / "again.safetensors"
    result = run("models", "export", whole, "-o", again, "--share", pair[0], "--pack", "--json")
    told = json.loads(result.stdout)
    assert (told["id"], told["shares_with"], told["bytes"]) == (
        relative.id,
        weights.info(pair[0]).id,
        again.stat().st_size,
    )
    assert weights.load(again).id == relative.id and told["bytes"] < whole.stat().st_size / 3
    assert run("models", "export", whole, "-o", tmp_path / "x.safetensors", "--share", pair[1]).exit_code == 5
    assert run("models", "export", whole, "-o", tmp_path / "x.pt").exit_code == 2


def test_what_tensors_are_shared_with_is_not_overwritten(pair, training_checkpoint, tmp_path):
    before = pair[0].read_bytes()
    for arguments in (
        ("models", "export", pair[1], "-o", pair[0], "--share", pair[0]),
        ("models", "export", pair[1], "-o", pair[0]),
        ("finalize", training_checkpoint, "-o", pair[0], "--share", pair[0]),
    ):
        result = run(*arguments, "--force")
        assert result.exit_code == 4 and "is what tensors are shared with" in result.stderr
    assert pair[0].read_bytes() == before
    other = tmp_path / "other.safetensors"
    other.write_bytes(before)
    result = run("models", "export", pair[1], "-o", other, "--force")
    assert result.exit_code == 0 and "was another model" in result.stderr
    assert f"{pair[1]} shares tensors" not in result.stderr  # pair[0] is still there
    arguments = ("finalize", training_checkpoint, "-o", pair[0], "--force")
    result = run(*arguments)
    assert result.exit_code == 0 and f"{pair[1]} shares tensors with the one that was replaced" in result.stderr
    result = run(*arguments)  # the same model again
    assert result.exit_code == 0 and "note" not in result.stderr
    # Tensors that are shared need no packing, and are there all the same.
    options = ("--share", pair[0], "--pack-only", "g_a.*", "--force")
    assert run("models", "export", other, "-o", pair[1], *options).exit_code == 0


def test_show_and_verify_tell_of_the_base(pair, base):
    shown = run("models", "show", pair[1], "--no-text")
    assert f"tensors with base ({base.id[:16]})" in " ".join(shown.stdout.split())
    assert json.loads(run("models", "show", pair[1], "--json").stdout)["shares_with"] == base.id
    assert run("models", "verify", pair[1]).exit_code == 0
    pair[0].unlink()
    result = run("models", "verify", pair[1])
    assert result.exit_code == 5 and "not there" in result.stderr


def test_finalize_shares_what_is_the_same(training_checkpoint, photo, tmp_path, monkeypatch):
    import PIL.Image

    monkeypatch.setenv(weights.ENVIRONMENT, "")
    calibration = tmp_path / "photos"
    calibration.mkdir()
    PIL.Image.fromarray(photo[:64, :64]).save(calibration / "a.png")
    whole, shared = tmp_path / "whole.safetensors", tmp_path / "shared.safetensors"
    options = ["--calibration", calibration, "--json"]
    assert run("finalize", training_checkpoint, "-o", whole, *options).exit_code == 0
    result = run("finalize", training_checkpoint, "-o", shared, *options, "--share", whole)
    assert result.exit_code == 5 and "nothing to share" in result.stderr  # the very same model
    result = run("finalize", training_checkpoint, "-o", shared, *options, "--fp16", "--share", whole)
    assert result.exit_code == 0, result.stderr
    shares = weights.info(shared).base
    assert shares is not None and any(name.startswith("int.") for name in shares.tensors)
    assert not any(name.startswith("g_a.") and name.endswith(".weight") for name in shares.tensors)
    assert weights.load(shared).id == json.loads(result.stdout)["id"]
