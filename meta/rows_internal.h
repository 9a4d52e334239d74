// SPDX-License-Identifier: MIT
// Inside meta/ only: rows of inode in the table itself, past what is remembered of them (inode_cache.h).
#ifndef HYBRIDFS_META_ROWS_INTERNAL_H
#define HYBRIDFS_META_ROWS_INTERNAL_H

#include "meta/rows.h"

// Reads and validates the fourteen columns from `first` on. -EUCLEAN, logged, for a row that cannot be.
int inode_from_columns(sqlite3_stmt *stmt, int first, struct inode_row *row) ATTR_MUST_USE;

// As inode_insert() and inode_update(), but the count of inodes is left as it is.
int inode_row_insert(struct store *st, const struct inode_row *row) ATTR_MUST_USE;
int inode_row_update(struct store *st, const struct inode_row *row) ATTR_MUST_USE;

#endif
