// SPDX-License-Identifier: MIT
// Arrays that grow: an element more, at the price of doubling when there is no room.
#ifndef HYBRIDFS_UTIL_ARRAY_H
#define HYBRIDFS_UTIL_ARRAY_H

#include <stddef.h>
#include <stdlib.h>

#define ARRAY_FIRST_CAP 64u

// The array v (from malloc, or NULL), which holds n elements and has room for *cap, with room for one more. NULL: out of memory, and v is
// still the caller's.
static inline void *array_more(void *v, size_t n, size_t *cap, size_t elem_bytes)
{
	size_t more = *cap == 0 ? ARRAY_FIRST_CAP : *cap * 2;

	if (n < *cap)
		return v;
	v = reallocarray(v, more, elem_bytes);
	if (v != NULL)
		*cap = more;
	return v;
}

#endif
