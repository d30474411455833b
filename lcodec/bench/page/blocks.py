"""JSON that may stand in a script element of a page."""

from __future__ import annotations

import json
import math
from typing import Any


def encode_block(value: Any) -> str:
    """ASCII; floats with 6 significant digits, null for what is not finite; nothing in it can end the element."""
    text = json.dumps(_rounded(value), separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
