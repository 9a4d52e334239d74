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

#define READ_BATCH 64u    // extents per look at the map
#define READ_MAX_BLK 257u // blocks: 1 MiB at any byte offset

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

// A read of [off, end); buf has room up to `cap`, so that a last block that is asked for as a whole needs no copy.
struct reader {
	struct fs *fs;
	const struct inode_row *row;
	uint8_t *buf;
	uint64_t off, end, cap;
	uint64_t done; // everything before it is in buf
};

// What the map says of some blocks: where they are and what their checksums are.
struct plan {
	uint64_t start_blk, end_blk;
	unsigned n;
	struct piece {
		uint64_t off_blk, phys_blk, len_blk;
		bool pending; // a deferred write: it is in buf already
	} pieces[READ_BATCH];
	uint32_t crc[READ_MAX_BLK]; // from start_blk on
};

static bool fits(const struct reader *rd, uint64_t blk)
{
	return blk_to_bytes(blk) >= rd->off && blk_to_bytes(blk + 1) <= rd->cap;
}

// The part of a block that was asked for, from a buffer of its own.
static void copy_part(struct reader *rd, uint64_t blk, const uint8_t *data)
{
	uint64_t from = max_u64(rd->off, blk_to_bytes(blk)), to = min_u64(rd->end, blk_to_bytes(blk + 1));

	if (from < to)
		memcpy(rd->buf + (from - rd->off), data + (from - blk_to_bytes(blk)), to - from);
}

// Store lock held.
static int read_pending(struct reader *rd, uint64_t blk, uint64_t phys_blk, uint64_t len_blk)
{
	uint8_t data[BLK_SIZE];
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < len_blk; i++) {
		r = deferred_read(rd->fs->vol, phys_blk + i, data);
		if (r == 0)
			copy_part(rd, blk + i, data);
	}
	return r;
}

// Adds an extent to the plan; the plan ends early when it is full. Store lock held.
static int plan_extent(struct reader *rd, struct plan *plan, const struct extent *ext)
{
	uint64_t at, len;
	bool pending;
	int r = 0;

	for (at = 0; r == 0 && at < ext->len_blk; at += len) {
		uint64_t blk = ext->off_blk + at, phys_blk = ext->phys_blk + at;

		if (plan->n == READ_BATCH) {
			plan->end_blk = blk;
			return 0;
		}
		r = deferred_span(rd->fs->vol, phys_blk, ext->len_blk - at, &len, &pending);
		if (r != 0)
			return r;
		plan->pieces[plan->n++] = (struct piece){ blk, phys_blk, len, pending };
		if (pending)
			r = read_pending(rd, blk, phys_blk, len);
		else if ((rd->row->flags & INODE_NODATACOW) == 0)
			r = csum_get(rd->fs->vol, phys_blk, len, &plan->crc[blk - plan->start_blk]);
		if (r == -ENODATA)
			r = fs_data_no_checksum(rd->row->ino, blk, phys_blk);
	}
	return r;
}

static int make_plan(struct reader *rd, uint64_t start_blk, uint64_t end_blk, struct plan *plan)
{
	struct extent ext[READ_BATCH];
	unsigned n;
	int r;

	plan->start_blk = start_blk;
	plan->end_blk = min_u64(end_blk, start_blk + READ_MAX_BLK);
	plan->n = 0;
	store_lock(rd->fs->st);
	r = extmap_query(rd->fs->vol, rd->row->ino, start_blk, plan->end_blk - start_blk, ext, READ_BATCH, &n);
	if (r == 0 && n == READ_BATCH)
		plan->end_blk = ext[n - 1].off_blk + ext[n - 1].len_blk;
	for (unsigned i = 0; r == 0 && i < n && ext[i].off_blk < plan->end_blk; i++)
		if (!ext[i].unwritten)
			r = plan_extent(rd, plan, &ext[i]);
	store_unlock(rd->fs->st);
	return r;
}

// From the device: whole blocks straight to buf, a first and a last one that are asked for in part by way of `part`.
static int read_piece(struct reader *rd, const struct piece *p, const uint32_t *crc)
{
	uint8_t part[2][BLK_SIZE];
	uint64_t last = p->off_blk + p->len_blk - 1, n_good;
	bool head = !fits(rd, p->off_blk), tail = last > p->off_blk && !fits(rd, last);
	uint64_t whole = p->len_blk - head - tail;
	struct iovec iov[3];
	int n = 0, r;

	if (head)
		iov[n++] = (struct iovec){ part[0], BLK_SIZE };
	if (whole > 0)
		iov[n++] = (struct iovec){ rd->buf + (blk_to_bytes(p->off_blk + head) - rd->off), blk_to_bytes(whole) };
	if (tail)
		iov[n++] = (struct iovec){ part[1], BLK_SIZE };
	r = fs_data_read(rd->fs, rd->row->ino, p->off_blk, p->phys_blk, iov, n,
	                 (rd->row->flags & INODE_NODATACOW) == 0 ? crc : NULL, &n_good);
	if (head && n_good > 0)
		copy_part(rd, p->off_blk, part[0]);
	if (tail && n_good == p->len_blk)
		copy_part(rd, last, part[1]);
	if (n_good > 0)
		rd->done = max_u64(rd->done, min_u64(rd->end, blk_to_bytes(p->off_blk + n_good)));
	return r;
}

static void fill_zeros(struct reader *rd, uint64_t upto)
{
	upto = min_u64(upto, rd->end);
	if (upto <= rd->done)
		return;
	memset(rd->buf + (rd->done - rd->off), 0, upto - rd->done);
	rd->done = upto;
}

static int follow_plan(struct reader *rd, const struct plan *plan)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < plan->n; i++) {
		const struct piece *p = &plan->pieces[i];

		fill_zeros(rd, blk_to_bytes(p->off_blk));
		if (p->pending)
			rd->done = min_u64(rd->end, blk_to_bytes(p->off_blk + p->len_blk));
		else
			r = read_piece(rd, p, &plan->crc[p->off_blk - plan->start_blk]);
	}
	if (r == 0)
		fill_zeros(rd, blk_to_bytes(plan->end_blk));
	return r;
}

static int read_extents(struct reader *rd)
{
	uint64_t at_blk = bytes_to_blk_down(rd->off), end_blk = bytes_to_blk_up(rd->end);
	struct plan plan;
	int r = 0;

	for (; r == 0 && at_blk < end_blk; at_blk = plan.end_blk) {
		r = make_plan(rd, at_blk, end_blk, &plan);
		if (r == 0)
			r = follow_plan(rd, &plan);
	}
	return r;
}

// Data lock held shared.
static int read_locked(struct fs *fs, uint64_t ino, void *buf, size_t len, uint64_t off, struct inode_row *row, size_t *done)
{
	struct reader rd;
	int r;

	store_lock(fs->st);
	r = inode_get(fs->st, ino, row);
	store_unlock(fs->st);
	if (r == 0)
		r = fs_check_regular(row);
	if (r != 0 || len == 0 || off >= row->size_bytes)
		return r;
	len = min_u64(len, FILE_MAX_BYTES);
	rd = (struct reader){ fs, row, buf, off, min_u64(off + len, row->size_bytes), off + len, off };
	if (row->flags & INODE_INLINE) {
		r = read_inline(fs, row, buf, rd.end - off, off);
		rd.done = r == 0 ? rd.end : off;
	} else {
		r = read_extents(&rd);
	}
	*done = rd.done - off;
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
