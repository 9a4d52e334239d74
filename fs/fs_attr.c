// SPDX-License-Identifier: MIT
// Attributes of inodes and of the whole filesystem. Extended attributes are in fs_xattr.c.
#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "fs/fs_internal.h"

#define NS_PER_S 1000000000ll

int fs_getattr_btime(struct fs *fs, uint64_t ino, struct stat *st, struct timespec *btime)
{
	struct inode_row row;
	int r;

	store_lock(fs->st);
	r = inode_get(fs->st, ino, &row);
	store_unlock(fs->st);
	if (r == 0) {
		fs_row_to_stat(&row, st);
		*btime = fs_to_timespec(row.btime_ns);
	}
	return r;
}

int fs_getattr(struct fs *fs, uint64_t ino, struct stat *st)
{
	struct timespec btime;

	return fs_getattr_btime(fs, ino, st, &btime);
}

// 64 bits of nanoseconds reach from 1677 to 2262; what lies outside becomes the nearest that does not.
static int64_t from_timespec(const struct timespec *ts)
{
	int64_t ns;

	if (__builtin_mul_overflow((int64_t)ts->tv_sec, NS_PER_S, &ns) || __builtin_add_overflow(ns, (int64_t)ts->tv_nsec, &ns))
		return ts->tv_sec < 0 ? INT64_MIN : INT64_MAX;
	return ns;
}

static void apply_times(struct inode_row *row, const struct fs_setattr *attr)
{
	int64_t now = fs_now_ns();

	if (attr->set & FS_SET_ATIME)
		row->atime_ns = from_timespec(&attr->atime);
	if (attr->set & FS_SET_ATIME_NOW)
		row->atime_ns = now;
	if (attr->set & FS_SET_MTIME)
		row->mtime_ns = from_timespec(&attr->mtime);
	if (attr->set & FS_SET_MTIME_NOW)
		row->mtime_ns = now;
	row->ctime_ns = (attr->set & FS_SET_CTIME) != 0 ? from_timespec(&attr->ctime) : now;
}

int fs_apply_attr(struct fs *fs, struct inode *in, struct inode_row *row, const struct fs_setattr *attr)
{
	bool chown = (attr->set & (FS_SET_UID | FS_SET_GID)) != 0;
	struct acl acl = { .n = 0 };
	int r = 0;

	if (attr->set & FS_SET_MODE)
		r = fs_acl_load(fs, row, FS_ACL_ACCESS, &acl); // may be refused: before the first change
	if (r != 0)
		return r;
	if (chown || (attr->set & FS_SET_SIZE) != 0 || attr->kill_suidgid)
		r = fs_kill_privs(fs, in, row, chown || attr->kill_suidgid);
	if (attr->kill_sgid && !S_ISDIR(row->mode))
		row->mode &= ~(uint32_t)S_ISGID;
	// After that: a mode given together with an owner is what the caller wants to see.
	if (attr->set & FS_SET_MODE)
		row->mode = (row->mode & S_IFMT) | (attr->mode & 07777);
	if (r == 0 && acl.n > 0) {
		acl_chmod(&acl, row->mode);
		r = fs_acl_store(fs, row, FS_ACL_ACCESS, &acl);
	}
	if (attr->set & FS_SET_UID)
		row->uid = attr->uid;
	if (attr->set & FS_SET_GID)
		row->gid = attr->gid;
	apply_times(row, attr);
	return r;
}

// Everything but the size needs no data lock.
static int set_row(struct fs *fs, struct inode *in, const struct fs_setattr *attr, struct inode_row *row)
{
	uint64_t txn;
	int r;

	r = fs_begin(fs, TXN_FREE, &txn);
	if (r != 0)
		return r;
	r = inode_get(fs->st, in->ino, row);
	if (r == 0)
		r = fs_apply_attr(fs, in, row, attr);
	if (r == 0)
		r = inode_update(fs->st, row);
	inode_touch(fs, in->ino, txn);
	fs_end(fs);
	return r;
}

int fs_setattr(struct fs *fs, uint64_t ino, const struct fs_setattr *attr, struct stat *out)
{
	struct inode_row row;
	struct inode *in;
	int r;

	in = inode_pin(fs, ino);
	if (in == NULL)
		return -ENOMEM;
	if ((attr->set & FS_SET_SIZE) == 0) {
		r = set_row(fs, in, attr, &row);
	} else {
		r = inode_lock_change(fs, in);
		if (r == 0) {
			r = fs_truncate(fs, in, attr, &row);
			pthread_rwlock_unlock(&in->lock);
		}
	}
	inode_unpin(fs, in);
	if (r == 0)
		fs_row_to_stat(&row, out);
	return r;
}

int fs_statfs(struct fs *fs, struct statvfs *out)
{
	struct volume_space space;

	volume_get_space(fs->vol, &space);
	*out = (struct statvfs){
		.f_bsize = BLK_SIZE,
		.f_frsize = BLK_SIZE,
		.f_blocks = space.total_blk,
		.f_bfree = space.free_blk,
		.f_bavail = space.avail_blk,
		.f_files = space.inodes_used + space.inodes_free,
		.f_ffree = space.inodes_free,
		.f_favail = space.inodes_free,
		.f_namemax = NAME_MAX_BYTES,
	};
	memcpy(&out->f_fsid, fs->vol->files.sb.uuid, sizeof(out->f_fsid));
	return 0;
}

// ---- flags ----

int fs_get_flags(struct fs *fs, uint64_t ino, unsigned *flags)
{
	struct inode_row row;
	int r;

	store_lock(fs->st);
	r = inode_get(fs->st, ino, &row);
	store_unlock(fs->st);
	if (r == 0)
		*flags = (row.flags & INODE_NODATACOW) != 0 ? FS_NOCOW_FL : 0;
	return r;
}

// Store lock held, handle joined.
static int set_flags_locked(struct fs *fs, uint64_t ino, bool nodatacow)
{
	struct inode_row row;
	int r;

	r = inode_get(fs->st, ino, &row);
	if (r != 0)
		return r;
	if (((row.flags & INODE_NODATACOW) != 0) == nodatacow)
		return 0;
	if (!S_ISREG(row.mode) && !S_ISDIR(row.mode))
		return -EOPNOTSUPP;
	if (S_ISREG(row.mode) && (row.flags & INODE_INLINE) == 0)
		return -EINVAL; // some blocks with checksums, others without?
	row.flags ^= INODE_NODATACOW;
	row.ctime_ns = fs_now_ns();
	return inode_update(fs->st, &row);
}

int fs_set_flags(struct fs *fs, uint64_t ino, unsigned flags)
{
	struct inode *in;
	uint64_t txn;
	int r;

	if ((flags & ~(unsigned)FS_NOCOW_FL) != 0)
		return -EOPNOTSUPP;
	in = inode_pin(fs, ino);
	if (in == NULL)
		return -ENOMEM;
	r = inode_lock_change(fs, in);
	if (r != 0)
		goto out;
	r = fs_begin(fs, TXN_FREE, &txn);
	if (r == 0) {
		r = set_flags_locked(fs, ino, (flags & FS_NOCOW_FL) != 0);
		inode_touch(fs, ino, txn);
		fs_end(fs);
	}
	pthread_rwlock_unlock(&in->lock);
out:
	inode_unpin(fs, in);
	return r;
}
