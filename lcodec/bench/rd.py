"""Rate and distortion of models and of JPEG on a folder of images, through real files.

    python -m lcodec.bench.rd FOLDER [--model NAME]... [-q 1,2,...] [--csv FILE]

Mean bits per pixel (whole file) and mean PSNR over RGB of the 8-bit output, and BD-rate against JPEG 4:4:4 (Pillow's
encoder with optimize). `--csv` writes one row an image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import PIL.Image

from lcodec.atomic import write_atomically
from lcodec.bench.bdrate import bd_rate
from lcodec.image import INPUT_SUFFIXES, read_image

JPEG_QUALITIES = (10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95)


class Row(NamedTuple):
    """One coded image: bytes of the file, PSNR in dB."""

    codec: str
    model_id: str
    quality: float
    image: str
    width: int
    height: int
    bytes: int
    bpp: float
    psnr: float


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB over all channels of two uint8 images; inf if equal."""
    mse = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))


Code = Callable[[np.ndarray, float], tuple[int, np.ndarray]]  # pixels, quality -> bytes of the file, decoded pixels


def jpeg(pixels: np.ndarray, quality: float) -> tuple[int, np.ndarray]:
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "JPEG", quality=int(quality), subsampling=0, optimize=True)
    return out.tell(), np.asarray(PIL.Image.open(out).convert("RGB"))


def measure(
    codec: str, model_id: str, code: Code, images: list[tuple[str, np.ndarray]], qualities: tuple[float, ...]
) -> Iterator[Row]:
    for quality in qualities:
        for name, pixels in images:
            size, decoded = code(pixels, quality)
            height, width = pixels.shape[:2]
            bpp = 8 * size / (height * width)
            yield Row(codec, model_id, quality, name, width, height, size, bpp, psnr(pixels, decoded))


def curve(rows: list[Row]) -> list[tuple[float, float, float]]:
    """(quality, mean bpp, mean PSNR) for each quality, in order."""
    qualities = sorted({r.quality for r in rows})
    picked = [[r for r in rows if r.quality == q] for q in qualities]
    return [
        (q, float(np.mean([r.bpp for r in p])), float(np.mean([r.psnr for r in p])))
        for q, p in zip(qualities, picked, strict=True)
    ]


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", "models", multiple=True, help="Name or file; repeat for several [default: all shipped ones].")
@click.option("-q", "--qualities", default="1,2,3,4,5,6,7,8", show_default=True)
@click.option("--threads", type=int, help="CPU threads [default: all].")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the rows here.")
def main(folder: Path, models: tuple[str, ...], qualities: str, threads: int | None, csv_path: Path | None) -> None:
    """Rate and distortion on the images of FOLDER."""
    from lcodec import weights
    from lcodec.codec import Codec

    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in INPUT_SUFFIXES)
    if not paths:
        raise click.UsageError(f"no images in {folder}")
    images = [(p.name, read_image(p).rgb8()) for p in paths]
    rows = list(measure("jpeg-444", "", jpeg, images, JPEG_QUALITIES))
    anchor = curve(rows)
    print_curve("JPEG 4:4:4", anchor)
    for name in models or [m.name for m in weights.list_models()]:
        codec = Codec(name, "cpu", threads)

        def code(pixels: np.ndarray, quality: float, codec: Codec = codec) -> tuple[int, np.ndarray]:
            data = codec.encode(pixels, quality).data
            return len(data), codec.decode(data).pixels

        levels = codec.qualities if len(codec.qualities) == 1 else tuple(float(q) for q in qualities.split(","))
        own = list(measure(codec.name, codec.id[:16], code, images, levels))
        rows += own
        points = curve(own)
        print_curve(f"{codec.name} ({codec.id[:16]})", points)
        if len(points) > 1:
            bd = bd_rate(*zip(*[p[1:] for p in anchor], strict=True), *zip(*[p[1:] for p in points], strict=True))
            click.echo(f"  BD-rate against JPEG 4:4:4: {bd.percent:+.1f} % ({bd.low:.1f} to {bd.high:.1f} dB)")
    if csv_path:
        write_csv(csv_path, rows)


def print_curve(name: str, points: list[tuple[float, float, float]]) -> None:
    click.echo(name)
    for quality, bpp, level in points:
        click.echo(f"  q {quality:4g}   {bpp:.4f} bpp   {level:.3f} dB")


def write_csv(path: Path, rows: list[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(Row._fields)
    writer.writerows(r._replace(bpp=round(r.bpp, 6), psnr=round(r.psnr, 4)) for r in rows)
    write_atomically(path, text.getvalue().encode(), overwrite=True)


if __name__ == "__main__":
    main()
