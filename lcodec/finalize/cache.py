"""Checkpoints used in place of a model: finalized at the first use, and kept."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

from lcodec import weights
from lcodec.atomic import write_atomically
from lcodec.errors import ModelError, OutputError

from .assemble import calibration_images, finalize, read

# Raise it when finalize makes another model of the same checkpoint: integers, tables, calibration images.
FINALIZE_VERSION = 5
STEM_LENGTH = 40  # of the checkpoint's name in the model's, far below the 255 bytes of a file name


def finalize_cached(
    checkpoint: Path, notice: Callable[[str], None] = lambda message: None, *, metric: str | None = None
) -> Path:
    """The model file of a checkpoint in the cache folder, made if it is not there.

    notice: gets one line before the work begins, which takes seconds to minutes. metric: what a checkpoint that does
    not tell was trained for, "mse" if None. A file that is there is never replaced, unless it is damaged: streams may
    have been made with it. Raises ModelError, OutputError, UsageError for another metric than the checkpoint's.
    """
    if metric is not None:
        plain = cached_path(checkpoint)
        if weights.is_whole(plain) and weights.metric_of(weights.info(plain).card) == metric:
            return plain  # it tells by itself, or was taken for that
    path = cached_path(checkpoint, metric)
    if weights.is_whole(path):
        return path
    # Read once from here on: a training run may replace the file at any time.
    data = read(checkpoint)
    path = cached_path(checkpoint, metric, data)
    if weights.is_whole(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"cannot make folder {path.parent}: {(e.strerror or str(e)).lower()}") from e
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write into {path.parent}")
    message = f"finalizing {checkpoint} once; what it encodes needs {path}"
    done = finalize(checkpoint, calibration_images(), data=data, metric=metric, begin=lambda: notice(message))
    damaged = path.exists() and not weights.is_whole(path)
    try:
        write_atomically(path, weights.pack(done.model), overwrite=damaged)
    except OutputError:
        # Another process was faster, and what it encodes names its model, not ours.
        if not weights.is_whole(path):
            raise
    return path


def cached_path(checkpoint: Path, metric: str | None = None, data: bytes | None = None) -> Path:
    """Where the model of a checkpoint with this content, made by this version of finalize, is kept.

    data: the content, where it is in memory already. Raises ModelError.
    """
    told = f" {metric}" if metric not in (None, "mse") else ""
    key = hashlib.sha256(f"lcodec finalize {FINALIZE_VERSION}{told}\n".encode())
    try:
        with open(checkpoint, "rb") if data is None else io.BytesIO(data) as f:
            while block := f.read(1 << 20):
                key.update(block)
    except OSError as e:
        raise ModelError(f"cannot read checkpoint {checkpoint}: {(e.strerror or str(e)).lower()}") from e
    stem = checkpoint.name.split(".")[0][:STEM_LENGTH] or "model"
    return weights.cache_folder() / f"{stem}-{key.hexdigest()[:16]}{weights.SUFFIX}"
