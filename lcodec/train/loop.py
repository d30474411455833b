"""The training loop: variable rate, averaged weights, safe checkpoints, bit-exact resume on the CPU."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from lcodec import checkpoint
from lcodec.atomic import remove_stale, write_atomically
from lcodec.entropy.tables import GAUSSIAN, SCALE_SPREAD
from lcodec.errors import LcodecError, OutputError, UsageError
from lcodec.image import write_image
from lcodec.image.pack import RUN_PICTURE
from lcodec.nets import NetConfig, Network

from .average import Average
from .batches import Batches
from .data import Photographs, to_unit
from .initialize import Source
from .journal import Journal, Report
from .lock import RunLock
from .loss import Losses, Objective
from .optimizers import Optimizer
from .options import Options
from .parallel import Ranks
from .pictures import Point, curve_svg, history, jpeg_curve, strip
from .schedule import Plateau, learning_rate
from .start import Taken, begin, check_patterns, check_place, checkpoint_path, differences, go_on
from .timing import Stopwatch
from .validate import add_integer_rates, validate, validation_loss

__all__ = ["NetConfig", "Network", "Options", "Trainer"]

MAX_BAD_STEPS = 100  # non-finite steps, not made up for, after which the run gives up
WORTH = 0.25  # good steps make up for so much of a bad one: a run where more than a fifth is bad gives up, too


def _keep_precision_of_gradients() -> None:
    """A compiled backward pass would else take the autocast of the forward pass, in parts that were float32, too.

    That makes gradients of the prior wrong by up to 16 % where the graph has breaks, as at GDN in C.
    """
    import torch._functorch.config as settings

    if hasattr(settings, "backward_pass_autocast"):  # not in older versions of torch
        settings.backward_pass_autocast = "off"


class Trainer:
    """A run in a folder: `checkpoint.pt` (all state), `log.jsonl` (steps and validations), and of the last validation
    `curve.svg` and `strip.webp`.

    init: what to begin with; of several, a later one has the last word. workers: threads that prepare batches. ranks:
    the processes that train together, see `parallel`. stepped: called after each step.
    """

    def __init__(
        self,
        options: Options,
        data: Photographs,
        valid: Photographs | None,
        out: Path,
        *,
        resume: bool = False,
        init: Path | Sequence[Source] | None = None,
        report: Report = lambda row: None,
        workers: int = 0,
        ranks: Ranks = Ranks(),  # noqa: B008  # frozen
        stepped: Callable[[], None] = lambda: None,
    ) -> None:
        self.options, self.data, self.valid, self.out, self.ranks = options, data, valid, out, ranks
        self.path = checkpoint_path(out)
        self.lock = RunLock(out)
        self.step = 0
        self.validated = 0  # the step of the last validation
        self.seconds = 0.0  # of training, over all resumed parts, as all ranks know it
        self._unsaid = 0.0  # what rank 0 has added to it since
        self.bad_steps = 0.0  # of late, less what good ones have made up for
        self.skipped = 0  # of them, over all
        self.stopped = False
        self._asked_to_stop = False
        self._anchor: list[Point] | None = None
        ranks.share(options.batch)
        if options.schedule == "plateau" and valid is None and ranks.main:
            raise UsageError("a plateau is found by validation", "give --valid, or another --schedule")
        self.digest = self._check_data()
        self.taken: list[Taken] = []
        self.stepped = stepped
        if ranks.main:
            try:
                out.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise OutputError(f"cannot make folder {out}: {(e.strerror or str(e)).lower()}") from e
            self.lock.claim()
            remove_stale(out)
        torch.manual_seed(options.seed)
        self.network = Network(options.config)
        state = self._state(resume, [Source(init)] if isinstance(init, Path) else init or ())
        self.network.context_passes = options.context_passes
        self.network.spread = SCALE_SPREAD if options.likelihood == "mixture" else GAUSSIAN
        self.network.to(options.device).channels_last()
        for name, parameter in self.network.named_parameters():
            if name.endswith("quantiles") or any(fnmatchcase(name, pattern) for pattern in options.freeze):
                parameter.requires_grad_(False)
        check_patterns(options.freeze, [name for name, _ in self.network.named_parameters()])
        trained = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        if not trained:
            raise UsageError("everything is frozen")
        self.trained = list(trained)
        self.parameters = list(trained.values())
        self.rate_only = not any(n.startswith(("g_a.", "g_s.", "log_")) for n in trained)
        self.optimizer = Optimizer(options.optimizer, self.network, trained, options.lr)
        averaged = None
        if state is not None:
            hint = "resume with the same --freeze and --optimizer"
            other = UsageError(f"{self.path} trains other parameters or in another way", hint)
            # The optimizers compare numbers of parameters alone, and a fused one would read beyond their ends.
            if state.get("trained", list(trained)) != list(trained):
                raise other
            if "trained" not in state and tuple(state.get("options", {}).get("freeze", ())) != options.freeze:
                raise other
            try:
                self.optimizer.load(state["optimizer"])
            except (ValueError, KeyError) as e:
                raise other from e
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            self.skipped = int(state.get("skipped", 0))
            self.validated = int(state.get("validated", self.step))
            averaged = {k: v.to(options.device) for k, v in state["ema"].items()} if ranks.main else None
        self.plateau = Plateau(options.patience, None if state is None else state.get("plateau"))
        self.average = Average(self.network, options.ema, averaged) if ranks.main else None
        objective: torch.nn.Module = Objective(self.network, options, self.rate_only)
        if options.compile:
            _keep_precision_of_gradients()
            objective = torch.compile(objective)  # type: ignore[assignment]
        self.objective = ranks.distributed(objective, options.device)
        self.batches = Batches(data, options, ranks, workers)
        self.watch = Stopwatch(options.device)
        self.journal = Journal(out, report, ranks.main, self.step)
        if ranks.main and state is not None:
            for warning in differences(state, options, self.digest, len(data), data.kept_in_part):
                self.log({"warning": warning})
        self.network.train()

    # ---- setting up

    def _check_data(self) -> str:
        """All ranks draw from the same list of images, or a step's crops would not be what its number says."""
        names = [source.name for source in self.data.sources]
        digest = hashlib.sha256(json.dumps([names, self.data.shapes]).encode()).hexdigest()
        if len(set(self.ranks.all(digest))) > 1:
            raise UsageError("the processes do not see the same images", "give them all the same --data, a pack say")
        return digest

    def _state(self, resume: bool, init: Sequence[Source]) -> dict[str, Any] | None:
        """Weights to begin with; the state of the run that goes on, on ranks but the main one without its weights."""
        if not self.ranks.main:
            theirs: dict[str, Any] | None = self.ranks.from_main(None)
            return theirs
        check_place(self.out, resume)
        state = go_on(self.network, self.options, self.path) if resume else None
        if state is None:
            self.taken = begin(self.network, self.options, self.data, init)
        self.ranks.from_main(state and {k: v for k, v in state.items() if k not in ("network", "ema")})
        return state

    # ---- one step

    def progress(self) -> float:
        """0 at the start to 1 at the end of the run."""
        o = self.options
        return min(1.0, self.step / o.steps if o.steps else self.seconds / (3600 * o.hours))

    def learning_rate(self) -> float:
        return learning_rate(self.options, self.step, self.progress(), self.plateau.factor)

    def train_step(self) -> dict[str, float]:
        """One optimizer step; everything random in it depends on (seed, step) alone, which makes resuming exact."""
        o = self.options
        self.watch.start(self.step)
        batch = self.batches.get(self.step)
        x = to_unit(batch.x.to(o.device, non_blocking=True))  # sent as bytes, a quarter as many
        self.watch.lap("data")
        torch.manual_seed(batch.noise_seed)
        levels = torch.tensor(batch.levels, device=o.device)
        lmbda = torch.tensor([o.lambda_of(q) for q in batch.levels], device=o.device)
        losses = self.objective(x, levels, lmbda)
        self.watch.lap("forward")
        self.optimizer.zero_grad(self.parameters)
        losses.loss.backward()
        self.watch.lap("backward")
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, o.clip))
        agreed = self._agree(losses)
        lr = self.learning_rate()  # of the plateau and the time that all ranks know by now
        row = {**agreed, "lr": lr, "grad_norm": norm}
        if math.isfinite(norm) and math.isfinite(row["loss"]):
            self.optimizer.step(lr)
            self.bad_steps = max(0.0, self.bad_steps - WORTH)
        else:
            self.bad_steps += 1
            self.skipped += 1
            if self.bad_steps >= MAX_BAD_STEPS:
                reason = f"{self.skipped} of {self.step + 1} steps had a loss that is not finite, too many of late"
                raise LcodecError(reason, "lower --lr")
        if self.average is not None:
            self.average.update(self.step)
        self.step += 1
        self.watch.lap("optimizer")
        return row

    def _agree(self, losses: Losses) -> dict[str, float]:
        """Means over the ranks; whoever wants to stop stops all; the clock and the plateau are those of rank 0."""
        present = {k: float(v.detach()) for k, v in losses._asdict().items() if v is not None}
        world = self.ranks.world
        # Read once: a signal that comes while the ranks talk is told to them at the next step, and not forgotten.
        asked = float(self._asked_to_stop)
        if world > 1:
            ours = (self.seconds + self._unsaid, self.plateau.factor) if self.ranks.main else (0.0, 0.0)
            shared = [*(v / world for v in present.values()), asked, *ours]
            *means, asked, self.seconds, self.plateau.factor = self.ranks.sums(shared, self.options.device)
            self._unsaid = 0.0
            present = dict(zip(present, means, strict=True))
        self.stopped = self.stopped or asked > 0
        return present

    # ---- the run

    @property
    def ema(self) -> dict[str, torch.Tensor]:
        """The averaged weights, on rank 0."""
        if self.average is None:
            raise ValueError("only rank 0 keeps averaged weights")
        return self.average.weights

    def save(self) -> None:
        """Raises OutputError; the checkpoint that is there stays if the new one cannot be written whole."""
        if not self.ranks.main:
            return
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters):
            raise LcodecError("weights are not finite any more, the checkpoint is kept as it was", "lower --lr")
        checkpoint.save(
            self.path,
            {
                "config": self.options.config.to_json(),
                "options": json.loads(json.dumps(asdict(self.options))),
                "network": self.network.state_dict(),
                "ema": self.ema,
                "optimizer": self.optimizer.state(),
                "plateau": self.plateau.state(),
                "validated": self.validated,
                "step": self.step,
                "skipped": self.skipped,
                "seconds": self.seconds + self._unsaid,
                "images": len(self.data),
                "data": self.digest,
                "kept": self.data.kept_in_part,
                "trained": self.trained,
            },
        )

    def averaged(self) -> Network:
        network = Network(self.options.config)
        network.load_state_dict(self.ema)
        return network.to(self.options.device).channels_last()

    def log(self, row: dict[str, Any]) -> None:
        self.journal.write(self.step, self.seconds / 3600, row)

    def run(
        self,
        *,
        save_minutes: float = 5.0,
        valid_minutes: float = 20.0,
        valid_steps: int = 0,
        log_steps: int = 50,
    ) -> None:
        """Train to the end, or until SIGINT, SIGTERM or an error (a closed pipe, say); the state is saved.

        valid_steps: validate every so many steps instead of by time. A checkpoint that cannot be written in between is
        reported and tried again at the next occasion; at the end it is an OutputError.
        """
        saved_step, saving = self.step, False
        with self._signals():
            try:
                last_save = last_valid = time.monotonic()
                mean: dict[str, float] = {}
                spent, since = 0.0, self.step
                if valid_steps and self.validated < self.step - self.step % valid_steps:
                    self.validate()  # it was due when the run was broken off
                while self.progress() < 1 and not self.stopped:
                    began = time.monotonic()
                    row = self.train_step()
                    now = time.monotonic()
                    self._count(now - began)
                    self.stepped()
                    spent += now - began
                    if all(map(math.isfinite, row.values())):
                        mean = {k: mean.get(k, v) + (v - mean.get(k, v)) / log_steps for k, v in row.items()}
                    if self.step % log_steps == 0 and mean:
                        self.log({**mean, "lr": row["lr"], **self._speed(spent / (self.step - since))})
                        spent, since = 0.0, self.step
                    due = self.step % valid_steps == 0 if valid_steps else now - last_valid > 60 * valid_minutes
                    due = due and self.progress() < 1 and not self.stopped and self.valid is not None
                    if due or now - last_save > 60 * save_minutes:  # a validation may take long
                        saved_step = self._save_or_warn(saved_step)
                        last_save = time.monotonic()
                    if due:
                        self.validate()
                        last_valid = time.monotonic()
                saving = True
                self.save()
                if self.valid is not None and self.validated < self.step and not self.stopped:
                    self.validate()
                    self.save()  # with what was seen, so that it is not seen again
            except BaseException:
                if self.step > saved_step and not saving and self.bad_steps < MAX_BAD_STEPS:
                    with suppress(LcodecError):  # the first error is the one to be told
                        self.save()
                raise
            finally:
                self.batches.close()
                self.journal.close()
                self.lock.release()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM ask to stop after the step. (Python lets the main thread alone say so.)"""

        def stop(signum: int, frame: Any) -> None:
            self._asked_to_stop = True
            self.stopped = self.stopped or self.ranks.world == 1

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)

    def _count(self, seconds: float) -> None:
        if self.ranks.world == 1:
            self.seconds += seconds
        elif self.ranks.main:
            self._unsaid += seconds

    def _speed(self, step_seconds: float) -> dict[str, Any]:
        o = self.options
        left = (o.steps - self.step) * step_seconds if o.steps else 3600 * o.hours - self.seconds
        row: dict[str, Any] = {"images_per_s": o.batch / step_seconds, "progress": self.progress()}
        row |= {"left_s": round(max(0.0, left)), "time": self.watch.shares()}
        counts = {"skipped": self.skipped, "lost_images": self.data.lost}
        return row | {name: count for name, count in counts.items() if count}

    def _save_or_warn(self, saved_step: int) -> int:
        try:
            self.save()
        except OutputError as e:
            self.log({"warning": f"{e}; the one before stays, trying again later"})
            return saved_step
        return self.step

    def validate(self) -> None:
        """Rates and distortions of the averaged weights to the log, pictures of them to the run's folder.

        A signal breaks it off; where validations come by steps, it is made up for when the run goes on.
        """
        if self.valid is None or not self.ranks.main:
            return
        qualities = self.options.qualities[:: max(1, len(self.options.qualities) // 4)]
        network = self.averaged()
        rows = validate(network, self.valid, qualities, self.options, lambda: self._asked_to_stop)
        if rows is None:
            return
        self.validated = self.step
        trouble = add_integer_rates(rows, network, self.valid)
        loss = validation_loss(rows, self.options)
        if self.options.schedule == "plateau":
            self.plateau.see(loss)
        self.log({"valid": rows, "valid_loss": loss, **({"integer_error": trouble} if trouble else {})})
        if not self._asked_to_stop:
            self._pictures(network)

    def _pictures(self, network: Network) -> None:
        if self.valid is None:
            return
        metric = self.options.metric
        if self._anchor is None:
            self._anchor = jpeg_curve(self.valid, metric, lambda: self._asked_to_stop)
            if self._anchor is None:
                return
        pixels = strip(network, self.valid, self.options)
        self.journal.picture(self.step, "reconstructions", pixels)
        try:
            curves = history(self.journal.path, metric)
            write_atomically(self.out / "curve.svg", curve_svg(curves, self._anchor, metric).encode(), overwrite=True)
            write_image(self.out / RUN_PICTURE, pixels, overwrite=True)
        except (OutputError, OSError, ValueError) as e:
            self.log({"warning": f"no pictures of this validation: {e}"})
