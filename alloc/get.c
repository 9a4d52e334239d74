// SPDX-License-Identifier: MIT
// One alloc_get, from the request to the runs.
//
//      reserve n of the volume's free count         -ENOSPC is decided here and nowhere else
//        → the stream's window, a word              no lock, no search
//        → the goal: go on where the file ends      one look at the free map
//        → a good fit in the rotor's arena, then in the others
//        → with ALLOC_CONTIG: any run that is long enough; then once more without windows and words
//          otherwise: several pieces                the longest runs first; the last piece by a good fit
//
// Whoever has reserved n blocks finds them: a block leaves the volume's count before it leaves a free map and enters it
// after. What can hide them for a moment are windows and words (taken back) and a block that another thread moves
// behind the back of a pass over the arenas (tried again).
#include "alloc/alloc_internal.h"

#include <errno.h>
#include <sched.h>

// Passes that find nothing although blocks are reserved. Each one means that others have moved blocks meanwhile.
#define MAX_FRUITLESS 1000u
// How far the requests of one stream get out of order: a thread for each of 16, 1 MiB each.
#define OVERTAKEN_BLK 4096u

// ---- where the file goes on ----

// The window served all: when it is used up, the next one is opened behind it.
static void renew_window(struct grab *g)
{
	struct alloc_hold *h = &g->s->window;
	struct arena *ar = arena_of(g->a, h->home_blk);

	if (hold_peek(h).len_blk > 0)
		return;
	lock_take(&ar->lock);
	hold_close_locked(g->a, ar, h);
	grab_open_window(g, ar);
	lock_drop(&ar->lock);
}

// A window that does not hold the whole request goes back to the map, where the goal finds its blocks together with what
// is free behind them.
static void from_window(struct grab *g)
{
	struct alloc_hold *h = &g->s->window;
	uint64_t start_abs;

	if (h->home_blk == 0)
		return;
	if (!hold_take(h, g->goal_abs, g->left_blk, &start_abs)) {
		hold_close(g->a, h);
		return;
	}
	VERIFY(grab_add(g, start_abs, g->left_blk) == 0); // alloc_get has made room
	renew_window(g);
}

static int at_goal(struct grab *g)
{
	struct alloc *a = g->a;
	struct arena *ar;
	struct metaslab *ms;
	struct mrun run;
	uint64_t start_abs;
	uint32_t goal, len;
	int err;

	if (g->goal_abs == 0 || g->goal_abs >= a->n_blks)
		return 0;
	if (g->left_blk <= SMALL_MAX_BLK && hold_take(&pool_word(a, g->origin)->hold, g->goal_abs, g->left_blk, &start_abs)) {
		VERIFY(grab_add(g, g->goal_abs, g->left_blk) == 0); // alloc_get has made room
		return 0;
	}
	ms = ms_of(a, g->goal_abs);
	if (atomic_load_explicit(&ms->free_blk, memory_order_relaxed) == 0)
		return 0;
	err = ms_lock_loaded(a, ms);
	if (err != 0)
		return err;
	ar = arena_of(a, g->goal_abs);
	goal = (uint32_t)(g->goal_abs - ar->first_abs);
	run = a->ops->run_at(ar->engine, goal);
	if (run.len > 0) {
		len = (uint32_t)min_u64(g->left_blk, mrun_end(run) - goal);
		if (len == g->left_blk || !g->contig)
			err = grab_take(g, ar, run, goal, len);
		if (err == 0)
			grab_open_window(g, ar);
	}
	lock_drop(&ar->lock);
	return err;
}

// ---- when there is no good fit ----

// One run. With `partial` the longest one that there is, if none has all; each round succeeds, loads a metaslab or asks for less.
static int in_one_piece(struct grab *g, bool partial)
{
	int err = arena_serve_any(g, false);

	if (err == 0 && g->left_blk > 0) {
		pool_reclaim_all(g->a);
		err = arena_serve_any(g, true);
	}
	while (err == 0 && partial && g->left_blk > 0) {
		uint64_t wanted = g->left_blk, len = arena_next_best(g->a, wanted);

		if (len == 0)
			break;
		escrow_give(g->a, wanted - len);
		g->left_blk = len;
		err = arena_serve_any(g, true);
	}
	return err != 0 ? err : g->left_blk > 0 ? -ENOSPC : 0;
}

static int one_round(struct grab *g)
{
	int err = arena_serve_any(g, false);

	if (err == 0 && g->left_blk > 0)
		err = arena_serve_pieces(g);
	return err;
}

static int in_pieces(struct grab *g)
{
	unsigned fruitless = 0;
	int err = 0;

	while (err == 0 && g->left_blk > 0) {
		uint64_t before = g->left_blk;

		err = one_round(g);
		if (err != 0 || g->left_blk < before)
			continue;
		if (++fruitless > MAX_FRUITLESS)
			return -ENOSPC;
		if (fruitless > 1)
			sched_yield();
		pool_reclaim_all(g->a);
	}
	return err;
}

static int fill(struct grab *g, bool partial)
{
	int err = 0;

	if (g->s != NULL && !g->late)
		from_window(g);
	if (g->left_blk > 0)
		err = at_goal(g);
	if (err == 0 && g->left_blk > 0)
		err = arena_serve(g);
	if (err != 0 || g->left_blk == 0)
		return err;
	return g->contig ? in_one_piece(g, partial) : in_pieces(g);
}

// ---- the request ----

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
	escrow_give(g->a, g->left_blk);
}

// Requests of one stream overtake each other when several threads bring them. Whoever comes early leaves the room of those
// before him (the caller names the goal); whoever comes late takes it, and the stream goes on where it was.
static bool is_late(const struct alloc_stream *s, uint64_t goal_abs)
{
	return goal_abs < s->goal_blk && s->goal_blk - goal_abs <= OVERTAKEN_BLK;
}

static void follow_stream(struct grab *g, const struct alloc_req *req)
{
	struct alloc_stream *s = g->s;
	bool sequential;

	if (s->a == NULL)
		s->a = g->a;
	else if (g->goal_abs == 0)
		g->goal_abs = s->goal_blk;
	g->late = is_late(s, g->goal_abs);
	if (g->late)
		return;
	sequential = s->goal_blk != 0 && g->goal_abs - s->goal_blk <= OVERTAKEN_BLK;
	g->wish_blk = pool_window_wish(s, sequential, req->want_blk);
	g->grown_blk = sequential ? s->in_order_blk : 0;
}

// Processors do not collide.
static uint32_t hash_origin(uint32_t locality, unsigned cpu)
{
	uint64_t x = locality * 0x9e3779b97f4a7c15ull;

	return locality != 0 ? (uint32_t)(x >> 32 ^ x >> 52) : cpu;
}

// With the lock. Not where a stream's window could be in the way of a large request.
static inline bool grab_in(struct alloc *a, struct arena *ar, uint64_t want, unsigned fits, uint64_t *start_abs)
{
	uint32_t start;

	if ((want >= LARGE_BLK && ar->n_windows > 0) || !a->ops->grab(ar->engine, (uint32_t)want, fits, &start))
		return false;
	ms_took(a, ar, start, (uint32_t)want);
	*start_abs = ar->first_abs + start;
	return true;
}

// A good fit in another arena, unless somebody is busy there: a worse one at home costs less than waiting. With the home's lock:
// others are only tried.
static bool grab_elsewhere(struct alloc *a, uint32_t home, uint32_t origin, uint64_t want, uint64_t *start_abs)
{
	bool done = false;

	for (uint32_t i = 0; i < a->n_arenas && !done; i++) {
		struct arena *ar = &a->arenas[i];

		if (i == home || !arena_may_have(a, ar, want, FITS_GOOD) || !lock_try(&ar->lock))
			continue;
		done = grab_in(a, ar, want, FITS_GOOD, start_abs);
		lock_drop(&ar->lock);
		if (done) // the next one has more luck there, too
			atomic_store_explicit(arena_rotor(a, origin), i, memory_order_relaxed);
	}
	return done;
}

// Whether all that is free can be had at once.
static bool all_loaded(const struct alloc *a)
{
	for (uint32_t i = 0; i < a->n_arenas; i++)
		if (atomic_load_explicit(&a->arenas[i].unloaded_blk, memory_order_relaxed) > 0)
			return false;
	return true;
}

// With the lock of the home: one run that fits well there or elsewhere, or else badly at home.
static inline bool grab_one(struct alloc *a, uint32_t home, uint32_t origin, const struct alloc_req *req, uint64_t *start_abs)
{
	struct arena *ar = &a->arenas[home];
	uint64_t want = req->want_blk;

	if (grab_in(a, ar, want, FITS_GOOD, start_abs))
		return true;
	return all_loaded(a) && (grab_elsewhere(a, home, origin, want, start_abs) ||
	                         grab_in(a, ar, want, last_fit(req->flags & ALLOC_CONTIG, want), start_abs));
}

// Reserves n blocks and takes the arena's lock: 0, or without it -ENOSPC.
static int reserve_and_lock(struct alloc *a, struct arena *ar, uint64_t n, bool use_reserve)
{
	uint64_t got;
	int err;

	if (escrow_peek(ar) >= n) { // or it seems so, without the lock
		lock_take(&ar->lock);
		if (escrow_take_here(ar, n))
			return 0;
		lock_drop(&ar->lock);
	}
	err = escrow_take(a, ar, n, false, use_reserve, &got);
	if (err == 0)
		lock_take(&ar->lock);
	return err;
}

// When no run is long enough, and that has been found out: `left_blk` are reserved.
static int get_pieces(struct alloc *a, uint32_t origin, uint64_t left_blk, struct runlist *out)
{
	struct grab g = { .a = a, .out = out, .origin = origin, .left_blk = left_blk, .old_n = out->n };
	int err;

	g.old_last_len = out->n > 0 ? out->runs[out->n - 1].len_blk : 0;
	err = in_pieces(&g);
	if (err != 0)
		undo(&g);
	return err;
}

// Most requests of a volume in use: one run, and nobody's window to think of. 0, -ENOSPC, or -EAGAIN if anything is unusual.
static inline int get_quickly(struct alloc *a, uint32_t origin, const struct alloc_req *req, struct runlist *out)
{
	uint64_t want = req->want_blk, start_abs;
	uint32_t home = atomic_load_explicit(arena_rotor(a, origin), memory_order_relaxed);
	struct arena *ar = &a->arenas[home];
	bool done, may_split;
	int err;

	if (want - 1 >= EXTENT_MAX_BLK || a->ops->grab == NULL || (want <= SMALL_MAX_BLK && is_plenty(ar)) ||
	    out->n == out->cap)
		return -EAGAIN;
	err = reserve_and_lock(a, ar, want, req->flags & ALLOC_USE_RESERVE);
	if (err != 0)
		return err;
	done = grab_one(a, home, origin, req, &start_abs);
	may_split = !(req->flags & ALLOC_CONTIG) && ar->n_windows == 0;
	lock_drop(&ar->lock);
	if (done) {
		VERIFY(runlist_add(out, start_abs, want) == 0); // there is room
		return 0;
	}
	if (may_split && all_loaded(a))
		return get_pieces(a, origin, want, out);
	escrow_give(a, want);
	return -EAGAIN;
}

static int get_slowly(struct alloc *a, struct alloc_stream *s, const struct alloc_req *req, uint32_t origin, struct runlist *out)
{
	struct grab g = { .a = a, .s = s, .out = out, .goal_abs = req->goal_blk, .origin = origin,
	                  .contig = req->flags & ALLOC_CONTIG, .old_n = out->n };
	struct arena *home = &a->arenas[atomic_load_explicit(arena_rotor(a, origin), memory_order_relaxed)];
	bool partial = req->flags & ALLOC_PARTIAL;
	int err;

	if (req->want_blk == 0 || (req->want_blk > ALLOC_MAX_RUN_BLK && !partial))
		return -EINVAL;
	err = runlist_reserve(out, 1); // so that taking one without a lock cannot fail afterwards
	if (err == 0)
		err = escrow_take(a, home, min_u64(req->want_blk, ALLOC_MAX_RUN_BLK), partial, req->flags & ALLOC_USE_RESERVE,
		                  &g.left_blk);
	if (err != 0)
		return err;
	g.old_last_len = out->n > 0 ? out->runs[out->n - 1].len_blk : 0;
	if (s != NULL)
		follow_stream(&g, req);
	err = fill(&g, partial);
	if (err != 0) {
		undo(&g);
		return err;
	}
	if (s != NULL && !g.late) {
		s->goal_blk = g.end_abs;
		s->in_order_blk = (uint32_t)min_u64(g.grown_blk + req->want_blk, ALLOC_WINDOW_MAX_BLK);
	}
	return 0;
}

// Blocks that are being trimmed are free. Whoever misses them waits for the discard, and no new one begins while he tries again.
static int get_untrimmed(struct alloc *a, struct alloc_stream *s, const struct alloc_req *req, uint32_t origin, struct runlist *out)
{
	int err;

	pthread_rwlock_rdlock(&a->trim_lock);
	err = get_slowly(a, s, req, origin, out);
	pthread_rwlock_unlock(&a->trim_lock);
	return err;
}

int alloc_get(struct alloc *a, struct alloc_stream *s, const struct alloc_req *req, struct runlist *out)
{
	uint32_t origin = hash_origin(req->locality, current_cpu());
	unsigned trims = atomic_load(&a->n_trims);
	int err = -EAGAIN;

	if (req->flags & ALLOC_PARTIAL) // the last resort; it cannot be seen whether more was there
		return get_untrimmed(a, s, req, origin, out);
	if (s == NULL && req->goal_blk == 0)
		err = get_quickly(a, origin, req, out);
	if (err == -EAGAIN)
		err = get_slowly(a, s, req, origin, out);
	if (err == -ENOSPC && (trims % 2 != 0 || atomic_load(&a->n_trims) != trims))
		err = get_untrimmed(a, s, req, origin, out);
	return err;
}
