// SPDX-License-Identifier: MIT
// The public functions beside alloc_get: ranges cut at the borders of metaslabs, validated as a whole before anything
// changes; epochs; counts.
#include "alloc/alloc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/alloc_internal.h"
#include "util/log.h"

// About an arena for each processor, of at least 64 GiB, and small enough that its blocks can be numbered with 32 bits.
static uint32_t choose_arena_shift(uint64_t n_blks, uint32_t ms_shift)
{
	uint32_t shift = max_u32(ms_shift, ARENA_SHIFT_MIN), wanted = min_u32(count_cpus(), ARENAS_MAX);

	while (shift < 31 && (n_blks - 1) >> shift >= wanted)
		shift++;
	return shift;
}

static int init_metaslabs(struct alloc *a, const struct alloc_config *cfg, uint64_t *sum)
{
	*sum = 0;
	for (uint32_t i = 0; i < a->n_ms; i++) {
		struct metaslab *ms = &a->ms[i];
		struct arena *ar = arena_of_ms(a, ms);

		ms->n_blk = (uint32_t)min_u64(1ull << a->ms_shift, a->n_blks - ms_first_abs(a, ms));
		if (cfg->ms_free_blk[i] > ms->n_blk) {
			msg_error("allocator: the record of metaslab %u has more free blocks than the metaslab", i);
			return -EUCLEAN;
		}
		atomic_init(&ms->free_blk, (uint32_t)cfg->ms_free_blk[i]);
		ms->limbo.n_chunks = (ms->n_blk + LIMBO_CHUNK_BLK - 1) / LIMBO_CHUNK_BLK;
		atomic_fetch_add(&ar->free_blk, cfg->ms_free_blk[i]);
		atomic_fetch_add(&ar->unloaded_blk, cfg->ms_free_blk[i]);
		*sum += cfg->ms_free_blk[i];
	}
	return 0;
}

static int init_arenas(struct alloc *a)
{
	int err;

	for (uint32_t i = 0; i < a->n_arenas; i++) {
		struct arena *ar = &a->arenas[i];
		struct engine_config cfg = { .part_shift = a->ms_shift };

		ar->first_abs = (uint64_t)i << a->arena_shift;
		ar->n_blk = (uint32_t)min_u64(1ull << a->arena_shift, a->n_blks - ar->first_abs);
		ar->first_ms = i << (a->arena_shift - a->ms_shift);
		ar->n_ms = ((ar->n_blk - 1) >> a->ms_shift) + 1;
		cfg.n_blk = ar->n_blk;
		err = a->ops->create(&cfg, &ar->engine);
		if (err != 0)
			return err;
	}
	return 0;
}

static void init_pool(struct alloc *a)
{
	for (uint32_t r = 0; r < N_ROTORS; r++)
		atomic_init(&a->rotor[r], r % a->n_arenas); // neighbouring processors keep apart
	pthread_mutex_init(&a->release_lock, NULL);
	pthread_mutex_init(&a->pending_lock, NULL);
	pthread_rwlock_init(&a->trim_lock, NULL);
}

static void *zeroed_aligned(size_t bytes)
{
	void *at = aligned_alloc(CACHE_LINES, bytes);

	if (at != NULL)
		memset(at, 0, bytes);
	return at;
}

int alloc_create(const struct alloc_config *cfg, struct alloc **out)
{
	struct alloc *a;
	uint64_t n_ms, sum;
	int err;

	if (cfg->n_blks == 0 || cfg->n_blks > ALLOC_MAX_BLKS || cfg->ms_shift < ALLOC_MS_SHIFT_MIN || cfg->ms_shift > ALLOC_MS_SHIFT_MAX)
		return -EINVAL;
	n_ms = ((cfg->n_blks - 1) >> cfg->ms_shift) + 1;
	if (n_ms >= NIL)
		return -EINVAL;
	a = zeroed_aligned(sizeof(*a));
	if (a == NULL)
		return -ENOMEM;
	a->n_blks = cfg->n_blks;
	a->reserve_blk = cfg->reserve_blk;
	a->ms_shift = cfg->ms_shift;
	a->n_ms = (uint32_t)n_ms;
	a->arena_shift = choose_arena_shift(cfg->n_blks, cfg->ms_shift);
	a->n_arenas = (uint32_t)((cfg->n_blks - 1) >> a->arena_shift) + 1;
	a->ops = cfg->engine != NULL ? cfg->engine : engines[0];
	a->source = cfg->source;
	a->source_ctx = cfg->source_ctx;
	init_pool(a);
	a->ms = calloc(a->n_ms, sizeof(struct metaslab));
	a->arenas = zeroed_aligned(a->n_arenas * sizeof(struct arena));
	err = a->ms == NULL || a->arenas == NULL ? -ENOMEM : init_arenas(a);
	if (err == 0)
		err = init_metaslabs(a, cfg, &sum);
	if (err != 0) {
		alloc_destroy(a);
		return err;
	}
	escrow_init(a, sum);
	atomic_init(&a->memory, (int64_t)(sizeof(*a) + a->n_ms * sizeof(struct metaslab) + a->n_arenas * sizeof(struct arena)));
	*out = a;
	return 0;
}

// What alloc_create has made, also if it stopped half way.
void alloc_destroy(struct alloc *a)
{
	if (a == NULL)
		return;
	for (uint32_t i = 0; a->ms != NULL && i < a->n_ms; i++)
		ms_destroy(a, &a->ms[i]);
	for (uint32_t i = 0; a->arenas != NULL && i < a->n_arenas; i++)
		if (a->arenas[i].engine != NULL)
			a->ops->destroy(a->arenas[i].engine);
	pthread_mutex_destroy(&a->release_lock);
	pthread_mutex_destroy(&a->pending_lock);
	pthread_rwlock_destroy(&a->trim_lock);
	free(a->arenas);
	free(a->ms);
	free(a);
}

// ---- changes of state ----

// What [start_abs, start_abs + len) has in one metaslab.
static inline struct part part_of(const struct alloc *a, struct metaslab *ms, uint64_t start_abs, uint64_t len)
{
	uint64_t first = ms_first_abs(a, ms), from = max_u64(start_abs, first), to = min_u64(start_abs + len, first + ms->n_blk);
	struct arena *ar = arena_of(a, first);

	return (struct part){ ar, ms, (uint32_t)(from - ar->first_abs), (uint32_t)(to - from), (uint32_t)(from - first) };
}

static int change_one(struct alloc *a, const struct ms_change *ch, const struct part *p, uint64_t epoch, const char **why)
{
	int err;

	if (a->ops->prefetch != NULL)
		a->ops->prefetch(p->ar->engine, p->start, p->len);
	lock_take(&p->ar->lock);
	err = ch->check(a, p, epoch, why);
	if (err == 0)
		ch->apply(a, p, epoch);
	lock_drop(&p->ar->lock);
	return err;
}

// The locks of all arenas that the range touches are held together, so that a range is refused or changed as a whole.
static int change_all(struct alloc *a, const struct ms_change *ch, uint64_t start_abs, uint64_t len, uint64_t epoch, const char **why)
{
	struct metaslab *first = ms_of(a, start_abs), *last = ms_of(a, start_abs + len - 1), *ms;
	struct arena *first_ar = arena_of(a, start_abs), *last_ar = arena_of(a, start_abs + len - 1), *ar;
	struct part p;
	int err = 0;

	for (ar = first_ar; ar <= last_ar; ar++)
		lock_take(&ar->lock);
	for (ms = first; ms <= last && err == 0; ms++) {
		p = part_of(a, ms, start_abs, len);
		err = ch->check(a, &p, epoch, why);
	}
	for (ms = first; ms <= last && err == 0; ms++) {
		p = part_of(a, ms, start_abs, len);
		ch->apply(a, &p, epoch);
	}
	for (ar = first_ar; ar <= last_ar; ar++)
		lock_drop(&ar->lock);
	return err;
}

static inline int change(struct alloc *a, const struct ms_change *ch, uint64_t start_abs, uint64_t len, uint64_t epoch)
{
	const char *why = "it is not inside the volume";
	int err = -EINVAL;
	struct part p;

	if (len == 0 || len > a->n_blks || start_abs > a->n_blks - len)
		goto refused;
	p = part_of(a, ms_of(a, start_abs), start_abs, len);
	if (p.len == len)
		err = change_one(a, ch, &p, epoch, &why);
	else
		err = change_all(a, ch, start_abs, len, epoch, &why);
	if (err != -EINVAL)
		return err;
refused:
	msg_error("allocator: %s of %llu blocks at block %llu refused: %s", ch->verb, (unsigned long long)len,
	          (unsigned long long)start_abs, why);
	return err;
}

int alloc_put(struct alloc *a, uint64_t start_blk, uint64_t len_blk)
{
	return change(a, &ms_put_change, start_blk, len_blk, 0);
}

void alloc_put_back(struct alloc *a, uint64_t start_abs, uint64_t len)
{
	int err = alloc_put(a, start_abs, len);

	// Without memory they stay TAKEN by nobody: they are free again after the next mount.
	VERIFY(err == 0 || err == -ENOMEM);
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
		struct arena *ar = arena_of_ms(a, ms);

		list = ms->pending_next;
		lock_take(&ar->lock);
		ms_release(a, ms, epoch);
		ms->pending = ms->batches != NULL;
		if (ms->pending) {
			pthread_mutex_lock(&a->pending_lock);
			ms->pending_next = a->pending;
			a->pending = ms;
			pthread_mutex_unlock(&a->pending_lock);
		}
		lock_drop(&ar->lock);
	}
	trim_tell(a);
	pthread_mutex_unlock(&a->release_lock);
}

// ---- streams ----

void alloc_stream_init(struct alloc_stream *s) { *s = (struct alloc_stream){ 0 }; }

void alloc_stream_end(struct alloc_stream *s)
{
	if (s->a != NULL)
		hold_close(s->a, &s->window);
	alloc_stream_init(s);
}

// ---- looking ----

static uint64_t memory_bytes(struct alloc *a)
{
	uint64_t sum = (uint64_t)atomic_load(&a->memory);

	for (uint32_t i = 0; i < a->n_arenas; i++)
		sum += a->ops->bytes(a->arenas[i].engine);
	return sum;
}

void alloc_get_stats(struct alloc *a, struct alloc_stats *out)
{
	*out = (struct alloc_stats){
		.total_blk = a->n_blks,
		.free_blk = escrow_count(a),
		.freeing_blk = (uint64_t)atomic_load(&a->freeing_blk),
		.reserve_blk = a->reserve_blk,
		.n_metaslabs = a->n_ms,
		.memory_bytes = memory_bytes(a),
		.engine = a->ops->name,
	};
	for (uint32_t i = 0; i < a->n_ms; i++)
		out->n_loaded += atomic_load(&a->ms[i].loaded);
}

void alloc_get_free(struct alloc *a, uint64_t *free_blk, uint64_t *freeing_blk)
{
	*free_blk = escrow_count(a);
	*freeing_blk = (uint64_t)atomic_load(&a->freeing_blk);
}

// With the arena's lock; the metaslab is loaded. Calls fn for its free runs, with absolute block numbers.
static int walk_locked(struct alloc *a, struct metaslab *ms, alloc_free_fn fn, void *ctx)
{
	struct arena *ar = arena_of_ms(a, ms);
	uint32_t start = (uint32_t)(ms_first_abs(a, ms) - ar->first_abs), end = start + ms->n_blk;
	struct mrun run = { start, 0 };
	int err = 0;

	while (err == 0 && mrun_end(run) < end) {
		run = a->ops->next_run(ar->engine, mrun_end(run));
		if (run.len == 0 || run.start >= end)
			break;
		err = fn(ctx, ar->first_abs + run.start, run.len);
	}
	return err;
}

int alloc_walk_free(struct alloc *a, alloc_free_fn fn, void *ctx)
{
	int err = 0;

	pthread_rwlock_rdlock(&a->trim_lock); // what is being trimmed is free too
	pool_reclaim_all(a);
	for (uint32_t i = 0; i < a->n_ms && err == 0; i++) {
		err = ms_lock_loaded(a, &a->ms[i]);
		if (err != 0)
			break;
		err = walk_locked(a, &a->ms[i], fn, ctx);
		lock_drop(&arena_of_ms(a, &a->ms[i])->lock);
	}
	pthread_rwlock_unlock(&a->trim_lock);
	return err;
}

static int note_longest(void *ctx, uint64_t start_blk ATTR_UNUSED, uint64_t len_blk)
{
	uint64_t *longest = ctx;

	*longest = max_u64(*longest, len_blk);
	return 0;
}

uint64_t alloc_largest_run(struct alloc *a, uint32_t ms_index)
{
	uint64_t largest = 0;
	struct metaslab *ms;
	struct arena *ar;

	if (ms_index >= a->n_ms)
		return 0;
	ms = &a->ms[ms_index];
	ar = arena_of_ms(a, ms);
	lock_take(&ar->lock);
	if (atomic_load(&ms->loaded))
		(void)walk_locked(a, ms, note_longest, &largest);
	lock_drop(&ar->lock);
	return largest;
}

// Two rounds of a clock: the first spares what was used since the last call.
void alloc_shrink(struct alloc *a, uint64_t limit_bytes)
{
	uint64_t target_bytes = limit_bytes / 4 * 3;

	if (memory_bytes(a) <= limit_bytes)
		return;
	for (unsigned round = 0; round < 2; round++) {
		if (round == 1 && memory_bytes(a) > target_bytes)
			pool_reclaim_all(a); // a metaslab with a window or a word in it cannot be dropped
		for (uint32_t i = 0; i < a->n_ms && memory_bytes(a) > target_bytes; i++) {
			struct metaslab *ms = &a->ms[i];
			struct arena *ar = arena_of_ms(a, ms);

			if (!atomic_load(&ms->loaded) || (atomic_exchange(&ms->warm, false) && round == 0))
				continue;
			lock_take(&ar->lock);
			ms_unload(a, ms);
			lock_drop(&ar->lock);
		}
	}
}
