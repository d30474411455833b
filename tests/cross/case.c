/* SPDX-License-Identifier: BSD-3-Clause */
#include "case.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Noreturn void die(const char *message)
{
    fprintf(stderr, "decode_driver: %s\n", message);
    exit(2);
}

void *take(size_t n, size_t size)
{
    void *memory = malloc(n > 0 ? n * size : 1);

    if (!memory) {
        die("out of memory");
    }
    memset(memory, 0xA5, n * size);
    return memory;
}

void require(lc_status status, const char *what)
{
    if (status != LC_OK) {
        die(what);
    }
}

reader read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    reader in = {0};
    long size;
    uint8_t *bytes;
    size_t i;

    if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0 || fseek(file, 0, SEEK_SET)) {
        die("cannot read the case");
    }
    bytes = take((size_t)size, 1);
    if (fread(bytes, 1, (size_t)size, file) != (size_t)size || fclose(file)) {
        die("cannot read the case");
    }
    in.n = (size_t)size / 4;
    in.words = take(in.n, sizeof *in.words);
    for (i = 0; i < in.n; i++) {
        const uint8_t *b = bytes + 4 * i;

        in.words[i] = (int32_t)((uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24);
    }
    free(bytes);
    return in;
}

int32_t next(reader *in)
{
    if (in->pos == in->n) {
        die("the case ends too early");
    }
    return in->words[in->pos++];
}

size_t next_size(reader *in)
{
    const int32_t value = next(in);

    if (value < 0) {
        die("a size is negative");
    }
    return (size_t)value;
}

int32_t *read_int32(reader *in, size_t n)
{
    int32_t *values = take(n, sizeof *values);
    size_t i;

    for (i = 0; i < n; i++) {
        values[i] = next(in);
    }
    return values;
}

int16_t *read_int16(reader *in, size_t n)
{
    int16_t *values = take(n, sizeof *values);
    size_t i;

    for (i = 0; i < n; i++) {
        values[i] = (int16_t)next(in);
    }
    return values;
}

uint8_t *read_bytes(reader *in, size_t n)
{
    uint8_t *bytes = take(n, 1);
    uint32_t word = 0;
    size_t i;

    for (i = 0; i < n; i++) {
        word = i % 4 ? word >> 8 : (uint32_t)next(in);
        bytes[i] = (uint8_t)word;
    }
    return bytes;
}

lc_layer read_layer(reader *in)
{
    lc_layer_spec spec = {0};
    lc_layer layer;
    size_t n_weights, n;
    int16_t *weight;
    int32_t *bias, *mult_pos, *mult_neg, *shift;

    spec.kind = (lc_layer_kind)next(in);
    spec.kernel = next(in);
    spec.in_channels = next(in);
    spec.out_channels = next(in);
    spec.lo = next(in);
    spec.hi = next(in);
    spec.output = (lc_output)next(in);
    n_weights = next_size(in);
    n = next_size(in);
    spec.weight = weight = read_int16(in, n_weights);
    spec.bias = bias = read_int32(in, n);
    spec.mult_pos = mult_pos = read_int32(in, n);
    spec.mult_neg = mult_neg = read_int32(in, n);
    spec.shift = shift = read_int32(in, n);
    require(lc_layer_init(&layer, &spec), "a layer is not accepted");
    free(weight);
    free(bias);
    free(mult_pos);
    free(mult_neg);
    free(shift);
    return layer;
}

static lc_tables read_tables(reader *in)
{
    const size_t n = next_size(in), stride = next_size(in);
    int32_t *values = read_int32(in, n * stride), *sizes = read_int32(in, n), *offsets = read_int32(in, n);
    uint32_t *cdfs = take(n * stride, sizeof *cdfs);
    lc_tables tables;
    size_t i;

    for (i = 0; i < n * stride; i++) {
        cdfs[i] = (uint32_t)values[i];
    }
    require(lc_tables_init(&tables, cdfs, n, stride, sizes, offsets, NULL), "tables are not accepted");
    free(cdfs);
    free(values);
    free(sizes);
    free(offsets);
    return tables;
}

static int32_t read_layers(reader *in, lc_layer *layers, const lc_layer **pointers)
{
    const int32_t n = next(in);
    int32_t i;

    if (n < 0 || n > LC_MAX_LAYERS) {
        die("too many layers");
    }
    for (i = 0; i < n; i++) {
        layers[i] = read_layer(in);
        pointers[i] = &layers[i];
    }
    return n;
}

model *read_model(reader *in)
{
    model *m = take(1, sizeof *m);

    memset(m, 0, sizeof *m);
    m->entropy.M = next(in);
    m->entropy.fraction_bits = next(in);
    m->prior_channels = next(in);
    m->prior_fraction_bits = next(in);
    m->medians = read_int32(in, (size_t)m->prior_channels);
    m->prior = read_tables(in);
    m->entropy.n_hyper = read_layers(in, m->hyper, m->entropy.hyper);
    if (m->entropy.n_hyper) {
        m->entropy.has_means = next(in) != 0;
        m->gaussian = read_tables(in);
        m->entropy.n_thresholds = next(in);
        m->entropy.thresholds = m->thresholds = read_int32(in, (size_t)m->entropy.n_thresholds);
        m->entropy.n_parameters = read_layers(in, m->parameters, m->entropy.parameters);
    }
    if (m->entropy.n_parameters) {
        m->context = read_layer(in);
        m->hyper_half = read_layer(in);
        m->entropy.context = &m->context;
        m->entropy.hyper_half = &m->hyper_half;
    }
    return m;
}

void free_model(model *m)
{
    int32_t i;

    for (i = 0; i < LC_MAX_LAYERS; i++) {
        lc_layer_free(&m->hyper[i]);
        lc_layer_free(&m->parameters[i]);
    }
    lc_layer_free(&m->context);
    lc_layer_free(&m->hyper_half);
    lc_tables_free(&m->prior);
    lc_tables_free(&m->gaussian);
    free(m->thresholds);
    free(m->medians);
    free(m);
}
