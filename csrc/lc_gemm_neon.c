/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Kernels for NEON (aarch64): smlal multiplies four int16 by one and adds to int32. ld2 takes the weights' pairs apart,
 * so that the even and the odd input of a pair are two such steps. A block is up to 4 positions by 16 channels.
 */
#include "lc_gemm.h"

#if defined(__aarch64__) && defined(__ARM_NEON)

#include <arm_neon.h>
#include <string.h>

#define LC_INLINE static inline __attribute__((always_inline))

#define LC_BLOCK 4
#define LC_PART 16 /* channels at a time */

/* (acc * m + 2^(shift - 1)) >> shift of two sums, saturated to int32. */
LC_INLINE int32x2_t requantise_two(int32x2_t acc, int32x2_t mult, int32x2_t shift)
{
    const int64x2_t s = vmovl_s32(shift);
    const int64x2_t half = vshlq_s64(vdupq_n_s64(1), vsubq_s64(s, vdupq_n_s64(1)));

    return vqmovn_s64(vshlq_s64(vaddq_s64(vmull_s32(acc, mult), half), vnegq_s64(s)));
}

/* 4 sums, channels c to c + 3 of the panel. */
LC_INLINE int32x4_t requantise(int32x4_t acc, const lc_run *run, int32_t c)
{
    const int32x4_t mult = vbslq_s32(vcltzq_s32(acc), vld1q_s32(run->mult_neg + c), vld1q_s32(run->mult_pos + c));
    const int32x4_t shift = vld1q_s32(run->shift + c);
    const int32x4_t q = vcombine_s32(requantise_two(vget_low_s32(acc), vget_low_s32(mult), vget_low_s32(shift)),
                                     requantise_two(vget_high_s32(acc), vget_high_s32(mult), vget_high_s32(shift)));

    return vminq_s32(vmaxq_s32(q, vdupq_n_s32(run->lo)), vdupq_n_s32(run->hi));
}

/* Channels c to c + 15 of the panel. */
LC_INLINE void store(const lc_run *run, int32_t position, int32_t c, int32x4_t acc[4])
{
    const int32_t exist = run->n_channels - c < LC_PART ? run->n_channels - c : LC_PART;
    int32_t wide[LC_PART];
    int16_t narrow[LC_PART];
    int k;

    for (k = 0; k < 4; k++) {
        const int32x4_t q = run->output == LC_OUTPUT_ACC ? acc[k] : requantise(acc[k], run, c + 4 * k);

        vst1q_s32(wide + 4 * k, q);
        vst1_s16(narrow + 4 * k, vmovn_s32(q));
    }
    if (run->output == LC_OUTPUT_INT16) {
        memcpy((int16_t *)run->out + run->out_step * position + c, narrow, sizeof *narrow * (size_t)exist);
    } else {
        memcpy((int32_t *)run->out + run->out_step * position + c, wide, sizeof *wide * (size_t)exist);
    }
}

LC_INLINE void block(const lc_run *run, int32_t first, int32_t c, const int rows)
{
    const int16_t *weights = run->weights + 2 * c;
    int32x4_t acc[LC_BLOCK][4];
    int32_t s, j;

#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        const int32_t *init = run->init + run->init_step * (first + i) + c;

#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            acc[i][k] = vld1q_s32(init + 4 * k);
        }
    }
    for (s = 0; s < run->n_segments; s++) {
        const int16_t *a = run->a + run->a_step * first + run->segment_step * s;

        for (j = 0; j < run->segment_pairs[s]; j++, a += 2, weights += 2 * LC_PANEL) {
            const int16x8x2_t low = vld2q_s16(weights), high = vld2q_s16(weights + 16);

#pragma GCC unroll 4
            for (int i = 0; i < rows; i++) {
                const int16_t even = a[run->a_step * i], odd = a[run->a_step * i + 1];

                acc[i][0] = vmlal_n_s16(acc[i][0], vget_low_s16(low.val[0]), even);
                acc[i][1] = vmlal_n_s16(acc[i][1], vget_high_s16(low.val[0]), even);
                acc[i][2] = vmlal_n_s16(acc[i][2], vget_low_s16(high.val[0]), even);
                acc[i][3] = vmlal_n_s16(acc[i][3], vget_high_s16(high.val[0]), even);
                acc[i][0] = vmlal_n_s16(acc[i][0], vget_low_s16(low.val[1]), odd);
                acc[i][1] = vmlal_n_s16(acc[i][1], vget_high_s16(low.val[1]), odd);
                acc[i][2] = vmlal_n_s16(acc[i][2], vget_low_s16(high.val[1]), odd);
                acc[i][3] = vmlal_n_s16(acc[i][3], vget_high_s16(high.val[1]), odd);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        store(run, first + i, c, acc[i]);
    }
}

static void panel(const lc_run *run)
{
    const int32_t n_blocks = (run->n + LC_BLOCK - 1) / LC_BLOCK;
    int32_t c;

    for (c = 0; c < run->n_channels; c += LC_PART) {
        int32_t first = 0, left;

        for (left = n_blocks; left > 0; left--) {
            const int32_t rows = (run->n - first + left - 1) / left; /* nearly equal blocks */

            switch (rows) {
            case 1: block(run, first, c, 1); break;
            case 2: block(run, first, c, 2); break;
            case 3: block(run, first, c, 3); break;
            default: block(run, first, c, LC_BLOCK); break;
            }
            first += rows;
        }
    }
}

static void scale_indexes(const int32_t *scales, size_t n, const int32_t *thresholds, int32_t n_thresholds,
                          uint16_t *indexes)
{
    size_t i, j;
    int32_t t;

    for (i = 0; i < n; i += 4) {
        int32_t values[4] = {0};
        uint32_t counts[4];
        const size_t exist = n - i < 4 ? n - i : 4;
        int32x4_t scale;
        uint32x4_t count = vdupq_n_u32(0);

        memcpy(values, scales + i, sizeof *values * exist);
        scale = vld1q_s32(values);
        for (t = 0; t < n_thresholds; t++) {
            count = vsubq_u32(count, vcltq_s32(vdupq_n_s32(thresholds[t]), scale));
        }
        vst1q_u32(counts, count);
        for (j = 0; j < exist; j++) {
            indexes[i + j] = (uint16_t)counts[j];
        }
    }
}

const lc_kernels *lc_kernels_neon(void)
{
    static const lc_kernels kernels = {panel, scale_indexes};

    return &kernels;
}

#else

const lc_kernels *lc_kernels_neon(void)
{
    return NULL;
}

#endif
