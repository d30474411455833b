"""What a run can be told: rates, metrics, schedules, optimizers, recipes, and how each survives a restart."""

from __future__ import annotations

import json
import math
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

from lcodec import checkpoint, cli, weights
from lcodec.checkpoint import network_of_model
from lcodec.entropy.tables import GAUSSIAN, SCALE_SPREAD
from lcodec.errors import UsageError
from lcodec.nets import ARCHITECTURES, NetConfig, Network, Output
from lcodec.nets.config import LAMBDAS, table_lambda
from lcodec.nets.similarity import ms_ssim
from lcodec.train.average import EVERY, Average
from lcodec.train.batches import make_batch
from lcodec.train.data import Photographs, to_unit
from lcodec.train.initialize import Source, transfer
from lcodec.train.loop import Options, Trainer
from lcodec.train.loss import mean_square, rate_distortion
from lcodec.train.optimizers import as_matrix, matrices
from lcodec.train.parallel import Ranks
from lcodec.train.schedule import Plateau, learning_rate

SMALL = {"architecture": "mbt2018-mean", "N": 16, "M": 16, "batch": 2, "crop": 64, "amp": False, "warmup": 1}
RECIPES = sorted((weights.shipped_folder() / "recipes").glob("*.toml"))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("photos")
    PIL.Image.fromarray(photo[:200, :260]).save(folder / "a.png")
    PIL.Image.fromarray(photo[200:400, 300:500]).save(folder / "b.png")
    return folder


@pytest.fixture(scope="module")
def data(folder):
    return Photographs(folder)


def run(*arguments: object):
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments], prog_name="lcodec")


# ---- rates and metrics


def test_lambda_of_a_quality_is_that_of_the_metrics_table():
    assert [table_lambda(q) for q in range(1, 9)] == pytest.approx(LAMBDAS["mse"])
    assert [table_lambda(q, "ms-ssim") for q in range(1, 9)] == pytest.approx(LAMBDAS["ms-ssim"])
    assert table_lambda(2.5) == pytest.approx(math.sqrt(0.0035 * 0.0067))
    assert Options(steps=1, qualities=(4.0,)).lambda_of(4.0) == pytest.approx(0.013)
    assert Options(steps=1, qualities=(4.0,), metric="ms-ssim", crop=192).lambda_of(4.0) == pytest.approx(16.64)
    assert Options(steps=1, qualities=(4.0,), lmbda=0.5).lambda_of(4.0) == 0.5
    with pytest.raises(UsageError, match="one rate"):
        Options(steps=1, lmbda=0.01)


def test_a_larger_lambda_pulls_towards_less_distortion(data, tmp_path):
    """The gradient of one step on the same batch: only the weight of the distortion differs."""
    gradients = []
    for lmbda in (1e-6, 1.0):
        options = Options(steps=9, qualities=(0.0,), lmbda=lmbda, clip=1e9, **SMALL)
        trainer = Trainer(options, data, None, tmp_path / str(lmbda))
        assert not trainer.network.config.variable_rate
        trainer.train_step()
        gradients.append(trainer.network.g_s[-1].bias.grad.norm())
    assert gradients[1] > 10 * gradients[0]


@pytest.mark.parametrize(
    "named, M", [([], 320), (["-q", "1,3,5"], 192), (["-q", "6"], 320), (["--lambda", "0.01"], 320), (["-M", "12"], 12)]
)
def test_the_latents_of_a_network_suffice_for_its_highest_quality(named, M, folder, tmp_path):
    options = ["-N", 8, "--crop", 64, "--batch", 1, "--amp", "off", "--threads", 1, "--steps", 1, *named]
    begun = run("train", "--model", "lc-s", "--data", folder, "--out", tmp_path / "run", *options)
    assert begun.exit_code == 0, begun.output
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")["config"]["M"] == M


def test_a_run_of_another_network_is_not_resumed_and_its_widths_are_told(folder, tmp_path):
    options = ["--data", folder, "--out", tmp_path, "-N", 8, "--crop", 64, "--batch", 1, "--amp", "off", "--threads", 1]
    assert run("train", "--model", "lc-s", "-M", 16, "-q", "1,8", "--steps", 1, *options).exit_code == 0
    result = run("train", "--model", "lc-s", "-q", "1,8", "--steps", 2, "--resume", *options)
    assert result.exit_code == 2
    assert "lc-s with -N 8 -M 16 -q 1,8" in result.output


def test_model_of_one_lambda_encodes(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["-N", 8, "-M", 8, "--crop", 64, "--batch", 1, "--amp", "off", "--threads", 1, "--steps", 2]
    result = run("train", "--model", "bmshj2018-factorized", "--data", folder, "--out", "run", "--lambda", 0.02, *small)
    assert result.exit_code == 0, result.output
    assert run("finalize", "run/checkpoint.pt", "--calibration", folder, "-o", "m.safetensors").exit_code == 0
    card = weights.load(Path("m.safetensors")).card
    assert (card["options"]["lmbda"], card["options"]["metric"]) == (0.02, "mse")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mean_square_and_its_gradient_are_those_of_the_formula(dtype):
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64)
    x_hat = (x + 0.1 * torch.randn_like(x)).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = torch.tensor([1.0, 5.0])
    results = []
    for value in (mean_square(x_hat, x), (x_hat.float() - x).square().mean((1, 2, 3))):
        (gradient,) = torch.autograd.grad((value * weights).sum(), x_hat)
        results.append((value.detach(), gradient))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-5)
    assert results[0][1].dtype == dtype
    assert torch.allclose(results[0][1].float(), results[1][1].float(), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5)


def test_ms_ssim_is_that_of_the_reference_package_and_has_a_gradient():
    reference = pytest.importorskip("pytorch_msssim")
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((2, 3, 176, 192), np.float32))
    noisy = (x + 0.1 * torch.from_numpy(rng.standard_normal((2, 3, 176, 192)).astype(np.float32))).requires_grad_()
    ours = ms_ssim(x, noisy)
    assert ours.shape == (2,) and bool((ours < 1).all())
    assert torch.allclose(ours[0], reference.ms_ssim(x[:1], noisy[:1], data_range=1.0)[()])
    ours.sum().backward()
    assert noisy.grad is not None and float(noisy.grad.abs().max()) > 0
    assert torch.allclose(ms_ssim(x, x), torch.ones(2))


def test_training_for_ms_ssim_is_recorded_and_not_resumed_for_another_metric(data, tmp_path):
    pytest.importorskip("pytorch_msssim")
    small = {**SMALL, "N": 8, "M": 8, "crop": 192, "batch": 1}
    trainer = Trainer(Options(steps=1, metric="ms-ssim", qualities=(1.0, 8.0), **small), data, data, tmp_path)
    trainer.run()
    valid = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["valid"]
    assert all(0 < row["ms_ssim"] < 1 and row["psnr"] > 0 for row in valid)
    assert checkpoint.load(trainer.path)["options"]["metric"] == "ms-ssim"
    with pytest.raises(UsageError, match="trained for ms-ssim"):
        Trainer(Options(steps=2, qualities=(1.0, 8.0), **small), data, None, tmp_path, resume=True)
    with pytest.raises(UsageError, match="more than 160"):
        Options(steps=1, metric="ms-ssim", crop=128)


def test_loss_is_the_formula():
    """lmbda * 255^2 * MSE + bpp (CompressAI), or lmbda * (1 - MS-SSIM) + bpp."""
    x, x_hat = torch.zeros(2, 3, 192, 192), torch.full((2, 3, 192, 192), 0.1)
    likelihoods = torch.stack((torch.full((16, 12, 12), 0.5), torch.full((16, 12, 12), 0.25)))
    bpp = torch.tensor([16 * 144, 2 * 16 * 144]) / 192**2
    lmbda = torch.tensor([0.01, 0.1])
    loss, rate, mse, _ = rate_distortion(x, Output(x_hat, likelihoods, None), lmbda)
    assert torch.allclose(rate, bpp) and torch.allclose(mse, torch.tensor(0.01), rtol=1e-4)
    assert torch.allclose(loss, bpp + lmbda * torch.tensor(650.25), rtol=1e-4)
    similarity = ms_ssim(x, x_hat)
    assert 0 < float(similarity[0]) < 0.9
    loss = rate_distortion(x, Output(x_hat, likelihoods, likelihoods), lmbda, "ms-ssim")[0]
    assert torch.allclose(loss, 2 * bpp + lmbda * (1 - similarity))


def test_low_qualities_weigh_more(data, tmp_path):
    """By lmbda^-0.4, which is 1 at quality 4."""
    options = Options(steps=1, rate_balance=0.4, **{**SMALL, "mode": "noise"})
    trainer = Trainer(options, data, None, tmp_path)
    x = to_unit(data.crops(np.random.default_rng(0), 2, 64))

    def loss(qualities: list[float], lmbda: list[float]) -> float:
        torch.manual_seed(1)
        return float(trainer.objective(x, torch.tensor(qualities), torch.tensor(lmbda)).loss.detach())

    for quality in (1.0, 4.0, 8.0):
        lmbda = table_lambda(quality)
        torch.manual_seed(1)
        with torch.no_grad():
            out = trainer.network(x, torch.tensor([quality] * 2), mode="noise")
        plain = rate_distortion(x, out, torch.tensor([lmbda] * 2))[0].mean()
        assert loss([quality] * 2, [lmbda] * 2) == pytest.approx(float(plain) * (lmbda / 0.013) ** -0.4, rel=1e-4)


def test_entropy_model_is_trained_as_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def note(self: Trainer, **_: object) -> None:
        seen.append((self.network.context_passes, self.network.spread))

    monkeypatch.setattr(Trainer, "run", note)
    options = ("train", "--model", "lc-s", "--data", folder, "-N", 8, "-M", 8, "--crop", 64, "--batch", 1, "--steps", 1)
    for extra in ((), ("--context-passes", 7, "--likelihood", "mixture")):
        assert run(*options, "--out", f"run{len(extra)}", *extra).exit_code == 0
    assert seen == [(2, GAUSSIAN), (7, SCALE_SPREAD)]
    for wrong in ((0,), (65,), (4, "--mode", "noise"), (4, "--model", "mbt2018-mean")):
        result = run(*options, "--out", "wrong", "--context-passes", *wrong)
        assert result.exit_code == 2 and "passes" in result.stderr
    result = run(*options, "--out", "wrong", "--likelihood", "mixture", "--model", "bmshj2018-factorized")
    assert result.exit_code == 2 and "scales" in result.stderr


@pytest.mark.parametrize("batch", [2, 3, 8, 16])
def test_every_batch_spans_the_qualities(batch, data):
    options = Options(steps=1, **{**SMALL, "batch": batch})
    seen = [make_batch(data, options, Ranks(), step).levels for step in range(200)]
    for levels in seen:
        counts = [levels.count(q) for q in options.qualities]
        assert max(counts) - min(counts) <= 1 and len(levels) == batch
    often = [sum(levels.count(q) for levels in seen) for q in options.qualities]
    assert min(often) > 0.7 * 200 * batch / 8


def test_gradient_is_cut_to_its_limit(data, tmp_path):
    options = Options(steps=9, clip=0.01, **SMALL)
    trainer = Trainer(options, data, None, tmp_path)
    row = trainer.train_step()
    assert row["grad_norm"] > 1  # what is logged is the gradient as it was
    left = torch.sqrt(sum((p.grad.square().sum() for p in trainer.parameters if p.grad is not None), torch.tensor(0.0)))
    assert float(left) == pytest.approx(0.01, rel=1e-3)


# ---- schedules


def test_cosine_is_warmed_up_and_falls_to_zero():
    o = Options(steps=100, lr=1e-3, warmup=10)
    assert o.schedule == "cosine"
    assert learning_rate(o, 4, 0.0) == pytest.approx(0.5e-3)
    assert [learning_rate(o, 99, p) for p in (0, 0.25, 0.5, 1)] == pytest.approx([1e-3, 0.85355339e-3, 0.5e-3, 0])


def test_constant_rate_is_warmed_up_and_falls_to_zero_at_the_end():
    o = Options(steps=100, lr=1e-3, warmup=10, schedule="constant", decay=0.25)
    assert learning_rate(o, 0, 0.0) == pytest.approx(1e-4)
    assert [learning_rate(o, s, s / 100) for s in (9, 40, 75)] == pytest.approx([1e-3] * 3)
    assert learning_rate(o, 90, 0.90) == pytest.approx(0.4e-3)
    assert learning_rate(o, 100, 1.0) == 0
    # what has been learned at a constant rate does not depend on the length that the run was to have
    longer = Options(steps=9999, lr=1e-3, warmup=10, schedule="constant")
    assert learning_rate(o, 50, 0.5) == learning_rate(longer, 50, 0.005)
    with pytest.raises(UsageError, match="cosine"):
        Options(steps=1, decay=0.3)


def test_plateau_halves_after_validations_that_brought_nothing():
    plateau = Plateau(2)
    for loss in (2.0, 1.5, 1.4999):  # too small an improvement to count
        plateau.see(loss)
    assert plateau.factor == 1
    plateau.see(1.6)
    assert plateau.factor == 0.5
    again = Plateau(2, json.loads(json.dumps(plateau.state())))
    for p in (plateau, again):
        p.see(1.6)
        p.see(1.6)
        assert p.factor == 0.25
    with pytest.raises(UsageError, match="--valid|validation"):
        Trainer(Options(steps=1, schedule="plateau", **SMALL), [], None, Path("nowhere"))  # type: ignore[arg-type]


def test_plateau_survives_a_restart(data, tmp_path, monkeypatch):
    monkeypatch.setattr("lcodec.train.loop.validation_loss", lambda rows, options: 1.0)  # never better
    small = {**SMALL, "N": 8, "M": 8, "qualities": (4.0,)}
    trainer = Trainer(Options(steps=3, schedule="plateau", patience=1, **small), data, data, tmp_path)
    trainer.run(valid_steps=1)
    assert trainer.plateau.factor == 0.25
    resumed = Trainer(Options(steps=4, schedule="plateau", patience=1, **small), data, data, tmp_path, resume=True)
    assert resumed.learning_rate() == pytest.approx(4e-4 / 4)


def test_finished_run_is_not_validated_again(data, tmp_path):
    options = Options(steps=4, schedule="plateau", **{**SMALL, "N": 8, "M": 8, "qualities": (4.0,)})
    whole = Trainer(options, data, data, tmp_path)
    whole.run(valid_steps=2)
    again = Trainer(options, data, data, tmp_path, resume=True)
    again.run(valid_steps=2)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "valid" in row] == [2, 4]
    assert again.plateau.state() == whole.plateau.state()


def test_validation_that_other_processes_went_on_without_is_made_up_for(data, tmp_path):
    """Ranks agree to stop one step after the signal that broke it off."""
    options = Options(steps=5, **{**SMALL, "N": 8, "M": 8, "qualities": (4.0,)})
    trainer = Trainer(options, data, data, tmp_path)
    for _ in range(3):
        trainer.train_step()
    trainer.save()
    Trainer(options, data, data, tmp_path, resume=True).run(valid_steps=2)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "valid" in row] == [3, 4, 5]


def test_a_run_is_not_resumed_for_another_lambda(data, tmp_path):
    small = {**SMALL, "N": 8, "M": 8, "qualities": (0.0,)}
    Trainer(Options(steps=1, lmbda=0.01, **small), data, None, tmp_path).save()
    with pytest.raises(UsageError, match=r"trained for lambda 0\.01"):
        Trainer(Options(steps=2, lmbda=0.02, **small), data, None, tmp_path, resume=True)


def test_resuming_is_exact_where_a_validation_was_due(data, tmp_path, monkeypatch):
    """Broken off after a step that a validation was to follow: that is made up for."""
    monkeypatch.setattr("lcodec.train.loop.validation_loss", lambda rows, options: 1.0)  # never better
    options = Options(steps=6, schedule="plateau", patience=1, **{**SMALL, "N": 8, "M": 8, "qualities": (4.0,)})
    whole, part = (Trainer(options, data, data, tmp_path / name) for name in ("whole", "part"))
    whole.run(valid_steps=2)

    step = part.train_step

    def broken_off() -> dict[str, float]:
        row = step()
        part.stopped = part.step == 4
        return row

    part.train_step = broken_off
    part.run(valid_steps=2)
    assert part.step == 4 and part.plateau.factor == 1
    resumed = Trainer(options, data, data, tmp_path / "part", resume=True)
    resumed.run(valid_steps=2)
    assert resumed.plateau.state() == whole.plateau.state()
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, resumed.network.state_dict()[name]), name


# ---- optimizers


@pytest.mark.parametrize("name", ["adamw", "muon", "soap"])
def test_every_optimizer_lowers_the_loss_and_resumes_exactly(name, data, tmp_path):
    if name == "soap":
        pytest.importorskip("pytorch_optimizer")
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    small = {**SMALL, "architecture": "bmshj2018-factorized"}
    options = Options(steps=8, optimizer=name, schedule="constant", lr=1e-3, **small)

    def fresh(run: str) -> Trainer:
        """From noise, where every way is down; the linear start is so good that eight steps do not improve it."""
        trainer = Trainer(options, data, None, tmp_path / run)
        torch.manual_seed(3)
        trainer.network.load_state_dict(Network(options.config).state_dict())
        return trainer

    whole, part = fresh("whole"), fresh("part")
    for _ in range(4):
        part.train_step()
    part.save()
    resumed = Trainer(options, data, None, tmp_path / "part", resume=True)
    resumed.run()
    whole.run()
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key

    def loss(trainer):
        x = to_unit(data.crops(np.random.default_rng(5), 8, 64))
        torch.manual_seed(0)
        levels = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])
        with torch.no_grad():
            return float(trainer.objective(x, levels, torch.tensor([table_lambda(float(q)) for q in levels])).loss)

    assert loss(whole) < 0.99 * loss(fresh("start"))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_state_of_another_optimizer_is_refused(data, tmp_path):
    small = {**SMALL, "architecture": "bmshj2018-factorized"}
    trainer = Trainer(Options(steps=2, **small), data, None, tmp_path)
    trainer.train_step()
    trainer.save()
    with pytest.raises(UsageError, match="--optimizer|another way"):
        Trainer(Options(steps=2, optimizer="muon", **small), data, None, tmp_path, resume=True)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_matrices_share_memory_with_the_weights_and_leave_out_what_is_none(architecture):
    network = Network(NetConfig(architecture, 16, 16, (1.0, 8.0))).channels_last()
    parameters = dict(network.named_parameters())
    found = matrices(network, parameters)
    assert len(found) > 4 and "g_a.1.gamma" not in found and not any("depthwise" in n for n in found)
    for name, weight in found.items():
        matrix = as_matrix(weight.detach())
        assert matrix.data_ptr() == weight.data_ptr() and matrix.shape[0] == weight.shape[0], name
        like = torch.arange(weight.numel()).float().reshape(weight.shape)  # other memory order, same entries
        inside = torch.empty_like(weight).copy_(like)
        assert torch.equal(as_matrix(like, like=weight), as_matrix(inside, like=weight)), name


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_trained_parameter_gets_a_gradient(architecture, data, tmp_path):
    """Processes that train together would wait for ever for the gradient of one that does not."""
    # bfloat16: in float32 and at this width oneDNN's backward pass of cheng2020-attn writes where it must not
    small = {**SMALL, "architecture": architecture, "N": 8, "M": 8, "amp": True}
    trainer = Trainer(Options(steps=1, **small), data, None, tmp_path)
    trainer.train_step()
    assert [n for n, p in trainer.network.named_parameters() if p.requires_grad and p.grad is None] == []


def test_average_in_strides_is_the_average_of_every_step():
    """Of weights that move evenly, up to the steps that it lags behind."""
    module = torch.nn.Linear(1, 1, bias=False)
    average = Average(module, 0.99)
    exact = float(module.weight.detach())
    for step in range(3000):
        with torch.no_grad():
            module.weight += 0.001
        exact += (float(module.weight.detach()) - exact) * (1 - min(0.99, (1 + step) / (10 + step)))
        average.update(step)
    assert float(average.weights["weight"]) == pytest.approx(exact, abs=0.001 * EVERY)


@pytest.mark.parametrize("amp, backend", [(False, "eager"), (True, "aot_eager")])
def test_compiled_step_computes_the_same(amp, backend, data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    small = {**SMALL, "architecture": "bmshj2018-factorized", "N": 8, "M": 8, "amp": amp}
    rows = [
        Trainer(Options(steps=1, compile=compiled, **small), data, None, tmp_path / str(compiled)).train_step()
        for compiled in (False, True)
    ]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=0.02 if amp else 1e-4)
    assert rows[0]["grad_norm"] == pytest.approx(rows[1]["grad_norm"], rel=0.05 if amp else 1e-3)


def test_compiled_gradients_are_as_precise(data, tmp_path, monkeypatch):
    """Also of the prior, which computes in float32 within the autocast."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    gradients = []
    for compiled in (False, True):
        options = Options(steps=1, compile=compiled, clip=1e9, **{**SMALL, "M": 32, "crop": 128, "amp": True})
        trainer = Trainer(options, data, None, tmp_path / str(compiled))
        torch.manual_seed(3)
        trainer.network.load_state_dict(Network(options.config).state_dict())  # from noise it shows most
        trainer.train_step()
        named = trainer.network.named_parameters()
        gradients.append({name: p.grad for name, p in named if p.grad is not None})
    assert any(name.startswith("entropy_bottleneck.biases") for name in gradients[0])
    for name, eager in gradients[0].items():
        assert float((gradients[1][name] - eager).norm()) <= 0.02 * float(eager.norm()) + 1e-7, name


# ---- recipes


def test_there_is_a_recipe_for_every_architecture():
    assert {path.stem for path in RECIPES} == set(ARCHITECTURES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipe_is_a_valid_run(path, folder, tmp_path, monkeypatch):
    """Its options are all known and fit together; the command line makes the run short."""
    seen: list[Options] = []
    begun: list[Source] = []

    class Stop(Exception):
        pass

    def trainer(options, *args, init, **kwargs):
        seen.append(options)
        begun.extend(init)
        raise Stop

    monkeypatch.setattr("lcodec.train.loop.Trainer", trainer)
    result = run("train", "--recipe", path.stem, "--data", folder, "--out", tmp_path / "run", "--seed", 7)
    assert "Stop" in result.stderr, result.output
    assert seen[0].architecture == path.stem and seen[0].seed == 7
    assert seen[0].steps > 0 and len(seen[0].qualities) == 8
    # Layers that stay as they are have to come from somewhere, in the widths that they have there.
    assert bool(begun) == bool(seen[0].freeze)
    network = Network(seen[0].config)
    for source in begun:
        other = network_of_model(weights.load(source.path))
        assert (other.config.N, other.config.M) == (network.config.N, network.config.M)
        taken = transfer(network, other.state_dict())
        assert {n for n, _ in network.named_parameters() if any(map(partial(fnmatch, n), seen[0].freeze))} <= set(taken)


def test_command_line_overrides_a_recipe(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = ['model = "mbt2018-mean"', "N = 8", "M = 8", "crop = 64", "batch = 1", "steps = 5", 'amp = "off"']
    recipe += ["qualities = [1, 8]", 'freeze = ["g_a.0.*"]', "threads = 1", "valid_steps = 100"]
    Path("mine.toml").write_text("\n".join(recipe))
    result = run("train", "--recipe", "mine.toml", "--data", folder, "--out", "run", "--steps", 2)
    assert result.exit_code == 0, result.output
    state = checkpoint.load(Path("run/checkpoint.pt"))
    assert state["step"] == 2 and state["options"]["qualities"] == [1.0, 8.0]
    assert state["options"]["freeze"] == ["g_a.0.*"]


@pytest.mark.parametrize(
    "said, steps, hours, qualities",
    [
        (["--hours", 2], 0, 2.0, 8),
        (["--steps", 3], 3, 0.0, 8),
        (["--lambda", 0.01], 400000, 0.0, 1),
        (["--lambda", 0.01, "-q", 3, "--hours", 1], 0, 1.0, 1),
    ],
)
def test_command_line_overrides_what_a_recipe_says_in_other_words(
    said, steps, hours, qualities, folder, tmp_path, monkeypatch
):
    seen: list[Options] = []
    monkeypatch.setattr("lcodec.train.loop.Trainer", lambda options, *_, **__: seen.append(options))
    run("train", "--recipe", "lc-s", "--data", folder, "--out", tmp_path / "run", *said)
    assert [(o.steps, o.hours, len(o.qualities)) for o in seen] == [(steps, hours, qualities)]


def test_one_value_will_do_where_a_recipe_may_have_several(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(f'model = "mbt2018-mean"\ndata = "{folder}"\nfreeze = "g_*"\n')
    options = ["--out", "run", "-N", 8, "-M", 8, "--crop", 64, "--batch", 1, "--amp", "off", "--steps", 1]
    result = run("train", "--recipe", "mine.toml", *options, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")["options"]["freeze"] == ["g_*"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("nonsense = 3", "no option 'nonsense'"),
        ("steps = ", "cannot read recipe"),
        ("[steps]\na = 1", "is a table"),
        ('metric = "vmaf"', "is not one of"),
    ],
)
def test_recipe_that_does_not_fit_is_refused(text, message, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text('model = "mbt2018"\n' + text)
    result = run("train", "--recipe", "bad.toml", "--data", folder, "--out", "run", "--hours", 1)
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert "no recipe nothing" in run("train", "--recipe", "nothing").stderr
