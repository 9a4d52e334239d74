// SPDX-License-Identifier: MIT
// An ordered set of ranges: a B+-tree of 64-bit keys, each a whole range packed as (major, minor). One set ordered by
// (start, length) and one by (length, start) are the free map of the tree engines (engine_tree.h).
//
// Owner: a pool owns the nodes; the trees that share it borrow them. Nodes are numbered from 1, so that the pool can
// move; 0 = none.
// Lock: the caller's; looking something up moves the finger (below), so that is not for two threads at once either.
// Units: keys are opaque here but for 0 and RANGE_KEY_MAX, which are never in a set.
// Errors: only range_pool_reserve can fail. After range_pool_reserve(pool, range_tree_need(t, n)) n inserts cannot.
//
// Invariants (range_tree_check):
// T1  The keys ascend through the leaves, which are linked both ways; all leaves have the same depth.
// T2  A child holds only keys in [its separator, the next one's). An inner node's first separator is its own.
// T3  Every node but the root is at least a quarter full; a root that is not a leaf has two children.
// T4  n_keys and n_nodes are what counting gives.
#ifndef HYBRIDFS_ALLOC_RANGE_TREE_H
#define HYBRIDFS_ALLOC_RANGE_TREE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"
#include "util/errmsg.h"

#define RANGE_KEY_MAX UINT64_MAX
#define RANGE_MAX_HEIGHT 12 // T3: 15 keys in a leaf and 10 children at least, so 10 levels hold 2^32 keys

static inline uint64_t range_key(uint32_t major, uint32_t minor) { return (uint64_t)major << 32 | minor; }
static inline uint32_t range_major(uint64_t key) { return (uint32_t)(key >> 32); }
static inline uint32_t range_minor(uint64_t key) { return (uint32_t)key; }

struct range_node;

struct range_pool {
	struct range_node *node;  // [0] is not used
	uint32_t n_nodes;         // places in node[]
	uint32_t n_touched;       // places that were ever in use, [0] included
	uint32_t n_free, free_id; // given back; linked through `next`
	atomic_size_t bytes;      // readable without the lock
};

// The finger: the path to the place that was looked up last, and the keys that belong into that leaf. What is looked
// up next is near it more often than not: one binary search instead of one per level.
struct range_finger {
	bool valid;
	uint64_t from, to; // half-open
	struct {
		uint32_t node, idx;
	} path[RANGE_MAX_HEIGHT]; // from the leaf up
};

struct range_tree {
	struct range_pool *pool;
	uint64_t sep_mask; // of separators; must keep neighbours apart. Fewer bits: fewer changed keys change leaf
	uint64_t n_keys;
	uint32_t n_nodes;
	uint32_t height; // 0 = empty
	uint32_t root, last; // last: leaf
	struct range_finger finger;
};

// A place among the keys. Lost with the next change of the tree.
struct range_iter {
	uint32_t node, idx;
};

void range_pool_init(struct range_pool *pool);
void range_pool_free(struct range_pool *pool);
int range_pool_reserve(struct range_pool *pool, uint64_t n) ATTR_MUST_USE; // -ENOMEM

void range_tree_init(struct range_tree *t, struct range_pool *pool, uint64_t sep_mask);
// Nodes that n inserts take at most, whatever is erased between them.
uint64_t range_tree_need(const struct range_tree *t, uint64_t n);

// The key must not be there / must be there.
void range_tree_insert(struct range_tree *t, uint64_t key);
void range_tree_erase(struct range_tree *t, uint64_t key);
void range_tree_replace(struct range_tree *t, uint64_t old, uint64_t key); // may take a node, like one insert

// The largest key below `key` and the smallest that is not; 0 = none.
void range_tree_around(struct range_tree *t, uint64_t key, uint64_t *below, uint64_t *above);
uint64_t range_tree_last(const struct range_tree *t);
// The smallest key that is not below `key`, and the ones behind it, in constant time each; 0 = no more.
uint64_t range_tree_from(struct range_tree *t, uint64_t key, struct range_iter *it);
uint64_t range_tree_next(const struct range_tree *t, struct range_iter *it);

int range_tree_check(struct range_tree *t, struct errmsg *why); // 0 or -EUCLEAN

#endif
