// SPDX-License-Identifier: MIT
// What the tests of backing devices share: a folder with an image file for each test, and shorthands.
//
// Tests that need root or a loop device say so and pass where there is none.
#ifndef HYBRIDFS_TESTS_BDEVTEST_H
#define HYBRIDFS_TESTS_BDEVTEST_H

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/bdev.h"
#include "util/log.h"

#define DEV_BYTES (4u << 20)

static inline void expect_contains(const struct errmsg *why, const char *part)
{
	ck_assert_msg(strstr(why->text, part) != NULL, "\"%s\" does not say \"%s\"", why->text, part);
}

static inline bool skip_unless_root(const char *test)
{
	if (geteuid() == 0)
		return false;
	fprintf(stderr, "%s: skipped, needs root\n", test);
	return true;
}

// A folder of its own for each test, and names in it.
static char dir[PATH_MAX - 64], image[PATH_MAX];

static inline void make_dir(void)
{
	const char *tmp = getenv("TMPDIR");

	msg_open("check_bdev", MSG_TO_NOWHERE, MSG_ERROR);
	snprintf(dir, sizeof(dir), "%s/check_bdev.XXXXXX", tmp != NULL ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(image, sizeof(image), "%s/disk image", dir); // a space, which /proc escapes
}

static inline void remove_dir(void)
{
	unlink(image);
	rmdir(dir);
}

static inline struct bdev *new_image(void)
{
	struct bdev *dev;
	struct errmsg why = { "" };
	int rc = bdev_create_file(image, DEV_BYTES, false, &dev, &why);

	ck_assert_msg(rc == 0, "%s", why.text);
	return dev;
}

static inline struct bdev *open_image(unsigned flags)
{
	struct bdev *dev;
	struct errmsg why = { "" };
	int rc = bdev_open_file(image, flags, 0, &dev, &why);

	ck_assert_msg(rc == 0, "%s", why.text);
	return dev;
}

static inline void expect_read_only(struct bdev *dev)
{
	uint8_t buf[512] = { 0 };

	ck_assert(dev->read_only);
	ck_assert(!dev->can_discard);
	ck_assert_int_eq(bdev_write(dev, buf, 512, 0), -EROFS);
	ck_assert_int_eq(bdev_flush(dev), -EROFS);
	ck_assert_int_eq(bdev_read(dev, buf, 512, 0), 0);
	bdev_close(dev);
}

// Mounts of a test are seen by nobody else and end with it.
static inline void private_mounts(void)
{
	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
}

#endif
