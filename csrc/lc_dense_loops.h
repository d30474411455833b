/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The loops around the products, in plain C that compilers turn into vectors. Each file of kernels includes this once
 * with LC_DENSE_TARGET as the attribute of its instruction set, and so has its own copy.
 */
#include <math.h>
#include <string.h>

#include "lc_dense.h"

#ifndef LC_DENSE_TARGET
#define LC_DENSE_TARGET
#endif

#define LC_DENSE_INLINE static inline __attribute__((always_inline)) LC_DENSE_TARGET

LC_DENSE_INLINE float from_bf16(lc_bf16 v)
{
    const uint32_t bits = (uint32_t)v << 16;
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

/* To the nearest, ties to even; infinities, and NaNs as processors make them, stay so. */
LC_DENSE_INLINE lc_bf16 to_bf16(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof bits);
    return (lc_bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#ifndef LC_DENSE_ZMM

LC_DENSE_TARGET static void leaky(const float *sums, const float *bias, float slope, int32_t n, lc_bf16 *out,
                                  ptrdiff_t out_step)
{
    int32_t i, c;

    for (i = 0; i < n; i++) {
        lc_bf16 *to = out + out_step * i;

        for (c = 0; c < LC_DENSE_PANEL; c++) {
            const float v = sums[LC_DENSE_PANEL * i + c] + bias[c];

            to[c] = to_bf16(v > 0 ? v : v * slope);
        }
    }
}

LC_DENSE_TARGET static void residual(const float *sums, const float *bias, int32_t n, float *x, ptrdiff_t x_step,
                                     lc_bf16 *out, lc_bf16 *low, ptrdiff_t out_step)
{
    int32_t i, c;

    for (i = 0; i < n; i++) {
        float *to = x + x_step * i;

        for (c = 0; c < LC_DENSE_PANEL; c++) {
            to[c] += sums[LC_DENSE_PANEL * i + c] + bias[c];
        }
        for (c = 0; c < LC_DENSE_PANEL; c++) {
            out[out_step * i + c] = to_bf16(to[c]);
        }
        for (c = 0; low && c < LC_DENSE_PANEL; c++) {
            low[out_step * i + c] = to_bf16(to[c] - from_bf16(to_bf16(to[c])));
        }
    }
}

LC_DENSE_TARGET static void store(const float *sums, const float *bias, float scale, int32_t n, float *x,
                                  ptrdiff_t x_step, lc_bf16 *out, ptrdiff_t out_step)
{
    int32_t i, c;

    for (i = 0; i < n; i++) {
        float *to = x + x_step * i;

        for (c = 0; c < LC_DENSE_PANEL; c++) {
            to[c] = scale * sums[LC_DENSE_PANEL * i + c] + bias[c];
        }
        for (c = 0; out && c < LC_DENSE_PANEL; c++) {
            out[out_step * i + c] = to_bf16(to[c]);
        }
    }
}

LC_DENSE_TARGET static void depthwise(const lc_bf16 *a, ptrdiff_t row_step, const float *weights, const float *bias,
                                      int32_t channels, int32_t n, lc_bf16 *out)
{
    int32_t i, c, k, tap;

    for (c = 0; c < channels; c += 32) {
        for (i = 0; i < n; i++) {
            float sums[32];

            for (k = 0; k < 32; k++) {
                sums[k] = bias[c + k];
            }
            for (tap = 0; tap < 9; tap++) {
                const lc_bf16 *from = a + row_step * (tap / 3) + (ptrdiff_t)channels * (i + tap % 3) + c;
                const float *w = weights + (ptrdiff_t)channels * tap + c;

                for (k = 0; k < 32; k++) {
                    sums[k] += from_bf16(from[k]) * w[k];
                }
            }
            for (k = 0; k < 32; k++) {
                out[(ptrdiff_t)channels * i + c + k] = to_bf16(sums[k]);
            }
        }
    }
}

LC_DENSE_TARGET static void normalise(const float *sums, const float *beta, bool inverse, int32_t n, int32_t width,
                                      float *x, const float *add, ptrdiff_t step)
{
    int32_t i, c;

    for (i = 0; i < n; i++) {
        const float *norm = sums + LC_DENSE_PANEL * i;
        float *to = x + step * i;

        for (c = 0; c < width; c++) {
            const float root = sqrtf(norm[c] + beta[c]);

            to[c] = inverse ? to[c] * root : to[c] / root;
        }
        for (c = 0; add && c < width; c++) {
            to[c] += add[step * i + c];
        }
    }
}

#endif

LC_DENSE_TARGET static void squares(const float *in, int32_t n, lc_bf16 *out)
{
    int32_t i;

    for (i = 0; i < n; i++) {
        out[i] = to_bf16(in[i] * in[i]);
    }
}

LC_DENSE_TARGET static void scaled(const int32_t *in, const float *scale, int32_t n, lc_bf16 *out, lc_bf16 *low)
{
    int32_t i;

    for (i = 0; i < n; i++) {
        const float v = (float)in[i] * scale[i];

        out[i] = to_bf16(v);
        low[i] = to_bf16(v - from_bf16(to_bf16(v)));
    }
}

LC_DENSE_TARGET static void rounded(const float *in, int32_t n, lc_bf16 *out)
{
    int32_t i;

    for (i = 0; i < n; i++) {
        out[i] = to_bf16(in[i]);
    }
}

LC_DENSE_INLINE float clamped(float v)
{
    return v > 0 ? (v < 1 ? v : 1) : 0; /* not a number: 0 */
}

LC_DENSE_TARGET static void to_bytes(const float *x, int32_t n, uint8_t *out)
{
    int32_t i;

    for (i = 0; i < n; i++) {
        out[i] = (uint8_t)(int32_t)(clamped(x[i]) * 255 + 0.5F);
    }
}

LC_DENSE_TARGET static void to_words(const float *x, int32_t n, uint16_t *out)
{
    int32_t i;

    for (i = 0; i < n; i++) {
        out[i] = (uint16_t)(int32_t)(clamped(x[i]) * 65535 + 0.5F);
    }
}

LC_DENSE_TARGET static void widened(const lc_bf16 *in, int32_t n, float *out)
{
    int32_t i;

    for (i = 0; i < n; i++) {
        out[i] = from_bf16(in[i]);
    }
}

#ifndef LC_DENSE_ZMM

LC_DENSE_TARGET static void norm_gradient(const float *sums, const float *beta, bool inverse, int32_t n, int32_t width,
                                          const float *x, float *grad, ptrdiff_t step, lc_bf16 *grad_norm,
                                          ptrdiff_t norm_step, float *grad_beta)
{
    int32_t i, c;

    for (i = 0; i < n; i++) {
        const float *sum = sums + LC_DENSE_PANEL * i, *value = x + step * i;
        float *g = grad + step * i;
        lc_bf16 *to = grad_norm + norm_step * i;

        for (c = 0; c < width; c++) {
            const float norm = sum[c] + beta[c], root = 1 / sqrtf(norm);
            const float half = 0.5f * g[c] * value[c] * root, slope = inverse ? half : -half * root * root;

            g[c] *= inverse ? norm * root : root;
            grad_beta[c] += slope;
            to[c] = to_bf16(slope);
        }
    }
}

LC_DENSE_TARGET static void square_gradient(const float *sums, int32_t n, int32_t width, const float *x,
                                            const float *grad, ptrdiff_t step, lc_bf16 *out)
{
    int32_t i, c;

    for (i = 0; i < n; i++) {
        for (c = 0; c < width; c++) {
            const ptrdiff_t at = step * i + c;

            out[at] = to_bf16(grad[at] + 2 * x[at] * sums[LC_DENSE_PANEL * i + c]);
        }
    }
}

#endif

#define LC_DENSE_SMALL                                                                                              \
    .scaled = scaled, .rounded = rounded, .widened = widened, .squares = squares,   \
    .to_bytes = to_bytes, .to_words = to_words
#define LC_DENSE_LARGE                                                                                              \
    .leaky = leaky, .residual = residual, .store = store, .depthwise = depthwise, .normalise = normalise, \
    .norm_gradient = norm_gradient, .square_gradient = square_gradient
