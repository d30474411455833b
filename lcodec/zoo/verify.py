"""Everything about a model file that can be checked without trusting whoever made it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lcodec import weights
from lcodec.decoder import integer_model
from lcodec.entropy.intmodel import IntegerEntropyModel
from lcodec.errors import LcodecError, ModelError

SUM_MAX = 2**31 - 1
PROBE = 8  # side of the latents that are coded there and back


@dataclass(frozen=True)
class Verified:
    """What was found right. bound: the largest sum that any integer layer can reach, of SUM_MAX allowed."""

    name: str
    path: Path
    id: str
    tensors: int
    tables: int
    layers: int
    bound: int


def verify(path: Path) -> Verified:
    """Check a model file: id over all content, tensors of its network, tables, proofs of the integer layers, coding.

    The proofs are made again from the weights. Raises ModelError that names the file.
    """
    from lcodec.nets import NetConfig
    from lcodec.transforms.torch_backend import load_network

    try:
        model = weights.load(path)  # checks the id
        config = NetConfig.from_json(model.config)
        entropy = integer_model(model)  # checks tables and layers, and proves that no sum can overflow
        if (entropy.M, entropy.N) != (config.M, config.N if config.arch.has_hyperprior else 0):
            raise ModelError("its networks do not fit together")
        if model.qualities != config.qualities:
            raise ModelError("its qualities contradict each other")
        load_network(config, model)
        bound = max((layer_bound(model, name) for name in layer_names(model)), default=0)
        _check_described_bounds(model)
        for table_set in (0, entropy.n_table_sets - 1):
            _check_coding(entropy, table_set)
    except LcodecError as e:
        message = str(e)
        raise ModelError(message if str(path) in message else f"model {path} is damaged: {message}", e.hint) from e
    tables = sum(a.size for k, a in model.tensors.items() if k.startswith("tables.") and k.endswith(".sizes"))
    return Verified(model.name, path, model.id, len(model.tensors), tables, len(layer_names(model)), bound)


def layer_names(model: weights.ModelFile) -> list[str]:
    """The integer layers, "h_s.0", "h_s.1", …, in the order of the network, of a model that `integer_model` takes."""
    if model.entropy["kind"] == "factorized":
        return []
    return [f"{part}.{i}" for part, layers in model.entropy["layers"].items() for i in range(len(layers))]


def layer_bound(model: weights.ModelFile, name: str) -> int:
    """The largest |bias| + 32767 * sum |weight| over the output channels of an integer layer, of all taps.

    A little more than FORMAT.md asks for, which counts those alone that enter one sum.
    """
    part, index = name.rsplit(".", 1)
    weight = np.asarray(model.tensors[f"int.{name}.weight"], np.int64)
    if model.entropy["layers"][part][int(index)]["kind"] == "deconv":
        weight = weight.swapaxes(0, 1)
    bias = np.abs(np.asarray(model.tensors[f"int.{name}.bias"], np.int64))
    return int((bias + 32767 * np.abs(weight).reshape(len(bias), -1).sum(1)).max())


def _check_described_bounds(model: weights.ModelFile) -> None:
    """The description tells each bound, for people, as `layer_bound` counts it."""
    for name in layer_names(model):
        part, index = name.rsplit(".", 1)
        told, found = model.entropy["layers"][part][int(index)].get("bound"), layer_bound(model, name)
        if told is not None and told != found:
            raise ModelError(f"layer {name} claims the bound {told}, its weights give {found}")


def _check_coding(entropy: IntegerEntropyModel, table_set: int) -> None:
    """Latents there and back: what the decoder gets is what the encoder had."""
    rng = np.random.default_rng(0)
    y = np.rint(rng.normal(0, 4, (PROBE, PROBE, entropy.M)) * 65536).astype(np.int32)
    shape = (PROBE // 4, PROBE // 4, entropy.N)
    z = np.rint(rng.normal(0, 4, shape) * 65536).astype(np.int32) if entropy.N else None
    data, y_hat = entropy.encode_slice(y, z, table_set)
    if not np.array_equal(entropy.decode_slice(data, PROBE, PROBE, table_set), y_hat):
        raise ModelError("latents do not come back as they were coded")
