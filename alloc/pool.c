// SPDX-License-Identifier: MIT
// The top tier: blocks set apart so that what belongs together comes to lie together, and is had without a lock.
//
// A stream's window are the blocks behind the last one that it got; it doubles while the stream goes on. A word is 64
// blocks from which the small requests of one origin (a directory, else a processor) are cut one behind the other.
//
// Both are holds. The blocks of a hold are out of the free map. Who takes some of them moves the front by
// compare-and-swap of (start, length), which are one 64-bit number: if it succeeds nobody else has touched the hold. So a
// hit costs one such instruction, and the allocator can take a hold back at any moment, in the same way, without
// stopping anyone. Holds count as free for users, are opened only where there is plenty of room, and
// go back to the map when space is short.
//
// The arena knows its holds, in a table by cell of 4 MiB (no hold crosses a cell's border), to tell a block that was handed
// out from one that was not: when somebody commits or frees blocks, one bucket is looked at.
#include "alloc/alloc_internal.h"

#include <errno.h>

// ---- holds ----

bool hold_take(struct alloc_hold *h, uint64_t goal_abs, uint64_t len, uint64_t *start_abs)
{
	uint64_t packed = atomic_load_explicit(&h->run, memory_order_acquire);

	do {
		struct run r = hold_run(packed);

		if (r.len_blk < len || (goal_abs != 0 && r.start_blk != goal_abs))
			return false;
		*start_abs = r.start_blk;
	} while (!atomic_compare_exchange_weak(&h->run, &packed, packed + (len << 24) - len));
	return true;
}

static struct alloc_hold **cell_of(struct arena *ar, uint64_t abs)
{
	return &ar->cells[(abs - ar->first_abs) / CELL_BLK % N_CELLS];
}

void hold_open(struct alloc *a, struct arena *ar, struct alloc_hold *h, struct mrun run, uint32_t start, uint32_t len)
{
	struct alloc_hold **cell = cell_of(ar, ar->first_abs + start);

	ASSERT(!h->linked && h->home_blk == 0);
	len = min_u32(len, CELL_BLK - start % CELL_BLK);
	ms_take(a, ar, run, start, len);
	h->home_blk = ar->first_abs + start;
	h->linked = true;
	h->prev = NULL;
	h->next = *cell;
	if (h->next != NULL)
		h->next->prev = h;
	*cell = h;
	ar->n_holds++;
	ar->n_windows += h->is_window;
	atomic_store_explicit(&h->run, hold_pack(h->home_blk, len), memory_order_release);
}

static void take_back(struct alloc *a, struct arena *ar, struct alloc_hold *h, struct alloc_hold **cell)
{
	struct run rest = hold_run(atomic_exchange(&h->run, 0));
	uint32_t start = (uint32_t)(rest.start_blk - ar->first_abs);

	if (rest.len_blk > 0)
		ms_give(a, ar, ms_in(a, ar, start), start, (uint32_t)rest.len_blk);
	if (h->next != NULL)
		h->next->prev = h->prev;
	if (h->prev != NULL)
		h->prev->next = h->next;
	else
		*cell = h->next;
	h->prev = h->next = NULL;
	ar->n_holds--;
	ar->n_windows -= h->is_window;
	h->linked = false;
}

void hold_close_locked(struct alloc *a, struct arena *ar, struct alloc_hold *h)
{
	if (h->home_blk != 0 && h->linked)
		take_back(a, ar, h, cell_of(ar, h->home_blk));
	h->home_blk = 0;
}

void hold_close(struct alloc *a, struct alloc_hold *h)
{
	struct arena *ar;

	if (h->home_blk == 0)
		return;
	ar = arena_of(a, h->home_blk);
	lock_take(&ar->lock);
	hold_close_locked(a, ar, h);
	lock_drop(&ar->lock);
}

static bool has_some(const struct arena *ar, struct alloc_hold *h, uint32_t start, uint32_t len)
{
	struct run r = hold_peek(h);
	uint64_t from = ar->first_abs + start;

	return r.len_blk > 0 && r.start_blk < from + len && from < r.start_blk + r.len_blk;
}

static bool is_trimmed(const struct arena *ar, uint32_t start, uint32_t len)
{
	return ar->trimming.len > 0 && ar->trimming.start < start + len && start < mrun_end(ar->trimming);
}

bool hold_any(const struct arena *ar, uint32_t start, uint32_t len)
{
	uint32_t first = start / CELL_BLK, n = (start + len - 1) / CELL_BLK - first + 1;

	if (is_trimmed(ar, start, len))
		return true;
	if (ar->n_holds == 0)
		return false;
	for (uint32_t i = 0; i < min_u32(n, N_CELLS); i++)
		for (struct alloc_hold *h = ar->cells[(first + i) % N_CELLS]; h != NULL; h = h->next)
			if (has_some(ar, h, start, len))
				return true;
	return false;
}

bool hold_ends_at(const struct arena *ar, uint32_t blk)
{
	if (blk == 0 || ar->n_holds == 0)
		return false;
	for (struct alloc_hold *h = ar->cells[(blk - 1) / CELL_BLK % N_CELLS]; h != NULL; h = h->next) {
		struct run r = hold_peek(h);

		if (r.len_blk > 0 && r.start_blk + r.len_blk == ar->first_abs + blk)
			return true;
	}
	return false;
}

uint64_t hold_sum(const struct arena *ar, uint32_t start, uint32_t len)
{
	uint64_t sum = is_trimmed(ar, start, len) ? ar->trimming.len : 0;

	for (uint32_t c = 0; c < N_CELLS && ar->n_holds > 0; c++)
		for (struct alloc_hold *h = ar->cells[c]; h != NULL; h = h->next)
			if (has_some(ar, h, start, len))
				sum += hold_peek(h).len_blk; // no hold crosses the border of a metaslab
	return sum;
}

// ---- windows ----

// A first request gets a window only when it is large: most files are written at once and end there, and what is held
// behind each would keep small files apart.
uint32_t pool_window_wish(struct alloc_stream *s, bool sequential, uint64_t want)
{
	if (!sequential) {
		s->window_blk = (uint32_t)min_u64(max_u64(want, 16), ALLOC_WINDOW_MAX_BLK);
		return want >= LARGE_BLK ? s->window_blk : 0;
	}
	return (uint32_t)min_u64(max_u64(want, max_u32(s->window_blk, 16)), ALLOC_WINDOW_MAX_BLK);
}

// ---- words ----

struct word *pool_word(struct alloc *a, uint32_t origin) { return &a->words[origin / N_ROTORS % N_WORDS]; }

// Words lie at the far end of a long run: the near end is for large requests.
void pool_word_open(struct alloc *a, struct arena *ar, struct word *word, struct mrun run)
{
	uint32_t start = max_u32(run.start, (mrun_end(run) - WORD_BLK) & ~(WORD_BLK - 1));

	if (ar->first_abs + start == 0)
		start++; // a hold that begins with block 0 would look as if it were not opened
	hold_open(a, ar, &word->hold, run, start, min_u32(WORD_BLK, mrun_end(run) - start));
}

// ---- taking back ----

void pool_reclaim(struct alloc *a, struct arena *ar)
{
	for (uint32_t c = 0; c < N_CELLS; c++)
		while (ar->cells[c] != NULL)
			take_back(a, ar, ar->cells[c], &ar->cells[c]);
}

void pool_reclaim_all(struct alloc *a)
{
	for (uint32_t i = 0; i < a->n_arenas; i++) {
		lock_take(&a->arenas[i].lock);
		pool_reclaim(a, &a->arenas[i]);
		lock_drop(&a->arenas[i].lock);
	}
}
