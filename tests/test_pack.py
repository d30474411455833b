"""Packs: the same pixels as the folder they were made of, in one file; damaged ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner, Result

from lcodec import cli
from lcodec.errors import InputError, OutputError, UsageError
from lcodec.finalize import calibration_images
from lcodec.image.pack import Pack, image_sources, packed_image, write_pack
from lcodec.train.data import Photographs
from tests.test_cli_errors import assert_refused


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments], prog_name="lcodec")


@pytest.fixture
def folder(tmp_path, photo):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    PIL.Image.fromarray(photo[:90, :120]).save(folder / "a.png")
    PIL.Image.fromarray(photo[100:160, :70]).save(folder / "sub" / "b.jpg", quality=80)
    PIL.Image.fromarray(photo[200:250, 30:90]).save(folder / "c.webp", lossless=True)
    return folder


@pytest.fixture
def packed(folder, tmp_path):
    path = tmp_path / "photos.pack"
    write_pack(path, ((s.name, *packed_image(s)) for s in image_sources(folder)))
    return path


def test_pack_holds_the_pixels_of_the_folder(folder, packed):
    ours, theirs = Photographs(packed), Photographs(folder)
    assert [s.name for s in ours.sources] == [s.name for s in theirs.sources] == ["a.png", "c.webp", "sub/b.jpg"]
    assert ours.shapes == theirs.shapes
    for i in range(3):
        assert np.array_equal(ours[i], theirs[i])
    a, b = (d.crops(np.random.default_rng(3), 6, 64) for d in (ours, theirs))
    assert bool((a == b).all())


def test_jpeg_and_webp_files_are_kept_as_they_are(folder, packed):
    pack = Pack(packed)
    files = {e.name: pack.file(i) for i, e in enumerate(pack.entries)}
    assert files["sub/b.jpg"] == (folder / "sub" / "b.jpg").read_bytes()
    assert files["c.webp"] == (folder / "c.webp").read_bytes()
    assert files["a.png"].startswith(b"RIFF")
    assert [(e.height, e.width) for e in pack.entries] == [(90, 120), (50, 60), (60, 70)]


def test_images_are_scaled_down_and_cut(folder):
    source = image_sources(folder)[0]
    _, height, width = packed_image(source, max_side=60)
    assert (height, width) == (45, 60)
    _, height, width = packed_image(source, crop=50)
    assert (height, width) == (50, 50)
    assert packed_image(source, max_side=500, crop=500) == packed_image(source)
    with pytest.raises(UsageError, match="0 pixels"):
        packed_image(source, crop=0)


def test_folders_and_packs_mix(folder, packed, photo):
    (folder / "sub" / "more.pack").write_bytes(packed.read_bytes())
    assert len(Photographs(folder)) == 6
    assert len(Photographs([folder, packed])) == 9
    assert len(Photographs([folder, packed], limit_images=4)) == 4


def test_image_that_is_damaged_in_a_pack_is_named_and_skipped(packed):
    data = bytearray(packed.read_bytes())
    entry = Pack(packed).entries[1]
    data[entry.offset + entry.length // 2] ^= 1
    packed.write_bytes(data)
    messages: list[str] = []
    photographs = Photographs(packed, warn=messages.append)
    assert (len(photographs), photographs.skipped) == (2, 1)
    assert "c.webp is damaged" in messages[0]


def test_pack_of_another_version_is_called_so(packed, tmp_path):
    path = tmp_path / "later.pack"
    path.write_bytes(packed.read_bytes().replace(b"lcodec pack 1", b"lcodec pack 2", 1))
    with pytest.raises(InputError, match="another version"):
        Pack(path)


def test_links_are_followed_once_and_hidden_images_are_none(folder, tmp_path):
    (tmp_path / "tree").mkdir()
    for name in ("one", "two"):
        (tmp_path / "tree" / name).symlink_to(folder, target_is_directory=True)
    (folder / "round").symlink_to(tmp_path / "tree", target_is_directory=True)
    (folder / ".thumbnails").mkdir()
    for hidden in ("._a.png", ".thumbnails/a.png"):
        (folder / hidden).write_bytes((folder / "a.png").read_bytes())
    found = [source.name for source in image_sources(tmp_path / "tree")]
    assert found == ["one/a.png", "one/c.webp", "one/sub/b.jpg"]
    assert [source.name for source in image_sources(folder)] == ["a.png", "c.webp", "sub/b.jpg"]


def test_truncated_pack_is_rejected(packed):
    data = packed.read_bytes()
    for end in {0, 5, 14, 30, len(data) // 2, len(data) - 1}:
        packed.write_bytes(data[:end])
        with pytest.raises(InputError, match="pack"):
            Pack(packed)


def test_changed_index_is_rejected(packed):
    data = packed.read_bytes()
    start = data.index(b'{"images":')
    for position in range(start, len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x40
        packed.write_bytes(changed)
        with pytest.raises(InputError, match="damaged|no pack"):
            Pack(packed)


def test_failed_pack_leaves_nothing_and_keeps_what_was_there(folder, packed):
    before = packed.read_bytes()

    def images():
        yield ("x", b"data", 1, 1)
        raise InputError("gone")

    with pytest.raises(OutputError, match="exists"):
        write_pack(packed, images())
    with pytest.raises(InputError, match="gone"):
        write_pack(packed, images(), overwrite=True)
    assert packed.read_bytes() == before
    assert sorted(p.name for p in packed.parent.iterdir()) == ["photos", "photos.pack"]


def test_pack_command_counts_what_it_packs_and_skips(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    result = run("pack", "photos", "-o", "all.pack", "--crop", "48", "--threads", "2", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["images"], record["skipped"], record["pixels"]) == (3, 1, 3 * 48 * 48)
    assert record["bytes"] == Path("all.pack").stat().st_size
    assert "broken.png" in result.stderr
    assert [e.name for e in Pack(Path("all.pack")).entries] == ["a.png", "c.webp", "sub/b.jpg"]
    again = run("pack", "all.pack", "-o", "again.pack", "--crop", "16", "--json")
    assert json.loads(again.stdout)["pixels"] == 3 * 16 * 16


def test_pack_that_cannot_be_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("there.pack").write_bytes(b"")
    assert_refused(run("pack", "photos", "-o", "x.zip"), 2, "packs end in .pack")
    assert_refused(run("pack", "photos", "-o", "there.pack"), 4, "there.pack exists", hint="--force")
    assert_refused(run("pack", "nowhere", "-o", "x.pack"), 3, "no folder, pack or image nowhere")
    assert_refused(run("pack", "empty", "-o", "x.pack"), 3, "no readable image")
    assert_refused(run("pack", "there.pack", "-o", "x.pack"), 3, "there.pack is no pack")
    assert not Path("x.pack").exists()


def test_packs_calibrate_as_their_folder_does(folder, packed):
    ours, theirs = calibration_images(packed), calibration_images(folder)
    assert len(ours) == 3 and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
