// SPDX-License-Identifier: MIT
// The engine "stupid": Ceph's StupidAllocator. Free runs lie in ten bins by the bits of their length (1, 2–3, 4–7, …, 256 and
// more blocks), each bin an ordered set. A request looks at the bin of its length and those above it, in each from the end
// of the last allocation on; when none of them has a run behind that, at the same bins from their beginnings.
//
// So it goes on where it was while anything there fits, in preference to a tighter fit elsewhere, and the last bin makes no
// difference between 1 MiB and 100 GiB: long runs are cut wherever the search comes by.
//
// Where this one differs from the original:
// - Neighbours merge whatever bins they are in (E2). There, a freed run merges with neighbours in its own bin only.
// - Runs know the longest one in their subtree, so a search takes O(log n) steps for each of the ten bins instead of
//   walking a bin to its end. It finds the same run.
// - The search downwards, for what is to be had when nothing is long enough, is longest(): Ceph takes the next
//   run of a smaller bin there, here it is the arena that decides how to split a request.
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "alloc/bits.h"
#include "alloc/engine.h"
#include "alloc/interval_set.h"

#define N_BINS 10u

struct stupid {
	struct engine engine;
	uint32_t n_blk;
	uint32_t part_mask;       // block & part_mask = its place in its part
	uint32_t cursor;          // end of the last take
	uint64_t open_blk;        // of the open parts
	struct interval_pool pool;
	struct iset all;
	struct iset bins[N_BINS]; // each run is in `all` and in the bin of its length
	_Atomic uint32_t longest; // these two are written under the lock and read without it
	atomic_size_t bytes;
};

static struct stupid *stupid_of(struct engine *e) { return (struct stupid *)e; }
static const struct stupid *stupid_of_const(const struct engine *e) { return (const struct stupid *)e; }

static uint32_t bin_of(uint32_t len)
{
	return min_u32(32 - (uint32_t)__builtin_clz(len), N_BINS - 1);
}

static struct mrun run_of(const struct stupid *s, uint32_t i)
{
	if (i == NIL)
		return (struct mrun){ 0, 0 };
	return (struct mrun){ s->pool.at[i].start, s->pool.at[i].len };
}

static void publish(struct stupid *s)
{
	atomic_store_explicit(&s->longest, iset_longest(&s->pool, &s->all), memory_order_relaxed);
	atomic_store_explicit(&s->bytes, sizeof(*s) + interval_bytes(&s->pool), memory_order_relaxed);
}

// ---- one run ----

static void add(struct stupid *s, uint32_t start, uint32_t len)
{
	uint32_t i = interval_new(&s->pool, start, len);

	iset_insert(&s->pool, &s->all, i);
	iset_insert(&s->pool, &s->bins[bin_of(len)], i);
}

static void drop(struct stupid *s, uint32_t i)
{
	iset_remove(&s->pool, &s->all, i);
	iset_remove(&s->pool, &s->bins[bin_of(s->pool.at[i].len)], i);
	interval_recycle(&s->pool, i);
}

static void resize(struct stupid *s, uint32_t i, uint32_t start, uint32_t len)
{
	struct interval *v = &s->pool.at[i];
	struct iset *old = &s->bins[bin_of(v->len)], *new = &s->bins[bin_of(len)];

	if (old != new)
		iset_remove(&s->pool, old, i);
	v->start = start;
	v->len = len;
	iset_resized(&s->pool, &s->all, i);
	if (old != new)
		iset_insert(&s->pool, new, i);
	else
		iset_resized(&s->pool, new, i);
}

// ---- the engine ----

static int stupid_create(const struct engine_config *cfg, struct engine **out)
{
	struct stupid *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return -ENOMEM;
	ASSERT(cfg->part_shift < 32);
	s->engine.ops = &engine_stupid;
	s->n_blk = cfg->n_blk;
	s->part_mask = (1u << cfg->part_shift) - 1;
	iset_init(&s->all, ISET_ALL);
	for (uint32_t b = 0; b < N_BINS; b++)
		iset_init(&s->bins[b], ISET_SIZE);
	publish(s);
	*out = &s->engine;
	return 0;
}

static void stupid_destroy(struct engine *e)
{
	struct stupid *s = stupid_of(e);

	interval_free(&s->pool);
	free(s);
}

static int stupid_reserve(struct engine *e, uint32_t n)
{
	struct stupid *s = stupid_of(e);
	int rc = interval_reserve(&s->pool, n); // a give or take leaves one run more at most

	publish(s);
	return rc;
}

static int stupid_open(struct engine *e, uint32_t start, uint32_t len, const uint64_t *free_bits)
{
	struct stupid *s = stupid_of(e);
	uint32_t n_runs = 0;
	uint32_t from, to;
	int rc;

	ASSERT((start & s->part_mask) == 0 && len > 0 && len - 1 <= s->part_mask && len <= s->n_blk - start);
	for (from = bits_next_set(free_bits, 0, len); from < len; from = bits_next_set(free_bits, to, len)) {
		to = bits_next_clear(free_bits, from, len);
		n_runs++;
	}
	rc = stupid_reserve(e, n_runs);
	if (rc != 0)
		return rc;
	for (from = bits_next_set(free_bits, 0, len); from < len; from = bits_next_set(free_bits, to, len)) {
		to = bits_next_clear(free_bits, from, len);
		add(s, start + from, to - from);
	}
	s->open_blk += len;
	publish(s);
	return 0;
}

static void stupid_close(struct engine *e, uint32_t start, uint32_t len)
{
	struct stupid *s = stupid_of(e);

	for (uint32_t b = 0; b < N_BINS; b++)
		iset_cut(&s->pool, &s->bins[b], start, start + len); // the same runs as below
	interval_recycle_tree(&s->pool, ISET_ALL, iset_cut(&s->pool, &s->all, start, start + len));
	s->open_blk -= len;
	// While a part is open somebody may still rely on what was reserved, though nothing is free.
	if (s->open_blk == 0)
		interval_free(&s->pool);
	publish(s);
}

static void stupid_give(struct engine *e, uint32_t start, uint32_t len)
{
	struct stupid *s = stupid_of(e);
	const struct interval *at = s->pool.at;
	uint32_t end = start + len, before = NIL, after = NIL;

	// No run crosses a part's border, so none of the neighbours behind it is asked for.
	if ((start & s->part_mask) != 0)
		before = iset_first(&s->pool, &s->all, start - 1, 1);
	if (before != NIL && interval_end(&at[before]) != start)
		before = NIL;
	if ((end & s->part_mask) != 0)
		after = iset_first(&s->pool, &s->all, start, 1);
	ASSERT(after == NIL || at[after].start >= end);
	if (after != NIL && at[after].start != end)
		after = NIL;

	if (before != NIL)
		start = at[before].start;
	if (after != NIL)
		end = interval_end(&at[after]);
	if (before != NIL && after != NIL)
		drop(s, after);
	if (before != NIL)
		resize(s, before, start, end - start);
	else if (after != NIL)
		resize(s, after, start, end - start);
	else
		add(s, start, end - start);
	publish(s);
}

static void stupid_take(struct engine *e, struct mrun run, uint32_t start, uint32_t len)
{
	struct stupid *s = stupid_of(e);
	uint32_t i = iset_first(&s->pool, &s->all, start, 1);
	struct mrun whole = run_of(s, i);
	uint32_t head = start - whole.start, tail = mrun_end(whole) - (start + len);

	ASSERT(start >= whole.start && start + len <= mrun_end(whole));
	(void)run; // it may be stale or cut short; the tree is not
	if (head > 0)
		resize(s, i, whole.start, head);
	else if (tail > 0)
		resize(s, i, start + len, tail);
	else
		drop(s, i);
	if (head > 0 && tail > 0)
		add(s, start + len, tail);
	s->cursor = start + len;
	publish(s);
}

static bool stupid_any_free(const struct engine *e, uint32_t start, uint32_t len)
{
	const struct stupid *s = stupid_of_const(e);
	uint32_t i = iset_first(&s->pool, &s->all, start, 1);

	return i != NIL && s->pool.at[i].start < start + len;
}

static struct mrun stupid_next_run(struct engine *e, uint32_t from)
{
	struct stupid *s = stupid_of(e);

	return run_of(s, iset_first(&s->pool, &s->all, from, 1));
}

static struct mrun stupid_run_at(struct engine *e, uint32_t blk)
{
	struct mrun run = stupid_next_run(e, blk);

	return run.len > 0 && run.start <= blk ? run : (struct mrun){ 0, 0 };
}

static struct mrun find_from(const struct stupid *s, uint32_t from, uint32_t len)
{
	for (uint32_t b = bin_of(len); b < N_BINS; b++) {
		uint32_t i = iset_first(&s->pool, &s->bins[b], from, len);

		if (i != NIL)
			return run_of(s, i);
	}
	return (struct mrun){ 0, 0 };
}

static struct mrun stupid_find(struct engine *e, uint32_t len, enum engine_fit fit)
{
	const struct stupid *s = stupid_of(e);
	struct mrun run = find_from(s, s->cursor, len);

	(void)fit;
	return run.len > 0 || s->cursor == 0 ? run : find_from(s, 0, len);
}

static struct mrun stupid_longest(struct engine *e)
{
	struct stupid *s = stupid_of(e);

	return run_of(s, iset_first(&s->pool, &s->all, 0, max_u32(iset_longest(&s->pool, &s->all), 1)));
}

static uint32_t stupid_longest_hint(const struct engine *e)
{
	return atomic_load_explicit(&stupid_of_const(e)->longest, memory_order_relaxed);
}

static bool stupid_may_have(const struct engine *e, uint32_t len, enum engine_fit fit)
{
	(void)fit;
	return stupid_longest_hint(e) >= len;
}

static size_t stupid_bytes(const struct engine *e)
{
	return atomic_load_explicit(&stupid_of_const(e)->bytes, memory_order_relaxed);
}

// ---- check ----

// E2: every run is maximal and inside one part.
static int check_runs(const struct stupid *s, struct errmsg *why)
{
	struct mrun run = run_of(s, iset_first(&s->pool, &s->all, 0, 1));

	while (run.len > 0) {
		struct mrun next = run_of(s, iset_first(&s->pool, &s->all, mrun_end(run), 1));

		if ((run.start & s->part_mask) + (uint64_t)run.len - 1 > s->part_mask) {
			errmsg_set(why, "stupid: run %u+%u crosses a part's border", run.start, run.len);
			return -EUCLEAN;
		}
		if (next.len > 0 && next.start == mrun_end(run) && (next.start & s->part_mask) != 0) {
			errmsg_set(why, "stupid: runs %u+%u and %u+%u are neighbours", run.start, run.len, next.start, next.len);
			return -EUCLEAN;
		}
		run = next;
	}
	return 0;
}

// Each run in a bin is one of all runs, and belongs there.
static int check_bin(const struct stupid *s, uint32_t bin, uint32_t *n_runs, struct errmsg *why)
{
	const struct iset *set = &s->bins[bin];

	if (!iset_check(&s->pool, set, s->n_blk, n_runs)) {
		errmsg_set(why, "stupid: the tree of bin %u is wrong", bin);
		return -EUCLEAN;
	}
	for (uint32_t i = iset_first(&s->pool, set, 0, 1); i != NIL;
	     i = iset_first(&s->pool, set, interval_end(&s->pool.at[i]), 1)) {
		const struct interval *v = &s->pool.at[i];

		if (bin_of(v->len) != bin || iset_first(&s->pool, &s->all, v->start, 1) != i) {
			errmsg_set(why, "stupid: run %u+%u does not belong in bin %u", v->start, v->len, bin);
			return -EUCLEAN;
		}
	}
	return 0;
}

static int stupid_check(struct engine *e, struct errmsg *why)
{
	const struct stupid *s = stupid_of(e);
	uint32_t n_all, n_binned = 0;
	int rc;

	if (!iset_check(&s->pool, &s->all, s->n_blk, &n_all)) {
		errmsg_set(why, "stupid: the tree of all runs is wrong");
		return -EUCLEAN;
	}
	rc = check_runs(s, why);
	for (uint32_t b = 0; b < N_BINS && rc == 0; b++) {
		uint32_t n;

		rc = check_bin(s, b, &n, why);
		n_binned += n;
	}
	if (rc != 0)
		return rc;
	if (n_binned != n_all || s->pool.n_used != n_all || s->pool.n_used + s->pool.n_recycled != s->pool.n_touched) {
		errmsg_set(why, "stupid: %u runs, %u in bins, %u of %u nodes in use and %u not", n_all, n_binned,
			   s->pool.n_used, s->pool.n_touched, s->pool.n_recycled);
		return -EUCLEAN;
	}
	if (stupid_longest_hint(e) != iset_longest(&s->pool, &s->all)) {
		errmsg_set(why, "stupid: the longest run is announced as %u, not %u", stupid_longest_hint(e),
			   iset_longest(&s->pool, &s->all));
		return -EUCLEAN;
	}
	return 0;
}

const struct engine_ops engine_stupid = {
	.name = "stupid",
	.about = "Ceph's: ordered sets in bins of powers of two, from the last allocation on",
	.fits = 1u << FIT_BEST,
	.create = stupid_create,
	.destroy = stupid_destroy,
	.open = stupid_open,
	.close = stupid_close,
	.reserve = stupid_reserve,
	.give = stupid_give,
	.take = stupid_take,
	.any_free = stupid_any_free,
	.run_at = stupid_run_at,
	.next_run = stupid_next_run,
	.find = stupid_find,
	.longest = stupid_longest,
	.may_have = stupid_may_have,
	.longest_hint = stupid_longest_hint,
	.bytes = stupid_bytes,
	.check = stupid_check,
};
