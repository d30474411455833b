"""`lcodec models export`: a model in a file of its own."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lcodec.cli import files, options
from lcodec.cli.replaced import before
from lcodec.cli.report import print_json, printable
from lcodec.errors import OutputError, UsageError


@click.command("export", short_help="Write a model into one whole file, or less.")
@click.argument("name")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The model file to write.")
@click.option("--pack", is_flag=True, help="Compressed without loss; a moment more to load.")
@click.option("--pack-only", metavar="GLOB", multiple=True, help="Compress tensors of these names; repeatable.")
@click.option("--share", metavar="MODEL", help="Leave out what MODEL has, too; the file needs that one beside it.")
@options.force
@options.as_json
@options.debug
def command(
    name: str, output: Path, pack: bool, pack_only: tuple[str, ...], share: str | None, force: bool, as_json: bool
) -> None:
    """Write a model, by name, id or file, so that it needs no other: some of those that come with the package share
    tensors. It stays the same model, with the same id.

    \b
    lcodec models export bmshj2018-hyperprior -o there/bmshj2018-hyperprior.safetensors
    lcodec models export lc-s -o there/lc-s.safetensors --pack-only 'g_a.*' --pack-only 'h_a.*'
    """
    from lcodec import weights
    from lcodec.atomic import write_atomically

    if output.suffix != weights.SUFFIX:
        raise UsageError(f"model files end in {weights.SUFFIX}, not {output.name!r}")
    path = weights.find(name)
    if os.path.exists(output) and output.samefile(path):
        raise OutputError(f"{output} is the model itself", "choose another name with -o")
    own = weights.info(path).base
    not_an_input(output, weights.base_path(path, own) if own else None, weights.find(share) if share else None)
    if os.path.exists(output) and not force:
        raise OutputError(f"{output} exists", "--force overwrites it")
    if pack and pack_only:
        raise UsageError("--pack and --pack-only exclude each other")
    there, model = before(output), weights.load(path)
    base = weights.load_base(share) if share is not None else None
    write_atomically(output, weights.pack(model, compress=("*",) if pack else pack_only, base=base), overwrite=force)
    there.tell(model.id)
    size = output.stat().st_size
    if as_json:
        print_json({"output": str(output), "id": model.id, "bytes": size, "shares_with": base.id if base else None})
    else:
        click.echo(printable(f"{output}: id {model.id[:16]}, {files.describe_size(size)}"))


def not_an_input(output: Path, *inputs: Path | str | None) -> None:
    """Raises OutputError where a model would replace what it is to share tensors with."""
    for path in inputs:
        if path and os.path.exists(output) and output.samefile(path):
            raise OutputError(f"{output} is what tensors are shared with", "choose another name with -o")
