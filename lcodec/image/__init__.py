"""Pictures as arrays: reading and writing files, padding to what the networks need."""

from lcodec.atomic import write_atomically
from lcodec.image.io import (
    INPUT_SUFFIXES,
    OUTPUT_SUFFIXES,
    Image,
    from_array,
    from_pillow,
    image_bytes,
    read_image,
    write_image,
)
from lcodec.image.pad import centre, crop, pad, padded_size

__all__ = [
    "INPUT_SUFFIXES",
    "OUTPUT_SUFFIXES",
    "Image",
    "centre",
    "crop",
    "from_array",
    "from_pillow",
    "image_bytes",
    "pad",
    "padded_size",
    "read_image",
    "write_atomically",
    "write_image",
]
