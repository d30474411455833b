/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The loops of lc_dense_loops.h that matter, in AVX-512 with bfloat16; to be included behind it by the two files of
 * kernels that have that.
 */
#include <immintrin.h>

/* 32 bfloat16, the first 16 of `low`. */
LC_DENSE_INLINE __m512i both_to_bf16(__m512 low, __m512 high)
{
    union {
        __m512bh b;
        __m512i i;
    } u = {.b = _mm512_cvtne2ps_pbh(high, low)};

    return u.i;
}

LC_DENSE_INLINE __m512 half_from_bf16(__m512i pairs, int upper)
{
    const __m256i half = upper ? _mm512_extracti64x4_epi64(pairs, 1) : _mm512_castsi512_si256(pairs);

    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

LC_DENSE_TARGET static void leaky_zmm(const float *sums, const float *bias, float slope, int32_t n, lc_bf16 *out,
                                      ptrdiff_t out_step)
{
    const __m512 bias_low = _mm512_loadu_ps(bias), bias_high = _mm512_loadu_ps(bias + 16);
    const __m512 below = _mm512_set1_ps(slope); /* within 0 .. 1 */
    int32_t i;

    for (i = 0; i < n; i++) {
        const __m512 low = _mm512_add_ps(_mm512_loadu_ps(sums + LC_DENSE_PANEL * i), bias_low);
        const __m512 high = _mm512_add_ps(_mm512_loadu_ps(sums + LC_DENSE_PANEL * i + 16), bias_high);

        _mm512_storeu_si512(out + out_step * i, both_to_bf16(_mm512_max_ps(low, _mm512_mul_ps(low, below)),
                                                             _mm512_max_ps(high, _mm512_mul_ps(high, below))));
    }
}

LC_DENSE_TARGET static void residual_zmm(const float *sums, const float *bias, int32_t n, float *x, ptrdiff_t x_step,
                                         lc_bf16 *out, lc_bf16 *low, ptrdiff_t out_step)
{
    const __m512 bias_low = _mm512_loadu_ps(bias), bias_high = _mm512_loadu_ps(bias + 16);
    int32_t i;

    for (i = 0; i < n; i++) {
        float *to = x + x_step * i;
        const __m512 first = _mm512_add_ps(_mm512_add_ps(_mm512_loadu_ps(sums + LC_DENSE_PANEL * i), bias_low),
                                           _mm512_loadu_ps(to));
        const __m512 second = _mm512_add_ps(_mm512_add_ps(_mm512_loadu_ps(sums + LC_DENSE_PANEL * i + 16), bias_high),
                                            _mm512_loadu_ps(to + 16));
        const __m512i upper = both_to_bf16(first, second);

        _mm512_storeu_ps(to, first);
        _mm512_storeu_ps(to + 16, second);
        _mm512_storeu_si512(out + out_step * i, upper);
        if (low) {
            _mm512_storeu_si512(low + out_step * i, both_to_bf16(_mm512_sub_ps(first, half_from_bf16(upper, 0)),
                                                                 _mm512_sub_ps(second, half_from_bf16(upper, 1))));
        }
    }
}

LC_DENSE_TARGET static void store_zmm(const float *sums, const float *bias, float scale, int32_t n, float *x,
                                      ptrdiff_t x_step, lc_bf16 *out, ptrdiff_t out_step)
{
    const __m512 bias_low = _mm512_loadu_ps(bias), bias_high = _mm512_loadu_ps(bias + 16);
    const __m512 factor = _mm512_set1_ps(scale);
    int32_t i;

    for (i = 0; i < n; i++) {
        const __m512 low = _mm512_fmadd_ps(_mm512_loadu_ps(sums + LC_DENSE_PANEL * i), factor, bias_low);
        const __m512 high = _mm512_fmadd_ps(_mm512_loadu_ps(sums + LC_DENSE_PANEL * i + 16), factor, bias_high);

        _mm512_storeu_ps(x + x_step * i, low);
        _mm512_storeu_ps(x + x_step * i + 16, high);
        if (out) {
            _mm512_storeu_si512(out + out_step * i, both_to_bf16(low, high));
        }
    }
}

/* Every second channel at a time, since a pair of bfloat16 becomes two floats by a shift and a mask. */
LC_DENSE_TARGET static void depthwise_zmm(const lc_bf16 *a, ptrdiff_t row_step, const float *weights,
                                          const float *bias, int32_t channels, int32_t n, lc_bf16 *out)
{
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
    const __m512i upper_half = _mm512_set1_epi32(-65536);
    __m512i interleave = _mm512_setzero_si512();
    int16_t order[32];
    int32_t c, i;
    int tap;

    for (i = 0; i < 32; i++) {
        order[i] = (int16_t)(i / 2 + 16 * (i % 2));
    }
    interleave = _mm512_loadu_si512(order);
    for (c = 0; c < channels; c += 32) {
        const __m512 b0 = _mm512_loadu_ps(bias + c), b1 = _mm512_loadu_ps(bias + c + 16);
        const __m512 even_bias = _mm512_permutex2var_ps(b0, evens, b1), odd_bias = _mm512_permutex2var_ps(b0, odds, b1);
        __m512 even_w[9], odd_w[9];

        for (tap = 0; tap < 9; tap++) {
            const __m512 w0 = _mm512_loadu_ps(weights + (ptrdiff_t)channels * tap + c);
            const __m512 w1 = _mm512_loadu_ps(weights + (ptrdiff_t)channels * tap + c + 16);

            even_w[tap] = _mm512_permutex2var_ps(w0, evens, w1);
            odd_w[tap] = _mm512_permutex2var_ps(w0, odds, w1);
        }
        for (i = 0; i < n; i++) {
            const lc_bf16 *from = a + (ptrdiff_t)channels * i + c;
            __m512 even = even_bias, odd = odd_bias;

            for (tap = 0; tap < 9; tap++) {
                const __m512i pairs =
                    _mm512_loadu_si512(from + row_step * (tap / 3) + (ptrdiff_t)channels * (tap % 3));

                even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), even_w[tap], even);
                odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(pairs, upper_half)), odd_w[tap], odd);
            }
            _mm512_storeu_si512(out + (ptrdiff_t)channels * i + c,
                                _mm512_permutexvar_epi16(interleave, both_to_bf16(even, odd)));
        }
    }
}

LC_DENSE_INLINE __mmask16 first_of_16(int32_t n)
{
    return n < 16 ? (__mmask16)((1U << n) - 1) : (__mmask16)0xffff;
}

LC_DENSE_INLINE void store_bf16(lc_bf16 *out, __mmask16 there, __m512 v)
{
    union {
        __m256bh b;
        __m256i i;
    } u = {.b = _mm512_cvtneps_pbh(v)};

    _mm256_mask_storeu_epi16(out, there, u.i);
}

/* The root by its estimate, which is within 2^-14. */
LC_DENSE_TARGET static void normalise_zmm(const float *sums, const float *beta, bool inverse, int32_t n, int32_t width,
                                          float *x, const float *add, ptrdiff_t step)
{
    int32_t i, c;

    for (c = 0; c < width; c += 16) {
        const __mmask16 there = first_of_16(width - c);
        const __m512 least = _mm512_loadu_ps(beta + c);

        for (i = 0; i < n; i++) {
            float *to = x + step * i + c;
            const __m512 norm = _mm512_add_ps(_mm512_loadu_ps(sums + LC_DENSE_PANEL * i + c), least);
            const __m512 over_root = _mm512_rsqrt14_ps(norm);
            const __m512 factor = inverse ? _mm512_mul_ps(norm, over_root) : over_root;
            const __m512 added = add ? _mm512_maskz_loadu_ps(there, add + step * i + c) : _mm512_setzero_ps();

            _mm512_mask_storeu_ps(to, there, _mm512_fmadd_ps(_mm512_maskz_loadu_ps(there, to), factor, added));
        }
    }
}

LC_DENSE_TARGET static void norm_gradient_zmm(const float *sums, const float *beta, bool inverse, int32_t n,
                                              int32_t width, const float *x, float *grad, ptrdiff_t step,
                                              lc_bf16 *grad_norm, ptrdiff_t norm_step, float *grad_beta)
{
    const __m512 half = _mm512_set1_ps(0.5f);
    int32_t i, c;

    for (c = 0; c < width; c += 16) {
        const __mmask16 there = first_of_16(width - c);
        const __m512 least = _mm512_loadu_ps(beta + c);
        __m512 total = _mm512_setzero_ps();

        for (i = 0; i < n; i++) {
            float *to = grad + step * i + c;
            const __m512 norm = _mm512_add_ps(_mm512_loadu_ps(sums + LC_DENSE_PANEL * i + c), least);
            const __m512 root = _mm512_rsqrt14_ps(norm), g = _mm512_maskz_loadu_ps(there, to);
            const __m512 product = _mm512_mul_ps(g, _mm512_maskz_loadu_ps(there, x + step * i + c));
            const __m512 slope = _mm512_mul_ps(_mm512_mul_ps(half, product), root);

            if (inverse) {
                total = _mm512_add_ps(total, slope);
                store_bf16(grad_norm + norm_step * i + c, there, slope);
                _mm512_mask_storeu_ps(to, there, _mm512_mul_ps(g, _mm512_mul_ps(norm, root)));
            } else {
                const __m512 falling = _mm512_mul_ps(slope, _mm512_mul_ps(root, root));

                total = _mm512_sub_ps(total, falling);
                store_bf16(grad_norm + norm_step * i + c, there, _mm512_sub_ps(_mm512_setzero_ps(), falling));
                _mm512_mask_storeu_ps(to, there, _mm512_mul_ps(g, root));
            }
        }
        _mm512_mask_storeu_ps(grad_beta + c, there,
                              _mm512_add_ps(_mm512_maskz_loadu_ps(there, grad_beta + c), total));
    }
}

LC_DENSE_TARGET static void square_gradient_zmm(const float *sums, int32_t n, int32_t width, const float *x,
                                                const float *grad, ptrdiff_t step, lc_bf16 *out)
{
    int32_t i, c;

    for (i = 0; i < n; i++) {
        for (c = 0; c < width; c += 16) {
            const __mmask16 there = first_of_16(width - c);
            const __m512 value = _mm512_maskz_loadu_ps(there, x + step * i + c);
            const __m512 twice = _mm512_add_ps(value, value);

            store_bf16(out + step * i + c, there,
                       _mm512_fmadd_ps(twice, _mm512_loadu_ps(sums + LC_DENSE_PANEL * i + c),
                                       _mm512_maskz_loadu_ps(there, grad + step * i + c)));
        }
    }
}
