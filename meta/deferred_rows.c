// SPDX-License-Identifier: MIT
#include "meta/deferred_rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "meta/csum.h"
#include "meta/deferred.h"
#include "meta/store_internal.h"

#define FROM_KEY "deferred_from"
#define NUMBER_BYTES_MAX 8u
#define N_NUMBERS 3u // columns that are as long as their values are large

// ---- equally long rows ----

// Bytes of an integer in a row: SQLite's file format, "Record Format". Ours are not negative.
static unsigned number_bytes(uint64_t v)
{
	static const struct {
		uint64_t max;
		unsigned bytes;
	} sizes[] = { { 1, 0 }, { INT8_MAX, 1 }, { INT16_MAX, 2 }, { (1u << 23) - 1, 3 }, { INT32_MAX, 4 }, { (1ull << 47) - 1, 6 } };

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		if (v <= sizes[i].max)
			return sizes[i].bytes;
	return NUMBER_BYTES_MAX;
}

static void bind_row(sqlite3_stmt *stmt, const struct deferred_row *row, const void *data)
{
	unsigned used = number_bytes(row->phys_blk) + number_bytes(row->txn) + number_bytes(row->crc);

	sqlite3_bind_int64(stmt, 1, (int64_t)row->slot);
	sqlite3_bind_int64(stmt, 2, (int64_t)row->phys_blk);
	sqlite3_bind_int64(stmt, 3, (int64_t)row->txn);
	sqlite3_bind_int64(stmt, 4, row->crc);
	sqlite3_bind_zeroblob(stmt, 5, (int)(N_NUMBERS * NUMBER_BYTES_MAX - used));
	sqlite3_bind_blob(stmt, 6, data, BLK_SIZE, SQLITE_STATIC);
}

// ---- rows ----

int deferred_row_set(struct store *st, const struct deferred_row *row, const void *data)
{
	sqlite3_stmt *update = store_stmt(st, STMT_DEFERRED_UPDATE), *insert = store_stmt(st, STMT_DEFERRED_INSERT);
	int changed, err;

	bind_row(update, row, data);
	err = stmt_write(st, update, "defer a write", &changed);
	if (err != 0 || changed > 0)
		return err;
	bind_row(insert, row, data);
	return stmt_write(st, insert, "defer a write", NULL);
}

int deferred_row_delete(struct store *st, uint64_t slot)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_DEFERRED_DELETE);

	sqlite3_bind_int64(stmt, 1, (int64_t)slot);
	return stmt_write(st, stmt, "end a deferred write", NULL);
}

int deferred_rows_clear(struct store *st)
{
	return stmt_write(st, store_stmt(st, STMT_DEFERRED_CLEAR), "end deferred writes", NULL);
}

int deferred_rows_exist(struct store *st)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_DEFERRED_ANY);
	int rc = stmt_row(st, stmt, "look for deferred writes");

	stmt_done(stmt);
	return rc;
}

static int take_columns(sqlite3_stmt *stmt, struct deferred_row *row, void *data)
{
	int64_t slot = sqlite3_column_int64(stmt, 0), phys = sqlite3_column_int64(stmt, 1), txn = sqlite3_column_int64(stmt, 2);
	int64_t crc = sqlite3_column_int64(stmt, 3);

	*row = (struct deferred_row){ (uint64_t)slot, (uint64_t)phys, (uint64_t)txn, (uint32_t)crc };
	if (slot > (int64_t)DEFERRED_SLOT_MAX || phys < 0 || txn < 0 || txn > DEFERRED_MAX_TXN || crc < 0 || crc > UINT32_MAX)
		return -EUCLEAN;
	if (data == NULL)
		return 1;
	if (sqlite3_column_type(stmt, 4) != SQLITE_BLOB || sqlite3_column_bytes(stmt, 4) != (int)BLK_SIZE)
		return -EUCLEAN;
	memcpy(data, sqlite3_column_blob(stmt, 4), BLK_SIZE);
	return csum_block(data) == row->crc ? 1 : -EUCLEAN;
}

int deferred_row_next(struct store *st, uint64_t slot, uint64_t from, struct deferred_row *row, void *data)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_DEFERRED_NEXT);
	int rc;

	row->slot = DEFERRED_NO_SLOT;
	sqlite3_bind_int64(stmt, 1, (int64_t)slot);
	sqlite3_bind_int64(stmt, 2, (int64_t)from);
	rc = stmt_row(st, stmt, "read deferred writes");
	if (rc == 1)
		rc = take_columns(stmt, row, data);
	stmt_done(stmt);
	return rc;
}

int deferred_rows_from(struct store *st, uint64_t *txn)
{
	int64_t value = 0;
	int err = store_config_get(st, FROM_KEY, &value);

	*txn = err == 0 && value > 0 ? (uint64_t)value : 0;
	return err == -ENOENT ? 0 : err;
}

int deferred_rows_check_from(struct store *st, uint64_t last_txn)
{
	uint64_t from;
	int err = deferred_rows_from(st, &from);

	return err == 0 && from > last_txn ? -EUCLEAN : err;
}

int deferred_rows_set_from(struct store *st, uint64_t txn) { return store_config_set(st, FROM_KEY, (int64_t)txn); }

int deferred_rows_last_txn(struct store *st, uint64_t *txn)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_DEFERRED_LAST_TXN);
	int64_t in_config = 0, in_rows = 0;
	int err = store_config_get(st, "txn", &in_config), rc;

	*txn = 0;
	if (err != 0 && err != -ENOENT)
		return err;
	sqlite3_bind_int64(stmt, 1, DEFERRED_MAX_TXN);
	rc = stmt_row(st, stmt, "read deferred writes");
	if (rc == 1)
		in_rows = sqlite3_column_int64(stmt, 0);
	stmt_done(stmt);
	if (rc < 0)
		return rc;
	*txn = (uint64_t)in_rows;
	if (in_config < 0 || in_config > DEFERRED_MAX_TXN)
		return -EUCLEAN;
	*txn = max_u64(*txn, (uint64_t)in_config);
	return err;
}

// ---- slots ----

static int slots_reach(struct slots *s, uint64_t slot)
{
	uint64_t n = max_u64(slot / 64 + 1, 2 * s->n_words), *bigger;

	if (slot / 64 < s->n_words)
		return 0;
	bigger = reallocarray(s->words, n, sizeof(*bigger));
	if (bigger == NULL)
		return -ENOMEM;
	memset(bigger + s->n_words, 0, (n - s->n_words) * sizeof(*bigger));
	s->words = bigger;
	s->n_words = n;
	return 0;
}

int slots_use(struct slots *s, uint64_t slot)
{
	int err = slot <= DEFERRED_SLOT_MAX ? slots_reach(s, slot) : -ENOSPC;

	if (err == 0)
		s->words[slot / 64] |= 1ull << slot % 64;
	return err;
}

int slots_take(struct slots *s, uint64_t *slot)
{
	uint64_t w = 0;

	while (w < s->n_words && s->words[w] == UINT64_MAX)
		w++;
	*slot = w * 64 + (w < s->n_words ? (uint64_t)__builtin_ctzll(~s->words[w]) : 0);
	return slots_use(s, *slot);
}

void slots_give(struct slots *s, uint64_t slot) { s->words[slot / 64] &= ~(1ull << slot % 64); }

void slots_free(struct slots *s)
{
	free(s->words);
	*s = (struct slots){ 0 };
}
