// SPDX-License-Identifier: MIT
// What the tests of SQLite on the VFS inside the device share: a database without all that is above the VFS, its commits, and pulling the plug.
#ifndef HYBRIDFS_TESTS_DBVFSTEST_H
#define HYBRIDFS_TESTS_DBVFSTEST_H

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "block/testdev.h"
#include "meta/dbpage.h"
#include "meta/dbvfs.h"
#include "meta/sysfile.h"
#include "run_suite.h"
#include "sysfile_alloc.h"
#include "util/blk.h"

#define DEV_BYTES (32ull << 20)

// A volume without all that is above the VFS.
struct env {
	struct bdev *dev;
	struct sysfiles files;
	struct dbvfs *vfs;
	sqlite3 *db;                 // the writer
	sqlite3 *ckpt;               // for checkpoints, closed last: the writer's must not be locked during a sync
	pthread_mutex_t commit_lock; // COMMIT and seal
	pthread_mutex_t flush_lock;  // one segment at a time, in order
	unsigned n_syncs;            // calls of the hook
};

// ---- a volume to stand on ----

// What the transaction manager does, in small.
static inline int make_durable(struct env *env)
{
	struct wal_segment *seg;
	int err = 0;

	pthread_mutex_lock(&env->flush_lock);
	pthread_mutex_lock(&env->commit_lock);
	seg = dbvfs_wal_seal(env->vfs);
	pthread_mutex_unlock(&env->commit_lock);
	if (seg != NULL) {
		err = dbvfs_wal_write(env->vfs, seg);
		if (err == 0)
			err = bdev_flush(env->dev);
		dbvfs_wal_done(env->vfs, seg);
	}
	pthread_mutex_unlock(&env->flush_lock);
	return err;
}

static inline int sync_hook(void *ctx)
{
	struct env *env = ctx;

	env->n_syncs++;
	return make_durable(env);
}

static inline int try_sql(sqlite3 *db, const char *sql) { return sqlite3_exec(db, sql, NULL, NULL, NULL); }

static inline void sql(sqlite3 *db, const char *text)
{
	int rc = try_sql(db, text);

	ck_assert_msg(rc == SQLITE_OK, "%s: %s", text, sqlite3_errmsg(db));
}

static inline sqlite3_int64 number(sqlite3 *db, const char *text)
{
	sqlite3_stmt *stmt;
	sqlite3_int64 value;

	ck_assert_msg(sqlite3_prepare_v2(db, text, -1, &stmt, NULL) == SQLITE_OK, "%s: %s", text, sqlite3_errmsg(db));
	ck_assert_msg(sqlite3_step(stmt) == SQLITE_ROW, "%s: %s", text, sqlite3_errmsg(db));
	value = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	return value;
}

static inline void assert_integrity(sqlite3 *db)
{
	sqlite3_stmt *stmt;

	ck_assert_int_eq(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &stmt, NULL), SQLITE_OK);
	ck_assert_msg(sqlite3_step(stmt) == SQLITE_ROW, "integrity_check: %s", sqlite3_errmsg(db));
	ck_assert_str_eq((const char *)sqlite3_column_text(stmt, 0), "ok");
	sqlite3_finalize(stmt);
}

static inline sqlite3 *connect_db(struct env *env)
{
	sqlite3 *db;
	int rc = sqlite3_open_v2(DBVFS_FILE, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, dbvfs_name(env->vfs));

	int reserved = DBPAGE_RESERVED;

	ck_assert_msg(rc == SQLITE_OK, "open: %s", sqlite3_errmsg(db));
	ck_assert_int_eq(sqlite3_file_control(db, "main", SQLITE_FCNTL_RESERVE_BYTES, &reserved), SQLITE_OK);
	sqlite3_busy_timeout(db, 60000); // as the store does, and says why
	sql(db, "PRAGMA temp_store = MEMORY; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0");
	return db;
}

static inline void start_files(struct env *env, struct bdev *dev, const struct superblock *sb, bool fresh)
{
	const struct dbvfs_hooks hooks = { .wal_sync = sync_hook, .ctx = env };

	*env = (struct env){ .dev = dev };
	pthread_mutex_init(&env->commit_lock, NULL);
	pthread_mutex_init(&env->flush_lock, NULL);
	ck_assert_int_eq(sysfiles_init(&env->files, dev, sb), 0);
	ck_assert_int_eq(dbvfs_create(&env->files, &hooks, fresh, &env->vfs), 0);
}

static inline void start(struct env *env, struct bdev *dev, const struct superblock *sb, bool fresh)
{
	start_files(env, dev, sb, fresh);
	env->db = connect_db(env);
	if (!fresh)
		env->ckpt = connect_db(env);
}

static inline void start_fresh_sized(struct env *env, struct bdev *dev, uint64_t db_blk, uint64_t wal_blk)
{
	struct superblock sb;

	make_superblock(dev, db_blk, wal_blk, &sb);
	start(env, dev, &sb, true);
	sql(env->db, "PRAGMA page_size = 4096; PRAGMA journal_mode = MEMORY; PRAGMA journal_mode = WAL");
	sql(env->db, "BEGIN; CREATE TABLE t(i INTEGER PRIMARY KEY, data TEXT); CREATE TABLE total(n); CREATE INDEX x ON t(data);"
	             "INSERT INTO total VALUES (0); COMMIT");
	ck_assert_int_eq(make_durable(env), 0);
	env->ckpt = connect_db(env);
}

static inline void start_fresh(struct env *env)
{
	struct bdev *dev;

	ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
	start_fresh_sized(env, dev, 1000, 3500);
}

static inline void reopen(struct env *env, struct bdev *dev)
{
	struct superblock sb;

	ck_assert_int_eq(sb_read(dev, &sb, NULL, NULL), 0);
	start(env, dev, &sb, false);
}

static inline void stop_all(struct env *env)
{
	ck_assert_int_eq(sqlite3_close(env->db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_close(env->ckpt), SQLITE_OK);
	dbvfs_destroy(env->vfs);
	sysfiles_destroy(&env->files);
	pthread_mutex_destroy(&env->commit_lock);
	pthread_mutex_destroy(&env->flush_lock);
}

static inline void stop(struct env *env)
{
	stop_all(env);
	bdev_close(env->dev);
}

static inline void leave_log_on_close(struct env *env)
{
	ck_assert_int_eq(sqlite3_db_config(env->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL), SQLITE_OK);
	if (env->ckpt != NULL)
		ck_assert_int_eq(sqlite3_db_config(env->ckpt, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL), SQLITE_OK);
}

// Closes without a checkpoint; the log stays as it is.
static inline void abandon(struct env *env)
{
	leave_log_on_close(env);
	stop(env);
}

// Pulls the plug: what the device holds now is opened anew.
static inline void crash(struct env *env, struct env *after)
{
	struct bdev *copy;

	ck_assert_int_eq(testdev_clone(env->dev, &copy), 0);
	abandon(env);
	reopen(after, copy);
}

// Commit number i: row i, the total, and every third time a change of an older row.
static inline void commit_row(struct env *env, int i)
{
	char text[400];

	snprintf(text, sizeof(text),
	         "BEGIN IMMEDIATE; INSERT INTO t VALUES (%d, printf('%%.*c%d', 900, 'x'));"
	         "UPDATE total SET n = %d; UPDATE t SET data = data || 'y' WHERE i = %d; COMMIT",
	         i, i, i, i % 3 == 0 ? i / 3 : 0);
	pthread_mutex_lock(&env->commit_lock);
	sql(env->db, text);
	pthread_mutex_unlock(&env->commit_lock);
}

// The number of commits that the database shows. Fails if it is not exactly the state after that many.
static inline int check_rows(sqlite3 *db)
{
	char text[400];
	int n = (int)number(db, "SELECT n FROM total");

	ck_assert_int_eq(number(db, "SELECT count(*) FROM t"), n);
	ck_assert_int_eq(number(db, "SELECT coalesce(max(i), 0) FROM t"), n);
	snprintf(text, sizeof(text),
	         "SELECT count(*) FROM t WHERE data <> printf('%%.*c%%d', 900, 'x', i) || "
	         "CASE WHEN 3 * i <= %d THEN 'y' ELSE '' END", n);
	ck_assert_int_eq(number(db, text), 0);
	return n;
}

static inline int checkpoint(struct env *env, int mode)
{
	return sqlite3_wal_checkpoint_v2(env->ckpt, "main", mode, NULL, NULL);
}

// ---- running them ----

struct dbvfs_case {
	const char *name;
	const TTest *tests[12]; // up to the first NULL
};

static inline int run_cases(const char *suite_name, const struct dbvfs_case *cases, size_t n)
{
	Suite *suite = suite_create(suite_name);

	for (size_t i = 0; i < n; i++) {
		TCase *tc = tcase_create(cases[i].name);

		tcase_set_timeout(tc, 120);
		for (size_t t = 0; t < ARRAY_LEN(cases[i].tests) && cases[i].tests[t] != NULL; t++)
			tcase_add_test(tc, cases[i].tests[t]);
		suite_add_tcase(suite, tc);
	}
	return run_suite(suite);
}

#endif
