/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Kernels for AVX-512 with VNNI: vpdpwssd adds two int16 products to each of 16 int32 at once. A block of up to 12
 * positions by 32 channels keeps 24 sums in registers; a pair of inputs is broadcast once and used twice.
 */
#include "lc_gemm.h"

#if defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 9))

#include <immintrin.h>
#include <string.h>

#define LC_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define LC_INLINE static inline __attribute__((always_inline)) LC_TARGET

#define LC_BLOCK 12

/* (acc * m + 2^(shift - 1)) >> shift of 8 sums in int64, saturated to int32. */
LC_INLINE __m256i requantise_half(__m256i acc, __m256i mult, __m256i shift)
{
    const __m512i one = _mm512_set1_epi64(1);
    const __m512i s = _mm512_cvtepu32_epi64(shift);
    const __m512i half = _mm512_sllv_epi64(one, _mm512_sub_epi64(s, one));
    const __m512i product = _mm512_mul_epi32(_mm512_cvtepi32_epi64(acc), _mm512_cvtepi32_epi64(mult));

    return _mm512_cvtsepi64_epi32(_mm512_srav_epi64(_mm512_add_epi64(product, half), s));
}

/* 16 sums, channels c to c + 15 of the panel. */
LC_INLINE __m512i requantise(__m512i acc, const lc_run *run, int c)
{
    const __mmask16 negative = _mm512_cmplt_epi32_mask(acc, _mm512_setzero_si512());
    const __m512i mult = _mm512_mask_loadu_epi32(_mm512_loadu_si512(run->mult_pos + c), negative, run->mult_neg + c);
    const __m512i shift = _mm512_loadu_si512(run->shift + c);
    const __m256i low = requantise_half(_mm512_castsi512_si256(acc), _mm512_castsi512_si256(mult),
                                        _mm512_castsi512_si256(shift));
    const __m256i high = requantise_half(_mm512_extracti64x4_epi64(acc, 1), _mm512_extracti64x4_epi64(mult, 1),
                                         _mm512_extracti64x4_epi64(shift, 1));
    const __m512i q = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);

    return _mm512_min_epi32(_mm512_max_epi32(q, _mm512_set1_epi32(run->lo)), _mm512_set1_epi32(run->hi));
}

/* One body for all block sizes: the sums take a detour through the first-level cache. */
LC_TARGET static void store_rows(const lc_run *run, int32_t first, int rows, const __m512i *sums)
{
    /* Channels past n_channels belong to somebody else. */
    const uint32_t exist = run->n_channels >= LC_PANEL ? UINT32_MAX : (UINT32_C(1) << run->n_channels) - 1;
    const __mmask16 low_mask = (__mmask16)exist, high_mask = (__mmask16)(exist >> 16);

    for (int i = 0; i < rows; i++) {
        const ptrdiff_t at = run->out_step * (first + i);
        __m512i low = sums[2 * i], high = sums[2 * i + 1];

        if (run->output != LC_OUTPUT_ACC) {
            low = requantise(low, run, 0);
            high = requantise(high, run, 16);
        }
        if (run->output == LC_OUTPUT_INT16) {
            _mm256_mask_storeu_epi16((int16_t *)run->out + at, low_mask, _mm512_cvtepi32_epi16(low));
            _mm256_mask_storeu_epi16((int16_t *)run->out + at + 16, high_mask, _mm512_cvtepi32_epi16(high));
        } else {
            _mm512_mask_storeu_epi32((int32_t *)run->out + at, low_mask, low);
            _mm512_mask_storeu_epi32((int32_t *)run->out + at + 16, high_mask, high);
        }
    }
}

LC_INLINE __m512i broadcast_pair(const char *a)
{
    int32_t pair;

    memcpy(&pair, a, sizeof pair);
    return _mm512_set1_epi32(pair);
}

/* _mm512_dpwssd_epi32, but gcc 12 copies the sums to and fro around the intrinsic in a loop. */
LC_INLINE __m512i multiply_add(__m512i acc, __m512i a, __m512i b)
{
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
}

/* Rows are addressed as base[i / 3] + (i % 3) * step: four pointers and one step fit the registers, twelve do not. */
LC_INLINE void block(const lc_run *run, int32_t first, const int rows)
{
    const ptrdiff_t step = run->a_step * (ptrdiff_t)sizeof(int16_t);
    const int16_t *weights = run->weights;
    __m512i low[LC_BLOCK], high[LC_BLOCK], sums[2 * LC_BLOCK];
    int32_t s, j;

#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        const int32_t *init = run->init + run->init_step * (first + i);

        low[i] = _mm512_loadu_si512(init);
        high[i] = _mm512_loadu_si512(init + 16);
    }
    for (s = 0; s < run->n_segments; s++) {
        const int32_t pairs = run->segment_pairs[s];
        const char *base0 = (const char *)(run->a + run->a_step * first + run->segment_step * s);
        const char *base1 = base0 + 3 * step;
        const char *base2 = base1 + 3 * step;
        const char *base3 = base2 + 3 * step;

        for (j = 0; j < pairs; j++) {
            const __m512i weights_low = _mm512_load_si512(weights);
            const __m512i weights_high = _mm512_load_si512(weights + LC_PANEL);

#pragma GCC unroll 12
            for (int i = 0; i < rows; i++) {
                const char *base = i < 3 ? base0 : i < 6 ? base1 : i < 9 ? base2 : base3;
                const __m512i a = broadcast_pair(base + (i % 3) * step);

                low[i] = multiply_add(low[i], a, weights_low);
                high[i] = multiply_add(high[i], a, weights_high);
            }
            base0 += 4;
            base1 += 4;
            base2 += 4;
            base3 += 4;
            weights += 2 * LC_PANEL;
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        sums[2 * i] = low[i];
        sums[2 * i + 1] = high[i];
    }
    store_rows(run, first, rows, sums);
}

/* A function for each size, so that the sums of each are allocated to registers on their own. */
#define LC_BLOCK_OF(rows)                                                   \
    LC_TARGET static void block_of_##rows(const lc_run *run, int32_t first) \
    {                                                                       \
        block(run, first, rows);                                            \
    }

LC_BLOCK_OF(1)
LC_BLOCK_OF(2)
LC_BLOCK_OF(3)
LC_BLOCK_OF(4)
LC_BLOCK_OF(5)
LC_BLOCK_OF(6)
LC_BLOCK_OF(7)
LC_BLOCK_OF(8)
LC_BLOCK_OF(9)
LC_BLOCK_OF(10)
LC_BLOCK_OF(11)
LC_BLOCK_OF(12)

LC_TARGET static void panel(const lc_run *run)
{
    static void (*const blocks[LC_BLOCK])(const lc_run *run, int32_t first) = {
        block_of_1, block_of_2, block_of_3, block_of_4,  block_of_5,  block_of_6,
        block_of_7, block_of_8, block_of_9, block_of_10, block_of_11, block_of_12,
    };
    /* Blocks of nearly equal size: 16 positions are better as 8 + 8 than as 12 + 4. */
    const int32_t n_blocks = (run->n + LC_BLOCK - 1) / LC_BLOCK;
    int32_t first = 0, left;

    for (left = n_blocks; left > 0; left--) {
        const int32_t rows = (run->n - first + left - 1) / left;

        blocks[rows - 1](run, first);
        first += rows;
    }
}

LC_TARGET static void scale_indexes(const int32_t *scales, size_t n, const int32_t *thresholds, int32_t n_thresholds,
                                    uint16_t *indexes)
{
    size_t i;
    int32_t t;

    for (i = 0; i < n; i += 16) {
        const __mmask16 exist = n - i >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1U << (n - i)) - 1);
        const __m512i scale = _mm512_maskz_loadu_epi32(exist, scales + i);
        __m512i count = _mm512_setzero_si512();

        for (t = 0; t < n_thresholds; t++) {
            const __mmask16 less = _mm512_cmplt_epi32_mask(_mm512_set1_epi32(thresholds[t]), scale);

            count = _mm512_mask_add_epi32(count, less, count, _mm512_set1_epi32(1));
        }
        _mm256_mask_storeu_epi16(indexes + i, exist, _mm512_cvtepi32_epi16(count));
    }
}

const lc_kernels *lc_kernels_avx512(void)
{
    static const lc_kernels kernels = {panel, scale_indexes};

    return &kernels;
}

#else

const lc_kernels *lc_kernels_avx512(void)
{
    return NULL;
}

#endif
