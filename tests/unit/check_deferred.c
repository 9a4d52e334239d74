// SPDX-License-Identifier: MIT
// Checksums and deferred writes, through the filesystem core: where blocks are written, how many flushes that costs, what damage on the
// device looks like, and many threads. What a crash leaves is in check_deferred_crash.c.
#include <linux/falloc.h>
#include <pthread.h>

#include "fs/change.h"
#include "fstest.h"

static struct ft t;

static uint64_t flushes(void) { return atomic_load(&t.dev->n_flushes); }

// ---- where and when ----

START_TEST(random_overwrites_do_not_fragment)
{
	unsigned state = vt_seed(7);
	uint8_t *buf = ft_pattern(16 * MIB, 1);
	struct extent a[16], b[16];
	unsigned n;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = ft_durable_file(&t, "f", buf, 16 * MIB);
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
	ck_assert_int_eq(ft_live_rows(&t), 0);
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
	uint8_t *buf = ft_pattern(MIB, 2);
	uint64_t ino, before;

	ft_new(&t, 64 * MIB);
	ino = ft_durable_file(&t, "f", buf, MIB);
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
	ft_durable_file(&t, "h", buf, 3 * BLK_SIZE);
	ck_assert_uint_eq(flushes() - before, 1);
	free(buf);
	ft_end(&t);
}
END_TEST

// Hundreds of fsyncs of one block each: the rows of the earlier ones go without a flush or a transaction of their own.
START_TEST(rows_do_not_gather)
{
	uint8_t *buf = ft_pattern(MIB, 3);
	uint64_t ino, before;

	ft_new(&t, 1024 * MIB); // its log does not start anew meanwhile
	ino = ft_durable_file(&t, "f", buf, MIB);
	before = flushes();
	for (unsigned i = 0; i < 1000; i++) {
		ft_write(&t, ino, buf, BLK_SIZE, (i * 37 % 256) * BLK_SIZE);
		ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
		ck_assert_int_le(ft_live_rows(&t), 2 * DEFERRED_BATCH_MAX_BLK + 1);
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
	uint8_t *buf = ft_pattern(4 * MIB, 22);
	unsigned state = vt_seed(22), n_ops = 4 * DEFERRED_BATCH_MAX_BLK;
	uint64_t ino, before = 0, frame_bytes = BLK_SIZE + 24;

	ft_new(&t, 1024 * MIB);
	ino = ft_durable_file(&t, "f", buf, 4 * MIB);
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
	ck_assert_int_le(ft_locked_sql(&t, "SELECT count(*) FROM deferred"), 3 * DEFERRED_BATCH_MAX_BLK);
	free(buf);
	ft_end(&t);
}
END_TEST

// The device holds the old block until the transaction is durable, readers see the new one at once.
START_TEST(in_place_only_when_durable)
{
	uint8_t *old = ft_pattern(MIB, 4), *new = ft_pattern(BLK_SIZE, 5), on_device[BLK_SIZE];
	struct extent ext;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = ft_durable_file(&t, "f", old, MIB);
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
	uint8_t *buf = ft_pattern(MIB, 21);
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = ft_durable_file(&t, "f", buf, MIB);
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
	uint8_t *old = ft_pattern(64 * KIB, 19), *new = ft_pattern(BLK_SIZE, 20);
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
	uint8_t *a = ft_pattern(MIB, 6), *b = ft_pattern(MIB, 7);
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	for (unsigned round = 0; round < 30; round++) {
		ino = ft_durable_file(&t, "f", a, MIB);
		ft_write(&t, ino, b, 64 * KIB, round * 8 * KIB);
		if (round % 2 == 0)
			ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
		ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), 0);
		fs_forget(t.fs, ino, 1);
		ck_assert_int_eq(fs_sync(t.fs), 0);
		ino = ft_durable_file(&t, "g", b, MIB);
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
	uint8_t *buf = ft_pattern(MIB, 10), *got = malloc(MIB);
	struct extent ext;
	uint64_t ino;
	size_t done;

	ft_new(&t, 16 * MIB);
	ino = ft_durable_file(&t, "f", buf, MIB);
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
	uint8_t *buf = ft_pattern(MIB, 11), got[BLK_SIZE];
	uint64_t ino;
	size_t done;

	ft_new(&t, 16 * MIB);
	ino = ft_durable_file(&t, "f", buf, MIB);
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
	uint8_t *old = ft_pattern(64 * KIB, 15), *new = ft_pattern(BLK_SIZE, 16);
	struct change c;
	struct inode *in;
	uint64_t ino;

	ft_new(&t, 16 * MIB);
	ino = ft_durable_file(&t, "f", old, 64 * KIB);
	for (unsigned i = 0; ft_live_rows(&t) > 0; i++) { // of the file's first blocks
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
	uint8_t *buf = ft_pattern(8 * MIB, 12);
	uint64_t ino;
	int64_t left;

	ft_new(&t, 32 * MIB);
	ino = ft_durable_file(&t, "f", buf, 8 * MIB);
	ck_assert_int_eq(ft_truncate(&t, ino, 0), 0);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	left = ft_locked_sql(&t, "SELECT count(*) FROM csum");
	ck_assert_int_le(left, 2); // the chunks at both ends
	free(buf);
	ft_end(&t);
}
END_TEST

// ---- volumes that are full, and many threads' worth of blocks ----

START_TEST(a_full_volume_can_be_overwritten)
{
	uint8_t *buf = ft_pattern(MIB, 13), *got = malloc(MIB);
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
	uint8_t *buf = ft_pattern(32 * MIB, 14);
	uint64_t ino, first;

	ft_new(&t, 256 * MIB);
	ino = ft_durable_file(&t, "f", buf, 32 * MIB);
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
	tcase_add_test(tc, in_place_only_when_durable);
	tcase_add_test(tc, a_reader_sees_many_pieces);
	tcase_add_test(tc, fresh_only_in_its_transaction);
	tcase_add_test(tc, freed_blocks_are_not_written);
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
