"""Arrays that come in bands of rows from the top and are held only where they are still needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np


class Bands:
    """A window onto an array (rows, columns, channels) that arrives in bands, top to bottom.

    source gives the bands, each (some rows, columns, channels). Rows are drawn from it as far as `block` asks for them,
    and stay until `forget`. Memory is that of the bands in between, not of the array.
    """

    def __init__(self, source: Iterator[np.ndarray]) -> None:
        self._source = source
        self._held: deque[tuple[int, np.ndarray]] = deque()  # (first row, band), without gaps
        self._end = 0

    def fetch(self, last: int) -> None:
        """Draws bands until row last - 1 is there; then threads may share `block` up to it."""
        while self._end < last:
            band = next(self._source, None)
            if band is None:
                raise ValueError(f"row {last - 1} was asked for, but there are only {self._end} rows")
            self._held.append((self._end, band))
            self._end += len(band)

    def block(self, first: int, last: int, left: int, right: int) -> np.ndarray:
        """A copy of rows first .. last - 1, columns left .. right - 1, contiguous. ValueError: they are not there."""
        self.fetch(last)
        if not first < last or not self._held or first < self._held[0][0]:
            raise ValueError(f"rows {first} to {last} are not held")
        parts = [
            band[max(0, first - start) : last - start, left:right]
            for start, band in self._held
            if start < last and first < start + len(band)
        ]
        return np.concatenate(parts)

    def forget(self, before: int) -> None:
        """Rows above row `before` are not asked for any more."""
        while self._held and self._held[0][0] + len(self._held[0][1]) <= before:
            self._held.popleft()
        if not self._held:
            return
        start, band = self._held[0]
        # A few rows that are left do not keep a whole band.
        if before > start and 2 * (start + len(band) - before) <= len(band):
            self._held[0] = before, band[before - start :].copy()
