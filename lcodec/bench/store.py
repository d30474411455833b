"""The folder of a run: rows that are kept as they come, whatever happens next.

results.csv gets each row at once and is what a run goes on from; results.json holds everything and is written anew,
whole or not at all, every few seconds and at the end.
"""

from __future__ import annotations

import csv
import io
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lcodec.atomic import write_atomically
from lcodec.bench.schema import FORMAT, METRICS, Results, Row
from lcodec.cores import available_cores
from lcodec.errors import InputError, OutputError

JSON, CSV, STREAMS = "results.json", "results.csv", "streams"
FIELDS = tuple(Row.__annotations__)
TEXT_FIELDS = ("image", "codec", "error")
JSON_EVERY_S = 10.0
Key = tuple[str, str, float]  # image, codec, quality


def key_of(row: Row) -> Key:
    return row["image"], row["codec"], row["quality"]


def stream_path(out: Path, codec: str, quality: float, image: str, suffix: str) -> Path:
    """Where the compressed file of an image is kept."""
    return out / STREAMS / codec / f"q{quality:g}" / f"{image}{suffix}"


class Store:
    """Writes the folder of a run.

    results: what was there before, with the settings of this run put in; its rows are those to keep.
    Raises OutputError in every method, when the system refuses to write.
    """

    def __init__(self, out: Path, results: Results) -> None:
        self.out, self.results = out, results
        self._written = 0.0
        self._at = {key_of(row): i for i, row in enumerate(results["rows"])}
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(out, error) from error
        self.write_json()
        # What was broken off in the middle, or is measured again, leaves the file before rows are added to it.
        self.write_csv()

    def add(self, row: Row, data: bytes | None, suffix: str) -> None:
        """Keep a row, and the compressed file that it is about."""
        try:
            if data is not None:
                path = stream_path(self.out, row["codec"], row["quality"], row["image"], suffix)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, data, overwrite=True)
            with open(self.out / CSV, "ab") as file:
                file.write(_csv([row]))
        except OSError as error:
            raise _refused(self.out, error) from error
        rows, key = self.results["rows"], key_of(row)
        if key in self._at:
            rows[self._at[key]] = row
        else:
            self._at[key] = len(rows)
            rows.append(row)
        if time.monotonic() - self._written > JSON_EVERY_S:
            self.write_json()

    def write_json(self) -> None:
        text = json.dumps(self.results, indent=1, allow_nan=False)
        write_atomically(self.out / JSON, text.encode(), overwrite=True)
        self._written = time.monotonic()

    def write_csv(self) -> None:
        rows = [dict(zip(FIELDS, FIELDS, strict=True)), *self.results["rows"]]
        write_atomically(self.out / CSV, _csv(rows), overwrite=True)


def _refused(path: Path, error: OSError) -> OutputError:
    reason = (error.strerror or str(error)).lower()
    return OutputError(f"cannot write to {path}: {reason}", hint="the rows so far are kept: the same command goes on")


def _csv(rows: Any) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def load(path: Path) -> Results:
    """results.json, given as itself or as its folder. Raises InputError."""
    file = path / JSON if path.is_dir() else path
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged or no results of lcodec bench") from error
    if not isinstance(results, dict) or "rows" not in results or "codecs" not in results:
        raise InputError(f"{file} holds no results of lcodec bench")
    if results.get("format") != FORMAT:
        raise InputError(f"{file} has format {results.get('format')!r}, known is {FORMAT}")
    if missing := sorted(Results.__required_keys__ - results.keys()):
        raise InputError(f"{file} lacks {', '.join(missing)}")
    found: Results = results  # type: ignore[assignment]
    return found


def load_rows(out: Path) -> list[Row]:
    """The rows of results.csv, without one that was broken off, the last of each key. Raises InputError."""
    try:
        data = (out / CSV).read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read {out / CSV}: {(error.strerror or str(error)).lower()}") from error
    whole = data[: data.rfind(b"\n") + 1].decode("utf-8", "surrogateescape")
    rows: dict[Key, Row] = {}
    for record in csv.DictReader(io.StringIO(whole, newline="")):
        try:
            row = _row(record)
        except (TypeError, ValueError, KeyError):
            continue  # damaged: it is measured again
        rows[key_of(row)] = row
    return list(rows.values())


def _row(record: dict[str, str]) -> Row:
    row: dict[str, Any] = {}
    for name in FIELDS:
        text = record[name]
        row[name] = text if name in TEXT_FIELDS else float(text) if text else None
    row["error"] = row["error"] or None
    row["bytes"] = None if row["bytes"] is None else int(row["bytes"])
    if row["quality"] is None or not row["codec"]:
        raise ValueError("no key")
    found: Row = row  # type: ignore[assignment]
    return found


def empty_row(image: str, codec: str, quality: float) -> Row:
    values: dict[str, Any] = dict.fromkeys(FIELDS)
    row: Row = values | {"image": image, "codec": codec, "quality": quality}  # type: ignore[assignment]
    return row


def lacking_metrics(row: Row, metrics: list[str]) -> list[str]:
    """Those without a number in a row that did not fail."""
    values: dict[str, Any] = dict(row)
    return [] if row["error"] else [name for name in metrics if name in METRICS and values[name] is None]


def decoded(out: Path, codec: str, quality: float, image: str) -> np.ndarray:
    """The picture that a codec of a run made of an image, decoded again from its kept file: uint8 (H, W, 3).

    Raises InputError if there is no such row or no file, and whatever the codec raises.
    """
    file = out / JSON
    try:
        changed = file.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from error
    coder, sizes = _coder(out, changed, codec)
    if image not in sizes:
        raise InputError(f"no image {image} in {file}")
    path = stream_path(out, codec, quality, image, coder.suffix)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    pixels: np.ndarray = coder.decode(data, *sizes[image])
    return pixels


@lru_cache(maxsize=32)
def _coder(out: Path, _changed_ns: int, name: str) -> tuple[Any, dict[str, tuple[int, int]]]:
    from lcodec.bench.registry import coder_of_entry

    results = load(out)
    entry = next((e for e in results["codecs"] if e["name"] == name), None)
    if entry is None:
        raise InputError(f"no codec {name} in {out / JSON}")
    sizes = {image["name"]: (image["height"], image["width"]) for image in results["images"]}
    threads = int(results["machine"].get("threads", 0)) or available_cores()
    return coder_of_entry(entry, threads), sizes
