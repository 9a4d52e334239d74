// SPDX-License-Identifier: MIT
// One bit per block of the volume, for what extents of files name.
//
// A metaslab's bits are allocated when its first block is claimed: 32 MiB of memory per TiB in which files lie, nothing for
// the rest. Units: blocks. Single-threaded.
#ifndef HYBRIDFS_FSCK_BLOCKMAP_H
#define HYBRIDFS_FSCK_BLOCKMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "util/attr.h"

struct blockmap {
	uint32_t n_ms;
	unsigned ms_shift;
	uint64_t n_blks;
	uint64_t **words; // per metaslab; NULL = no block claimed
	uint64_t claimed_blk;
};

int blockmap_init(struct blockmap *map, uint64_t n_blks, unsigned ms_shift) ATTR_MUST_USE;
void blockmap_free(struct blockmap *map);

// Claims a run inside the volume. 0; -EEXIST and *taken_blk if a block of it is claimed already (then none is); -ENOMEM.
int blockmap_claim(struct blockmap *map, uint64_t start_blk, uint64_t len_blk, uint64_t *taken_blk) ATTR_MUST_USE;

// Claims a run, whatever of it is claimed already. 0 or -ENOMEM.
int blockmap_mark(struct blockmap *map, uint64_t start_blk, uint64_t len_blk) ATTR_MUST_USE;

// The next run of claimed (or unclaimed) blocks at or behind *start_blk, before end_blk; false if there is none.
bool blockmap_next(const struct blockmap *map, bool claimed, uint64_t end_blk, uint64_t *start_blk, uint64_t *len_blk);

// The bits of the 64 blocks among which blk is.
uint64_t blockmap_word(const struct blockmap *map, uint64_t blk);

// Blocks of a metaslab: the last one may be short.
uint64_t blockmap_ms_blks(const struct blockmap *map, uint32_t ms);

#endif
