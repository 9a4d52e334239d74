// SPDX-License-Identifier: MIT
// SQLite on the VFS inside the device: commits, checkpoints, connections, and what is left after a crash.
//
// Every crash test holds the reopened database against one contract: `PRAGMA integrity_check` says ok, and the rows are
// those of a whole number of commits, not fewer than were durable when the power went.
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

static void make_superblock(struct bdev *dev, uint64_t db_blk, uint64_t wal_blk, struct superblock *sb)
{
	*sb = (struct superblock){ .version = SB_FORMAT_VERSION };
	ck_assert_int_eq(sb_geometry(dev->size_bytes, sb, NULL), 0);
	// Two pieces each, in an order and at places that a wrong mapping would notice.
	sb->sysfile[SYSFILE_DB].n_extents = 2;
	sb->sysfile[SYSFILE_DB].extents[0] = (struct run){ 3000, 3 };
	sb->sysfile[SYSFILE_DB].extents[1] = (struct run){ 600, db_blk - 3 };
	sb->sysfile[SYSFILE_WAL].n_extents = 2;
	sb->sysfile[SYSFILE_WAL].extents[0] = (struct run){ 4000, 2 };
	sb->sysfile[SYSFILE_WAL].extents[1] = (struct run){ 4100, wal_blk - 2 };
	ck_assert_int_eq(sb_write(dev, sb), 0);
}

// What the transaction manager does, in small.
static int make_durable(struct env *env)
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

static int sync_hook(void *ctx)
{
	struct env *env = ctx;

	env->n_syncs++;
	return make_durable(env);
}

static int try_sql(sqlite3 *db, const char *sql) { return sqlite3_exec(db, sql, NULL, NULL, NULL); }

static void sql(sqlite3 *db, const char *text)
{
	int rc = try_sql(db, text);

	ck_assert_msg(rc == SQLITE_OK, "%s: %s", text, sqlite3_errmsg(db));
}

static sqlite3_int64 number(sqlite3 *db, const char *text)
{
	sqlite3_stmt *stmt;
	sqlite3_int64 value;

	ck_assert_msg(sqlite3_prepare_v2(db, text, -1, &stmt, NULL) == SQLITE_OK, "%s: %s", text, sqlite3_errmsg(db));
	ck_assert_msg(sqlite3_step(stmt) == SQLITE_ROW, "%s: %s", text, sqlite3_errmsg(db));
	value = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	return value;
}

static void assert_integrity(sqlite3 *db)
{
	sqlite3_stmt *stmt;

	ck_assert_int_eq(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &stmt, NULL), SQLITE_OK);
	ck_assert_msg(sqlite3_step(stmt) == SQLITE_ROW, "integrity_check: %s", sqlite3_errmsg(db));
	ck_assert_str_eq((const char *)sqlite3_column_text(stmt, 0), "ok");
	sqlite3_finalize(stmt);
}

static sqlite3 *connect_db(struct env *env)
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

static void start_files(struct env *env, struct bdev *dev, const struct superblock *sb, bool fresh)
{
	const struct dbvfs_hooks hooks = { .wal_sync = sync_hook, .ctx = env };

	*env = (struct env){ .dev = dev };
	pthread_mutex_init(&env->commit_lock, NULL);
	pthread_mutex_init(&env->flush_lock, NULL);
	ck_assert_int_eq(sysfiles_init(&env->files, dev, sb), 0);
	ck_assert_int_eq(dbvfs_create(&env->files, &hooks, fresh, &env->vfs), 0);
}

static void start(struct env *env, struct bdev *dev, const struct superblock *sb, bool fresh)
{
	start_files(env, dev, sb, fresh);
	env->db = connect_db(env);
	if (!fresh)
		env->ckpt = connect_db(env);
}

static void start_fresh_sized(struct env *env, struct bdev *dev, uint64_t db_blk, uint64_t wal_blk)
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

static void start_fresh(struct env *env)
{
	struct bdev *dev;

	ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
	start_fresh_sized(env, dev, 1000, 3500);
}

static void reopen(struct env *env, struct bdev *dev)
{
	struct superblock sb;

	ck_assert_int_eq(sb_read(dev, &sb, NULL, NULL), 0);
	start(env, dev, &sb, false);
}

static void stop_all(struct env *env)
{
	ck_assert_int_eq(sqlite3_close(env->db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_close(env->ckpt), SQLITE_OK);
	dbvfs_destroy(env->vfs);
	sysfiles_destroy(&env->files);
	pthread_mutex_destroy(&env->commit_lock);
	pthread_mutex_destroy(&env->flush_lock);
}

static void stop(struct env *env)
{
	stop_all(env);
	bdev_close(env->dev);
}

static void leave_log_on_close(struct env *env)
{
	ck_assert_int_eq(sqlite3_db_config(env->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL), SQLITE_OK);
	if (env->ckpt != NULL)
		ck_assert_int_eq(sqlite3_db_config(env->ckpt, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL), SQLITE_OK);
}

// Closes without a checkpoint; the log stays as it is.
static void abandon(struct env *env)
{
	leave_log_on_close(env);
	stop(env);
}

// Pulls the plug: what the device holds now is opened anew.
static void crash(struct env *env, struct env *after)
{
	struct bdev *copy;

	ck_assert_int_eq(testdev_clone(env->dev, &copy), 0);
	abandon(env);
	reopen(after, copy);
}

// Commit number i: row i, the total, and every third time a change of an older row.
static void commit_row(struct env *env, int i)
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
static int check_rows(sqlite3 *db)
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

static int checkpoint(struct env *env, int mode)
{
	return sqlite3_wal_checkpoint_v2(env->ckpt, "main", mode, NULL, NULL);
}

// ---- commit and crash ----

START_TEST(commit_needs_write_to_survive)
{
	struct env env, after;

	start_fresh(&env);
	commit_row(&env, 1);
	ck_assert_int_eq(make_durable(&env), 0);
	commit_row(&env, 2);
	ck_assert_int_eq(check_rows(env.db), 2);
	crash(&env, &after);
	ck_assert_int_eq(check_rows(after.db), 1);
	assert_integrity(after.db);
	commit_row(&after, 2);
	ck_assert_int_eq(make_durable(&after), 0);
	crash(&after, &env);
	ck_assert_int_eq(check_rows(env.db), 2);
	stop(&env);
}
END_TEST

START_TEST(sealed_segments_serve_reads)
{
	struct wal_segment *first, *second;
	struct env env, after;

	start_fresh(&env);
	ck_assert_ptr_null(dbvfs_wal_seal(env.vfs));
	commit_row(&env, 1);
	first = dbvfs_wal_seal(env.vfs);
	commit_row(&env, 2);
	second = dbvfs_wal_seal(env.vfs);
	commit_row(&env, 3);
	ck_assert_uint_ge(wal_segment_bytes(first), 4096);
	sqlite3_db_release_memory(env.db); // the pages come from the log again
	ck_assert_int_eq(check_rows(env.db), 3);
	ck_assert_int_eq(dbvfs_wal_write(env.vfs, first), 0);
	ck_assert_int_eq(dbvfs_wal_write(env.vfs, second), 0);
	dbvfs_wal_done(env.vfs, first);
	sqlite3_db_release_memory(env.db);
	ck_assert_int_eq(check_rows(env.db), 3);
	dbvfs_wal_done(env.vfs, second);
	sqlite3_db_release_memory(env.db);
	ck_assert_int_eq(check_rows(env.db), 3);
	crash(&env, &after);
	ck_assert_int_eq(check_rows(after.db), 2);
	stop(&after);
}
END_TEST

START_TEST(checkpoint_then_log_begins_again)
{
	struct env env, after;
	uint64_t before;

	start_fresh(&env);
	for (int i = 1; i <= 20; i++)
		commit_row(&env, i);
	before = dbvfs_wal_end_bytes(env.vfs);
	ck_assert_uint_gt(before, 20 * 4096);
	ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK);
	ck_assert_uint_eq(env.n_syncs, 1);
	commit_row(&env, 21);
	ck_assert_uint_lt(dbvfs_wal_end_bytes(env.vfs), before / 2);
	ck_assert_int_eq(check_rows(env.db), 21);
	ck_assert_int_eq(make_durable(&env), 0);
	crash(&env, &after);
	ck_assert_int_eq(check_rows(after.db), 21);
	ck_assert_uint_gt(dbvfs_wal_end_bytes(after.vfs), 0);
	ck_assert_uint_lt(dbvfs_wal_end_bytes(after.vfs), before / 2);
	stop(&after);
}
END_TEST

START_TEST(recovered_end_is_exact)
{
	struct env env, after;
	uint64_t end;

	start_fresh(&env);
	for (int i = 1; i <= 5; i++)
		commit_row(&env, i);
	ck_assert_int_eq(make_durable(&env), 0);
	end = dbvfs_wal_end_bytes(env.vfs);
	commit_row(&env, 6);
	crash(&env, &after);
	ck_assert_int_eq(check_rows(after.db), 5);
	ck_assert_uint_eq(dbvfs_wal_end_bytes(after.vfs), end);
	stop(&after);
}
END_TEST

START_TEST(clean_close_leaves_no_log)
{
	struct env env, after;

	start_fresh(&env);
	for (int i = 1; i <= 5; i++)
		commit_row(&env, i);
	stop_all(&env);
	reopen(&after, env.dev);
	ck_assert_uint_eq(dbvfs_wal_end_bytes(after.vfs), 0);
	ck_assert_int_eq(check_rows(after.db), 5);
	commit_row(&after, 6);
	ck_assert_int_eq(checkpoint(&after, SQLITE_CHECKPOINT_TRUNCATE), SQLITE_OK);
	ck_assert_uint_eq(dbvfs_wal_end_bytes(after.vfs), 0);
	commit_row(&after, 7);
	ck_assert_int_eq(make_durable(&after), 0);
	crash(&after, &env);
	ck_assert_int_eq(check_rows(env.db), 7);
	stop(&env);
}
END_TEST

START_TEST(fresh_ignores_an_old_log)
{
	struct env env, after;
	struct superblock sb;
	struct bdev *dev;

	start_fresh(&env);
	for (int i = 1; i <= 5; i++)
		commit_row(&env, i);
	ck_assert_int_eq(make_durable(&env), 0);
	ck_assert_int_eq(testdev_clone(env.dev, &dev), 0);
	abandon(&env);

	ck_assert_int_eq(sb_read(dev, &sb, NULL, NULL), 0);
	start(&env, dev, &sb, true);
	sql(env.db, "PRAGMA journal_mode = MEMORY; CREATE TABLE other(i)");
	crash(&env, &after); // before WAL mode: the first page is in the database file, and no log may speak against it
	ck_assert_int_eq(number(after.db, "SELECT count(*) FROM sqlite_master WHERE name = 't'"), 0);
	ck_assert_int_eq(number(after.db, "SELECT count(*) FROM other"), 0);
	stop(&after);
}
END_TEST

// A segment that outlived its log must not bring the log back.
START_TEST(dead_segment_is_not_written)
{
	struct env env, after;
	struct wal_segment *seg;

	start_fresh(&env);
	ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK);
	commit_row(&env, 1);
	seg = dbvfs_wal_seal(env.vfs); // with a header
	ck_assert_int_eq(dbvfs_wal_write(env.vfs, seg), 0);
	ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_TRUNCATE), SQLITE_OK);
	ck_assert_int_eq(dbvfs_wal_write(env.vfs, seg), 0);
	dbvfs_wal_done(env.vfs, seg);
	crash(&env, &after);
	ck_assert_uint_eq(dbvfs_wal_end_bytes(after.vfs), 0);
	ck_assert_int_eq(check_rows(after.db), 1);
	stop(&after);
}
END_TEST

// Transactions larger than the page cache write frames before their COMMIT, go back to them, and some are rolled back.
START_TEST(spilled_transactions)
{
	struct env env, after;

	start_fresh(&env);
	sql(env.db, "PRAGMA cache_size = 12; PRAGMA cache_spill = 12");
	for (int round = 0; round < 4; round++) {
		sql(env.db, "BEGIN; CREATE TABLE big(i INTEGER PRIMARY KEY, d)");
		for (int again = 0; again < 3; again++) {
			sql(env.db, "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 120)"
			            "INSERT OR REPLACE INTO big SELECT n, randomblob(1500) FROM c");
			if (again == round) // frames without their COMMIT, with checksums that will be rewritten
				ck_assert_int_eq(make_durable(&env), 0);
		}
		sql(env.db, round % 2 == 0 ? "ROLLBACK" : "DROP TABLE big; COMMIT");
		commit_row(&env, round + 1);
		assert_integrity(env.db);
		if (round == 1)
			ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK);
	}
	ck_assert_int_eq(make_durable(&env), 0);
	crash(&env, &after);
	ck_assert_int_eq(check_rows(after.db), 4);
	assert_integrity(after.db);
	stop(&after);
}
END_TEST

// ---- every crash state ----

struct keep {
	enum { KEEP_ALL, KEEP_NOT_FIRST, KEEP_LAST_HALF, KEEP_RANDOM, KEEP_N } how;
	unsigned seed;
	bool full; // the volume has no room to go on in without an allocator
};

static bool keep_some(void *ctx, size_t entry, uint64_t *from, uint64_t *to)
{
	struct keep *keep = ctx;
	uint64_t n = *to - *from;

	switch (keep->how) {
	case KEEP_NOT_FIRST: // every write without its first sector: a log without its header, among others
		*from += 1;
		return *from < *to;
	case KEEP_LAST_HALF: // every second write, and of that the second half
		*from += n / 2;
		return entry % 2 == 0;
	case KEEP_RANDOM:
		if (rand_r(&keep->seed) % 3 == 0)
			return false;
		*from += (uint64_t)rand_r(&keep->seed) % (n + 1);
		*to -= (uint64_t)rand_r(&keep->seed) % (*to - *from + 1);
		return *from < *to;
	default:
		return true;
	}
}

static void check_crash_state(struct bdev *dev, size_t n, struct keep *keep, int durable, int committed)
{
	struct bdev *state;
	struct env env;
	int rows;

	ck_assert_int_eq(testdev_crash_state(dev, n, keep->how == KEEP_ALL ? NULL : keep_some, keep, &state), 0);
	reopen(&env, state);
	assert_integrity(env.db);
	rows = check_rows(env.db);
	ck_assert_msg(rows >= durable && rows <= committed, "crash after entry %zu, way %d: %d commits, %d were durable of %d",
	              n, (int)keep->how, rows, durable, committed);
	if (n % 5 == 0 && !keep->full) { // life goes on
		commit_row(&env, rows + 1);
		ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK);
		commit_row(&env, rows + 2);
		ck_assert_int_eq(check_rows(env.db), rows + 2);
	}
	abandon(&env);
}

#define CRASH_COMMITS 60
#define CRASH_MAX_ENTRIES 4000

START_TEST(every_crash_state)
{
	static int durable_at[CRASH_MAX_ENTRIES + 1]; // commits that were durable when the log had this many entries
	struct keep keep = { .seed = (unsigned)time(NULL) };
	struct env env;
	size_t n_log = 0, at = 0;

	printf("every_crash_state: seed %u\n", keep.seed);
	start_fresh(&env);
	testdev_record(env.dev, true);
	for (int i = 1; i <= CRASH_COMMITS; i++) {
		commit_row(&env, i);
		if (i % 3 == 0) {
			ck_assert_int_eq(make_durable(&env), 0);
			n_log = testdev_log_len(env.dev);
			ck_assert_uint_lt(n_log, CRASH_MAX_ENTRIES);
			while (at < n_log)
				durable_at[at++] = i - 3;
			durable_at[n_log] = i;
		}
		if (i % 12 == 10)
			ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK);
	}
	for (size_t n = 0; n <= n_log; n++)
		for (int how = 0; how < KEEP_N; how++) {
			keep.how = how;
			check_crash_state(env.dev, n, &keep, durable_at[n], CRASH_COMMITS);
		}
	abandon(&env);
}
END_TEST

// W4. The old log ends with many versions of one page; a new header that is not on the device while new frames are would
// let recovery take the old beginning for the whole.
START_TEST(new_log_header_goes_first)
{
	struct keep keep = { .how = KEEP_NOT_FIRST };
	struct env env;
	size_t before;

	start_fresh(&env);
	for (int i = 1; i <= 12; i++)
		commit_row(&env, i);
	ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK);
	testdev_record(env.dev, true);
	before = testdev_log_len(env.dev);
	for (int i = 13; i <= 16; i++)
		commit_row(&env, i);
	ck_assert_int_eq(make_durable(&env), 0);
	ck_assert_uint_gt(testdev_log_len(env.dev), before + 2);
	for (size_t n = before; n < testdev_log_len(env.dev); n++)
		for (unsigned seed = 0; seed < 20; seed++) {
			keep.how = seed == 0 ? KEEP_NOT_FIRST : KEEP_RANDOM;
			keep.seed = seed;
			check_crash_state(env.dev, n, &keep, 12, 16);
		}
	abandon(&env);
}
END_TEST

// A log that was written but not flushed by a process that died: recovery believes it, so it must be made durable before a
// checkpoint copies from it.
START_TEST(recovered_log_is_flushed_before_use)
{
	struct env env, after;
	struct wal_segment *seg;
	struct superblock sb;

	start_fresh(&env);
	ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK); // no older frames to hide what is lost
	testdev_record(env.dev, true);
	for (int i = 1; i <= 8; i++)
		commit_row(&env, i);
	seg = dbvfs_wal_seal(env.vfs);
	ck_assert_int_eq(dbvfs_wal_write(env.vfs, seg), 0);
	dbvfs_wal_done(env.vfs, seg);
	sb = env.files.sb;
	leave_log_on_close(&env);
	stop_all(&env);
	start(&after, env.dev, &sb, false); // the same device: killed, not unplugged
	ck_assert_int_eq(check_rows(after.db), 8);
	ck_assert_int_eq(checkpoint(&after, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK);
	for (size_t n = 0; n <= testdev_log_len(after.dev); n++)
		for (unsigned seed = 0; seed < 10; seed++)
			check_crash_state(after.dev, n, &(struct keep){ .how = KEEP_RANDOM, .seed = seed }, 0, 8);
	abandon(&after);
}
END_TEST

// ---- growth ----

// Both files begin small and grow under the workload; at every moment of it the power may go.
START_TEST(files_grow)
{
	struct keep keep = { .how = KEEP_RANDOM, .seed = (unsigned)time(NULL), .full = true };
	struct sysfile_alloc_source source;
	struct env env, after;
	struct bdev *dev;

	printf("files_grow: seed %u\n", keep.seed);
	ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
	start_fresh_sized(&env, dev, 16, 16);
	env.files.alloc = sysfile_alloc_create(&source, &env.files);
	testdev_record(dev, true);
	for (int i = 1; i <= 60; i++) {
		commit_row(&env, i);
		if (i % 10 == 5)
			ck_assert_int_eq(make_durable(&env), 0);
		if (i % 25 == 0)
			ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK);
	}
	ck_assert_int_eq(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK);
	ck_assert_uint_gt(sysfile_capacity_bytes(&env.files, SYSFILE_DB), 16 * BLK_SIZE);
	ck_assert_uint_gt(sysfile_capacity_bytes(&env.files, SYSFILE_WAL), 16 * BLK_SIZE);
	ck_assert_int_eq(alloc_check(env.files.alloc, NULL), 0);
	for (size_t n = 0; n <= testdev_log_len(dev); n++)
		check_crash_state(dev, n, &keep, 0, 60);
	ck_assert_int_eq(testdev_clone(dev, &dev), 0);
	alloc_destroy(env.files.alloc);
	env.files.alloc = NULL;
	abandon(&env);
	reopen(&after, dev);
	ck_assert_int_eq(check_rows(after.db), 60);
	assert_integrity(after.db);
	stop(&after);
}
END_TEST

// ---- reading only ----

START_TEST(read_only_recovery_writes_nothing)
{
	struct bdev *copy;
	struct env env;

	start_fresh(&env);
	for (int i = 1; i <= 9; i++)
		commit_row(&env, i);
	ck_assert_int_eq(make_durable(&env), 0);
	ck_assert_int_eq(testdev_clone(env.dev, &copy), 0);
	abandon(&env);

	copy->read_only = true;
	testdev_record(copy, true);
	reopen(&env, copy);
	ck_assert_int_eq(check_rows(env.db), 9);
	assert_integrity(env.db);
	ck_assert_int_eq(try_sql(env.db, "UPDATE total SET n = 77"), SQLITE_READONLY);
	ck_assert_int_ne(checkpoint(&env, SQLITE_CHECKPOINT_PASSIVE), SQLITE_OK);
	ck_assert_int_eq(check_rows(env.db), 9);
	stop_all(&env); // with SQLite's attempt to checkpoint
	ck_assert_uint_eq(testdev_log_len(copy), 0);
	ck_assert_uint_eq(atomic_load(&copy->n_writes) + atomic_load(&copy->n_flushes), 0);
	reopen(&env, copy);
	ck_assert_int_eq(check_rows(env.db), 9);
	stop(&env);
}
END_TEST

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

static Suite *dbvfs_suite(void)
{
	const struct {
		const char *name;
		const TTest *tests[12]; // up to the first NULL
	} cases[] = {
		{ "commit", { commit_needs_write_to_survive, sealed_segments_serve_reads, checkpoint_then_log_begins_again,
		              recovered_end_is_exact, clean_close_leaves_no_log, fresh_ignores_an_old_log,
		              dead_segment_is_not_written, spilled_transactions } },
		{ "crash", { every_crash_state, new_log_header_goes_first, recovered_log_is_flushed_before_use } },
		{ "growth", { files_grow } },
		{ "read-only", { read_only_recovery_writes_nothing } },
		{ "errors", { device_errors_are_told, full_device, other_files_are_refused, truncated_device_is_corruption,
		              damaged_pages_are_corruption } },
		{ "connections", { readers_keep_their_snapshot, threads_write_checkpoint_and_read } },
	};
	Suite *suite = suite_create("dbvfs");

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		TCase *tc = tcase_create(cases[i].name);

		tcase_set_timeout(tc, 120);
		for (size_t t = 0; t < ARRAY_LEN(cases[i].tests) && cases[i].tests[t] != NULL; t++)
			tcase_add_test(tc, cases[i].tests[t]);
		suite_add_tcase(suite, tc);
	}
	return suite;
}

int main(void)
{
	SRunner *runner = srunner_create(dbvfs_suite());
	int failed;

	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
