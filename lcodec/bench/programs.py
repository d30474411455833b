"""Codecs that are programs: described in TOML (`programs.toml` has the built-in ones), run on real files."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from lcodec.bench.coder import DIGEST_DIGITS, Coder
from lcodec.bench.yuv import to_rgb, to_yuv
from lcodec.errors import LcodecError, UsageError

BUILT_IN = Path(__file__).with_name("programs.toml")
TIMEOUT_S = 3600
KEYS = {"label": str, "encode": str, "decode": str, "suffix": str, "qualities": list, "input": str, "detail": str}
REQUIRED = ("encode", "decode", "suffix", "qualities")
PLACEHOLDERS = ("input", "output", "quality", "width", "height", "threads", "program_dir")
EXTENSIONS = {"png": ".png", "ppm": ".ppm", "yuv444": ".yuv"}


class ProgramError(LcodecError):
    """The program of a codec failed, or left no usable output."""


@dataclass
class ProgramCoder(Coder):
    """Commands with placeholders, see programs.toml. input: "png", "ppm", "yuv444". Times include its start.

    threads: how many a command is told that asks for them.
    """

    encode_command: str = ""
    decode_command: str = ""
    input: str = "png"
    threads: int = 1

    def __post_init__(self) -> None:
        self.kind = "program"
        decides = json.dumps([self.encode_command, self.decode_command, self.suffix, self.input])
        self.digest = hashlib.sha256(decides.encode()).hexdigest()[:DIGEST_DIGITS]
        self.missing = next(filter(None, map(_missing, (self.encode_command, self.decode_command))), None)

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        height, width = pixels.shape[:2]
        values = {"quality": f"{quality:g}", "width": str(width), "height": str(height)}
        return self._run(self.encode_command, pack(pixels, self.input), EXTENSIONS[self.input], self.suffix, values)

    def decode(self, data: bytes, height: int, width: int) -> np.ndarray:
        values = {"width": str(width), "height": str(height)}
        out = self._run(self.decode_command, data, self.suffix, EXTENSIONS[self.input], values)
        return unpack(out, self.input, height, width)

    def _run(self, command: str, data: bytes, suffix: str, suffix_out: str, values: dict[str, str]) -> bytes:
        """What the command makes of a file with that content. Raises ProgramError."""
        with tempfile.TemporaryDirectory(prefix="lcodec-bench-") as folder:
            source, target = Path(folder) / f"in{suffix}", Path(folder) / f"out{suffix_out}"
            source.write_bytes(data)
            values = {"input": str(source), "output": str(target), "threads": str(self.threads), **values}
            words = fill(command, values)
            try:
                done = subprocess.run(
                    words, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ProgramError(f"{words[0]}: {getattr(error, 'strerror', None) or error}") from error
            if done.returncode:
                said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
                raise ProgramError(f"{words[0]} exits with {done.returncode}: {said[-1] if said else 'says nothing'}")
            try:
                return target.read_bytes()
            except OSError:
                raise ProgramError(f"{words[0]} wrote no {suffix_out} file") from None


def fill(command: str, values: dict[str, str]) -> list[str]:
    """The words of a command with its placeholders filled in, none of which is split again."""
    words = shlex.split(command)
    program = shutil.which(words[0])
    values = {"program_dir": str(Path(program).resolve().parent) if program else "", **values}
    for name, value in values.items():
        words = [word.replace(f"{{{name}}}", value) for word in words]
    return words


def _missing(command: str) -> str | None:
    """Why a command cannot be run here: its program, or a file beside it, is not there."""
    program = shlex.split(command)[0]
    if shutil.which(program) is None:
        return f"program {program} is not installed"
    for word, path in zip(shlex.split(command), fill(command, {}), strict=True):
        if "{program_dir}" in word and not Path(path).exists():
            return f"program {program} is there, but not {path}"
    return None


def pack(pixels: np.ndarray, form: str) -> bytes:
    """uint8 (H, W, 3) as a PNG or PPM file, or as planar YUV 4:4:4 samples."""
    if form == "yuv444":
        return to_yuv(pixels).transpose(2, 0, 1).tobytes()
    out = io.BytesIO()
    # Hardly compressed: what the program reads should not cost it time.
    PIL.Image.fromarray(pixels).save(out, form.upper(), **({"compress_level": 1} if form == "png" else {}))
    return out.getvalue()


def unpack(data: bytes, form: str, height: int, width: int) -> np.ndarray:
    """The reverse of `pack`. Raises ProgramError."""
    if form == "yuv444":
        if len(data) != 3 * height * width:
            raise ProgramError(f"{len(data)} bytes of samples are no 4:4:4 image of {width}x{height} pixels")
        return to_rgb(np.frombuffer(data, np.uint8).reshape(3, height, width).transpose(1, 2, 0))
    try:
        with PIL.Image.open(io.BytesIO(data), formats=[form.upper()]) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's readers raise nearly anything on damaged data
        raise ProgramError(f"the decoder's output is not a {form.upper()} image") from error


def built_in(threads: int = 1) -> dict[str, ProgramCoder]:
    """The codecs of programs.toml, by name."""
    return {coder.name: coder for coder in read_toml(BUILT_IN, threads)}


def read_toml(path: Path, threads: int = 1) -> list[ProgramCoder]:
    """The codecs that a TOML file describes. Raises UsageError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("codec")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    if not isinstance(entries, dict) or not entries or not all(isinstance(e, dict) for e in entries.values()):
        raise UsageError(f"{path} describes no codec", hint=f"see {BUILT_IN}")
    source = "" if path == BUILT_IN else str(path.resolve())
    return [_coder(path, name, entry, source, threads) for name, entry in entries.items()]


def _coder(path: Path, name: str, entry: dict[str, Any], source: str, threads: int) -> ProgramCoder:
    where = f"{path}, codec {name}"
    for key, value in entry.items():
        if not isinstance(value, KEYS.get(key, ())):
            raise UsageError(f"{where}: {key} is unknown or of another type", hint=f"known: {', '.join(KEYS)}")
    if lacking := [key for key in REQUIRED if not entry.get(key)]:
        raise UsageError(f"{where}: {lacking[0]} is missing")
    qualities = entry["qualities"]
    if not all(isinstance(q, int | float) and not isinstance(q, bool) for q in qualities):
        raise UsageError(f"{where}: qualities are numbers")
    if len(set(qualities)) != len(qualities):
        raise UsageError(f"{where}: a quality is there twice")
    form = entry.get("input", "png")
    if form not in EXTENSIONS:
        raise UsageError(f"{where}: input is one of {', '.join(EXTENSIONS)}")
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name[0] == ".":
        raise UsageError(f"{where}: a name has letters, digits, - and _ only")  # it becomes a folder
    for key in ("encode", "decode"):
        _check_command(f"{where}, {key}", entry[key])
    return ProgramCoder(
        name=name,
        label=entry.get("label", name),
        suffix="." + entry["suffix"].lstrip("."),
        qualities=tuple(float(q) for q in qualities),
        detail="; ".join(filter(None, [entry["encode"].split()[0], entry.get("detail", "")])),
        source=source,
        encode_command=entry["encode"],
        decode_command=entry["decode"],
        input=form,
        threads=threads,
    )


def _check_command(where: str, command: str) -> None:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    if not words:
        raise UsageError(f"{where}: the command is empty")
    for needed in ("{input}", "{output}"):
        if needed not in command:
            raise UsageError(f"{where}: the command has no {needed}")
