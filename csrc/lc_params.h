/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Constants that fix the rANS stream. Changing any of them changes the format.
 */
#ifndef LC_PARAMS_H
#define LC_PARAMS_H

#include <stdint.h>

/* Probabilities are integers out of 2^16. */
#define LC_PROB_BITS 16
#define LC_PROB_TOTAL (UINT32_C(1) << LC_PROB_BITS)

/* Between two symbols every state lies in [L, L * 2^32): 32 bits are moved at a time. */
#define LC_STATE_LOWER (UINT64_C(1) << 31)
#define LC_STATE_UPPER (UINT64_C(1) << 63)

/* Symbol i of a stream uses state i mod LC_LANES. Each further lane costs 4 to 8 bytes a stream. */
#ifndef LC_LANES
#define LC_LANES 2
#endif

/* Escape: a bit length of 6 bits, then the value below its leading one in chunks of at most 16 bits. */
#define LC_ESCAPE_LENGTH_BITS 6
#define LC_ESCAPE_MAX_LENGTH 33
#define LC_ESCAPE_CHUNK_BITS 16

/* A symbol is at most its table's entry, the bit length and two chunks, and each of them moves at most one word. */
#define LC_MAX_WORDS_PER_SYMBOL 4

/* Indexes are uint16. */
#define LC_MAX_TABLES 65536

#endif
