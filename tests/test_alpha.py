"""Alpha: exact, small, and safe against any bytes; what is not seen costs nothing."""

from __future__ import annotations

import lzma
import re
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lcodec import container
from lcodec.errors import Corrupt, StreamError, UnsupportedVersion
from lcodec.image import alpha, alpha_rows, decode_alpha, encode_alpha, fill_transparent


def disc(height: int = 90, width: int = 120) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.clip(255 * (40 - np.hypot(y - 45, x - 60)) / 4, 0, 255).astype(np.uint8)


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_any_alpha_comes_back_exactly(samples):
    got = decode_alpha(encode_alpha(samples), *samples.shape, deep=samples.dtype == np.uint16)
    assert got.dtype == samples.dtype and np.array_equal(got, samples)


@pytest.mark.parametrize("without_lzma", [False, True])
@pytest.mark.parametrize("type_", [None, 0, 1, 2, 3])
def test_every_way_to_write_rows_is_read(type_, without_lzma, monkeypatch):
    rows = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
    rows[4] = rows[3]
    write = alpha._write_rows
    monkeypatch.setattr(alpha, "_write_rows", lambda a, _type: write(a, type_))
    if without_lzma:
        monkeypatch.setattr(alpha, "lzma", None)
    payload = encode_alpha(rows)
    assert np.array_equal(decode_alpha(payload, 9, 7, False), rows)
    assert np.array_equal(decode_alpha(payload, 9, 7, True), rows.astype(np.uint16) * 257)


def test_rows_are_those_of_the_specification():
    """The worked example, section 12.2 of FORMAT.md: one row of each type; and what it says of 16 bits."""
    text = Path(container.__file__).with_name("FORMAT.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- example: alpha -->\n```\n(.*?)```", text, re.S)
    assert block is not None
    lines = [line.split("|") for line in block[1].splitlines()]
    payload = bytes.fromhex("".join(line[0] for line in lines))
    rows = [line[1].split(":")[1].split() for line in lines if "type" in line[1]]
    assert decode_alpha(payload, 5, 2, False).tolist() == [[int(n) for n in row] for row in rows]
    assert len(rows) == 5
    high_low = bytes([0, 1, 2, 3, 4])
    assert decode_alpha(b"\x10\x01" + zlib.compress(high_low), 1, 2, True).tolist() == [[0x0103, 0x0204]]


def test_sixteen_bits_that_are_eight_take_the_room_of_eight():
    deep = disc().astype(np.uint16) * 257
    assert encode_alpha(deep) == encode_alpha(disc())
    deep[0, 0] += 1
    assert encode_alpha(deep)[0] == 16


def test_opaque_and_smooth_alpha_cost_little():
    assert len(encode_alpha(np.full((3000, 4000), 255, np.uint8))) < 60
    assert len(encode_alpha(disc())) < 800  # 10,800 samples, 1,100 of them neither 0 nor 255


# ---- hostile bytes


def packed(rows: bytes, bits: int = 8) -> bytes:
    return bytes([bits, 1]) + zlib.compress(rows)


@pytest.mark.parametrize(
    "payload, error",
    [
        (b"", Corrupt),
        (b"\x08", Corrupt),
        (b"\x08\x01", Corrupt),
        (b"\x08\x02", Corrupt),
        (b"\x07\x01" + zlib.compress(b"\4\4"), Corrupt),
        (packed(b"\4\4", bits=16), Corrupt),  # in an image of 8 bits
        (b"\x08\x03" + zlib.compress(b"\4\4"), UnsupportedVersion),
        (packed(b"\4"), Corrupt),
        (packed(b"\4\5"), Corrupt),
        (packed(b"\4\0ab"), Corrupt),
        (packed(b"\4\4\4"), Corrupt),
        (packed(b"\4\4") + b"x", Corrupt),
        (packed(b"\4\4")[:-1], Corrupt),
        (b"\x08\x02" + b"\xff" * 20, Corrupt),
    ],
)
def test_payload_that_does_not_hold_the_rows_is_refused(payload, error):
    with pytest.raises(error):
        decode_alpha(payload, 2, 3, False)
    assert np.array_equal(decode_alpha(packed(b"\4\4"), 2, 3, False), np.zeros((2, 3)))


@pytest.mark.parametrize("without_lzma", [False, True])
def test_damaged_payload_is_decoded_or_refused_but_nothing_else(without_lzma, monkeypatch):
    if without_lzma:
        monkeypatch.setattr(alpha, "lzma", None)
    rng = np.random.default_rng(1)
    good = encode_alpha(rng.integers(0, 4, (20, 30), dtype=np.uint8))
    refused = 0
    for _ in range(500):
        bad = bytearray(good)
        for _ in range(int(rng.integers(1, 4))):
            bad[int(rng.integers(len(bad)))] = int(rng.integers(256))
        if rng.integers(4) == 0:
            bad = bad[: int(rng.integers(len(bad)))]
        try:
            assert decode_alpha(bytes(bad), 20, 30, False).shape == (20, 30)
        except StreamError:
            refused += 1
    assert refused > 300


@pytest.mark.parametrize("method", [1, 2])
def test_bomb_is_stopped_at_the_size_of_the_image(method):
    bomb = bytes(20_000_000)
    data = zlib.compress(bomb) if method == 1 else lzma.compress(bomb, lzma.FORMAT_RAW, filters=alpha._lzma_filters())
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            decode_alpha(bytes([8, method]) + data, 10, 10, False)
        assert tracemalloc.get_traced_memory()[1] < 9_000_000
    finally:
        tracemalloc.stop()


def test_rows_come_one_by_one():
    rows = alpha_rows(packed(b"\0abc\4"), 3, 3, False)
    assert next(rows).tobytes() == next(rows).tobytes() == b"abc"
    with pytest.raises(Corrupt):
        next(rows)


# ---- colours that no one sees


def test_hidden_colours_are_filled_smoothly_and_visible_ones_kept(photo):
    hidden = disc()[:, :, None] == 0
    noise = np.random.default_rng(2).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    pixels = np.where(hidden, noise, photo[:90, :120])
    filled = fill_transparent(pixels, disc())
    assert np.array_equal(filled[~hidden[..., 0]], pixels[~hidden[..., 0]])
    assert np.array_equal(filled, fill_transparent(photo[:90, :120], disc()))  # what was there does not matter
    assert np.abs(np.diff(filled[:5].astype(int), axis=1)).max() <= 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_all_or_nothing_transparent_is_served(dtype):
    gray = np.arange(15, dtype=dtype).reshape(3, 5)
    assert fill_transparent(gray, np.ones((3, 5), dtype)) is gray
    flat = fill_transparent(gray, np.zeros((3, 5), dtype))
    assert flat.dtype == dtype and len(np.unique(flat)) == 1
    one = fill_transparent(gray, (gray == 7).astype(dtype))
    assert (one == 7).all()
