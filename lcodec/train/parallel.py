"""Several processes, on one machine or many, that train one network: torchrun's, or one alone.

    torchrun --nproc-per-node 4 -m lcodec train …

Each process (rank) computes the gradient of its share of the batch; DistributedDataParallel averages them. Rank 0 alone
reads and writes checkpoints, validates and keeps averaged weights; the others get what they need from it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from lcodec.errors import DeviceError, UsageError

WAIT = timedelta(hours=1)  # for rank 0, which validates while the others wait


@dataclass(frozen=True)
class Ranks:
    """rank: this process among `world`. local: among those of this machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the one that reads and writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` things. Raises UsageError if they cannot be shared evenly."""
        if count % self.world:
            raise UsageError(f"a batch of {count} cannot be shared evenly by {self.world} processes")
        each = count // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def from_main(self, value: Any) -> Any:
        """Rank 0's value, for all."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def all(self, value: Any) -> list[Any]:
        """The values of all ranks, for all."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def sums(self, values: list[float], device: str) -> list[float]:
        """Each summed up over the ranks, for all."""
        if self.world == 1:
            return values
        together = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(together)
        return [float(v) for v in together]

    def distributed(self, module: nn.Module, device: str) -> nn.Module:
        """The module with gradients that are averaged over the ranks, and rank 0's weights everywhere."""
        if self.world == 1:
            return module
        devices = [torch.device(device)] if device.startswith("cuda") else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has another name for it, 2.4 does not know that
            return nn.parallel.DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """The processes that torchrun started, or this one alone, and the device of this one.

    device: "cpu" or "cuda"; each rank takes a card of its own. Raises DeviceError, UsageError.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)
        yield Ranks(), device
        return
    ranks = Ranks(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")))
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"several processes train on cpu or cuda, not on {device}")
    if kind == "cuda":
        if ranks.local >= torch.cuda.device_count():
            raise DeviceError(f"process {ranks.local} of this machine has no card of its own")
        device = f"cuda:{ranks.local}"
        torch.cuda.set_device(ranks.local)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=WAIT)
    try:
        yield ranks, device
    finally:
        dist.destroy_process_group()
