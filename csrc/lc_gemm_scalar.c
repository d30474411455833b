/* SPDX-License-Identifier: BSD-3-Clause
 * The definition of the kernels, in plain C.
 */
#include <string.h>

#include "lc_gemm.h"

static int32_t requantise(const lc_run *run, int32_t c, int32_t acc)
{
    const int64_t product = (int64_t)acc * (acc >= 0 ? run->mult_pos[c] : run->mult_neg[c]);
    const int64_t q = (product + (INT64_C(1) << (run->shift[c] - 1))) >> run->shift[c];

    return q < run->lo ? run->lo : q > run->hi ? run->hi : (int32_t)q;
}

static void store(const lc_run *run, int32_t position, const int32_t *acc)
{
    const ptrdiff_t at = run->out_step * position;
    int32_t c;

    for (c = 0; c < run->n_channels; c++) {
        if (run->output == LC_OUTPUT_ACC) {
            ((int32_t *)run->out)[at + c] = acc[c];
        } else if (run->output == LC_OUTPUT_INT32) {
            ((int32_t *)run->out)[at + c] = requantise(run, c, acc[c]);
        } else {
            ((int16_t *)run->out)[at + c] = (int16_t)requantise(run, c, acc[c]);
        }
    }
}

static void panel(const lc_run *run)
{
    int32_t i, s, j, c;

    for (i = 0; i < run->n; i++) {
        const int16_t *w = run->weights;
        int32_t acc[LC_PANEL];

        memcpy(acc, run->init + run->init_step * i, sizeof acc);
        for (s = 0; s < run->n_segments; s++) {
            const int16_t *a = run->a + run->a_step * i + run->segment_step * s;

            for (j = 0; j < run->segment_pairs[s]; j++, a += 2, w += 2 * LC_PANEL) {
                for (c = 0; c < LC_PANEL; c++) {
                    acc[c] += a[0] * w[2 * c] + a[1] * w[2 * c + 1];
                }
            }
        }
        store(run, i, acc);
    }
}

static void scale_indexes(const int32_t *scales, size_t n, const int32_t *thresholds, int32_t n_thresholds,
                          uint16_t *indexes)
{
    size_t i;
    int32_t t;

    for (i = 0; i < n; i++) {
        uint16_t count = 0;

        for (t = 0; t < n_thresholds; t++) {
            count = (uint16_t)(count + (thresholds[t] < scales[i]));
        }
        indexes[i] = count;
    }
}

const lc_kernels *lc_kernels_scalar(void)
{
    static const lc_kernels kernels = {panel, scale_indexes};

    return &kernels;
}
