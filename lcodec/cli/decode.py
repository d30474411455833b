"""`lcodec decode`: .lic files to images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from lcodec.batch.lanes import ROWS_IN_WORK, Stages
from lcodec.batch.plan import Job, is_special, write, write_by
from lcodec.cli import files, metadata, options
from lcodec.cli.load import Codecs, load_codec
from lcodec.cli.report import print_json, print_result, warn
from lcodec.cli.tally import rounded
from lcodec.errors import Corrupt, Incomplete, UsageError
from lcodec.region import parse_region

if TYPE_CHECKING:
    from lcodec.batch.places import Place
    from lcodec.codec import Codec, DecodeResult
    from lcodec.decoding import Decoding as BandedDecoding
    from lcodec.header import Buffer
    from lcodec.image import BandedPicture, Picture
    from lcodec.image.picture import Colour, P
    from lcodec.region import Region

SUFFIXES = frozenset({".lic"})
DEFAULT_FORMAT = "png"
PLACES_SHOWN = 8  # damaged parts named on stderr; --json names all


def _refuse_scale(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Other decoders have previews; whoever looks for one here is told why not."""
    if value is not None:
        raise UsageError(
            "there is no quick preview: the networks have no small picture on the way, one takes as long as all",
            hint="--region X,Y,W,H decodes a part, in the time that the part takes",
        )


def _read_colour(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Colour | None:
    """Raises UsageError for what is no colour, or one that can be seen through."""
    if value is None:
        return None
    from PIL import ImageColor

    colour: tuple[int, ...] = ()
    with suppress(ValueError):
        colour = ImageColor.getrgb(value)
    if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
        raise UsageError(f"{value!r} is no opaque colour", hint="a name such as white, or '#RRGGBB'")
    return colour[0], colour[1], colour[2]


@click.command("decode")
@click.argument("inputs", nargs=-1, required=True, type=options.PATH, metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    metavar="FILE|DIR",
    help="Where to [default: beside the input]; - is stdout. The ending chooses the format.",
)
@click.option(
    "-f",
    "--format",
    "format_",
    metavar="EXT",
    callback=options.not_empty,
    help=f"Format where -o names none: png, ppm, jpg, webp, bmp, tiff [default: {DEFAULT_FORMAT}].",
)
@click.option(
    "--output-quality",
    type=click.IntRange(1, 100),
    metavar="1..100",
    help="Of JPEG and WebP [default: 95 for JPEG, WebP without loss].",
)
@click.option("--depth", type=click.Choice(["8"]), help="Round samples of 16 bits to 8 [default: as in the file].")
@click.option("--drop-alpha", is_flag=True, help="Leave out transparency.")
@click.option(
    "--background",
    metavar="COLOUR",
    callback=_read_colour,
    help="Put transparent pictures in front of this, say white or '#ff8800'.",
)
@click.option(
    "--model",
    metavar="NAME|FILE",
    callback=options.not_empty,
    help="Use this one [default: found by the id in each file].",
)
@metadata.decode_options
@options.limits
@click.option("--region", metavar="X,Y,W,H", help="Decode this rectangle only, in pixels from the top left corner.")
@click.option("--scale", hidden=True, expose_value=False, callback=_refuse_scale)
@click.option("--allow-partial", is_flag=True, help="Fill what is damaged, say where, and exit with 3.")
@options.many
@options.coding
def command(inputs: tuple[str, ...], format_: str | None, region: str | None, **values: Any) -> None:
    """Decode .lic files, or all of them in folders, with one loading of each model.

    \b
    lcodec decode photo.lic                    writes photo.png
    lcodec decode photo.lic -o photo.ppm
    lcodec decode photo.lic -o photo.jpg --output-quality 85 --background white
    lcodec decode holiday-lic/ -o holiday/
    lcodec decode map.lic --region 20000,14000,1024,768 -o part.png

    --allow-partial fills each damaged slice with about the mean colour of its surroundings.
    """
    from lcodec.image import check_quality

    batch = options.take(files.Batch, values)
    wanted = format_ and format_.lower().removeprefix(".")
    suffix = check_suffix("." + (wanted or DEFAULT_FORMAT))
    part = None if region is None else parse_region(region)
    recipe = replace(options.take(Decoding, values), suffix=suffix, region=part)
    recipe.arguments()  # says at once what cannot be read
    if recipe.drop_alpha and recipe.background is not None:
        raise UsageError("--drop-alpha and --background contradict each other", hint="leave one out")
    plan = files.make_plan(inputs, batch, SUFFIXES, ".lic files", suffix)
    if plan.sole_target is not None and not is_special(plan.sole_target):
        _check_name(plan.sole_target.suffix, suffix if wanted else None)
    if recipe.output_quality is not None:
        check_quality(_ending(plan.sole_target, suffix))

    def show(record: dict[str, Any]) -> None:
        for message in () if batch.quiet else record["warnings"]:
            warn(f"{record['input']}: {message}")
        if batch.as_json:
            print_json(record)
        else:
            line = f"{record['input']} -> {record['output']}: {record['width']}x{record['height']}"
            line += f", {record['seconds']['file']:.2f} s"
            print_result(line, record, verbose=batch.verbose, to_stderr=plan.to_stdout)

    files.run(plan, recipe, batch, label="decoding", show=show)


@dataclass(frozen=True)
class Decoding:
    """Everything that is asked of the decoding of each file: it goes to all threads and machines as it is.

    suffix: the format where the output's name says none. depth: "8", or None for that of the file. background: what
    is put behind transparent pictures.
    """

    suffix: str = "." + DEFAULT_FORMAT
    output_quality: int | None = None
    depth: str | None = None
    drop_alpha: bool = False
    background: Colour | None = None
    model: str | None = None
    limit: tuple[str, ...] = ()
    limit_pixels: int | None = None
    strip: bool = False
    orient: str = "keep"
    strict: bool = False
    region: Region | None = None
    allow_partial: bool = False
    device: str = "auto"
    threads: int | None = None
    force: bool = False
    quiet: bool = False

    def arguments(self) -> dict[str, Any]:
        """Those of `Codec.decode` that are given."""
        given = {
            "limits": options.limits_of(self.limit, self.limit_pixels),
            "region": self.region,
            "allow_partial": self.allow_partial or None,
        }
        return {key: value for key, value in given.items() if value is not None}

    def worker(self) -> Decoder:
        return Decoder(self)


class Decoder:
    """Decodes files as its options say, from several threads at once, with one loading of each model."""

    def __init__(self, how: Decoding) -> None:
        self.how = how
        self._codecs = Codecs()

    def process(self, job: Job, stages: Stages) -> dict[str, Any]:
        """Read, decode and write one file. Raises LcodecError, StopBatch."""
        from lcodec.container import MAGIC, read_header
        from lcodec.image import LARGE_PX, check_fits, is_by_rows

        how, start = self.how, time.perf_counter()
        mapped = how.region and not how.allow_partial
        data = job.source.mapped() if mapped else job.source.read(magic=MAGIC)
        read = time.perf_counter()
        # Before torch is imported: most of what is not a .lic file shows here.
        header, ending = read_header(data), _ending(job.target, how.suffix)
        width, height = (how.region.width, how.region.height) if how.region else (header.width, header.height)
        check_fits(height, width, header.gray, header.deep and how.depth is None, ending)
        codec = self._codec(data, header.model_id)
        loaded = time.perf_counter()
        large = width * height > LARGE_PX
        held_rows = min(height, ROWS_IN_WORK) if large and is_by_rows(ending) else height
        result: DecodeResult | BandedDecoding
        picture: Picture | BandedPicture
        with stages.memory(held_rows * width):
            if large:
                with stages.networks():
                    begun = time.perf_counter()
                    result = codec.decode_bands(data, **how.arguments())
                    self._refuse_losses(job, result.warnings)
                    size, picture, lost = self._write_by_rows(job, result.banded(), ending)
            else:
                with stages.networks():
                    begun = time.perf_counter()
                    result = codec.decode(data, **how.arguments())
                self._refuse_losses(job, result.warnings)
                size, picture, lost = self._write_whole(job, result.picture, ending)
        record = describe(job, len(data), size, codec, result, picture) | {"warnings": [*result.warnings, *lost]}
        if result.lost or result.alpha_lost:
            raise incomplete(record, result)
        elapsed = time.perf_counter() - start - (begun - read)
        return record | {"seconds": record["seconds"] | rounded({"load": loaded - read, "file": elapsed})}

    def _refuse_losses(self, job: Job, skipped: Sequence[str]) -> None:
        if self.how.strict and skipped:
            raise Corrupt(f"{job.source.name}: {skipped[0]}", "without --strict this is a warning only")

    def _fitted(self, picture: P, ending: str) -> tuple[P, list[str]]:
        """The picture as it is to be written, and what is lost in it without having been asked for."""
        how = self.how
        if how.background is not None:
            picture = picture.over(how.background)
        if how.drop_alpha:
            picture = picture.without_alpha()
        if how.depth is not None:
            picture = picture.in_8_bits()
        return metadata.fitted(picture, ending, how.strip, how.orient, how.strict)

    def _write_whole(self, job: Job, picture: Picture, ending: str) -> tuple[int, Picture, list[str]]:
        """Size of the file in bytes; the picture as it is there; what is lost in it."""
        from lcodec.image import image_bytes

        how = self.how
        picture, lost = self._fitted(picture, ending)
        written = image_bytes(picture, ending, how.output_quality)
        write(job, written, how.force)
        return len(written), picture, lost

    def _write_by_rows(
        self, job: Job, picture: BandedPicture, ending: str
    ) -> tuple[int, BandedPicture, list[str]]:
        """The same; rows are written as they come, to where they are no output before all are there."""
        from lcodec.image import write_bands

        how = self.how
        picture, lost = self._fitted(picture.ahead(), ending)
        size = write_by(job, lambda file: write_bands(file, picture, ending, how.output_quality), how.force)
        return size, picture, lost

    def _codec(self, data: Buffer, model_id: bytes) -> Codec:
        """The codec for a file. Raises ModelError without its model."""
        how = self.how
        if how.model is not None:
            model = how.model
            return self._codecs.get(
                model, lambda: load_codec(model, how.device, how.threads, quiet=how.quiet), for_all=True
            )

        def load() -> Codec:
            from lcodec.codec import Codec

            return Codec.for_stream(data, device=how.device, threads=how.threads)

        return self._codecs.get(model_id, load, for_all=False)


def check_suffix(suffix: str) -> str:
    """The ending in lower case. Raises UsageError for one that is no image format."""
    from lcodec.image import OUTPUT_SUFFIXES

    if suffix.lower() not in OUTPUT_SUFFIXES:
        raise UsageError(
            f"no image format for the name's ending {suffix or '(none)'}",
            hint=f"known are {' '.join(OUTPUT_SUFFIXES)}",
        )
    return suffix.lower()


def _ending(target: Place | None, suffix: str) -> str:
    """That of the output's name if it says a format, else `suffix`."""
    from lcodec.image import OUTPUT_SUFFIXES

    if target is None or is_special(target) or target.suffix.lower() not in OUTPUT_SUFFIXES:
        return suffix
    return target.suffix


def _check_name(named: str, wanted: str | None) -> None:
    """The ending of the name that -o gives, beside what -f wants. Raises UsageError."""
    from lcodec.image import OUTPUT_SUFFIXES, format_of

    if wanted is None:
        check_suffix(named)
    elif named.lower() in OUTPUT_SUFFIXES and format_of(named) != format_of(wanted):
        raise UsageError(f"-o names a {named} file, -f another format, {wanted[1:]}", "one of the two is enough")


def incomplete(record: dict[str, Any], result: DecodeResult | BandedDecoding) -> Incomplete:
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


def describe(
    job: Job,
    size: int,
    output_size: int,
    codec: Codec,
    result: DecodeResult | BandedDecoding,
    picture: Picture | BandedPicture,
) -> dict[str, Any]:
    """What --json prints, and the human line is made of. Sizes in bytes, times in seconds."""
    return {
        "input": job.source.name,
        "output": job.target_name,
        "width": picture.width,
        "height": picture.height,
        "input_bytes": size,
        "output_bytes": output_size,
        "bpp": round(8 * size / (result.header.width * result.header.height), 5),
        "model": codec.name,
        "model_id": codec.id,
        "mode": picture.mode,
        "depth": 16 if picture.deep else 8,
        "quality": result.header.quality,
        **({} if result.digest is None else {"digest": result.digest}),
        "seconds": rounded(result.seconds),
    }
