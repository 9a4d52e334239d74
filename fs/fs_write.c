// SPDX-License-Identifier: MIT
// Writing files. Small files are rewritten in their row; everything else goes to blocks through a change (change.h).
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/change.h"

#define COPY_BUF_BYTES (1u << 20)

static void set_written(struct change *c, uint64_t end)
{
	c->row.size_bytes = max_u64(c->row.size_bytes, end);
	fs_touch_contents(c->fs, &c->row);
}

// Store lock held, handle joined.
static int kill_privs(struct change *c, unsigned flags)
{
	return (flags & FS_WRITE_LATE) != 0 ? 0 : fs_kill_privs(c->fs, c->in, &c->row, (flags & FS_WRITE_KILL_SUIDGID) != 0);
}

// The file stays inline: its whole content is written anew. No block is touched.
static int write_inline(struct change *c, unsigned flags)
{
	uint64_t size = max_u64(c->row.size_bytes, c->end);
	struct fs *fs = c->fs;
	int r;

	if (c->off > c->row.size_bytes)
		memset(c->inline_data + c->row.size_bytes, 0, c->off - c->row.size_bytes);
	memcpy(c->inline_data + c->off, c->buf, c->end - c->off);
	r = change_begin(c, c->end <= c->row.size_bytes ? TXN_FREE : TXN_GROW);
	if (r != 0)
		return r;
	set_written(c, c->end);
	r = inline_set(fs->st, c->in->ino, c->inline_data, size);
	if (r == 0)
		r = kill_privs(c, flags);
	return change_end(c, r);
}

// Composes the first and the last block if they are written in part.
static int compose_ends(struct change *c)
{
	uint64_t first = bytes_to_blk_down(c->off), last = bytes_to_blk_down(c->end - 1);
	int r = 0;

	if (c->off % BLK_SIZE != 0 || (c->end % BLK_SIZE != 0 && last == first))
		r = change_edge(c, first);
	if (r == 0 && c->end % BLK_SIZE != 0 && last != first)
		r = change_edge(c, last);
	return r;
}

static int write_blocks(struct change *c, unsigned flags)
{
	int r;

	r = compose_ends(c);
	if (r == 0)
		r = change_alloc(c, CHANGE_PLAIN);
	if (r == 0 && c->end <= c->off)
		r = -ENOSPC; // only the block of what was inline could be had
	if (r != 0) {
		change_drop(c);
		return r;
	}
	r = change_begin(c, change_only_replaces(c) ? TXN_FREE : TXN_GROW);
	if (r != 0)
		return r;
	r = change_apply(c);
	if (r == 0)
		r = kill_privs(c, flags);
	set_written(c, c->end);
	return change_end(c, r);
}

// At most CHANGE_MAX_BLK blocks. Data lock held exclusively.
static int write_piece(struct fs *fs, struct inode *in, const void *buf, uint64_t off, uint64_t end, unsigned flags,
                       size_t *done)
{
	uint64_t first = bytes_to_blk_down(off), n_blk = bytes_to_blk_up(end) - first;
	struct change c;
	int r;

	do {
		r = change_load(&c, fs, in, first, n_blk);
		if (r != 0)
			return r;
		c.buf = buf;
		c.off = off;
		c.end = end;
		if ((c.row.flags & INODE_INLINE) != 0 && end <= INLINE_MAX_BYTES) {
			r = write_inline(&c, flags);
			continue;
		}
		if ((c.row.flags & INODE_INLINE) != 0)
			r = change_convert(&c, first, n_blk);
		if (r == 0)
			r = write_blocks(&c, flags);
	} while (r == -EAGAIN);
	if (r == 0)
		*done = c.end - c.off;
	return r;
}

static int write_locked(struct fs *fs, struct inode *in, const uint8_t *buf, size_t len, uint64_t off, unsigned flags,
                        size_t *done)
{
	uint64_t at = off, end = off + len;
	size_t n;
	int r = 0;

	while (at < end) {
		uint64_t upto = min_u64(end, blk_to_bytes(bytes_to_blk_down(at) + CHANGE_MAX_BLK));

		r = write_piece(fs, in, buf + (at - off), at, upto, flags, &n);
		if (r != 0)
			break;
		at += n;
		if (at < upto)
			break; // space has ended
	}
	*done = at - off;
	return *done > 0 ? 0 : r;
}

int fs_write(struct fs *fs, uint64_t ino, const void *buf, size_t len, uint64_t off, unsigned flags, size_t *done)
{
	struct inode *in;
	int r;

	*done = 0;
	if (len == 0)
		return 0;
	if (off >= FILE_MAX_BYTES)
		return -EFBIG;
	len = min_u64(len, FILE_MAX_BYTES - off);
	in = inode_pin(fs, ino);
	if (in == NULL)
		return -ENOMEM;
	r = inode_lock_change(fs, in);
	if (r == 0) {
		r = write_locked(fs, in, buf, len, off, flags, done);
		pthread_rwlock_unlock(&in->lock);
	}
	inode_unpin(fs, in);
	return r;
}

// ---- copying ----

static int copy_pieces(struct fs *fs, uint64_t in, uint64_t in_off, uint64_t out, uint64_t out_off, size_t len, void *buf,
                       size_t *done)
{
	size_t got, put;
	int r = 0;

	while (*done < len) {
		r = fs_read(fs, in, buf, min_u64(len - *done, COPY_BUF_BYTES), in_off + *done, &got);
		if (r != 0 || got == 0)
			break;
		r = fs_write(fs, out, buf, got, out_off + *done, 0, &put);
		*done += put;
		if (r != 0 || put < got)
			break;
	}
	return *done > 0 ? 0 : r;
}

int fs_copy_range(struct fs *fs, uint64_t in, uint64_t in_off, uint64_t out, uint64_t out_off, size_t len, size_t *done)
{
	void *buf;
	int r;

	*done = 0;
	if (len == 0)
		return 0;
	if (in_off >= FILE_MAX_BYTES)
		return 0; // behind the end of every file
	if (out_off >= FILE_MAX_BYTES)
		return -EFBIG;
	len = min_u64(len, FILE_MAX_BYTES - max_u64(in_off, out_off));
	if (in == out && in_off < out_off + len && out_off < in_off + len)
		return -EINVAL;
	buf = malloc(COPY_BUF_BYTES);
	if (buf == NULL)
		return -ENOMEM;
	r = copy_pieces(fs, in, in_off, out, out_off, len, buf, done);
	free(buf);
	return r;
}
