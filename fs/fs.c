// SPDX-License-Identifier: MIT
// The context of a mounted filesystem, and what all operations share: joining transactions, time, privileges, durability.
//
// An operation on names or attributes is: join a transaction → take the store's lock → read and validate → first change →
// … → last change → unlock → leave. Whatever can be refused is refused before the first change, since half a change cannot be
// taken back (store.h). Operations on data prepare outside and change inside: see change.h.
#include "fs/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "fs/fs_internal.h"
#include "meta/orphan.h"
#include "util/log.h"

#define NS_PER_S 1000000000ll
#define RELATIME_NS (24 * 3600 * NS_PER_S)

int fs_create_context(struct volume *vol, const struct fs_opts *opts, struct fs **out)
{
	struct fs *fs;
	uint64_t ino;
	unsigned n;
	int r;

	fs = calloc(1, sizeof(*fs));
	if (fs == NULL)
		return -ENOMEM;
	fs->vol = vol;
	fs->st = vol->store;
	fs->atime = opts->atime;
	fs->nodiratime = opts->nodiratime;
	fs->nodatacow = opts->nodatacow;
	r = inode_table_init(&fs->inodes);
	if (r != 0) {
		free(fs);
		return r;
	}
	store_lock(fs->st);
	r = orphan_list(vol, 0, &ino, 1, &n);
	store_unlock(fs->st);
	if (r != 0)
		goto out;
	atomic_init(&fs->check_orphans, n > 0);
	r = reaper_start(fs);
	if (r != 0)
		goto out;
	if (opts->discard)
		trimmer_start(fs, opts->trim_delay_ms);
	*out = fs;
	return 0;
out:
	inode_table_destroy(fs);
	free(fs);
	return r;
}

void fs_destroy_context(struct fs *fs)
{
	trimmer_stop(fs);
	reaper_stop(fs);
	inode_table_destroy(fs);
	free(fs);
}

struct volume *fs_volume(struct fs *fs) { return fs->vol; }
void fs_leave_times_to_kernel(struct fs *fs) { fs->kernel_has_times = true; }

void fs_note_result(struct fs *fs, int rc)
{
	if (rc == -EUCLEAN)
		volume_note_damage(fs->vol);
}

// ---- transactions ----

int fs_join(struct fs *fs, enum txn_kind kind, uint64_t *txn)
{
	int r;

	if (fs->vol->read_only)
		return -EROFS;
	r = txn_begin(fs->vol, kind, txn);
	if (r == -ENOSPC && fs_reclaim(fs))
		r = txn_begin(fs->vol, kind, txn);
	if (r == 0)
		atomic_max(&fs->newest_txn, *txn);
	return r;
}

int fs_begin(struct fs *fs, enum txn_kind kind, uint64_t *txn)
{
	int r;

	r = fs_join(fs, kind, txn);
	if (r == 0)
		store_lock(fs->st);
	return r;
}

void fs_end(struct fs *fs)
{
	store_unlock(fs->st);
	txn_end(fs->vol);
}

bool fs_reclaim(struct fs *fs)
{
	reaper_drain(fs);
	// Also when nothing is being freed now: another thread's commit may have brought space since the caller looked.
	return txn_commit(fs->vol) == 0;
}

int fs_for_each_referenced(struct fs *fs, void (*fn)(void *ctx, uint64_t ino), void *ctx)
{
	int r = 0;

	fn(ctx, ROOT_INO);
	for (unsigned shard = 0; r == 0 && shard < INODE_SHARDS; shard++) {
		uint64_t *inos;
		size_t n;

		r = inode_list_referenced(fs, shard, &inos, &n);
		for (size_t i = 0; r == 0 && i < n; i++)
			fn(ctx, inos[i]);
		free(inos);
	}
	return r;
}

// ---- durability ----

int fs_fsync(struct fs *fs, uint64_t ino)
{
	struct inode *in;
	uint64_t txn;

	if (volume_is_shut_down(fs->vol))
		return -EIO;
	if (fs->vol->read_only)
		return 0;
	in = inode_pin_existing(fs, ino);
	// Without an object nobody remembers when the inode was changed; it was not after the newest change of all.
	txn = in != NULL ? atomic_load(&in->last_txn) : atomic_load(&fs->newest_txn);
	if (in != NULL)
		inode_unpin(fs, in);
	return txn > txn_durable_id(fs->vol) ? txn_wait_durable(fs->vol, txn) : 0;
}

int fs_sync(struct fs *fs)
{
	if (volume_is_shut_down(fs->vol))
		return -EIO;
	return fs->vol->read_only ? 0 : txn_commit(fs->vol);
}

// ---- time and stat ----

// In ticks of some milliseconds, as the kernel's own filesystems have their times: so most of the writes that come close upon each other
// leave the inode's row as it is.
int64_t fs_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

struct timespec fs_to_timespec(int64_t ns)
{
	struct timespec ts = { .tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S };

	if (ts.tv_nsec < 0) { // before 1970
		ts.tv_sec--;
		ts.tv_nsec += NS_PER_S;
	}
	return ts;
}

// A row's rdev is FUSE's: minor 8 bits, major 12 bits, 12 more bits of the minor.
static dev_t decode_rdev(uint32_t rdev)
{
	return makedev((rdev & 0xfff00) >> 8, (rdev & 0xff) | (rdev >> 12 & 0xfff00));
}

void fs_row_to_stat(const struct inode_row *row, struct stat *st)
{
	*st = (struct stat){
		.st_ino = row->ino,
		.st_mode = row->mode,
		.st_nlink = row->nlink,
		.st_uid = row->uid,
		.st_gid = row->gid,
		.st_rdev = decode_rdev(row->rdev),
		.st_size = (off_t)row->size_bytes,
		.st_blksize = BLK_SIZE,
		.st_blocks = (blkcnt_t)(row->blocks_blk * (BLK_SIZE / 512)),
		.st_atim = fs_to_timespec(row->atime_ns),
		.st_mtim = fs_to_timespec(row->mtime_ns),
		.st_ctim = fs_to_timespec(row->ctime_ns),
	};
}

void fs_touch_contents(const struct fs *fs, struct inode_row *row)
{
	if (!fs->kernel_has_times)
		row->mtime_ns = row->ctime_ns = fs_now_ns();
}

static bool wants_atime(const struct fs *fs, const struct inode_row *row, int64_t now)
{
	if (fs->nodiratime && S_ISDIR(row->mode))
		return false;
	switch (fs->atime) {
	case FS_NOATIME:
		return false;
	case FS_STRICTATIME:
		return true;
	case FS_RELATIME:
		break;
	}
	if (row->atime_ns == now)
		return false;
	return row->atime_ns <= row->mtime_ns || row->atime_ns <= row->ctime_ns || now - row->atime_ns >= RELATIME_NS;
}

void fs_update_atime(struct fs *fs, const struct inode_row *row)
{
	int64_t now = fs_now_ns();
	struct inode_row fresh;
	uint64_t txn;

	if (fs->vol->read_only || !wants_atime(fs, row, now) || fs_begin(fs, TXN_FREE, &txn) != 0)
		return;
	if (inode_get(fs->st, row->ino, &fresh) == 0) {
		fresh.atime_ns = now;
		// A failure has stopped the volume and was logged there; what was read is right all the same.
		if (inode_update(fs->st, &fresh) != 0)
			msg_debug("inode %llu: atime not updated", (unsigned long long)row->ino);
	}
	fs_end(fs);
}

// ---- shared checks and changes ----

int fs_check_regular(const struct inode_row *row)
{
	if (S_ISREG(row->mode))
		return 0;
	return S_ISDIR(row->mode) ? -EISDIR : -EINVAL;
}

int fs_kill_privs(struct fs *fs, struct inode *in, struct inode_row *row, bool suidgid)
{
	size_t len;
	int r;

	if (S_ISDIR(row->mode))
		return 0;
	if (suidgid) {
		row->mode &= ~(uint32_t)S_ISUID;
		if (row->mode & S_IXGRP)
			row->mode &= ~(uint32_t)S_ISGID;
	}
	if (in->no_caps)
		return 0;
	r = xattr_get(fs->st, row->ino, "security.capability", NULL, 0, &len);
	if (r == 0)
		r = xattr_remove(fs->st, row->ino, "security.capability");
	if (r == -ENODATA)
		r = 0;
	in->no_caps = r == 0;
	return r;
}
