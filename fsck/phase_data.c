// SPDX-License-Identifier: MIT
// Phase 5: what stands between files and their blocks: checksums (CS1 of csum.h), deferred writes (DW4 of deferred.h), and blocks that two
// files claim.
//
// Each word of f->summed, 64 blocks, is a chunk of checksums: the rows of table csum and the words of the map are merged. What a row says of a
// single block can be held against the block only, which a scrub does.
//
// What is free is known for certain when all extents, the space map and the deferred writes are in order: from here on the database
// may grow, and copies find blocks. Deferred rows that are not removed would be written over whoever gets their blocks.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fsck/blocks.h"
#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/csum.h"
#include "meta/deferred.h"
#include "meta/deferred_rows.h"

static bool is_summed(const struct fsck *f, uint64_t blk) { return (blockmap_word(&f->summed, blk) >> blk % 64 & 1) != 0; }

// ---- rows of checksums that cannot be ----

static int check_chunks(struct fsck *f)
{
	int64_t n_chunks = (int64_t)((f->sb.n_blks + CSUM_CHUNK_BLK - 1) / CSUM_CHUNK_BLK), below, above;
	struct cursor c;
	int err = sql_number(f, "SELECT count(*) FROM csum WHERE chunk < 0", 0, &below);

	if (err == 0)
		err = cursor_open(f, &c, "SELECT count(*) FROM csum WHERE chunk >= ?1", n_chunks, 0);
	if (err != 0)
		return err;
	above = c.have ? c.key : 0;
	cursor_close(&c);
	if (below + above == 0 || !PROBLEM(f, FP_CSUM_CHUNK, .is = below + above))
		return 0;
	return SQL(f, "DELETE FROM csum WHERE chunk < 0 OR chunk >= ?1", n_chunks);
}

#define SELECT_ODD_SIZES "SELECT chunk FROM csum WHERE chunk >= ?1 AND (typeof(crc) <> 'blob' OR length(crc) <> 256) ORDER BY chunk"

static int check_sizes(struct fsck *f)
{
	struct cursor c;
	int err = cursor_open(f, &c, SELECT_ODD_SIZES, 0, 0);

	while (err == 0 && c.have && !fsck_stopping(f)) {
		int64_t chunk = c.key;
		uint64_t first = (uint64_t)chunk * CSUM_CHUNK_BLK;

		if (PROBLEM(f, FP_CSUM_SIZE, .start = first, .off = first + CSUM_CHUNK_BLK - 1, .len = CSUM_ROW_BYTES))
			err = SQL(f, "DELETE FROM csum WHERE chunk = ?1", chunk);
		if (err == 0 && fsck_commit_due(f)) {
			cursor_close(&c);
			err = fsck_commit(f);
			if (err == 0)
				err = cursor_open(f, &c, SELECT_ODD_SIZES, chunk + 1, 0);
		} else if (err == 0) {
			err = cursor_next(f, &c);
		}
	}
	cursor_close(&c);
	return err;
}

// ---- deferred writes ----

#define SELECT_DEFERRED \
	"SELECT slot, phys, txn, crc, data FROM deferred WHERE slot >= ?1 AND " DEFERRED_LIVE_SQL " ORDER BY slot"

static bool has_odd_numbers(const struct cursor *c)
{
	return c->key < 0 || c->key > (int64_t)DEFERRED_SLOT_MAX || cursor_int(c, 2) < 0 || cursor_int(c, 2) > DEFERRED_MAX_TXN;
}

static int judge_deferred(struct fsck *f, struct blockmap *seen, const struct cursor *c, bool *bad, bool *remove)
{
	int64_t phys = cursor_int(c, 1);
	uint64_t blk = (uint64_t)phys, taken;
	int err;

	*bad = true;
	*remove = false;
	if (has_odd_numbers(c)) {
		*remove = PROBLEM(f, FP_DEFERRED_ROW, .is = c->key);
		return 0;
	}
	if (phys < 0 || blk >= f->sb.n_blks || !is_summed(f, blk)) {
		*remove = PROBLEM(f, FP_DEFERRED_PLACE, .is = phys);
		return 0;
	}
	if (sqlite3_column_type(c->stmt, 4) != SQLITE_BLOB || sqlite3_column_bytes(c->stmt, 4) != BLK_SIZE) {
		*remove = PROBLEM(f, FP_DEFERRED_SIZE, .start = blk, .is = sqlite3_column_bytes(c->stmt, 4));
		return 0;
	}
	if (cursor_int(c, 3) != csum_block(sqlite3_column_blob(c->stmt, 4))) {
		*remove = PROBLEM(f, FP_DEFERRED_CRC, .start = blk);
		return 0;
	}
	err = blockmap_claim(seen, blk, 1, &taken);
	*bad = err != 0;
	if (err == -EEXIST) {
		*remove = PROBLEM(f, FP_DEFERRED_ROW, .is = c->key);
		err = 0;
	}
	return err;
}

static int check_deferred(struct fsck *f)
{
	struct blockmap seen;
	struct cursor c = { 0 };
	int err = blockmap_init(&seen, f->sb.n_blks, f->sb.ms_shift);

	if (err == 0)
		err = cursor_open(f, &c, SELECT_DEFERRED, INT64_MIN, 0);
	while (err == 0 && c.have && !fsck_stopping(f)) {
		int64_t slot = c.key;
		bool bad, remove;

		err = judge_deferred(f, &seen, &c, &bad, &remove);
		f->n_deferred += err == 0 && !bad;
		if (err == 0 && remove)
			err = SQL(f, "DELETE FROM deferred WHERE slot = ?1", slot);
		if (err == 0 && fsck_commit_due(f) && slot < INT64_MAX) {
			cursor_close(&c);
			err = fsck_commit(f);
			if (err == 0)
				err = cursor_open(f, &c, SELECT_DEFERRED, slot + 1, 0);
		} else if (err == 0) {
			err = cursor_next(f, &c);
		}
	}
	cursor_close(&c);
	blockmap_free(&seen);
	return err;
}

// ---- missing checksums ----

struct missing {
	struct fsck *f;
	struct blocks b;
	uint64_t n_blk, first_blk; // of the metaslab at hand
};

// CS2: rows of chunks in which nothing has a checksum. They do no harm, and go without a word.
static int drop_stale(struct fsck *f, uint64_t from_blk, uint64_t len_blk)
{
	if (!fsck_repairs(f) || fsck_commit_due(f))
		return 0;
	return SQL(f, "DELETE FROM csum WHERE chunk >= ?1 AND chunk < ?2", (int64_t)(from_blk / CSUM_CHUNK_BLK),
	           (int64_t)((from_blk + len_blk + CSUM_CHUNK_BLK - 1) / CSUM_CHUNK_BLK));
}

// Calls fn for each chunk of the metaslab that has checksummed blocks but no row.
static int for_each_missing(struct missing *m, uint32_t ms, uint64_t from_blk, int (*fn)(struct missing *m, uint64_t blk, uint64_t word))
{
	const struct blockmap *map = &m->f->summed;
	uint64_t base = (uint64_t)ms << map->ms_shift, end = base + blockmap_ms_blks(map, ms);
	struct cursor c;
	int err = cursor_open(m->f, &c, "SELECT chunk FROM csum WHERE chunk >= ?1 AND chunk < ?2 ORDER BY chunk",
	                      (int64_t)(from_blk / CSUM_CHUNK_BLK), (int64_t)((end + CSUM_CHUNK_BLK - 1) / CSUM_CHUNK_BLK));

	for (uint64_t blk = from_blk; err == 0 && blk < end; blk += CSUM_CHUNK_BLK) {
		uint64_t word = blockmap_word(map, blk);
		bool there = c.have && c.key == (int64_t)(blk / CSUM_CHUNK_BLK);

		if (word != 0 && !there)
			err = fn(m, blk, word);
		if (err == 0 && word == 0 && there)
			err = drop_stale(m->f, blk, CSUM_CHUNK_BLK);
		if (err == 0 && there)
			err = cursor_next(m->f, &c);
	}
	cursor_close(&c);
	return err;
}

static int count_missing(struct missing *m, uint64_t blk, uint64_t word)
{
	if (m->n_blk == 0)
		m->first_blk = blk + (uint64_t)__builtin_ctzll(word);
	m->n_blk += (uint64_t)__builtin_popcountll(word);
	return 0;
}

// 1 when the transaction is full: m->first_blk is where to go on.
static int compute_missing(struct missing *m, uint64_t blk, uint64_t word)
{
	uint64_t first = (uint64_t)__builtin_ctzll(word), n = 64 - (uint64_t)__builtin_clzll(word) - first;
	int err = blocks_read(m->f, &m->b, blk + first, n);

	for (uint64_t i = 0; i < n; i++)
		m->b.crc[i] = csum_block(blocks_at(&m->b, i));
	if (err == 0)
		err = blocks_set_crc(m->f, &m->b, blk + first, n);
	m->first_blk = blk + CSUM_CHUNK_BLK;
	return err == 0 && (fsck_commit_due(m->f) || fsck_stopping(m->f)) ? 1 : err;
}

static int check_missing(struct missing *m, uint32_t ms)
{
	uint64_t base = (uint64_t)ms << m->f->summed.ms_shift;
	int err;

	if (m->f->summed.words[ms] == NULL)
		return drop_stale(m->f, base, blockmap_ms_blks(&m->f->summed, ms));
	m->n_blk = 0;
	err = for_each_missing(m, ms, base, count_missing);
	if (err != 0 || m->n_blk == 0 || !PROBLEM(m->f, FP_CSUM_MISSING, .is = ms, .len = m->n_blk, .start = m->first_blk))
		return err;
	while ((err = for_each_missing(m, ms, m->first_blk & ~63ull, compute_missing)) == 1 && !fsck_stopping(m->f)) {
		err = fsck_commit(m->f);
		if (err != 0)
			return err;
	}
	return err < 0 ? err : 0;
}

static int check_all_missing(struct fsck *f)
{
	struct missing m = { .f = f };
	int err = blocks_init(&m.b);

	progress_range(f, f->summed.n_ms);
	for (uint32_t ms = 0; err == 0 && ms < f->summed.n_ms && !fsck_stopping(f); ms++) {
		err = check_missing(&m, ms);
		if (err == 0 && fsck_commit_due(f))
			err = fsck_commit(f);
		progress_at(f, ms + 1);
	}
	blocks_free(&m.b);
	return err;
}

int phase_data(struct fsck *f)
{
	int err = check_chunks(f);

	if (err == 0)
		err = check_sizes(f);
	if (err == 0)
		err = check_deferred(f);
	if (err == 0 && fsck_repairs(f) && f->n_left == 0 && !fsck_stopping(f))
		err = fsck_use_free_space(f);
	if (err == 0 && !fsck_stopping(f))
		err = shared_resolve(f);
	return err != 0 || fsck_stopping(f) ? err : check_all_missing(f);
}
