"""The networks: transforms, hyperprior and context as float modules. Knows no bytes and no files.

`config` does without torch; `Network` and `Output` bring it in when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import ARCHITECTURES, Architecture, NetConfig, default_latents

if TYPE_CHECKING:
    from .network import Network, Output

__all__ = ["ARCHITECTURES", "Architecture", "NetConfig", "Network", "Output", "default_latents"]


def __getattr__(name: str) -> Any:
    if name in ("Network", "Output"):
        from . import network

        return getattr(network, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
