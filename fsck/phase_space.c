// SPDX-License-Identifier: MIT
// Phase 4: the free map against the blocks that extents name (P1–P4 of spacemap.h).
//
// The extents are the truth, the space map follows from them. So there is one repair for everything that can be wrong with a
// metaslab: its rows are replaced by one that holds what phase 3 has claimed. System files and superblocks are in neither.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/spacemap.h"
#include "util/blk.h"

struct ms_check {
	struct fsck *f;
	uint32_t ms;
	struct spacemap_bits map; // what the rows say
	int64_t last_seq, log_bytes;
	bool contradicts;         // P1 or P2 is broken
};

// ---- rebuilding ----

// The space map row for what the extents own; *largest_blk is the longest free run.
static int encode_owned(struct ms_check *c, struct spacemap_buf *buf, uint64_t *used_blk, uint64_t *largest_blk)
{
	uint64_t *words = c->f->owned.words[c->ms];
	struct spacemap_bits owned = { .n_blks = blockmap_ms_blks(&c->f->owned, c->ms), .words = words };
	uint64_t start = 0, len, end = 0;
	int err = 0;

	*used_blk = *largest_blk = 0;
	while (err == 0 && words != NULL && spacemap_bits_next(&owned, true, &start, &len)) {
		err = spacemap_put(buf, start, len, true);
		*largest_blk = max_u64(*largest_blk, start - end);
		*used_blk += len;
		start = end = start + len;
	}
	*largest_blk = max_u64(*largest_blk, owned.n_blks - end);
	return err;
}

static int insert_map(struct ms_check *c, const struct spacemap_buf *buf)
{
	sqlite3_stmt *stmt = NULL;
	int err;

	if (buf->len == 0)
		return 0;
	err = sql_prepare(c->f, "INSERT INTO spacemap(ms, seq, runs) VALUES(?1, ?2, ?3)", &stmt);
	if (err != 0)
		return err;
	sqlite3_bind_int64(stmt, 1, c->ms);
	sqlite3_bind_int64(stmt, 2, (int64_t)c->f->txn);
	sqlite3_bind_blob64(stmt, 3, buf->data, buf->len, SQLITE_STATIC);
	return sql_finish(c->f, stmt);
}

static int rebuild(struct ms_check *c)
{
	uint64_t n_blks = blockmap_ms_blks(&c->f->owned, c->ms), used, largest;
	struct spacemap_buf buf = { 0 };
	int err = encode_owned(c, &buf, &used, &largest);

	if (err == 0)
		err = SQL(c->f, "DELETE FROM spacemap WHERE ms = ?1", c->ms);
	if (err == 0)
		err = insert_map(c, &buf);
	if (err == 0)
		err = SQL(c->f, "INSERT OR REPLACE INTO metaslab(ms, free_blk, largest_blk, log_bytes, base_bytes)"
		          " VALUES(?1, ?2, ?3, ?4, ?4)", c->ms, (int64_t)(n_blks - used), (int64_t)largest, (int64_t)buf.len);
	spacemap_buf_free(&buf);
	return err;
}

// ---- comparing ----

static int apply_entry(void *ctx, uint64_t rel_start, uint64_t len_blk, bool used)
{
	return spacemap_bits_apply(ctx, rel_start, len_blk, used);
}

static int replay(struct ms_check *c)
{
	struct cursor row;
	int err = cursor_open(c->f, &row, "SELECT seq, runs FROM spacemap WHERE ms = ?1 ORDER BY seq", c->ms, 0);

	while (err == 0 && row.have && !c->contradicts) {
		const void *blob = sqlite3_column_blob(row.stmt, 1);
		int len = sqlite3_column_bytes(row.stmt, 1);

		c->last_seq = row.key;
		c->log_bytes += len;
		err = spacemap_decode(blob, (size_t)len, c->map.n_blks, apply_entry, &c->map);
		if (err == -EUCLEAN) {
			c->contradicts = true;
			err = 0;
		}
		if (err == 0)
			err = cursor_next(c->f, &row);
	}
	cursor_close(&row);
	return err;
}

struct difference {
	uint64_t n_blk, first_blk;
};

static void note(struct difference *d, uint64_t bits, uint64_t word_blk)
{
	if (bits != 0 && d->n_blk == 0)
		d->first_blk = word_blk + (uint64_t)__builtin_ctzll(bits);
	d->n_blk += (uint64_t)__builtin_popcountll(bits);
}

static void compare(const struct ms_check *c, struct difference *lost, struct difference *unmarked)
{
	const uint64_t *owned = c->f->owned.words[c->ms];
	uint64_t base = (uint64_t)c->ms << c->f->owned.ms_shift;

	*lost = *unmarked = (struct difference){ 0 };
	for (uint64_t w = 0; w * 64 < c->map.n_blks; w++) {
		uint64_t have = owned != NULL ? owned[w] : 0;

		note(lost, c->map.words[w] & ~have, base + w * 64);
		note(unmarked, have & ~c->map.words[w], base + w * 64);
	}
}

// All questions are asked before the one repair is made, so that one run finds everything.
static bool map_is_wrong(struct ms_check *c)
{
	struct difference lost, unmarked;
	bool wrong = false;

	if (c->contradicts)
		return PROBLEM(c->f, FP_SPACEMAP_BAD, .is = c->ms);
	// A read-only volume has no open transaction: then the last one counts.
	if (c->last_seq < 0 || (uint64_t)c->last_seq > c->f->last_txn)
		wrong |= PROBLEM(c->f, FP_SPACEMAP_SEQ, .is = c->ms);
	compare(c, &lost, &unmarked);
	if (lost.n_blk > 0)
		wrong |= PROBLEM(c->f, FP_BLOCKS_LOST, .is = c->ms, .len = lost.n_blk, .start = lost.first_blk);
	if (unmarked.n_blk > 0)
		wrong |= PROBLEM(c->f, FP_BLOCKS_FREE, .is = c->ms, .len = unmarked.n_blk, .start = unmarked.first_blk);
	return wrong;
}

static bool number_is_wrong(struct ms_check *c, const char *name, int64_t is, int64_t should)
{
	return is != should && PROBLEM(c->f, FP_METASLAB_COUNT, .off = c->ms, .name = name, .is = is, .should = should);
}

// P4, and what decides about condensing (P3). The largest run is a hint and may be old; it is not compared.
static int check_counts(struct ms_check *c, bool *wrong)
{
	int64_t free_blk = (int64_t)(c->map.n_blks - c->map.used_blk);
	struct cursor row;
	int err = cursor_open(c->f, &row, "SELECT ms, free_blk, log_bytes, base_bytes FROM metaslab WHERE ms = ?1", c->ms, 0);

	if (err == 0 && row.have) {
		*wrong |= number_is_wrong(c, "free block count", cursor_int(&row, 1), free_blk);
		*wrong |= number_is_wrong(c, "space map length", cursor_int(&row, 2), c->log_bytes);
		if (cursor_int(&row, 3) < 0 || cursor_int(&row, 3) > cursor_int(&row, 2))
			*wrong |= number_is_wrong(c, "condensed length", cursor_int(&row, 3), c->log_bytes);
	} else if (err == 0) { // without a row it must be all free
		*wrong |= number_is_wrong(c, "free block count", (int64_t)c->map.n_blks, free_blk);
		*wrong |= number_is_wrong(c, "space map length", 0, c->log_bytes);
	}
	cursor_close(&row);
	return err;
}

static int check_metaslab(struct fsck *f, uint32_t ms)
{
	struct ms_check c = { .f = f, .ms = ms };
	bool wrong = false;
	int err = spacemap_bits_init(&c.map, blockmap_ms_blks(&f->owned, ms));

	if (err != 0)
		return err;
	err = replay(&c);
	if (err == 0)
		wrong = map_is_wrong(&c);
	if (err == 0 && !wrong && !c.contradicts)
		err = check_counts(&c, &wrong);
	if (err == 0 && wrong)
		err = rebuild(&c);
	spacemap_bits_free(&c.map);
	return err;
}

// ---- rows of metaslabs that do not exist ----

static int check_stray(struct fsck *f, const char *table)
{
	char sql[128];
	int64_t n;
	int err;

	snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s WHERE ms < 0 OR ms >= %u", table, f->owned.n_ms);
	err = sql_number(f, sql, 0, &n);
	if (err != 0 || n == 0 || !PROBLEM(f, FP_METASLAB_STRAY, .name = table, .is = n))
		return err;
	snprintf(sql, sizeof(sql), "DELETE FROM %s WHERE ms < 0 OR ms >= ?1", table);
	return SQL(f, sql, f->owned.n_ms);
}

int phase_space(struct fsck *f)
{
	int err = check_stray(f, "metaslab");

	if (err == 0)
		err = check_stray(f, "spacemap");
	progress_range(f, f->owned.n_ms);
	for (uint32_t ms = 0; err == 0 && ms < f->owned.n_ms && !fsck_stopping(f); ms++) {
		err = check_metaslab(f, ms);
		if (err == 0 && fsck_commit_due(f))
			err = fsck_commit(f);
		progress_at(f, ms + 1);
	}
	return err;
}
