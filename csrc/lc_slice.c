/* SPDX-License-Identifier: BSD-3-Clause */
#include "lc_slice.h"

#include <stdlib.h>
#include <string.h>

#include "lc_latents.h"
#include "lc_wavefront.h"

/* Zeroed, so that pad channels are. */
static lc_status take(void **memory, size_t rows, size_t columns, size_t size)
{
    *memory = calloc(rows, columns * size);
    return *memory ? LC_OK : LC_NO_MEMORY;
}

static lc_status take_context_buffers(lc_slice *slice)
{
    const lc_entropy_model *model = slice->model;
    const size_t steps = (size_t)lc_wavefront_width(model, slice->height, slice->width);
    lc_status status;
    void *memory;
    int32_t i;

    status = lc_plane_init(&slice->hyper_plane, slice->height, slice->width, model->hyper_half->in_channels, 0);
    if (status == LC_OK) {
        status = lc_plane_init(&slice->y_plane, slice->height, slice->width, model->M, model->context->margin);
    }
    /* Sums are read by the panel, so rows are whole panels. */
    slice->sums_step = (ptrdiff_t)model->hyper_half->n_panels * LC_PANEL;
    if (status == LC_OK) {
        status = take(&memory, (size_t)slice->height * (size_t)slice->width, (size_t)slice->sums_step, sizeof(int32_t));
        slice->hyper_sums = memory;
    }
    for (i = 0; i < model->n_parameters && status == LC_OK; i++) {
        status = take(&memory, steps, (size_t)model->parameters[i]->in_stride, sizeof(int16_t));
        slice->step_input[i] = memory;
    }
    if (status == LC_OK) {
        status = take(&memory, steps, 2 * (size_t)model->M, sizeof(int32_t));
        slice->step_output = memory;
    }
    return status;
}

lc_status lc_slice_init(lc_slice *slice, const lc_entropy_model *model, const lc_kernels *kernels, int32_t height,
                        int32_t width, int32_t z_height, int32_t z_width, int32_t n_threads)
{
    lc_status status = LC_OK;
    int32_t i;

    memset(slice, 0, sizeof *slice);
    if (!kernels || n_threads < 1 || height < 1 || height > LC_MAX_SLICE_EXTENT || width < 1 ||
        width > LC_MAX_SLICE_EXTENT) {
        return LC_INVALID;
    }
    slice->model = model;
    slice->kernels = kernels;
    slice->height = height;
    slice->width = width;
    lc_team_init(&slice->team, n_threads);
    for (i = 0; i < model->n_hyper && status == LC_OK; i++) {
        status = lc_plane_init(&slice->planes[i], z_height, z_width, model->hyper[i]->in_channels,
                               model->hyper[i]->margin);
        z_height *= model->hyper[i]->upsample;
        z_width *= model->hyper[i]->upsample;
    }
    if (status == LC_OK && (z_height != height || z_width != width)) {
        status = LC_INVALID;
    }
    if (status == LC_OK && model->context) {
        status = take_context_buffers(slice);
    } else if (status == LC_OK) {
        void *memory;

        status = take(&memory, (size_t)height * (size_t)width, (size_t)model->M * (model->has_means ? 2 : 1),
                      sizeof(int32_t));
        slice->scales_means = memory;
    }
    if (status != LC_OK) {
        lc_slice_free(slice);
    }
    return status;
}

void lc_slice_free(lc_slice *slice)
{
    int32_t i;

    for (i = 0; i < LC_MAX_LAYERS; i++) {
        lc_plane_free(&slice->planes[i]);
        free(slice->step_input[i]);
    }
    lc_plane_free(&slice->hyper_plane);
    lc_plane_free(&slice->y_plane);
    free(slice->scales_means);
    free(slice->hyper_sums);
    free(slice->step_output);
    memset(slice, 0, sizeof *slice);
}

static lc_sink plane_sink(const lc_plane *plane)
{
    return (lc_sink){lc_plane_at(plane, 0, 0), plane->row_step, plane->stride};
}

static lc_sink array_sink(void *data, int32_t width, ptrdiff_t channels)
{
    return (lc_sink){data, width * channels, channels};
}

/* z_hat to the output of the last hyper layer, or to the sums that the wavefront starts from. */
static bool hyper_synthesis(lc_slice *slice, int32_t rank)
{
    const lc_entropy_model *model = slice->model;
    lc_team *team = &slice->team;
    int32_t i;

    for (i = 0; i < model->n_hyper; i++) {
        const lc_plane *in = &slice->planes[i];
        const lc_sink out = i + 1 < model->n_hyper ? plane_sink(&slice->planes[i + 1])
                            : model->context       ? plane_sink(&slice->hyper_plane)
                                                   : array_sink(slice->scales_means, slice->width,
                                                                (ptrdiff_t)model->M * (model->has_means ? 2 : 1));

        lc_layer_rows(model->hyper[i], slice->kernels, in, lc_team_part(team, rank, in->height),
                      lc_team_part(team, rank + 1, in->height), &out);
        if (!lc_team_wait(team)) {
            return false;
        }
    }
    if (model->context) {
        const lc_sink out = array_sink(slice->hyper_sums, slice->width, slice->sums_step);

        lc_layer_rows(model->hyper_half, slice->kernels, &slice->hyper_plane, lc_team_part(team, rank, slice->height),
                      lc_team_part(team, rank + 1, slice->height), &out);
        return lc_team_wait(team);
    }
    return true;
}

/* Symbols of a slice without context: all scales and means are known, order (row, column, channel). */
static void code_positions(lc_slice *slice, int32_t rank)
{
    static const int32_t zero = 0;
    const lc_entropy_model *model = slice->model;
    const size_t M = (size_t)model->M, step = model->has_means ? 2 * M : M;
    const int32_t n = slice->height * slice->width;
    const int32_t first = lc_team_part(&slice->team, rank, n), end = lc_team_part(&slice->team, rank + 1, n);
    int32_t i;

    for (i = first; i < end; i++) {
        slice->kernels->scale_indexes(slice->scales_means + step * (size_t)i, M, model->thresholds, model->n_thresholds,
                                      slice->indexes + M * (size_t)i);
    }
    if (slice->decoder) {
        if (!lc_team_wait(&slice->team)) {
            return;
        }
        if (rank == 0) {
            const lc_status status =
                lc_decode(slice->decoder, slice->tables, slice->indexes, slice->symbols, M * (size_t)n);

            if (status != LC_OK) {
                lc_team_fail(&slice->team, status);
            }
        }
        if (!lc_team_wait(&slice->team)) {
            return;
        }
    }
    for (i = first; i < end; i++) {
        const int32_t *means = model->has_means ? slice->scales_means + step * (size_t)i + M : &zero;
        const ptrdiff_t mean_step = model->has_means ? 1 : 0;
        int32_t *symbols = slice->symbols + M * (size_t)i;

        if (!slice->decoder) {
            lc_quantize(slice->y + M * (size_t)i, means, mean_step, model->fraction_bits, M, symbols);
        }
        if (!lc_dequantize(symbols, means, mean_step, model->fraction_bits, M, slice->y_hat + M * (size_t)i)) {
            lc_team_fail(&slice->team, LC_CORRUPT);
            return;
        }
    }
}

void lc_slice_worker(lc_slice *slice, int32_t rank)
{
    if (!hyper_synthesis(slice, rank)) {
        return;
    }
    if (slice->model->context) {
        lc_wavefront(slice, rank);
    } else {
        code_positions(slice, rank);
    }
}
