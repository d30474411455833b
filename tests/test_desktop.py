"""What makes .lic files and the command at home on a desktop: file(1), freedesktop's types, shell completion."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner

from lcodec import cli
from lcodec.container import MAGIC, Container, Header, pack

ROOT = Path(__file__).parents[1]
SHARE = ROOT / "lcodec" / "share"
FILE = pack(Container(Header(20, 30, bytes(range(8))), [b"x"]))


def test_they_are_installed():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"share/*"' in text
    assert {p.name for p in SHARE.iterdir()} == {"lcodec.magic", "lcodec.xml"}


@pytest.mark.skipif(shutil.which("file") is None, reason="file(1) is not there")
def test_file_knows_lic_files(tmp_path):
    path = tmp_path / "a.lic"
    path.write_bytes(FILE)
    command = ["file", "-b", "-m", str(SHARE / "lcodec.magic"), str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout == "lcodec image, version 1, model 0001020304050607\n" and out.stderr == ""
    out = subprocess.run([*command, "--mime-type"], capture_output=True, text=True, check=True)
    assert out.stdout == "image/x-lic\n"


def test_freedesktop_type_has_the_magic_and_the_ending():
    tree = xml.etree.ElementTree.parse(SHARE / "lcodec.xml")
    space = "{http://www.freedesktop.org/standards/shared-mime-info}"
    kind = tree.getroot().find(f"{space}mime-type")
    assert kind is not None and kind.get("type") == "image/x-lic"
    match, glob = kind.find(f"{space}magic/{space}match"), kind.find(f"{space}glob")
    assert match is not None and glob is not None and glob.get("pattern") == "*.lic"
    assert match.get("value", "").encode().decode("unicode_escape").encode("latin-1") == MAGIC


@pytest.mark.skipif(shutil.which("update-mime-database") is None, reason="shared-mime-info is not there")
def test_freedesktop_takes_the_type(tmp_path):
    (tmp_path / "packages").mkdir()
    shutil.copy(SHARE / "lcodec.xml", tmp_path / "packages")
    subprocess.run(["update-mime-database", str(tmp_path)], capture_output=True, check=True)
    assert "50:image/x-lic:*.lic" in (tmp_path / "globs2").read_text()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_calls_the_command(shell):
    result = CliRunner().invoke(cli.cli, ["completion", shell], prog_name="lcodec")
    assert result.exit_code == 0
    assert f"_LCODEC_COMPLETE={shell}_complete" in result.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n", "-c" if shell != "fish" else "--", result.stdout], check=shell == "bash")


def complete(*words: str) -> list[str]:
    """What bash would be told for a line whose last word is being typed."""
    environment = {
        **os.environ,
        "_LCODEC_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "from lcodec.cli import main; main()"
    out = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    return out.stdout.split()


def test_commands_options_and_files_are_completed():
    assert complete("lcodec", "enc") == ["plain,encode"]
    assert "plain,--drop-alpha" in complete("lcodec", "encode", "--d")
    assert complete("lcodec", "encode", "--orient", "") == ["plain,apply", "plain,keep"]
    assert complete("lcodec", "encode", "pho") == ["file,pho"]
    assert set(complete("lcodec", "completion", "")) == {"plain,bash", "plain,zsh", "plain,fish"}


def test_unknown_shell_is_refused():
    result = CliRunner().invoke(cli.cli, ["completion", "tcsh"], prog_name="lcodec")
    assert result.exit_code == 2
