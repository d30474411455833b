/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Tables, the loops over symbols, and the escape code. The arithmetic is in lc_rans.h.
 */
#include "lc_symbols.h"

#include <stdlib.h>
#include <string.h>

#include "lc_rans.h"

#if defined(__GNUC__) && !defined(__clang__)
#define LC_UNROLL_LANES _Pragma("GCC unroll 8")
#else
#define LC_UNROLL_LANES
#endif

#if defined(__GNUC__) || defined(__clang__)
#define LC_NOINLINE __attribute__((noinline))
#else
#define LC_NOINLINE
#endif

/* ---------------------------------------------------------------------------------------------------------- tables */

/* The decoder finds an entry by its bucket, the top bits of the cumulative value, and then looks forward. Four buckets an
 * entry make "the first entry of the bucket or the next" the common case; the limits bound memory (512 bytes to 8 KiB a
 * table) and keep narrow tables, which carry most symbols, in the first-level cache. */
#define LC_MIN_BUCKET_BITS 8
#define LC_MAX_BUCKET_BITS 12
#define LC_BUCKETS_PER_ENTRY 4

static unsigned bucket_bits(uint32_t n_entries)
{
    unsigned bits = LC_MIN_BUCKET_BITS;
    while (bits < LC_MAX_BUCKET_BITS && (UINT32_C(1) << bits) < LC_BUCKETS_PER_ENTRY * n_entries)
        bits++;
    return bits;
}

static int cdf_is_valid(const uint32_t *cdf, size_t stride, int32_t size, int32_t offset)
{
    if (size < 3 || (size_t)size > stride || cdf[0] != 0 || cdf[size - 1] != LC_PROB_TOTAL)
        return 0;
    for (int32_t k = 1; k < size; k++)
        if (cdf[k] <= cdf[k - 1])
            return 0;
    return (int64_t)offset + size - 3 <= INT32_MAX; /* the last symbol that is not escaped */
}

static void fill_table(lc_tables *tables, const lc_table *table, const uint32_t *cdf)
{
    uint32_t n_entries = (uint32_t)table->escape + 1;
    for (uint32_t k = 0; k < n_entries; k++) {
        uint32_t start = cdf[k], freq = cdf[k + 1] - cdf[k];
        lc_encode_entry_init(&tables->encode_entries[table->first_entry + k], start, freq);
        tables->decode_entries[table->first_entry + k].start = (uint16_t)start;
        tables->decode_entries[table->first_entry + k].freq = (uint16_t)freq;
    }
    uint32_t n_buckets = LC_PROB_TOTAL >> table->bucket_shift;
    uint32_t k = 0;
    for (uint32_t bucket = 0; bucket < n_buckets; bucket++) {
        while (cdf[k + 1] <= bucket << table->bucket_shift)
            k++;
        tables->buckets[table->first_bucket + bucket] = (uint16_t)k;
    }
}

lc_status lc_tables_init(lc_tables *tables, const uint32_t *cdfs, size_t n_tables, size_t stride, const int32_t *sizes,
                         const int32_t *offsets, size_t *bad_table)
{
    memset(tables, 0, sizeof *tables);
    if (bad_table)
        *bad_table = 0;
    if (n_tables < 1 || n_tables > LC_MAX_TABLES)
        return LC_INVALID;
    uint64_t n_entries = 0, n_buckets = 0;
    for (size_t t = 0; t < n_tables; t++) {
        if (!cdf_is_valid(cdfs + t * stride, stride, sizes[t], offsets[t])) {
            if (bad_table)
                *bad_table = t;
            return LC_INVALID;
        }
        n_entries += (uint64_t)sizes[t] - 1; /* <= 2^16 each, since a valid cdf increases strictly: <= 2^32 in all */
        n_buckets += UINT64_C(1) << bucket_bits((uint32_t)sizes[t] - 1);
    }
    if (n_entries > UINT32_MAX || n_entries > SIZE_MAX / sizeof *tables->encode_entries)
        return LC_NO_MEMORY;
    tables->tables = malloc(n_tables * sizeof *tables->tables);
    tables->encode_entries = malloc((size_t)n_entries * sizeof *tables->encode_entries);
    tables->decode_entries = malloc((size_t)n_entries * sizeof *tables->decode_entries);
    tables->buckets = malloc((size_t)n_buckets * sizeof *tables->buckets);
    if (!tables->tables || !tables->encode_entries || !tables->decode_entries || !tables->buckets) {
        lc_tables_free(tables);
        return LC_NO_MEMORY;
    }
    tables->n_tables = (uint32_t)n_tables;
    uint32_t first_entry = 0, first_bucket = 0;
    for (size_t t = 0; t < n_tables; t++) {
        uint32_t entries = (uint32_t)sizes[t] - 1;
        unsigned bits = bucket_bits(entries);
        lc_table *table = &tables->tables[t];
        table->first_entry = first_entry;
        table->first_bucket = first_bucket;
        table->offset = offsets[t];
        table->escape = (uint16_t)(entries - 1);
        table->bucket_shift = (uint16_t)(LC_PROB_BITS - bits);
        fill_table(tables, table, cdfs + t * stride);
        first_entry += entries;
        first_bucket += UINT32_C(1) << bits;
    }
    return LC_OK;
}

void lc_tables_free(lc_tables *tables)
{
    free(tables->tables);
    free(tables->encode_entries);
    free(tables->decode_entries);
    free(tables->buckets);
    memset(tables, 0, sizeof *tables);
}

static int indexes_are_valid(const lc_tables *tables, const uint16_t *indexes, size_t n)
{
    uint16_t max = 0;
    for (size_t i = 0; i < n; i++)
        max = indexes[i] > max ? indexes[i] : max;
    return n == 0 || max < tables->n_tables;
}

/* ---------------------------------------------------------------------------------------------------------- decoder */

lc_status lc_decoder_init(lc_decoder *decoder, const uint8_t *data, size_t size)
{
    memset(decoder, 0, sizeof *decoder);
    if (size < 8 * LC_LANES)
        return LC_TRUNCATED;
    if (size % 4)
        return LC_CORRUPT;
    for (int lane = 0; lane < LC_LANES; lane++, data += 8) {
        uint64_t x = lc_load_word(data) | (uint64_t)lc_load_word(data + 4) << 32;
        if (x < LC_STATE_LOWER || x >= LC_STATE_UPPER)
            return LC_CORRUPT;
        decoder->state[lane] = x;
    }
    decoder->pos = data;
    decoder->end = data + (size - 8 * LC_LANES);
    return LC_OK;
}

lc_status lc_decoder_finish(const lc_decoder *decoder)
{
    if (decoder->pos != decoder->end)
        return LC_CORRUPT;
    for (int lane = 0; lane < LC_LANES; lane++)
        if (decoder->state[lane] != LC_STATE_LOWER)
            return LC_CORRUPT;
    return LC_OK;
}

/* A state and the words it may take: what one lane needs to decode with every read checked. */
typedef struct lane_reader {
    uint64_t x;
    const uint8_t *pos;
    const uint8_t *end;
} lane_reader;

static inline lc_status refill(lane_reader *reader)
{
    if (reader->x < LC_STATE_LOWER) {
        if (reader->end - reader->pos < 4)
            return LC_TRUNCATED;
        reader->x = reader->x << 32 | lc_load_word(reader->pos);
        reader->pos += 4;
    }
    return LC_OK;
}

static inline lc_status pop_bits(lane_reader *reader, unsigned bits, uint32_t *value)
{
    *value = (uint32_t)(reader->x & ((UINT64_C(1) << bits) - 1));
    reader->x >>= bits;
    return refill(reader);
}

/* Reads what follows an escape entry:
 *
 *     length   6 bits, 0 .. 33: the number of bits of raw; 0 for raw = 0
 *     raw      without its leading one: length - 1 bits, the low 16 first
 *
 * raw folds the two ranges outside the table's symbols offset .. offset + escape - 1 into one:
 * odd raw: symbol = offset - 1 - raw div 2; even raw: symbol = offset + escape + raw div 2. */
static LC_NOINLINE lc_status pop_escape(lane_reader *reader, const lc_table *table, int32_t *symbol)
{
    uint32_t length, chunk;
    lc_status status = pop_bits(reader, LC_ESCAPE_LENGTH_BITS, &length);
    if (status)
        return status;
    if (length > LC_ESCAPE_MAX_LENGTH)
        return LC_CORRUPT;
    uint64_t raw = length ? UINT64_C(1) << (length - 1) : 0;
    for (unsigned done = 0; done + 1 < length; done += LC_ESCAPE_CHUNK_BITS) {
        unsigned bits = length - 1 - done;
        if (bits > LC_ESCAPE_CHUNK_BITS)
            bits = LC_ESCAPE_CHUNK_BITS;
        status = pop_bits(reader, bits, &chunk);
        if (status)
            return status;
        raw |= (uint64_t)chunk << done;
    }
    int64_t half = (int64_t)(raw >> 1); /* < 2^32 */
    int64_t value = table->offset + (raw & 1 ? -1 - half : (int64_t)table->escape + half);
    if (value < INT32_MIN || value > INT32_MAX)
        return LC_CORRUPT;
    *symbol = (int32_t)value;
    return LC_OK;
}

/* The entry whose interval holds c, looking forward from entry k, the one that holds the first value of c's bucket and
 * therefore starts at or before c. The search ends inside the table because the last entry ends at 2^16 > c. */
static inline uint32_t find_entry(const lc_decode_entry *entries, uint32_t k, uint32_t c, lc_decode_entry *entry)
{
    lc_decode_entry e = entries[k];
    while (c - e.start >= e.freq)
        e = entries[++k];
    *entry = e;
    return k;
}

static inline lc_status decode_checked(lc_decoder *decoder, const lc_tables *tables, uint16_t index, int32_t *symbol)
{
    const lc_table *table = &tables->tables[index];
    uint64_t x = decoder->state[decoder->lane];
    uint32_t c = (uint32_t)x & (LC_PROB_TOTAL - 1);
    uint32_t k = tables->buckets[table->first_bucket + (c >> table->bucket_shift)];
    lc_decode_entry entry;
    k = find_entry(tables->decode_entries + table->first_entry, k, c, &entry);
    lane_reader reader = {lc_pop(x, entry), decoder->pos, decoder->end};
    lc_status status = refill(&reader);
    if (status)
        return status;
    if (k < table->escape) {
        *symbol = table->offset + (int32_t)k;
    } else {
        status = pop_escape(&reader, table, symbol);
        if (status)
            return status;
    }
    decoder->state[decoder->lane] = reader.x;
    decoder->pos = reader.pos;
    decoder->lane = (decoder->lane + 1) % LC_LANES;
    return LC_OK;
}

/* Bytes that LC_LANES symbols may read. While as many are left, the loop below needs no check on its own reads. */
#define LC_BYTES_PER_ROUND (4 * LC_MAX_WORDS_PER_SYMBOL * LC_LANES)

lc_status lc_decode(lc_decoder *decoder, const lc_tables *tables, const uint16_t *indexes, int32_t *symbols, size_t n)
{
    lc_status status;
    size_t i = 0;
    if (!indexes_are_valid(tables, indexes, n))
        return LC_INVALID;
    for (; i < n && decoder->lane != 0; i++) {
        status = decode_checked(decoder, tables, indexes[i], &symbols[i]);
        if (status)
            return status;
    }

    const lc_table *all_tables = tables->tables;
    const lc_decode_entry *all_entries = tables->decode_entries;
    const uint16_t *buckets = tables->buckets;
    const uint8_t *pos = decoder->pos, *end = decoder->end;
    uint64_t state[LC_LANES];
    memcpy(state, decoder->state, sizeof state);
    for (; n - i >= LC_LANES && end - pos >= LC_BYTES_PER_ROUND; i += LC_LANES) {
        LC_UNROLL_LANES
        for (int lane = 0; lane < LC_LANES; lane++) {
            const lc_table *table = &all_tables[indexes[i + lane]];
            uint64_t x = state[lane];
            uint32_t c = (uint32_t)x & (LC_PROB_TOTAL - 1);
            lc_decode_entry entry;
            uint32_t k = buckets[table->first_bucket + (c >> table->bucket_shift)];
            k = find_entry(all_entries + table->first_entry, k, c, &entry);
            x = lc_pop(x, entry);
            /* Without a branch: the word is loaded always and taken when it is due. */
            uint64_t refilled = x << 32 | lc_load_word(pos);
            int due = x < LC_STATE_LOWER;
            x = due ? refilled : x;
            pos += due ? 4 : 0;
            if (LC_UNLIKELY(k == table->escape)) {
                lane_reader reader = {x, pos, end};
                status = pop_escape(&reader, table, &symbols[i + lane]);
                if (status)
                    return status;
                x = reader.x;
                pos = reader.pos;
            } else {
                symbols[i + lane] = table->offset + (int32_t)k;
            }
            state[lane] = x;
        }
    }
    memcpy(decoder->state, state, sizeof state);
    decoder->pos = pos;

    for (; i < n; i++) {
        status = decode_checked(decoder, tables, indexes[i], &symbols[i]);
        if (status)
            return status;
    }
    return LC_OK;
}

/* ---------------------------------------------------------------------------------------------------------- encoder */

/* Symbols between two looks at the room that is left. */
#define LC_ENCODE_BLOCK 4096

void lc_encoder_init(lc_encoder *encoder, uint64_t n_symbols)
{
    memset(encoder, 0, sizeof *encoder);
    for (int lane = 0; lane < LC_LANES; lane++)
        encoder->state[lane] = LC_STATE_LOWER;
    encoder->lane = (uint32_t)(n_symbols % LC_LANES);
}

void lc_encoder_free(lc_encoder *encoder)
{
    free(encoder->buffer);
    memset(encoder, 0, sizeof *encoder);
}

/* Makes room for `size` bytes below pos. The words stay at the end of the buffer. */
static lc_status reserve(lc_encoder *encoder, size_t size)
{
    if (encoder->pos >= size)
        return LC_OK;
    if (encoder->capacity > SIZE_MAX / 2 - size)
        return LC_NO_MEMORY;
    size_t capacity = 2 * encoder->capacity + size;
    uint8_t *buffer = malloc(capacity);
    if (!buffer)
        return LC_NO_MEMORY;
    size_t used = encoder->capacity - encoder->pos;
    if (used)
        memcpy(buffer + capacity - used, encoder->buffer + encoder->pos, used);
    free(encoder->buffer);
    encoder->buffer = buffer;
    encoder->capacity = capacity;
    encoder->pos = capacity - used;
    return LC_OK;
}

/* Pushes in reverse what pop_escape reads. |symbol - offset| < 2^32, so raw < 2^33. */
static LC_NOINLINE uint64_t push_escape(uint64_t x, const lc_table *table, int32_t symbol, uint8_t **pos)
{
    int64_t v = (int64_t)symbol - table->offset;
    uint64_t raw = v < 0 ? (uint64_t)(-1 - v) * 2 + 1 : (uint64_t)(v - table->escape) * 2;
    unsigned length = 0;
    while (raw >> length)
        length++;
    if (length > 1) {
        unsigned bits = length - 1; /* below the leading one */
        for (unsigned first = (bits - 1) / LC_ESCAPE_CHUNK_BITS * LC_ESCAPE_CHUNK_BITS;; first -= LC_ESCAPE_CHUNK_BITS) {
            unsigned count = bits - first;
            uint32_t chunk = (uint32_t)(raw >> first) & ((UINT32_C(1) << count) - 1);
            x = lc_push_bits(x, chunk, count, pos);
            bits = first;
            if (first == 0)
                break;
        }
    }
    return lc_push_bits(x, length, LC_ESCAPE_LENGTH_BITS, pos);
}

static inline uint64_t push_symbol(uint64_t x, const lc_tables *tables, uint16_t index, int32_t symbol, uint8_t **pos)
{
    const lc_table *table = &tables->tables[index];
    /* Modulo 2^32 a symbol below offset gives at least 2^31 - offset, and cdf_is_valid has seen that this is >= escape. */
    uint32_t k = (uint32_t)symbol - (uint32_t)table->offset;
    if (LC_UNLIKELY(k >= table->escape)) {
        uint8_t *p = *pos;
        x = push_escape(x, table, symbol, &p);
        *pos = p;
        k = table->escape;
    }
    return lc_push(x, &tables->encode_entries[table->first_entry + k], pos);
}

static void encode_block(lc_encoder *encoder, const lc_tables *tables, const uint16_t *indexes, const int32_t *symbols,
                         size_t n)
{
    const lc_tables local = *tables;
    uint8_t *pos = encoder->buffer + encoder->pos;
    for (; n > 0 && encoder->lane != 0; n--) {
        encoder->lane--;
        uint64_t *x = &encoder->state[encoder->lane];
        *x = push_symbol(*x, &local, indexes[n - 1], symbols[n - 1], &pos);
    }
    uint64_t state[LC_LANES];
    memcpy(state, encoder->state, sizeof state);
    for (; n >= LC_LANES; n -= LC_LANES) {
        LC_UNROLL_LANES
        for (int lane = 1; lane <= LC_LANES; lane++)
            state[LC_LANES - lane] =
                push_symbol(state[LC_LANES - lane], &local, indexes[n - lane], symbols[n - lane], &pos);
    }
    memcpy(encoder->state, state, sizeof state);
    for (; n > 0; n--) {
        encoder->lane = (encoder->lane + LC_LANES - 1) % LC_LANES;
        uint64_t *x = &encoder->state[encoder->lane];
        *x = push_symbol(*x, &local, indexes[n - 1], symbols[n - 1], &pos);
    }
    encoder->pos = (size_t)(pos - encoder->buffer);
}

lc_status lc_encode(lc_encoder *encoder, const lc_tables *tables, const uint16_t *indexes, const int32_t *symbols,
                    size_t n)
{
    if (!indexes_are_valid(tables, indexes, n))
        return LC_INVALID;
    while (n > 0) {
        size_t block = n < LC_ENCODE_BLOCK ? n : LC_ENCODE_BLOCK;
        /* One word more than can be kept: lc_push writes ahead. */
        lc_status status = reserve(encoder, 4 * (LC_MAX_WORDS_PER_SYMBOL * block + 1));
        if (status)
            return status;
        n -= block;
        encode_block(encoder, tables, indexes + n, symbols + n, block);
    }
    return LC_OK;
}

lc_status lc_encoder_finish(lc_encoder *encoder, const uint8_t **data, size_t *size)
{
    if (encoder->lane != 0)
        return LC_INVALID;
    lc_status status = reserve(encoder, 8 * LC_LANES);
    if (status)
        return status;
    for (int lane = LC_LANES - 1; lane >= 0; lane--) {
        encoder->pos -= 8;
        lc_store_word(encoder->buffer + encoder->pos, (uint32_t)encoder->state[lane]);
        lc_store_word(encoder->buffer + encoder->pos + 4, (uint32_t)(encoder->state[lane] >> 32));
    }
    *data = encoder->buffer + encoder->pos;
    *size = encoder->capacity - encoder->pos;
    return LC_OK;
}
