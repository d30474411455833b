"""Where the time of a step goes."""

from __future__ import annotations

import time

import torch

PARTS = ("data", "forward", "backward", "optimizer")
EVERY = 10  # steps of which one is timed on a GPU, where timing means waiting for it


class Stopwatch:
    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self._device = device
        self._running = False
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._last = 0.0

    def start(self, step: int) -> None:
        self._running = not self._cuda or step % EVERY == 0
        self._last = self._now()

    def lap(self, part: str) -> None:
        """What has passed since the last lap was spent on `part`."""
        if self._running:
            now = self._now()
            self._spent[part] += now - self._last
            self._last = now

    def shares(self) -> dict[str, float]:
        """Share of each part since this was asked last, together 1; empty if nothing was timed."""
        total = sum(self._spent.values())
        shares = {k: round(v / total, 4) for k, v in self._spent.items()} if total else {}
        self._spent = dict.fromkeys(PARTS, 0.0)
        return shares

    def _now(self) -> float:
        if self._running and self._cuda:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
