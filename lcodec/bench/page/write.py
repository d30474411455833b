"""results.json and the pictures of a run into one HTML file.

Nothing of a run is ever part of the markup: names and numbers travel in `application/json` blocks, in which `<`, `>`
and `&` are escaped, and reach the page as text. A content security policy allows the page's own scripts and style, by
their SHA-256, data URIs as images, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from lcodec.bench.page.blocks import encode_block
from lcodec.bench.page.pictures import embed, reason, thumbnail
from lcodec.bench.page.source import RunFolder, Source
from lcodec.bench.schema import METRICS, ImageEntry, Results
from lcodec.bench.store import load
from lcodec.errors import LcodecError
from lcodec.image import write_atomically

PAGE_NAME = "report.html"
MAX_IMAGES = 24
MAX_BYTES = 25_000_000

LIBRARY = "vendor/chart.umd.min.js"
LICENCE = "vendor/LICENSE.txt"
# In the order in which they are put together; each file may use what stands in those before it.
SCRIPTS = (
    "data.js",
    "dom.js",
    "theme.js",
    "state.js",
    "table.js",
    "chart.js",
    "overview.js",
    "compare.js",
    "crops.js",
    "image_page.js",
    "main.js",
)


def write_page(
    out: Path,
    *,
    images: int = MAX_IMAGES,
    source: Source | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write OUT/report.html from OUT/results.json, over an older one, and return its path.

    images: how many images, from the first, get pictures; the others have curves and numbers only. source: where
    pictures come from [the run's own streams]. max_bytes: what the page may weigh; pictures are left out until it does.
    progress: called with the name of each image before its pictures are made. Raises InputError when results.json is
    missing or is none, OutputError when the page cannot be written.
    """
    results = load(out)
    source = source or RunFolder(out, results)
    parts = {name: _read(name) for name in ("template.html", "style.css", LIBRARY, LICENCE, *SCRIPTS)}
    chosen = results["images"][: max(images, 0)]
    thumbnails: list[str | None] = [None] * len(results["images"])
    blocks = [encode_block({"note": f"This page was written with pictures of {images} images."})] * len(thumbnails)
    budget = max_bytes - len(_fill(parts, results, thumbnails, blocks).encode("utf-8"))
    for number, image in enumerate(chosen):
        if progress:
            progress(image["name"])
        thumbnails[number], block = _pictures(source, results, image, budget // (len(chosen) - number))
        blocks[number] = encode_block(block)
        budget -= len(blocks[number]) + len(thumbnails[number] or "")
    path = out / PAGE_NAME
    write_atomically(path, _fill(parts, results, thumbnails, blocks).encode("utf-8"), overwrite=True)
    return path


def _pictures(
    source: Source, results: Results, image: ImageEntry, budget: int
) -> tuple[str | None, dict[str, Any]]:
    """Thumbnail and block of one image, of `budget` bytes together, but for what a block without pictures needs."""
    rows = [row for row in results["rows"] if row["image"] == image["name"]]
    try:
        original = source.original(image["name"])
        picture = thumbnail(original)
        return picture, {"note": None, **embed(source, image, original, rows, results["codecs"], budget - len(picture))}
    except (LcodecError, OSError) as error:
        return None, {"note": f"No pictures: {reason(error)}"}


def _fill(parts: dict[str, str], results: Results, thumbnails: Sequence[str | None], blocks: Sequence[str]) -> str:
    """The page: results, names of metrics and thumbnails as one block of JSON, then a block for each image.

    Where the images lay is nobody's business, so the folder is left out.
    """
    library = f"/*\n{parts[LICENCE]}*/\n{parts[LIBRARY]}"
    own = "\n".join(parts[name] for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{own}}})();\n'
    style = parts["style.css"]
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src '{_hash(style)}'; script-src '{_hash(library)}' '{_hash(script)}'"
    )
    holes = {
        "policy": policy,
        "style": style,
        "results": encode_block({**results, "folder": "", "metric_names": METRICS, "thumbnails": thumbnails}),
        "pictures": "\n".join(
            f'<script type="application/json" id="pictures-{number}">{block}</script>'
            for number, block in enumerate(blocks)
        ),
        "library": library,
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: holes[match[1]], parts["template.html"])


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
