// SPDX-License-Identifier: MIT
#include "fsck/space.h"

#include <errno.h>
#include <stdlib.h>

#include "util/blk.h"
#include "util/log.h"

static void enter(void *ctx) { pthread_mutex_lock(&((struct space *)ctx)->lock); }
static void leave(void *ctx) { pthread_mutex_unlock(&((struct space *)ctx)->lock); }

static int mark_used(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	return alloc_loader_mark(ctx, start_blk, len_blk, true);
}

static int load(void *ctx, uint32_t ms, struct alloc_loader *loader)
{
	const struct space *space = ctx;
	int err = 0;

	if (space->used->words[ms] != NULL)
		err = alloc_loader_mark_used_bits(loader, space->used->words[ms]);
	if (err != 0)
		return err;
	return sysfiles_mark(space->files, (uint64_t)ms << space->used->ms_shift, blockmap_ms_blks(space->used, ms), mark_used,
	                     loader);
}

static const struct alloc_source source = { .enter = enter, .leave = leave, .load = load };

struct count {
	uint64_t n_blk;
};

static int count_system(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	(void)start_blk;
	((struct count *)ctx)->n_blk += len_blk;
	return 0;
}

// A system block that is claimed as well would be taken off twice: the count is a lower bound then, which does no harm.
static uint64_t count_free(const struct space *space, uint32_t ms)
{
	const struct blockmap *map = space->used;
	uint64_t n_blks = blockmap_ms_blks(map, ms), used = 0, base = (uint64_t)ms << map->ms_shift;
	struct count sys = { 0 };

	for (uint64_t w = 0; map->words[ms] != NULL && w * 64 < n_blks; w++)
		used += (uint64_t)__builtin_popcountll(map->words[ms][w]);
	if (sysfiles_mark(space->files, base, n_blks, count_system, &sys) != 0)
		return 0;
	return n_blks - min_u64(n_blks, used + sys.n_blk);
}

int space_create(struct space *space, struct blockmap *used, struct sysfiles *files, struct alloc **out)
{
	uint64_t *free_blk = calloc(used->n_ms, sizeof(*free_blk));
	struct alloc_config cfg = {
		.n_blks = used->n_blks,
		.ms_shift = used->ms_shift,
		.ms_free_blk = free_blk,
		.source = &source,
		.source_ctx = space,
	};
	int err;

	if (free_blk == NULL)
		return -ENOMEM;
	*space = (struct space){ .lock = PTHREAD_MUTEX_INITIALIZER, .used = used, .files = files };
	for (uint32_t ms = 0; ms < used->n_ms; ms++)
		free_blk[ms] = count_free(space, ms);
	err = alloc_create(&cfg, out);
	free(free_blk);
	return err;
}

int space_commit(struct space *space, struct alloc *alloc, uint64_t start_blk, uint64_t len_blk)
{
	int err;

	pthread_mutex_lock(&space->lock);
	err = blockmap_mark(space->used, start_blk, len_blk);
	pthread_mutex_unlock(&space->lock);
	return err != 0 ? err : alloc_commit(alloc, start_blk, len_blk);
}
