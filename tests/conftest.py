"""Small models made on the fly: random weights, scaled so that latents are of realistic size."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import numpy as np
import PIL.Image
import pytest

PHOTO = Path(__file__).parent / "images" / "colosseum.webp"
# On a busy machine an example may take long.
hypothesis.settings.register_profile("lcodec", deadline=None)
hypothesis.settings.load_profile("lcodec")
# Threads of many small operators only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def home_of_its_own(tmp_path_factory):
    """Models and limits of whoever runs the tests are not theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in ("LCODEC_LIMITS", "LCODEC_MODELS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """uint8 (432, 768, 3)"""
    return np.asarray(PIL.Image.open(PHOTO).convert("RGB"))


def random_network(
    architecture: str, N: int = 16, M: int = 16, qualities: tuple[float, ...] = (1.0, 8.0), seed: int = 0
):
    """A network whose y spreads over some ten steps at the highest quality and about one at the lowest.

    What it makes of them is no photograph, but lies within 0 to 1: samples that are clamped would always be equal.
    """
    import torch

    from lcodec.nets import NetConfig, Network

    torch.manual_seed(seed)
    network = Network(NetConfig(architecture, N, M, qualities)).eval()
    x = torch.from_numpy(np.array(PIL.Image.open(PHOTO).convert("RGB"))[:384]).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        y = network.g_a(x)
        for row, spread in enumerate(np.geomspace(1, 10, len(qualities))):
            network.log_gain[row] = torch.log(spread / y.std((0, 2, 3)))
            network.log_inverse_gain[row] = -network.log_gain[row]
        if network.config.arch.has_hyperprior:
            gained = network.analyse(x, qualities[-1])[0]
            last = network.h_a[-1]
            spread = network.hyper_analyse(gained).std()
            last.weight.mul_(3 / spread)
            last.bias.mul_(3 / spread)
            # scales of some steps, and means that move
            out = network.entropy_parameters[-1] if network.config.arch.entropy == "context" else network.h_s[-1]
            if network.config.arch.entropy == "hyperprior":
                out = network.h_s[-2]
            out.weight.mul_(10)
            out.bias[:M] = torch.linspace(0.2, 6, M)
        else:
            network.prior_log_scale[:] = torch.log(1 / torch.tensor(np.geomspace(1, 10, len(qualities))))[:, None]
        like_a_picture(network, y)
    return network


def like_a_picture(network, y_hat) -> None:
    """Scale the last layer of g_s so that what it makes of y_hat, without gains, lies within 0 to 1."""
    import torch

    last = [m for m in network.g_s.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)][-1]
    with torch.no_grad():
        out = network.g_s(y_hat)
        last.weight.mul_(0.2 / out.std())
        last.bias.mul_(0.2 / out.std()).add_(0.5 - 0.2 * out.mean() / out.std())


@pytest.fixture(scope="session")
def models(tmp_path_factory, photo) -> dict[str, Path]:
    """A finalized small model of each architecture, on the search path as tiny-NAME."""
    from lcodec import weights
    from lcodec.finalize.assemble import finalize_network
    from lcodec.nets import ARCHITECTURES

    folder = tmp_path_factory.mktemp("models")
    paths = {}
    for name in ARCHITECTURES:
        paths[name] = folder / f"tiny-{name}{weights.SUFFIX}"
        weights.save(finalize_network(random_network(name), {}, [photo[:128, :128]]).model, paths[name])
    os.environ[weights.ENVIRONMENT] = str(folder)
    return paths


@pytest.fixture(scope="session")
def model_file(models) -> Path:
    """One of them, mean-scale hyperprior."""
    return models["mbt2018-mean"]


@pytest.fixture(scope="session")
def training_checkpoint(tmp_path_factory, photo) -> Path:
    """What three steps of the trainer leave behind."""
    from lcodec.train.data import Photographs
    from lcodec.train.loop import Options, Trainer

    folder = tmp_path_factory.mktemp("run")
    (folder / "data").mkdir()
    PIL.Image.fromarray(photo[:128, :192]).save(folder / "data" / "a.png")
    options = Options("mbt2018-mean", N=8, M=8, qualities=(1.0, 8.0), steps=3, batch=1, crop=64, amp=False)
    trainer = Trainer(options, Photographs(folder / "data"), None, folder / "out")
    trainer.run()
    return trainer.path


@contextmanager
def less_memory_than(limit_kb: int) -> Iterator[None]:
    """Asserts that what runs within takes no more than that, even for a moment. Not everywhere can that be known."""
    status = Path("/proc/self/status")

    def kb(key: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))

    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = kb("VmHWM:")
    except (OSError, StopIteration):
        yield
        warnings.warn("here the peak of memory cannot be known: not checked", stacklevel=3)
        return
    yield
    assert kb("VmHWM:") - before < limit_kb
