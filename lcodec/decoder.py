"""From the bytes of a .lic file to its latents: integers all the way, the same on every machine. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from lcodec import container, weights
from lcodec.container import Container, Header
from lcodec.entropy.intmodel import IntegerEntropyModel
from lcodec.entropy.tables import table_set
from lcodec.errors import Corrupt, LimitExceeded, ModelError

T = TypeVar("T")
DEFAULT_MAX_PIXELS = 2 * 89478485  # where Pillow, too, calls an image a decompression bomb


def decode_latents(
    box: Container, model: weights.ModelFile, entropy: IntegerEntropyModel, threads: int = 1
) -> np.ndarray:
    """y_hat int32 (H/16, W/16, M), in the model's fixed point. Raises StreamError."""
    header = box.header
    tables = table_set(model.table_qualities, header.quality)
    y_hat = np.empty((header.latent_height, header.latent_width, entropy.M), np.int32)
    blocks = list(header.slices())
    # One slice: its parts share the threads. Several: a thread a slice, which needs no waiting between them.
    inner = threads if len(blocks) == 1 else 1

    def decode(job: tuple[bytes, tuple[int, int, int, int]]) -> None:
        data, (y0, x0, h, w) = job
        y_hat[y0 : y0 + h, x0 : x0 + w] = entropy.decode_slice(data, h, w, tables, inner)

    run(decode, list(zip(box.slices, blocks, strict=True)), threads)
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


def latents_digest(y_hat: np.ndarray) -> str:
    """Hex SHA-256 of y_hat as int32 little endian, rows, columns, channels."""
    return hashlib.sha256(np.ascontiguousarray(y_hat, "<i4").data).hexdigest()


def check_size(header: Header, max_pixels: int | None) -> None:
    """Refuse images beyond the limit (None: no limit) before anything is allocated for them."""
    if max_pixels is not None and header.width * header.height > max_pixels:
        raise LimitExceeded(
            f"image of {header.width}x{header.height} pixels is larger than the limit of {max_pixels} pixels",
            "raise it with --limit-pixels if you trust the file",
        )


def read_checked_header(data: bytes, max_pixels: int | None) -> Header:
    """The header of a file that may be decoded; nothing behind it is looked at. Raises StreamError."""
    header = container.read_header(data)
    check_size(header, max_pixels)
    return header


def check_model(header: Header, model: weights.ModelFile) -> None:
    """Raise ModelError for a file of another model, Corrupt for a quality that the model does not have."""
    if model.stream_id != header.model_id:
        raise ModelError(f"the file was made with model {header.model_id.hex()}, not {model.name} ({model.id[:16]})")
    # In steps of 1/128, as the encoder rounds: the model's own first and last quality may lie between two steps.
    low, high = model.qualities[0], model.qualities[-1]
    if not container.quality_to_code(low) <= header.quality_code <= container.quality_to_code(high):
        raise Corrupt(f"model {model.name} has qualities {low:g} to {high:g}, not {header.quality:g}")


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
def _integer_model(path: Path) -> tuple[weights.ModelFile, IntegerEntropyModel]:
    model = weights.load(path, integers_only=True)
    return model, integer_model(model)


def digest(data: bytes, *, threads: int = 1, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> str:
    """`latents_digest` of a .lic file; its model is found by the id in the file. Raises StreamError, ModelError."""
    read_checked_header(data, max_pixels)
    box = container.unpack(data)
    model, entropy = _integer_model(weights.find(box.header.model_id.hex()))
    check_model(box.header, model)
    return latents_digest(decode_latents(box, model, entropy, threads))
