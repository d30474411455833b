"""Checkpoints used in place of a model: finalized at the first use, and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from lcodec import weights
from lcodec.atomic import write_atomically
from lcodec.errors import ModelError, OutputError

from .assemble import calibration_images, finalize

# Raise it when finalize makes another model of the same checkpoint: integers, tables, calibration images.
FINALIZE_VERSION = 3
STEM_LENGTH = 40  # of the checkpoint's name in the model's, far below the 255 bytes of a file name


def finalize_cached(checkpoint: Path, notice: Callable[[str], None] = lambda message: None) -> Path:
    """The model file of a checkpoint in the cache folder, made if it is not there.

    notice: gets one line before the work begins, which takes seconds to minutes. A file that is there is never
    replaced, unless it is damaged: streams may have been made with it. Raises ModelError, OutputError.
    """
    path = cached_path(checkpoint)
    if _readable(path):
        return path
    message = f"finalizing {checkpoint} once; what it encodes needs {path}"
    done = finalize(checkpoint, calibration_images(), begin=lambda: notice(message))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"cannot make folder {path.parent}: {(e.strerror or str(e)).lower()}") from e
    damaged = path.exists() and not _readable(path)
    try:
        write_atomically(path, weights.pack(done.model), overwrite=damaged)
    except OutputError:
        # Another process was faster, and what it encodes names its model, not ours.
        if not _readable(path):
            raise
    return path


def cached_path(checkpoint: Path) -> Path:
    """Where the model of a checkpoint with this content, made by this version of finalize, is kept."""
    key = hashlib.sha256(f"lcodec finalize {FINALIZE_VERSION}\n".encode())
    try:
        with open(checkpoint, "rb") as f:
            while block := f.read(1 << 20):
                key.update(block)
    except OSError as e:
        raise ModelError(f"cannot read checkpoint {checkpoint}: {(e.strerror or str(e)).lower()}") from e
    stem = checkpoint.name.split(".")[0][:STEM_LENGTH] or "model"
    return weights.cache_folder() / f"{stem}-{key.hexdigest()[:16]}{weights.SUFFIX}"


def _readable(path: Path) -> bool:
    try:
        weights.info(path)
    except ModelError:
        return False
    return True
