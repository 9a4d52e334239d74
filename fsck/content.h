// SPDX-License-Identifier: MIT
// The content of one inode: its inline data, extents and extended attributes, as the merge of phase 3 comes past them.
#ifndef HYBRIDFS_FSCK_CONTENT_H
#define HYBRIDFS_FSCK_CONTENT_H

#include "fsck/sql.h"

enum satellite { SAT_INLINE, SAT_EXTENT, SAT_XATTR, SAT_ORPHAN, SAT_N };

struct merge {
	struct cursor inode;
	struct cursor sat[SAT_N];
};

struct raw_inode { // the columns as they stand, whatever they are; changed by repairs
	int64_t ino, parent, mode, nlink, uid, gid, rdev, flags, size, blocks;
	bool orphan;
};

// Checks all rows of row->ino and leaves the cursors behind them. *removed: the inode has gone.
int content_check(struct fsck *f, struct merge *m, struct raw_inode *row, bool *removed) ATTR_MUST_USE;

// ---- phase_inodes.c ----
int merge_skip(struct fsck *f, struct cursor *c, int64_t ino) ATTR_MUST_USE; // past the rows of ino
int merge_remove_inode(struct fsck *f, struct merge *m, uint64_t ino) ATTR_MUST_USE; // and all that belongs to it

#endif
