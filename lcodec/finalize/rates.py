"""What the integer form of a network would cost, before there is a model file: for validation during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lcodec.entropy.intmodel import IntegerEntropyModel
from lcodec.nets import Network

from .assemble import finalize_network
from .report import Rate, measure


def integer_rates(network: Network, images: Sequence[np.ndarray], qualities: Sequence[float]) -> list[Rate]:
    """Real and estimated bits of the images at each quality, after finalizing the network on these images.

    network: on the CPU, is put into eval mode. images: uint8 (H, W, 3), few and small, for the real coder works on
    them. Raises ModelError if the network cannot be made of safe integers.
    """
    done = finalize_network(network, {}, images)
    model = done.model
    entropy = IntegerEntropyModel(model.integers(), model.entropy)
    return measure(network, entropy, model.table_qualities, images, qualities, done.spread, psnr=False)
