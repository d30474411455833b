"""Pillow plugin: after `import lcodec.pillow`, Image.open reads .lic files and image.save("x.lic") writes them.

>>> import lcodec.pillow
>>> image = PIL.Image.open("photo.lic")            # size, mode and info, from what precedes the coded image
>>> image.info["quality"], image.info["model_id"]
>>> image.load()                                   # decodes
>>> image.save("small.lic", quality=2, model="mbt2018-mean")

Opening needs neither torch nor the model.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import IO, Any

from PIL import Image, ImageFile

import lcodec
from lcodec import container
from lcodec.errors import LcodecError, NotLcodec, StreamError, UsageError
from lcodec.image import from_pillow, pillow_mode, to_pillow
from lcodec.image.guard import warn
from lcodec.image.metadata import EXIF_PREFIX
from lcodec.image.read import checked_profile
from lcodec.limits import Limits

FORMAT = "LIC"
MIME_TYPE = "image/x-lic"
_BLOCKS = {"icc_profile": "icc", "exif": "exif", "xmp": "xmp"}  # as Pillow calls them, as `Picture` does


class LicImageFile(ImageFile.ImageFile):
    """A .lic file. `info` has icc_profile, exif and xmp as other formats have them, quality, stream_id (hexadecimal,
    the first 8 bytes of the model's id; model_id is the same) and depth (bits a sample in the file).

    Pillow has no 16-bit colour, so that is rounded to 8 bits. Decoding on the device and with the threads that
    `device` and `threads` of this class say, within its `limits`, None for the usual ones (see `lcodec.limits`); pixels
    are for Pillow's own limit.
    """

    format = FORMAT
    format_description = "lcodec learned image"
    device = "auto"
    threads: int | None = None
    limits: Limits | None = None
    _decoded = True  # of a copy, which has pixels alone

    def _limits(self) -> Limits:
        return self.limits or Limits.from_environment()

    def _open(self) -> None:
        if self.fp is None:
            raise SyntaxError("no file")
        try:
            front = container.read_front_from(self.fp, metadata_limit=self._limits().metadata_bytes)
        except NotLcodec as error:
            raise SyntaxError(str(error)) from error  # which is how Pillow is told to ask another plugin
        except StreamError as error:
            raise OSError(str(error)) from error
        header = front.header
        self._size = header.width, header.height
        self._mode = pillow_mode(header.gray, header.deep, front.alpha is not None)
        self._decoded = False
        warn(front.warnings, stacklevel=5)  # the line that opens the image
        stream_id = header.model_id.hex()
        self.info.update(quality=header.quality, stream_id=stream_id, model_id=stream_id)
        self.info["depth"] = 16 if header.deep else 8
        for key, data in (("icc_profile", front.icc), ("xmp", front.xmp)):
            if data is not None:
                self.info[key] = data
        if front.exif is not None:
            self.info["exif"] = EXIF_PREFIX + front.exif

    def load(self) -> Any:
        if not self._decoded:
            if self.fp is None:
                raise ValueError("the image was closed before it was loaded")
            self.fp.seek(0)
            data = self.fp.read()
            try:
                # Pillow has had its say about the size when the file was opened
                limits = replace(self._limits(), pixels=None)
                picture = lcodec.decode_picture(data, device=self.device, threads=self.threads, limits=limits)
            except LcodecError as error:
                raise _as_os_error(error) from error
            pixels = to_pillow(picture)
            if self._exclusive_fp:
                self.fp.close()
            self.fp = io.BytesIO(pixels.tobytes())
            self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, pixels.mode)]
            self._decoded = True
        return super().load()

    def load_seek(self, pos: int) -> None:  # the tile lies in memory already
        pass


def _accept(prefix: bytes) -> bool:
    return container.matches(prefix)


def _save(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """Options of save: quality, model, target_size, target_bpp, target_psnr, effort, device, threads as in
    `lcodec.encode`; icc_profile, exif and xmp instead of what the image has, b"" or None for none. Orientation stays as
    it is.
    """
    options = dict(image.encoderinfo)
    given = {key: options.pop(key) for key in _BLOCKS if key in options}
    known = ("quality", "model", "target_size", "target_bpp", "target_psnr", "effort", "device", "threads")
    arguments = {key: options[key] for key in known if key in options}
    if image.mode == "CMYK" and given.get("icc_profile"):
        image = image.copy()
        image.info["icc_profile"] = given.pop("icc_profile")  # what it is converted by
    try:
        picture = from_pillow(image, orient=False)
    except LcodecError as error:
        raise _as_os_error(error) from error
    told = list(picture.warnings)
    blocks: dict[str, Any] = {}
    for key, value in given.items():
        data = value.tobytes() if isinstance(value, Image.Exif) else value or None
        if key == "exif" and data is not None:
            data = data.removeprefix(EXIF_PREFIX) or None
        if key == "xmp" and isinstance(data, str):
            data = data.encode()
        if key == "icc_profile" and data is not None:
            data = checked_profile(data, picture.gray, told)
        blocks[_BLOCKS[key]] = data
    picture = replace(picture, **blocks)
    warn(told, stacklevel=4)
    try:
        data = lcodec.encode(picture, **arguments)
    except UsageError:
        raise
    except LcodecError as error:
        raise _as_os_error(error) from error
    fp.write(data)


def _as_os_error(error: LcodecError) -> OSError:
    """Which is what whoever uses Pillow expects."""
    return OSError(str(error) if error.hint is None else f"{error} ({error.hint})")


Image.register_open(FORMAT, LicImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, ".lic")
Image.register_mime(FORMAT, MIME_TYPE)
