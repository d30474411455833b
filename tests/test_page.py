"""What is written into the report of a benchmark run; tests/test_page_browser.py looks at it with a browser."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lcodec.bench import page
from lcodec.bench.page import write_page
from lcodec.bench.page.matching import TOLERANCE, match_targets, nearest
from lcodec.bench.page.pictures import browser_readable, psnr
from lcodec.bench.page.places import CROP_SIDE, choose_places
from lcodec.errors import InputError
from tests.report_run import FIRST, NASTY, SECOND, UNPICTURED, Run, empty_row


class Blocks(HTMLParser):
    """A page taken apart: start tags with their attributes; what stands in style and script elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        self.styles = [text for tag, _, text in self.texts if tag == "style"]
        scripts = [(attributes, text) for tag, attributes, text in self.texts if tag == "script"]
        self.json = {a["id"]: json.loads(text) for a, text in scripts if a.get("type") == "application/json"}
        self.scripts = [text for attributes, text in scripts if not attributes]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("style", "script"):
            self.texts.append((tag, dict(attrs), ""))

    def handle_data(self, data):
        if self.cdata_elem:
            tag, attributes, text = self.texts.pop()
            self.texts.append((tag, attributes, text + data))


@pytest.fixture(scope="module")
def run(photo) -> Run:
    return Run(photo)


def write(run: Run, out: Path, results: dict | None = None, **options) -> str:
    out.mkdir(exist_ok=True)
    (out / "results.json").write_text(json.dumps(results or run.results))
    return write_page(out, source=run, **options).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(run, tmp_path_factory) -> str:
    return write(run, tmp_path_factory.mktemp("run"), images=2)


@pytest.fixture(scope="module")
def blocks(text) -> Blocks:
    return Blocks(text)


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


# ---- one file, nothing from outside, nothing from inside that is not ours


def test_page_refers_to_nothing_outside_of_it(blocks):
    references = [a[key] for _, a in blocks.tags for key in ("src", "href", "action", "data") if a.get(key)]
    assert references
    assert all(reference.startswith(("#", "data:")) for reference in references)
    assert "url(" not in blocks.styles[0] and "@import" not in blocks.styles[0]
    assert "sourceMappingURL" not in "".join(blocks.scripts)


def test_policy_allows_exactly_the_scripts_and_the_style_of_the_page(blocks):
    policy = next(a["content"] for _, a in blocks.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    digests = [
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in blocks.styles + blocks.scripts
    ]
    assert len(digests) == 3
    assert re.findall(r"'sha256-([^']+)'", policy) == digests
    assert "unsafe" not in policy and "http" not in policy


def test_names_of_files_and_codecs_never_become_markup(text, blocks):
    assert NASTY not in text and "<img" not in text
    assert sum(tag == "script" for tag, _ in blocks.tags) == 2 + 1 + 3  # library and ours, results, pictures
    results = blocks.json["results"]
    assert results["images"][0]["name"] == FIRST
    assert results["codecs"][0]["label"] == f"JPEG {NASTY}"
    assert results["rows"][-1]["error"] == f"broke {NASTY}"


def test_licence_of_the_library_is_in_the_page(text):
    assert "Permission is hereby granted, free of charge" in text
    assert "Chart.js Contributors" in text and "Jukka Kurkela" in text


def test_numbers_that_are_none_become_null(run, tmp_path):
    results = json.loads(json.dumps(run.results))
    results["rows"][0] |= {"psnr": math.inf, "ssimulacra2": math.nan}
    results["bd"][0]["bd_rate"] = -math.inf
    page_results = Blocks(write(run, tmp_path, results, images=0)).json["results"]
    assert page_results["rows"][0]["psnr"] is page_results["rows"][0]["ssimulacra2"] is None
    assert page_results["bd"][0]["bd_rate"] is None


def test_an_older_page_is_replaced(run, tmp_path):
    (tmp_path / "report.html").write_text("old")
    assert "old" != write(run, tmp_path, images=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.json"]


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"format": 99}', '{"format": 1, "rows": [], "codecs": []}'])
def test_what_is_no_result_is_an_input_error(content, tmp_path):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_everything_that_a_page_needs_is_package_data():
    folder = Path(page.__file__).parent
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    patterns = re.findall(r'"([^"]+)"', re.search(r'^"lcodec.bench.page" = \[(.*)\]', text, re.M)[1])
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = [name for name in files if not name.endswith((".py", ".pyc"))]
    assert len(files) > 10
    assert [name for name in files if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


# ---- pictures


def test_crops_are_lossless_and_of_the_same_place(run, blocks):
    pictures = blocks.json["pictures-0"]
    assert [place["kind"] for place in pictures["crops"]] == ["structure", "texture"]
    compared = 0
    for number, place in enumerate(pictures["crops"]):
        window = np.s_[place["y"] : place["y"] + place["height"], place["x"] : place["x"] + place["width"]]
        assert np.array_equal(pixels_of(place["uri"]), run.images[FIRST][window])
        for target in pictures["targets"]:
            for entry in target["entries"]:
                if entry["note"] is None:
                    decoded = run.decoded(entry["codec"], entry["quality"], FIRST)[window]
                    uri = entry["crops"][number]["uri"]
                    assert (uri is None) == entry["whole"]["exact"]  # the page cuts it out of the whole picture
                    shown = pixels_of(uri) if uri else pixels_of(entry["whole"]["uri"])[window]
                    assert np.array_equal(shown, decoded)
                    measured = psnr(run.images[FIRST][window], decoded)
                    assert entry["crops"][number]["psnr"] == pytest.approx(measured, rel=1e-5)
                    compared += 1
    assert compared > 10


def test_whole_pictures_are_the_files_themselves_where_browsers_read_them(run, blocks):
    kinds = set()
    for target in blocks.json["pictures-0"]["targets"]:
        for entry in target["entries"]:
            if entry["note"] is None:
                uri = entry["whole"]["uri"]
                kinds.add((entry["codec"], uri.split(";")[0]))
                if entry["codec"] != "ours":
                    stream = run.stream(entry["codec"], entry["quality"], FIRST)
                    assert base64.b64decode(uri.split(",")[1]) == stream
                else:
                    decoded = run.decoded("ours", entry["quality"], FIRST)
                    # without AVIF it is WebP, whose colours have half the resolution
                    assert psnr(pixels_of(uri), decoded) > (36 if uri.startswith("data:image/avif") else 33)
    assert ("jpeg", "data:image/jpeg") in kinds and ("webp", "data:image/webp") in kinds
    assert {"data:image/avif", "data:image/webp"} & {kind for codec, kind in kinds if codec == "ours"}
    assert browser_readable(b"\x00\x00\x00\x0cJXL \r\n\x87\n") is None


def test_large_images_are_scaled_down_but_not_their_crops(photo, tmp_path):
    run = Run(photo)
    large = np.tile(photo[:300, :400], (2, 2, 1))
    run.images = {FIRST: large}
    run.results = run._results()
    pictures = Blocks(write(run, tmp_path)).json["pictures-0"]
    assert (pictures["width"], pictures["height"]) == (768, 576)
    assert pixels_of(pictures["whole"]["uri"]).shape == (576, 768, 3)
    entry = next(e for e in pictures["targets"][0]["entries"] if e["codec"] == "jpeg")
    assert pixels_of(entry["whole"]["uri"]).shape == (576, 768, 3)
    assert pixels_of(entry["crops"][0]["uri"]).shape == (CROP_SIDE, CROP_SIDE, 3)


def test_only_as_many_images_as_asked_for_get_pictures(blocks):
    assert blocks.json["results"]["thumbnails"][2] is None
    assert all(blocks.json["results"]["thumbnails"][:2])
    assert list(blocks.json["pictures-2"]) == ["note"]
    assert len(blocks.json["results"]["images"]) == 3


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_page_keeps_to_the_size_that_it_may_have(run, tmp_path, share, text):
    least = len(write(run, tmp_path, images=0).encode())
    limit = int(least + share * (len(text.encode()) - least))
    smaller = write(run, tmp_path, images=2, max_bytes=limit)
    assert least < len(smaller.encode()) <= limit
    pictures = Blocks(smaller).json["pictures-0"]
    crops = [bool(place["uri"]) for place in pictures["crops"]]
    wholes = [any(e["whole"]["uri"] for e in target["entries"]) for target in pictures["targets"]]
    kept = [e for target in pictures["targets"] for e in target["entries"] if e["note"] is None]
    assert all(e["crops"][0]["uri"] or (e["whole"]["exact"] and e["whole"]["uri"]) for e in kept) == crops[0]
    assert crops == sorted(crops, reverse=True) and wholes == sorted(wholes, reverse=True)
    assert not all(crops + wholes)


def test_a_picture_that_cannot_be_had_is_a_note_beside_its_codec(photo, tmp_path):
    run = Run(photo)
    for key in [key for key in run.streams if key[0] == "webp"]:
        del run.streams[key]
    pictures = Blocks(write(run, tmp_path)).json["pictures-0"]
    for target in pictures["targets"]:
        notes = {entry["codec"]: entry["note"] for entry in target["entries"]}
        assert notes["webp"] == f"no picture: no stream {NASTY}"
        assert None in notes.values()


def test_an_original_that_is_gone_or_changed_leaves_the_other_images_alone(photo, tmp_path):
    run = Run(photo)
    run.images[SECOND] = photo[:64, :64]
    page_blocks = Blocks(write(run, tmp_path))
    assert "no longer" in page_blocks.json["pictures-1"]["note"]
    assert page_blocks.json["pictures-0"]["note"] is None and page_blocks.json["pictures-2"]["note"] is None
    assert page_blocks.json["results"]["thumbnails"][1] is None


def test_page_of_a_run_takes_pictures_from_its_folder(photo, tmp_path):
    pytest.importorskip("scipy", reason="extra 'bench' is not installed")
    from lcodec.bench.registry import find_codecs
    from lcodec.bench.run import Settings, run

    images, out = tmp_path / "images", tmp_path / "out"
    (images / "deeper").mkdir(parents=True)
    names = ["a.png", "deeper/a.png", "z[1].png"]
    for number, name in enumerate(names):
        PIL.Image.fromarray(photo[50 * number : 50 * number + 144, 200:360]).save(images / name)
    coders = find_codecs(["jpeg-444", "webp"], [], 1)
    run(Settings(images, out, coders, ["psnr"], "jpeg-444", 1, "cpu", speed=False, pictures=1))
    first = Blocks((out / "report.html").read_text()).json
    assert first["pictures-0"]["note"] is None and "pictures of 1 images" in first["pictures-1"]["note"]
    # Now something happens to two of three.
    PIL.Image.fromarray(photo[:144, :160]).save(images / names[1])
    for path in (out / "streams" / "webp").rglob("z*"):
        path.unlink()
    page_blocks = Blocks(write_page(out).read_text()).json
    for name, number in (("a.png", 0), ("z[1].png", 2)):
        pictures = page_blocks[f"pictures-{number}"]
        original = np.asarray(PIL.Image.open(images / name))
        place = pictures["crops"][0]
        window = np.s_[place["y"] : place["y"] + place["height"], place["x"] : place["x"] + place["width"]]
        assert np.array_equal(pixels_of(place["uri"]), original[window])
        entry = next(e for e in pictures["targets"][0]["entries"] if e["codec"] == "jpeg-444")
        stream = (out / "streams" / "jpeg-444" / f"q{entry['quality']:g}" / f"{name}.jpg").read_bytes()
        assert base64.b64decode(entry["whole"]["uri"].split(",")[1]) == stream
        assert entry["whole"]["exact"] and entry["crops"][0]["uri"] is None
    assert "is no longer the image" in page_blocks["pictures-1"]["note"]
    notes = [e["note"] for t in page_blocks["pictures-2"]["targets"] for e in t["entries"] if e["codec"] == "webp"]
    assert notes and all(note.startswith("no picture: cannot read") for note in notes)


# ---- files of about the same rate


def rows_at(codec: str, *rates: float | None) -> list[dict]:
    return [{**empty_row(codec, float(i), "a"), "bpp": bpp} for i, bpp in enumerate(rates)]


def entry(name: str, kind: str) -> dict:
    return {"name": name, "kind": kind}


def test_files_are_matched_to_the_file_of_our_model_near_the_target():
    rows = rows_at("ours", 0.2, 0.3, 0.62) + rows_at("jpeg", 0.2, 0.25, 0.29, 0.5, 0.6, 1.0)
    targets = match_targets(rows, [entry("jpeg", "pillow"), entry("ours", "lcodec")])
    assert [(t.nominal, t.bpp) for t in targets] == [(0.25, 0.3), (0.5, 0.62)]
    assert [[m.row["bpp"] for m in t.matches] for t in targets] == [[0.29, 0.3], [0.6, 0.62]]


def test_files_are_matched_to_the_target_itself_where_no_model_is_near():
    rows = rows_at("ours", 0.02) + rows_at("jpeg", 0.3, 0.9) + rows_at("webp", 0.26, 1.1)
    codecs = [entry("ours", "lcodec"), entry("jpeg", "pillow"), entry("webp", "pillow")]
    targets = match_targets(rows, codecs)
    assert [t.bpp for t in targets] == [0.25, 1.0]
    assert [m.near for m in targets[0].matches] == [False, True, True]


def test_a_target_that_only_one_codec_comes_near_to_is_left_out():
    rows = rows_at("jpeg", 0.5) + rows_at("webp", 3.0) + rows_at("broken", None)
    assert match_targets(rows, [entry(n, "pillow") for n in ("jpeg", "webp", "broken")]) == []


def test_nearest_rate_is_that_of_the_smallest_ratio():
    rows = rows_at("jpeg", 0.5, 1.9, None, 4.0)
    assert nearest(rows, "jpeg", 1.0).row["bpp"] == 1.9
    assert nearest(rows, "jpeg", 4.0 * TOLERANCE * 0.999).near
    assert not nearest(rows, "jpeg", 4.0 * TOLERANCE * 1.001).near
    assert nearest(rows, "webp", 1.0) is None


# ---- places


def test_structure_is_found_in_edges_and_texture_in_noise():
    rng = np.random.default_rng(1)
    pixels = np.full((600, 800, 3), 128, np.uint8)
    pixels[100:200, 80:180] = np.where(np.arange(100) // 10 % 2, 40, 220)[:, None, None]
    pixels[380:520, 560:700] = rng.integers(90, 170, (140, 140, 1))
    structure, texture = choose_places(pixels)
    assert structure.kind == "structure" and texture.kind == "texture"
    assert abs(structure.x + CROP_SIDE / 2 - 130) < 40 and abs(structure.y + CROP_SIDE / 2 - 150) < 40
    assert abs(texture.x + CROP_SIDE / 2 - 630) < 40 and abs(texture.y + CROP_SIDE / 2 - 450) < 40
    assert texture.cut(pixels).std() > 10


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (128, 128), (130, 255), (257, 129), (300, 300)])
def test_places_lie_inside_of_any_image_and_do_not_overlap(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    places = choose_places(pixels)
    assert len(places) == (2 if max(shape) >= 2 * CROP_SIDE else 1)
    seen = np.zeros(shape, int)
    for place in places:
        assert place.cut(pixels).shape == (place.height, place.width, 3)
        assert (place.height, place.width) == (min(CROP_SIDE, shape[0]), min(CROP_SIDE, shape[1]))
        place.cut(seen)[...] += 1
    assert seen.max() == 1


def test_images_smaller_than_a_crop_have_pages_too(blocks, text, run, tmp_path):
    pictures = Blocks(write(run, tmp_path)).json["pictures-2"]
    assert run.images[UNPICTURED].shape[1] < CROP_SIDE
    assert len(pictures["crops"]) == 1 and pictures["crops"][0]["width"] == 100
