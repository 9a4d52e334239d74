// SPDX-License-Identifier: MIT
// Which arena serves a request, and where in it.
//
// Requests of one origin (a directory, else a processor) keep to one arena: origins are hashed to a few rotors, each of
// which points to one. So threads do not fight for locks, and a directory's files lie near each other. In an
// arena the request goes to a run that fits well (FIT_EXACT, FIT_SPARE); if the rotor's arena has none, first another
// metaslab of it is loaded, then the other arenas are asked. Only when nobody has a good fit is a bad one taken.
//
// Whether an arena can serve a request is asked without its lock (may_have); the answer is a hint.
#include "alloc/alloc_internal.h"

#include <errno.h>

// Room left behind a stream that is still growing when somebody else needs a place in the same run: 16 MiB.
#define SHADOW_BLK 4096u
// Pieces taken under one hold of a lock.
#define PIECES_AT_ONCE 16u

// ---- handing out ----

int grab_add(struct grab *g, uint64_t start_abs, uint64_t len)
{
	int err = runlist_add(g->out, start_abs, len);

	if (err != 0)
		return err;
	g->left_blk -= len;
	g->end_abs = start_abs + len;
	return 0;
}

int grab_take(struct grab *g, struct arena *ar, struct mrun run, uint32_t start, uint32_t len)
{
	int err = grab_add(g, ar->first_abs + start, len);

	if (err == 0)
		ms_take(g->a, ar, run, start, len);
	return err;
}

void grab_open_window(struct grab *g, struct arena *ar)
{
	uint32_t at = (uint32_t)(g->end_abs - ar->first_abs);
	struct mrun run;

	if (g->s == NULL || g->wish_blk == 0 || g->left_blk > 0 || g->s->window.home_blk != 0)
		return;
	// The next metaslab is another part of the engine: a window does not reach into it.
	if (at >= ar->n_blk || at % (1u << g->a->ms_shift) == 0 || !is_roomy(ar, g->wish_blk))
		return;
	run = g->a->ops->run_at(ar->engine, at);
	if (run.len == 0 || run.start != at || ms_reserve(ar) != 0)
		return; // no window is no error
	g->s->window.is_window = true;
	hold_open(g->a, ar, &g->s->window, run, at, min_u32(g->wish_blk, run.len));
	g->s->window_blk = min_u32(2 * g->wish_blk, ALLOC_WINDOW_MAX_BLK);
}

// Where in a free run a request of n blocks (window included) begins: at the near end, but behind a stream that is still growing there some
// room is left, so that streams written at the same time do not cut each other short.
static uint32_t place_in(const struct arena *ar, struct mrun run, uint32_t n)
{
	if (ar->n_windows > 0 && n >= LARGE_BLK && run.len / 4 >= n && is_roomy(ar, n) && hold_ends_at(ar, run.start))
		return run.start + min_u32(SHADOW_BLK, run.len / 2);
	return run.start;
}

// ---- one arena ----

// What this engine tells apart of the wanted fits; an engine with a policy of its own is simply asked.
static unsigned fits_of(const struct alloc *a, unsigned wanted) { return a->ops->fits & wanted ? a->ops->fits & wanted : 1u << FIT_BEST; }

static bool may_serve(const struct grab *g, const struct arena *ar, unsigned fits)
{
	return g->left_blk <= ar->n_blk && arena_may_have(g->a, ar, g->left_blk, fits);
}

// The usual case in one call of the engine: from the near end, and no window behind.
static int serve_plainly(struct grab *g, struct arena *ar, unsigned fits)
{
	uint32_t n = (uint32_t)g->left_blk, start;
	int err = runlist_reserve(g->out, 1);

	if (err != 0 || !g->a->ops->grab(ar->engine, n, fits, &start))
		return err;
	ms_took(g->a, ar, start, n);
	return grab_add(g, ar->first_abs + start, n);
}

// With the lock. Nothing is done if there is no such run.
static int serve_locked(struct grab *g, struct arena *ar, unsigned fits)
{
	uint32_t n = (uint32_t)g->left_blk;
	struct mrun run = { 0, 0 };
	int err;

	if (g->a->ops->grab != NULL && g->wish_blk == 0 && (n < LARGE_BLK || ar->n_windows == 0))
		return serve_plainly(g, ar, fits);
	for (enum engine_fit fit = 0; fit < N_FITS && run.len == 0; fit++)
		if (fits & 1u << fit)
			run = g->a->ops->find(ar->engine, n, fit);
	if (run.len == 0)
		return 0;
	err = grab_take(g, ar, run, place_in(ar, run, n + g->wish_blk), n);
	if (err == 0)
		grab_open_window(g, ar);
	return err;
}

// Takes the arena's lock, after loading one of its metaslabs if ms is not NULL. Without the lock on error.
static int lock_arena(struct alloc *a, struct arena *ar, struct metaslab *ms)
{
	int err;

	if (ms != NULL)
		return ms_lock_loaded(a, ms);
	lock_take(&ar->lock);
	err = ms_reserve(ar);
	if (err != 0)
		lock_drop(&ar->lock);
	return err;
}

static int serve(struct grab *g, struct arena *ar, struct metaslab *ms, unsigned fits)
{
	int err = g->left_blk <= ar->n_blk ? lock_arena(g->a, ar, ms) : 0;

	if (err != 0 || g->left_blk > ar->n_blk)
		return err;
	err = serve_locked(g, ar, fits);
	lock_drop(&ar->lock);
	return err;
}

// The request from the start of a run of `len` blocks, its window behind it; only while windows do not hurt.
static int serve_room(struct grab *g, struct arena *ar, uint32_t len, enum engine_fit fit)
{
	struct mrun run;
	int err;

	if (len > ar->n_blk || !arena_may_have(g->a, ar, len, 1u << fit))
		return 0;
	err = lock_arena(g->a, ar, NULL);
	if (err != 0)
		return err;
	run = is_roomy(ar, len) ? g->a->ops->find(ar->engine, len, fit) : (struct mrun){ 0, 0 };
	if (run.len > 0)
		err = grab_take(g, ar, run, run.start, (uint32_t)g->left_blk);
	if (run.len > 0 && err == 0)
		grab_open_window(g, ar);
	lock_drop(&ar->lock);
	return err;
}

// The unloaded metaslab with the most free blocks, if these are at least `least`; NULL = none.
static struct metaslab *emptiest_unloaded(const struct alloc *a, const struct arena *ar, uint64_t least)
{
	struct metaslab *best = NULL;
	uint32_t most = 0;

	if (atomic_load_explicit(&ar->unloaded_blk, memory_order_relaxed) < max_u64(least, 1))
		return NULL;
	for (uint32_t i = 0; i < ar->n_ms; i++) {
		struct metaslab *ms = &a->ms[ar->first_ms + i];
		uint32_t free_blk = atomic_load_explicit(&ms->free_blk, memory_order_relaxed);

		if (free_blk > most && free_blk >= least && !atomic_load_explicit(&ms->loaded, memory_order_relaxed)) {
			most = free_blk;
			best = ms;
		}
	}
	return best;
}

// Loads metaslabs until one serves the request; `least`: blocks that one must have free to be worth it.
static int serve_loading(struct grab *g, struct arena *ar, unsigned fits, uint64_t least)
{
	struct metaslab *ms;
	int err = 0;

	while (err == 0 && g->left_blk > 0 && (ms = emptiest_unloaded(g->a, ar, least)) != NULL)
		err = serve(g, ar, ms, fits);
	return err;
}

// ---- words ----

static int open_word(struct alloc *a, struct arena *ar, struct word *word)
{
	enum engine_fit fit = a->ops->fits & 1u << FIT_SPARE ? FIT_SPARE : FIT_BEST;
	struct metaslab *ms = NULL;
	struct mrun run;
	int err;

	do {
		err = lock_arena(a, ar, ms);
		if (err != 0)
			return err;
		run = a->ops->find(ar->engine, WORD_BLK, fit);
		if (run.len > 0)
			pool_word_open(a, ar, word, run);
		lock_drop(&ar->lock);
	} while (run.len == 0 && (ms = emptiest_unloaded(a, ar, LARGE_BLK)) != NULL);
	return 0;
}

// A small request out of its origin's word. Does nothing when there is none to be had.
static int serve_word(struct grab *g, struct arena *home)
{
	struct word *word = pool_word(g->a, g->origin);
	uint64_t start_abs;
	int err = runlist_reserve(g->out, 1);

	if (err != 0)
		return err;
	if (!hold_take(&word->hold, 0, g->left_blk, &start_abs)) {
		if (!is_plenty(home) || !lock_try(&word->refill_lock))
			return 0;
		hold_close(g->a, &word->hold);
		err = open_word(g->a, home, word);
		lock_drop(&word->refill_lock);
		if (err != 0 || !hold_take(&word->hold, 0, g->left_blk, &start_abs))
			return err;
	}
	return grab_add(g, start_abs, g->left_blk);
}

// ---- all of them ----

// A quarter of an unloaded metaslab's free space in one piece is a fair guess.
static int serve_home(struct grab *g, struct arena *home, unsigned fits)
{
	int err = serve(g, home, NULL, fits);

	if (err == 0 && g->left_blk > 0)
		err = serve_loading(g, home, fits, 4 * g->left_blk);
	return err;
}

// No run has room to spare: what is free lies in runs of a few MiB. A stream that has shown that it is a large one gets a run of
// 4 MiB to itself, the shortest that there is, else the longest at home. A best fit for the request alone would tear it to pieces.
// (A volume of 8 GiB, aged, 86% full, two streams of 128 MiB: extents of 3.5 MiB instead of 2.4.)
static int serve_growing(struct grab *g, uint32_t first)
{
	struct alloc *a = g->a;
	uint32_t n = (uint32_t)g->left_blk, room = max_u32(n, ALLOC_WINDOW_MAX_BLK);
	int err = 0;

	for (uint32_t i = 0; i < a->n_arenas && err == 0 && g->left_blk > 0; i++)
		err = serve_room(g, &a->arenas[(first + i) % a->n_arenas], room, FIT_BEST);
	if (err == 0 && g->left_blk > 0)
		err = serve_room(g, &a->arenas[first], n, FIT_LARGEST);
	return err;
}

int arena_serve(struct grab *g)
{
	struct alloc *a = g->a;
	uint32_t first = atomic_load_explicit(arena_rotor(a, g->origin), memory_order_relaxed);
	// A stream that goes on wants room behind it more than an exact fit.
	unsigned fits = fits_of(a, g->wish_blk > 0 ? 1u << FIT_SPARE : FITS_GOOD);
	int err;

	if (g->left_blk <= SMALL_MAX_BLK && g->wish_blk == 0) {
		err = serve_word(g, &a->arenas[first]);
		if (err != 0 || g->left_blk == 0)
			return err;
	}
	err = serve_home(g, &a->arenas[first], fits);
	for (uint32_t i = 1; i < a->n_arenas && err == 0 && g->left_blk > 0; i++) {
		struct arena *other = &a->arenas[(first + i) % a->n_arenas];

		if (may_serve(g, other, fits))
			err = serve(g, other, NULL, fits);
		if (g->left_blk == 0) // the next one has more luck there, too
			atomic_store_explicit(arena_rotor(a, g->origin), (first + i) % a->n_arenas, memory_order_relaxed);
	}
	for (uint32_t i = 1; i < a->n_arenas && err == 0 && g->left_blk > 0; i++) {
		uint32_t other = (first + i) % a->n_arenas;

		err = serve_loading(g, &a->arenas[other], fits, 4 * g->left_blk);
		if (err == 0 && g->left_blk == 0)
			atomic_store_explicit(arena_rotor(a, g->origin), other, memory_order_relaxed);
	}
	if (err == 0 && g->left_blk > 0 && g->grown_blk >= ALLOC_WINDOW_MAX_BLK && (a->ops->fits & 1u << FIT_SPARE))
		err = serve_growing(g, first);
	return err;
}

int arena_serve_any(struct grab *g, bool sure)
{
	struct alloc *a = g->a;
	unsigned fits = fits_of(a, last_fit(g->contig, g->left_blk));
	uint32_t first = atomic_load_explicit(arena_rotor(a, g->origin), memory_order_relaxed);
	int err = 0;

	for (uint32_t i = 0; i < a->n_arenas && err == 0 && g->left_blk > 0; i++) {
		struct arena *ar = &a->arenas[(first + i) % a->n_arenas];

		if (sure || may_serve(g, ar, fits))
			err = serve(g, ar, NULL, fits);
	}
	for (uint32_t i = 0; i < a->n_arenas && err == 0 && g->left_blk > 0; i++)
		err = serve_loading(g, &a->arenas[(first + i) % a->n_arenas], fits, g->left_blk);
	return err;
}

// ---- pieces ----

// The home of the request counts eightfold: others may be busy elsewhere.
static struct arena *arena_with_longest(struct grab *g, uint32_t *longest)
{
	struct alloc *a = g->a;
	struct arena *home = &a->arenas[atomic_load_explicit(arena_rotor(a, g->origin), memory_order_relaxed)], *best = NULL;
	uint64_t most = 0;

	*longest = 0;
	for (uint32_t i = 0; i < a->n_arenas; i++) {
		uint32_t len = a->ops->longest_hint(a->arenas[i].engine);
		uint64_t worth = &a->arenas[i] == home ? 8 * (uint64_t)len : len;

		*longest = max_u32(*longest, len);
		if (worth > most) {
			most = worth;
			best = &a->arenas[i];
		}
	}
	return best;
}

static struct metaslab *emptiest_of_all(const struct alloc *a, uint64_t least)
{
	struct metaslab *best = NULL;

	for (uint32_t i = 0; i < a->n_arenas; i++) {
		struct metaslab *ms = emptiest_unloaded(a, &a->arenas[i], least);

		if (ms != NULL) {
			best = ms;
			least = atomic_load_explicit(&ms->free_blk, memory_order_relaxed) + 1;
		}
	}
	return best;
}

// The longest runs of an arena down to an eighth of the longest, PIECES_AT_ONCE of them at most, and what is left then in one run if
// there is one that fits. With the lock.
static int take_pieces(struct grab *g, struct arena *ar)
{
	const struct engine_ops *ops = g->a->ops;
	uint32_t first_len = 0;
	struct mrun run;
	int err = 0;

	for (unsigned i = 0; err == 0 && g->left_blk > 0 && i < PIECES_AT_ONCE; i++) {
		err = ms_reserve(ar);
		if (err != 0)
			break;
		run = ops->longest(ar->engine); // and the hint is right again
		if (run.len == 0 || run.len < first_len / 8)
			break;
		first_len = max_u32(first_len, run.len);
		err = grab_take(g, ar, run, run.start, (uint32_t)min_u64(run.len, g->left_blk));
		if (err != 0 || g->left_blk == 0 || g->left_blk / 5 * 4 > run.len) // the others are hardly longer
			continue;
		err = ms_reserve(ar);
		if (err == 0)
			err = serve_locked(g, ar, fits_of(g->a, FITS_GOOD) | 1u << FIT_BEST);
	}
	return err;
}

int arena_serve_pieces(struct grab *g)
{
	struct alloc *a = g->a;
	uint32_t longest;
	struct arena *ar = arena_with_longest(g, &longest);
	struct metaslab *ms = emptiest_of_all(a, (uint64_t)longest * 16 + 1); // a sixteenth of it in one piece is a cautious guess
	int err;

	if (ms != NULL)
		ar = arena_of_ms(a, ms);
	if (ar == NULL)
		return 0;
	err = lock_arena(a, ar, ms);
	if (err != 0)
		return err;
	err = take_pieces(g, ar);
	lock_drop(&ar->lock);
	return err;
}

uint64_t arena_next_best(struct alloc *a, uint64_t n)
{
	struct metaslab *ms = emptiest_of_all(a, 1);
	uint64_t best = ms != NULL ? atomic_load_explicit(&ms->free_blk, memory_order_relaxed) : 0;

	for (uint32_t i = 0; i < a->n_arenas; i++) {
		struct arena *ar = &a->arenas[i];

		lock_take(&ar->lock);
		best = max_u64(best, a->ops->longest(ar->engine).len);
		lock_drop(&ar->lock);
	}
	return min_u64(best, n - 1);
}
