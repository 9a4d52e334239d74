// SPDX-License-Identifier: MIT
// Trim: telling the device which blocks hold nothing any more, after they became free.
//
// What is to be told is remembered by span (1 MiB, the largest unit that devices erase or map in one piece, with few
// exceptions): a bit of its metaslab's map says that something in it became FREE since the span was last looked at. So a trim costs what
// was freed, not what is free, and the memory for it is a bit per MiB, in metaslabs in which something was freed, until they were looked at.
//
// A trim walks through the volume by address:
//
//      next_blk ------ claimed ------ | ------ not yet ------ end_blk
//         dirty spans in a row become claimed: their bits are cleared first, then the free runs in them are discarded,
//         one in each call. What becomes free there meanwhile sets the bit again, for the next walk (which may find that this
//         one has come by in time; then it is discarded twice, which is harmless and rare).
//
// A run is set apart while it is discarded: out of the free map, so nobody can be given a block of it; TAKEN for everybody else. To
// the rest of the volume a trim is a writer that takes free blocks, scribbles on them and puts them back unnamed. Hence no crash and
// no other thread can lose anything by it that it could not lose by that writer (T2: only FREE blocks are had, whose freeing is durable).
//
// Space: the blocks set apart still count as free, because whoever finds too little waits for the discard and tries again, while
// no new one begins (alloc_get). An eighth of what is above the reserve is set apart at most, so that this is rare.
//
// Bounds: TRIM_STEPS runs are looked at in one hold of an arena's lock; one run is discarded in one call.
#include "alloc/alloc_internal.h"

#include <errno.h>
#include <stdlib.h>

#define SPAN_BLK 256u       // 1 MiB
#define CLAIM_SPANS 64u     // 64 MiB
#define TRIM_STEPS 256u
#define LOAD_SPANS 16u      // from here on, or from a quarter of it, a metaslab is loaded for the sake of what was freed in it

static inline uint32_t n_spans(const struct metaslab *ms) { return (ms->n_blk + SPAN_BLK - 1) / SPAN_BLK; }
static inline uint32_t dirty_words(const struct metaslab *ms) { return (n_spans(ms) + 63) / 64; }

// ---- what was freed ----

void trim_remember(struct alloc *a, struct metaslab *ms, struct mrun r)
{
	uint32_t n = 0;

	if (ms->dirty == NULL) {
		ms->dirty = calloc(dirty_words(ms), sizeof(uint64_t));
		if (ms->dirty == NULL)
			return; // a trim is lost, nothing else
		atomic_fetch_add(&a->memory, (int64_t)(dirty_words(ms) * sizeof(uint64_t)));
	}
	for (uint32_t span = r.start / SPAN_BLK; span <= (mrun_end(r) - 1) / SPAN_BLK; span++) {
		n += !bits_test(ms->dirty, span);
		bits_set(ms->dirty, span, 1);
	}
	if (n == 0)
		return;
	atomic_store(&ms->n_dirty, atomic_load(&ms->n_dirty) + n);
	atomic_store(&a->trim_news, true);
}

void trim_forget(struct alloc *a, struct metaslab *ms)
{
	if (ms->dirty == NULL)
		return;
	free(ms->dirty);
	ms->dirty = NULL;
	atomic_store(&ms->n_dirty, 0);
	atomic_fetch_sub(&a->memory, (int64_t)(dirty_words(ms) * sizeof(uint64_t)));
}

bool trim_count_is_right(const struct metaslab *ms)
{
	return atomic_load(&ms->n_dirty) == (ms->dirty == NULL ? 0 : bits_count(ms->dirty, dirty_words(ms)));
}

void trim_tell(struct alloc *a)
{
	if (atomic_load(&a->trim_news) && a->trim_freed != NULL) {
		atomic_store(&a->trim_news, false);
		a->trim_freed(a->trim_ctx);
	}
}

void alloc_trim_watch(struct alloc *a, alloc_freed_fn freed, void *ctx)
{
	pthread_mutex_lock(&a->release_lock);
	a->trim_freed = freed;
	a->trim_ctx = ctx;
	atomic_store(&a->trim_watched, freed != NULL);
	pthread_mutex_unlock(&a->release_lock);
}

// ---- which metaslab ----

static bool is_worth_it(const struct metaslab *ms, const struct alloc_trim *t)
{
	uint32_t least = min_u32(LOAD_SPANS, (n_spans(ms) + 3) / 4);

	if (t->all)
		return atomic_load_explicit(&ms->free_blk, memory_order_relaxed) >= t->min_blk;
	return atomic_load(&ms->n_dirty) >= (atomic_load_explicit(&ms->loaded, memory_order_relaxed) ? 1 : least);
}

// Nobody else has used it since it was loaded for this: it goes again.
static void leave_metaslab(struct alloc *a, struct alloc_trim *t, struct metaslab *ms)
{
	struct arena *ar = arena_of_ms(a, ms);

	if (t->loaded_it) {
		lock_take(&ar->lock);
		if (!atomic_load_explicit(&ms->warm, memory_order_relaxed))
			ms_unload(a, ms);
		lock_drop(&ar->lock);
	}
	t->loaded_it = false;
	t->next_blk = ms_first_abs(a, ms) + ms->n_blk;
}

// The metaslab of next_blk, or the first behind it in which there is something to do. NULL: the end.
static struct metaslab *next_metaslab(struct alloc *a, struct alloc_trim *t)
{
	while (t->next_blk < t->end_blk) {
		struct metaslab *ms = ms_of(a, t->next_blk);

		if (t->next_blk < t->claimed_blk || is_worth_it(ms, t))
			return ms;
		leave_metaslab(a, t, ms);
	}
	t->next_blk = t->end_blk;
	return NULL;
}

static int lock_metaslab(struct alloc *a, struct alloc_trim *t, struct metaslab *ms)
{
	bool loaded = atomic_load(&ms->loaded);
	int err = ms_lock_loaded(a, ms);

	if (err == 0 && !loaded) {
		t->loaded_it = true;
		atomic_store_explicit(&ms->warm, false, memory_order_relaxed);
	}
	return err;
}

// ---- which run; arena locked, block numbers relative to it ----

// Claims the next dirty spans in a row behind `at`. Their end, which is `end` if there are none; *at moves to their start.
static uint32_t claim(struct alloc *a, struct metaslab *ms, uint32_t first, uint32_t *at, uint32_t end)
{
	uint32_t from = (*at - first) / SPAN_BLK, to, past = (end - first + SPAN_BLK - 1) / SPAN_BLK;

	from = ms->dirty != NULL ? bits_next_set(ms->dirty, from, past) : past;
	if (from >= past) {
		*at = end;
		return end;
	}
	to = bits_next_clear(ms->dirty, from, min_u32(past, from + CLAIM_SPANS));
	bits_clear(ms->dirty, from, to - from);
	atomic_store(&ms->n_dirty, atomic_load(&ms->n_dirty) - (to - from));
	if (atomic_load(&ms->n_dirty) == 0)
		trim_forget(a, ms);
	*at = max_u32(*at, first + from * SPAN_BLK);
	return min_u32(end, first + to * SPAN_BLK);
}

// The next piece of a free run that is long enough. *run: the run that it is a part of; its length 0: none yet. Moves next_blk behind it.
static struct mrun find_piece(struct alloc *a, struct alloc_trim *t, struct arena *ar, struct metaslab *ms, struct mrun *run)
{
	uint32_t first = (uint32_t)(ms_first_abs(a, ms) - ar->first_abs), at = (uint32_t)(t->next_blk - ar->first_abs);
	uint32_t end = (uint32_t)(min_u64(t->end_blk, ms_first_abs(a, ms) + ms->n_blk) - ar->first_abs);
	uint32_t claimed = (uint32_t)(max_u64(t->claimed_blk, t->next_blk) - ar->first_abs);
	struct mrun piece = { 0, 0 };

	for (unsigned step = 0; step < TRIM_STEPS && at < end && piece.len == 0; step++) {
		uint32_t from, to;

		if (at >= claimed) {
			claimed = t->all ? end : claim(a, ms, first, &at, end);
			continue;
		}
		*run = a->ops->next_run(ar->engine, at);
		from = max_u32(run->start, at);
		to = min_u32(mrun_end(*run), claimed);
		if (run->len == 0 || from >= claimed) {
			at = claimed;
		} else if (to - from < t->min_blk) {
			at = to;
		} else {
			piece = (struct mrun){ from, (uint32_t)min_u64(to - from, t->max_blk) };
			at = mrun_end(piece);
		}
	}
	t->next_blk = ar->first_abs + at;
	t->claimed_blk = ar->first_abs + claimed;
	return piece;
}

// ---- setting apart ----

static void set_apart(struct alloc *a, struct arena *ar, struct mrun run, struct mrun piece)
{
	struct metaslab *ms = ms_in(a, ar, piece.start);
	bool warm = atomic_load_explicit(&ms->warm, memory_order_relaxed);

	ms_take(a, ar, run, piece.start, piece.len);
	atomic_store_explicit(&ms->warm, warm, memory_order_relaxed); // this was no use of it
	ar->trimming = piece;
}

static void bring_back(struct alloc *a, struct arena *ar)
{
	uint32_t len = ar->trimming.len;

	lock_take(&ar->lock);
	ms_give(a, ar, ms_in(a, ar, ar->trimming.start), ar->trimming.start, len); // ms_reserve has counted it
	ar->trimming = (struct mrun){ 0, 0 };
	escrow_bring_back(a, len);
	lock_drop(&ar->lock);
}

// Sets the next run apart. *piece: relative to the arena; length 0: none was found in this call.
static int next_piece(struct alloc *a, struct alloc_trim *t, struct metaslab *ms, struct mrun *piece)
{
	struct arena *ar = arena_of_ms(a, ms);
	struct mrun run;
	int err;

	escrow_call_in(a, t->max_blk);
	err = lock_metaslab(a, t, ms);
	if (err != 0) {
		leave_metaslab(a, t, ms);
		return err;
	}
	*piece = find_piece(a, t, ar, ms, &run);
	if (piece->len > 0) {
		uint32_t len = (uint32_t)escrow_set_aside(a, piece->len, t->min_blk);

		t->next_blk -= piece->len - len;
		piece->len = len;
		if (len == 0)
			err = -EAGAIN;
		else
			set_apart(a, ar, run, *piece);
	}
	lock_drop(&ar->lock);
	return err;
}

// ---- the function ----

static int trim_locked(struct alloc *a, struct alloc_trim *t, alloc_discard_fn discard, void *ctx, uint64_t *done_blk)
{
	struct metaslab *ms;
	struct mrun piece = { 0, 0 };
	struct arena *ar;
	int err;

	t->end_blk = min_u64(t->end_blk, a->n_blks);
	ms = next_metaslab(a, t);
	if (ms == NULL)
		return 0;
	ar = arena_of_ms(a, ms);
	err = next_piece(a, t, ms, &piece);
	if (err == 0 && piece.len > 0) {
		err = discard(ctx, ar->first_abs + piece.start, piece.len);
		bring_back(a, ar);
		*done_blk = err == 0 ? piece.len : 0;
	}
	if (t->next_blk >= ms_first_abs(a, ms) + ms->n_blk)
		leave_metaslab(a, t, ms);
	return err;
}

int alloc_trim(struct alloc *a, struct alloc_trim *t, alloc_discard_fn discard, void *ctx, uint64_t *done_blk)
{
	int err;

	*done_blk = 0;
	if (t->min_blk == 0 || t->max_blk < t->min_blk)
		return -EINVAL;
	pthread_rwlock_wrlock(&a->trim_lock);
	atomic_fetch_add(&a->n_trims, 1); // odd: one is under way
	err = trim_locked(a, t, discard, ctx, done_blk);
	atomic_fetch_add(&a->n_trims, 1);
	pthread_rwlock_unlock(&a->trim_lock);
	return err;
}
