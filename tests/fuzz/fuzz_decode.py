"""Damage .lic files at random and decode their latents and alpha: anything but a StreamError or a result is a fault.

    python tests/fuzz/fuzz_decode.py [--seconds 60] [--seed N]

Half of the cases get their checksums put right again, so that the damage reaches the rANS decoder and the integer
networks. A case that fails is written to fuzz-failure-SEED.lic and reported with its seed; exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from lcodec import container, weights  # noqa: E402
from lcodec.decoder import decode_latents  # noqa: E402
from lcodec.entropy.intmodel import IntegerEntropyModel  # noqa: E402
from lcodec.errors import StreamError  # noqa: E402
from lcodec.image import Picture, decode_alpha, orientation_of, profile  # noqa: E402
from lcodec.limits import Limits  # noqa: E402

MAX_PIXELS = 1 << 20  # a damaged size must not make the run slow
Seed = tuple[bytes, weights.ModelFile, IntegerEntropyModel]


def seeds(folder: Path) -> list[Seed]:
    """One file of each architecture, small models and a small picture, of every second one with alpha and metadata."""
    import PIL.Image

    from lcodec.codec import Codec
    from lcodec.finalize.assemble import finalize_network
    from lcodec.nets import ARCHITECTURES
    from tests.conftest import PHOTO, random_network

    photo = np.asarray(PIL.Image.open(PHOTO).convert("RGB"))[:300, :200]
    made = []
    for name in ARCHITECTURES:
        path = folder / f"{name}{weights.SUFFIX}"
        weights.save(finalize_network(random_network(name), {}, [photo]).model, path)
        codec = Codec(path, "cpu", 1)
        picture = Picture(photo)
        if len(made) % 2:
            alpha = (photo[..., 0].astype(np.uint16) * 257) ^ np.uint16(len(made) // 2)  # of 8 or of 16 bits
            deep = photo.astype(np.uint16) * 257
            picture = Picture(deep, alpha, b"profile" * 20, b"II*\0\x08\0\0\0\0\0", b"<x/>")
        data = codec.encode(picture, 5.0, slice_log2=4).data
        made.append((data, codec.file, codec.entropy))
    return made


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Flips, insertions, deletions, truncation, blocks of zeros or noise."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not out:
            break
        place, kind = int(rng.integers(len(out))), int(rng.integers(6))
        length = int(rng.integers(1, 40))
        if kind == 0:
            out[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[place] = int(rng.integers(256))
        elif kind == 2:
            del out[place : place + length]
        elif kind == 3:
            out[place:place] = rng.bytes(length)
        elif kind == 4:
            out = out[:place]
        else:
            out[place : place + length] = rng.bytes(length) if rng.integers(2) else bytes(length)
    return bytes(out)


def damage_below_checksums(data: bytes, rng: np.random.Generator) -> bytes:
    """The same inside a slice's payload, or that of alpha and of metadata, with checksums that hold."""
    box = container.unpack(data)
    if box.alpha is not None and rng.integers(2):
        name = ("alpha", "alpha", "icc", "exif")[int(rng.integers(4))]
        changed: dict[str, Any] = {name: damage(getattr(box, name), rng)}
        return container.pack(replace(box, **changed))
    slices = list(box.slices)
    i = int(rng.integers(len(slices)))
    slices[i] = damage(bytes(slices[i]), rng) or b"\0"
    if rng.integers(4) == 0:
        rng.shuffle(slices)  # type: ignore[arg-type]
    return container.pack(replace(box, slices=slices))


def decode(data: bytes, model: weights.ModelFile, entropy: IntegerEntropyModel) -> None:
    box = container.unpack(data)
    Limits(pixels=MAX_PIXELS).check_size(box.header.width, box.header.height)
    header = box.header
    if box.alpha is not None:
        decode_alpha(box.alpha, header.height, header.width, header.deep)
    orientation_of(box.exif, box.xmp)
    profile.describe(box.icc or b"")
    decode_latents(box, model, entropy)


def fuzz(found: list[Seed], seconds: float, first: int, report: Callable[[str], None] = print) -> int:
    """Runs until the time is over; returns the number of cases. Raises what a case raised."""
    outcomes: Counter[str] = Counter()
    end, case = time.monotonic() + seconds, first
    while time.monotonic() < end:
        rng = np.random.default_rng(case)
        data, model, entropy = found[int(rng.integers(len(found)))]
        bad = (damage if rng.integers(2) else damage_below_checksums)(data, rng)
        try:
            decode(bad, model, entropy)
            outcomes["decoded"] += 1
        except StreamError as e:
            outcomes[type(e).__name__] += 1
        except BaseException:
            Path(f"fuzz-failure-{case}.lic").write_bytes(bad)
            report(f"case {case} failed, see fuzz-failure-{case}.lic")
            raise
        case += 1
    report(f"{case - first} cases from seed {first}: {dict(outcomes)}")
    return case - first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fuzz(seeds(Path(folder)), arguments.seconds, arguments.seed)


if __name__ == "__main__":
    main()
