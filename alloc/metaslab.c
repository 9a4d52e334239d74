// SPDX-License-Identifier: MIT
// One metaslab: its life in memory, and the changes of state of its blocks together with the counts.
//
//      unloaded ---- ms_lock_loaded ----> loaded        free_blk, freeing_blk, limbo and batches are kept in both states
//          ^                                |
//          +---------- ms_unload -----------+           only while nothing is TAKEN or held
#include "alloc/alloc_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "util/log.h"

struct alloc_loader {
	uint64_t first_abs;
	uint32_t n_blk;
	uint64_t *free_bits;
};

int alloc_loader_mark(struct alloc_loader *loader, uint64_t start_blk, uint64_t len_blk, bool used)
{
	if (len_blk == 0 || len_blk > loader->n_blk || start_blk < loader->first_abs ||
	    start_blk - loader->first_abs > loader->n_blk - len_blk)
		return -EUCLEAN;
	if (used)
		bits_clear(loader->free_bits, (uint32_t)(start_blk - loader->first_abs), (uint32_t)len_blk);
	else
		bits_set(loader->free_bits, (uint32_t)(start_blk - loader->first_abs), (uint32_t)len_blk);
	return 0;
}

int alloc_loader_mark_used_bits(struct alloc_loader *loader, const uint64_t *used_bits)
{
	for (uint32_t w = 0; w < (loader->n_blk + 63) / 64; w++)
		loader->free_bits[w] &= ~used_bits[w];
	return 0;
}

// Relative to its arena.
static uint32_t ms_start(const struct alloc *a, const struct arena *ar, const struct metaslab *ms)
{
	return (uint32_t)(ms_first_abs(a, ms) - ar->first_abs);
}

static void add_unloaded(struct arena *ar, int64_t n)
{
	uint64_t unloaded = atomic_load_explicit(&ar->unloaded_blk, memory_order_relaxed);

	atomic_store_explicit(&ar->unloaded_blk, unloaded + (uint64_t)n, memory_order_relaxed);
}

// ---- loading ----

// The free map as the source tells it, without what is FREEING.
static int read_map(struct alloc *a, struct metaslab *ms, uint64_t *free_bits)
{
	struct alloc_loader loader = { ms_first_abs(a, ms), ms->n_blk, free_bits };
	uint32_t index = (uint32_t)(ms - a->ms), counted;
	int err;

	bits_set(free_bits, 0, ms->n_blk);
	err = a->source->load(a->source_ctx, index, &loader);
	if (err != 0) {
		msg_error("allocator: the free map of metaslab %u could not be read (error %d)", index, err);
		return err;
	}
	limbo_overlay(&ms->limbo, free_bits);
	counted = bits_count(free_bits, (ms->n_blk + 63) / 64);
	if (counted != ms->free_blk) {
		msg_error("allocator: metaslab %u has %u free blocks in its free map, %u in its record; not used",
		          index, counted, (unsigned)ms->free_blk);
		return -EUCLEAN;
	}
	return 0;
}

// With the store's lock and the arena's.
static int load(struct alloc *a, struct arena *ar, struct metaslab *ms)
{
	// Limbo's chunks may reach beyond the end.
	uint64_t *free_bits = calloc((ms->n_blk + LIMBO_CHUNK_BLK - 1) / LIMBO_CHUNK_BLK, LIMBO_CHUNK_BLK / 8);
	int err;

	if (free_bits == NULL)
		return -ENOMEM;
	err = read_map(a, ms, free_bits);
	if (err == 0)
		err = a->ops->open(ar->engine, ms_start(a, ar, ms), ms->n_blk, free_bits);
	free(free_bits);
	if (err != 0)
		return err;
	atomic_store(&ms->loaded, true);
	add_unloaded(ar, -(int64_t)ms->free_blk);
	return 0;
}

int ms_lock_loaded(struct alloc *a, struct metaslab *ms)
{
	struct arena *ar = arena_of_ms(a, ms);
	bool is_new = false;
	int err = 0;

	lock_take(&ar->lock);
	if (!atomic_load_explicit(&ms->loaded, memory_order_relaxed)) {
		// The store's lock comes first; meanwhile somebody else may load it.
		lock_drop(&ar->lock);
		a->source->enter(a->source_ctx);
		lock_take(&ar->lock);
		is_new = !atomic_load_explicit(&ms->loaded, memory_order_relaxed);
		if (is_new)
			err = load(a, ar, ms);
		a->source->leave(a->source_ctx);
	}
	if (err == 0) {
		err = ms_reserve(ar);
		// Its runs may lie in the memory that was promised to those that are FREEING or held.
		if (err != 0 && is_new)
			(void)ms_unload(a, ms);
	}
	if (err != 0)
		lock_drop(&ar->lock);
	return err;
}

bool ms_unload(struct alloc *a, struct metaslab *ms)
{
	struct arena *ar = arena_of_ms(a, ms);

	if (!atomic_load_explicit(&ms->loaded, memory_order_relaxed) || ms->out_blk > 0)
		return false;
	a->ops->close(ar->engine, ms_start(a, ar, ms), ms->n_blk);
	atomic_store(&ms->loaded, false);
	add_unloaded(ar, ms->free_blk);
	return true;
}

void ms_destroy(struct alloc *a, struct metaslab *ms)
{
	while (ms->batches != NULL) {
		struct batch *b = ms->batches;

		ms->batches = b->next;
		batch_free(b, &a->memory);
	}
	limbo_free(&ms->limbo, &a->memory);
	trim_forget(a, ms);
}

// ---- between the free map and the outside ----

void ms_take(struct alloc *a, struct arena *ar, struct mrun run, uint32_t start, uint32_t len)
{
	a->ops->take(ar->engine, run, start, len);
	ms_took(a, ar, start, len);
}

void ms_give(struct alloc *a, struct arena *ar, struct metaslab *ms, uint32_t start, uint32_t len)
{
	a->ops->give(ar->engine, start, len);
	ms->out_blk -= len;
	ms_count(ar, ms, len);
}

// ---- the public changes of state ----

// Whether fewer blocks of the metaslab are TAKEN than the part has: the others that are out are held. Holds are looked at only
// if it matters.
static inline bool taken_is_less(const struct part *p)
{
	const struct arena *ar = p->ar;
	uint32_t out = p->ms->out_blk;

	if (out < p->len)
		return true;
	if (out - p->len >= (uint64_t)ar->n_holds * CELL_BLK + ar->trimming.len)
		return false;
	return out - p->len < hold_sum(ar, p->start - p->ms_start, p->ms->n_blk);
}

static inline int check_taken(struct alloc *a, const struct part *p, uint64_t epoch ATTR_UNUSED, const char **why)
{
	if (!atomic_load_explicit(&p->ms->loaded, memory_order_relaxed) || taken_is_less(p))
		*why = "more than was handed out";
	else if (a->ops->any_free(p->ar->engine, p->start, p->len))
		*why = "some of it is free";
	else if (limbo_any(&p->ms->limbo, p->ms_start, p->len))
		*why = "some of it is being freed";
	else if (hold_any(p->ar, p->start, p->len))
		*why = "some of it was never handed out";
	else
		return 0;
	return -EINVAL;
}

static int check_put(struct alloc *a, const struct part *p, uint64_t epoch, const char **why)
{
	int err = check_taken(a, p, epoch, why);

	return err != 0 ? err : ms_reserve(p->ar);
}

static void apply_put(struct alloc *a, const struct part *p, uint64_t epoch ATTR_UNUSED)
{
	ms_give(a, p->ar, p->ms, p->start, p->len);
	escrow_give_here(a, p->ar, p->len);
	trim_note(a, p->ms, (struct mrun){ p->ms_start, p->len }); // perhaps written to
}

static void apply_commit(struct alloc *a ATTR_UNUSED, const struct part *p, uint64_t epoch ATTR_UNUSED)
{
	p->ms->out_blk -= p->len;
}

static int check_free(struct alloc *a, const struct part *p, uint64_t epoch, const char **why)
{
	struct metaslab *ms = p->ms;

	*why = NULL;
	if (atomic_load_explicit(&ms->loaded, memory_order_relaxed) && a->ops->any_free(p->ar->engine, p->start, p->len))
		*why = "some of it is free";
	else if (limbo_any(&ms->limbo, p->ms_start, p->len))
		*why = "some of it is being freed already";
	else if (hold_any(p->ar, p->start, p->len))
		*why = "some of it is free or was never handed out";
	else if ((uint64_t)ms->free_blk + ms->freeing_blk + ms->out_blk + p->len > ms->n_blk)
		*why = "more than is owned there";
	if (*why != NULL)
		return -EINVAL;
	if (limbo_prepare(&ms->limbo, p->ms_start, p->len, &a->memory) != 0 ||
	    batch_prepare(&ms->batches, epoch, &a->memory) == NULL)
		return -ENOMEM;
	return ms_reserve(p->ar);
}

// Room was made by check_free. The list of pending metaslabs is what alloc_release works through.
static void apply_free(struct alloc *a, const struct part *p, uint64_t epoch)
{
	struct metaslab *ms = p->ms;
	struct batch *b = ms->batches;
	uint32_t old_n;

	while (b->epoch != epoch)
		b = b->next;
	old_n = b->n;
	limbo_set(&ms->limbo, p->ms_start, p->len);
	batch_add(b, p->ms_start, p->len); // may join it to the last one
	p->ar->n_freeing_runs += b->n - old_n;
	ms->freeing_blk += p->len;
	atomic_fetch_add(&a->freeing_blk, p->len);
	if (ms->pending)
		return;
	ms->pending = true;
	pthread_mutex_lock(&a->pending_lock);
	ms->pending_next = a->pending;
	a->pending = ms;
	pthread_mutex_unlock(&a->pending_lock);
}

const struct ms_change ms_put_change = { "put", check_put, apply_put };
const struct ms_change ms_commit_change = { "commit", check_taken, apply_commit };
const struct ms_change ms_free_change = { "free", check_free, apply_free };

// Needs no memory (ms_reserve). An unloaded metaslab only counts; what the source tells at the next load has these
// blocks free.
static void release_batch(struct alloc *a, struct arena *ar, struct metaslab *ms, struct batch *b)
{
	bool loaded = atomic_load_explicit(&ms->loaded, memory_order_relaxed);
	uint32_t sum = 0, start = ms_start(a, ar, ms);

	for (uint32_t i = 0; i < b->n; i++) {
		limbo_clear(&ms->limbo, b->runs[i].start, b->runs[i].len, &a->memory);
		if (loaded)
			a->ops->give(ar->engine, start + b->runs[i].start, b->runs[i].len);
		trim_note(a, ms, b->runs[i]);
		sum += b->runs[i].len;
	}
	ar->n_freeing_runs -= b->n;
	ms->freeing_blk -= sum;
	ms_count(ar, ms, sum);
	if (!loaded)
		add_unloaded(ar, sum);
	atomic_fetch_sub(&a->freeing_blk, sum);
	escrow_give_here(a, ar, sum);
	batch_free(b, &a->memory);
}

void ms_release(struct alloc *a, struct metaslab *ms, uint64_t epoch)
{
	struct batch **link = &ms->batches;

	while (*link != NULL) {
		struct batch *b = *link;

		if (b->epoch > epoch) {
			link = &b->next;
			continue;
		}
		*link = b->next;
		release_batch(a, arena_of_ms(a, ms), ms, b);
	}
}
