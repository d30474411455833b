/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The one loop in which the integer network spends its time: a run of positions times one panel of output channels.
 *
 * A position reads its inputs as a few contiguous segments of int16 (the rows of its window, all channels of the taps
 * side by side) at a fixed distance from each other. The positions of a run lie at a fixed distance as well: one pixel
 * further within a row of the image, one row down and three pixels left within a step of the wavefront. So no input
 * is ever copied to be multiplied.
 *
 *   for each position i < n, channel c < LC_PANEL:
 *     acc = init[i * init_step + c]
 *         + sum over segments s, pairs j:  a[i * a_step + s * segment_step + 2j + {0,1}] * weights[.][c][{0,1}]
 *     store acc, or requantise it:
 *     m   = acc >= 0 ? mult_pos[c] : mult_neg[c]
 *     out = clamp((acc * m + 2^(shift[c] - 1)) >> shift[c], lo, hi)
 *
 * The sums are int32 and exact in any order: whoever makes a layer has proven |init| + 32767 * sum |weight| < 2^31.
 * Neither inputs nor weights are ever -32768, so no product pair leaves int32 either.
 * The requantisation is exact in int64: |acc * m| < 2^47.
 */
#ifndef LC_GEMM_H
#define LC_GEMM_H

#include <stddef.h>
#include <stdint.h>

_Static_assert(INT64_C(-3) >> 1 == -2, "right shifts of negative numbers must round down");

#define LC_PANEL 32 /* output channels of a panel */
#define LC_MAX_SEGMENTS 5
#define LC_MAX_SHIFT 40

typedef enum lc_output {
    LC_OUTPUT_ACC = 0,   /* int32, as summed */
    LC_OUTPUT_INT32 = 1, /* requantised */
    LC_OUTPUT_INT16 = 2  /* requantised, lo and hi within +-32767 */
} lc_output;

typedef struct lc_run {
    const int16_t *a;  /* first position, first segment */
    ptrdiff_t a_step;  /* in int16, from a position to the next; may be anything */
    int32_t n;         /* positions */
    int32_t n_segments;
    ptrdiff_t segment_step;       /* in int16 */
    const int32_t *segment_pairs; /* [n_segments] channel pairs of each segment */
    const int16_t *weights;       /* [pairs of all segments][LC_PANEL][2], 64 byte aligned */
    const int32_t *init;          /* bias, or sums so far */
    ptrdiff_t init_step;          /* in int32; 0 for a bias */
    const int32_t *mult_pos, *mult_neg, *shift; /* [LC_PANEL], not read for LC_OUTPUT_ACC */
    int32_t lo, hi;
    lc_output output;
    int32_t n_channels;  /* of the panel that exist, 1..LC_PANEL: no others are written */
    ptrdiff_t out_step;  /* in elements, from a position to the next */
    void *out;
} lc_run;

typedef enum lc_isa { LC_ISA_SCALAR = 0, LC_ISA_AVX2 = 1, LC_ISA_AVX512 = 2, LC_ISA_NEON = 3, LC_N_ISAS = 4 } lc_isa;

typedef struct lc_kernels {
    void (*panel)(const lc_run *run);

    /* indexes[i] = number of the n_thresholds (ascending) that are < scales[i]. */
    void (*scale_indexes)(const int32_t *scales, size_t n, const int32_t *thresholds, int32_t n_thresholds,
                          uint16_t *indexes);
} lc_kernels;

/* All give the same numbers. NULL where the processor or the compiler does not have it. */
const lc_kernels *lc_kernels_get(lc_isa isa);

/* The fastest that lc_kernels_get knows here. */
lc_isa lc_isa_best(void);

/* One per source file; NULL where the compiler cannot make it. */
const lc_kernels *lc_kernels_scalar(void);
const lc_kernels *lc_kernels_avx2(void);
const lc_kernels *lc_kernels_avx512(void);
const lc_kernels *lc_kernels_neon(void);

#endif
