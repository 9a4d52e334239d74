// SPDX-License-Identifier: MIT
// meta/txn: T1–T5. Durability, group commit, what a crash at each write leaves behind, failing devices, log restarts, small volumes.
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "meta/extmap.h"
#include "meta/freemap.h"
#include "meta/rows.h"
#include "run_suite.h"
#include "util/blk.h"
#include "voltest.h"

#define MIB (1ull << 20)

// One operation: inode `ino` appears with size `value` and takes part in a sum that must always be right. Two rows in one handle: T1.
static uint64_t put(struct volume *vol, uint64_t ino, uint64_t value)
{
	struct inode_row row = { .ino = ino, .mode = S_IFREG | 0644, .nlink = 1, .size_bytes = value };
	struct inode_row twin = { .ino = ino + 1000000, .mode = S_IFREG | 0644, .nlink = 1, .size_bytes = value };
	uint64_t id;
	int err;

	ck_assert_int_eq(txn_begin(vol, TXN_GROW, &id), 0);
	store_lock(vol->store);
	err = inode_insert(vol->store, &row);
	if (err == 0)
		err = inode_insert(vol->store, &twin);
	store_unlock(vol->store);
	txn_end(vol);
	ck_assert_int_eq(err, 0);
	return id;
}

static bool has(struct volume *vol, uint64_t ino)
{
	struct inode_row row, twin;
	int a, b;

	store_lock(vol->store);
	a = inode_get(vol->store, ino, &row);
	b = inode_get(vol->store, ino + 1000000, &twin);
	store_unlock(vol->store);
	ck_assert_int_eq(a, b); // both or neither
	if (a == 0)
		ck_assert_uint_eq(row.size_bytes, twin.size_bytes);
	return a == 0;
}

// Commits n transactions one by one, after somebody has used a metaslab. Whether one is still loaded then.
static bool stays_loaded(struct volume *vol, uint64_t first_ino, unsigned n)
{
	struct alloc_req req = { .want_blk = 1 };
	struct runlist out = { 0 };
	struct alloc_stats stats;

	ck_assert_int_eq(alloc_get(vol->alloc, NULL, &req, &out), 0);
	ck_assert_int_eq(alloc_put(vol->alloc, out.runs[0].start_blk, 1), 0);
	runlist_free(&out);
	alloc_get_stats(vol->alloc, &stats);
	ck_assert_uint_ge(stats.n_loaded, 1);
	for (unsigned i = 0; i < n; i++)
		ck_assert_int_eq(txn_wait_durable(vol, put(vol, first_ino + i, i)), 0);
	alloc_get_stats(vol->alloc, &stats);
	return stats.n_loaded > 0;
}

// Memory beyond the limit goes back now and then, and the metaslabs come again when they are needed.
START_TEST(cold_metaslabs_are_dropped)
{
	struct volume_opts opts = { .commit_interval_ms = 3600000, .alloc_bytes_max = 1 };
	struct bdev *dev = vt_format(32 * MIB);
	struct errmsg why = { "" };
	struct volume *vol;

	ck_assert_int_eq(volume_open(dev, &opts, &vol, &why), 0);
	ck_assert_uint_lt(txn_open_id(vol), 64); // the 64th shall be the last of these
	ck_assert(!stays_loaded(vol, 10, 64 - (unsigned)txn_open_id(vol) + 1));
	ck_assert(stays_loaded(vol, 100, 1)); // not at each commit
	ck_assert_msg(alloc_check(vol->alloc, &why) == 0, "%s", why.text);
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);

	dev = vt_format(32 * MIB);
	vol = vt_open(dev);
	ck_assert(stays_loaded(vol, 10, 64)); // far below the usual limit
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

START_TEST(durable_means_durable)
{
	struct bdev *dev = vt_format(32 * MIB), *crashed;
	struct volume *vol = vt_open(dev), *after;
	uint64_t id = put(vol, 10, 1);

	ck_assert_uint_eq(id, txn_open_id(vol));
	ck_assert_int_eq(testdev_clone(dev, &crashed), 0);
	after = vt_open(crashed);
	ck_assert(!has(after, 10)); // not committed
	volume_abandon(after);
	bdev_close(crashed);

	ck_assert_int_eq(txn_wait_durable(vol, id), 0);
	ck_assert_uint_eq(txn_durable_id(vol), id);
	put(vol, 11, 1);
	ck_assert_int_eq(testdev_clone(dev, &crashed), 0);
	volume_abandon(vol);
	after = vt_open(crashed);
	ck_assert(after->recovered);
	ck_assert(has(after, 10));
	ck_assert(!has(after, 11));
	ck_assert_int_eq(volume_close(after), 0);
	bdev_close(crashed);
	bdev_close(dev);
}
END_TEST

START_TEST(flushes_per_commit)
{
	struct bdev *dev = vt_format(32 * MIB);
	struct volume *vol = vt_open(dev);
	uint64_t before = atomic_load(&dev->n_flushes), id;

	ck_assert_int_eq(txn_commit(vol), 0); // nothing changed: nothing written
	ck_assert_uint_eq(atomic_load(&dev->n_flushes), before);
	put(vol, 10, 1);
	ck_assert_int_eq(txn_commit(vol), 0); // metadata: one flush
	ck_assert_uint_eq(atomic_load(&dev->n_flushes), before + 1);
	ck_assert_int_eq(txn_begin(vol, TXN_GROW, &id), 0);
	txn_data_written(vol);
	txn_end(vol);
	put(vol, 11, 1);
	ck_assert_int_eq(txn_commit(vol), 0); // with file data: two
	ck_assert_uint_eq(atomic_load(&dev->n_flushes), before + 3);
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

#define N_THREADS 8
#define N_PER_THREAD 60

struct worker {
	struct volume *vol;
	unsigned index;
};

static void *commit_often(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < N_PER_THREAD; i++) {
		uint64_t id = put(w->vol, 100 + w->index * 1000 + i, i);

		if (txn_wait_durable(w->vol, id) != 0 || txn_durable_id(w->vol) < id)
			return (void *)(uintptr_t)"not durable";
	}
	return NULL;
}

START_TEST(fsyncs_share_commits)
{
	struct bdev *dev = vt_format(64 * MIB);
	struct volume *vol = vt_open(dev);
	struct worker w[N_THREADS];
	pthread_t thread[N_THREADS];
	struct txn_stats stats;
	void *result;

	for (unsigned i = 0; i < N_THREADS; i++) {
		w[i] = (struct worker){ vol, i };
		ck_assert_int_eq(pthread_create(&thread[i], NULL, commit_often, &w[i]), 0);
	}
	for (unsigned i = 0; i < N_THREADS; i++) {
		pthread_join(thread[i], &result);
		ck_assert_ptr_null(result);
	}
	txn_get_stats(vol, &stats);
	ck_assert_uint_le(stats.commits, N_THREADS * N_PER_THREAD);
	ck_assert_int_eq(volume_close(vol), 0);
	vol = vt_open(dev);
	for (unsigned i = 0; i < N_THREADS; i++)
		for (unsigned k = 0; k < N_PER_THREAD; k++)
			ck_assert(has(vol, 100 + i * 1000 + k));
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

// ---- crashes ----

struct lottery {
	unsigned *rng;
};

// Drops half of the writes of the open flush epoch and tears a quarter of the rest.
static bool keep_some(void *ctx, size_t entry, uint64_t *from, uint64_t *to)
{
	unsigned *rng = ((struct lottery *)ctx)->rng;

	(void)entry;
	if (vt_rand(rng) % 2 == 0)
		return false;
	if (vt_rand(rng) % 4 == 0)
		*to = *from + vt_rand(rng) % (*to - *from + 1);
	return true;
}

// Contents: inodes 1 … n for some n (a prefix), n at least what was durable when the plug was pulled.
static void check_prefix(struct bdev *crashed, unsigned durable, unsigned written)
{
	struct volume *vol = vt_open(crashed);
	unsigned n = 0;

	while (n < written && has(vol, 10 + n))
		n++;
	ck_assert_uint_ge(n, durable);
	for (unsigned k = n; k < written; k++)
		ck_assert(!has(vol, 10 + k));
	// It goes on from there.
	if (n < written)
		put(vol, 10 + n, 5);
	ck_assert_int_eq(volume_close(vol), 0);
}

START_TEST(every_crash_is_a_prefix)
{
	struct bdev *dev = vt_format(16 * MIB), *crashed;
	struct volume *vol = vt_open(dev);
	unsigned rng = vt_seed(99), states = 0;
	struct lottery lottery = { &rng };
	size_t mark[200], n_marks = 0, first, last;

	testdev_record(dev, true);
	for (unsigned i = 0; i < 40; i++) {
		put(vol, 10 + i, i);
		mark[n_marks++] = SIZE_MAX;
		if (i % 3 == 2) {
			ck_assert_int_eq(txn_commit(vol), 0);
			for (size_t k = n_marks - 3; k < n_marks; k++)
				mark[k] = testdev_log_len(dev); // operations durable from here on
		}
	}
	ck_assert_int_eq(volume_close(vol), 0);
	first = 0;
	last = testdev_log_len(dev);
	for (size_t cut = first; cut <= last; cut++) {
		unsigned durable = 0;

		while (durable < n_marks && mark[durable] <= cut)
			durable++;
		for (int round = 0; round < 3; round++) {
			ck_assert_int_eq(testdev_crash_state(dev, cut, round == 0 ? NULL : keep_some, &lottery, &crashed), 0);
			check_prefix(crashed, durable, 40);
			bdev_close(crashed);
			states++;
		}
	}
	printf("%u crash states of %zu log entries\n", states, last);
	ck_assert_uint_gt(states, 100);
	bdev_close(dev);
}
END_TEST

struct torn_log {
	struct bdev *dev;
	uint64_t log_off, from_sector;
};

// Without the first write, and without the first sectors of what is written to the log's beginning.
static bool tear_log(void *ctx, size_t entry, uint64_t *from, uint64_t *to)
{
	const struct torn_log *torn = ctx;

	if (testdev_log_at(torn->dev, entry)->off_bytes == torn->log_off)
		*from = min_u64(torn->from_sector, *to);
	return entry != 0;
}

// A process that is killed at the end of an unmount, after it has erased the log's header and before it has flushed that; then a mount, and
// a power failure that takes the erasing back. The new log's frames must not be found behind the old header and the first of the old ones.
START_TEST(a_log_erased_by_a_dead_process)
{
	struct bdev *dev = vt_format(16 * MIB), *dead, *crashed;
	struct volume *vol = vt_open(dev);
	uint64_t log_off = blk_to_bytes(vol->files.sb.sysfile[SYSFILE_WAL].extents[0].start_blk);
	const struct testdev_entry *erase = NULL;
	size_t at = 0;

	testdev_record(dev, true);
	for (unsigned i = 0; i < 20; i++) {
		put(vol, 10 + i, i);
		ck_assert_int_eq(txn_commit(vol), 0);
	}
	ck_assert_int_eq(volume_close(vol), 0);
	for (size_t i = 0; i < testdev_log_len(dev); i++)
		if (testdev_log_at(dev, i)->op == TESTDEV_WRITE && testdev_log_at(dev, i)->off_bytes == log_off)
			erase = testdev_log_at(dev, at = i);
	ck_assert(erase != NULL && *(const uint8_t *)erase->data == 0);
	ck_assert_int_eq(testdev_crash_state(dev, at, NULL, NULL, &dead), 0);
	testdev_record(dead, true);
	ck_assert_int_eq(bdev_write(dead, erase->data, erase->len_bytes, log_off), 0); // in its cache
	vol = vt_open(dead);
	for (unsigned i = 0; i < 300; i++)
		put(vol, 100 + i, i);
	ck_assert_int_eq(txn_commit(vol), 0); // longer than the first commits of the old log
	volume_abandon(vol);
	at = 1;
	while (testdev_log_at(dead, at)->op != TESTDEV_WRITE || testdev_log_at(dead, at)->off_bytes != log_off)
		at++;
	for (uint64_t k = 1; k < testdev_log_at(dead, at)->len_bytes / TESTDEV_SECTOR; k++) {
		struct torn_log torn = { dead, log_off, k };

		ck_assert_int_eq(testdev_crash_state(dead, at + 1, tear_log, &torn, &crashed), 0);
		vol = vt_open(crashed);
		for (unsigned i = 0; i < 20; i++)
			ck_assert(has(vol, 10 + i));
		ck_assert_int_eq(volume_close(vol), 0);
		bdev_close(crashed);
	}
	bdev_close(dead);
	bdev_close(dev);
}
END_TEST

// ---- errors stop the line ----

START_TEST(failed_device_stops_the_volume)
{
	static const enum testdev_op ops[] = { TESTDEV_WRITE, TESTDEV_FLUSH };

	msg_open("test", MSG_TO_NOWHERE, MSG_ERROR);
	for (size_t o = 0; o < ARRAY_LEN(ops); o++) {
		bool fired = true;

		for (uint64_t nth = 1; fired; nth++) {
			struct bdev *dev = vt_format(16 * MIB), *crashed;
			struct volume *vol = vt_open(dev);
			uint64_t id;
			int err;

			put(vol, 10, 1);
			ck_assert_int_eq(txn_commit(vol), 0);
			testdev_fail(dev, ops[o], nth, -EIO, false);
			put(vol, 11, 1);
			err = txn_commit(vol);
			fired = testdev_fault_fired(dev);
			testdev_fail(dev, ops[o], 0, 0, false); // one failure is enough: the device stays stopped by itself
			ck_assert_int_eq(err != 0, fired);
			if (fired) {
				ck_assert_int_eq(txn_begin(vol, TXN_FREE, &id), -EROFS);
				ck_assert(txn_commit(vol) != 0 || txn_durable_id(vol) >= txn_open_id(vol) - 1);
				ck_assert(has(vol, 10)); // still readable
				ck_assert(volume_close(vol) != 0);
			} else {
				ck_assert_int_eq(volume_close(vol), 0);
			}
			ck_assert_int_eq(testdev_clone(dev, &crashed), 0);
			vol = vt_open(crashed);
			ck_assert(has(vol, 10));
			ck_assert_int_eq(volume_close(vol), 0);
			bdev_close(crashed);
			bdev_close(dev);
		}
	}
}
END_TEST

START_TEST(the_log_starts_anew)
{
	struct bdev *dev = vt_format(16 * MIB);
	struct volume *vol = vt_open(dev);
	uint64_t cap = sysfile_capacity_bytes(&vol->files, SYSFILE_WAL), highest = 0;
	struct txn_stats stats;

	for (unsigned i = 0; i < 2000; i++) {
		put(vol, 10 + i, i);
		ck_assert_int_eq(txn_commit(vol), 0);
		highest = max_u64(highest, dbvfs_wal_end_bytes(vol->vfs));
	}
	txn_get_stats(vol, &stats);
	ck_assert_uint_gt(stats.checkpoints, 1);
	ck_assert_uint_gt(stats.wal_bytes, 2 * cap); // it went around
	ck_assert_uint_le(highest, 4 * cap);
	ck_assert_int_eq(volume_close(vol), 0);
	vol = vt_open(dev);
	for (unsigned i = 0; i < 2000; i++)
		ck_assert(has(vol, 10 + i));
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

START_TEST(a_full_database_says_enospc_and_deletes_go_on)
{
	struct bdev *dev = vt_format(8 * MIB);
	struct volume *vol = vt_open(dev);
	char data[INLINE_MAX_BYTES];
	uint64_t id, n = 0;
	int err;

	memset(data, 7, sizeof(data));
	while ((err = txn_begin(vol, TXN_GROW, &id)) == 0) {
		struct inode_row row = { .ino = 10 + n, .mode = S_IFREG, .nlink = 1, .flags = INODE_INLINE, .size_bytes = 2048 };

		store_lock(vol->store);
		ck_assert_int_eq(inode_insert(vol->store, &row), 0);
		ck_assert_int_eq(inline_set(vol->store, 10 + n, data, sizeof(data)), 0);
		store_unlock(vol->store);
		txn_end(vol);
		n++;
		ck_assert_uint_lt(n, 4096);
	}
	ck_assert_int_eq(err, -ENOSPC);
	ck_assert_uint_gt(n, 1000);
	for (uint64_t i = 0; i < n; i++) {
		ck_assert_int_eq(txn_begin(vol, TXN_FREE, &id), 0);
		store_lock(vol->store);
		ck_assert_int_eq(inode_delete(vol->store, 10 + i), 0);
		ck_assert_int_eq(inline_delete(vol->store, 10 + i), 0);
		store_unlock(vol->store);
		txn_end(vol);
	}
	ck_assert_int_eq(txn_commit(vol), 0);
	ck_assert_int_eq(txn_begin(vol, TXN_GROW, &id), 0);
	txn_end(vol);
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

// A file takes all blocks that may be had; extents of at most `run_blk` blocks, if it is not 0.
static void fill_with_data(struct volume *vol, uint64_t run_blk)
{
	struct runlist runs = { 0 };
	struct volume_space space;
	struct alloc_req req = { 0 };
	uint64_t id, off = 0;

	volume_get_space(vol, &space);
	req.want_blk = space.avail_blk;
	ck_assert_int_eq(alloc_get(vol->alloc, NULL, &req, &runs), 0);
	ck_assert_int_eq(txn_begin(vol, TXN_FREE, &id), 0);
	store_lock(vol->store);
	for (uint32_t i = 0; i < runs.n; i++) {
		uint64_t start = runs.runs[i].start_blk, end = start + runs.runs[i].len_blk, len;

		for (; start < end; start += len) {
			len = run_blk != 0 && end - start > run_blk ? run_blk : end - start;
			ck_assert_int_eq(extmap_insert(vol, 5, &(struct extent){ off, start, len, false }), 0);
			off += len + 1; // a hole, so that the extents do not merge
		}
	}
	store_unlock(vol->store);
	txn_end(vol);
	runlist_free(&runs);
	ck_assert_int_eq(txn_commit(vol), 0);
}

// One value in each of `n` handles: 0, or the error of the handle that was refused.
static int add_values(struct volume *vol, size_t len, unsigned n, uint64_t first_ino)
{
	char *value = calloc(1, len);
	uint64_t id;
	int err = 0;

	for (unsigned i = 0; i < n && err == 0; i++) {
		err = txn_begin(vol, TXN_GROW, &id);
		if (err != 0)
			break;
		store_lock(vol->store);
		ck_assert_int_eq(xattr_set(vol->store, first_ino + i, "user.a", value, len, 0), 0);
		store_unlock(vol->store);
		txn_end(vol);
	}
	free(value);
	return err;
}

static void check_alive(struct volume *vol)
{
	uint64_t id;

	ck_assert_int_eq(txn_commit(vol), 0);
	ck_assert_int_eq(atomic_load(&vol->failed), 0);
	ck_assert_int_eq(txn_begin(vol, TXN_FREE, &id), 0);
	txn_end(vol);
	ck_assert_int_eq(volume_close(vol), 0);
}

// Metadata that gathers while data takes the last free block: it is refused in time, not when it is to be written.
START_TEST(data_does_not_take_what_a_commit_needs)
{
	static const size_t len[] = { 2000, 65536 };

	for (int round = 0; round < 4; round++) {
		struct bdev *dev = vt_format(64 * MIB);
		struct volume *vol = vt_open(dev);

		if (round >= 2)
			fill_with_data(vol, 0);
		if (round < 2) {
			ck_assert_int_eq(add_values(vol, len[round % 2], 60, 10), 0);
			fill_with_data(vol, 0);
		}
		ck_assert_int_eq(add_values(vol, len[round % 2], 10000, 1000), -ENOSPC);
		check_alive(vol);
		bdev_close(dev);
	}
}
END_TEST

// Free space in single blocks: the extent list of the database is full long before the volume is.
START_TEST(a_database_that_cannot_grow_says_enospc)
{
	struct bdev *dev = vt_format(64 * MIB);
	struct volume *vol = vt_open(dev);
	uint64_t id, removed, blk;
	bool more;

	fill_with_data(vol, 1);
	for (blk = 0; blk < 2 * 14000; blk += 4) { // every other one-block extent
		ck_assert_int_eq(txn_begin(vol, TXN_FREE, &id), 0);
		store_lock(vol->store);
		ck_assert_int_eq(extmap_remove(vol, 5, blk, 1, 0, &more, &removed), 0);
		store_unlock(vol->store);
		txn_end(vol);
	}
	ck_assert_int_eq(txn_commit(vol), 0);
	ck_assert_int_eq(add_values(vol, 2000, 20000, 1000), -ENOSPC);
	check_alive(vol);
	bdev_close(dev);
}
END_TEST

// T4: what a transaction frees is not handed out before it is durable.
START_TEST(freed_blocks_wait)
{
	struct bdev *dev = vt_format(8 * MIB);
	struct volume *vol = vt_open(dev);
	struct runlist runs = { 0 }, again = { 0 };
	struct volume_space space;
	struct alloc_req req = { 0 };
	uint64_t id, removed, off = 0;
	bool more;

	volume_get_space(vol, &space);
	req.want_blk = space.avail_blk;
	ck_assert_int_eq(alloc_get(vol->alloc, NULL, &req, &runs), 0);
	ck_assert_int_eq(txn_begin(vol, TXN_FREE, &id), 0);
	store_lock(vol->store);
	for (uint32_t i = 0; i < runs.n; i++) {
		ck_assert_int_eq(extmap_insert(vol, 5, &(struct extent){ off, runs.runs[i].start_blk, runs.runs[i].len_blk, false }), 0);
		off += runs.runs[i].len_blk;
	}
	store_unlock(vol->store);
	txn_end(vol);
	ck_assert_int_eq(txn_commit(vol), 0);
	ck_assert_int_eq(txn_begin(vol, TXN_FREE, &id), 0);
	store_lock(vol->store);
	ck_assert_int_eq(extmap_remove(vol, 5, 0, off, 0, &more, &removed), 0);
	store_unlock(vol->store);
	txn_end(vol);
	ck_assert_uint_eq(removed, off);
	req.want_blk = 1;
	ck_assert_int_eq(alloc_get(vol->alloc, NULL, &req, &again), -ENOSPC);
	ck_assert_int_eq(txn_commit(vol), 0);
	ck_assert_int_eq(alloc_get(vol->alloc, NULL, &req, &again), 0);
	ck_assert_int_eq(alloc_put(vol->alloc, again.runs[0].start_blk, 1), 0);
	ck_assert_int_eq(volume_close(vol), 0);
	runlist_free(&runs);
	runlist_free(&again);
	bdev_close(dev);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("txn");
	TCase *tc = tcase_create("txn");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, durable_means_durable);
	tcase_add_test(tc, cold_metaslabs_are_dropped);
	tcase_add_test(tc, flushes_per_commit);
	tcase_add_test(tc, fsyncs_share_commits);
	tcase_add_test(tc, every_crash_is_a_prefix);
	tcase_add_test(tc, a_log_erased_by_a_dead_process);
	tcase_add_test(tc, failed_device_stops_the_volume);
	tcase_add_test(tc, the_log_starts_anew);
	tcase_add_test(tc, a_full_database_says_enospc_and_deletes_go_on);
	tcase_add_test(tc, data_does_not_take_what_a_commit_needs);
	tcase_add_test(tc, a_database_that_cannot_grow_says_enospc);
	tcase_add_test(tc, freed_blocks_wait);
	suite_add_tcase(s, tc);
	return run_suite(s);
}
