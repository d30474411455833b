"""What each step is trained on, made ahead of the step by threads.

A step's batch, and the noise in it, depend on the seed and the number of the step alone. So it makes no difference
which thread makes it, how many there are, or where a run was interrupted.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from torch import Tensor

from .data import Photographs
from .options import Options
from .parallel import Ranks


class Batch(NamedTuple):
    """noise_seed: of what the network draws. x (B, 3, crop, crop) uint8. levels: the quality of each crop."""

    noise_seed: int
    x: Tensor
    levels: list[float]


def make_batch(data: Photographs, options: Options, ranks: Ranks, step: int) -> Batch:
    """This process's share of a step's batch."""
    rng = np.random.default_rng((options.seed, step))
    noise_seed = int(rng.integers(2**62)) + ranks.rank
    part = ranks.share(options.batch)
    x = data.crops(rng, options.batch, options.crop, part)
    # every batch spans the range of qualities, so that its gradient is not that of one of them
    places = (np.arange(options.batch) + rng.random()) * len(options.qualities) / options.batch
    levels = [options.qualities[int(p) % len(options.qualities)] for p in places]
    return Batch(noise_seed, x, levels[part])


class Batches:
    """Batches by step. workers: threads that make the next ones while a step runs; with 0 each is made when needed."""

    def __init__(self, data: Photographs, options: Options, ranks: Ranks, workers: int) -> None:
        self._source = (data, options, ranks)
        self._pinned = options.device.startswith("cuda")
        self._ahead = 2 * workers
        self._pool = ThreadPoolExecutor(workers, "lcodec-data") if workers else None
        self._made: dict[int, Future[Batch]] = {}

    def get(self, step: int) -> Batch:
        """Raises InputError if an image has become unreadable."""
        if self._pool is None:
            return self._make(step)
        for due in range(step, step + 1 + self._ahead):
            if due not in self._made:
                self._made[due] = self._pool.submit(self._make, due)
        return self._made.pop(step).result()

    def _make(self, step: int) -> Batch:
        batch = make_batch(*self._source, step)
        return batch._replace(x=batch.x.pin_memory()) if self._pinned else batch

    def close(self) -> None:
        """Batches that nobody will ask for are dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool, self._ahead = None, 0
        self._made.clear()
