"""Where training begins: linear transform coding, or what another network did."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from lcodec import checkpoint, weights
from lcodec.checkpoint import network_of_model
from lcodec.errors import ModelError, UsageError
from lcodec.finalize import finalize
from lcodec.nets import ARCHITECTURES, NetConfig, Network
from lcodec.nets.config import table_lambda
from lcodec.nets.layers import AttentionBlock
from lcodec.train import initialize
from lcodec.train.data import Photographs, to_unit
from lcodec.train.initialize import GATE, SLOPE, Source, linear_start, transfer
from lcodec.train.loop import Options, Trainer
from lcodec.train.loss import psnr

from .conftest import random_network


@pytest.mark.parametrize("name", ["bmshj2018-hyperprior", "mbt2018-mean"])
def test_wider_network_begins_with_the_narrow_ones_scales_and_means(name):
    torch.manual_seed(0)
    narrow, wide = Network(NetConfig(name, 6, 8)).eval(), Network(NetConfig(name, 6, 12)).eval()
    assert set(transfer(wide, narrow.state_dict())) == set(wide.state_dict())
    z_hat = torch.randn(1, 6, 2, 2)
    with torch.no_grad():
        old, new = narrow.h_s(z_hat), wide.h_s(z_hat)
        x = torch.rand(1, 3, 64, 64)
        y_old, y_new = narrow.g_a(x), wide.g_a(x)
        wide_y = torch.cat((y_old, torch.zeros(1, 4, 4, 4)), 1)
        assert torch.allclose(wide.g_s(wide_y), narrow.g_s(y_old), atol=1e-5)
    assert torch.allclose(y_new[:, :8], y_old, atol=1e-5)
    for part in range(1 if name == "bmshj2018-hyperprior" else 2):
        assert torch.allclose(new[:, 12 * part : 12 * part + 8], old[:, 8 * part : 8 * part + 8], atol=1e-5)


@pytest.mark.parametrize(
    "name, narrow, wide",
    [("mbt2018", (6, 8), (6, 12)), ("cheng2020-anchor", (6, 8), (6, 12)), ("lc-s", (6, 8), (9, 12))],
)
def test_wider_context_network_begins_with_the_narrow_ones_scales_and_means(name, narrow, wide):
    torch.manual_seed(0)
    old, new = (Network(NetConfig(name, *widths)).eval() for widths in (narrow, wide))
    transfer(new, old.state_dict())
    z_hat, y_hat = torch.randn(1, narrow[0], 2, 2), torch.randn(1, 8, 8, 8)
    wide_z = torch.cat((z_hat, torch.zeros(1, wide[0] - narrow[0], 2, 2)), 1)
    wide_y = torch.cat((y_hat, torch.zeros(1, 4, 8, 8)), 1)
    with torch.no_grad():
        before, after = (
            n.entropy_parameters(torch.cat((n.h_s(z), n.context_prediction(y)), 1)).chunk(2, 1)
            for n, z, y in ((old, z_hat, y_hat), (new, wide_z, wide_y))
        )
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(b[:, :8], a, atol=1e-5)


def test_gains_are_taken_over_by_their_quality():
    every = tuple(float(q) for q in range(1, 9))
    source = Network(NetConfig("mbt2018-mean", 6, 8, every))
    names = ("log_gain", "log_inverse_gain", "prior_log_scale")
    with torch.no_grad():
        for name in names:
            getattr(source, name).copy_(torch.randn_like(getattr(source, name)))
    few = Network(NetConfig("mbt2018-mean", 6, 8, (4.0, 6.0, 8.0)))
    transfer(few, source.state_dict(), every)
    one = Network(NetConfig("mbt2018-mean", 6, 8, (0.0,)))
    transfer(one, source.state_dict(), every, [table_lambda(5.0)])
    for name in names:
        rows = getattr(source, name)
        assert torch.equal(getattr(few, name), rows[[3, 5, 7]])
        assert torch.allclose(getattr(one, name), rows[4], atol=1e-5)


def test_a_network_of_one_rate_gives_its_step_and_others_by_the_root_of_lambda():
    source = Network(NetConfig("mbt2018-mean", 6, 8, (4.0,)))
    torch.nn.init.normal_(source.log_gain)
    variable = Network(NetConfig("mbt2018-mean", 6, 8, (1.0, 4.0, 8.0)))
    transfer(variable, source.state_dict(), (4.0,))
    assert torch.allclose(variable.log_gain[1], source.log_gain[0], atol=1e-5)
    steps = (variable.log_gain[2] - variable.log_gain[1]).exp()
    assert torch.allclose(steps, torch.full((8,), (0.18 / 0.013) ** 0.5), rtol=1e-4)
    assert torch.allclose(variable.log_inverse_gain[2] - variable.log_inverse_gain[1], -steps.log(), atol=1e-5)

    unnamed = Network(NetConfig("mbt2018-mean", 6, 8))  # as CompressAI's are
    transfer(variable, unnamed.state_dict(), (0.0,))
    assert torch.allclose(variable.log_gain.mean(0), torch.zeros(8), atol=1e-5)
    assert bool((variable.log_gain.diff(dim=0) > 0.5).all())


def test_run_of_another_lambda_begins_with_its_steps(photo, tmp_path):
    """Ten times the lambda, steps finer by its root, whatever the first is called; also out of a model file."""
    (tmp_path / "data").mkdir()
    PIL.Image.fromarray(photo[:128, :192]).save(tmp_path / "data" / "a.png")
    data = Photographs(tmp_path / "data")

    def trainer(name: str, qualities: tuple[float, ...], lmbda: float, init: Path | None = None) -> Trainer:
        options = Options("mbt2018-mean", 16, 16, qualities, steps=1, batch=1, crop=64, lmbda=lmbda)
        return Trainer(options, data, None, tmp_path / name, init=init)

    for quality in (0.0, 4.0):
        first = trainer(f"first{quality}", (quality,), 0.004)
        first.save()
        model = tmp_path / "model.safetensors"
        weights.save(finalize(first.path, [photo[:64, :64]]).model, model)
        for init in (first.path, model):
            other = trainer(f"other{quality}{init.suffix}", (0.0,), 0.04, init)
            finer = other.network.log_gain - first.network.log_gain
            assert torch.allclose(finer, torch.full((1, 16), 0.5 * math.log(10)), atol=2e-3)


@pytest.mark.parametrize("M", [8, 12])
def test_scales_of_a_scale_hyperprior_do_not_become_means(M):
    source, network = Network(NetConfig("bmshj2018-hyperprior", 8, 8)), Network(NetConfig("mbt2018-mean", 8, M))
    before = network.h_s[-1].bias.detach().clone()
    transfer(network, source.state_dict())
    after, scales = network.h_s[-1].bias.detach(), source.h_s[-2].bias.detach()
    assert torch.equal(after[:8], scales) and torch.equal(after[8:], before[8:])
    weight, old = network.h_s[-1].weight.detach(), source.h_s[-2].weight.detach()
    assert torch.equal(weight[:8, :8], old) and not bool(weight[:8, 8:].any())


def test_density_of_y_is_none_of_z():
    plain, hyper = (Network(NetConfig(n, 8, 8)) for n in ("bmshj2018-factorized", "bmshj2018-hyperprior"))
    for source, network in ((plain, hyper), (hyper, plain)):
        taken = transfer(network, source.state_dict())
        assert "g_a.0.weight" in taken and "log_gain" in taken
        assert not any(name.startswith(("entropy_bottleneck.", "prior_log_scale")) for name in taken)


def test_biases_stay_where_their_weights_do_not_fit():
    torch.manual_seed(0)
    source, network = Network(NetConfig("mbt2018", 8, 8)), Network(NetConfig("cheng2020-anchor", 8, 8))
    taken = set(transfer(network, source.state_dict()))
    for name in taken:
        if name.endswith(".bias"):
            assert name.removesuffix(".bias") + ".weight" in taken
    assert "entropy_parameters.0.bias" in taken


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_finalized_model_can_be_trained_further(name, models):
    """Its network is the one that was finalized, but for weights of 8 bits."""
    original, reopened = random_network(name), network_of_model(weights.load(models[name]))
    torch.manual_seed(0)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before, after = original(x, 8.0), reopened(x, 8.0)
    assert torch.equal(before.x_hat, after.x_hat) or torch.allclose(before.x_hat, after.x_hat, atol=0.05)
    assert abs(float(after.bits() / before.bits()) - 1) < 0.02


# ---- linear start


@pytest.fixture(scope="module")
def crops(photo) -> torch.Tensor:
    """(12, 3, 128, 128) in [0, 1]"""
    tiles = [photo[128 * i : 128 * i + 128, 128 * j : 128 * j + 128] for i in range(2) for j in range(6)]
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float().div(255)


def test_every_architecture_codes_without_training(crops):
    """Unquantised well, and better with each quality; random weights give no picture at all."""
    for name, arch in ARCHITECTURES.items():
        torch.manual_seed(0)
        width = 96 if arch.transform in ("gdn", "shuffle") else 48
        network = Network(NetConfig(name, 48, width, (1.0, 8.0))).eval()
        with torch.no_grad():
            random = psnr((network.g_s(network.g_a(crops)) - crops).square().mean())
            linear_start(network, crops)
            start = psnr((network.g_s(network.g_a(crops)) - crops).square().mean())
            coded = [network(crops[:4], quality) for quality in (1.0, 8.0)]
        assert random < 12 and start > 26.5, name
        low, high = (psnr((out.x_hat - crops[:4]).square().mean()) for out in coded)
        assert 23 < low < high, name
        assert coded[0].bits().mean() < coded[1].bits().mean(), name


@pytest.mark.parametrize("M", [32, 120])
@pytest.mark.parametrize("name", ["cheng2020-anchor", "cheng2020-attn"])
def test_residual_network_can_begin_as_an_orthonormal_transform(name, M, crops, monkeypatch):
    """Without the noise beside it the error is the energy of the components left out: nothing is bent or lost."""
    for constant, value in {"NOISE": 0.0, "BRANCH": 0.0, "GAMMA_RESIDUAL": 0.0, "GATE": 1e-30}.items():
        monkeypatch.setattr(initialize, constant, value)
    network = Network(NetConfig(name, 32, M, (1.0, 8.0))).eval()
    linear_start(network, crops)
    with torch.no_grad():
        y = network.g_a(crops)
        x_hat = network.g_s(y)
    centred = crops - crops.mean((0, 2, 3))[:, None, None]
    left_out = centred.square().sum() - y.square().sum()
    assert float((x_hat - crops).square().sum()) == pytest.approx(float(left_out), rel=2e-3)
    correlation = torch.corrcoef(y.permute(1, 0, 2, 3).flatten(1))
    used = y.square().mean((0, 2, 3)) > 0
    assert used.sum() >= min(M, 4 * 30)  # what fits of 4 times the components of the stage before
    assert (correlation[used][:, used] - torch.eye(int(used.sum()))).abs().max() < 0.2


# ---- from one architecture to another


def test_attention_begins_as_the_anchor_it_came_from(crops):
    torch.manual_seed(0)
    anchor = Network(NetConfig("cheng2020-anchor", 32, 32, (1.0, 8.0))).eval()
    linear_start(anchor, crops)
    torch.manual_seed(1)
    network = Network(NetConfig("cheng2020-attn", 32, 32, (1.0, 8.0))).eval()
    taken = transfer(network, anchor.state_dict())
    beside = {name for name, _ in network.state_dict().items() if ".conv_a." in name or ".conv_b." in name}
    masks = {name for name in network.state_dict() if name.endswith("mask")}
    assert set(taken) == set(network.state_dict()) - beside - masks
    with torch.no_grad():
        for quality in (1.0, 8.0):
            before, after = anchor.latents(crops, quality), network.latents(crops, quality)
            # the same symbols, but for a few on the edge between two, and pictures of the same symbols below
            assert (before[0] != after[0]).float().mean() < 1e-3
            bits = [anchor(crops, quality).bits(), network(crops, quality).bits()]
            assert torch.allclose(*bits, rtol=1e-3)
        y = anchor.g_a(crops)
        assert (network.g_a(crops) - y).abs().max() < 40 * GATE * y.abs().max()
        assert (network.g_s(y) - anchor.g_s(y)).abs().max() < 0.02 / 255


def test_closed_gates_still_learn(crops):
    """All parameters of an attention block have gradients, far above what Adam's epsilon swallows."""
    torch.manual_seed(0)
    block = AttentionBlock(16)
    initialize.close_gate(block)
    x = torch.randn(4, 16, 16, 16)
    assert torch.allclose(block(x), x, atol=20 * GATE) and not torch.equal(block(x), x)
    block(x).square().sum().backward()
    for name, parameter in block.named_parameters():
        if not name.startswith("conv_b.") or name.startswith("conv_b.3."):  # behind a weight of zero, later
            assert parameter.grad is not None and float(parameter.grad.abs().mean()) > 1e-7, name


def test_attention_is_left_out_where_there_is_none(crops):
    torch.manual_seed(0)
    source = Network(NetConfig("cheng2020-attn", 32, 32, (1.0, 8.0))).eval()
    linear_start(source, crops)
    torch.manual_seed(1)
    network = Network(NetConfig("cheng2020-anchor", 32, 32, (1.0, 8.0))).eval()
    taken = transfer(network, source.state_dict())
    assert {n for n in network.state_dict() if not n.endswith("mask")} == set(taken)
    with torch.no_grad():
        assert torch.allclose(network.g_s(network.g_a(crops)), source.g_s(source.g_a(crops)), atol=1e-3)


def test_trained_attention_is_taken_over_as_it_is(crops):
    torch.manual_seed(0)
    source = Network(NetConfig("cheng2020-attn", 16, 16)).eval()
    torch.manual_seed(1)
    network = Network(NetConfig("cheng2020-attn", 16, 16)).eval()
    transfer(network, source.state_dict())
    with torch.no_grad():
        assert torch.equal(network.g_s(network.g_a(crops)), source.g_s(source.g_a(crops)))


def test_train_init_of_an_anchor_starts_attention_where_it_stood(tmp_path, photo):
    (tmp_path / "data").mkdir()
    PIL.Image.fromarray(photo[:128, :192]).save(tmp_path / "data" / "a.png")
    data = Photographs(tmp_path / "data")

    def trainer(name: str, init: Path | None) -> Trainer:
        options = Options(name, N=32, M=32, qualities=(1.0, 8.0), steps=1, batch=1, crop=64)
        return Trainer(options, data, None, tmp_path / name, init=init)

    anchor = trainer("cheng2020-anchor", None)
    anchor.save()
    attention = trainer("cheng2020-attn", anchor.path)
    x = to_unit(data.crops(np.random.default_rng(0), 2, 64))
    opened, _ = checkpoint.open_network(anchor.path)
    with torch.no_grad():
        assert torch.allclose(attention.network.eval()(x, 8.0).x_hat, opened(x, 8.0).x_hat, atol=2e-3)
        assert psnr((opened.g_s(opened.g_a(x)) - x).square().mean()) > 24  # which began as a linear codec


@pytest.fixture
def begun(photo, tmp_path):
    """begun(architecture, *sources) -> a run that has just begun, with another seed each time."""
    (tmp_path / "data").mkdir()
    PIL.Image.fromarray(photo[:128, :192]).save(tmp_path / "data" / "a.png")
    data, count = Photographs(tmp_path / "data"), iter(range(100))

    def begin(architecture: str, *sources: Source, N: int = 8, M: int = 9, crop: int = 64, **settings: Any) -> Trainer:
        seed = next(count)
        options = Options(
            architecture, N=N, M=M, qualities=(1.0, 8.0), steps=1, batch=1, crop=crop, seed=seed, **settings
        )
        return Trainer(options, data, None, tmp_path / f"run{seed}", init=sources)

    return begin


def test_context_begins_by_handing_on_scales_and_means(begun):
    """Of a mean-scale model: the scales, and all but the smallest sixth of the means, whatever the context says."""
    mean = begun("mbt2018-mean")
    mean.save()
    context = begun("mbt2018", Source(mean.path)).network
    torch.manual_seed(0)
    z_hat, y_hat = torch.randn(2, 8, 3, 3), 5 * torch.randn(2, 9, 12, 12)
    with torch.no_grad():
        told = context.h_s(z_hat)
        assert torch.equal(told, mean.network.h_s(z_hat))
        scales, means = context.entropy_parameters(torch.cat((told, context.context_prediction(y_hat)), 1)).chunk(2, 1)
    wanted_scales, wanted_means = told.chunk(2, 1)
    assert torch.allclose(scales, torch.where(wanted_scales > 0, wanted_scales, wanted_scales * SLOPE**2), atol=1e-5)
    silent = means.abs().amax((0, 2, 3)) == 0
    assert silent.sum() == 2  # 24 channels in between: 9 scales and 7 means
    assert torch.allclose(means[:, ~silent], wanted_means[:, ~silent], atol=1e-5)
    size = mean.network.h_s[-1].weight[9:].square().sum((1, 2, 3))
    assert size[silent].max() < size[~silent].min()


def test_handing_on_learns_the_context_at_once(begun):
    mean = begun("mbt2018-mean")
    mean.save()
    trainer = begun("mbt2018", Source(mean.path))
    network = trainer.network
    network(to_unit(trainer.data.crops(np.random.default_rng(0), 2, 64)), 8.0).bits().sum().backward()
    assert bool(network.entropy_parameters[0].weight.grad[:, 18:].abs().sum(1).gt(0).any())  # of what the context says


def test_what_a_later_model_says_is_not_handed_on(begun):
    """A scale hyperprior's h_s, over that of a mean-scale model."""
    mean, scale = begun("mbt2018-mean"), begun("bmshj2018-hyperprior")
    for run in (mean, scale):
        run.save()
    network = begun("mbt2018", Source(mean.path), Source(scale.path)).network
    assert bool((network.entropy_parameters[4].weight != 0).any(1).all())


def test_context_that_was_trained_is_not_handed_on_over(begun):
    """A context model, then a mean-scale model for all that both have."""
    mean, context = begun("mbt2018-mean"), begun("mbt2018")
    for run in (mean, context):
        run.save()
    both = begun("mbt2018", Source(context.path), Source(mean.path)).network.state_dict()
    for name, value in both.items():
        own = name.startswith(("context_prediction.", "entropy_parameters."))
        assert torch.equal(value, (context if own else mean).network.state_dict()[name]), name
    narrow = begun("mbt2018-mean", M=8)
    narrow.save()
    wider = begun("mbt2018", Source(narrow.path)).network  # whose h_s has no halves of its own widths
    assert bool((wider.entropy_parameters[4].weight != 0).any(1).all())


def test_of_several_models_each_gives_the_layers_that_are_named(begun):
    first, second = begun("bmshj2018-hyperprior"), begun("mbt2018-mean")
    for run in (first, second):
        run.save()
    network = begun("bmshj2018-hyperprior", Source(first.path), Source(second.path, ("g_*", "log_*"))).network
    for name, value in network.state_dict().items():
        source = second if name.startswith(("g_", "log_")) else first
        assert torch.equal(value, source.network.state_dict()[name]), name


def test_layers_that_are_named_leave_attention_alone(begun):
    anchor, attention = begun("cheng2020-anchor"), begun("cheng2020-attn")
    for name, value in attention.ema.items():
        if name.endswith("conv_b.3.weight"):
            value.normal_()
    for run in (anchor, attention):
        run.save()
    trainer = begun("cheng2020-attn", Source(attention.path), Source(anchor.path, ("h_*",)))
    for name, value in trainer.network.state_dict().items():
        source = anchor if name.startswith("h_") else attention
        assert torch.equal(value, source.ema[name]), name
    (first, every, _), (second, _, _) = trainer.taken
    assert first + second == every and second == sum(name.startswith("h_") for name in anchor.ema)


def test_layers_that_are_not_there_are_refused(begun):
    mean = begun("mbt2018-mean")
    mean.save()
    with pytest.raises(UsageError, match="no parameter is called g_x"):
        begun("mbt2018", Source(mean.path, ("g_a.*", "g_x.*")))
    with pytest.raises(ModelError, match=r"checkpoint.pt:context\* has no layer that fits mbt2018"):
        begun("mbt2018", Source(mean.path, ("context*",)))
    with pytest.raises(ModelError, match=r"has nothing that fits context\*"):
        begun("mbt2018", Source(mean.path, ("g_*", "context*")))


def test_layers_that_stay_come_as_they_are_to_be(begun):
    mean = begun("mbt2018-mean")
    mean.save()
    with pytest.raises(UsageError, match="g_a.0.weight is to stay as it is, and .* at other widths") as caught:
        begun("mbt2018", Source(mean.path), N=9, freeze=("g_*",))
    assert "-N 8 -M 9" in caught.value.hint
    begun("mbt2018", Source(mean.path), N=9, freeze=("h_s.4.bias",), metric="ms-ssim", crop=192)
    with pytest.raises(UsageError, match="was trained for mse"):
        begun("mbt2018", Source(mean.path), freeze=("g_*",), metric="ms-ssim", crop=192)
    begun("mbt2018", freeze=("g_*",), metric="ms-ssim", crop=192)


def test_metric_of_a_model_of_the_zoo_is_known(begun, models, tmp_path):
    """By its card, as pull writes it."""
    model = weights.load(models["mbt2018-mean"])
    weights.save(replace(model, card={"metric": "ms-ssim"}), tmp_path / "zoo.safetensors")
    widths = {"N": 16, "M": 16, "freeze": ("g_*",)}
    with pytest.raises(UsageError, match="was trained for ms-ssim"):
        begun("mbt2018-mean", Source(tmp_path / "zoo.safetensors"), **widths)
    begun("mbt2018-mean", Source(tmp_path / "zoo.safetensors"), metric="ms-ssim", crop=192, **widths)
