// SPDX-License-Identifier: MIT
// Checksums and deferred writes, through the filesystem core: where blocks are written, how many flushes that costs, what a crash leaves,
// and what damage on the device looks like.
#include <linux/falloc.h>
#include <pthread.h>

#include "fs/change.h"
#include "fstest.h"
#include "meta/deferred_rows.h"

static struct ft t;

static uint8_t *pattern(size_t len, unsigned seed)
{
	uint8_t *buf = malloc(len);
	unsigned state = seed * 2654435761u + 1;

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(vt_rand(&state) >> 8);
	return buf;
}

static uint64_t durable_file(const char *name, const void *buf, size_t len)
{
	uint64_t ino = ft_create(&t, ROOT_INO, name);

	ft_write(&t, ino, buf, len, 0);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	return ino;
}

static uint64_t flushes(void) { return atomic_load(&t.dev->n_flushes); }

static int64_t ft_locked_sql(const char *sql)
{
	int64_t n;

	store_lock(t.vol->store);
	n = ft_sql(&t, sql);
	store_unlock(t.vol->store);
	return n;
}

static int64_t n_rows(void) { return ft_locked_sql("SELECT count(*) FROM deferred WHERE " DEFERRED_LIVE_SQL); } // live ones

// What table csum says of a block.
static bool csum_row_has(uint64_t blk, uint32_t crc)
{
	char sql[128];

	snprintf(sql, sizeof(sql), "SELECT count(*) FROM csum WHERE chunk = %llu AND substr(crc, %u, 4) = x'%08x'",
	         (unsigned long long)(blk / CSUM_CHUNK_BLK), (unsigned)(blk % CSUM_CHUNK_BLK) * 4 + 1, htobe32(htole32(crc)));
	return ft_locked_sql(sql) == 1;
}

// ---- where and when ----

START_TEST(random_overwrites_do_not_fragment)
{
	unsigned state = vt_seed(7);
	uint8_t *buf = pattern(16 * MIB, 1);
	struct extent a[16], b[16];
	unsigned n;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = durable_file("f", buf, 16 * MIB);
	n = ft_extents(&t, ino, a, 16);
	for (unsigned i = 0; i < 3000; i++) {
		uint64_t blk = vt_rand(&state) % 4096, len = 1 + vt_rand(&state) % 3;

		len = min_u64(len, 4096 - blk) * BLK_SIZE - vt_rand(&state) % BLK_SIZE;
		memset(buf + blk * BLK_SIZE, (int)i, len);
		ft_write(&t, ino, buf + blk * BLK_SIZE, len, blk * BLK_SIZE);
		if (i % 50 == 0)
			ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	}
	ft_expect(&t, ino, buf, 16 * MIB);
	ck_assert_uint_eq(ft_extents(&t, ino, b, 16), n);
	for (unsigned i = 0; i < n; i++)
		ck_assert(a[i].off_blk == b[i].off_blk && a[i].phys_blk == b[i].phys_blk && a[i].len_blk == b[i].len_blk);
	ft_unmount(&t);
	ft_mount(&t, t.dev);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "f", &ino), 0);
	ft_expect(&t, ino, buf, 16 * MIB);
	ck_assert_int_eq(n_rows(), 0);
	free(buf);
	ft_end(&t);
}
END_TEST

// What an fsync costs: the whole promise of deferring.
static const struct {
	const char *what;
	uint64_t len, off;
	unsigned want;
} flush_cases[] = {
	{ "overwrite of a block", BLK_SIZE, BLK_SIZE, 1 },
	{ "overwrite inside a block", 10, 100, 1 },
	{ "overwrite of 64 KiB", 64 * KIB, 0, 1 },
	{ "append of a block", BLK_SIZE, MIB, 1 },
	{ "append of 100 bytes", 100, MIB, 1 },
	{ "append of 64 KiB", 64 * KIB, MIB, 1 },
	{ "append of 68 KiB", 68 * KIB, MIB, 2 },
	{ "overwrite of 68 KiB", 68 * KIB, 0, 2 },
	{ "overwrite of 1 MiB", MIB, 0, 2 },
};

START_TEST(flushes_per_fsync)
{
	uint8_t *buf = pattern(MIB, 2);
	uint64_t ino, before;

	ft_new(&t, 64 * MIB);
	ino = durable_file("f", buf, MIB);
	before = flushes();
	ft_write(&t, ino, buf, flush_cases[_i].len, flush_cases[_i].off);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	ck_assert_msg(flushes() - before == flush_cases[_i].want, "%s: %llu flushes", flush_cases[_i].what,
	              (unsigned long long)(flushes() - before));
	ino = ft_create(&t, ROOT_INO, "g"); // names and attributes alone, and a small new file
	before = flushes();
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	ck_assert_uint_eq(flushes() - before, 1);
	before = flushes();
	durable_file("h", buf, 3 * BLK_SIZE);
	ck_assert_uint_eq(flushes() - before, 1);
	free(buf);
	ft_end(&t);
}
END_TEST

// Hundreds of fsyncs of one block each: the rows of the earlier ones go without a flush or a transaction of their own.
START_TEST(rows_do_not_gather)
{
	uint8_t *buf = pattern(MIB, 3);
	uint64_t ino, before;

	ft_new(&t, 1024 * MIB); // its log does not start anew meanwhile
	ino = durable_file("f", buf, MIB);
	before = flushes();
	for (unsigned i = 0; i < 1000; i++) {
		ft_write(&t, ino, buf, BLK_SIZE, (i * 37 % 256) * BLK_SIZE);
		ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
		ck_assert_int_le(n_rows(), 2 * DEFERRED_BATCH_MAX_BLK + 1);
	}
	ck_assert_uint_eq(flushes() - before, 1000);
	free(buf);
	ft_end(&t);
}
END_TEST

static uint64_t wal_bytes(void)
{
	struct txn_stats stats;

	txn_get_stats(t.vol, &stats);
	return stats.wal_bytes;
}

// A row takes the place of one that was given up: two pages, and now and then one for the times, or those of a batch that ends.
START_TEST(rows_are_overwritten_in_place)
{
	uint8_t *buf = pattern(4 * MIB, 22);
	unsigned state = vt_seed(22), n_ops = 4 * DEFERRED_BATCH_MAX_BLK;
	uint64_t ino, before = 0, frame_bytes = BLK_SIZE + 24;

	ft_new(&t, 1024 * MIB);
	ino = durable_file("f", buf, 4 * MIB);
	for (unsigned i = 0; i < 3 * n_ops; i++) {
		uint64_t blk = vt_rand(&state) % 1024;

		if (i == 2 * n_ops)
			before = wal_bytes();
		for (unsigned at = 0; at < BLK_SIZE; at += sizeof(state), vt_rand(&state))
			memcpy(buf + blk * BLK_SIZE + at, &state, sizeof(state));
		ft_write(&t, ino, buf + blk * BLK_SIZE, BLK_SIZE, blk * BLK_SIZE);
		ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	}
	ck_assert_uint_lt(wal_bytes() - before, 7 * frame_bytes * n_ops / 2);
	ft_expect(&t, ino, buf, 4 * MIB);
	ck_assert_int_le(ft_locked_sql("SELECT count(*) FROM deferred"), 3 * DEFERRED_BATCH_MAX_BLK);
	free(buf);
	ft_end(&t);
}
END_TEST

// The device holds the old block until the transaction is durable, readers see the new one at once.
START_TEST(in_place_only_when_durable)
{
	uint8_t *old = pattern(MIB, 4), *new = pattern(BLK_SIZE, 5), on_device[BLK_SIZE];
	struct extent ext;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = durable_file("f", old, MIB);
	ck_assert_uint_eq(ft_extents(&t, ino, &ext, 1), 1);
	ft_write(&t, ino, new, BLK_SIZE, 5 * BLK_SIZE);
	memcpy(old + 5 * BLK_SIZE, new, BLK_SIZE);
	ft_expect(&t, ino, old, MIB);
	ck_assert_int_eq(bdev_read(t.dev, on_device, BLK_SIZE, (ext.phys_blk + 5) * BLK_SIZE), 0);
	ck_assert_int_ne(memcmp(on_device, new, BLK_SIZE), 0);
	ck_assert_int_eq(deferred_copy(t.vol->deferred), 0); // nothing yet
	ck_assert_int_eq(bdev_read(t.dev, on_device, BLK_SIZE, (ext.phys_blk + 5) * BLK_SIZE), 0);
	ck_assert_int_ne(memcmp(on_device, new, BLK_SIZE), 0);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	ck_assert_int_eq(deferred_copy(t.vol->deferred), 0);
	ck_assert_int_eq(bdev_read(t.dev, on_device, BLK_SIZE, (ext.phys_blk + 5) * BLK_SIZE), 0);
	ck_assert_int_eq(memcmp(on_device, new, BLK_SIZE), 0);
	ft_expect(&t, ino, old, MIB);
	free(old);
	free(new);
	ft_end(&t);
}
END_TEST

// Every other block is deferred: more pieces than a reader looks up at once.
START_TEST(a_reader_sees_many_pieces)
{
	uint8_t *buf = pattern(MIB, 21);
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = durable_file("f", buf, MIB);
	for (uint64_t at = 0; at < MIB; at += 2 * BLK_SIZE) {
		buf[at] ^= 0xff;
		ft_write(&t, ino, buf + at, BLK_SIZE, at);
	}
	ft_expect(&t, ino, buf, MIB);
	free(buf);
	ft_end(&t);
}
END_TEST

// A block is fresh only in its own transaction: if that is closed while the change is prepared, nothing is written in place.
START_TEST(fresh_only_in_its_transaction)
{
	uint8_t *old = pattern(64 * KIB, 19), *new = pattern(BLK_SIZE, 20);
	struct change c;
	struct inode *in;
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, old, 64 * KIB, 0);
	in = inode_pin(t.fs, ino);
	ck_assert_int_eq(inode_lock_change(t.fs, in), 0);
	ck_assert_int_eq(change_load(&c, t.fs, in, 3, 1), 0);
	c.buf = new;
	c.off = 3 * BLK_SIZE;
	c.end = 4 * BLK_SIZE;
	ck_assert_int_eq(change_alloc(&c, CHANGE_PLAIN), 0);
	ck_assert_int_eq(c.segs[0].kind, SEG_FRESH);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ck_assert_int_eq(change_begin(&c, TXN_FREE), -EAGAIN);
	pthread_rwlock_unlock(&in->lock);
	inode_unpin(t.fs, in);
	ft_expect(&t, ino, old, 64 * KIB);
	free(old);
	free(new);
	ft_end(&t);
}
END_TEST

// An unlinked file takes its deferred writes along: its blocks are somebody else's soon.
START_TEST(freed_blocks_are_not_written)
{
	uint8_t *a = pattern(MIB, 6), *b = pattern(MIB, 7);
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	for (unsigned round = 0; round < 30; round++) {
		ino = durable_file("f", a, MIB);
		ft_write(&t, ino, b, 64 * KIB, round * 8 * KIB);
		if (round % 2 == 0)
			ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
		ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), 0);
		fs_forget(t.fs, ino, 1);
		ck_assert_int_eq(fs_sync(t.fs), 0);
		ino = durable_file("g", b, MIB);
		ft_expect(&t, ino, b, MIB);
		ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "g"), 0);
		fs_forget(t.fs, ino, 1);
	}
	free(a);
	free(b);
	ft_unmount(&t); // finishes the deletions
	ft_mount(&t, t.dev);
	ft_end(&t);
}
END_TEST

// ---- crashes ----

struct only { // entries of the log that a crash leaves
	size_t drop_from, drop_to;
	size_t tear;
};

static bool keep(void *ctx, size_t entry, uint64_t *from, uint64_t *to)
{
	const struct only *o = ctx;

	if (entry == o->tear)
		*to = *from + (*to - *from) / 2;
	return entry < o->drop_from || entry >= o->drop_to;
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

// DW5: until the rows are given up, table csum has the checksums of what was overwritten.
START_TEST(checksums_come_late)
{
	uint8_t *buf = pattern(MIB, 23);
	struct bdev *crashed;
	struct extent ext;
	uint64_t ino;
	uint32_t old, new;

	ft_new(&t, 1024 * MIB);
	ino = durable_file("f", buf, MIB);
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
	ck_assert_int_eq(ft_locked_sql("SELECT count(*) FROM deferred"), 0);
	ft_expect(&t, ino, buf, MIB);
	free(buf);
	ft_end(&t);
}
END_TEST

// Rows that were given up lie about, for blocks that belong to others by now. No mount believes in them, whatever is freed in between.
START_TEST(dead_rows_stay_dead)
{
	uint8_t *a = pattern(MIB, 24), *b = pattern(MIB, 25);
	struct bdev *crashed;
	uint64_t ino, other;

	ft_new(&t, 64 * MIB);
	ino = durable_file("e", a, MIB);
	other = durable_file("x", a, MIB);
	for (unsigned i = 0; i < 200; i++) {
		ft_write(&t, ino, b, BLK_SIZE, i % 128 * 2 * BLK_SIZE);
		ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	}
	for (unsigned i = 0; i < 40; i++) { // the newest rows are of another file, and both go
		ft_write(&t, other, b, BLK_SIZE, i * BLK_SIZE);
		ck_assert_int_eq(fs_fsync(t.fs, other), 0);
	}
	ck_assert_int_gt(ft_locked_sql("SELECT count(*) FROM deferred"), n_rows());
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "e"), 0);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "x"), 0);
	fs_forget(t.fs, ino, 1);
	fs_forget(t.fs, other, 1);
	reaper_drain(t.fs);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	for (unsigned i = 0; i < 40; i++) { // into all that is free
		char name[16];

		snprintf(name, sizeof(name), "n%u", i);
		durable_file(i == 39 ? "f" : name, a, MIB);
	}
	ck_assert_int_eq(testdev_clone(t.dev, &crashed), 0);
	expect_old_or_new(crashed, a, a, MIB, true);
	free(a);
	free(b);
	ft_end(&t);
}
END_TEST

// At every entry of the device's log: each write since the last flush dropped, alone or with all behind it, and the last one torn.
static void try_crashes(struct bdev *dev, const uint8_t *old, const uint8_t *new, size_t len, size_t synced)
{
	size_t flushed = 0;

	for (size_t cut = 1; cut <= testdev_log_len(dev); cut++) {
		if (testdev_log_at(dev, cut - 1)->op == TESTDEV_FLUSH)
			flushed = cut;
		for (size_t i = 2 * flushed; i < 2 * cut; i++) {
			struct only o = { .drop_from = i / 2, .drop_to = i % 2 != 0 ? i / 2 + 1 : cut, .tear = cut - 1 };
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
	uint8_t *old = pattern(MIB, 8), *new = malloc(MIB);
	size_t synced;
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = durable_file("f", old, MIB);
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
	uint8_t *old = pattern(MIB, 28), *new = malloc(MIB);
	const unsigned batch = 16; // of a small volume
	size_t synced;
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = durable_file("f", old, MIB);
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
		ck_assert_int_ge(n_rows(), batch);
		ft_create(&t, ROOT_INO, i == 0 ? "x" : "y");
		ck_assert_int_eq(fs_sync(t.fs), 0);
	}
	ck_assert_int_eq(n_rows(), 0);
	testdev_record(t.dev, false);
	try_crashes(t.dev, old, new, MIB, synced);
	free(old);
	free(new);
	ft_end(&t);
}
END_TEST

// As it was when the recorded fsync became durable: the writes in place come after that.
static struct bdev *without_copies(void)
{
	struct only o = { .drop_from = SIZE_MAX, .drop_to = SIZE_MAX, .tear = SIZE_MAX };
	struct bdev *crashed;
	size_t cut = 1;

	while (testdev_log_at(t.dev, cut - 1)->op != TESTDEV_FLUSH)
		cut++;
	ck_assert_uint_lt(cut, testdev_log_len(t.dev));
	ck_assert_int_eq(testdev_crash_state(t.dev, cut, keep, &o, &crashed), 0);
	return crashed;
}

// The same for a mount that finds rows, finishes them, and deletes them with its first transaction.
START_TEST(every_crash_after_recovery)
{
	uint8_t *buf = pattern(MIB, 18);
	struct ft second = { 0 };
	struct bdev *copy;
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = durable_file("f", buf, MIB);
	memset(buf + 100000, 0x3c, 60000); // a batch, so that the first transaction gives the rows up
	testdev_record(t.dev, true);
	ft_write(&t, ino, buf + 100000, 60000, 100000);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	testdev_record(t.dev, false);
	copy = without_copies();
	testdev_record(copy, true);
	ft_mount(&second, copy);
	for (unsigned i = 0; i < 2; i++) {
		ft_create(&second, ROOT_INO, i == 0 ? "x" : "y");
		ck_assert_int_eq(fs_sync(second.fs), 0);
	}
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
	uint8_t *buf = pattern(MIB, 9);
	struct bdev *crashed, *copy;
	uint64_t ino;
	struct ft ro = { 0 };
	struct fs_opts opts = { .atime = FS_NOATIME };

	ft_new(&t, 1024 * MIB);
	ino = durable_file("f", buf, MIB);
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
		store_lock(ro.vol->store);
		ck_assert_int_eq(ft_sql(&ro, "SELECT count(*) FROM deferred"), 0); // a clean end leaves nothing to be done
		store_unlock(ro.vol->store);
		ft_expect(&ro, ino, buf, MIB);
		ft_end(&ro);
	}
	bdev_close(crashed);
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
	beside = (struct beside){ .ops = *t.dev->ops, .real = t.dev->ops, .act = act, .want = pattern(MIB, 17), .err = err };
	beside.ops.writev = write_beside;
	beside.ino = durable_file("f", beside.want, MIB);
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
	uint8_t *was = pattern(MIB, 17);
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

// ---- damage ----

static void flip(uint64_t phys_blk, unsigned byte)
{
	uint8_t blk[BLK_SIZE];

	ck_assert_int_eq(bdev_read(t.dev, blk, BLK_SIZE, phys_blk * BLK_SIZE), 0);
	blk[byte] ^= 1;
	ck_assert_int_eq(bdev_write(t.dev, blk, BLK_SIZE, phys_blk * BLK_SIZE), 0);
}

START_TEST(one_bit_is_one_block)
{
	uint8_t *buf = pattern(MIB, 10), *got = malloc(MIB);
	struct extent ext;
	uint64_t ino;
	size_t done;

	ft_new(&t, 16 * MIB);
	ino = durable_file("f", buf, MIB);
	ck_assert_uint_eq(ft_extents(&t, ino, &ext, 1), 1);
	flip(ext.phys_blk + 100, 4095);
	ck_assert_int_eq(fs_read(t.fs, ino, got, MIB, 0, &done), -EIO);
	ck_assert_uint_eq(done, 100 * BLK_SIZE);
	ck_assert_int_eq(memcmp(got, buf, done), 0);
	for (unsigned off = 0; off < MIB; off += 1000) { // partial reads: only those that touch the block
		bool touches = off < 101 * BLK_SIZE && off + 10 > 100 * BLK_SIZE;
		int r = fs_read(t.fs, ino, got, 10, off, &done);

		ck_assert_int_eq(r, touches ? -EIO : 0);
		ck_assert(touches || memcmp(got, buf + off, 10) == 0);
	}
	// A write of a part needs the rest; a write of all of it heals the block.
	ck_assert_int_eq(fs_write(t.fs, ino, buf, 10, 100 * BLK_SIZE + 5, 0, &done), -EIO);
	ft_write(&t, ino, buf + 100 * BLK_SIZE, BLK_SIZE, 100 * BLK_SIZE);
	ft_expect(&t, ino, buf, MIB);
	free(buf);
	free(got);
	ft_end(&t);
}
END_TEST

START_TEST(a_missing_checksum_is_an_error)
{
	uint8_t *buf = pattern(MIB, 11), got[BLK_SIZE];
	uint64_t ino;
	size_t done;

	ft_new(&t, 16 * MIB);
	ino = durable_file("f", buf, MIB);
	store_lock(t.vol->store);
	ck_assert_int_eq(sqlite3_exec(store_db(t.vol->store), "DELETE FROM csum", NULL, NULL, NULL), SQLITE_OK);
	store_unlock(t.vol->store);
	ck_assert_int_eq(fs_read(t.fs, ino, got, BLK_SIZE, 0, &done), -EIO);
	ft_write(&t, ino, buf, MIB, 0);
	ft_expect(&t, ino, buf, MIB);
	free(buf);
	ft_end(&t);
}
END_TEST

// One thread's change meets an error and takes back the open transaction, while another one's is at work in it: readers go on with what
// was committed, blocks and checksums.
START_TEST(a_failure_takes_all_checksums_back)
{
	uint8_t *old = pattern(64 * KIB, 15), *new = pattern(BLK_SIZE, 16);
	struct change c;
	struct inode *in;
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = durable_file("f", old, 64 * KIB);
	for (unsigned i = 0; n_rows() > 0; i++) { // of the file's first blocks
		ck_assert_uint_lt(i, 3);
		ft_create(&t, ROOT_INO, i == 0 ? "a" : i == 1 ? "b" : "c");
		ck_assert_int_eq(fs_sync(t.fs), 0);
	}
	ft_write(&t, ino, new, BLK_SIZE, 7 * BLK_SIZE); // is taken back, too
	in = inode_pin(t.fs, ino);
	ck_assert_int_eq(inode_lock_change(t.fs, in), 0);
	ck_assert_int_eq(change_load(&c, t.fs, in, 3, 1), 0);
	c.buf = new;
	c.off = 3 * BLK_SIZE;
	c.end = 4 * BLK_SIZE;
	ck_assert_int_eq(change_alloc(&c, CHANGE_PLAIN), 0);
	ck_assert_int_eq(change_begin(&c, TXN_FREE), 0);
	store_fail(t.vol->store, -EIO, "test");
	ck_assert_int_eq(change_end(&c, change_apply(&c)), -EROFS);
	pthread_rwlock_unlock(&in->lock);
	inode_unpin(t.fs, in);
	ft_expect(&t, ino, old, 64 * KIB);
	fs_destroy_context(t.fs);
	volume_abandon(t.vol);
	bdev_close(t.dev);
	free(old);
	free(new);
}
END_TEST

// Rows of chunks go when the whole chunk is freed; the table does not grow with what has been deleted.
START_TEST(checksums_go_with_their_chunks)
{
	uint8_t *buf = pattern(8 * MIB, 12);
	uint64_t ino;
	int64_t left;

	ft_new(&t, 32 * MIB);
	ino = durable_file("f", buf, 8 * MIB);
	ck_assert_int_eq(ft_truncate(&t, ino, 0), 0);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	store_lock(t.vol->store);
	left = ft_sql(&t, "SELECT count(*) FROM csum");
	store_unlock(t.vol->store);
	ck_assert_int_le(left, 2); // the chunks at both ends
	free(buf);
	ft_end(&t);
}
END_TEST

// ---- volumes that are full, and many threads' worth of blocks ----

START_TEST(a_full_volume_can_be_overwritten)
{
	uint8_t *buf = pattern(MIB, 13), *got = malloc(MIB);
	unsigned state = 5;
	uint64_t ino, size = 0;
	size_t done, n;
	int r;

	ft_new(&t, 16 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	do {
		r = fs_write(t.fs, ino, buf, MIB, size, 0, &done);
		size += done;
	} while (r == 0 && done > 0);
	ck_assert_int_eq(r, -ENOSPC);
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t off = (uint64_t)vt_rand(&state) % (size / BLK_SIZE) * BLK_SIZE;

		ft_write(&t, ino, buf + i % 200 * BLK_SIZE, min_u64(size - off, (1 + i % 16) * BLK_SIZE), off);
		if (i % 100 == 0)
			ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	}
	// Long ones, for which there are no other blocks, go piece by piece. What follows the file's end has no place.
	for (uint64_t at = 100; at < size; at += done) {
		memset(buf, (int)(at / KIB), MIB);
		ck_assert_int_eq(fs_write(t.fs, ino, buf, MIB, at, 0, &done), 0);
		ck_assert_uint_gt(done, 0);
		ck_assert_int_eq(fs_read(t.fs, ino, got, done, at, &n), 0);
		ck_assert(n == done && memcmp(got, buf, n) == 0);
	}
	ck_assert_uint_eq((uint64_t)ft_stat(&t, ino).st_size, size);
	free(buf);
	free(got);
	ft_end(&t);
}
END_TEST

// Without an fsync: transactions close by themselves before they hold too much.
START_TEST(many_overwrites_close_the_transaction)
{
	uint8_t *buf = pattern(32 * MIB, 14);
	uint64_t ino, first;

	ft_new(&t, 256 * MIB);
	ino = durable_file("f", buf, 32 * MIB);
	first = txn_durable_id(t.vol);
	for (uint64_t at = 0; at < 32 * MIB; at += 8 * KIB) {
		buf[at] ^= 0xff;
		ft_write(&t, ino, buf + at, 8 * KIB, at);
		ck_assert_uint_le(deferred_open_blk(t.vol->deferred), DEFERRED_TXN_MAX_BLK + 2);
	}
	ck_assert_uint_ge(txn_durable_id(t.vol) - first, 3);
	ft_expect(&t, ino, buf, 32 * MIB);
	free(buf);
	ft_end(&t);
}
END_TEST

// ---- many threads ----

#define N_THREADS 4u
#define FILE_BYTES (512 * KIB)

struct worker {
	pthread_t thread;
	unsigned number, state;
	char name[16];
	uint64_t ino;
	size_t size;
	uint8_t *want;
};

static void worker_write(struct worker *w)
{
	size_t off = vt_rand(&w->state) % (FILE_BYTES - 70000), len = 1 + vt_rand(&w->state) % 70000;

	if (vt_rand(&w->state) % 2 == 0) { // whole blocks
		off -= off % BLK_SIZE;
		len = (1 + len / 8 / BLK_SIZE) * BLK_SIZE;
	}
	if (off > w->size)
		memset(w->want + w->size, 0, off - w->size);
	memset(w->want + off, (int)vt_rand(&w->state), len);
	ft_write(&t, w->ino, w->want + off, len, off);
	w->size = max_u64(w->size, off + len);
}

static void worker_step(struct worker *w)
{
	switch (vt_rand(&w->state) % 16) {
	case 0:
		ck_assert_int_eq(fs_fsync(t.fs, w->ino), 0);
		break;
	case 1:
		w->size = vt_rand(&w->state) % FILE_BYTES;
		memset(w->want + w->size, 0, FILE_BYTES - w->size);
		ck_assert_int_eq(ft_truncate(&t, w->ino, w->size), 0);
		break;
	case 2:
		ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, w->name), 0);
		fs_forget(t.fs, w->ino, 1);
		w->ino = ft_create(&t, ROOT_INO, w->name);
		w->size = 0;
		memset(w->want, 0, FILE_BYTES);
		break;
	case 3:
	case 4:
	case 5:
		ft_expect(&t, w->ino, w->want, w->size);
		break;
	default:
		worker_write(w);
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < 400; i++)
		worker_step(w);
	ft_expect(&t, w->ino, w->want, w->size);
	return NULL;
}

// Overwrites, reads, truncates and deletions beside commits and copies that the background thread makes every 2 ms.
START_TEST(threads_overwrite)
{
	struct volume_opts opts = { .commit_interval_ms = 2 };
	struct fs_opts fs_opts = { .atime = FS_NOATIME };
	struct worker w[N_THREADS];
	unsigned seed = vt_seed(77);

	t.dev = vt_format(64 * MIB);
	ck_assert_int_eq(volume_open(t.dev, &opts, &t.vol, NULL), 0);
	ck_assert_int_eq(fs_create_context(t.vol, &fs_opts, &t.fs), 0);
	for (unsigned i = 0; i < N_THREADS; i++) {
		w[i] = (struct worker){ .number = i, .state = seed + i * 7919, .want = calloc(1, FILE_BYTES + 70000) };
		snprintf(w[i].name, sizeof(w[i].name), "file%u", i);
		w[i].ino = ft_create(&t, ROOT_INO, w[i].name);
	}
	for (unsigned i = 0; i < N_THREADS; i++)
		ck_assert_int_eq(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	for (unsigned i = 0; i < N_THREADS; i++)
		pthread_join(w[i].thread, NULL);
	ft_unmount(&t);
	ft_mount(&t, t.dev);
	for (unsigned i = 0; i < N_THREADS; i++) {
		ck_assert_int_eq(ft_lookup(&t, ROOT_INO, w[i].name, &w[i].ino), 0);
		ft_expect(&t, w[i].ino, w[i].want, w[i].size);
		free(w[i].want);
	}
	ft_end(&t);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("deferred");
	TCase *tc = tcase_create("order");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, random_overwrites_do_not_fragment);
	tcase_add_loop_test(tc, flushes_per_fsync, 0, ARRAY_LEN(flush_cases));
	tcase_add_test(tc, rows_do_not_gather);
	tcase_add_test(tc, rows_are_overwritten_in_place);
	tcase_add_test(tc, checksums_come_late);
	tcase_add_test(tc, dead_rows_stay_dead);
	tcase_add_test(tc, in_place_only_when_durable);
	tcase_add_test(tc, a_reader_sees_many_pieces);
	tcase_add_test(tc, fresh_only_in_its_transaction);
	tcase_add_test(tc, freed_blocks_are_not_written);
	tcase_add_test(tc, every_crash_is_before_or_after);
	tcase_add_test(tc, every_crash_at_the_end_of_a_batch);
	tcase_add_test(tc, every_crash_after_recovery);
	tcase_add_test(tc, pending_rows_are_seen_and_finished);
	suite_add_tcase(suite, tc);
	tc = tcase_create("beside");
	tcase_add_loop_test(tc, beside_a_copy, 0, ARRAY_LEN(beside_acts));
	tcase_add_test(tc, a_copy_that_fails);
	suite_add_tcase(suite, tc);
	tc = tcase_create("damage");
	tcase_add_test(tc, one_bit_is_one_block);
	tcase_add_test(tc, a_missing_checksum_is_an_error);
	tcase_add_test(tc, a_failure_takes_all_checksums_back);
	tcase_add_test(tc, checksums_go_with_their_chunks);
	suite_add_tcase(suite, tc);
	tc = tcase_create("much");
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, a_full_volume_can_be_overwritten);
	tcase_add_test(tc, many_overwrites_close_the_transaction);
	tcase_add_test(tc, threads_overwrite);
	suite_add_tcase(suite, tc);
	return ft_main(suite);
}
