/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The decoder without Python, so that other processors, compilers and sanitizers can have their say on csrc/. It makes
 * the calls of lcodec/entropy/_intnet.pyx, _rans.pyx and intmodel.py and nothing else; tests/test_cross.py writes the
 * cases and compares the results with those of the Python package.
 *
 *   decode_driver slices CASE RESULT ISA THREADS    an entropy model, then slices to decode
 *   decode_driver layers CASE RESULT ISA THREADS    integer layers, each with an input
 *
 * CASE and RESULT are rows of int32, little-endian; for CASE see case.h. Result of a slice: the lc_status, and after
 * LC_OK y_hat (h, w, M). Result of a layer: its output.
 *
 * Exit status: 0, or 2 for a case, a file or a memory that does not do.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case.h"
#include "lc_latents.h"
#include "lc_slice.h"

#define MAX_THREADS 8

static void write_word(FILE *out, int32_t value)
{
    const uint32_t word = (uint32_t)value;
    const uint8_t bytes[4] = {(uint8_t)word, (uint8_t)(word >> 8), (uint8_t)(word >> 16), (uint8_t)(word >> 24)};

    if (fwrite(bytes, 1, sizeof bytes, out) != sizeof bytes) {
        die("cannot write the result");
    }
}

/* ----------------------------------------------------------------------------------------------------------- slices */

typedef struct member {
    pthread_t thread;
    lc_slice *slice;
    int32_t rank;
} member;

static void *enter(void *argument)
{
    const member *m = argument;

    lc_slice_worker(m->slice, m->rank);
    return NULL;
}

static lc_status run_team(lc_slice *slice, int32_t n_threads)
{
    member members[MAX_THREADS];
    int32_t rank;

    for (rank = 1; rank < n_threads; rank++) {
        members[rank].slice = slice;
        members[rank].rank = rank;
        if (pthread_create(&members[rank].thread, NULL, enter, &members[rank])) {
            die("cannot start a thread");
        }
    }
    lc_slice_worker(slice, 0);
    for (rank = 1; rank < n_threads; rank++) {
        pthread_join(members[rank].thread, NULL);
    }
    return lc_team_status(&slice->team);
}

/* Symbols (n, channels) of the factorized prior: z, or the y of a factorized model. */
static lc_status decode_prior(const model *m, lc_decoder *decoder, size_t n, int32_t *symbols)
{
    const size_t channels = (size_t)m->prior_channels;
    uint16_t *indexes = take(n * channels, sizeof *indexes);
    lc_status status;
    size_t i;

    for (i = 0; i < n * channels; i++) {
        indexes[i] = (uint16_t)(i % channels);
    }
    status = lc_decode(decoder, &m->prior, indexes, symbols, n * channels);
    free(indexes);
    for (i = 0; status == LC_OK && i < n * channels; i++) {
        if (symbols[i] < -LC_MAX_SYMBOL || symbols[i] > LC_MAX_SYMBOL) {
            status = LC_CORRUPT;
        }
    }
    return status;
}

static lc_status decode_factorized(const model *m, lc_decoder *decoder, size_t n, int32_t *y_hat)
{
    const size_t M = (size_t)m->prior_channels;
    int32_t *symbols = take(n * M, sizeof *symbols);
    lc_status status = decode_prior(m, decoder, n, symbols);
    size_t i;

    for (i = 0; status == LC_OK && i < n; i++) {
        if (!lc_dequantize(symbols + M * i, m->medians, 1, m->prior_fraction_bits, M, y_hat + M * i)) {
            status = LC_CORRUPT;
        }
    }
    free(symbols);
    return status;
}

/* Fills the slice's z_hat. In 64 bits: z may have more fraction bits than y. */
static lc_status decode_z(const model *m, lc_decoder *decoder, const lc_plane *z_hat)
{
    const size_t n = (size_t)z_hat->height * (size_t)z_hat->width, N = (size_t)m->prior_channels;
    int32_t *symbols = take(n * N, sizeof *symbols);
    const lc_status status = decode_prior(m, decoder, n, symbols);
    size_t i, c;

    for (i = 0; status == LC_OK && i < n; i++) {
        int16_t *at = lc_plane_at(z_hat, (int32_t)i / z_hat->width, (int32_t)i % z_hat->width);

        for (c = 0; c < N; c++) {
            const int64_t v = symbols[N * i + c] * (INT64_C(1) << m->prior_fraction_bits) + m->medians[c];

            at[c] = (int16_t)(v < -INT16_MAX ? -INT16_MAX : v > INT16_MAX ? INT16_MAX : v);
        }
    }
    free(symbols);
    return status;
}

static lc_status decode_hyper(const model *m, lc_decoder *decoder, const lc_kernels *kernels, int32_t n_threads,
                              int32_t h, int32_t w, int32_t *y_hat)
{
    const size_t n = (size_t)h * (size_t)w * (size_t)m->entropy.M;
    lc_status status;
    lc_slice slice;

    require(lc_slice_init(&slice, &m->entropy, kernels, h, w, h / 4, w / 4, n_threads), "a slice is not accepted");
    slice.symbols = take(n, sizeof *slice.symbols);
    slice.indexes = take(n, sizeof *slice.indexes);
    slice.y_hat = y_hat;
    slice.decoder = decoder;
    slice.tables = &m->gaussian;
    status = decode_z(m, decoder, &slice.planes[0]);
    if (status == LC_OK) {
        status = run_team(&slice, n_threads);
    }
    free(slice.symbols);
    free(slice.indexes);
    lc_slice_free(&slice);
    return status;
}

/* h, w, size, bytes */
static void run_slice(reader *in, FILE *out, const model *m, const lc_kernels *kernels, int32_t n_threads)
{
    const int32_t h = next(in), w = next(in);
    const size_t size = next_size(in), n = (size_t)h * (size_t)w * (size_t)m->entropy.M;
    uint8_t *data = read_bytes(in, size);
    int32_t *y_hat = take(n, sizeof *y_hat);
    lc_decoder decoder;
    lc_status status = lc_decoder_init(&decoder, data, size);
    size_t i;

    if (status == LC_OK) {
        status = m->entropy.n_hyper ? decode_hyper(m, &decoder, kernels, n_threads, h, w, y_hat)
                                    : decode_factorized(m, &decoder, (size_t)h * (size_t)w, y_hat);
    }
    if (status == LC_OK) {
        status = lc_decoder_finish(&decoder);
    }
    write_word(out, (int32_t)status);
    for (i = 0; status == LC_OK && i < n; i++) {
        write_word(out, y_hat[i]);
    }
    free(y_hat);
    free(data);
}

static void run_slices(reader *in, FILE *out, const lc_kernels *kernels, int32_t n_threads)
{
    model *m = read_model(in);
    size_t left;

    for (left = next_size(in); left > 0; left--) {
        run_slice(in, out, m, kernels, n_threads);
    }
    free_model(m);
}

/* ----------------------------------------------------------------------------------------------------------- layers */

/* layer, height, width, input (height, width, in) */
static void run_layer(reader *in, FILE *out, const lc_kernels *kernels)
{
    lc_layer layer = read_layer(in);
    const int32_t height = next(in), width = next(in);
    const ptrdiff_t row_step = (ptrdiff_t)width * layer.upsample * layer.out_channels;
    const size_t n = (size_t)height * (size_t)layer.upsample * (size_t)row_step;
    const bool narrow = layer.output == LC_OUTPUT_INT16;
    const lc_sink sink = {take(n, narrow ? sizeof(int16_t) : sizeof(int32_t)), row_step, layer.out_channels};
    lc_plane plane;
    int32_t row, column;
    size_t i;

    require(lc_plane_init(&plane, height, width, layer.in_channels, layer.margin), "a plane is not accepted");
    for (row = 0; row < height; row++) {
        for (column = 0; column < width; column++) {
            int16_t *values = read_int16(in, (size_t)layer.in_channels);

            memcpy(lc_plane_at(&plane, row, column), values, (size_t)layer.in_channels * sizeof *values);
            free(values);
        }
    }
    lc_layer_rows(&layer, kernels, &plane, 0, height, &sink);
    for (i = 0; i < n; i++) {
        write_word(out, narrow ? ((const int16_t *)sink.data)[i] : ((const int32_t *)sink.data)[i]);
    }
    free(sink.data);
    lc_plane_free(&plane);
    lc_layer_free(&layer);
}

static const lc_kernels *kernels_of(const char *name)
{
    static const char *const names[LC_N_ISAS] = {"scalar", "avx2", "avx512", "neon"};
    const lc_kernels *kernels = NULL;
    int i;

    for (i = 0; i < LC_N_ISAS; i++) {
        if (!strcmp(name, names[i])) {
            kernels = lc_kernels_get((lc_isa)i);
        }
    }
    if (!kernels) {
        die("this instruction set is not available");
    }
    return kernels;
}

int main(int argc, char **argv)
{
    const lc_kernels *kernels;
    int32_t n_threads;
    reader in;
    FILE *out;
    size_t left;

    if (argc != 6) {
        die("need: slices|layers CASE RESULT ISA THREADS");
    }
    in = read_file(argv[2]);
    kernels = kernels_of(argv[4]);
    n_threads = atoi(argv[5]);
    out = fopen(argv[3], "wb");
    if (!out || n_threads < 1 || n_threads > MAX_THREADS) {
        die("cannot write the result, or so many threads cannot be");
    }
    if (!strcmp(argv[1], "slices")) {
        run_slices(&in, out, kernels, n_threads);
    } else {
        for (left = next_size(&in); left > 0; left--) {
            run_layer(&in, out, kernels);
        }
    }
    if (in.pos != in.n || fclose(out)) {
        die("the case holds more than was read, or the result could not be written");
    }
    free(in.words);
    return 0;
}
