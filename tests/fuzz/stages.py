"""What the Python fuzzers do with an input, a stage each. Anything but a named error, or slowness, is a fault.

An input is any bytes: the first one or two choose a model or a mode, the rest is the data. Half of the modes put
checksums (of a model: its id) right again, so that damage reaches what lies behind them.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lcodec import checkpoint, container, weights
from lcodec.errors import InputError, LcodecError, ModelError, StreamError
from lcodec.header import CRC_BYTES, HEADER_MAX_BYTES, crc, parse_header, read_varint
from lcodec.limits import Limits
from lcodec.nets import ARCHITECTURES, NetConfig, Network, compressai

MAX_PIXELS = 1 << 17  # a damaged size must not make the run slow
SLOW_S = 20.0  # of processor time, for one input


class Fault(AssertionError):
    """What no input may cause."""


@contextmanager
def in_time() -> Iterator[None]:
    start = time.process_time()
    yield
    if (seconds := time.process_time() - start) > SLOW_S:
        raise Fault(f"took {seconds:.1f} s")


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Fault(what)


def with_checksums(data: bytes) -> bytes:
    """The same file with every checksum right, as far as it can be read."""
    out = bytearray(data)
    offset = 0
    for end in range(10, HEADER_MAX_BYTES):
        candidate = bytes(out[:end]) + crc(bytes(out[:end]))
        try:
            _, offset = parse_header(memoryview(candidate))
        except LcodecError:
            continue
        if offset == len(candidate) and offset <= len(out):
            out[:offset] = candidate
            break
    else:
        return data
    while offset < len(out):
        try:
            tag, start = read_varint(memoryview(out), offset)
        except StreamError:
            break
        end = start + (tag >> 4)
        if end + CRC_BYTES > len(out):
            break
        out[end : end + CRC_BYTES] = crc(bytes(out[offset:end]))
        offset = end + CRC_BYTES
    return bytes(out)


class Stage:
    """`seeds`: inputs to begin with. `check`: raises for a fault."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seeds(self) -> list[bytes]:
        raise NotImplementedError

    def check(self, data: bytes) -> None:
        raise NotImplementedError


def photo() -> np.ndarray:
    import PIL.Image

    from tests.conftest import PHOTO

    return np.asarray(PIL.Image.open(PHOTO).convert("RGB"))[:300, :200]


def model_paths(folder: Path, N: int = 8) -> list[Path]:
    """A small model of each architecture, made on first use, in a folder below."""
    from lcodec.finalize.assemble import finalize_network
    from tests.conftest import random_network

    paths = []
    (folder / f"N{N}").mkdir(exist_ok=True)
    for name in ARCHITECTURES:
        path = folder / f"N{N}" / f"{name}{weights.SUFFIX}"
        if not path.exists():
            weights.save(finalize_network(random_network(name, N, N), {}, [photo()[:128]]).model, path)
        paths.append(path)
    return paths


def pictures() -> list[Any]:
    """Of every kind that a file can hold: plain, gray, deep, with alpha and metadata."""
    from lcodec.image import Picture

    plain = photo()[:150, :100]
    alpha = np.arange(150 * 100, dtype=np.uint8).reshape(150, 100)
    deep = plain.astype(np.uint16) * 257
    return [
        Picture(plain),
        Picture(np.ascontiguousarray(plain[..., 0]), icc=b"profile" * 30, exif=b"Exif\0\0abc", xmp=b"<x/>"),
        Picture(plain, alpha=alpha),
        Picture(deep, alpha=alpha.astype(np.uint16) * 3),
    ]


class Decode(Stage):
    """The whole decoder, latents to pixels, of every architecture."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from lcodec.codec import Codec

        self.codecs = [Codec(path, "cpu", 1) for path in model_paths(folder)]

    def seeds(self) -> list[bytes]:
        files = []
        for i, codec in enumerate(self.codecs):
            for j, picture in enumerate(pictures()[: 1 if i else None]):
                data = codec.encode(picture, codec.qualities[-1], slice_log2=4).data
                files += [bytes([i, mode + 4 * (j % 2)]) + data for mode in (0, 1)]
        return files

    def check(self, data: bytes) -> None:
        if len(data) < 2:
            return
        codec, mode, data = self.codecs[data[0] % len(self.codecs)], data[1], data[2:]
        if mode & 1:
            data = with_checksums(data)
        options: dict[str, Any] = {"limits": Limits(pixels=MAX_PIXELS), "allow_partial": bool(mode & 2)}
        if mode & 4:
            options["region"] = (mode, mode >> 1, 1 + mode // 4, 33)
        with in_time():
            try:
                result = codec.decode(data, **options)
            except LcodecError as e:
                require(not isinstance(e, InputError), f"{type(e).__name__} for a file")
                return
        require(result.pixels.dtype in (np.uint8, np.uint16) and result.pixels.size > 0, "no pixels")


class Containers(Stage):
    """Header, sections and metadata."""

    def seeds(self) -> list[bytes]:
        header = container.Header(300, 200, bytes(range(8)), 640, slice_log2=4)
        slices = [bytes([i]) * (i + 3) for i in range(header.slice_count)]
        boxes = [
            container.Container(header, slices),
            container.Container(header, slices, icc=b"a" * 1000, exif=b"b", xmp=b"c" * 70, alpha=b"alpha"),
            container.Container(replace(header, gray=True, deep=True, slice_log2=11), [b"xyz"]),
        ]
        return [bytes([mode]) + container.pack(box) for box in boxes for mode in (0, 1)]

    def check(self, data: bytes) -> None:
        if not data:
            return
        data = with_checksums(data[1:]) if data[0] & 1 else data[1:]
        with in_time():
            try:
                for section in container.list_sections(data):
                    require(0 <= section.offset < section.end <= len(data), "a section lies outside of the file")
            except StreamError:
                pass
            whole = None
            for tolerant in (False, True):
                try:
                    box = container.unpack(data, tolerant=tolerant, metadata_limit=1 << 20)
                except StreamError:
                    continue
                require(sum(map(len, box.slices)) <= len(data), "more slices than data")
                require(len(box.slices) == box.header.slice_count, "slices are missing")
                if not tolerant:
                    whole = box
                elif whole is not None:
                    require(box.slices == whole.slices and not box.damaged, "tolerance changes a good file")
            if whole is not None:
                again = container.unpack(container.pack(whole))
                for key in ("header", "slices", "icc", "exif", "xmp", "alpha"):
                    require(getattr(again, key) == getattr(whole, key), f"{key} does not come back")


class Models(Stage):
    """The loader of model files: safetensors, description, tables, integer layers, tensors of the networks."""

    def seeds(self) -> list[bytes]:
        paths = model_paths(self.folder, 4)
        packed = [b"\0" + weights.pack(weights.load(path), compress=("*",)) for path in paths]
        return packed + [bytes([mode]) + path.read_bytes() for path in paths for mode in (0, 1)]

    def check(self, data: bytes) -> None:
        from lcodec.zoo.verify import verify

        if not data:
            return
        path = self.folder / f"fuzzed{weights.SUFFIX}"
        path.write_bytes(data[1:])
        with in_time():
            try:
                if data[0] & 1:
                    self._make_id_right(path)
                verify(path)
                weights.info(path)
            except ModelError:
                pass

    @staticmethod
    def _make_id_right(path: Path) -> None:
        """Whoever makes a hostile model makes its id as well."""
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        try:
            header = json.loads(raw[8 : 8 + size])
            metadata = json.loads(header["__metadata__"]["lcodec"])
            metadata["id"] = "0" * 64
            header["__metadata__"]["lcodec"] = json.dumps(metadata)
            packed = json.dumps(header).encode()
            path.write_bytes(len(packed).to_bytes(8, "little") + packed + raw[8 + size :])
            model, card = metadata["model"], metadata["card"]
            hollow = weights.ModelFile(model["config"], model["entropy"], {}, card)
            from safetensors import safe_open

            with safe_open(path, framework="numpy") as f:
                tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
        except (LcodecError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise ModelError(f"nothing to repair: {e}") from e
        except Exception as e:  # SafetensorError, which is what `load` turns into a ModelError
            require(type(e).__name__ == "SafetensorError", f"{type(e).__name__} from safetensors")
            raise ModelError("nothing to repair") from e
        weights.save(weights.ModelFile(hollow.config, hollow.entropy, tensors, hollow.card), path)


class Checkpoints(Stage):
    """The loader of checkpoints, ours and CompressAI's."""

    def seeds(self) -> list[bytes]:
        import torch

        files = []
        for name in ("mbt2018-mean", "cheng2020-attn", "bmshj2018-factorized"):
            torch.manual_seed(0)
            network = Network(NetConfig(name, 4, 4))
            state = {k: v for k, v in network.state_dict().items() if not k.startswith(("log_", "prior_log"))}
            ours = {"config": network.config.to_json(), "ema": network.state_dict(), "network": network.state_dict()}
            for content in (state, {"format": checkpoint.FORMAT, **ours}):
                torch.save(content, self.folder / "seed.pt")
                files.append((self.folder / "seed.pt").read_bytes())
        return files

    def check(self, data: bytes) -> None:
        path = self.folder / "fuzzed.pt"
        path.write_bytes(data)
        with in_time():
            try:
                state = checkpoint.load(path)
                if checkpoint.is_ours(state):
                    checkpoint.network_of(state)
                else:
                    compressai.from_state(state)
            except ModelError:
                pass


class Arguments(Stage):
    """The command line: words out of a list, in any order."""

    WORDS = (
        "encode decode info models show verify list remove version finalize search -o -q --quality --model --json "
        "--force --verify --quiet --verbose -v --threads 1 0 -1 999999999999 --device cpu cuda toaster - -- -o - a.png "
        "a.lic b.lic bad.lic text.txt missing.png . .. / sub out.png out.lic sub/ *.png "
        "--region 0,0,8,8 1,2,3 -1,0,5,5 "
        "--limit-pixels 10 1e9 --target-bpp 0.5 --target-psnr 36 nan inf --target-size 2kB 0 --effort --all --yes -f "
        "jpg exe --format --depth 8 --drop-alpha --background white --output-quality "
        "--strip --allow-partial --digest --metric mse --calibration --report --fp16 --summary \x07 "
        "ä \udcff 4 2.5 9 tiny-mbt2018-mean m.safetensors ckpt.pt --help -h -V --debug --debug= --=x -q=4 --list "
        "--resume --skip-existing --fail-fast --text --no-text --card"
    ).split(" ")
    # They start processes, go to the network, or take long on purpose.
    NEVER = frozenset({"train", "pull", "bench", "pack", "ray"})

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import PIL.Image

        from lcodec.codec import Codec

        model = model_paths(folder)[list(ARCHITECTURES).index("mbt2018-mean")]
        self.place = folder / "place"
        (self.place / "sub").mkdir(parents=True, exist_ok=True)
        (self.place / "m.safetensors").write_bytes(model.read_bytes())
        PIL.Image.fromarray(photo()[:40, :50]).save(self.place / "a.png")
        data = Codec(model, "cpu", 1).encode(photo()[:40, :50], 1.0).data
        (self.place / "a.lic").write_bytes(data)
        (self.place / "bad.lic").write_bytes(data[:-3])
        (self.place / "text.txt").write_text("text")
        (self.place / "ckpt.pt").write_bytes(b"PK\x03\x04")
        (folder / "cache").mkdir(exist_ok=True)

    def seeds(self) -> list[bytes]:
        lines = (
            "encode a.png -o out.lic --model m.safetensors --force", "decode a.lic -o out.png --model m.safetensors",
            "info a.lic --digest --json", "models show tiny-mbt2018-mean --json", "models verify --all",
            "finalize ckpt.pt -o m.safetensors --force", "models remove m.safetensors --yes",
        )  # fmt: skip
        return [bytes(self.WORDS.index(word) % 256 for word in line.split()) for line in lines]

    def check(self, data: bytes) -> None:
        from click.testing import CliRunner

        from lcodec import cli

        words = [self.WORDS[b % len(self.WORDS)] for b in data[:12]]
        if self.NEVER & set(words):
            return
        words = [w for w in words if w not in ("/", "..")]  # whose contents are not ours
        environment = {"XDG_CACHE_HOME": str(self.folder / "cache"), weights.ENVIRONMENT: str(self.folder / "N8")}
        before = Path.cwd()
        os.chdir(self.place)
        try:
            with in_time():
                result = CliRunner().invoke(cli.cli, words, prog_name="lcodec", env=environment, input=b"abc")
        finally:
            os.chdir(before)
        line = " ".join(map(repr, words))
        require(result.exception is None or isinstance(result.exception, SystemExit), f"{line}: {result.exception!r}")
        require("internal error" not in result.output, f"{line}: {result.output}")
        require("--debug" in words or "Traceback" not in result.output, f"{line}: {result.output}")
        require(result.exit_code in range(8), f"{line}: exit code {result.exit_code}")


class Encode(Stage):
    """Images of any content: what is decoded is what the encoder said it would be."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from lcodec.codec import Codec

        self.codecs = [Codec(path, "cpu", 1) for path in model_paths(folder)]

    def seeds(self) -> list[bytes]:
        return [bytes([i, kind, 40, 70, 3, 200]) for i in range(len(self.codecs)) for kind in range(len(CONTENTS))]

    def check(self, data: bytes) -> None:
        data = data.ljust(6, b"\0")
        codec, content = self.codecs[data[0] % len(self.codecs)], CONTENTS[data[1] % len(CONTENTS)]
        height, width = 1 + data[2] % 160, 1 + data[3] % 160
        deep, gray = bool(data[4] & 1), bool(data[4] & 2)
        top = 65535 if deep else 255
        rng = np.random.default_rng(list(data))
        shape = (height, width) if gray else (height, width, 3)
        pixels = np.clip(np.rint(content(rng, shape) * top), 0, top).astype(np.uint16 if deep else np.uint8)
        low, high = codec.qualities[0], codec.qualities[-1]
        with in_time():
            coded = codec.encode(pixels, low + (high - low) * data[5] / 255, slice_log2=4 + (data[4] >> 2) % 4)
            decoded = codec.decode(coded.data)
        require(decoded.digest == coded.y_hat_digest, "latents differ")
        require(np.array_equal(decoded.pixels, coded.reconstruction()), "pixels differ")
        same = decoded.pixels.shape == pixels.shape and decoded.pixels.dtype == pixels.dtype
        require(same, "another kind of picture")


Content = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _stripes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    y, x = np.indices(shape[:2])
    picture = ((x // rng.integers(1, 4) + y // rng.integers(1, 4)) % 2).astype(float)
    return picture if len(shape) == 2 else picture[..., None] * rng.random(3)


def _ramp(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    y, x = np.indices(shape[:2])
    ramps = [(y * rng.random() + x * rng.random()) / 160 for _ in range(3)]
    return ramps[0] if len(shape) == 2 else np.stack(ramps, 2)


def _patches(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Flat colours beside noise: the narrowest and the widest tables side by side."""
    picture = np.broadcast_to(rng.random(shape[2:]), shape).copy()
    y, x = (int(rng.integers(n + 1)) for n in shape[:2])
    picture[y:, x:] = rng.integers(0, 2, picture[y:, x:].shape)
    return picture


CONTENTS: tuple[Content, ...] = (
    lambda rng, shape: rng.random(shape),
    lambda rng, shape: rng.integers(0, 2, shape).astype(float),  # the extreme of texture
    lambda rng, shape: np.full(shape, float(rng.integers(0, 3)) / 2),  # black, gray, white
    lambda rng, shape: np.where(rng.random(shape) < 0.001, 1.0, 0.0),
    _stripes,
    _ramp,
    _patches,
)

STAGES: dict[str, type[Stage]] = {
    "container": Containers,
    "decode": Decode,
    "model": Models,
    "checkpoint": Checkpoints,
    "arguments": Arguments,
    "encode": Encode,
}


@contextmanager
def stage(name: str, folder: Path | None = None) -> Iterator[Stage]:
    """A stage on one thread, in a folder of its own if none is given."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as own:
            yield STAGES[name](folder or Path(own))
    finally:
        torch.set_num_threads(threads)
