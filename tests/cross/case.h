/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the driver works on: a case, a row of int32, little-endian. The functions named read_* say what it holds, in order.
 *
 * A case is trusted, but for the bytes of its slices. Each array has a block of memory of exactly its size, and is freed
 * where the library promises not to keep it: a sanitizer then sees every access that goes too far or comes too late.
 */
#ifndef CASE_H
#define CASE_H

#include <stddef.h>
#include <stdint.h>

#include "lc_slice.h"

/* Ends the program with status 2. */
_Noreturn void die(const char *message);

void require(lc_status status, const char *what);

/* Filled, so that whatever is read before it was written is wrong every time. Never NULL. */
void *take(size_t n, size_t size);

typedef struct reader {
    int32_t *words;
    size_t n, pos;
} reader;

reader read_file(const char *path);

int32_t next(reader *in);
size_t next_size(reader *in);
int32_t *read_int32(reader *in, size_t n);
int16_t *read_int16(reader *in, size_t n);

/* Four bytes a word, the first one lowest. */
uint8_t *read_bytes(reader *in, size_t n);

lc_layer read_layer(reader *in);

/* entropy.n_hyper is 0 for a factorized model: its prior is that of y, else of z. */
typedef struct model {
    lc_entropy_model entropy;
    int32_t prior_channels, prior_fraction_bits;
    int32_t *medians; /* [prior_channels] */
    lc_tables prior, gaussian;
    int32_t *thresholds;
    lc_layer hyper[LC_MAX_LAYERS], context, hyper_half, parameters[LC_MAX_LAYERS];
} model;

model *read_model(reader *in);
void free_model(model *m);

#endif
