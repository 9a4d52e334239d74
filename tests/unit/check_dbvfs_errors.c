// SPDX-License-Identifier: MIT
// SQLite on the VFS inside the device: failing and full devices, damaged pages, hostile names, and several connections at once.
#include "dbvfstest.h"

// ---- errors ----

START_TEST(device_errors_are_told)
{
	struct env env;

	start_fresh(&env);
	commit_row(&env, 1);
	commit_row(&env, 2);
	ck_assert_int_eq(make_durable(&env), 0);
	sqlite3_db_release_memory(env.db);
	testdev_fail(env.dev, TESTDEV_READ, 1, -EIO, true);
	ck_assert_int_eq(try_sql(env.db, "SELECT sum(length(data)) FROM t"), SQLITE_IOERR);
	ck_assert_int_eq(sqlite3_extended_errcode(env.db), SQLITE_IOERR_READ);
	ck_assert_int_eq(dbvfs_last_errno(env.vfs), -EIO);
	testdev_fail(env.dev, TESTDEV_READ, 0, 0, false);
	commit_row(&env, 3);
	testdev_fail(env.dev, TESTDEV_FLUSH, 1, -EIO, true);
	ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_IOERR_FSYNC & 0xff);
	ck_assert_int_eq(check_rows(env.db), 3);
	commit_row(&env, 4); // memory still takes it
	ck_assert_int_eq(make_durable(&env), -EROFS);
	ck_assert_int_eq(dbvfs_last_errno(env.vfs), -EROFS);
	abandon(&env);
}
END_TEST

START_TEST(full_device)
{
	struct bdev *dev;
	struct env env, after;

	// The database is too small for what the log holds, and cannot grow: there is no allocator here.
	ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
	start_fresh_sized(&env, dev, 16, 1000);
	for (int i = 1; i <= 60; i++)
		commit_row(&env, i);
	ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_FULL);
	ck_assert_int_eq(dbvfs_last_errno(env.vfs), -ENOSPC);
	ck_assert_int_eq(check_rows(env.db), 60);
	crash(&env, &after); // the checkpoint had made the log durable before it failed
	ck_assert_int_eq(check_rows(after.db), 60);
	abandon(&after);

	ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
	start_fresh_sized(&env, dev, 1000, 16);
	for (int i = 1; i <= 30; i++)
		commit_row(&env, i);
	ck_assert_int_eq(make_durable(&env), -ENOSPC);
	abandon(&env);
}
END_TEST

START_TEST(other_files_are_refused)
{
	struct env env;
	sqlite3 *db;

	start_fresh(&env);
	ck_assert_int_eq(sqlite3_open_v2("/etc/passwd", &db, SQLITE_OPEN_READONLY, dbvfs_name(env.vfs)), SQLITE_CANTOPEN);
	sqlite3_close(db);
	ck_assert_int_eq(try_sql(env.db, "ATTACH 'elsewhere.db' AS e"), SQLITE_CANTOPEN);
	sql(env.db, "PRAGMA temp_store = FILE; PRAGMA temp.cache_size = 5; CREATE TEMP TABLE tt(d)");
	ck_assert_int_eq(try_sql(env.db, "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 900)"
	                                 "INSERT INTO tt SELECT randomblob(1000) FROM c"), SQLITE_CANTOPEN);
	stop(&env);
}
END_TEST

START_TEST(truncated_device_is_corruption)
{
	struct superblock sb;
	struct env env;

	start_fresh(&env);
	for (int i = 1; i <= 60; i++)
		commit_row(&env, i);
	ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_TRUNCATE), SQLITE_OK);
	leave_log_on_close(&env);
	sb = env.files.sb;
	sb.sysfile[SYSFILE_DB].extents[1].len_blk = 2; // the header speaks of more pages than there are extents
	stop_all(&env);
	start_files(&env, env.dev, &sb, false);
	ck_assert_int_eq(sqlite3_open_v2(DBVFS_FILE, &env.db, SQLITE_OPEN_READWRITE, dbvfs_name(env.vfs)), SQLITE_OK);
	ck_assert_int_eq(try_sql(env.db, "SELECT count(*) FROM t"), SQLITE_CORRUPT);
	stop(&env);
}
END_TEST

// D5: any bit of any page, and a page in another's place, are noticed when SQLite reads the page, whatever it holds.
static void expect_damage(struct env *env, uint64_t page, uint8_t wrong[BLK_SIZE])
{
	uint8_t right[BLK_SIZE];
	sqlite3 *db;

	ck_assert_int_eq(sysfile_read(&env->files, SYSFILE_DB, right, BLK_SIZE, page * BLK_SIZE), 0);
	ck_assert_int_eq(sysfile_write(&env->files, SYSFILE_DB, wrong, BLK_SIZE, page * BLK_SIZE), 0);
	ck_assert_int_eq(sqlite3_open_v2(DBVFS_FILE, &db, SQLITE_OPEN_READWRITE, dbvfs_name(env->vfs)), SQLITE_OK);
	ck_assert_int_ne(try_sql(db, "SELECT sum(length(data)) FROM t NOT INDEXED; SELECT count(*) FROM t INDEXED BY x WHERE data > '';"
	                             "SELECT * FROM total"), SQLITE_OK);
	sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_close(db);
	ck_assert_int_eq(sysfile_write(&env->files, SYSFILE_DB, right, BLK_SIZE, page * BLK_SIZE), 0);
}

START_TEST(damaged_pages_are_corruption)
{
	uint8_t page[BLK_SIZE];
	unsigned state = 12345;
	struct superblock sb;
	struct env env;
	sqlite3_int64 n;

	start_fresh(&env);
	for (int i = 1; i <= 60; i++)
		commit_row(&env, i);
	ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_TRUNCATE), SQLITE_OK);
	n = number(env.db, "PRAGMA page_count");
	ck_assert_int_gt(n, 5);
	leave_log_on_close(&env);
	sb = env.files.sb;
	stop_all(&env);
	start_files(&env, env.dev, &sb, false);
	for (sqlite3_int64 i = 0; i < n; i++) {
		for (int round = 0; round < 8; round++) {
			state = state * 1103515245 + 12345;
			ck_assert_int_eq(sysfile_read(&env.files, SYSFILE_DB, page, BLK_SIZE, (uint64_t)i * BLK_SIZE), 0);
			page[round < 2 ? BLK_SIZE - 1 - (unsigned)round * 4 : state / 65536 % BLK_SIZE] ^= (uint8_t)(1u << round % 8);
			expect_damage(&env, (uint64_t)i, page);
		}
		ck_assert_int_eq(sysfile_read(&env.files, SYSFILE_DB, page, BLK_SIZE, (uint64_t)((i + 1) % n) * BLK_SIZE), 0);
		expect_damage(&env, (uint64_t)i, page);
	}
	ck_assert_int_eq(sqlite3_open_v2(DBVFS_FILE, &env.db, SQLITE_OPEN_READWRITE, dbvfs_name(env.vfs)), SQLITE_OK);
	assert_integrity(env.db);
	stop(&env);
}
END_TEST

// A database whose pages have no place for checksums is not made in the first place.
START_TEST(pages_without_room_for_checksums_are_refused)
{
	struct superblock sb;
	struct bdev *dev;
	struct env env;

	ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
	make_superblock(dev, 1000, 3500, &sb);
	start_files(&env, dev, &sb, true);
	ck_assert_int_eq(sqlite3_open_v2(DBVFS_FILE, &env.db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, dbvfs_name(env.vfs)), SQLITE_OK);
	ck_assert_int_ne(try_sql(env.db, "PRAGMA page_size = 4096; PRAGMA journal_mode = MEMORY; CREATE TABLE t(i)"), SQLITE_OK);
	stop(&env);
}
END_TEST

// ---- several connections ----

START_TEST(readers_keep_their_snapshot)
{
	sqlite3_stmt *stmt;
	struct env env;
	sqlite3 *reader;

	start_fresh(&env);
	reader = connect_db(&env);
	for (int i = 1; i <= 3; i++)
		commit_row(&env, i);
	ck_assert_int_eq(sqlite3_prepare_v2(reader, "SELECT i FROM t", -1, &stmt, NULL), SQLITE_OK);
	ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
	for (int i = 4; i <= 6; i++)
		commit_row(&env, i);
	ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK);
	commit_row(&env, 7); // must not begin the log again under the reader
	ck_assert_int_eq(check_rows(reader), 3);
	ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
	ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
	ck_assert_int_eq(sqlite3_step(stmt), SQLITE_DONE);
	sqlite3_finalize(stmt);
	ck_assert_int_eq(check_rows(reader), 7);
	ck_assert_int_eq(sqlite3_close(reader), SQLITE_OK); // not the last one: the log stays
	commit_row(&env, 8);
	ck_assert_int_eq(check_rows(env.db), 8);
	stop(&env);
}
END_TEST

struct looper {
	struct env *env;
	sqlite3 *db; // of the reader
	atomic_bool stop;
	int n_done, rc;
};

static void *checkpoint_loop(void *arg)
{
	struct looper *cp = arg;

	do {
		cp->rc = checkpoint(cp->env, SQLITE_CHECKPOINT_PASSIVE);
		if (cp->rc == SQLITE_BUSY) // it looked at the wal-index while a COMMIT was changing it
			cp->rc = SQLITE_OK;
		else
			cp->n_done++;
	} while ((!atomic_load(&cp->stop) || cp->n_done == 0) && cp->rc == SQLITE_OK);
	return NULL;
}

static void *read_loop(void *arg)
{
	struct looper *cp = arg;
	sqlite3_int64 last = 0, n;

	do { // once at least, however busy the machine is
		n = number(cp->db, "SELECT n FROM total WHERE n = (SELECT count(*) FROM t)"); // one snapshot
		ck_assert_int_ge(n, last);
		last = n;
		cp->n_done++;
	} while (!atomic_load(&cp->stop));
	return NULL;
}

START_TEST(threads_write_checkpoint_and_read)
{
	struct looper cp, rd;
	pthread_t cp_thread, rd_thread;
	struct env env, after;

	start_fresh(&env);
	cp = (struct looper){ .env = &env };
	rd = (struct looper){ .env = &env, .db = connect_db(&env) };
	ck_assert_int_eq(pthread_create(&cp_thread, NULL, checkpoint_loop, &cp), 0);
	ck_assert_int_eq(pthread_create(&rd_thread, NULL, read_loop, &rd), 0);
	for (int i = 1; i <= 250; i++) {
		commit_row(&env, i);
		if (i % 4 == 0)
			ck_assert_int_eq(make_durable(&env), 0);
	}
	atomic_store(&cp.stop, true);
	atomic_store(&rd.stop, true);
	pthread_join(cp_thread, NULL);
	pthread_join(rd_thread, NULL);
	ck_assert_int_eq(cp.rc, SQLITE_OK);
	ck_assert_int_gt(cp.n_done, 0);
	ck_assert_int_gt(rd.n_done, 0);
	sqlite3_close(rd.db);
	ck_assert_int_eq(check_rows(env.db), 250);
	assert_integrity(env.db);
	ck_assert_int_eq(make_durable(&env), 0);
	crash(&env, &after);
	ck_assert_int_eq(check_rows(after.db), 250);
	assert_integrity(after.db);
	stop(&after);
}
END_TEST

int main(void)
{
	const struct dbvfs_case cases[] = {
		{ "errors", { device_errors_are_told, full_device, other_files_are_refused, truncated_device_is_corruption,
		              damaged_pages_are_corruption, pages_without_room_for_checksums_are_refused } },
		{ "connections", { readers_keep_their_snapshot, threads_write_checkpoint_and_read } },
	};

	return run_cases("dbvfs_errors", cases, ARRAY_LEN(cases));
}
