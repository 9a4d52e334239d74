// SPDX-License-Identifier: MIT
#include "fsck/blockmap.h"

#include <errno.h>
#include <stdlib.h>

#include "util/blk.h"

int blockmap_init(struct blockmap *map, uint64_t n_blks, unsigned ms_shift)
{
	*map = (struct blockmap){ .ms_shift = ms_shift, .n_blks = n_blks };
	map->n_ms = (uint32_t)((n_blks + (1ull << ms_shift) - 1) >> ms_shift);
	map->words = calloc(map->n_ms, sizeof(map->words[0]));
	return map->words != NULL ? 0 : -ENOMEM;
}

void blockmap_free(struct blockmap *map)
{
	for (uint32_t ms = 0; map->words != NULL && ms < map->n_ms; ms++)
		free(map->words[ms]);
	free(map->words);
	*map = (struct blockmap){ 0 };
}

uint64_t blockmap_ms_blks(const struct blockmap *map, uint32_t ms)
{
	return min_u64(1ull << map->ms_shift, map->n_blks - ((uint64_t)ms << map->ms_shift));
}

// Walks the words of a run: `from` moves to the next word; the answer is the word's number in its metaslab, and its bits.
static uint64_t next_word(const struct blockmap *map, uint64_t *from, uint64_t end, uint64_t *mask)
{
	uint64_t rel = *from & ((1ull << map->ms_shift) - 1);
	uint64_t n = min_u64(64 - rel % 64, end - *from);

	*mask = (n == 64 ? ~0ull : (1ull << n) - 1) << rel % 64;
	*from += n;
	return rel / 64;
}

// The first block of [start, end) that is claimed, or that is not; `end` if there is none.
static uint64_t find(const struct blockmap *map, bool claimed, uint64_t start, uint64_t end)
{
	for (uint64_t from = start; from < end;) {
		const uint64_t *words = map->words[from >> map->ms_shift];
		uint64_t base = from & ~63ull, mask, w = next_word(map, &from, end, &mask), bits = words != NULL ? words[w] : 0;

		bits = (claimed ? bits : ~bits) & mask;
		if (bits != 0)
			return base + (uint64_t)__builtin_ctzll(bits);
	}
	return end;
}

int blockmap_mark(struct blockmap *map, uint64_t start_blk, uint64_t len_blk)
{
	uint64_t end = start_blk + len_blk;

	for (uint64_t from = start_blk; from < end;) {
		uint64_t **words = &map->words[from >> map->ms_shift], mask, w;

		if (*words == NULL)
			*words = calloc((1ull << map->ms_shift) / 64, sizeof(**words));
		if (*words == NULL)
			return -ENOMEM;
		w = next_word(map, &from, end, &mask);
		map->claimed_blk += (uint64_t)__builtin_popcountll(mask & ~(*words)[w]);
		(*words)[w] |= mask;
	}
	return 0;
}

int blockmap_claim(struct blockmap *map, uint64_t start_blk, uint64_t len_blk, uint64_t *taken_blk)
{
	*taken_blk = find(map, true, start_blk, start_blk + len_blk);
	if (*taken_blk < start_blk + len_blk)
		return -EEXIST;
	return blockmap_mark(map, start_blk, len_blk);
}

bool blockmap_next(const struct blockmap *map, bool claimed, uint64_t end_blk, uint64_t *start_blk, uint64_t *len_blk)
{
	*start_blk = find(map, claimed, *start_blk, end_blk);
	*len_blk = find(map, !claimed, *start_blk, end_blk) - *start_blk;
	return *start_blk < end_blk;
}

uint64_t blockmap_word(const struct blockmap *map, uint64_t blk)
{
	const uint64_t *words = map->words[blk >> map->ms_shift];

	return words != NULL ? words[(blk & ((1ull << map->ms_shift) - 1)) / 64] : 0;
}
