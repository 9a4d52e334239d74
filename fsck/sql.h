// SPDX-License-Identifier: MIT
// How fsck reads and repairs tables: cursors over ordered rows, statements that change rows, and batches of repairs.
//
// A batch is one transaction of the volume. It is kept small, because in the first phases nobody knows what is free, and so neither the
// database nor its write-ahead log can grow: when commit_due() says so, a phase closes its cursors between two keys, calls fsck_commit() and
// opens them again behind the last key. fsck_commit() may reopen the volume: f->vol and all statements are new after it.
//
// Errors: negative errno; after a failed write the volume takes no more writes, and what was not committed is dropped.
#ifndef HYBRIDFS_FSCK_SQL_H
#define HYBRIDFS_FSCK_SQL_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "fsck/fsck.h"

// ---- batches ----
int fsck_open(struct fsck *f) ATTR_MUST_USE;  // the volume; on error f->why is set
int fsck_begin(struct fsck *f) ATTR_MUST_USE; // store locked, transaction joined
int fsck_end(struct fsck *f) ATTR_MUST_USE;   // commits
bool fsck_commit_due(const struct fsck *f);
int fsck_commit(struct fsck *f) ATTR_MUST_USE;
// Everything that files own is known and durable: commits, and lets the database grow and vol->alloc give blocks (space.h).
int fsck_use_free_space(struct fsck *f) ATTR_MUST_USE;

// ---- changes ----
// Runs one statement with integer parameters ?1, ?2, …
int sql_run(struct fsck *f, const char *sql, unsigned n, const int64_t *args) ATTR_MUST_USE;
#define SQL(f, sql, ...) \
	sql_run((f), (sql), sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t), (const int64_t[]){ __VA_ARGS__ })
// The same with a prepared statement of the caller's, which is finalised.
int sql_finish(struct fsck *f, sqlite3_stmt *stmt) ATTR_MUST_USE;
int sql_prepare(struct fsck *f, const char *sql, sqlite3_stmt **out) ATTR_MUST_USE;
// The first column of the first row; `none` if there is no row.
int sql_number(struct fsck *f, const char *sql, int64_t none, int64_t *out) ATTR_MUST_USE;

// ---- cursors ----
struct cursor {
	sqlite3_stmt *stmt;
	bool have;   // a current row
	int64_t key; // its first column
};

// Parameters ?1 and ?2; then steps to the first row. Zero-initialised is closed.
int cursor_open(struct fsck *f, struct cursor *c, const char *sql, int64_t p1, int64_t p2) ATTR_MUST_USE;
int cursor_next(struct fsck *f, struct cursor *c) ATTR_MUST_USE;
void cursor_close(struct cursor *c);
static inline int64_t cursor_int(const struct cursor *c, int column) { return sqlite3_column_int64(c->stmt, column); }

#endif
