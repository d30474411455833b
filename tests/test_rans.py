"""The rANS coder: exact words, round trips, and what it does with bytes that no encoder wrote."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcodec.entropy._rans import LANES, Decoder, Tables, encode
from lcodec.entropy.tables import CODING_TAIL_MASS, gaussian_tables, optimal_cdf, scale_table, stack_tables
from lcodec.errors import Corrupt, ModelError, StreamError, Truncated

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
STATE_LOWER = 2**31

# One table of the symbols -2 .. 2, used wherever a single one does.
EXAMPLE_CDF = [0, 6554, 19661, 45875, 58982, 65535, 65536]
EXAMPLE_OFFSET = -2
EXAMPLE = Tables([EXAMPLE_CDF], [7], [EXAMPLE_OFFSET])


def encode_example(symbols: list[int]) -> bytes:
    return encode([(np.array(symbols, dtype=np.int64), np.zeros(len(symbols), np.uint16), EXAMPLE)])


def decode_all(data: bytes, indexes: np.ndarray, tables: Tables) -> np.ndarray:
    decoder = Decoder(data)
    symbols = decoder.decode(indexes, tables)
    decoder.finish()
    return symbols


def escape_fields(raw: int) -> list[tuple[int, int]]:
    """(value, bits) in decoding order, as FORMAT.md words it."""
    length = raw.bit_length()
    fields = [(length, 6)]
    rest, left = (raw - (1 << (length - 1)), length - 1) if length else (0, 0)
    while left:
        bits = min(16, left)
        fields.append((rest % 2**bits, bits))
        rest, left = rest >> bits, left - bits
    return fields


def reference_encode(steps: list[list[tuple[int, int, int]]], lanes: int = LANES) -> bytes:
    """rANS as the textbook has it, with big integers and divisions.

    steps[i] lists, in decoding order, the (start, freq, bits) of symbol i.
    """
    states, words = [STATE_LOWER] * lanes, []
    for i, step in reversed(list(enumerate(steps))):
        x = states[i % lanes]
        for start, freq, bits in reversed(step):
            if x >= freq * (STATE_LOWER * 2**32 // 2**bits):
                words.append(x % 2**32)
                x //= 2**32
            x = (x // freq) * 2**bits + start + x % freq
            assert STATE_LOWER <= x < 2**63
        states[i % lanes] = x
    out = b"".join(x.to_bytes(8, "little") for x in states)
    return out + b"".join(word.to_bytes(4, "little") for word in reversed(words))


def reference_step(symbol: int, cdf: list[int], offset: int) -> list[tuple[int, int, int]]:
    n, v = len(cdf) - 2, symbol - offset
    if 0 <= v < n:
        return [(cdf[v], cdf[v + 1] - cdf[v], 16)]
    raw = -2 * v - 1 if v < 0 else 2 * (v - n)
    return [(cdf[n], cdf[n + 1] - cdf[n], 16), *((value, 1, bits) for value, bits in escape_fields(raw))]


def tables_strategy(max_tables: int = 4) -> st.SearchStrategy[list[tuple[list[int], int]]]:
    """Lists of (cdf, offset): anything from two entries of frequency 1 and 65535 to several hundred."""
    cuts = st.sets(st.integers(1, 65535), min_size=1, max_size=300)
    near_ends = st.sets(st.sampled_from([1, 2, 3, 255, 256, 257, 32768, 65534, 65535]), min_size=1)
    cdf = st.one_of(cuts, near_ends).map(lambda s: [0, *sorted(s), 65536])
    # The last symbol must be an int32: at most 300 above the offset.
    offset = st.one_of(st.integers(-200, 50), st.integers(INT32_MIN, INT32_MAX - 400))
    return st.lists(st.tuples(cdf, offset), min_size=1, max_size=max_tables)


def make_tables(description: list[tuple[list[int], int]]) -> Tables:
    return Tables(*stack_tables([np.array(c, np.uint32) for c, _ in description], [o for _, o in description]))


@st.composite
def segments_strategy(draw):
    segments = []
    for _ in range(draw(st.integers(0, 4))):
        description = draw(tables_strategy())
        n = draw(st.integers(0, 60))
        indexes = draw(st.lists(st.integers(0, len(description) - 1), min_size=n, max_size=n))
        symbols = []
        for t in indexes:
            cdf, offset = description[t]
            inside = st.integers(offset, offset + len(cdf) - 3)
            anywhere = st.integers(INT32_MIN, INT32_MAX)
            edges = st.sampled_from([INT32_MIN, INT32_MAX, max(offset - 1, INT32_MIN), offset + len(cdf) - 2])
            symbols.append(draw(st.one_of(inside, inside, inside, anywhere, edges)))
        segments.append((symbols, indexes, description))
    return segments


# ---- exact words ----


@pytest.mark.skipif(LANES != 2, reason="these words are those of the format, which has two lanes")
@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        ([], "00000080 00000000 00000080 00000000"),
        ([0], "67660140 01000000 00000080 00000000"),
        ([0, 1, 0, -1, 2, 0], "0267ff40 1f000000 4ab36140 1f000000"),
        ([0, 1, 1000], "9a990340 01000000 cdcc0280 02000000 8bf20000"),
        ([0, -1, -70000, 1, 2], "c05ee22c 40060000 39331a80 0c000000 d2b6083c"),
        ([3], "ffff0000 00002000 00000080 00000000"),
        ([-3], "ffff0100 00002000 00000080 00000000"),
        ([INT32_MIN], "ffff2000 00001000 00000080 00000000 fbffff7f"),
        ([INT32_MAX], "ffff2000 00001000 00000080 00000000 f8ffff7f"),
    ],
)
def test_stream_is_these_exact_words(symbols, expected):
    assert encode_example(symbols).hex(" ", 4) == expected
    indexes = np.zeros(len(symbols), np.uint16)
    assert decode_all(bytes.fromhex(expected), indexes, EXAMPLE).tolist() == symbols


@settings(deadline=None, max_examples=60)
@given(segments_strategy())
def test_words_are_those_of_the_textbook_coder(segments):
    steps = [
        reference_step(symbol, *description[t])
        for symbols, indexes, description in segments
        for symbol, t in zip(symbols, indexes, strict=True)
    ]
    coded = [(s, i, make_tables(d)) for s, i, d in segments if s]
    assert encode(coded) == reference_encode(steps)


def test_division_by_reciprocal_is_exact_for_every_frequency():
    # Tables of two entries: frequencies f and 65536 - f for every f. A random state meets each of them.
    frequencies = np.arange(1, 65536, dtype=np.uint32)
    cdfs = np.stack([np.zeros_like(frequencies), frequencies, np.full_like(frequencies, 65536)], axis=1)
    tables = Tables(cdfs, np.full(65535, 3), np.zeros(65535, np.int32))
    rng = np.random.default_rng(5)
    indexes = rng.permutation(65535).astype(np.uint16)
    symbols = np.zeros(65535, np.int32)  # symbol 0 has frequency f
    steps = [[(0, int(i) + 1, 16)] for i in indexes]
    assert encode([(symbols, indexes, tables)]) == reference_encode(steps)


# ---- round trips ----


@settings(deadline=None, max_examples=100)
@given(segments_strategy(), st.integers(0, 2**32 - 1))
def test_any_int32_comes_back_over_segments_and_split_calls(segments, seed):
    coded = [(np.array(s, np.int64), np.array(i, np.uint16), make_tables(d)) for s, i, d in segments]
    decoder = Decoder(encode(coded))
    rng = np.random.default_rng(seed)
    for symbols, indexes, tables in coded:
        cuts = np.sort(rng.integers(0, indexes.size + 1, 3))
        parts = [decoder.decode(part, tables) for part in np.split(indexes, cuts)]
        assert np.concatenate(parts).tolist() == symbols.tolist()
    decoder.finish()


def test_long_mixed_stream_comes_back():
    scales = scale_table()
    tables = Tables(*gaussian_tables(scales, CODING_TAIL_MASS))
    rng = np.random.default_rng(1)
    indexes = rng.integers(0, 64, 200_001).astype(np.uint16)
    symbols = np.rint(rng.standard_normal(indexes.size) * scales[indexes] * 3).astype(np.int32)  # many escapes
    assert np.array_equal(decode_all(encode([(symbols, indexes, tables)]), indexes, tables), symbols)


def test_table_of_65536_entries_works():
    cdf = np.arange(65537, dtype=np.uint32)
    tables = Tables(cdf[None], [cdf.size], [-30000])
    symbols = np.arange(-31000, 36000, 7, dtype=np.int32)
    indexes = np.zeros(symbols.size, np.uint16)
    assert np.array_equal(decode_all(encode([(symbols, indexes, tables)]), indexes, tables), symbols)


def test_all_escapes_stay_within_the_encoder_buffer():
    symbols = np.full(50_000, INT32_MIN, np.int32)
    indexes = np.zeros(symbols.size, np.uint16)
    tables = Tables([[0, 65535, 65536]], [3], [INT32_MAX])  # the longest escape and the rarest entry
    data = encode([(symbols, indexes, tables)])
    assert np.array_equal(decode_all(data, indexes, tables), symbols)
    assert len(data) / symbols.size < 4 * 2 + 1  # 16 + 6 + 32 bits each


def test_empty_stream_is_only_the_states():
    assert len(encode([])) == 8 * LANES
    decoder = Decoder(encode([]))
    assert decoder.decode(np.zeros(0, np.uint16), EXAMPLE).size == 0
    decoder.finish()


def test_overhead_on_gaussian_symbols_is_below_a_thousandth():
    scales = scale_table()
    arrays = gaussian_tables(scales, CODING_TAIL_MASS)
    rng = np.random.default_rng(3)
    indexes = rng.integers(0, 64, 300_000).astype(np.uint16)
    symbols = np.rint(rng.standard_normal(indexes.size) * scales[indexes]).astype(np.int32)
    data = encode([(symbols, indexes, Tables(*arrays))])
    # The ideal is the code length under the real densities, not under the 16-bit tables.
    s, v = scales[indexes].astype(float), np.abs(symbols).astype(float)
    erfc = np.frompyfunc(math.erfc, 1, 1)
    p = (0.5 * (erfc((v - 0.5) / s / math.sqrt(2)) - erfc((v + 0.5) / s / math.sqrt(2)))).astype(float)
    ideal_bits = -np.log2(p).sum()
    assert len(data) * 8 <= 1.001 * ideal_bits


# ---- damage ----


def damaged_case() -> tuple[bytes, np.ndarray, Tables, np.ndarray]:
    scales = scale_table()
    tables = Tables(*gaussian_tables(scales, CODING_TAIL_MASS))
    rng = np.random.default_rng(2)
    indexes = rng.integers(0, 40, 200).astype(np.uint16)
    symbols = np.rint(rng.standard_normal(indexes.size) * scales[indexes]).astype(np.int32)
    symbols[::25] = rng.integers(INT32_MIN, INT32_MAX, symbols[::25].size)
    return encode([(symbols, indexes, tables)]), indexes, tables, symbols


def test_every_truncation_is_rejected():
    data, indexes, tables, _ = damaged_case()
    for size in range(len(data)):
        with pytest.raises(StreamError):
            decode_all(data[:size], indexes, tables)
    for size in range(8 * LANES, len(data), 4):
        with pytest.raises(Truncated):
            decode_all(data[:size], indexes, tables)


def undetected_flips(data: bytes, indexes: np.ndarray, tables: Tables) -> list[tuple[bytes, np.ndarray]]:
    decoded = []
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            decoded.append((bytes(damaged), decode_all(bytes(damaged), indexes, tables)))
        except StreamError:
            continue
    return decoded


def test_every_flipped_bit_is_noticed_among_modelled_symbols():
    # The states at the end are 62 bits of check.
    _, indexes, tables, symbols = damaged_case()
    symbols = symbols.clip(-1, 1)
    assert undetected_flips(encode([(symbols, indexes, tables)]), indexes, tables) == []


def test_flipped_bits_of_an_escape_change_the_symbol_or_are_noticed():
    # The bits of an escape do not act on the state, so here the container's checksum is the only guard.
    data, indexes, tables, symbols = damaged_case()
    decoded = undetected_flips(data, indexes, tables)
    assert decoded
    assert not any(np.array_equal(d, symbols) for _, d in decoded)
    assert all(encode([(d, indexes, tables)]) == damaged for damaged, d in decoded)


GAUSSIAN = Tables(*gaussian_tables(scale_table(), CODING_TAIL_MASS))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400), st.integers(1, 300))
def test_random_bytes_give_an_error_or_symbols_that_encode_to_them(data, n):
    indexes = (np.arange(n) % 64).astype(np.uint16)
    try:
        symbols = decode_all(data, indexes, GAUSSIAN)
    except StreamError:
        return
    assert encode([(symbols, indexes, GAUSSIAN)]) == data


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(STATE_LOWER, 2**63 - 1), min_size=LANES, max_size=LANES), st.binary(max_size=200))
def test_random_words_behind_valid_states_are_rejected(states, words):
    data = b"".join(x.to_bytes(8, "little") for x in states) + words[: len(words) // 4 * 4]
    indexes = (np.arange(1000) % 64).astype(np.uint16)
    with pytest.raises(StreamError):
        decode_all(data, indexes, GAUSSIAN)


def test_extra_bytes_and_unread_symbols_are_rejected():
    data = encode_example([0, 1, 0, -1])
    indexes = np.zeros(4, np.uint16)
    with pytest.raises(Corrupt):
        decode_all(data + b"\0\0\0\0", indexes, EXAMPLE)
    with pytest.raises(Corrupt):
        decode_all(data + b"\0", indexes, EXAMPLE)
    with pytest.raises(Corrupt):
        decode_all(data, indexes[:3], EXAMPLE)
    with pytest.raises(Truncated):
        decode_all(data, np.zeros(5, np.uint16), EXAMPLE)


@pytest.mark.parametrize("state", [0, 1, STATE_LOWER - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("lane", range(LANES))
def test_initial_state_outside_its_range_is_rejected(state, lane):
    data = bytearray(encode([]))
    data[8 * lane : 8 * lane + 8] = state.to_bytes(8, "little")
    with pytest.raises(Corrupt):
        Decoder(bytes(data))


@pytest.mark.parametrize("length", [34, 35, 63])
def test_escape_of_impossible_length_is_rejected(length):
    fields = [(65535, 1, 16), (length, 1, 6), (0, 1, 16), (0, 1, 16), (0, 1, 16)]
    with pytest.raises(Corrupt):
        decode_all(reference_encode([fields]), np.zeros(1, np.uint16), EXAMPLE)


@pytest.mark.parametrize(("symbol", "is_valid"), [(INT32_MAX, True), (INT32_MAX + 1, False), (INT32_MIN - 1, False)])
def test_escaped_symbol_outside_int32_is_rejected(symbol, is_valid):
    data = reference_encode([reference_step(symbol, EXAMPLE_CDF, EXAMPLE_OFFSET)])
    if is_valid:
        assert decode_all(data, np.zeros(1, np.uint16), EXAMPLE).tolist() == [symbol]
    else:
        with pytest.raises(Corrupt):
            decode_all(data, np.zeros(1, np.uint16), EXAMPLE)


def test_decoder_stays_harmless_after_an_error():
    data, indexes, tables, _ = damaged_case()
    decoder = Decoder(data[:-40])
    for _ in range(5):
        with pytest.raises(StreamError):
            decoder.decode(indexes, tables)
    with pytest.raises(Corrupt):
        decoder.finish()


# ---- arguments ----


@pytest.mark.parametrize(
    ("cdf", "size", "offset"),
    [
        ([0, 65536], 2, 0),  # no symbol beside the escape
        ([1, 5, 65536], 3, 0),
        ([0, 5, 65535], 3, 0),
        ([0, 5, 5, 65536], 4, 0),
        ([0, 9, 5, 65536], 4, 0),
        ([0, 65536, 65536], 3, 0),
        ([0, 2**31, 65536], 3, 0),
        ([0, 5, 65536], 4, 0),  # size beyond the row
        ([0, 5, 65536], 0, 0),
        ([0, 5, 65536], -1, 0),
        ([0, 5, 9, 65536], 3, 0),
        ([0, 5, 9, 65536], 4, INT32_MAX),  # the second symbol would not be an int32
        ([0, 5, 65536], 3, INT32_MAX + 1),
        ([0, -5, 65536], 3, 0),
        ([0.0, 5.0, 65536.0], 3, 0),
    ],
)
def test_table_that_is_no_distribution_is_rejected(cdf, size, offset):
    with pytest.raises(ModelError):
        Tables([cdf], [size], [offset])


def test_the_table_at_fault_is_named():
    good, bad = [0, 5, 65536], [0, 0, 65536]
    with pytest.raises(ModelError, match="table 2 "):
        Tables([good, good, bad], [3, 3, 3], [0, 0, 0])


@pytest.mark.parametrize(
    "arguments",
    [
        (np.zeros((0, 3), np.uint32), [], []),
        ([[0, 5, 65536]], [3, 3], [0]),
        ([[0, 5, 65536]], [3], [0, 0]),
        ([0, 5, 65536], [3], [0]),
        (np.broadcast_to(np.array([0, 5, 65536]), (65537, 3)), np.full(65537, 3), np.full(65537, 0)),
    ],
)
def test_table_arrays_of_wrong_shape_are_rejected(arguments):
    with pytest.raises(ModelError):
        Tables(*arguments)


def test_index_without_a_table_is_rejected():
    with pytest.raises(ValueError, match="table"):
        encode([([0, 0], [0, 1], EXAMPLE)])
    with pytest.raises(ValueError, match="table"):
        Decoder(encode_example([0, 0])).decode([0, 1], EXAMPLE)


def test_arrays_that_would_change_by_conversion_are_rejected():
    with pytest.raises(ValueError, match="symbols"):
        encode([(np.array([2**31]), [0], EXAMPLE)])
    with pytest.raises(TypeError, match="symbols"):
        encode([(np.array([0.5]), [0], EXAMPLE)])
    with pytest.raises(ValueError, match="indexes"):
        encode([([0], np.array([65536]), EXAMPLE)])
    with pytest.raises(ValueError, match="indexes"):
        encode([([0], np.array([-1]), EXAMPLE)])
    with pytest.raises(ValueError, match="2 symbols but 1 indexes"):
        encode([([0, 1], [0], EXAMPLE)])
    with pytest.raises(ValueError, match="dimension"):
        encode([(np.zeros((2, 2), np.int32), np.zeros((2, 2), np.uint16), EXAMPLE)])
    with pytest.raises(TypeError, match="Tables"):
        encode([([0], [0], None)])


def test_arrays_need_not_be_contiguous():
    symbols = np.arange(20, dtype=np.int32)[::-2] % 3
    indexes = np.zeros(20, np.uint16)[::2]
    assert np.array_equal(decode_all(encode([(symbols, indexes, EXAMPLE)]), indexes, EXAMPLE), symbols)


def test_narrow_table_costs_almost_nothing():
    tables = Tables(optimal_cdf([1e-7, 1 - 2e-7, 1e-7, 1e-9])[None], [5], [-1])
    symbols = np.zeros(100_000, np.int32)
    data = encode([(symbols, np.zeros(symbols.size, np.uint16), tables)])
    assert len(data) <= 8 * LANES + 4 * math.ceil(symbols.size * -math.log2(65533 / 65536) / 32 + 1)
