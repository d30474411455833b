"""A run: every codec at every quality on every image, row by row, from where an earlier run stopped.

While anything is timed nothing else runs. With `jobs` > 1 the classical codecs run beside each other after ours, and
their rows have no times.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lcodec import __version__
from lcodec.bench import metrics, store
from lcodec.bench.coder import Coder
from lcodec.bench.entropy import processor
from lcodec.bench.schema import FORMAT, CodecEntry, Curve, ImageEntry, Results, Row, Skipped
from lcodec.bench.store import Store
from lcodec.errors import InputError, LcodecError, OutputError, UsageError
from lcodec.image import INPUT_SUFFIXES, read_image

# What may not change between a run and its continuation: rows would not be comparable.
SAME_MACHINE = ("cpu", "threads", "device")


@dataclass
class Settings:
    """What to measure. published: curves that are only drawn and compared.

    pictures: of how many images the report page has pictures. every: only each so-manieth image of the folder.
    report: whether there are plots and a page at the end.
    """

    folder: Path
    out: Path
    coders: Sequence[Coder]
    metrics: Sequence[str]
    anchor: str
    threads: int
    device: str
    jobs: int = 1
    speed: bool = True
    pictures: int = 24
    every: int = 1
    report: bool = True
    published: Sequence[tuple[CodecEntry, Curve]] = ()
    command: str = ""


@dataclass
class Listener:
    """Who wants to know. step: (rows done, rows in all, the row or None); note and warn: a line of text."""

    note: Callable[[str], None] = lambda text: None
    warn: Callable[[str], None] = lambda text: None
    step: Callable[[int, int, Row | None], None] = lambda done, total, row: None


@dataclass
class Task:
    """A row to be made. old, kept: the row to which only metrics are added, and its compressed file."""

    path: Path
    coder: Coder
    quality: float
    image: ImageEntry
    old: Row | None
    kept: Path


def run(settings: Settings, listener: Listener | None = None) -> Results:
    """Measure, and leave everything in the folder `settings.out`; a run that was broken off goes on.

    Raises InputError if there is no readable image, UsageError if `out` holds a run of other images or of another
    machine, OutputError if it cannot be written; what was measured until then is kept.
    """
    listener = listener or Listener()
    images, skipped = find_images(settings.folder, settings.out)
    images = images[:: settings.every]
    for entry in skipped:
        listener.warn(f"{entry['error']}; skipped")
    results, old_rows = begin(settings, images, skipped, listener.warn)
    computed = [name for name in results["metrics"] if not metrics.missing(name)]  # an earlier run may have had more
    tasks = plan(settings, images, old_rows, computed)
    results["rows"] = old_rows
    for coder in settings.coders:
        if coder.missing:
            listener.warn(f"{coder.label} is missing: {coder.missing}")
    if old_rows:
        listener.note(f"going on in {settings.out}: {len(old_rows)} rows are there, {len(tasks)} are to be made")
    keeper = Store(settings.out, results)
    try:
        measure(tasks, computed, settings, keeper, listener)
        finish(settings, keeper, listener)
    finally:
        results["date"] = now()
        keeper.write_json()
    return results


def find_images(folder: Path, out: Path) -> tuple[list[ImageEntry], list[Skipped]]:
    """The images below a folder, sorted by name, and those that cannot be read. Raises InputError if there are none.

    out: what a run leaves, which is none of its images where it lies below the folder.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    found = [p for p in folder.rglob("*") if p.suffix.lower() in INPUT_SUFFIXES and not p.name.startswith(".")]
    root, own = folder.resolve(), out.resolve()
    if own != root and own.is_relative_to(root):
        found = [p for p in found if not p.relative_to(folder).is_relative_to(own.relative_to(root))]
    paths = sorted(p for p in found if p.is_file())
    images: list[ImageEntry] = []
    skipped: list[Skipped] = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            height, width = read_rgb(path).shape[:2]
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except (InputError, OSError) as error:
            skipped.append({"name": name, "error": str(error)})
            continue
        images.append({"name": name, "width": width, "height": height, "sha256": digest})
    if skipped and not images:
        raise InputError(f"none of the {len(skipped)} images in {folder} can be read: {skipped[0]['error']}")
    if not images:
        endings = " ".join(sorted(INPUT_SUFFIXES))
        raise InputError(f"no images in {folder}", hint=f"looked for names that end in {endings}")
    return images, skipped


@lru_cache(maxsize=4)
def read_rgb(path: Path) -> np.ndarray:
    """uint8 (H, W, 3): gray three times, 16 bits rounded, alpha left out. Raises InputError."""
    return read_image(path).rgb8()


# ---- what is to be done


def begin(
    settings: Settings, images: list[ImageEntry], skipped: list[Skipped], warn: Callable[[str], None]
) -> tuple[Results, list[Row]]:
    """The results to go on with, and the rows that still hold. Raises UsageError, OutputError.

    warn: told if those rows were made by other versions than run here.
    """
    out, machine = settings.out, describe_machine(settings.threads, settings.device)
    entries = [coder.entry() for coder in settings.coders] + [entry for entry, _ in settings.published]
    results: Results = {
        "format": FORMAT,
        "lcodec": __version__,
        "command": settings.command,
        "date": now(),
        "folder": str(settings.folder),
        "complete": False,
        "machine": machine,
        "anchor": settings.anchor,
        "metrics": list(settings.metrics),
        "images": images,
        "skipped": skipped,
        "codecs": entries,
        "rows": [],
        "curves": [],
        "bd": [],
        "speed": [],
    }
    if not (out / store.JSON).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(f"{out} exists and holds no results of lcodec bench", hint="choose another with -o")
        return results, []
    old = store.load(out)
    _check_same(out, old, results)
    results["metrics"] = [m for m in metrics.DIGITS if m in {*old["metrics"], *settings.metrics}]
    # Codecs that are not asked for this time, or not to be had here, stay; those that have changed do not.
    had = {entry["name"]: entry for entry in old["codecs"]}
    gone = {coder.name for coder in settings.coders if coder.missing} & had.keys()
    results["codecs"] = entries = [had[entry["name"]] if entry["name"] in gone else entry for entry in entries]
    asked = {entry["name"]: entry for entry in entries}
    same = {e["name"] for e in old["codecs"] if _is_same(e, asked.get(e["name"], e))}
    results["codecs"] += [e for e in old["codecs"] if e["name"] not in asked and e["kind"] != "published"]
    results["speed"] = [s for s in old["speed"] if s["codec"] in same]
    names = {image["name"] for image in images}
    rows = [r for r in store.load_rows(out) if r["codec"] in same and r["image"] in names and not r["error"]]
    for what, there, here in (
        ("lcodec", old["lcodec"], __version__),
        ("torch", old["machine"].get("torch"), machine["torch"]),
    ):
        if rows and there not in (None, here):
            warn(f"rows that are kept were made with {what} {there}, here it is {here}; -o FOLDER measures all anew")
    return results, rows


def _check_same(out: Path, old: Results, new: Results) -> None:
    hint = "choose another folder with -o"
    if [(i["name"], i["sha256"]) for i in old["images"]] != [(i["name"], i["sha256"]) for i in new["images"]]:
        raise UsageError(f"{out} holds a run of other images, of {old['folder']}", hint=hint)
    for key in SAME_MACHINE:
        if old["machine"].get(key) != new["machine"].get(key):
            there, here = old["machine"].get(key), new["machine"].get(key)
            raise UsageError(f"{out} holds a run with {key} {there}, here it is {here}", hint=hint)


def _is_same(old: CodecEntry, new: CodecEntry) -> bool:
    """Whether the rows of an earlier run hold. Results of before have no digest: what they tell is compared."""
    return _identity(old) == _identity(new) and old.get("digest") in (None, new.get("digest"))


def _identity(entry: CodecEntry) -> tuple[Any, ...]:
    # The same model in a smaller file, which its detail tells, is the same codec.
    detail = entry["detail"] if entry["model_id"] is None else None
    return entry["name"], entry["kind"], entry["model_id"], detail


def plan(settings: Settings, images: list[ImageEntry], rows: list[Row], wanted: list[str]) -> list[Task]:
    """What is not there yet, image by image."""
    have = {store.key_of(row): row for row in rows}
    tasks = []
    for image in images:
        for coder in settings.coders:
            for quality in () if coder.missing else coder.qualities:
                row = have.get((image["name"], coder.name, quality))
                defined = [name for name in wanted if metrics.is_defined(name, image["height"], image["width"])]
                if row is not None and not store.lacking_metrics(row, defined):
                    continue
                kept = store.stream_path(settings.out, coder.name, quality, image["name"], coder.suffix)
                if row is not None and not kept.is_file():
                    row = None
                tasks.append(Task(settings.folder / image["name"], coder, quality, image, row, kept))
    return tasks


def describe_machine(threads: int, device: str) -> dict[str, str | int | float]:
    import PIL
    import torch

    from lcodec.cores import available_cores
    from lcodec.transforms import choose_device

    chosen = choose_device(device)
    return {
        "cpu": processor(),
        "cores": available_cores(),
        "threads": threads,
        "device": torch.cuda.get_device_name(chosen) if chosen.startswith("cuda") else chosen,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


# ---- doing it


def measure(
    tasks: list[Task], wanted: list[str], settings: Settings, keeper: Store, listener: Listener
) -> None:
    """Make the rows of all tasks. First those that are timed, alone; then the others beside each other."""
    import torch

    torch.set_num_threads(settings.threads)
    beside = [t for t in tasks if settings.jobs > 1 and t.coder.parallel]
    alone = [t for t in tasks if not (settings.jobs > 1 and t.coder.parallel)]
    done = 0
    listener.step(0, len(tasks), None)

    def keep(task: Task, row: Row, data: bytes | None) -> None:
        nonlocal done
        keeper.add(row, data, task.coder.suffix)
        done += 1
        listener.step(done, len(tasks), row)

    warm: set[str] = set()
    for task in alone:
        if task.coder.name not in warm and task.old is None:
            warm.add(task.coder.name)
            warm_up(task)
        keep(task, *work(task, wanted, timed=True))
    for task, row, data in _side_by_side(beside, wanted, settings.jobs):
        keep(task, row, data)


def _side_by_side(
    tasks: list[Task], wanted: list[str], jobs: int
) -> Iterator[tuple[Task, Row, bytes | None]]:
    # Threads, not processes: the codecs' libraries, the programs and the metrics let others run meanwhile.
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(work, task, wanted, timed=False): task for task in tasks}
        try:
            for future in as_completed(futures):
                row, data = future.result()
                yield futures.pop(future), row, data
        finally:
            for future in futures:
                future.cancel()


def warm_up(task: Task) -> None:
    """Once around, untimed: loading a model, choosing kernels and finding plugins is no part of an image's time."""
    if task.coder.kind == "program":
        return
    try:
        task.coder.warm_up(read_rgb(task.path), task.quality)
    except Exception:  # the row that follows will say it
        return


def work(task: Task, wanted: list[str], *, timed: bool) -> tuple[Row, bytes | None]:
    """A row and the compressed file (None where it is kept already). What goes wrong is in the row."""
    coder = task.coder
    row = store.empty_row(task.image["name"], coder.name, task.quality)
    values: dict[str, Any] = {}
    data: bytes | None = None
    try:
        pixels = read_rgb(task.path)
        height, width = pixels.shape[:2]
        if task.old is not None:
            values |= task.old
            picture = coder.decode(task.kept.read_bytes(), height, width)
            wanted = store.lacking_metrics(task.old, wanted)
        else:
            start = time.perf_counter()
            data = coder.encode(pixels, task.quality)
            encoded = time.perf_counter()
            picture = coder.decode(data, height, width)
            decoded = time.perf_counter()
            values |= {"bytes": len(data), "bpp": round(8 * len(data) / (height * width), 6)}
            if timed:
                values |= {"encode_s": round(encoded - start, 5), "decode_s": round(decoded - encoded, 5)}
        values |= metrics.measure(pixels, picture, wanted)
    except Exception as error:  # a codec may fail in any way, and the others go on
        row["error"] = describe_error(error)
        return row, None
    row.update(values)  # type: ignore[typeddict-item]
    return row, data


def describe_error(error: Exception) -> str:
    text = str(error) if isinstance(error, LcodecError | ValueError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()) or type(error).__name__


# ---- what comes of it


def finish(settings: Settings, keeper: Store, listener: Listener) -> None:
    """Curves, BD-rates, speed, in the folder's files; plots and the page where their libraries are there."""
    from lcodec.bench import speed, summary

    results = keeper.results
    order = {entry["name"]: i for i, entry in enumerate(results["codecs"])}
    results["rows"].sort(key=lambda r: (order[r["codec"]], r["quality"], r["image"]))
    keeper.write_csv()
    results["curves"] = summary.curves(results) + [curve for _, curve in settings.published]
    results["bd"] = summary.bd_entries(results, notice=listener.note)
    if settings.speed:
        measured = {s["codec"] for s in results["speed"]}
        for coder in settings.coders:
            points = next((c["points"] for c in results["curves"] if c["codec"] == coder.name), [])
            if points and coder.name not in measured and not coder.missing:
                listener.note(f"timing {coder.label}")
                image = settings.folder / results["images"][0]["name"]
                quality = speed.choose_quality(points)
                try:
                    pixels = read_rgb(image)
                    where = settings.threads, settings.device
                    entry = speed.measure(coder, quality, image, pixels, *where, listener.warn)
                except Exception as error:  # of the codec
                    listener.warn(f"{coder.label} could not be timed: {describe_error(error)}")
                    continue
                results["speed"].append(entry)
                keeper.write_json()
    results["complete"] = True
    keeper.write_json()
    if settings.report:
        draw(keeper, listener, settings.pictures)


def draw(keeper: Store, listener: Listener, pictures: int) -> None:
    """The plots and the page. What cannot be drawn costs no numbers: it is said and left out. Raises OutputError."""
    from lcodec.bench.page import write_page
    from lcodec.bench.plot import plot

    try:
        plot(keeper.results, keeper.out)
    except ImportError as error:
        listener.warn(f"no plot, for there is no matplotlib ({error}); pip install matplotlib brings it")
    listener.note("writing the report page")
    write_page(keeper.out, images=pictures)
