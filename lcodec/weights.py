"""Model files: one safetensors file of float weights, integer networks, tables and a JSON description.

    tensors    g_a.* g_s.* h_a.* log_gain log_inverse_gain    float16 or float32
               int.* tables.* scale_thresholds                integers, what decoding of latents depends on
    metadata   "lcodec": JSON {"model": {"format", "config", "entropy"}, "id", "card", "packed", "base"}

The id is the hex SHA-256 over "model" and all tensors; streams carry its first 8 bytes. The card holds whatever is
worth knowing (training, rates) and is not part of the id. Tensors that "packed" names are rows of bytes that
`lcodec.packing` makes, and it has what they are of, [kind, dtype, shape]. A file with a "base" leaves out what
that model has, see `lcodec.sharing`. The id is the same in each form.

Reading needs numpy and safetensors only. Nothing in a model file is executed.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import stat
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lcodec.atomic import write_atomically
from lcodec.errors import ModelError, OutputError
from lcodec.sharing import Base

# `info` and `find` read headers, for which numpy is not needed: importing it takes longer than they do.
if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
SUFFIX = ".safetensors"
DEFAULT_MODEL = "lc-s"
ID_BYTES = 8  # of the content hash, in a stream
MAX_HEADER_BYTES = 1 << 20
ENVIRONMENT = "LCODEC_MODELS"
# What torch.save writes begins so: a zip archive, before torch 1.6 a pickle. Read as the length with which a model file
# begins, both are beyond MAX_HEADER_BYTES.
CHECKPOINT_MAGICS = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")


@dataclass(frozen=True)
class ModelFile:
    """A finalized model in memory.

    config: JSON form of `NetConfig`. entropy: what `IntegerEntropyModel` needs beside the tensors.
    card: informative, does not change the id.
    """

    config: Mapping[str, Any]
    entropy: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    card: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @cached_property
    def id(self) -> str:
        """Hex SHA-256 of everything that decides what the model does."""
        import numpy as np

        h = hashlib.sha256(self.description.encode())
        for key in sorted(self.tensors):
            t = np.ascontiguousarray(self.tensors[key])
            dtype = t.dtype.newbyteorder("<")  # in the name, too, for machines of the other order
            h.update(f"\n{key} {dtype.str} {list(t.shape)}\n".encode())
            h.update(t.astype(dtype, copy=False).data if t.size else b"")
        return h.hexdigest()

    @property
    def description(self) -> str:
        model = {"format": FORMAT, "config": self.config, "entropy": self.entropy}
        return json.dumps(model, sort_keys=True, separators=(",", ":"))

    @property
    def stream_id(self) -> bytes:
        return bytes.fromhex(self.id)[:ID_BYTES]

    @property
    def qualities(self) -> tuple[float, ...]:
        """Those with a gain vector, ascending. Raises ModelError."""
        return _qualities(self.config, "qualities")

    @property
    def table_qualities(self) -> tuple[float, ...]:
        """Those with a set of factorized tables, ascending. Raises ModelError."""
        return _qualities(self.entropy, "table_qualities")

    @property
    def metric(self) -> str:
        """What its distortion was in training, "mse" or "ms-ssim"."""
        return metric_of(self.card)

    def floats(self) -> dict[str, np.ndarray]:
        """The float tensors as float32: weights of the transforms and the gains."""
        return {k: v.astype("f4") for k, v in self.tensors.items() if v.dtype.kind == "f"}

    def integers(self) -> dict[str, np.ndarray]:
        """The tensors that decoding of latents depends on, tables as `IntegerEntropyModel` takes them."""
        from lcodec.entropy.tables import unpack_cdfs

        found = {k: v for k, v in self.tensors.items() if v.dtype.kind in "iu"}
        for key in [k for k in found if k.startswith("tables.") and k.endswith(".cdfs")]:
            sizes = found.get(key.removesuffix("cdfs") + "sizes")
            if sizes is None:
                raise ModelError(f"model {self.name} is damaged: {key} has no sizes")
            found[key] = unpack_cdfs(found[key], sizes)
        return found


@dataclass(frozen=True)
class ModelInfo:
    """What `lcodec models` lists, out of a file's metadata alone."""

    name: str
    path: Path
    id: str
    architecture: str
    qualities: tuple[float, ...]
    size_bytes: int
    summary: str
    card: Mapping[str, Any] = field(default_factory=dict)
    base: Base | None = None


def metric_of(card: Mapping[str, Any]) -> str:
    """What a model was trained for, as its card says: our own models' options, or what is said of the zoo's; or mse."""
    options = card.get("options")
    metric = options.get("metric") if isinstance(options, Mapping) else card.get("metric")
    return str(metric or "mse")


def pack(model: ModelFile, *, compress: Sequence[str] = (), base: ModelFile | None = None) -> bytes:
    """The bytes of a model file.

    compress: patterns (fnmatch) of the names of tensors to pack by `lcodec.packing`, which loses nothing and takes
    longer to load. base: a model, in a whole file of its own, whose tensors are left out where they are the same.
    Raises ModelError if there are none, or if a pattern matches nothing.
    """
    import numpy as np
    from safetensors.numpy import save as pack_tensors

    from lcodec import packing
    from lcodec.sharing import equal_tensors

    metadata = {"model": json.loads(model.description), "id": model.id, "card": model.card}
    tensors = {k: np.ascontiguousarray(v) for k, v in model.tensors.items()}
    for pattern in compress:
        if not fnmatch.filter(tensors, pattern):
            raise ModelError(f"{model.name or 'the model'} has no tensor {pattern!r}")
    if base is not None:
        shared = equal_tensors(tensors, base.tensors)
        if not shared or base.id == model.id:
            raise ModelError(f"{model.name or 'the model'} has nothing to share with {base.name}")
        metadata["base"] = Base(base.id, base.name, shared).to_json()
        tensors = {k: v for k, v in tensors.items() if k not in shared}
    if compress:
        chosen = {k for pattern in compress for k in fnmatch.filter(tensors, pattern)}
        packed = {k: packing.pack(tensors[k]) for k in sorted(chosen)}
        metadata["packed"] = {k: [kind, tensors[k].dtype.str, tensors[k].shape] for k, (kind, _) in packed.items()}
        tensors |= {k: np.frombuffer(data, np.uint8) for k, (_, data) in packed.items()}
    # A single entry: safetensors writes several in any order, and the same model should be the same file.
    return pack_tensors(tensors, {"lcodec": json.dumps(metadata, sort_keys=True, separators=(",", ":"))})


def save(model: ModelFile, path: Path, *, compress: Sequence[str] = (), base: ModelFile | None = None) -> None:
    """Write a model file, whole or not at all; see `pack`. Raises OutputError."""
    write_atomically(path, pack(model, compress=compress, base=base), overwrite=True)


def load(path: Path) -> ModelFile:
    """Read a model file and check its id; ModelError if it is damaged or not one, or its base is not there."""
    read = _read_header(path)
    sizes = _sizes(path, read)
    _check_total(path, sum(sizes.values()))
    tensors = _tensors(path, read)
    if read.base is not None:
        shared = _shared(path, read.base, sum(sizes.values()))
        if not shared.keys().isdisjoint(tensors):
            raise ModelError(f"model {path} is damaged: it has tensors that it says it shares")
        tensors |= shared
    name = path.name.removesuffix(SUFFIX)
    model = ModelFile(read.description["config"], read.description["entropy"], tensors, read.card, name)
    if model.id != read.id:
        base = f", or not with the {printable_name(read.base)} that is there" if read.base is not None else ""
        raise ModelError(f"model {path} is damaged: its content does not match its id{base}", "copy the file again")
    return model


def _sizes(path: Path, read: _Header) -> dict[str, int]:
    """Bytes that each tensor of a file takes in memory. Raises ModelError."""
    from lcodec import packing

    try:
        return {name: end - start for name, (start, end) in read.places.items()} | packing.sizes(read.packed)
    except (TypeError, ValueError, OverflowError, ModelError) as e:
        raise ModelError(f"model {path} is damaged: {e}") from e


def _check_total(path: Path, size: int) -> None:
    from lcodec import packing

    if size > packing.MAX_BYTES:
        raise ModelError(f"model {path} is damaged: {size} bytes of tensors are more than any model needs")


def _tensors(path: Path, read: _Header, wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Those that a file itself has, of the names that are wanted."""
    tensors: dict[str, np.ndarray] = {}
    packed = read.packed
    try:
        from safetensors import safe_open

        from lcodec import packing

        with safe_open(path, framework="numpy") as f:
            if not packed.keys() <= set(f.keys()):
                raise ModelError("it describes tensors that it does not have")
            for key in f.keys():  # noqa: SIM118 - not a mapping
                if wanted is not None and key not in wanted:
                    continue
                tensors[key] = f.get_tensor(key)
                if key in packed:
                    kind, dtype, shape = packed[key]
                    tensors[key] = packing.unpack(kind, tensors[key].tobytes(), dtype, shape)
    except MemoryError:
        raise
    except Exception as e:  # safetensors raises its own errors and TypeError for dtypes unknown to numpy
        if isinstance(e, OSError) and e.errno == errno.ENOMEM:
            raise MemoryError from e
        raise ModelError(f"model {path} is damaged: {e}") from e
    return tensors


def _shared(path: Path, base: Base, own_bytes: int) -> dict[str, np.ndarray]:
    """What the file at `path` has from its base, which is looked for beside it first, then where models are.

    own_bytes: of the tensors that it has itself.
    """
    place = base_path(path, base)
    if place is None:
        raise ModelError(
            f"model {path} shares tensors with {printable_name(base)}, which is not there",
            f"put that model into the same folder, or let {path.name} stand alone where both are: lcodec models export",
        )
    read = _read_header(place)
    sizes = _sizes(place, read)
    # Names for one tensor count each: all become tensors of their own somewhere.
    _check_total(path, own_bytes + sum(sizes.get(other, 0) for other in base.tensors.values()))
    wanted = frozenset(base.tensors.values())
    there = _tensors(place, read, wanted)
    if len(there) < len(wanted):
        raise ModelError(f"model {path} is damaged: {place} does not have all that they should share")
    return {name: there[other] for name, other in base.tensors.items()}


def base_path(path: Path, base: Base) -> Path | None:
    """The file that one at `path` has tensors from, None if it is not there."""
    found = [m.path for m in readable_models(path.parent) if m.id == base.id and m.base is None]
    same = list({os.path.realpath(place): place for place in reversed(found)}.values())[::-1]
    # Reading a whole file to see that it is one takes a while: only where there is a choice.
    return next(filter(is_whole, same), same[0]) if len(same) > 1 else next(iter(same), None)


def load_base(wanted: str | os.PathLike[str]) -> ModelFile:
    """A model that others may share tensors with: `find` and `load`, ModelError if it does not have all of its own."""
    path = find(wanted)
    model, base = load(path), info(path).base
    if base is not None:
        raise ModelError(f"{path} shares tensors itself", f"with {printable_name(base)}: share with that one")
    return model


def printable_name(base: Base) -> str:
    """Name and short id, the name only if it looks like one."""
    short = base.id[: 2 * ID_BYTES]
    return f"{base.name} ({short})" if base.name.isprintable() and 0 < len(base.name) <= 100 else short


def info(path: Path) -> ModelInfo:
    """Name, id and summary of a model file, without reading its tensors. Raises ModelError."""
    try:
        there = os.stat(path)
    except OSError as e:
        raise ModelError(f"cannot read model {path}: {(e.strerror or str(e)).lower()}") from e
    if not stat.S_ISREG(there.st_mode):
        raise ModelError(f"{path} is not a file")  # a pipe would not end
    return _info(path, (there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns))


@lru_cache(maxsize=1024)  # every call of `lcodec.decode` looks for its model
def _info(path: Path, _identity: tuple[int, ...]) -> ModelInfo:
    read = _read_header(path)
    config, card = read.description["config"], read.card
    try:
        return ModelInfo(
            path.name.removesuffix(SUFFIX),
            path,
            read.id,
            str(config["architecture"]),
            _qualities(config, "qualities"),
            _identity[2],
            str(card.get("summary", "")),
            card,
            read.base,
        )
    except (KeyError, ModelError) as e:
        raise ModelError(f"model {path} has a damaged description") from e


def _qualities(description: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = description.get(key)
    if not isinstance(values, list) or not all(isinstance(v, int | float) and 0 <= v < 16 for v in values):
        raise ModelError(f"the model's {key} are no list of numbers within 0..16")
    if not values or any(b <= a for a, b in zip(values, values[1:], strict=False)):
        raise ModelError(f"the model's {key} are not ascending")
    return tuple(float(v) for v in values)


class _Header(NamedTuple):
    """Of a model file, parsed: see the head of this module."""

    description: dict[str, Any]
    id: str
    card: dict[str, Any]
    packed: dict[str, Any]
    base: Base | None
    places: dict[str, tuple[int, int]]  # of the tensors that it has, in bytes


def _read_header(path: Path) -> _Header:
    """Out of the header of a safetensors file: 8 bytes length, JSON."""
    try:
        with open(path, "rb") as f:
            size = int.from_bytes(f.read(8), "little")
            if not 2 <= size <= MAX_HEADER_BYTES:
                raise _not_a_model(path)
            header = _parsed(f.read(size))
            metadata = header.pop("__metadata__", {})
    except FileNotFoundError as e:
        raise ModelError(f"no model file {path}") from e
    except OSError as e:
        raise ModelError(f"cannot read model {path}: {e.strerror or e}") from e
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise _not_a_model(path) from e
    try:
        parsed = _parsed(metadata["lcodec"])
        description, card, stored_id = parsed["model"], parsed["card"], str(parsed["id"])
        packed = parsed.get("packed", {})
        bytes.fromhex(stored_id)
        known = description["format"] == FORMAT
        if not (isinstance(description["config"], dict) and isinstance(description["entropy"], dict)):
            raise TypeError("description is not a JSON object")
        if not isinstance(card, dict) or len(stored_id) != 64:
            raise TypeError("card or id")
        if not isinstance(packed, dict):
            raise TypeError("packed")
        base = Base.from_json(parsed["base"]) if "base" in parsed else None
        places = {name: _pair(tensor["data_offsets"]) for name, tensor in header.items()}
    except (KeyError, TypeError, ValueError, RecursionError) as e:
        raise _not_a_model(path) from e
    if not known:
        raise ModelError(f"{path} has model format {description['format']!r}, known is {FORMAT}", "try a newer lcodec")
    return _Header(description, stored_id, card, packed, base, places)


def _pair(offsets: object) -> tuple[int, int]:
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise ValueError("offsets")
    return offsets[0], offsets[1]


def _parsed(text: str | bytes) -> Any:
    """JSON in which no key stands twice: readers differ in which of the two they take. Raises ValueError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    return json.loads(text, object_pairs_hook=unique)


def is_checkpoint(path: Path) -> bool:
    """Whether a file begins like what torch.save writes, so that it would have to be finalized first."""
    try:
        with open(path, "rb") as f:
            return f.read(4) in CHECKPOINT_MAGICS
    except OSError:
        return False


def _not_a_model(path: Path) -> ModelError:
    if is_checkpoint(path):
        return ModelError(f"{path} is a checkpoint, not a model file", "lcodec finalize makes a model of it")
    return ModelError(
        f"{path} is not a model file of lcodec",
        f"it takes a {SUFFIX} file of lcodec finalize, a checkpoint of lcodec train or one of CompressAI",
    )


def changed_ns(path: Path) -> int:
    """When a model file was last written, in nanoseconds. Raises ModelError."""
    try:
        return path.stat().st_mtime_ns
    except OSError as e:
        raise ModelError(f"cannot read {path}: {(e.strerror or str(e)).lower()}") from e


def is_whole(path: Path) -> bool:
    """Whether there is a model that is not damaged."""
    try:
        there = path.stat()
        return _loads(path, (there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns))
    except (OSError, ModelError):
        return False


@lru_cache(maxsize=64)  # every call of `lcodec.decode` looks for its model, of `encode` perhaps with a checkpoint
def _loads(path: Path, _identity: tuple[int, ...]) -> bool:
    load(path)
    return True


# ---- where models are


def cache_folder() -> Path:
    """Where models that lcodec made or fetched itself are kept. Raises OutputError where nobody has a home."""
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as e:
        raise OutputError("there is no home folder for the cache", "set XDG_CACHE_HOME") from e
    return base / "lcodec" / "models"


def shipped_folder() -> Path:
    """The models that came with the package: beside it in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def search_path() -> list[Path]:
    """Folders that are searched for models, first match wins: $LCODEC_MODELS, shipped, cache."""
    extra = [Path(p) for p in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if p]
    found = [*extra, shipped_folder()]
    with contextlib.suppress(OutputError):
        found.append(cache_folder())
    return found


def model_files(first: Path | None = None) -> list[Path]:
    """Every file of the search path that could be a model by its name, readable or not; those in `first` first."""
    found: list[Path] = []
    for folder in search_path() if first is None else [first, *search_path()]:
        with contextlib.suppress(OSError):  # one that may not be looked into is as one that is not there
            found += sorted(folder / name for name in os.listdir(folder) if name.endswith(SUFFIX))
    return found


def list_models() -> list[ModelInfo]:
    """Every readable model of the search path, the first of each name."""
    found: dict[str, ModelInfo] = {}
    for model in readable_models():
        found.setdefault(model.name, model)
    return list(found.values())


def readable_models(first: Path | None = None) -> Iterator[ModelInfo]:
    """Every readable file of the search path, those in `first` first."""
    for path in model_files(first):
        try:
            yield info(path)
        except ModelError:
            continue


def find(wanted: str | os.PathLike[str]) -> Path:
    """The file of a model, given its path, its name, or the hex of its id (16 digits or more, as in streams).

    Of several with an id the first that is not damaged. Raises ModelError.
    """
    text = os.fspath(wanted)
    if os.sep in text or text.endswith(SUFFIX):
        if os.path.isfile(text):
            return Path(text)
        raise ModelError(f"no model file {text}")
    # All of them: an id must be found even where another model of the same name comes first.
    models = list(readable_models())
    is_id = len(text) >= 2 * ID_BYTES and set(text.lower()) <= set("0123456789abcdef")
    same = [model.path for model in models if is_id and model.id.startswith(text.lower())]
    named = [model.path for model in models if model.name == text]
    if len(same) > 1:
        return next(filter(is_whole, same), same[0])
    if same or named:
        return (same or named)[0]
    if os.path.isfile(text):
        return Path(text)
    places = ", ".join(str(p) for p in search_path())
    names = dict.fromkeys(model.name for model in models)
    raise ModelError(
        f"no model with id {text}" if is_id else f"no model {text}",
        f"looked in {places}; known: {', '.join(names) or 'none'}; ${ENVIRONMENT} adds folders, see lcodec models",
    )
