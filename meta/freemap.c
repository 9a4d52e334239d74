// SPDX-License-Identifier: MIT
// Tables metaslab and spacemap. See freemap.h and spacemap.h (P1–P5).
//
// Writing what a transaction changed in a metaslab:
//
//      twice the lower bound of the condensed form is not reached -----> append: a row, or the end of the last one (P5)
//      it may be too long --> read the log, measure --> is not -------^
//                                                  \-> is (P3) -------> condense: all rows are replaced by one
#include "meta/freemap.h"

#include <errno.h>
#include <stdlib.h>

#include "meta/store_internal.h"
#include "meta/volume.h"
#include "util/blk.h"
#include "util/log.h"

struct ms_delta {
	struct ms_delta *next_touched;
	uint32_t ms;
	bool touched;
	int64_t free_change_blk;
	struct spacemap_buf buf;
	uint64_t loss_bytes; // by which the condensed form may have become shorter than base_bytes (P3)
	bool loss_known;     // false: without what was logged before this volume was opened
};

struct freemap {
	struct volume *vol;
	uint32_t n_ms;
	struct ms_delta **delta;  // by metaslab; made at its first change, kept
	struct ms_delta *touched; // those with something in them
};

int freemap_create(struct volume *vol, struct freemap **out)
{
	struct freemap *fm = calloc(1, sizeof(*fm));

	if (fm == NULL)
		return -ENOMEM;
	fm->vol = vol;
	fm->n_ms = sb_n_metaslabs(&vol->files.sb);
	fm->delta = calloc(fm->n_ms, sizeof(fm->delta[0]));
	if (fm->delta == NULL) {
		free(fm);
		return -ENOMEM;
	}
	*out = fm;
	return 0;
}

void freemap_destroy(struct freemap *fm)
{
	if (fm == NULL)
		return;
	for (uint32_t ms = 0; ms < fm->n_ms; ms++) {
		if (fm->delta[ms] != NULL)
			spacemap_buf_free(&fm->delta[ms]->buf);
		free(fm->delta[ms]);
	}
	free(fm->delta);
	free(fm);
}

uint64_t freemap_ms_blks(const struct volume *vol, uint32_t ms)
{
	const struct superblock *sb = &vol->files.sb;

	return min_u64(1ull << sb->ms_shift, sb->n_blks - ((uint64_t)ms << sb->ms_shift));
}

// ---- the delta ----

static struct ms_delta *delta_of(struct freemap *fm, uint32_t ms)
{
	struct ms_delta *d = fm->delta[ms];

	if (d == NULL) {
		d = calloc(1, sizeof(*d));
		if (d == NULL)
			return NULL;
		d->ms = ms;
		fm->delta[ms] = d;
	}
	if (!d->touched) {
		d->touched = true;
		d->next_touched = fm->touched;
		fm->touched = d;
	}
	return d;
}

int freemap_log(struct freemap *fm, uint64_t start_blk, uint64_t len_blk, bool used)
{
	unsigned shift = fm->vol->files.sb.ms_shift;
	uint64_t ms_mask = (1ull << shift) - 1;

	while (len_blk > 0) {
		uint64_t rel = start_blk & ms_mask;
		uint64_t n = min_u64(len_blk, ms_mask + 1 - rel);
		struct ms_delta *d = delta_of(fm, (uint32_t)(start_blk >> shift));

		if (d == NULL || spacemap_put(&d->buf, rel, n, used) != 0)
			return -ENOMEM;
		d->loss_bytes += spacemap_entry_loss(n, ms_mask + 1);
		d->free_change_blk += used ? -(int64_t)n : (int64_t)n;
		start_blk += n;
		len_blk -= n;
	}
	return 0;
}

bool freemap_is_clean(const struct freemap *fm) { return fm->touched == NULL; }

// ---- rows ----

struct ms_row {
	uint64_t free_blk;
	uint64_t log_bytes;  // of all its spacemap rows
	uint64_t base_bytes; // of the condensed form when it was last measured, or log_bytes then if that was less
};

static int get_ms_row(struct freemap *fm, uint32_t ms, struct ms_row *row)
{
	struct store *st = fm->vol->store;
	sqlite3_stmt *stmt = store_stmt(st, STMT_METASLAB_GET);
	int rc;

	*row = (struct ms_row){ .free_blk = freemap_ms_blks(fm->vol, ms) };
	sqlite3_bind_int64(stmt, 1, ms);
	rc = stmt_row(st, stmt, "read metaslab");
	if (rc == 1) {
		row->free_blk = (uint64_t)sqlite3_column_int64(stmt, 0);
		row->log_bytes = (uint64_t)sqlite3_column_int64(stmt, 1);
		row->base_bytes = (uint64_t)sqlite3_column_int64(stmt, 2);
		// With damaged numbers, condensing comes too early or too late. A condensed form has a byte for each block at most, and one.
		row->log_bytes = min_u64(row->log_bytes, INT64_MAX);
		row->base_bytes = min_u64(row->base_bytes, min_u64(row->log_bytes, freemap_ms_blks(fm->vol, ms) + 1));
	}
	stmt_done(stmt);
	return rc < 0 ? rc : 0;
}

static int set_ms_row(struct freemap *fm, uint32_t ms, const struct ms_row *row)
{
	struct store *st = fm->vol->store;
	sqlite3_stmt *stmt = store_stmt(st, STMT_METASLAB_SET);

	sqlite3_bind_int64(stmt, 1, ms);
	sqlite3_bind_int64(stmt, 2, (int64_t)row->free_blk);
	sqlite3_bind_int64(stmt, 3, 0); // largest_blk: finding it would cost more than it tells
	sqlite3_bind_int64(stmt, 4, (int64_t)row->log_bytes);
	sqlite3_bind_int64(stmt, 5, (int64_t)row->base_bytes);
	return stmt_write(st, stmt, "write metaslab", NULL);
}

// A new row (STMT_SPACEMAP_INSERT), or other contents of one that there is (STMT_SPACEMAP_REWRITE).
static int write_row(struct freemap *fm, enum stmt_id which, uint32_t ms, uint64_t seq, const struct spacemap_buf *buf)
{
	struct store *st = fm->vol->store;
	sqlite3_stmt *stmt = store_stmt(st, which);
	int err;

	sqlite3_bind_int64(stmt, 1, ms);
	sqlite3_bind_int64(stmt, 2, (int64_t)seq);
	sqlite3_bind_blob(stmt, 3, buf->data, (int)buf->len, SQLITE_STATIC);
	err = stmt_write(st, stmt, "write space map", NULL);
	sqlite3_bind_null(stmt, 3);
	return err;
}

// The rows alone, and their length.
static int replay_rows(struct freemap *fm, uint32_t ms, struct spacemap_bits *bits, uint64_t *log_bytes)
{
	struct store *st = fm->vol->store;
	sqlite3_stmt *stmt = store_stmt(st, STMT_SPACEMAP_ROWS);
	int rc;

	*log_bytes = 0;
	sqlite3_bind_int64(stmt, 1, ms);
	while ((rc = stmt_row(st, stmt, "read space map")) == 1) {
		const void *blob = sqlite3_column_blob(stmt, 0);
		size_t len = (size_t)sqlite3_column_bytes(stmt, 0);

		*log_bytes += len;
		rc = spacemap_bits_replay(bits, blob, len);
		if (rc != 0)
			break;
	}
	stmt_done(stmt);
	return rc;
}

static int read_bits(struct freemap *fm, uint32_t ms, struct spacemap_bits *bits, uint64_t *log_bytes)
{
	struct ms_delta *d = fm->delta[ms];
	int err;

	err = spacemap_bits_init(bits, freemap_ms_blks(fm->vol, ms));
	if (err != 0)
		return err;
	err = replay_rows(fm, ms, bits, log_bytes);
	if (err == 0 && d != NULL && d->touched)
		err = spacemap_bits_replay(bits, d->buf.data, d->buf.len);
	if (err != 0) {
		if (err == -EUCLEAN)
			msg_error("the space map of metaslab %u contradicts itself; run fsck.hybridfs", ms);
		spacemap_bits_free(bits);
	}
	return err;
}

int freemap_read_bits(struct freemap *fm, uint32_t ms, struct spacemap_bits *bits)
{
	uint64_t log_bytes;

	return read_bits(fm, ms, bits, &log_bytes);
}

// ---- writing the delta ----

// Copies the newest row of a metaslab into an empty buffer, if it has at most max_len bytes. 1 = it did, 0 = there is none so short.
static int get_last_row(struct freemap *fm, uint32_t ms, size_t max_len, struct spacemap_buf *buf, size_t *len, int64_t *seq)
{
	struct store *st = fm->vol->store;
	sqlite3_stmt *stmt = store_stmt(st, STMT_SPACEMAP_LAST);
	int rc, err = 0;

	sqlite3_bind_int64(stmt, 1, ms);
	sqlite3_bind_int64(stmt, 2, (int64_t)max_len);
	rc = stmt_row(st, stmt, "read space map");
	if (rc == 1) {
		const void *blob = sqlite3_column_blob(stmt, 1); // NULL when it is longer

		*seq = sqlite3_column_int64(stmt, 0);
		*len = (size_t)sqlite3_column_bytes(stmt, 1);
		if (blob != NULL)
			err = spacemap_append(buf, blob, *len, freemap_ms_blks(fm->vol, ms));
		rc = blob != NULL;
		if (err == -EUCLEAN) { // for whoever loads the metaslab: to write down what changed, it is not needed
			spacemap_buf_clear(buf);
			rc = 0;
		} else if (err != 0) {
			rc = err;
		}
	}
	stmt_done(stmt);
	return rc;
}

// P5: a short delta goes to the end of a short last row, which costs no more than a row of its own: both dirty one page. Its first entry
// counts from another place there, and so may have another length. Adds to *log_bytes.
static int append(struct freemap *fm, const struct ms_delta *d, uint64_t seq, uint64_t *log_bytes)
{
	struct spacemap_buf row = { 0 };
	size_t old_len = 0;
	int64_t last_seq = 0;
	int rc = 0;

	if (d->buf.len < SPACEMAP_ROW_BYTES)
		rc = get_last_row(fm, d->ms, SPACEMAP_ROW_BYTES - d->buf.len, &row, &old_len, &last_seq);
	if (rc == 0) {
		rc = write_row(fm, STMT_SPACEMAP_INSERT, d->ms, seq, &d->buf);
		*log_bytes += d->buf.len;
	} else if (rc == 1) {
		rc = spacemap_append(&row, d->buf.data, d->buf.len, freemap_ms_blks(fm->vol, d->ms));
		if (rc == 0)
			rc = write_row(fm, STMT_SPACEMAP_REWRITE, d->ms, (uint64_t)last_seq, &row);
		*log_bytes += row.len - old_len;
	}
	spacemap_buf_free(&row);
	return rc;
}

// Replaces a metaslab's rows by one.
static int replace_rows(struct freemap *fm, uint32_t ms, uint64_t seq, const struct spacemap_buf *condensed)
{
	struct store *st = fm->vol->store;
	sqlite3_stmt *stmt = store_stmt(st, STMT_SPACEMAP_DELETE);
	int err;

	sqlite3_bind_int64(stmt, 1, ms);
	err = stmt_write(st, stmt, "condense space map", NULL);
	if (err == 0 && condensed->len > 0)
		err = write_row(fm, STMT_SPACEMAP_INSERT, ms, seq, condensed);
	return err;
}

// Whether the log would be longer with the delta than P3 allows. False is certain.
static bool may_be_long(struct freemap *fm, struct ms_delta *d, const struct ms_row *row)
{
	uint64_t ms_blks = freemap_ms_blks(fm->vol, d->ms), most = spacemap_entry_loss(ms_blks, ms_blks);
	uint64_t log_bytes = row->log_bytes + d->buf.len + most; // append() may need a few bytes more than the delta has

	if (!d->loss_known) {
		// An entry has two bytes at least. What came after base_bytes was measured is among what the log is longer now.
		d->loss_bytes += (min_u64(row->log_bytes - row->base_bytes, row->base_bytes) + 1) / 2 * most;
		d->loss_known = true;
	}
	return log_bytes > SPACEMAP_MIN_LOG && log_bytes > 2 * (row->base_bytes - min_u64(row->base_bytes, d->loss_bytes));
}

// Reads the whole log, puts right what *row says of it, and then decides how the delta is written.
static int append_or_condense(struct freemap *fm, struct ms_delta *d, uint64_t seq, struct ms_row *row)
{
	struct spacemap_buf condensed = { 0 };
	struct spacemap_bits bits;
	int err;

	err = read_bits(fm, d->ms, &bits, &row->log_bytes);
	if (err != 0)
		return err;
	row->free_blk = bits.n_blks - bits.used_blk;
	err = spacemap_bits_condense(&bits, &condensed);
	spacemap_bits_free(&bits);
	if (err != 0)
		goto out;
	if (row->log_bytes + d->buf.len > condensed.len / 4 * 7) {
		err = replace_rows(fm, d->ms, seq, &condensed);
		row->log_bytes = condensed.len;
	} else {
		err = append(fm, d, seq, &row->log_bytes);
	}
	row->base_bytes = min_u64(row->log_bytes, condensed.len);
	d->loss_bytes = 0;
out:
	spacemap_buf_free(&condensed);
	return err;
}

static int write_delta(struct freemap *fm, struct ms_delta *d, uint64_t seq)
{
	struct ms_row row;
	int err;

	err = get_ms_row(fm, d->ms, &row);
	if (err != 0)
		return err;
	row.free_blk += (uint64_t)d->free_change_blk;
	if (may_be_long(fm, d, &row))
		err = append_or_condense(fm, d, seq, &row);
	else
		err = append(fm, d, seq, &row.log_bytes);
	return err != 0 ? err : set_ms_row(fm, d->ms, &row);
}

int freemap_write(struct freemap *fm, uint64_t seq)
{
	struct ms_delta *d;
	int err;

	while ((d = fm->touched) != NULL) {
		err = write_delta(fm, d, seq);
		if (err != 0)
			return err;
		fm->touched = d->next_touched;
		d->touched = false;
		d->free_change_blk = 0;
		spacemap_buf_clear(&d->buf);
	}
	return 0;
}

// ---- loading ----

struct mark_ctx {
	struct spacemap_bits *bits;
	uint64_t base_blk;
};

// System blocks must not be owned by files as well.
static int mark_system(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	struct mark_ctx *m = ctx;

	if (spacemap_bits_apply(m->bits, start_blk - m->base_blk, len_blk, true) == 0)
		return 0;
	msg_error("blocks %llu+%llu belong to the metadata and to a file; run fsck.hybridfs", (unsigned long long)start_blk,
	          (unsigned long long)len_blk);
	return -EUCLEAN;
}

int freemap_load(struct freemap *fm, uint32_t ms, struct alloc_loader *loader)
{
	uint64_t base = (uint64_t)ms << fm->vol->files.sb.ms_shift;
	struct spacemap_bits bits;
	struct mark_ctx m = { &bits, base };
	int err;

	err = freemap_read_bits(fm, ms, &bits);
	if (err != 0)
		return err;
	err = sysfiles_mark(&fm->vol->files, base, bits.n_blks, mark_system, &m);
	if (err == 0)
		err = alloc_loader_mark_used_bits(loader, bits.words);
	spacemap_bits_free(&bits);
	return err;
}

struct count_ctx {
	uint64_t *free_blk;
	unsigned ms_shift;
};

static int count_system(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	struct count_ctx *c = ctx;

	while (len_blk > 0) {
		uint64_t ms = start_blk >> c->ms_shift;
		uint64_t n = min_u64(len_blk, ((ms + 1) << c->ms_shift) - start_blk);

		c->free_blk[ms] -= min_u64(n, c->free_blk[ms]);
		start_blk += n;
		len_blk -= n;
	}
	return 0;
}

int freemap_count_free(struct volume *vol, uint64_t *free_blk)
{
	struct store *st = vol->store;
	sqlite3_stmt *stmt = store_stmt(st, STMT_METASLAB_LIST);
	uint32_t n_ms = sb_n_metaslabs(&vol->files.sb);
	struct count_ctx c = { free_blk, vol->files.sb.ms_shift };
	int rc;

	for (uint32_t ms = 0; ms < n_ms; ms++)
		free_blk[ms] = freemap_ms_blks(vol, ms);
	while ((rc = stmt_row(st, stmt, "read metaslabs")) == 1) {
		uint64_t ms = (uint64_t)sqlite3_column_int64(stmt, 0), n = (uint64_t)sqlite3_column_int64(stmt, 1);

		if (ms >= n_ms || n > freemap_ms_blks(vol, (uint32_t)ms)) {
			msg_error("the counters of metaslab %llu are damaged; run fsck.hybridfs", (unsigned long long)ms);
			rc = -EUCLEAN;
			break;
		}
		free_blk[ms] = n;
	}
	stmt_done(stmt);
	return rc < 0 ? rc : sysfiles_mark(&vol->files, 0, vol->files.sb.n_blks, count_system, &c);
}
