/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Kernels of the float transforms: products of bfloat16 numbers, sums in float. All kernels round at the same places;
 * they add in different orders, so that results agree to about 2^-20 of the sums, not to the last bit. Nothing that
 * has to be equal on all machines is computed here (see lc_gemm.h for that).
 *
 * Weights of a panel of 32 output channels: for each block of 32 inputs two tiles of 16 channels,
 *   tile[16 pairs of inputs][16 channels][2], 1 KiB each, 64 byte aligned,
 * which is both what AMX multiplies by and what AVX-512 loads.
 */
#ifndef LC_DENSE_H
#define LC_DENSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Added to the targets of AVX-512, where loops that the compiler vectorises should use all of a register. Clang does not
 * know the word, and would leave out the whole attribute. */
#ifdef __clang__
#define LC_DENSE_WHOLE_REGISTERS ""
#else
#define LC_DENSE_WHOLE_REGISTERS ",prefer-vector-width=512"
#endif

#define LC_DENSE_PANEL 32
#define LC_DENSE_BLOCK 32 /* inputs of a block; planes have their channels padded to a multiple of it */
#define LC_DENSE_ROWS 64  /* positions of a run at most */
#define LC_DENSE_SLACK 32 /* rows that may be read past the last position, so that planes must have room for them */
#define LC_DENSE_MAX_SEGMENTS 9

typedef uint16_t lc_bf16;

typedef struct lc_dense_run {
    const lc_bf16 *a;
    ptrdiff_t a_step;                                 /* in numbers, from a position to the next */
    ptrdiff_t segment_offset[LC_DENSE_MAX_SEGMENTS];  /* in numbers, from `a` */
    int32_t segment_blocks[LC_DENSE_MAX_SEGMENTS];    /* blocks of 32 inputs */
    int32_t n_segments;
    int32_t n;              /* positions, 1 .. LC_DENSE_ROWS */
    const lc_bf16 *weights; /* of one panel */
    float *out;             /* [LC_DENSE_ROWS][LC_DENSE_PANEL]; rows past n may be written */
} lc_dense_run;

typedef enum lc_float_isa {
    LC_FLOAT_PLAIN = 0,
    LC_FLOAT_AVX2 = 1,
    LC_FLOAT_AVX512 = 2, /* with its bfloat16 products */
    LC_FLOAT_AMX = 3,
    LC_N_FLOAT_ISAS = 4
} lc_float_isa;

typedef struct lc_dense_kernels {
    /* Around everything that a thread does, in pairs. */
    void (*begin)(void);
    void (*end)(void);

    void (*panel)(const lc_dense_run *run);

    /* out[i] = bf16(leaky(sums[i] + bias)), n rows of LC_DENSE_PANEL. */
    void (*leaky)(const float *sums, const float *bias, float slope, int32_t n, lc_bf16 *out, ptrdiff_t out_step);

    /* x += sums + bias; out = bf16(x), and if `low`: low = bf16(x - out). */
    void (*residual)(const float *sums, const float *bias, int32_t n, float *x, ptrdiff_t x_step, lc_bf16 *out,
                     lc_bf16 *low, ptrdiff_t out_step);

    /* x = scale * sums + bias; out = bf16(x) unless NULL. */
    void (*store)(const float *sums, const float *bias, float scale, int32_t n, float *x, ptrdiff_t x_step,
                  lc_bf16 *out, ptrdiff_t out_step);

    /* Depthwise 3x3 at n positions of a row: `a` is the tap above left of the first one. weights: [9][channels].
     * channels: a multiple of 32. */
    void (*depthwise)(const lc_bf16 *a, ptrdiff_t row_step, const float *weights, const float *bias, int32_t channels,
                      int32_t n, lc_bf16 *out);

    /* out[i] = bf16(v), v = in[i] * scale[i]; low[i] = bf16(v - out[i]) */
    void (*scaled)(const int32_t *in, const float *scale, int32_t n, lc_bf16 *out, lc_bf16 *low);
    void (*rounded)(const float *in, int32_t n, lc_bf16 *out);
    void (*widened)(const lc_bf16 *in, int32_t n, float *out);
    void (*squares)(const float *in, int32_t n, lc_bf16 *out);

    /* x *= 1 / sqrt(sums + beta), or if `inverse` sqrt(sums + beta), and x += add unless NULL; n rows of `width` up to
     * LC_DENSE_PANEL channels. sums + beta is positive. */
    void (*normalise)(const float *sums, const float *beta, bool inverse, int32_t n, int32_t width, float *x,
                      const float *add, ptrdiff_t step);

    /* Of y = x * norm^(-1/2), or if `inverse` norm^(1/2), with norm = sums + beta: grad is the gradient of y and becomes
     * what of that of x does not come by the norm; grad_norm is that of the norm, and is added to grad_beta. */
    void (*norm_gradient)(const float *sums, const float *beta, bool inverse, int32_t n, int32_t width, const float *x,
                          float *grad, ptrdiff_t step, lc_bf16 *grad_norm, ptrdiff_t norm_step, float *grad_beta);

    /* out = grad + 2 * x * sums, where sums are the gradients of the squares of x; all three of one step. */
    void (*square_gradient)(const float *sums, int32_t n, int32_t width, const float *x, const float *grad,
                            ptrdiff_t step, lc_bf16 *out);

    /* Pixels: clamp(x, 0, 1) * white, rounded. */
    void (*to_bytes)(const float *x, int32_t n, uint8_t *out);
    void (*to_words)(const float *x, int32_t n, uint16_t *out);
} lc_dense_kernels;

/* NULL where the processor, the system or the compiler does not have it. */
const lc_dense_kernels *lc_dense_kernels_get(lc_float_isa isa);

/* One per source file; NULL where the compiler cannot make it. */
const lc_dense_kernels *lc_dense_kernels_plain(void);
const lc_dense_kernels *lc_dense_kernels_avx2(void);
const lc_dense_kernels *lc_dense_kernels_avx512(void);
const lc_dense_kernels *lc_dense_kernels_amx(void);

#endif
