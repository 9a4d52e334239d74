// SPDX-License-Identifier: MIT
// What the engines over ordered ranges have in common: the free map as two trees, and every engine function but
// find(). ZFS's metaslab and Ceph's AvlAllocator are built like this. df, cf, ndf and avl embed struct engine_tree
// as their first member and add a policy.
//
// Owner, lock, units, errors: engine.h.
//
// Invariants (engine_tree_check; E1–E3 are the contract's):
// R1  Each free run stands once in by_start, as (start, len), and once in by_len, as (len, start); nothing else does.
// R2  free_blk = the sum of the lengths. longest = the length of the last run in by_len.
#ifndef HYBRIDFS_ALLOC_ENGINE_TREE_H
#define HYBRIDFS_ALLOC_ENGINE_TREE_H

#include "alloc/engine.h"
#include "alloc/range_tree.h"

#define ENGINE_TREE_CURSORS 32 // of engines that keep one cursor per power of two

struct engine_tree {
	struct engine engine; // first: an engine is cast to what embeds it
	struct engine_config cfg;
	struct range_pool pool; // the nodes of both trees
	struct range_tree by_start, by_len;
	uint64_t open_blk, free_blk; // of the open parts
	_Atomic uint32_t longest;    // written under the lock, read without
	size_t own_bytes;            // of the struct that embeds this one
};

static inline struct engine_tree *engine_tree(struct engine *e) { return (struct engine_tree *)(void *)e; }

static inline struct mrun run_by_start(uint64_t key) { return (struct mrun){ range_major(key), range_minor(key) }; }
static inline struct mrun run_by_len(uint64_t key) { return (struct mrun){ range_minor(key), range_major(key) }; }

// Allocates and initialises an engine of `size` bytes, the rest of them zero.
int engine_tree_create(const struct engine_ops *ops, size_t size, const struct engine_config *cfg,
		       struct engine **out) ATTR_MUST_USE;

// ---- For policies

// The shortest run of at least len blocks, the first of these by address; len 0: there is none.
struct mrun engine_tree_best_fit(struct engine_tree *t, uint32_t len);
// How full it may be and how short its runs before ZFS and Ceph turn from first fit to best fit: 4% free, 128 KiB.
bool engine_tree_is_tight(const struct engine_tree *t);

// The first run that ends behind `from`, and those that follow it; len 0: no more.
struct mrun engine_tree_walk(struct engine_tree *t, uint32_t from, struct range_iter *it);
static inline struct mrun engine_tree_walk_on(struct engine_tree *t, struct range_iter *it)
{
	return run_by_start(range_tree_next(&t->by_start, it));
}

// ---- The functions of engine_ops

void engine_tree_destroy(struct engine *e);
int engine_tree_open(struct engine *e, uint32_t start, uint32_t len, const uint64_t *free_bits);
void engine_tree_close(struct engine *e, uint32_t start, uint32_t len);
int engine_tree_reserve(struct engine *e, uint32_t n);
void engine_tree_give(struct engine *e, uint32_t start, uint32_t len);
void engine_tree_take(struct engine *e, struct mrun run, uint32_t start, uint32_t len);
bool engine_tree_any_free(const struct engine *e, uint32_t start, uint32_t len);
struct mrun engine_tree_run_at(struct engine *e, uint32_t blk);
struct mrun engine_tree_next_run(struct engine *e, uint32_t from);
struct mrun engine_tree_longest(struct engine *e);
bool engine_tree_may_have(const struct engine *e, uint32_t len, enum engine_fit fit);
uint32_t engine_tree_longest_hint(const struct engine *e);
size_t engine_tree_bytes(const struct engine *e);
int engine_tree_check(struct engine *e, struct errmsg *why);

// All of them, for the initialiser of an engine; and with three of the engine's own.
#define ENGINE_TREE_OPS ENGINE_TREE_OPS_WITH(engine_tree_close, engine_tree_take, engine_tree_check)
#define ENGINE_TREE_OPS_WITH(own_close, own_take, own_check) \
	.destroy = engine_tree_destroy, .open = engine_tree_open, .close = own_close, .reserve = engine_tree_reserve, \
	.give = engine_tree_give, .take = own_take, .any_free = engine_tree_any_free, .run_at = engine_tree_run_at, \
	.next_run = engine_tree_next_run, .longest = engine_tree_longest, .may_have = engine_tree_may_have, \
	.longest_hint = engine_tree_longest_hint, .bytes = engine_tree_bytes, .check = own_check

#endif
