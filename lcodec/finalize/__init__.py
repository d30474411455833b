"""From a training or CompressAI checkpoint to a model file: tables and integer networks, made once and for all."""

from .assemble import Finalized, calibration_images, finalize
from .cache import finalize_cached
from .rates import integer_rates

__all__ = ["Finalized", "calibration_images", "finalize", "finalize_cached", "integer_rates"]
