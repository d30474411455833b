"""How large a picture is, before it is decoded."""

from __future__ import annotations

from lcodec.image.read import _open, _pillow_limit

_NO_LIMIT = 1 << 62  # whether it is too large is for `read_image` to say


def read_size(data: bytes) -> int:
    """Pixels of an image file, out of its header; 0 if that cannot be read, which `read_image` will tell."""
    try:
        with _pillow_limit(_NO_LIMIT), _open(data) as image:
            return int(image.width * image.height)
    except Exception:  # Pillow's readers raise nearly anything on damaged data
        return 0
