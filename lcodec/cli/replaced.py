"""What it means that a model file is replaced or removed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lcodec.cli.report import note
from lcodec.errors import ModelError


@dataclass(frozen=True)
class Before:
    """What is at an output before a model is written there. id: of the model, None if there is none; sharing: the files
    that have tensors from it, and of which it would be the last whole copy."""

    output: Path
    id: str | None
    sharing: tuple[Path, ...]

    def tell(self, now: str) -> None:
        """Say what is lost, where the model that was written has another id."""
        if self.id in (None, now):
            return
        old = str(self.id)[:16]
        note(f"{self.output} was another model, id {old}, without which what it encoded cannot be decoded")
        for path in self.sharing:
            note(f"{path} shares tensors with the one that was replaced: it needs another copy of that")


def before(output: Path) -> Before:
    from lcodec import weights

    try:
        there = weights.info(output).id
    except ModelError:
        return Before(output, None, ())
    return Before(output, there, tuple(left_alone([output.resolve()])))  # a link stays, what it leads to goes


def left_alone(gone: Collection[Path]) -> list[Path]:
    """Model files whose tensors are in some that are to go, and nowhere else."""
    from lcodec import weights

    def place(path: Path) -> Path:
        return path.parent.resolve() / path.name  # a link in a folder is a file of its own

    leaving = {place(path) for path in gone}
    beside = [model for folder in dict.fromkeys(p.parent for p in leaving) for model in weights.readable_models(folder)]
    models = {place(model.path): model for model in beside}
    whole = {model.id for path, model in models.items() if model.base is None and path not in leaving}
    lost = {model.id for path, model in models.items() if path in leaving} - whole
    return [p for p, model in models.items() if p not in leaving and model.base is not None and model.base.id in lost]
