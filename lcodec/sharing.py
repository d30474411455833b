"""Model files that leave out what another one has, as networks that were trained from the same transforms do.

Such a file names the model that it shares tensors with, its *base*, by id, and the tensors. The base has all of its
tensors itself. The id of a model is over all its tensors, wherever they are: it is the same for a whole file and for
one that shares, and finds a base that is not what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

ID_DIGITS = 64


@dataclass(frozen=True)
class Base:
    """Hex id of the base, its name when the file was made (for people), and the names of the shared tensors."""

    id: str
    name: str
    tensors: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "tensors": list(self.tensors)}

    @classmethod
    def from_json(cls, data: object) -> Base:
        """Raises TypeError or ValueError for what `to_json` does not make."""
        if not isinstance(data, dict) or not isinstance(data.get("id"), str) or not isinstance(data.get("name"), str):
            raise TypeError("base")
        tensors = data.get("tensors")
        if not isinstance(tensors, list) or not all(isinstance(name, str) for name in tensors):
            raise TypeError("tensors of the base")
        if len(data["id"]) != ID_DIGITS or len(set(tensors)) < len(tensors):
            raise ValueError("base")
        bytes.fromhex(data["id"])
        return cls(data["id"], data["name"], tuple(tensors))


def equal_tensors(tensors: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> list[str]:
    """Names, sorted, of tensors that are bit for bit the same in both."""
    return sorted(
        name
        for name, tensor in tensors.items()
        if name in others
        and (tensor.dtype, tensor.shape) == (others[name].dtype, others[name].shape)
        and tensor.tobytes() == others[name].tobytes()
    )
