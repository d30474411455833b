"""The networks: transforms, hyperprior and context as float modules. Knows no bytes and no files."""

from .config import ARCHITECTURES, Architecture, NetConfig
from .network import Network, Output

__all__ = ["ARCHITECTURES", "Architecture", "NetConfig", "Network", "Output"]
