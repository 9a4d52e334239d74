// SPDX-License-Identifier: MIT
// Unfinished work that a crash must not lose: inodes without a name that are still open, and long truncates.
//
// A row in table orphan means: "if nobody uses this inode, finish it": with nlink == 0 it is deleted with all that belongs to it,
// otherwise its extents beyond its size are freed. Both go in pieces, each a transaction handle of its own, so that a file of a
// million extents stalls nobody. Every piece leaves a valid volume; after a crash the mount finds the row and goes on.
#ifndef HYBRIDFS_META_ORPHAN_H
#define HYBRIDFS_META_ORPHAN_H

#include <stdint.h>

#include "util/attr.h"

struct volume;

#define ORPHAN_PIECE_ROWS 512 // extents freed per handle, at most

// Store lock held, handle joined.
int orphan_add(struct volume *vol, uint64_t ino) ATTR_MUST_USE; // 0 also when it is there
int orphan_remove(struct volume *vol, uint64_t ino) ATTR_MUST_USE;

// Finishes one orphan as described; takes handles and the store lock itself. The caller holds the inode's lock or knows that nobody
// else has the inode. An inode without an orphan row: 0.
int orphan_finish(struct volume *vol, uint64_t ino) ATTR_MUST_USE;

// Orphans with a number greater than `after`, at most max, in order; store lock held.
int orphan_list(struct volume *vol, uint64_t after, uint64_t *inos, unsigned max, unsigned *n) ATTR_MUST_USE;

#endif
