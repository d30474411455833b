"""The header: bits, ranges, geometry, and what is not a .lic file."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcodec import container as lic
from lcodec.container import Header
from lcodec.errors import Corrupt, NotLcodec, Truncated, UnsupportedVersion, UsageError
from lcodec.header import pack_header

MODEL_ID = bytes(range(0xA0, 0xA8))


def make_header(width: bytes, height: bytes, parameters: int = 2 << 11, version: int = 1) -> bytes:
    """width, height: varints. Written a second time so that the program is not checked against itself."""
    body = b"\x89LIC\r\n" + bytes([version]) + MODEL_ID + width + height + parameters.to_bytes(2, "little")
    return body + zlib.crc32(body).to_bytes(4, "little")


ONE = Header(1, 1, MODEL_ID)


headers = st.builds(
    Header,
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    model_id=st.binary(min_size=8, max_size=8),
    quality_code=st.integers(0, 2047),
    slice_log2=st.integers(4, 11),
    gray=st.booleans(),
    deep=st.booleans(),
)


@given(
    st.builds(
        Header,
        width=st.integers(1, 2**31 - 1),
        height=st.integers(1, 2**31 - 1),
        model_id=st.binary(min_size=8, max_size=8),
        quality_code=st.integers(0, 2047),
        slice_log2=st.integers(4, 11),
        gray=st.booleans(),
        deep=st.booleans(),
    )
)
def test_a_header_of_any_size_comes_back_from_its_bytes_alone(header):
    data = pack_header(header)
    assert len(data) <= lic.HEADER_MAX_BYTES <= 64
    assert lic.read_header(data) == header
    assert lic.read_header(data + b"anything" * 9) == header


@pytest.mark.parametrize(
    ("field", "value", "parameters"),
    [
        ("quality_code", 0, 0x1000),
        ("quality_code", 2047, 0x17FF),
        ("slice_log2", 4, 0x0000),
        ("slice_log2", 11, 0x3800),
        ("gray", True, 0x5000),
        ("deep", True, 0x9000),
    ],
)
def test_each_parameter_has_its_bits(field, value, parameters):
    header = replace(ONE, **{field: value})
    assert pack_header(header) == make_header(b"\1", b"\1", parameters)
    assert lic.read_header(make_header(b"\1", b"\1", parameters)) == header


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0}, {"height": 2**31}, {"model_id": b"short"}, {"quality_code": 2048}, {"slice_log2": 3},
        {"slice_log2": 12},
    ],
)  # fmt: skip
def test_a_header_out_of_range_is_a_usage_error(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        Header(**{"width": 1, "height": 1, "model_id": MODEL_ID} | change)


def test_quality_is_kept_to_the_nearest_128th():
    assert [lic.quality_to_code(q) for q in (0, 4, 4.3, 15.9999)] == [0, 512, 550, 2047]
    assert [lic.quality_to_code(n / 256) for n in (1, 3, 5, 1025)] == [1, 2, 3, 513]  # halves up
    assert Header(1, 1, MODEL_ID, quality_code=550).quality == pytest.approx(4.3, abs=1 / 256)
    for quality in (-0.1, 16, float("nan")):
        with pytest.raises(UsageError):
            lic.quality_to_code(quality)


def test_describe_walks_all_fields():
    described = {name: value for name, value, _ in ONE.describe()}
    assert described == {
        "model_id": MODEL_ID.hex(), "width": "1", "height": "1", "quality_code": "0", "slice_log2": "6",
        "gray": "0", "deep": "0",
    }  # fmt: skip


# ---- geometry ----


@given(headers)
def test_slices_tile_the_latents(header):
    assert 16 * header.latent_height % 64 == 0 and 0 <= 16 * header.latent_height - header.height < 64
    assert 16 * header.latent_width % 64 == 0 and 0 <= 16 * header.latent_width - header.width < 64
    blocks = list(header.slices())
    assert len(blocks) == header.slice_count
    assert blocks == sorted(blocks)
    assert sum(h * w for _, _, h, w in blocks) == header.latent_height * header.latent_width
    side = 2**header.slice_log2
    for y0, x0, height, width in blocks:
        assert y0 % side == x0 % side == 0
        assert 0 < height <= side and 0 < width <= side and height % 4 == width % 4 == 0
        assert y0 + height <= header.latent_height and x0 + width <= header.latent_width


def test_slices_stand_in_raster_order():
    header = Header(1025, 2048, MODEL_ID, slice_log2=6)
    assert header.slice_grid == (2, 2)
    assert list(header.slices()) == [(0, 0, 64, 64), (0, 64, 64, 4), (64, 0, 64, 64), (64, 64, 64, 4)]


# ---- what is not a header ----


def test_matches_needs_the_whole_magic():
    data = pack_header(ONE)
    assert lic.matches(data) and lic.matches(data[:6])
    assert not lic.matches(data[:5]) and not lic.matches(b"") and not lic.matches(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("mangle", [
    lambda d: d.replace(b"\r\n", b"\n"),
    lambda d: d.replace(b"\n", b"\r\n"),
    lambda d: bytes(b & 0x7F for b in d),
    lambda d: d.decode("latin-1").encode("utf-8"),
])  # fmt: skip
def test_a_text_mode_transfer_is_recognised(mangle):
    with pytest.raises(NotLcodec) as caught:
        lic.read_header(mangle(pack_header(ONE)))
    assert "binary" in str(caught.value.hint)


def test_another_file_is_not_lcodec():
    with pytest.raises(NotLcodec) as caught:
        lic.read_header(b"\x89PNG\r\n\x1a\n" + bytes(50))
    assert caught.value.hint is None


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused(version):
    with pytest.raises(UnsupportedVersion):
        lic.read_header(make_header(b"\1", b"\1", version=version))


class Dribble(io.RawIOBase):
    """Gives 7 bytes at a time, as a pipe may, and counts them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.given = data, 0

    def read(self, size: int = -1) -> bytes:
        chunk = self.data[self.given : self.given + min(size, 7)]
        self.given += len(chunk)
        return chunk


def test_a_header_is_read_from_a_stream_without_the_rest():
    stream = Dribble(pack_header(ONE) + bytes(5000))
    assert lic.read_header_from(stream) == ONE
    assert stream.given <= lic.HEADER_MAX_BYTES
    with pytest.raises(Truncated):
        lic.read_header_from(io.BytesIO(b""))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_header(b"\0", b"\1"), "width is out of range"),
        (make_header(b"\1", b"\x80\x80\x80\x80\x08"), "height is out of range"),
        (make_header(b"\x81\0", b"\1"), "shortest form"),
        (make_header(b"\1", b"\x81\x80\x80\x80\x80\1"), "longer than 5 bytes"),
        (make_header(b"\1", b"\1")[:-1] + b"?", "header: checksum"),
    ],
)
def test_a_malformed_header_is_rejected(data, message):
    with pytest.raises(Corrupt, match=message):
        lic.read_header(data + bytes(40))
