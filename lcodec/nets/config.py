"""What distinguishes the architectures, in one table.

An architecture is a transform family (how pixels become y and back) and an entropy family (how y is modelled).
Widths N and M and the qualities complete it to a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lcodec.errors import ModelError

# lambda of the loss at quality 1 to 8 (CompressAI's tables): lmbda * 255^2 * MSE + bpp, lmbda * (1 - MS-SSIM) + bpp.
LAMBDAS = {
    "mse": (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800),
    "ms-ssim": (2.40, 4.58, 8.73, 16.64, 31.73, 60.50, 115.37, 220.00),
}

DOWNSAMPLING_Y = 16  # image pixels per latent, each way


def table_lambda(quality: float, metric: str = "mse") -> float:
    """CompressAI's lambda at quality 1 to 8, geometrically between them."""
    table = LAMBDAS[metric]
    position = min(max(quality - 1.0, 0.0), 7.0)
    i = min(int(position), 6)
    t = position - i
    return math.exp((1 - t) * math.log(table[i]) + t * math.log(table[i + 1]))


@dataclass(frozen=True)
class Architecture:
    """One row of the architecture table.

    transform: "gdn" (Ballé 2017), "residual" or "attention" (Cheng 2020), "shuffle" (ours, see `transforms`).
    entropy: "factorized" (Ballé 2017), "hyperprior" (scales only, Ballé 2018), "mean-scale" or "context" (Minnen 2018).
    """

    name: str
    transform: str
    entropy: str
    source: str

    @property
    def has_hyperprior(self) -> bool:
        return self.entropy != "factorized"


ARCHITECTURES: Mapping[str, Architecture] = {
    a.name: a
    for a in (
        Architecture("bmshj2018-factorized", "gdn", "factorized", "Ballé et al. 2018, arXiv 1802.01436"),
        Architecture("bmshj2018-hyperprior", "gdn", "hyperprior", "Ballé et al. 2018, arXiv 1802.01436"),
        Architecture("mbt2018-mean", "gdn", "mean-scale", "Minnen et al. 2018, arXiv 1809.02736"),
        Architecture("mbt2018", "gdn", "context", "Minnen et al. 2018, arXiv 1809.02736"),
        Architecture("cheng2020-anchor", "residual", "context", "Cheng et al. 2020, arXiv 2001.01568"),
        Architecture("cheng2020-attn", "attention", "context", "Cheng et al. 2020, arXiv 2001.01568"),
        Architecture("lc-s", "shuffle", "context", "this project: small, decodes fast on a CPU"),
    )
}


@dataclass(frozen=True)
class NetConfig:
    """Architecture name, widths and qualities: all that is needed to build a `Network`.

    N: hidden channels (and channels of z); M: channels of y. For the Cheng networks M >= N, and M == N in the paper.
    qualities: the qualities that have a gain vector, ascending; a single 0.0 stands for a network of one rate.
    """

    architecture: str
    N: int
    M: int
    qualities: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ModelError(f"unknown architecture {self.architecture!r}", "known: " + ", ".join(ARCHITECTURES))
        if not (1 <= self.N <= 4096 and 1 <= self.M <= 4096):
            raise ModelError(f"widths N={self.N}, M={self.M} are out of range 1..4096")
        if self.arch.transform in ("residual", "attention") and self.N > self.M:
            raise ModelError(f"{self.architecture} needs M >= N, not N={self.N}, M={self.M}")
        q = self.qualities
        if not q or any(b <= a for a, b in zip(q, q[1:], strict=False)) or not all(0.0 <= v < 16.0 for v in q):
            raise ModelError(f"qualities {q} are not ascending within 0..16")

    @property
    def arch(self) -> Architecture:
        return ARCHITECTURES[self.architecture]

    @property
    def variable_rate(self) -> bool:
        return len(self.qualities) > 1

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "qualities": list(self.qualities)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetConfig:
        try:
            return cls(
                str(data["architecture"]),
                int(data["N"]),
                int(data["M"]),
                tuple(float(q) for q in data["qualities"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise ModelError(f"network description is damaged: {e}") from e


def default_latents(N: int, qualities: Sequence[float]) -> int:
    """M that does not cap the highest of the qualities, as in CompressAI: 192 channels of y up to q 5, 320 above.

    qualities: as in `NetConfig`; 0.0, a rate without a name, may be any. At least N, as the Cheng networks need it.
    """
    return max(N, 192 if 0 < max(qualities) <= 5 else 320)
