/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Symbols of a slice whose parameters depend on those before. With a 5x5 type A mask, position (row, column) reads
 * nothing later than (row - 1, column + 2), so that all positions of equal t = column + 3 row are independent (with a
 * 3x3 mask: of equal t = column + 2 row):
 *
 *    t = 0  1  2  3  4  5  6      a step t takes all its positions, at most min(height, ceil(width / 3)), through
 *        3  4  5  6  7  8  9      context -> parameters -> indexes -> symbols -> y_hat as one small matrix product
 *        6  7  8  9 10 11 12      for each layer; width + 3 (height - 1) steps instead of height * width
 *
 * Coding order: t, then row ascending, then channel.
 *
 * Within a step the threads share a layer by panels of output channels. A thread has the same panels in every step, so
 * its part of the weights stays in its second-level cache.
 */
#ifndef LC_WAVEFRONT_H
#define LC_WAVEFRONT_H

#include "lc_slice.h"

/* Positions of the widest step. */
int32_t lc_wavefront_width(const lc_entropy_model *model, int32_t height, int32_t width);

/* The part of lc_slice_worker after hyper_sums are there. */
void lc_wavefront(lc_slice *slice, int32_t rank);

#endif
