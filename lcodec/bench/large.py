"""Large images: time and memory of whole commands, and what a region of them takes.

    python -m lcodec.bench.large [--megapixels 10,100,1000] [--regions 512,2048] [--suffix .ppm] [--threads N]

Makes pictures out of the calibration photographs, mixed, with light that changes slowly and some noise, row by row;
then runs `lcodec encode` and `lcodec decode` on them, each in a process of its own, start included. Peak memory is the
largest resident set of that process.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from lcodec.bench.speed import whole_process
from lcodec.errors import LcodecError

TILE_PX = 256  # side of what is taken from one photograph
NOISE = 3  # of 255, at most
BYTES_PER_PIXEL = 3


class Run(NamedTuple):
    """Wall and processor time in seconds; peak resident memory in bytes."""

    wall_s: float
    cpu_s: float
    peak_bytes: float


def mixed_rows(height: int, width: int) -> Iterator[np.ndarray]:
    """uint8 (TILE_PX or less, width, 3) each: crops of photographs side by side, and what no two of them share."""
    from lcodec.finalize import calibration_images

    rng = np.random.default_rng(0)
    photographs = [pixels for pixels in calibration_images() if min(pixels.shape[:2]) >= TILE_PX]
    noise = rng.integers(-NOISE, NOISE + 1, (TILE_PX, width + TILE_PX, 3), np.int16)
    across = np.sin(np.linspace(0, 9, width))
    for top in range(0, height, TILE_PX):
        tiles = []
        for _ in range(0, width, TILE_PX):
            pixels = photographs[rng.integers(len(photographs))]
            y, x = (int(rng.integers(0, size - TILE_PX + 1)) for size in pixels.shape[:2])
            crop = pixels[y : y + TILE_PX, x : x + TILE_PX]
            tiles.append(crop[:, ::-1] if rng.integers(2) else crop)
        rows = np.concatenate(tiles, axis=1)[: min(TILE_PX, height - top), :width]
        light = (256 * (0.8 + 0.2 * across * math.sin(top / 1e4))).astype(np.int32)[:, None]
        shift = int(rng.integers(TILE_PX))
        lit = (rows * light >> 8) + noise[: len(rows), shift : shift + width]
        yield np.clip(lit, 0, 255).astype(np.uint8)


def make_image(path: Path, megapixels: float) -> tuple[int, int]:
    """Write a picture with sides 3 to 2; returns its height and width in pixels."""
    from lcodec.image import BandedPicture, write_bands

    width = round(math.sqrt(1.5e6 * megapixels))
    height = round(1e6 * megapixels / width)
    with open(path, "wb") as file:
        write_bands(file, BandedPicture(mixed_rows(height, width), height, width), path.suffix)
    return height, width


def run(*arguments: object) -> Run:
    """A command of lcodec in a process of its own. Raises LcodecError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall_s, peak = whole_process([sys.executable, "-m", "lcodec", *map(str, arguments)])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak)


def psnr(a: Path, b: Path) -> float:
    """Of two pictures of one size, in dB, by rows."""
    from lcodec.image import open_rows

    squares = count = 0
    for x, y in zip(*(open_rows(path, name=str(path), limit_pixels=1 << 40).bands for path in (a, b)), strict=True):
        squares += int(np.square(x.astype(np.int32) - y).sum(dtype=np.int64))
        count += x.size
    return 10 * math.log10(255**2 * count / squares)


def line(what: str, pixels: int, done: Run, rest: str = "") -> str:
    speed = pixels / 1e6 / done.wall_s
    return (
        f"  {what:24} {done.wall_s:7.2f} s {speed:7.2f} MP/s, processor {done.cpu_s:7.2f} s, "
        f"peak {done.peak_bytes / 2**30:5.2f} GiB{rest}"
    )


def measure(folder: Path, megapixels: float, suffix: str, regions: Sequence[int], common: Sequence[object]) -> None:
    """Print what one size takes. Raises LcodecError."""
    source, coded, back = folder / f"in{suffix}", folder / "in.lic", folder / f"back{suffix}"
    height, width = make_image(source, megapixels)
    limit = ["--limit-pixels", height * width, "--quiet", "--force", *common]
    size = source.stat().st_size
    click.echo(f"{width}x{height} pixels, {height * width / 1e6:.0f} MP, {suffix} of {size / 1e6:.0f} MB")
    done = run("encode", source, "-o", coded, *limit)
    bpp = 8 * coded.stat().st_size / (height * width)
    click.echo(line("encode", height * width, done, f", {coded.stat().st_size / 1e6:.1f} MB, {bpp:.3f} bpp"))
    done = run("decode", coded, "-o", back, *limit)
    click.echo(line("decode", height * width, done, f", {psnr(source, back):.2f} dB"))
    back.unlink()
    for side in regions:
        if side <= min(height, width):
            place = f"{(width - side) // 2},{(height - side) // 2},{side},{side}"
            done = run("decode", coded, "-o", back, "--region", place, *limit)
            click.echo(line(f"region {side}x{side}", side * side, done))
            back.unlink()


def numbers(text: str) -> list[float]:
    """Of "10,100". Raises click.BadParameter."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers") from None


@click.command()
@click.option("--megapixels", default="10,100,1000", show_default=True, help="Sizes of pictures.")
@click.option("--regions", default="256,1024,4096", show_default=True, help="Sides of regions in pixels.")
@click.option("--suffix", type=click.Choice([".ppm", ".png", ".tif"]), default=".ppm", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="[default: all]")
@click.option("--folder", type=click.Path(file_okay=False, exists=True, path_type=Path), help="For temporary files.")
def main(megapixels: str, regions: str, suffix: str, threads: int | None, folder: Path | None) -> None:
    """Time and memory of encode and decode of large images."""
    sides = [int(side) for side in numbers(regions)]
    common: list[object] = ["--device", "cpu", *(["--threads", threads] if threads else [])]
    for size in numbers(megapixels):
        with tempfile.TemporaryDirectory(prefix="lcodec-large-", dir=folder) as name:
            needed = 2.2 * BYTES_PER_PIXEL * 1e6 * size
            if shutil.disk_usage(name).free < needed:
                raise click.ClickException(f"{size:g} MP need {needed / 1e9:.1f} GB in {name}; --folder names another")
            try:
                measure(Path(name), size, suffix, sides, common)
            except LcodecError as error:
                raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
