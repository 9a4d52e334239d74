// SPDX-License-Identifier: MIT
// Go's page allocator packs the three numbers of a summary in 64 bits, 21 each, and so ends at nodes of 2^21 pages; here they
// are three words of 32, because a metaslab may have 2^26 blocks. A chunk's bits are 64 bytes and all summaries above it
// 13.7 on average: 38 MiB for a TiB.
//
// Chunks are aligned to cache lines; the eight children of a node are read together.
#include "alloc/sum_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/bits.h"

#define CHUNK_SHIFT 9u
#define CHUNK_BLK (1u << CHUNK_SHIFT)
#define CHUNK_WORDS (CHUNK_BLK / 64)
#define FANOUT_SHIFT 3u
#define FANOUT (1u << FANOUT_SHIFT)

// log2 of the blocks of a node of this level.
static uint32_t level_shift(uint32_t level)
{
	return CHUNK_SHIFT + level * FANOUT_SHIFT;
}

static uint32_t level_nodes(uint32_t n_blk, uint32_t level)
{
	return (uint32_t)(((uint64_t)n_blk + (1ull << level_shift(level)) - 1) >> level_shift(level));
}

static uint32_t round_to_group(uint32_t n_nodes)
{
	return (n_nodes + FANOUT - 1) & ~(FANOUT - 1);
}

// ---- words ----

static uint32_t word_head(uint64_t word) { return ~word == 0 ? 64 : (uint32_t)__builtin_ctzll(~word); }
static uint32_t word_tail(uint64_t word) { return ~word == 0 ? 64 : (uint32_t)__builtin_clzll(~word); }

// The bits at which len (1 … 64) ones start. Runs of `have` ones are joined to runs of up to twice that: at most 6 steps.
static uint64_t word_fits(uint64_t word, uint32_t len)
{
	uint32_t have = 1;

	while (have < len && word != 0) {
		uint32_t step = min_u32(have, len - have);

		word &= word >> step;
		have += step;
	}
	return word;
}

// ---- summaries ----

// Of eight neighbours of `blk` blocks each. No branch of the first loop depends on the summaries: they look random.
static struct sum sum_merge(const struct sum *child, uint32_t blk)
{
	uint32_t longest = 0, whole = 0;
	uint32_t run = 0; // free blocks up to the child's start

	for (uint32_t i = 0; i < FANOUT; i++) {
		uint32_t joined = run + child[i].start;

		longest = max_u32(longest, max_u32(joined, child[i].longest));
		run = child[i].start == blk ? joined : child[i].end;
	}
	while (whole < FANOUT - 1 && child[whole].start == blk)
		whole++;
	return (struct sum){ whole * blk + child[whole].start, max_u32(longest, run), run };
}

static struct sum sum_chunk(const uint64_t *words)
{
	struct sum word[CHUNK_WORDS];
	struct sum sum;

	static_assert(CHUNK_WORDS == FANOUT, "a chunk's words are merged as a node's children are");
	for (uint32_t w = 0; w < CHUNK_WORDS; w++) {
		word[w].start = word_head(words[w]);
		word[w].end = word_tail(words[w]);
		word[w].longest = 0;
	}
	sum = sum_merge(word, 64);
	// What touches a border of a word has been seen. A run between two used blocks of a word has 62 at most.
	for (uint32_t w = 0; w < CHUNK_WORDS && sum.longest < 62; w++)
		for (uint64_t at = word_fits(words[w], sum.longest + 1); at != 0; at &= at >> 1)
			sum.longest++;
	return sum;
}

static bool sum_replace(struct sum *old, struct sum new)
{
	bool differs = old->start != new.start || old->longest != new.longest || old->end != new.end;

	*old = new;
	return differs;
}

// After a change of the bits in this range: upwards until nothing differs.
static void resum(struct sum_tree *t, uint32_t start, uint32_t len)
{
	uint32_t lo = start / CHUNK_BLK, hi = (start + len - 1) / CHUNK_BLK;
	bool differs = false;

	for (uint32_t c = lo; c <= hi; c++)
		differs |= sum_replace(&t->level[0][c], sum_chunk(&t->bits[c * CHUNK_WORDS]));
	for (uint32_t l = 1; l < t->n_levels && differs; l++) {
		lo /= FANOUT;
		hi /= FANOUT;
		differs = false;
		for (uint32_t i = lo; i <= hi; i++) {
			struct sum sum = sum_merge(&t->level[l - 1][i * FANOUT], 1u << level_shift(l - 1));

			differs |= sum_replace(&t->level[l][i], sum);
		}
	}
}

// ---- the tree ----

struct sum_tree *sum_tree_new(uint32_t n_blk, const uint64_t *bits)
{
	size_t head = (sizeof(struct sum_tree) + 63) & ~(size_t)63;
	size_t n_words = (size_t)level_nodes(n_blk, 0) * CHUNK_WORDS;
	size_t bytes = head + n_words * sizeof(uint64_t);
	uint32_t n_levels = 0;
	struct sum_tree *t;
	struct sum *sums;

	ASSERT(n_blk > 0 && n_blk <= 1u << 31);
	do
		bytes += round_to_group(level_nodes(n_blk, n_levels)) * sizeof(struct sum);
	while (level_nodes(n_blk, n_levels++) > 1);
	ASSERT(n_levels <= SUM_LEVELS);
	bytes = (bytes + 63) & ~(size_t)63;

	t = aligned_alloc(64, bytes);
	if (t == NULL)
		return NULL;
	memset(t, 0, bytes);
	*t = (struct sum_tree){ .n_blk = n_blk, .n_levels = n_levels, .bytes = bytes };
	t->bits = (uint64_t *)((char *)t + head);
	sums = (struct sum *)(t->bits + n_words);
	for (uint32_t l = 0; l < n_levels; l++) {
		t->level[l] = sums;
		sums += round_to_group(level_nodes(n_blk, l));
	}
	memcpy(t->bits, bits, ((size_t)n_blk + 63) / 64 * sizeof(uint64_t));
	resum(t, 0, n_blk);
	return t;
}

void sum_tree_destroy(struct sum_tree *t)
{
	free(t);
}

void sum_tree_give(struct sum_tree *t, uint32_t start, uint32_t len)
{
	ASSERT(len <= t->n_blk - start && !bits_any(t->bits, start, len));
	bits_set(t->bits, start, len);
	resum(t, start, len);
}

void sum_tree_take(struct sum_tree *t, uint32_t start, uint32_t len)
{
	ASSERT(len <= t->n_blk - start && bits_next_clear(t->bits, start, start + len) == start + len);
	bits_clear(t->bits, start, len);
	resum(t, start, len);
}

uint32_t sum_tree_longest(const struct sum_tree *t)
{
	return t->level[t->n_levels - 1][0].longest;
}

static uint32_t first_free_below(const struct sum_tree *t, uint32_t level, uint32_t node)
{
	while (level-- > 0) {
		node *= FANOUT;
		while (t->level[level][node].longest == 0)
			node++;
	}
	return bits_next_set(t->bits, node * CHUNK_BLK, (node + 1) * CHUNK_BLK);
}

uint32_t sum_tree_next_free(const struct sum_tree *t, uint32_t from)
{
	uint32_t node = from / CHUNK_BLK;
	uint32_t chunk_end = (node + 1) * CHUNK_BLK;
	uint32_t blk;

	if (from >= t->n_blk)
		return NIL;
	blk = bits_next_set(t->bits, from, chunk_end);
	if (blk < chunk_end)
		return blk;
	for (uint32_t l = 0; l + 1 < t->n_levels; l++, node /= FANOUT)
		for (uint32_t i = node + 1; i % FANOUT != 0; i++)
			if (t->level[l][i].longest > 0)
				return first_free_below(t, l, i);
	return NIL;
}

// The first run of len blocks in a chunk that has one.
static uint32_t chunk_fit(const uint64_t *words, uint32_t len)
{
	uint32_t run = 0;

	for (uint32_t w = 0; w < CHUNK_WORDS; w++) {
		uint32_t head = word_head(words[w]);
		uint64_t inside = len <= 64 ? word_fits(words[w], len) : 0;

		if (run + head >= len)
			return w * 64 - run;
		if (inside != 0)
			return w * 64 + (uint32_t)__builtin_ctzll(inside);
		run = head == 64 ? run + 64 : word_tail(words[w]);
	}
	ASSERT(false);
	return 0;
}

uint32_t sum_tree_fit(const struct sum_tree *t, uint32_t from, uint32_t len)
{
	uint32_t node = 0;

	ASSERT(len > 0 && len <= sum_tree_longest(t));
	for (uint32_t l = t->n_levels - 1; l-- > 0;) {
		const struct sum *level = t->level[l];
		uint32_t first = max_u32(node * FANOUT, from >> level_shift(l));
		uint32_t end = (node + 1) * FANOUT;
		uint32_t run = 0;

		for (node = first; node < end; node++) {
			if (run + level[node].start >= len)
				return (node << level_shift(l)) - run;
			if (level[node].longest >= len)
				break;
			run = level[node].start == 1u << level_shift(l) ? run + level[node].start : level[node].end;
		}
		ASSERT(node < end);
	}
	return node * CHUNK_BLK + chunk_fit(&t->bits[node * CHUNK_WORDS], len);
}

uint32_t sum_tree_fit_word(const struct sum_tree *t, uint32_t blk, uint32_t len)
{
	uint64_t fits = word_fits(t->bits[blk / 64], len);

	return fits == 0 ? NIL : blk / 64 * 64 + (uint32_t)__builtin_ctzll(fits);
}

uint32_t sum_tree_run_start(const struct sum_tree *t, uint32_t blk)
{
	uint32_t node = blk / CHUNK_BLK;
	uint32_t start = bits_set_back_to(t->bits, blk, node * CHUNK_BLK);

	if (start > node * CHUNK_BLK)
		return start;
	for (uint32_t l = 0; l + 1 < t->n_levels; l++, node /= FANOUT) {
		for (uint32_t i = node; i % FANOUT != 0; i--) {
			start -= t->level[l][i - 1].end;
			if (t->level[l][i - 1].end < 1u << level_shift(l))
				return start;
		}
	}
	return start;
}

uint32_t sum_tree_run_end(const struct sum_tree *t, uint32_t blk)
{
	uint32_t node = blk / CHUNK_BLK;
	uint32_t end = bits_next_clear(t->bits, blk, (node + 1) * CHUNK_BLK);

	if (end < (node + 1) * CHUNK_BLK)
		return end;
	for (uint32_t l = 0; l + 1 < t->n_levels; l++, node /= FANOUT) {
		for (uint32_t i = node + 1; i % FANOUT != 0; i++) {
			end += t->level[l][i].start;
			if (t->level[l][i].start < 1u << level_shift(l))
				return end;
		}
	}
	return end;
}

// ---- check ----

// The summary of [start, end) from the bits alone, run by run.
static struct sum sum_plainly(const struct sum_tree *t, uint64_t start, uint64_t end)
{
	uint32_t stop = end < t->n_blk ? (uint32_t)end : t->n_blk;
	struct sum sum = { 0, 0, 0 };
	uint32_t from, to;

	if (start >= stop)
		return sum;
	for (from = bits_next_set(t->bits, (uint32_t)start, stop); from < stop; from = bits_next_set(t->bits, to, stop)) {
		to = bits_next_clear(t->bits, from, stop);
		sum.longest = max_u32(sum.longest, to - from);
		if (from == start)
			sum.start = to - from;
		if (to == end)
			sum.end = to - from;
	}
	return sum;
}

int sum_tree_check(const struct sum_tree *t, struct errmsg *why)
{
	uint32_t n_bits = level_nodes(t->n_blk, 0) * CHUNK_BLK;
	uint32_t stray = bits_next_set(t->bits, t->n_blk, n_bits);

	if (stray < n_bits) {
		errmsg_set(why, "block %u is free, but there are only %u", stray, t->n_blk);
		return -EUCLEAN;
	}
	for (uint32_t l = 0; l < t->n_levels; l++) {
		for (uint32_t i = 0; i < round_to_group(level_nodes(t->n_blk, l)); i++) {
			struct sum want = sum_plainly(t, (uint64_t)i << level_shift(l), (uint64_t)(i + 1) << level_shift(l));
			struct sum is = t->level[l][i];

			if (sum_replace(&is, want)) {
				is = t->level[l][i];
				errmsg_set(why, "level %u, node %u has summary (%u, %u, %u), not (%u, %u, %u)", l, i,
					   is.start, is.longest, is.end, want.start, want.longest, want.end);
				return -EUCLEAN;
			}
		}
	}
	return 0;
}
