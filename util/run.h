// SPDX-License-Identifier: MIT
// A run of blocks [start, start + len), and a growable list of runs.
#ifndef HYBRIDFS_UTIL_RUN_H
#define HYBRIDFS_UTIL_RUN_H

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

// Appends; merges with the last run when adjacent to its end. 0 or -ENOMEM.
int runlist_add(struct runlist *list, uint64_t start_blk, uint64_t len_blk) ATTR_MUST_USE;
int runlist_reserve(struct runlist *list, uint32_t n) ATTR_MUST_USE; // n more calls of runlist_add cannot fail; or -ENOMEM
void runlist_sort(struct runlist *list); // by start; adjacent runs are merged
uint64_t runlist_blks(const struct runlist *list);
void runlist_clear(struct runlist *list); // keeps the memory
void runlist_free(struct runlist *list);

#endif
