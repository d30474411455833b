/* SPDX-License-Identifier: BSD-3-Clause
 *
 * libFuzzer: the float transforms of lc-s, and divisive normalisation, with widths, sizes, weights and contents out of the input, not a number and
 * infinity among them. Each instruction set stays inside of its arrays, and two threads give what one gives.
 */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lc_gdn.h"
#include "lc_mixnet.h"

#define MAX_ARRAYS 128

typedef struct input {
    const uint8_t *bytes;
    size_t n, pos;
    uint32_t noise; /* goes on when the bytes are used up */
    int wild;       /* weights of any bits, else small ones */
    void *arrays[MAX_ARRAYS];
    int n_arrays;
} input;

typedef struct seat {
    lc_mix_job *job;
    int32_t rank;
} seat;

static uint32_t take_byte(input *in)
{
    in->noise = in->noise * 1664525u + 1013904223u;
    return in->pos < in->n ? in->bytes[in->pos++] : in->noise >> 24;
}

static void check(int holds)
{
    if (!holds) {
        abort();
    }
}

/* Freed with the input. */
static void *array(input *in, size_t bytes)
{
    void *memory = NULL;

    check(in->n_arrays < MAX_ARRAYS && posix_memalign(&memory, 64, bytes) == 0);
    in->arrays[in->n_arrays++] = memory;
    return memory;
}

static float take_float(input *in)
{
    const uint32_t bits = take_byte(in) << 24 | take_byte(in) << 16;
    float value = ((float)(bits >> 16) - 32768.0F) / 262144.0F;

    if (in->wild) {
        memcpy(&value, &bits, sizeof value);
    }
    return value;
}

static const float *floats(input *in, int32_t n)
{
    float *values = array(in, (size_t)n * sizeof *values);
    int32_t i;

    for (i = 0; i < n; i++) {
        values[i] = take_float(in);
    }
    return values;
}

static lc_dense_layer layer(input *in, int32_t n_segments, int32_t inputs, int32_t outputs)
{
    const size_t n = (size_t)n_segments * (size_t)inputs * (size_t)outputs;
    lc_dense_layer made = {.n_panels = outputs / LC_DENSE_PANEL,
                           .n_segments = n_segments,
                           .panel_blocks = n_segments * inputs / LC_DENSE_BLOCK};
    lc_bf16 *panels = array(in, n * sizeof *panels);
    size_t i;
    int s;

    for (i = 0; i < n; i++) {
        const float value = take_float(in);
        uint32_t bits;

        memcpy(&bits, &value, sizeof bits);
        panels[i] = (lc_bf16)(bits >> 16);
    }
    for (s = 0; s < n_segments; s++) {
        made.segment_blocks[s] = inputs / LC_DENSE_BLOCK;
    }
    made.panels = panels;
    made.bias = floats(in, outputs);
    return made;
}

static void blocks(input *in, lc_mix_block *made, int32_t N)
{
    int i;

    for (i = 0; i < LC_MIX_BLOCKS; i++) {
        made[i].enter = layer(in, 1, N, N);
        made[i].leave = layer(in, 1, N, N);
        made[i].expand = layer(in, 1, N, 2 * N);
        made[i].contract = layer(in, 1, 2 * N, N);
        made[i].depthwise = floats(in, 9 * N);
        made[i].depthwise_bias = floats(in, N);
    }
}

/* The layers that `kind` reads, as MixNet sets them up. */
static void make_net(input *in, lc_mixnet *net, lc_mix_kind kind)
{
    const int32_t N = net->N, M = net->M;
    int i;

    if (kind == LC_MIX_ANALYSIS) {
        net->patch = layer(in, 3, LC_MIX_SAMPLES, N);
        net->down = layer(in, 9, 3 * N, M);
        blocks(in, net->analysis, N);
    } else if (kind == LC_MIX_HYPER) {
        net->hyper[0] = layer(in, 1, M, N);
        net->hyper[1] = layer(in, 3, 3 * N, N);
        net->hyper[2] = layer(in, 3, 3 * N, N);
    } else {
        for (i = 0; i < 4; i++) {
            net->up[i] = layer(in, 3 * (1 + i / 2), (1 + i % 2) * M, N);
        }
        net->pixels = layer(in, 3, N, LC_MIX_SAMPLES);
        blocks(in, net->synthesis, N);
    }
}

static void *work(void *argument)
{
    const seat *mine = argument;

    lc_mix_worker(mine->job, mine->rank);
    return NULL;
}

/* False for sizes that cannot be. */
static int run(lc_mix_job job, int32_t n_threads)
{
    seat seats[2] = {{&job, 0}, {&job, 1}};
    pthread_t helper;

    if (lc_mix_job_init(&job, n_threads) != LC_OK) {
        return 0;
    }
    check(n_threads == 1 || pthread_create(&helper, NULL, work, &seats[1]) == 0);
    work(&seats[0]);
    check(n_threads == 1 || pthread_join(helper, NULL) == 0);
    lc_mix_job_free(&job);
    return 1;
}

static void free_arrays(input *in)
{
    while (in->n_arrays > 0) {
        free(in->arrays[--in->n_arrays]);
    }
}

static lc_bf16 *halves(input *in, int32_t n)
{
    lc_bf16 *values = array(in, (size_t)n * sizeof *values);
    int32_t i;

    for (i = 0; i < n; i++) {
        values[i] = (lc_bf16)(take_byte(in) << 8 | take_byte(in));
    }
    return values;
}

/* Every instruction set, on arrays of exactly the size. */
static void normalise(input *in)
{
    const int32_t channels = 1 + (int32_t)(take_byte(in) % 100), rows = 1 + (int32_t)(take_byte(in) % 140);
    const int32_t padded = (channels + LC_DENSE_PANEL - 1) / LC_DENSE_PANEL * LC_DENSE_PANEL;
    const uint32_t flags = take_byte(in);
    lc_gdn gdn = {.channels = channels, .padded = padded, .inverse = flags & 1};
    const float *add = NULL, *x;
    const lc_bf16 *narrow, *grad, *transposed;
    int isa;

    in->wild = flags >> 1 & 1;
    gdn.panels = layer(in, 1, padded, padded).panels;
    gdn.beta = floats(in, padded);
    x = floats(in, channels * rows);
    if (flags >> 2 & 1) {
        add = floats(in, channels * rows);
    }
    narrow = halves(in, channels * rows);
    grad = halves(in, channels * rows);
    transposed = layer(in, 1, padded, padded).panels;
    for (isa = 0; isa < LC_N_FLOAT_ISAS; isa++) {
        const lc_dense_kernels *kernels = lc_dense_kernels_get((lc_float_isa)isa);
        const size_t size = (size_t)(channels * rows) * sizeof *x;
        float *own = array(in, size);
        lc_gdn_gradients of = {.x = narrow, .grad_y = grad, .grad_x = array(in, size / 2)};

        of.grad_norm = array(in, size / 2);
        of.squares = array(in, size / 2);
        of.grad_beta = array(in, (size_t)channels * sizeof *of.grad_beta);
        if (kernels) {
            memcpy(own, x, size);
            check(lc_gdn_apply(&gdn, kernels, own, add, rows) == LC_OK);
            check(lc_gdn_forward(&gdn, kernels, narrow, of.grad_x, rows) == LC_OK);
            memset(of.grad_beta, 0, (size_t)channels * sizeof *of.grad_beta);
            check(lc_gdn_backward(&gdn, transposed, kernels, &of, rows) == LC_OK);
        }
    }
    free_arrays(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    input in = {.bytes = bytes, .n = n_bytes, .noise = (uint32_t)n_bytes};
    const uint32_t choice = take_byte(&in) % 4;
    const lc_mix_kind kind = (lc_mix_kind)(choice % 3);
    const uint32_t flags = take_byte(&in);
    const int32_t step = kind == LC_MIX_HYPER ? 4 : 2;
    const int32_t longest = take_byte(&in) % 16 ? 4 : 37; /* more than LC_DENSE_ROWS now and then */
    int32_t width = step * (1 + (int32_t)(take_byte(&in) % (uint32_t)longest));
    int32_t height = step * (longest > 4 ? 1 : 1 + (int32_t)(take_byte(&in) % 3));
    lc_mixnet net = {.N = 32 * (1 + (int32_t)(flags & 1)), .M = 32 * (1 + (int32_t)(flags >> 1 & 1))};
    lc_mix_job job = {.net = &net, .kind = kind, .deep = flags >> 2 & 1, .n_colours = flags >> 3 & 1 ? 3 : 1};
    int32_t y_positions, i;
    size_t pixel_bytes, out_bytes;
    uint8_t *pixels;
    int32_t *y_hat;
    int isa;

    if (choice == 3) {
        normalise(&in);
        return 0;
    }
    in.wild = flags >> 4 & 1;
    if (flags >> 5 == 7) { /* sizes that are refused */
        height += (int32_t)(take_byte(&in) % 3) - 1;
        width += height % step ? 0 : 1 + (int32_t)(take_byte(&in) % (uint32_t)(step - 1));
        job.height = height;
        job.width = take_byte(&in) & 1 ? -width : width;
        check(!run(job, 1));
        return 0;
    }
    job.height = height;
    job.width = width;
    job.y_channels = 1 + (int32_t)(take_byte(&in) % (uint32_t)net.M);
    y_positions = kind == LC_MIX_HYPER ? height * width : height * width / 4;
    pixel_bytes = (size_t)(height * width * LC_MIX_PATCH * LC_MIX_PATCH * job.n_colours) * (job.deep ? 2 : 1);
    pixels = array(&in, pixel_bytes);
    for (i = 0; i < (int32_t)pixel_bytes; i++) {
        pixels[i] = (uint8_t)take_byte(&in);
    }
    y_hat = array(&in, (size_t)y_positions * (size_t)job.y_channels * sizeof *y_hat);
    for (i = 0; i < y_positions * job.y_channels; i++) {
        y_hat[i] = (int32_t)(take_byte(&in) << 24 | take_byte(&in)) >> (take_byte(&in) % 32);
    }
    job.scale = floats(&in, job.y_channels);
    job.y = floats(&in, y_positions * job.y_channels);
    job.pixels_in = pixels;
    job.y_hat = y_hat;
    make_net(&in, &net, kind);
    out_bytes = kind == LC_MIX_SYNTHESIS  ? pixel_bytes
                : kind == LC_MIX_ANALYSIS ? sizeof(float) * (size_t)(y_positions * net.M)
                                          : sizeof(float) * (size_t)(y_positions / 16 * net.N);
    for (isa = 0; isa < LC_N_FLOAT_ISAS; isa++) {
        void *once = array(&in, out_bytes), *twice = array(&in, out_bytes);

        job.kernels = lc_dense_kernels_get((lc_float_isa)isa);
        if (job.kernels) {
            memset(once, 0x5A, out_bytes);
            memset(twice, 0xA5, out_bytes);
            job.pixels_out = once;
            job.out = once;
            check(run(job, 1));
            job.pixels_out = twice;
            job.out = twice;
            check(run(job, 2));
            check(!memcmp(once, twice, out_bytes));
        }
    }
    free_arrays(&in);
    return 0;
}
