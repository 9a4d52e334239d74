// SPDX-License-Identifier: MIT
// Free space for repairs, by the extents and not by the space map: an allocator whose source is a block map (blockmap.h).
//
// Whoever gets blocks from it claims them in the map before they are committed to the allocator, so that a metaslab that is dropped and
// loaded again is the same. Blocks that a repair takes away from a file are never handed out: the map only grows.
//
// Lock: `lock` guards the map, which the volume's background thread reads when a checkpoint makes the database grow.
#ifndef HYBRIDFS_FSCK_SPACE_H
#define HYBRIDFS_FSCK_SPACE_H

#include <pthread.h>

#include "alloc/alloc.h"
#include "fsck/blockmap.h"
#include "meta/sysfile.h"

struct space {
	pthread_mutex_t lock;
	struct blockmap *used;   // not owned
	struct sysfiles *files;  // not owned
};

// `space` outlives the allocator.
int space_create(struct space *space, struct blockmap *used, struct sysfiles *files, struct alloc **out) ATTR_MUST_USE;

// TAKEN → OWNED, and claimed.
int space_commit(struct space *space, struct alloc *alloc, uint64_t start_blk, uint64_t len_blk) ATTR_MUST_USE;

#endif
