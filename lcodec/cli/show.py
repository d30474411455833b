"""`lcodec models show`: the card of a model."""

from __future__ import annotations

from typing import Any

import click

from lcodec.cli import files, options
from lcodec.cli.models import as_records, curve_of, describe, describe_qualities
from lcodec.cli.report import print_json, printable, printable_line

# of the card, told in another way
ASIDE = ("summary", "report", "weight_errors", "options", "calibration", "seconds", "step", "images")


@click.command("show", short_help="All that is known about a model.")
@click.argument("name")
@click.option("--text/--no-text", default=True, help="The written card as well, where there is one.")
@options.as_json
@options.debug
def command(name: str, text: bool, as_json: bool) -> None:
    """The card of a model: architecture, size, cost per pixel, training, rates, and a report of its integer layers."""
    from lcodec import weights
    from lcodec.decoder import integer_model
    from lcodec.nets import NetConfig
    from lcodec.zoo import rates
    from lcodec.zoo.complexity import complexity
    from lcodec.zoo.verify import SUM_MAX, layer_bound, layer_names

    path = weights.find(name)
    info, model = weights.info(path), weights.load(path)
    integer_model(model)  # ModelError for a damaged one
    config = NetConfig.from_json(model.config)
    cost = complexity(config)
    measured = {k: v for folder in (weights.shipped_folder(), path.parent) for k, v in rates.curves(folder).items()}
    curve = curve_of(info, measured)
    errors = model.card.get("weight_errors")
    layers = {}
    for layer in layer_names(model):
        part, index = layer.rsplit(".", 1)
        weight = model.tensors[f"int.{layer}.weight"]
        layers[layer] = {
            "kind": model.entropy["layers"][part][int(index)]["kind"],
            "shape": list(weight.shape),
            "bits": 8 * weight.dtype.itemsize,
            "bound": layer_bound(model, layer),
            "weight_error": errors.get(layer) if isinstance(errors, dict) else None,
        }
    seconds = model.card.get("seconds")
    hours = round(seconds / 3600, 3) if isinstance(seconds, int | float) and 0 <= seconds < 1e12 else None
    record: dict[str, Any] = {
        **describe(info),
        "source": config.arch.source,
        "N": config.N,
        "M": config.M,
        "parameters": cost.parameters,
        "kmac_per_pixel": {
            "g_a": round(cost.g_a, 3),
            "h_a": round(cost.h_a, 3),
            "g_s": round(cost.g_s, 3),
            "entropy": round(cost.entropy, 3),
            "encode": round(cost.encode, 3),
            "decode": round(cost.decode, 3),
        },
        "float_bits": min((8 * v.itemsize for k, v in model.tensors.items() if k.startswith("g_s.")), default=0),
        "training_hours": hours,
        "card": dict(model.card),
        "rates": as_records(curve),
        "integer_layers": layers,
    }
    beside = path.with_name(path.name.removesuffix(weights.SUFFIX) + ".md")
    written = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else None
    if as_json:
        print_json({**record, "text": written})
        return
    lines = [f"{info.name}: {info.summary}" if info.summary else info.name]
    facts = {
        "id": info.id,
        "file": f"{path}, {files.describe_size(info.size_bytes)}",
        "shares": info.base and f"{len(info.base.tensors)} tensors with {weights.printable_name(info.base)}",
        "architecture": f"{config.architecture}: {config.arch.source}",
        "widths": f"N = {config.N}, M = {config.M}, {describe_qualities(config.qualities)}",
        "parameters": f"{cost.parameters / 1e6:.2f} million, transforms in float{record['float_bits']}",
        "kMAC/pixel": (
            f"{cost.encode:.1f} to encode, {cost.decode:.1f} to decode "
            f"(g_a {cost.g_a:.1f}, h_a {cost.h_a:.1f}, g_s {cost.g_s:.1f}, integer entropy part {cost.entropy:.1f})"
        ),
        "training": _training(model.card, record["training_hours"]),
        "calibration": _calibration(model.card),
        **{k: str(v) for k, v in model.card.items() if k not in ASIDE and not isinstance(v, dict | list)},
    }
    lines = [printable_line(line) for line in [*lines, *(f"  {k:14} {v}" for k, v in facts.items() if v)]]
    if curve is not None:
        against = "" if curve.bd_rate is None else f", BD-rate {curve.bd_rate:+.1f} % against JPEG 4:4:4"
        lines.append(f"rates on {curve.images}{against}")
        lines += [f"  q {p.quality:<5g} {p.bpp:8.4f} bpp  {p.psnr:6.2f} dB" for p in curve.points]
    if layers:
        lines.append("integer layers: the largest sum that any input can give, as a share of int32")
    for layer, told in layers.items():
        off = f", weights +-{told['weight_error']:.2%}" if isinstance(told["weight_error"], float) else ""
        shape = "x".join(map(str, told["shape"]))
        share = told["bound"] / SUM_MAX
        lines.append(f"  {layer:22} {told['kind']:8} {shape:16} int{told['bits']:<2} sums <= {share:6.1%}{off}")
    if written and text:
        lines += ["", f"---- {beside}", written.rstrip()]
    click.echo(printable("\n".join(lines)))


def _training(card: Any, hours: float | None) -> str:
    """Options of the last run in short, as far as the card tells."""
    options_ = card.get("options")
    parts = [f"{card['step']} steps"] if isinstance(card.get("step"), int) else []
    parts += [f"{hours:.2f} h"] if hours is not None else []
    parts += [f"{card['images']} images"] if isinstance(card.get("images"), int) else []
    if isinstance(options_, dict):
        chosen = ("batch", "crop", "lr", "mode", "metric", "seed")
        parts += [f"{key} {options_[key]}" for key in chosen if key in options_]
    return ", ".join(parts)


def _calibration(card: Any) -> str:
    try:
        used = card["calibration"]
        return f"{int(used['images'])} images, {int(used['pixels']) / 1e6:.1f} megapixels"
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""
