// SPDX-License-Identifier: MIT
// SQLite on the VFS inside the device: commits, checkpoints, growth, and what is left after a crash.
//
// Every crash test holds the reopened database against one contract: `PRAGMA integrity_check` says ok, and the rows are
// those of a whole number of commits, not fewer than were durable when the power went.
#include "dbvfstest.h"

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

int main(void)
{
	const struct dbvfs_case cases[] = {
		{ "commit", { commit_needs_write_to_survive, sealed_segments_serve_reads, checkpoint_then_log_begins_again,
		              recovered_end_is_exact, clean_close_leaves_no_log, fresh_ignores_an_old_log,
		              dead_segment_is_not_written, spilled_transactions } },
		{ "crash", { every_crash_state, new_log_header_goes_first, recovered_log_is_flushed_before_use } },
		{ "growth", { files_grow } },
		{ "read-only", { read_only_recovery_writes_nothing } },
	};

	return run_cases("dbvfs", cases, ARRAY_LEN(cases));
}
