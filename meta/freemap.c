// SPDX-License-Identifier: MIT
// Tables metaslab and spacemap. See freemap.h and spacemap.h (P1–P4).
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
	uint64_t base_bytes; // of the condensed row alone, when it was made
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
	}
	stmt_done(stmt);
	return rc < 0 ? rc : 0;
}

static int set_ms_row(struct freemap *fm, uint32_t ms, const struct ms_row *row)
{
	struct store *st = fm->vol->store;
	sqlite3_stmt *stmt = store_stmt(st, STMT_METASLAB_SET);
	uint64_t largest = fm->vol->alloc != NULL ? alloc_largest_run(fm->vol->alloc, ms) : 0;

	sqlite3_bind_int64(stmt, 1, ms);
	sqlite3_bind_int64(stmt, 2, (int64_t)row->free_blk);
	sqlite3_bind_int64(stmt, 3, (int64_t)largest);
	sqlite3_bind_int64(stmt, 4, (int64_t)row->log_bytes);
	sqlite3_bind_int64(stmt, 5, (int64_t)row->base_bytes);
	return stmt_write(st, stmt, "write metaslab", NULL);
}

static int insert_log_row(struct freemap *fm, uint32_t ms, uint64_t seq, const struct spacemap_buf *buf)
{
	struct store *st = fm->vol->store;
	sqlite3_stmt *stmt = store_stmt(st, STMT_SPACEMAP_INSERT);
	int err;

	sqlite3_bind_int64(stmt, 1, ms);
	sqlite3_bind_int64(stmt, 2, (int64_t)seq);
	sqlite3_bind_blob(stmt, 3, buf->data, (int)buf->len, SQLITE_STATIC);
	err = stmt_write(st, stmt, "write space map", NULL);
	sqlite3_bind_null(stmt, 3);
	return err;
}

static int apply_entry(void *ctx, uint64_t rel_start, uint64_t len_blk, bool used)
{
	return spacemap_bits_apply(ctx, rel_start, len_blk, used);
}

int freemap_read_bits(struct freemap *fm, uint32_t ms, struct spacemap_bits *bits)
{
	struct store *st = fm->vol->store;
	sqlite3_stmt *stmt = store_stmt(st, STMT_SPACEMAP_ROWS);
	uint64_t n_blks = freemap_ms_blks(fm->vol, ms);
	struct ms_delta *d = fm->delta[ms];
	int rc;

	rc = spacemap_bits_init(bits, n_blks);
	if (rc != 0)
		return rc;
	sqlite3_bind_int64(stmt, 1, ms);
	while ((rc = stmt_row(st, stmt, "read space map")) == 1) {
		const void *blob = sqlite3_column_blob(stmt, 0);

		rc = spacemap_decode(blob, (size_t)sqlite3_column_bytes(stmt, 0), n_blks, apply_entry, bits);
		if (rc != 0)
			break;
	}
	stmt_done(stmt);
	if (rc == 0 && d != NULL && d->touched)
		rc = spacemap_decode(d->buf.data, d->buf.len, n_blks, apply_entry, bits);
	if (rc != 0) {
		if (rc == -EUCLEAN)
			msg_error("the space map of metaslab %u contradicts itself; run fsck.hybridfs", ms);
		spacemap_bits_free(bits);
	}
	return rc;
}

// Replaces a metaslab's rows by one that holds its used runs.
static int condense(struct freemap *fm, uint32_t ms, uint64_t seq, struct ms_row *row)
{
	struct store *st = fm->vol->store;
	sqlite3_stmt *stmt = store_stmt(st, STMT_SPACEMAP_DELETE);
	struct spacemap_bits bits;
	struct spacemap_buf buf = { 0 };
	uint64_t start = 0, len;
	int err;

	err = freemap_read_bits(fm, ms, &bits);
	if (err != 0)
		return err;
	while (err == 0 && spacemap_bits_next(&bits, true, &start, &len)) {
		err = spacemap_put(&buf, start, len, true);
		start += len;
	}
	if (err == 0) {
		sqlite3_bind_int64(stmt, 1, ms);
		err = stmt_write(st, stmt, "condense space map", NULL);
	}
	if (err == 0 && buf.len > 0)
		err = insert_log_row(fm, ms, seq, &buf);
	row->free_blk = bits.n_blks - bits.used_blk;
	row->log_bytes = row->base_bytes = buf.len;
	spacemap_bits_free(&bits);
	spacemap_buf_free(&buf);
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
	row.log_bytes += d->buf.len;
	if (row.log_bytes > max_u64(SPACEMAP_MIN_LOG, 2 * row.base_bytes))
		err = condense(fm, d->ms, seq, &row); // sees the delta as well
	else
		err = insert_log_row(fm, d->ms, seq, &d->buf);
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
		d->buf.len = 0;
		d->buf.prev_end = 0;
	}
	return 0;
}

// ---- loading ----

struct mark_ctx {
	struct alloc_loader *loader;
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
	uint64_t start = 0, len, base = (uint64_t)ms << fm->vol->files.sb.ms_shift;
	struct spacemap_bits bits;
	struct mark_ctx m = { loader, &bits, base };
	int err;

	err = freemap_read_bits(fm, ms, &bits);
	if (err != 0)
		return err;
	err = sysfiles_mark(&fm->vol->files, base, bits.n_blks, mark_system, &m);
	while (err == 0 && spacemap_bits_next(&bits, true, &start, &len)) {
		err = alloc_loader_mark(loader, base + start, len, true);
		start += len;
	}
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
