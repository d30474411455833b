/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Analysis, hyper-analysis and synthesis of lc-s ("shuffle" in lcodec/nets/transforms.py) on a CPU, without a framework.
 *
 *   analysis     pixels, 8x8 blocks -> enter -> 3 blocks -> 3x3 stride 2 -> y
 *   synthesis    y_hat -> transposed 3x3 stride 2 -> 3 blocks -> leave -> pixels, 8x8 blocks
 *   block        x += leave(depthwise(leaky(enter(x))));  x += contract(leaky(expand(x)))
 *
 * Between two depthwise layers everything is 1x1, so a run of up to 64 positions of a row passes through the second
 * half of one block and the first layer of the next without leaving the second-level cache. What is added up along the
 * way (x) stays float; what is multiplied is bfloat16.
 *
 * The layers that everything goes through, at the ends, are more exact: weights and inputs are the sum of an upper and a
 * lower bfloat16, and all products but that of the two lower ones are taken. A brightness that is off by a thousandth
 * everywhere would show in the PSNR; what the blocks add does not.
 *
 * Channels of planes and layers are padded with zeros to multiples of 32.
 */
#ifndef LC_MIXNET_H
#define LC_MIXNET_H

#include "lc_dense.h"
#include "lc_status.h"
#include "lc_team.h"

#define LC_MIX_BLOCKS 3
#define LC_MIX_PATCH 8
#define LC_MIX_SAMPLES (3 * LC_MIX_PATCH * LC_MIX_PATCH) /* of a patch, in the order row, column, colour */
#define LC_MIX_MAX_SIDE 16384                            /* positions of the grid at 1/8 */

/* panels: [n_panels][panel_blocks][2 tiles][16][16][2], 64 byte aligned; bias: [n_panels][32]. A run may leave out the
 * last segments. */
typedef struct lc_dense_layer {
    const lc_bf16 *panels;
    const float *bias;
    int32_t n_panels;
    int32_t panel_blocks;
    int32_t n_segments;
    int32_t segment_blocks[LC_DENSE_MAX_SEGMENTS];
} lc_dense_layer;

typedef struct lc_mix_block {
    lc_dense_layer enter, leave, expand, contract;
    const float *depthwise, *depthwise_bias; /* [9][N], [N] */
} lc_mix_block;

typedef struct lc_mixnet {
    int32_t N, M; /* padded */
    /* Analysis. `patch`: the weights' upper and lower halves over the samples' upper, then the upper ones over the
     * samples' lower half, which 8-bit samples do not have. `down`: segments are rows of the window, all of them for
     * upper inputs and weights, again for lower inputs and upper weights, again for upper inputs and lower weights. */
    lc_dense_layer patch, down;
    lc_mix_block analysis[LC_MIX_BLOCKS];
    /* Hyper-analysis. */
    lc_dense_layer hyper[3];
    /* Synthesis. up[2 * row parity + column parity], in segments as `down`; `pixels` likewise. */
    lc_dense_layer up[4], pixels;
    lc_mix_block synthesis[LC_MIX_BLOCKS];
} lc_mixnet;

typedef enum lc_mix_kind { LC_MIX_ANALYSIS, LC_MIX_HYPER, LC_MIX_SYNTHESIS } lc_mix_kind;

typedef struct lc_mix_plane {
    lc_bf16 *memory;
    int32_t height, width, channels;
    ptrdiff_t row_step;
} lc_mix_plane;

/* One call of one of the three. height, width: of the grid at 1/8 for analysis and synthesis (both even), of y for
 * hyper-analysis (multiples of 4). */
typedef struct lc_mix_job {
    const lc_mixnet *net;
    const lc_dense_kernels *kernels;
    lc_mix_kind kind;
    int32_t height, width;
    bool deep;          /* samples are uint16 */
    int32_t n_colours;  /* of the pixels: 3, or 1, gray */
    const void *pixels_in;
    void *pixels_out;
    const int32_t *y_hat; /* [height / 2][width / 2][y_channels] */
    const float *scale;   /* [y_channels] */
    const float *y;       /* [height][width][y_channels], of hyper-analysis */
    int32_t y_channels;
    float *out; /* y: [height / 2][width / 2][M]; z: [height / 4][width / 4][N] */

    lc_team team;
    lc_mix_plane planes[4]; /* two of x in turns; upper and lower half of what the exact layer reads */
    float *x; /* [height][width][N] */
    char *scratch;
    size_t scratch_step;
    void *memory;
} lc_mix_job;

/* Sets up the members below `out`. LC_INVALID for sizes that cannot be, LC_NO_MEMORY. */
lc_status lc_mix_job_init(lc_mix_job *job, int32_t n_threads);
void lc_mix_job_free(lc_mix_job *job);

/* All ranks 0 .. n_threads - 1 at the same time, from threads of the caller. */
void lc_mix_worker(lc_mix_job *job, int32_t rank);

#endif
