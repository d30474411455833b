"""Write the golden vectors: small models, files made with them, and the digests of their latents.

    python tests/make_vectors.py

Run on purpose only. A change in tests/vectors/good means that files made by earlier versions decode differently.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from lcodec import container, weights  # noqa: E402
from lcodec.codec import Codec  # noqa: E402
from lcodec.finalize.assemble import finalize_network  # noqa: E402
from lcodec.header import crc, pack_header  # noqa: E402
from lcodec.image import Picture  # noqa: E402
from lcodec.nets import ARCHITECTURES  # noqa: E402
from tests.conftest import PHOTO, random_network  # noqa: E402

VECTORS = Path(__file__).parent / "vectors"
FORMAT_MD = Path(container.__file__).with_name("FORMAT.md")
EXAMPLE = "<!-- example: whole file -->"


def main() -> None:
    photo = np.asarray(PIL.Image.open(PHOTO).convert("RGB"))[:300, :200]
    for folder in ("good", "bad", "models"):
        shutil.rmtree(VECTORS / folder, ignore_errors=True)
        (VECTORS / folder).mkdir(parents=True)
    expected: dict[str, dict[str, object]] = {}
    for name in ARCHITECTURES:
        path = VECTORS / "models" / f"vector-{name}{weights.SUFFIX}"
        model = finalize_network(random_network(name, 8, 8), {}, [photo[:150]], fp16=True).model
        weights.save(model, path)
        codec = Codec(path, "cpu", 1)
        for quality, slice_log2, height in ((1.0, 6, 150), (6.5, 4, 300)):  # one slice, two
            result = codec.encode(photo[:height], quality, slice_log2=slice_log2)
            file = VECTORS / "good" / f"{name}-q{quality:g}.lic"
            file.write_bytes(result.data)
            expected[file.name] = {"digest": result.y_hat_digest, "size": [200, height]}
    expected |= write_pictures(photo)
    (VECTORS / "good" / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    write_example(photo)
    write_bad((VECTORS / "good" / "mbt2018-mean-q6.5.lic").read_bytes())


def write_pictures(photo: np.ndarray) -> dict[str, dict[str, object]]:
    """Gray, 16 bits, alpha of 8 and of 16 bits, and metadata."""
    codec = Codec(VECTORS / "models" / f"vector-mbt2018-mean{weights.SUFFIX}", "cpu", 1)
    pixels = photo[:60, :80]
    alpha = np.clip(np.hypot(*np.mgrid[:60, :80]) * 3, 0, 255).astype(np.uint8)
    deep = pixels.astype(np.uint16) * 257
    pictures = {
        "gray": Picture(pixels[..., 0].copy()),
        "gray-alpha": Picture(pixels[..., 0].copy(), alpha),
        "alpha-metadata": Picture(pixels, alpha, b"profile" * 40, b"II*\0\x08\0\0\0\0\0\0\0\0\0", b"<x/>"),
        "deep": Picture(deep),
        "gray-deep-alpha": Picture(deep[..., 0].copy(), alpha.astype(np.uint16) * 200 + np.uint16(7)),
    }
    expected: dict[str, dict[str, object]] = {}
    for name, picture in pictures.items():
        result = codec.encode(picture, 4.0)
        file = VECTORS / "good" / f"mbt2018-mean-q4-{name}.lic"
        file.write_bytes(result.data)
        about: dict[str, object] = {"digest": result.y_hat_digest, "size": [80, 60]}
        about |= {"mode": picture.mode, "depth": 16 if picture.deep else 8}
        if picture.alpha is not None:
            big_endian = picture.alpha.astype(picture.alpha.dtype.newbyteorder(">"))
            about["alpha_sha256"] = hashlib.sha256(big_endian.tobytes()).hexdigest()
        for key in ("icc", "exif", "xmp"):
            if (block := getattr(picture, key)) is not None:
                about[f"{key}_sha256"] = hashlib.sha256(block).hexdigest()
        expected[file.name] = about
    return expected


def write_example(photo: np.ndarray) -> None:
    """The worked example of FORMAT.md, section 12.3: a small file in hexadecimal, and the digest of its latents."""
    codec = Codec(VECTORS / "models" / f"vector-mbt2018-mean{weights.SUFFIX}", "cpu", 1)
    result = codec.encode(photo[:12, :20], 1.0)
    text = FORMAT_MD.read_text(encoding="utf-8")
    begin, end = text.index(EXAMPLE) + len(EXAMPLE), text.index("<!-- end -->")
    rows = [result.data[i : i + 16].hex(" ") for i in range(0, len(result.data), 16)]
    block = "\n```\n" + "\n".join(rows) + "\n```\n\nSHA-256 of the latents: `" + result.y_hat_digest + "`\n"
    FORMAT_MD.write_text(text[:begin] + block + text[end:], encoding="utf-8")


def write_bad(good: bytes) -> None:
    """One fault a file; the file's name begins with the error that it must raise."""
    box = container.unpack(good)
    payload = bytes(box.slices[0])

    def flipped(data: bytes, place: int) -> bytes:
        return data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :]

    def with_header(start: int, value: bytes) -> bytes:
        """The bytes at `start` of the header replaced, its checksum right."""
        size = 6 + 1 + 8 + 2 + 2 + 2
        header = good[:start] + value + good[start + len(value) : size]
        return header + crc(header) + good[size + 4 :]

    def with_size(width: int, height: int) -> bytes:
        """A claim that no slices back."""
        return pack_header(replace(box.header, width=width, height=height)) + good[25:]

    first = replace(box, slices=[flipped(payload, len(payload) // 2), *box.slices[1:]])
    cases = {
        "NotLcodec-png": b"\x89PNG\r\n\x1a\n" + good[8:],
        "NotLcodec-newline-translated": good.replace(b"\r\n", b"\n", 1),
        "UnsupportedVersion-2": with_header(6, b"\x02"),
        "Truncated-empty": b"",
        "Truncated-header": good[:15],
        "Truncated-in-slice": good[: len(good) - 20],
        "Truncated-slice-missing": good[: len(good) - len(box.slices[-1]) - 6],
        "Corrupt-header": flipped(good, 17),
        "Corrupt-slice": flipped(good, len(good) - 10),
        "Corrupt-trailing": good + b"\x00",
        "Corrupt-rans-state": container.pack(first),
        "Truncated-rans": container.pack(replace(box, slices=[payload[:-4], *box.slices[1:]])),
        "UnsupportedVersion-critical-section": good[:25] + b"\x0d" + crc(b"\x0d") + good[25:],
        "LimitExceeded-pixels": with_size(2**31 - 1, 2**31 - 1),
        "LimitExceeded-ratio": with_size(13_000, 13_000),
        "LimitExceeded-metadata": container.pack(replace(box, xmp=bytes(container.METADATA_LIMIT_BYTES + 1))),
        "ModelError-unknown-id": with_header(7, b"\x01\x02\x03\x04\x05\x06\x07\x08"),
    }
    for name, data in cases.items():
        (VECTORS / "bad" / f"{name}.lic").write_bytes(data)


if __name__ == "__main__":
    main()
