// SPDX-License-Identifier: MIT
// Copying is done in steps of at most STEP_BLK, each of which is complete: blocks are allocated, written, given their checksums, named by the
// extent map in place of the shared ones, and entered into the space map, in one transaction that flushes the data before its log. So
// between two steps the transaction may be committed, and fsck may be killed at any time.
//
// A copy takes over the checksums of the first owner's blocks: a block whose content is damaged stays damaged in the copy, not good
// by a new checksum.
#include "fsck/shared.h"

#include <errno.h>
#include <stdlib.h>

#include "fsck/blocks.h"
#include "fsck/sql.h"
#include "meta/csum.h"
#include "meta/volume.h"
#include "util/array.h"

#define STEP_BLK 1024u

int shared_add(struct shared_list *list, const struct shared_run *item)
{
	struct shared_run *more = array_more(list->v, list->n, &list->cap, sizeof(*more));

	if (more == NULL)
		return -ENOMEM;
	list->v = more;
	list->v[list->n++] = *item;
	return 0;
}

void shared_free(struct shared_list *list)
{
	free(list->v);
	*list = (struct shared_list){ 0 };
}

// ---- the extent map ----

static int insert_row(struct fsck *f, const struct shared_run *item, uint64_t off_blk, uint64_t phys_blk, uint64_t len_blk)
{
	return SQL(f, "INSERT OR REPLACE INTO extent(ino, off, phys, len, flags) VALUES(?1, ?2, ?3, ?4, ?5)", (int64_t)item->ino,
	           (int64_t)off_blk, (int64_t)phys_blk, (int64_t)len_blk, item->unwritten);
}

struct row {
	uint64_t off_blk, phys_blk, len_blk;
	bool there, unwritten;
};

// The extent of the item's file at or before off_blk.
static int find_row(struct fsck *f, const struct shared_run *item, uint64_t off_blk, struct row *row)
{
	struct cursor c;
	int err = cursor_open(f, &c, "SELECT off, phys, len, flags FROM extent WHERE ino = ?1 AND off <= ?2 ORDER BY off DESC LIMIT 1",
	                      (int64_t)item->ino, (int64_t)off_blk);

	*row = (struct row){ .there = err == 0 && c.have };
	if (row->there) {
		row->off_blk = (uint64_t)c.key;
		row->phys_blk = (uint64_t)cursor_int(&c, 1);
		row->unwritten = cursor_int(&c, 3) != 0;
		row->len_blk = (uint64_t)cursor_int(&c, 2);
	}
	cursor_close(&c);
	return err;
}

// Takes n_blk blocks at off_blk out of the extent in which they are.
static int cut(struct fsck *f, const struct shared_run *item, uint64_t off_blk, uint64_t n_blk)
{
	struct row row;
	uint64_t head, tail;
	int err = find_row(f, item, off_blk, &row);

	if (err != 0)
		return err;
	if (!row.there || row.off_blk + row.len_blk < off_blk + n_blk)
		return -EUCLEAN; // phase 3 has seen it
	head = off_blk - row.off_blk;
	tail = row.len_blk - head - n_blk;
	if (head > 0)
		err = SQL(f, "UPDATE extent SET len = ?3 WHERE ino = ?1 AND off = ?2", (int64_t)item->ino, (int64_t)row.off_blk,
		          (int64_t)head);
	else
		err = SQL(f, "DELETE FROM extent WHERE ino = ?1 AND off = ?2", (int64_t)item->ino, (int64_t)row.off_blk);
	if (err == 0 && tail > 0)
		err = insert_row(f, item, off_blk + n_blk, row.phys_blk + head + n_blk, tail);
	return err;
}

// E1: continues the extent before it, if it does.
static int add(struct fsck *f, const struct shared_run *item, uint64_t off_blk, const struct run *run)
{
	struct row row = { 0 };
	int err = off_blk > 0 ? find_row(f, item, off_blk - 1, &row) : 0;

	if (err != 0)
		return err;
	if (row.there && row.off_blk + row.len_blk == off_blk && row.phys_blk + row.len_blk == run->start_blk &&
	    row.unwritten == item->unwritten)
		return SQL(f, "UPDATE extent SET len = ?3 WHERE ino = ?1 AND off = ?2", (int64_t)item->ino, (int64_t)row.off_blk,
		           (int64_t)(row.len_blk + run->len_blk));
	return insert_row(f, item, off_blk, run->start_blk, run->len_blk);
}

// ---- the blocks ----

// What is known of the first owner's blocks; the rest is computed.
static int take_checksums(struct fsck *f, struct blocks *b, uint64_t from_blk, uint64_t n_blk)
{
	int err = blocks_get_crc(f, b, from_blk, n_blk);

	for (uint64_t i = 0; i < n_blk; i++) {
		bool known = !blocks_bit(b->no_crc, i) && (blockmap_word(&f->summed, from_blk + i) >> (from_blk + i) % 64 & 1) != 0;

		if (!known)
			b->crc[i] = csum_block(blocks_at(b, i));
	}
	return err;
}

static int copy_run(struct fsck *f, const struct shared_run *item, struct blocks *b, uint64_t from_blk, const struct run *to)
{
	int err = 0;

	for (uint64_t at = 0; err == 0 && at < to->len_blk && !item->unwritten; at += BLOCKS_MAX) {
		uint64_t n = min_u64(BLOCKS_MAX, to->len_blk - at);

		err = blocks_read(f, b, from_blk + at, n);
		if (err == 0)
			err = bdev_write(f->dev, b->data, blk_to_bytes(n), blk_to_bytes(to->start_blk + at));
		if (err == 0 && item->summed)
			err = take_checksums(f, b, from_blk + at, n);
		if (err == 0 && item->summed)
			err = blocks_set_crc(f, b, to->start_blk + at, n);
	}
	if (err == 0 && item->summed)
		err = blockmap_mark(&f->summed, to->start_blk, to->len_blk);
	if (err == 0)
		err = space_commit(&f->space, f->vol->alloc, to->start_blk, to->len_blk);
	return err != 0 ? err : txn_log_run(f->vol, to->start_blk, to->len_blk, true);
}

static int drop(struct fsck *f, const struct shared_run *item)
{
	int err = cut(f, item, item->off_blk, item->len_blk);

	problem_note(f, "inode %llu: no space for copies of the blocks from %llu on: %llu blocks become a hole, which reads as zeros",
	             (unsigned long long)item->ino, (unsigned long long)item->off_blk, (unsigned long long)item->len_blk);
	if (err != 0)
		return err;
	return SQL(f, "UPDATE inode SET blocks = blocks - ?2 WHERE ino = ?1", (int64_t)item->ino, (int64_t)item->len_blk);
}

// Copies the first blocks of the item, and moves its beginning on.
static int step(struct fsck *f, struct shared_run *item, struct blocks *b, uint64_t *goal_blk)
{
	uint64_t n = min_u64(STEP_BLK, item->len_blk), at = 0;
	struct alloc_req req = { .goal_blk = *goal_blk, .want_blk = n };
	struct runlist got = { 0 };
	int err = alloc_get(f->vol->alloc, NULL, &req, &got);

	if (err == -ENOSPC) {
		err = drop(f, item);
		n = item->len_blk;
		goto out;
	}
	if (err == 0)
		err = cut(f, item, item->off_blk, n);
	for (uint32_t i = 0; err == 0 && i < got.n; i++) {
		err = copy_run(f, item, b, item->phys_blk + at, &got.runs[i]);
		if (err == 0)
			err = add(f, item, item->off_blk + at, &got.runs[i]);
		at += got.runs[i].len_blk;
		*goal_blk = got.runs[i].start_blk + got.runs[i].len_blk;
	}
	txn_data_written(f->vol);
out:
	item->off_blk += n;
	item->phys_blk += n;
	item->len_blk -= n;
	runlist_free(&got);
	return err;
}

int shared_resolve(struct fsck *f)
{
	struct blocks b;
	uint64_t goal_blk = 0;
	int err = 0;

	if (f->shared.n == 0)
		return 0;
	if (!f->has_space) {
		problem_note(f, "nothing is copied while other problems are left: repair them, and run fsck again");
		f->n_left += f->shared.n;
		return 0;
	}
	err = blocks_init(&b);
	for (size_t i = 0; err == 0 && i < f->shared.n; i++) {
		while (err == 0 && f->shared.v[i].len_blk > 0 && !fsck_stopping(f)) {
			err = step(f, &f->shared.v[i], &b, &goal_blk);
			if (err == 0 && fsck_commit_due(f))
				err = fsck_commit(f);
		}
	}
	blocks_free(&b);
	return err;
}
