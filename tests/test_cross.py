"""csrc/ without Python, by other compilers and for other processors: the same latents, and nothing undefined.

A small driver in C (tests/cross/decode_driver.c) decodes what the Python package has encoded. It is built
  - by `cc` with the address and undefined behaviour sanitizers, and run with each instruction set of this processor;
  - by cross compilers, and run by qemu: for aarch64, which has kernels of its own, and for s390x, which has its bytes
    in the other order.
What is not installed is skipped; `make test-cross` says what to install.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from lcodec import container
from lcodec.codec import Codec
from lcodec.entropy import _intnet, reference, tables
from lcodec.entropy.intmodel import KINDS, LAYER_ARRAYS, IntegerEntropyModel
from lcodec.errors import Corrupt, Truncated
from lcodec.nets import ARCHITECTURES

from . import test_intnet, test_wavefront

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("csrc", "tests/cross") for path in sorted((ROOT / folder).glob("*.c"))]
FLAGS = ["-std=c11", "-I", str(ROOT / "csrc")]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CROSS = ["-O3", "-static", *WARNINGS]  # -O3: as the package is built

# Numbers of lc_layer_kind, lc_output and lc_status
LAYER_KINDS = ("conv", "context", "deconv", "subpel")
OUTPUTS = ("acc", "int32", "int16")
OK, TRUNCATED, CORRUPT = 0, 1, 2

TARGETS = [
    *(("sanitizer", isa) for isa in _intnet.isas()),
    ("aarch64", "neon"),
    ("aarch64", "scalar"),
    ("s390x", "scalar"),
]
MUTATIONS = 200


class Slice(NamedTuple):
    """Bytes, and what the Python decoder makes of them: y_hat int32 (h, w, M), or None and the status."""

    h: int
    w: int
    data: bytes
    status: int
    y_hat: np.ndarray | None


# ---- the driver


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Name of a target -> the command that runs the driver there, built on first use. Skips where that cannot be."""
    folder = tmp_path_factory.mktemp("cross")
    built: dict[str, list[str]] = {}

    def command(target: str) -> list[str]:
        if target not in built:
            built[target] = build(target, folder)
        return built[target]

    return command


def build(target: str, folder: Path) -> list[str]:
    if target == "sanitizer":
        compiler, runner, flags = "cc", [], SANITIZERS
        missing = [] if shutil.which(compiler) else [compiler]
    else:
        compiler, runner, flags = f"{target}-linux-gnu-gcc", [f"qemu-{target}"], CROSS
        missing = [program for program in (compiler, *runner) if not shutil.which(program)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (see make test-cross)")
    empty = folder / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    if subprocess.run([compiler, *flags, str(empty), "-o", str(folder / "empty")], capture_output=True).returncode:
        pytest.skip(f"{compiler} cannot build even an empty program with {' '.join(flags)}: libraries are missing")
    program = folder / f"driver-{target}"
    run([compiler, *FLAGS, *flags, "-pthread", *map(str, SOURCES), "-o", str(program), "-lm"])
    return [*runner, str(program)]


def run(command: list[str]) -> None:
    """A sanitizer's report, a compiler's warning and a crash all fail the test with what they print."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, f"{' '.join(command)}: {done.returncode}\n{done.stderr}"


# ---- cases: rows of int32, read by the functions read_* of the driver


def words(*values: Any) -> bytes:
    return b"".join(np.asarray(v).astype("<i4").tobytes() for v in values)


def layer_words(params: Mapping[str, Any], output: str) -> bytes:
    kind, weight = params["kind"], np.asarray(params["weight"])
    n = weight.shape[1 if kind == "deconv" else 0]
    n_in = weight.shape[0 if kind == "deconv" else 1]
    arrays = [np.broadcast_to(params[name], n) for name in LAYER_ARRAYS if name != "weight"]
    shape = weight.shape[2], n_in, n // 4 if kind == "subpel" else n
    head = (*shape, params["lo"], params["hi"], OUTPUTS.index(output), weight.size, n)
    return words(LAYER_KINDS.index(kind), *head, weight, *arrays)


def tables_words(cdfs: np.ndarray, sizes: np.ndarray, offsets: np.ndarray) -> bytes:
    return words(*cdfs.shape, cdfs, sizes, offsets)


def model_words(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], table_set: int) -> bytes:
    """A model with one of its table sets, out of what IntegerEntropyModel's docstring promises."""

    def layers(part: str, last_output: str) -> list[tuple[dict[str, Any], str]]:
        params = [
            {**described, **{name: tensors[f"int.{part}.{i}.{name}"] for name in LAYER_ARRAYS}}
            for i, described in enumerate(meta["layers"][part])
        ]
        return list(zip(params, ["int16"] * (len(params) - 1) + [last_output], strict=True))

    def counted(chain: Sequence[tuple[dict[str, Any], str]]) -> bytes:
        return words(len(chain)) + b"".join(layer_words(*layer) for layer in chain)

    kind = meta["kind"]
    prior, fraction_bits = ("tables.y", meta["fy"]) if kind == "factorized" else ("tables.z", meta["fz"])
    cdfs, sizes, offsets, medians = (tensors[name][table_set] for name in names(prior, "medians"))
    out = words(meta["M"], meta["fy"], len(medians), fraction_bits, medians) + tables_words(cdfs, sizes, offsets)
    if kind == "factorized":
        return out + words(0)
    hyper = layers("h_s", "int16" if kind == "context" else "int32")
    thresholds = tensors["scale_thresholds"]
    out += counted(hyper) + words(kind != "hyperprior")
    out += tables_words(*(tensors[name] for name in names("tables.gaussian")))
    out += words(len(thresholds), thresholds)
    if kind != "context":
        return out + words(0)
    # As split_layer does: the part that reads h_s gives sums, with the bias; the part that reads the context goes on.
    (first, output), *rest = layers("entropy_parameters", "int32")
    split = hyper[-1][0]["weight"].shape[0]
    half = {**first, "weight": first["weight"][:, :split]}
    other = {**first, "weight": first["weight"][:, split:], "bias": 0}
    ((context, context_output),) = layers("context", "int16")
    return out + counted([(other, output), *rest]) + layer_words(context, context_output) + layer_words(half, "acc")


def names(prefix: str, *further: str) -> list[str]:
    return [f"{prefix}.{name}" for name in ("cdfs", "sizes", "offsets", *further)]


def slices_words(slices: Sequence[Slice]) -> bytes:
    blocks = (words(s.h, s.w, len(s.data)) + s.data + bytes(-len(s.data) % 4) for s in slices)
    return words(len(slices)) + b"".join(blocks)


def decoded(model: IntegerEntropyModel, data: bytes, h: int, w: int, table_set: int) -> Slice:
    try:
        return Slice(h, w, data, OK, model.decode_slice(data, h, w, table_set))
    except Truncated:
        return Slice(h, w, data, TRUNCATED, None)
    except Corrupt:
        return Slice(h, w, data, CORRUPT, None)


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """A bit flipped, a byte or a word replaced, a piece cut out, or the end cut off."""
    place, other = (int(v) for v in np.sort(rng.integers(len(data) + 1, size=2)))
    match rng.integers(5):
        case 0:
            place = min(place, len(data) - 1)
            return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
        case 1:
            return data[:place] + rng.bytes(1) + data[place + 1 :]
        case 2:
            return data[: place // 4 * 4] + rng.bytes(4) + data[place // 4 * 4 + 4 :]
        case 3:
            return data[: place // 4 * 4] + data[other // 4 * 4 :]
        case _:
            return data[:other]


class Case(NamedTuple):
    model: bytes
    slices: list[Slice]
    damaged: list[Slice]


def case_of(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], table_set: int, slices: list[Slice]) -> Case:
    rng = np.random.default_rng(len(slices[0].data))
    model = IntegerEntropyModel(tensors, meta)
    hurt = [slices[i % len(slices)] for i in range(MUTATIONS)]
    damaged = [decoded(model, damage(s.data, rng), s.h, s.w, table_set) for s in hurt]
    return Case(model_words(tensors, meta, table_set), slices, damaged)


@pytest.fixture(scope="session")
def photo_cases(models: Mapping[str, Path], photo: np.ndarray) -> Callable[[str], Case]:
    """Architecture -> slices of a photograph, encoded and decoded by the package."""
    cases: dict[str, Case] = {}

    def make(name: str) -> Case:
        codec = Codec(models[name], "cpu", 1)
        tensors, meta = codec.file.integers(), codec.file.entropy
        slices = []
        for quality, crop in ((2.0, photo[:100, :300]), (2.0, photo[200:328, 400:528])):
            result = codec.encode(crop, quality, slice_log2=4)
            box = container.unpack(result.data)
            table_set = tables.table_set(list(meta["table_qualities"]), quality)
            blocks = zip(box.slices, box.header.slices(), strict=True)
            slices += [decoded(codec.entropy, bytes(data), h, w, table_set) for data, (_, _, h, w) in blocks]
        return case_of(tensors, meta, table_set, slices)

    def case(name: str) -> Case:
        if name not in cases:
            cases[name] = make(name)
        return cases[name]

    return case


def check_slices(
    command: list[str],
    isa: str,
    folder: Path,
    model: bytes,
    slices: Sequence[Slice],
    thread_counts: Sequence[int] = (1, 2),
) -> None:
    """The driver's statuses and latents are those of the Python decoder."""
    case, result = folder / "case", folder / "result"
    case.write_bytes(model + slices_words(slices))
    for threads in thread_counts:
        run([*command, "slices", str(case), str(result), isa, str(threads)])
        found = np.fromfile(result, "<i4")
        place = 0
        for i, expected in enumerate(slices):
            where = f"slice {i}, {threads} threads"
            assert found[place] == expected.status, where
            place += 1
            if expected.y_hat is not None:
                y_hat = found[place : place + expected.y_hat.size].reshape(expected.y_hat.shape)
                np.testing.assert_array_equal(y_hat, expected.y_hat, err_msg=where)
                place += expected.y_hat.size
        assert place == found.size


# ---- the claims


@pytest.mark.parametrize(("target", "isa"), TARGETS)
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_photo_has_the_same_latents_elsewhere(name, target, isa, driver, photo_cases, tmp_path):
    case = photo_cases(name)
    assert len(case.slices) == 3 and all(s.status == OK and s.y_hat.any() for s in case.slices)
    check_slices(driver(target), isa, tmp_path, case.model, case.slices)


@pytest.mark.parametrize(("target", "isa"), TARGETS)
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_damaged_photo_has_the_same_statuses_elsewhere(name, target, isa, driver, photo_cases, tmp_path):
    case = photo_cases(name)
    assert {s.status for s in case.damaged} >= {TRUNCATED, CORRUPT}
    check_slices(driver(target), isa, tmp_path, case.model, case.damaged, [2])


@pytest.mark.parametrize(("target", "isa"), TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_channels_and_extreme_latents_are_the_same_elsewhere(kind, target, isa, driver, tmp_path, monkeypatch):
    """Channels that fill no vector, or three panels, both ways of upsampling, and latents beyond what a convolution
    sees.
    """
    for flavour, channels in (("deconv", test_wavefront.M), ("subpel", 43)):
        monkeypatch.setattr(test_wavefront, "M", channels)
        tensors, meta = test_wavefront.random_model(kind, 3, flavour)
        model = IntegerEntropyModel(tensors, meta)
        slices = []
        for h, w in ((4, 4), (4, 24), (20, 4), (12, 36)):
            y, z = test_wavefront.random_latents(kind, h, w, h)
            y[::2, 1::3] = -(2**31)
            y[1::2, ::3] = 2**31 - 1
            data, y_hat = model.encode_slice(y, z, 1)
            slices.append(Slice(h, w, data, OK, y_hat))
        assert max(np.abs(s.y_hat).max() for s in slices) > 32767
        check_slices(driver(target), isa, tmp_path, model_words(tensors, meta, 1), slices)


@pytest.mark.parametrize(("target", "isa"), TARGETS)
def test_layers_at_their_limits_are_the_same_elsewhere(target, isa, driver, tmp_path):
    """Sums up to the edge of int32, every kind of layer and block size, against the float64 reference."""
    layers: list[tuple[dict[str, Any], str, np.ndarray]] = []
    rng = np.random.default_rng(11)
    for kind, k in test_intnet.KINDS:
        for height, width, n_in, n_out in test_intnet.SIZES:
            params = test_intnet.random_params(rng, kind, n_in, n_out, k)
            layers.append((params, "int16", test_intnet.random_input(rng, height, width, n_in)))
    for width in range(1, 14):
        params = test_intnet.random_params(rng, "conv", 9, 37, 3, shift=17, lo=-(2**30), hi=2**31 - 1)
        layers += [(params, output, test_intnet.random_input(rng, 2, width, 9)) for output in ("int32", "acc")]
    top = test_intnet.INT32_MAX
    bias = np.array([0, 1, 2]) + (top - 2 - 2 * 32767 * 32767)  # the last sum is 2^31 - 1, all that the proof allows
    x = np.array([[[32767, 32767], [-32767, -32767], [-32767, 32767]]], np.int16)
    for sign, mult, shift in itertools.product((-1, 1), (0, 1, 65535), (1, 2, 16, 31, 32, 33, 39, 40)):
        params = {"kind": "conv", "weight": np.full((3, 2, 1, 1), 32767 * sign), "bias": bias * sign, "shift": shift}
        params |= {"mult_pos": mult, "mult_neg": mult, "lo": -top, "hi": top}
        layers += [(params, output, x) for output in ("int32", "acc")]

    case, result = tmp_path / "case", tmp_path / "result"
    blocks = (layer_words(params, output) + words(*x.shape[:2], x) for params, output, x in layers)
    case.write_bytes(words(len(layers)) + b"".join(blocks))
    run([*driver(target), "layers", str(case), str(result), isa, "1"])
    found = np.fromfile(result, "<i4")
    place = 0
    for params, output, x in layers:
        expected = reference.layer_sums(params, x) if output == "acc" else reference.run_layer(params, x)
        out = found[place : place + expected.size].reshape(expected.shape)
        np.testing.assert_array_equal(out, expected, err_msg=f"{params['kind']} {x.shape} {output}")
        place += expected.size
    assert place == found.size


@pytest.mark.parametrize("compiler", ["gcc", "clang"])  # the cross compilers are asked in `build`
def test_compiler_has_nothing_to_warn_of(compiler, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"not installed: {compiler}")
    flags = [*FLAGS, *WARNINGS, "-O3", "-I", str(ROOT / "tests" / "cross")]
    for source in [*SOURCES, *sorted((ROOT / "tests" / "fuzz").glob("*.c"))]:
        run([compiler, *flags, "-c", str(source), "-o", str(tmp_path / "object.o")])
