// SPDX-License-Identifier: MIT
// The device that knows what must not be written where. See guard.h.
#include "guard.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "block/superblock.h"
#include "fuzz.h"
#include "meta/sysfile.h"
#include "util/blk.h"

enum writer { WRITES_DATA, WRITES_SYSFILE, WRITES_SUPERBLOCK };

enum { IS_SYSFILE = 1, IS_SUPERBLOCK = 2 };

struct guard {
	struct bdev dev;
	struct bdev *inner;
	pthread_rwlock_t lock;
	// under lock:
	uint64_t n_blks; // of the volume; 0 = not known
	uint8_t *what;   // of each block
};

static struct guard *guard_of(struct bdev *dev) { return (struct guard *)dev; }

// Who writes, in this thread. Requests have no argument through which it could come.
static enum writer *writer(void)
{
	static _Thread_local enum writer now;

	return &now;
}

static void mark(struct guard *g, const struct run *run, uint8_t what)
{
	memset(g->what + run->start_blk, what, run->len_blk); // S1, S2: inside the volume and the device
}

// After each change of the superblock.
static void learn(struct guard *g)
{
	struct superblock *sb = malloc(sizeof(*sb));
	struct run fixed[SB_COPIES];
	struct errmsg why = { "" };

	REQUIRE(sb != NULL);
	if (sb_read(g->inner, sb, NULL, &why) == 0) {
		pthread_rwlock_wrlock(&g->lock);
		g->n_blks = sb->n_blks;
		memset(g->what, 0, bytes_to_blk_down(g->dev.size_bytes));
		sb_fixed_runs(sb->n_blks, fixed);
		for (int i = 0; i < SB_COPIES; i++)
			mark(g, &fixed[i], IS_SUPERBLOCK);
		for (int id = 0; id < SYSFILE_N; id++)
			for (uint32_t i = 0; i < sb->sysfile[id].n_extents; i++)
				mark(g, &sb->sysfile[id].extents[i], IS_SYSFILE);
		pthread_rwlock_unlock(&g->lock);
	}
	free(sb);
}

static void check(struct guard *g, uint64_t off_bytes, uint64_t len_bytes)
{
	static const uint8_t forbidden[] = {
		[WRITES_DATA] = IS_SYSFILE | IS_SUPERBLOCK,
		[WRITES_SYSFILE] = IS_SUPERBLOCK,
		[WRITES_SUPERBLOCK] = IS_SYSFILE,
	};
	uint64_t end_blk = bytes_to_blk_up(off_bytes + len_bytes);

	pthread_rwlock_rdlock(&g->lock);
	REQUIRE(g->n_blks == 0 || end_blk <= g->n_blks); // G1
	for (uint64_t blk = bytes_to_blk_down(off_bytes); g->n_blks != 0 && blk < end_blk; blk++)
		REQUIRE((g->what[blk] & forbidden[*writer()]) == 0); // G1, G2
	pthread_rwlock_unlock(&g->lock);
}

// ---- the device ----

static int guard_readv(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	return bdev_readv(guard_of(dev)->inner, iov, n_iov, off_bytes);
}

static int guard_writev(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	uint64_t len_bytes = 0;

	for (int i = 0; i < n_iov; i++)
		len_bytes += iov[i].iov_len;
	check(guard_of(dev), off_bytes, len_bytes);
	return bdev_writev(guard_of(dev)->inner, iov, n_iov, off_bytes);
}

static int guard_flush(struct bdev *dev) { return bdev_flush(guard_of(dev)->inner); }

static int guard_discard(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	check(guard_of(dev), off_bytes, len_bytes);
	return bdev_discard(guard_of(dev)->inner, off_bytes, len_bytes);
}

static void guard_close(struct bdev *dev)
{
	struct guard *g = guard_of(dev);

	bdev_close(g->inner);
	pthread_rwlock_destroy(&g->lock);
	free(g->what);
	free(g);
}

static const struct bdev_ops guard_ops = {
	.kind = "guarded",
	.readv = guard_readv,
	.writev = guard_writev,
	.flush = guard_flush,
	.discard = guard_discard,
	.close = guard_close,
};

struct bdev *guard_create(struct bdev *inner)
{
	struct guard *g = calloc(1, sizeof(*g));

	REQUIRE(g != NULL);
	g->dev.ops = &guard_ops;
	g->dev.name = strdup("guarded");
	g->dev.size_bytes = inner->size_bytes;
	g->dev.can_discard = inner->can_discard;
	g->inner = inner;
	g->what = calloc(bytes_to_blk_up(inner->size_bytes) + 1, 1);
	REQUIRE(g->dev.name != NULL && g->what != NULL);
	pthread_rwlock_init(&g->lock, NULL);
	learn(g);
	return &g->dev;
}

// ---- who writes ----

int __real_sb_write(struct bdev *dev, struct superblock *sb);
int __wrap_sb_write(struct bdev *dev, struct superblock *sb);
int __real_sysfile_write(struct sysfiles *files, enum sysfile_id id, const void *buf, size_t len, uint64_t off);
int __wrap_sysfile_write(struct sysfiles *files, enum sysfile_id id, const void *buf, size_t len, uint64_t off);

int __wrap_sb_write(struct bdev *dev, struct superblock *sb)
{
	enum writer before = *writer();
	int err;

	*writer() = WRITES_SUPERBLOCK;
	err = __real_sb_write(dev, sb);
	*writer() = before;
	if (dev->ops == &guard_ops)
		learn(guard_of(dev));
	return err;
}

int __wrap_sysfile_write(struct sysfiles *files, enum sysfile_id id, const void *buf, size_t len, uint64_t off)
{
	enum writer before = *writer();
	int err;

	*writer() = WRITES_SYSFILE;
	err = __real_sysfile_write(files, id, buf, len, off);
	*writer() = before;
	return err;
}
