// SPDX-License-Identifier: MIT
// Inside the hybrid engine: the two lower tiers and the index between them. doc/ALLOCATOR.md has the drawing.
//
//      buddy.c   runs: split, merge, and which one serves a request; the engine's functions
//      slab.c    spans of 1 MiB: what is free in each, in 4 bytes where that is enough, else in 256 bits
//      bins.c    the size index: where runs of each length start
//
// (The top tier, the pool, lies above the engines: pool.c.)
//
// Spans are the truth; the index is a hint that is held against them when it is used:
//
// H1  Every free run has an entry in the bin of its length, or it is shorter than a span and the index is lossy.
// H2  An entry may be stale: its run has been taken, cut or merged since. Whoever meets it drops it.
// H3  The index has at most max_entries entries, and at most 4 × runs + spans / 4 + BINS_SLACK after each change, but for
//     those that fill up the newest chunk of each bin: they cost no memory.
//
// So a change of a run writes one entry and touches no other: that is what makes freeing cost one look at the neighbours'
// spans. The price, popping stale entries, is paid at most once for each entry pushed.
//
// Lock and units as in engine.h.
#ifndef HYBRIDFS_ALLOC_HYBRID_H
#define HYBRIDFS_ALLOC_HYBRID_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/bits.h"
#include "alloc/engine.h"
#include "alloc/slab.h"


// ---- bins.c ----

#define BIN_EXACT_MAX EXTENT_MAX_BLK               // lengths up to here have a bin each; above, 8 for each power of two
#define N_BINS (BIN_EXACT_MAX + 1 + 22 * 8)        // up to 2^32
#define N_BIN_WORDS ((N_BINS + 63) / 64)
#define BINS_SLACK 4096u
#define CHUNK_ENTRIES 14u

struct bin_chunk {
	uint32_t next; // chunk below, or NIL
	uint32_t n;
	uint32_t starts[CHUNK_ENTRIES];
};

struct bins {
	// Bins that have entries, and bins whose last one was popped and that nobody has found empty yet: what find returned
	// may still come back (settle). Read without the lock too.
	_Atomic uint64_t filled[N_BIN_WORDS];
	_Atomic uint32_t filled_up;           // words of it that are not zero
	uint32_t head[N_BINS];                // chunk with the newest entries, or NIL
	struct bin_chunk *chunks;             // private pages, touched as they are needed
	uint32_t max_chunks;                  // enough for max_entries, however they are spread
	_Atomic uint32_t n_chunks;            // ever used
	uint32_t free_chunk;                  // list of free ones, or NIL
	uint32_t n_entries, max_entries;
};

static inline uint32_t bin_of(uint32_t len)
{
	uint32_t exp;

	if (len <= BIN_EXACT_MAX)
		return len;
	exp = 31 - (uint32_t)__builtin_clz(len);
	return BIN_EXACT_MAX + 1 + (exp - 10) * 8 + (len >> (exp - 3) & 7);
}

uint32_t bin_floor(uint32_t bin); // the smallest length in it

int bins_init(struct bins *b, uint32_t n_blk) ATTR_MUST_USE; // -ENOMEM
void bins_free(struct bins *b);
size_t bins_bytes(const struct bins *b);
void bins_clear(struct bins *b);
void bins_push(struct bins *b, uint32_t bin, uint32_t start); // n_entries < max_entries

// The same if it is next to no work: false when the top chunk is full or there is none.
static inline bool bins_push_quick(struct bins *b, uint32_t bin, uint32_t start)
{
	struct bin_chunk *top;

	if (b->head[bin] == NIL)
		return false;
	top = &b->chunks[b->head[bin]];
	if (top->n == CHUNK_ENTRIES)
		return false;
	top->starts[top->n++] = start;
	b->n_entries++;
	return true;
}

void bins_drop_chunk(struct bins *b, uint32_t bin); // the top one, which is empty
void bins_unmark(struct bins *b, uint32_t bin);     // the bin is empty

// The newest entry, and the one below it to prefetch what it stands for (or NIL). False: the bin is empty.
static inline bool bins_pop(struct bins *b, uint32_t bin, uint32_t *start, uint32_t *next)
{
	struct bin_chunk *top;

	if (b->head[bin] == NIL) {
		bins_unmark(b, bin);
		return false;
	}
	top = &b->chunks[b->head[bin]];
	*start = top->starts[--top->n];
	b->n_entries--;
	*next = NIL;
	if (top->n == 0)
		bins_drop_chunk(b, bin);
	else
		*next = top->starts[top->n - 1];
	return true;
}

uint32_t bins_next(const struct bins *b, uint32_t from);      // first filled bin >= from, or NIL. Without the lock.
uint32_t bins_prev(const struct bins *b, uint32_t from);      // last filled bin <= from, or NIL. Without the lock.
// Calls fn for each entry of a bin until it returns true.
typedef bool (*bins_fn)(void *ctx, uint32_t start);
bool bins_search(const struct bins *b, uint32_t bin, bins_fn fn, void *ctx);

#endif
