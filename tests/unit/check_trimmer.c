// SPDX-License-Identifier: MIT
// The trimmer on a volume in memory. What is discarded there reads as poison, so a discard of a block that somebody needs shows as
// wrong bytes or a wrong checksum: at once, after a remount, and after a crash at any point.
#include "fstest.h"

#include <time.h>

#include "fs/fs_internal.h"

#define DELAY_MS 5
#define N_FILES 12u
#define FILE_MAX (3 * MIB)

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void nap_ms(unsigned ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	nanosleep(&t, NULL);
}

static void mount_trimming(struct ft *t, struct bdev *dev, unsigned delay_ms)
{
	struct fs_opts opts = { .atime = FS_NOATIME, .discard = true, .trim_delay_ms = delay_ms };

	t->dev = dev;
	t->vol = vt_open(dev);
	ck_assert_int_eq(fs_create_context(t->vol, &opts, &t->fs), 0);
}

// Which bytes the log's discards have covered, a byte per block; their number.
static uint64_t discarded(struct bdev *dev, uint8_t *map)
{
	uint64_t n = 0;

	for (size_t i = 0; i < testdev_log_len(dev); i++) {
		const struct testdev_entry *e = testdev_log_at(dev, i);

		if (e->op != TESTDEV_DISCARD)
			continue;
		for (uint64_t blk = e->off_bytes / BLK_SIZE; blk < (e->off_bytes + e->len_bytes) / BLK_SIZE; blk++) {
			n += !map[blk];
			map[blk] = 1;
		}
	}
	return n;
}

// Waits until what was freed before this is trimmed. How many discards there were.
static uint64_t settle(struct ft *t)
{
	struct trimmer *tr = &t->fs->trimmer;
	bool busy = tr->started;

	while (busy) {
		pthread_mutex_lock(&tr->lock);
		busy = tr->freed || tr->busy;
		pthread_mutex_unlock(&tr->lock);
		nap_ms(5);
	}
	return testdev_count(t->dev, TESTDEV_DISCARD);
}

static void fill(struct ft *t, uint64_t ino, size_t len, uint8_t with)
{
	uint8_t *buf = malloc(len);

	memset(buf, with, len);
	ft_write(t, ino, buf, len, 0);
	free(buf);
}

// A file of that many bytes, all the same.
static uint64_t make(struct ft *t, const char *name, size_t len, uint8_t with)
{
	uint64_t ino = ft_create(t, ROOT_INO, name);

	fill(t, ino, len, with);
	fs_forget(t->fs, ino, 1);
	return ino;
}

static void delete(struct ft *t, const char *name)
{
	ck_assert_int_eq(fs_unlink(t->fs, ROOT_INO, name), 0);
}

static void wait_reaped(struct ft *t)
{
	ck_assert(fs_reclaim(t->fs));
	ck_assert_int_eq(fs_sync(t->fs), 0);
}

// ---- what is freed is discarded ----

START_TEST(deleted_files_are_discarded)
{
	struct ft t;
	struct extent ext[64];
	uint8_t *map;
	unsigned n;
	uint64_t ino, count;
	struct volume_space before, after;

	mount_trimming(&t, vt_format(256 * MIB), DELAY_MS);
	map = calloc(256 * MIB / BLK_SIZE, 1);
	testdev_record(t.dev, true);
	testdev_fail(t.dev, TESTDEV_DISCARD, 0, 0, false);
	ino = make(&t, "large", 50 * MIB, 1);
	make(&t, "stays", 20 * MIB, 2);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ck_assert_uint_eq(settle(&t), 0);
	n = ft_extents(&t, ino, ext, ARRAY_LEN(ext));
	ck_assert_uint_ge(n, 1);
	delete(&t, "large");
	wait_reaped(&t);
	volume_get_space(t.vol, &before);
	count = settle(&t);
	ck_assert_uint_ge(count, 1);
	ck_assert_uint_ge(discarded(t.dev, map), 50 * MIB / BLK_SIZE);
	for (unsigned i = 0; i < n; i++)
		for (uint64_t blk = ext[i].phys_blk; blk < ext[i].phys_blk + ext[i].len_blk; blk++)
			ck_assert_msg(map[blk], "block %llu was freed and not discarded", (unsigned long long)blk);
	volume_get_space(t.vol, &after);
	ck_assert_uint_eq(after.free_blk, before.free_blk);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ck_assert_uint_eq(settle(&t), count); // once
	free(map);
	ft_end(&t);
}
END_TEST

START_TEST(not_asked_for_or_not_possible)
{
	struct ft t;
	struct fs_opts opts = { .atime = FS_NOATIME, .discard = _i != 0, .trim_delay_ms = DELAY_MS };

	t.dev = vt_format(64 * MIB);
	if (_i == 1)
		t.dev->can_discard = false;
	if (_i == 2)
		t.dev->read_only = true;
	t.vol = vt_open(t.dev);
	ck_assert_int_eq(fs_create_context(t.vol, &opts, &t.fs), 0);
	testdev_fail(t.dev, TESTDEV_DISCARD, 0, 0, false);
	if (_i != 2) {
		make(&t, "file", 10 * MIB, 1);
		ck_assert_int_eq(fs_sync(t.fs), 0);
		delete(&t, "file");
		wait_reaped(&t);
	}
	ck_assert_uint_eq(settle(&t), 0);
	ft_unmount(&t);
	bdev_close(t.dev);
}
END_TEST

// The first failure ends it, and everything else goes on.
START_TEST(errors_end_it)
{
	static const int errs[] = { EIO, EOPNOTSUPP, EREMOTEIO };
	struct ft t;

	mount_trimming(&t, vt_format(64 * MIB), DELAY_MS);
	testdev_fail(t.dev, TESTDEV_DISCARD, 1, errs[_i], false);
	for (unsigned round = 0; round < 3; round++) {
		make(&t, "file", 10 * MIB, 1);
		ck_assert_int_eq(fs_sync(t.fs), 0);
		delete(&t, "file");
		wait_reaped(&t);
		ck_assert_uint_eq(settle(&t), 1);
	}
	ck_assert(!bdev_failed(t.dev));
	ck_assert_int_eq(atomic_load(&t.vol->failed), 0);
	ft_end(&t);
}
END_TEST

// ---- on request ----

static bool yes(void *ctx) { return ctx != NULL; }

// Everything that is free in the range, whoever freed it and when, in runs that are long enough; nothing else.
START_TEST(trim_on_request)
{
	struct ft t;
	struct fs_trim all = { .len_bytes = UINT64_MAX }, part = { .start_bytes = 100 * MIB + 1, .len_bytes = 20 * MIB };
	struct fs_trim huge = { .len_bytes = UINT64_MAX, .min_bytes = 200 * MIB }, none = { .len_bytes = UINT64_MAX, .min_bytes = UINT64_MAX };
	struct volume_space space;
	uint8_t *map = calloc(256 * MIB / BLK_SIZE, 1);

	ft_new(&t, 256 * MIB); // without a trimmer
	make(&t, "stays", 20 * MIB, 1);
	make(&t, "goes", 30 * MIB, 2);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	testdev_record(t.dev, true);
	testdev_fail(t.dev, TESTDEV_DISCARD, 0, 0, false);

	ck_assert_int_eq(fs_trim(t.fs, &huge), 0);
	ck_assert_uint_eq(huge.trimmed_bytes, 0);
	ck_assert_int_eq(fs_trim(t.fs, &none), 0);
	ck_assert_uint_eq(none.trimmed_bytes, 0);
	ck_assert_uint_eq(testdev_count(t.dev, TESTDEV_DISCARD), 0);

	ck_assert_int_eq(fs_trim(t.fs, &part), 0);
	ck_assert_uint_gt(part.trimmed_bytes, 0);
	ck_assert_uint_le(part.trimmed_bytes, 20 * MIB);
	ck_assert_uint_eq(blk_to_bytes(discarded(t.dev, map)), part.trimmed_bytes);
	for (uint64_t blk = 0; blk < 256 * MIB / BLK_SIZE; blk++)
		ck_assert(!map[blk] || (blk > 100 * MIB / BLK_SIZE && blk < 120 * MIB / BLK_SIZE));

	delete(&t, "goes");
	wait_reaped(&t);
	volume_get_space(t.vol, &space);
	ck_assert_int_eq(fs_trim(t.fs, &all), 0);
	ck_assert_uint_le(all.trimmed_bytes, blk_to_bytes(space.free_blk));
	ck_assert_uint_ge(all.trimmed_bytes, blk_to_bytes(space.free_blk) - 2 * MIB); // windows of files being written
	ck_assert_int_eq(fs_trim(t.fs, &all), 0); // again: it is asked for, so it is done
	ck_assert_uint_ge(all.trimmed_bytes, blk_to_bytes(space.free_blk) - 2 * MIB);
	ft_check_data(&t); // what is discarded reads as poison
	free(map);
	ft_end(&t);
}
END_TEST

START_TEST(trim_requests_that_are_refused)
{
	struct ft t;

	ft_new(&t, 64 * MIB);
	ck_assert_int_eq(fs_trim(t.fs, &(struct fs_trim){ .start_bytes = 64 * MIB, .len_bytes = MIB }), -EINVAL);
	ck_assert_int_eq(fs_trim(t.fs, &(struct fs_trim){ .start_bytes = UINT64_MAX, .len_bytes = UINT64_MAX }), -EINVAL);
	ck_assert_int_eq(fs_trim(t.fs, &(struct fs_trim){ .len_bytes = BLK_SIZE - 1 }), -EINVAL);
	ck_assert_int_eq(fs_trim(t.fs, &(struct fs_trim){ .len_bytes = UINT64_MAX, .cancelled = yes, .ctx = &t }), -EINTR);
	testdev_fail(t.dev, TESTDEV_DISCARD, 1, EIO, false);
	ck_assert_int_eq(fs_trim(t.fs, &(struct fs_trim){ .len_bytes = UINT64_MAX }), -EIO);
	ck_assert(!bdev_failed(t.dev));
	t.dev->can_discard = false;
	ck_assert_int_eq(fs_trim(t.fs, &(struct fs_trim){ .len_bytes = UINT64_MAX }), -EOPNOTSUPP);
	ft_end(&t);
}
END_TEST

// ---- a device that takes its time ----

#define SLOW_MS 100

struct slow {
	struct bdev_ops ops;
	const struct bdev_ops *real;
	uint64_t device_ms;
	_Atomic unsigned n;
};

static struct slow slow; // bdev's functions have no context of their own

static int slow_discard(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	nap_ms(SLOW_MS);
	atomic_fetch_add(&slow.n, 1);
	return slow.real->discard(dev, off_bytes, len_bytes);
}

static struct bdev *make_slow(struct bdev *dev)
{
	slow.real = dev->ops;
	slow.ops = *dev->ops;
	slow.ops.discard = slow_discard;
	dev->ops = &slow.ops;
	return dev;
}

// Deletes every second file of many, so that there is much to discard in many places.
static void leave_holes(struct ft *t)
{
	char name[16];

	for (unsigned i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "%u", i);
		make(t, name, 2 * MIB, (uint8_t)i);
	}
	ck_assert_int_eq(fs_sync(t->fs), 0);
	for (unsigned i = 0; i < 60; i += 2) {
		snprintf(name, sizeof(name), "%u", i);
		delete(t, name);
	}
	wait_reaped(t);
}

// 100 ms of discarding are at most 1/20 of the time: 2 s for each. And the end does not wait for the pause.
START_TEST(slow_devices_are_busy_for_a_twentieth)
{
	uint64_t begin, ms;
	unsigned n;
	struct ft t;

	mount_trimming(&t, make_slow(vt_format(256 * MIB)), DELAY_MS);
	leave_holes(&t);
	while (atomic_load(&slow.n) == 0)
		nap_ms(1);
	begin = now_ms();
	nap_ms(5000);
	n = atomic_load(&slow.n) - 1; // those of these 5 seconds
	ms = now_ms() - begin;
	ck_assert_uint_ge(n, 1);
	ck_assert_msg(n <= ms / (19 * SLOW_MS) + 1, "%u discards of %u ms in %llu ms", n, SLOW_MS, (unsigned long long)ms);
	begin = now_ms();
	ft_unmount(&t);
	ms = now_ms() - begin;
	ck_assert_msg(ms < 1200, "unmounting while trimming took %llu ms", (unsigned long long)ms);
	ft_mount(&t, t.dev);
	ft_end(&t);
}
END_TEST

// ---- random work ----

struct content {
	bool exists;
	uint8_t with;
	size_t len;
};

static void file_name(char name[16], unsigned i) { snprintf(name, 16, "f%u", i); }

static void random_op(struct ft *t, struct content *files, unsigned *rng)
{
	unsigned i = vt_rand(rng) % N_FILES;
	struct content *c = &files[i];
	char name[16];
	uint64_t ino;

	file_name(name, i);
	if (c->exists && vt_rand(rng) % 3 == 0) {
		delete(t, name);
		c->exists = false;
		return;
	}
	if (c->exists)
		ck_assert_int_eq(ft_lookup(t, ROOT_INO, name, &ino), 0);
	else
		ino = ft_create(t, ROOT_INO, name);
	c->len = 1 + vt_rand(rng) % (vt_rand(rng) % 2 == 0 ? FILE_MAX : 64 * KIB);
	c->with = (uint8_t)(1 + vt_rand(rng) % 200); // never the poison
	c->exists = true;
	ck_assert_int_eq(ft_truncate(t, ino, 0), 0);
	fill(t, ino, c->len, c->with);
	fs_forget(t->fs, ino, 1);
}

static void expect_all(struct ft *t, const struct content *files)
{
	uint8_t *buf = malloc(FILE_MAX);
	char name[16];
	uint64_t ino;

	for (unsigned i = 0; i < N_FILES; i++) {
		file_name(name, i);
		ck_assert_int_eq(ft_lookup(t, ROOT_INO, name, &ino), files[i].exists ? 0 : -ENOENT);
		if (!files[i].exists)
			continue;
		memset(buf, files[i].with, files[i].len);
		ft_expect(t, ino, buf, files[i].len);
		fs_forget(t->fs, ino, 1);
	}
	free(buf);
}

START_TEST(random_work)
{
	struct content files[N_FILES] = { { 0 } };
	unsigned rng = vt_seed(11);
	struct ft t;

	mount_trimming(&t, vt_format(64 * MIB), DELAY_MS);
	testdev_fail(t.dev, TESTDEV_DISCARD, 0, 0, false);
	for (unsigned op = 0; op < 600; op++) {
		random_op(&t, files, &rng);
		if (vt_rand(&rng) % 4 == 0)
			ck_assert_int_eq(fs_sync(t.fs), 0);
		if (op % 60 == 0)
			expect_all(&t, files);
		if (op % 200 == 199) {
			ft_unmount(&t);
			mount_trimming(&t, t.dev, DELAY_MS);
		}
	}
	ck_assert_uint_gt(testdev_count(t.dev, TESTDEV_DISCARD), 20);
	expect_all(&t, files);
	ft_end(&t);
}
END_TEST

// Every byte of every file reads, and is that of one version: a file is written by a truncate and one write, so it may be empty.
static void expect_sound(struct ft *t)
{
	uint8_t *buf = malloc(FILE_MAX);
	char name[16];
	uint64_t ino;
	size_t done;

	for (unsigned i = 0; i < N_FILES; i++) {
		file_name(name, i);
		if (ft_lookup(t, ROOT_INO, name, &ino) != 0)
			continue;
		ck_assert_int_eq(fs_read(t->fs, ino, buf, FILE_MAX, 0, &done), 0);
		for (size_t at = 1; at < done; at++)
			if (buf[at] != buf[0])
				ck_abort_msg("%s: byte %zu is %02x, the first one %02x", name, at, buf[at], buf[0]);
		ck_assert(done == 0 || buf[0] != TESTDEV_POISON);
		fs_forget(t->fs, ino, 1);
	}
	free(buf);
}

static bool keep_some(void *ctx, size_t entry ATTR_UNUSED, uint64_t *from ATTR_UNUSED, uint64_t *to)
{
	unsigned *rng = ctx;

	if (vt_rand(rng) % 8 == 0)
		*to /= 2;
	return vt_rand(rng) % 2 == 0;
}

START_TEST(crashes)
{
	struct content files[N_FILES] = { { 0 } };
	unsigned rng = vt_seed(5), n_discards = 0;
	struct ft t, after;

	mount_trimming(&t, vt_format(48 * MIB), 1);
	testdev_record(t.dev, true);
	for (unsigned op = 0; op < 150; op++) {
		random_op(&t, files, &rng);
		if (vt_rand(&rng) % 3 == 0)
			ck_assert_int_eq(fs_sync(t.fs), 0);
	}
	ck_assert_int_eq(fs_sync(t.fs), 0);
	fs_destroy_context(t.fs);
	volume_abandon(t.vol);
	testdev_record(t.dev, false);
	for (size_t i = 0; i < testdev_log_len(t.dev); i++)
		n_discards += testdev_log_at(t.dev, i)->op == TESTDEV_DISCARD;
	ck_assert_uint_ge(n_discards, 5);
	for (unsigned i = 0; i < 60; i++) {
		size_t n = vt_rand(&rng) % (testdev_log_len(t.dev) + 1);
		struct bdev *dev;

		ck_assert_int_eq(testdev_crash_state(t.dev, n, i % 4 == 0 ? NULL : keep_some, &rng, &dev), 0);
		ft_mount(&after, dev);
		expect_sound(&after);
		wait_reaped(&after); // orphans: the sums hold only at rest
		ft_end(&after);
	}
	bdev_close(t.dev);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("trimmer");
	TCase *tc = tcase_create("trimmer"), *work = tcase_create("work");

	tcase_add_test(tc, deleted_files_are_discarded);
	tcase_add_loop_test(tc, not_asked_for_or_not_possible, 0, 3);
	tcase_add_loop_test(tc, errors_end_it, 0, 3);
	tcase_add_test(tc, trim_on_request);
	tcase_add_test(tc, trim_requests_that_are_refused);
	tcase_add_test(tc, slow_devices_are_busy_for_a_twentieth);
	tcase_set_timeout(tc, 120);
	tcase_add_test(work, random_work);
	tcase_add_test(work, crashes);
	tcase_set_timeout(work, 240);
	suite_add_tcase(suite, tc);
	suite_add_tcase(suite, work);
	return ft_main(suite);
}
