"""From a .lic file to its picture, band by band: latents as `decoder` gives them, through g_s, cropped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import numpy as np

from lcodec import container
from lcodec.decoder import LatentBands, LatentsDigest, check_model, known_quality, slices_within
from lcodec.entropy.intmodel import IntegerEntropyModel
from lcodec.errors import Corrupt, LimitExceeded, StreamError, UnsupportedVersion
from lcodec.header import PIXELS_PER_LATENT, Buffer
from lcodec.image import BandedPicture, Picture, alpha_rows
from lcodec.limits import NO_LIMITS, Limits
from lcodec.region import Region, check_region, slice_region
from lcodec.transforms import Transforms
from lcodec.transforms.bands import Bands
from lcodec.transforms.tiling import Box, halo_box, synthesise_bands
from lcodec.weights import ModelFile


class Decoding:
    """The picture of a file, or a region of it, in bands from the top; iterated once.

    Bands are uint8, uint16 if `deep`, (.., width, channels): gray or R, G, B, and then alpha if the file has it. Memory
    depends on the width only. region: what to decode of it, in pixels, None for all. allow_partial: slices that are
    damaged are filled, damaged alpha is opaque. limits: see `lcodec.limits`.

    header: of the file. icc, exif, xmp: as in `Picture`. height, width: of what comes, in pixels. Once all has come:
    seconds "transform", "entropy", "total"; digest, see `LatentsDigest`, None for a region; lost, the slices that were
    filled, in pixels; alpha_lost; warnings, what else had to be skipped.
    Raises StreamError, UsageError for a region that is not inside the picture, ModelError for a file of another model.
    """

    def __init__(
        self,
        data: Buffer,
        model: ModelFile,
        entropy: IntegerEntropyModel,
        transforms: Transforms,
        *,
        threads: int = 1,
        limits: Limits = NO_LIMITS,
        region: tuple[int, int, int, int] | None = None,
        allow_partial: bool = False,
    ) -> None:
        self._start = time.perf_counter()
        header = self.header = container.read_header(data)
        self.region = check_region(header, region)
        self.height, self.width = self.region.height, self.region.width
        limits.check_size(self.width, self.height)
        limits.check_ratio(header, len(data))
        self._limits = limits
        self._rows, self._columns = header.latent_height, header.latent_width
        self._whole = region is None
        self._box = Box(0, self._rows, 0, self._columns) if self._whole else _latents_of(self.region)
        needed = halo_box(transforms, self._box, self._rows, self._columns)
        rows, columns = (needed.top, needed.bottom), (needed.left, needed.right)
        wanted = None if self._whole else {s.number for s in slices_within(header, rows, columns)}
        box = container.unpack(data, tolerant=allow_partial, metadata_limit=limits.metadata_bytes, wanted=wanted)
        check_model(header, model)
        self.icc, self.exif, self.xmp, self.warnings = box.icc, box.exif, box.xmp, box.warnings
        self._alpha, self.alpha_lost = box.alpha, box.alpha_lost
        self.gray, self.deep = header.gray, header.deep
        self.channels = (1 if self.gray else 3) + (self._alpha is not None)
        self._transforms, self._allow_partial = transforms, allow_partial
        self._latents = LatentBands(
            box, model, entropy, threads, rows=rows, columns=columns, tolerant=allow_partial, limits=limits
        )
        limits.check_memory(self._bytes_at_a_time)
        self._scale = transforms.inverse_gain(known_quality(header, model)) * np.float32(2.0**-entropy.fy)
        self.seconds: dict[str, float] = {}
        self.digest: str | None = None
        self.lost: list[Region] = []

    @property
    def _bytes_at_a_time(self) -> int:
        """Of latents, and of alpha, whose rows are as wide as the file's whatever the region is."""
        rows = 0 if self._alpha is None else 4 * self.header.width * np.dtype(self.dtype).itemsize
        return self._latents.bytes_at_a_time + rows

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        return np.uint16 if self.deep else np.uint8

    def __iter__(self) -> Iterator[np.ndarray]:
        alpha = None if self._alpha is None else self._alpha_rows(self._alpha)
        resumed = self._start
        active_s = 0.0
        for band in self._pixels():
            if alpha is not None:
                rows = np.array(list(islice(alpha, len(band))), self.dtype)
                band = np.concatenate([band, rows[:, :, None]], axis=2)
            active_s += time.perf_counter() - resumed  # what is done with a band takes its own time
            self._limits.check_seconds("synthesis", active_s - self._latents.seconds)
            yield band
            resumed = time.perf_counter()
        if alpha is not None and self._whole:
            next(alpha, None)  # shows whether its stream ends as it must
        latents = self._latents
        if len(latents.lost) == latents.count:
            raise Corrupt("nothing is left of what was to be decoded")
        self.lost = [slice_region(self.header, number) for number in latents.lost]
        total = active_s + time.perf_counter() - resumed
        self.seconds = {"entropy": latents.seconds, "transform": total - latents.seconds, "total": total}

    def _pixels(self) -> Iterator[np.ndarray]:
        latents, box, region = self._latents, self._box, self.region
        digest = LatentsDigest() if self._whole else None
        bands = synthesise_bands(
            self._transforms,
            Bands(_digested(latents, digest)),
            self._rows,
            self._columns,
            box,
            (latents.top, latents.left),
            self._scale,
            gray=self.gray,
            deep=self.deep,
        )
        row, left = box.top * PIXELS_PER_LATENT, region.x - box.left * PIXELS_PER_LATENT
        for band in bands:
            first, last = max(region.y - row, 0), min(region.y + region.height - row, len(band))
            row += len(band)
            if first < last:
                yield band[first:last, left : left + region.width]
        if digest is not None:
            self.digest = digest.hexdigest()

    def _alpha_rows(self, payload: bytes) -> Iterator[np.ndarray]:
        """(width,) each, of the rows and columns of the region."""
        region, header = self.region, self.header
        rows = alpha_rows(payload, header.height, header.width, header.deep)
        given = 0
        try:
            start = time.perf_counter()
            for _ in range(region.y):
                next(rows)
                self._limits.check_seconds("decoding of alpha", time.perf_counter() - start)
            for row in rows:
                if given < region.height:
                    given += 1
                    yield row[region.x : region.x + region.width]
                elif not self._whole:
                    return
        except StreamError as error:
            if not self._allow_partial or isinstance(error, LimitExceeded | UnsupportedVersion):
                raise
            self.alpha_lost = True
            self.warnings.append(f"alpha ends early: {error}")
            while given < region.height:
                given += 1
                yield np.full(region.width, np.iinfo(self.dtype).max, self.dtype)

    def banded(self) -> BandedPicture:
        """The same as a picture; what comes last here is there when its bands are drawn."""
        return BandedPicture(
            iter(self),
            self.height,
            self.width,
            self.gray,
            self.deep,
            self.icc,
            self.exif,
            self.xmp,
            self._alpha is not None,
        )

    def whole(self) -> Picture:
        """All of it in memory."""
        size = self.height * self.width * self.channels * np.dtype(self.dtype).itemsize
        self._limits.check_memory(size + self._bytes_at_a_time)
        return self.banded().whole()


def _latents_of(region: Region) -> Box:
    """The latents that a region lies on."""
    s = PIXELS_PER_LATENT
    return Box(region.y // s, -(-(region.y + region.height) // s), region.x // s, -(-(region.x + region.width) // s))


def _digested(latents: LatentBands, digest: LatentsDigest | None) -> Iterator[np.ndarray]:
    for band in latents:
        if digest is not None:
            digest.update(band)
        yield band
