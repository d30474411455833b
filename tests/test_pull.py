"""Fetching of checkpoints: against a server that can be told to misbehave."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

from lcodec import cli, weights
from lcodec.errors import ModelError, OutputError, UsageError
from lcodec.nets import NetConfig, Network
from lcodec.zoo import catalog, download, pull
from tests.test_cli_errors import assert_refused

ROOT = Path(__file__).parents[1]
VECTORS = ROOT.parent / "shared" / "vectors" / "compressai"
DOCUMENT = ROOT.parent / "shared" / "docs" / "compressai.md"


class Handler(BaseHTTPRequestHandler):
    """Serves `files`; `script` holds what the next answers do, "good" once it is used up."""

    files: dict[str, bytes] = {}
    script: list[str] = []
    requests: list[str | None] = []  # the Range of each

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        Handler.requests.append(wanted)
        what = Handler.script.pop(0) if Handler.script else "good"
        data = Handler.files.get(self.path.rsplit("/", 1)[-1])
        if data is None:
            self.send_error(404)
            return
        if what == "503":
            self.send_error(503)
            return
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and what != "whole" else 0
        if first >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        if first:
            place = "9" * 5000 if what == "digits" else str(first)
            self.send_header("Content-Range", f"bytes {place}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", "9" * 5000 if what == "digits" else str(len(data) - first))
        self.end_headers()
        end = len(data) if what in ("good", "whole", "digits") else min(len(data), first + int(what))
        self.wfile.write(data[first:end])

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def server():
    Handler.files, Handler.script, Handler.requests = {}, [], []
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/models/v1"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


DATA = np.random.default_rng(0).bytes(500_000)
PREFIX = hashlib.sha256(DATA).hexdigest()[:8]


def fetch(url: str, target: Path, prefix: str = PREFIX, **options) -> str:
    return download.fetch(f"{url}/{target.name}", target, prefix, pause_s=0.0, **options)


@pytest.fixture
def target(tmp_path, server):
    Handler.files["a.pth.tar"] = DATA
    return tmp_path / "a.pth.tar"


# ---- the transfer


def test_file_arrives_whole_and_its_progress_is_told(server, target):
    told: list[tuple[int, int | None]] = []
    digest = fetch(server, target, progress=lambda done, total: told.append((done, total)))
    assert target.read_bytes() == DATA and digest == hashlib.sha256(DATA).hexdigest()
    assert told[0] == (0, len(DATA)) and told[-1] == (len(DATA), len(DATA))
    assert os.listdir(target.parent) == [target.name]


def test_broken_transfer_goes_on_where_it_stopped(server, target):
    Handler.script = ["100000", "70000", "200000"]
    fetch(server, target)
    assert target.read_bytes() == DATA
    assert Handler.requests == [None, "bytes=100000-", "bytes=170000-", "bytes=370000-"]


def test_next_call_goes_on_where_the_last_one_gave_up(server, target):
    Handler.script = ["1000", "0", "0", "0", "0", "0"]
    with pytest.raises(ModelError, match="connection ended after 1000 of 500000 bytes") as caught:
        fetch(server, target)
    assert "1000 bytes are kept" in str(caught.value.hint)
    partial = target.with_name("a.pth.tar.part")
    assert partial.read_bytes() == DATA[:1000] and not target.exists()
    Handler.script, Handler.requests = [], []
    fetch(server, target)
    assert target.read_bytes() == DATA and not partial.exists()
    assert Handler.requests == ["bytes=1000-"]


def test_server_without_ranges_sends_everything_again(server, target):
    Handler.script = ["1000", "whole"]
    fetch(server, target)
    assert target.read_bytes() == DATA
    assert Handler.requests == [None, "bytes=1000-"]


def test_transfer_that_was_whole_but_not_yet_renamed_is_not_repeated(server, target):
    target.with_name("a.pth.tar.part").write_bytes(DATA)
    fetch(server, target)
    assert target.read_bytes() == DATA
    assert Handler.requests == [f"bytes={len(DATA)}-"]


@pytest.mark.parametrize("old", [b"x" * 1000, b"x" * 600_000], ids=["shorter", "longer"])
def test_piece_of_another_file_is_replaced(server, target, old):
    target.with_name("a.pth.tar.part").write_bytes(old)
    fetch(server, target)
    assert target.read_bytes() == DATA


def test_wrong_content_is_refused_and_not_kept(server, target):
    with pytest.raises(ModelError, match=f"SHA-256 {PREFIX}, not 00000000"):
        fetch(server, target, "00000000")
    assert os.listdir(target.parent) == []
    assert Handler.requests == [None]


def test_mirror_that_breaks_off_wrong_content_is_not_asked_for_ever(server, target):
    Handler.script = ["100000", "good"] * 50
    with pytest.raises(ModelError, match="another content"):
        fetch(server, target, prefix="00000000")
    assert len(Handler.requests) <= 4


def test_file_system_without_locks_will_do(server, target, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    fetch(server, target)
    assert target.read_bytes() == DATA


def test_busy_server_is_asked_again(server, target):
    Handler.script = ["503", "503"]
    fetch(server, target)
    assert target.read_bytes() == DATA and len(Handler.requests) == 3


def test_missing_file_is_told_at_once(server, tmp_path):
    with pytest.raises(ModelError, match="the server answers 404"):
        fetch(server, tmp_path / "b.pth.tar")
    assert os.listdir(tmp_path) == [] and len(Handler.requests) == 1


def test_no_network_is_told_at_once(tmp_path):
    with socket.socket() as s:  # a port where nobody listens
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
    with pytest.raises(ModelError, match="connection refused") as caught:
        fetch(url, tmp_path / "a.pth.tar")
    assert "network" in str(caught.value.hint)
    assert os.listdir(tmp_path) == []


def test_silent_server_is_given_up(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(8)
        with pytest.raises(ModelError, match="timed out"):
            fetch(f"http://127.0.0.1:{s.getsockname()[1]}", tmp_path / "a.pth.tar", timeout_s=0.05)
    assert os.listdir(tmp_path) == []


def test_endless_answer_does_not_fill_the_disk(server, target, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 100_000)
    with pytest.raises(ModelError, match="more than 100000 bytes"):
        fetch(server, target)
    assert os.listdir(target.parent) == []


def test_length_of_absurd_many_digits_is_no_length(server, target):
    Handler.script = ["digits"]
    told: list[int | None] = []
    fetch(server, target, progress=lambda done, total: told.append(total))
    assert target.read_bytes() == DATA and set(told) == {None}
    target.unlink()
    target.with_name("a.pth.tar.part").write_bytes(DATA[:1000])
    Handler.script = ["digits"]
    with pytest.raises(ModelError, match="another content"):  # a piece whose place is not known
        fetch(server, target)


def test_full_disk_is_an_output_error_and_leaves_no_file(server, target, monkeypatch):
    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", fail)
    with pytest.raises(OutputError, match="no space left"):
        fetch(server, target)
    assert not target.exists()


def test_two_processes_do_not_write_into_each_other(server, target):
    fcntl = pytest.importorskip("fcntl")
    with open(target.with_name("a.pth.tar.part"), "ab") as other:
        other.write(b"abc")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ModelError, match="another process is fetching a.pth.tar"):
            fetch(server, target)
    assert target.with_name("a.pth.tar.part").read_bytes() == b"abc"


@pytest.mark.parametrize("url", ["ftp://x/y", "/etc/passwd", "x"])
def test_other_kinds_of_addresses_are_refused(url, tmp_path):
    with pytest.raises(UsageError, match="cannot fetch"):
        download.fetch(url, tmp_path / "a", PREFIX)
    assert os.listdir(tmp_path) == []


def test_folder_is_a_mirror_too(tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "a.pth.tar").write_bytes(DATA)
    fetch(f"file://{tmp_path}/mirror", tmp_path / "a.pth.tar")
    assert (tmp_path / "a.pth.tar").read_bytes() == DATA


# ---- the table


def test_catalog_has_every_file_of_the_zoo_once():
    assert len(catalog.CATALOG) == 8 * 8 + 4 * 6
    assert len({f.file for f in catalog.CATALOG}) == len({f.name for f in catalog.CATALOG}) == len(catalog.CATALOG)
    assert all(re.fullmatch(r"[0-9a-f]{8}", f.sha256_prefix) for f in catalog.CATALOG)


@pytest.mark.skipif(not DOCUMENT.is_file(), reason="no ../shared/docs/compressai.md")
def test_catalog_is_the_documents_table():
    section = DOCUMENT.read_text(encoding="utf-8").split("## 4 ")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\S+)(?: \(underscore\))? \| ((?:[0-9a-f]{8} ?)+)\|", section, re.M)
    told = {f"{stem}-{q}-{digest}.pth.tar" for stem, hashes in rows for q, digest in enumerate(hashes.split(), 1)}
    assert len(rows) == 12 and told == {f.file for f in catalog.CATALOG}


@pytest.mark.parametrize(
    "name, quality, metric, found",
    [
        ("mbt2018-mean-q4-mse", None, None, ["mbt2018-mean-4-6dba02a3.pth.tar"]),
        ("mbt2018", [1, 8], None, ["mbt2018-1-3f36cd77.pth.tar", "mbt2018-8-dd0097aa.pth.tar"]),
        ("cheng2020-anchor", [6], "ms-ssim", ["cheng2020_anchor-ms-ssim-6-f2dc1913.pth.tar"]),
    ],
)
def test_names_qualities_and_metrics_choose_files(name, quality, metric, found):
    assert [f.file for f in catalog.select(name, quality, metric)] == found


def test_what_the_zoo_lacks_is_a_usage_error():
    for arguments in (("vgg", None, None), ("cheng2020-attn", [7], None), ("mbt2018-mean-q4-mse", [4], None)):
        with pytest.raises(UsageError):
            catalog.select(*arguments)
    assert catalog.parse_qualities("1-3,8") == [1, 2, 3, 8]
    for text in ("", "4-1", "x", "1;2", "1-", "44"):
        with pytest.raises(UsageError):
            catalog.parse_qualities(text)


# ---- from the zoo to a model


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(a) for a in arguments], prog_name="lcodec")


def checkpoint_bytes(folder: Path) -> bytes:
    """A CompressAI state_dict: a real one of small width where there is one, else the layout with random weights."""
    if VECTORS.is_dir():
        return (VECTORS / "mbt2018-mean.pth.tar").read_bytes()
    torch.manual_seed(0)
    network = Network(NetConfig("mbt2018-mean", 8, 12))
    # the parameters have CompressAI's names, gains are ours alone
    state = {k: v for k, v in network.state_dict().items() if not k.startswith(("log_", "prior_log"))}
    torch.save(state, folder / "state.pth.tar")
    return (folder / "state.pth.tar").read_bytes()


@pytest.fixture
def zoo(server, tmp_path, monkeypatch, photo):
    """One real file in the zoo, on the server; an empty home; calibration on one small picture."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv(weights.ENVIRONMENT, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lcodec.finalize.calibration_images", lambda: [photo[:128, :128]])
    data = checkpoint_bytes(tmp_path)
    digest = hashlib.sha256(data).hexdigest()
    name = f"mbt2018-mean-4-{digest[:8]}.pth.tar"
    entry = catalog.ZooFile("mbt2018-mean", 4, "mse", name, digest[:8])
    rest = tuple(f for f in catalog.CATALOG if f.name != entry.name)
    monkeypatch.setattr(catalog, "CATALOG", (*rest, entry))
    Handler.files[name] = data
    PIL.Image.fromarray(photo[:80, :90]).save("a.png")
    threads = torch.get_num_threads()
    yield entry
    torch.set_num_threads(threads)


def test_pulled_model_encodes_and_decodes_by_its_name(zoo, server, tmp_path):
    pulled = run("models", "pull", "mbt2018-mean", "-q", "4", "--url", server, "--json")
    assert pulled.exit_code == 0, pulled.output
    record = json.loads(pulled.stdout)
    assert record["name"] == "mbt2018-mean-q4-mse" and record["checkpoint_sha256"].startswith(zoo.sha256_prefix)
    assert record["checkpoint"] is None and record["downloaded"] is True
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == ["mbt2018-mean-q4-mse.safetensors"]
    common = ("--threads", "1", "--device", "cpu")
    encoded = run("encode", "--model", "mbt2018-mean-q4-mse", "--verify", "--json", "a.png", *common)
    assert encoded.exit_code == 0, encoded.output
    assert json.loads(encoded.stdout)["model_id"] == record["id"]
    assert run("decode", "a.lic", "-o", "b.png", *common).exit_code == 0
    listed = run("models").stdout
    assert "mbt2018-mean-q4-mse" in listed and "CompressAI's mbt2018-mean, quality 4, mse" in listed
    assert " dB (1 images)" in listed
    assert_refused(run("models", "pull", "mbt2018-mean-q4-mse", "--url", server), 4, "exists", hint="--force")
    again = run("models", "pull", "mbt2018-mean-q4-mse", "--url", server, "--force", "--json")
    assert json.loads(again.stdout)["id"] == record["id"]


def test_damaged_model_is_told_and_with_force_made_again(zoo, server):
    wanted = ("models", "pull", "mbt2018-mean", "-q", "4", "--url", server, "--json")
    made = json.loads(run(*wanted).stdout)
    damaged = bytearray(Path(made["path"]).read_bytes())
    damaged[-100] ^= 1
    Path(made["path"]).write_bytes(damaged)
    refused = run(*wanted)
    assert refused.exit_code == 5 and "is damaged" in refused.stderr and "there already" not in refused.stderr
    again = json.loads(run(*wanted, "--force").stdout)
    assert again["id"] == made["id"] and weights.is_whole(Path(made["path"]))


def test_kept_checkpoint_is_not_fetched_again(zoo, server):
    first = run("models", "pull", zoo.name, "--url", server, "--keep-checkpoint", "--json")
    kept = Path(json.loads(first.stdout)["checkpoint"])
    assert kept == pull.checkpoint_folder() / zoo.file and kept.read_bytes() == Handler.files[zoo.file]
    Handler.requests.clear()
    second = run("models", "pull", zoo.name, "--url", server, "--keep-checkpoint", "--force", "--json")
    assert json.loads(second.stdout)["downloaded"] is False and Handler.requests == []
    kept.write_bytes(b"damaged")
    third = run("models", "pull", zoo.name, "--url", server, "--force", "--json")
    assert json.loads(third.stdout)["downloaded"] is True and not kept.exists()


def test_checkpoint_that_compressai_has_fetched_is_used_and_left(zoo):
    hub = pull.hub_folder()
    hub.mkdir(parents=True)
    (hub / zoo.file).write_bytes(Handler.files[zoo.file])
    result = run("models", "pull", zoo.name, "--url", "http://127.0.0.1:1", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["downloaded"] is False and (hub / zoo.file).exists()


def test_failed_pulls_leave_no_model_and_name_their_cause(zoo, server, tmp_path):
    Handler.files[zoo.file] = b"something else"
    assert_refused_last(run("models", "pull", zoo.name, "--url", server), "another content than expected")
    del Handler.files[zoo.file]
    assert_refused_last(run("models", "pull", zoo.name, "--url", server), "404")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_one_failure_does_not_keep_the_others_from_coming(zoo, server):
    result = run("models", "pull", "mbt2018-mean", "-q", "3-4", "--url", server, "--json")
    assert result.exit_code == 5
    failed, done = map(json.loads, result.stdout.splitlines())
    assert failed["name"] == "mbt2018-mean-q3-mse" and failed["exit_code"] == 5 and "404" in failed["error"]
    assert done["name"] == zoo.name and Path(done["path"]).is_file()


def test_checkpoint_with_code_in_it_is_not_executed(zoo, server, monkeypatch, tmp_path):
    import pickle

    class Code:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    data = pickle.dumps(Code())
    entry = catalog.ZooFile("mbt2018", 1, "mse", "evil.pth.tar", hashlib.sha256(data).hexdigest()[:8])
    monkeypatch.setattr(catalog, "CATALOG", (entry,))
    Handler.files[entry.file] = data
    assert_refused_last(run("models", "pull", entry.name, "--url", server), "cannot read checkpoint")
    assert not (tmp_path / "executed").exists() and not pull.model_path(entry).exists()


def assert_refused_last(result: Result, part: str) -> None:
    """Like `assert_refused`, where notes may come before the error."""
    errors = [line for line in result.stderr.splitlines() if not line.startswith("lcodec: note: ")]
    assert result.exit_code == 5 and errors[0].startswith("lcodec: error: ") and part in errors[0], result.output


def test_pull_needs_a_name_and_a_quality():
    assert_refused(run("models", "pull"), 2, "needs the name", hint="--list")
    assert_refused(run("models", "pull", "mbt2018"), 2, "several qualities", hint="-q all")
    assert_refused(run("models", "pull", "vgg"), 2, "the CompressAI zoo has no vgg", hint="--list")
    assert_refused(run("models", "pull", "mbt2018", "-q", "1:2"), 2, "are not like")
    listed = run("models", "pull", "--list").stdout.splitlines()
    assert len(listed) == 88 and any("cheng2020-attn-q6-ms-ssim" in line for line in listed)
