// SPDX-License-Identifier: MIT
// One alloc_get, from the request to the runs.
//
//      reserve n of the volume's free count         -ENOSPC is decided here and nowhere else
//        → the stream's window                      no search at all
//        → the goal: go on where the file ends      one look at the free map
//        → a word (small requests), else best fit   the rotor's metaslab, then PICK_TRIES more
//        → with ALLOC_CONTIG: every metaslab        whole bins, then once more without windows and words
//          otherwise: several pieces                the longest runs first; the last piece by best fit
//
// Whoever has reserved n blocks finds them: a block leaves the volume's count before it leaves a free map and enters it
// after. What can hide them for a moment are windows and words (taken back) and a block that another thread moves
// behind the back of a pass over the metaslabs (tried again).
#include "alloc/alloc_internal.h"

#include <errno.h>
#include <sched.h>

// Passes that find nothing although blocks are reserved. Each one means that others have moved blocks meanwhile.
#define MAX_FRUITLESS 1000u
// Room left behind a stream that is still growing when somebody else needs a place in the same run: 16 MiB.
#define SHADOW_BLK 4096u

struct grab {
	struct alloc *a;
	struct alloc_stream *s; // may be NULL
	struct runlist *out;
	uint64_t left_blk;
	uint64_t goal_abs; // 0 = none
	uint64_t end_abs;  // behind the last block got
	uint32_t origin;
	uint32_t wish_blk; // to hold behind the request
	bool contig;
	// `out` as it was
	uint32_t old_n;
	uint64_t old_last_len;
};

static int add_out(struct grab *g, struct metaslab *ms, uint32_t start, uint32_t len)
{
	int err = runlist_add(g->out, ms->first_abs + start, len);

	if (err != 0)
		return err;
	g->left_blk -= len;
	g->end_abs = ms->first_abs + start + len;
	return 0;
}

// FREE → TAKEN of a part of a free run.
static int take(struct grab *g, struct metaslab *ms, struct mrun run, uint32_t start, uint32_t len)
{
	int err = add_out(g, ms, start, len);

	if (err == 0)
		ms_take(ms, run, start, len);
	return err;
}

static void open_window(struct grab *g, struct metaslab *ms)
{
	if (g->s != NULL && g->left_blk == 0)
		pool_window_open(g->a, ms, g->s, ms_rel(ms, g->end_abs), g->wish_blk);
}

// A window that does not hold the whole request goes back to the map, where the goal finds its blocks together with what
// is free behind them.
static int from_window(struct grab *g)
{
	struct alloc_stream *s = g->s;
	struct metaslab *ms;
	int err = 0;

	if (s == NULL || s->a == NULL || s->window.start_blk == 0)
		return 0;
	ms = ms_of(g->a, s->window.start_blk);
	pthread_mutex_lock(&ms->lock);
	if (s->window.len_blk == 0)
		goto out;
	if (!pool_window_has(s, g->goal_abs, g->left_blk)) {
		pool_window_drop(g->a, ms, s);
		goto out;
	}
	err = add_out(g, ms, ms_rel(ms, g->goal_abs), (uint32_t)g->left_blk);
	if (err != 0)
		goto out;
	pool_window_take(g->a, ms, s, g->goal_abs, (uint32_t)(g->end_abs - g->goal_abs));
	if (s->window.len_blk == 0)
		open_window(g, ms);
out:
	pthread_mutex_unlock(&ms->lock);
	return err;
}

static int from_word(struct grab *g, struct metaslab *ms, struct mrun *word)
{
	uint32_t len = (uint32_t)g->left_blk;
	int err = add_out(g, ms, word->start, len);

	if (err == 0)
		pool_word_take(g->a, ms, word, len);
	return err;
}

static int at_goal(struct grab *g)
{
	struct metaslab *ms;
	struct mrun run, *word;
	uint32_t goal, len;
	int err;

	if (g->goal_abs == 0 || g->goal_abs >= g->a->n_blks)
		return 0;
	ms = ms_of(g->a, g->goal_abs);
	if (atomic_load_explicit(&ms->free_blk, memory_order_relaxed) == 0)
		return 0;
	err = ms_lock_loaded(g->a, ms);
	if (err != 0)
		return err;
	goal = ms_rel(ms, g->goal_abs);
	if (bits_test(ms->map->bits, goal)) {
		run = buddy_run_at(ms->map, goal);
		len = (uint32_t)min_u64(g->left_blk, mrun_end(run) - goal);
		if (len == g->left_blk || !g->contig)
			err = take(g, ms, run, goal, len);
		if (err == 0)
			open_window(g, ms);
	} else if (g->left_blk <= SMALL_MAX_BLK) {
		word = pool_word_at(ms, g->origin, goal, (uint32_t)g->left_blk);
		if (word != NULL)
			err = from_word(g, ms, word);
	}
	pthread_mutex_unlock(&ms->lock);
	return err;
}

// Where in a free run a request of n blocks (window included) begins. Small ones go to the far end. Large ones begin at
// the near end, but leave room behind a stream that is still growing there, so that streams written at the same
// time do not cut each other short.
static uint32_t place_in(const struct metaslab *ms, struct mrun run, uint32_t n)
{
	if (n < SPAN_BLK)
		return slab_open_at(run);
	if (run.len / 4 >= n && ms_roomy(ms, n) && pool_window_ends_at(ms, run.start))
		return run.start + min_u32(SHADOW_BLK, run.len / 2);
	return run.start;
}

// All that is left, in one run, from this metaslab. Nothing is done if there is no such run.
static int place(struct grab *g, struct metaslab *ms, bool all)
{
	uint32_t n = (uint32_t)g->left_blk, with_window = n + g->wish_blk;
	struct mrun run = { 0, 0 }, *word;
	int err;

	if (n <= SMALL_MAX_BLK && g->wish_blk == 0) {
		word = pool_word(g->a, ms, g->origin, n);
		if (word != NULL)
			return from_word(g, ms, word);
	}
	if (with_window > n && ms_roomy(ms, with_window))
		run = buddy_fit(ms->map, with_window, false);
	if (run.len == 0) {
		with_window = n;
		run = buddy_fit(ms->map, n, all);
	}
	if (run.len == 0)
		return 0;
	err = take(g, ms, run, place_in(ms, run, with_window), n);
	if (err == 0)
		open_window(g, ms);
	return err;
}

static int place_locking(struct grab *g, struct metaslab *ms, bool all)
{
	int err = ms_lock_loaded(g->a, ms);

	if (err != 0)
		return err;
	err = place(g, ms, all);
	pthread_mutex_unlock(&ms->lock);
	return err;
}

static int in_picked_metaslab(struct grab *g)
{
	int err = 0;

	for (unsigned i = 0; i < PICK_TRIES && g->left_blk > 0 && err == 0; i++) {
		struct metaslab *ms = pick_for_run(g->a, g->origin, g->left_blk, i > 0);

		if (ms == NULL)
			break;
		err = place_locking(g, ms, false);
	}
	return err;
}

static int in_any_metaslab(struct grab *g)
{
	int err = 0;

	for (unsigned pass = 0; pass < 2 && g->left_blk > 0 && err == 0; pass++) {
		if (pass == 1)
			pool_reclaim_all(g->a);
		for (uint32_t i = 0; i < g->a->n_ms && g->left_blk > 0 && err == 0; i++)
			if (pick_may_have(&g->a->ms[i], g->left_blk))
				err = place_locking(g, &g->a->ms[i], true);
	}
	return err;
}

// The longest runs of a metaslab, down to half of the longest.
static int take_longest(struct grab *g, struct metaslab *ms)
{
	struct mrun run = buddy_top(ms->map);
	uint32_t shortest = run.len / 2;
	int err = 0;

	while (err == 0 && g->left_blk > 0 && run.len > 0 && run.len >= shortest) {
		if (run.len > g->left_blk)
			run = buddy_fit(ms->map, (uint32_t)g->left_blk, true);
		err = take(g, ms, run, run.start, (uint32_t)min_u64(run.len, g->left_blk));
		run = buddy_top(ms->map);
	}
	return err;
}

static int in_pieces(struct grab *g)
{
	unsigned fruitless = 0;

	while (g->left_blk > 0) {
		struct metaslab *ms = pick_heaviest(g->a);
		uint64_t before = g->left_blk;
		int err;

		if (ms == NULL) {
			pool_reclaim_all(g->a);
		} else {
			err = ms_lock_loaded(g->a, ms);
			if (err != 0)
				return err;
			err = take_longest(g, ms);
			pthread_mutex_unlock(&ms->lock);
			if (err != 0)
				return err;
		}
		if (g->left_blk == before) {
			if (++fruitless > MAX_FRUITLESS)
				return -ENOSPC;
			if (fruitless > 1)
				sched_yield();
		}
	}
	return 0;
}

// The longest run that a request for one run of fewer than n blocks may hope for.
static uint64_t next_best(struct alloc *a, uint64_t n)
{
	uint64_t best = 0;

	for (uint32_t i = 0; i < a->n_ms; i++) {
		struct metaslab *ms = &a->ms[i];
		uint64_t len;

		pthread_mutex_lock(&ms->lock);
		len = ms->map != NULL ? buddy_largest(ms->map) : ms->free_blk;
		pthread_mutex_unlock(&ms->lock);
		best = max_u64(best, min_u64(len, n - 1));
	}
	return best;
}

// One run. With `partial` the longest one that there is, if none has all; each round either loads a metaslab or succeeds.
static int in_one_piece(struct grab *g, bool partial)
{
	int err = in_any_metaslab(g);

	while (err == 0 && partial && g->left_blk > 0) {
		uint64_t wanted = g->left_blk, len = next_best(g->a, wanted);

		if (len == 0)
			break;
		atomic_fetch_add(&g->a->free_blk, (int64_t)(wanted - len));
		g->left_blk = len;
		err = in_any_metaslab(g);
	}
	return err != 0 ? err : g->left_blk > 0 ? -ENOSPC : 0;
}

static int fill(struct grab *g, bool partial)
{
	int err = from_window(g);

	if (err == 0 && g->left_blk > 0)
		err = at_goal(g);
	if (err == 0 && g->left_blk > 0)
		err = in_picked_metaslab(g);
	if (err != 0 || g->left_blk == 0)
		return err;
	return g->contig ? in_one_piece(g, partial) : in_pieces(g);
}

// Takes n blocks out of the volume's count: n = want, or what there is.
static int reserve(struct alloc *a, const struct alloc_req *req, uint64_t *n)
{
	int_fast64_t free_blk = atomic_load(&a->free_blk), usable;
	int_fast64_t kept = req->flags & ALLOC_USE_RESERVE ? 0 : (int_fast64_t)a->reserve_blk;

	*n = req->want_blk;
	if (req->flags & ALLOC_PARTIAL)
		*n = min_u64(*n, ALLOC_MAX_RUN_BLK);
	do {
		usable = free_blk - kept;
		if (usable <= 0 || ((uint64_t)usable < *n && !(req->flags & ALLOC_PARTIAL)))
			return -ENOSPC;
		*n = min_u64(*n, (uint64_t)usable);
	} while (!atomic_compare_exchange_weak(&a->free_blk, &free_blk, free_blk - (int_fast64_t)*n));
	return 0;
}

static void undo(struct grab *g)
{
	struct runlist *out = g->out;

	for (uint32_t i = g->old_n; i < out->n; i++)
		alloc_put_back(g->a, out->runs[i].start_blk, out->runs[i].len_blk);
	out->n = g->old_n;
	if (g->old_n > 0) {
		struct run *last = &out->runs[g->old_n - 1];

		if (last->len_blk > g->old_last_len)
			alloc_put_back(g->a, last->start_blk + g->old_last_len, last->len_blk - g->old_last_len);
		last->len_blk = g->old_last_len;
	}
	atomic_fetch_add(&g->a->free_blk, (int_fast64_t)g->left_blk);
}

static void follow_stream(struct grab *g, const struct alloc_req *req)
{
	struct alloc_stream *s = g->s;
	bool sequential;

	if (s->a == NULL)
		s->a = g->a;
	else if (g->goal_abs == 0)
		g->goal_abs = s->goal_blk;
	sequential = s->goal_blk != 0 && g->goal_abs == s->goal_blk;
	g->wish_blk = pool_window_wish(s, sequential, req->want_blk);
}

int alloc_get(struct alloc *a, struct alloc_stream *s, const struct alloc_req *req, struct runlist *out)
{
	struct grab g = { .a = a, .s = s, .out = out, .goal_abs = req->goal_blk,
	                  .contig = req->flags & ALLOC_CONTIG, .old_n = out->n };
	int err;

	if (req->want_blk == 0 || (req->want_blk > ALLOC_MAX_RUN_BLK && !(req->flags & ALLOC_PARTIAL)))
		return -EINVAL;
	err = reserve(a, req, &g.left_blk);
	if (err != 0)
		return err;
	g.old_last_len = out->n > 0 ? out->runs[out->n - 1].len_blk : 0;
	g.origin = pick_origin(req->locality);
	if (s != NULL)
		follow_stream(&g, req);
	err = fill(&g, req->flags & ALLOC_PARTIAL);
	if (err != 0) {
		undo(&g);
		return err;
	}
	if (s != NULL)
		s->goal_blk = g.end_abs;
	return 0;
}
