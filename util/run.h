// SPDX-License-Identifier: MIT
// A run of blocks [start, start + len), and a growable list of runs.
#ifndef HYBRIDFS_UTIL_RUN_H
#define HYBRIDFS_UTIL_RUN_H

#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"

struct run {
	uint64_t start_blk;
	uint64_t len_blk; // > 0 in every list
};

// Zero-initialised is empty. Owned by whoever declared it; not thread-safe.
struct runlist {
	struct run *runs;
	uint32_t n, cap;
};

int runlist_reserve(struct runlist *list, uint32_t n) ATTR_MUST_USE; // n more calls of runlist_add cannot fail; or -ENOMEM

// Appends; merges with the last run when adjacent to its end. 0 or -ENOMEM.
static inline ATTR_MUST_USE int runlist_add(struct runlist *list, uint64_t start_blk, uint64_t len_blk)
{
	struct run *last = list->n > 0 ? &list->runs[list->n - 1] : NULL;
	int err;

	if (last != NULL && last->start_blk + last->len_blk == start_blk) {
		last->len_blk += len_blk;
		return 0;
	}
	err = list->n < list->cap ? 0 : runlist_reserve(list, 1);
	if (err == 0)
		list->runs[list->n++] = (struct run){ start_blk, len_blk };
	return err;
}

void runlist_sort(struct runlist *list); // by start; adjacent runs are merged
uint64_t runlist_blks(const struct runlist *list);
void runlist_clear(struct runlist *list); // keeps the memory
void runlist_free(struct runlist *list);

#endif
