"""`lcodec decode`: .lic files to images."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from lcodec.cli import files, metadata, options
from lcodec.cli.load import load_codec
from lcodec.cli.report import print_json, print_result, warn
from lcodec.errors import Incomplete, UsageError
from lcodec.region import parse_region

if TYPE_CHECKING:
    from lcodec.codec import Codec, DecodeResult

SUFFIXES = frozenset({".lic"})
DEFAULT_FORMAT = "png"
PLACES_SHOWN = 8  # damaged parts named on stderr; --json names all


@click.command("decode", short_help="Decode .lic files to images.")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    metavar="FILE|DIR",
    help="Where to [default: beside the input]; - is stdout. The ending chooses the format.",
)
@click.option(
    "-f",
    "--format",
    "format_",
    metavar="EXT",
    help=f"Format where -o names none: png, ppm, jpg, webp, bmp, tiff [default: {DEFAULT_FORMAT}].",
)
@click.option("--model", metavar="NAME|FILE", help="Use this one [default: found by the id in each file].")
@metadata.decode_options
@click.option("--limit-pixels", type=click.IntRange(1), metavar="N", help="Refuse larger images.")
@click.option("--region", metavar="X,Y,W,H", help="Decode this rectangle only, in pixels from the top left corner.")
@click.option("--allow-partial", is_flag=True, help="Fill what is damaged, say where, and exit with 3.")
@options.coding
def command(
    inputs: tuple[str, ...],
    output: str | None,
    format_: str | None,
    model: str | None,
    strip: bool,
    orient: str,
    strict: bool,
    limit_pixels: int | None,
    region: str | None,
    allow_partial: bool,
    device: str,
    threads: int | None,
    as_json: bool,
    force: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Decode .lic files, or all of them in folders, with one loading of each model.

    \b
    lcodec decode photo.lic                    writes photo.png
    lcodec decode photo.lic -o photo.ppm
    lcodec decode holiday-lic/ -o holiday/
    lcodec decode map.lic --region 20000,14000,1024,768 -o part.png

    --allow-partial fills each damaged slice with about the mean colour of its surroundings.
    """
    from lcodec.image import image_bytes

    sources = files.find_sources(inputs, SUFFIXES, ".lic files")
    suffix = check_suffix("." + (format_ or DEFAULT_FORMAT).lower().removeprefix("."))
    jobs = files.plan(sources, inputs, output, suffix)
    for job in jobs:
        if job.target is not None and not files.is_special(job.target):
            check_suffix(job.target.suffix)
    to_stdout = any(job.target is None for job in jobs)
    if to_stdout and as_json:
        raise UsageError("--json and the image cannot both go to stdout")
    codecs = _Codecs(model, device, threads, quiet)
    given = {
        "max_pixels": limit_pixels,
        "region": None if region is None else parse_region(region),
        "allow_partial": allow_partial or None,
    }
    how: dict[str, Any] = {key: value for key, value in given.items() if value is not None}

    def work(job: files.Job) -> None:
        files.refuse_target(job, sources, force)
        start = time.perf_counter()
        data = job.source.read()
        read = time.perf_counter()
        codec = codecs.find(data)
        load_s = time.perf_counter() - read
        result = codec.decode(data, **how)
        ending = suffix if job.target is None or files.is_special(job.target) else job.target.suffix
        picture, lost = metadata.fitted(result.picture, ending, strip, orient, strict)
        warnings = [*result.warnings, *lost]
        if not quiet:
            for message in warnings:
                warn(f"{job.source.name}: {message}")
        files.write(job, image_bytes(picture, ending), force)
        record = describe(job, len(data), codec, result) | {"warnings": warnings}
        if result.lost or result.alpha_lost:
            raise incomplete(record, result)
        if quiet:
            return
        record["seconds"] |= files.rounded({"load": load_s, "file": time.perf_counter() - start - load_s})
        if as_json:
            print_json(record)
        else:
            line = f"{record['input']} -> {record['output']}: {record['width']}x{record['height']}"
            line += f", {record['seconds']['file']:.2f} s"
            print_result(line, record, verbose=verbose, to_stderr=to_stdout)

    files.run_jobs(jobs, work, label="decoding", quiet=quiet, as_json=as_json)


def check_suffix(suffix: str) -> str:
    """The ending in lower case. Raises UsageError for one that is no image format."""
    from lcodec.image import OUTPUT_SUFFIXES

    if suffix.lower() not in OUTPUT_SUFFIXES:
        raise UsageError(
            f"no image format for the name's ending {suffix or '(none)'}",
            hint=f"known are {' '.join(OUTPUT_SUFFIXES)}",
        )
    return suffix.lower()


def incomplete(record: dict[str, Any], result: DecodeResult) -> Incomplete:
    """The error that says which parts of a written image are not what they were."""
    places = [str(region) for region in result.lost]
    shown = " ".join(places[:PLACES_SHOWN])
    if len(places) > PLACES_SHOWN:
        shown += f" and {len(places) - PLACES_SHOWN} more"
    parts = []
    if places:
        count = "a slice is" if len(places) == 1 else f"{len(places)} slices are"
        parts.append(f"{count} damaged and filled at {shown}")
    if result.alpha_lost:
        parts.append("its transparency is damaged")
    return Incomplete(
        f"{record['output']} was written, but " + ", and ".join(parts),
        {**record, "lost": [list(region) for region in result.lost], "alpha_lost": result.alpha_lost},
        hint="X,Y,W,H in pixels of the whole image" if places else None,
    )


class _Codecs:
    """Loads each model once, when the first file needs it."""

    def __init__(self, model: str | None, device: str, threads: int | None, quiet: bool) -> None:
        self._model, self._device, self._threads, self._quiet = model, device, threads, quiet
        self._loaded: dict[bytes, Codec] = {}

    def find(self, data: bytes) -> Codec:
        """The codec for a file. Raises StreamError without a header, ModelError without its model."""
        from lcodec.container import read_header

        # Before torch is imported: most of what is not a .lic file shows here.
        model_id = b"" if self._model else read_header(data).model_id
        if model_id not in self._loaded:
            from lcodec.codec import Codec

            self._loaded[model_id] = (
                load_codec(self._model, self._device, self._threads, quiet=self._quiet)
                if self._model
                else Codec.for_stream(data, device=self._device, threads=self._threads)
            )
        return self._loaded[model_id]


def describe(job: files.Job, size: int, codec: Codec, result: DecodeResult) -> dict[str, Any]:
    """What --json prints, and the human line is made of. Sizes in bytes, times in seconds."""
    height, width = result.pixels.shape[:2]
    return {
        "input": job.source.name,
        "output": job.target_name,
        "width": width,
        "height": height,
        "input_bytes": size,
        "bpp": round(8 * size / (result.header.width * result.header.height), 5),
        "model": codec.name,
        "model_id": codec.id,
        "mode": result.picture.mode,
        "depth": 16 if result.picture.deep else 8,
        "quality": result.header.quality,
        **({} if result.digest is None else {"digest": result.digest}),
        "seconds": files.rounded(result.seconds),
    }
