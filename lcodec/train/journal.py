"""What a run tells: log.jsonl, TensorBoard where it is installed, and whoever listens. Only rank 0 writes."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Report = Callable[[dict[str, Any]], None]


def finite(value: Any) -> Any:
    """The value with None for the numbers in it that JSON does not have."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Journal:
    """report: gets every row. active: False on ranks that write nothing. step: where a resumed run goes on."""

    def __init__(self, folder: Path, report: Report, active: bool, step: int = 0) -> None:
        self.path = folder / "log.jsonl"
        self._report, self._active = report, active
        self._board: Any = None
        self._broken = False
        if active and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            try:
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
            except OSError as e:
                report({"warning": f"TensorBoard gets nothing: {(e.strerror or str(e)).lower()}"})
        self.has_board = self._board is not None

    def write(self, step: int, hours: float, row: dict[str, Any]) -> None:
        """One row. A disk that is full costs lines of the log, not the run."""
        if not self._active:
            return
        line = json.dumps(finite({"step": step, "hours": round(hours, 4), **row})) + "\n"
        try:
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(line)
            self._broken = False
        except OSError as e:
            if not self._broken:
                self._report({"warning": f"cannot write {self.path}: {(e.strerror or str(e)).lower()}"})
            self._broken = True
        self._tell_board(lambda board: self._scalars(board, step, row))
        self._report(row)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """uint8 (H, W, 3), for TensorBoard."""
        self._tell_board(lambda board: board.add_image(name, pixels, step, dataformats="HWC"))

    def _tell_board(self, tell: Callable[[Any], None]) -> None:
        """TensorBoard writes in a thread of its own, whose errors come out of whatever is told to it next."""
        if self._board is None:
            return
        try:
            tell(self._board)
        except OSError as e:
            self._board = None
            self._report({"warning": f"TensorBoard gets no more: {(e.strerror or str(e)).lower()}"})

    def _scalars(self, board: Any, step: int, row: dict[str, Any]) -> None:
        for key, value in row.items():
            if isinstance(value, int | float):
                board.add_scalar(f"train/{key}", value, step)
        for share, value in row.get("time", {}).items():
            board.add_scalar(f"time/{share}", value, step)
        for measured in row.get("valid", ()):
            for key, value in measured.items():
                if key != "quality":
                    board.add_scalar(f"valid {key}/q {measured['quality']:g}", value, step)

    def close(self) -> None:
        self._tell_board(lambda board: board.close())
        self._board = None
