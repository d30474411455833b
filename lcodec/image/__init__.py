"""Pictures as arrays: reading and writing files, padding to what the networks need."""

from lcodec.atomic import write_atomically
from lcodec.image.alpha import (
    AlphaEncoder,
    alpha_rows,
    decode_alpha,
    encode_alpha,
    fill_transparent,
    fill_transparent_bands,
)
from lcodec.image.banded import LARGE_PX, BandedPicture, regrouped
from lcodec.image.difference import psnr
from lcodec.image.guard import usual_limit
from lcodec.image.orientation import orientation, orientation_of, upright
from lcodec.image.pad import centre, crop, pad, padded_bands, padded_size
from lcodec.image.picture import Picture, to_8_bits, to_16_bits
from lcodec.image.read import INPUT_SUFFIXES, Image, from_array, from_pillow, limit_hint, read_image
from lcodec.image.rows import NotByRows, open_rows
from lcodec.image.size import read_size
from lcodec.image.write import (
    OUTPUT_SUFFIXES,
    check_fits,
    check_quality,
    fit,
    format_of,
    image_bytes,
    is_by_rows,
    pillow_mode,
    to_pillow,
    write_bands,
    write_image,
)

__all__ = [
    "INPUT_SUFFIXES",
    "LARGE_PX",
    "OUTPUT_SUFFIXES",
    "AlphaEncoder",
    "BandedPicture",
    "Image",
    "NotByRows",
    "Picture",
    "alpha_rows",
    "centre",
    "check_fits",
    "check_quality",
    "crop",
    "decode_alpha",
    "encode_alpha",
    "fill_transparent",
    "fill_transparent_bands",
    "fit",
    "format_of",
    "from_array",
    "from_pillow",
    "image_bytes",
    "is_by_rows",
    "limit_hint",
    "open_rows",
    "orientation",
    "orientation_of",
    "pad",
    "padded_bands",
    "padded_size",
    "pillow_mode",
    "psnr",
    "read_image",
    "read_size",
    "regrouped",
    "to_16_bits",
    "to_8_bits",
    "to_pillow",
    "upright",
    "usual_limit",
    "write_atomically",
    "write_bands",
    "write_image",
]
