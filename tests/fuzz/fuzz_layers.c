/* SPDX-License-Identifier: BSD-3-Clause
 *
 * libFuzzer: an integer layer out of the input, with weights up to what its proof allows. Every instruction set gives
 * the same numbers, and sizes that cannot be are refused.
 */
#include <stdlib.h>
#include <string.h>

#include "lc_intnet.h"

#define SUM_MAX ((int64_t)INT32_MAX)

typedef struct input {
    const uint8_t *bytes;
    size_t n, pos;
    uint32_t noise; /* goes on when the bytes are used up */
} input;

static uint32_t take_byte(input *in)
{
    in->noise = in->noise * 1664525u + 1013904223u;
    return in->pos < in->n ? in->bytes[in->pos++] : in->noise >> 24;
}

static int32_t take_int(input *in, int n)
{
    uint32_t value = 0;

    while (n-- > 0) {
        value = value << 8 | take_byte(in);
    }
    return (int32_t)value;
}

static void check(int holds)
{
    if (!holds) {
        abort();
    }
}

/* Of weight i: the channel that its sum belongs to. */
static size_t channel_of(const lc_layer_spec *spec, size_t i)
{
    const size_t taps = (size_t)spec->kernel * (size_t)spec->kernel;

    return spec->kind == LC_DECONV ? i / taps % (size_t)spec->out_channels : i / taps / (size_t)spec->in_channels;
}

/* Halves weights and bias of channels until |bias| + 32767 sum |weight| fits int32. */
static void prove(const lc_layer_spec *spec, int16_t *weight, size_t n_weights, int32_t *bias, size_t n)
{
    int64_t *sums = malloc(n * sizeof *sums);
    int again = 1;
    size_t i;

    check(sums != NULL);
    while (again) {
        again = 0;
        for (i = 0; i < n; i++) {
            sums[i] = llabs((long long)bias[i]);
        }
        for (i = 0; i < n_weights; i++) {
            sums[channel_of(spec, i)] += INT64_C(32767) * abs(weight[i]);
        }
        for (i = 0; i < n_weights; i++) {
            weight[i] = sums[channel_of(spec, i)] > SUM_MAX ? (int16_t)(weight[i] / 2) : weight[i];
        }
        for (i = 0; i < n; i++) {
            again |= sums[i] > SUM_MAX;
            bias[i] = sums[i] > SUM_MAX ? bias[i] / 2 : bias[i];
        }
    }
    free(sums);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    input in = {bytes, n_bytes, 0, (uint32_t)n_bytes};
    static const int32_t kernels_of[4][4] = {{1, 3, 5, 3}, {3, 5, 5, 3}, {5, 5, 5, 5}, {3, 3, 3, 3}};
    lc_layer_spec spec = {0};
    const uint32_t kind = take_byte(&in) % 4, wild = take_byte(&in) % 16 == 0;
    const int32_t height = 1 + (int32_t)(take_byte(&in) % 5), width = 1 + (int32_t)(take_byte(&in) % 9);
    uint8_t *expected = NULL;
    size_t n, n_weights, i, size;
    int32_t *bias, *mult_pos, *mult_neg, *shift;
    int16_t *weight;
    lc_layer layer;
    lc_status status;
    lc_plane plane;
    int isa;

    spec.kind = (lc_layer_kind)kind;
    spec.kernel = wild ? take_int(&in, 1) : kernels_of[kind][take_byte(&in) % 4];
    spec.in_channels = 1 + (int32_t)(take_byte(&in) % 7);
    spec.out_channels = 1 + (int32_t)(take_byte(&in) % 40);
    if (kind == LC_SUBPEL) {
        spec.out_channels = 1 + spec.out_channels % 12;
    }
    spec.output = (lc_output)(take_byte(&in) % 3);
    n = (size_t)spec.out_channels * (kind == LC_SUBPEL ? 4 : 1);
    n_weights = n * (size_t)spec.in_channels * (size_t)(wild ? 25 : spec.kernel * spec.kernel);
    weight = malloc(n_weights * sizeof *weight);
    bias = malloc(n * sizeof *bias);
    mult_pos = malloc(n * sizeof *mult_pos);
    mult_neg = malloc(n * sizeof *mult_neg);
    shift = malloc(n * sizeof *shift);
    check(weight && bias && mult_pos && mult_neg && shift);
    for (i = 0; i < n; i++) {
        bias[i] = take_int(&in, 4) >> (take_byte(&in) % 32);
        bias[i] = bias[i] == INT32_MIN ? -INT32_MAX : bias[i];
        mult_pos[i] = take_int(&in, 2);
        mult_neg[i] = take_int(&in, 2);
        shift[i] = 1 + (int32_t)(take_byte(&in) % LC_MAX_SHIFT);
    }
    for (i = 0; i < n_weights; i++) {
        weight[i] = (int16_t)(take_int(&in, 2) >> (take_byte(&in) % 16));
        weight[i] = weight[i] == INT16_MIN ? -INT16_MAX : weight[i];
    }
    spec.lo = -(take_int(&in, spec.output == LC_OUTPUT_INT16 ? 2 : 3) & 32767);
    spec.hi = take_int(&in, 2) & 32767;
    if (!wild) {
        prove(&spec, weight, n_weights, bias, n);
    }
    spec.weight = weight;
    spec.bias = bias;
    spec.mult_pos = mult_pos;
    spec.mult_neg = mult_neg;
    spec.shift = shift;
    if (wild) { /* arrays of 25 taps: a kernel that is larger must not be read */
        const int fits = (kind == LC_CONV && (spec.kernel == 1 || spec.kernel == 3 || spec.kernel == 5)) ||
                         (kind == LC_CONTEXT && (spec.kernel == 3 || spec.kernel == 5)) ||
                         (kind == LC_DECONV && spec.kernel == 5) || (kind == LC_SUBPEL && spec.kernel == 3);
        spec.in_channels = fits || take_byte(&in) & 1 ? spec.in_channels : -spec.in_channels;
        status = lc_layer_init(&layer, &spec);
        check((status == LC_OK) == fits);
        lc_layer_free(&layer);
    } else {
        check(lc_layer_init(&layer, &spec) == LC_OK);
        check(lc_plane_init(&plane, height, width, spec.in_channels, layer.margin) == LC_OK);
        for (i = 0; i < (size_t)(height * width); i++) {
            int16_t *at = lc_plane_at(&plane, (int32_t)i / width, (int32_t)i % width);
            int32_t c;

            for (c = 0; c < spec.in_channels; c++) {
                at[c] = (int16_t)take_int(&in, 2);
                at[c] = at[c] == INT16_MIN ? -INT16_MAX : at[c];
            }
        }
        size = (size_t)height * (size_t)width * (size_t)(layer.upsample * layer.upsample) * (size_t)spec.out_channels *
               (spec.output == LC_OUTPUT_INT16 ? sizeof(int16_t) : sizeof(int32_t));
        for (isa = 0; isa < LC_N_ISAS; isa++) {
            const lc_kernels *kernels = lc_kernels_get((lc_isa)isa);
            const ptrdiff_t row_step = (ptrdiff_t)width * layer.upsample * spec.out_channels;
            uint8_t *out;

            if (!kernels) {
                continue;
            }
            out = malloc(size); /* exactly, so that one element too far is seen */
            check(out != NULL);
            memset(out, 0x5A, size);
            {
                const lc_sink sink = {out, row_step, spec.out_channels};

                lc_layer_rows(&layer, kernels, &plane, 0, height, &sink);
            }
            if (expected) {
                check(!memcmp(expected, out, size));
                free(out);
            } else {
                expected = out;
            }
        }
        free(expected);
        lc_plane_free(&plane);
        lc_layer_free(&layer);
    }
    free(weight);
    free(bias);
    free(mult_pos);
    free(mult_neg);
    free(shift);
    return 0;
}
