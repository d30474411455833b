"""From the bytes of a .lic file to its latents: integers all the way, the same on every machine. No torch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from lcodec import container, weights
from lcodec.container import Container, Header
from lcodec.entropy.intmodel import IntegerEntropyModel
from lcodec.entropy.tables import table_set
from lcodec.errors import Corrupt, ModelError, StreamError
from lcodec.limits import NO_LIMITS, Limits

T = TypeVar("T")


class Slice(NamedTuple):
    """A slice: its number in the file, and its place in latents."""

    number: int
    y0: int
    x0: int
    h: int
    w: int


def numbered_slices(header: Header) -> list[Slice]:
    """All slices in the order of the file."""
    return [Slice(i, *block) for i, block in enumerate(header.slices())]


def slices_within(header: Header, rows: tuple[int, int], columns: tuple[int, int]) -> list[Slice]:
    """Those that reach into latent rows rows[0] .. rows[1] - 1 and such columns; they fill a rectangle."""
    side, per_row = 1 << header.slice_log2, header.slice_grid[1]
    return [
        Slice(
            y * per_row + x,
            y * side,
            x * side,
            min(side, header.latent_height - y * side),
            min(side, header.latent_width - x * side),
        )
        for y in range(rows[0] // side, -(-rows[1] // side))
        for x in range(columns[0] // side, -(-columns[1] // side))
    ]


def slice_groups(slices: Sequence[Slice], threads: int) -> list[list[Slice]]:
    """Slices that fill a rectangle, row by row; of narrow ones so many rows at a time that all threads have work."""
    per_row = sum(s.y0 == slices[0].y0 for s in slices)
    step = per_row * -(-threads // per_row)
    return [list(slices[i : i + step]) for i in range(0, len(slices), step)]


class LatentBands:
    """y_hat of a file in bands, rows of slices from the top; memory is that of a band.

    box: what `container.unpack` gave. rows, columns: only slices that reach into these latents are decoded.
    tolerant: slices that are damaged are filled, and listed in `lost`; otherwise they raise. limits: of memory, and of
    time between bands.

    Iterated once, gives int32 (rows, width, M) in the model's fixed point. top, left: the first of these rows and
    columns. Raises StreamError.
    """

    def __init__(
        self,
        box: Container,
        model: weights.ModelFile,
        entropy: IntegerEntropyModel,
        threads: int = 1,
        *,
        rows: tuple[int, int] | None = None,
        columns: tuple[int, int] | None = None,
        tolerant: bool = False,
        limits: Limits = NO_LIMITS,
    ) -> None:
        header = box.header
        jobs = slices_within(header, rows or (0, header.latent_height), columns or (0, header.latent_width))
        self.top, self.left = jobs[0].y0, jobs[0].x0
        self.width = jobs[-1].x0 + jobs[-1].w - self.left
        self.lost: list[int] = []  # numbers of slices, grows while bands are drawn
        self.seconds = 0.0
        self._box, self._entropy, self._threads, self._tolerant = box, entropy, threads, tolerant
        self._tables = table_set(model.table_qualities, header.quality)
        self.count = len(jobs)
        self._groups = slice_groups(jobs, threads)
        self._limits = limits
        limits.check_memory(self.bytes_at_a_time)

    @property
    def bytes_at_a_time(self) -> int:
        """Of latents: the band in work, the one before it, which synthesis still needs, and slices being decoded."""
        rows = max((group[-1].y0 + group[-1].h - group[0].y0 for group in self._groups), default=0)
        positions = max((min(self._threads, len(g)) * max(s.h * s.w for s in g) for g in self._groups), default=0)
        return 2 * 4 * rows * self.width * self._entropy.M + positions * self._entropy.bytes_per_latent

    def __iter__(self) -> Iterator[np.ndarray]:
        above: np.ndarray | None = None
        for group in self._groups:
            start = time.perf_counter()
            first, last = group[0], group[-1]
            band = np.empty((last.y0 + last.h - first.y0, self.width, self._entropy.M), np.int32)
            lost = self._decode(group, band)
            if lost:
                self._fill(group, lost, band, above)
                self.lost += sorted(lost)
            if self._tolerant:
                above = band[-1:].copy()
            self.seconds += time.perf_counter() - start
            self._limits.check_seconds("entropy decoding", self.seconds)
            yield band

    def _decode(self, group: Sequence[Slice], band: np.ndarray) -> set[int]:
        """Decodes the slices of a band into it; returns the numbers of those that are lost."""
        lost: set[int] = set()
        top = group[0].y0
        # One slice: its parts share the threads. Several: a thread a slice, which needs no waiting between them.
        inner = self._threads if len(group) == 1 else 1

        def decode(job: Slice) -> None:
            data = self._box.slices[job.number]
            try:
                if not data:
                    raise Corrupt(f"slice {job.number} is lost")
                block = self._entropy.decode_slice(data, job.h, job.w, self._tables, inner)
            except StreamError:
                if not self._tolerant:
                    raise
                lost.add(job.number)
            else:
                band[job.y0 - top : job.y0 - top + job.h, job.x0 - self.left : job.x0 - self.left + job.w] = block

        run(decode, group, self._threads)
        return lost

    def _fill(self, group: Sequence[Slice], lost: set[int], band: np.ndarray, above: np.ndarray | None) -> None:
        """Gives a lost slice the mean of the latents that adjoin it above, left and right, where these are there.

        What varies from latent to latent averages out, and what is left is about the mean colour of the surroundings.
        """
        top = group[0].y0
        known = np.ones(band.shape[:2], bool)
        for job in group:
            if job.number in lost:
                known[job.y0 - top : job.y0 - top + job.h, job.x0 - self.left : job.x0 - self.left + job.w] = False
        for job in group:
            if job.number not in lost:
                continue
            y0, y1, x0, x1 = job.y0 - top, job.y0 - top + job.h, job.x0 - self.left, job.x0 - self.left + job.w
            borders = [band[y0:y1, x : x + 1][known[y0:y1, x : x + 1]] for x in (x0 - 1, x1) if 0 <= x < self.width]
            if y0 > 0:
                borders.append(band[y0 - 1 : y0, x0:x1][known[y0 - 1 : y0, x0:x1]])
            elif above is not None:
                borders.append(above[0, x0:x1])  # what was filled there goes on
            if y1 < len(band):
                borders.append(band[y1 : y1 + 1, x0:x1][known[y1 : y1 + 1, x0:x1]])
            border = np.concatenate(borders) if borders else band[:0, 0]
            band[y0:y1, x0:x1] = np.rint(border.mean(0)) if len(border) else 0


def decode_latents(
    box: Container, model: weights.ModelFile, entropy: IntegerEntropyModel, threads: int = 1
) -> np.ndarray:
    """y_hat int32 (H/16, W/16, M), in the model's fixed point. Raises StreamError."""
    header = box.header
    y_hat = np.empty((header.latent_height, header.latent_width, entropy.M), np.int32)
    row = 0
    for band in LatentBands(box, model, entropy, threads):
        y_hat[row : row + len(band)] = band
        row += len(band)
    return y_hat


def run(work: Callable[[T], None], jobs: Sequence[T], threads: int) -> None:
    """Do the jobs, on several threads where there are several jobs; the first error is raised."""
    if threads == 1 or len(jobs) == 1:
        for job in jobs:
            work(job)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, jobs):
            pass


class LatentsDigest:
    """Hex SHA-256 of y_hat as int32 little endian, rows, columns, channels, taken band by band."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, band: np.ndarray) -> None:
        self._hash.update(np.ascontiguousarray(band, "<i4").data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def check_model(header: Header, model: weights.ModelFile) -> None:
    """Raise ModelError for a file of another model, Corrupt for a quality that the model does not have."""
    if model.stream_id != header.model_id:
        raise ModelError(f"the file was made with model {header.model_id.hex()}, not {model.name} ({model.id[:16]})")
    # In steps of 1/128, as the encoder rounds: the model's own first and last quality may lie between two steps.
    low, high = model.qualities[0], model.qualities[-1]
    if not container.quality_to_code(low) <= header.quality_code <= container.quality_to_code(high):
        raise Corrupt(f"model {model.name} has qualities {low:g} to {high:g}, not {header.quality:g}")


def known_quality(header: Header, model: weights.ModelFile) -> float:
    """What the decoder knows of the quality; steps of 1/128 may leave the model's range by half a step."""
    return min(max(header.quality, model.qualities[0]), model.qualities[-1])


def integer_model(model: weights.ModelFile) -> IntegerEntropyModel:
    """The integer entropy model of a model file, one set of tables for each table quality. Raises ModelError."""
    entropy = IntegerEntropyModel(model.integers(), model.entropy)
    if entropy.n_table_sets != len(model.table_qualities):
        raise ModelError(
            f"model {model.name} is damaged: {entropy.n_table_sets} sets of tables for "
            f"{len(model.table_qualities)} qualities"
        )
    return entropy


@lru_cache(maxsize=4)
def _integer_model(path: Path, _changed_ns: int) -> tuple[weights.ModelFile, IntegerEntropyModel]:
    model = weights.load(path)  # all of it: a digest made with damaged integers would say that the file differs
    return model, integer_model(model)


def digest(data: bytes, *, threads: int = 1, limits: Limits | None = None) -> str:
    """`LatentsDigest` of a .lic file; its model is found by the id in the file. Raises StreamError, ModelError.

    limits: None for the usual ones.
    """
    limits = limits or Limits.from_environment()
    header = container.read_header(data)
    limits.check_size(header.width, header.height)
    limits.check_ratio(header, len(data))
    box = container.unpack(data, metadata_limit=limits.metadata_bytes)
    path = weights.find(box.header.model_id.hex())
    model, entropy = _integer_model(path, weights.changed_ns(path))
    check_model(box.header, model)
    latents = LatentsDigest()
    for band in LatentBands(box, model, entropy, threads, limits=limits):
        latents.update(band)
    return latents.hexdigest()
