"""What the processor's matrix units give at most, as torch reaches them, and what share of it a network gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

SIDE = 2048  # of the matrices
RUNS = 7


def best_seconds(work: Callable[[], Any], runs: int = RUNS) -> float:
    """The fastest of some calls, after one that does not count."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def gemm_peaks(threads: int) -> dict[str, float]:
    """GFLOP/s of a product of two square matrices by kind: "float32", "bfloat16", "int8"; without what torch lacks."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = {}
    try:
        for name in ("float32", "bfloat16", "int8"):
            a = torch.randint(-100, 100, (SIDE, SIDE)).to(getattr(torch, name))
            try:
                seconds = best_seconds(partial(torch._int_mm if name == "int8" else torch.mm, a, a))
            except (RuntimeError, AttributeError):
                continue
            found[name] = 2 * SIDE**3 / seconds / 1e9
    finally:
        torch.set_num_threads(before)
    return found


@torch.inference_mode()
def flops(module: torch.nn.Module, x: torch.Tensor) -> float:
    """Of one forward: products and sums of its convolutions, two for each weight that is used."""
    with FlopCounterMode(display=False) as counter:
        module(x)
    return float(counter.get_total_flops())
