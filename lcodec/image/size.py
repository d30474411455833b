"""How large a picture is, before it is decoded."""

from __future__ import annotations

from pathlib import Path

from lcodec.image.guard import open_image

_NO_LIMIT = 1 << 62  # whether it is too large is for `read_image` to say


def read_size(source: bytes | Path) -> int:
    """Pixels of an image file or its bytes, out of its header; 0 if that cannot be read: `read_image` tells why."""
    try:
        with open_image(source, _NO_LIMIT) as image:
            return int(image.width * image.height)
    except Exception:  # Pillow's readers raise nearly anything on damaged data
        return 0
