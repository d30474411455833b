"""Models of any width with random weights, to be timed: what is computed does not depend on what was learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lcodec import weights
from lcodec.finalize.assemble import finalize_network
from lcodec.nets import NetConfig, Network

SPREADS = (0.05, 10.0)  # of the channels of y, in steps of the quantizer: about what a photograph at q 5 has
CROP_PX = 256


def random_model(name: str, N: int, M: int, pixels: np.ndarray, folder: Path) -> tuple[Path, Network]:
    """A model file of that architecture in `folder`, and its float network.

    y spreads as in a trained model, and scales are what y spreads by, so that a file is about as long as a real one.
    pixels: uint8 (H, W, 3), of at least CROP_PX each way.
    """
    torch.manual_seed(0)
    network = Network(NetConfig(name, N, M)).eval()
    crop = np.ascontiguousarray(pixels[:CROP_PX, :CROP_PX])
    spreads = torch.from_numpy(np.geomspace(*SPREADS, M)).float()
    with torch.no_grad():
        y = network.g_a(torch.from_numpy(crop).permute(2, 0, 1)[None] / 255)
        network.log_gain[0] = torch.log(spreads / y.std((0, 2, 3)))
        network.log_inverse_gain[0] = -network.log_gain[0]
        last = network.entropy_parameters[-1] if network.config.arch.entropy == "context" else network.h_s[-1]
        last.bias[:M] = spreads  # type: ignore[operator]
    path = folder / f"{name}-{N}{weights.SUFFIX}"
    weights.save(finalize_network(network, {}, [crop]).model, path)
    return path, network
