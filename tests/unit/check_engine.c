// SPDX-License-Identifier: MIT
// Every engine of alloc/engine.h against one naive reference (naive_map.h): random sequences of everything that an arena may
// ask for, on arenas of many shapes. What is compared follows from the contract alone: E1 to E3, what each fit promises, and
// the bounds of the hints. An engine is free to prefer one run to another.
//
// After each change the neighbourhood is compared; now and then everything is, and the engine checks itself. A failure names
// engine, shape and step; SEED=n runs those sequences again, OPS=n changes how many steps each engine takes in all.
#include <check.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/engine.h"
#include "naive_map.h"
#include "run_suite.h"

#if defined(__SANITIZE_THREAD__) // which is about hints_need_no_lock
#define OPS_PER_ENGINE 30000u
#define READS 20000u
#define N_SHAPES 10
#elif defined(__SANITIZE_ADDRESS__)
#define OPS_PER_ENGINE 100000u
#define READS 20000u
#else
#define OPS_PER_ENGINE 400000u
#define READS 300000u
#endif

#ifndef N_SHAPES
#define N_SHAPES (int)ARRAY_LEN(shapes)
#endif

#define SPARE_BLK 1024u // a request of one extent: 4 MiB
#define LONG_BLK 256u   // from here on longest() and FIT_LARGEST have to come near the longest

enum fill { FILL_FREE, FILL_USED, FILL_COMB, FILL_SPARSE, FILL_DENSE, FILL_CLUMPS, FILL_ANY };

struct shape {
	const char *name;
	uint32_t n_blk, part_shift;
	enum fill fill;      // of a part that is opened
	unsigned share;      // of the steps, in 1/1000
	uint32_t max_len;    // of a find and of a change, most of the time
};

static const struct shape shapes[] = {
	{ "one block", 1, 12, FILL_FREE, 5, 1 },
	{ "two blocks", 2, 12, FILL_FREE, 5, 2 },
	{ "63 blocks", 63, 12, FILL_ANY, 20, 20 },
	{ "64 blocks", 64, 12, FILL_ANY, 20, 20 },
	{ "65 blocks", 65, 12, FILL_ANY, 20, 20 },
	{ "257 blocks", 257, 12, FILL_ANY, 30, 60 },
	{ "1000 blocks", 1000, 12, FILL_ANY, 50, 100 },
	{ "a part less one", 4095, 12, FILL_ANY, 50, 700 },
	{ "a part", 4096, 12, FILL_FREE, 70, 300 },
	{ "a part and one", 4097, 12, FILL_ANY, 50, 700 },
	{ "odd", 5 * 4096 + 77, 12, FILL_ANY, 150, 600 },
	{ "combed", 3 * 8192 + 4000, 13, FILL_COMB, 100, 4 },
	{ "full", 3 * 8192 + 193, 13, FILL_USED, 100, 300 },
	{ "full of holes", 2 * 16384 + 64, 14, FILL_DENSE, 100, 8 },
	{ "many parts", 50 * 4096 + 1999, 12, FILL_ANY, 110, 1500 },
	{ "wide", 3 * 65536 + 12345, 16, FILL_FREE, 80, 2500 },
	{ "huge runs", (1u << 20) + 5, 21, FILL_FREE, 25, 100000 },
	{ "huge parts", 5u << 18, 18, FILL_CLUMPS, 15, 20000 },
};

struct world {
	const struct engine_ops *ops;
	const struct shape *shape;
	struct engine *e;
	struct naive_map ref;
	uint64_t rng, seed, step;
	uint32_t budget; // changes that the last reserve() covers
	unsigned n_found[N_FITS], n_unforeseen[N_FITS]; // finds that succeeded, and those that may_have did not expect
};

// Fails with everything that is needed to run it again.
#define EXPECT(w, cond, ...)                                                                                             \
	do {                                                                                                             \
		if (!(cond))                                                                                             \
			failed_at(w, #cond, __VA_ARGS__);                                                                \
	} while (0)

static void failed_at(const struct world *w, const char *cond, const char *fmt, ...) ATTR_PRINTF(3, 4);

static void failed_at(const struct world *w, const char *cond, const char *fmt, ...)
{
	char text[600];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	ck_abort_msg("engine %s, shape '%s', SEED=%" PRIu64 ", step %" PRIu64 ": %s: not %s", w->ops->name, w->shape->name,
	             w->seed, w->step, text, cond);
}

static uint64_t rnd(struct world *w, uint64_t below)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return (w->rng * 0x2545f4914f6cdd1dull >> 20) % below;
}

// Mostly short ones, up to max_len; sometimes any length that the arena has.
static uint32_t random_len(struct world *w)
{
	uint32_t most = w->shape->max_len, kind = (uint32_t)rnd(w, 20);

	if (kind == 0)
		return 1 + (uint32_t)rnd(w, w->shape->n_blk);
	if (kind < 8)
		most = most < 16 ? most : 16;
	else if (kind < 14)
		most = most < 300 ? most : 300;
	return 1 + (uint32_t)rnd(w, most);
}

// ---- comparing ----

static void same_run(const struct world *w, struct mrun got, struct mrun want, const char *what, uint32_t blk)
{
	EXPECT(w, got.len == want.len && (want.len == 0 || got.start == want.start),
	       "%s(%u) is [%u +%u), the reference has [%u +%u)", what, blk, got.start, got.len, want.start, want.len);
}

static void compare_at(struct world *w, uint32_t blk)
{
	same_run(w, w->ops->run_at(w->e, blk), naive_around(&w->ref, blk, NAIVE_FREE), "run_at", blk);
}

// Within an eighth of the longest; among short ones any will do.
static bool near(uint32_t len, uint32_t longest)
{
	return longest < LONG_BLK ? len > 0 || longest == 0 : len >= longest - longest / 8;
}

static void compare_longest(struct world *w)
{
	uint32_t before = w->ops->longest_hint(w->e), after;
	struct mrun got = w->ops->longest(w->e), want = naive_longest(&w->ref);

	after = w->ops->longest_hint(w->e);
	EXPECT(w, near(got.len, want.len), "longest is [%u +%u), the reference has [%u +%u)", got.start, got.len, want.start,
	       want.len);
	EXPECT(w, near(before, got.len), "longest_hint was %u, longest is %u", before, got.len);
	EXPECT(w, near(after, got.len) && after <= want.len, "longest_hint is %u, longest %u, in truth %u", after, got.len,
	       want.len);
	if (got.len > 0)
		same_run(w, got, naive_around(&w->ref, got.start, NAIVE_FREE), "longest", 0);
}

// The blocks on both sides of both borders of what has just changed.
static void compare_around(struct world *w, uint32_t start, uint32_t len)
{
	if (rnd(w, 2 + w->ref.n_blk / 500) == 0)
		compare_longest(w);
	compare_at(w, start);
	if (len > 1)
		compare_at(w, start + len - 1);
	if (start > 0)
		compare_at(w, start - 1);
	if (start + len < w->ref.n_blk)
		compare_at(w, start + len);
}

static void compare_all(struct world *w)
{
	struct errmsg why = { "" };
	struct mrun got, want;
	uint32_t from = 0;

	do {
		got = w->ops->next_run(w->e, from);
		want = naive_next_run(&w->ref, from);
		same_run(w, got, want, "next_run", from);
		from = mrun_end(want);
	} while (want.len > 0 && from < w->ref.n_blk);
	compare_longest(w);
	EXPECT(w, w->ops->check(w->e, &why) == 0, "check: %s", why.text);
}

// ---- opening and closing ----

static uint64_t random_word(struct world *w, enum fill fill)
{
	uint64_t a = rnd(w, UINT32_MAX) | rnd(w, UINT32_MAX) << 32, b = rnd(w, UINT32_MAX) | rnd(w, UINT32_MAX) << 32;

	switch (fill) {
	case FILL_USED:
		return 0;
	case FILL_COMB:
		return 0x5555555555555555ull;
	case FILL_SPARSE:
		return a & b & (a >> 7);
	case FILL_DENSE:
		return a | b;
	case FILL_CLUMPS:
		return a % 8 == 0 ? b : a % 3 == 0 ? 0 : ~0ull;
	default:
		return ~0ull;
	}
}

static void open_part(struct world *w, uint32_t part)
{
	uint32_t len = naive_part_len(&w->ref, part), n_words = (len + 63) / 64;
	enum fill fill = w->shape->fill != FILL_ANY ? w->shape->fill : (enum fill)rnd(w, FILL_ANY);
	uint64_t *bits = calloc(n_words, sizeof(*bits));

	for (uint32_t i = 0; i < n_words; i++)
		bits[i] = random_word(w, fill);
	if (len % 64 != 0)
		bits[n_words - 1] &= (1ull << (len % 64)) - 1;
	ck_assert_int_eq(w->ops->open(w->e, naive_part_start(&w->ref, part), len, bits), 0);
	naive_open(&w->ref, part, bits);
	free(bits);
	w->budget = 0;
}

static void close_part(struct world *w, uint32_t part)
{
	w->ops->close(w->e, naive_part_start(&w->ref, part), naive_part_len(&w->ref, part));
	naive_close(&w->ref, part);
	w->budget = 0;
}

static void step_part(struct world *w)
{
	uint32_t part = (uint32_t)rnd(w, w->ref.n_parts);

	if (!w->ref.open[part]) {
		open_part(w, part);
	} else {
		close_part(w, part);
		if (w->ref.n_parts == 1 || rnd(w, 2) == 0)
			open_part(w, part);
	}
	compare_around(w, naive_part_start(&w->ref, part), naive_part_len(&w->ref, part));
}

// ---- taking and giving ----

static void before_change(struct world *w)
{
	if (w->ops->in_place)
		return;
	if (w->budget == 0) {
		w->budget = 1 + (uint32_t)rnd(w, 6);
		EXPECT(w, w->ops->reserve(w->e, w->budget) == 0, "reserve(%u)", w->budget);
	}
	w->budget--;
}

static void take(struct world *w, struct mrun run, uint32_t start, uint32_t len)
{
	before_change(w);
	EXPECT(w, naive_set(&w->ref, start, len, NAIVE_USED), "[%u +%u) was handed out and is not free", start, len);
	w->ops->take(w->e, run, start, len);
	compare_around(w, start, len);
}

static void give(struct world *w, uint32_t start, uint32_t len)
{
	before_change(w);
	if (w->ops->prefetch != NULL && rnd(w, 2) == 0)
		w->ops->prefetch(w->e, start, len);
	EXPECT(w, naive_set(&w->ref, start, len, NAIVE_FREE), "the test gives [%u +%u)", start, len);
	w->ops->give(w->e, start, len);
	compare_around(w, start, len);
}

// A part of [r): all of it, a piece at either end, or one that touches neither.
static struct mrun piece_of(struct world *w, struct mrun r)
{
	uint32_t len = random_len(w), kind = (uint32_t)rnd(w, 5);

	if (len >= r.len || kind == 0)
		return r;
	if (kind == 1)
		return (struct mrun){ r.start, len };
	if (kind == 2)
		return (struct mrun){ mrun_end(r) - len, len };
	return (struct mrun){ r.start + (uint32_t)rnd(w, r.len - len + 1), len };
}

// What any answer of find must be: free, in one run, long enough, and what its fit says.
static void check_fit(struct world *w, struct mrun r, uint32_t len, enum engine_fit fit)
{
	struct mrun whole;

	EXPECT(w, r.len >= len, "find(%u, %d) is [%u +%u)", len, fit, r.start, r.len);
	EXPECT(w, r.start < w->ref.n_blk, "find(%u, %d) is [%u +%u)", len, fit, r.start, r.len);
	whole = naive_around(&w->ref, r.start, NAIVE_FREE);
	EXPECT(w, whole.len > 0 && mrun_end(r) <= mrun_end(whole), "find(%u, %d) is [%u +%u), not in [%u +%u)", len, fit,
	       r.start, r.len, whole.start, whole.len);
	if (fit == FIT_EXACT)
		EXPECT(w, r.len == len && r.start == whole.start, "find(%u, EXACT) is [%u +%u) of [%u +%u)", len, r.start,
		       r.len, whole.start, whole.len);
	if (fit == FIT_SPARE)
		EXPECT(w, mrun_end(whole) - r.start - len >= SPARE_BLK, "find(%u, SPARE) is [%u +%u)", len, r.start, r.len);
}

static enum engine_fit random_fit(struct world *w)
{
	enum engine_fit fit = (enum engine_fit)rnd(w, N_FITS);

	return w->ops->fits & (1u << fit) ? fit : FIT_BEST;
}

// find, with what it and may_have promise about finding nothing (E3).
static struct mrun find(struct world *w, uint32_t len, enum engine_fit fit)
{
	bool may = w->ops->may_have(w->e, len, fit);
	struct mrun r = w->ops->find(w->e, len, fit);

	if (r.len > 0) {
		EXPECT(w, may || fit < FIT_BEST, "may_have(%u, %d) was false, find is [%u +%u)", len, fit, r.start, r.len);
		check_fit(w, r, len, fit);
		w->n_found[fit]++;
		w->n_unforeseen[fit] += !may;
	} else if (fit == FIT_BEST || fit == FIT_LARGEST) {
		EXPECT(w, !naive_has_run(&w->ref, len), "find(%u, %d) is none", len, fit);
	}
	return r;
}

// A length for a find: now and then one at which the answer tips, because a run is just long enough or just too short.
static uint32_t telling_len(struct world *w, enum engine_fit fit)
{
	uint32_t blk, len = 0, kind = (uint32_t)rnd(w, 8);

	if (kind == 0) {
		len = w->ops->longest(w->e).len;
	} else if (kind < 4) {
		blk = naive_next(&w->ref, (uint32_t)rnd(w, w->ref.n_blk), NAIVE_FREE);
		len = blk < w->ref.n_blk ? naive_around(&w->ref, blk, NAIVE_FREE).len : 0;
	}
	len += (uint32_t)rnd(w, 3);
	if (fit == FIT_SPARE && len > SPARE_BLK)
		len -= SPARE_BLK;
	return kind < 4 && len > 1 ? len - 1 : random_len(w);
}

static void step_find(struct world *w)
{
	enum engine_fit fit = random_fit(w);
	uint32_t len = telling_len(w, fit);
	struct mrun r = find(w, len, fit);

	if (r.len == 0)
		return;
	if (fit == FIT_LARGEST && rnd(w, 16) == 0) {
		uint32_t longest = naive_longest(&w->ref).len;

		EXPECT(w, near(r.len, longest), "find(%u, LARGEST) is [%u +%u) of %u", len, r.start, r.len, longest);
	}
	take(w, r, r.start, len);
}

// Whether a run from start on, of which len blocks are to be had, is what this fit wants.
static bool suits(struct mrun whole, uint32_t start, uint32_t len, enum engine_fit fit)
{
	if (fit == FIT_EXACT)
		return start == whole.start && len == whole.len;
	return mrun_end(whole) - start >= len + (fit == FIT_SPARE ? SPARE_BLK : 0);
}

// find and take in one, with some of the fits.
static void step_grab(struct world *w)
{
	enum engine_fit some = random_fit(w), other = random_fit(w);
	unsigned fits = 1u << some | 1u << other;
	uint32_t len = telling_len(w, some), start = 0;
	struct mrun whole;

	before_change(w);
	if (!w->ops->grab(w->e, len, fits, &start)) {
		w->budget = 0;
		EXPECT(w, (some < FIT_BEST && other < FIT_BEST) || !naive_has_run(&w->ref, len), "grab(%u, %x) is none", len, fits);
		return;
	}
	EXPECT(w, start < w->ref.n_blk, "grab(%u, %x) is at %u", len, fits, start);
	whole = naive_around(&w->ref, start, NAIVE_FREE);
	EXPECT(w, whole.len > 0 && (suits(whole, start, len, some) || suits(whole, start, len, other)),
	       "grab(%u, %x) is at %u of [%u +%u)", len, fits, start, whole.start, whole.len);
	naive_set(&w->ref, start, len, NAIVE_USED);
	compare_around(w, start, len);
}

// Takes a part of a run that one of the other functions names.
static void step_take(struct world *w)
{
	uint32_t blk = naive_next(&w->ref, (uint32_t)rnd(w, w->ref.n_blk), NAIVE_FREE);
	struct mrun r, piece;

	if (blk == w->ref.n_blk)
		return;
	switch (rnd(w, 8)) {
	case 0:
		r = w->ops->longest(w->e);
		break;
	case 1:
		r = w->ops->next_run(w->e, blk);
		break;
	default:
		r = w->ops->run_at(w->e, blk);
	}
	EXPECT(w, r.len > 0, "no run at %u or anywhere", blk);
	piece = piece_of(w, r);
	take(w, r, piece.start, piece.len);
}

static void step_give(struct world *w)
{
	uint32_t blk = naive_next(&w->ref, (uint32_t)rnd(w, w->ref.n_blk), NAIVE_USED);
	struct mrun r;

	if (blk == w->ref.n_blk || !w->ref.open[blk >> w->ref.part_shift])
		return;
	r = naive_around(&w->ref, blk, NAIVE_USED);
	if (rnd(w, 4) == 0) { // around the block itself, and nothing else of the gap
		uint32_t left = mrun_end(r) - blk;

		r.start = blk;
		r.len = random_len(w);
		r.len = r.len < left ? r.len : left;
	} else {
		r = piece_of(w, r);
	}
	give(w, r.start, r.len);
}

// A whole part changes at once, from any state to all used or all free.
static void step_whole_part(struct world *w)
{
	uint32_t part = (uint32_t)rnd(w, w->ref.n_parts), blk = naive_part_start(&w->ref, part);
	uint32_t end = blk + naive_part_len(&w->ref, part);
	enum naive_state from = rnd(w, 2) ? NAIVE_FREE : NAIVE_USED;

	if (!w->ref.open[part])
		return;
	while ((blk = naive_next(&w->ref, blk, from)) < end) {
		struct mrun r = naive_around(&w->ref, blk, from);

		if (from == NAIVE_FREE)
			take(w, w->ops->run_at(w->e, blk), r.start, r.len);
		else
			give(w, r.start, r.len);
		blk = mrun_end(r);
	}
	// Now the whole part in one call, there and back.
	blk = naive_part_start(&w->ref, part);
	if (from == NAIVE_USED)
		take(w, w->ops->run_at(w->e, blk), blk, end - blk);
	else
		give(w, blk, end - blk);
}

static void step_ask(struct world *w)
{
	uint32_t blk = (uint32_t)rnd(w, w->ref.n_blk), part = blk >> w->ref.part_shift;
	uint32_t left = naive_part_start(&w->ref, part) + naive_part_len(&w->ref, part) - blk;
	uint32_t len = random_len(w);
	enum engine_fit fit = random_fit(w);

	find(w, telling_len(w, fit), fit);
	len = len < left ? len : left;
	EXPECT(w, w->ops->any_free(w->e, blk, len) == naive_any_free(&w->ref, blk, len), "any_free(%u, %u)", blk, len);
	same_run(w, w->ops->next_run(w->e, blk), naive_next_run(&w->ref, blk), "next_run", blk);
	compare_at(w, blk);
	if (rnd(w, 8) == 0)
		compare_longest(w);
}

static void step(struct world *w)
{
	// Now filling, now emptying; on the way everything between is met.
	unsigned take_share = w->step / 3000 % 2 ? 28 : 60, kind = (unsigned)rnd(w, 100);
	uint32_t every = 10 + w->ref.n_blk / 100;

	if (kind < 10)
		step_ask(w);
	else if (kind < 10 + take_share / 4 && w->ops->grab != NULL)
		step_grab(w);
	else if (kind < 10 + take_share / 2)
		step_find(w);
	else if (kind < 10 + take_share)
		step_take(w);
	else
		step_give(w);
	if (rnd(w, 500 + w->ref.n_blk / 50) == 0)
		step_whole_part(w);
	if (rnd(w, 1 + 2000 / w->ref.n_parts) == 0)
		step_part(w);
	if (w->step % every == 0)
		compare_all(w);
}

static void run_shape(const struct engine_ops *ops, const struct shape *shape, uint64_t seed, uint64_t n_steps)
{
	struct world w = { .ops = ops, .shape = shape, .seed = seed };
	struct engine_config cfg = { .n_blk = shape->n_blk, .part_shift = shape->part_shift };

	w.rng = (seed + 1) * 0x9e3779b97f4a7c15ull ^ shape->n_blk;
	naive_init(&w.ref, shape->n_blk, shape->part_shift);
	ck_assert_int_eq(ops->create(&cfg, &w.e), 0);
	ck_assert_ptr_eq(w.e->ops, ops);
	compare_all(&w); // nothing is open, nothing is free
	for (uint32_t part = 0; part < w.ref.n_parts; part++)
		if (rnd(&w, 4) != 0 || w.ref.n_parts == 1)
			open_part(&w, part);
	compare_all(&w);
	ck_assert_uint_gt(ops->bytes(w.e), 0);
	for (w.step = 0; w.step < n_steps; w.step++)
		step(&w);
	compare_all(&w);
	for (unsigned fit = 0; fit < N_FITS; fit++)
		EXPECT(&w, w.n_unforeseen[fit] <= 5 + w.n_found[fit] / 20, "may_have(%u): %u of %u found unforeseen", fit,
		       w.n_unforeseen[fit], w.n_found[fit]);
	for (uint32_t part = 0; part < w.ref.n_parts; part++)
		if (w.ref.open[part])
			close_part(&w, part);
	compare_all(&w);
	ops->destroy(w.e);
	naive_free(&w.ref);
}

static unsigned n_engines(void)
{
	unsigned n = 0;

	while (engines[n] != NULL)
		n++;
	return n;
}

// The whole list of engines, a shape for each round of the loop, so that Check reports which one fails.
START_TEST(agrees_with_the_reference)
{
	const char *seed_text = getenv("SEED"), *ops_text = getenv("OPS");
	uint64_t seed = seed_text != NULL ? strtoull(seed_text, NULL, 0) : 1;
	uint64_t n_ops = ops_text != NULL ? strtoull(ops_text, NULL, 0) : OPS_PER_ENGINE;
	const struct shape *shape = &shapes[_i];

	if (_i == 0) {
		printf("check_engine: SEED=%" PRIu64 " OPS=%" PRIu64 ", %u engines\n", seed, n_ops, n_engines());
		fflush(stdout);
	}
	for (unsigned i = 0; i < n_engines(); i++)
		run_shape(engines[i], shape, seed, n_ops * shape->share / 1000);
}
END_TEST

START_TEST(each_has_a_name_of_its_own)
{
	ck_assert_uint_gt(n_engines(), 0);
	for (unsigned i = 0; i < n_engines(); i++) {
		ck_assert_ptr_eq(engine_by_name(engines[i]->name), engines[i]);
		ck_assert_uint_ne(engines[i]->fits & (1u << FIT_BEST), 0);
		ck_assert_uint_gt(strlen(engines[i]->about), 0);
	}
	ck_assert_ptr_null(engine_by_name("nosuch"));
	ck_assert_ptr_null(engine_by_name(""));
}
END_TEST

// ---- corners ----

// The last block of the largest arena: nothing counts on beyond it.
START_TEST(the_largest_arena)
{
	uint32_t start = (ENGINE_MAX_BLK - 1) & ~4095u, len = ENGINE_MAX_BLK - start;
	struct engine_config cfg = { .n_blk = ENGINE_MAX_BLK, .part_shift = 12 };
	uint64_t bits[4096 / 64];

	memset(bits, 0xff, sizeof(bits));
	bits[len / 64] = ~0ull >> (64 - len % 64);
	for (unsigned i = 0; i < n_engines(); i++) {
		const struct engine_ops *ops = engines[i];
		struct errmsg why = { "" };
		struct mrun run;
		struct engine *e;

		ck_assert_int_eq(ops->create(&cfg, &e), 0);
		ck_assert_int_eq(ops->open(e, start, len, bits), 0);
		ck_assert_int_eq(ops->reserve(e, 4), 0);
		run = ops->find(e, len, FIT_BEST);
		ck_assert(run.start == start && run.len == len);
		ops->take(e, run, start, len);
		ck_assert_uint_eq(ops->next_run(e, start).len, 0);
		ops->give(e, ENGINE_MAX_BLK - 1, 1);
		ck_assert_uint_eq(ops->next_run(e, start).start, ENGINE_MAX_BLK - 1);
		ops->give(e, start, len - 1);
		ck_assert_uint_eq(ops->longest(e).len, len);
		ck_assert_msg(ops->check(e, &why) == 0, "%s: %s", ops->name, why.text);
		ops->close(e, start, len);
		ops->destroy(e);
	}
}
END_TEST

// Runs of every length come and go at one place, and nobody searches: whatever an index remembers of them stays bounded.
START_TEST(an_index_that_nobody_reads)
{
	for (unsigned i = 0; i < n_engines(); i++) {
		const struct engine_ops *ops = engines[i];
		struct engine_config cfg = { .n_blk = 4096, .part_shift = 12 };
		uint64_t bits[4096 / 64] = { 0 };
		struct errmsg why = { "" };
		struct engine *e;

		ck_assert_int_eq(ops->create(&cfg, &e), 0);
		ck_assert_int_eq(ops->open(e, 0, 4096, bits), 0);
		for (uint32_t k = 0; k < 40 * SPARE_BLK; k++) {
			ck_assert_int_eq(ops->reserve(e, 2), 0);
			ops->give(e, 0, 1 + k % SPARE_BLK);
			ops->take(e, ops->run_at(e, 0), 0, 1 + k % SPARE_BLK);
			if (k % 1000 == 0)
				ck_assert_msg(ops->check(e, &why) == 0, "%s: %s", ops->name, why.text);
		}
		ck_assert_uint_le(ops->bytes(e), 4 << 20);
		ops->destroy(e);
	}
}
END_TEST

// What an index remembers of a run may be out of date: both ends of one that was cut in two are as they were, over whole MiBs.
START_TEST(a_run_that_lost_its_middle)
{
	for (unsigned i = 0; i < n_engines(); i++) {
		const struct engine_ops *ops = engines[i];
		struct engine_config cfg = { .n_blk = 4096, .part_shift = 12 };
		uint64_t bits[4096 / 64] = { 0 };
		struct errmsg why = { "" };
		struct engine *e;
		uint32_t start;

		if (ops->grab == NULL || !(ops->fits & 1u << FIT_EXACT))
			continue;
		ck_assert_int_eq(ops->create(&cfg, &e), 0);
		ck_assert_int_eq(ops->open(e, 0, 4096, bits), 0);
		ck_assert_int_eq(ops->reserve(e, 3), 0);
		ops->give(e, 100, 600);
		ops->take(e, ops->run_at(e, 300), 300, 100);
		ck_assert(!ops->grab(e, 600, 1u << FIT_EXACT, &start));
		ck_assert_uint_eq(ops->run_at(e, 100).len, 200);
		ck_assert_uint_eq(ops->run_at(e, 400).len, 300);
		ops->give(e, 300, 100); // whole again
		ck_assert(ops->grab(e, 600, 1u << FIT_EXACT, &start));
		ck_assert_uint_eq(start, 100);
		ck_assert_uint_eq(ops->next_run(e, 0).len, 0);
		ck_assert_msg(ops->check(e, &why) == 0, "%s: %s", ops->name, why.text);
		ops->destroy(e);
	}
}
END_TEST

// ---- what may be asked without the lock ----

#define QUIET_BLK 1000u            // at the start of the arena: a run that nobody touches, and a wall of 64 blocks behind it
#define CHURN_BLK (QUIET_BLK + 64) // from here on every second 32 blocks come and go
#define ARENA_BLK (4 * 4096u)

struct watch {
	struct engine *e;
	atomic_bool stop;
	atomic_uint wrong;
};

static void *watch_thread(void *arg)
{
	struct watch *watch = arg;
	const struct engine_ops *ops = watch->e->ops;

	// The quiet run is there all the time, so "no" would be a lie at any moment.
	for (unsigned i = 0; i < READS; i++) {
		bool found = ops->may_have(watch->e, 1 + i % QUIET_BLK, FIT_BEST);

		if (!found || ops->longest_hint(watch->e) > ARENA_BLK || ops->bytes(watch->e) == 0)
			atomic_fetch_add(&watch->wrong, 1);
	}
	atomic_store(&watch->stop, true);
	return NULL;
}

// Runs break and merge all the time.
static void churn(struct engine *e, uint32_t *at)
{
	uint32_t blk = *at;

	ck_assert_int_eq(e->ops->reserve(e, 1), 0);
	if (e->ops->any_free(e, blk, 32))
		e->ops->take(e, e->ops->run_at(e, blk), blk, 32);
	else
		e->ops->give(e, blk, 32);
	*at = blk + 64 + 32 <= ARENA_BLK ? blk + 64 : CHURN_BLK;
}

START_TEST(hints_need_no_lock)
{
	for (unsigned i = 0; i < n_engines(); i++) {
		const struct engine_ops *ops = engines[i];
		struct engine_config cfg = { .n_blk = ARENA_BLK, .part_shift = 14 };
		uint64_t bits[ARENA_BLK / 64];
		struct watch watch = { .wrong = 0 };
		uint32_t at = CHURN_BLK;
		struct errmsg why = { "" };
		pthread_t thread;

		memset(bits, 0xff, sizeof(bits));
		ck_assert_int_eq(ops->create(&cfg, &watch.e), 0);
		ck_assert_int_eq(ops->open(watch.e, 0, ARENA_BLK, bits), 0);
		ck_assert_int_eq(ops->reserve(watch.e, 1), 0);
		ops->take(watch.e, ops->run_at(watch.e, QUIET_BLK), QUIET_BLK, CHURN_BLK - QUIET_BLK);
		ck_assert_int_eq(pthread_create(&thread, NULL, watch_thread, &watch), 0);
		while (!atomic_load(&watch.stop))
			churn(watch.e, &at);
		pthread_join(thread, NULL);
		ck_assert_msg(watch.wrong == 0, "%s: %u wrong answers", ops->name, watch.wrong);
		ck_assert_msg(ops->check(watch.e, &why) == 0, "%s: %s", ops->name, why.text);
		ops->destroy(watch.e);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("engine");
	TCase *all = tcase_create("all"), *reference = tcase_create("reference");

	tcase_set_timeout(all, 120);
	tcase_add_test(all, each_has_a_name_of_its_own);
	tcase_add_test(all, the_largest_arena);
	tcase_add_test(all, an_index_that_nobody_reads);
	tcase_add_test(all, a_run_that_lost_its_middle);
	tcase_add_test(all, hints_need_no_lock);
	tcase_set_timeout(reference, 300);
	tcase_add_loop_test(reference, agrees_with_the_reference, 0, N_SHAPES);
	suite_add_tcase(suite, all);
	suite_add_tcase(suite, reference);
	return run_suite(suite);
}
