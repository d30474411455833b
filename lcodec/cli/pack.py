"""`lcodec pack`: a folder of photographs to one file, to be moved to where training takes place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lcodec.cli import options
from lcodec.cli.report import Progress, print_json, warn
from lcodec.errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    from lcodec.image.pack import ImageSource


@click.command("pack")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The .pack file to write.")
@click.option("--max-side", type=click.IntRange(min=1), metavar="PX", help="Scale longer sides down to so many pixels.")
@click.option("--crop", type=click.IntRange(min=1), metavar="PX", help="Keep the middle square of so many pixels.")
@options.threads
@options.force
@options.quiet
@options.as_json
@options.debug
def command(
    inputs: tuple[Path, ...],
    output: Path,
    max_side: int | None,
    crop: int | None,
    threads: int | None,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Put all images of folders (or of other packs) into one file, with what training sees of them.

    Wherever lcodec train takes a folder it takes a pack. JPEG and WebP files are kept as they are, others become
    lossless WebP of 8 bits, RGB, without transparency.

    \b
    lcodec pack photos/ -o photos.pack
    lcodec pack photos/ -o small.pack --max-side 1024 --crop 384
    """
    from lcodec.image import pack

    if output.suffix != pack.SUFFIX:
        raise UsageError(f"packs end in {pack.SUFFIX}, not {output.name!r}")
    if output.exists() and not force:
        raise OutputError(f"{output} exists", "--force overwrites it")
    sources = [source for path in inputs for source in pack.image_sources(path)]
    if any(source.path.resolve() == output.resolve() for source in sources):
        raise OutputError(f"{output} is an input", "choose another name with -o")
    skipped = 0

    def packed() -> Iterator[tuple[str, bytes, int, int]]:
        nonlocal skipped
        with Progress(len(sources), "packing", enabled=not (quiet or as_json)) as step:
            for source, made in zip(sources, _packed(sources, max_side, crop, threads), strict=True):
                if isinstance(made, InputError):
                    skipped += 1
                    warn(f"skipped: {made}")
                else:
                    yield (source.name, *made)
                step()
        if skipped == len(sources):
            raise InputError("no readable image in " + ", ".join(str(p) for p in inputs))

    entries = pack.write_pack(output, packed(), overwrite=force)
    pixels = sum(e.height * e.width for e in entries)
    size = output.stat().st_size
    if as_json:
        outcome = {"output": str(output), "images": len(entries), "skipped": skipped, "pixels": pixels, "bytes": size}
        print_json(outcome)
    elif not quiet:
        left_out = f", {skipped} skipped" if skipped else ""
        click.echo(f"{output}: {len(entries)} images{left_out}, {pixels / 1e6:.1f} megapixels, {size / 1e6:.1f} MB")


def _packed(
    sources: list[ImageSource], max_side: int | None, crop: int | None, threads: int | None
) -> Iterator[tuple[bytes, int, int] | InputError]:
    """Image files in the order of the sources, a few of them made ahead by threads; an error in place of what fails."""
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor

    from lcodec.cores import available_cores
    from lcodec.image.pack import packed_image

    def make(source: ImageSource) -> tuple[bytes, int, int] | InputError:
        try:
            return packed_image(source, max_side, crop)
        except InputError as error:
            return error

    workers = threads or available_cores()
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[tuple[bytes, int, int] | InputError]] = deque()
        for source in sources:
            ahead.append(pool.submit(make, source))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
