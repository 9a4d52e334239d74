// SPDX-License-Identifier: MIT
// Phase 2: is the database one in itself? A check of its pages and trees (btree.h), and that every column that should
// hold a number does: SQLite stores any type in any column, and sorts text behind all numbers.
//
// The pages are read from the device, as the last transaction has left them: no repair has been made yet. Later phases read all rows through
// SQLite, so what this check might miss does not stay hidden.
//
// The pages of a mounted volume change while they would be read, and a part of its log is only in memory. There SQLite reads them, as of the
// snapshot, and makes the check itself: slower, but nobody waits for it.
//
// Repairing rows in a damaged tree would make it worse: then the check ends here, and the database is written anew (salvage.c).
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "fsck/tables.h"
#include "meta/deferred_rows.h"
#include "util/attr.h"

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

// ---- pages ----

#define TABLES_MAX 32u // ours, the schema's own, and sqlite_stat1 to 4

struct integrity {
	struct fsck *f;
	struct table tables[TABLES_MAX];
	char names[TABLES_MAX][32];
	unsigned n_tables;
};

static void print_damage(void *ctx, const char *text) { problem_note(((struct integrity *)ctx)->f, "database: %s", text); }
static void show_progress(void *ctx, uint32_t page) { progress_at(((struct integrity *)ctx)->f, page); }
static bool stop_check(void *ctx) { return fsck_stopping(((struct integrity *)ctx)->f); }

// The schema is ours, text for text, but a volume may have come with statistics, too.
static int list_tables(struct integrity *in)
{
	struct cursor c;
	int err = cursor_open(in->f, &c, "SELECT rootpage, name FROM sqlite_schema WHERE rootpage > 0 AND rootpage < 1 << 32", 0, 0);

	in->tables[in->n_tables++] = (struct table){ .name = "schema", .root = 1 };
	while (err == 0 && c.have && in->n_tables < TABLES_MAX) {
		struct table *t = &in->tables[in->n_tables];
		char *name = in->names[in->n_tables++];
		const struct table *form;

		snprintf(name, sizeof(in->names[0]), "%s", (const char *)sqlite3_column_text(c.stmt, 1));
		form = table_form(name);
		*t = form != NULL ? *form : (struct table){ .name = name };
		t->root = (uint32_t)c.key;
		err = cursor_next(in->f, &c);
	}
	cursor_close(&c);
	return err;
}

static void judge_damage(struct fsck *f, unsigned n_damages)
{
	f->db_damaged = n_damages > 0;
	f->rebuild = f->db_damaged && PROBLEM(f, FP_DB_INTEGRITY, .text = "its pages do not fit together");
}

static int check_pages(struct integrity *in)
{
	struct fsck *f = in->f;
	struct dbpages pages;
	struct btree_check check = {
		.pages = &pages,
		.tables = in->tables,
		.n_tables = in->n_tables,
		.damage = print_damage,
		.progress = show_progress,
		.stop = stop_check,
		.ctx = in,
	};
	int err = dbpages_open(&f->vol->files, &pages);

	if (err != 0)
		return err;
	progress_range(f, pages.n_pages);
	err = btree_check(&check);
	judge_damage(f, check.n_damages);
	dbpages_close(&pages);
	return err;
}

// A snapshot's pages. Rows with wrong types are not counted: all tables have to be asked about them.
static int check_snapshot(struct integrity *in)
{
	sqlite3_stmt *stmt = NULL;
	unsigned n_damages = 0;
	int rc = SQLITE_DONE, err = sql_prepare(in->f, "PRAGMA integrity_check", &stmt);

	while (err == 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		const char *text = (const char *)sqlite3_column_text(stmt, 0);

		if (text == NULL || strcmp(text, "ok") == 0)
			continue;
		print_damage(in, text);
		n_damages++;
	}
	if (err == 0)
		err = store_error(in->f->vol->store, rc, "integrity check");
	sqlite3_finalize(stmt);
	if (err == 0)
		judge_damage(in->f, n_damages);
	return err;
}

// The next transaction's number follows from it, and the space map has rows of earlier ones.
static int check_txn_number(struct fsck *f)
{
	int64_t txn;
	int err = sql_number(f, "SELECT value FROM config WHERE key = 'txn'", -1, &txn);

	if (err != 0 || (txn >= 0 && txn <= DEFERRED_MAX_TXN) || !PROBLEM(f, FP_TXN_NUMBER, .is = txn))
		return err;
	return SQL(f, "INSERT OR REPLACE INTO config(key, value) VALUES('txn', ?1)", (int64_t)f->txn); // written with the commit, too
}

// A number that is still to come would make dead rows of the next deferred writes. Those that there are stay dead.
static int check_deferred_from(struct fsck *f)
{
	int64_t from;
	int err = sql_number(f, "SELECT value FROM config WHERE key = 'deferred_from'", 0, &from);

	if (err != 0 || from <= (int64_t)f->last_txn ||
	    !PROBLEM(f, FP_DEFERRED_FROM, .is = from, .should = (int64_t)f->last_txn))
		return err;
	return SQL(f, "UPDATE config SET value = ?1 WHERE key = 'deferred_from'", (int64_t)f->txn);
}

static bool may_have_wrong_types(const struct integrity *in, const char *name)
{
	if (in->f->online)
		return true;
	for (unsigned i = 0; i < in->n_tables; i++)
		if (strcmp(in->tables[i].name, name) == 0)
			return in->tables[i].n_bad_rows > 0;
	return false;
}

int phase_database(struct fsck *f)
{
	struct integrity *in = calloc(1, sizeof(*in));
	int err;

	if (in == NULL)
		return -ENOMEM;
	in->f = f;
	err = list_tables(in);
	if (err == 0)
		err = f->online ? check_snapshot(in) : check_pages(in);
	if (err == 0 && !f->db_damaged)
		err = check_txn_number(f);
	if (err == 0 && !f->db_damaged)
		err = check_deferred_from(f);
	for (size_t i = 0; err == 0 && !f->db_damaged && i < ARRAY_LEN(tables) && !fsck_stopping(f); i++)
		if (may_have_wrong_types(in, tables[i].name))
			err = check_types(f, &tables[i]);
	free(in);
	return err;
}
