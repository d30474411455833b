"""The quality that meets a target: a size, bits per pixel, or a PSNR.

The header stores quality in steps of 1/128, so this is a search over a row of about nine hundred integers, on which
the logarithm of the size, and the PSNR, run nearly straight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from lcodec.errors import UsageError
from lcodec.header import QUALITY_STEPS
from lcodec.limits import parse_size

T = TypeVar("T")

# How near is near enough to stop. A quality step is 0.2 to 0.3 % of the size and about 0.012 dB.
SIZE_TOLERANCE = 0.005
PSNR_TOLERANCE_DB = 0.03
PSNR_MAX_DB = 200.0  # stands for no error at all; one step of 16 bits in a gigapixel is 186
# What one step changes in the middle of a model's range: where to look before two points are known.
LOG_SIZE_STEP = 0.3 / 128
PSNR_STEP_DB = 1.5 / 128


@dataclass(frozen=True)
class Target:
    """kind "size": bytes of the file, not above. "bpp": its bits per pixel, not above. "psnr": dB over RGB of the
    image where it is not fully transparent, not below. Raises UsageError for a value that no file can have."""

    kind: str
    value: float

    def __post_init__(self) -> None:
        if self.kind not in ("size", "bpp", "psnr"):
            raise UsageError(f"unknown target {self.kind!r}", "known: size, bpp, psnr")
        if not (math.isfinite(self.value) and self.value > 0):
            raise UsageError(f"a target must be positive, not {self.value:g}")

    @property
    def is_rate(self) -> bool:
        return self.kind != "psnr"

    def describe(self, value: float) -> str:
        return {"size": f"{value:.0f} bytes", "bpp": f"{value:.4f} bpp", "psnr": f"{value:.3f} dB"}[self.kind]

    # As the search sees it: a level that rises with quality, and how far it may stay away.

    def level(self, value: float) -> float:
        return math.log(value) if self.is_rate else min(value, PSNR_MAX_DB)

    def accepts(self, value: float) -> bool:
        return value <= self.value if self.is_rate else value >= self.value

    def is_near(self, value: float) -> bool:
        if not self.accepts(value):
            return False
        return value >= self.value * (1 - SIZE_TOLERANCE) if self.is_rate else value <= self.value + PSNR_TOLERANCE_DB


@dataclass(frozen=True)
class Found(Generic[T]):
    """code: quality in steps of 1/128. trial: what `evaluate` gave for it. evaluations: how often that was called."""

    code: int
    trial: T
    evaluations: int


def make_target(bpp: float | None = None, size: int | str | None = None, psnr: float | None = None) -> Target | None:
    """The one that is given; None if none is. Raises UsageError for several, or for a size that is none."""
    given = [(kind, value) for kind, value in (("bpp", bpp), ("size", size), ("psnr", psnr)) if value is not None]
    if len(given) > 1:
        raise UsageError("one target is enough: " + " and ".join(f"target {kind}" for kind, _ in given))
    if not given:
        return None
    kind, value = given[0]
    return Target(kind, float(parse_size(value) if isinstance(value, str) else value))


def search(
    evaluate: Callable[[int], T],
    measure: Callable[[T], float],
    target: Target,
    low: int,
    high: int,
    start: int | None = None,
) -> Found[T]:
    """The quality code in low .. high that meets `target` best: the largest within a rate, the least with a PSNR.

    evaluate: codes the image at a quality code. measure: the target's quantity of the outcome, which should rise with
    the code. start: where to look first. Stops early within SIZE_TOLERANCE or PSNR_TOLERANCE_DB.

    Regula falsi on the logarithm of the size, or on PSNR, between a code that is below the target and one that is
    above; where it would creep along from one end (as on a curve) it is bent towards the middle (Illinois).

    Raises Unreachable, which names the nearest reachable value, if the target lies outside of what the range gives.
    """
    goal = target.level(target.value)
    goal += -SIZE_TOLERANCE / 2 if target.is_rate else PSNR_TOLERANCE_DB / 2  # the middle of what is near enough
    slope = LOG_SIZE_STEP if target.is_rate else PSNR_STEP_DB
    code = (low + high) // 2 if start is None else min(max(start, low), high)
    below: _Side | None = None
    above: _Side | None = None
    best: tuple[int, T] | None = None
    evaluations = 0
    while True:
        evaluations += 1
        trial = evaluate(code)
        value = measure(trial)
        accepted = target.accepts(value)
        if accepted:
            best = code, trial
        if target.is_near(value):
            break
        is_below = accepted == target.is_rate
        if code == (high if is_below else low):
            raise unreachable(target, value, code, evaluations)
        side, other = _Side(code, target.level(value) - goal), above if is_below else below
        if is_below:
            previous, below = below, side
        else:
            previous, above = above, side
        if previous:
            slope = max((side.error - previous.error) / (code - previous.code), slope / 4)
            if other:  # twice the same side: Illinois
                other.error /= 2
        if below and above:
            if above.code - below.code == 1:
                break
            rise = above.error - below.error
            part = -below.error / rise if rise > 0 else 0.5
            code = below.code + round(part * (above.code - below.code))
            code = min(max(code, below.code + 1), above.code - 1)
        else:
            step = round(-side.error / slope)
            code = min(max(code + (max(step, 1) if is_below else min(step, -1)), low), high)
    if best is None:  # both sides of a bracket are known when the search ends
        raise RuntimeError("a search ended without a file")
    return Found(best[0], best[1], evaluations)


@dataclass
class _Side:
    """One side of the bracket. error: level less the goal."""

    code: int
    error: float


class Unreachable(UsageError):
    """No quality of a range meets a target. code: the end that is nearest to it. evaluations: as in `Found`."""

    code = 0
    evaluations = 0


def unreachable(target: Target, value: float, code: int, evaluations: int) -> Unreachable:
    """What the end of the range gives instead of the target."""
    end = "most" if value < target.value else "least"
    error = Unreachable(
        f"{target.describe(target.value)} cannot be reached: the {end} that this image takes is "
        f"{target.describe(value)}, at quality {code / QUALITY_STEPS:g}",
        f"-q {code / QUALITY_STEPS:g} gives that",
    )
    error.code, error.evaluations = code, evaluations
    return error
