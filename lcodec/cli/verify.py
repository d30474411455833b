"""`lcodec encode --verify`: what was encoded is decoded again and held against the input."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lcodec.errors import LcodecError
from lcodec.limits import NO_LIMITS

if TYPE_CHECKING:
    from lcodec.codec import Codec, EncodeResult
    from lcodec.image import BandedPicture, Picture


def check(codec: Codec, result: EncodeResult, picture: Picture) -> float:
    """Decode what was encoded; returns the PSNR against the input, where it is not fully transparent, in dB.

    Raises LcodecError if the latents differ, the picture is not the one that the encoder foresaw, or alpha or metadata
    are not those of the input.
    """
    import numpy as np

    from lcodec.image import psnr

    decoded = codec.decode(result.data, limits=NO_LIMITS)
    if decoded.digest != result.y_hat_digest or decoded.pixels.shape != picture.pixels.shape:
        raise _failed("the encoded data does not decode to the same latents")
    # Floating point may round differently from run to run, by one step; more is a fault.
    difference = np.abs(decoded.pixels.astype(np.int32) - result.reconstruction())
    white = int(np.iinfo(picture.pixels.dtype).max)
    if int(difference.max()) > white // 255:
        raise _failed(f"the decoded image is off by up to {difference.max()} of {white}")
    same_alpha = np.array_equal(picture.alpha, decoded.picture.alpha)  # type: ignore[arg-type]  # None equals None
    if not same_alpha or any(getattr(picture, n) != getattr(decoded.picture, n) for n in ("icc", "exif", "xmp")):
        raise _failed("alpha or metadata are not those of the image")
    return psnr(picture.pixels, decoded.pixels, None if picture.alpha is None else picture.alpha > 0)


def check_bands(codec: Codec, result: EncodeResult, picture: BandedPicture) -> float:
    """The same for a picture that comes in bands, in the memory of some; it is read once more for that.

    What the encoder foresaw is not at hand, but the latents that it was made of are the same.
    """
    import numpy as np

    from lcodec.image import regrouped

    decoding = codec.decode_bands(result.data, limits=NO_LIMITS)
    decoded = decoding.banded()
    alike = ("height", "width", "mode", "deep", "icc", "exif", "xmp")
    if any(getattr(picture, name) != getattr(decoded, name) for name in alike):
        raise _failed("size, kind or metadata are not those of the image")
    squares, count = 0.0, 0
    rows = 64
    for a, b in zip(regrouped(decoded.bands, rows), regrouped(picture.bands, rows), strict=True):
        if picture.has_alpha:
            if not np.array_equal(a[..., -1], b[..., -1]):
                raise _failed("alpha is not that of the image")
            seen = b[..., -1] > 0
            a, b = a[seen][..., :-1], b[seen][..., :-1]
        squares += float(np.square(a.astype(np.float32) - b).sum(dtype=np.float64))
        count += a.size
    if decoding.digest != result.y_hat_digest:
        raise _failed("the encoded data does not decode to the same latents")
    return _psnr(65535 if picture.deep else 255, squares / max(count, 1))


def _psnr(white: int, mse: float) -> float:
    """In dB, inf where nothing differs."""
    return 10 * math.log10(white**2 / mse) if mse else math.inf


def _failed(what: str) -> LcodecError:
    return LcodecError(
        f"verification failed: {what}",
        hint="nothing was written; this is a bug, please report it with the image",
    )
