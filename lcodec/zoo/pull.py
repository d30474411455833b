"""A checkpoint of the CompressAI zoo to a model that encode and decode find by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lcodec import weights
from lcodec.errors import OutputError

from .catalog import BASE_URL, LICENCE, ZooFile
from .download import Progress, fetch, sha256


@dataclass(frozen=True)
class Pulled:
    """path: the model file. id: of the model. checkpoint: where it was kept, None if it was not."""

    path: Path
    id: str
    sha256: str
    checkpoint: Path | None
    downloaded: bool


def checkpoint_folder() -> Path:
    """Where checkpoints are while they are fetched, and stay with `keep_checkpoint`."""
    return weights.cache_folder().parent / "checkpoints"


def hub_folder() -> Path:
    """Where CompressAI itself, by torch.hub, keeps what it has fetched."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("TORCH_HOME") or cache / "torch") / "hub" / "checkpoints"


def model_path(wanted: ZooFile) -> Path:
    """The model file of a checkpoint in the user's model folder."""
    return weights.cache_folder() / f"{wanted.name}{weights.SUFFIX}"


def pull(
    wanted: ZooFile,
    *,
    url: str = BASE_URL,
    keep_checkpoint: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    finalizing: Callable[[], None] = lambda: None,
) -> Pulled:
    """Fetch, check, finalize with the calibration images of the package, and put into the user's model folder.

    url: folder in which the files lie, the zoo's own or a mirror's. A checkpoint that is kept here, or in torch's hub
    cache, with the right hash, is not fetched again. overwrite: an existing model is replaced. finalizing: called when
    the transfer is over. Raises ModelError, also for an existing model that cannot be read, OutputError; the model
    appears whole or not at all.
    """
    from lcodec.atomic import write_atomically
    from lcodec.finalize import calibration_images, finalize

    path = model_path(wanted)
    if path.exists() and not overwrite:
        weights.load(path)  # ModelError, with its reason, for one that is damaged or of a newer lcodec
        raise OutputError(f"{path} exists", "--force makes it again")
    for folder in (path.parent, checkpoint_folder()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise OutputError(f"cannot make folder {folder}: {(e.strerror or str(e)).lower()}") from e
    kept = checkpoint_folder() / wanted.file
    checkpoint, digest = _local(wanted, (kept, hub_folder() / wanted.file))
    downloaded = checkpoint is None
    if checkpoint is None:
        checkpoint = kept
        digest = fetch(f"{url.rstrip('/')}/{wanted.file}", kept, wanted.sha256_prefix, progress=progress)
    finalizing()
    card = {
        "summary": f"CompressAI's {wanted.architecture}, quality {wanted.quality}, {wanted.metric}",
        "origin": f"CompressAI zoo, {wanted.file}",
        "data": "Vimeo-90K, by CompressAI",
        "licence": LICENCE,
        "metric": wanted.metric,
    }
    done = finalize(checkpoint, calibration_images(), card=card)
    write_atomically(path, weights.pack(done.model), overwrite=overwrite)
    if checkpoint == kept and not keep_checkpoint:
        kept.unlink(missing_ok=True)
    return Pulled(path, done.model.id, digest, kept if kept.exists() else None, downloaded)


def _local(wanted: ZooFile, places: tuple[Path, ...]) -> tuple[Path | None, str]:
    """A checkpoint that is here already, and its SHA-256; one of another content is passed over."""
    for path in places:
        try:
            digest = sha256(path)
        except OSError:
            continue
        if digest.startswith(wanted.sha256_prefix):
            return path, digest
    return None, ""
