"""The one interface over everything that is measured.

`encode` gives the bytes of a whole file, and `decode` gets nothing else; the size of the image is told to it only for
programs that write samples without a header.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lcodec.bench.schema import CodecEntry, Kind

DIGEST_DIGITS = 16  # of a SHA-256, in hex


@dataclass
class Coder:
    """A codec with its settings. qualities: what is measured unless asked otherwise, ascending in rate.

    source: what makes it again: a model file or the TOML file of a program; empty for what is built in.
    missing: why it cannot be used here. digest: of what decides its files beside model_id and detail.
    """

    name: str
    label: str
    suffix: str
    qualities: tuple[float, ...]
    detail: str = ""
    model_id: str | None = None
    source: str = ""
    missing: str | None = None
    digest: str = ""
    kind: Kind = field(init=False)
    # Whether it may run in another process beside others, while nothing is being timed.
    parallel = True

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        """uint8 (H, W, 3) -> the file."""
        raise NotImplementedError

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        """The file -> uint8 (H, W, 3)."""
        raise NotImplementedError

    def warm_up(self, pixels: np.ndarray, quality: float) -> None:
        """Once around, so that what follows can be timed. Raises whatever `encode` and `decode` raise."""
        self.decode(self.encode(pixels, quality), *pixels.shape[:2])

    def parts(self) -> dict[str, float]:
        """Seconds of the parts of the last call: "entropy", and "transform" with all the rest; empty if not known."""
        return {}

    def entry(self) -> CodecEntry:
        return {
            "name": self.name,
            "label": self.label,
            "kind": self.kind,
            "missing": self.missing,
            "model_id": self.model_id,
            "detail": self.detail,
            "source": self.source,
            "qualities": list(self.qualities),
            "digest": self.digest,
        }
