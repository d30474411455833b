"""Checkpoints: one file, written under a temporary name and renamed, read without unpickling code."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from lcodec.errors import ModelError, OutputError
from lcodec.nets import NetConfig, Network

FORMAT = "lcodec-checkpoint-1"
KNOWN = "known are checkpoints of lcodec train and of CompressAI's bmshj2018, mbt2018 and cheng2020"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write atomically: a crash or a full disk leaves the previous checkpoint as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            torch.save({"format": FORMAT, **state}, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as e:
        raise OutputError(f"cannot write checkpoint {path}: {e}") from e
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Any checkpoint as a dict of tensors and plain values; ModelError if damaged or with foreign code in it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the kinds of pickles that are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise ModelError(f"no checkpoint {path}") from e
    except OSError as e:
        raise ModelError(f"cannot read checkpoint {path}: {(e.strerror or str(e)).lower()}") from e
    except Exception as e:  # torch.load raises whatever its zip and pickle readers raise, pages long
        raise ModelError(f"cannot read checkpoint {path}: damaged, or more than tensors and values", KNOWN) from e
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds no checkpoint", KNOWN)
    return state


def is_ours(state: dict[str, Any]) -> bool:
    return state.get("format") == FORMAT


def network_of(state: dict[str, Any], averaged: bool = True) -> Network:
    """The network of one of our checkpoints, by default with its averaged (EMA) weights, in eval mode. ModelError."""
    try:
        network = Network(NetConfig.from_json(state["config"]))
        network.load_state_dict(state["ema" if averaged else "network"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as e:  # the last one from load_state_dict
        raise ModelError("the checkpoint lacks tensors, or has others than its network") from e
    return network.eval()
