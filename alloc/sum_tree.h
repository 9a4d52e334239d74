// SPDX-License-Identifier: MIT
// A map of free blocks, one bit each, under a tree of summaries: how many blocks are free at the start of a node, how
// many at its end, and how long its longest run is. With these three a run is found across the borders of nodes as well as
// inside them, without looking at the bits of any chunk but the one where it starts. This is the tree of Go's page
// allocator (runtime/mpagealloc.go), with its sizes: 512 blocks to a chunk, eight children to a node.
//
//      level 2            [        8 × 8 chunks        ] …
//      level 1            [ 8 chunks ] [ 8 chunks ] …
//      level 0, chunks    [512] [512] …
//      bits               8 words each
//
// Units: blocks, from the map's start. Ranges are (start, len). At most 2^31 blocks.
// Owner: who made it, under its lock. Errors: only sum_tree_new can fail.
//
// Invariants (checked by sum_tree_check):
// S1  A node's summary is that of the bits below it. Blocks from n_blk on are used.
#ifndef HYBRIDFS_ALLOC_SUM_TREE_H
#define HYBRIDFS_ALLOC_SUM_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"
#include "util/errmsg.h"

#define SUM_LEVELS 9u

struct sum {
	uint32_t start, longest, end;
};

struct sum_tree {
	uint32_t n_blk;
	uint32_t n_levels;
	size_t bytes;                  // all that is here
	uint64_t *bits;                // whole chunks; a 1 is a free block
	struct sum *level[SUM_LEVELS]; // the top one has one node, the others whole groups of eight
};

struct sum_tree *sum_tree_new(uint32_t n_blk, const uint64_t *bits); // bits beyond n_blk are 0; NULL = no memory
void sum_tree_destroy(struct sum_tree *t);                            // NULL is allowed

// Each operation below looks at no more than the bits that it changes, two chunks, and eight summaries per level.
void sum_tree_give(struct sum_tree *t, uint32_t start, uint32_t len);
void sum_tree_take(struct sum_tree *t, uint32_t start, uint32_t len);

uint32_t sum_tree_longest(const struct sum_tree *t);
uint32_t sum_tree_next_free(const struct sum_tree *t, uint32_t from); // the first free block >= from, or NIL
// First fit: the start of the first run of at least len blocks. There must be one (see sum_tree_longest), and all blocks
// before `from` must be used.
uint32_t sum_tree_fit(const struct sum_tree *t, uint32_t from, uint32_t len);
// The same inside the word of block `blk`: runs are cut at its borders. NIL = none.
uint32_t sum_tree_fit_word(const struct sum_tree *t, uint32_t blk, uint32_t len);
// The ends of the run around a free block.
uint32_t sum_tree_run_start(const struct sum_tree *t, uint32_t blk);
uint32_t sum_tree_run_end(const struct sum_tree *t, uint32_t blk);

int sum_tree_check(const struct sum_tree *t, struct errmsg *why); // 0 or -EUCLEAN

#endif
