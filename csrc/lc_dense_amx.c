/* SPDX-License-Identifier: BSD-3-Clause
 * Kernels for AMX: a tile of 16 positions by 32 inputs times one of 32 inputs by 16 channels is one instruction. Two by
 * two tiles of sums use each loaded tile twice.
 */
#include "lc_dense.h"

#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 11))

#define LC_DENSE_TARGET                                                                                             \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16" LC_DENSE_WHOLE_REGISTERS)))
#define LC_DENSE_ZMM
#include "lc_dense_loops.h"
#include "lc_dense_zmm.h"

/* Palette 1; all eight tiles of 16 rows of 64 bytes. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

LC_DENSE_TARGET static void begin(void)
{
    /* In memory, not on the stack: the intrinsic of some compilers tells them of its first bytes only. */
    static const tile_config config = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };

    _tile_loadconfig(&config);
}

LC_DENSE_TARGET static void end(void)
{
    _tile_release();
}

LC_DENSE_TARGET static void panel(const lc_dense_run *run)
{
    const size_t a_bytes = (size_t)run->a_step * sizeof(lc_bf16), out_bytes = LC_DENSE_PANEL * sizeof(float);
    int32_t row, s, b;

    for (row = 0; row < run->n; row += 32) {
        const bool two = run->n - row > 16;
        const lc_bf16 *w = run->weights;
        float *out = run->out + LC_DENSE_PANEL * row;

        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (s = 0; s < run->n_segments; s++) {
            const lc_bf16 *a = run->a + run->a_step * row + run->segment_offset[s];

            for (b = 0; b < run->segment_blocks[s]; b++) {
                _tile_loadd(4, a, a_bytes);
                _tile_loadd(6, w, 64);
                _tile_loadd(7, w + 512, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                if (two) {
                    _tile_loadd(5, a + 16 * run->a_step, a_bytes);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
                a += LC_DENSE_BLOCK;
                w += LC_DENSE_BLOCK * LC_DENSE_PANEL;
            }
        }
        _tile_stored(0, out, out_bytes);
        _tile_stored(1, out + 16, out_bytes);
        if (two) {
            _tile_stored(2, out + 16 * LC_DENSE_PANEL, out_bytes);
            _tile_stored(3, out + 16 * LC_DENSE_PANEL + 16, out_bytes);
        }
    }
}

const lc_dense_kernels *lc_dense_kernels_amx(void)
{
    static const lc_dense_kernels kernels = {
        .begin = begin,
        .end = end,
        .panel = panel,
        .leaky = leaky_zmm,
        .residual = residual_zmm,
        .store = store_zmm,
        .depthwise = depthwise_zmm,
        .normalise = normalise_zmm,
        .norm_gradient = norm_gradient_zmm,
        .square_gradient = square_gradient_zmm,
        LC_DENSE_SMALL,
    };

    return &kernels;
}

#else

const lc_dense_kernels *lc_dense_kernels_amx(void)
{
    return NULL;
}

#endif
