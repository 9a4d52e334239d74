// SPDX-License-Identifier: MIT
// One metaslab: its life in memory, and the changes of state of its blocks together with the counts.
//
//      unloaded ---- ms_lock_loaded ----> loaded        free_blk, freeing_blk, limbo and batches are kept in both states
//          ^                                |
//          +---------- ms_unload -----------+           only while nothing is TAKEN or held
#include "alloc/alloc_internal.h"

#include <errno.h>

#include "util/log.h"

struct alloc_loader {
	const struct metaslab *ms;
	struct buddy *map;
};

int alloc_loader_mark(struct alloc_loader *loader, uint64_t start_blk, uint64_t len_blk, bool used)
{
	const struct metaslab *ms = loader->ms;

	if (len_blk == 0 || len_blk > ms->n_blk || start_blk < ms->first_abs ||
	    start_blk - ms->first_abs > ms->n_blk - len_blk)
		return -EUCLEAN;
	if (used)
		bits_clear(loader->map->bits, ms_rel(ms, start_blk), (uint32_t)len_blk);
	else
		bits_set(loader->map->bits, ms_rel(ms, start_blk), (uint32_t)len_blk);
	return 0;
}

static void publish_top(struct metaslab *ms)
{
	atomic_store_explicit(&ms->top_bin, buddy_top_bin(ms->map), memory_order_relaxed);
}

static void add_free(struct metaslab *ms, uint32_t len)
{
	atomic_fetch_add_explicit(&ms->free_blk, len, memory_order_relaxed);
}

static void sub_free(struct metaslab *ms, uint32_t len)
{
	atomic_fetch_sub_explicit(&ms->free_blk, len, memory_order_relaxed);
}

// With the store's lock and the metaslab's.
static int load(struct alloc *a, struct metaslab *ms)
{
	struct buddy *map = buddy_new(ms->n_blk);
	struct alloc_loader loader = { ms, map };
	uint32_t index = (uint32_t)(ms - a->ms), counted;
	int err;

	if (map == NULL)
		return -ENOMEM;
	err = a->source->load(a->source_ctx, index, &loader);
	if (err != 0) {
		msg_error("allocator: the free map of metaslab %u could not be read (error %d)", index, err);
		goto out;
	}
	limbo_overlay(&ms->limbo, map->bits);
	counted = buddy_count_free(map);
	if (counted != ms->free_blk) {
		msg_error("allocator: metaslab %u has %u free blocks in its free map, %u in its record; not used",
		          index, counted, (unsigned)ms->free_blk);
		err = -EUCLEAN;
		goto out;
	}
	buddy_build(map);
	ms->map = map;
	map = NULL;
	publish_top(ms);
	atomic_store(&ms->loaded, true);
	atomic_fetch_add(&a->memory, (int64_t)buddy_bytes(ms->map));
out:
	buddy_destroy(map);
	return err;
}

int ms_lock_loaded(struct alloc *a, struct metaslab *ms)
{
	int err = 0;

	pthread_mutex_lock(&ms->lock);
	if (ms->map == NULL) {
		// The store's lock comes first; meanwhile somebody else may load it.
		pthread_mutex_unlock(&ms->lock);
		a->source->enter(a->source_ctx);
		pthread_mutex_lock(&ms->lock);
		if (ms->map == NULL)
			err = load(a, ms);
		a->source->leave(a->source_ctx);
	}
	if (err != 0)
		pthread_mutex_unlock(&ms->lock);
	else if (!atomic_load_explicit(&ms->warm, memory_order_relaxed))
		atomic_store_explicit(&ms->warm, true, memory_order_relaxed);
	return err;
}

bool ms_unload(struct alloc *a, struct metaslab *ms)
{
	if (ms->map == NULL || ms->taken_blk > 0 || ms->held_blk > 0)
		return false;
	atomic_fetch_sub(&a->memory, (int64_t)buddy_bytes(ms->map));
	buddy_destroy(ms->map);
	ms->map = NULL;
	atomic_store(&ms->loaded, false);
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
	buddy_destroy(ms->map);
	pthread_mutex_destroy(&ms->lock);
}

// ---- between the free map, the pool and somebody's hands ----

void ms_take(struct metaslab *ms, struct mrun run, uint32_t start, uint32_t len)
{
	buddy_take(ms->map, run, start, len);
	ms->taken_blk += len;
	sub_free(ms, len);
	publish_top(ms);
}

int ms_hold(struct alloc *a, struct metaslab *ms, struct mrun run, uint32_t start, uint32_t len)
{
	int err = limbo_prepare(&ms->limbo, start, len, &a->memory);

	if (err != 0)
		return err;
	buddy_take(ms->map, run, start, len);
	limbo_set(&ms->limbo, start, len);
	ms->held_blk += len;
	publish_top(ms);
	return 0;
}

void ms_take_held(struct alloc *a, struct metaslab *ms, uint32_t start, uint32_t len)
{
	limbo_clear(&ms->limbo, start, len, &a->memory);
	ms->held_blk -= len;
	ms->taken_blk += len;
	sub_free(ms, len);
}

void ms_unhold(struct alloc *a, struct metaslab *ms, uint32_t start, uint32_t len)
{
	limbo_clear(&ms->limbo, start, len, &a->memory);
	buddy_give(ms->map, start, len);
	ms->held_blk -= len;
	publish_top(ms);
}

// ---- the public changes of state ----

static int check_taken(struct alloc *a ATTR_UNUSED, struct metaslab *ms, struct mrun r, uint64_t epoch ATTR_UNUSED,
                       const char **why)
{
	if (ms->map == NULL || ms->taken_blk < r.len)
		*why = "more than was handed out";
	else if (bits_any(ms->map->bits, r.start, r.len))
		*why = "some of it is free";
	else if (limbo_any(&ms->limbo, r.start, r.len))
		*why = "some of it is being freed or was never handed out";
	else
		return 0;
	return -EINVAL;
}

static void apply_put(struct alloc *a ATTR_UNUSED, struct metaslab *ms, struct mrun r, uint64_t epoch ATTR_UNUSED)
{
	buddy_give(ms->map, r.start, r.len);
	ms->taken_blk -= r.len;
	add_free(ms, r.len);
	publish_top(ms);
}

static void apply_commit(struct alloc *a ATTR_UNUSED, struct metaslab *ms, struct mrun r,
                         uint64_t epoch ATTR_UNUSED)
{
	ms->taken_blk -= r.len;
}

static int check_free(struct alloc *a, struct metaslab *ms, struct mrun r, uint64_t epoch, const char **why)
{
	if (ms->map != NULL && bits_any(ms->map->bits, r.start, r.len))
		*why = "some of it is free";
	else if (limbo_any(&ms->limbo, r.start, r.len))
		*why = "some of it is free or being freed already";
	else if ((uint64_t)ms->free_blk + ms->freeing_blk + ms->taken_blk + r.len > ms->n_blk)
		*why = "more than is owned there";
	else
		*why = NULL;
	if (*why != NULL)
		return -EINVAL;
	if (limbo_prepare(&ms->limbo, r.start, r.len, &a->memory) != 0 ||
	    batch_prepare(&ms->batches, epoch, &a->memory) == NULL)
		return -ENOMEM;
	return 0;
}

// Room was made by check_free. The list of pending metaslabs is what alloc_release works through.
static void apply_free(struct alloc *a, struct metaslab *ms, struct mrun r, uint64_t epoch)
{
	struct batch *b = ms->batches;

	while (b->epoch != epoch)
		b = b->next;
	limbo_set(&ms->limbo, r.start, r.len);
	batch_add(b, r.start, r.len);
	ms->freeing_blk += r.len;
	atomic_fetch_add(&a->freeing_blk, r.len);
	if (ms->pending)
		return;
	ms->pending = true;
	pthread_mutex_lock(&a->pending_lock);
	ms->pending_next = a->pending;
	a->pending = ms;
	pthread_mutex_unlock(&a->pending_lock);
}

const struct ms_change ms_put_change = { "put", check_taken, apply_put };
const struct ms_change ms_commit_change = { "commit", check_taken, apply_commit };
const struct ms_change ms_free_change = { "free", check_free, apply_free };

// Needs no memory: the index has its entries already. An unloaded metaslab only counts; what the source tells at the
// next load has these blocks free.
static void release_batch(struct alloc *a, struct metaslab *ms, struct batch *b)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < b->n; i++) {
		limbo_clear(&ms->limbo, b->runs[i].start, b->runs[i].len, &a->memory);
		if (ms->map != NULL)
			buddy_give(ms->map, b->runs[i].start, b->runs[i].len);
		sum += b->runs[i].len;
	}
	ms->freeing_blk -= sum;
	add_free(ms, sum);
	atomic_fetch_sub(&a->freeing_blk, sum);
	atomic_fetch_add(&a->free_blk, sum);
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
		release_batch(a, ms, b);
	}
	if (ms->map != NULL)
		publish_top(ms);
}
