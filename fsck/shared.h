// SPDX-License-Identifier: MIT
// Blocks that extents of two files claim (E2 of extmap.h): the file with the lower inode number keeps them, the other one gets a copy. Phase 3
// makes the list, phase 5 works on it, when it is known what is free.
#ifndef HYBRIDFS_FSCK_SHARED_H
#define HYBRIDFS_FSCK_SHARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"

struct fsck;

struct shared_run { // a piece of an extent
	uint64_t ino, off_blk; // of the file that gets the copy
	uint64_t phys_blk, len_blk;
	bool unwritten, summed;
};

struct shared_list { // zero-initialised is empty
	struct shared_run *v;
	size_t n, cap;
};

int shared_add(struct shared_list *list, const struct shared_run *item) ATTR_MUST_USE; // 0 or -ENOMEM
void shared_free(struct shared_list *list);

// Copies all that is on the list. Where space does not last, the range becomes a hole, which is said.
int shared_resolve(struct fsck *f) ATTR_MUST_USE;

#endif
