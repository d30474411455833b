/* SPDX-License-Identifier: BSD-3-Clause
 * Kernels for any processor.
 */
#include "lc_dense_loops.h"

static void nothing(void)
{
}

static void panel(const lc_dense_run *run)
{
    int32_t i, s, b, p, c;

    for (i = 0; i < run->n; i++) {
        float *sums = run->out + LC_DENSE_PANEL * i;
        const lc_bf16 *w = run->weights;

        memset(sums, 0, LC_DENSE_PANEL * sizeof *sums);
        for (s = 0; s < run->n_segments; s++) {
            const lc_bf16 *a = run->a + run->a_step * i + run->segment_offset[s];

            for (b = 0; b < run->segment_blocks[s]; b++) {
                for (p = 0; p < 16; p++) {
                    const float first = from_bf16(a[2 * p]), second = from_bf16(a[2 * p + 1]);

                    for (c = 0; c < 16; c++) {
                        sums[c] += first * from_bf16(w[32 * p + 2 * c]) + second * from_bf16(w[32 * p + 2 * c + 1]);
                        sums[16 + c] += first * from_bf16(w[512 + 32 * p + 2 * c]) +
                                        second * from_bf16(w[512 + 32 * p + 2 * c + 1]);
                    }
                }
                a += LC_DENSE_BLOCK;
                w += LC_DENSE_BLOCK * LC_DENSE_PANEL;
            }
        }
    }
}

const lc_dense_kernels *lc_dense_kernels_plain(void)
{
    static const lc_dense_kernels kernels = {
        .begin = nothing, .end = nothing, .panel = panel, LC_DENSE_LARGE, LC_DENSE_SMALL};

    return &kernels;
}
