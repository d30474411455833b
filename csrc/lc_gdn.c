/* SPDX-License-Identifier: BSD-3-Clause */
#include "lc_gdn.h"

#include <stdlib.h>
#include <string.h>

#define LC_ALIGNMENT 64

static void run_of_rows(const lc_gdn *gdn, const lc_dense_kernels *kernels, float *x, const float *add, int32_t n,
                        lc_bf16 *squares, float *sums)
{
    const int32_t channels = gdn->channels, padded = gdn->padded;
    lc_dense_run run = {
        .a = squares, .a_step = padded, .segment_blocks = {padded / LC_DENSE_BLOCK}, .n_segments = 1, .n = n};
    int32_t i, c;

    for (i = 0; i < n; i++) {
        kernels->squares(x + (ptrdiff_t)channels * i, channels, squares + (ptrdiff_t)padded * i);
    }
    run.out = sums;
    for (c = 0; c < channels; c += LC_DENSE_PANEL) {
        const int32_t width = channels - c < LC_DENSE_PANEL ? channels - c : LC_DENSE_PANEL;

        run.weights = gdn->panels + (ptrdiff_t)padded * c;
        kernels->panel(&run);
        kernels->normalise(sums, gdn->beta + c, gdn->inverse, n, width, x + c, add ? add + c : NULL, channels);
    }
}

lc_status lc_gdn_apply(const lc_gdn *gdn, const lc_dense_kernels *kernels, float *x, const float *add, int64_t rows)
{
    const size_t squares_size = sizeof(lc_bf16) * LC_DENSE_ROWS * (size_t)gdn->padded; /* a multiple of LC_ALIGNMENT */
    const size_t sums_size = sizeof(float) * LC_DENSE_ROWS * LC_DENSE_PANEL;
    char *memory = aligned_alloc(LC_ALIGNMENT, squares_size + sums_size);
    lc_bf16 *squares = (lc_bf16 *)(void *)memory;
    int64_t row;

    if (!memory) {
        return LC_NO_MEMORY;
    }
    memset(memory, 0, squares_size); /* padding, and rows past the last, have to be numbers */
    kernels->begin();
    for (row = 0; row < rows; row += LC_DENSE_ROWS) {
        const int32_t n = (int32_t)(rows - row < LC_DENSE_ROWS ? rows - row : LC_DENSE_ROWS);

        run_of_rows(gdn, kernels, x + gdn->channels * row, add ? add + gdn->channels * row : NULL, n, squares,
                    (float *)(void *)(memory + squares_size));
    }
    kernels->end();
    free(memory);
    return LC_OK;
}
