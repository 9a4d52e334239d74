// SPDX-License-Identifier: MIT
// Backing devices: the checks that all kinds share (on a device in memory), image files, and block devices
// (on a loop device, as root).
//
// Tests that need root or a loop device say so and pass where there is none.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "block/bdev.h"
#include "block/testdev.h"
#include "util/log.h"

#define DEV_BYTES (4u << 20)

static void expect_contains(const struct errmsg *why, const char *part)
{
	ck_assert_msg(strstr(why->text, part) != NULL, "\"%s\" does not say \"%s\"", why->text, part);
}

static bool skip_unless_root(const char *test)
{
	if (geteuid() == 0)
		return false;
	fprintf(stderr, "%s: skipped, needs root\n", test);
	return true;
}

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

// A folder of its own for each test, and names in it.
static char dir[PATH_MAX - 64], image[PATH_MAX];

static void make_dir(void)
{
	const char *tmp = getenv("TMPDIR");

	msg_open("check_bdev", MSG_TO_NOWHERE, MSG_ERROR);
	snprintf(dir, sizeof(dir), "%s/check_bdev.XXXXXX", tmp != NULL ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(image, sizeof(image), "%s/disk image", dir); // a space, which /proc escapes
}

static void remove_dir(void)
{
	unlink(image);
	rmdir(dir);
}

static struct bdev *new_image(void)
{
	struct bdev *dev;
	struct errmsg why = { "" };
	int rc = bdev_create_file(image, DEV_BYTES, false, &dev, &why);

	ck_assert_msg(rc == 0, "%s", why.text);
	return dev;
}

static struct bdev *open_image(unsigned flags)
{
	struct bdev *dev;
	struct errmsg why = { "" };
	int rc = bdev_open_file(image, flags, 0, &dev, &why);

	ck_assert_msg(rc == 0, "%s", why.text);
	return dev;
}

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

static void expect_read_only(struct bdev *dev)
{
	uint8_t buf[512] = { 0 };

	ck_assert(dev->read_only);
	ck_assert(!dev->can_discard);
	ck_assert_int_eq(bdev_write(dev, buf, 512, 0), -EROFS);
	ck_assert_int_eq(bdev_flush(dev), -EROFS);
	ck_assert_int_eq(bdev_read(dev, buf, 512, 0), 0);
	bdev_close(dev);
}

START_TEST(read_only_by_wish)
{
	bdev_close(new_image());
	expect_read_only(open_image(BDEV_READ_ONLY));
}
END_TEST

// Mounts of a test are seen by nobody else and end with it.
static void private_mounts(void)
{
	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
}

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

// ---- locks ----

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

START_TEST(writer_excludes_everybody)
{
	struct bdev *dev = new_image(), *other = NULL;

	ck_assert_int_eq(bdev_open_file(image, 0, 0, &other, NULL), -EBUSY);
	ck_assert_int_eq(bdev_open_file(image, BDEV_READ_ONLY, 0, &other, NULL), -EBUSY);
	other = open_image(BDEV_READ_ONLY | BDEV_NO_LOCK); // just looking
	ck_assert(other->read_only);
	bdev_close(other);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &other, NULL), -EBUSY); // the look has not broken the lock
	bdev_close(dev);
	bdev_close(open_image(0));
}
END_TEST

START_TEST(readers_share)
{
	struct bdev *one, *two, *writer;

	bdev_close(new_image());
	one = open_image(BDEV_READ_ONLY);
	two = open_image(BDEV_READ_ONLY);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &writer, NULL), -EBUSY);
	bdev_close(one);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &writer, NULL), -EBUSY);
	bdev_close(two);
	bdev_close(open_image(0));
}
END_TEST

// A process that holds the path for hold_ms, or until killed; returns when it has it.
static pid_t hold_in_child(const char *path, unsigned hold_ms)
{
	int ready[2];
	char byte;
	pid_t pid;

	ck_assert_int_eq(pipe(ready), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct bdev *dev;

		if (bdev_open_file(path, 0, 0, &dev, NULL) != 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		usleep(hold_ms * 1000);
		bdev_close(dev);
		_exit(0);
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void end_child(pid_t pid)
{
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

START_TEST(busy_names_the_holder)
{
	char pid_text[32];
	struct errmsg why;
	struct bdev *dev;
	uint64_t before;
	pid_t pid;

	bdev_close(new_image());
	pid = hold_in_child(image, 60000);
	snprintf(pid_text, sizeof(pid_text), "(pid %ld)", (long)pid);
	before = now_ms();
	ck_assert_int_eq(bdev_open_file(image, 0, 300, &dev, &why), -EBUSY);
	ck_assert_uint_ge(now_ms() - before, 300); // waited as long as it was told
	expect_contains(&why, image);
	expect_contains(&why, "check_bdev");
	expect_contains(&why, pid_text);
	end_child(pid);
	bdev_close(open_image(0)); // the lock ended with its holder, however that ended
}
END_TEST

START_TEST(busy_waits_for_the_holder_to_go)
{
	struct errmsg why = { "" };
	struct bdev *dev;
	pid_t pid;
	int rc;

	bdev_close(new_image());
	pid = hold_in_child(image, 300);
	rc = bdev_open_file(image, 0, 20000, &dev, &why);
	ck_assert_msg(rc == 0, "%s", why.text);
	bdev_close(dev);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}
END_TEST

// Any filesystem type shows its source in /proc; this one lets us choose it.
START_TEST(busy_and_mounted_is_not_waited_for)
{
	char mount_point[PATH_MAX + 8];
	struct errmsg why;
	struct bdev *dev;
	uint64_t before;
	pid_t pid;

	if (skip_unless_root("busy_and_mounted_is_not_waited_for"))
		return;
	bdev_close(new_image());
	private_mounts();
	snprintf(mount_point, sizeof(mount_point), "%s/m\tnt", dir);
	ck_assert_int_eq(mkdir(mount_point, 0700), 0);
	ck_assert_int_eq(mount(image, mount_point, "tmpfs", 0, NULL), 0);
	pid = hold_in_child(image, 60000);
	before = now_ms();
	ck_assert_int_eq(bdev_open_file(image, 0, 20000, &dev, &why), -EBUSY);
	ck_assert_uint_lt(now_ms() - before, 10000);
	expect_contains(&why, "is mounted on");
	expect_contains(&why, mount_point);
	expect_contains(&why, "check_bdev");
	expect_contains(&why, "unmount it first");
	// By another name of the same file as well.
	ck_assert_int_eq(chdir(dir), 0);
	ck_assert_int_eq(bdev_open_file("./disk image", 0, 20000, &dev, &why), -EBUSY);
	expect_contains(&why, mount_point);
	end_child(pid);
	ck_assert_int_eq(umount(mount_point), 0);
	ck_assert_int_eq(rmdir(mount_point), 0);
}
END_TEST

// ---- block devices ----

struct loop {
	int fd; // keeps it attached: it goes by itself with the last user
	char path[32];
};

static bool attach(struct loop *loop, const char *test, bool read_only)
{
	struct loop_config config = { .info.lo_flags = LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0) };
	int file = open(image, read_only ? O_RDONLY : O_RDWR), control = open("/dev/loop-control", O_RDWR), n;

	loop->fd = -1;
	for (int i = 0; i < 10 && control >= 0 && loop->fd < 0; i++) { // somebody may be faster
		n = ioctl(control, LOOP_CTL_GET_FREE);
		snprintf(loop->path, sizeof(loop->path), "/dev/loop%d", n);
		loop->fd = open(loop->path, read_only ? O_RDONLY : O_RDWR);
		config.fd = (unsigned)file;
		if (loop->fd >= 0 && ioctl(loop->fd, LOOP_CONFIGURE, &config) < 0) {
			close(loop->fd);
			loop->fd = -1;
		}
	}
	close(file);
	if (control >= 0)
		close(control);
	if (loop->fd < 0)
		fprintf(stderr, "%s: skipped, needs a loop device\n", test);
	return loop->fd >= 0;
}

static struct bdev *open_loop(const struct loop *loop, unsigned flags)
{
	struct bdev *dev;
	struct errmsg why = { "" };
	int rc = bdev_open_file(loop->path, flags, 5000, &dev, &why);

	ck_assert_msg(rc == 0, "%s", why.text);
	return dev;
}

START_TEST(block_device_works)
{
	struct loop loop;
	struct bdev *dev;
	struct errmsg why;
	uint8_t buf[4096] = { 5 }, back[4096];

	bdev_close(new_image());
	if (!attach(&loop, "block_device_works", false))
		return;
	dev = open_loop(&loop, 0);
	ck_assert_str_eq(dev->ops->kind, "block device");
	ck_assert_uint_eq(dev->size_bytes, DEV_BYTES);
	ck_assert(!dev->read_only);
	ck_assert_int_eq(bdev_write(dev, buf, 4096, 4096), 0);
	ck_assert_int_eq(bdev_flush(dev), 0);
	ck_assert_int_eq(bdev_read(dev, back, 4096, 4096), 0);
	ck_assert_mem_eq(back, buf, 4096);
	ck_assert_int_eq(bdev_discard(dev, 8192, 65536), dev->can_discard ? 0 : -EOPNOTSUPP);
	ck_assert_int_eq(bdev_read(dev, back, 4096, 4096), 0);
	ck_assert_mem_eq(back, buf, 4096);
	bdev_close(dev);
	ck_assert_int_eq(bdev_create_file(loop.path, DEV_BYTES, true, &dev, &why), -ENOTSUP);
	expect_contains(&why, "block device");
	close(loop.fd);
}
END_TEST

START_TEST(block_device_write_protected)
{
	struct loop loop;

	bdev_close(new_image());
	if (!attach(&loop, "block_device_write_protected", true))
		return;
	expect_read_only(open_loop(&loop, 0));
	close(loop.fd);
}
END_TEST

START_TEST(loop_device_and_its_image_exclude_each_other)
{
	struct bdev *by_loop, *by_file;
	struct errmsg why;
	struct loop loop;

	bdev_close(new_image());
	if (!attach(&loop, "loop_device_and_its_image_exclude_each_other", false))
		return;
	by_loop = open_loop(&loop, 0);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &by_file, &why), -EBUSY);
	expect_contains(&why, "check_bdev");
	bdev_close(by_loop);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &by_file, &why), 0);
	ck_assert_int_eq(bdev_open_file(loop.path, 0, 0, &by_loop, &why), -EBUSY);
	expect_contains(&why, "check_bdev");
	bdev_close(by_file);
	bdev_close(open_loop(&loop, 0));
	close(loop.fd);
}
END_TEST

START_TEST(block_device_busy_names_the_holder)
{
	struct loop loop;
	struct bdev *dev;
	struct errmsg why;
	pid_t pid;

	bdev_close(new_image());
	if (!attach(&loop, "block_device_busy_names_the_holder", false))
		return;
	pid = hold_in_child(loop.path, 60000);
	ck_assert_int_eq(bdev_open_file(loop.path, 0, 100, &dev, &why), -EBUSY);
	expect_contains(&why, loop.path);
	expect_contains(&why, "check_bdev");
	dev = open_loop(&loop, BDEV_READ_ONLY | BDEV_NO_LOCK);
	bdev_close(dev);
	end_child(pid);
	pid = hold_in_child(loop.path, 300);
	bdev_close(open_loop(&loop, 0)); // waits
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	close(loop.fd);
}
END_TEST

// What udev does to a device that was just written: a shared lock for a moment, without O_EXCL.
START_TEST(block_device_probed_by_udev_is_waited_for)
{
	struct loop loop;
	struct bdev *dev;
	struct errmsg why = { "" };
	pid_t pid;
	int rc;

	bdev_close(new_image());
	if (!attach(&loop, "block_device_probed_by_udev_is_waited_for", false))
		return;
	ck_assert_int_eq(flock(loop.fd, LOCK_SH), 0);
	pid = fork();
	if (pid == 0) {
		usleep(300000);
		flock(loop.fd, LOCK_UN);
		_exit(0);
	}
	rc = bdev_open_file(loop.path, 0, 0, &dev, &why);
	ck_assert_msg(rc == 0, "%s", why.text);
	bdev_close(dev);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	close(loop.fd);
}
END_TEST

START_TEST(block_device_mounted_by_the_kernel)
{
	char command[PATH_MAX + 32];
	struct loop loop;
	struct bdev *dev;
	struct errmsg why;
	uint64_t before;

	if (skip_unless_root("block_device_mounted_by_the_kernel"))
		return;
	bdev_close(new_image());
	snprintf(command, sizeof(command), "mke2fs -q -F '%s' >/dev/null 2>&1", image);
	if (system(command) != 0) {
		fprintf(stderr, "block_device_mounted_by_the_kernel: skipped, needs mke2fs\n");
		return;
	}
	if (!attach(&loop, "block_device_mounted_by_the_kernel", false))
		return;
	private_mounts();
	if (mount(loop.path, dir, "ext2", 0, NULL) == 0 || mount(loop.path, dir, "ext4", 0, NULL) == 0) {
		before = now_ms();
		ck_assert_int_eq(bdev_open_file(loop.path, 0, 20000, &dev, &why), -EBUSY);
		ck_assert_uint_lt(now_ms() - before, 10000);
		expect_contains(&why, "is mounted on");
		expect_contains(&why, dir);
		ck_assert_int_eq(umount(dir), 0);
	} else {
		fprintf(stderr, "block_device_mounted_by_the_kernel: skipped, the kernel has no ext2\n");
	}
	close(loop.fd);
}
END_TEST

static Suite *bdev_suite(void)
{
	Suite *s = suite_create("bdev");
	TCase *common = tcase_create("common"), *file = tcase_create("file"), *lock = tcase_create("lock");
	TCase *block = tcase_create("block");

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

	tcase_add_checked_fixture(lock, make_dir, remove_dir);
	tcase_set_timeout(lock, 60);
	tcase_add_test(lock, writer_excludes_everybody);
	tcase_add_test(lock, readers_share);
	tcase_add_test(lock, busy_names_the_holder);
	tcase_add_test(lock, busy_waits_for_the_holder_to_go);
	tcase_add_test(lock, busy_and_mounted_is_not_waited_for);
	suite_add_tcase(s, lock);

	tcase_add_checked_fixture(block, make_dir, remove_dir);
	tcase_set_timeout(block, 60);
	tcase_add_test(block, block_device_works);
	tcase_add_test(block, block_device_write_protected);
	tcase_add_test(block, loop_device_and_its_image_exclude_each_other);
	tcase_add_test(block, block_device_busy_names_the_holder);
	tcase_add_test(block, block_device_probed_by_udev_is_waited_for);
	tcase_add_test(block, block_device_mounted_by_the_kernel);
	suite_add_tcase(s, block);
	return s;
}

int main(void)
{
	SRunner *r = srunner_create(bdev_suite());
	int failed;

	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
