// SPDX-License-Identifier: MIT
// Damaged content of files: a list of ranges, and the report that names the files, with all their names.
//
// Damaged content is nobody's to repair: reading it goes on to give an I/O error. The files are named by one walk through all entries for
// all of them.
//
// Memory: 24 bytes for each range up to a million; what comes beyond that is counted, and not named. Single-threaded.
#ifndef HYBRIDFS_FSCK_DAMAGE_H
#define HYBRIDFS_FSCK_DAMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"

struct fsck;

struct damage { // a range of a file
	uint64_t ino, off_blk, len_blk;
};

struct damage_list { // zero-initialised is empty
	struct damage *v;
	size_t n, cap;
	uint64_t n_blk;
};

// A range that carries on the one before it becomes part of it. 0 or -ENOMEM.
int damage_add(struct damage_list *list, uint64_t ino, uint64_t off_blk, uint64_t len_blk) ATTR_MUST_USE;
void damage_free(struct damage_list *list);

// Says what is damaged, a problem for each file, and what was read. A file that a mounted volume has lost meanwhile is left out. Store lock held.
int damage_report(struct fsck *f, struct damage_list *list, uint64_t read_blk, uint64_t skipped_files) ATTR_MUST_USE;

#endif
