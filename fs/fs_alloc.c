// SPDX-License-Identifier: MIT
// Changing which blocks a file has: truncate, fallocate and its modes.
//
// What may touch any number of extents goes in pieces of at most ORPHAN_PIECE_ROWS rows, each a transaction handle, so that it
// stalls nobody. A truncate is atomic all the same: the first handle sets the size, and an orphan row stands for the rest. Of a
// long fallocate a crash may leave a part.
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#include "fs/change.h"
#include "meta/orphan.h"

#define HOLE_BATCH 64u                  // extents per look at the map
#define ALLOC_PIECE_BLK (1ull << 18)    // 1 GiB
#define ALLOC_PIECE_ROWS 256u           // extents inserted per handle

// Unmaps [start, end), at most `max_rows` extents of it. Store lock held, handle joined.
static int unmap(struct fs *fs, struct inode_row *row, uint64_t start_blk, uint64_t end_blk, bool *more)
{
	uint64_t removed = 0;
	int r;

	*more = false;
	if (start_blk >= end_blk)
		return 0;
	r = extmap_remove(fs->vol, row->ino, start_blk, end_blk - start_blk, ORPHAN_PIECE_ROWS, more, &removed);
	row->blocks_blk -= min_u64(removed, row->blocks_blk);
	return r;
}

// One more handle of a long removal. `orphan`: the inode's orphan row stands for it and goes with the last piece.
static int unmap_piece(struct fs *fs, struct inode *in, uint64_t start_blk, uint64_t end_blk, bool orphan, bool *more)
{
	struct inode_row row;
	uint64_t txn;
	int r;

	r = fs_begin(fs, TXN_FREE, &txn);
	if (r != 0)
		return r;
	r = inode_get(fs->st, in->ino, &row);
	if (r == 0 && orphan)
		start_blk = bytes_to_blk_up(row.size_bytes);
	if (r == 0 && (row.flags & INODE_INLINE) == 0)
		r = unmap(fs, &row, start_blk, end_blk, more);
	else
		*more = false;
	if (r == 0)
		r = inode_update(fs->st, &row);
	// Without a name the row has another meaning: the inode itself is to be deleted when nobody uses it any more.
	if (r == 0 && orphan && !*more && row.nlink > 0)
		r = orphan_remove(fs->vol, in->ino);
	inode_touch(fs, in->ino, txn);
	fs_end(fs);
	return r;
}

int fs_trim_tail(struct fs *fs, struct inode *in)
{
	bool more = true;
	int r = 0;

	while (r == 0 && more)
		r = unmap_piece(fs, in, 0, FILE_MAX_BLK, true, &more);
	if (r != 0)
		atomic_store(&fs->check_orphans, true); // whoever changes the file next has to finish this first
	return r;
}

// ---- truncate ----

// The content of a file that is and stays inline.
static int resize_inline(struct change *c, uint64_t size)
{
	struct fs *fs = c->fs;

	if (size == c->row.size_bytes)
		return 0;
	if (size == 0)
		return inline_delete(fs->st, c->in->ino);
	if (size > c->row.size_bytes)
		memset(c->inline_data + c->row.size_bytes, 0, size - c->row.size_bytes);
	return inline_set(fs->st, c->in->ino, c->inline_data, size);
}

// Before the transaction: the part of the last block that will lie beyond the size must become zeros (F1).
static int prepare_resize(struct change *c, uint64_t size)
{
	uint64_t tail_end = blk_to_bytes(bytes_to_blk_up(size));
	int r = 0;

	if ((c->row.flags & INODE_INLINE) != 0 && size > INLINE_MAX_BYTES)
		r = change_convert(c, 0, 0);
	else if ((c->row.flags & INODE_INLINE) == 0 && size < c->row.size_bytes && size != tail_end)
		r = change_zero(c, size, tail_end);
	if (r == 0)
		r = change_alloc(c, CHANGE_RESERVE);
	if (r != 0)
		change_drop(c);
	return r;
}

// Inside it. *more: extents beyond the size are left, and an orphan row says so.
static int apply_resize(struct change *c, uint64_t size, bool *more)
{
	bool is_inline = (c->row.flags & INODE_INLINE) != 0 && !c->convert;
	int r;

	*more = false;
	if (is_inline)
		return resize_inline(c, size);
	r = change_apply(c);
	// Also at the same size: blocks beyond it (FALLOC_FL_KEEP_SIZE) go.
	if (r == 0 && !c->convert && size <= c->row.size_bytes)
		r = unmap(c->fs, &c->row, bytes_to_blk_up(size), FILE_MAX_BLK, more);
	if (r == 0 && *more)
		r = orphan_add(c->fs->vol, c->in->ino);
	if (r == 0 && !*more && size == 0) {
		c->row.flags |= INODE_INLINE; // as a new file
		c->row.blocks_blk = 0;
	}
	return r;
}

// The count of blocks has fallen with each piece: whoever asked for the truncate is told the last one, and believes it for long.
static int finish_long_truncate(struct fs *fs, struct inode *in, struct inode_row *row)
{
	int r;

	r = fs_trim_tail(fs, in);
	if (r != 0)
		return r;
	store_lock(fs->st);
	r = inode_get(fs->st, in->ino, row);
	store_unlock(fs->st);
	return r;
}

int fs_truncate(struct fs *fs, struct inode *in, const struct fs_setattr *attr, struct inode_row *row)
{
	uint64_t size = attr->size_bytes;
	struct change c;
	bool more = false;
	int r;

	if (size > FILE_MAX_BYTES)
		return -EFBIG;
	do {
		r = change_load(&c, fs, in, 0, 0);
		if (r == 0)
			r = prepare_resize(&c, size);
		if (r == 0)
			r = change_begin(&c, c.convert ? TXN_GROW : TXN_FREE);
	} while (r == -EAGAIN);
	if (r != 0)
		return r;
	fs_touch_contents(fs, &c.row);
	r = fs_apply_attr(fs, in, &c.row, attr); // first: it may be refused
	if (r == 0)
		r = apply_resize(&c, size, &more);
	c.row.size_bytes = size;
	r = change_end(&c, r);
	*row = c.row;
	return r == 0 && more ? finish_long_truncate(fs, in, row) : r;
}

// ---- allocating ahead ----

// The first hole in [at, end): *start = end if there is none. *goal: the device block behind what is before the hole.
static int find_hole(struct fs *fs, uint64_t ino, uint64_t at, uint64_t end, uint64_t *start, uint64_t *len, uint64_t *goal)
{
	struct extent ext[HOLE_BATCH];
	unsigned n;
	int r;

	*goal = 0;
	*len = 0;
	do {
		store_lock(fs->st);
		r = extmap_query(fs->vol, ino, at, end - at, ext, HOLE_BATCH, &n);
		store_unlock(fs->st);
		if (r != 0)
			return r;
		for (unsigned i = 0; i < n; i++) {
			if (ext[i].off_blk > at) {
				*start = at;
				*len = ext[i].off_blk - at;
				return 0;
			}
			at = ext[i].off_blk + ext[i].len_blk;
			*goal = ext[i].phys_blk + ext[i].len_blk;
		}
	} while (n == HOLE_BATCH && at < end);
	*start = at;
	*len = end - at;
	return 0;
}

struct prealloc { // one fallocate at work
	struct fs *fs;
	struct inode *in;
	uint64_t end;     // bytes
	bool keep_size;
	bool changed;     // the row has been written at least once
};

// Maps runs[0..n) as unwritten blocks from off_blk on, in one handle. *n_done: how many of them are the file's now.
static int map_runs(struct prealloc *p, uint64_t off_blk, const struct run *runs, uint32_t n, uint32_t *n_done)
{
	struct fs *fs = p->fs;
	struct inode_row row;
	uint64_t txn;
	int r;

	*n_done = 0;
	r = fs_begin(fs, TXN_GROW, &txn);
	if (r != 0)
		return r;
	r = inode_get(fs->st, p->in->ino, &row);
	for (; r == 0 && *n_done < n; (*n_done)++) {
		const struct run *run = &runs[*n_done];

		r = extmap_insert(fs->vol, p->in->ino, &(struct extent){ off_blk, run->start_blk, run->len_blk, true });
		if (r != 0)
			break;
		off_blk += run->len_blk;
		row.blocks_blk += run->len_blk;
	}
	row.flags &= ~(uint32_t)INODE_INLINE;
	fs_touch_contents(fs, &row);
	if (r == 0)
		r = inode_update(fs->st, &row);
	p->changed = true;
	inode_touch(fs, p->in->ino, txn);
	fs_end(fs);
	return r;
}

static int fill_hole(struct prealloc *p, uint64_t off_blk, uint64_t len_blk, uint64_t goal_blk)
{
	struct alloc_req req = { .goal_blk = goal_blk, .want_blk = len_blk, .locality = p->in->locality };
	struct alloc *a = p->fs->vol->alloc;
	struct runlist runs = { 0 };
	uint32_t i = 0, n;
	int r;

	r = alloc_get(a, NULL, &req, &runs);
	if (r == -ENOSPC && fs_reclaim(p->fs))
		r = alloc_get(a, NULL, &req, &runs);
	while (r == 0 && i < runs.n) {
		uint32_t want = runs.n - i < ALLOC_PIECE_ROWS ? runs.n - i : ALLOC_PIECE_ROWS;

		r = map_runs(p, off_blk, &runs.runs[i], want, &n);
		for (; n > 0; n--)
			off_blk += runs.runs[i++].len_blk;
	}
	for (; i < runs.n; i++)
		(void)alloc_put(a, runs.runs[i].start_blk, runs.runs[i].len_blk);
	runlist_free(&runs);
	return r;
}

// Whether [start, end) can be allocated at all: its holes are at least its length less all blocks that the file has.
static int check_space(struct prealloc *p, const struct inode_row *row, uint64_t start_blk, uint64_t end_blk)
{
	uint64_t len = end_blk - start_blk, need = len > row->blocks_blk ? len - row->blocks_blk : 0;
	struct volume_space space;

	volume_get_space(p->fs->vol, &space);
	if (need > space.avail_blk) {
		reaper_drain(p->fs);
		volume_get_space(p->fs->vol, &space);
	}
	return need > space.avail_blk ? -ENOSPC : 0;
}

// An inline file gets a block for what it holds; without data the first extent does it (map_runs).
static int convert(struct fs *fs, struct inode *in, struct inode_row *row)
{
	struct change c;
	int r;

	do {
		r = change_load(&c, fs, in, 0, 0);
		*row = c.row;
		if (r != 0 || (c.row.flags & INODE_INLINE) == 0 || c.row.size_bytes == 0)
			return r;
		r = change_convert(&c, 0, 0);
		if (r == 0)
			r = change_alloc(&c, CHANGE_PLAIN);
		if (r != 0) {
			change_drop(&c);
			return r;
		}
		r = change_begin(&c, TXN_GROW);
	} while (r == -EAGAIN);
	if (r != 0)
		return r;
	r = change_end(&c, change_apply(&c));
	*row = c.row;
	return r;
}

// The size grows when everything is allocated, not before: when the space ends half-way, the kernel goes on with the size that it knows.
static int finish_allocate(struct prealloc *p)
{
	struct inode_row row;
	uint64_t txn;
	int r;

	r = fs_begin(p->fs, TXN_FREE, &txn);
	if (r != 0)
		return r;
	r = inode_get(p->fs->st, p->in->ino, &row);
	if (r == 0 && (!p->changed || (!p->keep_size && row.size_bytes < p->end))) {
		fs_touch_contents(p->fs, &row);
		if (!p->keep_size && row.size_bytes < p->end)
			row.size_bytes = p->end;
		r = inode_update(p->fs->st, &row);
	}
	inode_touch(p->fs, p->in->ino, txn);
	fs_end(p->fs);
	return r;
}

static int allocate(struct fs *fs, struct inode *in, uint64_t off, uint64_t end, bool keep_size)
{
	struct prealloc p = { .fs = fs, .in = in, .end = end, .keep_size = keep_size };
	uint64_t at = bytes_to_blk_down(off), end_blk = bytes_to_blk_up(end), len, goal;
	struct inode_row row;
	int r;

	r = convert(fs, in, &row);
	if (r == 0)
		r = check_space(&p, &row, at, end_blk);
	inode_end_wstate(fs, in); // its window would lie in the way of a contiguous extent
	while (r == 0 && at < end_blk) {
		r = find_hole(fs, in->ino, at, end_blk, &at, &len, &goal);
		if (r != 0 || len == 0)
			break;
		len = min_u64(len, ALLOC_PIECE_BLK);
		r = fill_hole(&p, at, len, goal);
		at += len;
	}
	return r == 0 ? finish_allocate(&p) : r;
}

// ---- punching holes ----

static int punch_inline(struct change *c, uint64_t off, uint64_t end)
{
	int r;

	r = change_begin(c, TXN_FREE);
	if (r != 0)
		return r;
	if (off < c->row.size_bytes) {
		memset(c->inline_data + off, 0, min_u64(end, c->row.size_bytes) - off);
		r = inline_set(c->fs->st, c->in->ino, c->inline_data, c->row.size_bytes);
	}
	fs_touch_contents(c->fs, &c->row);
	return change_end(c, r);
}

// The parts of blocks at both ends of the range become zeros.
static int prepare_punch(struct change *c, uint64_t off, uint64_t end)
{
	uint64_t head_end = blk_to_bytes(bytes_to_blk_up(off)), tail_start = blk_to_bytes(bytes_to_blk_down(end));
	int r = 0;

	if (off != head_end)
		r = change_zero(c, off, min_u64(head_end, end));
	if (r == 0 && end != tail_start && tail_start >= head_end)
		r = change_zero(c, tail_start, end);
	if (r == 0)
		r = change_alloc(c, CHANGE_RESERVE);
	if (r != 0)
		change_drop(c);
	return r;
}

static int punch(struct fs *fs, struct inode *in, uint64_t off, uint64_t end)
{
	uint64_t first, last;
	struct change c;
	bool more = false;
	int r;

	do {
		r = change_load(&c, fs, in, 0, 0);
		if (r != 0)
			return r;
		if ((c.row.flags & INODE_INLINE) != 0)
			return punch_inline(&c, off, end);
		if (end >= c.row.size_bytes) // the block with the end of the file goes as a whole
			end = blk_to_bytes(bytes_to_blk_up(end));
		r = prepare_punch(&c, off, end);
		if (r == 0)
			r = change_begin(&c, TXN_FREE);
	} while (r == -EAGAIN);
	if (r != 0)
		return r;
	first = bytes_to_blk_up(off);
	last = bytes_to_blk_down(end);
	r = change_apply(&c);
	if (r == 0)
		r = unmap(fs, &c.row, first, last, &more);
	fs_touch_contents(fs, &c.row);
	r = change_end(&c, r);
	while (r == 0 && more)
		r = unmap_piece(fs, in, first, last, false, &more);
	return r;
}

// ---- fallocate ----

static int fallocate_locked(struct fs *fs, struct inode *in, int mode, uint64_t off, uint64_t end)
{
	bool keep_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
	int r;

	if (mode & FALLOC_FL_PUNCH_HOLE)
		return punch(fs, in, off, end);
	if (mode & FALLOC_FL_ZERO_RANGE) {
		// Other blocks, not the same ones called unwritten: a durable state may still name them as data (change.h).
		r = punch(fs, in, off, end);
		if (r != 0)
			return r;
	}
	return allocate(fs, in, off, end, keep_size);
}

int fs_fallocate(struct fs *fs, uint64_t ino, int mode, uint64_t off, uint64_t len)
{
	struct inode *in;
	int r;

	switch (mode) {
	case 0:
	case FALLOC_FL_KEEP_SIZE:
	case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
	case FALLOC_FL_ZERO_RANGE:
	case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (len == 0)
		return -EINVAL;
	if (off > FILE_MAX_BYTES || len > FILE_MAX_BYTES - off)
		return -EFBIG;
	in = inode_pin(fs, ino);
	if (in == NULL)
		return -ENOMEM;
	r = inode_lock_change(fs, in);
	if (r == 0) {
		r = fallocate_locked(fs, in, mode, off, off + len);
		pthread_rwlock_unlock(&in->lock);
	}
	inode_unpin(fs, in);
	return r;
}
