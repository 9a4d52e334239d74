// SPDX-License-Identifier: MIT
// System files: byte offsets of the database and its log, mapped through the extent lists of the superblock.
//
// An extent, once published in files->sb, never moves and never goes away. So the map lock is held only to look up where a
// piece lies, and the device works outside it: a growth never waits for somebody's I/O.
//
// Growth makes a new superblock beside the current one, writes it, and only then publishes it. If the write fails, nobody can
// know which of the two the device shows after the next start; so the new blocks are kept out of the allocator for good.
#include "meta/sysfile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/blk.h"
#include "util/log.h"

static const char *const sysfile_names[SYSFILE_N] = { [SYSFILE_DB] = "database", [SYSFILE_WAL] = "write-ahead log" };

int sysfiles_init(struct sysfiles *files, struct bdev *dev, const struct superblock *sb)
{
	int err;

	*files = (struct sysfiles){ .dev = dev, .sb = *sb };
	err = -pthread_mutex_init(&files->grow_lock, NULL);
	if (err < 0)
		return err;
	err = -pthread_rwlock_init(&files->map_lock, NULL);
	if (err < 0)
		pthread_mutex_destroy(&files->grow_lock);
	return err;
}

void sysfiles_destroy(struct sysfiles *files)
{
	pthread_rwlock_destroy(&files->map_lock);
	pthread_mutex_destroy(&files->grow_lock);
}

uint64_t sysfile_capacity_bytes(struct sysfiles *files, enum sysfile_id id)
{
	uint64_t blks = 0;

	pthread_rwlock_rdlock(&files->map_lock);
	for (uint32_t i = 0; i < files->sb.sysfile[id].n_extents; i++)
		blks += files->sb.sysfile[id].extents[i].len_blk;
	pthread_rwlock_unlock(&files->map_lock);
	return blk_to_bytes(blks);
}

uint64_t sysfiles_extents_left(struct sysfiles *files)
{
	uint64_t left = SB_MAX_EXTENTS;

	pthread_rwlock_rdlock(&files->map_lock);
	for (int id = 0; id < SYSFILE_N; id++)
		left = min_u64(left, SB_MAX_EXTENTS - files->sb.sysfile[id].n_extents);
	pthread_rwlock_unlock(&files->map_lock);
	return left;
}

// Where byte `off` of the file lies on the device, and how many of the `len` bytes from there on lie together.
static int locate(struct sysfiles *files, enum sysfile_id id, uint64_t off, size_t len, uint64_t *dev_off, size_t *piece)
{
	int err = -EINVAL;

	pthread_rwlock_rdlock(&files->map_lock);
	for (uint32_t i = 0; i < files->sb.sysfile[id].n_extents; i++) {
		const struct run *ext = &files->sb.sysfile[id].extents[i];
		uint64_t ext_bytes = blk_to_bytes(ext->len_blk);

		if (off < ext_bytes) {
			*dev_off = blk_to_bytes(ext->start_blk) + off;
			*piece = min_u64(len, ext_bytes - off);
			err = 0;
			break;
		}
		off -= ext_bytes;
	}
	pthread_rwlock_unlock(&files->map_lock);
	return err;
}

int sysfile_read(struct sysfiles *files, enum sysfile_id id, void *buf, size_t len, uint64_t off)
{
	char *to = buf;

	while (len > 0) {
		uint64_t dev_off;
		size_t piece;
		int err = locate(files, id, off, len, &dev_off, &piece);

		if (err == 0)
			err = bdev_read(files->dev, to, piece, dev_off);
		if (err < 0)
			return err;
		to += piece;
		off += piece;
		len -= piece;
	}
	return 0;
}

int sysfile_write(struct sysfiles *files, enum sysfile_id id, const void *buf, size_t len, uint64_t off)
{
	const char *from = buf;

	while (len > 0) {
		uint64_t dev_off;
		size_t piece;
		int err = locate(files, id, off, len, &dev_off, &piece);

		if (err == 0)
			err = bdev_write(files->dev, from, piece, dev_off);
		if (err < 0)
			return err;
		from += piece;
		off += piece;
		len -= piece;
	}
	return 0;
}

// ---- growing ----

static int append_run(struct superblock *sb, enum sysfile_id id, const struct run *run)
{
	uint32_t n = sb->sysfile[id].n_extents;
	struct run *last = n > 0 ? &sb->sysfile[id].extents[n - 1] : NULL;

	if (last != NULL && last->start_blk + last->len_blk == run->start_blk) {
		last->len_blk += run->len_blk;
		return 0;
	}
	if (n == SB_MAX_EXTENTS)
		return -EFBIG;
	sb->sysfile[id].extents[n] = *run;
	sb->sysfile[id].n_extents++;
	return 0;
}

// Writes the superblock that differs from the current one and makes it the current one. Grow lock held. Fields that never change are
// not written: the geometry is read everywhere without a lock.
static int publish(struct sysfiles *files, struct superblock *next)
{
	int err = sb_write(files->dev, next);

	if (err < 0)
		return err;
	pthread_rwlock_wrlock(&files->map_lock);
	files->sb.generation = next->generation;
	memcpy(files->sb.label, next->label, sizeof(next->label));
	memcpy(files->sb.sysfile, next->sysfile, sizeof(next->sysfile));
	pthread_rwlock_unlock(&files->map_lock);
	return 0;
}

// A copy to change. The grow lock is held, so nobody else writes sb, and reading it needs no map lock.
static struct superblock *copy_sb(const struct sysfiles *files)
{
	struct superblock *next = malloc(sizeof(*next));

	if (next != NULL)
		*next = files->sb;
	return next;
}

static uint64_t grow_goal_blk(const struct superblock *sb, enum sysfile_id id)
{
	uint32_t n = sb->sysfile[id].n_extents;
	const struct run *last;

	if (n == 0)
		return 0;
	last = &sb->sysfile[id].extents[n - 1];
	return last->start_blk + last->len_blk;
}

// The blocks that a growth took: named by the new superblock now, or unused again. If the device stopped while the superblock
// was being written, the next start may find them named or not: they stay taken, out of everybody's way.
static void settle_blocks(struct sysfiles *files, const struct runlist *taken, bool named)
{
	for (uint32_t i = 0; i < taken->n; i++) {
		const struct run *run = &taken->runs[i];
		int err = 0;

		if (named)
			err = alloc_commit(files->alloc, run->start_blk, run->len_blk);
		else if (!bdev_failed(files->dev))
			err = alloc_put(files->alloc, run->start_blk, run->len_blk);
		VERIFY(err == 0); // they were handed out to us, whole, just now
	}
}

static int grow_locked(struct sysfiles *files, enum sysfile_id id, uint64_t add_blk)
{
	struct runlist taken = { 0 };
	struct superblock *next = copy_sb(files);
	struct alloc_req req = { .want_blk = add_blk, .flags = ALLOC_USE_RESERVE };
	bool named;
	int err;

	if (next == NULL)
		return -ENOMEM;
	req.goal_blk = grow_goal_blk(next, id);
	err = alloc_get(files->alloc, NULL, &req, &taken);
	for (uint32_t i = 0; err == 0 && i < taken.n; i++)
		err = append_run(next, id, &taken.runs[i]);
	if (err == 0)
		err = publish(files, next);
	named = err == 0;
	settle_blocks(files, &taken, named);
	if (named)
		msg_debug("%s grown by %llu blocks in %u pieces", sysfile_names[id], (unsigned long long)add_blk, taken.n);
	runlist_free(&taken);
	free(next);
	return err;
}

int sysfile_grow(struct sysfiles *files, enum sysfile_id id, uint64_t add_blk)
{
	int err;

	if (add_blk == 0)
		return 0;
	if (files->alloc == NULL)
		return -ENOSPC;
	if (files->dev->read_only)
		return -EROFS;
	pthread_mutex_lock(&files->grow_lock);
	err = grow_locked(files, id, add_blk);
	pthread_mutex_unlock(&files->grow_lock);
	return err;
}

int sysfiles_set_label(struct sysfiles *files, const char *label)
{
	struct superblock *next;
	int err = -ENOMEM;

	if (strlen(label) > SB_LABEL_MAX)
		return -EINVAL;
	pthread_mutex_lock(&files->grow_lock);
	next = copy_sb(files);
	if (next != NULL) {
		memset(next->label, 0, sizeof(next->label));
		memcpy(next->label, label, strlen(label));
		err = publish(files, next);
	}
	pthread_mutex_unlock(&files->grow_lock);
	free(next);
	return err;
}

// ---- what the space map does not speak of ----

struct mark_range {
	uint64_t start_blk, end_blk;
	int (*mark)(void *ctx, uint64_t start_blk, uint64_t len_blk);
	void *ctx;
};

static int mark_clipped(const struct mark_range *range, const struct run *run)
{
	uint64_t from = max_u64(range->start_blk, run->start_blk);
	uint64_t to = min_u64(range->end_blk, run->start_blk + run->len_blk);

	return from < to ? range->mark(range->ctx, from, to - from) : 0;
}

int sysfiles_mark(struct sysfiles *files, uint64_t start_blk, uint64_t len_blk,
                  int (*mark)(void *ctx, uint64_t start_blk, uint64_t len_blk), void *ctx)
{
	const struct mark_range range = { start_blk, start_blk + len_blk, mark, ctx };
	struct run fixed[SB_COPIES];
	int err = 0;

	pthread_rwlock_rdlock(&files->map_lock);
	sb_fixed_runs(files->sb.n_blks, fixed);
	for (int i = 0; err == 0 && i < SB_COPIES; i++)
		err = mark_clipped(&range, &fixed[i]);
	for (int id = 0; id < SYSFILE_N; id++)
		for (uint32_t i = 0; err == 0 && i < files->sb.sysfile[id].n_extents; i++)
			err = mark_clipped(&range, &files->sb.sysfile[id].extents[i]);
	pthread_rwlock_unlock(&files->map_lock);
	return err;
}

static int stop_marking(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	(void)ctx;
	(void)start_blk;
	(void)len_blk;
	return 1;
}

bool sysfiles_overlap(struct sysfiles *files, uint64_t start_blk, uint64_t len_blk)
{
	return sysfiles_mark(files, start_blk, len_blk, stop_marking, NULL) != 0;
}
