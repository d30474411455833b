"""Which codecs there are, by name: Pillow's formats, programs, our models, CompressAI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lcodec import weights
from lcodec.bench.coder import Coder
from lcodec.bench.compressai import COMPRESSAI, CompressaiCoder, compressai_coders
from lcodec.bench.formats import PILLOW
from lcodec.bench.learned import LcodecCoder
from lcodec.bench.programs import built_in, read_toml
from lcodec.bench.schema import CodecEntry
from lcodec.errors import InputError, ModelError, UsageError

ALIASES = {"jpeg": ("jpeg-444", "jpeg-420"), "jpegxl": ("jxl",), "jp2": ("jpeg2000",), "heic": ("x265",)}
DEFAULT_CODECS = "jpeg,webp,avif,jxl"
ALL, NONE = "all", "none"


def known_codecs() -> list[str]:
    return [*PILLOW, *(name for name in built_in() if name not in PILLOW), COMPRESSAI]


def find_codecs(names: Sequence[str], models: Sequence[Path], threads: int) -> list[Coder]:
    """The codecs that `names` stand for: names, aliases, "all", and paths of TOML files; each once.

    models: what --models stands for, of which CompressAI codes the checkpoints itself. A codec that cannot be used is
    in the list, with its reason. Raises UsageError for an unknown name or a TOML file that makes no sense.
    """
    coders: dict[str, Coder] = {}
    known = known_codecs()
    for item in names:
        if item == NONE:
            continue
        if item.endswith(".toml"):
            found: list[Coder] = list(read_toml(Path(item), threads))
        else:
            chosen = known if item == ALL else ALIASES.get(item, (item,))
            if not set(chosen) <= set(known):
                hint = f"known: {', '.join(known)}, {ALL}; a .toml file describes another"
                raise UsageError(f"no codec {item}", hint=hint)
            found = [coder for name in chosen for coder in _make(name, models, threads)]
        for coder in found:
            coders.setdefault(coder.name, coder)
    return list(coders.values())


def _make(name: str, models: Sequence[Path], threads: int) -> list[Coder]:
    """The codec of that name: one, or for CompressAI one a checkpoint."""
    if name == COMPRESSAI:
        return compressai_coders(models)
    return [PILLOW[name](threads) if name in PILLOW else built_in(threads)[name]]


def coder_of_entry(entry: CodecEntry, threads: int, device: str = "auto") -> Coder:
    """The codec that an earlier run measured, to decode what it left. Raises InputError, ModelError."""
    name, source = entry["name"], entry["source"]
    coder: Coder | None = None
    if entry["kind"] == "pillow" and name in PILLOW:
        coder = PILLOW[name](threads)
    elif entry["kind"] == "program":
        programs = read_toml(Path(source), threads) if source else built_in(threads).values()
        coder = next((c for c in programs if c.name == name), None)
    elif entry["kind"] == "compressai":
        coder = CompressaiCoder(name, entry["label"], ".bin", (1.0,), entry["detail"], source=source)
    elif entry["kind"] == "lcodec":
        path = _model_file(entry)
        coder = LcodecCoder(name, entry["label"], ".lic", (), device=device, threads=threads, source=str(path))
    if coder is None:
        raise InputError(f"codec {name} leaves no files that could be decoded")
    if coder.missing:
        raise InputError(f"codec {name} is missing: {coder.missing}")
    return coder


def _model_file(entry: CodecEntry) -> Path:
    """Where it was, unless another model has taken its place; else wherever its id is found."""
    path = Path(entry["source"])
    try:
        if weights.info(path).id == entry["model_id"]:
            return path
    except ModelError:
        pass
    return weights.find(str(entry["model_id"]))
