"""Effort: latents searched for one image."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import lcodec
from lcodec import container, decoder, weights
from lcodec.cli import cli
from lcodec.codec import Codec, psnr, visible
from lcodec.errors import UsageError
from lcodec.finalize.assemble import finalize_network
from lcodec.image import Picture
from lcodec.nets import ARCHITECTURES
from lcodec.nets.config import table_lambda
from lcodec.nets.layers import GDN
from lcodec.nets.likelihood import gaussian_likelihood
from lcodec.search import proxy as proxy_module
from lcodec.search import refine as refine_module
from lcodec.search.gradients import FrozenInverseGDN, gaussian_bits, relaxed_round
from lcodec.search.plans import CONTEXT_PLANS, PLANS, Plan
from lcodec.search.proxy import Distortion, Proxy, counted_pixels
from lcodec.search.refine import known_lmbda, own_lmbda, similarity_error, slide, to_torch
from lcodec.search.sga import stochastic_annealing
from lcodec.search.target import Target
from lcodec.train.initialize import linear_start
from lcodec.transforms.tiling import Box

from .conftest import random_network


def cost(codec: Codec, pixels: np.ndarray, data: bytes, lmbda: float) -> float:
    """bits + lmbda * 255^2 * pixels * MSE of the decoded file."""
    shown = codec.decode(data).pixels
    height, width = pixels.shape[:2]
    return 8 * len(data) + lmbda * 255**2 * height * width * 10 ** (-psnr(pixels, shown) / 10)


def started_network(architecture: str, photo: np.ndarray, qualities: tuple[float, ...] = (1.0, 8.0)):
    """Small, and no good at bits, but its pictures are what it was given: transforms as before training."""
    network = random_network(architecture, qualities=qualities)
    if network.config.arch.transform in ("gdn", "shuffle"):
        crops = [photo[i * 64 : i * 64 + 64, j * 64 : j * 64 + 64] for i in range(6) for j in range(12)]
        linear_start(network, torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255)
    return network


def saved(network, path: Path, photo: np.ndarray, card: dict | None = None) -> Path:
    weights.save(finalize_network(network, {}, [photo[:128, :128]], card=card).model, path)
    return path


@pytest.fixture(scope="module")
def started(tmp_path_factory, photo) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("started")
    return {
        name: saved(started_network(name, photo), folder / f"{name}{weights.SUFFIX}", photo) for name in ARCHITECTURES
    }


SHIPPED = Path(__file__).parents[1] / "models" / "mbt2018-mean.safetensors"


@pytest.fixture(scope="module")
def codec() -> Codec:
    """The shipped model: trained, so that rates and pictures are what they should be."""
    return Codec(SHIPPED, "cpu", 1)


# Nothing to start these transforms from: what is random may be as good as can be.
RANDOM = ("cheng2020-anchor", "cheng2020-attn")


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_effort_makes_every_architecture_better(name, started, photo):
    """By the real file and the real picture, which the file still decodes to."""
    codec = Codec(started[name], "cpu", 1)
    pixels = photo[100:190, 200:328]
    plain, searched = (codec.encode(pixels, 4.0, effort=e) for e in (0, 2))
    before, after = (cost(codec, pixels, r.data, table_lambda(4.0)) for r in (plain, searched))
    assert after < before or (name in RANDOM and after == before)
    decoded = codec.decode(searched.data)
    assert decoded.digest == searched.y_hat_digest
    assert np.array_equal(decoded.pixels, searched.reconstruction())


@pytest.fixture(scope="module")
def default() -> Codec:
    """The shipped lc-s: its context is trained, so that a search that did not see it would lead astray."""
    return Codec(SHIPPED.with_name("lc-s.safetensors"), "cpu", 1)


def test_effort_makes_the_default_model_better(default, photo):
    pixels = photo[64:192, 256:384]
    files = [default.encode(pixels, 4.0, effort=effort).data for effort in (0, 3)]
    before, after = (cost(default, pixels, data, table_lambda(4.0)) for data in files)
    assert after < 0.985 * before


def test_what_search_makes_worse_is_not_kept(codec, photo, monkeypatch):
    def spoil(at, distortion, y, z, plan, generator):
        return torch.randn(y.shape, generator=generator) * 100, torch.zeros_like(z)

    pixels = photo[:128, :128]
    plain = codec.encode(pixels, 4.0).data
    monkeypatch.setattr(refine_module, "_search", spoil)
    assert codec.encode(pixels, 4.0, effort=1).data == plain


def test_search_is_the_same_on_every_run(started, photo):
    pixels = photo[:80, :144]
    files = {Codec(started["mbt2018"], "cpu", 1).encode(pixels, 5.0, effort=2).data for _ in range(2)}
    assert len(files) == 1


def test_slices_are_searched_with_what_surrounds_them(codec, photo):
    """Cut into slices of 256 pixels, the search still gains most of what it gains in one piece."""
    pixels = photo[:320, :240]
    gains = {}
    for slice_log2 in (4, 6):
        plain, searched = (codec.encode(pixels, 5.0, effort=e, slice_log2=slice_log2) for e in (0, 1))
        assert len(container.unpack(searched.data).slices) == (2 if slice_log2 == 4 else 1)
        assert codec.decode(searched.data).digest == searched.y_hat_digest
        before, after = (cost(codec, pixels, r.data, table_lambda(5.0)) for r in (plain, searched))
        gains[slice_log2] = before - after
    assert gains[4] > 0.7 * gains[6] > 0


@pytest.mark.parametrize("kind", ["gray", "deep", "alpha"])
def test_every_kind_of_picture_can_be_searched(codec, photo, kind):
    pixels, alpha = photo[:70, :100], None
    if kind == "gray":
        pixels = pixels[:, :, 1]
    if kind == "deep":
        pixels = pixels.astype(np.uint16) * 257
    if kind == "alpha":
        alpha = np.full((70, 100), 200, np.uint8)
        alpha[:20] = 0
    picture = Picture(np.ascontiguousarray(pixels), alpha)
    plain, searched = (codec.encode(picture, 6.0, effort=e) for e in (0, 2))
    assert searched.data != plain.data
    decoded = codec.decode(searched.data)
    assert decoded.pixels.shape == pixels.shape and decoded.pixels.dtype == pixels.dtype
    assert np.array_equal(decoded.pixels, searched.reconstruction())


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (65, 130)])
def test_every_size_can_be_searched(codec, photo, shape):
    data = codec.encode(photo[: shape[0], : shape[1]], 3.0, effort=1).data
    assert codec.decode(data).pixels.shape[:2] == shape


def test_target_holds_with_effort(codec, photo):
    pixels = photo[:128, :192]
    size = int(0.6 * len(codec.encode(pixels, 8.0).data))
    results = [codec.encode(pixels, target=Target("size", size), effort=e) for e in (0, 2)]
    assert all(0.985 * size <= len(r.data) <= size for r in results)
    levels = [psnr(pixels, r.reconstruction()) for r in results]
    assert levels[1] > levels[0]


def test_effort_reaches_targets_that_nothing_else_does(codec, photo):
    pixels = photo[100:228, 200:392]
    plain, searched = (len(codec.encode(pixels, 1.0, effort=e).data) for e in (0, 3))
    size = (plain + searched) // 2
    with pytest.raises(UsageError, match="cannot be reached"):
        codec.encode(pixels, target=Target("size", size))
    result = codec.encode(pixels, target=Target("size", size), effort=3)
    assert len(result.data) <= size < plain
    with pytest.raises(UsageError, match="cannot be reached"):
        codec.encode(pixels, target=Target("size", searched // 2), effort=3)


def test_effort_keeps_targets_that_quality_alone_reaches(codec, photo, monkeypatch):
    pixels = photo[100:164, 200:296]
    target = Target("size", int(1.2 * len(codec.encode(pixels, 1.0).data)))
    plain = codec.encode(pixels, target=target)
    monkeypatch.setattr(Codec, "_refine", lambda self, box, plain, *_: replace(plain, data=2 * plain.data))
    assert codec.encode(pixels, target=target, effort=3).data == plain.data


def test_slices_of_one_colour_tell_no_lambda_and_others_do(codec, photo, monkeypatch):
    monkeypatch.setattr(refine_module, "search_lmbda", lambda file, quality: None)
    pixels = np.full((64, 768, 3), 90, np.uint8)  # three slices
    flat = codec.encode(pixels, 5.0, effort=1, slice_log2=4)
    assert flat.data == codec.encode(pixels, 5.0, slice_log2=4).data
    pixels[:, 512:] = photo[100:164, 200:456]
    assert codec.encode(pixels, 5.0, effort=1, slice_log2=4).data != codec.encode(pixels, 5.0, slice_log2=4).data


@pytest.mark.parametrize("quality", [2.0, 6.0])
def test_model_that_tells_no_lambda_gets_nearly_that_of_its_training(codec, photo, monkeypatch, quality):
    seen = []

    def spy(*arguments):
        seen.append(own_lmbda(*arguments))
        return seen[0]

    monkeypatch.setattr(refine_module, "search_lmbda", lambda file, quality: None)
    monkeypatch.setattr(refine_module, "own_lmbda", spy)
    codec.encode(photo[100:292, 200:456], quality, effort=1)
    assert 0.6 * table_lambda(quality) < seen[0] < 1.7 * table_lambda(quality)


def test_model_of_another_program_does_not_tell_its_lambda(codec):
    single = replace(codec.file, config={**codec.file.config, "qualities": [0.0]}, card={})
    assert known_lmbda(single, 0.0) is None


def test_lambda_of_training_is_taken_from_the_card(codec):
    assert known_lmbda(codec.file, 3.0) == table_lambda(3.0)
    trained = replace(codec.file, card={"options": {"lmbda": 0.05}})
    assert known_lmbda(trained, 3.0) == 0.05


@pytest.mark.parametrize("options", [{"lmbda": "abc"}, {"lmbda": [1]}, {"lmbda": -1}, {"metric": "lpips"}])
def test_card_that_makes_no_sense_costs_its_lambda_alone(codec, options, photo, tmp_path):
    assert known_lmbda(replace(codec.file, card={"options": options}), 3.0) is None
    weights.save(replace(codec.file, card={"options": options}), tmp_path / "odd.safetensors")
    odd = Codec(tmp_path / "odd.safetensors", "cpu", 1)
    assert odd.decode(odd.encode(photo[:64, :64], 3.0, effort=1).data).digest


def test_tables_are_those_of_the_quality_in_the_file(photo, tmp_path):
    """The quality that the model has and the one that the header rounds it to may be nearest to different sets."""
    network = started_network("mbt2018-mean", photo, (1.0035, 8.0))
    model = finalize_network(network, {}, [photo[:128, :128]]).model
    sets = list(model.table_qualities)
    sets[1] = 1.0037  # nearer to 1.0035 than to 1, which is in the header
    sets[0] = 0.999
    weights.save(replace(model, entropy={**model.entropy, "table_qualities": sets}), tmp_path / "near.safetensors")
    codec = Codec(tmp_path / "near.safetensors", "cpu", 1)
    files = []
    for effort in (0, 2):
        result = codec.encode(photo[:64, :128], 1.0035, effort=effort)
        assert codec.decode(result.data).digest == result.y_hat_digest
        files.append(result.data)
    assert files[0] != files[1]  # the search found something


@pytest.fixture(scope="module")
def for_ms_ssim(tmp_path_factory, photo) -> Path:
    """The parts of mbt2018-mean at the start of training, and a card that says that it was for MS-SSIM."""
    path = tmp_path_factory.mktemp("ms-ssim") / f"similar{weights.SUFFIX}"
    return saved(started_network("mbt2018-mean", photo), path, photo, {"options": {"metric": "ms-ssim"}})


@pytest.mark.parametrize("depth", [8, 16])
def test_model_for_ms_ssim_is_searched_for_that(for_ms_ssim, photo, depth):
    pixels = photo[:170, :180] if depth == 8 else photo[:170, :180, 1].astype(np.uint16) * 257
    codec = Codec(for_ms_ssim, "cpu", 1)
    plain, searched = (codec.encode(pixels, 4.0, effort=e) for e in (0, 3))
    weight = table_lambda(4.0, "ms-ssim") * 170 * 180

    def cost_of(result) -> float:
        return 8 * len(result.data) + weight * similarity_error(pixels, result.reconstruction())

    assert cost_of(searched) < cost_of(plain)
    assert codec.decode(searched.data).digest == searched.y_hat_digest


def test_what_is_too_small_for_ms_ssim_stays_as_it_is(for_ms_ssim, photo):
    codec = Codec(for_ms_ssim, "cpu", 1)
    plain, searched = (codec.encode(photo[:160, :200], 4.0, effort=e) for e in (0, 2))
    assert searched.data == plain.data


@pytest.mark.parametrize(
    ("card", "metric"),
    [({}, "mse"), ({"metric": "ms-ssim"}, "ms-ssim"), ({"options": {"metric": "ms-ssim"}}, "ms-ssim")],
)
def test_metric_of_training_is_taken_from_the_card(codec, card, metric):
    """As the trainer writes it, as that of the zoo's models is written, or as nothing."""
    file = replace(codec.file, card=card)
    assert file.metric == metric
    assert known_lmbda(file, 3.0) == table_lambda(3.0, metric)


@pytest.mark.parametrize("effort", [-1, 10])
def test_effort_out_of_range_is_refused(codec, photo, effort):
    with pytest.raises(UsageError, match="not within 0 to 9"):
        codec.encode(photo[:64, :64], 3.0, effort=effort)


@pytest.mark.parametrize("plans", [PLANS, CONTEXT_PLANS])
def test_efforts_take_ever_more_steps(plans):
    assert list(plans) == list(range(10))
    steps = [p.slide + p.sga + p.anneal for p in plans.values()]
    assert steps == sorted(set(steps)) and steps[0] == 0


# ---- the parts


@pytest.fixture(scope="module")
def proxy(codec) -> Proxy:
    return Proxy(codec.file, codec.entropy, "cpu")


def test_error_of_the_proxy_is_that_of_the_decoder(codec, proxy, photo):
    """For each slice over the pixels that count, whatever lies around."""
    pixels = photo[:300, :260]
    result = codec.encode(pixels, 6.0, slice_log2=4)
    header = container.read_header(result.data)
    shown = codec.decode(result.data).pixels.astype(np.float64) / 255
    y_hat = decoder.decode_latents(container.unpack(result.data), codec.file, codec.entropy)
    y_hat = torch.from_numpy(y_hat).permute(2, 0, 1)[None].float() * 2.0**-codec.entropy.fy
    at = proxy.at(6.0)
    for block in decoder.numbered_slices(header):
        _, y0, x0, h, w = block
        seen, counted = counted_pixels(block, *y_hat.shape[2:], *pixels.shape[:2])
        window = y_hat[:, :, seen.top : seen.bottom, seen.left : seen.right].clone()
        inside = Box(y0 - seen.top, y0 - seen.top + h, x0 - seen.left, x0 - seen.left + w)
        inner = window[:, :, inside.top : inside.bottom, inside.left : inside.right].clone()
        window[:, :, inside.top : inside.bottom, inside.left : inside.right] = 0
        rows, columns = slice(counted.top, counted.bottom), slice(counted.left, counted.right)
        offset = (counted.top - 16 * seen.top, counted.left - 16 * seen.left)
        distortion = Distortion(at, pixels[rows, columns], window, inside, offset, 3.0)
        error = float(((shown[rows, columns] - pixels[rows, columns] / 255) ** 2).sum())
        assert float(distortion(inner)) == pytest.approx(error, rel=0.02)


def test_errors_that_nobody_sees_do_not_count(proxy, photo):
    at, generator = proxy.at(6.0), torch.Generator().manual_seed(3)
    surroundings = torch.zeros(1, proxy.entropy.M, 4, 4)
    y_hat = torch.randn(surroundings.shape, generator=generator)
    pixels, seen = photo[:64, :64], np.zeros((64, 64), bool)
    seen[10:50, 20:64] = True
    place = Box(0, 4, 0, 4), (0, 0), 3.0
    distortion = Distortion(at, pixels, surroundings, *place, seen)
    x_hat = distortion.picture_of(y_hat)[0].permute(1, 2, 0).detach().numpy()
    error = ((x_hat - pixels / np.float32(255))[seen] ** 2).sum()
    assert float(distortion(y_hat)) == pytest.approx(float(error), rel=1e-3)
    assert float(Distortion(at, pixels, surroundings, *place)(y_hat)) > 1.5 * error


def test_search_leaves_invisible_pixels_out(codec, photo):
    alpha = np.zeros((128, 192), np.uint8)
    alpha[16:112:2, 16:176] = 255
    picture = Picture(np.ascontiguousarray(photo[100:228, 200:392]), alpha)
    filled = Picture(visible(picture))  # what the networks see of both is the same
    assert codec.encode(picture, 6.0).y_hat_digest == codec.encode(filled, 6.0).y_hat_digest

    def level(searched: Picture) -> float:
        return psnr(filled.pixels, codec.encode(searched, 6.0, effort=2).reconstruction(), alpha > 0)

    assert level(picture) > level(filled) + 0.3


@pytest.mark.parametrize("model", ["codec", "default"])
def test_bits_of_the_proxy_are_those_of_the_file(model, photo, request):
    codec = request.getfixturevalue(model)
    proxy = Proxy(codec.file, codec.entropy, "cpu")
    at = proxy.at(6.0)
    pixels = photo[64:256, 256:512]
    result = codec.encode(pixels, 6.0)
    y_hat = decoder.decode_latents(container.unpack(result.data), codec.file, codec.entropy)
    y_hat = to_torch(y_hat.astype(np.float32) * np.float32(2.0**-codec.entropy.fy), proxy.device)
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    z = proxy.network.analyse(x, 6.0)[1]
    z_hat = torch.round(z - at.medians) + at.medians
    density = at.density(z_hat, y_hat)
    bits = at.bits(torch.round(y_hat - density.means), density).sum() + at.bits_z(z_hat).sum()
    assert float(bits) == pytest.approx(8 * len(result.data), rel=0.02)


def test_curvature_is_the_second_derivative(codec, photo, monkeypatch):
    monkeypatch.setattr(proxy_module, "has_fast_bfloat16", lambda device: False)
    at = Proxy(codec.file, codec.entropy, "cpu").at(6.0)
    distortion = Distortion(at, photo[:64, :64], torch.zeros(1, codec.entropy.M, 4, 4), Box(0, 4, 0, 4), (0, 0), 3.0)
    generator = torch.Generator().manual_seed(1)
    y_hat = torch.randn(1, codec.entropy.M, 4, 4, generator=generator)
    estimate = torch.stack([distortion.curvature(y_hat, generator) for _ in range(30)]).mean(0)[0, :, 0, 0]
    # of a least-squares cost whose residuals vanish, it is what the gradient changes by; here at a point of no error
    distortion.x = distortion.picture_of(y_hat).detach()
    for channel in (0, 50, 200):
        exact = []
        for i in range(16):
            moved = y_hat.clone()
            moved[0, channel, i // 4, i % 4] += 1e-2
            exact.append(2 * float(distortion(moved)) / 1e-4)
        assert float(estimate[channel]) == pytest.approx(np.mean(exact), rel=0.25)


def test_gradient_of_the_bits_is_that_of_the_likelihood():
    """Also in the tails, below the least scale, and where rows are not next to each other in memory."""
    generator = torch.Generator().manual_seed(2)
    v = (torch.randn(1, 40, 5, 90, generator=generator) * 3).to(memory_format=torch.channels_last).requires_grad_()
    both = torch.rand(1, 80, 5, 90, generator=generator) * 2 - 0.2
    scales = both.to(memory_format=torch.channels_last).chunk(2, 1)[1].requires_grad_()
    ours, theirs = gaussian_bits(v, scales), -torch.log2(gaussian_likelihood(v, scales)).sum()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    slopes = [torch.autograd.grad(bits * 2, (v, scales)) for bits in (ours, theirs)]
    for a, b in zip(*slopes, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def spread(lowest: float, highest: float, count: int) -> torch.Tensor:
    return torch.linspace(lowest, highest, count)[None, :, None, None]


def test_relaxed_rounding_becomes_rounding():
    v = spread(-3, 3, 241)
    v = v[:, ((v - torch.floor(v) - 0.5).abs() > 0.05).flatten()]
    generator = torch.Generator().manual_seed(0)
    assert torch.allclose(relaxed_round(v, 0.01, generator), torch.round(v), atol=1e-3)
    warm = relaxed_round(torch.full((1, 40, 10, 10), 0.3), 0.5, generator)
    assert 0.2 < float(warm.mean()) < 0.4  # drawn, and in proportion


@pytest.mark.parametrize("shape", [(1, 6, 5, 7), (2, 6, 190, 131)])
def test_frozen_inverse_gdn_is_inverse_gdn(shape):
    generator = torch.Generator().manual_seed(5)
    layer = GDN(6, inverse=True)
    with torch.no_grad():
        layer.gamma.add_(torch.rand(layer.gamma.shape, generator=generator))
    x, weight = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    found = []
    for module in (layer, FrozenInverseGDN(layer)):
        at = x.clone(memory_format=torch.channels_last).requires_grad_()
        y = module(at)
        (y * weight).sum().backward()
        found.append((y.detach(), at.grad))
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradient_of_relaxed_rounding_is_its_slope():
    v, step = spread(0.05, 0.95, 181).requires_grad_(), 1e-3

    def rounded(at: torch.Tensor) -> torch.Tensor:
        return relaxed_round(at, 0.3, torch.Generator().manual_seed(4))

    (slope,) = torch.autograd.grad(rounded(v).sum(), v)
    with torch.no_grad():
        assert torch.allclose(slope, (rounded(v + step) - rounded(v - step)) / (2 * step), rtol=0.01, atol=5e-3)


@pytest.mark.parametrize("plan", [Plan(4, 0, 0), Plan(0, 40, 0), Plan(0, 0, 10)], ids=["slide", "sga", "anneal"])
@pytest.mark.parametrize("name", ["bmshj2018-factorized", "mbt2018-mean"])
def test_each_kind_of_step_alone_makes_files_better(name, plan, started, photo, monkeypatch):
    codec = Codec(started[name], "cpu", 1)
    monkeypatch.setitem(PLANS, 1, plan)
    pixels = photo[100:164, 200:328]
    before, after = (cost(codec, pixels, codec.encode(pixels, 5.0, effort=e).data, table_lambda(5.0)) for e in (0, 1))
    assert after < before


def test_gradient_steps_leave_their_input_alone(codec, proxy, photo):
    at = proxy.at(4.0)
    distortion = Distortion(at, photo[:64, :64], torch.zeros(1, codec.entropy.M, 4, 4), Box(0, 4, 0, 4), (0, 0), 1e3)
    y, z = torch.ones(1, codec.entropy.M, 4, 4), torch.ones(1, 96, 1, 1)
    slide(at, distortion, y, z, 2)
    stochastic_annealing(at, distortion, y, z, 2, torch.Generator().manual_seed(0))
    assert torch.equal(y, torch.ones_like(y)) and torch.equal(z, torch.ones_like(z))
    assert not y.requires_grad


# ---- for users


def test_public_function_takes_an_effort(codec, photo):
    pixels = photo[:64, :96]
    data = lcodec.encode(pixels, SHIPPED, 4.0, effort=2, device="cpu", threads=1)
    assert data == codec.encode(pixels, 4.0, effort=2).data != codec.encode(pixels, 4.0).data


def test_command_takes_an_effort(model_file, photo, tmp_path):
    PIL.Image.fromarray(photo[:64, :96]).save(tmp_path / "a.png")
    arguments = ["encode", "--threads", "1", "--model", str(model_file), "--json", "--verify", "--effort"]
    result = CliRunner().invoke(cli, [*arguments, "2", str(tmp_path / "a.png")])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["effort"] == 2
    result = CliRunner().invoke(cli, [*arguments, "10", str(tmp_path / "a.png")])
    assert result.exit_code == 2


def test_command_takes_a_model_for_a_metric(model_file, for_ms_ssim, photo, tmp_path, monkeypatch):
    PIL.Image.fromarray(photo[:64, :96]).save(tmp_path / "a.png")
    arguments = ["encode", "--threads", "1", "--json", "--force", str(tmp_path / "a.png"), "--metric", "ms-ssim"]
    refused = CliRunner().invoke(cli, [*arguments, "--model", str(model_file)])
    assert refused.exit_code == UsageError.exit_code and "was trained for mse, not ms-ssim" in refused.output
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path))
    monkeypatch.setattr(weights, "shipped_folder", lambda: tmp_path)
    missing = CliRunner().invoke(cli, arguments)
    assert missing.exit_code == UsageError.exit_code and "no model here was trained for ms-ssim" in missing.output
    monkeypatch.setenv(weights.ENVIRONMENT, str(for_ms_ssim.parent))
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"] == "similar"
