// SPDX-License-Identifier: MIT
// Backing devices: the checks that all kinds share (on a device in memory), image files, and media that may only be read.
// Locks and block devices are in check_bdev_lock.c.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include "bdevtest.h"
#include "run_suite.h"
#include "block/testdev.h"

// ---- what all backends share ----

static struct bdev *memory_dev(void)
{
	struct bdev *dev;

	msg_open("check_bdev", MSG_TO_NOWHERE, MSG_ERROR);
	ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
	testdev_fail(dev, TESTDEV_READ, 0, 0, false); // counts from here
	return dev;
}

// B2
START_TEST(nothing_outside_the_device)
{
	struct bdev *dev = memory_dev();
	uint8_t buf[4096] = { 0 };
	struct iovec huge[2] = { { buf, SIZE_MAX - 100 }, { buf, 4096 } }; // the sum overflows
	const uint64_t offs[] = { DEV_BYTES - 3584, DEV_BYTES, UINT64_MAX - 511, 1ull << 63 };

	for (unsigned i = 0; i < ARRAY_LEN(offs); i++) {
		ck_assert_int_eq(bdev_read(dev, buf, sizeof(buf), offs[i]), -EINVAL);
		ck_assert_int_eq(bdev_write(dev, buf, sizeof(buf), offs[i]), -EINVAL);
		ck_assert_int_eq(bdev_discard(dev, offs[i], sizeof(buf)), -EINVAL);
	}
	ck_assert_int_eq(bdev_readv(dev, huge, 2, 0), -EINVAL);
	ck_assert_int_eq(bdev_writev(dev, huge, 2, 0), -EINVAL);
	ck_assert_int_eq(bdev_readv(dev, huge, -1, 0), -EINVAL);
	ck_assert_int_eq(bdev_discard(dev, 0, UINT64_MAX - 511), -EINVAL);
	for (int op = 0; op < TESTDEV_N_OPS; op++)
		ck_assert_uint_eq(testdev_count(dev, (enum testdev_op)op), 0);
	ck_assert(!bdev_failed(dev)); // the medium did nothing wrong
	ck_assert_int_eq(bdev_write(dev, buf, sizeof(buf), DEV_BYTES - sizeof(buf)), 0);
	bdev_close(dev);
}
END_TEST

START_TEST(alignment_of_writes)
{
	struct bdev *dev = memory_dev();
	uint8_t buf[1024] = { 0 };

	ck_assert_int_eq(bdev_write(dev, buf, 512, 256), -EINVAL);
	ck_assert_int_eq(bdev_write(dev, buf, 100, 512), -EINVAL);
	ck_assert_int_eq(bdev_discard(dev, 1, 512), -EINVAL);
	ck_assert_int_eq(bdev_write(dev, buf, 512, 512), 0);
	ck_assert_int_eq(bdev_read(dev, buf, 77, 333), 0); // reads are free
	bdev_close(dev);
}
END_TEST

START_TEST(nothing_to_do_reaches_nobody)
{
	struct bdev *dev = memory_dev();

	ck_assert_int_eq(bdev_read(dev, NULL, 0, DEV_BYTES), 0);
	ck_assert_int_eq(bdev_write(dev, NULL, 0, 0), 0);
	ck_assert_int_eq(bdev_readv(dev, NULL, 0, 0), 0);
	ck_assert_int_eq(bdev_discard(dev, 0, 0), 0);
	for (int op = 0; op < TESTDEV_N_OPS; op++)
		ck_assert_uint_eq(testdev_count(dev, (enum testdev_op)op), 0);
	bdev_close(dev);
	bdev_close(NULL);
}
END_TEST

START_TEST(requests_are_counted)
{
	struct bdev *dev = memory_dev();
	uint8_t buf[1024] = { 0 };
	struct iovec iov[2] = { { buf, 512 }, { buf + 512, 512 } };

	ck_assert_int_eq(bdev_writev(dev, iov, 2, 0), 0);
	ck_assert_int_eq(bdev_read(dev, buf, 100, 0), 0);
	ck_assert_int_eq(bdev_read(dev, buf, 100, 0), 0);
	ck_assert_int_eq(bdev_flush(dev), 0);
	ck_assert_uint_eq(atomic_load(&dev->n_writes), 1);
	ck_assert_uint_eq(atomic_load(&dev->written_bytes), 1024);
	ck_assert_uint_eq(atomic_load(&dev->n_reads), 2);
	ck_assert_uint_eq(atomic_load(&dev->read_bytes), 200);
	ck_assert_uint_eq(atomic_load(&dev->n_flushes), 1);
	bdev_close(dev);
}
END_TEST

START_TEST(read_only_takes_no_change)
{
	struct bdev *dev = memory_dev();
	uint8_t buf[512] = { 0 };

	dev->read_only = true;
	ck_assert_int_eq(bdev_write(dev, buf, 512, 0), -EROFS);
	ck_assert_int_eq(bdev_discard(dev, 0, 512), -EROFS);
	ck_assert_int_eq(bdev_flush(dev), -EROFS);
	ck_assert_int_eq(bdev_read(dev, buf, 512, 0), 0);
	ck_assert_uint_eq(testdev_count(dev, TESTDEV_WRITE), 0);
	ck_assert_uint_eq(testdev_count(dev, TESTDEV_FLUSH), 0);
	ck_assert(!bdev_failed(dev));
	bdev_close(dev);
}
END_TEST

START_TEST(no_discard_is_said)
{
	struct bdev *dev = memory_dev();

	dev->can_discard = false;
	ck_assert_int_eq(bdev_discard(dev, 0, 512), -EOPNOTSUPP);
	ck_assert_uint_eq(testdev_count(dev, TESTDEV_DISCARD), 0);
	bdev_close(dev);
}
END_TEST

// After the first failed write (loop 0) or flush (loop 1) the medium sees no further one, and reads go on.
START_TEST(first_error_stops_the_line)
{
	struct bdev *dev = memory_dev();
	uint8_t buf[512] = { 7 };
	char line[600] = "";
	FILE *f = tmpfile();

	ck_assert_int_eq(bdev_write(dev, buf, 512, 0), 0);
	dup2(fileno(f), STDERR_FILENO);
	msg_open("check_bdev", MSG_TO_STDERR, MSG_INFO);
	testdev_fail(dev, _i == 0 ? TESTDEV_WRITE : TESTDEV_FLUSH, 1, EIO, false);
	if (_i == 0)
		ck_assert_int_eq(bdev_write(dev, buf, 512, 1024), -EIO);
	else
		ck_assert_int_eq(bdev_flush(dev), -EIO);
	ck_assert(bdev_failed(dev));
	for (int i = 0; i < 3; i++) { // the fault was for once: a retry would succeed
		ck_assert_int_eq(bdev_write(dev, buf, 512, 0), -EROFS);
		ck_assert_int_eq(bdev_flush(dev), -EROFS);
		ck_assert_int_eq(bdev_discard(dev, 0, 512), -EROFS);
	}
	ck_assert_uint_eq(testdev_count(dev, TESTDEV_WRITE), _i == 0);
	ck_assert_uint_eq(testdev_count(dev, TESTDEV_FLUSH), _i == 1);
	ck_assert_uint_eq(testdev_count(dev, TESTDEV_DISCARD), 0);
	buf[0] = 0;
	ck_assert_int_eq(bdev_read(dev, buf, 512, 0), 0);
	ck_assert_uint_eq(buf[0], 7);
	rewind(f);
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), f));
	ck_assert_ptr_nonnull(strstr(line, _i == 0 ? "write of 512 bytes at byte 1024" : "flush failed"));
	ck_assert_ptr_null(fgets(line, sizeof(line), f)); // said once
	bdev_close(dev);
}
END_TEST

START_TEST(other_errors_do_not_stop_it)
{
	struct bdev *dev = memory_dev();
	uint8_t buf[512] = { 7 };

	testdev_fail(dev, TESTDEV_READ, 1, EIO, false);
	testdev_fail(dev, TESTDEV_DISCARD, 1, EIO, false);
	ck_assert_int_eq(bdev_read(dev, buf, 512, 0), -EIO);
	ck_assert_int_eq(bdev_discard(dev, 0, 512), -EIO);
	ck_assert(!bdev_failed(dev));
	ck_assert_int_eq(bdev_write(dev, buf, 512, 0), 0);
	ck_assert_int_eq(bdev_flush(dev), 0);
	bdev_close(dev);
}
END_TEST

// B1, on the medium that knows: unflushed writes may be lost, flushed ones are not.
START_TEST(durable_after_flush_not_before)
{
	struct bdev *dev = memory_dev(), *state;
	uint8_t buf[512] = { 7 }, back[512];

	testdev_record(dev, true);
	ck_assert_int_eq(bdev_write(dev, buf, 512, 0), 0);
	ck_assert_int_eq(bdev_flush(dev), 0);
	ck_assert_int_eq(bdev_write(dev, buf, 512, 512), 0);
	ck_assert_uint_eq(testdev_log_len(dev), 3);
	ck_assert_int_eq(testdev_log_at(dev, 1)->op, TESTDEV_FLUSH);
	ck_assert_int_eq(testdev_crash_state(dev, 2, NULL, NULL, &state), 0);
	ck_assert_int_eq(bdev_read(state, back, 512, 0), 0);
	ck_assert_mem_eq(buf, back, 512);
	bdev_close(state);
	bdev_close(dev);
}
END_TEST

// ---- image files ----

START_TEST(image_is_created_sparse_and_private)
{
	struct bdev *dev = new_image(), *other;
	struct errmsg why;
	struct stat st;

	ck_assert_str_eq(dev->name, image);
	ck_assert_str_eq(dev->ops->kind, "file");
	ck_assert_uint_eq(dev->size_bytes, DEV_BYTES);
	ck_assert(!dev->read_only);
	ck_assert_int_eq(stat(image, &st), 0);
	ck_assert_int_eq(st.st_size, DEV_BYTES);
	ck_assert_int_eq(st.st_blocks, 0);
	ck_assert_int_eq(st.st_mode & 077, 0);
	ck_assert_int_eq(bdev_create_file(image, DEV_BYTES, false, &other, &why), -EEXIST);
	expect_contains(&why, "exists");
	bdev_close(dev);
}
END_TEST

START_TEST(image_written_read_reopened)
{
	struct bdev *dev = new_image();
	uint8_t buf[8192], back[8192];

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 7 + 1);
	ck_assert_int_eq(bdev_write(dev, buf, sizeof(buf), DEV_BYTES - sizeof(buf)), 0);
	ck_assert_int_eq(bdev_flush(dev), 0);
	bdev_close(dev);
	dev = open_image(0);
	ck_assert_uint_eq(dev->size_bytes, DEV_BYTES); // no write made it longer
	ck_assert_int_eq(bdev_read(dev, back, sizeof(back), DEV_BYTES - sizeof(buf)), 0);
	ck_assert_mem_eq(back, buf, sizeof(buf));
	bdev_close(dev);
}
END_TEST

// More pieces than one system call takes (IOV_MAX is 1024), some of them empty.
START_TEST(image_takes_many_pieces)
{
	struct bdev *dev = new_image();
	enum { N = 1500, PIECE = 512 };
	uint8_t *buf = malloc(N * PIECE), *back = calloc(N, PIECE);
	struct iovec *iov = calloc(2 * N, sizeof(*iov));

	for (size_t i = 0; i < N * PIECE; i++)
		buf[i] = (uint8_t)(i / PIECE + i % 251);
	for (size_t i = 0; i < N; i++)
		iov[2 * i] = (struct iovec){ buf + i * PIECE, PIECE };
	ck_assert_int_eq(bdev_writev(dev, iov, 2 * N, 4096), 0);
	ck_assert_int_eq(bdev_read(dev, back, N * PIECE, 4096), 0);
	ck_assert_mem_eq(back, buf, N * PIECE);
	memset(back, 0, N * PIECE);
	for (size_t i = 0; i < N; i++)
		iov[2 * i].iov_base = back + i * PIECE;
	ck_assert_int_eq(bdev_readv(dev, iov, 2 * N, 4096), 0);
	ck_assert_mem_eq(back, buf, N * PIECE);
	bdev_close(dev);
	free(buf);
	free(back);
	free(iov);
}
END_TEST

// Two holes around a block that was written: they become zeros that the host has a place for.
START_TEST(image_holes_are_filled)
{
	struct bdev *dev = new_image();
	uint8_t buf[4096], back[12 * 4096], want[12 * 4096] = { 0 };
	struct stat st;

	memset(buf, 0x5a, sizeof(buf));
	memcpy(want + 5 * 4096, buf, sizeof(buf));
	ck_assert_int_eq(bdev_write(dev, buf, sizeof(buf), 9 * 4096), 0);
	bdev_fill_holes(dev, 6 * 4096, 8 * 4096);
	bdev_fill_holes(dev, DEV_BYTES, 4096); // outside: nothing
	ck_assert_int_eq(bdev_read(dev, back, sizeof(back), 4 * 4096), 0);
	ck_assert_mem_eq(back, want, sizeof(back));
	ck_assert_int_eq(bdev_flush(dev), 0);
	ck_assert_int_eq(stat(image, &st), 0);
	ck_assert_int_eq(st.st_size, DEV_BYTES);
	ck_assert_int_ge(st.st_blocks, 8 * 8);
	bdev_close(dev);
	dev = memory_dev();
	bdev_fill_holes(dev, 0, 4096); // has none
	ck_assert_uint_eq(testdev_count(dev, TESTDEV_WRITE), 0);
	bdev_close(dev);
}
END_TEST

START_TEST(image_discard_frees_blocks)
{
	struct bdev *dev = new_image();
	uint8_t *buf = malloc(1 << 20), byte;
	struct stat before, after;

	memset(buf, 1, 1 << 20);
	ck_assert_int_eq(bdev_write(dev, buf, 1 << 20, 0), 0);
	ck_assert_int_eq(bdev_flush(dev), 0);
	ck_assert_int_eq(stat(image, &before), 0);
	if (dev->can_discard) {
		ck_assert_int_eq(bdev_discard(dev, 65536, 524288), 0);
		ck_assert_int_eq(stat(image, &after), 0);
		ck_assert_int_lt(after.st_blocks, before.st_blocks);
		ck_assert_int_eq(after.st_size, DEV_BYTES);
	} else {
		ck_assert_int_eq(bdev_discard(dev, 65536, 524288), -EOPNOTSUPP);
	}
	ck_assert_int_eq(bdev_read(dev, &byte, 1, 65535), 0);
	ck_assert_uint_eq(byte, 1);
	ck_assert_int_eq(bdev_read(dev, &byte, 1, 65536 + 524288), 0);
	ck_assert_uint_eq(byte, 1);
	bdev_close(dev);
	free(buf);
}
END_TEST

START_TEST(image_size_is_whole_blocks)
{
	struct bdev *dev = new_image();
	uint8_t buf[4096] = { 0 };

	bdev_close(dev);
	ck_assert_int_eq(truncate(image, DEV_BYTES + 4095), 0);
	dev = open_image(0);
	ck_assert_uint_eq(dev->size_bytes, DEV_BYTES);
	ck_assert_int_eq(bdev_read(dev, buf, 1, DEV_BYTES), -EINVAL);
	bdev_close(dev);
}
END_TEST

START_TEST(image_cut_while_open_is_eio)
{
	struct bdev *dev = new_image();
	uint8_t buf[8192];

	ck_assert_int_eq(truncate(image, 4096), 0);
	ck_assert_int_eq(bdev_read(dev, buf, 4096, 0), 0);
	ck_assert_int_eq(bdev_read(dev, buf, 8192, 0), -EIO); // half of it is there: no short count
	bdev_close(dev);
}
END_TEST

// A real failing write: past the size that a process may give to a file. Its first part succeeds.
START_TEST(image_write_error_stops_the_line)
{
	struct bdev *dev = new_image();
	struct rlimit limit = { 1 << 20, 1 << 20 };
	uint8_t buf[8192] = { 1 };

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_int_eq(bdev_write(dev, buf, 8192, (1 << 20) - 4096), -EFBIG);
	ck_assert(bdev_failed(dev));
	ck_assert_int_eq(bdev_write(dev, buf, 4096, 0), -EROFS);
	ck_assert_int_eq(bdev_flush(dev), -EROFS);
	ck_assert_int_eq(bdev_read(dev, buf, 8192, 0), 0);
	bdev_close(dev);
}
END_TEST

static void *write_and_flush(void *arg)
{
	struct bdev *dev = arg;
	uint8_t buf[4096] = { 3 };
	intptr_t rc = 0;

	for (int i = 0; i < 50 && rc == 0; i++) {
		rc = bdev_write(dev, buf, sizeof(buf), 4096u * (unsigned)i);
		if (rc == 0)
			rc = bdev_flush(dev);
	}
	return (void *)rc;
}

START_TEST(image_flushed_by_many_threads)
{
	struct bdev *dev = new_image();
	pthread_t thread[8];

	for (unsigned i = 0; i < ARRAY_LEN(thread); i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, write_and_flush, dev), 0);
	for (unsigned i = 0; i < ARRAY_LEN(thread); i++) {
		void *rc;

		ck_assert_int_eq(pthread_join(thread[i], &rc), 0);
		ck_assert_ptr_null(rc);
	}
	ck_assert_uint_eq(atomic_load(&dev->n_flushes), 50 * ARRAY_LEN(thread));
	bdev_close(dev);
}
END_TEST

START_TEST(image_replaced_is_zeros_and_sparse)
{
	struct bdev *dev = new_image();
	uint8_t buf[4096] = { 1 };
	struct errmsg why;
	struct stat st;

	ck_assert_int_eq(bdev_write(dev, buf, sizeof(buf), 0), 0);
	// In use: not touched.
	ck_assert_int_eq(bdev_create_file(image, 4096, true, &(struct bdev *){ NULL }, &why), -EBUSY);
	ck_assert_int_eq(stat(image, &st), 0);
	ck_assert_int_eq(st.st_size, DEV_BYTES);
	bdev_close(dev);
	// Impossible: not touched either.
	ck_assert_int_lt(bdev_create_file(image, INT64_MAX, true, &dev, &why), 0);
	ck_assert_int_eq(stat(image, &st), 0);
	ck_assert_int_eq(st.st_size, DEV_BYTES);
	ck_assert_int_eq(bdev_create_file(image, 2 * DEV_BYTES + 100, true, &dev, &why), 0);
	ck_assert_uint_eq(dev->size_bytes, 2 * DEV_BYTES);
	ck_assert_int_eq(bdev_read(dev, buf, sizeof(buf), 0), 0);
	ck_assert_uint_eq(buf[0], 0);
	ck_assert_int_eq(stat(image, &st), 0);
	ck_assert_int_eq(st.st_blocks, 0);
	bdev_close(dev);
}
END_TEST

START_TEST(image_that_cannot_be_leaves_nothing)
{
	struct rlimit limit = { 1 << 20, 1 << 20 };
	struct errmsg why;
	struct bdev *dev;

	ck_assert_int_eq(bdev_create_file(image, 100, false, &dev, &why), -EINVAL);
	ck_assert_int_eq(access(image, F_OK), -1);
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_int_eq(bdev_create_file(image, DEV_BYTES, false, &dev, &why), -EFBIG);
	expect_contains(&why, image);
	ck_assert_int_eq(access(image, F_OK), -1);
	ck_assert_int_eq(bdev_create_file("/nonexistent/x", DEV_BYTES, false, &dev, &why), -ENOENT);
	expect_contains(&why, "/nonexistent/x");
}
END_TEST

START_TEST(only_files_and_block_devices)
{
	struct errmsg why;
	struct bdev *dev;

	ck_assert_int_eq(bdev_open_file(image, 0, 0, &dev, &why), -ENOENT);
	expect_contains(&why, image);
	expect_contains(&why, strerror(ENOENT));
	ck_assert_int_eq(bdev_open_file(dir, 0, 0, &dev, &why), -EISDIR);
	expect_contains(&why, "is a directory");
	ck_assert_int_eq(bdev_open_file("/dev/null", 0, 0, &dev, &why), -ENOTBLK);
	expect_contains(&why, "is a character device");
	ck_assert_int_eq(mkfifo(image, 0600), 0);
	ck_assert_int_eq(bdev_open_file(image, BDEV_READ_ONLY, 0, &dev, &why), -ENOTBLK); // and does not hang
	expect_contains(&why, "is a pipe");
	ck_assert_int_eq(bdev_create_file(image, DEV_BYTES, true, &dev, &why), -ENOTBLK);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &dev, NULL), -ENOTBLK); // nobody listens
}
END_TEST

// ---- read-only media ----

START_TEST(read_only_by_wish)
{
	bdev_close(new_image());
	expect_read_only(open_image(BDEV_READ_ONLY));
}
END_TEST

START_TEST(read_only_host_filesystem)
{
	struct errmsg why;

	if (skip_unless_root("read_only_host_filesystem"))
		return;
	private_mounts();
	ck_assert_int_eq(mount("none", dir, "tmpfs", 0, NULL), 0);
	bdev_close(new_image());
	ck_assert_int_eq(mount("none", dir, "tmpfs", MS_REMOUNT | MS_RDONLY, NULL), 0);
	expect_read_only(open_image(0));
	ck_assert_int_eq(bdev_create_file(image, DEV_BYTES, true, &(struct bdev *){ NULL }, &why), -EROFS);
	expect_contains(&why, "may only be read");
	ck_assert_int_eq(umount(dir), 0);
}
END_TEST

START_TEST(read_only_by_permission)
{
	struct errmsg why;

	bdev_close(new_image());
	ck_assert_int_eq(chmod(image, 0444), 0);
	ck_assert_int_eq(chmod(dir, 0755), 0);
	if (geteuid() == 0)
		ck_assert_int_eq(seteuid(65534), 0);
	expect_read_only(open_image(0));
	if (getuid() == 0)
		ck_assert_int_eq(seteuid(0), 0);
	ck_assert_int_eq(chmod(image, 0), 0);
	if (getuid() == 0)
		ck_assert_int_eq(seteuid(65534), 0);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &(struct bdev *){ NULL }, &why), -EACCES);
	expect_contains(&why, strerror(EACCES));
	if (getuid() == 0)
		ck_assert_int_eq(seteuid(0), 0);
}
END_TEST

static Suite *bdev_suite(void)
{
	Suite *s = suite_create("bdev");
	TCase *common = tcase_create("common"), *file = tcase_create("file");

	tcase_add_test(common, nothing_outside_the_device);
	tcase_add_test(common, alignment_of_writes);
	tcase_add_test(common, nothing_to_do_reaches_nobody);
	tcase_add_test(common, requests_are_counted);
	tcase_add_test(common, read_only_takes_no_change);
	tcase_add_test(common, no_discard_is_said);
	tcase_add_loop_test(common, first_error_stops_the_line, 0, 2);
	tcase_add_test(common, other_errors_do_not_stop_it);
	tcase_add_test(common, durable_after_flush_not_before);
	suite_add_tcase(s, common);

	tcase_add_checked_fixture(file, make_dir, remove_dir);
	tcase_set_timeout(file, 60);
	tcase_add_test(file, image_is_created_sparse_and_private);
	tcase_add_test(file, image_written_read_reopened);
	tcase_add_test(file, image_takes_many_pieces);
	tcase_add_test(file, image_holes_are_filled);
	tcase_add_test(file, image_discard_frees_blocks);
	tcase_add_test(file, image_size_is_whole_blocks);
	tcase_add_test(file, image_cut_while_open_is_eio);
	tcase_add_test(file, image_write_error_stops_the_line);
	tcase_add_test(file, image_flushed_by_many_threads);
	tcase_add_test(file, image_replaced_is_zeros_and_sparse);
	tcase_add_test(file, image_that_cannot_be_leaves_nothing);
	tcase_add_test(file, only_files_and_block_devices);
	tcase_add_test(file, read_only_by_wish);
	tcase_add_test(file, read_only_host_filesystem);
	tcase_add_test(file, read_only_by_permission);
	suite_add_tcase(s, file);
	return s;
}

int main(void) { return run_suite(bdev_suite()); }
