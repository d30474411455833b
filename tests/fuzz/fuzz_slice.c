/* SPDX-License-Identifier: BSD-3-Clause
 *
 * libFuzzer: the bytes of a slice, decoded by a model ($LC_FUZZ_MODEL, a case as in tests/cross/case.h) with every
 * instruction set and with one and two threads: the same status and the same latents.
 */
#define main decode_driver_main /* its functions are wanted, not its program */
#include "../cross/decode_driver.c"
#undef main

static model *the_model;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *path = getenv("LC_FUZZ_MODEL");
    reader in;

    (void)argc;
    (void)argv;
    if (!path) {
        die("LC_FUZZ_MODEL names no case");
    }
    in = read_file(path);
    the_model = read_model(&in);
    free(in.words);
    return 0;
}

static lc_status decode(const uint8_t *bytes, size_t size, int32_t h, int32_t w, const lc_kernels *kernels,
                        int32_t n_threads, int32_t *y_hat)
{
    lc_decoder decoder;
    lc_status status = lc_decoder_init(&decoder, bytes, size);

    if (status == LC_OK) {
        status = the_model->entropy.n_hyper
                     ? decode_hyper(the_model, &decoder, kernels, n_threads, h, w, y_hat)
                     : decode_factorized(the_model, &decoder, (size_t)h * (size_t)w, y_hat);
    }
    return status == LC_OK ? lc_decoder_finish(&decoder) : status;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    const int32_t h = n_bytes < 2 ? 4 : 4 * (1 + bytes[0] % 4), w = n_bytes < 2 ? 4 : 4 * (1 + bytes[1] % 4);
    const size_t head = n_bytes < 2 ? n_bytes : 2, size = n_bytes - head;
    const size_t n = (size_t)h * (size_t)w * (size_t)the_model->entropy.M;
    uint8_t *data = take(size, 1); /* exactly, so that one byte too far is seen */
    int32_t *first = NULL;
    lc_status expected = LC_OK;
    int isa;

    memcpy(data, bytes + head, size);
    for (isa = 0; isa < LC_N_ISAS; isa++) {
        const lc_kernels *kernels = lc_kernels_get((lc_isa)isa);
        int32_t *y_hat;
        lc_status status;

        if (!kernels) {
            continue;
        }
        y_hat = take(n, sizeof *y_hat);
        status = decode(data, size, h, w, kernels, first ? 2 : 1, y_hat);
        if (!first) {
            first = y_hat;
            expected = status;
            continue;
        }
        if (status != expected || (status == LC_OK && memcmp(first, y_hat, n * sizeof *y_hat))) {
            abort();
        }
        free(y_hat);
    }
    free(first);
    free(data);
    return 0;
}
