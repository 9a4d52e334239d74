// SPDX-License-Identifier: MIT
// Making the prepared volume. See prepared.h.
#include "prepared.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "block/testdev.h"
#include "fs/fs.h"
#include "fuzz.h"
#include "meta/rows.h"
#include "meta/volume.h"
#include "sqlmem.h"

#define INTERVAL_MS 3600000 // commits only when asked
#define START_S 1700000000

struct making {
	struct bdev *dev;
	struct volume *vol;
	struct fs *fs;
};

static const struct fs_cred cred = { .uid = 1000, .gid = 100 };

// ---- time and chance stand still ----

static atomic_bool *standing_still(void)
{
	static atomic_bool now;

	return &now;
}

int __real_clock_gettime(clockid_t id, struct timespec *out);
int __wrap_clock_gettime(clockid_t id, struct timespec *out);
ssize_t __real_getrandom(void *buf, size_t len, unsigned flags);
ssize_t __wrap_getrandom(void *buf, size_t len, unsigned flags);

int __wrap_clock_gettime(clockid_t id, struct timespec *out)
{
	if (id != CLOCK_REALTIME || !atomic_load(standing_still()))
		return __real_clock_gettime(id, out);
	*out = (struct timespec){ .tv_sec = START_S };
	return 0;
}

ssize_t __wrap_getrandom(void *buf, size_t len, unsigned flags)
{
	if (!atomic_load(standing_still()))
		return __real_getrandom(buf, len, flags);
	memset(buf, 0x5A, len);
	return (ssize_t)len;
}

// ---- shorthands: everything here works ----

static void mount_it(struct making *m)
{
	struct volume_opts opts = { .commit_interval_ms = INTERVAL_MS, .cache_bytes = 1u << 20 };
	struct fs_opts fs_opts = { .atime = FS_NOATIME };
	struct errmsg why = { "" };

	REQUIRE(volume_open(m->dev, &opts, &m->vol, &why) == 0);
	REQUIRE(fs_create_context(m->vol, &fs_opts, &m->fs) == 0);
}

static uint64_t make(struct making *m, uint64_t dir, const char *name, mode_t mode)
{
	struct fs_entry e;

	REQUIRE((S_ISDIR(mode) ? fs_mkdir(m->fs, dir, name, mode & 07777, &cred, &e)
	                      : fs_mknod(m->fs, dir, name, mode, S_ISCHR(mode) ? 0x103 : 0, &cred, &e)) == 0);
	return e.ino;
}

static uint64_t file(struct making *m, uint64_t dir, const char *name) { return make(m, dir, name, S_IFREG | 0644); }

static uint64_t find(struct making *m, const char *name)
{
	struct fs_entry e;

	REQUIRE(fs_lookup(m->fs, ROOT_INO, name, &e) == 0);
	return e.ino;
}

static void fill(struct making *m, uint64_t ino, uint64_t off, size_t len, unsigned char byte)
{
	unsigned char *buf = malloc(len);
	size_t done;

	REQUIRE(buf != NULL);
	memset(buf, byte, len);
	REQUIRE(fs_write(m->fs, ino, buf, len, off, 0, &done) == 0 && done == len);
	free(buf);
}

static void attribute(struct making *m, uint64_t ino, const char *name, size_t len)
{
	char *value = malloc(len);

	REQUIRE(value != NULL);
	memset(value, 'v', len);
	REQUIRE(fs_setxattr(m->fs, ino, name, value, len, 0) == 0);
	free(value);
}

// ---- the tree ----

static void make_data(struct making *m)
{
	uint64_t a, b;

	file(m, ROOT_INO, "empty");
	fill(m, file(m, ROOT_INO, "inline"), 0, 700, 'i');
	a = file(m, ROOT_INO, "extents");
	b = file(m, ROOT_INO, "between");
	for (unsigned i = 0; i < 6; i++) { // by turns, and far enough that they do not lie in one piece
		fill(m, a, i * 49152, 49152, (unsigned char)('a' + i));
		REQUIRE(fs_fsync(m->fs, a) == 0);
		fill(m, b, i * 8192, 8192, (unsigned char)('A' + i));
		REQUIRE(fs_fsync(m->fs, b) == 0);
	}
	a = file(m, ROOT_INO, "holes");
	fill(m, a, 65536, 5000, 'h');
	fill(m, a, 1u << 20, 4096, 'h');
	a = file(m, ROOT_INO, "unwritten");
	REQUIRE(fs_fallocate(m->fs, a, 0, 0, 131072) == 0);
	fill(m, a, 40960, 8192, 'u');
	REQUIRE(fs_fallocate(m->fs, a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 65536, 16384) == 0);
	a = file(m, ROOT_INO, "raw");
	REQUIRE(fs_set_flags(m->fs, a, FS_NOCOW_FL) == 0);
	fill(m, a, 0, 40000, 'r');
}

static void make_names(struct making *m)
{
	uint64_t dir = make(m, ROOT_INO, "dir", S_IFDIR | 0755), sub = make(m, dir, "sub", S_IFDIR | 0700);
	uint64_t many = make(m, ROOT_INO, "many", S_IFDIR | 0755), linked = file(m, dir, "linked");
	struct fs_entry e;
	char name[NAME_MAX_BYTES];

	make(m, sub, "deep", S_IFDIR | 0755);
	fill(m, linked, 0, 10000, 'l');
	REQUIRE(fs_link(m->fs, linked, ROOT_INO, "link-of-it", &e) == 0);
	REQUIRE(fs_symlink(m->fs, ROOT_INO, "symlink", "dir/linked", &cred, &e) == 0);
	make(m, ROOT_INO, "fifo", S_IFIFO | 0644);
	make(m, ROOT_INO, "device", S_IFCHR | 0600);
	// Enough for two levels of pages in the trees of inodes, names and inline data. More would only cost time.
	for (unsigned i = 0; i < 70; i++) {
		snprintf(name, sizeof(name), "name-%060u", i);
		fill(m, file(m, many, name), 0, 40 + i, 'm');
	}
	attribute(m, linked, "user.small", 10);
	attribute(m, linked, "user.large", 9000);
	attribute(m, dir, "user.dir", 300);
}

// What stands in the log alone: small overwrites, orphans, new names.
static void make_late(struct making *m)
{
	uint64_t extents = find(m, "extents"), orphan;

	orphan = file(m, ROOT_INO, "orphan");
	fill(m, orphan, 0, 60000, 'o');
	REQUIRE(fs_unlink(m->fs, ROOT_INO, "orphan") == 0);
	fill(m, file(m, ROOT_INO, "small-orphan"), 0, 100, 'o');
	REQUIRE(fs_unlink(m->fs, ROOT_INO, "small-orphan") == 0);
	fill(m, extents, 4096, 8192, 'd');
	fill(m, extents, 100000, 100, 'd');
	fill(m, find(m, "raw"), 4096, 4096, 'R');
	fill(m, file(m, find(m, "dir"), "late"), 0, 20000, 'L');
	REQUIRE(fs_sync(m->fs) == 0);
}

static void format(struct making *m)
{
	static const uint8_t uuid[16] = "fuzz volume";
	struct volume_params params = { .label = "fuzz", .uuid = uuid };
	struct errmsg why = { "" };

	REQUIRE(testdev_create(PREPARED_BYTES, &m->dev) == 0);
	REQUIRE(volume_format(m->dev, &params, &why) == 0);
}

struct bdev *prepared_create(void)
{
	struct making m = { 0 };
	struct bdev *crashed;

	atomic_store(standing_still(), true);
	sqlmem_use();
	sqlite3_initialize();
	sqlite3_test_control(SQLITE_TESTCTRL_PRNG_SEED, 20070717, NULL);
	format(&m);
	mount_it(&m);
	make_data(&m);
	make_names(&m);
	fs_destroy_context(m.fs);
	REQUIRE(volume_close(m.vol) == 0);
	mount_it(&m);
	make_late(&m);
	REQUIRE(testdev_clone(m.dev, &crashed) == 0);
	fs_destroy_context(m.fs); // of these two only the memory is wanted
	volume_abandon(m.vol);
	bdev_close(m.dev);
	atomic_store(standing_still(), false);
	return crashed;
}
