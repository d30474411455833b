/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Arrays of int32 symbols to rANS words and back, each symbol with the probability table that its index names.
 *
 * A table has entries 0 .. n-1. Entry k < n-1 stands for the symbol offset + k; entry n-1 is the escape, which every
 * other int32 is coded with. See lc_rans.h for the arithmetic and lc_params.h for the constants.
 *
 *   lc_tables_init            -> once per model; the result is read-only and may be shared by threads
 *   lc_decoder_init, lc_decode (any number of calls), lc_decoder_finish
 *   lc_encoder_init, lc_encode (last segment first), lc_encoder_finish, lc_encoder_free
 *
 * Nothing here reads or writes outside the memory it is given, whatever the stream holds.
 */
#ifndef LC_SYMBOLS_H
#define LC_SYMBOLS_H

#include <stddef.h>
#include <stdint.h>

#include "lc_params.h"
#include "lc_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a table costs in the decoder: a bucket of the cumulative value names the first entry that reaches into it. */
typedef struct lc_table {
    uint32_t first_entry;  /* of encode_entries and decode_entries */
    uint32_t first_bucket; /* of buckets */
    int32_t offset;        /* symbol of entry 0 */
    uint16_t escape;       /* entry of the escape = number of entries - 1 */
    uint16_t bucket_shift; /* bucket = cumulative value >> bucket_shift */
} lc_table;

/* Invariant: start + freq <= 2^16, freq >= 1; the next entry of the table starts at start + freq. */
typedef struct lc_decode_entry {
    uint16_t start;
    uint16_t freq;
} lc_decode_entry;

/* See lc_encode_entry_init in lc_rans.h. */
typedef struct lc_encode_entry {
    uint64_t reciprocal;
    uint32_t bias;
    uint16_t freq;
    uint16_t shift;
} lc_encode_entry;

typedef struct lc_tables {
    uint32_t n_tables;
    lc_table *tables;
    lc_encode_entry *encode_entries;
    lc_decode_entry *decode_entries;
    uint16_t *buckets;
} lc_tables;

/* Builds tables from cumulative distributions, row t at cdfs + t * stride, of which the first sizes[t] values count:
 * 0 = cdf[0] < cdf[1] < ... < cdf[sizes[t] - 1] = 2^16, with 3 <= sizes[t] <= stride, that is at least one symbol and
 * the escape. 1 <= n_tables <= LC_MAX_TABLES. Every value is checked; the input is not kept.
 * LC_INVALID: *bad_table (may be NULL) is the table at fault. On any failure *tables is empty, as after
 * lc_tables_free. */
lc_status lc_tables_init(lc_tables *tables, const uint32_t *cdfs, size_t n_tables, size_t stride, const int32_t *sizes,
                         const int32_t *offsets, size_t *bad_table);

/* Releases what lc_tables_init took and empties the struct; harmless on an empty one. */
void lc_tables_free(lc_tables *tables);

/* Reads words from [pos, end). The bytes belong to the caller and must outlive the decoder. */
typedef struct lc_decoder {
    const uint8_t *pos;
    const uint8_t *end;
    uint64_t state[LC_LANES];
    uint32_t lane; /* of the next symbol */
} lc_decoder;

/* LC_TRUNCATED: shorter than the states. LC_CORRUPT: size not a multiple of 4, or a state outside [L, 2^63). */
lc_status lc_decoder_init(lc_decoder *decoder, const uint8_t *data, size_t size);

/* Decodes n symbols; symbols[i] uses table indexes[i]. Calls may follow each other with any tables and any n.
 * LC_TRUNCATED: a word is missing. LC_CORRUPT: an escape of impossible length or a symbol outside int32.
 * LC_INVALID: an index >= n_tables; nothing was decoded. After a failure the decoder is of no further use, and the
 * symbols that were not decoded are left as they were. */
lc_status lc_decode(lc_decoder *decoder, const lc_tables *tables, const uint16_t *indexes, int32_t *symbols, size_t n);

/* LC_CORRUPT unless every byte was read and every state is back at L, where the encoder started. */
lc_status lc_decoder_finish(const lc_decoder *decoder);

/* Writes words backwards into a buffer of its own, which grows. */
typedef struct lc_encoder {
    uint8_t *buffer;
    size_t capacity;
    size_t pos; /* words occupy [pos, capacity) of buffer */
    uint64_t state[LC_LANES];
    uint32_t lane; /* of the symbol encoded last, in coding order; encoding goes on with the one before */
} lc_encoder;

/* n_symbols: of the whole stream, all calls of lc_encode together; decides which lane the last symbol uses.
 * No allocation happens here. */
void lc_encoder_init(lc_encoder *encoder, uint64_t n_symbols);

/* Encodes n symbols from the last to the first. A stream of several segments calls this with the last segment first.
 * LC_INVALID: an index >= n_tables; nothing was encoded. LC_NO_MEMORY. */
lc_status lc_encode(lc_encoder *encoder, const lc_tables *tables, const uint16_t *indexes, const int32_t *symbols,
                    size_t n);

/* Writes the states. *data and *size then name the stream, which stays the encoder's until lc_encoder_free.
 * LC_INVALID: the number of symbols was not the announced one (modulo LC_LANES). LC_NO_MEMORY. */
lc_status lc_encoder_finish(lc_encoder *encoder, const uint8_t **data, size_t *size);

void lc_encoder_free(lc_encoder *encoder);

#ifdef __cplusplus
}
#endif

#endif
