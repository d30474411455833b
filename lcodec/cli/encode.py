"""`lcodec encode`: images to .lic files."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import click

from lcodec import DEFAULT_QUALITY
from lcodec.cli import files, metadata, options
from lcodec.cli.load import load_codec
from lcodec.cli.report import print_json, print_result, warn
from lcodec.errors import LcodecError, UsageError

if TYPE_CHECKING:
    from lcodec.codec import Codec, EncodeResult
    from lcodec.image import Image, Picture

SUFFIX = ".lic"


@click.command("encode", short_help="Encode images as .lic files.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", metavar="FILE|DIR", help="Where to [default: beside the input]; - is stdout.")
@click.option("--model", metavar="NAME|FILE", help="See `lcodec models`; a checkpoint, too [default: the shipped one].")
@click.option(
    "-q",
    "--quality",
    type=click.FloatRange(1, 8),
    metavar="1..8",
    help=f"Larger is better and bigger, fractions too [default: {DEFAULT_QUALITY:g}].",
)
@options.target
@metadata.encode_options
@click.option("--verify", is_flag=True, help="Decode again and compare before the file appears.")
@click.option("--limit-pixels", type=click.IntRange(1), metavar="N", help="Refuse larger images.")
@options.coding
def command(
    inputs: tuple[str, ...],
    output: str | None,
    model: str | None,
    quality: float | None,
    target_size: str | None,
    target_bpp: float | None,
    target_psnr: float | None,
    strip: bool,
    icc: str | None,
    exif: str | None,
    xmp: str | None,
    orient: str,
    drop_alpha: bool,
    strict: bool,
    verify: bool,
    limit_pixels: int | None,
    device: str,
    threads: int | None,
    as_json: bool,
    force: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Encode images, or all images in folders, with one loading of the model.

    \b
    lcodec encode photo.jpg                    writes photo.lic
    lcodec encode -q 2.5 photo.jpg -o small.lic
    lcodec encode holiday/ -o holiday-lic/     all images, also in subfolders
    lcodec encode --target-size 200kB photo.jpg
    """
    from lcodec.image import INPUT_SUFFIXES
    from lcodec.search.target import make_target

    target = make_target(bpp=target_bpp, size=target_size, psnr=target_psnr)
    if target is not None and quality is not None:
        raise UsageError("a quality and a target do not go together", "the target decides the quality")
    wanted = metadata.Wanted.from_options(strip, icc, exif, xmp, orient, drop_alpha, strict)
    sources = files.find_sources(inputs, INPUT_SUFFIXES, "images")
    jobs = files.plan(sources, inputs, output, SUFFIX)
    to_stdout = any(job.target is None for job in jobs)
    if to_stdout and as_json:
        raise UsageError("--json and the encoded file cannot both go to stdout")

    # Loaded when the first image has been read: a wrong name should not cost the seconds that a model takes.
    @lru_cache(maxsize=1)
    def load() -> tuple[Codec, float | None]:
        from lcodec import weights

        codec = load_codec(model or weights.DEFAULT_MODEL, device, threads, quiet=quiet)
        return codec, choose_quality(codec, quality) if target is None else None

    def work(job: files.Job) -> None:
        files.refuse_target(job, sources, force)
        start = time.perf_counter()
        name = job.source.name
        image = wanted.read(job.source.read(), name, limit_pixels)
        if not quiet:
            for message in image.warnings:
                warn(f"{name}: {message}")
        read = time.perf_counter()
        codec, chosen = load()
        load_s = time.perf_counter() - read
        result = codec.encode(image, chosen, target=target)
        psnr_db = check(codec, result, image) if verify else None
        files.write(job, result.data, force)
        if quiet:
            return
        record = describe(job, image, codec, result.quality if chosen is None else chosen, result, psnr_db)
        record["seconds"] |= files.rounded({"load": load_s, "file": time.perf_counter() - start - load_s})
        if as_json:
            print_json(record)
        else:
            print_result(summarize(record), record, verbose=verbose, to_stderr=to_stdout)

    files.run_jobs(jobs, work, label="encoding", quiet=quiet, as_json=as_json)


def choose_quality(codec: Codec, quality: float | None) -> float:
    """The quality to encode with; raises UsageError for one that the model does not have."""
    low, high = min(codec.qualities), max(codec.qualities)
    if low == high:
        if quality is not None and quality != low:
            raise UsageError(f"model {codec.name} has one quality only", hint="leave -q out")
        return low
    if quality is None:
        return min(max(DEFAULT_QUALITY, low), high)
    if not low <= quality <= high:
        raise UsageError(f"model {codec.name} has qualities {low:g} to {high:g}, not {quality:g}")
    return quality


def check(codec: Codec, result: EncodeResult, picture: Picture) -> float:
    """Decode what was encoded; returns the PSNR against the input, where it is not fully transparent, in dB.

    Raises LcodecError if the latents differ, the picture is not the one that the encoder foresaw, or alpha or metadata
    are not those of the input.
    """
    import numpy as np

    decoded = codec.decode(result.data, max_pixels=picture.width * picture.height)
    if decoded.digest != result.y_hat_digest or decoded.pixels.shape != picture.pixels.shape:
        raise LcodecError(
            "verification failed: the encoded data does not decode to the same latents",
            hint="nothing was written; this is a bug, please report it with the image",
        )
    # Floating point may round differently from run to run, by one step; more is a fault.
    difference = np.abs(decoded.pixels.astype(np.int32) - result.reconstruction())
    white = int(np.iinfo(picture.pixels.dtype).max)
    if int(difference.max()) > white // 255:
        raise LcodecError(
            f"verification failed: the decoded image is off by up to {difference.max()} of {white}",
            hint="nothing was written; this is a bug, please report it with the image",
        )
    same_alpha = np.array_equal(picture.alpha, decoded.picture.alpha)  # type: ignore[arg-type]  # None equals None
    if not same_alpha or any(getattr(picture, n) != getattr(decoded.picture, n) for n in ("icc", "exif", "xmp")):
        raise LcodecError(
            "verification failed: alpha or metadata are not those of the image",
            hint="nothing was written; this is a bug, please report it with the image",
        )
    errors = np.square(decoded.pixels.astype(np.float64) - picture.pixels)
    if picture.alpha is not None:
        errors = errors[picture.alpha > 0]
    mse = float(errors.mean()) if errors.size else 0.0
    return float(10 * np.log10(white**2 / mse)) if mse else float("inf")


def describe(
    job: files.Job, image: Image, codec: Codec, quality: float, result: EncodeResult, psnr_db: float | None
) -> dict[str, Any]:
    """What --json prints, and the human line is made of. Sizes in bytes, times in seconds."""
    size, pixel_count = len(result.data), image.width * image.height
    record: dict[str, Any] = {
        "input": job.source.name,
        "output": job.target_name,
        "width": image.width,
        "height": image.height,
        "input_bytes": image.file_bytes,
        "bytes": size,
        "bpp": round(8 * size / pixel_count, 5),
        "ratio_input": round((image.file_bytes or 0) / size, 3),
        "ratio_raw": round((image.pixels.nbytes + (0 if image.alpha is None else image.alpha.nbytes)) / size, 3),
        "mode": image.mode,
        "depth": 16 if image.deep else 8,
        "model": codec.name,
        "model_id": codec.id,
        "quality": quality,
        "evaluations": result.evaluations,
        "digest": result.y_hat_digest,
        "verified": psnr_db is not None,
        "warnings": list(image.warnings),
        "seconds": files.rounded(result.seconds),
    }
    if psnr_db is not None:
        record["psnr_db"] = round(psnr_db, 3) if psnr_db != float("inf") else None
    return record


def summarize(record: dict[str, Any]) -> str:
    """The record on one line."""
    line = (
        f"{record['input']} -> {record['output']}: {record['width']}x{record['height']}, "
        f"{files.describe_size(record['bytes'])}, {record['bpp']:.3f} bpp, q {record['quality']:.4g}, "
        f"{record['ratio_input']:.1f}x smaller than the input, {record['ratio_raw']:.1f}x than raw, "
        f"{record['seconds']['file']:.2f} s"
    )
    if record["verified"]:
        psnr_db = record["psnr_db"]
        line += ", verified" + (f", {psnr_db:.2f} dB" if psnr_db is not None else ", lossless")
    return line
