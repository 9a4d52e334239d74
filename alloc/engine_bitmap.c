// SPDX-License-Identifier: MIT
// The engine "bitmap": first fit by address, in a bit per block under summaries, as Go's page allocator does it and, with fewer
// levels and a bin of flags instead of lengths, Ceph's BitmapAllocator.
//
// Each open part has a tree of summaries of its own (sum_tree.h); over the parts there is a small binary tree of their longest
// runs. So no run crosses a part's border, and a part that is not open costs 16 to 24 bytes. Every search is bounded by
// the levels: log2 of the number of parts, then eight summaries per level of the tree, then one chunk of 8 words.
//
// Two things make the common case cheaper, both from Go: `low`, below which nothing is free, and for small requests a
// word of 64 blocks (256 KiB), which is used up before the next one is looked for, so that they lie together and need no
// search. Go takes the word's blocks out of the map, because the word belongs to a processor and is used without the
// lock. Here everybody has the lock, and it is enough to remember which word it is: its blocks are free for all.
//
// No operation needs memory, so reserve has nothing to do.
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "alloc/bits.h"
#include "alloc/engine.h"
#include "alloc/sum_tree.h"

#define SMALL_MAX_BLK 15u // a quarter of a word less one, as in Go

struct bitmap {
	struct engine engine;
	uint32_t n_blk;
	uint32_t part_shift;
	uint32_t n_parts, n_leaves; // leaves: the next power of two
	struct sum_tree **parts;    // NULL: not open
	uint32_t *top;              // [1] the root, [i]: the larger one of [2i] and [2i + 1], [n_leaves + p]: of part p
	uint32_t low;               // no block below is free
	uint32_t word;              // first block of the word for small requests, or NIL
	_Atomic uint32_t longest;   // these two are written under the lock and read without it
	atomic_size_t bytes;
};

static struct bitmap *bitmap_of(struct engine *e) { return (struct bitmap *)e; }
static const struct bitmap *bitmap_of_const(const struct engine *e) { return (const struct bitmap *)e; }

static uint32_t part_start(const struct bitmap *b, uint32_t part) { return part << b->part_shift; }
static uint32_t in_part(const struct bitmap *b, uint32_t blk) { return blk & ((1u << b->part_shift) - 1); }
static struct sum_tree *part_of(const struct bitmap *b, uint32_t blk) { return b->parts[blk >> b->part_shift]; }

// ---- the tree over the parts ----

static void top_update(struct bitmap *b, uint32_t part)
{
	uint32_t i = b->n_leaves + part;

	b->top[i] = b->parts[part] == NULL ? 0 : sum_tree_longest(b->parts[part]);
	for (i /= 2; i > 0; i /= 2) {
		uint32_t longest = max_u32(b->top[2 * i], b->top[2 * i + 1]);

		if (b->top[i] == longest)
			break;
		b->top[i] = longest;
	}
	atomic_store_explicit(&b->longest, b->top[1], memory_order_relaxed);
}

// The first part from this one on with a run of at least len blocks, or NIL.
static uint32_t top_first(const struct bitmap *b, uint32_t part, uint32_t len)
{
	uint32_t i = b->n_leaves + part;

	if (part >= b->n_parts)
		return NIL;
	while (b->top[i] < len) {
		while (i % 2 == 1) // on the right: go on behind the parent
			i /= 2;
		if (i == 0)
			return NIL;
		i++;
	}
	while (i < b->n_leaves)
		i = b->top[2 * i] >= len ? 2 * i : 2 * i + 1;
	return i - b->n_leaves;
}

// ---- the engine ----

static void bitmap_destroy(struct engine *e)
{
	struct bitmap *b = bitmap_of(e);

	for (uint32_t p = 0; b->parts != NULL && p < b->n_parts; p++)
		sum_tree_destroy(b->parts[p]);
	free(b->parts);
	free(b->top);
	free(b);
}

static int bitmap_create(const struct engine_config *cfg, struct engine **out)
{
	struct bitmap *b = calloc(1, sizeof(*b));

	if (b == NULL)
		return -ENOMEM;
	ASSERT(cfg->part_shift < 32 && cfg->n_blk > 0);
	b->engine.ops = &engine_bitmap;
	b->n_blk = b->low = cfg->n_blk;
	b->word = NIL;
	b->part_shift = cfg->part_shift;
	b->n_parts = ((cfg->n_blk - 1) >> cfg->part_shift) + 1;
	for (b->n_leaves = 1; b->n_leaves < b->n_parts;)
		b->n_leaves *= 2;
	b->parts = calloc(b->n_parts, sizeof(*b->parts));
	b->top = calloc((size_t)b->n_leaves * 2, sizeof(*b->top));
	if (b->parts == NULL || b->top == NULL) {
		bitmap_destroy(&b->engine);
		return -ENOMEM;
	}
	b->bytes = sizeof(*b) + b->n_parts * sizeof(*b->parts) + (size_t)b->n_leaves * 2 * sizeof(*b->top);
	*out = &b->engine;
	return 0;
}

static int bitmap_open(struct engine *e, uint32_t start, uint32_t len, const uint64_t *free_bits)
{
	struct bitmap *b = bitmap_of(e);
	uint32_t part = start >> b->part_shift;
	struct sum_tree *t;

	ASSERT(in_part(b, start) == 0 && len > 0 && in_part(b, len - 1) == len - 1 && len <= b->n_blk - start);
	ASSERT(b->parts[part] == NULL);
	t = sum_tree_new(len, free_bits);
	if (t == NULL)
		return -ENOMEM;
	b->parts[part] = t;
	b->bytes += t->bytes;
	b->low = min_u32(b->low, start);
	top_update(b, part);
	return 0;
}

static void bitmap_close(struct engine *e, uint32_t start, uint32_t len)
{
	struct bitmap *b = bitmap_of(e);
	uint32_t part = start >> b->part_shift;

	ASSERT(b->parts[part] != NULL && b->parts[part]->n_blk == len);
	(void)len;
	if (b->word != NIL && b->word >> b->part_shift == part)
		b->word = NIL;
	b->bytes -= b->parts[part]->bytes;
	sum_tree_destroy(b->parts[part]);
	b->parts[part] = NULL;
	top_update(b, part);
}

static int bitmap_reserve(struct engine *e, uint32_t n)
{
	(void)e;
	(void)n;
	return 0;
}

static void bitmap_give(struct engine *e, uint32_t start, uint32_t len)
{
	struct bitmap *b = bitmap_of(e);

	sum_tree_give(part_of(b, start), in_part(b, start), len);
	b->low = min_u32(b->low, start);
	top_update(b, start >> b->part_shift);
}

static void bitmap_take(struct engine *e, struct mrun run, uint32_t start, uint32_t len)
{
	struct bitmap *b = bitmap_of(e);

	(void)run;
	sum_tree_take(part_of(b, start), in_part(b, start), len);
	if (start == b->low)
		b->low = start + len;
	top_update(b, start >> b->part_shift);
}

// The first free block >= from, or NIL.
static uint32_t next_free(const struct bitmap *b, uint32_t from)
{
	uint32_t part = from >> b->part_shift;
	uint32_t blk = NIL;

	if (from >= b->n_blk)
		return NIL;
	if (b->parts[part] != NULL)
		blk = sum_tree_next_free(b->parts[part], in_part(b, from));
	if (blk == NIL) {
		part = top_first(b, part + 1, 1);
		if (part == NIL)
			return NIL;
		blk = sum_tree_next_free(b->parts[part], 0);
	}
	return part_start(b, part) + blk;
}

static bool bitmap_any_free(const struct engine *e, uint32_t start, uint32_t len)
{
	uint32_t blk = next_free(bitmap_of_const(e), start);

	return blk != NIL && blk < start + len;
}

// The run around a free block, and what there is of it from that block on.
static struct mrun run_around(const struct bitmap *b, uint32_t blk)
{
	const struct sum_tree *t = part_of(b, blk);
	uint32_t start = sum_tree_run_start(t, in_part(b, blk));

	return (struct mrun){ blk - in_part(b, blk) + start, sum_tree_run_end(t, in_part(b, blk)) - start };
}

static struct mrun run_from(const struct bitmap *b, uint32_t blk)
{
	return (struct mrun){ blk, sum_tree_run_end(part_of(b, blk), in_part(b, blk)) - in_part(b, blk) };
}

static struct mrun bitmap_run_at(struct engine *e, uint32_t blk)
{
	const struct bitmap *b = bitmap_of(e);

	if (blk >= b->n_blk || part_of(b, blk) == NULL || !bits_test(part_of(b, blk)->bits, in_part(b, blk)))
		return (struct mrun){ 0, 0 };
	return run_around(b, blk);
}

static struct mrun bitmap_next_run(struct engine *e, uint32_t from)
{
	const struct bitmap *b = bitmap_of(e);
	uint32_t blk = next_free(b, from);

	return blk == NIL ? (struct mrun){ 0, 0 } : run_around(b, blk);
}

// A place for a small request in the word, or NIL. When the word is empty the first one that is not takes its place.
static uint32_t fit_word(struct bitmap *b, uint32_t len)
{
	uint32_t blk = NIL;

	if (b->word != NIL)
		blk = sum_tree_fit_word(part_of(b, b->word), in_part(b, b->word), 1);
	if (blk == NIL) {
		b->low = next_free(b, b->low); // there is one, or find() would not have come here
		b->word = b->low - in_part(b, b->low) % 64;
	}
	blk = sum_tree_fit_word(part_of(b, b->word), in_part(b, b->word), len);
	return blk == NIL ? NIL : b->word - in_part(b, b->word) + blk;
}

static uint32_t first_fit(const struct bitmap *b, uint32_t len)
{
	uint32_t part = top_first(b, b->low >> b->part_shift, len);
	uint32_t from = part == b->low >> b->part_shift ? in_part(b, b->low) : 0;

	return part_start(b, part) + sum_tree_fit(b->parts[part], from, len);
}

static struct mrun bitmap_find(struct engine *e, uint32_t len, enum engine_fit fit)
{
	struct bitmap *b = bitmap_of(e);
	uint32_t blk = NIL;

	(void)fit;
	if (b->top[1] < len)
		return (struct mrun){ 0, 0 };
	if (len <= SMALL_MAX_BLK)
		blk = fit_word(b, len);
	return run_from(b, blk == NIL ? first_fit(b, len) : blk);
}

static struct mrun bitmap_longest(struct engine *e)
{
	const struct bitmap *b = bitmap_of(e);

	return b->top[1] == 0 ? (struct mrun){ 0, 0 } : run_from(b, first_fit(b, b->top[1]));
}

static uint32_t bitmap_longest_hint(const struct engine *e)
{
	return atomic_load_explicit(&bitmap_of_const(e)->longest, memory_order_relaxed);
}

static bool bitmap_may_have(const struct engine *e, uint32_t len, enum engine_fit fit)
{
	(void)fit;
	return bitmap_longest_hint(e) >= len;
}

static size_t bitmap_bytes(const struct engine *e)
{
	return atomic_load_explicit(&bitmap_of_const(e)->bytes, memory_order_relaxed);
}

static int check_top(const struct bitmap *b, struct errmsg *why)
{
	for (uint32_t i = 1; i < 2 * b->n_leaves; i++) {
		uint32_t p = i - b->n_leaves;
		uint32_t want = 0;

		if (i < b->n_leaves)
			want = max_u32(b->top[2 * i], b->top[2 * i + 1]);
		else if (p < b->n_parts && b->parts[p] != NULL)
			want = sum_tree_longest(b->parts[p]);
		if (b->top[i] != want) {
			errmsg_set(why, "bitmap: node %u over the parts has %u, not %u", i, b->top[i], want);
			return -EUCLEAN;
		}
	}
	if (bitmap_longest_hint(&b->engine) != b->top[1]) {
		errmsg_set(why, "bitmap: the longest run is announced as %u, not %u", bitmap_longest_hint(&b->engine), b->top[1]);
		return -EUCLEAN;
	}
	return 0;
}

static int bitmap_check(struct engine *e, struct errmsg *why)
{
	const struct bitmap *b = bitmap_of(e);

	for (uint32_t p = 0; p < b->n_parts; p++) {
		int rc = b->parts[p] == NULL ? 0 : sum_tree_check(b->parts[p], why);

		if (rc != 0) {
			errmsg_prefix(why, "bitmap: part %u", p);
			return rc;
		}
	}
	if (b->top[1] > 0 && next_free(b, 0) < b->low) {
		errmsg_set(why, "bitmap: block %u is free, but below %u nothing should be", next_free(b, 0), b->low);
		return -EUCLEAN;
	}
	if (b->word != NIL && part_of(b, b->word) == NULL) {
		errmsg_set(why, "bitmap: the word at %u is in no open part", b->word);
		return -EUCLEAN;
	}
	return check_top(b, why);
}

const struct engine_ops engine_bitmap = {
	.name = "bitmap",
	.about = "Go's and Ceph's: first fit by address, a bit per block under summaries",
	.fits = 1u << FIT_BEST,
	.create = bitmap_create,
	.destroy = bitmap_destroy,
	.open = bitmap_open,
	.close = bitmap_close,
	.in_place = true,
	.reserve = bitmap_reserve,
	.give = bitmap_give,
	.take = bitmap_take,
	.any_free = bitmap_any_free,
	.run_at = bitmap_run_at,
	.next_run = bitmap_next_run,
	.find = bitmap_find,
	.longest = bitmap_longest,
	.may_have = bitmap_may_have,
	.longest_hint = bitmap_longest_hint,
	.bytes = bitmap_bytes,
	.check = bitmap_check,
};
