// SPDX-License-Identifier: MIT
// --scrub: reads every written block of every file and holds it against its checksum. A deferred write counts for more than what is on the
// device.
//
// Extents are gathered in batches of BATCH_EXTENTS, and each batch is read in the order of the device, in runs of up to 1 MiB with small
// gaps read over. So memory is bounded (32 MiB for a batch, and damage.h), and a volume of fewer extents than a batch is read from its
// beginning to its end once. (A mounted volume is scrubbed by its daemon, file by file, with the locks that reading takes: fs/fs_verify.c.)
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fsck/blocks.h"
#include "fsck/damage.h"
#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/csum.h"
#include "meta/rows.h"
#include "util/array.h"

#define BATCH_EXTENTS (1u << 20)
#define GAP_BLK 16u        // what reading on costs less than beginning anew

struct piece { // of a file
	uint64_t ino, off_blk, phys_blk, len_blk;
};

struct pieces {
	struct piece *v;
	size_t n, cap;
};

struct scrubber {
	struct fsck *f;
	struct blocks b;
	struct pieces batch;
	struct damage_list damaged;
	uint64_t done_blk, skipped_files, last_skipped;
};

static int add_piece(struct pieces *list, const struct piece *p)
{
	struct piece *more = array_more(list->v, list->n, &list->cap, sizeof(*more));

	if (more == NULL)
		return -ENOMEM;
	list->v = more;
	list->v[list->n++] = *p;
	return 0;
}

// ---- reading ----

static int by_place(const void *a, const void *b)
{
	uint64_t x = ((const struct piece *)a)->phys_blk, y = ((const struct piece *)b)->phys_blk;

	return (x > y) - (x < y);
}

// The blocks of a piece that are in the buffer, which holds the volume from start_blk on.
static int verify(struct scrubber *s, const struct piece *p, uint64_t start_blk, uint64_t end_blk)
{
	uint64_t from = max_u64(p->phys_blk, start_blk), to = min_u64(p->phys_blk + p->len_blk, end_blk);
	int err = 0;

	for (uint64_t blk = from; err == 0 && blk < to; blk++) {
		uint64_t i = blk - start_blk;

		if (blocks_bit(s->b.unreadable, i) || blocks_bit(s->b.no_crc, i) || csum_block(blocks_at(&s->b, i)) != s->b.crc[i])
			err = damage_add(&s->damaged, p->ino, p->off_blk + (blk - p->phys_blk), 1);
	}
	s->done_blk += to > from ? to - from : 0;
	return err;
}

// Where a run from start_blk on ends that covers pieces from `first` on.
static uint64_t run_end(const struct pieces *batch, size_t first, uint64_t start_blk)
{
	uint64_t end = start_blk;

	for (size_t i = first; i < batch->n; i++) {
		const struct piece *p = &batch->v[i];

		if (p->phys_blk > end + GAP_BLK || p->phys_blk >= start_blk + BLOCKS_MAX)
			break;
		end = max_u64(end, min_u64(p->phys_blk + p->len_blk, start_blk + BLOCKS_MAX));
	}
	return end;
}

static int read_batch(struct scrubber *s)
{
	const struct pieces *batch = &s->batch;
	uint64_t at = 0; // everything before it has been read
	size_t first = 0;
	int err = 0;

	qsort(batch->v, batch->n, sizeof(batch->v[0]), by_place);
	while (err == 0 && first < batch->n && !fsck_stopping(s->f)) {
		uint64_t start = max_u64(batch->v[first].phys_blk, at), end = run_end(batch, first, start);

		err = blocks_read(s->f, &s->b, start, end - start);
		if (err == 0)
			err = blocks_get_crc(s->f, &s->b, start, end - start);
		for (size_t i = first; err == 0 && i < batch->n && batch->v[i].phys_blk < end; i++)
			err = verify(s, &batch->v[i], start, end);
		at = end;
		while (first < batch->n && batch->v[first].phys_blk + batch->v[first].len_blk <= at)
			first++;
		progress_at(s->f, s->done_blk);
	}
	s->batch.n = 0;
	return err;
}

// ---- which extents ----

#define SELECT_EXTENTS \
	"SELECT e.ino, e.off, e.phys, e.len, e.flags, i.flags FROM extent e CROSS JOIN inode i ON i.ino = e.ino ORDER BY e.ino, e.off"

// What the phases have left alone may be anything.
static bool take_extent(struct scrubber *s, const struct cursor *c, struct piece *p)
{
	int64_t off = cursor_int(c, 1), phys = cursor_int(c, 2), len = cursor_int(c, 3), n_blks = (int64_t)s->f->sb.n_blks;

	if ((cursor_int(c, 4) & 1) != 0 || off < 0 || phys < 0 || len <= 0 || len > n_blks || phys > n_blks - len)
		return false;
	if ((cursor_int(c, 5) & INODE_NODATACOW) != 0) {
		s->skipped_files += s->last_skipped != (uint64_t)c->key;
		s->last_skipped = (uint64_t)c->key;
		return false;
	}
	*p = (struct piece){ (uint64_t)c->key, (uint64_t)off, (uint64_t)phys, (uint64_t)len };
	return true;
}

static int read_all(struct scrubber *s)
{
	struct cursor c;
	struct piece p;
	int err = cursor_open(s->f, &c, SELECT_EXTENTS, 0, 0);

	progress_range(s->f, s->f->summed.claimed_blk);
	while (err == 0 && c.have && !fsck_stopping(s->f)) {
		if (take_extent(s, &c, &p))
			err = add_piece(&s->batch, &p);
		if (err == 0 && s->batch.n == BATCH_EXTENTS)
			err = read_batch(s);
		if (err == 0)
			err = cursor_next(s->f, &c);
	}
	cursor_close(&c);
	return err != 0 ? err : read_batch(s);
}

int scrub(struct fsck *f)
{
	struct scrubber s = { .f = f };
	int err = fsck_begin(f);

	if (err != 0)
		return err;
	progress_phase(f, f->progress.n_passes, f->progress.n_passes, "scrub");
	err = blocks_init(&s.b);
	if (err == 0)
		err = read_all(&s);
	progress_hide(f);
	if (err == 0 && !fsck_stopping(f))
		err = damage_report(f, &s.damaged, s.done_blk, s.skipped_files);
	blocks_free(&s.b);
	free(s.batch.v);
	damage_free(&s.damaged);
	if (err == 0)
		return fsck_end(f);
	store_unlock(f->vol->store);
	return err;
}
