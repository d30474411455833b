"""A picture that comes in bands of rows, coded a row of slices at a time: what `decoding` is in the other direction.

    pixels -> g_a -> gain -> y -> h_a -> z -> integers -> integer entropy model -> rANS -> slices of a container
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lcodec import container
from lcodec.container import Container, Header
from lcodec.decoder import LatentsDigest, Slice, known_quality, numbered_slices, run, slice_groups
from lcodec.entropy.intmodel import IntegerEntropyModel
from lcodec.entropy.tables import table_set
from lcodec.errors import InputError
from lcodec.image import AlphaEncoder, padded_bands
from lcodec.transforms import Transforms
from lcodec.transforms.bands import Bands
from lcodec.transforms.tiling import HYPER_HALO_LATENTS, Box, analyse_bands, hyper_analyse_block
from lcodec.weights import ModelFile

KEPT_LATENTS = 1 << 26  # so many are kept for `EncodeResult.reconstruction`, a quarter of a gigabyte; else decoded anew
Y_FIX_BITS = 16  # fraction bits of what the integer coder rounds to symbols
Y_FIX_LIMIT = 2.0**14  # keeps int32; a latent that large is far outside of what any quality needs


@dataclass
class Coded:
    """An image coded at one quality. y_hat: int32 (H/16, W/16, M) as the decoder will have it, None if large."""

    header: Header
    data: bytes
    digest: str
    y_hat: np.ndarray | None
    entropy_s: float


class Encoding:
    """A model that is ready to encode; threads: of the CPU."""

    def __init__(self, model: ModelFile, entropy: IntegerEntropyModel, transforms: Transforms, threads: int) -> None:
        self.file, self.entropy, self.transforms, self.threads = model, entropy, transforms, threads

    def analyse(self, header: Header, bands: Iterator[np.ndarray]) -> Bands:
        """y, float32 (H/16, W/16, M), gains not applied, as it is asked for."""
        pixels = Bands(padded_bands(bands, header.height, header.width))
        return Bands(analyse_bands(self.transforms, pixels, header.latent_height, header.latent_width))

    def code(self, box: Container, y: Bands, alpha: AlphaEncoder | None = None) -> Coded:
        """The file of `box`, a row of slices at a time: hyper-analysis, quantization, entropy coding.

        y: as `analyse` gives it. alpha: has all of it when all of y was drawn.
        """
        header = box.header
        gain = self.transforms.gain(known_quality(header, self.file))
        rows, columns = header.latent_height, header.latent_width
        digest = LatentsDigest()
        slices: list[bytes] = []
        y_hat: list[np.ndarray] | None = [] if rows * columns * self.entropy.M <= KEPT_LATENTS else None
        entropy_s = 0.0
        for group in slice_groups(numbered_slices(header), self.threads):
            # h_a before the threads start: it uses them all by itself
            z_fix: list[np.ndarray | None] = [None] * len(group)
            if self.entropy.N:  # there is a z
                for i, (_, y0, x0, h, w) in enumerate(group):
                    place = Box(y0, y0 + h, x0, x0 + w)
                    z = hyper_analyse_block(self.transforms, y, gain, place, rows, columns)
                    z_fix[i] = to_fixed(z)
            bottom = group[-1].y0 + group[-1].h
            y.fetch(bottom)
            start = time.perf_counter()
            coded, band = self._code_group(header, group, y, gain, z_fix)
            entropy_s += time.perf_counter() - start
            y.forget(bottom - HYPER_HALO_LATENTS)
            slices += coded
            digest.update(band)
            if y_hat is not None:
                y_hat.append(band)
        box = replace(box, slices=slices, alpha=box.alpha if alpha is None else alpha.payload())
        data = container.pack(box)
        return Coded(header, data, digest.hexdigest(), None if y_hat is None else np.concatenate(y_hat), entropy_s)

    def _code_group(
        self, header: Header, group: list[Slice], y: Bands, gain: np.ndarray, z_fix: list[np.ndarray | None]
    ) -> tuple[list[bytes], np.ndarray]:
        """Some rows of slices, several at the same time. gain: (M,)."""
        top, bottom = group[0].y0, group[-1].y0 + group[-1].h
        slices = [b""] * len(group)
        y_hat = np.empty((bottom - top, header.latent_width, self.entropy.M), np.int32)
        tables = table_set(self.file.table_qualities, header.quality)
        inner = self.threads if len(group) == 1 else 1

        def work(i: int) -> None:
            _, y0, x0, h, w = group[i]
            y_fix = to_fixed(y.block(y0, y0 + h, x0, x0 + w) * gain)
            slices[i], y_hat[y0 - top : y0 - top + h, x0 : x0 + w] = self.entropy.encode_slice(
                y_fix, z_fix[i], tables, inner
            )

        run(work, list(range(len(group))), self.threads)
        return slices, y_hat


def to_fixed(v: np.ndarray) -> np.ndarray:
    """float32 of any shape -> int32 with Y_FIX_BITS fraction bits. InputError if a network ran out of range."""
    if not np.isfinite(v).all():
        raise InputError("the network gave values that are not finite for this image")
    # In float32, for a product with a power of two is exact, and beyond 2^24 every float32 is an integer.
    fixed = np.clip(v, -Y_FIX_LIMIT, Y_FIX_LIMIT)
    fixed *= 2.0**Y_FIX_BITS
    return np.rint(fixed, out=fixed).astype(np.int32)
