/* SPDX-License-Identifier: BSD-3-Clause */
#include "lc_mixnet.h"

#include <stdlib.h>
#include <string.h>

#define LC_ALIGNMENT 64
#define LC_MIX_SLOPE 0.1F   /* of the LeakyReLU in blocks */
#define LC_HYPER_SLOPE 0.01F

/* What one thread needs for a run of positions. */
typedef struct scratch {
    float *sums;     /* [LC_DENSE_ROWS][LC_DENSE_PANEL] */
    float *samples;  /* [LC_DENSE_ROWS][LC_MIX_SAMPLES] */
    lc_bf16 *narrow; /* [LC_DENSE_ROWS][max(N, M)] */
    lc_bf16 *low;    /* the same: what `narrow` lacks, right behind it */
    lc_bf16 *wide;   /* [LC_DENSE_ROWS][2 N or 2 * LC_MIX_SAMPLES] */
} scratch;

/* Where a layer's sums go; the bias is added on the way. */
typedef struct sink {
    enum { SINK_LEAKY, SINK_RESIDUAL, SINK_STORE } kind;
    float slope, scale;
    float *x;
    ptrdiff_t x_step;
    lc_bf16 *out, *low;
    ptrdiff_t out_step;
} sink;

static size_t align(size_t size)
{
    return (size + LC_ALIGNMENT - 1) / LC_ALIGNMENT * LC_ALIGNMENT;
}

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static lc_bf16 *plane_at(const lc_mix_plane *plane, int32_t row, int32_t column)
{
    return plane->memory + plane->row_step * (row + 1) + (ptrdiff_t)plane->channels * (column + 1);
}

/* ---- memory */

static size_t plane_size(lc_mix_plane *plane, int32_t height, int32_t width, int32_t channels)
{
    plane->height = height;
    plane->width = width;
    plane->channels = channels;
    plane->row_step = (ptrdiff_t)(width + 2) * channels;
    /* kernels may read past the last position, at stride 2 from another row's start */
    return align(sizeof(lc_bf16) *
                 ((size_t)(height + 2) * (size_t)plane->row_step + (size_t)2 * LC_DENSE_SLACK * (size_t)channels));
}

static scratch scratch_of(const lc_mix_job *job, int32_t rank)
{
    const int32_t channels = larger(job->net->N, job->net->M);
    char *at = job->scratch + job->scratch_step * (size_t)rank;
    scratch s;

    s.sums = (float *)(void *)at;
    s.samples = s.sums + LC_DENSE_ROWS * LC_DENSE_PANEL;
    s.narrow = (lc_bf16 *)(void *)(s.samples + LC_DENSE_ROWS * LC_MIX_SAMPLES);
    s.low = s.narrow + LC_DENSE_ROWS * channels;
    s.wide = s.low + LC_DENSE_ROWS * channels;
    return s;
}

lc_status lc_mix_job_init(lc_mix_job *job, int32_t n_threads)
{
    const lc_mixnet *net = job->net;
    const int32_t height = job->height, width = job->width, multiple = job->kind == LC_MIX_HYPER ? 4 : 2;
    size_t sizes[4] = {0, 0, 0, 0}, x_size = 0, total = 0;
    char *at;
    int i;

    job->memory = NULL;
    if (n_threads < 1 || height < multiple || width < multiple || height % multiple || width % multiple ||
        height > LC_MIX_MAX_SIDE || width > LC_MIX_MAX_SIDE || job->y_channels > net->M) {
        return LC_INVALID;
    }
    if (job->kind == LC_MIX_HYPER) {
        sizes[0] = plane_size(&job->planes[0], height, width, net->N);
        sizes[1] = plane_size(&job->planes[1], height / 2, width / 2, net->N);
    } else {
        sizes[0] = plane_size(&job->planes[0], height, width, net->N);
        sizes[1] = plane_size(&job->planes[1], height, width, net->N);
        for (i = 2; i < 4; i++) {
            sizes[i] = job->kind == LC_MIX_SYNTHESIS ? plane_size(&job->planes[i], height / 2, width / 2, net->M)
                                                     : plane_size(&job->planes[i], height, width, net->N);
        }
        x_size = align(sizeof(float) * (size_t)height * (size_t)width * (size_t)net->N);
    }
    job->scratch_step =
        align(sizeof(float) * LC_DENSE_ROWS * (LC_DENSE_PANEL + LC_MIX_SAMPLES) +
              sizeof(lc_bf16) * LC_DENSE_ROWS *
                  (size_t)(2 * larger(net->N, net->M) + 2 * larger(net->N, LC_MIX_SAMPLES)));
    total = sizes[0] + sizes[1] + sizes[2] + sizes[3] + x_size + job->scratch_step * (size_t)n_threads;
    job->memory = aligned_alloc(LC_ALIGNMENT, total);
    if (!job->memory) {
        return LC_NO_MEMORY;
    }
    at = job->memory;
    /* The margins have to be zero, and what is read past the end a number. */
    memset(at, 0, sizes[0] + sizes[1] + sizes[2] + sizes[3]);
    for (i = 0; i < 4; i++) {
        job->planes[i].memory = (lc_bf16 *)(void *)at;
        at += sizes[i];
    }
    job->x = (float *)(void *)at;
    job->scratch = at + x_size;
    memset(job->scratch, 0, job->scratch_step * (size_t)n_threads);
    lc_team_init(&job->team, n_threads);
    return LC_OK;
}

void lc_mix_job_free(lc_mix_job *job)
{
    free(job->memory);
    job->memory = NULL;
}

/* ---- layers */

/* Runs `run`, whose inputs and n are set, through a layer. */
static void dense(const lc_dense_kernels *kernels, const lc_dense_layer *layer, lc_dense_run *run, float *sums,
                  const sink *to)
{
    int32_t panel, s;

    run->n_segments = layer->n_segments;
    run->out = sums;
    for (s = 0; s < layer->n_segments; s++) {
        run->segment_blocks[s] = layer->segment_blocks[s];
    }
    for (panel = 0; panel < layer->n_panels; panel++) {
        const int32_t c = LC_DENSE_PANEL * panel;
        const float *bias = layer->bias + c;

        run->weights = layer->panels + (size_t)panel * (size_t)layer->panel_blocks * LC_DENSE_BLOCK * LC_DENSE_PANEL;
        kernels->panel(run);
        switch (to->kind) {
        case SINK_LEAKY: kernels->leaky(sums, bias, to->slope, run->n, to->out + c, to->out_step); break;
        case SINK_RESIDUAL:
            kernels->residual(sums, bias, run->n, to->x + c, to->x_step, to->out + c, to->low ? to->low + c : NULL,
                              to->out_step);
            break;
        case SINK_STORE:
            kernels->store(sums, bias, to->scale, run->n, to->x + c, to->x_step, to->out ? to->out + c : NULL,
                           to->out_step);
            break;
        }
    }
}

/* A 1x1 layer over n positions that lie side by side. */
static void pointwise(const lc_dense_kernels *kernels, const lc_dense_layer *layer, const lc_bf16 *a, int32_t channels,
                      int32_t n, float *sums, const sink *to)
{
    lc_dense_run run = {.a = a, .a_step = channels, .n = n};

    dense(kernels, layer, &run, sums, to);
}

/* First position of part i of a row in parts of nearly equal, at most LC_DENSE_ROWS positions. */
static int32_t part_start(int32_t i, int32_t n_parts, int32_t width)
{
    const int32_t tiles = (width + 31) / 32; /* pairs of 16 rows, so that only the last one is padded */
    const int32_t start = 32 * (int32_t)((int64_t)tiles * i / n_parts);

    return start < width ? start : width;
}

static int32_t parts_of(int32_t width)
{
    return (width + LC_DENSE_ROWS - 1) / LC_DENSE_ROWS;
}

/* The first layer of a block, from x of n positions as bfloat16 in s->narrow. */
static void enter(const lc_mix_job *job, const lc_mix_block *block, const scratch *s, int32_t n, lc_bf16 *out)
{
    const int32_t N = job->net->N;
    const sink to = {.kind = SINK_LEAKY, .slope = LC_MIX_SLOPE, .out = out, .out_step = N};

    pointwise(job->kernels, &block->enter, s->narrow, N, n, s->sums, &to);
}

/* The rest of a block at n positions, after which s->narrow is x as bfloat16, and s->low what that lacks. */
static void rest_of_block(const lc_mix_job *job, const lc_mix_block *block, const scratch *s,
                          const lc_mix_plane *plane, int32_t row, int32_t column, int32_t n, bool with_low)
{
    const lc_dense_kernels *kernels = job->kernels;
    const int32_t N = job->net->N;
    float *x = job->x + (ptrdiff_t)N * ((ptrdiff_t)job->width * row + column);
    const sink add = {.kind = SINK_RESIDUAL, .x = x, .x_step = N, .out = s->narrow, .out_step = N};
    const sink widen = {.kind = SINK_LEAKY, .slope = LC_MIX_SLOPE, .out = s->wide, .out_step = 2 * (ptrdiff_t)N};
    sink last = add;

    last.low = with_low ? s->low : NULL;
    kernels->depthwise(plane_at(plane, row - 1, column - 1), plane->row_step, block->depthwise, block->depthwise_bias,
                       N, n, s->wide);
    pointwise(kernels, &block->leave, s->wide, N, n, s->sums, &add);
    pointwise(kernels, &block->expand, s->narrow, N, n, s->sums, &widen);
    pointwise(kernels, &block->contract, s->wide, 2 * N, n, s->sums, &last);
}

/* ---- pixels */

static void read_patches(const lc_mix_job *job, const scratch *s, int32_t row, int32_t column, int32_t n)
{
    const int32_t colours = job->n_colours;
    const size_t row_samples = (size_t)job->width * LC_MIX_PATCH * (size_t)colours;
    const int32_t step = (job->deep ? 2 : 1) * LC_MIX_SAMPLES;
    int32_t i, r, k;

    for (i = 0; i < n; i++) {
        for (r = 0; r < LC_MIX_PATCH; r++) {
            const size_t at = row_samples * (size_t)(LC_MIX_PATCH * row + r) +
                              (size_t)(LC_MIX_PATCH * (column + i)) * (size_t)colours;
            float *to = s->samples + 3 * LC_MIX_PATCH * r;

            for (k = 0; k < 3 * LC_MIX_PATCH; k++) {
                const size_t from = at + (size_t)(colours == 3 ? k : k / 3);

                to[k] = job->deep ? (float)((const uint16_t *)job->pixels_in)[from]
                                  : (float)((const uint8_t *)job->pixels_in)[from];
            }
        }
        /* 8-bit samples are exact in bfloat16, of 16-bit ones the rest follows */
        job->kernels->rounded(s->samples, LC_MIX_SAMPLES, s->wide + step * i);
        if (job->deep) {
            for (k = 0; k < LC_MIX_SAMPLES; k++) {
                const uint32_t bits = (uint32_t)s->wide[step * i + k] << 16;
                float upper;

                memcpy(&upper, &bits, sizeof upper);
                s->samples[k] -= upper;
            }
            job->kernels->rounded(s->samples, LC_MIX_SAMPLES, s->wide + step * i + LC_MIX_SAMPLES);
        }
    }
}

/* Gray is the mean of the three colours, clamped before. */
static void to_gray(float *samples, int32_t n)
{
    int32_t i, c;

    for (i = 0; i < n; i++) {
        float sum = 0;

        for (c = 0; c < 3; c++) {
            const float v = samples[3 * i + c];

            sum += v > 0 ? (v < 1 ? v : 1) : 0;
        }
        samples[i] = sum / 3;
    }
}

static void write_patches(const lc_mix_job *job, const scratch *s, int32_t row, int32_t column, int32_t n)
{
    const int32_t colours = job->n_colours, count = LC_MIX_PATCH * colours;
    const size_t row_samples = (size_t)job->width * LC_MIX_PATCH * (size_t)colours;
    int32_t i, r;

    for (i = 0; i < n; i++) {
        for (r = 0; r < LC_MIX_PATCH; r++) {
            const size_t at = row_samples * (size_t)(LC_MIX_PATCH * row + r) +
                              (size_t)(LC_MIX_PATCH * (column + i)) * (size_t)colours;
            float *from = s->samples + LC_MIX_SAMPLES * i + 3 * LC_MIX_PATCH * r;

            if (colours == 1) {
                to_gray(from, LC_MIX_PATCH);
            }
            if (job->deep) {
                job->kernels->to_words(from, count, (uint16_t *)job->pixels_out + at);
            } else {
                job->kernels->to_bytes(from, count, (uint8_t *)job->pixels_out + at);
            }
        }
    }
}

/* ---- the three networks, a row at a time */

static void patch_row(const lc_mix_job *job, const scratch *s, int32_t row)
{
    const lc_mixnet *net = job->net;
    const int32_t N = net->N, n_parts = parts_of(job->width);
    lc_dense_layer layer = net->patch;
    int32_t i;

    layer.n_segments = job->deep ? 3 : 2;
    for (i = 0; i < n_parts; i++) {
        const int32_t column = part_start(i, n_parts, job->width), n = part_start(i + 1, n_parts, job->width) - column;
        const sink to = {
            .kind = SINK_STORE,
            .scale = job->deep ? 1.0F / 65535 : 1.0F / 255,
            .x = job->x + (ptrdiff_t)N * ((ptrdiff_t)job->width * row + column),
            .x_step = N,
            .out = s->narrow,
            .out_step = N,
        };
        lc_dense_run run = {
            .a = s->wide,
            .a_step = (job->deep ? 2 : 1) * LC_MIX_SAMPLES,
            .segment_offset = {0, 0, LC_MIX_SAMPLES},
            .n = n,
        };

        if (n == 0) {
            continue;
        }
        read_patches(job, s, row, column, n);
        dense(job->kernels, &layer, &run, s->sums, &to);
        enter(job, &net->analysis[0], s, n, plane_at(&job->planes[0], row, column));
    }
}

/* Block `b` of analysis or synthesis along a row, and the layer behind it. */
static void block_row(const lc_mix_job *job, const scratch *s, int32_t b, int32_t row)
{
    const lc_mixnet *net = job->net;
    const lc_mix_block *blocks = job->kind == LC_MIX_ANALYSIS ? net->analysis : net->synthesis;
    const lc_mix_plane *from = &job->planes[b % 2], *to = &job->planes[(b + 1) % 2];
    const bool last = b + 1 == LC_MIX_BLOCKS;
    const int32_t N = net->N, n_parts = parts_of(job->width);
    int32_t i;

    for (i = 0; i < n_parts; i++) {
        const int32_t column = part_start(i, n_parts, job->width), n = part_start(i + 1, n_parts, job->width) - column;

        if (n == 0) {
            continue;
        }
        rest_of_block(job, &blocks[b], s, from, row, column, n, last);
        if (!last) {
            enter(job, &blocks[b + 1], s, n, plane_at(to, row, column));
        } else if (job->kind == LC_MIX_ANALYSIS) {
            memcpy(plane_at(&job->planes[2], row, column), s->narrow, sizeof(lc_bf16) * (size_t)n * (size_t)N);
            memcpy(plane_at(&job->planes[3], row, column), s->low, sizeof(lc_bf16) * (size_t)n * (size_t)N);
        } else {
            const sink out = {.kind = SINK_STORE, .scale = 1, .x = s->samples, .x_step = LC_MIX_SAMPLES};
            lc_dense_run run = {.a = s->narrow, .a_step = N, .segment_offset = {0, s->low - s->narrow, 0}, .n = n};

            dense(job->kernels, &net->pixels, &run, s->sums, &out);
            write_patches(job, s, row, column, n);
        }
    }
}

/* Segments for `rows` rows of a plane, or of an upper and a lower one as lc_mixnet has them. */
static void row_segments(lc_dense_run *run, const lc_mix_plane *plane, const lc_mix_plane *low, int32_t rows)
{
    int32_t part, row;

    for (part = 0; part < (low ? 3 : 1); part++) {
        for (row = 0; row < rows; row++) {
            run->segment_offset[rows * part + row] =
                row * plane->row_step + (part == 1 ? low->memory - plane->memory : 0);
        }
    }
}

/* A 3x3 convolution with stride 2 to one row of outputs. low: what the plane lacks, or NULL. */
static void strided_row(const lc_mix_job *job, const scratch *s, const lc_dense_layer *layer,
                        const lc_mix_plane *plane, const lc_mix_plane *low, int32_t row, int32_t width, sink to)
{
    const int32_t n_parts = parts_of(width);
    const ptrdiff_t start_x = to.x_step, start_out = to.out_step;
    float *x = to.x;
    lc_bf16 *out = to.out;
    int32_t i;

    for (i = 0; i < n_parts; i++) {
        const int32_t column = part_start(i, n_parts, width), n = part_start(i + 1, n_parts, width) - column;
        lc_dense_run run = {
            .a = plane_at(plane, 2 * row - 1, 2 * column - 1),
            .a_step = 2 * (ptrdiff_t)plane->channels,
            .n = n,
        };

        if (n == 0) {
            continue;
        }
        row_segments(&run, plane, low, 3);
        to.x = x ? x + start_x * column : NULL;
        to.out = out ? out + start_out * column : NULL;
        dense(job->kernels, layer, &run, s->sums, &to);
    }
}

/* Rows 2 `row` and 2 `row` + 1 of x, and the first layer of the first block over them. */
static void up_rows(const lc_mix_job *job, const scratch *s, int32_t row)
{
    const lc_mixnet *net = job->net;
    const lc_mix_plane *y = &job->planes[2];
    const int32_t N = net->N, half = job->width / 2, n_parts = parts_of(half), x_parts = parts_of(job->width);
    int32_t phase, i;

    for (phase = 0; phase < 4; phase++) {
        for (i = 0; i < n_parts; i++) {
            const int32_t column = part_start(i, n_parts, half), n = part_start(i + 1, n_parts, half) - column;
            const ptrdiff_t at = (ptrdiff_t)job->width * (2 * row + phase / 2) + 2 * column + phase % 2;
            const sink to = {
                .kind = SINK_STORE, .scale = 1, .x = job->x + (ptrdiff_t)N * at, .x_step = 2 * (ptrdiff_t)N};
            lc_dense_run run = {.a = plane_at(y, row, column), .a_step = y->channels, .n = n};

            if (n > 0) {
                row_segments(&run, y, &job->planes[3], 1 + phase / 2);
                dense(job->kernels, &net->up[phase], &run, s->sums, &to);
            }
        }
    }
    for (phase = 0; phase < 2; phase++) {
        for (i = 0; i < x_parts; i++) {
            const int32_t column = part_start(i, x_parts, job->width);
            const int32_t n = part_start(i + 1, x_parts, job->width) - column;

            if (n > 0) {
                job->kernels->rounded(
                    job->x + (ptrdiff_t)N * ((ptrdiff_t)job->width * (2 * row + phase) + column), n * N, s->narrow);
                enter(job, &net->synthesis[0], s, n, plane_at(&job->planes[0], 2 * row + phase, column));
            }
        }
    }
}

static void scale_row(const lc_mix_job *job, int32_t row)
{
    const int32_t width = job->width / 2, C = job->y_channels;
    int32_t i;

    for (i = 0; i < width; i++) {
        job->kernels->scaled(job->y_hat + (ptrdiff_t)C * ((ptrdiff_t)width * row + i), job->scale, C,
                             plane_at(&job->planes[2], row, i), plane_at(&job->planes[3], row, i));
    }
}

static void hyper_row(const lc_mix_job *job, const scratch *s, int32_t row)
{
    const lc_mixnet *net = job->net;
    const int32_t M = net->M, C = job->y_channels, n_parts = parts_of(job->width);
    int32_t i, k;

    for (i = 0; i < n_parts; i++) {
        const int32_t column = part_start(i, n_parts, job->width), n = part_start(i + 1, n_parts, job->width) - column;
        const sink to = {
            .kind = SINK_LEAKY,
            .slope = LC_HYPER_SLOPE,
            .out = plane_at(&job->planes[0], row, column),
            .out_step = net->N,
        };

        for (k = 0; k < n; k++) {
            job->kernels->rounded(job->y + (ptrdiff_t)C * ((ptrdiff_t)job->width * row + column + k), C,
                                  s->narrow + (ptrdiff_t)M * k);
        }
        if (n > 0) {
            pointwise(job->kernels, &net->hyper[0], s->narrow, M, n, s->sums, &to);
        }
    }
}

static bool run_hyper(lc_mix_job *job, const scratch *s, int32_t rank)
{
    const lc_mixnet *net = job->net;
    const lc_team *team = &job->team;
    const int32_t N = net->N;
    int32_t row;

    for (row = lc_team_part(team, rank, job->height); row < lc_team_part(team, rank + 1, job->height); row++) {
        hyper_row(job, s, row);
    }
    if (!lc_team_wait(&job->team)) {
        return false;
    }
    for (row = lc_team_part(team, rank, job->height / 2); row < lc_team_part(team, rank + 1, job->height / 2); row++) {
        const sink to = {
            .kind = SINK_LEAKY, .slope = LC_HYPER_SLOPE, .out = plane_at(&job->planes[1], row, 0), .out_step = N};

        strided_row(job, s, &net->hyper[1], &job->planes[0], NULL, row, job->width / 2, to);
    }
    if (!lc_team_wait(&job->team)) {
        return false;
    }
    for (row = lc_team_part(team, rank, job->height / 4); row < lc_team_part(team, rank + 1, job->height / 4); row++) {
        const sink to = {
            .kind = SINK_STORE,
            .scale = 1,
            .x = job->out + (ptrdiff_t)N * (job->width / 4) * row,
            .x_step = N,
        };

        strided_row(job, s, &net->hyper[2], &job->planes[1], NULL, row, job->width / 4, to);
    }
    return true;
}

static bool run_transform(lc_mix_job *job, const scratch *s, int32_t rank)
{
    const lc_mixnet *net = job->net;
    const lc_team *team = &job->team;
    const int32_t half = job->height / 2;
    const int32_t first = lc_team_part(team, rank, half), end = lc_team_part(team, rank + 1, half);
    int32_t row, b;

    if (job->kind == LC_MIX_SYNTHESIS) {
        for (row = first; row < end; row++) {
            scale_row(job, row);
        }
        if (!lc_team_wait(&job->team)) {
            return false;
        }
    }
    for (row = first; row < end; row++) {
        if (job->kind == LC_MIX_SYNTHESIS) {
            up_rows(job, s, row);
        } else {
            patch_row(job, s, 2 * row);
            patch_row(job, s, 2 * row + 1);
        }
    }
    for (b = 0; b < LC_MIX_BLOCKS; b++) {
        if (!lc_team_wait(&job->team)) {
            return false;
        }
        for (row = 2 * first; row < 2 * end; row++) {
            block_row(job, s, b, row);
        }
    }
    if (job->kind == LC_MIX_ANALYSIS) {
        if (!lc_team_wait(&job->team)) {
            return false;
        }
        for (row = first; row < end; row++) {
            const sink to = {
                .kind = SINK_STORE,
                .scale = 1,
                .x = job->out + (ptrdiff_t)net->M * (job->width / 2) * row,
                .x_step = net->M,
            };

            strided_row(job, s, &net->down, &job->planes[2], &job->planes[3], row, job->width / 2, to);
        }
    }
    return true;
}

void lc_mix_worker(lc_mix_job *job, int32_t rank)
{
    const scratch s = scratch_of(job, rank);

    job->kernels->begin();
    if (job->kind == LC_MIX_HYPER) {
        run_hyper(job, &s, rank);
    } else {
        run_transform(job, &s, rank);
    }
    job->kernels->end();
}
