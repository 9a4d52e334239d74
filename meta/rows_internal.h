// SPDX-License-Identifier: MIT
// Inside meta/ only: an inode row out of a statement that selects its columns among others.
#ifndef HYBRIDFS_META_ROWS_INTERNAL_H
#define HYBRIDFS_META_ROWS_INTERNAL_H

#include "meta/rows.h"

// Reads and validates the fourteen columns from `first` on. -EUCLEAN, logged, for a row that cannot be.
int inode_from_columns(sqlite3_stmt *stmt, int first, struct inode_row *row) ATTR_MUST_USE;

#endif
