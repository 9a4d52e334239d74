// SPDX-License-Identifier: MIT
// alloc_check: everything that the allocator believes, computed again the slow way. The engines check themselves.
#include "alloc/alloc_internal.h"

#include <errno.h>

#define FAIL(why, ...) (errmsg_set(why, __VA_ARGS__), -EUCLEAN)
#define FAIL_MS(why, a, ms, ...) \
	(errmsg_set(why, __VA_ARGS__), errmsg_prefix(why, "metaslab at %llu", (unsigned long long)ms_first_abs(a, ms)), -EUCLEAN)

static bool all_in_limbo(const struct metaslab *ms, struct mrun r)
{
	for (uint32_t blk = r.start; blk < mrun_end(r); blk++)
		if (!limbo_any(&ms->limbo, blk, 1))
			return false;
	return true;
}

static int check_limbo(struct alloc *a, const struct metaslab *ms, uint32_t *n_runs, struct errmsg *why)
{
	struct arena *ar = arena_of_ms(a, ms);
	uint32_t start = (uint32_t)(ms_first_abs(a, ms) - ar->first_abs);
	uint64_t sum = 0;

	for (const struct batch *b = ms->batches; b != NULL; b = b->next) {
		for (uint32_t i = 0; i < b->n; i++) {
			if (!all_in_limbo(ms, b->runs[i]))
				return FAIL_MS(why, a, ms, "A1: the run at %u is FREEING but not in limbo", b->runs[i].start);
			if (atomic_load(&ms->loaded) && a->ops->any_free(ar->engine, start + b->runs[i].start, b->runs[i].len))
				return FAIL_MS(why, a, ms, "A1: a block of the run at %u is free and FREEING", b->runs[i].start);
			sum += b->runs[i].len;
		}
		*n_runs += b->n;
		if (b->n > 0 && !ms->pending)
			return FAIL_MS(why, a, ms, "runs are FREEING but nobody would release them");
	}
	if (sum != ms->freeing_blk || limbo_count(&ms->limbo) != ms->freeing_blk)
		return FAIL_MS(why, a, ms, "A1: %llu blocks are FREEING and %u in limbo, the count says %u",
		               (unsigned long long)sum, limbo_count(&ms->limbo), ms->freeing_blk);
	return 0;
}

// A2, A4
static int check_counts(struct alloc *a, const struct metaslab *ms, struct errmsg *why)
{
	struct arena *ar = arena_of_ms(a, ms);
	uint32_t start = (uint32_t)(ms_first_abs(a, ms) - ar->first_abs), end = start + ms->n_blk, at = start;
	uint32_t free_blk = atomic_load(&ms->free_blk), counted = 0;

	while (atomic_load(&ms->loaded) && at < end) {
		struct mrun run = a->ops->next_run(ar->engine, at);

		if (run.len == 0 || run.start >= end)
			break;
		if (mrun_end(run) > end)
			return FAIL_MS(why, a, ms, "a free run ends at %u, beyond the metaslab", mrun_end(run) - start);
		counted += run.len;
		at = mrun_end(run);
	}
	if (atomic_load(&ms->loaded) && counted != free_blk)
		return FAIL_MS(why, a, ms, "A2: %u blocks are free, the count says %u", counted, free_blk);
	if ((uint64_t)free_blk + ms->freeing_blk + ms->out_blk > ms->n_blk)
		return FAIL_MS(why, a, ms, "A4: %u free, %u FREEING and %u TAKEN or held are more than %u blocks", free_blk,
		               ms->freeing_blk, ms->out_blk, ms->n_blk);
	if (!atomic_load(&ms->loaded) && ms->out_blk > 0)
		return FAIL_MS(why, a, ms, "A4: TAKEN or held blocks, but it is not loaded");
	return 0;
}

// The holds lie in their metaslabs, outside the free map.
static int check_holds(struct alloc *a, struct arena *ar, struct errmsg *why)
{
	uint32_t n = 0, n_windows = 0;

	for (uint32_t c = 0; c < N_CELLS; c++) {
		for (struct alloc_hold *h = ar->cells[c]; h != NULL; h = h->next, n++) {
			struct run r = hold_peek(h);

			n_windows += h->is_window;
			if (!h->linked || (h->home_blk - ar->first_abs) / CELL_BLK % N_CELLS != c)
				return FAIL(why, "the hold at %llu is in the wrong cell", (unsigned long long)h->home_blk);
			if (r.len_blk == 0)
				continue;
			if (r.start_blk < h->home_blk || r.start_blk / CELL_BLK != (r.start_blk + r.len_blk - 1) / CELL_BLK ||
			    a->ops->any_free(ar->engine, (uint32_t)(r.start_blk - ar->first_abs), (uint32_t)r.len_blk))
				return FAIL(why, "the hold at %llu is wrong", (unsigned long long)r.start_blk);
		}
	}
	if (n != ar->n_holds || n_windows != ar->n_windows)
		return FAIL(why, "%u holds, %u of them windows, the counts say %u and %u", n, n_windows, ar->n_holds, ar->n_windows);
	return 0;
}

struct sums {
	uint64_t free_blk, freeing_blk;
};

static int check_arena(struct alloc *a, struct arena *ar, struct sums *all, struct errmsg *why)
{
	uint64_t free_blk = 0, unloaded_blk = 0, out_blk = 0;
	uint32_t n_runs = 0;
	int err = a->ops->check(ar->engine, why);

	if (err == 0 && ar->trimming.len > 0 && a->ops->any_free(ar->engine, ar->trimming.start, ar->trimming.len))
		err = FAIL(why, "a block of the run at %u is free and being trimmed", ar->trimming.start);

	for (uint32_t i = 0; i < ar->n_ms && err == 0; i++) {
		const struct metaslab *ms = &a->ms[ar->first_ms + i];

		err = check_counts(a, ms, why);
		if (err == 0)
			err = check_limbo(a, ms, &n_runs, why);
		if (err == 0 && !trim_count_is_right(ms))
			err = FAIL_MS(why, a, ms, "the count of spans to be trimmed is wrong");
		free_blk += atomic_load(&ms->free_blk);
		unloaded_blk += atomic_load(&ms->loaded) ? 0 : atomic_load(&ms->free_blk);
		out_blk += ms->out_blk;
		all->freeing_blk += ms->freeing_blk;
	}
	if (err == 0)
		err = check_holds(a, ar, why);
	if (err == 0 && (free_blk != atomic_load(&ar->free_blk) || unloaded_blk != atomic_load(&ar->unloaded_blk)))
		err = FAIL(why, "A2: an arena's metaslabs have %llu free blocks, %llu of them not loaded; the counts differ",
		           (unsigned long long)free_blk, (unsigned long long)unloaded_blk);
	if (err == 0 && (n_runs != ar->n_freeing_runs || hold_sum(ar, 0, ar->n_blk) > out_blk))
		err = FAIL(why, "an arena has %u runs that are FREEING, the count says %u; or holds more than is out", n_runs,
		           ar->n_freeing_runs);
	all->free_blk += free_blk + hold_sum(ar, 0, ar->n_blk);
	return err;
}

int alloc_check(struct alloc *a, struct errmsg *why)
{
	struct sums all = { 0 };
	int err = 0;

	for (uint32_t i = 0; i < a->n_arenas && err == 0; i++) {
		lock_take(&a->arenas[i].lock);
		err = check_arena(a, &a->arenas[i], &all, why);
		lock_drop(&a->arenas[i].lock);
	}
	if (err == 0 && (all.free_blk != escrow_count(a) || all.freeing_blk != (uint64_t)atomic_load(&a->freeing_blk)))
		err = FAIL(why, "A2: metaslabs and the pool have %llu free and %llu FREEING blocks, the volume's counts differ",
		           (unsigned long long)all.free_blk, (unsigned long long)all.freeing_blk);
	return err;
}
