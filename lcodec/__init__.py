"""lcodec: a learned image codec.

>>> data = lcodec.encode("photo.png", quality=4)
>>> lcodec.decode(data).save("photo-decoded.png")

Importing this is cheap: torch is loaded by the first call.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lcodec.errors import LcodecError

if TYPE_CHECKING:
    import os

    import numpy as np
    import PIL.Image

    from lcodec.codec import Codec

__all__ = ["DEFAULT_QUALITY", "LcodecError", "__version__", "decode", "encode"]
__version__ = "0.1.0"
DEFAULT_QUALITY = 4.0


def encode(
    image: PIL.Image.Image | np.ndarray | str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    quality: float | None = None,
    *,
    target_size: int | str | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> bytes:
    """The .lic file of an image.

    image: a Pillow image, uint8 (H, W, 3) RGB or (H, W) gray, or the path of an image file.
    model: name or file of a model, the default one if None; or a checkpoint of `lcodec train` or CompressAI, which is
    finalized at its first use and kept in the cache folder. quality: 1 (small) to 8 (good), fractions too; if None
    4, or the nearest that the model has. target_size (bytes, or "200kB"), target_bpp, target_psnr (dB): the quality
    is searched that meets it, see `lcodec.search.target`. device: "auto", "cpu", "cuda" or "mps". threads: CPU threads,
    all if None.
    Raises InputError, ModelError, DeviceError, UsageError.
    """
    import numpy as np
    import PIL.Image

    from lcodec import weights
    from lcodec.image import from_array, from_pillow, read_image
    from lcodec.search.target import make_target

    if isinstance(image, np.ndarray):
        pixels = from_array(image).pixels
    elif isinstance(image, PIL.Image.Image):
        pixels = from_pillow(image).pixels
    else:
        pixels = read_image(image).pixels
    path = weights.find(model or weights.DEFAULT_MODEL)
    if weights.is_checkpoint(path):
        from lcodec.finalize import finalize_cached

        path = finalize_cached(path)
    codec = _codec(str(path), path.stat().st_mtime_ns, device, threads)
    target = make_target(bpp=target_bpp, size=target_size, psnr=target_psnr)
    if quality is None and target is None:
        quality = min(max(DEFAULT_QUALITY, codec.qualities[0]), codec.qualities[-1])
    return codec.encode(pixels, quality, target=target).data


def decode(
    data: bytes, *, device: str = "auto", threads: int | None = None, max_pixels: int | None = None
) -> PIL.Image.Image:
    """The image in a .lic file, as mode RGB; its model is found by the id in the file.

    max_pixels: refuse larger images, None for the usual limit. Raises StreamError, ModelError, DeviceError.
    """
    import PIL.Image

    from lcodec import weights
    from lcodec.container import read_header

    path = weights.find(read_header(data).model_id.hex())
    limit: dict[str, Any] = {} if max_pixels is None else {"max_pixels": max_pixels}
    return PIL.Image.fromarray(_codec(str(path), path.stat().st_mtime_ns, device, threads).decode(data, **limit).pixels)


# A model takes far longer to load than an image to code, so the last ones stay; until their file changes.
@lru_cache(maxsize=2)
def _codec(model: str, _changed_ns: int, device: str, threads: int | None) -> Codec:
    from lcodec.codec import Codec

    return Codec(model, device, threads)
