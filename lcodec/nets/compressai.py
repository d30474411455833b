"""CompressAI checkpoints: three generations of key names, wrappers, legacy names -> `Network`.

Facts from CompressAI 1.0 to 1.2.9; architecture and widths are read off the tensors, never off a quality number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lcodec.errors import ModelError

from .config import NetConfig
from .network import Network, empty_network, fill_network

WRAPPERS = ("network", "state_dict", "model_state_dict")
# _matrices.0 (2020), _matrix0 (1.1 to 1.2), matrices.0 (current)
_PRIOR_KEYS = re.compile(r"entropy_bottleneck\._?(matri|bias|factor)(?:ces\.|es\.|s\.|x)?(\d)$")
_PRIOR_LISTS = {"matri": "matrices", "bias": "biases", "factor": "factors"}
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# Buffers that can be computed from the rest.
_DERIVED = re.compile(r"(^|\.)(pedestal|bound|target|_offset|_quantized_cdf|_cdf_length|scale_table|scale_bound|mask)$")


def unwrap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state_dict inside a checkpoint, with today's names of modules; buffers are kept."""
    for wrapper in WRAPPERS:
        if isinstance(checkpoint.get(wrapper), Mapping):
            checkpoint = checkpoint[wrapper]
    state: dict[str, Tensor] = {}
    for key, value in checkpoint.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            continue
        key = key.removeprefix("module.").replace(".downsample.", ".skip.")
        if m := _PRIOR_KEYS.match(key):
            key = f"entropy_bottleneck.{_PRIOR_LISTS[m[1]]}.{m[2]}"
        state[key] = value
    return state


def infer_config(state: Mapping[str, Tensor]) -> NetConfig:
    """Architecture and widths out of an unwrapped state_dict; ModelError if it is none of the six."""
    try:
        if "g_a.0.weight" in state:
            N, M = state["g_a.0.weight"].shape[0], state["g_a.6.weight"].shape[0]
            if "context_prediction.weight" in state:
                name = "mbt2018"
            elif "h_s.4.weight" not in state:
                name = "bmshj2018-factorized"
            else:
                name = "mbt2018-mean" if state["h_s.4.weight"].shape[0] == 2 * M else "bmshj2018-hyperprior"
        elif "g_a.0.conv1.weight" in state:
            N, M = state["g_a.0.conv1.weight"].shape[0], state["h_a.0.weight"].shape[1]
            name = "cheng2020-attn" if "g_a.8.conv_b.3.weight" in state else "cheng2020-anchor"
        else:
            raise KeyError("g_a.0.weight")
    except (KeyError, IndexError) as e:
        raise ModelError(
            f"not a checkpoint of a known network: no tensor {e}",
            "known are lcodec's training checkpoints and CompressAI's bmshj2018, mbt2018 and cheng2020",
        ) from e
    return NetConfig(name, N, M)


def load_state(network: Network, state: Mapping[str, Tensor]) -> None:
    """Give an empty network of one rate an unwrapped CompressAI state_dict. ModelError: one is missing or unfit."""
    own = network.state_dict()
    filled = {name: torch.zeros(own[name].shape) for name in ("log_gain", "log_inverse_gain", "prior_log_scale")}
    for key, value in state.items():
        if _DERIVED.search(key):
            continue
        name = key.replace("beta_reparam", "beta").replace("gamma_reparam", "gamma")
        if name not in own:
            raise ModelError(f"checkpoint has a tensor {key} that {network.config.architecture} does not have")
        if own[name].shape != value.shape:
            raise ModelError(
                f"tensor {key} has shape {tuple(value.shape)}, "
                f"{network.config.architecture} with N={network.config.N}, M={network.config.M} "
                f"needs {tuple(own[name].shape)}"
            )
        filled[name] = value
    missing = {k for k in own if k not in filled and not k.endswith(".mask")}
    if missing:
        raise ModelError(f"checkpoint lacks {len(missing)} tensors, {min(missing)} among them")
    fill_network(network, filled)


def from_state(checkpoint: Mapping[str, Any]) -> tuple[Network, dict[str, Tensor]]:
    """Network in eval mode, and the unwrapped state_dict (for its tables), of a CompressAI checkpoint."""
    state = unwrap(checkpoint)
    network = empty_network(infer_config(state))
    load_state(network, state)
    return network.eval(), state


def stored_tables(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor] | None:
    """The integer tables `_quantized_cdf` (C, L), `_cdf_length` (C,), `_offset` (C,) of `part`, None if they were never
    filled. ModelError if they are no such tables, or only claim to be that large.
    """
    found = {k: state.get(f"{part}.{k}") for k in ("_quantized_cdf", "_cdf_length", "_offset")}
    tables = {k: v for k, v in found.items() if v is not None and v.numel()}
    if len(tables) < len(found):
        return None
    cdfs, lengths, offsets = tables.values()
    whole = all(t.is_contiguous() and t.dtype in _INTEGERS for t in tables.values())
    if not whole or cdfs.dim() != 2 or not lengths.shape == offsets.shape == cdfs.shape[:1]:
        raise ModelError(f"the checkpoint's tables of {part} are damaged")
    if int(lengths.min()) < 2 or int(lengths.max()) > cdfs.shape[1]:
        raise ModelError(f"the checkpoint's tables of {part} are damaged: lengths that they cannot have")
    return tables
