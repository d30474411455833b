"""Checkpoints: one file, written under a temporary name and renamed, read without unpickling code.

Also networks out of whatever holds one: a checkpoint of ours, one of CompressAI, or a finalized model.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lcodec import weights
from lcodec.atomic import open_atomically
from lcodec.errors import ModelError, OutputError
from lcodec.nets import NetConfig, Network, compressai
from lcodec.nets.network import empty_network, fill_network

FORMAT = "lcodec-checkpoint-1"
KNOWN = "known are checkpoints of lcodec train and of CompressAI's bmshj2018, mbt2018 and cheng2020"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write atomically: a crash or a full disk leaves the previous checkpoint as it was."""
    try:
        with open_atomically(path, overwrite=True) as f:
            torch.save({"format": FORMAT, **state}, f)
    except RuntimeError as e:
        if "PytorchStream" not in str(e) and "inline_container" not in str(e):  # torch's own, when it could not write
            raise
        raise OutputError(f"cannot write checkpoint {path}: {e}") from e


def load(path: Path, data: bytes | None = None) -> dict[str, Any]:
    """Any checkpoint as a dict of tensors and plain values; ModelError if damaged or with foreign code in it.

    data: what is in the file, where that is known already.
    """
    source = path if data is None else io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the kinds of pickles that are refused anyway
            state = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise ModelError(f"no checkpoint {path}") from e
    except OSError as e:
        raise ModelError(f"cannot read checkpoint {path}: {(e.strerror or str(e)).lower()}") from e
    except MemoryError:
        raise
    except Exception as e:  # torch.load raises whatever its zip and pickle readers raise, pages long
        if "can't allocate memory" in str(e):
            raise MemoryError from e
        raise ModelError(f"cannot read checkpoint {path}: damaged, or more than tensors and values", KNOWN) from e
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds no checkpoint", KNOWN)
    return state


def is_ours(state: dict[str, Any]) -> bool:
    return state.get("format") == FORMAT


def network_of(state: dict[str, Any], averaged: bool = True) -> Network:
    """The network of one of our checkpoints, by default with its averaged (EMA) weights, in eval mode. ModelError."""
    try:
        network = empty_network(NetConfig.from_json(state["config"]))
        fill_network(network, state["ema" if averaged else "network"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as e:  # the last one from load_state_dict
        raise ModelError("the checkpoint lacks tensors, or has others than its network") from e
    return network.eval()


def open_network(path: Path) -> tuple[Network, Mapping[str, Any]]:
    """The float network of a checkpoint or of a model file, in eval mode, to train further. ModelError.

    Second, what is said of the options that it was trained with, as names and plain values.
    """
    if path.suffix == weights.SUFFIX:
        model = weights.load(path)
        return network_of_model(model), {**_options(model.card), "metric": model.metric}
    state = load(path)
    return (network_of(state), _options(state)) if is_ours(state) else (compressai.from_state(state)[0], {})


def _options(described: Mapping[str, Any]) -> Mapping[str, Any]:
    options = described.get("options")
    return options if isinstance(options, Mapping) else {}


def network_of_model(model: weights.ModelFile) -> Network:
    """The network of a finalized model: the integer layers with the weights that their integers stand for."""
    network = empty_network(NetConfig.from_json(model.config))
    names = {module: name for name, module in network.named_modules()}
    floats = model.floats()
    own = network.state_dict()
    state = {key: torch.from_numpy(value) for key, value in floats.items() if key in own}
    try:
        for part in ("h_s", "context", "entropy_parameters"):
            for i, layer in enumerate(_linear_layers(network, part)):
                scale = torch.from_numpy(floats[f"{part}.{i}.weight_scale"])
                weight = torch.from_numpy(model.tensors[f"int.{part}.{i}.weight"].astype(np.float32))
                shape = (1, -1, 1, 1) if isinstance(layer, nn.ConvTranspose2d) else (-1, 1, 1, 1)
                state[f"{names[layer]}.weight"] = weight * scale[:, 0].reshape(shape)
                bias = torch.from_numpy(model.tensors[f"int.{part}.{i}.bias"].astype(np.float32))
                if layer.bias is not None:
                    state[f"{names[layer]}.bias"] = bias * scale[:, 1]
        fill_network(network, state)
    except (KeyError, RuntimeError, IndexError) as e:
        raise ModelError(f"model {model.name} cannot be trained further: it lacks what that needs ({e})") from e
    return network.eval()


def _linear_layers(network: Network, part: str) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    """The layers of a part in the order in which finalize numbers them."""
    root = getattr(network, "context_prediction" if part == "context" else part, None)
    modules = root.modules() if isinstance(root, nn.Module) else []
    return [m for m in modules if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
