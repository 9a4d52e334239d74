// SPDX-License-Identifier: MIT
// The size index: for each length a stack of places where a run of that length started when the entry was pushed.
//
// Every length that a request for one extent can have (up to 1024 blocks, 4 MiB) has a bin of its own, so the best fit for
// it is the next bin that is not empty: two words. A stack is a chain of chunks of one cache line; pushing and popping touch the
// top one only. Entries are never removed from the middle: see H2 in hybrid.h.
//
// Memory: chunks come from pages that are reserved at the start and touched as needed, at most 4 bytes for each 64 blocks of
// the arena (16 MiB for a TiB) and BINS_SLACK more. buddy.c sees to it that there are no more entries than that.
#include "alloc/hybrid.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "util/blk.h"

uint32_t bin_floor(uint32_t bin)
{
	uint32_t exp;

	if (bin <= BIN_EXACT_MAX)
		return bin;
	bin -= BIN_EXACT_MAX + 1;
	exp = bin / 8 + 10;
	return max_u32(1u << exp | (bin % 8) << (exp - 3), BIN_EXACT_MAX + 1);
}

int bins_init(struct bins *b, uint32_t n_blk)
{
	b->max_entries = n_blk / 64 + BINS_SLACK;
	b->max_chunks = b->max_entries / CHUNK_ENTRIES + N_BINS; // only the top chunk of a stack is not full
	b->chunks = mmap(NULL, (size_t)b->max_chunks * sizeof(struct bin_chunk), PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (b->chunks == MAP_FAILED) {
		b->chunks = NULL;
		return -ENOMEM;
	}
	atomic_init(&b->n_chunks, 0);
	bins_clear(b);
	return 0;
}

void bins_free(struct bins *b)
{
	if (b->chunks != NULL)
		munmap(b->chunks, (size_t)b->max_chunks * sizeof(struct bin_chunk));
	b->chunks = NULL;
}

size_t bins_bytes(const struct bins *b)
{
	return (size_t)atomic_load_explicit(&b->n_chunks, memory_order_relaxed) * sizeof(struct bin_chunk);
}

void bins_clear(struct bins *b)
{
	for (uint32_t w = 0; w < N_BIN_WORDS; w++)
		atomic_store_explicit(&b->filled[w], 0, memory_order_relaxed);
	atomic_store_explicit(&b->filled_up, 0, memory_order_relaxed);
	memset(b->head, 0xff, sizeof(b->head));
	madvise(b->chunks, bins_bytes(b), MADV_DONTNEED);
	atomic_store_explicit(&b->n_chunks, 0, memory_order_relaxed);
	b->free_chunk = NIL;
	b->n_entries = 0;
}

static_assert(N_BIN_WORDS <= 32, "a bit of filled_up for each word");

static uint32_t get_chunk(struct bins *b)
{
	uint32_t c = b->free_chunk;

	if (c != NIL) {
		b->free_chunk = b->chunks[c].next;
		return c;
	}
	c = atomic_load_explicit(&b->n_chunks, memory_order_relaxed);
	ASSERT(c < b->max_chunks);
	atomic_store_explicit(&b->n_chunks, c + 1, memory_order_relaxed);
	return c;
}

void bins_push_chunk(struct bins *b, uint32_t bin, uint32_t start)
{
	uint32_t c;

	ASSERT(b->n_entries < b->max_entries);
	c = get_chunk(b);
	b->chunks[c] = (struct bin_chunk){ .next = b->head[bin], .n = 1, .starts = { start } };
	b->head[bin] = c;
	b->n_entries++;
	bins_mark(b, bin);
}

void bins_drop_chunk(struct bins *b, uint32_t bin)
{
	uint32_t top = b->head[bin];

	b->head[bin] = b->chunks[top].next;
	b->chunks[top].next = b->free_chunk;
	b->free_chunk = top;
}

uint32_t bins_prev(const struct bins *b, uint32_t from)
{
	uint32_t w = from / 64, up;
	uint64_t word = atomic_load_explicit(&b->filled[w], memory_order_relaxed) & ~0ull >> (63 - from % 64);

	while (word == 0) {
		up = atomic_load_explicit(&b->filled_up, memory_order_relaxed) & ((1u << w) - 1);
		if (up == 0)
			return NIL;
		w = 31 - (uint32_t)__builtin_clz(up);
		word = atomic_load_explicit(&b->filled[w], memory_order_relaxed);
	}
	return w * 64 + 63 - (uint32_t)__builtin_clzll(word);
}

bool bins_search(const struct bins *b, uint32_t bin, bins_fn fn, void *ctx)
{
	for (uint32_t c = b->head[bin]; c != NIL; c = b->chunks[c].next)
		for (uint32_t i = b->chunks[c].n; i-- > 0;)
			if (fn(ctx, b->chunks[c].starts[i]))
				return true;
	return false;
}
