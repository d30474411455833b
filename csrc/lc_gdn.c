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

lc_status lc_gdn_forward(const lc_gdn *gdn, const lc_dense_kernels *kernels, const lc_bf16 *x, lc_bf16 *y,
                         int64_t rows)
{
    const int32_t channels = gdn->channels;
    const size_t squares_size = sizeof(lc_bf16) * LC_DENSE_ROWS * (size_t)gdn->padded;
    const size_t sums_size = sizeof(float) * LC_DENSE_ROWS * LC_DENSE_PANEL;
    const size_t values_size = sizeof(float) * LC_DENSE_ROWS * (size_t)gdn->padded;
    char *memory = aligned_alloc(LC_ALIGNMENT, squares_size + sums_size + values_size);
    lc_bf16 *squares = (lc_bf16 *)(void *)memory;
    float *sums = (float *)(void *)(memory + squares_size), *values = sums + LC_DENSE_ROWS * LC_DENSE_PANEL;
    int64_t row;

    if (!memory) {
        return LC_NO_MEMORY;
    }
    memset(memory, 0, squares_size);
    kernels->begin();
    for (row = 0; row < rows; row += LC_DENSE_ROWS) {
        const int32_t n = (int32_t)(rows - row < LC_DENSE_ROWS ? rows - row : LC_DENSE_ROWS);

        kernels->widened(x + channels * row, channels * n, values);
        run_of_rows(gdn, kernels, values, NULL, n, squares, sums);
        kernels->rounded(values, channels * n, y + channels * row);
    }
    kernels->end();
    free(memory);
    return LC_OK;
}

/* What a run of rows needs on the way back. */
typedef struct lc_gdn_scratch {
    lc_bf16 *squares, *grad_norm; /* [LC_DENSE_ROWS][padded] */
    float *sums;
    float *x, *grad; /* [LC_DENSE_ROWS][channels] */
} lc_gdn_scratch;

static void run_of_gradients(const lc_gdn *gdn, const lc_bf16 *transposed, const lc_dense_kernels *kernels,
                             const lc_gdn_gradients *of, int64_t row, int32_t n, const lc_gdn_scratch *s)
{
    const int32_t channels = gdn->channels, padded = gdn->padded;
    const int64_t first = channels * row;
    /* Without padding results are made where they belong; a run that is not full would read past their end. */
    const bool direct = channels == padded && n == LC_DENSE_ROWS;
    lc_bf16 *squares = direct ? of->squares + first : s->squares;
    lc_bf16 *grad_norm = direct ? of->grad_norm + first : s->grad_norm;
    lc_dense_run run = {.a_step = padded, .segment_blocks = {padded / LC_DENSE_BLOCK}, .n_segments = 1, .n = n};
    int32_t i, c;

    run.out = s->sums;
    kernels->widened(of->x + first, channels * n, s->x);
    kernels->widened(of->grad_y + first, channels * n, s->grad);
    for (i = 0; i < n; i++) {
        kernels->squares(s->x + (ptrdiff_t)channels * i, channels, squares + (ptrdiff_t)padded * i);
    }
    run.a = squares;
    for (c = 0; c < channels; c += LC_DENSE_PANEL) {
        const int32_t width = channels - c < LC_DENSE_PANEL ? channels - c : LC_DENSE_PANEL;

        run.weights = gdn->panels + (ptrdiff_t)padded * c;
        kernels->panel(&run);
        kernels->norm_gradient(s->sums, gdn->beta + c, gdn->inverse, n, width, s->x + c, s->grad + c, channels,
                               grad_norm + c, padded, of->grad_beta + c);
    }
    run.a = grad_norm;
    for (c = 0; c < channels; c += LC_DENSE_PANEL) {
        const int32_t width = channels - c < LC_DENSE_PANEL ? channels - c : LC_DENSE_PANEL;

        run.weights = transposed + (ptrdiff_t)padded * c;
        kernels->panel(&run);
        kernels->square_gradient(s->sums, n, width, s->x + c, s->grad + c, channels, of->grad_x + first + c);
    }
    for (i = 0; !direct && i < n; i++) {
        const size_t size = sizeof(lc_bf16) * (size_t)channels;

        memcpy(of->squares + first + (ptrdiff_t)channels * i, squares + (ptrdiff_t)padded * i, size);
        memcpy(of->grad_norm + first + (ptrdiff_t)channels * i, grad_norm + (ptrdiff_t)padded * i, size);
    }
}

lc_status lc_gdn_backward(const lc_gdn *gdn, const lc_bf16 *transposed, const lc_dense_kernels *kernels,
                          const lc_gdn_gradients *of, int64_t rows)
{
    const size_t narrow = LC_DENSE_ROWS * (size_t)gdn->padded; /* numbers; all parts are multiples of LC_ALIGNMENT */
    const size_t sums_count = LC_DENSE_ROWS * LC_DENSE_PANEL;
    char *memory = aligned_alloc(LC_ALIGNMENT, 2 * sizeof(lc_bf16) * narrow + sizeof(float) * (sums_count + 2 * narrow));
    lc_gdn_scratch scratch;
    int64_t row;

    if (!memory) {
        return LC_NO_MEMORY;
    }
    memset(memory, 0, 2 * sizeof(lc_bf16) * narrow);
    scratch.squares = (lc_bf16 *)(void *)memory;
    scratch.grad_norm = scratch.squares + narrow;
    scratch.sums = (float *)(void *)(scratch.grad_norm + narrow);
    scratch.x = scratch.sums + sums_count;
    scratch.grad = scratch.x + narrow;
    kernels->begin();
    for (row = 0; row < rows; row += LC_DENSE_ROWS) {
        const int32_t n = (int32_t)(rows - row < LC_DENSE_ROWS ? rows - row : LC_DENSE_ROWS);

        run_of_gradients(gdn, transposed, kernels, of, row, n, &scratch);
    }
    kernels->end();
    free(memory);
    return LC_OK;
}
