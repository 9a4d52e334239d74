// SPDX-License-Identifier: MIT
// What the SQLite VFS stands on, without SQLite: system files, the write-behind log, the lock slots.
#include <check.h>
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alloc/alloc.h"
#include "block/testdev.h"
#include "meta/dbvfs_shm.h"
#include "meta/sysfile.h"
#include "meta/wal_log.h"
#include "run_suite.h"
#include "sysfile_alloc.h"
#include "util/blk.h"

#define DEV_BYTES (32ull << 20)

// ---- system files ----

struct marked {
	uint64_t n, low, high;
};

static int note_mark(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	struct marked *marked = ctx;

	marked->n += len_blk;
	marked->low = min_u64(marked->low, start_blk);
	marked->high = max_u64(marked->high, start_blk + len_blk);
	return 0;
}

START_TEST(sysfile_bounds_marks_and_label)
{
	struct marked all = { .low = UINT64_MAX }, part = { .low = UINT64_MAX };
	struct superblock sb, read_back;
	struct sysfiles files;
	struct bdev *dev;
	uint8_t out[3 * BLK_SIZE], in[3 * BLK_SIZE];
	char label[SB_LABEL_MAX + 2];

	ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
	make_superblock(dev, 10, 5, &sb);
	ck_assert_int_eq(sysfiles_init(&files, dev, &sb), 0);
	ck_assert_uint_eq(sysfile_capacity_bytes(&files, SYSFILE_DB), 10 * BLK_SIZE);
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 7 + i / 256);
	ck_assert_int_eq(sysfile_write(&files, SYSFILE_DB, out, sizeof(out), 2 * BLK_SIZE), 0); // across the extents' border
	ck_assert_int_eq(sysfile_read(&files, SYSFILE_DB, in, sizeof(in), 2 * BLK_SIZE), 0);
	ck_assert_mem_eq(in, out, sizeof(out));
	ck_assert_int_eq(bdev_read(dev, in, BLK_SIZE, 600 * BLK_SIZE), 0);
	ck_assert_mem_eq(in, out + BLK_SIZE, BLK_SIZE);
	ck_assert_int_eq(sysfile_read(&files, SYSFILE_DB, in, 2, 10 * BLK_SIZE - 1), -EINVAL);
	ck_assert_int_eq(sysfile_write(&files, SYSFILE_DB, out, BLK_SIZE, 10 * BLK_SIZE), -EINVAL);
	ck_assert_int_eq(sysfile_grow(&files, SYSFILE_DB, 1), -ENOSPC); // no allocator

	ck_assert_int_eq(sysfiles_mark(&files, 0, sb.n_blks, note_mark, &all), 0);
	ck_assert_uint_eq(all.n, 10 + 5 + SB_COPIES * SB_BLKS);
	ck_assert_int_eq(sysfiles_mark(&files, 602, 3001 - 602, note_mark, &part), 0);
	ck_assert_uint_eq(part.n, 5 + 1);
	ck_assert_uint_eq(part.low, 602);
	ck_assert_uint_eq(part.high, 3001);

	memset(label, 'l', sizeof(label));
	label[SB_LABEL_MAX + 1] = '\0';
	ck_assert_int_eq(sysfiles_set_label(&files, label), -EINVAL);
	label[SB_LABEL_MAX] = '\0';
	ck_assert_int_eq(sysfiles_set_label(&files, label), 0);
	ck_assert_int_eq(sb_read(dev, &read_back, NULL, NULL), 0);
	ck_assert_str_eq(read_back.label, label);
	sysfiles_destroy(&files);
	bdev_close(dev);
}
END_TEST

// ---- growth ----

START_TEST(growth_is_on_the_device)
{
	struct sysfile_alloc_source source;
	struct superblock sb, read_back;
	struct sysfiles files;
	struct bdev *dev;
	uint8_t out[BLK_SIZE], in[BLK_SIZE];
	uint64_t free_blk;

	ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
	make_superblock(dev, 10, 5, &sb);
	ck_assert_int_eq(sysfiles_init(&files, dev, &sb), 0);
	files.alloc = sysfile_alloc_create(&source, &files);
	free_blk = sysfile_alloc_free(files.alloc);
	ck_assert_uint_eq(free_blk, sb.n_blks - 10 - 5 - SB_COPIES * SB_BLKS);

	ck_assert_int_eq(sysfile_grow(&files, SYSFILE_DB, 100), 0);
	ck_assert_uint_eq(sysfile_capacity_bytes(&files, SYSFILE_DB), 110 * BLK_SIZE);
	ck_assert_uint_eq(sysfile_alloc_free(files.alloc), free_blk - 100);
	ck_assert_uint_eq(files.sb.sysfile[SYSFILE_DB].n_extents, 2); // goes on where the last extent ends
	memset(out, 0x5a, sizeof(out));
	ck_assert_int_eq(sysfile_write(&files, SYSFILE_DB, out, BLK_SIZE, 109 * BLK_SIZE), 0);
	ck_assert_int_eq(sb_read(dev, &read_back, NULL, NULL), 0);
	ck_assert_mem_eq(&read_back.sysfile, &files.sb.sysfile, sizeof(read_back.sysfile));
	ck_assert_int_eq(sysfile_read(&files, SYSFILE_DB, in, BLK_SIZE, 109 * BLK_SIZE), 0);
	ck_assert_mem_eq(in, out, BLK_SIZE);

	ck_assert_int_eq(sysfile_grow(&files, SYSFILE_WAL, free_blk), -ENOSPC);
	ck_assert_uint_eq(sysfile_capacity_bytes(&files, SYSFILE_WAL), 5 * BLK_SIZE);
	ck_assert_uint_eq(sysfile_alloc_free(files.alloc), free_blk - 100);
	ck_assert_int_eq(sysfile_grow(&files, SYSFILE_WAL, free_blk - 100), 0); // the last block
	ck_assert_uint_eq(sysfile_alloc_free(files.alloc), 0);
	ck_assert_int_eq(alloc_check(files.alloc, NULL), 0);
	alloc_destroy(files.alloc);
	sysfiles_destroy(&files);
	bdev_close(dev);
}
END_TEST

// Whatever write of the superblock fails: the file is as before, and the device shows the old list or the new one.
START_TEST(failed_growth_changes_nothing)
{
	for (uint64_t nth = 1; nth <= 4; nth++)
		for (int op = TESTDEV_WRITE; op <= TESTDEV_FLUSH; op++) {
			struct sysfile_alloc_source source;
			struct superblock sb, read_back;
			struct sysfiles files;
			struct bdev *dev, *after;
			int err;

			ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
			make_superblock(dev, 10, 5, &sb);
			ck_assert_int_eq(sysfiles_init(&files, dev, &sb), 0);
			files.alloc = sysfile_alloc_create(&source, &files);
			testdev_fail(dev, (enum testdev_op)op, nth, -EIO, false);
			err = sysfile_grow(&files, SYSFILE_DB, 100);
			ck_assert_int_eq(err < 0, testdev_fault_fired(dev));
			ck_assert_uint_eq(sysfile_capacity_bytes(&files, SYSFILE_DB), (err < 0 ? 10 : 110) * BLK_SIZE);
			ck_assert_int_eq(testdev_clone(dev, &after), 0);
			ck_assert_int_eq(sb_read(after, &read_back, NULL, NULL), 0);
			ck_assert_uint_ge(read_back.generation, sb.generation);
			ck_assert_int_eq(alloc_check(files.alloc, NULL), 0);
			bdev_close(after);
			alloc_destroy(files.alloc);
			sysfiles_destroy(&files);
			bdev_close(dev);
		}
}
END_TEST

// ---- the log against a plain array ----

#define MODEL_BYTES 20000u
#define MODEL_SEGS 6u

struct model {
	struct wal_log log;
	struct wal_segment *segs[MODEL_SEGS]; // sealed, oldest first
	unsigned n_segs, n_put;
	uint8_t truth[MODEL_BYTES];
	unsigned seed;
};

static void model_write(struct model *m)
{
	uint8_t buf[5000];
	uint64_t off = 32 + (uint64_t)rand_r(&m->seed) % (MODEL_BYTES - 32);
	size_t len = 1 + (size_t)rand_r(&m->seed) % (rand_r(&m->seed) % 3 == 0 ? 5000 : 40);

	len = min_u64(len, MODEL_BYTES - off);
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)rand_r(&m->seed);
	ck_assert_int_eq(wal_log_write(&m->log, buf, len, off), 0);
	memcpy(m->truth + off, buf, len);
}

static void model_read(struct model *m)
{
	uint8_t buf[MODEL_BYTES];
	uint64_t off = (uint64_t)rand_r(&m->seed) % MODEL_BYTES;
	size_t len = (size_t)rand_r(&m->seed) % (MODEL_BYTES - off + 1), missing;

	ck_assert_int_eq(wal_log_read(&m->log, buf, len, off, &missing), 0);
	ck_assert_uint_eq(missing, 0);
	ck_assert_msg(memcmp(buf, m->truth + off, len) == 0, "seed %u: [%lu, +%zu)", m->seed, (unsigned long)off, len);
}

static void model_seal(struct model *m)
{
	struct wal_segment *seg = m->n_segs < MODEL_SEGS ? wal_log_seal(&m->log) : NULL;

	if (seg != NULL)
		m->segs[m->n_segs++] = seg;
}

static void model_put(struct model *m)
{
	if (m->n_put < m->n_segs)
		ck_assert_int_eq(wal_log_put(&m->log, m->segs[m->n_put++]), 0);
}

static void model_drop(struct model *m)
{
	if (m->n_put == 0)
		return;
	wal_log_drop(&m->log, m->segs[0]);
	memmove(m->segs, m->segs + 1, --m->n_segs * sizeof(m->segs[0]));
	m->n_put--;
}

START_TEST(log_against_model)
{
	struct model m = { .seed = (unsigned)time(NULL) };
	struct superblock sb;
	struct sysfiles files;
	struct bdev *dev;
	uint8_t buf[MODEL_BYTES];

	printf("log_against_model: seed %u\n", m.seed);
	ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
	make_superblock(dev, 10, 10, &sb);
	ck_assert_int_eq(sysfiles_init(&files, dev, &sb), 0);
	ck_assert_int_eq(wal_log_init(&m.log, &files, true), 0);
	memcpy(m.truth, "\x37\x7f\x06\x82", 4);
	ck_assert_int_eq(wal_log_write(&m.log, m.truth, MODEL_BYTES, 0), 0);
	for (int step = 0; step < 4000; step++) {
		static void (*const steps[])(struct model *) = { model_write, model_write, model_write, model_read,
		                                                 model_read, model_seal, model_put, model_drop };

		steps[(unsigned)rand_r(&m.seed) % ARRAY_LEN(steps)](&m);
	}
	while (m.n_segs > 0) {
		model_put(&m);
		model_drop(&m);
	}
	model_seal(&m);
	model_put(&m);
	ck_assert_int_eq(sysfile_read(&files, SYSFILE_WAL, buf, MODEL_BYTES, 0), 0);
	ck_assert_mem_eq(buf, m.truth, MODEL_BYTES);
	wal_log_destroy(&m.log);
	sysfiles_destroy(&files);
	bdev_close(dev);
}
END_TEST

// What is sent ends at the border of a block, and only where the log had not been yet: frames behind a write that goes back stay.
START_TEST(writes_end_at_borders_of_blocks)
{
	static const uint8_t old[2 * BLK_SIZE] = { [0 ... 2 * BLK_SIZE - 1] = 0xee };
	uint8_t frame[3000] = "\x37\x7f\x06\x82", buf[2 * BLK_SIZE];
	struct wal_segment *seg;
	struct superblock sb;
	struct sysfiles files;
	struct wal_log log;
	struct bdev *dev;

	ck_assert_int_eq(testdev_create(DEV_BYTES, &dev), 0);
	make_superblock(dev, 10, 10, &sb);
	ck_assert_int_eq(sysfiles_init(&files, dev, &sb), 0);
	ck_assert_int_eq(sysfile_write(&files, SYSFILE_WAL, old, sizeof(old), 0), 0);
	ck_assert_int_eq(wal_log_init(&log, &files, true), 0);
	for (uint64_t at = 0; at < 2 * sizeof(frame); at += sizeof(frame)) {
		ck_assert_int_eq(wal_log_write(&log, frame, sizeof(frame), at), 0);
		seg = wal_log_seal(&log);
		testdev_record(dev, true);
		ck_assert_int_eq(wal_log_put(&log, seg), 0);
		testdev_record(dev, false);
		ck_assert_uint_eq((testdev_log_at(dev, testdev_log_len(dev) - 1)->off_bytes +
		                   testdev_log_at(dev, testdev_log_len(dev) - 1)->len_bytes) % BLK_SIZE, 0);
		wal_log_drop(&log, seg);
		memset(frame, 0x11, sizeof(frame));
	}
	ck_assert_int_eq(wal_log_write(&log, frame, 10, 1000), 0);
	seg = wal_log_seal(&log);
	ck_assert_int_eq(wal_log_put(&log, seg), 0);
	wal_log_drop(&log, seg);
	ck_assert_int_eq(sysfile_read(&files, SYSFILE_WAL, buf, sizeof(buf), 0), 0);
	ck_assert_mem_eq(buf + sizeof(frame), frame, sizeof(frame));
	for (size_t i = 2 * sizeof(frame); i < sizeof(buf); i++)
		ck_assert_uint_eq(buf[i], 0);
	wal_log_destroy(&log);
	sysfiles_destroy(&files);
	bdev_close(dev);
}
END_TEST

// ---- locks ----

START_TEST(lock_slots)
{
	struct dbvfs_conn a = { 0 }, b = { 0 };
	struct dbvfs_shm shm;
	const int shared = SQLITE_SHM_LOCK | SQLITE_SHM_SHARED, exclusive = SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE;
	void volatile *page;

	ck_assert_int_eq(dbvfs_shm_init(&shm), 0);
	ck_assert_int_eq(dbvfs_shm_map(&shm, &a, 1, 32768, false, &page), SQLITE_OK);
	ck_assert(page == NULL);
	ck_assert_int_eq(dbvfs_shm_map(&shm, &b, 1, 32768, true, &page), SQLITE_OK);
	ck_assert(page != NULL);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &a, 3, 1, shared), SQLITE_OK);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &b, 3, 1, shared), SQLITE_OK);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &a, 2, 3, exclusive), SQLITE_BUSY);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &b, 3, 1, SQLITE_SHM_UNLOCK | SQLITE_SHM_SHARED), SQLITE_OK);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &b, 2, 1, exclusive), SQLITE_OK); // the failed one has taken nothing
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &a, 2, 1, shared), SQLITE_BUSY);
	dbvfs_shm_unmap(&shm, &b); // a connection that goes takes its locks along
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &a, 2, 1, shared), SQLITE_OK);
	dbvfs_shm_unmap(&shm, &a);
	ck_assert_int_eq(shm.n_regions, 0);
	dbvfs_shm_destroy(&shm);
}
END_TEST

// The order in which SQLite's WAL-reset bug happens: a checkpoint that has begun, and a writer that begins the log anew.
START_TEST(checkpoint_and_restart_exclude_each_other)
{
	const int lock = SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE, unlock = SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE;
	const int checkpoint = 1, marks = 4, n_marks = 4; // slots
	struct dbvfs_conn a = { 0 }, b = { 0 };
	struct dbvfs_shm shm;

	ck_assert_int_eq(dbvfs_shm_init(&shm), 0);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &a, checkpoint, 1, lock), SQLITE_OK);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &b, marks, n_marks, lock), SQLITE_BUSY);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &b, marks, 1, lock), SQLITE_OK); // a reader that sets its mark is no restart
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &b, marks, 1, unlock), SQLITE_OK);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &a, marks, n_marks, lock), SQLITE_OK); // RESTART and TRUNCATE do both themselves
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &a, marks, n_marks, unlock), SQLITE_OK);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &a, checkpoint, 1, unlock), SQLITE_OK);

	ck_assert_int_eq(dbvfs_shm_lock(&shm, &b, marks, n_marks, lock), SQLITE_OK);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &a, checkpoint, 1, lock), SQLITE_BUSY);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &b, marks, n_marks, unlock), SQLITE_OK);
	ck_assert_int_eq(dbvfs_shm_lock(&shm, &a, checkpoint, 1, lock), SQLITE_OK);
	dbvfs_shm_destroy(&shm);
}
END_TEST

START_TEST(file_lock_levels)
{
	struct dbvfs_conn a = { 0 }, b = { 0 }, c = { 0 };
	struct dbvfs_shm shm;

	ck_assert_int_eq(dbvfs_shm_init(&shm), 0);
	ck_assert_int_eq(dbvfs_file_lock(&shm, &a, SQLITE_LOCK_SHARED), SQLITE_OK);
	ck_assert_int_eq(dbvfs_file_lock(&shm, &b, SQLITE_LOCK_SHARED), SQLITE_OK);
	ck_assert_int_eq(dbvfs_file_lock(&shm, &a, SQLITE_LOCK_EXCLUSIVE), SQLITE_BUSY);
	ck_assert_int_eq(dbvfs_file_lock(&shm, &c, SQLITE_LOCK_SHARED), SQLITE_OK); // asking alone shuts nobody out
	ck_assert(!dbvfs_file_is_reserved(&shm));
	ck_assert_int_eq(dbvfs_file_lock(&shm, &a, SQLITE_LOCK_RESERVED), SQLITE_OK);
	ck_assert_int_eq(dbvfs_file_lock(&shm, &b, SQLITE_LOCK_RESERVED), SQLITE_BUSY);
	ck_assert(dbvfs_file_is_reserved(&shm));
	dbvfs_file_unlock(&shm, &c, SQLITE_LOCK_NONE);
	ck_assert_int_eq(dbvfs_file_lock(&shm, &a, SQLITE_LOCK_EXCLUSIVE), SQLITE_BUSY); // now waiting: PENDING
	ck_assert_int_eq(dbvfs_file_lock(&shm, &c, SQLITE_LOCK_SHARED), SQLITE_BUSY);
	dbvfs_file_unlock(&shm, &b, SQLITE_LOCK_NONE);
	ck_assert_int_eq(dbvfs_file_lock(&shm, &a, SQLITE_LOCK_EXCLUSIVE), SQLITE_OK);
	dbvfs_file_unlock(&shm, &a, SQLITE_LOCK_SHARED);
	ck_assert(!dbvfs_file_is_reserved(&shm));
	ck_assert_int_eq(dbvfs_file_lock(&shm, &c, SQLITE_LOCK_SHARED), SQLITE_OK);
	dbvfs_file_unlock(&shm, &a, SQLITE_LOCK_NONE);
	dbvfs_file_unlock(&shm, &c, SQLITE_LOCK_NONE);
	ck_assert_uint_eq(shm.n_shared, 0);
	dbvfs_shm_destroy(&shm);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("wal_log");
	TCase *tc = tcase_create("all");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, sysfile_bounds_marks_and_label);
	tcase_add_test(tc, growth_is_on_the_device);
	tcase_add_test(tc, failed_growth_changes_nothing);
	tcase_add_test(tc, log_against_model);
	tcase_add_test(tc, writes_end_at_borders_of_blocks);
	tcase_add_test(tc, lock_slots);
	tcase_add_test(tc, checkpoint_and_restart_exclude_each_other);
	tcase_add_test(tc, file_lock_levels);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
