// SPDX-License-Identifier: MIT
// Rows of inode that are remembered (meta/inode_cache.h, IC1–IC4): through rows.h, against the table and against a model.
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "meta/rows.h"
#include "run_suite.h"
#include "voltest.h"

#define VOLUME_BYTES (4ull << 30) // so large that no transaction is full
#define N_MODEL 9000u // more than there are places
#define FIRST_INO 100u

static struct volume *vol;

static void end_volume(int result)
{
	struct bdev *dev = vol->dev;

	ck_assert_int_eq(volume_close(vol), result);
	bdev_close(dev);
}

static void begin(void)
{
	uint64_t id;

	ck_assert_int_eq(txn_begin(vol, TXN_GROW, &id), 0);
	store_lock(vol->store);
}

static void end(void)
{
	store_unlock(vol->store);
	txn_end(vol);
}

static void commit(void) { ck_assert_int_eq(txn_commit(vol), 0); }

static uint64_t changes(void)
{
	uint64_t n;

	store_lock(vol->store);
	n = store_changes(vol->store);
	store_unlock(vol->store);
	return n;
}

static struct inode_row new_row(uint64_t ino) { return (struct inode_row){ .ino = ino, .mode = S_IFREG | 0644, .nlink = 1, .btime_ns = 5 }; }

static void insert(uint64_t ino)
{
	struct inode_row row = new_row(ino);

	begin();
	ck_assert_int_eq(inode_insert(vol->store, &row), 0);
	end();
}

static void set_size(uint64_t ino, uint64_t size)
{
	struct inode_row row;

	begin();
	ck_assert_int_eq(inode_get(vol->store, ino, &row), 0);
	row.size_bytes = size;
	row.btime_ns = 77; // is not taken over
	ck_assert_int_eq(inode_update(vol->store, &row), 0);
	end();
}

static void delete(uint64_t ino)
{
	begin();
	ck_assert_int_eq(inode_delete(vol->store, ino), 0);
	end();
}

static void expect_size(uint64_t ino, uint64_t size)
{
	struct inode_row row;

	store_lock(vol->store);
	ck_assert_int_eq(inode_get(vol->store, ino, &row), 0);
	store_unlock(vol->store);
	ck_assert_uint_eq(row.size_bytes, size);
	ck_assert_int_eq(row.btime_ns, 5);
}

static int64_t sql_number(const char *sql)
{
	sqlite3_stmt *stmt;
	int64_t value;

	store_lock(vol->store);
	ck_assert_int_eq(sqlite3_prepare_v2(store_db(vol->store), sql, -1, &stmt, NULL), SQLITE_OK);
	ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
	value = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	store_unlock(vol->store);
	return value;
}

// ---- what it saves ----

START_TEST(a_row_is_written_once_in_a_transaction)
{
	uint64_t before;

	vol = vt_open(vt_format(VOLUME_BYTES));
	insert(FIRST_INO);
	insert(FIRST_INO + 1);
	before = changes();
	for (unsigned i = 1; i <= 100; i++)
		set_size(FIRST_INO, i);
	ck_assert_uint_eq(changes(), before);
	expect_size(FIRST_INO, 100);
	ck_assert_int_eq(sql_number("SELECT sum(size) FROM inode WHERE ino >= 100"), 100);
	ck_assert_uint_eq(changes(), before + 2);
	end_volume(0);
}
END_TEST

START_TEST(what_dies_young_is_never_written)
{
	uint64_t before;

	vol = vt_open(vt_format(VOLUME_BYTES));
	commit();
	before = changes();
	for (unsigned i = 0; i < 100; i++) {
		insert(FIRST_INO + i);
		delete(FIRST_INO + i);
	}
	ck_assert_uint_eq(changes(), before);
	store_lock(vol->store);
	ck_assert_int_eq(store_n_inodes(vol->store), 1);
	store_unlock(vol->store);
	ck_assert_int_eq(sql_number("SELECT count(*) FROM inode"), 1);
	end_volume(0);
}
END_TEST

// IC4: a transaction of any size leaves little to do for its close.
START_TEST(most_is_written_before_the_close)
{
	uint64_t before;

	vol = vt_open(vt_format(VOLUME_BYTES));
	before = changes();
	begin(); // one handle: the transaction is not closed meanwhile
	for (unsigned i = 0; i < 5000; i++) {
		struct inode_row row = new_row(FIRST_INO + i);

		ck_assert_int_eq(inode_insert(vol->store, &row), 0);
	}
	end();
	ck_assert_uint_ge(changes(), before + 5000 - 1024);
	ck_assert_uint_lt(changes(), before + 5000);
	commit();
	ck_assert_int_eq(sql_number("SELECT count(*) FROM inode WHERE ino >= 100"), 5000);
	end_volume(0);
}
END_TEST

// ---- who looks past it ----

static int count_sizes(void *ctx, const struct dirent_row *row, const struct inode_row *inode)
{
	uint64_t *sum = ctx;

	ck_assert_uint_eq(row->ino, inode->ino);
	*sum += inode->size_bytes;
	return 0;
}

// The table is joined there: new rows are not in it yet, changed ones not as they are.
START_TEST(a_scan_sees_new_and_changed_rows)
{
	uint64_t sum = 0;
	char name[16];

	vol = vt_open(vt_format(VOLUME_BYTES));
	for (unsigned i = 0; i < 20; i++) {
		if (i == 10)
			commit();
		insert(FIRST_INO + i);
		snprintf(name, sizeof(name), "f%u", i);
		begin();
		ck_assert_int_eq(dirent_insert(vol->store, ROOT_INO, name, strlen(name), FIRST_INO + i, 8), 0);
		end();
		set_size(FIRST_INO + i, 1000);
	}
	for (unsigned i = 0; i < 10; i++)
		set_size(FIRST_INO + i, 1);
	begin();
	ck_assert_int_eq(dirent_insert(vol->store, ROOT_INO, "dangling", 8, 5000, 8), 0);
	ck_assert_int_eq(dirent_scan(vol->store, ROOT_INO, 0, true, count_sizes, &sum), 0);
	end();
	ck_assert_uint_eq(sum, 10 * 1 + 10 * 1000);
	begin();
	ck_assert_int_eq(sqlite3_exec(store_db(vol->store), "DELETE FROM dirent", NULL, NULL, NULL), SQLITE_OK);
	end();
	end_volume(0);
}
END_TEST

// Whoever has asked for the connection may have changed the table.
START_TEST(raw_changes_are_seen)
{
	vol = vt_open(vt_format(VOLUME_BYTES));
	insert(FIRST_INO);
	expect_size(FIRST_INO, 0);
	begin();
	ck_assert_int_eq(sqlite3_exec(store_db(vol->store), "UPDATE inode SET size = 9 WHERE ino = 100", NULL, NULL, NULL), SQLITE_OK);
	end();
	expect_size(FIRST_INO, 9);
	end_volume(0);
}
END_TEST

// ---- failures ----

// IC3: after a failed statement readers see the last commit.
START_TEST(a_failure_takes_everything_back)
{
	struct inode_row row;

	vol = vt_open(vt_format(VOLUME_BYTES));
	insert(FIRST_INO);
	commit();
	set_size(FIRST_INO, 5);
	insert(FIRST_INO + 1);
	begin();
	store_fail(vol->store, -EIO, "a test");
	end();
	expect_size(FIRST_INO, 0);
	store_lock(vol->store);
	ck_assert_int_eq(inode_get(vol->store, FIRST_INO + 1, &row), -ENOENT);
	row = new_row(FIRST_INO + 2);
	ck_assert_int_eq(inode_insert(vol->store, &row), -EROFS);
	row.ino = FIRST_INO;
	ck_assert_int_eq(inode_update(vol->store, &row), -EROFS);
	ck_assert_int_eq(inode_delete(vol->store, FIRST_INO), -EROFS);
	store_unlock(vol->store);
	expect_size(FIRST_INO, 0);
	end_volume(-EIO);
}
END_TEST

// A row that the table has already (a damaged volume) is found out, whether it is remembered or not.
START_TEST(a_number_that_is_taken_fails_the_store)
{
	struct inode_row known, row = new_row(ROOT_INO);

	vol = vt_open(vt_format(VOLUME_BYTES));
	begin();
	ck_assert_int_eq(inode_get(vol->store, ROOT_INO, &known), 0);
	ck_assert_int_ne(inode_insert(vol->store, &row), 0);
	ck_assert(store_has_failed(vol->store));
	end();
	end_volume(-EIO);
}
END_TEST

// What is remembered is not told any more, either.
START_TEST(nothing_is_read_after_a_shut_down)
{
	struct inode_row row;

	vol = vt_open(vt_format(VOLUME_BYTES));
	insert(FIRST_INO);
	expect_size(FIRST_INO, 0);
	ck_assert_int_eq(volume_shut_down(vol, false), 0);
	store_lock(vol->store);
	ck_assert_int_eq(inode_get(vol->store, FIRST_INO, &row), -EIO);
	ck_assert_int_eq(inode_get(vol->store, ROOT_INO, &row), -EIO);
	store_unlock(vol->store);
	end_volume(0);
}
END_TEST

// ---- a model ----

static uint64_t sizes[N_MODEL]; // + 1; 0 = no such inode

static void model_step(unsigned *seed)
{
	unsigned i = vt_rand(seed) % N_MODEL;

	if (sizes[i] == 0) {
		insert(FIRST_INO + i);
		sizes[i] = 1;
	} else if (vt_rand(seed) % 4 == 0) {
		delete(FIRST_INO + i);
		sizes[i] = 0;
	} else if (vt_rand(seed) % 2 == 0) {
		sizes[i] = 1 + vt_rand(seed) % 1000;
		set_size(FIRST_INO + i, sizes[i] - 1);
	} else {
		expect_size(FIRST_INO + i, sizes[i] - 1);
	}
}

static void compare_with_model(void)
{
	struct inode_row row;
	int64_t n = 0;

	for (unsigned i = 0; i < N_MODEL; i++) {
		n += sizes[i] != 0;
		store_lock(vol->store);
		if (sizes[i] == 0)
			ck_assert_int_eq(inode_get(vol->store, FIRST_INO + i, &row), -ENOENT);
		store_unlock(vol->store);
		if (sizes[i] != 0)
			expect_size(FIRST_INO + i, sizes[i] - 1);
	}
	ck_assert_int_eq(sql_number("SELECT count(*) FROM inode WHERE ino >= 100"), n);
}

START_TEST(random_changes_against_a_model)
{
	struct bdev *dev = vt_format(VOLUME_BYTES);
	unsigned seed = vt_seed(20261123);

	vol = vt_open(dev);
	for (unsigned round = 0; round < 6; round++) {
		for (unsigned i = 0; i < 10000; i++) {
			model_step(&seed);
			if (vt_rand(&seed) % 3000 == 0)
				commit();
		}
		if (round % 2 == 0)
			compare_with_model();
		ck_assert_int_eq(volume_close(vol), 0);
		vol = vt_open(dev);
		compare_with_model();
	}
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("inode_cache");
	TCase *tc = tcase_create("inode_cache");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, a_row_is_written_once_in_a_transaction);
	tcase_add_test(tc, what_dies_young_is_never_written);
	tcase_add_test(tc, most_is_written_before_the_close);
	tcase_add_test(tc, a_scan_sees_new_and_changed_rows);
	tcase_add_test(tc, raw_changes_are_seen);
	tcase_add_test(tc, a_failure_takes_everything_back);
	tcase_add_test(tc, a_number_that_is_taken_fails_the_store);
	tcase_add_test(tc, nothing_is_read_after_a_shut_down);
	tcase_add_test(tc, random_changes_against_a_model);
	suite_add_tcase(s, tc);
	return run_suite(s);
}
