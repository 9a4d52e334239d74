// SPDX-License-Identifier: MIT
// Bits: ranges in a plain bitmap, and a set with 64-way summaries, in which the next or previous member is found by going
// up until a word has one and down again, however far away it is.
#include "alloc/bits.h"

#include <errno.h>
#include <stdlib.h>

#include "util/blk.h"

// Only the first and the last word are not whole ones.
void bits_set(uint64_t *bits, uint32_t start, uint32_t len)
{
	uint32_t w = start / 64, last = (start + len - 1) / 64;

	bits[w] |= bits_mask(w, start, len);
	while (++w < last)
		bits[w] = ~0ull;
	if (w == last)
		bits[w] |= bits_mask(w, start, len);
}

void bits_clear(uint64_t *bits, uint32_t start, uint32_t len)
{
	uint32_t w = start / 64, last = (start + len - 1) / 64;

	bits[w] &= ~bits_mask(w, start, len);
	while (++w < last)
		bits[w] = 0;
	if (w == last)
		bits[w] &= ~bits_mask(w, start, len);
}

bool bits_any(const uint64_t *bits, uint32_t start, uint32_t len)
{
	uint32_t last = (start + len - 1) / 64;

	for (uint32_t w = start / 64; w <= last; w++)
		if ((bits[w] & bits_mask(w, start, len)) != 0)
			return true;
	return false;
}

uint32_t bits_next_set(const uint64_t *bits, uint32_t from, uint32_t end)
{
	while (from < end) {
		uint64_t rest = bits[from / 64] >> (from % 64);

		if (rest != 0)
			return min_u32(from + (uint32_t)__builtin_ctzll(rest), end);
		from = (from | 63) + 1;
	}
	return end;
}

uint32_t bits_next_clear(const uint64_t *bits, uint32_t from, uint32_t end)
{
	while (from < end) {
		uint64_t rest = ~bits[from / 64] >> (from % 64);

		if (rest != 0)
			return min_u32(from + (uint32_t)__builtin_ctzll(rest), end);
		from = (from | 63) + 1;
	}
	return end;
}

uint32_t bits_set_back_to(const uint64_t *bits, uint32_t from, uint32_t floor)
{
	while (from > floor) {
		uint32_t last = from - 1;
		uint64_t clear = ~bits[last / 64] << (63 - last % 64);

		if (clear != 0)
			return max_u32(from - (uint32_t)__builtin_clzll(clear), floor);
		from = last & ~63u;
	}
	return floor;
}

uint32_t bits_count(const uint64_t *bits, uint32_t n_words)
{
	uint32_t n = 0;

	for (uint32_t w = 0; w < n_words; w++)
		n += bits[w] == ~0ull ? 64 : (uint32_t)__builtin_popcountll(bits[w]); // not every processor counts by itself
	return n;
}

int bitset_init(struct bitset *set, uint32_t n)
{
	uint32_t words = n;

	*set = (struct bitset){ 0 };
	do {
		uint32_t l = set->n_levels;

		words = (words + 63) / 64;
		ASSERT(l < BITSET_LEVELS);
		set->level[l] = calloc(words, sizeof(uint64_t));
		if (set->level[l] == NULL) {
			bitset_free(set);
			return -ENOMEM;
		}
		set->n_words[l] = words;
		set->n_levels++;
	} while (words > 1);
	return 0;
}

void bitset_free(struct bitset *set)
{
	for (uint32_t l = 0; l < set->n_levels; l++)
		free(set->level[l]);
	*set = (struct bitset){ 0 };
}

size_t bitset_bytes(const struct bitset *set)
{
	size_t words = 0;

	for (uint32_t l = 0; l < set->n_levels; l++)
		words += set->n_words[l];
	return words * sizeof(uint64_t);
}

void bitset_add(struct bitset *set, uint32_t pos)
{
	for (uint32_t l = 0; l < set->n_levels; l++) {
		uint64_t *word = &set->level[l][pos / 64];
		bool was_empty = *word == 0;

		*word |= 1ull << (pos % 64);
		if (!was_empty)
			return;
		pos /= 64;
	}
}

void bitset_remove(struct bitset *set, uint32_t pos)
{
	for (uint32_t l = 0; l < set->n_levels; l++) {
		uint64_t *word = &set->level[l][pos / 64];

		*word &= ~(1ull << (pos % 64));
		if (*word != 0)
			return;
		pos /= 64;
	}
}

uint32_t bitset_next(const struct bitset *set, uint32_t from)
{
	uint32_t pos = from;

	for (uint32_t l = 0; l < set->n_levels; l++) {
		uint64_t rest;

		if (pos / 64 >= set->n_words[l])
			return NIL;
		rest = set->level[l][pos / 64] >> (pos % 64);
		if (rest == 0) {
			pos = pos / 64 + 1;
			continue;
		}
		pos += (uint32_t)__builtin_ctzll(rest);
		while (l-- > 0)
			pos = pos * 64 + (uint32_t)__builtin_ctzll(set->level[l][pos]);
		return pos;
	}
	return NIL;
}

uint32_t bitset_prev(const struct bitset *set, uint32_t from)
{
	uint32_t pos = from;

	for (uint32_t l = 0; l < set->n_levels; l++) {
		uint64_t rest = set->level[l][pos / 64] << (63 - pos % 64);

		if (rest == 0) {
			if (pos < 64)
				return NIL;
			pos = pos / 64 - 1;
			continue;
		}
		pos -= (uint32_t)__builtin_clzll(rest);
		while (l-- > 0)
			pos = pos * 64 + 63 - (uint32_t)__builtin_clzll(set->level[l][pos]);
		return pos;
	}
	return NIL;
}

bool bitset_summaries_hold(const struct bitset *set)
{
	for (uint32_t l = 0; l + 1 < set->n_levels; l++)
		for (uint32_t w = 0; w < set->n_words[l]; w++)
			if (bits_test(set->level[l + 1], w) != (set->level[l][w] != 0))
				return false;
	return true;
}
