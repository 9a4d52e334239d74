// SPDX-License-Identifier: MIT
// Ordered sets of free runs: treaps whose nodes also know the longest run below them.
//
// The runs live in a pool and are named by their index. Each has two pairs of links, so that it can be in two sets at the
// same time without any memory of its own for that: one of all runs, and one of those of its size.
//
// Units: blocks. Ranges are (start, len). Runs in one set never overlap.
// Owner: the engine that embeds pool and sets, under its lock. Errors: only interval_reserve can fail, -ENOMEM.
//
// Invariants (checked by iset_check):
// V1  In a set, runs are in the order of their starts, and each has a higher priority than those below it.
// V2  link[].longest is the greatest length in the run's subtree.
#ifndef HYBRIDFS_ALLOC_INTERVAL_SET_H
#define HYBRIDFS_ALLOC_INTERVAL_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"

enum iset_links { ISET_ALL, ISET_SIZE, N_ISET_LINKS }; // which links a set uses

struct interval {
	uint32_t start, len;
	struct {
		uint32_t left, right; // indexes, or NIL
		uint32_t longest;
	} link[N_ISET_LINKS];
};

// Zero-initialised is empty.
struct interval_pool {
	struct interval *at;
	uint32_t cap;
	uint32_t n_touched; // those from here on were never used
	uint32_t n_used;    // in a set, or about to be
	uint32_t n_recycled;
	uint32_t recycled;  // list through link[0].left of those not used, if n_recycled > 0
};

int interval_reserve(struct interval_pool *pool, uint32_t n) ATTR_MUST_USE; // the next n interval_new() have room
uint32_t interval_new(struct interval_pool *pool, uint32_t start, uint32_t len);
void interval_recycle(struct interval_pool *pool, uint32_t i);
void interval_recycle_tree(struct interval_pool *pool, enum iset_links by, uint32_t root); // what iset_cut returned
size_t interval_bytes(const struct interval_pool *pool);
void interval_free(struct interval_pool *pool); // everything; empty again

// A set of n runs: expected depth about 2 ln n (Seidel and Aragon, Randomized Search Trees, 1996), and that bounds each
// operation below, except check.
struct iset {
	uint32_t root;
	enum iset_links by;
};

static inline uint32_t interval_end(const struct interval *v) { return v->start + v->len; }

void iset_init(struct iset *set, enum iset_links by);
void iset_insert(struct interval_pool *pool, struct iset *set, uint32_t i);
void iset_remove(struct interval_pool *pool, struct iset *set, uint32_t i);
// Run i has got another start or length, without passing a neighbour.
void iset_resized(struct interval_pool *pool, struct iset *set, uint32_t i);
uint32_t iset_longest(const struct interval_pool *pool, const struct iset *set); // a length; 0 = the set is empty
// The first run by address that ends behind `from` and has at least len blocks, or NIL.
uint32_t iset_first(const struct interval_pool *pool, const struct iset *set, uint32_t from, uint32_t len);
// Takes out all runs that start in [start, end). They stay linked as a tree: its root, or NIL.
uint32_t iset_cut(struct interval_pool *pool, struct iset *set, uint32_t start, uint32_t end);
// Whether V1 and V2 hold and all runs lie below n_blk; counts them.
bool iset_check(const struct interval_pool *pool, const struct iset *set, uint32_t n_blk, uint32_t *n_runs);

#endif
