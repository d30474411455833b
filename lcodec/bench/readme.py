"""Puts a run's table and plot into a README: `python -m lcodec.bench.readme OUT README.md [--plot FILE] [--csv FILE]`.

The table goes between the two marks. --plot is where a copy of rd.svg goes, --csv where the rows go, with the ids of
the models, as models/results.csv has them.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcodec.atomic import write_atomically
from lcodec.bench import store
from lcodec.bench.schema import Results
from lcodec.bench.table import markdown
from lcodec.errors import InputError
from lcodec.weights import ID_BYTES

BEGIN, END = "<!-- lcodec bench: begin -->", "<!-- lcodec bench: end -->"


def replace_table(text: str, lines: Sequence[str]) -> str:
    """The text with `lines` between its marks. Raises InputError if it does not have both, in order, once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise InputError(f"the README needs the lines {BEGIN} and {END}, once")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return "\n".join([before + BEGIN, *lines, END + after])


def rows_with_ids(results: Results) -> bytes:
    """CSV of the rows, each with the size of its image and the id of its model, as far as files carry it; empty for
    other codecs."""
    ids = {entry["name"]: (entry["model_id"] or "")[: 2 * ID_BYTES] for entry in results["codecs"]}
    sizes = {image["name"]: (image["width"], image["height"]) for image in results["images"]}
    values = [name for name in store.FIELDS if name not in ("image", "codec", "quality", "error")]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["codec", "model_id", "quality", "image", "width", "height", *values])
    for row in results["rows"]:
        numbers: dict[str, Any] = dict(row)
        if not row["error"]:
            key = [row["codec"], ids[row["codec"]], f"{row['quality']:g}", row["image"], *sizes[row["image"]]]
            writer.writerow([*key, *(numbers[name] for name in values)])
    return out.getvalue().encode("utf-8", "surrogateescape")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lcodec.bench.readme", description="Update a README's table.")
    parser.add_argument("out", type=Path, help="folder of a run")
    parser.add_argument("readme", type=Path)
    parser.add_argument("--plot", type=Path, help="where a copy of rd.svg goes")
    parser.add_argument("--csv", type=Path, help="where the rows go")
    options = parser.parse_args(arguments)
    results = store.load(options.out)
    if not results["complete"]:
        raise SystemExit(f"{options.out} holds a run that was broken off")
    text = replace_table(options.readme.read_text(encoding="utf-8"), markdown(results))
    if options.plot:
        write_atomically(options.plot, (options.out / "rd.svg").read_bytes(), overwrite=True)
    if options.csv:
        write_atomically(options.csv, rows_with_ids(results), overwrite=True)
    write_atomically(options.readme, text.encode(), overwrite=True)


if __name__ == "__main__":
    main()
