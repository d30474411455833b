/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Generalised divisive normalisation and its inverse, in place, over rows of channels:
 *
 *   norm_i = beta_i + sum_j gamma_ij x_j^2;   x_i <- x_i / sqrt(norm_i), or x_i * sqrt(norm_i), and + add_i
 *
 * Squares and gamma are bfloat16, which the root halves the error of; sums, x and the result are float. A run of up to
 * 64 rows goes through all of it while it is in the first-level caches, so that x is read and written once.
 */
#ifndef LC_GDN_H
#define LC_GDN_H

#include "lc_dense.h"
#include "lc_status.h"

typedef struct lc_gdn {
    const lc_bf16 *panels; /* of gamma: inputs j, outputs i, padded with zeros to multiples of 32 */
    const float *beta;     /* padded likewise, with ones */
    int32_t channels, padded;
    bool inverse;
} lc_gdn;

/* x: [rows][channels]; add: the same, or NULL. LC_NO_MEMORY: x may be done in part. */
lc_status lc_gdn_apply(const lc_gdn *gdn, const lc_dense_kernels *kernels, float *x, const float *add, int64_t rows);

/* The same from x to y, for training. x, y: [rows][channels]. LC_NO_MEMORY. */
lc_status lc_gdn_forward(const lc_gdn *gdn, const lc_dense_kernels *kernels, const lc_bf16 *x, lc_bf16 *y,
                         int64_t rows);

/* All [rows][channels] but for grad_beta, [channels]. The gradient of gamma is the product of the last two, grad_norm
 * transposed. */
typedef struct lc_gdn_gradients {
    const lc_bf16 *x, *grad_y;
    lc_bf16 *grad_x;
    float *grad_beta; /* is added to */
    lc_bf16 *grad_norm, *squares;
} lc_gdn_gradients;

/* transposed: panels of gamma the other way round, inputs i and outputs j. LC_NO_MEMORY. */
lc_status lc_gdn_backward(const lc_gdn *gdn, const lc_bf16 *transposed, const lc_dense_kernels *kernels,
                          const lc_gdn_gradients *of, int64_t rows);

#endif
