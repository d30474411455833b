"""Where a run begins: at a linear transform and what fits of other models, or where it was broken off."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
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
    """How many of a network's tensors begin as in a source."""

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

    Raises ModelError for a model of which nothing fits, UsageError for a pattern that names no parameter.
    """
    lambdas = options.mse_lambdas()
    crops = data.crops(np.random.default_rng(options.seed), 64, 128)
    linear_start(network, to_unit(crops), lambdas)
    every = [name for name in network.state_dict() if not name.endswith("mask")]
    last = f"h_s.{len(network.h_s) - 1}.weight" if network.config.arch.has_hyperprior else ""
    means, parameters = False, False  # whether h_s came from where it says means; whether what follows it came, too
    found = []
    for source in init:
        other, trained_as = checkpoint.open_network(source.path)
        qualities, own = other.config.qualities, own_mse_lambda(trained_as)
        known = [own] if own and len(qualities) == 1 else None
        for pattern in source.layers:
            if not any(fnmatchcase(name, pattern) for name in every):
                raise UsageError(f"no parameter is called {pattern}", "they are named like g_a.0.weight")
        taken = transfer(network, other.state_dict(), qualities, lambdas, known, source.wants)
        # Gains and the prior of z are there in every network, and say nothing without its layers.
        if not any(source.layers or name.split(".")[0] in LAYERS for name in taken):
            raise ModelError(f"{source} has no layer that fits {options.architecture}")
        says_means = other.config.arch.entropy == "mean-scale" and other.config.M == network.config.M
        means = means or (says_means and last in taken)
        parameters = parameters or any(name.startswith("entropy_parameters.") for name in taken)
        found.append(Taken(len(taken), len(every), source))
    if means and not parameters and network.config.arch.entropy == "context":
        hand_on(network)
    return found


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


def differences(state: Mapping[str, Any], options: Options, digest: str, images: int) -> Iterator[str]:
    """What makes of a run that goes on another one than it would have been. digest, images: of the data now."""
    plain = {f.name: f.default for f in fields(Options)}  # of runs that were begun before there was such an option
    before = {**json.loads(json.dumps(plain)), **state.get("options", {})}
    now = json.loads(json.dumps(asdict(options)))
    changed = [k for k in now if k not in _FREE_OPTIONS and before[k] != now[k]]
    if changed:
        yield "other settings than before: " + ", ".join(f"{k} {now[k]} (was {before[k]})" for k in changed)
    if state.get("data", digest) != digest or state.get("images", images) != images:
        yield "other images than before, so that this is not the run that it would have been without a break"
