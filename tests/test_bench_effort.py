"""The benchmark of `--effort`."""

from __future__ import annotations

import shutil
from pathlib import Path

import PIL.Image
import pytest
from click.testing import CliRunner

from lcodec import weights
from lcodec.bench import store
from lcodec.bench.effort import effort_coders, main, mean_seconds

SHIPPED = Path(__file__).parents[1] / "models" / "mbt2018-mean.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        PIL.Image.fromarray(photo[i * 64 : i * 64 + 64, :96]).save(folder / f"{i}.png")
    return folder


def invoke(folder: Path, out: Path, *more: str):
    arguments = ["--models", str(SHIPPED), "--efforts", "2", "-q", "3,5", "--device", "cpu"]
    return CliRunner().invoke(main, [str(folder), "-o", str(out), *arguments, *more])


def test_bits_saved_and_seconds_are_printed_and_a_run_goes_on(folder, tmp_path):
    out = tmp_path / "out"
    result = invoke(folder, out, "--every", "2")
    assert result.exit_code == 0, result.output
    rows = store.load_rows(out)
    assert {row["image"] for row in rows} == {"0.png", "2.png"} and len(rows) == 2 * 2 * 2
    lines = {line.split("  ")[0]: line for line in result.stdout.splitlines()}
    assert set(lines) == {"model", "mbt2018-mean effort 0", "mbt2018-mean effort 2"}
    saved = float(lines["mbt2018-mean effort 2"].split("%")[0].split()[-1])
    assert saved < -1  # per cent of bits
    quick, slow = (mean_seconds(rows, f"mbt2018-mean effort {e}") for e in (0, 2))
    assert quick > 0 and slow > 0

    text = (out / "results.csv").read_text()
    (out / "results.csv").write_text(text[:-5])  # broken off in the middle of a row
    again = invoke(folder, out, "--every", "2")
    assert "7 rows are there, 1 are to be made" in again.output
    kept = store.load_rows(out)
    assert [(store.key_of(r), r["bytes"]) for r in kept] == [(store.key_of(r), r["bytes"]) for r in rows]


def test_effort_zero_is_always_there(tmp_path):
    path = shutil.copy(SHIPPED, tmp_path / f"mine{weights.SUFFIX}")
    coders = effort_coders([Path(path)], [9, 2], (4.0,), "cpu", 1)
    assert [(c.name, c.effort) for c in coders] == [(f"mine effort {e}", e) for e in (0, 2, 9)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--efforts", "two"], "numbers with commas"),
        (["--efforts", "11"], "not within 0 to 9"),
        (["-q", "9"], "has qualities 1 to 8"),
    ],
)
def test_wrong_arguments_are_refused(folder, tmp_path, arguments, message):
    result = invoke(folder, tmp_path / "out", *arguments)
    assert result.exit_code != 0 and message in result.output
    assert not (tmp_path / "out").exists()
