/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Threads that work through the same sequence of stages. They are created by the caller; here they only wait for each
 * other. A failure of one releases all: whoever waits, or comes to wait later, is told to leave.
 */
#ifndef LC_TEAM_H
#define LC_TEAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lc_status.h"

typedef struct lc_team {
    int32_t size;
    _Atomic int32_t arrived;     /* at the current barrier */
    _Atomic uint32_t generation; /* barriers passed */
    _Atomic int32_t status;      /* the first failure, an lc_status */
} lc_team;

void lc_team_init(lc_team *team, int32_t size);

/* Waits for all members; false: leave, the work has failed. Nothing waits for a member that left. */
bool lc_team_wait(lc_team *team);

/* The first failure counts. */
void lc_team_fail(lc_team *team, lc_status status);

lc_status lc_team_status(lc_team *team);

/* Part `rank` of 0 .. n - 1 in `size` nearly equal parts begins here; it ends where the next begins. */
static inline int32_t lc_team_part(const lc_team *team, int32_t rank, int32_t n)
{
    return (int32_t)((int64_t)n * rank / team->size);
}

#endif
