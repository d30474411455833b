"""The container: framing, checksums, limits, and what is left of damaged files."""

from __future__ import annotations

import re
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcodec import container as lic
from lcodec import header as lic_header
from lcodec.container import Container, Header, SectionType
from lcodec.errors import Corrupt, LimitExceeded, StreamError, Truncated, UnsupportedVersion, UsageError

MODEL_ID = bytes(range(0xA0, 0xA8))
FORMAT_MD = Path(lic.__file__).with_name("FORMAT.md")


def make_varint(value: int) -> bytes:
    """LEB128, written here a second time so that the tests do not check the program against itself."""
    out = []
    while True:
        out.append(value % 128 + (128 if value >= 128 else 0))
        value //= 128
        if not value:
            return bytes(out)


def make_section(type_: int, payload: bytes) -> bytes:
    body = make_varint(len(payload) * 16 + type_) + payload
    return body + zlib.crc32(body).to_bytes(4, "little")


def make_header(width: int, height: int, parameters: int = 2 << 11) -> bytes:
    body = b"\x89LIC\r\n\1" + MODEL_ID + make_varint(width) + make_varint(height)
    body += parameters.to_bytes(2, "little")
    return body + zlib.crc32(body).to_bytes(4, "little")


def plain(width: int = 40, height: int = 30, payload: bytes = b"payload") -> Container:
    return Container(Header(width, height, MODEL_ID), [payload])


def four_slices(icc: bytes | None = None) -> Container:
    """2 x 2 slices of 256 pixels."""
    header = Header(300, 300, MODEL_ID, slice_log2=4)
    return Container(header, [b"first slice", b"second", b"the third slice", b"4"], icc)


# ---- round trips and pinned bytes ----


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
repetitive = st.builds(lambda part, n: part * n, st.binary(max_size=9), st.integers(0, 99))
metadata = st.none() | st.binary(max_size=300) | repetitive


@settings(max_examples=150, deadline=None)
@given(headers, metadata, metadata, metadata, st.randoms(use_true_random=False))
def test_whatever_is_packed_comes_back(header, icc, exif, xmp, random):
    slices = [random.randbytes(random.randint(1, 200)) for _ in range(header.slice_count)]
    written = Container(header, slices, icc, exif, xmp)
    data = lic.pack(written)
    assert lic.unpack(data) == written
    assert lic.unpack(memoryview(bytearray(data))) == written
    assert lic.unpack(data, tolerant=True) == written


def test_the_bytes_of_a_plain_file_are_pinned():
    header = Header(768, 512, MODEL_ID, quality_code=0x1C0, slice_log2=6, gray=False, deep=True)
    expected = (
        "894c49430d0a" "01" "a0a1a2a3a4a5a6a7" "8006" "8004" "c091" "6f62dc18"  # header
        "51" "76616c7565" "d8d545ad"  # one slice
    )
    data = lic.pack(Container(header, [b"value"]))
    assert data.hex() == expected


def test_the_bytes_of_a_file_with_every_section_are_pinned():
    data = lic.pack(replace(four_slices(b"profile"), exif=b"II*\0", xmp=b"<x/>" * 40))
    inflated = zlib.compress(b"<x/>" * 40, 9)
    assert data == (
        make_header(300, 300, parameters=0)
        + make_section(2, bytes([11, 6, 15, 1]))
        + make_section(4, b"\0profile")
        + make_section(6, b"\0II*\0")
        + make_section(8, b"\1" + inflated)
        + make_section(1, b"first slice")
        + make_section(1, b"second")
        + make_section(1, b"the third slice")
        + make_section(1, b"4")
    )


@pytest.mark.parametrize("size", [1, 100, 20_000, 131_071])
def test_a_plain_kodak_file_has_at_most_32_bytes_above_its_payload(size):
    data = lic.pack(Container(Header(768, 512, MODEL_ID), [bytes(size)]))
    assert len(data) - size <= 32
    assert len(data) - size == 32 or size < 1024


# ---- writing refuses what cannot be written ----


@pytest.mark.parametrize("slices", [[], [b"a", b"b"], [b""]])
def test_a_wrong_set_of_slices_is_a_usage_error(slices):
    with pytest.raises(UsageError):
        lic.pack(Container(Header(1, 1, MODEL_ID), slices))


FILES = {
    "plain": lic.pack(plain()),
    "metadata": lic.pack(replace(plain(), icc=b"profile", exif=b"II*\0" * 9, xmp=b"")),
    "slices": lic.pack(four_slices(b"profile")),
    "unknown": make_header(1, 1) + make_section(12, b"?") + make_section(15, b"\x10") + make_section(1, b"x"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_prefix_is_truncated(name):
    data = FILES[name]
    lic.unpack(data)
    for size in range(len(data)):
        with pytest.raises(Truncated):
            lic.unpack(data[:size])


@pytest.mark.parametrize("name", FILES)
def test_every_changed_byte_is_noticed(name):
    data = FILES[name]
    good = lic.unpack(data)
    warned = 0
    for position in range(len(data)):
        for value in range(256):
            if value == data[position]:
                continue
            changed = data[:position] + bytes([value]) + data[position + 1 :]
            try:
                got = lic.unpack(changed)
            except StreamError:
                continue
            warned += 1
            assert set(got.warnings) - set(good.warnings), (position, value)
            assert got.header == good.header and got.slices == good.slices
            for key in ("icc", "exif", "xmp"):
                assert getattr(got, key) in (None, getattr(good, key))
    assert (warned > 0) == (name != "plain")


@pytest.mark.parametrize("name", FILES)
def test_every_changed_byte_is_survived_by_a_tolerant_reader(name):
    """One change costs at most one slice, and never moves or changes another."""
    data = FILES[name]
    good = lic.unpack(data)
    header_bytes = len(lic_header.pack_header(good.header))
    for position in range(header_bytes, len(data)):
        byte = data[position]
        for value in {0, 255, byte ^ 1, byte ^ 128, (byte + 2) % 256} - {byte}:
            changed = data[:position] + bytes([value]) + data[position + 1 :]
            got = lic.unpack(changed, tolerant=True)
            assert len(got.damaged) <= 1
            for i, (a, b) in enumerate(zip(got.slices, good.slices, strict=True)):
                assert a == (b"" if i in got.damaged else b)
            assert got.damaged or got.warnings or got == good


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.sampled_from(sorted(FILES)), st.booleans())
def test_no_tail_makes_another_exception_than_stream_errors(tail, name, tolerant):
    header = FILES[name][: len(lic_header.pack_header(lic.read_header(FILES[name])))]
    try:
        lic.unpack(header + tail, tolerant=tolerant)
    except StreamError:
        pass


sections_of_any_kind = st.builds(
    make_section, st.sampled_from([0, 1, 1, 2, 3, 4, 6, 8, 10, 15]), st.binary(max_size=12)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(sections_of_any_kind, max_size=6), st.booleans())
def test_no_list_of_valid_sections_makes_another_exception_than_stream_errors(sections, tolerant):
    try:
        got = lic.unpack(make_header(300, 30, parameters=0) + b"".join(sections), tolerant=tolerant)
    except StreamError:
        return
    assert len(got.slices) == 2 and (tolerant or all(got.slices))


# ---- what a decoder must reject, one by one ----


HEAD = make_header(1, 1)
SLICE = make_section(1, b"x")
TWO = make_header(300, 30, parameters=0)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (HEAD + SLICE + b"\0", Corrupt, "1 bytes follow the last slice"),
        (HEAD + SLICE + SLICE, Corrupt, "follow the last slice"),
        (HEAD + SLICE + make_section(4, b"\0icc"), Corrupt, "follow the last slice"),
        (HEAD, Truncated, "1 slices, but only 0 bytes"),
        (HEAD + make_section(4, b"\0icc"), Truncated, "before slice 0 of 1"),
        (HEAD + make_section(1, b""), Truncated, "but only 5 bytes"),
        (TWO + make_section(1, b"") + make_section(1, b"long enough"), Corrupt, "slice 0 of 2 is empty"),
        (TWO + SLICE + make_section(1, b"x")[:-1] + b"?", Corrupt, "slice 1 of 2: checksum"),
        (TWO + SLICE + make_section(4, b"\0icc") + SLICE, Corrupt, "ICC stands where slice 1 of 2"),
        (TWO + make_section(2, b"\2\1") + SLICE + SLICE, Corrupt, "has 1 bytes, but INDEX says 2"),
        (TWO + make_section(2, b"\1") + SLICE + SLICE, Corrupt, "INDEX does not hold"),
        (TWO + make_section(2, b"\1\1\1") + SLICE + SLICE, Corrupt, "INDEX does not hold"),
        (TWO + make_section(2, b"\1\0") + SLICE + SLICE, Corrupt, "INDEX does not hold"),
        (TWO + make_section(2, b"\1\x80") + SLICE + SLICE, Corrupt, "INDEX"),
        (TWO + make_section(2, b"\1\1") * 2 + SLICE + SLICE, Corrupt, "INDEX at byte .* second of its type"),
        (HEAD + make_section(4, b"\0icc") * 2 + SLICE, Corrupt, "ICC at byte .* second of its type"),
        (HEAD + make_section(0, b"") * 257 + SLICE, Corrupt, "more than 256 sections"),
        (HEAD + make_section(3, b"a") * 2 + SLICE, Corrupt, "ALPHA at byte .* second of its type"),
        (HEAD + make_section(3, b"a")[:-1] + b"?" + SLICE, Corrupt, "ALPHA at byte .* checksum"),
        (HEAD + make_section(13, b"") + SLICE, UnsupportedVersion, "type 13"),
        (HEAD + make_section(5, b"") + SLICE, UnsupportedVersion, "type 5"),
        (HEAD + make_section(15, b"\x11") + SLICE, UnsupportedVersion, "type 17"),
        (HEAD + make_section(15, b"\x04icc") + SLICE, Corrupt, "type 4 in extended form"),
        (HEAD + make_section(15, b"\x0f") + SLICE, Corrupt, "type 15 in extended form"),
        (HEAD + make_section(15, b"") + SLICE, Corrupt, "no valid extended type"),
        (HEAD + b"\x91\x00x\0\0\0\0", Corrupt, "shortest form"),
        (HEAD + b"\x91\x80\x80\x80\x80\x01x\0\0\0\0", Corrupt, "longer than 5 bytes"),
        (HEAD + b"\xff\xff\xff\xff\x7fx\0\0\0\0", Truncated, "takes 2147483656 bytes of 10"),
        (HEAD[:-1] + bytes([HEAD[-1] ^ 1]) + SLICE, Corrupt, "header: checksum"),
    ],
)
def test_a_malformed_file_is_rejected(data, error, message):
    with pytest.raises(error, match=message):
        lic.unpack(data)


def test_a_whole_file_of_256_unknown_sections_is_read():
    got = lic.unpack(HEAD + make_section(0, b"") * 256 + SLICE)
    assert got.slices == [b"x"] and len(got.warnings) == 256


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("side", [200_000, 2**31 - 1])
def test_huge_declared_sizes_are_rejected_without_memory(side, tolerant):
    """Up to 2^46 slices: no list of that length may come into being."""
    data = make_header(side, side, parameters=0) + SLICE
    tracemalloc.start()
    try:
        with pytest.raises(Truncated, match=f"{(-(-side // 256)) ** 2} slices"):
            lic.unpack(data, tolerant=tolerant)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# ---- metadata ----


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (make_section(4, b"\0profile")[:-1] + b"?", "skipped section ICC at byte 23: checksum"),
        (make_section(4, b""), "unknown compression method None"),
        (make_section(4, b"\2profile"), "unknown compression method 2"),
        (make_section(4, b"\1profile"), "zlib data is damaged"),
        (make_section(4, b"\1" + zlib.compress(b"profile")[:-1]), "zlib data does not end"),
        (make_section(4, b"\1" + zlib.compress(b"profile") + b"?"), "zlib data does not end"),
        (make_section(10, b"made by hand"), "skipped section COMMENT at byte 23: unknown type"),
        (make_section(12, b"profile"), "skipped section type 12 at byte 23: unknown type"),
        (make_section(15, b"\xac\x02profile"), "skipped section type 300 at byte 23: unknown type"),
    ],
)
def test_an_unreadable_ancillary_section_is_a_warning(section, message):
    got = lic.unpack(HEAD + section + SLICE)
    assert got.slices == [b"x"] and got.icc is None
    assert len(got.warnings) == 1 and message in got.warnings[0]


def test_metadata_is_read_in_any_order():
    front = make_section(8, b"\0x") + make_section(4, b"\0i") + make_section(2, b"\1")
    got = lic.unpack(HEAD + front + SLICE)
    assert (got.icc, got.exif, got.xmp, got.warnings) == (b"i", None, b"x", [])


@pytest.mark.parametrize("compressible", [False, True])
def test_metadata_is_bounded_all_together(compressible):
    data = bytes(1000) if compressible else bytes(range(250)) * 4
    packed = lic.pack(replace(plain(), icc=data, xmp=data))
    assert lic.unpack(packed, metadata_limit=2000).xmp == data
    for limit in (0, 999, 1000, 1999):
        with pytest.raises(LimitExceeded):
            lic.unpack(packed, metadata_limit=limit)


def test_a_decompression_bomb_is_refused_by_default():
    bomb = zlib.compressobj(9)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(65)) + bomb.flush()
    with pytest.raises(LimitExceeded):
        lic.unpack(HEAD + make_section(8, b"\1" + packed) + SLICE)


# ---- reading parts ----


def test_list_sections_names_all_sections_and_shows_damage():
    data = bytearray(FILES["slices"])
    listed = list(lic.list_sections(data))
    assert [s.name for s in listed] == ["INDEX", "ICC", "SLICE", "SLICE", "SLICE", "SLICE"]
    assert [len(s.payload) for s in listed] == [4, 8, 11, 6, 15, 1]
    assert listed[-1].end == len(data) and all(s.intact for s in listed)
    assert all(a.end == b.offset for a, b in zip(listed, listed[1:], strict=False))
    data[listed[3].offset + 2] ^= 1
    assert [s.intact for s in lic.list_sections(data)] == [True, True, True, False, True, True]
    (unknown,) = lic.list_sections(HEAD + make_section(15, b"\xad\x02?"))
    assert (unknown.type, unknown.name, unknown.critical, unknown.payload) == (301, "type 301", True, b"?")


# ---- what a damaged file still holds ----


def test_a_tolerant_reader_names_the_damaged_slice():
    whole = four_slices()
    data = lic.pack(whole).replace(b"second", b"sexond")
    with pytest.raises(Corrupt, match="slice 1 of 4"):
        lic.unpack(data)
    got = lic.unpack(data, tolerant=True)
    assert got.damaged == [1] and got.slices == [whole.slices[0], b"", *whole.slices[2:]]


def test_a_tolerant_reader_keeps_what_a_truncated_file_has():
    whole = four_slices(b"profile")
    data = lic.pack(whole)
    got = lic.unpack(data[:-12], tolerant=True)
    assert got.slices == [*whole.slices[:2], b"", b""] and got.damaged == [2, 3] and got.icc == b"profile"


def test_index_makes_damaged_tags_harmless():
    """All four tags are destroyed, and the one of ICC: INDEX and the file's end tell where everything is."""
    data = bytearray(lic.pack(four_slices(b"profile")))
    for section in list(lic.list_sections(data))[1:]:
        data[section.offset] = 0xFF
    got = lic.unpack(data, tolerant=True)
    assert got.slices == four_slices().slices and got.damaged == [] and got.icc is None and got.warnings


def test_without_index_no_slice_is_put_in_another_ones_place():
    body = [make_section(1, s) for s in four_slices().slices]
    head = make_header(300, 300, parameters=0)
    # the tag of slice 1 now says ICC with a payload that swallows slice 2
    swallowed = make_varint((len(body[1]) + len(body[2]) - 5) << 4 | 4) + (body[1] + body[2])[1:]
    got = lic.unpack(head + body[0] + swallowed + body[3], tolerant=True)
    assert got.slices == [b"first slice", b"", b"", b""]
    # the same with slice 0 and 1, where it looks like metadata before the slices
    swallowed = make_varint((len(body[0]) + len(body[1]) - 6) << 4 | 4) + (body[0] + body[1])[1:]
    got = lic.unpack(head + swallowed + body[2] + body[3], tolerant=True)
    assert got.damaged == [0, 1, 2, 3]
    # damaged metadata is no reason to drop slices whose number is right
    damaged = bytearray(make_section(4, b"\0icc"))
    damaged[2] ^= 1
    got = lic.unpack(head + bytes(damaged) + b"".join(body), tolerant=True)
    assert got.slices == four_slices().slices and got.damaged == []


def test_an_index_that_lies_does_no_harm():
    head = make_header(300, 300, parameters=0)
    slices = [make_section(1, s) for s in four_slices().slices]
    for lengths in ([1, 1, 1, 1], [2**31 - 1] * 4, [11, 6, 2**31 - 1, 1]):
        index = make_section(2, b"".join(map(make_varint, lengths)))
        assert lic.unpack(head + index + b"".join(slices), tolerant=True).slices == four_slices().slices


def test_a_tolerant_reader_still_refuses_what_it_does_not_know():
    with pytest.raises(UnsupportedVersion):
        lic.unpack(HEAD + make_section(5, b"") + SLICE, tolerant=True)


# ---- the specification ----


def test_the_example_of_the_specification_is_a_file():
    text = FORMAT_MD.read_text(encoding="utf-8")
    block = re.search(r"<!-- example: file -->\n```\n(.*?)```", text, re.S)
    assert block is not None
    data = b"".join(bytes.fromhex(line.split("|")[0]) for line in block[1].splitlines())
    got = lic.unpack(data)
    model_id = bytes.fromhex("0123456789abcdef")
    assert got.header == Header(320, 200, model_id, quality_code=512, slice_log2=4, gray=True)
    assert got.slices == [b"first slice", b"second"] and got.xmp == b"<x/>"
    assert lic.pack(got) == data


def test_the_specification_states_the_constants_of_the_program():
    text = FORMAT_MD.read_text(encoding="utf-8")
    for field in lic.HEADER_FIELDS:
        assert f"| `{field.name}` |" in text, field.name
    for section in SectionType:
        if section is not SectionType.EXTENDED:
            assert re.search(rf"\| {section.value} \| {section.name} ", text), section.name
    assert f"at most {lic.HEADER_MAX_BYTES} bytes" in text
    assert " ".join(f"{b:02x}" for b in lic.MAGIC) in text


def test_the_container_needs_nothing_but_the_standard_library():
    for module in (lic, lic_header):
        source = Path(module.__file__).read_text(encoding="utf-8")
        for name in re.findall(r"^(?:from|import) ([\w.]+)", source, re.M):
            assert name.split(".")[0] in sys.stdlib_module_names or name in ("lcodec.errors", "lcodec.header")


def test_alpha_is_kept_as_it_is_and_its_loss_is_told_when_tolerant():
    good = Container(Header(1, 1, bytes(8)), [b"slice"], icc=b"profile", alpha=b"opacity")
    data = lic.pack(good)
    assert lic.unpack(data) == good
    place = data.index(b"opacity")
    bad = data[:place] + b"O" + data[place + 1 :]
    with pytest.raises(Corrupt, match="ALPHA"):
        lic.unpack(bad)
    got = lic.unpack(bad, tolerant=True)
    assert (got.alpha, got.icc, got.slices, got.damaged) == (None, b"profile", [b"slice"], [])
    assert len(got.warnings) == 1 and "ALPHA" in got.warnings[0]
