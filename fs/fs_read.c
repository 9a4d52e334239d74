// SPDX-License-Identifier: MIT
// Reading files: data, and where data is.
//
// The data lock is held shared from looking at the map to the last byte from the device, so that no block can be freed and
// written by somebody else meanwhile. The store's lock is held only while the map is read.
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "fs/fs_internal.h"
#include "meta/extmap.h"

#define READ_BATCH 64u // extents per look at the map

// ---- data ----

static int read_inline(struct fs *fs, const struct inode_row *row, void *buf, size_t len, uint64_t off)
{
	uint8_t data[INLINE_MAX_BYTES];
	size_t have;
	int r;

	store_lock(fs->st);
	r = inline_get(fs->st, row->ino, data, sizeof(data), &have);
	store_unlock(fs->st);
	if (r == -ENOENT || (r == 0 && have != row->size_bytes))
		return -EUCLEAN;
	if (r == 0)
		memcpy(buf, data + off, len);
	return r;
}

// One extent of the map, clipped to the bytes [off, end) that go to buf.
static int read_extent(struct fs *fs, uint64_t ino, const struct extent *ext, uint8_t *buf, uint64_t off, uint64_t end)
{
	uint64_t from = max_u64(off, blk_to_bytes(ext->off_blk));
	uint64_t to = min_u64(end, blk_to_bytes(ext->off_blk + ext->len_blk));

	return fs_data_read(fs, ino, from, blk_to_bytes(ext->phys_blk) + (from - blk_to_bytes(ext->off_blk)), buf + (from - off),
	                    to - from);
}

static int read_extents(struct fs *fs, uint64_t ino, uint8_t *buf, uint64_t off, uint64_t end)
{
	uint64_t at_blk = bytes_to_blk_down(off), end_blk = bytes_to_blk_up(end), done = off;
	struct extent ext[READ_BATCH];
	unsigned n;
	int r;

	do {
		store_lock(fs->st);
		r = extmap_query(fs->vol, ino, at_blk, end_blk - at_blk, ext, READ_BATCH, &n);
		store_unlock(fs->st);
		for (unsigned i = 0; r == 0 && i < n; i++) {
			uint64_t start = max_u64(off, blk_to_bytes(ext[i].off_blk));

			at_blk = ext[i].off_blk + ext[i].len_blk;
			if (ext[i].unwritten)
				continue;
			memset(buf + (done - off), 0, start - done);
			done = min_u64(end, blk_to_bytes(at_blk));
			r = read_extent(fs, ino, &ext[i], buf, off, end);
		}
	} while (r == 0 && n == READ_BATCH && at_blk < end_blk);
	if (r == 0)
		memset(buf + (done - off), 0, end - done);
	return r;
}

// Data lock held shared.
static int read_locked(struct fs *fs, uint64_t ino, void *buf, size_t len, uint64_t off, struct inode_row *row, size_t *done)
{
	int r;

	store_lock(fs->st);
	r = inode_get(fs->st, ino, row);
	store_unlock(fs->st);
	if (r == 0)
		r = fs_check_regular(row);
	if (r != 0 || len == 0 || off >= row->size_bytes)
		return r;
	len = min_u64(len, row->size_bytes - off);
	if (row->flags & INODE_INLINE)
		r = read_inline(fs, row, buf, len, off);
	else
		r = read_extents(fs, ino, buf, off, off + len);
	if (r == 0)
		*done = len;
	return r;
}

int fs_read(struct fs *fs, uint64_t ino, void *buf, size_t len, uint64_t off, size_t *done)
{
	struct inode_row row;
	struct inode *in;
	int r;

	*done = 0;
	in = inode_pin(fs, ino);
	if (in == NULL)
		return -ENOMEM;
	pthread_rwlock_rdlock(&in->lock);
	r = read_locked(fs, ino, buf, len, off, &row, done);
	pthread_rwlock_unlock(&in->lock);
	inode_unpin(fs, in);
	if (r == 0 && len > 0)
		fs_update_atime(fs, &row);
	return r;
}

// ---- where data is ----

// The first byte at or after `off` that is (want_data) or is not in a written extent; no less than `end` if there is none.
static int seek_extents(struct fs *fs, uint64_t ino, uint64_t off, uint64_t end, bool want_data, uint64_t *out)
{
	uint64_t at_blk = bytes_to_blk_down(off), end_blk = bytes_to_blk_up(end);
	struct extent ext[READ_BATCH];
	unsigned n;
	int r;

	do {
		store_lock(fs->st);
		r = extmap_query(fs->vol, ino, at_blk, end_blk - at_blk, ext, READ_BATCH, &n);
		store_unlock(fs->st);
		if (r != 0)
			return r;
		for (unsigned i = 0; i < n; i++) {
			bool hole_before = ext[i].off_blk > at_blk;

			if (want_data ? !ext[i].unwritten : hole_before || ext[i].unwritten) {
				*out = max_u64(off, blk_to_bytes(want_data ? ext[i].off_blk : at_blk));
				return 0;
			}
			at_blk = ext[i].off_blk + ext[i].len_blk;
		}
	} while (n == READ_BATCH && at_blk < end_blk);
	*out = want_data ? end : max_u64(off, blk_to_bytes(at_blk));
	return 0;
}

static int seek_locked(struct fs *fs, uint64_t ino, uint64_t off, int whence, uint64_t *out)
{
	bool want_data = whence == SEEK_DATA;
	struct inode_row row;
	int r;

	store_lock(fs->st);
	r = inode_get(fs->st, ino, &row);
	store_unlock(fs->st);
	if (r == 0)
		r = fs_check_regular(&row);
	if (r != 0)
		return r;
	if (off >= row.size_bytes)
		return -ENXIO;
	*out = want_data ? off : row.size_bytes; // inline: all data
	if ((row.flags & INODE_INLINE) == 0)
		r = seek_extents(fs, ino, off, row.size_bytes, want_data, out);
	if (r != 0)
		return r;
	if (want_data && *out >= row.size_bytes)
		return -ENXIO;
	*out = min_u64(*out, row.size_bytes); // the end of a file is a hole
	return 0;
}

int fs_lseek(struct fs *fs, uint64_t ino, uint64_t off, int whence, uint64_t *out)
{
	struct inode *in;
	int r;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	in = inode_pin(fs, ino);
	if (in == NULL)
		return -ENOMEM;
	pthread_rwlock_rdlock(&in->lock);
	r = seek_locked(fs, ino, off, whence, out);
	pthread_rwlock_unlock(&in->lock);
	inode_unpin(fs, in);
	return r;
}
