"""Which files of an image are shown beside each other: those of about the same rate.

For each target the measured file of nearest bpp is taken. Where one of our own models has a file near the target, the
rate of that file becomes the target of this image, because models are measured at few qualities and other
codecs at many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lcodec.bench.schema import CodecEntry, Row

TARGETS_BPP = (0.25, 0.5, 1.0)
TOLERANCE = 1.5  # a file is "about" the target within this factor


class Match(NamedTuple):
    """The file of a codec that is nearest to a target; near: within TOLERANCE."""

    codec: str
    row: Row
    near: bool


class Target(NamedTuple):
    """nominal: the rate that the target stands for on the page; bpp: what files are matched to."""

    nominal: float
    bpp: float
    matches: list[Match]


def match_targets(rows: Sequence[Row], codecs: Sequence[CodecEntry]) -> list[Target]:
    """The files to be shown beside each other, for each of TARGETS_BPP that two codecs at least come near to.

    rows: those of one image. Codecs keep their order; one without any file of this image does not appear.
    """
    targets: list[Target] = []
    for nominal in TARGETS_BPP:
        bpp = nominal
        for codec in codecs:
            own = nearest(rows, codec["name"], nominal) if codec["kind"] == "lcodec" else None
            if own is not None and own.near and own.row["bpp"]:
                bpp = own.row["bpp"]
                break
        found = (nearest(rows, codec["name"], bpp) for codec in codecs)
        matches = [match for match in found if match is not None]
        repeats = any(target.bpp == bpp for target in targets)
        if sum(match.near for match in matches) >= 2 and not repeats:
            targets.append(Target(nominal, bpp, matches))
    return targets


def nearest(rows: Sequence[Row], codec: str, bpp: float) -> Match | None:
    """The row of the codec whose rate has the smallest ratio to `bpp`; None if there is no row with a rate."""
    own = [(abs(math.log(row["bpp"] / bpp)), row) for row in rows if row["codec"] == codec and row["bpp"]]
    if not own:
        return None
    distance, row = min(own, key=lambda pair: pair[0])
    return Match(codec, row, distance <= math.log(TOLERANCE))
