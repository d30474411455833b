/* SPDX-License-Identifier: BSD-3-Clause
 * Kernels for AVX2 with FMA: bfloat16 is the upper half of a float, so a pair of weights is two floats after a shift
 * and a mask. A block of 4 positions by 16 channels keeps 8 sums in registers.
 */
#include "lc_dense.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define LC_DENSE_TARGET __attribute__((target("avx2,fma")))
#include "lc_dense_loops.h"

#define LC_BLOCK 4

static void nothing(void)
{
}

/* 16 channels of `rows` positions. Inputs are made floats first, which a broadcast takes from memory. */
LC_DENSE_INLINE void block(const lc_dense_run *run, int32_t row, int rows, int32_t tile)
{
    const lc_bf16 *w = run->weights + 512 * tile;
    const __m256i upper_half = _mm256_set1_epi32(-65536);
    float inputs[LC_BLOCK][LC_DENSE_BLOCK];
    __m256 sums[LC_BLOCK][2];
    int32_t s, b, p;
    int i, k;

    for (i = 0; i < rows; i++) {
        sums[i][0] = sums[i][1] = _mm256_setzero_ps();
    }
    for (s = 0; s < run->n_segments; s++) {
        const lc_bf16 *a = run->a + run->a_step * row + run->segment_offset[s];

        for (b = 0; b < run->segment_blocks[s]; b++) {
            for (i = 0; i < rows; i++) {
                for (k = 0; k < LC_DENSE_BLOCK; k += 8) {
                    const __m128i eight = _mm_loadu_si128((const __m128i *)(const void *)(a + run->a_step * i + k));

                    _mm256_storeu_ps(&inputs[i][k], _mm256_castsi256_ps(
                                                        _mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16)));
                }
            }
            for (p = 0; p < 16; p++) {
                const __m256i first = _mm256_loadu_si256((const __m256i *)(const void *)(w + 32 * p));
                const __m256i second = _mm256_loadu_si256((const __m256i *)(const void *)(w + 32 * p + 16));
                const __m256 even0 = _mm256_castsi256_ps(_mm256_slli_epi32(first, 16));
                const __m256 even1 = _mm256_castsi256_ps(_mm256_slli_epi32(second, 16));
                const __m256 odd0 = _mm256_castsi256_ps(_mm256_and_si256(first, upper_half));
                const __m256 odd1 = _mm256_castsi256_ps(_mm256_and_si256(second, upper_half));

                for (i = 0; i < rows; i++) {
                    const __m256 even_input = _mm256_broadcast_ss(&inputs[i][2 * p]);
                    const __m256 odd_input = _mm256_broadcast_ss(&inputs[i][2 * p + 1]);

                    sums[i][0] = _mm256_fmadd_ps(even_input, even0, sums[i][0]);
                    sums[i][1] = _mm256_fmadd_ps(even_input, even1, sums[i][1]);
                    sums[i][0] = _mm256_fmadd_ps(odd_input, odd0, sums[i][0]);
                    sums[i][1] = _mm256_fmadd_ps(odd_input, odd1, sums[i][1]);
                }
            }
            a += LC_DENSE_BLOCK;
            w += LC_DENSE_BLOCK * LC_DENSE_PANEL;
        }
    }
    for (i = 0; i < rows; i++) {
        float *out = run->out + LC_DENSE_PANEL * (row + i) + 16 * tile;

        _mm256_storeu_ps(out, sums[i][0]);
        _mm256_storeu_ps(out + 8, sums[i][1]);
    }
}

LC_DENSE_TARGET static void panel(const lc_dense_run *run)
{
    int32_t row, tile;

    for (tile = 0; tile < 2; tile++) {
        for (row = 0; row + LC_BLOCK <= run->n; row += LC_BLOCK) {
            block(run, row, LC_BLOCK, tile);
        }
        for (; row < run->n; row++) {
            block(run, row, 1, tile);
        }
    }
}

const lc_dense_kernels *lc_dense_kernels_avx2(void)
{
    static const lc_dense_kernels kernels = {
        .begin = nothing, .end = nothing, .panel = panel, LC_DENSE_LARGE, LC_DENSE_SMALL};

    return &kernels;
}

#else

const lc_dense_kernels *lc_dense_kernels_avx2(void)
{
    return NULL;
}

#endif
