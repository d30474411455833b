"""How large a picture is, before it is decoded."""

from __future__ import annotations

from lcodec.image.guard import open_image

_NO_LIMIT = 1 << 62  # whether it is too large is for `read_image` to say


def read_size(data: bytes) -> int:
    """Pixels of an image file, out of its header; 0 if that cannot be read, which `read_image` will tell."""
    try:
        with open_image(data, _NO_LIMIT) as image:
            return int(image.width * image.height)
    except Exception:  # Pillow's readers raise nearly anything on damaged data
        return 0
