"""How much is done at each effort. Without torch, for those who only ask whether there is such an effort."""

from __future__ import annotations

from dataclasses import dataclass

from lcodec.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """Numbers of steps. Each is one synthesis, forth and back, about three times as long as one synthesis."""

    slide: int
    sga: int
    anneal: int


PLANS = {
    0: Plan(0, 0, 0),
    1: Plan(3, 0, 2),
    2: Plan(4, 0, 4),
    3: Plan(6, 0, 8),
    4: Plan(8, 0, 16),
    5: Plan(10, 0, 24),
    6: Plan(10, 0, 36),
    7: Plan(10, 0, 60),
    8: Plan(10, 0, 100),
    9: Plan(10, 0, 160),
}
# With a context every integer moves the means of those after it, which spoils both of the others.
CONTEXT_PLANS = {effort: Plan(0, sga, 0) for effort, sga in enumerate((0, 12, 18, 25, 36, 50, 70, 100, 140, 200))}


def plan_of(effort: int, context: bool = False) -> Plan:
    """Raises UsageError for an effort that there is not."""
    if effort not in PLANS:
        raise UsageError(f"effort {effort} is not within 0 to {max(PLANS)}")
    return (CONTEXT_PLANS if context else PLANS)[effort]
