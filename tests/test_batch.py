# ruff: noqa: F401, F811 - the fixture `fake` comes from another module
"""Many files: which they are, what they become, how they are worked through together, and what an end in the midst
leaves."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import PIL.Image
import pytest
from click.testing import CliRunner

from lcodec.batch import lanes as lanes_module
from lcodec.batch.lanes import Stages, bytes_needed, run_lanes
from lcodec.batch.plan import Job, Naming, Plan
from lcodec.batch.sources import Search, Source
from lcodec.cli import files
from lcodec.cli.encode import Encoder, Encoding
from lcodec.cli.tally import Tally
from lcodec.errors import InputError
from tests.test_cli import FakeCodec, fake, names, picture, run, stream

ROOT = Path(__file__).parents[1]


def search(*inputs: str, suffixes: tuple[str, ...] = (".png",)) -> list[str]:
    return [source.name for source in Search.of(inputs, suffixes, "images")]


# ---- finding inputs and naming outputs


def test_quoted_pattern_is_matched_here_and_keeps_the_structure_below_its_fixed_part(fake):
    for name in ("in/a.png", "in/x/b.png", "in/x/y/c.png", "in/x/y/.hidden.png", "in/x/d.txt"):
        if name.endswith("png"):
            picture(name)
        else:
            Path(name).write_text("no image")
    assert run("encode", "in/**/*", "-o", "out").exit_code == 0
    assert names("out") == ["a.lic", "x/b.lic", "x/y/c.lic"]
    assert run("encode", "in/x/*.png", "-o", "flat").exit_code == 0
    assert names("flat") == ["b.lic"]


def test_pattern_without_hits_is_an_input_error(fake):
    result = run("encode", "in/*.png", "-o", "out")
    assert result.exit_code == 3
    assert "no images match in/*.png" in result.stderr


def test_file_whose_name_looks_like_a_pattern_is_that_file(fake):
    picture("a[1].png")
    picture("a1.png")
    assert run("encode", "a[1].png").exit_code == 0
    assert names() == ["a1.png", "a[1].lic", "a[1].png"]


def test_hidden_folders_are_passed_over(fake):
    picture("in/a.png")
    picture("in/.thumbnails/a.png")
    assert run("encode", "in", "-o", "out").exit_code == 0
    assert names("out") == ["a.lic"]


def test_folder_that_cannot_be_listed_is_a_failure_among_others(fake, monkeypatch):
    picture("in/a.png")
    picture("in/locked/b.png")
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = run("encode", "in", "-o", "out")
    assert result.exit_code == 3
    assert "lcodec: error: cannot read in/locked: permission denied\n" in result.stderr
    assert names("out") == ["a.lic"]


def test_given_folder_that_cannot_be_listed_is_a_failure_among_others(fake, monkeypatch):
    picture("a.png")
    Path("in").mkdir()
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path) == "in":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = run("encode", "in", "a.png", "-o", "out")
    assert result.exit_code == 3
    assert "lcodec: error: cannot read in: permission denied\n" in result.stderr
    assert names("out") == ["a.lic"]
    picture("in.png")  # whose output would be called the same
    assert run("encode", "in", "in.png", "-o", "out").exit_code == 3
    assert names("out") == ["a.lic", "in.lic"]


@pytest.mark.parametrize("inputs", ["in", "in/**/*.png"])
def test_file_of_which_the_system_tells_nothing_is_a_failure_among_others(fake, monkeypatch, inputs):
    """As in a folder that may be listed, and no more."""
    picture("in/a.png")
    picture("in/sub/b.png")
    os.symlink("nowhere", "in/dangling.png")
    status = os.stat

    def refuse(path, *arguments, **options):
        if isinstance(path, str | Path) and os.fspath(path).endswith("b.png"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return status(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refuse)
    result = run("encode", inputs, "-o", "out")
    assert result.exit_code == 3 and "cannot read in/sub/b.png: permission denied" in result.stderr
    assert "dangling" not in result.stderr
    assert names("out") == ["a.lic"]


def test_failure_of_a_folder_is_not_hidden_by_a_file_that_is_there(fake, monkeypatch):
    picture("in/2024.png")
    picture("in/2024/a.png")
    Path("in/2024.lic").write_bytes(b"of before")
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path).endswith("2024"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for options in ([], ["--skip-existing"]):
        result = run("encode", "in", *options)
        assert result.exit_code in ((3,) if options else (3, 4))
        assert "cannot read in/2024: permission denied" in result.stderr


def test_name_behind_a_link_is_another_file(fake):
    picture("a.png")
    picture("elsewhere/a.png", seed=1)
    Path("elsewhere/sub").mkdir()
    os.symlink("elsewhere/sub", "link")
    assert run("encode", "a.png", "link/../a.png", "-o", "out/").exit_code == 2  # both would become out/a.lic
    assert run("encode", "a.png", "link/../a.png").exit_code == 0
    assert Path("a.lic").exists() and Path("elsewhere/a.lic").exists()


def test_of_what_cannot_be_a_picture_or_a_lic_file_little_is_read(fake, tmp_path, monkeypatch):
    monkeypatch.setattr("lcodec.cli.encode.NO_IMAGE_BYTES", 5000)
    film, read = tmp_path / "film.mov", []
    film.write_bytes(bytes(100_000))
    original = Source.read

    def counted(source, **options):
        data = original(source, **options)
        read.append(len(data))
        return data

    monkeypatch.setattr(Source, "read", counted)
    for command, code in (("encode", 3), ("decode", 6), ("info", 6)):
        assert run(command, film).exit_code == code
    assert read == [5000, 4096, 4096]


def test_output_that_another_process_makes_meanwhile_is_there_all_the_same(fake, monkeypatch):
    for name in ("a", "b"):
        picture(f"in/{name}.png")
    encode = FakeCodec.encode

    def meanwhile(codec, *arguments, **options):
        Path("out").mkdir(exist_ok=True)
        Path("out/a.lic").write_bytes(b"theirs")
        return encode(codec, *arguments, **options)

    monkeypatch.setattr(FakeCodec, "encode", meanwhile)
    result = run("encode", "in", "-o", "out", "--jobs", "1")
    assert result.exit_code == 4 and "out/a.lic exists" in result.stderr
    for name in names("out"):
        Path("out", name).unlink()
    result = run("encode", "in", "-o", "out", "--skip-existing", "--jobs", "1")
    assert result.exit_code == 0 and "1 of 2 files done, 1 skipped" in result.stderr
    assert Path("out/a.lic").read_bytes() == b"theirs"


def test_file_that_may_not_be_read_does_not_end_the_batch(fake, monkeypatch):
    for name in ("a.png", "locked.png", "z.png"):
        picture(name)
    is_file, read_bytes = os.path.isfile, Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "locked.png":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return read_bytes(path)

    monkeypatch.setattr(os, "access", lambda path, mode, **_: False)  # whoever asks instead of trying
    monkeypatch.setattr(os.path, "isfile", lambda path: is_file(path) and "locked" not in os.fspath(path))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    result = run("encode", "a.png", "locked.png", "z.png", "-o", "out/")
    assert result.exit_code == 3
    assert "cannot read locked.png: permission denied" in result.stderr
    assert names("out") == ["a.lic", "z.lic"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of the size of files")
def test_full_folder_for_temporary_files_is_an_output_error(tmp_path):
    code = """if True:
        import resource, signal
        from pathlib import Path
        from lcodec.batch.plan import Job, write_by
        from lcodec.batch.sources import Source
        from lcodec.errors import OutputError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        for size in (500, 100_000):
            try:
                write_by(Job(Source(None, Path("x")), None), lambda file: file.write(bytes(size)), False)
            except OutputError as error:
                print(error)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.stdout == "cannot write a temporary file: file too large\n" * 2, result.stderr


@pytest.mark.parametrize("option", ["-o", "--out-dir"])
def test_output_without_a_name_is_refused(option, fake):
    picture("in/a.png")
    result = run("encode", "in", option, "")
    assert result.exit_code == 2 and f"{option} names nothing" in result.stderr
    assert names() == ["in/a.png"]


def test_quiet_batch_still_gives_the_json_that_was_asked_for(fake):
    picture("in/a.png")
    (Path("in") / "b.png").write_bytes(b"no image")
    result = run("encode", "in", "--quiet", "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(r["input"], "error" in r) for r in records] == [("in/a.png", False), ("in/b.png", True)]
    assert "in/b.png is not an image" in result.stderr and "in/a.png" not in result.stderr


def test_folders_are_searched_while_the_work_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a/1.png", "in/b/2.png"):
        Path(name).parent.mkdir(parents=True)
        Path(name).touch()
    found = iter(Search.of(["in"], {".png"}, "images"))
    assert next(found).name == "in/a/1.png"
    Path("in/b/3.png").touch()
    assert [source.name for source in found] == ["in/b/2.png", "in/b/3.png"]


def test_search_is_in_the_order_of_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.png", "in/a.png", "in/c/2.png", "in/c/1.png", "in/a/1.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert search("in") == ["in/a.png", "in/b.png", "in/a/1.png", "in/c/1.png", "in/c/2.png"]
    assert search("in/**/*.png") == sorted(search("in"))


def test_out_dir_is_a_folder_even_for_one_file(fake):
    picture("x/a.png")
    assert run("encode", "x/a.png", "--out-dir", "new").exit_code == 0
    assert names("new") == ["a.lic"]
    assert run("encode", "x/a.png", "--out-dir", "new", "-o", "b.lic").exit_code == 2
    Path("file").touch()
    assert run("encode", "x/a.png", "--out-dir", "file").exit_code == 4


def test_several_outputs_do_not_make_a_folder_of_a_files_name(fake):
    picture("in/a.png")
    picture("in/b.png", seed=1)
    for inputs in (["in/a.png", "in/b.png"], ["in"]):
        for name in ("two.lic", "two.png"):
            result = run("encode", *inputs, "-o", name)
            assert result.exit_code == 2 and f"-o {name}/ makes a folder of it" in result.stderr
    assert fake.loads == [] and not Path("two.lic").exists()
    for options in (["-o", "two.lic/"], ["-o", "two.lic", "--force"], ["--out-dir", "three.lic"]):  # one is there now
        assert run("encode", "in", *options).exit_code == 0
    assert names("two.lic") == names("three.lic") == ["a.lic", "b.lic"]


def test_links_to_folders_are_followed_once(fake):
    picture("in/real/a.png")
    picture("in/.hidden/h.png")
    picture("elsewhere/sub/b.png")
    links = {"1": "../elsewhere", "2": "../elsewhere/sub", "a": "real", "h": ".hidden", "up": ".."}
    for link, target in links.items():
        os.symlink(target, f"in/{link}")
    os.symlink(Path("in").resolve(), "elsewhere/back")
    # What lies below the folder itself goes by its own name, and not by that of a link which comes earlier.
    assert search("in") == ["in/1/sub/b.png", "in/h/h.png", "in/real/a.png"]
    assert run("encode", "in", "-o", "out").exit_code == 0
    assert names("out") == ["1/sub/b.lic", "h/h.lic", "real/a.lic"]


def test_clash_of_names_is_told_before_any_work_and_keep_suffix_solves_it(fake):
    picture("in/x/a.png")
    picture("in/x/a.jpg")
    picture("in/0.png")
    result = run("encode", "in", "-o", "out")
    assert result.exit_code == 2
    assert "in/x/a.jpg and in/x/a.png would both become out/x/a.lic" in result.stderr
    assert "--keep-suffix" in result.stderr
    assert not Path("out").exists() and fake.loads == []
    assert run("encode", "in", "-o", "out", "--keep-suffix").exit_code == 0
    assert names("out") == ["0.png.lic", "x/a.jpg.lic", "x/a.png.lic"]
    Path("out/x/a.jpg.lic").unlink()
    assert run("decode", "out", "-o", "back").exit_code == 0
    assert names("back") == ["0.png", "x/a.png"]


def test_clash_of_two_folders_is_told(fake):
    picture("one/a.png")
    picture("two/a.png")
    result = run("encode", "one", "two", "-o", "out")
    assert result.exit_code == 2
    assert "one/a.png and two/a.png would both become out/a.lic" in result.stderr


def test_folder_within_another_is_worked_on_once(fake):
    picture("in/a.png")
    picture("in/x/b.png")
    assert run("encode", "in/x", "in", "in/x/b.png", "-o", "out").exit_code == 0
    assert names("out") == ["a.lic", "b.lic"]


def test_output_that_is_a_link_to_another_input_is_refused_even_with_force(fake):
    picture("in/a.png")
    picture("in/b.png")
    before = Path("in/b.png").read_bytes()
    for link in (Path("in/a.lic").symlink_to, Path("in/a.lic").hardlink_to):
        link(Path("in/b.png").resolve())
        result = run("encode", "in", "--force")
        assert result.exit_code == 4
        assert "in/a.lic is an input" in result.stderr
        assert Path("in/b.png").read_bytes() == before
        Path("in/a.lic").unlink()
        Path("in/b.lic").unlink()


def test_plan_of_many_files_holds_no_list_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for i in range(300):
        Path(f"in/{i:03}.png").touch()
    plan = Plan.make(Search.of(["in"], {".png"}, "images"), Naming(".lic", "out"))
    assert plan.count == 300
    held = [value for value in vars(plan).values() if hasattr(value, "__len__")]
    assert sum(map(len, held)) == 0
    assert [job.target_name for job in itertools.islice(plan, 2)] == ["out/000.lic", "out/001.lic"]


# ---- what is there already


def test_skip_existing_does_the_rest(fake):
    for i in range(4):
        picture(f"in/{i}.png", seed=i)
    Path("out").mkdir()
    Path("out/1.lic").write_bytes(b"kept")
    result = run("encode", "in", "-o", "out", "--skip-existing")
    assert result.exit_code == 0
    assert "3 of 4 files done, 1 skipped" in result.stderr
    assert names("out") == ["0.lic", "1.lic", "2.lic", "3.lic"]
    assert Path("out/1.lic").read_bytes() == b"kept"
    fake.loads.clear()
    result = run("encode", "in", "-o", "out", "--skip-existing")
    assert (result.exit_code, fake.loads) == (0, [])
    assert "0 of 4 files done, 4 skipped" in result.stderr
    assert run("decode", "out/0.lic", "out/2.lic", "-o", "back", "--skip-existing").exit_code == 0


def test_what_is_skipped_is_an_object_of_json_too(fake):
    for i in range(3):
        picture(f"in/{i}.png", seed=i)
    Path("in/1.lic").write_bytes(b"kept")
    result = run("encode", "in", "--skip-existing", "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["output"] for record in records] == ["in/0.lic", "in/1.lic", "in/2.lic"]
    assert records[1] == {"input": "in/1.png", "output": "in/1.lic", "skipped": True}
    assert "skipped" not in records[0]


def test_skip_existing_and_force_contradict_each_other(fake):
    picture("a.png")
    assert run("encode", "a.png", "--force", "--skip-existing").exit_code == 2


def test_what_a_killed_run_left_is_removed_by_the_next(fake):
    picture("in/a.png")
    Path("out").mkdir()
    Path("out/.a.lic.0123456789ab.tmp").write_bytes(b"half")
    assert run("encode", "in", "-o", "out").exit_code == 0
    assert names("out") == ["a.lic"]


# ---- what is told


def test_bad_model_is_told_once_and_not_for_every_file(fake):
    for i in range(20):
        picture(f"in/{i}.png", seed=i)
    Path("lic").mkdir()
    for i in range(20):
        Path(f"lic/{i}.lic").write_bytes(stream(picture("x.png")))
    for command, folder in (("encode", "in"), ("decode", "lic")):
        result = run(command, "--model", "no-such-model", folder, "-o", "out")
        assert result.exit_code == 5
        errors = [line for line in result.stderr.splitlines() if "error" in line]
        assert errors == ["lcodec: error: no model no-such-model"]
        assert not Path("out").exists()


def test_quality_that_the_model_does_not_have_is_told_once(fake):
    for i in range(5):
        picture(f"in/{i}.png", seed=i)
    result = run("encode", "--model", "single", "-q", "3", "in", "-o", "out")
    assert result.exit_code == 2
    assert result.stderr.count("one quality only") == 1


def test_failures_are_listed_at_the_end_a_line_each_and_a_hint_once(fake):
    for i in range(6):
        picture(f"in/{i}.png", seed=i)
    for i in (1, 3):
        Path(f"in/{i}.png").write_bytes(b"no image")
    result = run("encode", "in", "-o", "out", "--jobs", "3")
    assert result.exit_code == 3
    *lines, last = result.stderr.splitlines()
    assert last == "lcodec: 4 of 6 files done, 2 failed"
    errors = [line for line in lines if line.startswith("lcodec: error: ")]
    assert [re.findall(r"in/\d", line) for line in errors] == [["in/1"], ["in/3"]]
    assert len([line for line in lines if line.startswith("lcodec: hint: ")]) == 1
    assert len(lines) == 3


@pytest.mark.parametrize("options, told", [([], True), (["--force"], False)])
def test_interrupted_batch_tells_how_to_go_on_where_that_is_right(fake, monkeypatch, options, told):
    for i in range(3):
        picture(f"in/{i}.png", width=20 if i == 2 else 7, seed=i)
    encode, add, counted = FakeCodec.encode, Tally.add, threading.Event()

    def interrupt_the_last(self, image, quality, **other):
        if image.width == 20:
            counted.wait(timeout=30)
            raise KeyboardInterrupt
        return encode(self, image, quality, **other)

    def count(self, *outcome):
        add(self, *outcome)
        counted.set()

    monkeypatch.setattr(FakeCodec, "encode", interrupt_the_last)
    monkeypatch.setattr(Tally, "add", count)
    result = run("encode", "in", "-o", "out", "--jobs", "2", *options)
    assert result.exit_code == 130 and "of 3 files done" in result.stderr
    assert ("--skip-existing" in result.stderr) == told


def test_total_has_sizes_ratio_and_speed(fake):
    for i in range(3):
        picture(f"in/{i}.png", 100, 100, seed=i)
    result = run("encode", "in", "-o", "out")
    before = sum(path.stat().st_size for path in Path("in").iterdir())
    after = sum(path.stat().st_size for path in Path("out").iterdir())
    total = result.stdout.splitlines()[-1]
    assert total.startswith("total: 0.0 MP, ") and total.endswith(" MP/s")
    assert f"{files.describe_size(before)} -> {files.describe_size(after)}" in total
    ratio = re.search(r"\(([\d.]+)x (smaller|larger)\)", total)
    assert ratio is not None
    expected = before / after if ratio[2] == "smaller" else after / before
    assert float(ratio[1]) == pytest.approx(expected, abs=0.01)


def test_json_of_a_batch_is_a_line_a_file_in_the_order_of_files(fake, monkeypatch):
    for i in range(8):
        picture(f"in/{i}.png", width=20 if i == 0 else 7, seed=i)
    encode = FakeCodec.encode

    def slow_for_the_first(self, image, quality, **options):
        if getattr(image, "width", None) == 20:
            time.sleep(0.3)
        return encode(self, image, quality, **options)

    monkeypatch.setattr(FakeCodec, "encode", slow_for_the_first)
    result = run("encode", "--json", "--jobs", "4", "in", "-o", "out")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["input"] for record in records] == [f"in/{i}.png" for i in range(8)]


# ---- several at once


def test_no_more_files_than_jobs_are_in_the_networks_and_others_are_read_meanwhile(fake, monkeypatch):
    for i in range(12):
        picture(f"in/{i:02}.png", seed=i)
    inside, most, lock = 0, 0, threading.Lock()
    encode, three = FakeCodec.encode, threading.Barrier(3)

    def count(self, image, quality, **options):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        three.wait(timeout=60)  # broken where fewer are let in
        with lock:
            inside -= 1
        return encode(self, image, quality, **options)

    monkeypatch.setattr(FakeCodec, "encode", count)
    assert run("encode", "--jobs", "3", "in", "-o", "out").exit_code == 0
    assert most == 3
    assert len(names("out")) == 12
    assert fake.loads == ["fake"]


def test_result_does_not_depend_on_the_number_of_jobs(model_file, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for i in range(5):
        PIL.Image.fromarray(photo[i * 16 : i * 16 + 64, i * 64 : i * 64 + 100]).save(f"in/{i}.png")
    options = ["--model", model_file, "--device", "cpu", "--threads", "1"]
    for jobs in (1, 4):
        assert run("encode", *options, "--jobs", jobs, "in", "-o", f"out{jobs}").exit_code == 0
        result = run("decode", *options, "--jobs", jobs, f"out{jobs}", "-o", f"back{jobs}")
        assert result.exit_code == 0, result.stderr
    for i in range(5):
        assert Path(f"out1/{i}.lic").read_bytes() == Path(f"out4/{i}.lic").read_bytes()
        assert Path(f"back1/{i}.png").read_bytes() == Path(f"back4/{i}.png").read_bytes()


def test_cores_are_shared_out_among_the_jobs():
    class Recipe:
        device, threads = "cpu", 8

    assert files.parallelism(100, Recipe(), None) == (8, 1)
    assert files.parallelism(100, Recipe(), 2) == (2, 4)
    assert files.parallelism(2, Recipe(), None) == (2, 4)
    assert files.parallelism(100, Recipe(), 20) == (20, 1)
    Recipe.device = "cuda"
    assert files.parallelism(100, Recipe(), None) == (files.ON_GPU_AT_ONCE, 2)


def test_no_job_is_taken_before_a_lane_is_free_for_it():
    taken, ended, most = 0, 0, 0
    lock = threading.Lock()

    def jobs():
        nonlocal taken, most
        for i in range(200):
            with lock:
                taken += 1
                most = max(most, taken - ended)
            yield i

    def work(i):
        nonlocal ended
        time.sleep(0.001 if i % 10 else 0.01)
        with lock:
            ended += 1
        return {"i": i}

    outcomes = list(run_lanes(jobs(), work, Stages(), 4))
    assert [outcome["i"] for _, outcome in outcomes] == list(range(200))
    assert most <= 4


def test_search_that_fails_in_the_midst_ends_the_batch_with_its_error():
    def jobs():
        yield 1
        raise InputError("gone")

    with pytest.raises(InputError, match="gone"):
        list(run_lanes(jobs(), lambda i: {}, Stages(), 3))


def test_memory_of_all_in_work_stays_within_the_budget_and_a_larger_file_is_alone():
    budget = bytes_needed(1000) * 4
    stages = Stages(8, budget)
    used, most, alone, lock = 0, 0, [], threading.Lock()

    def work(pixels):
        nonlocal used, most
        with stages.memory(pixels):
            with lock:
                used += bytes_needed(pixels)
                most = max(most, used if pixels == 1000 else 0)
            time.sleep(0.002)
            if pixels > 1000:
                alone.append(used == bytes_needed(pixels))
            with lock:
                used -= bytes_needed(pixels)
        return {}

    sizes = [1000] * 20 + [9000] + [1000] * 20 + [9000]
    assert len(list(run_lanes(sizes, work, stages, 8))) == 42
    assert bytes_needed(1000) * 2 <= most <= budget
    assert alone == [True, True]


def test_search_for_each_image_is_counted_with_what_it_keeps():
    tile = lanes_module.TILE_PX
    assert bytes_needed(tile, searched=True) - bytes_needed(tile) == 2 * lanes_module.BYTES_OF_A_TILE
    stages = Stages(2, bytes_needed(tile) * 2)
    with stages.memory(tile):
        assert stages._fits(bytes_needed(tile)) and not stages._fits(bytes_needed(tile, searched=True))
    with stages.memory(tile, searched=True):
        assert not stages._fits(bytes_needed(tile))


@pytest.mark.parametrize("effort", [0, 1])
def test_memory_is_counted_until_the_output_is_written(effort, fake, monkeypatch):
    picture("a.png")
    stages, used = Stages(), []
    monkeypatch.setattr("lcodec.cli.encode.write", lambda *_: used.append(stages._used))
    job = Job(Source(Path("a.png"), Path("a.png")), Path("a.lic"))
    Encoder(Encoding(effort=effort)).process(job, stages)
    assert used == [bytes_needed(35, searched=effort > 0)] and stages._used == 0


def test_large_file_is_not_overtaken_for_ever():
    stages = Stages(4, bytes_needed(1000) * 3)
    order = []

    def work(pixels):
        with stages.memory(pixels):
            order.append(pixels)
            time.sleep(0.002)
        return {}

    list(run_lanes([1000] * 4 + [9000] + [1000] * 60, work, stages, 4))
    assert order.index(9000) < 12


def test_budget_is_half_of_what_the_container_leaves(monkeypatch):
    monkeypatch.setattr(lanes_module, "_available_memory", lambda: 10_000)
    monkeypatch.setattr(lanes_module, "_cgroup_memory", lambda: [6000])
    assert lanes_module.memory_budget() == 3000
    monkeypatch.setattr(lanes_module, "_cgroup_memory", lambda: [-5])
    assert lanes_module.memory_budget() == 0
    monkeypatch.undo()
    assert lanes_module.memory_budget() > 10_000_000


def test_budget_knows_the_groups_around(tmp_path, monkeypatch):
    from lcodec import cores

    monkeypatch.setattr(cores, "_ROOT", tmp_path)
    groups = tmp_path / "sys/fs/cgroup"
    for folder, limit, used in (("a", 9_000_000, 1_000_000), ("a/b", 5_000_000, 2_000_000), ("other", 10, 0)):
        (groups / folder).mkdir(parents=True)
        (groups / folder / "memory.max").write_text(f"{limit}\n")
        (groups / folder / "memory.stat").write_text(f"anon {used}\nfile 7\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b/c\n")
    assert lanes_module.memory_budget() == 1_500_000
    (groups / "a/b/memory.max").write_text("max\n")
    assert lanes_module.memory_budget() == 4_000_000
    (tmp_path / "proc/self/cgroup").write_text("7:cpu:/\n4:memory:/job\n")
    (groups / "memory/job").mkdir(parents=True)
    (groups / "memory/job/memory.limit_in_bytes").write_text("700000\n")
    (groups / "memory/job/memory.stat").write_text("total_rss 100000\n")
    assert lanes_module.memory_budget() == 300_000


def test_closing_stops_the_lanes_in_the_midst_of_their_work():
    stages, ends = Stages(2, bytes_needed(10)), []

    def work(i):
        try:
            with stages.memory(10):
                end = time.monotonic() + 20
                while i > 0 and time.monotonic() < end:
                    time.sleep(0.005)
            return {}
        finally:
            ends.append(i)

    outcomes = run_lanes(range(100), work, stages, 4)
    next(outcomes)
    start = time.monotonic()
    outcomes.close()
    assert time.monotonic() - start < 10
    assert len(ends) <= 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


# ---- an end in the midst

# Encoding takes a moment; writing too, so that signals meet both.
SLOW = """
import os, sys, time, types
import lcodec.weights
fsync = os.fsync
def slow_fsync(descriptor):
    time.sleep(0.01)
    fsync(descriptor)
os.fsync = slow_fsync
class Codec:
    name, id, qualities = "slow", "0" * 64, (1.0, 8.0)
    def __init__(self, *arguments, **options): pass
    def encode(self, picture, quality, **options):
        time.sleep(0.01)
        return types.SimpleNamespace(data=b"x" * 100_000, seconds={}, y_hat_digest="", evaluations=1, quality=quality)
sys.modules["lcodec.codec"] = types.SimpleNamespace(Codec=Codec)
lcodec.weights.find = lambda name: name
from lcodec.cli import main
main()
"""


def start_slow(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, "encode", "in", "-o", "out", "--jobs", "3", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_batch_that_is_ended_has_whole_files_only_and_a_rerun_completes_it(tmp_path, number, code):
    for i in range(60):
        picture(tmp_path / f"in/{i:02}.png", seed=i)
    process = start_slow(tmp_path)
    deadline = time.monotonic() + 60
    while len(visible(tmp_path / "out")) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in stderr and b"Exception" not in stderr
    done = visible(tmp_path / "out")
    assert 5 <= len(done) < 60
    assert all(path.read_bytes() == b"x" * 100_000 for path in done)
    if number != signal.SIGKILL:
        assert len(done) == len(list((tmp_path / "out").iterdir()))  # no litter
        assert b"--skip-existing goes on from here" in stderr
    before = {path: path.stat().st_mtime_ns for path in done}
    _, stderr = start_slow(tmp_path, "--skip-existing").communicate(timeout=60)
    assert f"{60 - len(done)} of 60 files done, {len(done)} skipped".encode() in stderr
    assert len(list((tmp_path / "out").iterdir())) == 60
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())


def test_two_batches_into_the_same_folder_leave_whole_files(tmp_path):
    for i in range(20):
        picture(tmp_path / f"in/{i:02}.png", seed=i)
    processes = [start_slow(tmp_path, "--skip-existing") for _ in range(2)]
    for process in processes:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    assert len(list((tmp_path / "out").iterdir())) == 20
    assert all(path.read_bytes() == b"x" * 100_000 for path in (tmp_path / "out").iterdir())


def test_full_disk_in_a_batch_is_told_and_leaves_nothing_half_written(fake, monkeypatch):
    for i in range(6):
        picture(f"in/{i}.png", seed=i)
    count = itertools.count()
    fsync = os.fsync

    def full_from_the_third_on(descriptor):
        if next(count) >= 2:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_from_the_third_on)
    result = run("encode", "in", "-o", "out")
    assert result.exit_code == 4
    assert result.stderr.count("no space left on device") == 4
    assert len(names("out")) == 2 and not [name for name in names("out") if "tmp" in name]


# ---- places in stores


@pytest.fixture
def store(fake):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    fs = fsspec.filesystem("memory")
    yield fs
    for path in fs.find("/"):
        fs.rm(path)


def test_folder_of_a_store_that_cannot_be_listed_is_a_failure_among_others(store, monkeypatch):
    picture("a.png")
    for name in ("in/a.png", "in/denied/b.png", "in/.hidden/denied/b.png", "in/z/c.png"):
        store.pipe_file(f"/{name}", Path("a.png").read_bytes())
    listed = type(store).ls

    def refuse(fs, path, *arguments, **options):
        if path.endswith("denied"):
            raise PermissionError(13, "Access Denied", path)
        return listed(fs, path, *arguments, **options)

    monkeypatch.setattr(type(store), "ls", refuse)
    result = run("encode", "memory://in", "-o", "out")
    assert result.exit_code == 3 and "cannot read memory://in/denied: access denied" in result.stderr
    assert "hidden" not in result.stderr and names("out") == ["a.lic", "z/c.lic"]


def test_batch_reads_from_a_store_and_writes_into_one(store):
    pixels = picture("a.png")
    for name in ("photos/a.png", "photos/x/b.png", "photos/notes.txt", "photos/.hidden/c.png"):
        store.pipe_file(f"/{name}", Path("a.png").read_bytes())
    result = run("encode", "memory://photos", "-o", "memory://lic")
    assert result.exit_code == 0, result.stderr
    assert "memory://photos/x/b.png -> memory://lic/x/b.lic" in result.stdout
    assert sorted(store.find("/lic")) == ["/lic/a.lic", "/lic/x/b.lic"]
    assert run("encode", "memory://photos/**/*.png", "-o", "memory://lic2").exit_code == 0
    assert sorted(store.find("/lic2")) == ["/lic2/a.lic", "/lic2/x/b.lic"]
    assert run("decode", "memory://lic", "-o", "back").exit_code == 0
    assert names("back") == ["a.png", "x/b.png"]
    with PIL.Image.open("back/a.png") as image:
        assert image.size == (pixels.shape[1], pixels.shape[0])


def test_one_file_in_a_store_is_read_and_written(store):
    picture("a.png")
    store.pipe_file("/in/a.png", Path("a.png").read_bytes())
    assert run("encode", "memory://in/a.png").exit_code == 0
    assert run("decode", "memory://in/a.lic", "-o", "memory://out.png").exit_code == 0
    assert PIL.Image.open(io.BytesIO(store.cat_file("/out.png"))).size == (7, 5)


def test_what_exists_in_a_store_is_kept_or_left_out(store):
    for name in ("a", "b"):
        picture(f"{name}.png")
        store.pipe_file(f"/in/{name}.png", Path(f"{name}.png").read_bytes())
    store.pipe_file("/out/a.lic", b"kept")
    result = run("encode", "memory://in", "-o", "memory://out")
    assert result.exit_code == 4
    assert "memory://out/a.lic exists" in result.stderr
    result = run("encode", "memory://in", "-o", "memory://out", "--skip-existing")
    assert "0 of 2 files done, 2 skipped" in result.stderr
    assert store.cat_file("/out/a.lic") == b"kept"
    assert run("encode", "memory://in", "-o", "memory://out", "--force").exit_code == 0
    assert store.cat_file("/out/a.lic") != b"kept"


def test_store_that_is_not_known_or_not_installed_or_empty_is_an_error_of_its_own(store, monkeypatch):
    result = run("encode", "frobnicate://x/a.png", "-o", "a.lic")
    assert result.exit_code == 2 and "frobnicate://" in result.stderr
    assert run("encode", "memory://nothing", "-o", "out").exit_code == 3
    assert run("encode", "memory://nothing/a.png", "-o", "a.lic").exit_code == 3
    monkeypatch.setitem(sys.modules, "s3fs", None)
    result = run("encode", "s3://bucket/a.png", "-o", "a.lic")
    assert result.exit_code == 2
    assert "pip install s3fs" in result.stderr


def test_pipes_and_the_cluster_do_not_go_together(fake):
    picture("a.png")
    assert run("encode", "--ray", "local", "a.png", "-o", "-").exit_code == 2


def test_cluster_without_ray_is_told(fake, monkeypatch):
    picture("a.png")
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("encode", "--ray", "local", "a.png")
    assert result.exit_code == 2
    assert "pip install ray" in result.stderr




# ---- the benchmark


def test_benchmark_codes_every_image_both_ways_and_compares_with_the_codec_alone(model_file, monkeypatch):
    from lcodec.bench import batch

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = ["--count", "101", "--side", "64", "--model", str(model_file), "-q", "3", "--jobs", "2", "--processes"]
    result = CliRunner().invoke(batch.main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    first, *lines = result.output.splitlines()
    assert first.startswith("101 images of 64x64, ")
    assert [line.split("  ")[0] for line in lines] == ["encode", "decode", "encode, 2 processes"]
    for line in lines:
        wall, each = re.findall(r"([\d.]+) s +([\d.]+) ms an image", line)[0]
        assert float(each) == pytest.approx(1000 * float(wall) / 101, abs=1)


def test_benchmark_fails_where_a_command_does():
    from lcodec.bench import batch

    with pytest.raises(click.ClickException, match="failed"):
        batch.timed(lambda: [subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])])
