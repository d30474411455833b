/* SPDX-License-Identifier: BSD-3-Clause
 * Choice of the kernels by what the processor and the system have.
 */
#define _GNU_SOURCE

#include "lc_dense.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>

#define LC_CPU_HAS(feature) __builtin_cpu_supports(feature)

/* CPUID 7.0 EDX: bit 22 AMX-BF16, bit 24 AMX-TILE; __builtin_cpu_supports knows neither in older compilers. */
static bool has_amx_bits(void)
{
    unsigned a, b, c, d;

    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);
}

/* CPUID 7.1 EAX, bit 5. */
static bool has_bf16_bit(void)
{
    unsigned a, b, c, d;

    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

#if defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

/* The registers are large, so that Linux hands them to those processes only that ask. */
static bool may_use_tiles(void)
{
    const long request_permission = 0x1023, tile_data = 18;

    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

#else

static bool may_use_tiles(void)
{
    return false;
}

#endif

#else

#define LC_CPU_HAS(feature) 0

static bool has_amx_bits(void)
{
    return false;
}

static bool has_bf16_bit(void)
{
    return false;
}

static bool may_use_tiles(void)
{
    return false;
}

#endif

static bool has_avx512_bf16(void)
{
    return LC_CPU_HAS("avx512f") && LC_CPU_HAS("avx512bw") && LC_CPU_HAS("avx512vl") && LC_CPU_HAS("avx512dq") &&
           has_bf16_bit();
}

const lc_dense_kernels *lc_dense_kernels_get(lc_float_isa isa)
{
    switch (isa) {
    case LC_FLOAT_PLAIN: return lc_dense_kernels_plain();
    case LC_FLOAT_AVX2: return LC_CPU_HAS("avx2") && LC_CPU_HAS("fma") ? lc_dense_kernels_avx2() : NULL;
    case LC_FLOAT_AVX512: return has_avx512_bf16() ? lc_dense_kernels_avx512() : NULL;
    case LC_FLOAT_AMX:
        return has_avx512_bf16() && has_amx_bits() && may_use_tiles() ? lc_dense_kernels_amx() : NULL;
    default: return NULL;
    }
}
