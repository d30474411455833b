"""What a run tells: log.jsonl, TensorBoard where it is installed, and whoever listens. Only rank 0 writes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lcodec.errors import OutputError
from lcodec.finite import finite
from lcodec.image.pack import RUN_LOG

Report = Callable[[dict[str, Any]], None]


class Journal:
    """report: gets every row. active: False on ranks that write nothing. step: where a resumed run goes on."""

    def __init__(self, folder: Path, report: Report, active: bool, step: int = 0) -> None:
        self.path = folder / RUN_LOG
        self._report, self._active = report, active
        self._board: Any = None
        self._broken = False
        self.lost: OutputError | None = None  # why rows could not be reported
        self.knows_board = importlib.util.find_spec("tensorboard") is not None
        if not active:
            return
        self._end_line()
        if self.knows_board:
            try:
                from torch.utils.tensorboard import SummaryWriter

                # rows carry the number of steps that they come after, so that this one's are there already
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
            except Exception as e:  # of the disk, and whatever comes of another package's versions
                reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
                self._tell({"warning": f"TensorBoard gets nothing: {reason.splitlines()[0].lower()}"})

    def _end_line(self) -> None:
        """What a killed run wrote of a line stays one by itself."""
        with contextlib.suppress(OSError), open(self.path, "rb+") as f:
            if f.seek(0, os.SEEK_END) and f.seek(-1, os.SEEK_END) >= 0 and f.read(1) != b"\n":
                f.write(b"\n")

    def _tell(self, row: dict[str, Any]) -> None:
        """A terminal or file that takes no more costs what would be told, not the run; a closed pipe ends it."""
        try:
            self._report(row)
        except BrokenPipeError:
            raise
        except OutputError as e:
            self.lost = self.lost or e
        except OSError as e:
            self.lost = self.lost or OutputError(f"cannot write stdout or stderr: {(e.strerror or str(e)).lower()}")

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
                self._tell({"warning": f"cannot write {self.path}: {(e.strerror or str(e)).lower()}"})
            self._broken = True
        self._tell_board(lambda board: self._scalars(board, step, row))
        self._tell(row)

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
            self._tell({"warning": f"TensorBoard gets no more: {(e.strerror or str(e)).lower()}"})

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
