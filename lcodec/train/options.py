"""All that decides a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lcodec.errors import UsageError
from lcodec.nets import NetConfig
from lcodec.nets.config import LAMBDAS, table_lambda
from lcodec.nets.network import TRAINING_PASSES
from lcodec.nets.similarity import MIN_MS_SSIM_PX

from .loss import METRICS

MAX_CONTEXT_PASSES = 64
SCHEDULES = ("cosine", "plateau", "constant")
LIKELIHOODS = ("gaussian", "mixture")
OPTIMIZERS = ("adamw", "muon", "soap")


@dataclass(frozen=True)
class Options:
    """All that decides a run, in one place; stored in its checkpoints, and in the card of what is finalized from them.

    architecture, N, M, qualities: the network (see `NetConfig`).
    metric: what distortion is, "mse" or "ms-ssim". lmbda: of a network of one rate; 0 takes the metric's table.
    steps or hours: length. schedule: after `warmup` steps the learning rate falls as a cosine to zero ("cosine"), stays
    ("constant"), or is halved when `patience` validations in a row brought nothing ("plateau"); with the latter two it
    falls linearly to zero over the last `decay` of the run, 0 to 1.
    batch crops of `crop` pixels a side, over all processes; learning rate lr; gradient norm limit clip; ema decay of
    averaged weights.
    optimizer: "adamw", "muon" or "soap", see `optimizers`.
    rate_balance: losses are weighted by lmbda^-rate_balance, so that low qualities are heard beside high ones.
    mode: "ste" or "noise" (see `Network.forward`). context_passes: with "ste", of networks with a context; more show
    them contexts that are more like those of the coder, and take longer. likelihood: of y given its scale, "gaussian"
    as in the papers, or "mixture", what the tables of finalized models hold (`SCALE_SPREAD`).
    amp: bfloat16 autocast. compile: torch.compile.
    freeze: patterns (as in file names) of parameters that stay as they are. With g_a, g_s and the gains frozen the rate
    alone is trained, several times faster.
    """

    architecture: str = "mbt2018-mean"
    N: int = 96
    M: int = 192
    qualities: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    steps: int = 0
    hours: float = 0.0
    batch: int = 8
    crop: int = 128
    lr: float = 4e-4
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    rate_balance: float = 0.4
    mode: str = "ste"
    amp: bool = True
    freeze: tuple[str, ...] = ()
    seed: int = 1
    device: str = "cpu"
    metric: str = "mse"
    lmbda: float = 0.0
    schedule: str = "cosine"
    decay: float = 0.0
    patience: int = 3
    optimizer: str = "adamw"
    compile: bool = False
    context_passes: int = TRAINING_PASSES
    likelihood: str = "gaussian"

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.hours > 0) or not math.isfinite(self.hours):
            raise UsageError("a run needs either steps or hours")
        if any(not 1 <= q <= 8 for q in self.qualities) and not (self.qualities == (0.0,) and self.lmbda):
            raise UsageError("qualities are from 1 to 8, which have lambdas", "--lambda without -q is for others")
        if self.batch < 1:
            raise UsageError(f"a step needs at least one crop, not {self.batch}")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} is negative")
        if not (0 < self.lr < math.inf and self.clip > 0 and 0 <= self.ema < 1):
            raise UsageError(f"lr {self.lr:g}, clip {self.clip:g} or ema {self.ema:g} makes no sense")
        if self.crop % 64 or self.crop <= 0:
            raise UsageError(f"crop size {self.crop} is not a multiple of 64")
        for name, value, known in (
            ("quantisation mode", self.mode, ("ste", "noise")),
            ("metric", self.metric, METRICS),
            ("schedule", self.schedule, SCHEDULES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("likelihood", self.likelihood, LIKELIHOODS),
        ):
            if value not in known:
                raise UsageError(f"unknown {name} {value!r}", "known: " + ", ".join(known))
        if self.metric == "ms-ssim" and self.crop < MIN_MS_SSIM_PX:
            raise UsageError(f"MS-SSIM needs crops of more than 160 pixels, not {self.crop}", "--crop 192 or 256")
        if not 0 <= self.lmbda < math.inf:
            raise UsageError(f"lambda {self.lmbda:g} makes no sense")
        if self.lmbda and len(self.qualities) > 1:
            raise UsageError("one lambda is for one rate", "give one quality with it, or leave --lambda out")
        if not 0 <= self.decay <= 1:
            raise UsageError(f"the decay is a share of the run, 0 to 1, not {self.decay:g}")
        if self.decay and self.schedule == "cosine":
            raise UsageError("the cosine falls to zero by itself", "use --decay with --schedule constant or plateau")
        if not 1 <= self.context_passes <= MAX_CONTEXT_PASSES:
            raise UsageError(f"{self.context_passes} passes of the context are not within 1 to {MAX_CONTEXT_PASSES}")
        entropy = self.config.arch.entropy
        if self.context_passes != TRAINING_PASSES and (entropy != "context" or self.mode != "ste"):
            raise UsageError("the context has passes in networks that have one, trained with --mode ste")
        if self.likelihood != "gaussian" and entropy == "factorized":
            raise UsageError(f"{self.architecture} has no scales that a likelihood could be given")
        if self.patience < 1:
            raise UsageError(f"patience {self.patience} makes no sense")

    @property
    def config(self) -> NetConfig:
        return NetConfig(self.architecture, self.N, self.M, self.qualities)

    def lambda_of(self, quality: float) -> float:
        """lmbda of the loss at a quality."""
        return self.lmbda or table_lambda(quality, self.metric)

    def mse_lambdas(self) -> list[float]:
        """For each quality the lmbda that has about the same rate with the MSE as the run's own has with its metric."""
        return [mse_lambda(self.lambda_of(q), self.metric) for q in self.qualities]


def mse_lambda(lmbda: float, metric: str) -> float:
    """The lmbda of the MSE that has about the same rate as one of another metric."""
    if metric == "mse":
        return lmbda
    own, mse = (np.log(LAMBDAS[name]) for name in (metric, "mse"))
    return math.exp(float(np.interp(math.log(lmbda), own, mse)))


def own_mse_lambda(options: Mapping[str, Any]) -> float | None:
    """That of a run of one lmbda, by options as checkpoints have them; None if it had the table's, or nothing says."""
    lmbda, metric = options.get("lmbda"), options.get("metric", "mse")
    if not isinstance(lmbda, int | float) or not 0 < lmbda < math.inf or metric not in METRICS:
        return None
    return mse_lambda(float(lmbda), metric)
