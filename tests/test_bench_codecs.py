"""Codecs of the benchmark: what they make of an image, and how programs and TOML files are taken."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("scipy", reason="extra 'bench' is not installed")

from lcodec import weights
from lcodec.bench import programs, registry
from lcodec.bench.learned import choose_qualities, find_models, model_coders
from lcodec.bench.metrics import psnr
from lcodec.bench.programs import ProgramError, read_toml
from lcodec.bench.registry import coder_of_entry, find_codecs
from lcodec.errors import InputError, ModelError, UsageError

# A program that keeps the samples that it is given, less the lowest bits.
PROGRAM = """#!{python}
import sys
direction, source, target, *rest = sys.argv[1:]
data = open(source, "rb").read()
if direction == "fail":
    sys.exit("something broke")
if direction != "nothing":
    open(target, "wb").write(data)
"""


@pytest.fixture
def program(tmp_path, monkeypatch) -> Path:
    """`copycodec` on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "copycodec"
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return path


def toml(folder: Path, **changes: str | None) -> Path:
    entry: dict[str, str | None] = {
        "label": '"Copy"',
        "encode": '"copycodec encode {input} {output} {quality}"',
        "decode": '"copycodec decode {input} {output}"',
        "suffix": '".copy"',
        "qualities": "[1, 2.5]",
    }
    entry |= changes
    path = folder / "codec.toml"
    lines = [f"{key} = {value}" for key, value in entry.items() if value is not None]
    path.write_text("\n".join(["[codec.copy]", *lines]))
    return path


@pytest.mark.parametrize("name", ["jpeg-444", "jpeg-420", "webp", "avif", "jxl", "jpeg2000"])
def test_pillow_codecs_give_larger_and_better_files_at_higher_quality(photo, name):
    (coder,) = find_codecs([name], [], 1)
    if coder.missing:
        pytest.skip(coder.missing)
    crop = photo[100:228, 200:360]
    sizes, levels = [], []
    for quality in (coder.qualities[1], coder.qualities[-2]):
        data = coder.encode(crop, quality)
        decoded = coder.decode(data, *crop.shape[:2])
        assert decoded.shape == crop.shape and decoded.dtype == np.uint8
        sizes.append(len(data))
        levels.append(psnr(crop, decoded))
    assert sizes[0] < sizes[1] and levels[0] + 3 < levels[1]


@pytest.mark.parametrize(
    ("name", "module", "variable"),
    [("avif", "PIL.AvifImagePlugin", "DEFAULT_MAX_THREADS"), ("jxl", "pillow_jxl.JpegXLImagePlugin", "DECODE_THREADS")],
)
def test_pillow_codecs_decode_on_the_threads_that_they_are_given(photo, monkeypatch, name, module, variable):
    plugin = pytest.importorskip(module)
    (coder,) = find_codecs([name], [], 3)
    if coder.missing:
        pytest.skip(coder.missing)
    monkeypatch.setattr(plugin, variable, -1)
    coder.decode(coder.encode(photo[:16, :16], coder.qualities[0]), 16, 16)
    assert getattr(plugin, variable) == 3


def test_programs_are_told_the_threads(tmp_path, program, photo):
    path = toml(tmp_path, encode='"copycodec encode {input} {output} --threads={threads}"')
    (coder,) = find_codecs([str(path)], [], 3)
    again = coder_of_entry(coder.entry(), 2)
    program.write_text(f"#!{sys.executable}\nimport sys\nopen(sys.argv[3], 'w').write(sys.argv[4])\n")
    for made, count in ((coder, 3), (again, 2)):
        assert made.encode(photo[:8, :8], 1) == b"--threads=%d" % count
    jxl = programs.built_in(2)["jxl"]
    assert jxl.threads == 2 and all("{threads}" in text for text in (jxl.encode_command, jxl.decode_command))


def test_digest_of_a_program_changes_with_what_decides_its_files(tmp_path, program):
    changes = [
        {},
        {"encode": '"copycodec encode {input} {output} {quality} 4"'},
        {"decode": '"copycodec decode {input} {output} 4"'},
        {"suffix": '".other"'},
        {"input": '"ppm"'},
    ]
    digests = [read_toml(toml(tmp_path, **change))[0].digest for change in changes]
    assert len(set(digests)) == len(digests) and all(len(digest) == 16 for digest in digests)
    assert read_toml(toml(tmp_path, label='"Other"', qualities="[3]"))[0].digest == digests[0]


def test_names_aliases_and_all_are_found_once():
    assert [c.name for c in find_codecs(["jpeg", "jpeg-444", "webp"], [], 1)] == ["jpeg-444", "jpeg-420", "webp"]
    assert [c.name for c in find_codecs(["all"], [], 1)] == registry.known_codecs()
    assert find_codecs(["none"], [], 1) == []
    with pytest.raises(UsageError, match="no codec jpegs") as error:
        find_codecs(["jpegs"], [], 1)
    assert "webp" in str(error.value.hint)


def test_programs_that_are_not_there_are_missing_with_their_name(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    missing = {c.name: c.missing for c in find_codecs(["bpg", "vtm", "heic"], [], 1)}
    assert missing == {
        "bpg": "program bpgenc is not installed",
        "vtm": "program EncoderApp is not installed",
        "x265": "program heif-enc is not installed",
    }


def test_a_file_beside_a_program_is_missing_too(tmp_path, program):
    path = toml(tmp_path, encode='"copycodec encode {input} {output} {program_dir}/../cfg/a.cfg"')
    assert "is there, but not" in str(read_toml(path)[0].missing)


def test_compressai_without_a_checkpoint_is_missing():
    (coder,) = find_codecs(["compressai"], [], 1)
    assert coder.missing


def test_compressai_of_a_checkpoint_that_was_trained_on_is_another_codec(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "compressai", types.SimpleNamespace(__version__="1", __spec__=object()))
    path = tmp_path / "net.pth.tar"
    entries = []
    for value in (0.0, 1.0):
        torch.save({"g_a.0.weight": torch.full((2,), value)}, path)
        (coder,) = find_codecs(["compressai"], [path], 1)
        entries.append(coder.entry())
    assert entries[0]["digest"] and entries[0]["digest"] != entries[1]["digest"]
    assert entries[0] | {"digest": ""} == entries[1] | {"digest": ""}


@pytest.mark.parametrize("form", ["png", "ppm", "yuv444"])
def test_program_of_a_toml_file_gets_the_image_and_gives_it_back(tmp_path, program, photo, form):
    (coder,) = find_codecs([str(toml(tmp_path, input=f'"{form}"'))], [], 1)
    assert (coder.name, coder.label, coder.kind, coder.qualities) == ("copy", "Copy", "program", (1.0, 2.5))
    crop = photo[:33, :50]
    decoded = coder.decode(coder.encode(crop, 1), 33, 50)
    assert np.abs(decoded.astype(int) - crop).max() <= (2 if form == "yuv444" else 0)
    again = coder_of_entry(coder.entry(), 1)
    assert np.array_equal(again.decode(coder.encode(crop, 1), 33, 50), decoded)


def test_program_that_fails_says_what_it_said(tmp_path, program, photo):
    for direction, message in (("fail", "copycodec exits with 1: something broke"), ("nothing", "wrote no .copy file")):
        path = toml(tmp_path, encode=f'"copycodec {direction} {{input}} {{output}}"')
        with pytest.raises(ProgramError, match=message):
            read_toml(path)[0].encode(photo[:8, :8], 1)
    (coder,) = read_toml(toml(tmp_path))
    with pytest.raises(ProgramError, match="not a PNG image"):
        coder.decode(b"nonsense", 8, 8)
    (coder,) = read_toml(toml(tmp_path, input='"yuv444"'))
    with pytest.raises(ProgramError, match="no 4:4:4 image of 8x8"):
        coder.decode(b"nonsense", 8, 8)


def test_names_with_spaces_stay_one_word(tmp_path, program):
    words = programs.fill("copycodec '{input}' {output} {quality}", {"input": "a b", "output": "c", "quality": "3"})
    assert words == ["copycodec", "a b", "c", "3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encode": None}, "encode is missing"),
        ({"encode": '"copycodec {input}"'}, "no {output}"),
        ({"encode": '"copycodec {input} {output} \'"'}, "No closing quotation"),
        ({"qualities": '["a"]'}, "qualities are numbers"),
        ({"qualities": "[1, 1]"}, "twice"),
        ({"input": '"gif"'}, "input is one of png"),
        ({"speed": "3"}, "speed is unknown"),
        ({"suffix": "[]"}, "of another type"),
    ],
)
def test_toml_that_makes_no_sense_is_named(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        read_toml(toml(tmp_path, **changes))


def test_toml_that_is_not_there_or_not_toml_is_named(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_text("[codec")
    with pytest.raises(UsageError, match="not TOML"):
        read_toml(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_text("a = 1")
    with pytest.raises(UsageError, match="describes no codec"):
        read_toml(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_text('[codec."../x"]\nencode="a {input} {output}"\ndecode="a {input} {output}"\n'
                                     'suffix="x"\nqualities=[1]')
    with pytest.raises(UsageError, match="letters, digits"):
        read_toml(tmp_path / "x.toml")


def test_our_models_are_codecs_with_real_files(model_file, photo):
    (coder,) = model_coders([model_file], (2.0, 6.0), "cpu", 1)
    assert coder.name == "tiny-mbt2018-mean" and coder.model_id and coder.qualities == (2.0, 6.0)
    crop = photo[:64, :96]
    data = coder.encode(crop, 6.0)
    assert data[:4] == coder.encode(crop, 2.0)[:4] and len(data) > 40
    assert set(coder.parts()) == {"transform", "entropy"} and min(coder.parts().values()) > 0
    decoded = coder.decode(data, 64, 96)
    assert decoded.shape == crop.shape
    again = coder_of_entry(coder.entry(), 1, "cpu")
    assert np.array_equal(again.decode(data, 64, 96), decoded)


def test_qualities_are_those_that_a_model_has():
    assert choose_qualities("m", (1.0, 3.5), None) == (1.0, 2.0, 3.0)
    assert choose_qualities("m", (3.2, 3.7), None) == (3.2, 3.7)
    assert choose_qualities("m", (5.0,), (1.0, 2.0)) == (5.0,)
    with pytest.raises(UsageError, match="qualities 1 to 6, not 8"):
        choose_qualities("m", (1.0, 6.0), (2.0, 8.0))


def test_models_are_found_by_name_and_file_and_once(models, model_file, tmp_path, monkeypatch):
    assert find_models([model_file.name.removesuffix(".safetensors"), str(model_file)]) == [model_file]
    assert find_models(["none"]) == []
    shipped = find_models(["all"])
    (tmp_path / shipped[0].name).write_bytes(model_file.read_bytes())
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path))
    assert find_models(["all"]) == shipped  # whatever else is called like one of them
    with pytest.raises(ModelError, match="no model nothing"):
        find_models(["nothing"])


def test_two_models_of_one_name_are_refused(model_file, tmp_path):
    copy = tmp_path / model_file.name
    copy.write_bytes(model_file.read_bytes())
    with pytest.raises(UsageError, match="two models are called"):
        model_coders([model_file, copy], None, "cpu", 1)


def test_published_curves_leave_nothing_to_decode():
    entry = find_codecs(["jpeg-444"], [], 1)[0].entry()
    with pytest.raises(InputError, match="leaves no files"):
        coder_of_entry({**entry, "name": "published:x", "kind": "published"}, 1)
