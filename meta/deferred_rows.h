// SPDX-License-Identifier: MIT
// Rows of table deferred, and which of their slots are in use. For deferred.c, which says what rows mean; fsck has its own queries.
//
// All rows are equally long (`pad` makes up for what SQLite saves on small numbers), so that one takes the place of another without
// moving anything: SQLite then writes the row's page and its overflow page, and neither allocates nor frees.
//
// Lock: the store's. Errors: negative errno; -EUCLEAN for a row that cannot be one.
#ifndef HYBRIDFS_META_DEFERRED_ROWS_H
#define HYBRIDFS_META_DEFERRED_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "util/attr.h"

struct store;

// The condition of SQL for rows that are live.
#define DEFERRED_LIVE_SQL "txn >= coalesce((SELECT CAST(value AS INTEGER) FROM config WHERE key = 'deferred_from'), 0)"

#define DEFERRED_NO_SLOT UINT64_MAX
#define DEFERRED_MAX_TXN (INT64_MAX / 2)

struct deferred_row {
	uint64_t slot, phys_blk, txn; // txn: the transaction that has written the row
	uint32_t crc;                 // of the block
};

int deferred_row_set(struct store *st, const struct deferred_row *row, const void *data) ATTR_MUST_USE;
int deferred_row_delete(struct store *st, uint64_t slot) ATTR_MUST_USE;
int deferred_rows_clear(struct store *st) ATTR_MUST_USE;

int deferred_rows_exist(struct store *st) ATTR_MUST_USE; // 1, 0

// The first live row (of `from` or later) at or behind a slot: 1, 0 (none) or negative errno. `data`: its block, which is held against the
// row's checksum; or NULL. A row that cannot be one is -EUCLEAN with its slot in `row`, any other error leaves DEFERRED_NO_SLOT there.
int deferred_row_next(struct store *st, uint64_t slot, uint64_t from, struct deferred_row *row, void *data) ATTR_MUST_USE;

// The first transaction whose rows are live; 0 = all are. One that is still to come would make dead rows of those that are written next: -EUCLEAN
// if it is behind `last_txn`.
int deferred_rows_check_from(struct store *st, uint64_t last_txn) ATTR_MUST_USE;
int deferred_rows_from(struct store *st, uint64_t *txn) ATTR_MUST_USE;
int deferred_rows_set_from(struct store *st, uint64_t txn) ATTR_MUST_USE;

// The last transaction that was committed: a transaction that has rows stands in these, any other one in config. -ENOENT: config has none;
// -EUCLEAN: it has one that cannot be. Then *txn is the last one that has rows.
int deferred_rows_last_txn(struct store *st, uint64_t *txn) ATTR_MUST_USE;

struct slots {
	uint64_t *words; // a bit for each; 1 = in use
	uint64_t n_words;
};

int slots_take(struct slots *s, uint64_t *slot) ATTR_MUST_USE; // the lowest: few pages are used over and over
int slots_use(struct slots *s, uint64_t slot) ATTR_MUST_USE;   // this one
void slots_give(struct slots *s, uint64_t slot);
void slots_free(struct slots *s);                              // forgets all

#endif
