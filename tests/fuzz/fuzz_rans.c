/* SPDX-License-Identifier: BSD-3-Clause
 *
 * libFuzzer: tables and a stream out of the input. Whatever they hold, nothing is read or written out of bounds; tables
 * that are not strictly increasing from 0 to 2^16 are refused; and what was encoded decodes to itself.
 */
#include <stdlib.h>
#include <string.h>

#include "lc_symbols.h"

#define MAX_SYMBOLS 512
#define MAX_ENTRIES 40
#define MAX_TABLES 5

typedef struct input {
    const uint8_t *pos, *end;
} input;

static uint32_t take_bytes(input *in, int n)
{
    uint32_t value = 0;

    while (n-- > 0) {
        value = value << 8 | (in->pos < in->end ? *in->pos++ : 0u);
    }
    return value;
}

static void check(int holds)
{
    if (!holds) {
        abort();
    }
}

/* A row that is well-formed: frequencies from bytes, the rest to the last. */
static void make_row(input *in, uint32_t *cdf, int32_t size)
{
    int32_t i;

    cdf[0] = 0;
    for (i = 1; i < size - 1; i++) {
        const uint32_t left = LC_PROB_TOTAL - cdf[i - 1] - (uint32_t)(size - 1 - i);

        cdf[i] = cdf[i - 1] + 1 + take_bytes(in, 2) % left;
    }
    cdf[size - 1] = LC_PROB_TOTAL;
}

static int is_well_formed(const uint32_t *cdf, int32_t size, int32_t stride, int32_t offset)
{
    int32_t i;

    if (size < 3 || size > stride || cdf[0] != 0 || cdf[size - 1] != LC_PROB_TOTAL) {
        return 0;
    }
    if ((int64_t)offset + size - 3 > INT32_MAX) { /* its last symbol but the escape */
        return 0;
    }
    for (i = 1; i < size; i++) {
        if (cdf[i] <= cdf[i - 1]) {
            return 0;
        }
    }
    return 1;
}

static void round_trip(const lc_tables *tables, const uint16_t *indexes, const int32_t *symbols, size_t n)
{
    int32_t decoded[MAX_SYMBOLS];
    lc_encoder encoder;
    lc_decoder decoder;
    const uint8_t *data;
    size_t size;

    lc_encoder_init(&encoder, n);
    check(lc_encode(&encoder, tables, indexes, symbols, n) == LC_OK);
    check(lc_encoder_finish(&encoder, &data, &size) == LC_OK);
    check(lc_decoder_init(&decoder, data, size) == LC_OK);
    check(lc_decode(&decoder, tables, indexes, decoded, n) == LC_OK);
    check(lc_decoder_finish(&decoder) == LC_OK);
    check(!memcmp(symbols, decoded, n * sizeof *symbols));
    lc_encoder_free(&encoder);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    input in = {bytes, bytes + n_bytes};
    const int raw = take_bytes(&in, 1) % 4 == 0;
    const size_t n_tables = 1 + take_bytes(&in, 1) % MAX_TABLES, n = take_bytes(&in, 2) % (MAX_SYMBOLS + 1);
    uint32_t *cdfs = calloc(n_tables * MAX_ENTRIES, sizeof *cdfs);
    int32_t sizes[MAX_TABLES], offsets[MAX_TABLES], symbols[MAX_SYMBOLS] = {0};
    uint16_t indexes[MAX_SYMBOLS];
    size_t i, bad = n_tables, wrong = n_tables;
    lc_decoder decoder;
    lc_tables tables;
    lc_status status;
    uint8_t *stream;
    size_t left;

    check(cdfs != NULL);
    for (i = 0; i < n_tables; i++) {
        uint32_t *row = cdfs + i * MAX_ENTRIES;
        int32_t k;

        offsets[i] = (int32_t)take_bytes(&in, 4);
        sizes[i] = raw ? (int32_t)take_bytes(&in, 1) - 100 : 3 + (int32_t)(take_bytes(&in, 1) % (MAX_ENTRIES - 2));
        if (raw) {
            for (k = 0; k < MAX_ENTRIES; k++) {
                row[k] = k == 0 ? take_bytes(&in, 1) & 1 : row[k - 1] + (take_bytes(&in, 2) << (k & 1 ? 16 : 0));
            }
            if (sizes[i] >= 1 && sizes[i] <= MAX_ENTRIES && (take_bytes(&in, 1) & 1)) {
                row[sizes[i] - 1] = LC_PROB_TOTAL;
            }
        } else {
            make_row(&in, row, sizes[i]);
        }
        if (wrong == n_tables && !is_well_formed(row, sizes[i], MAX_ENTRIES, offsets[i])) {
            wrong = i;
        }
    }
    status = lc_tables_init(&tables, cdfs, n_tables, MAX_ENTRIES, sizes, offsets, &bad);
    free(cdfs);
    check((status == LC_OK) == (wrong == n_tables));
    if (status != LC_OK) {
        check(bad == wrong && tables.tables == NULL);
        return 0;
    }
    for (i = 0; i < n; i++) {
        indexes[i] = (uint16_t)(take_bytes(&in, 1) % (n_tables + (i % 97 == 96)));
        symbols[i] = (int32_t)(i % 3 ? (uint32_t)offsets[indexes[i] % n_tables] + take_bytes(&in, 1) - 128u
                                     : take_bytes(&in, 4));
    }
    for (i = 0; i < n && indexes[i] < n_tables; i++) {
    }
    if (i == n) {
        round_trip(&tables, indexes, symbols, n);
    }
    /* A block of exactly the stream's size, so that one byte too far is seen. */
    left = (size_t)(in.end - in.pos);
    stream = malloc(left ? left : 1);
    check(stream != NULL);
    memcpy(stream, in.pos, left);
    if (lc_decoder_init(&decoder, stream, left) == LC_OK && lc_decode(&decoder, &tables, indexes, symbols, n) == LC_OK) {
        lc_decoder_finish(&decoder);
        round_trip(&tables, indexes, symbols, n);
    }
    free(stream);
    lc_tables_free(&tables);
    return 0;
}
