"""The training loop: variable rate, averaged weights, safe checkpoints, bit-exact resume on the CPU."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lcodec import checkpoint
from lcodec.errors import LcodecError, ModelError, OutputError, UsageError
from lcodec.nets import NetConfig, Network, Output

from .data import Photographs
from .initialize import linear_start, transfer
from .loss import mse_lambda, psnr, rate_distortion
from .validate import validate

MAX_BAD_STEPS = 100  # non-finite steps in a row after which the run gives up


@dataclass(frozen=True)
class Options:
    """All that decides a run, in one place; stored in its checkpoints.

    architecture, N, M, qualities: the network (see `NetConfig`).
    steps or hours: length; the learning rate warms up over `warmup` steps and then falls as a cosine to zero.
    batch crops of `crop` pixels a side; learning rate lr; gradient norm limit clip; ema decay of averaged weights.
    rate_balance: losses are weighted by lmbda^-rate_balance, so that low qualities are heard beside high ones.
    mode: "ste" or "noise" (see `Network.forward`). amp: bfloat16 autocast.
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
    lr: float = 1e-3
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    rate_balance: float = 0.4
    mode: str = "ste"
    amp: bool = True
    freeze: tuple[str, ...] = ()
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.hours > 0):
            raise UsageError("a run needs either steps or hours")
        if self.batch < 1:
            raise UsageError(f"a step needs at least one crop, not {self.batch}")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} is negative")
        if not (0 < self.lr < math.inf and self.clip > 0 and 0 <= self.ema < 1):
            raise UsageError(f"lr {self.lr:g}, clip {self.clip:g} or ema {self.ema:g} makes no sense")
        if self.crop % 64 or self.crop <= 0:
            raise UsageError(f"crop size {self.crop} is not a multiple of 64")
        if self.mode not in ("ste", "noise"):
            raise UsageError(f"unknown quantisation mode {self.mode!r}")

    @property
    def config(self) -> NetConfig:
        return NetConfig(self.architecture, self.N, self.M, self.qualities)


class Trainer:
    """A run in a folder: `checkpoint.pt` (all state), `log.jsonl` (steps and validations)."""

    def __init__(
        self,
        options: Options,
        data: Photographs,
        valid: Photographs | None,
        out: Path,
        *,
        resume: bool = False,
        init: Path | None = None,
        report: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        self.options, self.data, self.valid, self.out, self.report = options, data, valid, out, report
        self.path = out / "checkpoint.pt"
        self.step = 0
        self.seconds = 0.0  # of training, over all resumed parts
        self.bad_steps = 0
        self.stopped = False
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise OutputError(f"cannot make folder {out}: {(e.strerror or str(e)).lower()}") from e
        torch.manual_seed(options.seed)
        self.network = Network(options.config)
        if self.path.exists() and not resume:
            raise UsageError(f"{self.path} exists", "go on with --resume, or choose another --out")
        state = checkpoint.load(self.path) if resume else None
        if state is None:
            self._start(init)
        else:
            if not checkpoint.is_ours(state):
                raise ModelError(f"{self.path} is no checkpoint of a run that could go on")
            if state["config"] != options.config.to_json():
                raise UsageError(f"{self.path} holds another network than the one asked for")
            self.network.load_state_dict(state["network"])
        self.network.to(options.device).channels_last()
        self.ema = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            if name.endswith("quantiles") or any(fnmatchcase(name, pattern) for pattern in options.freeze):
                parameter.requires_grad_(False)
        for pattern in options.freeze:
            if not any(fnmatchcase(name, pattern) for name, _ in self.network.named_parameters()):
                raise UsageError(f"no parameter is called {pattern}", "they are named like g_a.0.weight")
        trained = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        if not trained:
            raise UsageError("everything is frozen")
        self.parameters = list(trained.values())
        self.rate_only = not any(n.startswith(("g_a.", "g_s.", "log_")) for n in trained)
        betas = (0.9, 0.99)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=options.lr, weight_decay=0.0, betas=betas, fused=True)
        if state is not None:
            self.ema = {k: v.to(options.device) for k, v in state["ema"].items()}
            try:
                self.optimizer.load_state_dict(state["optimizer"])
            except ValueError as e:
                raise UsageError(f"{self.path} trains other parameters", "resume with the same --freeze") from e
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.network.train()

    def _start(self, init: Path | None) -> None:
        """Weights to begin with: the linear start where there is one, then what fits of another model."""
        if self.options.config.arch.transform in ("gdn", "shuffle"):
            sample = self.data.crops(np.random.default_rng(self.options.seed), 64, 128)
            linear_start(self.network, sample)
        if init is None:
            return
        if not transfer(self.network, checkpoint.open_network(init).state_dict()):
            raise ModelError(f"{init} has no layer that fits {self.options.architecture}")

    # ---- one step

    def progress(self) -> float:
        """0 at the start to 1 at the end of the run."""
        o = self.options
        return min(1.0, self.step / o.steps if o.steps else self.seconds / (3600 * o.hours))

    def learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.options.warmup))
        return self.options.lr * warm * 0.5 * (1 + math.cos(math.pi * self.progress()))

    def train_step(self) -> dict[str, float]:
        """One optimizer step; everything random in it depends on (seed, step) alone, which makes resuming exact."""
        o = self.options
        rng = np.random.default_rng((o.seed, self.step))
        torch.manual_seed(int(rng.integers(2**62)))
        x = self.data.crops(rng, o.batch, o.crop).to(o.device, memory_format=torch.channels_last)
        # every batch spans the range of qualities, so that its gradient is not that of one of them
        ranks = (np.arange(o.batch) + rng.random()) * len(o.qualities) / o.batch
        q = [o.qualities[int(r) % len(o.qualities)] for r in ranks]
        lmbda = torch.tensor([mse_lambda(v) for v in q], device=o.device)
        lr = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(torch.device(o.device).type, torch.bfloat16, enabled=o.amp):
            levels = torch.tensor(q, device=o.device)
            if self.rate_only:  # distortion would be a constant
                out = Output(x, *self.network.latents(x, levels, o.mode)[1:])
            else:
                out = self.network(x, levels, mode=o.mode)
        loss, bpp, mse = rate_distortion(x, out, lmbda)
        weighted = (loss * (lmbda / 0.013) ** -o.rate_balance).mean()
        self.optimizer.zero_grad(set_to_none=True)
        weighted.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, o.clip)
        if bool(torch.isfinite(norm)) and bool(torch.isfinite(weighted)):
            self.optimizer.step()
            self._average()
            self.bad_steps = 0
        else:
            self.bad_steps += 1
            if self.bad_steps >= MAX_BAD_STEPS:
                raise LcodecError(f"{self.bad_steps} steps in a row had a loss that is not finite", "lower --lr")
        self.step += 1
        row = {"loss": float(weighted.detach()), "bpp": float(bpp.detach().mean()), "lr": lr, "grad_norm": float(norm)}
        return row if self.rate_only else {**row, "psnr": float(psnr(mse.detach()).mean())}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))  # short memory at the start
        own = self.network.state_dict()
        floating = [k for k, v in self.ema.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.ema[k] for k in floating], [own[k] for k in floating], 1 - decay)

    # ---- the run

    def save(self) -> None:
        checkpoint.save(
            self.path,
            {
                "config": self.options.config.to_json(),
                "options": json.loads(json.dumps(asdict(self.options))),
                "network": self.network.state_dict(),
                "ema": self.ema,
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "images": len(self.data),
            },
        )

    def averaged(self) -> Network:
        network = Network(self.options.config)
        network.load_state_dict(self.ema)
        return network.to(self.options.device).channels_last()

    def log(self, row: dict[str, Any]) -> None:
        with open(self.out / "log.jsonl", "a") as f:
            f.write(json.dumps({"step": self.step, "hours": round(self.seconds / 3600, 4), **row}) + "\n")
        self.report(row)

    def run(self, *, save_minutes: float = 5.0, valid_minutes: float = 20.0, log_steps: int = 50) -> None:
        """Train to the end, or until SIGINT, SIGTERM or an error (a closed pipe, say); the state is saved."""

        def stop(signum: int, frame: Any) -> None:
            self.stopped = True

        previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        saved_step = self.step
        try:
            last_save = last_valid = time.monotonic()
            mean: dict[str, float] = {}
            start, start_step = time.monotonic(), self.step
            while self.progress() < 1 and not self.stopped:
                began = time.monotonic()
                row = self.train_step()
                self.seconds += time.monotonic() - began
                mean = {k: mean.get(k, v) + (v - mean.get(k, v)) / log_steps for k, v in row.items()}
                now = time.monotonic()
                if self.step % log_steps == 0:
                    rate = (self.step - start_step) * self.options.batch / (now - start)
                    self.log({**mean, "lr": row["lr"], "images_per_s": rate, "progress": self.progress()})
                if now - last_save > 60 * save_minutes:
                    self.save()
                    last_save, saved_step = now, self.step
                if self.valid is not None and now - last_valid > 60 * valid_minutes:
                    self.validate()
                    last_valid = time.monotonic()
            self.save()
            saved_step = self.step
            if self.valid is not None and not self.stopped:
                self.validate()
        except BaseException:
            if self.step > saved_step and self.bad_steps == 0:
                self.save()
            raise
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)

    def validate(self) -> None:
        if self.valid is None:
            return
        qualities = self.options.qualities[:: max(1, len(self.options.qualities) // 4)]
        rows = validate(self.averaged(), self.valid, qualities, self.options.amp)
        self.log({"valid": rows})
