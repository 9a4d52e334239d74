// SPDX-License-Identifier: MIT
// Deferred writes, through the filesystem core: what a crash leaves at each moment of a row's life (DW1, DW2, DW5), and what becomes of
// a block that changes while it is copied. No threads of its own.
#include <linux/falloc.h>

#include "fs/fs_internal.h"
#include "fstest.h"

static struct ft t;

// ---- crashes ----

#define NO_ENTRY SIZE_MAX

struct only { // of the log's entries since the last flush a crash leaves all but one, and half of another
	size_t drop, tear;
};

static bool keep(void *ctx, size_t entry, uint64_t *from, uint64_t *to)
{
	const struct only *o = ctx;

	if (entry == o->tear)
		*to = *from + (*to - *from) / 2;
	return entry != o->drop;
}

static void expect_old_or_new(struct bdev *dev, const uint8_t *old, const uint8_t *new, size_t len, bool must_be_new)
{
	struct ft after = { 0 };
	uint8_t *got = malloc(len);
	uint64_t ino;
	size_t done;

	ft_mount(&after, dev);
	ck_assert_int_eq(ft_lookup(&after, ROOT_INO, "f", &ino), 0);
	ck_assert_int_eq(fs_read(after.fs, ino, got, len, 0, &done), 0);
	ck_assert_uint_eq(done, len);
	ck_assert_msg(memcmp(got, new, len) == 0 || (!must_be_new && memcmp(got, old, len) == 0), "neither before nor after");
	free(got);
	ft_end(&after);
}

// What table csum says of a block.
static bool csum_row_has(uint64_t blk, uint32_t crc)
{
	char sql[128];

	snprintf(sql, sizeof(sql), "SELECT count(*) FROM csum WHERE chunk = %llu AND substr(crc, %u, 4) = x'%08x'",
	         (unsigned long long)(blk / CSUM_CHUNK_BLK), (unsigned)(blk % CSUM_CHUNK_BLK) * 4 + 1, htobe32(htole32(crc)));
	return ft_locked_sql(&t, sql) == 1;
}

// DW5: until the rows are given up, table csum has the checksums of what was overwritten.
START_TEST(checksums_come_late)
{
	uint8_t *buf = ft_pattern(MIB, 23);
	struct bdev *crashed;
	struct extent ext;
	uint64_t ino;
	uint32_t old, new;

	ft_new(&t, 1024 * MIB);
	ino = ft_durable_file(&t, "f", buf, MIB);
	ck_assert_uint_eq(ft_extents(&t, ino, &ext, 1), 1);
	old = csum_block(buf);
	memset(buf, 0x44, BLK_SIZE);
	new = csum_block(buf);
	ft_write(&t, ino, buf, BLK_SIZE, 0);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	ck_assert_int_eq(deferred_copy(t.vol->deferred), 0);
	ft_create(&t, ROOT_INO, "g");
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ck_assert(csum_row_has(ext.phys_blk, old));
	ft_expect(&t, ino, buf, MIB);
	ck_assert_int_eq(testdev_clone(t.dev, &crashed), 0);
	expect_old_or_new(crashed, buf, buf, MIB, true);
	ft_unmount(&t);
	ft_mount(&t, t.dev);
	ck_assert(csum_row_has(ext.phys_blk, new));
	ck_assert_int_eq(ft_locked_sql(&t, "SELECT count(*) FROM deferred"), 0);
	ft_expect(&t, ino, buf, MIB);
	free(buf);
	ft_end(&t);
}
END_TEST

// Rows that were given up lie about, for blocks that belong to others by now. No mount believes in them, whatever is freed in between.
START_TEST(dead_rows_stay_dead)
{
	uint8_t *a = ft_pattern(MIB, 24), *b = ft_pattern(MIB, 25);
	struct bdev *crashed;
	uint64_t ino, other;

	ft_new(&t, 64 * MIB);
	ino = ft_durable_file(&t, "e", a, MIB);
	other = ft_durable_file(&t, "x", a, MIB);
	for (unsigned i = 0; i < 200; i++) {
		ft_write(&t, ino, b, BLK_SIZE, i % 128 * 2 * BLK_SIZE);
		ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	}
	for (unsigned i = 0; i < 40; i++) { // the newest rows are of another file, and both go
		ft_write(&t, other, b, BLK_SIZE, i * BLK_SIZE);
		ck_assert_int_eq(fs_fsync(t.fs, other), 0);
	}
	ck_assert_int_gt(ft_locked_sql(&t, "SELECT count(*) FROM deferred"), ft_live_rows(&t));
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "e"), 0);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "x"), 0);
	fs_forget(t.fs, ino, 1);
	fs_forget(t.fs, other, 1);
	reaper_drain(t.fs);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	for (unsigned i = 0; i < 40; i++) { // into all that is free
		char name[16];

		snprintf(name, sizeof(name), "n%u", i);
		ft_durable_file(&t, i == 39 ? "f" : name, a, MIB);
	}
	ck_assert_int_eq(testdev_clone(t.dev, &crashed), 0);
	expect_old_or_new(crashed, a, a, MIB, true);
	free(a);
	free(b);
	ft_end(&t);
}
END_TEST

// New blocks have been flushed with their transaction, but its rows stay live as long as one that was overwritten in it has not been copied:
// so they are remembered as long, and go with their blocks.
START_TEST(rows_of_a_transaction_wait_for_each_other)
{
	uint8_t *a = ft_pattern(MIB, 31), *b = ft_pattern(MIB, 32);
	const unsigned batch = 16;
	uint64_t f, g;

	ft_new(&t, 16 * MIB);
	f = ft_durable_file(&t, "f", a, MIB);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	g = ft_create(&t, ROOT_INO, "g");
	ft_write(&t, g, b, batch * BLK_SIZE, 0);
	ft_write(&t, f, b, BLK_SIZE, 0);
	memcpy(a, b, BLK_SIZE);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ft_create(&t, ROOT_INO, "x");
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ck_assert_int_eq(ft_live_rows(&t), batch + 1);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "g"), 0);
	fs_forget(t.fs, g, 1);
	reaper_drain(t.fs);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ck_assert_int_le(ft_live_rows(&t), 1);
	ft_check(&t);
	ft_crash(&t);
	ft_expect(&t, f, a, MIB);
	free(a);
	free(b);
	ft_end(&t);
}
END_TEST

// At every entry of the device's log: each write since the last flush dropped, and none; the last one whole, and torn.
static void try_crashes(struct bdev *dev, const uint8_t *old, const uint8_t *new, size_t len, size_t synced)
{
	size_t flushed = 0;

	for (size_t cut = 1; cut <= testdev_log_len(dev); cut++) {
		if (testdev_log_at(dev, cut - 1)->op == TESTDEV_FLUSH)
			flushed = cut;
		for (size_t i = 2 * flushed; i < 2 * (cut + 1); i++) {
			struct only o = { .drop = i / 2, .tear = i % 2 == 0 ? NO_ENTRY : cut - 1 };
			struct bdev *crashed;

			ck_assert_int_eq(testdev_crash_state(dev, cut, keep, &o, &crashed), 0);
			expect_old_or_new(crashed, old, new, len, cut >= synced);
		}
	}
}

// An overwrite of 16 blocks and an fsync, and one more fsync'ed change that takes the rows away: the file is as before or as after, and after
// once the fsync has returned.
START_TEST(every_crash_is_before_or_after)
{
	uint8_t *old = ft_pattern(MIB, 8), *new = malloc(MIB);
	size_t synced;
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = ft_durable_file(&t, "f", old, MIB);
	memcpy(new, old, MIB);
	memset(new + 100000, 0x5a, 60000);
	testdev_record(t.dev, true);
	ft_write(&t, ino, new + 100000, 60000, 100000);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	synced = testdev_log_len(t.dev);
	ck_assert_int_eq(deferred_copy(t.vol->deferred), 0);
	for (unsigned i = 0; i < 3; i++) {
		ft_create(&t, ROOT_INO, i == 0 ? "x" : i == 1 ? "y" : "z");
		ck_assert_int_eq(fs_sync(t.fs), 0);
	}
	testdev_record(t.dev, false);
	try_crashes(t.dev, old, new, MIB, synced);
	free(old);
	free(new);
	ft_end(&t);
}
END_TEST

// The same where a batch has gathered: the last of its fsyncs makes the committer copy all, and the rows go only when that has been flushed.
START_TEST(every_crash_at_the_end_of_a_batch)
{
	uint8_t *old = ft_pattern(MIB, 28), *new = malloc(MIB);
	const unsigned batch = 16; // of a small volume
	size_t synced;
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = ft_durable_file(&t, "f", old, MIB);
	for (unsigned i = 0; i < batch - 1; i++) {
		memset(old + 2 * i * BLK_SIZE, (int)i, BLK_SIZE);
		ft_write(&t, ino, old + 2 * i * BLK_SIZE, BLK_SIZE, 2 * i * BLK_SIZE);
		ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	}
	ck_assert(deferred_wants_copy(t.vol->deferred));
	memcpy(new, old, MIB);
	memset(new + 100 * BLK_SIZE, 0x5c, BLK_SIZE);
	testdev_record(t.dev, true);
	ft_write(&t, ino, new + 100 * BLK_SIZE, BLK_SIZE, 100 * BLK_SIZE);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	ck_assert(!deferred_wants_copy(t.vol->deferred));
	synced = testdev_log_len(t.dev);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_int_ge(ft_live_rows(&t), batch);
		ft_create(&t, ROOT_INO, i == 0 ? "x" : "y");
		ck_assert_int_eq(fs_sync(t.fs), 0);
	}
	ck_assert_int_eq(ft_live_rows(&t), 0);
	testdev_record(t.dev, false);
	try_crashes(t.dev, old, new, MIB, synced);
	free(old);
	free(new);
	ft_end(&t);
}
END_TEST

static uint64_t db_capacity_bytes(struct volume *vol) { return sysfile_capacity_bytes(&vol->files, SYSFILE_DB); }

// A batch is given up while younger rows are still needed: of blocks that nobody has copied yet (one block, too few for a copy), or
// that have been copied and not flushed (another batch). "deferred_from" must not pass those.
START_TEST(every_crash_beside_younger_rows)
{
	uint8_t *old = ft_pattern(MIB, 30), *new = malloc(MIB);
	const unsigned batch = 16, younger = _i == 0 ? 1 : batch;
	uint64_t ino, capacity_bytes;
	size_t synced;

	ft_new(&t, 16 * MIB);
	ino = ft_durable_file(&t, "f", old, MIB);
	for (int i = 0; i < 2; i++) { // twice, so that the database has grown before
		memset(old, 0x5e + i, batch * BLK_SIZE);
		ft_write(&t, ino, old, batch * BLK_SIZE, 0);
		ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	}
	memcpy(new, old, MIB);
	memset(new + 100 * BLK_SIZE, 0x60, younger * BLK_SIZE);
	capacity_bytes = db_capacity_bytes(t.vol);
	testdev_record(t.dev, true);
	ft_write(&t, ino, new + 100 * BLK_SIZE, younger * BLK_SIZE, 100 * BLK_SIZE);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	synced = testdev_log_len(t.dev);
	ck_assert_int_eq(ft_live_rows(&t), batch + younger);
	ft_create(&t, ROOT_INO, "x");
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ck_assert_int_eq(ft_live_rows(&t), younger);
	testdev_record(t.dev, false);
	ck_assert_uint_eq(db_capacity_bytes(t.vol), capacity_bytes); // which would have been a flush
	try_crashes(t.dev, old, new, MIB, synced);
	free(old);
	free(new);
	ft_end(&t);
}
END_TEST

// A clean end copies what is left, flushes it, and only then deletes the rows.
START_TEST(every_crash_at_the_end)
{
	uint8_t *buf = ft_pattern(MIB, 29);
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = ft_durable_file(&t, "f", buf, MIB);
	memset(buf + 100000, 0x5d, 10000);
	ft_write(&t, ino, buf + 100000, 10000, 100000);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	ck_assert(deferred_wants_copy(t.vol->deferred));
	testdev_record(t.dev, true);
	ft_unmount(&t);
	testdev_record(t.dev, false);
	try_crashes(t.dev, buf, buf, MIB, 0);
	bdev_close(t.dev);
	free(buf);
}
END_TEST

// As it was when the recorded fsync became durable: the writes in place come after that.
static struct bdev *without_copies(void)
{
	struct only o = { .drop = NO_ENTRY, .tear = NO_ENTRY };
	struct bdev *crashed;
	size_t cut = 1;

	while (testdev_log_at(t.dev, cut - 1)->op != TESTDEV_FLUSH)
		cut++;
	ck_assert_uint_lt(cut, testdev_log_len(t.dev));
	ck_assert_int_eq(testdev_crash_state(t.dev, cut, keep, &o, &crashed), 0);
	return crashed;
}

// The same for a mount that finds rows, finishes them, and gives them up with its first transaction. Nothing but the recovery flushes what it
// has written before that one's log if the database need not grow, and (_i = 1) fsck has emptied the log, so that no old header is in the way (W4).
START_TEST(every_crash_after_recovery)
{
	uint8_t *buf = ft_pattern(MIB, 18);
	struct ft second = { 0 };
	struct bdev *copy;
	uint64_t ino, capacity_bytes;

	ft_new(&t, 16 * MIB);
	ino = ft_durable_file(&t, "f", buf, MIB);
	for (int i = 0; i < 2; i++) { // a batch, so that the first transaction gives the rows up; twice, so that the database has grown before
		memset(buf + 100000, 0x3c + i, 60000);
		testdev_record(t.dev, true);
		ft_write(&t, ino, buf + 100000, 60000, 100000);
		ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	}
	testdev_record(t.dev, false);
	copy = without_copies();
	if (_i == 1)
		ck_assert_int_eq(volume_close(vt_open_flags(copy, VOLUME_NO_ALLOC)), 0);
	capacity_bytes = db_capacity_bytes(t.vol);
	testdev_record(copy, true);
	ft_mount(&second, copy);
	ck_assert_int_ge(ft_live_rows(&second), 16);
	for (unsigned i = 0; i < 2; i++) {
		ft_create(&second, ROOT_INO, i == 0 ? "x" : "y");
		ck_assert_int_eq(fs_sync(second.fs), 0);
		ck_assert_int_eq(ft_live_rows(&second), 0);
	}
	ck_assert_uint_eq(db_capacity_bytes(second.vol), capacity_bytes);
	testdev_record(copy, false);
	try_crashes(copy, buf, buf, MIB, 0);
	ft_end(&second);
	free(buf);
	ft_end(&t);
}
END_TEST

// Without recovery (read-only), the rows are looked up; with it, they are written and deleted. Both ways, and twice.
START_TEST(pending_rows_are_seen_and_finished)
{
	uint8_t *buf = ft_pattern(MIB, 9);
	struct bdev *crashed, *copy;
	uint64_t ino;
	struct ft ro = { 0 };
	struct fs_opts opts = { .atime = FS_NOATIME };

	ft_new(&t, 1024 * MIB);
	ino = ft_durable_file(&t, "f", buf, MIB);
	testdev_record(t.dev, true);
	memset(buf + 8 * BLK_SIZE, 0x77, 3 * BLK_SIZE);
	ft_write(&t, ino, buf + 8 * BLK_SIZE, 3 * BLK_SIZE, 8 * BLK_SIZE);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	ck_assert_int_eq(deferred_copy(t.vol->deferred), 0);
	testdev_record(t.dev, false);
	crashed = without_copies();
	ck_assert_int_eq(testdev_clone(crashed, &copy), 0);

	ro.dev = copy;
	ro.vol = vt_open_flags(copy, VOLUME_READ_ONLY);
	ck_assert_int_eq(fs_create_context(ro.vol, &opts, &ro.fs), 0);
	ft_expect(&ro, ino, buf, MIB);
	ck_assert_uint_eq(atomic_load(&copy->n_writes), 0);
	ft_unmount(&ro);
	bdev_close(copy);

	for (unsigned i = 0; i < 2; i++) { // the second time over what the first one has written, without a clean end
		ck_assert_int_eq(testdev_clone(crashed, &copy), 0);
		ft_mount(&ro, copy);
		ft_expect(&ro, ino, buf, MIB);
		ft_crash(&ro);
		ft_expect(&ro, ino, buf, MIB);
		ft_unmount(&ro);
		ft_mount(&ro, ro.dev);
		ck_assert_int_eq(ft_locked_sql(&ro, "SELECT count(*) FROM deferred"), 0); // a clean end leaves nothing to be done
		ft_expect(&ro, ino, buf, MIB);
		ft_end(&ro);
	}
	bdev_close(crashed);
	free(buf);
	ft_end(&t);
}
END_TEST

// Their slots are in use: a new row takes another one, and one for the same block the same.
START_TEST(recovered_rows_keep_their_slots)
{
	uint8_t *buf = ft_pattern(MIB, 33);
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = ft_durable_file(&t, "f", buf, MIB);
	for (unsigned i = 0; i < 3; i++) {
		static const unsigned at_blk[] = { 8, 20, 9 }, len_blk[] = { 3, 1, 1 }, n_rows[] = { 3, 4, 4 };

		memset(buf + at_blk[i] * BLK_SIZE, 0x70 + (int)i, len_blk[i] * BLK_SIZE);
		ft_write(&t, ino, buf + at_blk[i] * BLK_SIZE, len_blk[i] * BLK_SIZE, at_blk[i] * BLK_SIZE);
		ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
		ck_assert_int_eq(ft_live_rows(&t), n_rows[i]);
		ft_crash(&t);
		ck_assert_int_eq(ft_live_rows(&t), n_rows[i]);
		ft_expect(&t, ino, buf, MIB);
	}
	free(buf);
	ft_end(&t);
}
END_TEST

// ---- beside a copy ----

// What happens to a block between the moment when its copy begins and the end of the write: the device calls back.
static struct beside {
	struct bdev_ops ops; // the device's, but for writev
	const struct bdev_ops *real;
	void (*act)(struct beside *b);
	uint64_t ino;
	uint8_t *want; // MIB: the file as it should read
	int err;       // of the write
} beside;

static int write_beside(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	dev->ops = beside.real; // once
	beside.act(&beside);
	return beside.err != 0 ? beside.err : dev->ops->writev(dev, iov, n_iov, off_bytes);
}

static void read_beside(struct beside *b) { ft_expect(&t, b->ino, b->want, MIB); }

static void overwrite_beside(struct beside *b)
{
	memset(b->want + 10 * BLK_SIZE, 0x66, 2 * BLK_SIZE);
	ft_write(&t, b->ino, b->want + 10 * BLK_SIZE, 2 * BLK_SIZE, 10 * BLK_SIZE);
}

static void free_beside(struct beside *b)
{
	memset(b->want + 9 * BLK_SIZE, 0, 3 * BLK_SIZE);
	ck_assert_int_eq(fs_fallocate(t.fs, b->ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 9 * BLK_SIZE, 3 * BLK_SIZE), 0);
}

static void (*const beside_acts[])(struct beside *b) = { read_beside, overwrite_beside, free_beside };

static void begin_beside(void (*act)(struct beside *b), int err)
{
	ft_new(&t, 16 * MIB);
	beside = (struct beside){ .ops = *t.dev->ops, .real = t.dev->ops, .act = act, .want = ft_pattern(MIB, 17), .err = err };
	beside.ops.writev = write_beside;
	beside.ino = ft_durable_file(&t, "f", beside.want, MIB);
	memset(beside.want + 8 * BLK_SIZE, 0x55, 4 * BLK_SIZE);
	ft_write(&t, beside.ino, beside.want + 8 * BLK_SIZE, 4 * BLK_SIZE, 8 * BLK_SIZE);
	ck_assert_int_eq(fs_fsync(t.fs, beside.ino), 0);
	t.dev->ops = &beside.ops;
	ck_assert_int_eq(deferred_copy(t.vol->deferred), err);
	ck_assert_ptr_eq(t.dev->ops, beside.real);
	ft_expect(&t, beside.ino, beside.want, MIB);
}

START_TEST(beside_a_copy)
{
	uint8_t *was = ft_pattern(MIB, 17);
	struct bdev *crashed;

	begin_beside(beside_acts[_i], 0);
	memset(was + 8 * BLK_SIZE, 0x55, 4 * BLK_SIZE);
	ck_assert_int_eq(testdev_clone(t.dev, &crashed), 0);
	expect_old_or_new(crashed, was, was, MIB, true);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ft_expect(&t, beside.ino, beside.want, MIB);
	ft_crash(&t);
	ft_expect(&t, beside.ino, beside.want, MIB);
	free(beside.want);
	free(was);
	ft_end(&t);
}
END_TEST

// The device has nothing of it, perhaps: readers go on with what is in memory, and the next mount with the row.
START_TEST(a_copy_that_fails)
{
	struct bdev *crashed;

	begin_beside(read_beside, -EIO);
	ck_assert_int_eq(testdev_clone(t.dev, &crashed), 0);
	expect_old_or_new(crashed, beside.want, beside.want, MIB, true);
	fs_destroy_context(t.fs);
	volume_abandon(t.vol);
	bdev_close(t.dev);
	free(beside.want);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("deferred crash");
	TCase *tc = tcase_create("crash");

	tcase_set_timeout(tc, 300);
	tcase_add_test(tc, checksums_come_late);
	tcase_add_test(tc, dead_rows_stay_dead);
	tcase_add_test(tc, rows_of_a_transaction_wait_for_each_other);
	tcase_add_test(tc, every_crash_is_before_or_after);
	tcase_add_test(tc, every_crash_at_the_end_of_a_batch);
	tcase_add_loop_test(tc, every_crash_beside_younger_rows, 0, 2);
	tcase_add_test(tc, every_crash_at_the_end);
	tcase_add_loop_test(tc, every_crash_after_recovery, 0, 2);
	tcase_add_test(tc, pending_rows_are_seen_and_finished);
	tcase_add_test(tc, recovered_rows_keep_their_slots);
	suite_add_tcase(suite, tc);
	tc = tcase_create("beside");
	tcase_add_loop_test(tc, beside_a_copy, 0, ARRAY_LEN(beside_acts));
	tcase_add_test(tc, a_copy_that_fails);
	suite_add_tcase(suite, tc);
	return ft_main(suite);
}
