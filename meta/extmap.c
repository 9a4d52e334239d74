// SPDX-License-Identifier: MIT
// Extent maps: rows of table extent, and what they mean for the space map and the allocator. See extmap.h (E1–E3).
#include "meta/extmap.h"

#include <errno.h>

#include "meta/rows.h"
#include "meta/store_internal.h"
#include "meta/volume.h"
#include "util/blk.h"
#include "util/log.h"

#define EXTENT_UNWRITTEN 1
#define FILE_MAX_BLK (FILE_MAX_BYTES / BLK_SIZE)
#define BATCH 32 // rows read before any of them is changed
#define PIECE_WRITTEN_BLK (1ull << 20) // 4 GiB: their checksums are 16384 rows, gone in 10 ms

static uint64_t ext_end(const struct extent *e) { return e->off_blk + e->len_blk; }

// ---- rows ----

static int from_columns(struct volume *vol, uint64_t ino, sqlite3_stmt *stmt, struct extent *e)
{
	uint64_t n_blks = vol->files.sb.n_blks;
	int flags = sqlite3_column_int(stmt, 3);

	e->off_blk = (uint64_t)sqlite3_column_int64(stmt, 0);
	e->phys_blk = (uint64_t)sqlite3_column_int64(stmt, 1);
	e->len_blk = (uint64_t)sqlite3_column_int64(stmt, 2);
	e->unwritten = (flags & EXTENT_UNWRITTEN) != 0;
	if (e->len_blk > 0 && e->off_blk < FILE_MAX_BLK && e->len_blk <= FILE_MAX_BLK - e->off_blk &&
	    e->phys_blk < n_blks && e->len_blk <= n_blks - e->phys_blk && (flags & ~EXTENT_UNWRITTEN) == 0 &&
	    !sysfiles_overlap(&vol->files, e->phys_blk, e->len_blk)) // an overwrite in place would hit the database
		return 0;
	msg_error("inode %llu: extent at block %llu is damaged (device block %llu, length %llu); run fsck.hybridfs",
	          (unsigned long long)ino, (unsigned long long)e->off_blk, (unsigned long long)e->phys_blk,
	          (unsigned long long)e->len_blk);
	return -EUCLEAN;
}

static int insert_row(struct volume *vol, uint64_t ino, const struct extent *e)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_EXTENT_INSERT);

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	sqlite3_bind_int64(stmt, 2, (int64_t)e->off_blk);
	sqlite3_bind_int64(stmt, 3, (int64_t)e->phys_blk);
	sqlite3_bind_int64(stmt, 4, (int64_t)e->len_blk);
	sqlite3_bind_int(stmt, 5, e->unwritten ? EXTENT_UNWRITTEN : 0);
	return stmt_write(vol->store, stmt, "add extent", NULL);
}

static int resize_row(struct volume *vol, uint64_t ino, uint64_t off_blk, uint64_t len_blk)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_EXTENT_RESIZE);

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	sqlite3_bind_int64(stmt, 2, (int64_t)off_blk);
	sqlite3_bind_int64(stmt, 3, (int64_t)len_blk);
	return stmt_write(vol->store, stmt, "change extent", NULL);
}

static int delete_row(struct volume *vol, uint64_t ino, uint64_t off_blk)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_EXTENT_DELETE);

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	sqlite3_bind_int64(stmt, 2, (int64_t)off_blk);
	return stmt_write(vol->store, stmt, "delete extent", NULL);
}

// The extent that begins at or before off_blk. 1, 0 (none) or negative errno.
static int at_or_before(struct volume *vol, uint64_t ino, uint64_t off_blk, struct extent *e)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_EXTENT_AT_OR_BEFORE);
	int rc;

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	sqlite3_bind_int64(stmt, 2, (int64_t)off_blk);
	rc = stmt_row(vol->store, stmt, "read extent");
	if (rc == 1 && (from_columns(vol, ino, stmt, e) != 0 || e->off_blk > off_blk))
		rc = -EUCLEAN;
	stmt_done(stmt);
	return rc;
}

// Up to max extents that begin after off_blk and before end_blk. Their number or negative errno.
static int after(struct volume *vol, uint64_t ino, uint64_t off_blk, uint64_t end_blk, struct extent *out, unsigned max)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_EXTENT_AFTER);
	unsigned n = 0;
	int rc = 0;

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	sqlite3_bind_int64(stmt, 2, (int64_t)off_blk);
	while (n < max && (rc = stmt_row(vol->store, stmt, "read extents")) == 1) {
		rc = from_columns(vol, ino, stmt, &out[n]);
		if (rc == 0 && out[n].off_blk <= off_blk)
			rc = -EUCLEAN; // in a damaged tree, or of another type than a number: nobody asked for this one
		if (rc != 0 || out[n].off_blk >= end_blk)
			break;
		n++;
	}
	stmt_done(stmt);
	return rc < 0 ? rc : (int)n;
}

// ---- reading ----

int extmap_next(struct volume *vol, uint64_t ino, uint64_t off_blk, struct extent *out)
{
	int rc = at_or_before(vol, ino, off_blk, out);

	if (rc < 0 || (rc == 1 && ext_end(out) > off_blk))
		return rc < 0 ? rc : 0;
	rc = after(vol, ino, off_blk, UINT64_MAX, out, 1);
	return rc == 1 ? 0 : (rc < 0 ? rc : -ENOENT);
}

int extmap_before(struct volume *vol, uint64_t ino, uint64_t off_blk, struct extent *out)
{
	int rc = off_blk > 0 ? at_or_before(vol, ino, off_blk - 1, out) : 0;

	return rc == 1 ? 0 : (rc < 0 ? rc : -ENOENT);
}

static void clip(struct extent *e, uint64_t start, uint64_t end)
{
	if (e->off_blk < start) {
		e->phys_blk += start - e->off_blk;
		e->len_blk -= start - e->off_blk;
		e->off_blk = start;
	}
	if (ext_end(e) > end)
		e->len_blk = end - e->off_blk;
}

int extmap_query(struct volume *vol, uint64_t ino, uint64_t off_blk, uint64_t len_blk, struct extent *out, unsigned max,
                 unsigned *n)
{
	uint64_t end = off_blk + len_blk;
	int rc;

	*n = 0;
	if (len_blk == 0 || max == 0)
		return 0;
	rc = at_or_before(vol, ino, off_blk, &out[0]);
	if (rc < 0)
		return rc;
	if (rc == 1 && ext_end(&out[0]) > off_blk)
		*n = 1;
	if (*n == 1 && ext_end(&out[0]) >= end) {
		clip(&out[0], off_blk, end);
		return 0;
	}
	rc = after(vol, ino, off_blk, end, out + *n, max - *n);
	if (rc < 0)
		return rc;
	*n += (unsigned)rc;
	for (unsigned i = 0; i < *n; i++) {
		if (i > 0 && out[i].off_blk < ext_end(&out[i - 1])) {
			msg_error("inode %llu: extents overlap at block %llu; run fsck.hybridfs", (unsigned long long)ino,
			          (unsigned long long)out[i].off_blk);
			return -EUCLEAN;
		}
	}
	if (*n > 0) {
		clip(&out[0], off_blk, end);
		clip(&out[*n - 1], off_blk, end);
	}
	return 0;
}

// ---- changing ----

// Blocks leave a file: the space map says free at the end of this transaction, the allocator when it is durable.
static int give_up(struct volume *vol, uint64_t phys_blk, uint64_t len_blk)
{
	int err = txn_log_run(vol, phys_blk, len_blk, false);

	if (err == 0)
		err = csum_forget(vol, phys_blk, len_blk);
	if (err == 0)
		err = deferred_cancel(vol, phys_blk, len_blk);
	if (err == 0 && vol->alloc != NULL)
		err = alloc_free(vol->alloc, phys_blk, len_blk, txn_open_id(vol));
	if (err == -EINVAL)
		err = -EUCLEAN; // an extent names blocks that are free
	return err;
}

// Takes [start, end) out of one row; the parts before and behind stay.
static int cut_row(struct volume *vol, uint64_t ino, const struct extent *row, uint64_t start, uint64_t end)
{
	int err = 0;

	if (row->off_blk < start)
		err = resize_row(vol, ino, row->off_blk, start - row->off_blk);
	else
		err = delete_row(vol, ino, row->off_blk);
	if (err == 0 && ext_end(row) > end) {
		struct extent tail = *row;

		clip(&tail, end, ext_end(row));
		err = insert_row(vol, ino, &tail);
	}
	return err;
}

// Up to BATCH rows that intersect [off, end), last one first. Their number or negative errno.
static int batch_backwards(struct volume *vol, uint64_t ino, uint64_t off_blk, uint64_t end_blk, struct extent *out,
                           unsigned max)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_EXTENT_BACKWARDS);
	unsigned n = 0;
	int rc = 0;

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	sqlite3_bind_int64(stmt, 2, (int64_t)end_blk);
	while (n < max && (rc = stmt_row(vol->store, stmt, "read extents")) == 1) {
		rc = from_columns(vol, ino, stmt, &out[n]);
		if (rc == 0 && out[n].off_blk >= (n > 0 ? out[n - 1].off_blk : end_blk))
			rc = -EUCLEAN; // as in after()
		if (rc != 0 || ext_end(&out[n]) <= off_blk)
			break;
		n++;
	}
	stmt_done(stmt);
	return rc < 0 ? rc : (int)n;
}

int extmap_remove(struct volume *vol, uint64_t ino, uint64_t off_blk, uint64_t len_blk, unsigned max_rows, bool *more,
                  uint64_t *removed_blk)
{
	uint64_t end = min_u64(off_blk + len_blk, FILE_MAX_BLK);
	uint64_t written_left = max_rows != 0 ? PIECE_WRITTEN_BLK : UINT64_MAX;
	struct extent row[BATCH];
	unsigned done = 0;
	int n, err = 0;

	*removed_blk = 0;
	*more = false;
	while (end > off_blk) {
		unsigned want = BATCH;

		if (max_rows != 0)
			want = max_rows - done < BATCH ? max_rows - done : BATCH;
		if (want == 0 || written_left == 0) {
			n = batch_backwards(vol, ino, off_blk, end, row, 1);
			*more = n > 0;
			return n < 0 ? n : 0;
		}
		n = batch_backwards(vol, ino, off_blk, end, row, want);
		for (int i = 0; i < n && written_left > 0; i++) {
			uint64_t from = max_u64(row[i].off_blk, off_blk), to = min_u64(ext_end(&row[i]), end);

			if (!row[i].unwritten) {
				from = to - min_u64(to - from, written_left);
				written_left -= to - from;
			}
			err = cut_row(vol, ino, &row[i], from, to);
			if (err == 0)
				err = give_up(vol, row[i].phys_blk + (from - row[i].off_blk), to - from);
			if (err != 0) {
				store_fail(vol->store, err, "free blocks of a file");
				return err;
			}
			*removed_blk += to - from;
			end = from;
		}
		done += n > 0 ? (unsigned)n : 0;
		if (n < (int)want && written_left > 0)
			return n < 0 ? n : 0;
	}
	return 0;
}

static bool joins(const struct extent *a, const struct extent *b)
{
	return ext_end(a) == b->off_blk && a->phys_blk + a->len_blk == b->phys_blk && a->unwritten == b->unwritten;
}

// Puts a row into a hole of the map, as one with its neighbours where they fit (E1).
static int put_merged(struct volume *vol, uint64_t ino, const struct extent *ext)
{
	struct extent left, right;
	bool with_left, with_right;
	int rc;

	rc = ext->off_blk > 0 ? at_or_before(vol, ino, ext->off_blk - 1, &left) : 0;
	if (rc < 0)
		return rc;
	with_left = rc == 1 && joins(&left, ext);
	rc = at_or_before(vol, ino, ext_end(ext), &right);
	if (rc < 0)
		return rc;
	with_right = rc == 1 && joins(ext, &right);
	rc = with_right ? delete_row(vol, ino, right.off_blk) : 0;
	if (rc == 0 && with_left) {
		rc = resize_row(vol, ino, left.off_blk, left.len_blk + ext->len_blk + (with_right ? right.len_blk : 0));
	} else if (rc == 0) {
		struct extent merged = *ext;

		merged.len_blk += with_right ? right.len_blk : 0;
		rc = insert_row(vol, ino, &merged);
	}
	return rc;
}

int extmap_insert(struct volume *vol, uint64_t ino, const struct extent *ext)
{
	int err;

	err = put_merged(vol, ino, ext);
	if (err == 0)
		err = txn_log_run(vol, ext->phys_blk, ext->len_blk, true);
	if (err == 0 && vol->alloc != NULL)
		err = alloc_commit(vol->alloc, ext->phys_blk, ext->len_blk);
	if (err != 0)
		store_fail(vol->store, err, "add blocks to a file");
	return err;
}

static int flip_row(struct volume *vol, uint64_t ino, const struct extent *row, uint64_t start, uint64_t end, bool unwritten)
{
	struct extent middle = *row;
	int err;

	clip(&middle, start, end);
	middle.unwritten = unwritten;
	err = cut_row(vol, ino, row, start, end);
	return err != 0 ? err : put_merged(vol, ino, &middle);
}

int extmap_set_unwritten(struct volume *vol, uint64_t ino, uint64_t off_blk, uint64_t len_blk, bool unwritten)
{
	uint64_t end = off_blk + len_blk;
	struct extent row[BATCH];
	int n, err;

	// From the back, so that a merge never changes a row that is still to come.
	do {
		n = batch_backwards(vol, ino, off_blk, end, row, BATCH);
		for (int i = 0; i < n; i++) {
			uint64_t from = max_u64(row[i].off_blk, off_blk), to = min_u64(ext_end(&row[i]), end);

			err = row[i].unwritten == unwritten ? 0 : flip_row(vol, ino, &row[i], from, to, unwritten);
			if (err != 0) {
				store_fail(vol->store, err, "mark blocks of a file");
				return err;
			}
			end = from;
		}
	} while (n == BATCH && end > off_blk);
	return n < 0 ? n : 0;
}
