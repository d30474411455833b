"""`lcodec encode`: images to .lic files."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from lcodec import DEFAULT_QUALITY
from lcodec.batch.lanes import ROWS_IN_WORK, Stages, StopBatch
from lcodec.batch.plan import Job, Plan, is_special, write
from lcodec.cli import files, metadata, options
from lcodec.cli.load import Codecs, load_codec
from lcodec.cli.report import print_json, print_result, warn
from lcodec.cli.tally import describe_ratio, describe_size, rounded
from lcodec.cli.verify import check, check_bands
from lcodec.errors import InputError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from lcodec.codec import Codec, EncodeResult
    from lcodec.image import BandedPicture, Image
    from lcodec.search.target import Target

SUFFIX = ".lic"
NO_IMAGE_BYTES = 64 << 20  # of a file without a readable header, to say what is wrong with it
METRIC_HINT = "lcodec models pull brings models for ms-ssim, lcodec train makes them, both with --metric"


@click.command("encode")
@click.argument("inputs", nargs=-1, required=True, type=options.PATH, metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    metavar="FILE|DIR",
    help="Where to [default: beside the input]; - is stdout.",
)
@click.option(
    "--model",
    metavar="NAME|FILE",
    callback=options.not_empty,
    help="See `lcodec models`; a checkpoint, too [default: the shipped one].",
)
@click.option(
    "-q",
    "--quality",
    type=click.FloatRange(1, 8),
    metavar="1..8",
    help=f"Larger is better and bigger, fractions too [default: {DEFAULT_QUALITY:g}].",
)
@options.target
@click.option(
    "--effort",
    type=click.IntRange(0, 9),
    default=0,
    show_default=True,
    metavar="0..9",
    help="Search latents for each image: smaller and better, slower.",
)
@click.option(
    "--metric",
    type=click.Choice(["mse", "ms-ssim"]),
    help="Take a model that was trained for this; --effort then makes it better, too.",
)
@metadata.encode_options
@click.option("--verify", is_flag=True, help="Decode again and compare before the file appears.")
@click.option("--limit-pixels", type=click.IntRange(1), metavar="N", help="Refuse larger images.")
@options.many
@options.coding
def command(
    inputs: tuple[str, ...],
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
    **values: Any,
) -> None:
    """Encode images, or all images in folders, with one loading of the model.

    \b
    lcodec encode photo.jpg                    writes photo.lic
    lcodec encode -q 2.5 photo.jpg -o small.lic
    lcodec encode holiday/ -o holiday-lic/     all images, also in subfolders
    lcodec encode 'raw/**/*.png' --out-dir lic --skip-existing
    lcodec encode --target-size 200kB photo.jpg
    """
    from lcodec.image import INPUT_SUFFIXES
    from lcodec.search.target import make_target

    target = make_target(bpp=target_bpp, size=target_size, psnr=target_psnr)
    if target is not None and values["quality"] is not None:
        raise UsageError("a quality and a target do not go together", "the target decides the quality")
    batch = options.take(files.Batch, values)
    wanted = metadata.Wanted.from_options(strip, icc, exif, xmp, orient, drop_alpha, strict)
    recipe = replace(options.take(Encoding, values), target=target, wanted=wanted)
    plan = files.make_plan(inputs, batch, INPUT_SUFFIXES, "images", SUFFIX)
    _check_name(plan)

    def show(record: dict[str, Any]) -> None:
        for message in () if batch.quiet else record["warnings"]:
            warn(f"{record['input']}: {message}")
        if batch.as_json:
            print_json(record)
        else:
            print_result(summarize(record), record, verbose=batch.verbose, to_stderr=plan.to_stdout)

    files.run(plan, recipe, batch, label="encoding", show=show)


def _check_name(plan: Plan) -> None:
    """Raises UsageError where -o names an image, which would not be one."""
    from lcodec.image import INPUT_SUFFIXES, OUTPUT_SUFFIXES

    target = plan.sole_target
    if target is None or is_special(target):
        return
    if target.suffix.lower() in {*INPUT_SUFFIXES, *OUTPUT_SUFFIXES}:
        raise UsageError(
            f"-o names a {target.suffix} file, and what is written is {SUFFIX}",
            hint=f"-o {target.with_suffix(SUFFIX)}",
        )


@dataclass(frozen=True)
class Encoding:
    """Everything that is asked of the encoding of each file: it goes to all threads and machines as it is."""

    model: str | None = None
    quality: float | None = None
    target: Target | None = None
    effort: int = 0
    metric: str | None = None
    wanted: metadata.Wanted = metadata.Wanted()
    verify: bool = False
    limit_pixels: int | None = None
    device: str = "auto"
    threads: int | None = None
    force: bool = False
    quiet: bool = False

    def worker(self) -> Encoder:
        return Encoder(self)


class Encoder:
    """Encodes files as its options say, from several threads at once, with one loading of the model."""

    def __init__(self, how: Encoding) -> None:
        self.how = how
        self._codecs = Codecs()

    def process(self, job: Job, stages: Stages) -> dict[str, Any]:
        """Read, encode and write one file. Raises LcodecError, StopBatch."""
        from lcodec.image import BandedPicture, read_size

        how, name, start = self.how, job.source.name, time.perf_counter()
        source = job.source.local_or_read()
        pixels = read_size(source)
        large, notes = self.open_large(source, name, pixels)
        held = pixels if large is None else min(pixels, ROWS_IN_WORK * large.width)
        with stages.memory(held, searched=how.effort > 0):
            image: Image | BandedPicture
            if large is not None:
                image = large
            else:
                # What Pillow finds no picture in is none, and may be a film: not all of it is needed to say so.
                most = -1 if pixels else NO_IMAGE_BYTES
                data = source if isinstance(source, bytes) else job.source.read(at_most=most)
                try:
                    image = how.wanted.read(data, name, how.limit_pixels)
                except InputError as error:
                    raise InputError(str(error), "; ".join(filter(None, [error.hint, *notes])) or None) from error
            read = time.perf_counter()
            # Only now: a wrong name of an input should not cost the seconds that a model takes.
            codec = self._codec()
            quality = None if how.target else self._quality(codec)
            loaded = time.perf_counter()
            with stages.networks():
                begun = time.perf_counter()
                if isinstance(image, BandedPicture):
                    result = codec.encode_bands(image.ahead(), self._quality(codec))
                    psnr_db = check_bands(codec, result, self._reopen(source, name)) if how.verify else None
                else:
                    result = codec.encode(image, quality, target=how.target, effort=how.effort)
                    psnr_db = check(codec, result, image) if how.verify else None
            write(job, result.data, how.force)  # within, for the image is there until it is written
        record = describe(job, image, codec, result.quality if quality is None else quality, result, psnr_db)
        record["effort"] = how.effort
        record["warnings"] += notes
        elapsed = time.perf_counter() - start - (begun - read)
        return record | {"seconds": record["seconds"] | rounded({"load": loaded - read, "file": elapsed})}

    def open_large(
        self, source: Path | bytes, name: str, pixels: int
    ) -> tuple[BandedPicture | None, list[str]]:
        """The picture by rows if it is large and can be read so; why it is held as a whole where that is."""
        from lcodec.image import LARGE_PX, NotByRows

        if pixels <= LARGE_PX:
            return None, []
        if self.how.target or self.how.effort:
            return None, ["held in memory as a whole, for a target or an effort goes over all of it"]
        try:
            return self._reopen(source, name), []
        except NotByRows as reason:
            return None, [f"held in memory as a whole: {reason}"]

    def _reopen(self, source: Path | bytes, name: str) -> BandedPicture:
        return self.how.wanted.open_rows(source, name, self.how.limit_pixels)

    def _codec(self) -> Codec:
        how = self.how

        def load() -> Codec:
            model = model_for(how.metric) if how.model is None else how.model
            codec = load_codec(model, how.device, how.threads, quiet=how.quiet, metric=how.metric)
            if how.metric and codec.metric != how.metric:
                raise UsageError(f"model {codec.name} was trained for {codec.metric}, not {how.metric}", METRIC_HINT)
            return codec

        return self._codecs.get(how.model, load, for_all=True)

    def _quality(self, codec: Codec) -> float:
        try:
            return choose_quality(codec, self.how.quality)
        except UsageError as error:
            raise StopBatch(error) from error


def model_for(metric: str | None) -> str:
    """The default model, or if it was trained for another metric the one for this with the most qualities.

    Raises UsageError if there is none.
    """
    from lcodec import weights

    if metric is None:
        return weights.DEFAULT_MODEL
    fitting = [m for m in weights.list_models() if weights.metric_of(m.card) == metric]
    if not fitting:
        raise UsageError(f"no model here was trained for {metric}", METRIC_HINT)
    best = max(fitting, key=lambda m: (m.name == weights.DEFAULT_MODEL, len(m.qualities)))
    return str(best.path)


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


def describe(
    job: Job, image: Image | BandedPicture, codec: Codec, quality: float, result: EncodeResult, psnr_db: float | None
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
        "ratio_raw": round(image.raw_bytes / size, 3),
        "mode": image.mode,
        "depth": 16 if image.deep else 8,
        "model": codec.name,
        "model_id": codec.id,
        "quality": quality,
        "evaluations": result.evaluations,
        "digest": result.y_hat_digest,
        "verified": psnr_db is not None,
        "warnings": list(image.warnings),
        "seconds": rounded(result.seconds),
    }
    if psnr_db is not None:
        record["psnr_db"] = round(psnr_db, 3) if psnr_db != float("inf") else None
    return record


def summarize(record: dict[str, Any]) -> str:
    """The record on one line."""
    raw_bytes = record["width"] * record["height"] * len(record["mode"]) * record["depth"] // 8
    line = (
        f"{record['input']} -> {record['output']}: {record['width']}x{record['height']}, "
        f"{describe_size(record['bytes'])}, {record['bpp']:.3f} bpp, q {record['quality']:.4g}, "
        f"{describe_ratio(record['input_bytes'] or 0, record['bytes'], digits=1)} than the input, "
        f"{describe_ratio(raw_bytes, record['bytes'], digits=1)} than raw, "
        f"{record['seconds']['file']:.2f} s"
    )
    if record["verified"]:
        psnr_db = record["psnr_db"]
        line += ", verified" + (f", {psnr_db:.2f} dB" if psnr_db is not None else ", lossless")
    return line
