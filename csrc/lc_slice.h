/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One slice of latents y (height, width, M) through the integer entropy model, in either direction:
 *
 *   z_hat -> hyper layers -> scales (and means)                          without context
 *   z_hat -> hyper layers -> parameter layers -> scales, means           with context, see lc_wavefront.h
 *                y_hat so far -> context layer --^
 *   scales -> indexes; y, means -> symbols -> y_hat      (encoder)
 *   indexes -> rANS -> symbols; symbols, means -> y_hat  (decoder)
 *
 * Any number of threads enter lc_slice_worker with the same slice and ranks 0 .. team.size - 1; the numbers do not
 * depend on how many. All memory is taken by lc_slice_init.
 */
#ifndef LC_SLICE_H
#define LC_SLICE_H

#include "lc_intnet.h"
#include "lc_symbols.h"
#include "lc_team.h"

#define LC_MAX_LAYERS 16 /* of h_s, and of the entropy parameters */
#define LC_MAX_SLICE_EXTENT 4096

/* The layers belong to the caller. What fits together and was checked by whoever set it up:
 * hyper[i] outputs int16 for hyper[i + 1]. Without context the last one outputs int32, M channels of scales and, when
 * there are means, M of means. With context it outputs int16 for `hyper_half`, the first parameter layer as far as it
 * reads h_s, which outputs its sums; parameters[0] is the rest of that layer, reads what `context` outputs and goes on
 * from these sums; the last of the parameters outputs int32, M scales and M means. */
typedef struct lc_entropy_model {
    int32_t M;
    int32_t n_hyper;
    const lc_layer *hyper[LC_MAX_LAYERS];
    bool has_means;
    const lc_layer *context; /* NULL: none */
    const lc_layer *hyper_half;
    int32_t n_parameters;
    const lc_layer *parameters[LC_MAX_LAYERS];
    int32_t fraction_bits;     /* of means and y_hat */
    int32_t n_thresholds;      /* one less than there are tables */
    const int32_t *thresholds; /* strictly ascending */
} lc_entropy_model;

typedef struct lc_slice {
    const lc_entropy_model *model;
    const lc_kernels *kernels;
    lc_team team;
    int32_t height, width; /* of y */

    /* Symbols and indexes are in coding order, (height * width * M). */
    const int32_t *y;  /* encoder: (height, width, M), LC_LATENT_BITS fraction bits */
    int32_t *symbols;
    uint16_t *indexes;
    int32_t *y_hat;        /* (height, width, M) */
    lc_decoder *decoder;   /* NULL: encoder */
    const lc_tables *tables;

    lc_plane planes[LC_MAX_LAYERS]; /* input of each hyper layer; planes[0] is z_hat */
    lc_plane hyper_plane;           /* with context: output of the last one */
    int32_t *scales_means;          /* without: (height, width, M or 2M) */
    int32_t *hyper_sums;            /* (height, width, sums_step) */
    ptrdiff_t sums_step;
    lc_plane y_plane;                   /* y_hat as int16 */
    int16_t *step_input[LC_MAX_LAYERS]; /* of each parameter layer, one step of the wavefront: (n, even channels) */
    int32_t *step_output;               /* of the last one: (n, 2M) */
} lc_slice;

/* Takes the buffers and zeroes z_hat; the caller then fills planes[0] and sets y, symbols, indexes, y_hat, decoder and
 * tables. z_height, z_width are what the hyper layers upsample to height, width.
 * LC_INVALID, LC_NO_MEMORY: the slice is empty. */
lc_status lc_slice_init(lc_slice *slice, const lc_entropy_model *model, const lc_kernels *kernels, int32_t height,
                        int32_t width, int32_t z_height, int32_t z_width, int32_t n_threads);

void lc_slice_free(lc_slice *slice);

/* Result in lc_team_status(&slice->team) once all members have returned: that of lc_decode, or LC_CORRUPT for a symbol
 * beyond LC_MAX_SYMBOL. */
void lc_slice_worker(lc_slice *slice, int32_t rank);

#endif
