/* SPDX-License-Identifier: BSD-3-Clause */
#include "lc_intnet.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define LC_ALIGNMENT 64
#define LC_MAX_KERNEL 5
#define LC_PHASE_ARRAYS 4 /* bias, mult_pos, mult_neg, shift */

/* The taps of a phase: segment s has `taps[s]` columns, and column x of it is the kernel's element (ky[s], kx[x]). */
typedef struct window {
    int32_t row, column, top, left;
    int32_t n_segments;
    int32_t taps[LC_MAX_SEGMENTS];
    int32_t ky[LC_MAX_SEGMENTS], kx[LC_MAX_KERNEL];
} window;

/* Parity p of a transposed convolution, one axis: out[2h + p] = sum over d of in[h + d] * w[p + 2 - 2d]. */
static void deconv_axis(int32_t parity, int32_t *start, int32_t *n, int32_t *taps)
{
    int32_t i;

    *start = parity ? 0 : -1;
    *n = parity ? 2 : 3;
    for (i = 0; i < *n; i++) {
        taps[i] = parity + 2 - 2 * (*start + i);
    }
}

static window window_of(const lc_layer_spec *spec, int32_t phase)
{
    window w = {0};
    int32_t i, columns;

    if (spec->kind == LC_DECONV) {
        w.row = phase >> 1;
        w.column = phase & 1;
        deconv_axis(w.row, &w.top, &w.n_segments, w.ky);
        deconv_axis(w.column, &w.left, &columns, w.kx);
    } else {
        w.row = spec->kind == LC_SUBPEL ? phase >> 1 : 0;
        w.column = spec->kind == LC_SUBPEL ? phase & 1 : 0;
        w.top = w.left = -(spec->kernel / 2);
        w.n_segments = spec->kind == LC_CONTEXT ? spec->kernel / 2 + 1 : spec->kernel;
        columns = spec->kernel;
        for (i = 0; i < spec->kernel; i++) {
            w.ky[i] = w.kx[i] = i;
        }
    }
    for (i = 0; i < w.n_segments; i++) {
        w.taps[i] = columns;
    }
    if (spec->kind == LC_CONTEXT) {
        w.taps[w.n_segments - 1] = spec->kernel / 2; /* strictly left of the position itself */
    }
    return w;
}

/* Index into the parameters of a channel: a phase of a pixel shuffle has every fourth. */
static size_t source_channel(const lc_layer_spec *spec, int32_t phase, int32_t channel)
{
    return spec->kind == LC_SUBPEL ? (size_t)4 * (size_t)channel + (size_t)phase : (size_t)channel;
}

static int16_t source_weight(const lc_layer_spec *spec, size_t out, int32_t in, int32_t ky, int32_t kx)
{
    const size_t k = (size_t)spec->kernel;
    const size_t at = spec->kind == LC_DECONV ? (size_t)in * (size_t)spec->out_channels + out
                                              : out * (size_t)spec->in_channels + (size_t)in;

    return spec->weight[(at * k + (size_t)ky) * k + (size_t)kx];
}

static void pack_phase(const lc_layer_spec *spec, int32_t phase, const window *w, const lc_layer *layer,
                       int16_t *weights, int32_t *arrays)
{
    const size_t n = (size_t)layer->n_panels * LC_PANEL, panel_weights = layer->phases[phase].panel_weights;
    int32_t c, s, x, in;

    for (c = 0; c < layer->out_channels; c++) {
        const size_t source = source_channel(spec, phase, c);
        int16_t *out = weights + panel_weights * (size_t)(c / LC_PANEL) + 2 * (c % LC_PANEL);

        arrays[c] = spec->bias[source];
        arrays[n + (size_t)c] = spec->mult_pos[source];
        arrays[2 * n + (size_t)c] = spec->mult_neg[source];
        arrays[3 * n + (size_t)c] = spec->shift[source];
        for (s = 0; s < w->n_segments; s++) {
            for (x = 0; x < w->taps[s]; x++) {
                for (in = 0; in < spec->in_channels; in++) {
                    out[2 * LC_PANEL * (in / 2) + in % 2] = source_weight(spec, source, in, w->ky[s], w->kx[x]);
                }
                out += LC_PANEL * layer->in_stride;
            }
        }
    }
    for (c = layer->out_channels; c < layer->n_panels * LC_PANEL; c++) {
        arrays[3 * n + (size_t)c] = 1; /* channels that do not exist are requantised like others, then dropped */
    }
}

static size_t align(size_t size)
{
    return (size + LC_ALIGNMENT - 1) / LC_ALIGNMENT * LC_ALIGNMENT;
}

lc_status lc_layer_init(lc_layer *layer, const lc_layer_spec *spec)
{
    const bool kernel_fits = spec->kind == LC_CONV      ? spec->kernel == 1 || spec->kernel == 3 || spec->kernel == 5
                             : spec->kind == LC_CONTEXT ? spec->kernel == 3 || spec->kernel == 5
                             : spec->kind == LC_SUBPEL  ? spec->kernel == 3
                                                        : spec->kernel == 5;
    size_t weights_size[LC_MAX_PHASES], arrays_size, total = 0;
    window windows[LC_MAX_PHASES];
    int32_t p, s;
    char *memory;

    memset(layer, 0, sizeof *layer);
    if (spec->in_channels < 1 || spec->in_channels > LC_MAX_CHANNELS || spec->out_channels < 1 ||
        spec->out_channels > LC_MAX_CHANNELS || !kernel_fits) {
        return LC_INVALID;
    }
    layer->in_channels = spec->in_channels;
    layer->out_channels = spec->out_channels;
    layer->in_stride = lc_plane_stride(spec->in_channels);
    layer->n_panels = (spec->out_channels + LC_PANEL - 1) / LC_PANEL;
    layer->upsample = spec->kind == LC_DECONV || spec->kind == LC_SUBPEL ? 2 : 1;
    layer->margin = spec->kind == LC_DECONV ? 1 : spec->kernel / 2;
    layer->lo = spec->lo;
    layer->hi = spec->hi;
    layer->output = spec->output;
    layer->n_phases = layer->upsample * layer->upsample;
    arrays_size = align(sizeof(int32_t) * LC_PANEL * (size_t)layer->n_panels * LC_PHASE_ARRAYS);
    for (p = 0; p < layer->n_phases; p++) {
        lc_phase *phase = &layer->phases[p];

        windows[p] = window_of(spec, p);
        phase->row = windows[p].row;
        phase->column = windows[p].column;
        phase->top = windows[p].top;
        phase->left = windows[p].left;
        phase->n_segments = windows[p].n_segments;
        for (s = 0; s < phase->n_segments; s++) {
            phase->segment_pairs[s] = windows[p].taps[s] * layer->in_stride / 2;
            phase->panel_weights += (size_t)phase->segment_pairs[s] * 2 * LC_PANEL;
        }
        weights_size[p] = align(sizeof(int16_t) * phase->panel_weights * (size_t)layer->n_panels);
        total += weights_size[p] + arrays_size;
    }
    memory = aligned_alloc(LC_ALIGNMENT, total);
    if (!memory) {
        memset(layer, 0, sizeof *layer);
        return LC_NO_MEMORY;
    }
    memset(memory, 0, total);
    layer->memory = memory;
    for (p = 0; p < layer->n_phases; p++) {
        lc_phase *phase = &layer->phases[p];
        const size_t n = (size_t)layer->n_panels * LC_PANEL;
        int16_t *weights = (int16_t *)memory;
        int32_t *arrays = (int32_t *)(memory + weights_size[p]);

        pack_phase(spec, p, &windows[p], layer, weights, arrays);
        phase->weights = weights;
        phase->bias = arrays;
        phase->mult_pos = arrays + n;
        phase->mult_neg = arrays + 2 * n;
        phase->shift = arrays + 3 * n;
        memory += weights_size[p] + arrays_size;
    }
    return LC_OK;
}

void lc_layer_free(lc_layer *layer)
{
    free(layer->memory);
    memset(layer, 0, sizeof *layer);
}

lc_status lc_plane_init(lc_plane *plane, int32_t height, int32_t width, int32_t channels, int32_t margin)
{
    size_t rows, columns;

    memset(plane, 0, sizeof *plane);
    if (height < 1 || height > LC_MAX_EXTENT || width < 1 || width > LC_MAX_EXTENT || channels < 1 ||
        channels > LC_MAX_CHANNELS || margin < 0 || margin > LC_MAX_KERNEL / 2) {
        return LC_INVALID;
    }
    plane->height = height;
    plane->width = width;
    plane->channels = channels;
    plane->stride = lc_plane_stride(channels);
    plane->margin = margin;
    rows = (size_t)height + 2 * (size_t)margin;
    columns = (size_t)width + 2 * (size_t)margin;
    plane->row_step = (ptrdiff_t)columns * plane->stride;
    plane->memory = calloc(rows * columns, (size_t)plane->stride * sizeof(int16_t));
    return plane->memory ? LC_OK : LC_NO_MEMORY;
}

void lc_plane_free(lc_plane *plane)
{
    free(plane->memory);
    memset(plane, 0, sizeof *plane);
}

static size_t output_size(lc_output output)
{
    return output == LC_OUTPUT_INT16 ? sizeof(int16_t) : sizeof(int32_t);
}

/* What does not depend on the position, for one panel of one phase. */
static lc_run panel_run(const lc_layer *layer, const lc_phase *phase, int32_t panel)
{
    const int32_t c = panel * LC_PANEL, left = layer->out_channels - c;
    lc_run run = {
        .n_segments = phase->n_segments,
        .segment_pairs = phase->segment_pairs,
        .weights = phase->weights + phase->panel_weights * (size_t)panel,
        .init = phase->bias + c,
        .init_step = 0,
        .mult_pos = phase->mult_pos + c,
        .mult_neg = phase->mult_neg + c,
        .shift = phase->shift + c,
        .lo = layer->lo,
        .hi = layer->hi,
        .output = layer->output,
        .n_channels = left < LC_PANEL ? left : LC_PANEL,
    };

    return run;
}

void lc_layer_rows(const lc_layer *layer, const lc_kernels *kernels, const lc_plane *in, int32_t first, int32_t end,
                   const lc_sink *out)
{
    const size_t size = output_size(layer->output);
    int32_t p, panel, row;

    for (p = 0; p < layer->n_phases; p++) {
        const lc_phase *phase = &layer->phases[p];

        /* The weights of a panel stay in the second-level cache while the image goes by. */
        for (panel = 0; panel < layer->n_panels; panel++) {
            lc_run run = panel_run(layer, phase, panel);

            run.a_step = in->stride;
            run.segment_step = in->row_step;
            run.n = in->width;
            run.out_step = out->column_step * layer->upsample;
            for (row = first; row < end; row++) {
                const ptrdiff_t at = out->row_step * (layer->upsample * row + phase->row) +
                                     out->column_step * phase->column + panel * LC_PANEL;

                run.a = lc_plane_at(in, row + phase->top, phase->left);
                run.out = (char *)out->data + at * (ptrdiff_t)size;
                kernels->panel(&run);
            }
        }
    }
}

void lc_layer_positions(const lc_layer *layer, const lc_kernels *kernels, const lc_positions *positions,
                        int32_t first_panel, int32_t end_panel)
{
    const lc_phase *phase = &layer->phases[0];
    const ptrdiff_t size = (ptrdiff_t)output_size(layer->output);
    int32_t panel;

    for (panel = first_panel; panel < end_panel; panel++) {
        lc_run run = panel_run(layer, phase, panel);

        run.a = positions->a + positions->row_step * phase->top + (ptrdiff_t)layer->in_stride * phase->left;
        run.a_step = positions->a_step;
        run.segment_step = positions->row_step;
        run.n = positions->n;
        if (positions->init) {
            run.init = positions->init + panel * LC_PANEL;
            run.init_step = positions->init_step;
        }
        run.out = (char *)positions->out + size * panel * LC_PANEL;
        run.out_step = positions->out_step;
        kernels->panel(&run);
    }
}
