/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Layers of the integer network: int16 activations, int16 weights, int32 sums that cannot overflow, requantisation in
 * int64. Every kind is a sum over a window of a channels-last, zero padded plane, hence one loop (lc_gemm.h):
 *
 *   LC_CONV      k x k, stride 1, padding k / 2        weight (out, in, k, k), k = 1, 3, 5
 *   LC_CONTEXT   5x5 or 3x3 with type A mask: 5 + 5 + 2 or 3 + 1 taps  weight (out, in, k, k), masked taps are not read
 *   LC_DECONV    5x5, stride 2, padding 2, output padding 1, transposed: out[2i - 2 + k] += in[i] * w[k]
 *                                                      weight (in, out, 5, 5)
 *   LC_SUBPEL    3x3, padding 1, then pixel shuffle by 2: out[c][2h + i][2w + j] = conv[4c + 2i + j][h][w]
 *                                                      weight (4 out, in, 3, 3)
 *
 * The last two give an output twice as high and wide, made as four phases: the output pixels of equal parity are one
 * layer with a window of their own.
 */
#ifndef LC_INTNET_H
#define LC_INTNET_H

#include <stddef.h>
#include <stdint.h>

#include "lc_gemm.h"
#include "lc_status.h"

#define LC_MAX_PHASES 4
#define LC_MAX_CHANNELS 16384
#define LC_MAX_EXTENT 32768 /* rows or columns of a plane */

typedef enum lc_layer_kind { LC_CONV = 0, LC_CONTEXT = 1, LC_DECONV = 2, LC_SUBPEL = 3 } lc_layer_kind;

/* A layer as the model file has it. Whoever calls lc_layer_init has checked the values: weights within +-32767,
 * 0 <= mult_* < 2^16, 1 <= shift <= LC_MAX_SHIFT, lo <= hi, and for each channel, over the taps that one output pixel
 * sees, |bias| + 32767 * sum |weight| < 2^31. */
typedef struct lc_layer_spec {
    lc_layer_kind kind;
    int32_t kernel; /* 1, 3 or 5; only LC_CONV has a choice */
    int32_t in_channels;
    int32_t out_channels; /* after the shuffle */
    const int16_t *weight;
    const int32_t *bias, *mult_pos, *mult_neg, *shift; /* [out_channels], LC_SUBPEL: [4 out_channels] */
    int32_t lo, hi;
    lc_output output;
} lc_layer_spec;

typedef struct lc_phase {
    int32_t row, column; /* output pixel = upsample * input pixel + this */
    int32_t top, left;   /* first tap, relative to the input pixel */
    int32_t n_segments;
    int32_t segment_pairs[LC_MAX_SEGMENTS];
    size_t panel_weights;   /* int16 of a panel */
    const int16_t *weights; /* [panels][pairs][LC_PANEL][2] */
    const int32_t *bias, *mult_pos, *mult_neg, *shift; /* [panels * LC_PANEL] */
} lc_phase;

typedef struct lc_layer {
    int32_t in_channels, out_channels;
    int32_t in_stride; /* channels of the input plane, the pad channel included */
    int32_t n_panels;
    int32_t upsample; /* 1 or 2 */
    int32_t margin;   /* zeros that the input plane needs around it */
    int32_t lo, hi;
    lc_output output;
    int32_t n_phases;
    lc_phase phases[LC_MAX_PHASES];
    void *memory; /* all arrays of the phases */
} lc_layer;

/* LC_INVALID: sizes out of range. LC_NO_MEMORY. On failure the layer is empty. */
lc_status lc_layer_init(lc_layer *layer, const lc_layer_spec *spec);

/* Harmless on an empty (zeroed) layer. */
void lc_layer_free(lc_layer *layer);

/* Channels-last int16, channels padded to an even number and the image by `margin` pixels of zeros on all sides. */
typedef struct lc_plane {
    int16_t *memory;
    int32_t height, width, channels, stride, margin;
    ptrdiff_t row_step; /* in int16 */
} lc_plane;

static inline int32_t lc_plane_stride(int32_t channels)
{
    return channels + (channels & 1);
}

/* Zeroed. LC_INVALID, LC_NO_MEMORY. */
lc_status lc_plane_init(lc_plane *plane, int32_t height, int32_t width, int32_t channels, int32_t margin);

void lc_plane_free(lc_plane *plane);

/* -margin <= row < height + margin, likewise column. */
static inline int16_t *lc_plane_at(const lc_plane *plane, int32_t row, int32_t column)
{
    return plane->memory + plane->row_step * (row + plane->margin) +
           (ptrdiff_t)plane->stride * (column + plane->margin);
}

/* Where a layer writes: element (row, column, channel) at data + row * row_step + column * column_step + channel, of
 * the type that the layer's output says. */
typedef struct lc_sink {
    void *data;
    ptrdiff_t row_step, column_step;
} lc_sink;

/* The layer for input rows first .. end - 1; different rows may be computed by different threads.
 * `in` has the layer's channels and at least its margin. */
void lc_layer_rows(const lc_layer *layer, const lc_kernels *kernels, const lc_plane *in, int32_t first, int32_t end,
                   const lc_sink *out);

/* The only phase of a layer without upsampling, for n positions at equal distance and some of the panels.
 * a: input at the position itself; init: NULL for the bias. */
typedef struct lc_positions {
    const int16_t *a;
    ptrdiff_t a_step;
    ptrdiff_t row_step; /* from an input row to the next, where the window has several */
    int32_t n;
    const int32_t *init;
    ptrdiff_t init_step;
    void *out;
    ptrdiff_t out_step;
} lc_positions;

void lc_layer_positions(const lc_layer *layer, const lc_kernels *kernels, const lc_positions *positions,
                        int32_t first_panel, int32_t end_panel);

#endif
