/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Latents to symbols and back, in fixed point:
 *
 *   symbol = clamp(floor((v - (mean << (16 - f)) + 2^15) / 2^16), +-2^20)    v: 16 fraction bits; mean, v_hat: f
 *   v_hat  = (symbol << f) + mean
 *
 * With |mean| < 2^30 and f <= 10 v_hat fits int32; whoever sets up a model checks that.
 */
#ifndef LC_LATENTS_H
#define LC_LATENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LC_LATENT_BITS 16 /* fraction bits of the latents that an encoder starts from */
#define LC_MAX_SYMBOL (INT32_C(1) << 20)
#define LC_MAX_FRACTION_BITS 10

/* One row of n latents. mean_step is 1, or 0 for the same mean throughout. */
static inline void lc_quantize(const int32_t *v, const int32_t *means, ptrdiff_t mean_step, int32_t fraction_bits,
                               size_t n, int32_t *symbols)
{
    const int64_t factor = INT64_C(1) << (LC_LATENT_BITS - fraction_bits);
    size_t i;

    for (i = 0; i < n; i++) {
        const int64_t residual = v[i] - means[mean_step * (ptrdiff_t)i] * factor;
        const int64_t rounded = (residual + (INT64_C(1) << (LC_LATENT_BITS - 1))) >> LC_LATENT_BITS;

        symbols[i] = (int32_t)(rounded < -LC_MAX_SYMBOL  ? -LC_MAX_SYMBOL
                               : rounded > LC_MAX_SYMBOL ? LC_MAX_SYMBOL
                                                         : rounded);
    }
}

/* False: a symbol is out of range, and v_hat of no use. */
static inline bool lc_dequantize(const int32_t *symbols, const int32_t *means, ptrdiff_t mean_step,
                                 int32_t fraction_bits, size_t n, int32_t *v_hat)
{
    const int32_t factor = INT32_C(1) << fraction_bits;
    uint32_t outside = 0;
    size_t i;

    for (i = 0; i < n; i++) {
        outside |= (uint32_t)(symbols[i] < -LC_MAX_SYMBOL) | (uint32_t)(symbols[i] > LC_MAX_SYMBOL);
    }
    if (outside) {
        return false;
    }
    for (i = 0; i < n; i++) {
        v_hat[i] = symbols[i] * factor + means[mean_step * (ptrdiff_t)i];
    }
    return true;
}

static inline int16_t lc_saturate_int16(int32_t v)
{
    return (int16_t)(v < -INT16_MAX ? -INT16_MAX : v > INT16_MAX ? INT16_MAX : v);
}

#endif
