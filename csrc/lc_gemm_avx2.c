/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Kernels for AVX2: vpmaddwd makes 8 sums of two int16 products, vpaddd adds them. A block of up to 6 positions by 16
 * channels keeps 12 sums in registers; a panel is two such halves.
 */
#include "lc_gemm.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <string.h>

#define LC_TARGET __attribute__((target("avx2")))
#define LC_INLINE static inline __attribute__((always_inline)) LC_TARGET

#define LC_BLOCK 6
#define LC_HALF 16

/* floor(x / 2^s) for |x| < 2^50: AVX2 shifts 64 bits only logically, so x is made positive first. 2^50 is a multiple
 * of 2^s, and |acc * m| + 2^(s - 1) < 2^47 + 2^39. */
LC_INLINE __m256i shift_right(__m256i x, __m256i s)
{
    const __m256i above = _mm256_set1_epi64x(INT64_C(1) << 50);

    return _mm256_sub_epi64(_mm256_srlv_epi64(_mm256_add_epi64(x, above), s), _mm256_srlv_epi64(above, s));
}

LC_INLINE __m256i clamp(__m256i x, __m256i lo, __m256i hi)
{
    x = _mm256_blendv_epi8(x, lo, _mm256_cmpgt_epi64(lo, x));
    return _mm256_blendv_epi8(x, hi, _mm256_cmpgt_epi64(x, hi));
}

/* Requantises the even lanes of acc; the results are in the low halves of the 64 bit lanes. */
LC_INLINE __m256i requantise_even(__m256i acc, __m256i mult, __m256i shift, __m256i lo, __m256i hi)
{
    const __m256i one = _mm256_set1_epi64x(1);
    const __m256i s = _mm256_and_si256(shift, _mm256_set1_epi64x(0xFFFFFFFF));
    const __m256i half = _mm256_sllv_epi64(one, _mm256_sub_epi64(s, one));

    return clamp(shift_right(_mm256_add_epi64(_mm256_mul_epi32(acc, mult), half), s), lo, hi);
}

/* 8 sums, channels c to c + 7 of the panel. */
LC_INLINE __m256i requantise(__m256i acc, const lc_run *run, int32_t c)
{
    const __m256i lo = _mm256_set1_epi64x(run->lo), hi = _mm256_set1_epi64x(run->hi);
    const __m256i mult = _mm256_blendv_epi8(_mm256_loadu_si256((const __m256i *)(run->mult_pos + c)),
                                            _mm256_loadu_si256((const __m256i *)(run->mult_neg + c)),
                                            _mm256_srai_epi32(acc, 31));
    const __m256i shift = _mm256_loadu_si256((const __m256i *)(run->shift + c));
    const __m256i even = requantise_even(acc, mult, shift, lo, hi);
    const __m256i odd = requantise_even(_mm256_srli_epi64(acc, 32), _mm256_srli_epi64(mult, 32),
                                        _mm256_srli_epi64(shift, 32), lo, hi);

    return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}

/* Channels c to c + 15 of the panel, one body for all block sizes. */
LC_TARGET static void store_rows(const lc_run *run, int32_t first, int32_t c, int rows, const __m256i *sums)
{
    const int32_t exist = run->n_channels - c < LC_HALF ? run->n_channels - c : LC_HALF;

    for (int i = 0; i < rows; i++) {
        const ptrdiff_t at = run->out_step * (first + i) + c;
        __m256i low = sums[2 * i], high = sums[2 * i + 1];

        if (run->output != LC_OUTPUT_ACC) {
            low = requantise(low, run, c);
            high = requantise(high, run, c + 8);
        }
        if (run->output == LC_OUTPUT_INT16) {
            /* vpackssdw works within 128 bit lanes; 0xD8 puts the quarters in order. */
            const __m256i narrow = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
            int16_t row[LC_HALF];

            _mm256_storeu_si256((__m256i *)row, narrow);
            memcpy((int16_t *)run->out + at, row, sizeof *row * (size_t)exist);
        } else {
            int32_t row[LC_HALF];

            _mm256_storeu_si256((__m256i *)row, low);
            _mm256_storeu_si256((__m256i *)(row + 8), high);
            memcpy((int32_t *)run->out + at, row, sizeof *row * (size_t)exist);
        }
    }
}

LC_INLINE __m256i broadcast_pair(const char *a)
{
    int32_t pair;

    memcpy(&pair, a, sizeof pair);
    return _mm256_set1_epi32(pair);
}

LC_INLINE __m256i multiply_add(__m256i acc, __m256i a, __m256i b)
{
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
}

LC_INLINE void block(const lc_run *run, int32_t first, int32_t c, const int rows)
{
    const ptrdiff_t step = run->a_step * (ptrdiff_t)sizeof(int16_t);
    const int16_t *weights = run->weights + 2 * c;
    __m256i low[LC_BLOCK], high[LC_BLOCK], sums[2 * LC_BLOCK];
    int32_t s, j;

#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        const int32_t *init = run->init + run->init_step * (first + i) + c;

        low[i] = _mm256_loadu_si256((const __m256i *)init);
        high[i] = _mm256_loadu_si256((const __m256i *)(init + 8));
    }
    for (s = 0; s < run->n_segments; s++) {
        const int32_t pairs = run->segment_pairs[s];
        const char *base0 = (const char *)(run->a + run->a_step * first + run->segment_step * s);
        const char *base1 = base0 + 3 * step;

        for (j = 0; j < pairs; j++) {
            const __m256i weights_low = _mm256_load_si256((const __m256i *)weights);
            const __m256i weights_high = _mm256_load_si256((const __m256i *)(weights + 16));

#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) {
                const __m256i a = broadcast_pair((i < 3 ? base0 : base1) + (i % 3) * step);

                low[i] = multiply_add(low[i], a, weights_low);
                high[i] = multiply_add(high[i], a, weights_high);
            }
            base0 += 4;
            base1 += 4;
            weights += 2 * LC_PANEL;
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        sums[2 * i] = low[i];
        sums[2 * i + 1] = high[i];
    }
    store_rows(run, first, c, rows, sums);
}

#define LC_BLOCK_OF(rows)                                                              \
    LC_TARGET static void block_of_##rows(const lc_run *run, int32_t first, int32_t c) \
    {                                                                                  \
        block(run, first, c, rows);                                                    \
    }

LC_BLOCK_OF(1)
LC_BLOCK_OF(2)
LC_BLOCK_OF(3)
LC_BLOCK_OF(4)
LC_BLOCK_OF(5)
LC_BLOCK_OF(6)

LC_TARGET static void panel(const lc_run *run)
{
    static void (*const blocks[LC_BLOCK])(const lc_run *run, int32_t first, int32_t c) = {
        block_of_1, block_of_2, block_of_3, block_of_4, block_of_5, block_of_6,
    };
    const int32_t n_blocks = (run->n + LC_BLOCK - 1) / LC_BLOCK;
    int32_t c;

    for (c = 0; c < run->n_channels; c += LC_HALF) {
        int32_t first = 0, left;

        for (left = n_blocks; left > 0; left--) {
            const int32_t rows = (run->n - first + left - 1) / left; /* nearly equal blocks */

            blocks[rows - 1](run, first, c);
            first += rows;
        }
    }
}

LC_TARGET static void scale_indexes(const int32_t *scales, size_t n, const int32_t *thresholds, int32_t n_thresholds,
                                    uint16_t *indexes)
{
    size_t i, j;
    int32_t t;

    for (i = 0; i < n; i += 8) {
        int32_t values[8] = {0}, counts[8];
        const size_t exist = n - i < 8 ? n - i : 8;
        __m256i scale, count = _mm256_setzero_si256();

        memcpy(values, scales + i, sizeof *values * exist);
        scale = _mm256_loadu_si256((const __m256i *)values);
        for (t = 0; t < n_thresholds; t++) {
            count = _mm256_sub_epi32(count, _mm256_cmpgt_epi32(scale, _mm256_set1_epi32(thresholds[t])));
        }
        _mm256_storeu_si256((__m256i *)counts, count);
        for (j = 0; j < exist; j++) {
            indexes[i + j] = (uint16_t)counts[j];
        }
    }
}

const lc_kernels *lc_kernels_avx2(void)
{
    static const lc_kernels kernels = {panel, scale_indexes};

    return &kernels;
}

#else

const lc_kernels *lc_kernels_avx2(void)
{
    return NULL;
}

#endif
