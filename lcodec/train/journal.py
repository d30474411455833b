"""What a run tells: log.jsonl, TensorBoard where it is installed, and whoever listens. Only rank 0 writes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Report = Callable[[dict[str, Any]], None]


class Journal:
    """report: gets every row. active: False on ranks that write nothing. step: where a resumed run goes on."""

    def __init__(self, folder: Path, report: Report, active: bool, step: int = 0) -> None:
        self.path = folder / "log.jsonl"
        self._report, self._active = report, active
        self._board: Any = None
        self._broken = False
        if active and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        self.has_board = self._board is not None

    def write(self, step: int, hours: float, row: dict[str, Any]) -> None:
        """One row. A disk that is full costs lines of the log, not the run."""
        if not self._active:
            return
        line = json.dumps({"step": step, "hours": round(hours, 4), **row}) + "\n"
        try:
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(line)
            self._broken = False
        except OSError as e:
            if not self._broken:
                self._report({"warning": f"cannot write {self.path}: {(e.strerror or str(e)).lower()}"})
            self._broken = True
        if self._board is not None:
            self._scalars(step, row)
        self._report(row)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """uint8 (H, W, 3), for TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, pixels, step, dataformats="HWC")

    def _scalars(self, step: int, row: dict[str, Any]) -> None:
        for key, value in row.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"train/{key}", value, step)
        for share, value in row.get("time", {}).items():
            self._board.add_scalar(f"time/{share}", value, step)
        for measured in row.get("valid", ()):
            for key, value in measured.items():
                if key != "quality":
                    self._board.add_scalar(f"valid {key}/q {measured['quality']:g}", value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None
