/* SPDX-License-Identifier: BSD-3-Clause */
#define _POSIX_C_SOURCE 200809L

#include "lc_team.h"

#include <sched.h>

/* A few microseconds, as long as most stages last. Where there are more threads than free processors, the one that is
 * waited for needs ours; where there are not, yielding costs next to nothing. */
#define LC_SPINS 100

static void pause_briefly(void)
{
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("yield");
#endif
}

void lc_team_init(lc_team *team, int32_t size)
{
    team->size = size;
    atomic_init(&team->arrived, 0);
    atomic_init(&team->generation, 0);
    atomic_init(&team->status, LC_OK);
}

bool lc_team_wait(lc_team *team)
{
    uint32_t generation;
    int32_t spins = 0;

    if (team->size == 1) {
        return atomic_load_explicit(&team->status, memory_order_relaxed) == LC_OK;
    }
    generation = atomic_load_explicit(&team->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) + 1 == team->size) {
        /* Nobody can arrive at the next barrier before the generation says that this one is passed. */
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->generation, generation + 1, memory_order_release);
    } else {
        while (atomic_load_explicit(&team->generation, memory_order_acquire) == generation) {
            if (atomic_load_explicit(&team->status, memory_order_relaxed) != LC_OK) {
                return false;
            }
            if (++spins < LC_SPINS) {
                pause_briefly();
            } else {
                sched_yield();
            }
        }
    }
    return atomic_load_explicit(&team->status, memory_order_relaxed) == LC_OK;
}

void lc_team_fail(lc_team *team, lc_status status)
{
    int32_t expected = LC_OK;

    atomic_compare_exchange_strong(&team->status, &expected, (int32_t)status);
}

lc_status lc_team_status(lc_team *team)
{
    return (lc_status)atomic_load(&team->status);
}
