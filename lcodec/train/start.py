"""Where a run begins: at a linear transform and what fits of other models, or where it was broken off."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcodec import checkpoint
from lcodec.errors import ModelError, UsageError
from lcodec.nets import NetConfig, Network

from .data import Photographs, to_unit
from .initialize import LAYERS, Source, hand_on, linear_start, transfer
from .options import Options, own_mse_lambda

_FREE_OPTIONS = ("steps", "hours", "device", "compile")  # to be changed when a run goes on


class Taken(NamedTuple):
    """How many of a network's tensors begin as in a source, and in no later one."""

    tensors: int
    of: int
    source: Source


def checkpoint_path(out: Path) -> Path:
    """Where a run in a folder keeps its state."""
    return out / "checkpoint.pt"


def check_place(out: Path, resume: bool) -> None:
    """Raise UsageError for a run that is there already, ModelError for one that is not there to go on with."""
    path = checkpoint_path(out)
    exists = os.path.exists(path)  # also false where one may not look
    if exists and not resume:
        raise UsageError(f"{path} exists", "go on with --resume, or choose another --out")
    if resume and not exists:
        raise ModelError(f"no checkpoint {path}")


def begin(network: Network, options: Options, data: Photographs, init: Sequence[Source]) -> list[Taken]:
    """Give a network the linear start, then what fits of other models, a later one over those before.

    Raises ModelError for a model of which nothing fits, or nothing of what is named; UsageError for a pattern that
    names no parameter, and for layers that are to stay as they are, but come with other widths or from another metric.
    """
    lambdas = options.mse_lambdas()
    crops = data.crops(np.random.default_rng(options.seed), 64, 128)
    linear_start(network, to_unit(crops), lambdas)
    own = {name: tensor.shape for name, tensor in network.state_dict().items() if not name.endswith("mask")}
    last = f"h_s.{len(network.h_s) - 1}.weight" if network.config.arch.has_hyperprior else ""
    says_means = False  # whether h_s came from where it says means
    given: dict[str, int] = {}  # which source, the last one, a tensor came from
    for i, source in enumerate(init):
        other, trained_as = checkpoint.open_network(source.path)
        qualities, rate = other.config.qualities, own_mse_lambda(trained_as)
        known = [rate] if rate and len(qualities) == 1 else None
        check_patterns(source.layers, own)
        taken = transfer(network, other.state_dict(), qualities, lambdas, known, source.wants)
        # Gains and the prior of z are there in every network, and say nothing without its layers.
        if not any(source.layers or name.split(".")[0] in LAYERS for name in taken):
            raise ModelError(f"{source} has no layer that fits {options.architecture}")
        for pattern in source.layers:
            if not any(fnmatchcase(name, pattern) for name in taken):
                raise ModelError(f"{source} has nothing that fits {pattern}")
        for name in [name for name in taken if any(fnmatchcase(name, pattern) for pattern in options.freeze)]:
            if taken[name] != own[name]:
                hint = f"-N {other.config.N} -M {other.config.M}, as there"
                raise UsageError(f"{name} is to stay as it is, and {source} has it at other widths", hint)
            if name.startswith("g_") and trained_as.get("metric", options.metric) != options.metric:
                raise UsageError(
                    f"{name} is to stay as it is, and {source} was trained for {trained_as['metric']}",
                    f"--init of a model that was trained for {options.metric}",
                )
        if last in taken:
            says_means = other.config.arch.entropy == "mean-scale" and other.config.M == network.config.M
        given |= dict.fromkeys(taken, i)
    if says_means and network.config.arch.entropy == "context" and "entropy_parameters.0.weight" not in given:
        hand_on(network)
    counts = Counter(given.values())
    return [Taken(counts[i], len(own), source) for i, source in enumerate(init)]


def check_patterns(patterns: Sequence[str], names: Collection[str]) -> None:
    """Raise UsageError for a pattern that names none of some parameters."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"no parameter is called {pattern}", "they are named like g_a.0.weight")


def go_on(network: Network, options: Options, path: Path) -> dict[str, Any]:
    """Give a network the weights of its run's checkpoint; all of its state. Raises ModelError, UsageError."""
    state = checkpoint.load(path)
    if not checkpoint.is_ours(state):
        raise ModelError(f"{path} is no checkpoint of a run that could go on")
    if state["config"] != options.config.to_json():
        held = NetConfig.from_json(state["config"])
        rates = ",".join(f"{q:g}" for q in held.qualities)
        hint = f"it is {held.architecture} with -N {held.N} -M {held.M} -q {rates}"
        raise UsageError(f"{path} holds another network than the one asked for", hint)
    before = state.get("options", {}).get("metric", "mse")
    if before != options.metric:
        raise UsageError(f"{path} is trained for {before}", "a run for another metric begins with --init")
    lmbda = float(state.get("options", {}).get("lmbda", 0.0))
    if lmbda != options.lmbda:
        raise UsageError(f"{path} is trained for lambda {lmbda:g}", "a run for another begins with --init")
    network.load_state_dict(state["network"])
    return state


def differences(
    state: Mapping[str, Any], options: Options, digest: str, images: int, kept_bytes: int = 0
) -> Iterator[str]:
    """What makes of a run that goes on another one than it would have been. digest, images: of the data now.

    kept_bytes: of images that are there in part alone, see `Photographs.kept_in_part`.
    """
    plain = {f.name: f.default for f in fields(Options)}  # of runs that were begun before there was such an option
    before = {**json.loads(json.dumps(plain)), **state.get("options", {})}
    now = json.loads(json.dumps(asdict(options)))
    changed = [k for k in now if k not in _FREE_OPTIONS and before[k] != now[k]]
    if changed:
        yield "other settings than before: " + ", ".join(f"{k} {now[k]} (was {before[k]})" for k in changed)
    if state.get("data", digest) != digest or state.get("images", images) != images:
        yield "other images than before, so that this is not the run that it would have been without a break"
    elif state.get("kept", kept_bytes) != kept_bytes:
        yield "other parts of the images are kept than before (--cache-gib), so that crops are not those of one run"
