"""Whatever a shell makes of stdin, stdout and stderr: closed, full, of another encoding, behind /dev/stdout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lcodec.atomic import open_atomically, write_atomically
from lcodec.errors import OutputError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX shell")
LCODEC = f"{sys.executable} -m lcodec"
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch, model_file):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save("a.png")
    return tmp_path


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of sh, in which `lcodec` is ours and $MODEL a small model."""
    from lcodec import weights

    model = next(Path(os.environ[weights.ENVIRONMENT]).glob("tiny-mbt2018-mean.*"))
    variables = {"PYTHONPATH": str(ROOT), "MODEL": str(model), "OMP_NUM_THREADS": "1", **environment}
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}  # what is left in buffers is the point
    script = f"lcodec() {{ {LCODEC} \"$@\"; }}\n{line}"
    return subprocess.run(
        ["sh", "-c", script], env={**inherited, **variables}, capture_output=True, text=True, timeout=120
    )


def test_pipe_behind_a_name_is_written_to():
    read, write = os.pipe()
    write_atomically(f"/dev/fd/{write}", b"through the pipe")
    os.close(write)
    with open(read, "rb") as file:
        assert file.read() == b"through the pipe"


def test_output_may_be_dev_stdout():
    encode = "lcodec encode a.png --model $MODEL -q 1"
    result = shell(f"{encode} -o a.lic >&2; {encode} -o /dev/stdout > b.lic; {encode} -o /dev/stdout | cat > c.lic")
    for name in ("b.lic", "c.lic"):  # and nothing but the data
        assert Path(name).read_bytes() == Path("a.lic").read_bytes(), result.stderr
    result = shell("lcodec decode a.lic -o a.ppm >&2; lcodec decode a.lic -f ppm -o /dev/fd/1 | cat > b.ppm")
    assert Path("b.ppm").read_bytes() == Path("a.ppm").read_bytes(), result.stderr
    result = shell(f"{encode} -o /dev/stdout --json")
    assert result.returncode == 2 and "--json and the output" in result.stderr


def test_message_of_a_folder_that_is_there_does_not_miss_it():
    with pytest.raises(OutputError, match="no such file"), open_atomically("/proc/lcodec.lic"):
        pass


def test_full_stdout_is_an_output_error_of_few_data_too():
    result = shell("lcodec encode a.png --model $MODEL -q 1 -o - > /dev/full")
    assert (result.returncode, result.stderr.count("\n")) == (4, 1), result.stderr


@pytest.mark.parametrize("json", ["", "--json"])
def test_full_stdout_costs_a_training_its_lines_only(json):
    small = "-N 8 -M 8 --crop 64 --batch 1 --amp off --threads 1 --steps 2 --data . --valid . --out run"
    result = shell(f"lcodec train --model bmshj2018-factorized {small} {json} > /dev/full")
    assert result.returncode == 4 and "cannot write stdout" in result.stderr, result.stderr
    assert "Exception ignored" not in result.stderr and Path("run/checkpoint.pt").is_file()


def test_closed_stdout_costs_the_report_and_not_the_file():
    result = shell("lcodec encode a.png --model $MODEL -o a.lic >&-")
    assert (result.returncode, result.stderr) == (0, "")
    assert Path("a.lic").stat().st_size > 50


def test_data_for_a_closed_stdout_are_refused():
    result = shell("lcodec encode a.png --model $MODEL -o - >&-")
    assert result.returncode == 4 and "stdout is closed" in result.stderr


def test_closed_stderr_does_not_let_messages_into_the_data():
    result = shell("lcodec encode nothing.png --model $MODEL -o - 2>&- > e.lic")
    assert result.returncode == 3
    assert Path("e.lic").read_bytes() == b""


def test_closed_stdin_is_an_input_error():
    result = shell("lcodec encode - --model $MODEL -o a.lic <&-")
    assert result.returncode == 3 and "internal" not in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments", ["encode a.png --model $MODEL -o -", "encode a.png --model $MODEL", "--help", "--version"]
)
def test_full_stdout_is_an_output_error(arguments):
    result = shell(f"lcodec {arguments} > /dev/full")
    assert result.returncode == 4
    message = "cannot write stdout: no space left on device\n"
    assert result.stderr in (f"lcodec: error: {message}", f"lcodec: error: a.png: {message}")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_name_that_stdout_cannot_show_stops_no_batch(encoding):
    Path("many").mkdir()
    for name in ("a\u5199.png", "b.png"):
        os.link("a.png", f"many/{name}")
    result = shell("lcodec encode many --model $MODEL -o out", PYTHONIOENCODING=encoding)
    assert result.returncode == 0, result.stderr
    assert len(list(Path("out").iterdir())) == 2 and "\\u5199" in result.stdout
