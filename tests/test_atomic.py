"""Outputs are whole or not there: processes killed at any moment, full disks, several that write the same file."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lcodec import atomic
from lcodec.atomic import open_atomically, remove_stale, write_atomically
from lcodec.errors import OutputError

ROOT = Path(__file__).parents[1]
# Writes files of 300 kB one after the other, each of one byte value, for ever.
WRITER = """
import sys
from lcodec.atomic import write_atomically
folder, first = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
i = 0
while True:
    write_atomically(f"{folder}/{i % 7}", bytes([first + i % 100]) * 300_000, overwrite=True)
    i += 1
"""


def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def assert_all_whole(folder: Path) -> None:
    for path in folder.iterdir():
        if not path.name.startswith("."):
            data = path.read_bytes()
            assert data == data[:1] * 300_000


def test_killed_at_any_moment_files_are_whole_and_what_is_left_is_recognised(tmp_path):
    moments = random.Random(7)
    left = 0
    for _ in range(12):
        process = start(WRITER, tmp_path, 0)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(moments.uniform(0.0, 0.03))
        process.kill()
        process.communicate(timeout=30)
        assert_all_whole(tmp_path)
        left += len(remove_stale(tmp_path))
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert left, "no kill hit a file half written: the test proves nothing"


def test_several_processes_with_the_same_outputs_leave_whole_files_and_nothing_else(tmp_path):
    processes = [start(WRITER, tmp_path, first) for first in (0, 100)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert_all_whole(tmp_path)
        # Both live. What can go is a file that its writer has made and not locked yet, who notices and makes another;
        # of what is removed beyond that a writer would complain below.
        remove_stale(tmp_path)
    for process in processes:
        process.terminate()
        _, stderr = process.communicate(timeout=30)
        assert stderr == b""
    assert_all_whole(tmp_path)


def test_of_two_that_write_a_new_file_at_once_one_is_told(tmp_path):
    with pytest.raises(OutputError, match="exists"), open_atomically(tmp_path / "a") as slow:
        slow.write(b"slow")
        write_atomically(tmp_path / "a", b"fast")
    assert (tmp_path / "a").read_bytes() == b"fast"
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_being_written_is_not_stale(tmp_path):
    with open_atomically(tmp_path / "a") as file:
        file.write(b"data")
        assert remove_stale(tmp_path) == []
    assert (tmp_path / "a").read_bytes() == b"data"


def test_only_temporary_files_of_ours_are_stale(tmp_path):
    stale = tmp_path / ".a.lic.0123456789ab.tmp"
    (tmp_path / ".a\nb.lic.0123456789ab.tmp").touch()
    assert len(remove_stale(tmp_path)) == 1  # names of any kind
    others = [".a.lic.tmp", "a.lic.0123456789ab.tmp", ".a.lic.0123456789aX.tmp", "b.lic"]
    for name in [stale.name, *others]:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".b.lic.0123456789ab.tmp").mkdir()
    (tmp_path / ".c.lic.0123456789ab.tmp").symlink_to("b.lic")
    os.mkfifo(tmp_path / ".d.lic.0123456789ab.tmp")
    assert remove_stale(tmp_path) == [stale]
    assert not stale.exists()
    assert {*others, ".b.lic.0123456789ab.tmp", ".c.lic.0123456789ab.tmp", ".d.lic.0123456789ab.tmp"} == set(
        os.listdir(tmp_path)
    )


def test_file_that_was_taken_for_stale_before_it_was_locked_is_begun_anew(tmp_path, monkeypatch):
    lock = atomic._lock
    assert lock is not None
    removed = []

    def late(descriptor: int, wait: bool) -> None:
        if wait and not removed:  # another process tidies between the opening and the locking
            (name,) = os.listdir(tmp_path)
            os.unlink(tmp_path / name)
            removed.append(name)
        lock(descriptor, wait)

    monkeypatch.setattr(atomic, "_lock", late)
    write_atomically(tmp_path / "a", b"data")
    assert removed
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"data"


def test_without_locks_files_are_written_and_nothing_is_removed(tmp_path, monkeypatch):
    def no_locks(_descriptor: int, _wait: bool) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(atomic, "_lock", no_locks)
    write_atomically(tmp_path / "a", b"data")
    stale = tmp_path / ".a.lic.0123456789ab.tmp"
    stale.write_bytes(b"x")
    assert remove_stale(tmp_path) == []
    assert sorted(os.listdir(tmp_path)) == [stale.name, "a"]


def test_tidying_a_folder_that_is_not_there_is_no_error(tmp_path):
    assert remove_stale(tmp_path / "none") == []


def test_disk_that_fills_up_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    """The system itself refuses, in the midst of the data."""
    (tmp_path / "old").write_bytes(b"kept")
    code = (
        "import resource, signal, sys\n"
        "from lcodec.atomic import write_atomically\n"
        "from lcodec.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "for name in ('old', 'new'):\n"
        "    try:\n"
        "        write_atomically(sys.argv[1] + '/' + name, bytes(1_000_000), overwrite=True)\n"
        "    except OutputError as error:\n"
        "        print(error)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    stdout, stderr = start(code, tmp_path).communicate(timeout=30)
    assert stderr == b""
    assert [line.split(": ")[1] for line in stdout.decode().splitlines()] == ["file too large"] * 2
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == b"kept"


def test_error_while_the_data_is_made_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), open_atomically(tmp_path / "a") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_while_writing_nothing_is_left(tmp_path, number):
    code = (
        "import signal, sys, time\n"
        "from lcodec.atomic import open_atomically\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "with open_atomically(sys.argv[1] + '/a') as file:\n"
        "    file.write(b'half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(30)\n"
    )
    process = start(code, tmp_path)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    assert os.listdir(tmp_path) == []


def test_overwritten_file_leaves_its_permissions(tmp_path):
    private, new = tmp_path / "private", tmp_path / "new"
    private.write_bytes(b"before")
    private.chmod(0o600)
    write_atomically(private, b"after", overwrite=True)
    write_atomically(new, b"after")
    assert private.read_bytes() == b"after" and private.stat().st_mode & 0o777 == 0o600
    umask = os.umask(0)
    os.umask(umask)
    assert new.stat().st_mode & 0o777 == 0o666 & ~umask


def test_name_may_be_as_long_as_the_system_takes(tmp_path):
    path = tmp_path / ("\N{GRINNING FACE}" * 61 + ".lic")
    write_atomically(path, b"data")
    assert path.read_bytes() == b"data" and list(tmp_path.iterdir()) == [path]
