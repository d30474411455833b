"""One image through one codec in a process of its own: what `speed.py` times as a cold start.

    python -m lcodec.bench.once encode|decode ENTRY THREADS QUALITY IMAGE FILE

ENTRY is a codec's entry in results.json. `encode` makes FILE of IMAGE, `decode` decodes FILE, made of IMAGE.
Loads no torch unless the codec does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import PIL.Image

from lcodec.bench.registry import coder_of_entry
from lcodec.image import read_image


def main(arguments: list[str]) -> None:
    direction, entry, threads, quality, image, file = arguments
    coder = coder_of_entry(json.loads(entry), int(threads))
    if direction == "encode":
        Path(file).write_bytes(coder.encode(read_image(image).rgb8(), float(quality)))
        return
    with PIL.Image.open(image) as header:
        width, height = header.size
    coder.decode(Path(file).read_bytes(), height, width)


if __name__ == "__main__":
    main(sys.argv[1:])
