"""The networks against vectors made with CompressAI 1.2.8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lcodec import checkpoint, weights
from lcodec.checkpoint import network_of_model
from lcodec.codec import Codec
from lcodec.container import unpack
from lcodec.entropy.tables import GAUSSIAN, SCALE_SPREAD, gaussian_tables, scale_table
from lcodec.errors import ModelError
from lcodec.finalize.assemble import finalize_network
from lcodec.image import psnr
from lcodec.nets import ARCHITECTURES, NetConfig, Network, compressai
from lcodec.nets.compressai import stored_tables
from lcodec.nets.layers import AttentionUnit
from lcodec.nets.likelihood import add_noise, gaussian_likelihood, round_ste
from tests.conftest import less_memory_than, random_network

VECTORS = Path(__file__).parents[1].parent / "shared" / "vectors" / "compressai"


@pytest.fixture(params=[name for name in ARCHITECTURES if name != "lc-s"])
def vector(request):
    path = VECTORS / f"{request.param}.pth.tar"
    if not path.exists():
        pytest.skip(f"no reference vectors at {VECTORS}")
    checkpoint = torch.load(path, weights_only=True)
    return request.param, checkpoint, dict(np.load(path.with_name(f"{request.param}.npz")))


def close(actual: torch.Tensor, expected: np.ndarray) -> bool:
    """Within 1e-4 relative of the largest value."""
    return float(np.abs(actual.numpy() - expected).max()) <= 1e-4 * float(np.abs(expected).max())


def test_compressai_checkpoint_gives_the_reference_outputs(vector):
    name, checkpoint, expected = vector
    network, _ = compressai.from_state(checkpoint)
    assert network.config.architecture == name
    with torch.no_grad():
        x = torch.from_numpy(expected["x"])
        y, z = network.analyse(x, 0.0)
        out = network(x)
    assert close(y, expected["y"])
    assert close(out.x_hat, expected["x_hat"])
    assert close(out.likelihoods_y, expected["likelihoods_y"])
    if z is not None:
        assert close(z, expected["z"])
        assert close(out.likelihoods_z, expected["likelihoods_z"])


@pytest.mark.parametrize("generation", ["_matrices.{}", "_matrix{}", "matrices.{}"])
def test_every_generation_of_key_names_loads(vector, generation):
    _, checkpoint, _ = vector
    reference = compressai.unwrap(checkpoint)
    forms = {"matrices": generation, "biases": generation.replace("matrices", "biases").replace("matrix", "bias")}
    forms["factors"] = generation.replace("matrices", "factors").replace("matrix", "factor")
    renamed = {}
    for key, value in reference.items():
        for stem, form in forms.items():
            if key.startswith(f"entropy_bottleneck.{stem}."):
                key = "entropy_bottleneck." + form.format(key[-1])
        renamed["module." + key.replace(".skip.", ".downsample.")] = value
    network, state = compressai.from_state({"epoch": 3, "state_dict": renamed, "loss": torch.tensor(1.0)})
    assert state.keys() == reference.keys()
    for key, value in network.state_dict().items():
        if key in reference:
            assert torch.equal(value, reference[key])


def test_missing_and_unfit_tensors_are_named(vector):
    _, checkpoint, _ = vector
    state = compressai.unwrap(checkpoint)
    broken = {k: v for k, v in state.items() if k != "g_s.0.weight" and not k.startswith("g_s.0.conv")}
    with pytest.raises(ModelError, match="lacks"):
        compressai.from_state(broken)
    key = "entropy_bottleneck.biases.0"
    with pytest.raises(ModelError, match=key):
        compressai.from_state({**state, key: state[key][:-1]})
    with pytest.raises(ModelError, match="not a checkpoint"):
        compressai.from_state({"fc.weight": torch.zeros(3, 3)})


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_variable_rate_network_trains_and_interpolates_gains(name):
    torch.manual_seed(1)
    network = Network(NetConfig(name, 8, 8, (1.0, 2.0, 3.0)))
    with torch.no_grad():
        network.log_gain.copy_(torch.log(torch.tensor([1.0, 4.0, 16.0]))[:, None].expand(-1, 8))
    assert torch.allclose(network.gain(1.5), torch.full((1, 8), 2.0))
    assert torch.allclose(network.gain(torch.tensor([3.0, 2.0]))[:, 0], torch.tensor([16.0, 4.0]))
    out = network(torch.rand(2, 3, 64, 64), torch.tensor([1.0, 2.5]), mode="ste")
    assert out.x_hat.shape == (2, 3, 64, 64) and out.bits().shape == (2,)
    (out.bits().mean() + out.x_hat.square().mean()).backward()
    unused = {n for n, p in network.named_parameters() if p.requires_grad and p.grad is None}
    assert unused == {"entropy_bottleneck.quantiles"}


@pytest.mark.parametrize("name", ["mbt2018-mean", "mbt2018", "lc-s"])
def test_estimate_of_a_validation_is_what_files_take(name, photo):
    """Mode "coder", on which all that a validation tells rests, against the file and the picture of the codec."""
    codec = Codec(weights.shipped_folder() / f"{name}{weights.SUFFIX}", "cpu", 1)
    pixels = photo[64:256, 256:512]
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    network = network_of_model(codec.file)
    for quality in (2.0, 6.0):
        with torch.inference_mode():
            out = network(x, quality, mode="coder")
        result = codec.encode(pixels, quality)
        payload = sum(len(s) for s in unpack(result.data).slices)
        assert 8 * payload == pytest.approx(float(out.bits()) + 128, rel=0.005)  # 128: the state of the coder
        level = -10 * float(torch.log10((out.x_hat.clamp(0, 1) - x).square().mean()))
        assert level == pytest.approx(psnr(pixels, result.reconstruction()), abs=0.1)


def test_likelihood_of_a_mixture_is_what_its_tables_hold():
    scales = scale_table()[5:40:7]
    tables = gaussian_tables(scales, 1e-5, spread=SCALE_SPREAD)
    for scale, cdf, size, offset in zip(scales, *tables, strict=True):
        frequencies = np.diff(cdf[:size].astype(float))[:-1] / 65536
        symbols = torch.arange(len(frequencies)) + offset
        p = gaussian_likelihood(symbols, torch.full(symbols.shape, float(scale)), SCALE_SPREAD).numpy()
        assert np.abs(frequencies - p).max() < 1e-4  # each has at least 1 / 65536, taken from the others
        assert abs(p[-offset] - float(gaussian_likelihood(torch.zeros(1), torch.tensor([float(scale)])))) > 1e-3


@pytest.mark.parametrize("mode", ["ste", "noise"])
@pytest.mark.parametrize("name", ["bmshj2018-hyperprior", "mbt2018-mean", "lc-s"])
def test_training_may_take_the_likelihoods_of_the_tables(name, mode, photo):
    network = random_network(name)
    x = torch.from_numpy(photo[:64, :64].copy()).permute(2, 0, 1)[None].float() / 255
    told = []
    for spread in (GAUSSIAN, SCALE_SPREAD):
        network.spread = spread
        torch.manual_seed(0)
        told.append(network.latents(x, 8.0, mode))
    plain, mixed = told
    assert torch.equal(plain[0], mixed[0]) and torch.equal(plain[2], mixed[2])
    assert not torch.allclose(plain[1], mixed[1], rtol=0.01)
    with torch.no_grad():
        rounded = [network.latents(x, 8.0, "round")[1] for network.spread in (GAUSSIAN, SCALE_SPREAD)]
    assert torch.equal(*rounded)  # those of CompressAI


@pytest.mark.parametrize("name", ["mbt2018", "lc-s"])
def test_more_passes_show_contexts_that_are_more_like_those_of_the_coder(name, photo):
    network = random_network(name)
    x = torch.from_numpy(photo[:128, :128].copy()).permute(2, 0, 1)[None].float() / 255
    seen, errors = [], []
    with torch.no_grad():
        wanted = network.latents(x, 8.0, "coder")[0]
        network.context_prediction.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        for passes in (1, 2, 6):
            seen.clear()
            network.context_passes = passes
            network.latents(x, 8.0, "ste")
            assert len(seen) == passes
            errors.append(float(((seen[-1] - wanted).abs() > 0.5).float().mean()))
    assert errors[0] > errors[1] > errors[2]
    network.context_passes = 6
    y_hat, likelihoods, _ = network.latents(x, 8.0, "ste")
    (gradient,) = torch.autograd.grad(-torch.log2(likelihoods).sum(), network.context_prediction.weight)
    assert float(gradient.abs().max()) > 0


def test_rounding_lets_the_gradient_through():
    v = torch.tensor([-1.6, 0.4, 0.5, 1.5], requires_grad=True)
    rounded = round_ste(v)
    assert rounded.tolist() == [-2, 0, 0, 2]
    (rounded * torch.tensor([1.0, 2, 3, 4])).sum().backward()
    assert v.grad is not None and v.grad.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("mode", ["ste", "noise"])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_analysis_learns_from_the_picture(name, mode):
    """Not from the rate alone."""
    torch.manual_seed(0)
    network = Network(NetConfig(name, 8, 8, (1.0, 8.0)))
    out = network(torch.rand(1, 3, 64, 64), 4.0, mode=mode)
    first = next(network.g_a.parameters())
    (gradient,) = torch.autograd.grad(out.x_hat.square().sum(), first)
    assert float(gradient.abs().max()) > 0


def test_noise_is_uniform_over_one_step():
    torch.manual_seed(0)
    v = torch.linspace(-5, 5, 100_000)
    noise = add_noise(v) - v
    assert -0.501 < float(noise.min()) < -0.499 and 0.499 < float(noise.max()) < 0.501
    assert abs(float(noise.mean())) < 0.005 and float(noise.var()) == pytest.approx(1 / 12, rel=0.02)


def test_context_sees_only_what_is_decoded_before():
    network = Network(NetConfig("mbt2018", 8, 8))
    y = torch.zeros(1, 8, 7, 7, requires_grad=True)
    network.context_prediction(y)[0, :, 3, 3].sum().backward()
    seen = y.grad[0].abs().sum(0) > 0
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[1:3, 1:6] = True
    expected[3, 1:3] = True
    assert torch.equal(seen, expected)


def test_checkpoint_with_keys_that_are_no_names_is_refused():
    with pytest.raises(ModelError, match="not a checkpoint of a known network"):
        compressai.from_state({1: torch.zeros(3), "state": 2})


@pytest.mark.parametrize("name", ["cheng2020-anchor", "cheng2020-attn"])
def test_cheng_networks_may_have_more_latents_than_channels(name, photo, tmp_path):
    """From checkpoint to file and back; with M = N they are CompressAI's, which the vectors test."""
    network = random_network(name, N=16, M=40)
    assert network.g_a(torch.zeros(1, 3, 64, 64)).shape == (1, 40, 4, 4)
    one_rate = random_network(name, N=16, M=40, qualities=(1.0,))
    assert compressai.infer_config(one_rate.state_dict()) == NetConfig(name, 16, 40)
    file = finalize_network(network, {}, [photo[:128, :128]]).model
    weights.save(file, tmp_path / "m.safetensors")
    codec = Codec(tmp_path / "m.safetensors", "cpu", 1)
    coded = codec.encode(photo[:100, :130], 4.0)
    assert codec.decode(coded.data).pixels.shape == (100, 130, 3)
    blocks = [m for m in network.modules() if isinstance(m, AttentionUnit)]
    assert all(m.conv[0].out_channels == 8 for m in blocks) and bool(blocks) == name.endswith("attn")
    with pytest.raises(ModelError, match="M >= N"):
        NetConfig(name, 16, 12)


def claimed(kind: str) -> dict[str, object]:
    """A few kilobytes that say they are a network of gigabytes."""
    if kind == "without tensors":
        config = NetConfig("mbt2018-mean", 2048, 2048).to_json()
        return {"format": checkpoint.FORMAT, "config": config, "ema": {}}
    with torch.device("meta"):
        network = Network(NetConfig("mbt2018-mean", 1024, 1024))
    shapes = {k: v.shape for k, v in network.state_dict().items() if not k.startswith(("log_", "prior_log"))}
    if kind == "with the few that tell its widths":
        shapes = {k: v for k, v in shapes.items() if k in ("g_a.0.weight", "h_s.4.weight")}
        return {k: torch.zeros(1).expand(v) for k, v in shapes.items()} | {"g_a.6.weight": torch.zeros(1024, 1, 1, 1)}
    return {k: torch.zeros(1).expand(v) for k, v in shapes.items()}


@pytest.mark.parametrize("kind", ["without tensors", "with the few that tell its widths", "of one element repeated"])
def test_checkpoint_is_refused_before_memory_is_taken_for_what_it_claims(kind, tmp_path):
    path = tmp_path / "claimed.pt"
    torch.save(claimed(kind), path)
    assert path.stat().st_size < 100_000
    with less_memory_than(100_000), pytest.raises(ModelError):
        checkpoint.open_network(path)


@pytest.mark.parametrize("damage", ["one repeated", "floats", "short", "lengths", "no table"])
def test_tables_of_a_checkpoint_that_cannot_be_such_are_refused(damage):
    state = {
        "e._quantized_cdf": torch.arange(24, dtype=torch.int32).reshape(4, 6),
        "e._cdf_length": torch.full((4,), 6, dtype=torch.int32),
        "e._offset": torch.zeros(4, dtype=torch.int32),
    }
    assert stored_tables(state, "e") is not None
    changes = {
        "one repeated": {"e._quantized_cdf": torch.zeros(1, 1, dtype=torch.int32).expand(4, 1 << 24)},
        "floats": {"e._cdf_length": torch.full((4,), 6.0)},
        "short": {"e._cdf_length": torch.full((3,), 6)},
        "lengths": {"e._cdf_length": torch.full((4,), 7)},
        "no table": {"e._quantized_cdf": torch.tensor(3)},
    }
    with pytest.raises(ModelError, match="tables of e are damaged"):
        stored_tables(state | changes[damage], "e")
