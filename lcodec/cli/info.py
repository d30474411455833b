"""`lcodec info`: what a .lic file says about itself, without decoding it (but for --digest)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from lcodec.batch.lanes import StopBatch
from lcodec.batch.plan import Job, Plan
from lcodec.batch.sources import Search
from lcodec.cli import files, options
from lcodec.cli.report import print_json, print_text, printable_line
from lcodec.cli.tally import describe_size
from lcodec.errors import LcodecError, OutputError, StreamError

if TYPE_CHECKING:
    from lcodec.container import Container
    from lcodec.limits import Limits


@click.command("info")
@click.argument("inputs", nargs=-1, required=True, type=options.PATH, metavar="INPUT...")
@click.option("--digest", is_flag=True, help="Decode the latents and show their digest.")
@options.limits
@options.as_json
@options.debug
def command(
    inputs: tuple[str, ...], digest: bool, limit: tuple[str, ...], limit_pixels: int | None, as_json: bool
) -> None:
    """Show size, model, quality and sections of .lic files, and whether all checksums hold.

    The limits are for metadata and for --digest.
    """
    from lcodec import weights
    from lcodec.container import MAGIC

    models: dict[str, str] = {}
    for model in weights.readable_models():  # of the same name, too: a decoder looks for the id
        models.setdefault(model.id, model.name)
    plan = Plan.make(Search.of(inputs, {".lic"}, ".lic files"), None)
    limits = options.limits_of(limit, limit_pixels)

    def work(job: Job) -> dict[str, Any]:
        data = job.source.read(magic=MAGIC)
        record, fault = inspect(data, models, limits)
        record = {"input": job.source.name, **record}
        if digest and fault is None:
            try:
                record["digest"] = decode_digest(data, limits)
            except LcodecError as error:
                fault = error
        if fault is not None and as_json:
            fault.details = record  # which `report` prints with the error
            raise fault
        try:
            if as_json:
                print_json(record)
            else:
                print_record(record)
        except OutputError as error:  # stdout takes no more
            raise StopBatch(error) from error
        if fault is not None:
            raise fault
        return {}

    outcomes = files.one_by_one(plan, work)
    files.report(outcomes, plan.count, label="reading", show=None, quiet=not digest, as_json=as_json)


def decode_digest(data: bytes, limits: Limits) -> str:
    """Of the latents. Raises LcodecError."""
    from lcodec import decoder  # with numpy

    return decoder.digest(data, limits=limits)


def inspect(data: bytes, models: Mapping[str, str], limits: Limits) -> tuple[dict[str, Any], LcodecError | None]:
    """What header and sections say, sizes in bytes, and the fault that a decoder would stop at, if any.

    models: names by full id. Raises StreamError when not even the header can be read.
    """
    from lcodec.container import VERSION, Container, SectionType, list_sections, read_header, unpack

    header = read_header(data)
    sections = []
    slice_bytes = 0
    fault: LcodecError | None = None
    warnings: list[str] = []
    box = Container(header, [])
    stream_id = header.model_id.hex()
    model_id = next((id_ for id_ in models if id_.startswith(stream_id)), None)
    try:
        for section in list_sections(data):
            size = section.end - section.offset
            sections.append({"name": section.name, "offset": section.offset, "bytes": size, "intact": section.intact})
            if section.type == SectionType.SLICE:
                slice_bytes += len(section.payload)
        box = unpack(data, metadata_limit=limits.metadata_bytes)
        warnings = box.warnings
    except StreamError as error:
        fault = error
    record = {
        "version": VERSION,
        "width": header.width,
        "height": header.height,
        "mode": ("L" if header.gray else "RGB") + ("" if box.alpha is None else "A"),
        "depth": 16 if header.deep else 8,
        "metadata": describe_metadata(box),
        "quality": header.quality,
        "stream_id": stream_id,  # the first digits of its model's
        "model_id": model_id,
        "model": None if model_id is None else models[model_id],
        "bytes": len(data),
        "overhead_bytes": len(data) - slice_bytes,
        "bpp": round(8 * len(data) / (header.width * header.height), 5),
        "slices": header.slice_count,
        "slice_log2": header.slice_log2,
        "sections": sections,
        "warnings": warnings,
    }
    return record, fault


def describe_metadata(box: Container) -> dict[str, dict[str, Any]]:
    """Of icc, exif, xmp and alpha those that are there: bytes, and what can be said of them in a word."""
    found: dict[str, dict[str, Any]] = {}
    if box.icc is not None:
        from lcodec.image import profile

        found["icc"] = {"bytes": len(box.icc), "description": profile.describe(box.icc)}
    if box.exif is not None:
        from lcodec.image import orientation_of

        found["exif"] = {"bytes": len(box.exif), "orientation": orientation_of(box.exif, None)}
    if box.xmp is not None:
        found["xmp"] = {"bytes": len(box.xmp)}
    if box.alpha is not None:
        found["alpha"] = {"bytes": len(box.alpha), "depth": box.alpha[0] if box.alpha else None}
    return found


def print_record(record: dict[str, Any]) -> None:
    """Raises OutputError."""
    colour = ("gray" if record["mode"].startswith("L") else "colour") + f" of {record['depth']} bits"
    rows = [
        ("image", f"{record['width']}x{record['height']}, {colour}"),
        ("size", f"{describe_size(record['bytes'])}, {record['bpp']:.3f} bpp"),
        ("quality", f"{record['quality']:g}" if record["quality"] else "the model's only one"),
        ("model", f"{record['model'] or 'not on this machine'} ({record['stream_id']})"),
        ("slices", f"{record['slices']} of at most {16 << record['slice_log2']} pixels a side"),
        ("format", f"version {record['version']}, {record['overhead_bytes']} bytes besides the slices"),
    ]
    for key, entry in record["metadata"].items():
        words = [describe_size(entry["bytes"])]
        if entry.get("description"):
            words.append(entry["description"])
        if entry.get("orientation", 1) != 1:
            words.append(f"orientation {entry['orientation']}")
        if key == "alpha":
            words.append(f"{entry['depth']} bits, lossless")
        rows.append((key, ", ".join(words)))
    counts = Counter((s["name"].lower(), s["intact"]) for s in record["sections"])
    parts = [f"{count} {name}" + ("" if intact else " damaged") for (name, intact), count in counts.items()]
    rows.append(("sections", ", ".join(parts) or "none"))
    rows += [("warning", text) for text in record["warnings"]]
    if "digest" in record:
        rows.append(("digest", record["digest"]))
    lines = [record["input"], *(f"  {key:9} {value}" for key, value in rows)]
    print_text("\n".join(map(printable_line, lines)))
