// SPDX-License-Identifier: MIT
// The public functions beside alloc_get: ranges cut at the borders of metaslabs, validated as a whole before anything
// changes; epochs; counts.
#include "alloc/alloc.h"

#include <errno.h>
#include <stdlib.h>

#include "alloc/alloc_internal.h"
#include "util/log.h"

static int init_metaslabs(struct alloc *a, const struct alloc_config *cfg)
{
	uint64_t ms_blks = 1ull << a->ms_shift, sum = 0;

	for (uint32_t i = 0; i < a->n_ms; i++) {
		struct metaslab *ms = &a->ms[i];

		ms->first_abs = (uint64_t)i << a->ms_shift;
		ms->n_blk = (uint32_t)min_u64(ms_blks, a->n_blks - ms->first_abs);
		if (cfg->ms_free_blk[i] > ms->n_blk) {
			msg_error("allocator: the record of metaslab %u has more free blocks than the metaslab", i);
			return -EUCLEAN;
		}
		atomic_init(&ms->free_blk, (uint32_t)cfg->ms_free_blk[i]);
		ms->limbo.n_chunks = (ms->n_blk + LIMBO_CHUNK_BLK - 1) / LIMBO_CHUNK_BLK;
		sum += cfg->ms_free_blk[i];
	}
	atomic_init(&a->free_blk, (int64_t)sum);
	return 0;
}

int alloc_create(const struct alloc_config *cfg, struct alloc **out)
{
	struct alloc *a;
	uint64_t n_ms;
	int err;

	if (cfg->n_blks == 0 || cfg->ms_shift < MS_SHIFT_MIN || cfg->ms_shift > MS_SHIFT_MAX)
		return -EINVAL;
	n_ms = ((cfg->n_blks - 1) >> cfg->ms_shift) + 1;
	if (n_ms >= NIL)
		return -EINVAL;
	a = calloc(1, sizeof(*a));
	if (a == NULL)
		return -ENOMEM;
	a->n_blks = cfg->n_blks;
	a->reserve_blk = cfg->reserve_blk;
	a->ms_shift = cfg->ms_shift;
	a->n_ms = (uint32_t)n_ms;
	a->source = cfg->source;
	a->source_ctx = cfg->source_ctx;
	a->ms = calloc(a->n_ms, sizeof(struct metaslab));
	err = a->ms == NULL ? -ENOMEM : init_metaslabs(a, cfg);
	if (err != 0) {
		free(a->ms);
		free(a);
		return err;
	}
	for (uint32_t i = 0; i < a->n_ms; i++)
		pthread_mutex_init(&a->ms[i].lock, NULL);
	pthread_mutex_init(&a->release_lock, NULL);
	pthread_mutex_init(&a->pending_lock, NULL);
	for (uint32_t r = 0; r < N_ROTORS; r++)
		atomic_init(&a->rotor[r], (uint32_t)((uint64_t)r * a->n_ms / N_ROTORS));
	atomic_init(&a->memory, (int64_t)(sizeof(*a) + a->n_ms * sizeof(struct metaslab)));
	*out = a;
	return 0;
}

void alloc_destroy(struct alloc *a)
{
	if (a == NULL)
		return;
	for (uint32_t i = 0; i < a->n_ms; i++)
		ms_destroy(a, &a->ms[i]);
	pthread_mutex_destroy(&a->release_lock);
	pthread_mutex_destroy(&a->pending_lock);
	free(a->ms);
	free(a);
}

// ---- changes of state ----

static struct mrun part_in(const struct metaslab *ms, uint64_t start_abs, uint64_t len)
{
	uint64_t from = max_u64(start_abs, ms->first_abs);
	uint64_t to = min_u64(start_abs + len, ms->first_abs + ms->n_blk);

	return (struct mrun){ ms_rel(ms, from), (uint32_t)(to - from) };
}

// The locks of all metaslabs that the range touches are held together, so that a range is refused or changed as a whole.
static int change(struct alloc *a, const struct ms_change *ch, uint64_t start_abs, uint64_t len, uint64_t epoch)
{
	const char *why = "it is not inside the volume";
	struct metaslab *first, *last, *ms;
	int err = -EINVAL;

	if (len == 0 || len > a->n_blks || start_abs > a->n_blks - len)
		goto refused;
	first = ms_of(a, start_abs);
	last = ms_of(a, start_abs + len - 1);
	for (ms = first; ms <= last; ms++)
		pthread_mutex_lock(&ms->lock);
	err = 0;
	for (ms = first; ms <= last && err == 0; ms++)
		err = ch->check(a, ms, part_in(ms, start_abs, len), epoch, &why);
	for (ms = first; ms <= last && err == 0; ms++)
		ch->apply(a, ms, part_in(ms, start_abs, len), epoch);
	for (ms = first; ms <= last; ms++)
		pthread_mutex_unlock(&ms->lock);
	if (err != -EINVAL)
		return err;
refused:
	msg_error("allocator: %s of %llu blocks at block %llu refused: %s", ch->verb, (unsigned long long)len,
	          (unsigned long long)start_abs, why);
	return err;
}

int alloc_put(struct alloc *a, uint64_t start_blk, uint64_t len_blk)
{
	int err = change(a, &ms_put_change, start_blk, len_blk, 0);

	if (err == 0)
		atomic_fetch_add(&a->free_blk, (int_fast64_t)len_blk);
	return err;
}

void alloc_put_back(struct alloc *a, uint64_t start_abs, uint64_t len)
{
	VERIFY(alloc_put(a, start_abs, len) == 0);
}

int alloc_commit(struct alloc *a, uint64_t start_blk, uint64_t len_blk)
{
	return change(a, &ms_commit_change, start_blk, len_blk, 0);
}

int alloc_free(struct alloc *a, uint64_t start_blk, uint64_t len_blk, uint64_t epoch)
{
	return change(a, &ms_free_change, start_blk, len_blk, epoch);
}

void alloc_release(struct alloc *a, uint64_t epoch)
{
	struct metaslab *list, *ms;

	pthread_mutex_lock(&a->release_lock);
	pthread_mutex_lock(&a->pending_lock);
	list = a->pending;
	a->pending = NULL;
	pthread_mutex_unlock(&a->pending_lock);
	while ((ms = list) != NULL) {
		list = ms->pending_next;
		pthread_mutex_lock(&ms->lock);
		ms_release(a, ms, epoch);
		ms->pending = ms->batches != NULL;
		if (ms->pending) {
			pthread_mutex_lock(&a->pending_lock);
			ms->pending_next = a->pending;
			a->pending = ms;
			pthread_mutex_unlock(&a->pending_lock);
		}
		pthread_mutex_unlock(&ms->lock);
	}
	pthread_mutex_unlock(&a->release_lock);
}

// ---- streams ----

void alloc_stream_init(struct alloc_stream *s) { *s = (struct alloc_stream){ 0 }; }

void alloc_stream_end(struct alloc_stream *s)
{
	if (s->a != NULL && s->window.start_blk != 0) {
		struct metaslab *ms = ms_of(s->a, s->window.start_blk);

		pthread_mutex_lock(&ms->lock);
		if (s->window.len_blk > 0)
			pool_window_drop(s->a, ms, s);
		pthread_mutex_unlock(&ms->lock);
	}
	alloc_stream_init(s);
}

// ---- looking ----

void alloc_get_stats(struct alloc *a, struct alloc_stats *out)
{
	int_fast64_t free_blk = atomic_load(&a->free_blk);

	*out = (struct alloc_stats){
		.total_blk = a->n_blks,
		.free_blk = (uint64_t)free_blk,
		.freeing_blk = (uint64_t)atomic_load(&a->freeing_blk),
		.reserve_blk = a->reserve_blk,
		.n_metaslabs = a->n_ms,
		.memory_bytes = (uint64_t)atomic_load(&a->memory),
	};
	for (uint32_t i = 0; i < a->n_ms; i++)
		out->n_loaded += atomic_load(&a->ms[i].loaded);
}

void alloc_get_free(struct alloc *a, uint64_t *free_blk, uint64_t *freeing_blk)
{
	*free_blk = (uint64_t)atomic_load(&a->free_blk);
	*freeing_blk = (uint64_t)atomic_load(&a->freeing_blk);
}

uint64_t alloc_largest_run(struct alloc *a, uint32_t ms_index)
{
	struct metaslab *ms;
	uint64_t largest;

	if (ms_index >= a->n_ms)
		return 0;
	ms = &a->ms[ms_index];
	pthread_mutex_lock(&ms->lock);
	largest = ms->map != NULL ? buddy_largest(ms->map) : 0;
	pthread_mutex_unlock(&ms->lock);
	return largest;
}

// Two rounds of a clock: the first spares what was used since the last call.
void alloc_shrink(struct alloc *a, uint64_t target_bytes)
{
	for (unsigned round = 0; round < 2; round++) {
		for (uint32_t i = 0; i < a->n_ms; i++) {
			struct metaslab *ms = &a->ms[i];

			if ((uint64_t)atomic_load(&a->memory) <= target_bytes)
				return;
			if (!atomic_load(&ms->loaded) || (atomic_exchange(&ms->warm, false) && round == 0))
				continue;
			pthread_mutex_lock(&ms->lock);
			if (ms->map != NULL)
				pool_reclaim(a, ms);
			ms_unload(a, ms);
			pthread_mutex_unlock(&ms->lock);
		}
	}
}
