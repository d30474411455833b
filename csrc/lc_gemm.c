/* SPDX-License-Identifier: BSD-3-Clause
 * Choice of the kernels by what the processor has.
 */
#include "lc_gemm.h"

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define LC_CPU_HAS(feature) __builtin_cpu_supports(feature)
#else
#define LC_CPU_HAS(feature) 0
#endif

const lc_kernels *lc_kernels_get(lc_isa isa)
{
    switch (isa) {
    case LC_ISA_SCALAR: return lc_kernels_scalar();
    case LC_ISA_AVX2: return LC_CPU_HAS("avx2") ? lc_kernels_avx2() : NULL;
    case LC_ISA_AVX512:
        return LC_CPU_HAS("avx512f") && LC_CPU_HAS("avx512bw") && LC_CPU_HAS("avx512vl") && LC_CPU_HAS("avx512vnni")
                   ? lc_kernels_avx512()
                   : NULL;
    case LC_ISA_NEON: return lc_kernels_neon(); /* part of every aarch64 processor */
    default: return NULL;
    }
}

lc_isa lc_isa_best(void)
{
    if (lc_kernels_get(LC_ISA_AVX512)) {
        return LC_ISA_AVX512;
    }
    if (lc_kernels_get(LC_ISA_AVX2)) {
        return LC_ISA_AVX2;
    }
    if (lc_kernels_get(LC_ISA_NEON)) {
        return LC_ISA_NEON;
    }
    return LC_ISA_SCALAR;
}
