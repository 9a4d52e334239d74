// SPDX-License-Identifier: MIT
// fs/: how long things live: orphans and interrupted truncates, what fsync promises, a device that fails or may only be
// read; and many threads that make and delete files in one directory.
#include <pthread.h>
#include <stdio.h>

#include "fs/fs_internal.h"
#include "fstest.h"

static struct ft t;

// ---- orphans ----

static int64_t count_rows(const char *table)
{
	char sql[64];

	snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s", table);
	return ft_locked_sql(&t, sql);
}

static void wait_for_no_orphans(void)
{
	for (int i = 0; count_rows("orphan") > 0; i++) {
		ck_assert_int_lt(i, 2000);
		usleep(5000);
	}
}

START_TEST(unlinked_open_file_lives_until_forgotten)
{
	char buf[10000];
	uint64_t ino, free_before;

	ft_new(&t, 64 * MIB);
	free_before = ft_avail(&t);
	memset(buf, 'o', sizeof(buf));
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, buf, sizeof(buf), 0);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, "user.a", "b", 1, 0), 0);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), 0);
	ft_expect(&t, ino, buf, sizeof(buf));
	ft_write(&t, ino, buf, 5, 0);
	ck_assert_int_eq(ft_truncate(&t, ino, 9999), 0);
	ck_assert_int_eq(count_rows("orphan"), 1);
	fs_forget(t.fs, ino, 1);
	wait_for_no_orphans();
	ck_assert_int_eq(count_rows("inode"), 1);
	ck_assert_int_eq(count_rows("xattr"), 0);
	ck_assert_int_eq(count_rows("extent"), 0);
	ft_check(&t);
	ck_assert_uint_eq(ft_avail(&t), free_before);
	ft_end(&t);
}
END_TEST

START_TEST(orphans_end_with_a_crash)
{
	char buf[10000] = { 1 };
	uint64_t ino, ino2;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ino2 = ft_create(&t, ROOT_INO, "g");
	ft_write(&t, ino, buf, sizeof(buf), 0);
	ft_write(&t, ino2, buf, sizeof(buf), 0);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), 0);
	ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, "g", ROOT_INO, "h", 0), 0);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ck_assert_int_eq(count_rows("orphan"), 1);
	ft_crash(&t);
	wait_for_no_orphans();
	ck_assert_int_eq(count_rows("inode"), 2);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "h", &ino), 0);
	ft_expect(&t, ino, buf, sizeof(buf));
	ft_end(&t);
}
END_TEST

// At unmount what is still referenced goes as well.
START_TEST(unmount_deletes_referenced_orphans)
{
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, "abc", 3, 100000);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), 0);
	ft_unmount(&t);
	ft_mount(&t, t.dev);
	ck_assert_int_eq(count_rows("inode"), 1);
	ck_assert_int_eq(count_rows("orphan"), 0);
	ft_end(&t);
}
END_TEST

static uint64_t make_tmpfile(uint64_t dir)
{
	struct fs_entry e;

	ck_assert_int_eq(fs_tmpfile(t.fs, dir, 0640, &ft_cred, &e), 0);
	ck_assert(e.st.st_nlink == 0 && e.st.st_mode == (S_IFREG | 0640) && e.st.st_uid == 1000);
	return e.ino;
}

// Made without a name: gets one, and another, and then goes as any file does; it cannot come back.
START_TEST(tmpfile_gets_names)
{
	char buf[10000];
	uint64_t dir, there, ino, got, free_before;
	struct fs_entry e;

	ft_new(&t, 64 * MIB);
	free_before = ft_avail(&t);
	memset(buf, 't', sizeof(buf));
	dir = ft_mkdir(&t, ROOT_INO, "d");
	ino = make_tmpfile(dir);
	ft_write(&t, ino, buf, sizeof(buf), 0);
	ck_assert_int_eq(ft_lookup(&t, ino, ".", NULL), -ENOENT);
	ck_assert_uint_eq(ft_stat(&t, dir).st_size, 0);
	ck_assert_int_eq(count_rows("orphan"), 1);
	ft_check(&t);
	there = ft_create(&t, dir, "there");
	ck_assert_int_eq(fs_link(t.fs, ino, dir, "there", &e), -EEXIST);
	ck_assert_int_eq(fs_link(t.fs, ino, dir, "one", &e), 0);
	ck_assert_uint_eq(e.st.st_nlink, 1);
	ck_assert_int_eq(count_rows("orphan"), 0);
	ck_assert_int_eq(fs_link(t.fs, ino, ROOT_INO, "two", &e), 0);
	ck_assert_uint_eq(e.st.st_nlink, 2);
	ck_assert_int_eq(ft_lookup(&t, dir, "one", &got), 0);
	ck_assert_uint_eq(got, ino);
	fs_forget(t.fs, ino, 4); // a file with names does not go with its last reference
	ft_check(&t);
	ck_assert_int_eq(ft_lookup(&t, dir, "one", &got), 0);
	ft_expect(&t, ino, buf, sizeof(buf));
	ck_assert_int_eq(fs_unlink(t.fs, dir, "one"), 0);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "two"), 0);
	ck_assert_int_eq(fs_link(t.fs, ino, dir, "three", &e), -ENOENT);
	ck_assert_int_eq(fs_unlink(t.fs, dir, "there"), 0);
	ck_assert_int_eq(fs_rmdir(t.fs, ROOT_INO, "d"), 0);
	ck_assert_int_eq(fs_tmpfile(t.fs, dir, 0600, &ft_cred, &e), -ENOENT); // in a directory that is gone
	ck_assert_int_eq(fs_tmpfile(t.fs, ino, 0600, &ft_cred, &e), -ENOTDIR);
	ck_assert_int_eq(ft_stat(&t, ino).st_nlink, 0);
	fs_forget(t.fs, ino, 1);
	fs_forget(t.fs, there, 1);
	fs_forget(t.fs, dir, 1);
	wait_for_no_orphans();
	ft_check(&t);
	ck_assert_uint_eq(ft_avail(&t), free_before);
	ft_end(&t);
}
END_TEST

// Without a name it goes with its last reference, or with a crash. What had a name by then stays.
START_TEST(tmpfile_without_a_name_goes)
{
	char buf[10000] = { 1 };
	struct fs_entry e;
	uint64_t ino, named;

	ft_new(&t, 64 * MIB);
	ino = make_tmpfile(ROOT_INO);
	ft_write(&t, ino, buf, sizeof(buf), 0);
	fs_forget(t.fs, ino, 1);
	wait_for_no_orphans();
	ck_assert_int_eq(count_rows("inode"), 1);
	ck_assert_int_eq(count_rows("extent"), 0);
	ino = make_tmpfile(ROOT_INO);
	named = make_tmpfile(ROOT_INO);
	ft_write(&t, ino, buf, sizeof(buf), 0);
	ft_write(&t, named, buf, sizeof(buf), 0);
	ck_assert_int_eq(fs_link(t.fs, named, ROOT_INO, "n", &e), 0);
	ck_assert_int_eq(fs_fsync(t.fs, named), 0);
	ft_crash(&t);
	wait_for_no_orphans();
	ck_assert_int_eq(count_rows("inode"), 2);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "n", &named), 0);
	ft_expect(&t, named, buf, sizeof(buf));
	ft_end(&t);
}
END_TEST

static void write_every_other_block(uint64_t ino, unsigned n)
{
	char buf[BLK_SIZE];

	memset(buf, 'e', sizeof(buf));
	for (unsigned i = 0; i < n; i++)
		ft_write(&t, ino, buf, sizeof(buf), 2ull * i * BLK_SIZE);
}

// A truncate of more extents than one handle takes, interrupted by a crash after any of its pieces: what is left must not show
// when the file grows again at once.
START_TEST(interrupted_truncate_is_finished)
{
	enum { N = 1500 };
	char *zeros = calloc(N, 2 * BLK_SIZE);
	uint64_t ino;
	char sql[128];

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	write_every_other_block(ino, N);
	// What the first handle of such a truncate leaves: the size, and the orphan row.
	snprintf(sql, sizeof(sql), "UPDATE inode SET size = 0 WHERE ino = %d RETURNING 1", (int)ino);
	store_lock(t.vol->store);
	ck_assert_int_eq(ft_sql(&t, sql), 1);
	snprintf(sql, sizeof(sql), "INSERT INTO orphan VALUES(%d) RETURNING 1", (int)ino);
	ck_assert_int_eq(ft_sql(&t, sql), 1);
	store_unlock(t.vol->store);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ft_crash(&t);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "f", &ino), 0);
	ck_assert_int_eq(ft_truncate(&t, ino, N * 2 * BLK_SIZE), 0);
	ft_expect(&t, ino, zeros, N * 2 * BLK_SIZE);
	wait_for_no_orphans();
	ck_assert_int_eq(ft_stat(&t, ino).st_blocks, 0);
	free(zeros);
	ft_end(&t);
}
END_TEST

// What stands in the orphan table and could not be done: the next change of that file has to do it, or its old tail would be seen.
START_TEST(what_the_reaper_cannot_do_is_not_forgotten)
{
	char sql[128];
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "damaged");
	snprintf(sql, sizeof(sql), "UPDATE inode SET mode = 0 WHERE ino = %llu; INSERT INTO orphan VALUES(%llu)", (unsigned long long)ino,
	         (unsigned long long)ino);
	store_lock(t.vol->store);
	ck_assert_int_eq(sqlite3_exec(store_db(t.vol->store), sql, NULL, NULL, NULL), SQLITE_OK);
	store_unlock(t.vol->store);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ft_crash(&t);
	reaper_drain(t.fs);
	ck_assert(atomic_load(&t.fs->check_orphans));
	ft_unmount(&t);
	bdev_close(t.dev);
}
END_TEST

// The same of a file without a name, whose tail was not freed because something has failed: it is not forgotten with the first name.
START_TEST(tail_of_a_tmpfile_goes_before_its_name_comes)
{
	enum { N = 3 };
	char zeros[N * 2 * BLK_SIZE] = { 0 }, sql[128];
	struct fs_entry e;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = make_tmpfile(ROOT_INO);
	write_every_other_block(ino, N);
	snprintf(sql, sizeof(sql), "UPDATE inode SET size = 0 WHERE ino = %d RETURNING 1", (int)ino);
	ck_assert_int_eq(ft_locked_sql(&t, sql), 1);
	atomic_store(&t.fs->check_orphans, true); // as fs_trim_tail() leaves it
	ck_assert_int_eq(fs_link(t.fs, ino, ROOT_INO, "f", &e), 0);
	ck_assert_int_eq(ft_truncate(&t, ino, sizeof(zeros)), 0);
	ft_expect(&t, ino, zeros, sizeof(zeros));
	ft_end(&t);
}
END_TEST

// Its reply has the count of blocks after the last piece: the kernel does not ask again.
START_TEST(long_truncate_tells_the_blocks)
{
	struct fs_setattr attr = { .set = FS_SET_SIZE, .size_bytes = 10 * BLK_SIZE };
	struct stat st;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	write_every_other_block(ino, 1500);
	ck_assert_int_eq(fs_setattr(t.fs, ino, &attr, &st), 0);
	ck_assert_int_eq(st.st_size, 10 * BLK_SIZE);
	ck_assert_int_eq(st.st_blocks, 5 * BLK_SIZE / 512);
	ck_assert_int_eq(st.st_blocks, ft_stat(&t, ino).st_blocks);
	ft_end(&t);
}
END_TEST

// The same truncate of a file that has no name any more but is in use: it must go on living.
START_TEST(long_truncate_of_an_unlinked_file)
{
	struct stat st;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	write_every_other_block(ino, 1500);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), 0);
	ck_assert_int_eq(ft_truncate(&t, ino, 0), 0);
	ck_assert_int_eq(fs_getattr(t.fs, ino, &st), 0);
	ck_assert_int_eq(st.st_blocks, 0);
	ft_write(&t, ino, "still here", 10, 0);
	ft_expect(&t, ino, "still here", 10);
	ft_end(&t);
}
END_TEST

// ---- durability ----

START_TEST(fsync_is_durable)
{
	struct bdev *after;
	struct ft crashed;
	uint64_t dir, ino, clean, got;
	struct txn_stats a, b;

	ft_new(&t, 64 * MIB);
	dir = ft_mkdir(&t, ROOT_INO, "d");
	ino = ft_create(&t, dir, "f");
	clean = ft_create(&t, dir, "clean");
	ft_write(&t, ino, "durable", 7, 5000);
	testdev_record(t.dev, true);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	ft_write(&t, ino, "not yet", 7, 5000);
	// Everything after the last flush is lost.
	ck_assert_int_eq(testdev_crash_state(t.dev, testdev_log_len(t.dev), NULL, NULL, &after), 0);
	ft_mount(&crashed, after);
	ck_assert_int_eq(ft_lookup(&crashed, ROOT_INO, "d", &got), 0);
	ck_assert_int_eq(ft_lookup(&crashed, got, "f", &got), 0);
	ck_assert_int_eq(ft_stat(&crashed, got).st_size, 5007);
	ft_end(&crashed);
	// A file that is clean costs nothing, whatever else is dirty.
	txn_get_stats(t.vol, &a);
	ck_assert_int_eq(fs_fsync(t.fs, clean), 0);
	txn_get_stats(t.vol, &b);
	ck_assert_uint_eq(a.commits, b.commits);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	txn_get_stats(t.vol, &b);
	ck_assert_uint_eq(a.commits + 1, b.commits);
	testdev_record(t.dev, false);
	ft_end(&t);
}
END_TEST

static bool lose_all(void *ctx, size_t entry, uint64_t *from, uint64_t *to)
{
	(void)ctx, (void)entry, (void)from, (void)to;
	return false;
}

START_TEST(fsync_of_a_directory)
{
	struct bdev *after;
	struct ft crashed;
	uint64_t dir;

	ft_new(&t, 64 * MIB);
	dir = ft_mkdir(&t, ROOT_INO, "d");
	ft_create(&t, dir, "a");
	ck_assert_int_eq(fs_sync(t.fs), 0);
	testdev_record(t.dev, true);
	ck_assert_int_eq(fs_rename(t.fs, dir, "a", dir, "b", 0), 0);
	ck_assert_int_eq(fs_fsync(t.fs, dir), 0);
	ft_create(&t, dir, "c");
	ck_assert_int_eq(testdev_crash_state(t.dev, testdev_log_len(t.dev), lose_all, NULL, &after), 0);
	ft_mount(&crashed, after);
	ck_assert_int_eq(ft_lookup(&crashed, ROOT_INO, "d", &dir), 0);
	ck_assert_int_eq(ft_lookup(&crashed, dir, "a", NULL), -ENOENT);
	ck_assert_int_eq(ft_lookup(&crashed, dir, "b", NULL), 0);
	ck_assert_int_eq(ft_lookup(&crashed, dir, "c", NULL), -ENOENT);
	ft_end(&crashed);
	testdev_record(t.dev, false);
	ft_end(&t);
}
END_TEST

// An inode that was forgotten after its change and found again still has to be made durable.
START_TEST(fsync_after_forget)
{
	struct txn_stats a, b;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, "abc", 3, 0);
	fs_forget(t.fs, ino, 1);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "f", &ino), 0);
	txn_get_stats(t.vol, &a);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	txn_get_stats(t.vol, &b);
	ck_assert_uint_eq(a.commits + 1, b.commits);
	ft_end(&t);
}
END_TEST

START_TEST(failed_device_makes_read_only)
{
	struct fs_entry e;
	uint64_t ino;
	size_t done;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, "good", 4, 0);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ft_write(&t, ino, "lost", 4, 0);
	testdev_fail(t.dev, TESTDEV_FLUSH, 1, EIO, false);
	ck_assert_int_ne(fs_fsync(t.fs, ino), 0);
	ck_assert_int_eq(fs_mknod(t.fs, ROOT_INO, "x", S_IFREG, 0, &ft_cred, &e), -EROFS);
	ck_assert_int_eq(fs_write(t.fs, ino, "x", 1, 0, 0, &done), -EROFS);
	ck_assert_int_ne(fs_fsync(t.fs, ino), 0);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "f", NULL), 0);
	ft_crash(&t);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "f", &ino), 0);
	ck_assert_int_eq(ft_stat(&t, ino).st_size, 4);
	ft_end(&t);
}
END_TEST

static void count_inode(void *ctx, uint64_t ino) { *(uint64_t *)ctx += ino != 0; }

// As after a power cut: what was durable, and with `commit` what was done before, is there after a mount, and nothing else works until then.
START_TEST(shut_down)
{
	bool commit = _i == 1;
	struct bdev *after;
	struct fs_entry e;
	struct statvfs vfs;
	uint64_t ino, n = 0, writes;
	size_t done;
	char buf[8];

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, "durable", 7, 0);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ft_write(&t, ino, "written", 7, 0);
	ft_mkdir(&t, ROOT_INO, "d");
	ck_assert_int_eq(fs_for_each_referenced(t.fs, count_inode, &n), 0);
	ck_assert_uint_ge(n, 3);
	ck_assert_int_eq(volume_shut_down(t.vol, commit), 0);
	ck_assert_int_eq(volume_shut_down(t.vol, commit), commit ? -EIO : 0); // nothing can be made durable any more
	writes = testdev_count(t.dev, TESTDEV_WRITE);

	ck_assert_int_eq(fs_lookup(t.fs, ROOT_INO, "f", &e), -EIO);
	ck_assert_int_eq(fs_mknod(t.fs, ROOT_INO, "x", S_IFREG, 0, &ft_cred, &e), -EIO);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), -EIO);
	ck_assert_int_eq(fs_read(t.fs, ino, buf, sizeof(buf), 0, &done), -EIO);
	ck_assert_int_eq(fs_write(t.fs, ino, "x", 1, 0, 0, &done), -EIO);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, 0, 0, MIB), -EIO);
	ck_assert_int_eq(fs_fsync(t.fs, ino), -EIO);
	ck_assert_int_eq(fs_sync(t.fs), -EIO);
	ck_assert_int_eq(fs_trim(t.fs, &(struct fs_trim){ .len_bytes = UINT64_MAX }), -EIO);
	ck_assert_int_eq(fs_statfs(t.fs, &vfs), 0); // counters in memory: df and umount go on

	ft_unmount(&t);
	ck_assert_uint_eq(testdev_count(t.dev, TESTDEV_WRITE), writes);
	ck_assert_int_eq(testdev_clone(t.dev, &after), 0); // the old one refuses writes
	bdev_close(t.dev);
	ft_mount(&t, after);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "f", &ino), 0);
	ck_assert_int_eq(fs_read(t.fs, ino, buf, sizeof(buf), 0, &done), 0);
	ck_assert_mem_eq(buf, commit ? "written" : "durable", 7);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "d", NULL), commit ? 0 : -ENOENT);
	ft_end(&t);
}
END_TEST

// A file that is made and deleted at once must not take the content of another one along, whatever the volume says of free numbers.
START_TEST(a_number_that_is_taken_is_not_given_out)
{
	uint64_t ino, other;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, "hello", 5, 0);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	atomic_store(&t.vol->next_ino, ino);
	ft_write(&t, ino, "there", 5, 0);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ft_crash(&t);
	other = ft_create(&t, ROOT_INO, "g");
	ck_assert_uint_gt(other, ino);
	ft_write(&t, other, "other", 5, 0);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "g"), 0);
	fs_forget(t.fs, other, 1);
	reaper_drain(t.fs);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ft_crash(&t);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "f", &ino), 0);
	ft_expect(&t, ino, "there", 5);
	ft_end(&t);
}
END_TEST

START_TEST(read_only_volume)
{
	struct fs_opts opts = { .atime = FS_STRICTATIME };
	struct fs_setattr attr = { .set = FS_SET_MODE, .mode = 0 };
	struct fs_entry e;
	struct stat st;
	uint64_t ino;
	size_t done;
	char buf[4];

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, "abcd", 4, 0);
	ft_unmount(&t);
	t.vol = vt_open_flags(t.dev, VOLUME_READ_ONLY);
	ck_assert_int_eq(fs_create_context(t.vol, &opts, &t.fs), 0);
	ck_assert_int_eq(fs_lookup(t.fs, ROOT_INO, "f", &e), 0);
	ck_assert_int_eq(fs_read(t.fs, e.ino, buf, 4, 0, &done), 0);
	ck_assert_mem_eq(buf, "abcd", 4);
	ck_assert_int_eq(fs_write(t.fs, e.ino, "x", 1, 0, 0, &done), -EROFS);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), -EROFS);
	ck_assert_int_eq(fs_setattr(t.fs, e.ino, &attr, &st), -EROFS);
	ck_assert_int_eq(ft_truncate(&t, e.ino, 0), -EROFS);
	ck_assert_int_eq(fs_fallocate(t.fs, e.ino, 0, 0, 10000), -EROFS);
	ck_assert_int_eq(fs_mkdir(t.fs, ROOT_INO, "d", 0755, &ft_cred, &e), -EROFS);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	fs_forget(t.fs, e.ino, 1);
	ft_unmount(&t);
	bdev_close(t.dev);
}
END_TEST

// ---- many threads ----

struct worker {
	pthread_t thread;
	unsigned id, seed;
};

// Each thread makes, fills, renames, links and deletes in one directory that all share, under names of its own.
static void *work(void *arg)
{
	struct worker *w = arg;
	char name[2][32], buf[9000], got[9000];
	struct fs_entry e;
	size_t done;

	for (unsigned i = 0; i < 150; i++) {
		size_t len = vt_rand(&w->seed) % sizeof(buf) + 1;
		uint64_t ino;

		snprintf(name[0], sizeof(name[0]), "t%u-%u", w->id, i);
		snprintf(name[1], sizeof(name[1]), "r%u-%u", w->id, i);
		memset(buf, (int)(w->id * 16 + i % 16), sizeof(buf));
		ino = ft_create(&t, ROOT_INO, name[0]);
		ft_write(&t, ino, buf, len, 0);
		ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, name[0], ROOT_INO, name[1], 0), 0);
		ck_assert_int_eq(fs_link(t.fs, ino, ROOT_INO, name[0], &e), 0);
		if (i % 20 == 0)
			ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
		ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, name[1]), 0);
		ck_assert_int_eq(fs_read(t.fs, ino, got, sizeof(got), 0, &done), 0);
		ck_assert_uint_eq(done, len);
		ck_assert_mem_eq(got, buf, len);
		if (i % 3 != 0)
			ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, name[0]), 0);
		fs_forget(t.fs, ino, 2);
	}
	return NULL;
}

START_TEST(threads)
{
	struct worker workers[6];

	ft_new(&t, 64 * MIB);
	for (unsigned i = 0; i < ARRAY_LEN(workers); i++) {
		workers[i] = (struct worker){ .id = i, .seed = i + 1 };
		ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < ARRAY_LEN(workers); i++)
		pthread_join(workers[i].thread, NULL);
	ck_assert_int_eq(ft_stat(&t, ROOT_INO).st_size, 6 * 50);
	wait_for_no_orphans();
	ft_end(&t);
}
END_TEST

struct namer {
	pthread_t thread;
	uint64_t ino;
	unsigned id;
	bool named; // out
};

// Writes, truncates and names a file that others are naming, too, and takes the name away again if the number is odd.
static void *name_nameless(void *arg)
{
	struct namer *n = arg;
	char name[16], buf[3 * BLK_SIZE];
	struct fs_entry e;

	memset(buf, (int)n->id + 1, sizeof(buf));
	snprintf(name, sizeof(name), "n%u", n->id);
	ft_write(&t, n->ino, buf, sizeof(buf), n->id * sizeof(buf));
	(void)ft_truncate(&t, n->ino, sizeof(buf));
	n->named = fs_link(t.fs, n->ino, ROOT_INO, name, &e) == 0; // not, if another has taken the last name by then
	if (n->named && n->id % 2 == 1)
		ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, name), 0);
	return NULL;
}

// However first names, writes and deletions meet: the links are as many as the names, and what has none goes.
START_TEST(tmpfile_is_named_by_many)
{
	struct namer namers[4];

	ft_new(&t, 64 * MIB);
	for (unsigned round = 0; round < 60; round++) {
		uint64_t ino = make_tmpfile(ROOT_INO);
		unsigned n = 0, links = 0;

		for (unsigned i = 0; i < ARRAY_LEN(namers); i++) {
			namers[i] = (struct namer){ .id = i, .ino = ino };
			ck_assert_int_eq(pthread_create(&namers[i].thread, NULL, name_nameless, &namers[i]), 0);
		}
		for (unsigned i = 0; i < ARRAY_LEN(namers); i++) {
			char name[16];

			pthread_join(namers[i].thread, NULL);
			snprintf(name, sizeof(name), "n%u", i);
			n += namers[i].named;
			links += namers[i].named && i % 2 == 0;
			ck_assert_int_eq(ft_lookup(&t, ROOT_INO, name, NULL), namers[i].named && i % 2 == 0 ? 0 : -ENOENT);
			if (namers[i].named && i % 2 == 0)
				ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, name), 0);
			if (i == ARRAY_LEN(namers) - 1)
				ck_assert_uint_eq(ft_stat(&t, ino).st_nlink, 0);
		}
		ck_assert_uint_ge(n, 1);
		fs_forget(t.fs, ino, 1 + n + links);
	}
	wait_for_no_orphans();
	ck_assert_int_eq(count_rows("inode"), 1);
	ft_end(&t);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("fs_life");
	TCase *tc = tcase_create("life and durability");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, unlinked_open_file_lives_until_forgotten);
	tcase_add_test(tc, orphans_end_with_a_crash);
	tcase_add_test(tc, unmount_deletes_referenced_orphans);
	tcase_add_test(tc, tmpfile_gets_names);
	tcase_add_test(tc, tmpfile_without_a_name_goes);
	tcase_add_test(tc, what_the_reaper_cannot_do_is_not_forgotten);
	tcase_add_test(tc, tail_of_a_tmpfile_goes_before_its_name_comes);
	tcase_add_test(tc, interrupted_truncate_is_finished);
	tcase_add_test(tc, long_truncate_tells_the_blocks);
	tcase_add_test(tc, long_truncate_of_an_unlinked_file);
	tcase_add_test(tc, fsync_is_durable);
	tcase_add_test(tc, fsync_of_a_directory);
	tcase_add_test(tc, fsync_after_forget);
	tcase_add_test(tc, failed_device_makes_read_only);
	tcase_add_loop_test(tc, shut_down, 0, 2);
	tcase_add_test(tc, a_number_that_is_taken_is_not_given_out);
	tcase_add_test(tc, read_only_volume);
	tcase_add_test(tc, threads);
	tcase_add_test(tc, tmpfile_is_named_by_many);
	suite_add_tcase(s, tc);
	return ft_main(s);
}
