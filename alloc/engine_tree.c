// SPDX-License-Identifier: MIT
// The free map of the tree engines: each free run stands in a tree by start and in a tree by length (see
// engine_tree.h). ZFS leaves runs below 16 KiB out of the tree by length to save memory; here a run costs two keys
// of 8 bytes, about 24 bytes in nodes that are two thirds full, and the tree by length is the proof that find()
// leaves nothing out (E3).
//
// A give looks at its two neighbours with one lookup and changes at most one key by start (two if it closes a gap)
// and three by length; a take changes at most two by start and three by length. A lookup in 250,000 runs is four
// nodes (range_tree.c).
#include "alloc/engine_tree.h"

#include "alloc/bits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TIGHT_RUN_BLK 32u // 128 KiB
#define TIGHT_FREE_PCT 4u
#define OPEN_BURST 64u // runs per reserve: what many inserts need at worst is far more than what they use

// any_free() promises not to change the free map, and does not; but the lookup moves the tree's finger.
static struct engine_tree *engine_tree_mutable(const struct engine *e) { return (struct engine_tree *)(uintptr_t)e; }

int engine_tree_create(const struct engine_ops *ops, size_t size, const struct engine_config *cfg, struct engine **out)
{
	struct engine_tree *t = calloc(1, size);

	if (!t)
		return -ENOMEM;
	t->engine.ops = ops;
	t->cfg = *cfg;
	t->own_bytes = size;
	atomic_init(&t->longest, 0);
	range_pool_init(&t->pool);
	// By start a start is separator enough: a run whose length changes stays in its leaf.
	range_tree_init(&t->by_start, &t->pool, ~(uint64_t)UINT32_MAX);
	range_tree_init(&t->by_len, &t->pool, UINT64_MAX);
	*out = &t->engine;
	return 0;
}

void engine_tree_destroy(struct engine *e)
{
	if (!e)
		return;
	range_pool_free(&engine_tree(e)->pool);
	free(e);
}

// ---- Changing the runs

static void add_run(struct engine_tree *t, struct mrun run)
{
	range_tree_insert(&t->by_start, range_key(run.start, run.len));
	range_tree_insert(&t->by_len, range_key(run.len, run.start));
}

static void drop_run(struct engine_tree *t, struct mrun run)
{
	range_tree_erase(&t->by_start, range_key(run.start, run.len));
	range_tree_erase(&t->by_len, range_key(run.len, run.start));
}

// `now` lies where `old` lay: between the same neighbours.
static void change_run(struct engine_tree *t, struct mrun old, struct mrun now)
{
	range_tree_replace(&t->by_start, range_key(old.start, old.len), range_key(now.start, now.len));
	range_tree_replace(&t->by_len, range_key(old.len, old.start), range_key(now.len, now.start));
}

// Tells those who look without the lock, but writes only what is new: they have the line in their caches.
static void publish_longest(struct engine_tree *t)
{
	uint32_t len = range_major(range_tree_last(&t->by_len));

	if (atomic_load_explicit(&t->longest, memory_order_relaxed) != len)
		atomic_store_explicit(&t->longest, len, memory_order_relaxed);
}

int engine_tree_reserve(struct engine *e, uint32_t n)
{
	struct engine_tree *t = engine_tree(e);

	return range_pool_reserve(&t->pool,
				  range_tree_need(&t->by_start, n) + range_tree_need(&t->by_len, 2 * (uint64_t)n));
}

void engine_tree_give(struct engine *e, uint32_t start, uint32_t len)
{
	struct engine_tree *t = engine_tree(e);
	uint32_t part = start >> t->cfg.part_shift;
	struct mrun now = { start, len }, left, right;
	uint64_t below, above;
	bool to_left, to_right;

	ASSERT(len > 0 && (start + len - 1) >> t->cfg.part_shift == part);
	range_tree_around(&t->by_start, range_key(start, 0), &below, &above);
	left = run_by_start(below);
	right = run_by_start(above);
	ASSERT(left.len == 0 || mrun_end(left) <= start);
	ASSERT(right.len == 0 || start + len <= right.start);
	to_left = left.len > 0 && mrun_end(left) == start && left.start >> t->cfg.part_shift == part;
	to_right = right.len > 0 && start + len == right.start && right.start >> t->cfg.part_shift == part;
	if (to_left)
		now = (struct mrun){ left.start, left.len + now.len };
	if (to_right)
		now.len += right.len;

	if (to_left && to_right)
		drop_run(t, right);
	if (to_left || to_right)
		change_run(t, to_left ? left : right, now);
	else
		add_run(t, now);
	t->free_blk += len;
	publish_longest(t);
}

// The run around [start, start + len), which is free. `run` is it or its rest.
static struct mrun whole_run(struct engine_tree *t, struct mrun run)
{
	uint64_t below, above;

	range_tree_around(&t->by_start, range_key(run.start, UINT32_MAX), &below, &above);
	return run_by_start(below);
}

void engine_tree_take(struct engine *e, struct mrun run, uint32_t start, uint32_t len)
{
	struct engine_tree *t = engine_tree(e);
	struct mrun whole = whole_run(t, run);
	struct mrun before = { whole.start, start - whole.start };
	struct mrun behind = { start + len, mrun_end(whole) - (start + len) };

	ASSERT(len > 0 && start >= run.start && start + len <= mrun_end(run));
	VERIFY(whole.len > 0 && whole.start <= start && start + len <= mrun_end(whole));
	if (before.len > 0) {
		change_run(t, whole, before);
		if (behind.len > 0)
			add_run(t, behind);
	} else if (behind.len > 0) {
		change_run(t, whole, behind);
	} else {
		drop_run(t, whole);
	}
	t->free_blk -= len;
	publish_longest(t);
}

// ---- Parts

int engine_tree_open(struct engine *e, uint32_t start, uint32_t len, const uint64_t *free_bits)
{
	struct engine_tree *t = engine_tree(e);
	uint32_t n_runs = 0;

	t->open_blk += len;
	for (uint32_t at = bits_next_set(free_bits, 0, len); at < len; n_runs++) {
		uint32_t end = bits_next_clear(free_bits, at, len);

		if (n_runs % OPEN_BURST == 0 && engine_tree_reserve(e, OPEN_BURST)) {
			engine_tree_close(e, start, len);
			return -ENOMEM;
		}
		add_run(t, (struct mrun){ start + at, end - at });
		t->free_blk += end - at;
		at = bits_next_set(free_bits, end, len);
	}
	publish_longest(t);
	return 0;
}

void engine_tree_close(struct engine *e, uint32_t start, uint32_t len)
{
	struct engine_tree *t = engine_tree(e);
	struct range_iter it;

	for (;;) {
		struct mrun run = run_by_start(range_tree_from(&t->by_start, range_key(start, 0), &it));

		if (run.len == 0 || run.start - start >= len)
			break;
		drop_run(t, run);
		t->free_blk -= run.len;
	}
	t->open_blk -= len;
	// While a part is open somebody may still rely on what was reserved, though nothing is free.
	if (t->open_blk == 0)
		range_pool_free(&t->pool);
	publish_longest(t);
}

// ---- Looking up

bool engine_tree_any_free(const struct engine *e, uint32_t start, uint32_t len)
{
	struct mrun left, right;
	uint64_t below, above;

	range_tree_around(&engine_tree_mutable(e)->by_start, range_key(start, 0), &below, &above);
	left = run_by_start(below);
	right = run_by_start(above);
	return (left.len > 0 && mrun_end(left) > start) || (right.len > 0 && right.start - start < len);
}

struct mrun engine_tree_run_at(struct engine *e, uint32_t blk)
{
	struct mrun run = whole_run(engine_tree(e), (struct mrun){ blk, 1 });

	return run.len > 0 && blk < mrun_end(run) ? run : (struct mrun){ 0 };
}

struct mrun engine_tree_walk(struct engine_tree *t, uint32_t from, struct range_iter *it)
{
	uint64_t below, above;
	struct mrun left;

	range_tree_around(&t->by_start, range_key(from, 0), &below, &above);
	left = run_by_start(below);
	if (left.len > 0 && mrun_end(left) > from)
		above = below;
	return above != 0 ? run_by_start(range_tree_from(&t->by_start, above, it)) : (struct mrun){ 0 };
}

struct mrun engine_tree_next_run(struct engine *e, uint32_t from)
{
	struct range_iter it;

	return engine_tree_walk(engine_tree(e), from, &it);
}

struct mrun engine_tree_best_fit(struct engine_tree *t, uint32_t len)
{
	struct range_iter it;

	return run_by_len(range_tree_from(&t->by_len, range_key(len, 0), &it));
}

bool engine_tree_is_tight(const struct engine_tree *t)
{
	return range_major(range_tree_last(&t->by_len)) < TIGHT_RUN_BLK ||
	       t->free_blk * 100 < t->open_blk * TIGHT_FREE_PCT;
}

struct mrun engine_tree_longest(struct engine *e) { return run_by_len(range_tree_last(&engine_tree(e)->by_len)); }

// ---- Without the lock

static const struct engine_tree *engine_tree_const(const struct engine *e)
{
	return (const struct engine_tree *)(const void *)e;
}

uint32_t engine_tree_longest_hint(const struct engine *e)
{
	return atomic_load_explicit(&engine_tree_const(e)->longest, memory_order_relaxed);
}

bool engine_tree_may_have(const struct engine *e, uint32_t len, enum engine_fit fit)
{
	(void)fit; // all fits are FIT_BEST here
	return len <= engine_tree_longest_hint(e);
}

size_t engine_tree_bytes(const struct engine *e)
{
	const struct engine_tree *t = engine_tree_const(e);

	return t->own_bytes + atomic_load_explicit(&t->pool.bytes, memory_order_relaxed);
}

// ---- Checking

#define FAIL(why, ...) (errmsg_set(why, __VA_ARGS__), -EUCLEAN)

// One run against the end of the one before it and against the tree by length.
static int check_run(struct engine_tree *t, struct mrun run, uint32_t last_end, struct errmsg *why)
{
	uint32_t shift = t->cfg.part_shift;
	struct range_iter it;

	if (run.len == 0 || run.start >= t->cfg.n_blk || run.len > t->cfg.n_blk - run.start)
		return FAIL(why, "E1: the run of %u blocks at %u is not in the arena", run.len, run.start);
	if (run.start >> shift != (mrun_end(run) - 1) >> shift)
		return FAIL(why, "E2: the run of %u blocks at %u crosses a part's border", run.len, run.start);
	if (run.start < last_end ||
	    (run.start == last_end && run.start > 0 && (run.start - 1) >> shift == run.start >> shift))
		return FAIL(why, "E2: the run of %u blocks at %u meets the one before it", run.len, run.start);
	if (range_tree_from(&t->by_len, range_key(run.len, run.start), &it) != range_key(run.len, run.start))
		return FAIL(why, "R1: the run of %u blocks at %u is not in the tree by length", run.len, run.start);
	return 0;
}

static int check_pool(const struct engine_tree *t, struct errmsg *why)
{
	uint32_t in_trees = t->by_start.n_nodes + t->by_len.n_nodes;

	if (in_trees + t->pool.n_free + 1 != t->pool.n_touched)
		return FAIL(why, "T4: %u nodes in trees, %u free, but %u were taken", in_trees, t->pool.n_free,
			    t->pool.n_touched);
	return 0;
}

int engine_tree_check(struct engine *e, struct errmsg *why)
{
	struct engine_tree *t = engine_tree(e);
	uint64_t free_blk = 0, key;
	uint32_t last_end = 0;
	struct range_iter it;
	int err;

	err = range_tree_check(&t->by_start, why);
	if (!err)
		err = range_tree_check(&t->by_len, why);
	if (!err)
		err = check_pool(t, why);
	if (err)
		return err;
	for (key = range_tree_from(&t->by_start, 0, &it); key != 0; key = range_tree_next(&t->by_start, &it)) {
		struct mrun run = run_by_start(key);

		err = check_run(t, run, last_end, why);
		if (err)
			return err;
		last_end = mrun_end(run);
		free_blk += run.len;
	}
	if (t->by_start.n_keys != t->by_len.n_keys)
		return FAIL(why, "R1: %llu runs by start, %llu by length", (unsigned long long)t->by_start.n_keys,
			    (unsigned long long)t->by_len.n_keys);
	if (free_blk != t->free_blk || free_blk > t->open_blk)
		return FAIL(why, "R2: %llu blocks are free, %llu are counted, %llu are open",
			    (unsigned long long)free_blk, (unsigned long long)t->free_blk,
			    (unsigned long long)t->open_blk);
	if (engine_tree_longest_hint(e) != engine_tree_longest(e).len)
		return FAIL(why, "R2: the longest run has %u blocks, %u are published", engine_tree_longest(e).len,
			    engine_tree_longest_hint(e));
	return 0;
}
