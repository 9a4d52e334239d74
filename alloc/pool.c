// SPDX-License-Identifier: MIT
// The top tier: blocks set apart so that what belongs together comes to lie together.
//
// A stream's window are the blocks behind the last one that it got; it doubles while the stream goes on. A word is 64
// blocks from which the small requests of one origin (a directory, else a thread) are cut one behind the other.
// Both are out of the free map and in limbo, so nobody else gets them; they count as free for users, are held only
// where a metaslab is roomy, and go back to the map when space is short.
//
// Windows and words are guarded by the lock of the metaslab that they lie in. A stream's owner finds it by
// window.start_blk, which only the owner writes: taking a window back writes only its length.
#include "alloc/alloc_internal.h"

static void link_holder(struct metaslab *ms, struct alloc_stream *s)
{
	s->prev = NULL;
	s->next = ms->holders;
	if (s->next != NULL)
		s->next->prev = s;
	ms->holders = s;
}

static void unlink_holder(struct metaslab *ms, struct alloc_stream *s)
{
	if (s->next != NULL)
		s->next->prev = s->prev;
	if (s->prev != NULL)
		s->prev->next = s->next;
	else
		ms->holders = s->next;
	s->prev = s->next = NULL;
}

// A first request gets a window only when it is large: most files are written at once and end there, and what is held
// behind each would keep small files apart.
uint32_t pool_window_wish(struct alloc_stream *s, bool sequential, uint64_t want)
{
	if (!sequential) {
		s->window_blk = (uint32_t)min_u64(max_u64(want, 16), ALLOC_WINDOW_MAX_BLK);
		return want >= SPAN_BLK ? s->window_blk : 0;
	}
	return (uint32_t)min_u64(max_u64(want, max_u32(s->window_blk, 16)), ALLOC_WINDOW_MAX_BLK);
}

void pool_window_open(struct alloc *a, struct metaslab *ms, struct alloc_stream *s, uint32_t at, uint32_t wish)
{
	struct mrun run;
	uint32_t len;

	ASSERT(s->window.len_blk == 0);
	if (wish == 0 || at >= ms->n_blk || !bits_test(ms->map->bits, at))
		return;
	run = buddy_run_at(ms->map, at);
	len = min_u32(wish, mrun_end(run) - at);
	if (!ms_roomy(ms, len) || ms_hold(a, ms, run, at, len) != 0)
		return; // no window is no error
	s->window = (struct run){ ms->first_abs + at, len };
	s->window_blk = min_u32(2 * wish, ALLOC_WINDOW_MAX_BLK);
	link_holder(ms, s);
}

bool pool_window_has(const struct alloc_stream *s, uint64_t goal_abs, uint64_t len)
{
	return goal_abs >= s->window.start_blk && len <= s->window.len_blk &&
	       goal_abs - s->window.start_blk <= s->window.len_blk - len;
}

void pool_window_take(struct alloc *a, struct metaslab *ms, struct alloc_stream *s, uint64_t goal_abs, uint32_t len)
{
	uint32_t start = ms_rel(ms, s->window.start_blk), goal = ms_rel(ms, goal_abs);

	if (goal > start)
		ms_unhold(a, ms, start, goal - start);
	ms_take_held(a, ms, goal, len);
	s->window.len_blk -= goal - start + len;
	s->window.start_blk = goal_abs + len;
	if (s->window.len_blk == 0) {
		// The metaslab is found by start_blk, which must not point into the next one.
		s->window.start_blk = goal_abs;
		unlink_holder(ms, s);
	}
}

void pool_window_drop(struct alloc *a, struct metaslab *ms, struct alloc_stream *s)
{
	ms_unhold(a, ms, ms_rel(ms, s->window.start_blk), (uint32_t)s->window.len_blk);
	s->window.len_blk = 0;
	unlink_holder(ms, s);
}

bool pool_window_ends_at(const struct metaslab *ms, uint32_t blk)
{
	unsigned left = 16;

	if (blk == 0 || !limbo_any(&ms->limbo, blk - 1, 1))
		return false;
	for (const struct alloc_stream *s = ms->holders; s != NULL && left > 0; s = s->next, left--)
		if (s->window.start_blk + s->window.len_blk == ms->first_abs + blk)
			return true;
	return false;
}

static struct mrun *word_of(struct metaslab *ms, uint32_t origin) { return &ms->words[origin / N_ROTORS % N_WORDS]; }

struct mrun *pool_word(struct alloc *a, struct metaslab *ms, uint32_t origin, uint32_t len)
{
	struct mrun *word = word_of(ms, origin);
	struct mrun run;
	uint32_t at;

	if (word->len >= len)
		return word;
	if (word->len > 0)
		ms_unhold(a, ms, word->start, word->len);
	word->len = 0;
	if (!ms_roomy(ms, WORD_BLK))
		return NULL;
	run = buddy_fit(ms->map, WORD_BLK, false);
	if (run.len == 0)
		return NULL;
	at = slab_open_at(run);
	if (ms_hold(a, ms, run, at, WORD_BLK) != 0)
		return NULL;
	*word = (struct mrun){ at, WORD_BLK };
	return word;
}

struct mrun *pool_word_at(struct metaslab *ms, uint32_t origin, uint32_t at, uint32_t len)
{
	struct mrun *word = word_of(ms, origin);

	return word->start == at && word->len >= len ? word : NULL;
}

void pool_word_take(struct alloc *a, struct metaslab *ms, struct mrun *word, uint32_t len)
{
	ms_take_held(a, ms, word->start, len);
	word->start += len;
	word->len -= len;
}

void pool_reclaim(struct alloc *a, struct metaslab *ms)
{
	while (ms->holders != NULL)
		pool_window_drop(a, ms, ms->holders);
	for (uint32_t i = 0; i < N_WORDS; i++) {
		if (ms->words[i].len > 0)
			ms_unhold(a, ms, ms->words[i].start, ms->words[i].len);
		ms->words[i].len = 0;
	}
}

void pool_reclaim_all(struct alloc *a)
{
	for (uint32_t i = 0; i < a->n_ms; i++) {
		struct metaslab *ms = &a->ms[i];

		if (!atomic_load(&ms->loaded))
			continue;
		pthread_mutex_lock(&ms->lock);
		if (ms->held_blk > 0)
			pool_reclaim(a, ms);
		pthread_mutex_unlock(&ms->lock);
	}
}
