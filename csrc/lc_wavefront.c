/* SPDX-License-Identifier: BSD-3-Clause */
#include "lc_wavefront.h"

#include "lc_latents.h"

/* Columns that a row lags behind the row above: as far as the context looks to the right there, and one. */
static int32_t skew_of(const lc_entropy_model *model)
{
    return model->context->margin + 1;
}

/* The positions of step t: (row + i, column - skew * i), 0 <= i < n. */
typedef struct step {
    int32_t row, column, n, skew;
    size_t coded; /* positions of all steps before */
} step;

static step step_at(int32_t t, int32_t height, int32_t width, int32_t skew, size_t coded)
{
    const int32_t above = t - (width - 1);
    const int32_t first = above > 0 ? (above + skew - 1) / skew : 0;
    const int32_t last = t / skew < height ? t / skew : height - 1;
    const step s = {first, t - skew * first, last >= first ? last - first + 1 : 0, skew, coded};

    return s;
}

int32_t lc_wavefront_width(const lc_entropy_model *model, int32_t height, int32_t width)
{
    const int32_t skew = skew_of(model), columns = (width + skew - 1) / skew;

    return height < columns ? height : columns;
}

/* Runs this rank's panels of a layer and waits for the others. */
static bool run_layer(lc_slice *slice, int32_t rank, const lc_layer *layer, const lc_positions *positions)
{
    lc_layer_positions(layer, slice->kernels, positions, lc_team_part(&slice->team, rank, layer->n_panels),
                       lc_team_part(&slice->team, rank + 1, layer->n_panels));
    return lc_team_wait(&slice->team);
}

/* Context and parameter layers but the last, whose output is left to `finish_parameters`. */
static bool run_layers(lc_slice *slice, int32_t rank, const step *s)
{
    const lc_entropy_model *model = slice->model;
    const lc_plane *y = &slice->y_plane;
    const ptrdiff_t to_sums = slice->sums_step * ((ptrdiff_t)slice->width * s->row + s->column);
    lc_positions positions = {
        .a = lc_plane_at(y, s->row, s->column),
        .a_step = y->row_step - s->skew * (ptrdiff_t)y->stride,
        .row_step = y->row_step,
        .n = s->n,
        .out = slice->step_input[0],
        .out_step = model->parameters[0]->in_stride,
    };
    int32_t i;

    if (!run_layer(slice, rank, model->context, &positions)) {
        return false;
    }
    for (i = 0; i + 1 < model->n_parameters; i++) {
        const lc_layer *layer = model->parameters[i];

        positions.a = slice->step_input[i];
        positions.a_step = layer->in_stride;
        positions.row_step = 0;
        positions.init = i == 0 ? slice->hyper_sums + to_sums : NULL;
        positions.init_step = slice->sums_step * ((ptrdiff_t)slice->width - s->skew);
        positions.out = slice->step_input[i + 1];
        positions.out_step = model->parameters[i + 1]->in_stride;
        if (!run_layer(slice, rank, layer, &positions)) {
            return false;
        }
    }
    return true;
}

/* The last layer, and the indexes of the scales among this rank's channels. */
static bool finish_parameters(lc_slice *slice, int32_t rank, const step *s)
{
    const lc_entropy_model *model = slice->model;
    const int32_t last = model->n_parameters - 1, M = model->M;
    const lc_layer *layer = model->parameters[last];
    const ptrdiff_t to_sums = slice->sums_step * ((ptrdiff_t)slice->width * s->row + s->column);
    const int32_t first = LC_PANEL * lc_team_part(&slice->team, rank, layer->n_panels);
    const int32_t end = LC_PANEL * lc_team_part(&slice->team, rank + 1, layer->n_panels);
    const lc_positions positions = {
        .a = slice->step_input[last],
        .a_step = layer->in_stride,
        .n = s->n,
        .init = last == 0 ? slice->hyper_sums + to_sums : NULL,
        .init_step = slice->sums_step * ((ptrdiff_t)slice->width - s->skew),
        .out = slice->step_output,
        .out_step = 2 * (ptrdiff_t)M,
    };
    int32_t i;

    lc_layer_positions(layer, slice->kernels, &positions, first / LC_PANEL, end / LC_PANEL);
    for (i = 0; i < s->n && first < M; i++) {
        slice->kernels->scale_indexes(slice->step_output + 2 * (ptrdiff_t)M * i + first,
                                      (size_t)((end < M ? end : M) - first), model->thresholds, model->n_thresholds,
                                      slice->indexes + (size_t)M * (s->coded + (size_t)i) + first);
    }
    return lc_team_wait(&slice->team);
}

static lc_status code_symbols(lc_slice *slice, const step *s)
{
    const lc_entropy_model *model = slice->model;
    const size_t M = (size_t)model->M;
    size_t c;
    int32_t i;

    if (slice->decoder) {
        const lc_status status = lc_decode(slice->decoder, slice->tables, slice->indexes + M * s->coded,
                                           slice->symbols + M * s->coded, M * (size_t)s->n);

        if (status != LC_OK) {
            return status;
        }
    }
    for (i = 0; i < s->n; i++) {
        const int32_t row = s->row + i, column = s->column - s->skew * i;
        const size_t at = M * ((size_t)slice->width * (size_t)row + (size_t)column);
        const int32_t *means = slice->step_output + 2 * M * (size_t)i + M;
        int32_t *symbols = slice->symbols + M * (s->coded + (size_t)i), *y_hat = slice->y_hat + at;
        int16_t *y_plane = lc_plane_at(&slice->y_plane, row, column);

        if (!slice->decoder) {
            lc_quantize(slice->y + at, means, 1, model->fraction_bits, M, symbols);
        }
        if (!lc_dequantize(symbols, means, 1, model->fraction_bits, M, y_hat)) {
            return LC_CORRUPT;
        }
        for (c = 0; c < M; c++) {
            y_plane[c] = lc_saturate_int16(y_hat[c]);
        }
    }
    return LC_OK;
}

void lc_wavefront(lc_slice *slice, int32_t rank)
{
    const int32_t height = slice->height, width = slice->width;
    const int32_t skew = skew_of(slice->model), n_steps = width + skew * (height - 1);
    size_t coded = 0;
    int32_t t;

    for (t = 0; t < n_steps; t++) {
        const step s = step_at(t, height, width, skew, coded);

        if (s.n == 0) {
            continue; /* in slices narrower than the skew */
        }
        if (!run_layers(slice, rank, &s) || !finish_parameters(slice, rank, &s)) {
            return;
        }
        if (rank == 0) {
            const lc_status status = code_symbols(slice, &s);

            if (status != LC_OK) {
                lc_team_fail(&slice->team, status);
            }
        }
        if (!lc_team_wait(&slice->team)) {
            return;
        }
        coded += (size_t)s.n;
    }
}
