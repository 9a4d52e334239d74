// SPDX-License-Identifier: MIT
// Phase 2: is the database one in itself? SQLite's own check of its pages and trees, and that every column that should
// hold a number does: SQLite stores any type in any column, and sorts text behind all numbers.
//
// A damaged tree cannot be repaired from itself, and repairing rows in it would make it worse: then the check ends here.
#include <stdio.h>
#include <string.h>

#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "util/attr.h"

#define MESSAGES_MAX 100
#define STEPS_PER_CALLBACK 100000

struct typed_table {
	const char *name;
	const char *wrong;  // condition for a row with a wrong type
	const char *repair; // applied to such rows
};

#define NOT_INT(col) "typeof(" col ") <> 'integer'"
#define NOT_BLOB(col) "typeof(" col ") <> 'blob'"
#define AS_INT(col) col " = ifnull(CAST(" col " AS INTEGER), 0)"

static const struct typed_table tables[] = {
	{ "inode",
	  NOT_INT("parent") " OR " NOT_INT("mode") " OR " NOT_INT("nlink") " OR " NOT_INT("uid") " OR " NOT_INT("gid") " OR "
	  NOT_INT("rdev") " OR " NOT_INT("flags") " OR " NOT_INT("size") " OR " NOT_INT("blocks") " OR " NOT_INT("atime")
	  " OR " NOT_INT("mtime") " OR " NOT_INT("ctime") " OR " NOT_INT("btime"),
	  "UPDATE inode SET " AS_INT("parent") ", " AS_INT("mode") ", " AS_INT("nlink") ", " AS_INT("uid") ", " AS_INT("gid")
	  ", " AS_INT("rdev") ", " AS_INT("flags") ", " AS_INT("size") ", " AS_INT("blocks") ", " AS_INT("atime") ", "
	  AS_INT("mtime") ", " AS_INT("ctime") ", " AS_INT("btime") },
	{ "dirent", NOT_INT("parent") " OR " NOT_INT("cookie") " OR " NOT_INT("ino") " OR " NOT_INT("type") " OR " NOT_BLOB("name"),
	  "DELETE FROM dirent" },
	{ "extent", NOT_INT("ino") " OR " NOT_INT("off") " OR " NOT_INT("phys") " OR " NOT_INT("len") " OR " NOT_INT("flags"),
	  "DELETE FROM extent" },
	{ "inline", NOT_BLOB("data"), "UPDATE inline SET data = ifnull(CAST(data AS BLOB), x'')" },
	{ "xattr", NOT_INT("ino") " OR " NOT_BLOB("name") " OR " NOT_BLOB("value"), "DELETE FROM xattr" },
	{ "metaslab",
	  NOT_INT("free_blk") " OR " NOT_INT("largest_blk") " OR " NOT_INT("log_bytes") " OR " NOT_INT("base_bytes"),
	  "DELETE FROM metaslab" },
	{ "spacemap", NOT_INT("ms") " OR " NOT_INT("seq") " OR " NOT_BLOB("runs"), "DELETE FROM spacemap" },
};

static int check_types(struct fsck *f, const struct typed_table *t)
{
	char sql[2048];
	int64_t n;
	int err;

	snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s WHERE %s", t->name, t->wrong);
	err = sql_number(f, sql, 0, &n);
	if (err != 0 || n == 0 || !PROBLEM(f, FP_ROW_TYPE, .name = t->name, .is = n))
		return err;
	snprintf(sql, sizeof(sql), "%s WHERE %s", t->repair, t->wrong);
	return sql_run(f, sql, 0, NULL);
}

static int interrupt_if_stopping(void *ctx) { return fsck_stopping(ctx); }

// Messages of the integrity check; a clean database gives one row "ok".
static int check_integrity(struct fsck *f)
{
	sqlite3 *db = store_db(f->vol->store);
	sqlite3_stmt *stmt = NULL;
	char sql[64];
	int rc;
	int err;

	snprintf(sql, sizeof(sql), "PRAGMA integrity_check(%d)", MESSAGES_MAX);
	err = sql_prepare(f, sql, &stmt);
	if (err != 0)
		return err;
	sqlite3_progress_handler(db, STEPS_PER_CALLBACK, interrupt_if_stopping, f);
	while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		const char *text = (const char *)sqlite3_column_text(stmt, 0);
		char line[ESCAPED_NAME_LEN];

		if (text != NULL && strcmp(text, "ok") == 0)
			continue;
		text = text != NULL ? text : "no message";
		(void)PROBLEM(f, FP_DB_INTEGRITY, .text = escape_name(text, (int)strlen(text), line));
	}
	if (rc != SQLITE_DONE && rc != SQLITE_INTERRUPT)
		(void)PROBLEM(f, FP_DB_INTEGRITY, .text = sqlite3_errmsg(db));
	sqlite3_finalize(stmt);
	sqlite3_progress_handler(db, 0, NULL, NULL);
	return 0;
}

int phase_database(struct fsck *f)
{
	uint64_t left = f->n_left;
	int err = check_integrity(f);

	f->db_damaged = f->n_left != left;
	progress_range(f, ARRAY_LEN(tables));
	for (size_t i = 0; err == 0 && !f->db_damaged && i < ARRAY_LEN(tables) && !fsck_stopping(f); i++) {
		err = check_types(f, &tables[i]);
		progress_at(f, i + 1);
	}
	return err;
}
