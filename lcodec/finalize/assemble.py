"""`finalize`: checkpoint in, model file and report out."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lcodec import weights
from lcodec.checkpoint import is_ours, load, network_of
from lcodec.entropy.intmodel import IntegerEntropyModel
from lcodec.entropy.tables import GAUSSIAN, SCALE_SPREAD, Spread, TableArrays, pack_cdfs, scale_table
from lcodec.errors import InputError, ModelError, UsageError
from lcodec.image import centre
from lcodec.image.pack import image_sources, spread
from lcodec.nets import NetConfig, Network, compressai
from lcodec.packing import round_rows

from . import freeze
from .calibrate import HEADROOM, Ranges, calibrate, fraction_bits, steady
from .quantize import ACTIVATION_MAX, FloatLayer, IntegerLayer, float_layers, quantize_layer
from .report import Rate, coded_symbols, measure

SCALE_BITS = 12  # fraction bits of scales and their thresholds
REPORT_QUALITIES = 3
MAX_CALIBRATION_IMAGES = 24
MAX_CALIBRATION_PX = 1024  # a side: they run through the networks whole


@dataclass
class Finalized:
    """A model file in memory, and how it came out.

    layers: name -> integer layer. spread: what the tables of y hold. rates: real against float bits on the report
    images. half_rates: the same of a model that was calibrated on every second image; empty if that was not asked for
    or there is but one image.
    """

    model: weights.ModelFile
    layers: dict[str, IntegerLayer]
    spread: Spread = GAUSSIAN
    rates: list[Rate] = field(default_factory=list)
    half_rates: list[Rate] = field(default_factory=list)


def finalize(
    checkpoint: Path,
    images: Sequence[np.ndarray],
    *,
    fp16: bool = False,
    rounded: bool = False,
    card: Mapping[str, Any] | None = None,
    report_images: Sequence[np.ndarray] | None = None,
    compare_half: bool = False,
    data: bytes | None = None,
    metric: str | None = None,
    begin: Callable[[], None] = lambda: None,
) -> Finalized:
    """Turn a training checkpoint of lcodec, or one of CompressAI, into a model file.

    images: photographs, uint8 (H, W, 3), on which activation ranges are measured. fp16: keep float weights in half
    precision. rounded: in a little less of it, so that a packed file becomes smaller (see `lcodec.packing`).
    report_images: what the rates are measured on, `images` if None; they change the card alone.
    compare_half: also measure what half of the images would have given, which tells whether they suffice.
    data: what is in the checkpoint's file, where it is in memory already. metric: "mse" or "ms-ssim", what a checkpoint
    of CompressAI was trained for, which it does not tell.
    begin: called when the checkpoint has turned out to be one. The same checkpoint and images give the same id. Raises
    ModelError if the checkpoint is neither, or has an entropy model that cannot be made of safe integers, UsageError
    for another metric than one of ours tells.
    """
    if checkpoint.suffix == weights.SUFFIX and checkpoint.is_file() and not weights.is_checkpoint(checkpoint):
        raise ModelError(f"{checkpoint} is a model file, finalized already", "it can be used as it is")
    data = read(checkpoint) if data is None else data
    state = load(checkpoint, data)
    origin: dict[str, Any] = {"checkpoint_sha256": hashlib.sha256(data).hexdigest()}
    del data
    tables_state: Mapping[str, Tensor] = {}
    if is_ours(state):
        network = network_of(state)
        origin |= {k: state[k] for k in ("options", "step", "seconds", "images") if k in state}
        if metric not in (None, own := weights.metric_of(origin)):
            raise UsageError(f"{checkpoint} was trained for {own}, not {metric}")
    else:
        network, tables_state = compressai.from_state(state)
        origin |= {"metric": metric} if metric else {}
    begin()
    done = finalize_network(network, tables_state, images, fp16=fp16, rounded=rounded, card={**origin, **(card or {})})
    if fp16 or rounded:
        _take_floats(network, done.model)
    seen = report_images or images

    def rates(of: Finalized, psnr: bool) -> list[Rate]:
        entropy = IntegerEntropyModel(of.model.integers(), of.model.entropy)
        qualities = report_qualities(network.config)
        return measure(network, entropy, of.model.table_qualities, seen, qualities, of.spread, psnr=psnr)

    done.rates = rates(done, True)
    if compare_half and len(images) > 1:
        done.half_rates = rates(finalize_network(network, tables_state, images[::2]), False)
    report = {
        "images": len(seen),
        "rates": [
            {"quality": r.quality, "bpp": round(r.integer_bpp, 4), "psnr": round(r.psnr, 2)} for r in done.rates
        ],
    }
    facts = {"report": report, "calibration": {"images": len(images), "pixels": sum(i[..., 0].size for i in images)}}
    done.model = replace(done.model, card={**done.model.card, **facts})
    return done


def read(checkpoint: Path) -> bytes:
    """What is in a checkpoint's file. Raises ModelError."""
    try:
        return checkpoint.read_bytes()
    except FileNotFoundError as e:
        raise ModelError(f"no checkpoint {checkpoint}") from e
    except OSError as e:
        raise ModelError(f"cannot read checkpoint {checkpoint}: {(e.strerror or str(e)).lower()}") from e


def _take_floats(network: Network, model: weights.ModelFile) -> None:
    """What is reported is what the model does, with transforms in the precision that it has."""
    floats = model.floats()
    for key, value in network.state_dict().items():
        if key in floats:
            value.copy_(torch.from_numpy(floats[key]))


def finalize_network(
    network: Network,
    tables_state: Mapping[str, Tensor],
    images: Sequence[np.ndarray],
    *,
    fp16: bool = False,
    rounded: bool = False,
    card: Mapping[str, Any] | None = None,
) -> Finalized:
    """Like `finalize`, of a float network; tables_state: a CompressAI state_dict whose tables are kept, or {}."""
    if not images:
        raise InputError("finalize needs photographs to measure activation ranges on")
    network = network.eval()
    config = network.config
    ranges = calibrate(network, images, config.qualities)
    fy, fz = fraction_bits(ranges.y, 4, 10), fraction_bits(ranges.z, 0, 12)
    tensors: dict[str, np.ndarray] = {}
    layers = integer_layers(network, ranges, fy, fz)
    described: dict[str, list[dict[str, Any]]] = {}
    for name, layer in layers.items():
        part, index = name.rsplit(".", 1)
        for key, value in layer.tensors.items():
            tensors[f"int.{part}.{index}.{key}"] = value
        # Not needed for coding: with it the layer can be trained further, see lcodec.checkpoint.
        tensors[f"{part}.{index}.weight_scale"] = layer.weight_scale
        described.setdefault(part, []).append(
            {"kind": layer.kind, "lo": layer.lo, "hi": layer.hi, "bound": layer.bound}
        )
    prior = "z" if config.arch.has_hyperprior else "y"
    medians, sets = freeze.prior_medians_and_tables(network, tables_state, fz if prior == "z" else fy)
    stacked = freeze.stack_sets(sets)
    tensors[f"tables.{prior}.medians"] = medians
    add_tables(tensors, f"tables.{prior}", stacked)
    if config.arch.has_hyperprior:
        add_tables(tensors, "tables.gaussian", freeze.tables_of_y(SCALE_SPREAD))
        # Between two tables the nearer one in the logarithm: CompressAI takes the wider one, which costs up to 1 %.
        table = scale_table().astype(np.float64)
        thresholds = np.floor(np.sqrt(table[:-1] * table[1:]) * 2**SCALE_BITS)
        tensors["scale_thresholds"] = thresholds.astype(np.int32)
    entropy_meta = {
        "kind": config.arch.entropy,
        "M": config.M,
        "N": config.N if config.arch.has_hyperprior else 0,
        "fy": fy,
        "fz": fz,
        "layers": described,
        "table_qualities": freeze.table_qualities(config),
    }
    dtype = np.float16 if fp16 else np.float32
    for key, value in network.state_dict().items():
        if key.startswith(("g_a.", "g_s.", "h_a.")):
            weight = value.cpu().numpy()
            tensors[key] = round_rows(weight) if rounded else weight.astype(dtype)
        elif key.startswith(("log_gain", "log_inverse_gain", "prior_log_scale", "entropy_bottleneck.")):
            tensors[key] = value.cpu().numpy().astype(np.float32)
    for key, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(f"tensor {key} is not finite" + (" in half precision" if fp16 or rounded else ""))
    errors = {name: round(layer.weight_error, 6) for name, layer in layers.items()}
    card = {**(card or {}), **({"weight_errors": errors} if errors else {})}
    model = weights.ModelFile(config.to_json(), entropy_meta, tensors, card)
    spread = GAUSSIAN
    if config.arch.has_hyperprior:
        entropy = IntegerEntropyModel(model.integers(), entropy_meta)
        qualities = report_qualities(config)
        spread = freeze.fitting_spread(coded_symbols(network, entropy, model.table_qualities, images, qualities))
        if spread != SCALE_SPREAD:
            add_tables(tensors, "tables.gaussian", freeze.tables_of_y(spread))
            model = replace(model, tensors=tensors)
    return Finalized(model, layers, spread)


def report_qualities(config: NetConfig) -> Sequence[float]:
    """Few of those that a network has, over all of their range."""
    return config.qualities[:: max(1, (len(config.qualities) - 1) // (REPORT_QUALITIES - 1))]


def add_tables(tensors: dict[str, np.ndarray], name: str, tables: TableArrays) -> None:
    tensors[f"{name}.cdfs"] = pack_cdfs(tables.cdfs, tables.sizes)
    tensors[f"{name}.sizes"] = np.ascontiguousarray(tables.sizes, np.int32)
    tensors[f"{name}.offsets"] = np.ascontiguousarray(tables.offsets, np.int32)


def integer_layers(network: Network, ranges: Ranges, fy: int, fz: int) -> dict[str, IntegerLayer]:
    """Every layer between z_hat and the scales and means, as "h_s.0", "context.0", "entropy_parameters.2", …"""
    arch, M = network.config.arch, network.config.M
    layers: dict[str, IntegerLayer] = {}
    if not arch.has_hyperprior:
        return layers

    def hidden_scale(peak: float) -> float:
        return max(1e-6, HEADROOM * steady(peak)) / ACTIVATION_MAX

    scale_out = np.full(M, 2.0**-SCALE_BITS)
    outputs = scale_out if arch.entropy == "hyperprior" else np.concatenate((scale_out, np.full(M, 2.0**-fy)))

    def chain(part: str, floats: list[FloatLayer], s_in: float, s_last: float | np.ndarray, last: bool) -> None:
        for i, layer in enumerate(floats):
            final = i == len(floats) - 1
            s_out = s_last if final else hidden_scale(ranges.layers[part][i])
            layers[f"{part}.{i}"] = quantize_layer(layer, s_in, s_out, last=final and last)
            s_in = s_out if isinstance(s_out, float) else 0.0

    h_s = float_layers(network.h_s)
    if arch.entropy != "context":
        chain("h_s", h_s, 2.0**-fz, outputs, True)
        return layers
    # The hyper parameters and the context prediction enter one layer together, so they share a scale.
    shared = hidden_scale(max(ranges.layers["h_s"][-1], ranges.layers["context"][0]))
    chain("h_s", h_s, 2.0**-fz, shared, False)
    masked = network.context_prediction
    weight = (masked.weight * masked.mask).detach().double().cpu().numpy()
    if masked.bias is None:
        raise ModelError("no integer form of a context prediction without bias")
    context = FloatLayer("context", weight, masked.bias.detach().double().cpu().numpy(), 1.0)
    chain("context", [context], 2.0**-fy, shared, False)
    chain("entropy_parameters", float_layers(network.entropy_parameters), shared, outputs, True)
    return layers


def calibration_images(
    folder: Path | None = None, warn: Callable[[str], None] = lambda message: print(message, file=sys.stderr)
) -> list[np.ndarray]:
    """Photographs to calibrate on, of large ones the middle: of a folder or pack, or those that come with the package.

    Unreadable ones are reported through `warn` and left out. Raises InputError if there are none.
    """
    folder = folder or weights.shipped_folder() / "calibration"
    sources = image_sources(folder) if folder.exists() else []
    if not sources:
        raise InputError(f"no calibration images in {folder}")
    count = min(len(sources), MAX_CALIBRATION_IMAGES)
    images: list[np.ndarray] = []
    skipped = 0
    for i in spread(len(sources), count):
        try:
            # copies, for a view would keep the whole photograph in memory
            images.append(centre(sources[i].read().rgb8(), MAX_CALIBRATION_PX).copy())
        except InputError as e:
            warn(f"skipped: {e}")
            skipped += 1
        if len(images) == count:
            break
    if not images:
        raise InputError(f"no calibration image in {folder} can be read")
    if skipped:
        warn(f"{skipped} calibration images skipped, {len(images)} used")
    return images
