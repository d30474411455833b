"""How much a file may ask for. What exceeds a limit is refused with its name, before anything is allocated for it.

    pixels     of the image, or of the region that is decoded
    memory     bytes of pixels and latents that are held at a time, as the file's sizes ask for them
    seconds    of each stage, entropy decoding and synthesis, looked at between slices
    metadata   bytes of ICC, EXIF and XMP together, decompressed
    ratio      bytes of pixels for each byte of the file

They hold for whatever decodes `.lic` data. $LCODEC_LIMITS changes the defaults: "pixels=1e9,seconds=60,ratio=none".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lcodec.container import METADATA_LIMIT_BYTES
from lcodec.errors import LimitExceeded, UsageError
from lcodec.header import Header

ENVIRONMENT = "LCODEC_LIMITS"
SIZE_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}


@dataclass(frozen=True)
class Limits:
    """None: no limit. See the module for what each one counts.

    pixels: by default where Pillow, too, calls an image a decompression bomb. ratio: five times what an image of one
    colour and 16 bits reaches with the shipped models.
    """

    pixels: int | None = 2 * 89478485
    memory: int | None = 8 << 30
    seconds: float | None = 3600
    metadata: int | None = METADATA_LIMIT_BYTES
    ratio: float | None = 60_000

    @classmethod
    def from_environment(cls) -> Limits:
        """The defaults, changed by $LCODEC_LIMITS. Raises UsageError for one that cannot be read."""
        return cls().changed([item for item in os.environ.get(ENVIRONMENT, "").split(",") if item.strip()])

    def changed(self, settings: Iterable[str]) -> Limits:
        """With "name=value" each; sizes like 200MB and 1.5GiB, numbers like 1e9, or none. Raises UsageError."""
        values = {}
        for setting in settings:
            name, equals, value = (part.strip() for part in setting.partition("="))
            if not equals or name not in self.__dataclass_fields__:
                raise UsageError(
                    f"{setting.strip()!r} is no limit", "name=value, names are " + ", ".join(self.__dataclass_fields__)
                )
            values[name] = _value(name, value)
        return replace(self, **values)  # type: ignore[arg-type]

    def check_size(self, width: int, height: int) -> None:
        """Of what is to be decoded. Raises LimitExceeded."""
        pixels = width * height
        if self.pixels is not None and pixels > self.pixels:
            raise _exceeded("pixels", f"image of {width}x{height} pixels", f"{self.pixels} pixels", pixels, self.pixels)

    def check_ratio(self, header: Header, size_bytes: int) -> None:
        """Of a whole image to its file. Raises LimitExceeded."""
        taken = header.width * header.height * (1 if header.gray else 3) * (2 if header.deep else 1)
        if self.ratio is not None and taken > self.ratio * size_bytes:
            ratio = -(-taken // size_bytes)
            what = f"file of {size_bytes} bytes for {taken} bytes of pixels, {ratio} to one,"
            trusted = "a file that was cut off looks like this, too; if it is whole and you trust it"
            raise _exceeded("ratio", what, f"{self.ratio:g} to one", ratio, self.ratio, trusted)

    def check_memory(self, needed: int) -> None:
        """needed: bytes of pixels and latents. Raises LimitExceeded."""
        if self.memory is not None and needed > self.memory:
            what = f"image that takes {needed} bytes of memory"
            raise _exceeded("memory", what, f"{self.memory} bytes of memory", needed, self.memory)

    def check_seconds(self, stage: str, seconds: float) -> None:
        """What a stage has taken so far. Raises LimitExceeded."""
        if self.seconds is not None and seconds > self.seconds:
            what = f"{stage} that has taken {seconds:.1f} seconds, not done,"
            raise _exceeded("seconds", what, f"{self.seconds:g} seconds", None, self.seconds)

    @property
    def metadata_bytes(self) -> int:
        """For `container.unpack`, which takes a number."""
        return 1 << 62 if self.metadata is None else self.metadata


NO_LIMITS = Limits(None, None, None, None, None)


def parse_size(text: str) -> int:
    """Bytes of "200kB", "200k", "1.5MiB", "200000"; k, M, G are powers of 1000, Ki, Mi, Gi of 1024. UsageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmg]?i?)b?\s*", text, re.IGNORECASE)
    unit = match[2].lower() if match else None
    if match is None or unit not in SIZE_UNITS:
        raise UsageError(f"{text!r} is no size", "for example 200kB, 1.5MiB or 65536")
    size = float(match[1]) * SIZE_UNITS[unit]
    if size >= 1 << 62:
        raise UsageError(f"a size of {text[:20]}… cannot be")
    return int(size)


def _value(name: str, text: str) -> float | None:
    if text.lower() == "none":
        return None
    counted = name not in ("seconds", "ratio")
    try:
        number = float(text)
    except ValueError:
        if not counted:  # 5m would be five million seconds
            raise UsageError(f"{text!r} is no limit of {name}", "a number without a unit, or none") from None
        number = float(parse_size(text))
    if not (1 if counted else 0) <= number < 1 << 62 or not number:
        raise UsageError(f"a limit of {text} {name} cannot be")
    return int(number) if counted else number


def _exceeded(
    name: str, what: str, limit: str, needed: int | None, allowed: float, trusted: str = "if you trust the file"
) -> LimitExceeded:
    """needed: what would be enough, None if that is not known."""
    by = "" if needed is None else f" by {needed - allowed:g}"
    setting = f"{name}={'N' if needed is None else needed}"
    option = f"--limit-pixels {needed}" if name == "pixels" else f"--limit {setting}"
    return LimitExceeded(
        f"{what} is above the limit of {limit}{by}",
        f"{trusted}: {option}, or {ENVIRONMENT}={setting} in the environment",
    )
