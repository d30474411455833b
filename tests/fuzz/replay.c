/* SPDX-License-Identifier: BSD-3-Clause
 *
 * In place of libFuzzer, for compilers without it: runs each file that it is given once.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int main(int argc, char **argv)
{
    enum { MAX_BYTES = 1 << 20 };
    int i;

    for (i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        uint8_t *bytes = malloc(MAX_BYTES), *exact;
        size_t n;

        if (!file || !bytes) {
            return 2;
        }
        n = fread(bytes, 1, MAX_BYTES, file);
        fclose(file);
        exact = realloc(bytes, n ? n : 1); /* so that one byte too far is seen */
        LLVMFuzzerTestOneInput(exact, n);
        free(exact);
    }
    return 0;
}
