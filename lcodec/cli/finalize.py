"""`lcodec finalize`: a checkpoint to a model file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lcodec.cli import options
from lcodec.cli.export import not_an_input
from lcodec.cli.replaced import before
from lcodec.cli.report import print_json, warn
from lcodec.errors import OutputError, UsageError

if TYPE_CHECKING:
    from lcodec.finalize.report import Rate

WORTH_A_WARNING_PERCENT = 2.0


@click.command("finalize")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The model file to write.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Folder of photographs [default: built in].")
@click.option(
    "--report", type=click.Path(path_type=Path), help="Folder of images to compare rates on [default: the same]."
)
@click.option("--fp16", is_flag=True, help="Keep the float weights in half precision.")
@click.option("--pack", is_flag=True, help="A smaller file: weights of 11 bits, compressed; a moment more to load.")
@click.option("--share", metavar="MODEL", help="Leave out what MODEL has, too; the file needs that one beside it.")
@click.option(
    "--metric", type=click.Choice(["mse", "ms-ssim"]), help="What a checkpoint of CompressAI was trained for [mse]."
)
@click.option("--summary", default="", help="A line about the model, for `lcodec models`.")
@options.force
@options.as_json
@options.debug
def command(
    checkpoint: Path,
    output: Path,
    calibration: Path | None,
    report: Path | None,
    fp16: bool,
    pack: bool,
    share: str | None,
    metric: str | None,
    summary: str,
    force: bool,
    as_json: bool,
) -> None:
    """Turn a training checkpoint, or one of CompressAI, into a model file with integer tables and networks.

    \b
    lcodec finalize runs/mine/checkpoint.pt -o mine.safetensors
    lcodec encode photo.png --model mine.safetensors
    """
    from lcodec import weights

    if output.suffix != weights.SUFFIX:
        raise UsageError(f"model files end in {weights.SUFFIX}, not {output.name!r}")
    if os.path.exists(output) and os.path.exists(checkpoint) and output.samefile(checkpoint):
        raise OutputError(f"{output} is an input", "choose another name with -o")
    if os.path.exists(output) and not force:
        raise OutputError(f"{output} exists", "--force overwrites it")
    if not os.path.isdir(output.parent):
        raise OutputError(f"cannot write {output}: no folder {output.parent}")
    real = Path(os.path.realpath(output))
    renamed = real.is_file() or not real.exists()  # what is no file is written as it is
    if real.is_dir() or (renamed and not os.access(real.parent, os.W_OK)):
        raise OutputError(f"cannot write {output}: {'it is a folder' if real.is_dir() else 'permission denied'}")
    if share is not None:
        not_an_input(output, weights.find(share))
    there = before(output)

    from lcodec.atomic import write_atomically
    from lcodec.finalize import calibration_images, finalize

    base = weights.load_base(share) if share is not None else None
    photographs = calibration_images(calibration, warn)
    done = finalize(
        checkpoint,
        photographs,
        fp16=fp16,
        rounded=pack,
        card={"summary": summary} if summary else None,
        report_images=calibration_images(report, warn) if report else None,
        compare_half=True,
        metric=metric,
    )
    # It took a while: whether the output is still free is asked again.
    write_atomically(output, weights.pack(done.model, compress=("*",) if pack else (), base=base), overwrite=force)
    there.tell(done.model.id)
    outcome: dict[str, Any] = {
        "output": str(output),
        "id": done.model.id,
        "bytes": output.stat().st_size,
        "layers": {
            name: {"kind": layer.kind, "bound": layer.bound, "weight_error": round(layer.weight_error, 6)}
            for name, layer in done.layers.items()
        },
        "rates": [
            {
                "quality": rate.quality,
                "integer_bpp": rate.integer_bpp,
                "float_bpp": rate.float_bpp,
                "excess_percent": rate.excess_percent,
                "psnr": rate.psnr,
            }
            for rate in done.rates
        ],
        "calibration": {
            "folder": str(calibration or weights.shipped_folder() / "calibration"),
            "images": len(photographs),
            "pixels": sum(image.shape[0] * image.shape[1] for image in photographs),
            "half": [
                {"quality": half.quality, "integer_bpp": half.integer_bpp, "percent": percent(half, whole)}
                for half, whole in zip(done.half_rates, done.rates, strict=False)
            ],
        },
    }
    worst = max(rate.excess_percent for rate in done.rates)
    if worst > WORTH_A_WARNING_PERCENT:
        warn(f"the integers cost {worst:.1f} % more bits than the float model: calibrate on more or other photographs")
    if as_json:
        print_json(outcome)
        return
    click.echo(f"{output}: id {done.model.id[:16]}, {output.stat().st_size / 1e6:.2f} MB")
    for name, layer in done.layers.items():
        part = layer.bound / (2**31 - 1)
        click.echo(f"  {name:22} {layer.kind:8} weights +-{layer.weight_error:.2%}, sums <= {part:.1%} of int32")
    for rate in done.rates:
        click.echo(
            f"  quality {rate.quality:g}: {rate.integer_bpp:.4f} bpp coded, {rate.float_bpp:.4f} estimated by the "
            f"float model ({rate.excess_percent:+.2f} %), {rate.psnr:.2f} dB"
        )
    used = outcome["calibration"]
    click.echo(f"  calibrated on {used['images']} images, {used['pixels'] / 1e6:.1f} megapixels of {used['folder']}")
    if done.half_rates:
        changes = ", ".join(
            f"{percent(half, whole):+.2f} % at quality {half.quality:g}"
            for half, whole in zip(done.half_rates, done.rates, strict=True)
        )
        click.echo(f"  with every second of them it would code {changes}")


def percent(rate: Rate, against: Rate) -> float:
    return 100 * (rate.integer_bits / against.integer_bits - 1)
