"""What finalize promises: proven integers or a refusal, one id for one input, and a report that is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lcodec import cli, weights
from lcodec.checkpoint import network_of_model
from lcodec.codec import Codec
from lcodec.container import unpack
from lcodec.entropy.intmodel import IntegerEntropyModel
from lcodec.entropy.tables import GAUSSIAN, SCALE_SPREAD, scale_table
from lcodec.errors import ModelError
from lcodec.finalize import finalize, freeze
from lcodec.finalize.assemble import add_tables, finalize_network
from lcodec.finalize.calibrate import steady
from lcodec.finalize.freeze import table_qualities
from lcodec.finalize.quantize import FloatLayer, quantize_layer
from lcodec.nets import ARCHITECTURES, NetConfig, Network
from lcodec.zoo.verify import SUM_MAX, layer_bound, layer_names
from tests.conftest import random_network
from tests.test_cli_errors import assert_refused

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


# ---- refused


def test_layer_whose_rounded_sums_could_overflow_is_refused():
    """69,500 weights of 0.51 steps each: rounded they are whole steps, and their sum is beyond int32."""
    layer = FloatLayer("conv", np.ones((1, 69_500, 1, 1)), np.zeros(1), 1.0)
    with pytest.raises(ModelError, match=r"could reach 22\d{8}, int32 ends at 2147483647"):
        quantize_layer(layer, 1.0, 1e6)


@pytest.mark.parametrize("value", [1e15, -1e15])
def test_checkpoint_whose_means_fit_no_integers_is_refused(training_checkpoint, photo, value):
    state = torch.load(training_checkpoint, weights_only=True)
    state["ema"]["h_s.4.bias"][-1] = value
    torch.save(state, "wild.pt")
    with pytest.raises(ModelError, match="no integer form"):
        finalize(Path("wild.pt"), [photo[:64, :64]])
    arguments = ["finalize", "wild.pt", "-o", "m.safetensors"]
    assert_refused(CliRunner().invoke(cli.cli, arguments, prog_name="lcodec"), 5, "no integer form")
    assert not Path("m.safetensors").exists()


@pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.has_hyperprior])
@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_proof_holds_or_the_network_is_refused_whatever_the_weights(name, scale, photo):
    network = random_network(name, 8, 8)
    with torch.no_grad():
        for part, p in network.named_parameters():
            if part.startswith(("h_s.", "entropy_parameters.", "context_prediction.")):
                p.mul_(scale if "0" in part else 1)
    try:
        model = finalize_network(network, {}, [photo[:64, :64]]).model
    except ModelError as e:
        assert scale > 1 and "no integer form" in str(e)  # what no shift can express is refused
        return
    assert all(0 <= layer_bound(model, layer) <= SUM_MAX for layer in layer_names(model))


# ---- close


def test_few_large_weights_leave_the_others_of_their_channel_their_precision():
    """A layer that hands its inputs on and adds a little to them: int8 with the ones at 127 would make that 0 and 1."""
    rng = np.random.default_rng(0)
    little = 0.005 * rng.standard_normal((32, 64, 1, 1))
    weight = little + np.eye(32, 64)[:, :, None, None]
    made = {
        name: quantize_layer(FloatLayer("conv", w, np.zeros(32), 1.0), 1.0, 1.0)
        for name, w in (("little", little), ("both", weight))
    }
    assert made["little"].tensors["weight"].dtype == np.int8
    assert made["both"].tensors["weight"].dtype == np.int16
    for layer, w in ((made["little"], little), (made["both"], weight)):
        error = layer.tensors["weight"] * layer.weight_scale[:, :1, None, None] - w
        assert np.sqrt(np.mean(error**2)) < 0.1 * np.sqrt(np.mean(little**2))
        assert layer.bound <= SUM_MAX


@pytest.mark.parametrize("exponent", range(-12, 3))
def test_factors_that_are_powers_of_two_stay_within_16_bits(exponent):
    """2^16 itself is one more than the file has room for."""
    layer = FloatLayer("conv", np.full((1, 1, 1, 1), 127 * 2.0**-7), np.zeros(1), 0.01)
    made = quantize_layer(layer, 2.0**-8, 2.0 ** (-15 - exponent) * 2.0**-8)
    mult, shift = int(made.tensors["mult_pos"][0]), int(made.tensors["shift"][0])
    assert 1 << 15 <= mult < 1 << 16
    units = int(made.tensors["weight"][0, 0, 0, 0]) * mult * 2.0**-shift
    assert units == pytest.approx(127 * 2.0 ** (-7 + 15 + exponent), rel=1e-3)


def test_integers_of_16_bits_go_through_the_file_and_decode(photo):
    network = random_network("mbt2018", 8, 8)
    with torch.no_grad():
        for layer in (network.entropy_parameters[0], network.entropy_parameters[2]):
            layer.weight.mul_(0.1)
            layer.weight[:, :, 0, 0].diagonal().add_(1)
    model = finalize_network(network, {}, [photo[:64, :64]]).model
    weight = model.tensors["int.entropy_parameters.0.weight"]
    assert weight.dtype == np.int16 and weight.max() > 127
    weights.save(model, Path("m.safetensors"), compress=["*"])
    assert weights.load(Path("m.safetensors")).id == model.id
    codec = Codec(Path("m.safetensors"), "cpu", 1)
    encoded = codec.encode(photo[:64, :128], 4)
    assert codec.decode(encoded.data).pixels.shape == (64, 128, 3)  # a wrong table for one symbol ends in Corrupt


# ---- the same


def test_id_depends_neither_on_threads_nor_on_the_processors_instructions(photo):
    """As far as it can: ranges are kept in coarse steps, so that a float rounding does not reach the integers."""
    networks = {name: random_network(name, 8, 8) for name in ("bmshj2018-factorized", "mbt2018", "lc-s")}
    torch.save({name: network.state_dict() for name, network in networks.items()}, "states.pt")
    code = (
        "import sys, torch, numpy as np, PIL.Image\n"
        "from lcodec.finalize.assemble import finalize_network\n"
        "from tests.conftest import PHOTO, random_network\n"
        "photo = np.asarray(PIL.Image.open(PHOTO).convert('RGB'))[:128, :192]\n"
        "for name, state in torch.load('states.pt', weights_only=True).items():\n"
        "    network = random_network(name, 8, 8)\n"
        "    network.load_state_dict(state)\n"
        "    print(finalize_network(network, {}, [photo]).model.id)\n"
    )
    other = {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2"}
    environment = {**os.environ, **other, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    here = [finalize_network(network, {}, [photo[:128, :192]]).model.id for network in networks.values()]
    assert result.stdout.split() == here


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "mbt2018-mean", "lc-s"])
def test_what_is_coded_lies_where_training_rounded_to(name, photo):
    """Whole steps beside the medians that the network was trained with, near those of the density."""
    network = random_network(name, 8, 8)
    with torch.no_grad():
        for biases in network.entropy_bottleneck.biases:
            biases += torch.randn(biases.shape, generator=torch.Generator().manual_seed(3))
        network.entropy_bottleneck.quantiles[:, 0, 1] = 0.25
    prior, bits = ("y", "fy") if name == "bmshj2018-factorized" else ("z", "fz")
    model = finalize_network(network, {}, [photo[:128, :128]]).model
    medians = model.tensors[f"tables.{prior}.medians"] * 2.0 ** -model.entropy[bits]
    assert np.array_equal(medians % 1, np.full_like(medians, 0.25)) and len(np.unique(medians)) > 2
    for number, quality in enumerate(model.table_qualities):
        step = network.prior_scale(quality)[0]
        at = torch.from_numpy(medians[number].astype(np.float32)) * step
        below, above = (network.entropy_bottleneck.logits(v[:, None, None]) for v in (at - step, at + step))
        assert bool((below < 0).all() and (above > 0).all())


def test_sets_of_tables_are_finer_where_nothing_else_knows_the_scale():
    for name in ARCHITECTURES:
        sets = table_qualities(NetConfig(name, 8, 8, (1.0, 2.0, 8.0)))
        assert sets[0] == 1.0 and sets[-1] == 8.0
        assert np.allclose(np.diff(sets), 1 / 16 if name == "bmshj2018-factorized" else 1 / 2)
        assert table_qualities(NetConfig(name, 8, 8, (4.0,))) == [4.0]


def test_kept_range_is_at_least_the_one_seen_and_not_much_more():
    rng = np.random.default_rng(0)
    for value in np.exp(rng.uniform(-12, 12, 1000)):
        assert value <= steady(value) * (1 + 1e-12) and steady(value) < value * 1.0906
    assert len({steady(v) for v in (3.0, 3.0 * (1 + 1e-6), 3.0 * (1 - 1e-6))}) == 1
    assert steady(0.0) == 0.0


def test_report_and_its_images_do_not_change_the_model(training_checkpoint, photo):
    images = [photo[:64, :64], photo[64:128, :64], photo[:64, 64:128]]
    plain = finalize(training_checkpoint, images)
    told = finalize(training_checkpoint, images, report_images=[photo[200:300, :100]], compare_half=True)
    assert plain.model.id == told.model.id
    assert plain.half_rates == [] and len(told.half_rates) == len(told.rates) == 2
    assert finalize(training_checkpoint, images[:1], compare_half=True).half_rates == []


# ---- the report


def test_report_is_what_the_codec_does(photo, tmp_path, training_checkpoint):
    image = photo[100:164, 200:328]
    done = finalize(training_checkpoint, [photo[:64, :64], photo[64:128, :64]], report_images=[image])
    weights.save(done.model, tmp_path / "m.safetensors")
    codec = Codec(tmp_path / "m.safetensors", "cpu", 1)
    told = done.model.card["report"]
    assert told["images"] == 1 and len(told["rates"]) == len(done.rates) == 2
    for rate, row in zip(done.rates, told["rates"], strict=True):
        data = codec.encode(image, rate.quality).data
        payload = sum(len(s) for s in unpack(data).slices)
        error = np.mean((codec.decode(data).pixels.astype(float) - image) ** 2)
        assert rate.integer_bits == 8 * payload
        assert rate.psnr == pytest.approx(10 * np.log10(255**2 / error), abs=0.02)
        assert row == {"quality": rate.quality, "bpp": round(rate.integer_bpp, 4), "psnr": round(rate.psnr, 2)}
    assert done.model.card["calibration"] == {"images": 2, "pixels": 2 * 64 * 64}


@pytest.mark.parametrize("spread", [GAUSSIAN, SCALE_SPREAD])
def test_tables_of_y_are_those_that_fit_its_symbols(spread):
    rng = np.random.default_rng(0)
    indexes = rng.integers(4, 40, 100_000).astype(np.uint16)
    ratios, weights_ = zip(*spread, strict=True)
    scales = scale_table()[indexes] * rng.choice(ratios, indexes.size, p=weights_)
    symbols = np.rint(scales * rng.standard_normal(indexes.size)).astype(np.int32)
    assert freeze.fitting_spread([(symbols[:50_000], indexes[:50_000]), (symbols[50_000:], indexes[50_000:])]) == spread


def test_a_trained_network_gets_tables_of_a_mixture(photo, monkeypatch):
    network = network_of_model(weights.load(weights.find("lc-s")))
    chosen = []
    for spread in (SCALE_SPREAD, GAUSSIAN):
        done = finalize_network(network, {}, [photo[:192, :192]])
        assert done.spread == spread
        names = [f"tables.gaussian.{part}" for part in ("cdfs", "sizes", "offsets")]
        expected: dict[str, np.ndarray] = {}
        add_tables(expected, "tables.gaussian", freeze.tables_of_y(spread))
        assert all(np.array_equal(done.model.tensors[name], expected[name]) for name in names)
        chosen.append(done)
        monkeypatch.setattr(freeze, "fitting_spread", lambda coded: [*coded] and GAUSSIAN)
    mixture, gaussian = chosen
    assert mixture.model.id != gaussian.model.id
    assert {k for k in mixture.model.tensors if "gaussian" not in k} == {
        k for k in gaussian.model.tensors if "gaussian" not in k
    }
    coded = [
        IntegerEntropyModel(d.model.integers(), d.model.entropy).encode_slice(y, z)[0]
        for y, z in [_latents(network, photo[192:384, :192])]
        for d in chosen
    ]
    assert len(coded[0]) < len(coded[1])


def _latents(network: Network, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y and z at quality 4, 16 fraction bits, channels last."""
    x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.no_grad():
        y, z = (v[0].permute(1, 2, 0).mul(65536).round().int().contiguous().numpy() for v in network.analyse(x, 4.0))
    return y, z


def test_too_little_calibration_shows_in_the_report(photo, tmp_path):
    """Calibrated on darkness every second image, activations saturate on the others: half of the images costs bits."""
    network = random_network("mbt2018-mean", 8, 8)
    dark, bright = np.zeros((64, 64, 3), np.uint8), photo[:128, :128]
    with torch.no_grad():
        network.h_a[-1].bias.zero_()
        network.h_a[-1].weight.mul_(5)
    state = {
        "format": "lcodec-checkpoint-1",
        "config": network.config.to_json(),
        "ema": network.state_dict(),
        "network": network.state_dict(),
    }
    torch.save(state, "random.pt")
    done = finalize(Path("random.pt"), [dark, bright] * 2, report_images=[bright], compare_half=True)
    half = finalize_network(network, {}, [dark, dark]).model
    whole = [r.integer_bits for r in done.rates]
    assert [r.integer_bits for r in done.half_rates] != whole
    again = finalize(Path("random.pt"), [dark, dark], report_images=[bright])
    assert [r.integer_bits for r in again.rates] == [r.integer_bits for r in done.half_rates]
    assert half.id == again.model.id


def test_command_tells_calibration_and_its_effect(training_checkpoint, photo, tmp_path):
    import PIL.Image

    Path("photos").mkdir()
    for i in range(3):
        PIL.Image.fromarray(photo[64 * i : 64 * i + 64, :80]).save(f"photos/{i}.png")
    arguments = ["finalize", training_checkpoint, "--calibration", "photos", "-o", "m.safetensors"]
    result = CliRunner().invoke(cli.cli, [str(a) for a in arguments], prog_name="lcodec")
    assert result.exit_code == 0, result.output
    assert "calibrated on 3 images, 0.0 megapixels of photos" in result.stdout
    assert "with every second of them it would code " in result.stdout
    told = CliRunner().invoke(cli.cli, [*map(str, arguments), "--force", "--json"], prog_name="lcodec")
    used = json.loads(told.stdout)["calibration"]
    assert (used["images"], used["pixels"]) == (3, 3 * 64 * 80)
    assert [row["quality"] for row in used["half"]] == [1, 8]
    assert all(abs(row["percent"]) < 20 and row["integer_bpp"] > 0 for row in used["half"])


def test_half_precision_keeps_the_integers(training_checkpoint, photo):
    full, half = (finalize(training_checkpoint, [photo[:64, :64]], fp16=fp16).model for fp16 in (False, True))
    assert full.id != half.id
    assert full.entropy == half.entropy
    for key, value in full.tensors.items():
        if value.dtype.kind in "iu":
            assert np.array_equal(value, half.tensors[key])
    assert half.tensors["g_s.0.weight"].dtype == np.float16
    assert replace(half, card={}).id == half.id
