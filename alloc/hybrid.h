// SPDX-License-Identifier: MIT
// Inside the hybrid engine: the two lower tiers and the index between them. doc/ALLOCATOR.md has the drawing.
//
//      buddy.c   runs: split, merge, and which one serves a request; the engine's functions
//      slab.c    spans of 1 MiB: what is free in each, in 2 bytes where that is enough, else in 256 bits
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
	uint32_t head[N_BINS];                // chunk with the newest entries; an empty one only if it is the last; or NIL
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

// Only the holder of the lock writes these words.
static inline void bins_mark(struct bins *b, uint32_t bin)
{
	uint32_t w = bin / 64, up = atomic_load_explicit(&b->filled_up, memory_order_relaxed);
	uint64_t word = atomic_load_explicit(&b->filled[w], memory_order_relaxed);

	atomic_store_explicit(&b->filled[w], word | 1ull << (bin % 64), memory_order_relaxed);
	atomic_store_explicit(&b->filled_up, up | 1u << w, memory_order_relaxed);
}

// The bin is empty.
static inline void bins_unmark(struct bins *b, uint32_t bin)
{
	uint32_t w = bin / 64, up;
	uint64_t bit = 1ull << (bin % 64), word = atomic_load_explicit(&b->filled[w], memory_order_relaxed);

	if ((word & bit) == 0)
		return;
	atomic_store_explicit(&b->filled[w], word & ~bit, memory_order_relaxed);
	up = atomic_load_explicit(&b->filled_up, memory_order_relaxed);
	if (word == bit)
		atomic_store_explicit(&b->filled_up, up & ~(1u << w), memory_order_relaxed);
}

// n_entries < max_entries.
void bins_push_chunk(struct bins *b, uint32_t bin, uint32_t start);

// If there is room in the bin's top chunk: false otherwise.
static inline bool bins_push_quick(struct bins *b, uint32_t bin, uint32_t start)
{
	struct bin_chunk *top;

	if (b->head[bin] == NIL)
		return false;
	top = &b->chunks[b->head[bin]];
	if (top->n == CHUNK_ENTRIES)
		return false;
	if (top->n == 0)
		bins_mark(b, bin);
	top->starts[top->n++] = start;
	b->n_entries++;
	return true;
}

static inline void bins_push(struct bins *b, uint32_t bin, uint32_t start)
{
	if (!bins_push_quick(b, bin, start))
		bins_push_chunk(b, bin, start);
}

void bins_drop_chunk(struct bins *b, uint32_t bin); // the top one, which is empty

// The newest entry, and the one below it to prefetch what it stands for (or NIL). False: the bin is empty.
static inline bool bins_pop(struct bins *b, uint32_t bin, uint32_t *start, uint32_t *next)
{
	struct bin_chunk *top = b->head[bin] == NIL ? NULL : &b->chunks[b->head[bin]];

	if (top == NULL || top->n == 0) {
		bins_unmark(b, bin);
		return false;
	}
	*start = top->starts[--top->n];
	b->n_entries--;
	*next = top->n > 0 ? top->starts[top->n - 1] : NIL;
	if (top->n == 0 && top->next != NIL)
		bins_drop_chunk(b, bin);
	return true;
}

// First filled bin >= from, or NIL. Without the lock.
static inline uint32_t bins_next(const struct bins *b, uint32_t from)
{
	uint32_t w = from / 64, up;
	uint64_t word;

	if (from >= N_BINS)
		return NIL;
	word = atomic_load_explicit(&b->filled[w], memory_order_relaxed) & ~0ull << (from % 64);
	while (word == 0) {
		up = w == 31 ? 0 : atomic_load_explicit(&b->filled_up, memory_order_relaxed) & ~0u << (w + 1);
		if (up == 0)
			return NIL;
		w = (uint32_t)__builtin_ctz(up);
		word = atomic_load_explicit(&b->filled[w], memory_order_relaxed); // 0 only if somebody else was here
	}
	return w * 64 + (uint32_t)__builtin_ctzll(word);
}

uint32_t bins_prev(const struct bins *b, uint32_t from);      // last filled bin <= from, or NIL. Without the lock.
// Calls fn for each entry of a bin until it returns true.
typedef bool (*bins_fn)(void *ctx, uint32_t start);
bool bins_search(const struct bins *b, uint32_t bin, bins_fn fn, void *ctx);

#endif
