"""The pretrained checkpoints of the CompressAI zoo: where they lie and what they hash to.

File names are as the zoo spells them; the eight digits are the beginning of the file's SHA-256. Its three variable-rate
checkpoints (QVRF) are another kind of network and not among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lcodec.errors import UsageError

BASE_URL = "https://compressai.s3.amazonaws.com/models/v1"
METRICS = ("mse", "ms-ssim")
LICENCE = "BSD-3-Clause-Clear (CompressAI)"

# architecture, metric, beginning of the file name, then a hash for each quality from 1
_FILES = """
bmshj2018-factorized mse     bmshj2018-factorized-prior   446d5c7f 87279a02 5c6f152b 1ed4405a 866ba797 9b02ea3a 6dfd6734 5232faa3
bmshj2018-factorized ms-ssim bmshj2018-factorized-ms-ssim 9781d705 4a584386 5352f123 4f91b847 b3a88897 ee028763 8c265a29 8811bd14
bmshj2018-hyperprior mse     bmshj2018-hyperprior         7eb97409 93677231 6d87be32 de1b779c f8b614e1 1ab9c41e 3804dcbd a583f0cf
bmshj2018-hyperprior ms-ssim bmshj2018-hyperprior-ms-ssim 5cf249be 1ff60d1f 92dd7878 4377354e c34afc8d 3a6d8229 8747d3bc cc15b5f3
mbt2018-mean         mse     mbt2018-mean                 e522738d e54a039d 723404a8 6dba02a3 d504e8eb a19628ab d5d441d1 8089ae3e
mbt2018-mean         ms-ssim mbt2018-mean-ms-ssim         5bf9c0b6 e2a1bf3f 640ce819 12626c13 1be7f059 b83bf379 ddf9644c 0cc7b94f
mbt2018              mse     mbt2018                      3f36cd77 43b70cdd 22901978 456e2af9 b4a046dd 7052e5ea 8ba2bf82 dd0097aa
mbt2018              ms-ssim mbt2018-ms-ssim              2878436b c41cb208 d0dd64e8 a120e037 9b30e3b7 f8b3626f 16e6ff50 0cb49d43
cheng2020-anchor     mse     cheng2020-anchor             dad2ebff a29008eb e49be189 98b0b468 23852949 4c052b1a
cheng2020-anchor     ms-ssim cheng2020_anchor-ms-ssim     20f521db c7ff5812 c23e22d5 0e658304 c0a95e77 f2dc1913
cheng2020-attn       mse     cheng2020_attn-mse           465f2b64 e0805385 2d07bbdf f7b0ccf2 26c8920e 730501f2
cheng2020-attn       ms-ssim cheng2020_attn-ms-ssim       c5381d91 5dad201d 5c9be841 8b2f647e 5ca1f34c 216423ec
"""  # noqa: E501


@dataclass(frozen=True)
class ZooFile:
    """One checkpoint. quality: 1 to 8, 1 to 6 for cheng2020. metric: what it was trained for, "mse" or "ms-ssim"."""

    architecture: str
    quality: int
    metric: str
    file: str
    sha256_prefix: str

    @property
    def name(self) -> str:
        """Of the model that `pull` makes, e.g. mbt2018-mean-q4-mse."""
        return f"{self.architecture}-q{self.quality}-{self.metric}"


def _parse() -> Iterator[ZooFile]:
    for line in _FILES.strip().splitlines():
        architecture, metric, stem, *hashes = line.split()
        for quality, prefix in enumerate(hashes, 1):
            yield ZooFile(architecture, quality, metric, f"{stem}-{quality}-{prefix}.pth.tar", prefix)


CATALOG: tuple[ZooFile, ...] = tuple(_parse())


def select(name: str, qualities: Sequence[int] | None, metric: str | None) -> list[ZooFile]:
    """The checkpoints that a name stands for.

    name: of a model (mbt2018-mean-q4-mse), or of an architecture together with `qualities` (None: all of them) and
    `metric` (None: mse). Raises UsageError for what the zoo does not have.
    """
    exact = [f for f in CATALOG if f.name == name]
    if exact:
        if qualities is not None or metric is not None:
            raise UsageError(f"{name} has its quality and metric in its name", "leave -q and --metric out")
        return exact
    found = [f for f in CATALOG if f.architecture == name and f.metric == (metric or METRICS[0])]
    if not found:
        known = ", ".join(dict.fromkeys(f.architecture for f in CATALOG))
        raise UsageError(f"the CompressAI zoo has no {name}", f"it has {known}; pull --list names every model")
    missing = sorted(set(qualities or ()) - {f.quality for f in found})
    if missing:
        last = found[-1].quality
        raise UsageError(f"the zoo has {name} at qualities 1 to {last}, not {', '.join(map(str, missing))}")
    return [f for f in found if qualities is None or f.quality in qualities]


def parse_qualities(text: str) -> list[int] | None:
    """ "4", "1,4", "1-4" or "all" (None). Raises UsageError."""
    if text == "all":
        return None
    wanted: set[int] = set()
    for part in text.split(","):
        m = re.fullmatch(r"\s*(\d)(?:-(\d))?\s*", part)
        if m is None or int(m[2] or m[1]) < int(m[1]):
            raise UsageError(f"qualities {text!r} are not like 4, 1,4, 1-4 or all")
        wanted.update(range(int(m[1]), int(m[2] or m[1]) + 1))
    return sorted(wanted)
