// SPDX-License-Identifier: MIT
// Blocks in limbo: neither free in the map nor owned by anybody. They are FREEING (freed by a transaction that is not
// durable) or held by the pool. One sparse bitmap per metaslab knows them, loaded or not, so that freeing a block twice,
// or one that was never given out, is seen at once; the runs to release are kept beside it as they came, by epoch.
//
// A chunk of the bitmap (512 bytes for 16 MiB) exists only while something in it is set.
#include "alloc/alloc_internal.h"

#include <errno.h>
#include <stdlib.h>

static void count_memory(memcount *mem, int64_t bytes)
{
	atomic_fetch_add_explicit(mem, bytes, memory_order_relaxed);
}

int limbo_prepare(struct limbo *l, uint32_t start, uint32_t len, memcount *mem)
{
	uint32_t last = (start + len - 1) / LIMBO_CHUNK_BLK;

	if (l->chunks == NULL) {
		l->chunks = calloc(l->n_chunks, sizeof(struct limbo_chunk *));
		if (l->chunks == NULL)
			return -ENOMEM;
		count_memory(mem, (int64_t)(l->n_chunks * sizeof(struct limbo_chunk *)));
	}
	for (uint32_t c = start / LIMBO_CHUNK_BLK; c <= last; c++) {
		if (l->chunks[c] != NULL)
			continue;
		l->chunks[c] = calloc(1, sizeof(struct limbo_chunk));
		if (l->chunks[c] == NULL)
			return -ENOMEM; // chunks made so far stay, empty, until something in them is cleared
		count_memory(mem, sizeof(struct limbo_chunk));
	}
	return 0;
}

// The part of [start, start + len) that lies in chunk c, relative to it.
static struct mrun part_in_chunk(uint32_t c, uint32_t start, uint32_t len)
{
	uint32_t from = max_u32(start, c * LIMBO_CHUNK_BLK);
	uint32_t to = min_u32(start + len, (c + 1) * LIMBO_CHUNK_BLK);

	return (struct mrun){ from - c * LIMBO_CHUNK_BLK, to - from };
}

void limbo_set(struct limbo *l, uint32_t start, uint32_t len)
{
	uint32_t last = (start + len - 1) / LIMBO_CHUNK_BLK;

	for (uint32_t c = start / LIMBO_CHUNK_BLK; c <= last; c++) {
		struct mrun part = part_in_chunk(c, start, len);

		bits_set(l->chunks[c]->bits, part.start, part.len);
		l->chunks[c]->n_set += part.len;
	}
}

void limbo_clear(struct limbo *l, uint32_t start, uint32_t len, memcount *mem)
{
	uint32_t last = (start + len - 1) / LIMBO_CHUNK_BLK;

	for (uint32_t c = start / LIMBO_CHUNK_BLK; c <= last; c++) {
		struct mrun part = part_in_chunk(c, start, len);

		bits_clear(l->chunks[c]->bits, part.start, part.len);
		l->chunks[c]->n_set -= part.len;
		if (l->chunks[c]->n_set == 0) {
			free(l->chunks[c]);
			l->chunks[c] = NULL;
			count_memory(mem, -(int64_t)sizeof(struct limbo_chunk));
		}
	}
}

bool limbo_search(const struct limbo *l, uint32_t start, uint32_t len)
{
	uint32_t last = (start + len - 1) / LIMBO_CHUNK_BLK;

	for (uint32_t c = start / LIMBO_CHUNK_BLK; c <= last; c++) {
		struct mrun part = part_in_chunk(c, start, len);

		if (l->chunks[c] != NULL && bits_any(l->chunks[c]->bits, part.start, part.len))
			return true;
	}
	return false;
}

void limbo_overlay(const struct limbo *l, uint64_t *free_bits)
{
	if (l->chunks == NULL)
		return;
	for (uint32_t c = 0; c < l->n_chunks; c++) {
		uint64_t *words = free_bits + (size_t)c * LIMBO_CHUNK_BLK / 64;

		// The last chunk may reach beyond the map; nothing is set there.
		for (uint32_t w = 0; l->chunks[c] != NULL && w < LIMBO_CHUNK_BLK / 64; w++)
			if (l->chunks[c]->bits[w] != 0)
				words[w] &= ~l->chunks[c]->bits[w];
	}
}

uint32_t limbo_count(const struct limbo *l)
{
	uint32_t n = 0;

	for (uint32_t c = 0; l->chunks != NULL && c < l->n_chunks; c++)
		for (uint32_t w = 0; l->chunks[c] != NULL && w < LIMBO_CHUNK_BLK / 64; w++)
			n += (uint32_t)__builtin_popcountll(l->chunks[c]->bits[w]);
	return n;
}

void limbo_free(struct limbo *l, memcount *mem)
{
	if (l->chunks == NULL)
		return;
	for (uint32_t c = 0; c < l->n_chunks; c++) {
		if (l->chunks[c] != NULL)
			count_memory(mem, -(int64_t)sizeof(struct limbo_chunk));
		free(l->chunks[c]);
	}
	free(l->chunks);
	l->chunks = NULL;
	count_memory(mem, -(int64_t)(l->n_chunks * sizeof(struct limbo_chunk *)));
}

// ---- batches: a metaslab has one for each transaction that is not durable, seldom more than two ----

struct batch *batch_prepare(struct batch **list, uint64_t epoch, memcount *mem)
{
	struct batch *b = *list;

	while (b != NULL && b->epoch != epoch)
		b = b->next;
	if (b == NULL) {
		b = calloc(1, sizeof(*b));
		if (b == NULL)
			return NULL;
		b->epoch = epoch;
		b->next = *list;
		*list = b;
		count_memory(mem, sizeof(*b));
	}
	if (b->n == b->cap) {
		uint32_t cap = b->cap == 0 ? 4 : b->cap * 2;
		struct mrun *runs = reallocarray(b->runs, cap, sizeof(*runs));

		if (runs == NULL)
			return NULL; // an empty batch may stay; it is released like any other
		count_memory(mem, (int64_t)((cap - b->cap) * sizeof(*runs)));
		b->runs = runs;
		b->cap = cap;
	}
	return b;
}

void batch_add(struct batch *b, uint32_t start, uint32_t len)
{
	struct mrun *last = b->n > 0 ? &b->runs[b->n - 1] : NULL;

	if (last != NULL && mrun_end(*last) == start) {
		last->len += len;
	} else if (last != NULL && start + len == last->start) {
		last->start = start;
		last->len += len;
	} else {
		ASSERT(b->n < b->cap);
		b->runs[b->n++] = (struct mrun){ start, len };
	}
}

void batch_free(struct batch *b, memcount *mem)
{
	count_memory(mem, -(int64_t)(sizeof(*b) + b->cap * sizeof(*b->runs)));
	free(b->runs);
	free(b);
}
