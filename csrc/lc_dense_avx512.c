/* SPDX-License-Identifier: BSD-3-Clause
 * Kernels for AVX-512 with bfloat16: vdpbf16ps adds two products to each of 16 floats. A block of up to 12 positions by
 * 32 channels keeps 24 sums in registers; a pair of inputs is broadcast once and used twice.
 */
#include "lc_dense.h"

#if defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 10))

#define LC_DENSE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16" LC_DENSE_WHOLE_REGISTERS)))
#define LC_DENSE_ZMM
#include "lc_dense_loops.h"
#include "lc_dense_zmm.h"

#define LC_BLOCK 12

static void nothing(void)
{
}

LC_DENSE_INLINE __m512bh as_pairs(__m512i v)
{
    union {
        __m512i i;
        __m512bh b;
    } u = {.i = v};

    return u.b;
}

LC_DENSE_INLINE void block(const lc_dense_run *run, int32_t row, int rows)
{
    const lc_bf16 *w = run->weights;
    __m512 sums[LC_BLOCK][2];
    int32_t s, b, p;
    int i;

    for (i = 0; i < rows; i++) {
        sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    }
    for (s = 0; s < run->n_segments; s++) {
        const lc_bf16 *a = run->a + run->a_step * row + run->segment_offset[s];

        for (b = 0; b < run->segment_blocks[s]; b++) {
            for (p = 0; p < 16; p++) {
                const __m512bh low = as_pairs(_mm512_load_si512(w + 32 * p));
                const __m512bh high = as_pairs(_mm512_load_si512(w + 512 + 32 * p));

                for (i = 0; i < rows; i++) {
                    int32_t pair;
                    __m512bh both;

                    memcpy(&pair, a + run->a_step * i + 2 * p, sizeof pair);
                    both = as_pairs(_mm512_set1_epi32(pair));
                    sums[i][0] = _mm512_dpbf16_ps(sums[i][0], both, low);
                    sums[i][1] = _mm512_dpbf16_ps(sums[i][1], both, high);
                }
            }
            a += LC_DENSE_BLOCK;
            w += LC_DENSE_BLOCK * LC_DENSE_PANEL;
        }
    }
    for (i = 0; i < rows; i++) {
        _mm512_storeu_ps(run->out + LC_DENSE_PANEL * (row + i), sums[i][0]);
        _mm512_storeu_ps(run->out + LC_DENSE_PANEL * (row + i) + 16, sums[i][1]);
    }
}

LC_DENSE_TARGET static void panel(const lc_dense_run *run)
{
    int32_t row = 0;

    for (; row + LC_BLOCK <= run->n; row += LC_BLOCK) {
        block(run, row, LC_BLOCK);
    }
    for (; row + 4 <= run->n; row += 4) {
        block(run, row, 4);
    }
    for (; row < run->n; row++) {
        block(run, row, 1);
    }
}

const lc_dense_kernels *lc_dense_kernels_avx512(void)
{
    static const lc_dense_kernels kernels = {
        .begin = nothing,
        .end = nothing,
        .panel = panel,
        .leaky = leaky_zmm,
        .residual = residual_zmm,
        .store = store_zmm,
        .depthwise = depthwise_zmm,
        .normalise = normalise_zmm,
        .norm_gradient = norm_gradient_zmm,
        .square_gradient = square_gradient_zmm,
        LC_DENSE_SMALL,
    };

    return &kernels;
}

#else

const lc_dense_kernels *lc_dense_kernels_avx512(void)
{
    return NULL;
}

#endif
