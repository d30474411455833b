/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Result codes of every C function that can fail. The numbers are pinned: the Cython modules map them to exceptions
 * (LC_TRUNCATED -> Truncated, LC_CORRUPT -> Corrupt, LC_INVALID -> ModelError or ValueError, LC_NO_MEMORY -> MemoryError).
 */
#ifndef LC_STATUS_H
#define LC_STATUS_H

typedef enum lc_status {
    LC_OK = 0,
    LC_TRUNCATED = 1, /* the stream ends before all symbols were read */
    LC_CORRUPT = 2,   /* the stream holds something that no encoder writes */
    LC_INVALID = 3,   /* an argument breaks its contract: bad table, index out of range */
    LC_NO_MEMORY = 4  /* malloc failed */
} lc_status;

#endif
