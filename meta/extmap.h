// SPDX-License-Identifier: MIT
// Extent maps: which blocks of the volume hold which blocks of a file.
//
// E1  Extents of an inode do not overlap; each has len > 0; adjacent ones that could be one (file and device contiguous, same state)
//     are one.
// E2  A block of the volume belongs to at most one extent, and then the space map says used.
// E3  An unwritten extent (preallocated) reads as zeros; its blocks' content is undefined.
//
// Lock: the store's lock is held, and for changes a transaction handle is joined and the inode is locked by the caller.
// The caller keeps inode_row.blocks_blk: every change says by how much.
#ifndef HYBRIDFS_META_EXTMAP_H
#define HYBRIDFS_META_EXTMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "util/attr.h"

struct volume;

struct extent {
	uint64_t off_blk;  // in the file
	uint64_t phys_blk; // on the volume
	uint64_t len_blk;
	bool unwritten;
};

// The extent that holds off_blk, or the first one after it. -ENOENT.
int extmap_next(struct volume *vol, uint64_t ino, uint64_t off_blk, struct extent *out) ATTR_MUST_USE;

// The last extent that begins before off_blk. -ENOENT.
int extmap_before(struct volume *vol, uint64_t ino, uint64_t off_blk, struct extent *out) ATTR_MUST_USE;

// The extents that intersect [off, off + len), in order, clipped to it; at most `max`, *n says how many. When *n == max there may be more.
int extmap_query(struct volume *vol, uint64_t ino, uint64_t off_blk, uint64_t len_blk, struct extent *out, unsigned max,
                 unsigned *n) ATTR_MUST_USE;

// Unmaps [off, off + len): cuts and deletes extents, frees their blocks (allocatable when the transaction is durable). Deletes at most
// `max_rows` rows and 4 GiB of written blocks (0 = all), from the end of the range backwards; *more says that some are left. *removed_blk:
// blocks freed.
int extmap_remove(struct volume *vol, uint64_t ino, uint64_t off_blk, uint64_t len_blk, unsigned max_rows, bool *more,
                  uint64_t *removed_blk) ATTR_MUST_USE;

// Maps blocks that the caller has TAKEN from the allocator to a hole of the file: they become OWNED. Merges with both neighbours.
int extmap_insert(struct volume *vol, uint64_t ino, const struct extent *ext) ATTR_MUST_USE;

// Turns the unwritten extents inside [off, off + len) into written ones, or written into unwritten.
int extmap_set_unwritten(struct volume *vol, uint64_t ino, uint64_t off_blk, uint64_t len_blk, bool unwritten) ATTR_MUST_USE;

#endif
