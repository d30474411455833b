"""Model files that leave out what another one has, as networks that were trained from the same transforms do.

Such a file names the model that it shares tensors with, its *base*, by id, and the tensors, which may have other names
there: attention blocks shift what follows. The base has all of its tensors itself. The id of a model is over all its
tensors, wherever they are: it is the same for a whole file and for one that shares, and finds a base that is not what
it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

ID_DIGITS = 64


@dataclass(frozen=True)
class Base:
    """Hex id of the base, its name when the file was made (for people), and the shared tensors, name -> name there."""

    id: str
    name: str
    tensors: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "tensors": dict(self.tensors)}

    @classmethod
    def from_json(cls, data: object) -> Base:
        """Raises TypeError or ValueError for what `to_json` does not make."""
        if not isinstance(data, dict) or not isinstance(data.get("id"), str) or not isinstance(data.get("name"), str):
            raise TypeError("base")
        tensors = data.get("tensors")
        if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors.values()):
            raise TypeError("tensors of the base")
        if len(data["id"]) != ID_DIGITS:
            raise ValueError("id of the base")
        bytes.fromhex(data["id"])
        return cls(data["id"], data["name"], tensors)


def equal_tensors(tensors: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Tensors that are bit for bit the same in both, name -> name in `others`; the same if it can be."""

    def content(tensor: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
        return tensor.dtype.str, tensor.shape, hashlib.sha256(tensor.tobytes()).digest()

    there = {name: content(tensor) for name, tensor in others.items()}
    by_content = {key: name for name, key in sorted(there.items(), reverse=True)}
    found = {}
    for name, tensor in sorted(tensors.items()):
        key = content(tensor)
        if there.get(name) == key:
            found[name] = name
        elif key in by_content:
            found[name] = by_content[key]
    return found
