/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rANS with interleaved 64-bit states, 32-bit words and 16-bit probabilities.
 *
 * What surprises at first:
 *
 *  - The encoder runs backwards. A state is a stack: what was pushed last comes out first. So that the decoder can read
 *    forwards, the encoder takes the symbols from last to first and writes its words from high addresses to low ones.
 *  - Lanes cost nothing to interleave. Symbol i uses state i mod LC_LANES, and all states take their words from one
 *    stream. Whether a state takes a word depends on that state alone, so encoder and decoder agree on whose word comes
 *    next without any marker. The lanes exist to let the processor work on symbols whose latencies overlap.
 *  - The end is checked for free. The encoder starts every state at L, so that is where the decoder must arrive.
 *
 * Letters, after Duda (arXiv:1311.2540) and Giesen (arXiv:1402.3392):
 *
 *     M = 2^16      sum of the frequencies of a table (LC_PROB_TOTAL)
 *     start, freq   the symbol owns the cumulative values start .. start + freq - 1;  1 <= freq < M
 *     L = 2^31      lower bound of a state (LC_STATE_LOWER)
 *     b = 2^32      a word
 *     x             a state. Invariant between any two operations:  L <= x < b L = 2^63
 *
 * The simple version
 * ------------------
 *     push:  if x >= freq * (b L / M):  write x mod b;  x = x div b
 *            x = (x div freq) * M + start + x mod freq
 *     pop:   c = x mod M;  find the symbol with start <= c < start + freq
 *            x = freq * (x div M) + c - start
 *            if x < L:  x = x * b + next word
 *
 * Push keeps the invariant. M divides L, so the symbol's interval before the update is exactly
 * [freq L/M, freq b L/M), and (x div freq) * M + start + x mod freq maps it into [L, b L). A state x < b L that is above
 * it enters it by one division by b, because x / b >= freq L / M, and because x / b < L = freq L / M * (M / freq)
 * which is below freq b L / M since b > M. Pop is its inverse step by step: after x = freq * (x div M) + c - start the
 * state lies in [freq L/M, freq b L/M); it is below L exactly when push had written a word. (If push wrote, the state
 * it went on with was x div b < L. If it did not, that state was the old one, and >= L.)
 * One word always suffices: x >= L / M = 2^15 gives x * b >= 2^47.
 *
 * The fast version
 * ----------------
 * Pop has no division. Push divides by freq, which is known when the table is built:
 *
 *     s = ceil(log2 freq),  r = ceil(2^(63+s) / freq),  x div freq = floor(x * r / 2^(63+s))    for 0 <= x < 2^63
 *
 * Proof: r * freq = 2^(63+s) + e with 0 <= e < freq <= 2^s. So x * r / 2^(63+s) = x / freq + x * e / (freq * 2^(63+s)).
 * The second term is below 1 / freq because x * e < 2^63 * 2^s; x / freq is at least 1 / freq below the next integer, so
 * the floor does not change. For freq >= 2 we have freq > 2^(s-1), hence r < 2^64: it fits a register, and
 * floor(x * r / 2^(63+s)) is the high half of the 128-bit product shifted right by s - 1 >= 0. After the renormalisation
 * x < freq * 2^47 < 2^63, as needed.
 *
 * With q = x div freq the update needs no remainder:
 *
 *     q * M + start + (x - q * freq) = x + start + q * (M - freq)
 *
 * freq = 1 would need s - 1 = -1. There r = 2^64 - 1 and shift 0 give q = x - 1 for x >= 1, and the bias makes up for it:
 *
 *     x + bias + (x - 1) * (M - 1) = x * M + start      with bias = start + M - 1
 *
 * "x >= freq * (b L / M)" is x >> 47 >= freq, since b L / M = 2^47.
 */
#ifndef LC_RANS_H
#define LC_RANS_H

#include <stdint.h>

#include "lc_params.h"
#include "lc_symbols.h"

#if defined(_MSC_VER) && defined(_M_X64)
#include <intrin.h>
#endif

#if defined(__GNUC__) || defined(__clang__)
#define LC_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#else
#define LC_UNLIKELY(condition) (condition)
#endif

/* log2(b L / M) */
#define LC_PUSH_SHIFT (63 - LC_PROB_BITS)

/* Words are little-endian on every machine; compilers turn both of these into one move where that is the native order. */
static inline uint32_t lc_load_word(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline void lc_store_word(uint8_t *p, uint32_t word)
{
    p[0] = (uint8_t)word;
    p[1] = (uint8_t)(word >> 8);
    p[2] = (uint8_t)(word >> 16);
    p[3] = (uint8_t)(word >> 24);
}

/* High half of the 128-bit product. */
static inline uint64_t lc_multiply_high(uint64_t a, uint64_t b)
{
#if defined(__SIZEOF_INT128__)
    __extension__ typedef unsigned __int128 uint128;
    return (uint64_t)((uint128)a * b >> 64);
#elif defined(_MSC_VER) && defined(_M_X64)
    return __umulh(a, b);
#else
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t middle = a1 * b0 + (a0 * b0 >> 32); /* <= (2^32-1)^2 + 2^32-1 < 2^64 */
    uint64_t cross = a0 * b1 + (uint32_t)middle; /* likewise */
    return a1 * b1 + (middle >> 32) + (cross >> 32);
#endif
}

static inline void lc_encode_entry_init(lc_encode_entry *entry, uint32_t start, uint32_t freq)
{
    entry->freq = (uint16_t)freq;
    if (freq == 1) {
        entry->reciprocal = UINT64_MAX;
        entry->shift = 0;
        entry->bias = start + LC_PROB_TOTAL - 1;
        return;
    }
    uint32_t s = 1;
    while ((UINT32_C(1) << s) < freq)
        s++;
    /* ceil(2^(63+s) / freq) by long division in base 2^32: 2^(63+s) = 2^(31+s) * 2^32 and freq < 2^16. */
    uint64_t high = UINT64_C(1) << (31 + s);
    uint64_t low = (high % freq << 32) + freq - 1;
    entry->reciprocal = (high / freq << 32) + low / freq;
    entry->shift = (uint16_t)(s - 1);
    entry->bias = start;
}

/* Pushes a table's entry; the word goes below *pos, which must have 4 bytes of room whether it is needed or not: it is
 * written always and kept by moving *pos, which is cheaper than a branch that nobody can predict. */
static inline uint64_t lc_push(uint64_t x, const lc_encode_entry *entry, uint8_t **pos)
{
    uint64_t full = (x >> LC_PUSH_SHIFT) >= entry->freq;
    lc_store_word(*pos - 4, (uint32_t)x);
    *pos -= full * 4;
    x >>= full * 32;
    uint64_t q = lc_multiply_high(x, entry->reciprocal) >> entry->shift;
    return x + entry->bias + q * (LC_PROB_TOTAL - entry->freq);
}

/* Pushes `bits` <= 16 bits as one of 2^bits equally likely values: rANS with M = 2^bits, freq = 1, start = value. */
static inline uint64_t lc_push_bits(uint64_t x, uint32_t value, unsigned bits, uint8_t **pos)
{
    if (x >> (63 - bits)) {
        *pos -= 4;
        lc_store_word(*pos, (uint32_t)x);
        x >>= 32;
    }
    return x << bits | value;
}

/* The update of pop for an entry found, without the word that may follow. */
static inline uint64_t lc_pop(uint64_t x, lc_decode_entry entry)
{
    return entry.freq * (x >> LC_PROB_BITS) + (x & (LC_PROB_TOTAL - 1)) - entry.start;
}

#endif
