"""Bad input as a user meets it: one line that says what is wrong, an exit code of its own, and nothing left behind."""

from __future__ import annotations

import errno
import os
import pickle
import pty
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

from lcodec import cli, container, decoder, errors, weights
from lcodec.codec import Codec
from lcodec.container import Container, Header, pack
from lcodec.errors import LimitExceeded
from lcodec.header import crc

ROOT = Path(__file__).parents[1]
HEADER_BYTES = 6 + 1 + 8 + 1 + 1 + 2 + 4  # of a picture below 128 x 128


def test_every_error_comes_back_from_another_process_as_it_was():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LcodecError)]
    assert len(kinds) == 14
    for kind in kinds:
        error = kind("what", hint="try")
        if isinstance(error, errors.Incomplete):
            error = errors.Incomplete("what", {"lost": [[0, 0, 4, 4]]}, "try")
            assert pickle.loads(pickle.dumps(error)).details == error.details
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind and (str(back), back.hint, back.exit_code) == ("what", "try", kind.exit_code)


def assert_refused(result: Result, code: int, *parts: str, hint: str | None = None) -> None:
    """Exit code; stderr is one error line with `parts`, and a hint line if any (with `hint`, one there must be)."""
    lines = result.stderr.splitlines()
    assert result.exit_code == code, result.output
    assert 1 <= len(lines) <= 2, result.stderr
    assert lines[0].startswith("lcodec: error: ")
    assert "internal error" not in lines[0] and "Traceback" not in result.output
    for part in parts:
        assert part in lines[0], result.stderr
    if hint is not None or len(lines) == 2:
        assert len(lines) == 2 and lines[1].startswith("lcodec: hint: "), result.stderr
        assert (hint or "") in lines[1]


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments], input=stdin, prog_name="lcodec")


def names(folder: Path | str = ".") -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*"))


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def good(model_file, photo) -> bytes:
    """A file of 100 x 70 pixels."""
    return Codec(model_file, "cpu", 1).encode(photo[100:170, 100:200], 1.0).data


def with_header(good: bytes, **changes: object) -> bytes:
    """The same slices behind another header, checksum right."""
    box = container.unpack(good)
    return pack(replace(box, header=replace(box.header, **changes)))


# ---- files that are not, or not whole


@pytest.mark.parametrize(
    "data, message, hint",
    [
        (b"", "too short", None),
        (b"\x89LI", "too short", None),
        (b"GIF89a and more", "not a .lic file", None),
        (b"\x89LIC\n\x01 and more", "not a .lic file", "binary"),
    ],
)
@pytest.mark.parametrize("command", [["decode"], ["info"], ["info", "--digest"]])
def test_what_is_no_lic_file_is_called_so(command, data, message, hint):
    Path("a.lic").write_bytes(data)
    assert_refused(run(*command, "a.lic"), 6, "a.lic: ", message, hint=hint)
    assert names() == ["a.lic"]


@pytest.mark.parametrize("command", [["decode"], ["info", "--digest"]])
def test_newer_version_is_named(command, good):
    Path("a.lic").write_bytes(good[:6] + b"\x02" + good[7:])
    assert_refused(run(*command, "a.lic"), 6, "a.lic: format version 2, known here is 1", hint="newer lcodec")
    assert names() == ["a.lic"]


@pytest.mark.parametrize("command", [["decode"], ["info", "--digest"]])
def test_unknown_model_is_named_with_the_places_looked_at(command, good, monkeypatch, work):
    monkeypatch.setenv("XDG_CACHE_HOME", str(work / "my-cache"))
    Path("a.lic").write_bytes(with_header(good, model_id=bytes.fromhex("0123456789abcdef")))
    result = run(*command, "a.lic")
    assert_refused(result, 5, "a.lic: no model with id 0123456789abcdef", hint="looked in ")
    for place in weights.search_path():
        assert str(place) in result.stderr
    assert names() == ["a.lic"]


def test_wrong_model_by_option_is_told_with_both_ids(good, models):
    Path("a.lic").write_bytes(good)
    other = models["mbt2018"]
    result = run("decode", "--model", other, "a.lic")
    wanted = weights.info(models["mbt2018-mean"]).id
    assert_refused(result, 5, wanted[:16], weights.info(other).id[:16])
    assert names() == ["a.lic"]


def in_batch(good: bytes, bad: dict[str, bytes]) -> Result:
    """Decode the bad ones and, as the last of all, a good one."""
    Path("in").mkdir()
    for name, data in {**bad, "zzz-good": good}.items():
        Path(f"in/{name}.lic").write_bytes(data)
    return run("decode", "--device", "cpu", "--threads", "1", "in", "-o", "out")


def assert_only_the_good_one_is_done(result: Result, bad: dict[str, bytes]) -> None:
    *lines, last = result.stderr.splitlines()
    assert result.exit_code == 6
    assert last == f"lcodec: 1 of {len(bad) + 1} files done, {len(bad)} failed"
    errors = [line for line in lines if not line.startswith("lcodec: hint: ")]
    assert len(errors) == len(bad)
    for name, line in zip(sorted(bad), errors, strict=True):
        assert line.startswith(f"lcodec: error: in/{name}.lic: "), line
        assert "internal error" not in line
    assert names("out") == ["zzz-good.png"]


def test_file_cut_at_any_byte_is_refused_and_the_batch_goes_on(good):
    sizes = [*range(HEADER_BYTES + 8), *range(HEADER_BYTES + 8, len(good), 7), len(good) - 1]
    bad = {f"cut-{size:05}": good[:size] for size in sizes}
    result = in_batch(good, bad)
    assert_only_the_good_one_is_done(result, bad)


def test_file_with_any_byte_flipped_is_refused_and_the_batch_goes_on(good):
    places = [*range(HEADER_BYTES + 8), *range(HEADER_BYTES + 8, len(good), 7), len(good) - 1]
    bad = {}
    for place in places:
        data = bytearray(good)
        data[place] ^= 1 << place % 8
        bad[f"flip-{place:05}"] = bytes(data)
    assert_only_the_good_one_is_done(in_batch(good, bad), bad)


def test_first_failure_gives_the_exit_code_of_a_decoded_batch(good):
    bad = {
        "a": with_header(good, model_id=b"\xff" * 8),
        "b": b"GIF89a",
    }
    result = in_batch(good, bad)
    assert result.exit_code == 5
    assert names("out") == ["zzz-good.png"]


# ---- size


@pytest.mark.parametrize("command", [["decode"], ["info", "--digest"]])
def test_limit_of_pixels_can_be_lowered_and_raised(command, good, monkeypatch):
    Path("a.lic").write_bytes(good)
    result = run(*command, "--limit-pixels", "6999", "a.lic")
    assert_refused(result, 6, "100x70", "limit of 6999 pixels", hint="--limit-pixels")
    assert names() == ["a.lic"]
    monkeypatch.setenv("LCODEC_LIMITS", "pixels=6999")
    assert_refused(run(*command, "a.lic"), 6, "limit of 6999 pixels")
    assert run(*command, "--limit-pixels", "7000", "a.lic").exit_code == 0


def huge(good: bytes) -> bytes:
    """A header of 2^31 - 1 pixels a side, and little behind it."""
    id_ = container.read_header(good).model_id
    return pack(Container(Header(1, 1, id_), [b"x"]))[:15] + huge_end(good[:15])


def huge_end(start: bytes) -> bytes:
    end = b"\xff\xff\xff\xff\x07" * 2 + struct.pack("<H", 128 | 2 << 11)
    return end + crc(start + end)


@pytest.mark.parametrize("command", [["decode"], ["info", "--digest"]])
def test_huge_header_is_refused_before_anything_behind_it_is_read(command, good, monkeypatch):
    data = huge(good)
    header = container.read_header(data)
    assert header.width == header.height == 2**31 - 1
    Path("a.lic").write_bytes(data)
    if command == ["decode"]:
        monkeypatch.setattr(container, "unpack", lambda *_: pytest.fail("was unpacked"))
        assert_refused(run(*command, "a.lic"), 6, "2147483647x2147483647 pixels is above", hint="--limit-pixels")
    else:  # info reads the sections first, for it tells of them; they are not there
        assert_refused(run(*command, "a.lic"), 6, "a.lic: ")
        monkeypatch.setattr(container, "unpack", lambda *_: pytest.fail("was unpacked"))
        with pytest.raises(LimitExceeded):
            decoder.digest(data)
    assert names() == ["a.lic"]


def test_huge_header_is_refused_even_without_a_limit(good):
    """Its slices are not there, which shows before memory is taken for them."""
    Path("a.lic").write_bytes(huge(good))
    assert_refused(run("decode", "--limit-pixels", 2**62, "a.lic"), 6, "a.lic: ")
    assert names() == ["a.lic"]


# ---- images that cannot be read


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "empty"),
        (b"no image at all", "is not an image"),
        (b"\x89PNG\r\n\x1a\n and then nothing", "a.png"),
    ],
)
def test_unreadable_image_is_named(data, message):
    Path("a.png").write_bytes(data)
    assert_refused(run("encode", "a.png"), 3, "a.png", message)
    assert names() == ["a.png"]


def test_image_that_ends_early_is_refused(photo, model_file):
    PIL.Image.fromarray(photo).save("a.jpg")
    whole = Path("a.jpg").read_bytes()
    Path("a.jpg").write_bytes(whole[: len(whole) // 2])
    assert_refused(run("encode", "--model", model_file, "a.jpg"), 3, "a.jpg")
    assert names() == ["a.jpg"]


def test_missing_input_and_folder_as_image_are_input_errors():
    assert_refused(run("encode", "missing.png"), 3, "missing.png: no such file")
    assert_refused(run("decode", "missing.lic"), 3, "missing.lic: no such file")
    assert_refused(run("info", "missing.lic"), 3, "missing.lic: no such file")


@pytest.mark.parametrize("command", [["encode"], ["decode"], ["info"], ["decode", "--model", "x" * 300]])
def test_name_that_is_too_long_is_an_error_like_others(command, good):
    Path("b.lic").write_bytes(good)
    result = run(*command, "b.lic" if len(command) > 1 else "y" * 300)
    assert_refused(result, 5 if len(command) > 1 else 3)
    assert names() == ["b.lic"]


# ---- outputs


@pytest.fixture
def both(model_file, photo, good) -> list[list[str]]:
    """An encode and a decode that work, up to the output."""
    PIL.Image.fromarray(photo[:64, :64]).save("a.png")
    Path("b.lic").write_bytes(good)
    common = ["--device", "cpu", "--threads", "1", "--model", str(model_file)]
    return [["encode", *common, "a.png", "-o"], ["decode", *common, "b.lic", "-o"]]


def test_unwritable_output_is_an_output_error(both):
    Path("file").write_bytes(b"kept")
    Path("folder.lic").mkdir()
    Path("folder.png").mkdir()
    long = "x" * 300
    for command, ending in zip(both, ("lic", "png"), strict=True):
        assert_refused(run(*command, f"nowhere/x.{ending}"), 4, "nowhere")
        assert_refused(run(*command, f"file/x.{ending}"), 4, f"file/x.{ending}")
        assert_refused(run(*command, f"{long}.{ending}"), 4, "cannot write")
    assert names() == ["a.png", "b.lic", "file", "folder.lic", "folder.png"]


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="nothing is read-only for root")
def test_read_only_folder_is_an_output_error(both):
    Path("locked").mkdir(mode=0o555)
    for command, ending in zip(both, ("lic", "png"), strict=True):
        assert_refused(run(*command, f"locked/x.{ending}"), 4, f"locked/x.{ending}", "permission denied")
    assert names("locked") == []


@pytest.mark.parametrize("number, reason", [(errno.EACCES, "permission denied"), (errno.ENOSPC, "no space left")])
def test_refusal_by_the_system_is_an_output_error(both, monkeypatch, number, reason):
    before = names()
    system = os.open

    def refuse(path, flags, *arguments, **options):
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return system(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    for command, ending in zip(both, ("lic", "png"), strict=True):
        assert_refused(run(*command, f"x.{ending}"), 4, f"x.{ending}", reason)
    assert names() == before


def test_full_disk_leaves_neither_output_nor_rest(both, monkeypatch):
    before = names()

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for command, ending in zip(both, ("lic", "png"), strict=True):
        assert_refused(run(*command, f"x.{ending}"), 4, "no space left")
        Path(f"old.{ending}").write_bytes(b"kept")
        assert_refused(run(*command, f"old.{ending}", "--force"), 4, "no space left")
        assert Path(f"old.{ending}").read_bytes() == b"kept"
        Path(f"old.{ending}").unlink()
    assert names() == before


def test_existing_output_is_kept_by_decode_too(good):
    Path("b.lic").write_bytes(good)
    Path("b.png").write_bytes(b"kept")
    assert_refused(run("decode", "b.lic"), 4, "b.png exists", hint="--force")
    assert Path("b.png").read_bytes() == b"kept"


def test_output_that_is_the_input_is_refused_by_decode_too(good):
    Path("b.png").write_bytes(good)
    assert_refused(run("decode", "--force", "b.png", "-o", "b.png"), 4, "b.png is an input", hint="-o")
    assert Path("b.png").read_bytes() == good


def test_decoded_picture_does_not_go_to_a_terminal(good, work):
    Path("b.lic").write_bytes(good)
    primary, secondary = pty.openpty()
    try:
        process = subprocess.run(
            [sys.executable, "-m", "lcodec", "decode", "b.lic", "-o", "-"],
            stdout=secondary,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
        )
    finally:
        os.close(primary)
        os.close(secondary)
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        "lcodec: error: binary data is not written to a terminal",
        "lcodec: hint: redirect it, or name a file with -o",
    ]


# ---- devices and models


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there_is_an_error_of_its_own(both):
    before = names()
    for command, ending in zip(both, ("lic", "png"), strict=True):
        assert_refused(run(*command, f"x.{ending}", "--device", "cuda"), 7, "no CUDA device", hint="--device cpu")
    assert names() == before


def test_damaged_model_is_an_error_of_its_own(both, model_file):
    data = bytearray(model_file.read_bytes())
    data[-5] ^= 1
    Path("damaged.safetensors").write_bytes(data)
    before = names()
    for command, ending in zip(both, ("lic", "png"), strict=True):
        result = run(*command, f"x.{ending}", "--model", "damaged.safetensors")
        assert_refused(result, 5, "damaged.safetensors is damaged")
    assert names() == before


def test_model_is_found_by_id_behind_another_of_its_name(good, models, monkeypatch, work):
    """A model replaced by a newer one of the same name still decodes its files, from wherever it is now."""
    for place, architecture in (("first", "mbt2018"), ("second", "mbt2018-mean")):
        Path(place).mkdir()
        Path(f"{place}/same.safetensors").write_bytes(models[architecture].read_bytes())
    monkeypatch.setenv(weights.ENVIRONMENT, os.pathsep.join(("first", "second")))
    assert weights.find("same") == Path("first/same.safetensors")
    Path("a.lic").write_bytes(good)
    assert run("decode", "--device", "cpu", "--threads", "1", "a.lic").exit_code == 0
    assert np.asarray(PIL.Image.open("a.png")).shape == (70, 100, 3)
