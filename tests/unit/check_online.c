// SPDX-License-Identifier: MIT
// Snapshots of a volume in use, the checker over them, and the scrub, on a volume in memory.
#include "fstest.h"

#include <pthread.h>
#include <time.h>

#include "fs/checker.h"
#include "fsck/fsck.h"

#define SELECT_NAMES "SELECT count(*) FROM dirent"

static void nap_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L }, NULL);
}

static struct volume *snapshot(struct ft *t)
{
	struct errmsg why = { "" };
	struct volume *snap = NULL;

	ck_assert_msg(volume_snapshot_open(t->vol, &snap, &why) == 0, "snapshot: %s", why.text);
	return snap;
}

// A number from a volume, or a negative errno.
static int64_t number(struct volume *vol, const char *sql)
{
	sqlite3_stmt *stmt = NULL;
	int64_t value;
	int rc;

	store_lock(vol->store);
	rc = sqlite3_prepare_v2(store_db(vol->store), sql, -1, &stmt, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(stmt);
	value = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : store_error(vol->store, rc, sql);
	sqlite3_finalize(stmt);
	store_unlock(vol->store);
	return value;
}

static void create_many(struct ft *t, unsigned from, unsigned n)
{
	char name[32];

	for (unsigned i = from; i < from + n; i++) {
		snprintf(name, sizeof(name), "file%u", i);
		ft_create(t, ROOT_INO, name);
	}
}

// ---- snapshots ----

START_TEST(a_snapshot_is_one_commit)
{
	struct errmsg why = { "" };
	struct volume *snap, *second;
	struct ft t;

	ft_new(&t, 64 * MIB);
	create_many(&t, 0, 10);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	create_many(&t, 10, 5); // not committed
	snap = snapshot(&t);
	ck_assert_int_eq(number(snap, SELECT_NAMES), 10);
	ck_assert_int_eq(number(t.vol, SELECT_NAMES), 15);
	ck_assert_int_eq(volume_snapshot_open(t.vol, &second, &why), -EBUSY);
	create_many(&t, 15, 500);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "file3"), 0);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ck_assert_int_eq(number(snap, SELECT_NAMES), 10);
	ck_assert_int_eq(number(snap, "SELECT integrity_check = 'ok' FROM pragma_integrity_check(1)"), 1);
	store_lock(snap->store);
	ck_assert_int_eq(store_n_inodes(snap->store), 11);
	store_unlock(snap->store);
	ck_assert(!store_is_revoked(snap->store));
	volume_snapshot_close(snap);
	snap = snapshot(&t);
	ck_assert_int_eq(number(snap, SELECT_NAMES), 514);
	volume_snapshot_close(snap);
	ft_end(&t);
}
END_TEST

// Reads a snapshot until it is taken away.
static void *read_until_revoked(void *arg)
{
	struct volume *snap = arg;
	int64_t r, first = number(snap, SELECT_NAMES);

	do {
		r = number(snap, SELECT_NAMES);
		ck_assert(r == first || r == -EINTR);
	} while (r != -EINTR);
	ck_assert(store_is_revoked(snap->store));
	volume_snapshot_close(snap);
	return NULL;
}

static uint64_t log_bytes(struct ft *t) { return sysfile_capacity_bytes(&t->vol->files, SYSFILE_WAL); }

// The log is not kept from beginning anew for long. 0: with plenty of space; 1: where there is none.
START_TEST(a_long_log_takes_the_snapshot_away)
{
	uint64_t log_before, ino;
	pthread_t reader;
	struct ft t;
	int r = 0;

	ft_new(&t, 64 * MIB);
	create_many(&t, 0, 100);
	ino = ft_create(&t, ROOT_INO, "large");
	for (uint64_t step = MIB; _i == 1 && step >= BLK_SIZE; step /= 4) // to the last block that anybody may have
		for (r = 0; r == 0;)
			r = fs_fallocate(t.fs, ino, 0, (uint64_t)ft_stat(&t, ino).st_size, step);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	log_before = log_bytes(&t);
	for (unsigned round = 0; round < 3; round++) {
		ck_assert_int_eq(pthread_create(&reader, NULL, read_until_revoked, snapshot(&t)), 0);
		for (unsigned i = 0; pthread_tryjoin_np(reader, NULL) != 0; i++) {
			struct fs_setattr attr = { .set = FS_SET_MODE, .mode = S_IFREG | (i & 0777) };
			struct stat st;

			ck_assert_msg(i < 200000, "%u commits, and the snapshot is still there", i);
			for (uint64_t n = 0; n < 20; n++)
				ck_assert_int_eq(fs_setattr(t.fs, ROOT_INO + 1 + (i * 20 + n) % 100, &attr, &st), 0);
			ck_assert_int_eq(fs_sync(t.fs), 0);
		}
		ck_assert_int_eq(atomic_load(&t.vol->failed), 0);
	}
	ck_assert_uint_le(log_bytes(&t), 4 * log_before); // it grows by half of what it is, on a full volume into the reserve
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "large"), 0); // which is still good for what it is there for
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ft_end(&t);
}
END_TEST

// ---- the checker ----

static struct checker *new_checker(struct ft *t)
{
	struct checker *c = NULL;

	ck_assert_int_eq(checker_create(t->fs, &c), 0);
	return c;
}

static uint64_t start(struct checker *c, unsigned flags, unsigned rate_mib)
{
	struct control_start req = { .version = CONTROL_VERSION, .flags = flags, .rate_mib = rate_mib };

	ck_assert_int_eq(checker_start(c, &req), 0);
	return req.job;
}

// Waits for the end of a job; its exit status. The report is in `text`, with a 0 behind it.
static unsigned finish(struct checker *c, uint64_t job, char *text, size_t cap)
{
	struct control_status st;
	size_t n = 0;

	for (;;) {
		st = (struct control_status){ .version = CONTROL_VERSION, .job = job };
		ck_assert_int_eq(checker_status(c, &st), 0);
		ck_assert_uint_lt(n + st.text_len, cap);
		memcpy(text + n, st.text, st.text_len);
		n += st.text_len;
		text[n] = '\0';
		if (st.state == CONTROL_DONE && st.text_len == 0)
			break;
		if (st.text_len == 0)
			nap_ms(1);
	}
	ck_assert_msg(st.error[0] == '\0', "%s", st.error);
	return st.exit_status;
}

static char report[1 << 20];

START_TEST(who_may_what)
{
	struct control_start req = { .version = CONTROL_VERSION };
	union checker_answer answer;
	struct checker *c;
	size_t size;
	struct ft t;

	ft_new(&t, 64 * MIB);
	c = new_checker(&t);
	ck_assert_int_eq(checker_ioctl(c, geteuid() + 1, CONTROL_IOC_START, &req, sizeof(req), &answer, &size), -EPERM);
	ck_assert_int_eq(checker_ioctl(c, 0, _IO('H', 0x33), &req, sizeof(req), &answer, &size), -ENOTTY);
	ck_assert_int_eq(checker_ioctl(c, 0, CONTROL_IOC_START, &req, sizeof(req) - 1, &answer, &size), -EINVAL);
	req.version++;
	ck_assert_int_eq(checker_start(c, &req), -EINVAL);
	req = (struct control_start){ .version = CONTROL_VERSION, .flags = 1u << 30 };
	ck_assert_int_eq(checker_start(c, &req), -EINVAL);
	req = (struct control_start){ .version = CONTROL_VERSION, .rate_mib = CONTROL_RATE_MAX_MIB + 1 };
	ck_assert_int_eq(checker_start(c, &req), -EINVAL);
	answer.status = (struct control_status){ .version = CONTROL_VERSION };
	ck_assert_int_eq(checker_status(c, &answer.status), -ESRCH);
	ck_assert_int_eq(checker_stop(c, &(struct control_stop){ .version = CONTROL_VERSION, .job = 5 }), -ESRCH);
	req = (struct control_start){ .version = CONTROL_VERSION };
	ck_assert_int_eq(checker_ioctl(c, geteuid(), CONTROL_IOC_START, &req, sizeof(req), &answer, &size), 0);
	ck_assert_uint_eq(size, sizeof(req));
	ck_assert_uint_eq(finish(c, answer.start.job, report, sizeof(report)), EXIT_CLEAN);
	checker_destroy(c);
	ft_end(&t);
}
END_TEST

static uint64_t write_file(struct ft *t, const char *name, size_t len)
{
	uint64_t ino = ft_create(t, ROOT_INO, name);
	uint8_t *buf = malloc(len);

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(i * 7 + i / 4096);
	ft_write(t, ino, buf, len, 0);
	free(buf);
	return ino;
}

// One at a time; stopped, or left alone by the end of the mount.
START_TEST(one_at_a_time)
{
	struct control_start req = { .version = CONTROL_VERSION };
	struct checker *c;
	uint64_t job;
	struct ft t;

	ft_new(&t, 64 * MIB);
	write_file(&t, "large", 8 * MIB);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	c = new_checker(&t);
	job = start(c, CONTROL_SCRUB, 1);
	ck_assert_int_eq(checker_start(c, &req), -EBUSY);
	ck_assert_int_eq(checker_stop(c, &(struct control_stop){ .version = CONTROL_VERSION, .job = job }), 0);
	ck_assert_uint_eq(finish(c, job, report, sizeof(report)) & ~(unsigned)EXIT_CANCELLED, EXIT_CLEAN);
	job = start(c, CONTROL_SCRUB, 1);
	nap_ms(50);
	checker_destroy(c);
	ft_end(&t);
}
END_TEST

struct busy {
	struct ft *t;
	atomic_bool stop;
	unsigned seed;
};

static void *work(void *arg)
{
	struct busy *b = arg;
	struct ft *t = b->t;
	uint64_t dir = ft_mkdir(t, ROOT_INO, "busy");
	static uint8_t buf[100000];
	char name[32], other[32];
	size_t done;

	for (unsigned i = 0; !atomic_load(&b->stop); i++) {
		uint64_t ino, off = vt_rand(&b->seed) % 300000;

		snprintf(name, sizeof(name), "f%u", vt_rand(&b->seed) % 50);
		snprintf(other, sizeof(other), "f%u", vt_rand(&b->seed) % 50);
		memset(buf, (int)i, sizeof(buf));
		if (ft_lookup(t, dir, name, &ino) != 0)
			ino = ft_create(t, dir, name);
		ck_assert_int_eq(fs_write(t->fs, ino, buf, 1 + vt_rand(&b->seed) % sizeof(buf), off, 0, &done), 0);
		if (i % 3 == 0)
			ck_assert_int_eq(ft_truncate(t, ino, vt_rand(&b->seed) % 200000), 0);
		if (i % 5 == 0)
			ck_assert_int_eq(fs_rename(t->fs, dir, name, dir, other, 0), 0);
		else if (i % 4 == 0)
			ck_assert_int_eq(fs_unlink(t->fs, dir, name), 0);
		if (i % 7 == 0)
			ck_assert_int_eq(fs_fsync(t->fs, ino), 0);
		fs_forget(t->fs, ino, 1);
	}
	return NULL;
}

// Nothing is found where nothing is wrong.
START_TEST(under_load)
{
	struct checker *c;
	pthread_t worker;
	struct ft t;
	struct busy b = { .t = &t, .seed = vt_seed(20) };

	ft_new(&t, 256 * MIB); // with a log that lasts for a check, at the speed of memory
	ck_assert_int_eq(pthread_create(&worker, NULL, work, &b), 0);
	c = new_checker(&t);
	for (unsigned i = 0; i < 30; i++) {
		unsigned status = finish(c, start(c, i % 3 == 0 ? CONTROL_SCRUB : CONTROL_VERBOSE, 1000), report, sizeof(report));

		ck_assert_msg(status == EXIT_CLEAN, "check %u: %u: %s", i, status, report);
	}
	atomic_store(&b.stop, true);
	pthread_join(worker, NULL);
	checker_destroy(c);
	ft_unmount(&t); // finishes the deletions
	ft_mount(&t, t.dev);
	ft_end(&t);
}
END_TEST

// A report that nobody fetches must not keep a snapshot open while commits wait for its end.
START_TEST(a_full_report_stops_nobody)
{
	struct control_status st = { .version = CONTROL_VERSION };
	struct timespec begin, end;
	struct checker *c;
	uint64_t txn;
	struct ft t;

	ft_new(&t, 64 * MIB);
	create_many(&t, 0, 20000);
	ck_assert_int_eq(txn_begin(t.vol, TXN_FREE, &txn), 0);
	store_lock(t.vol->store);
	// Found by a phase that has rows to read yet. Files that are changed below stay sound.
	ck_assert_int_eq(sqlite3_exec(store_db(t.vol->store), "UPDATE inode SET blocks = 77 WHERE ino > 1 AND ino % 450 <> 2", NULL, NULL, NULL),
	                 SQLITE_OK);
	store_unlock(t.vol->store);
	txn_end(t.vol);
	for (unsigned i = 0; i < 20 || !volume_snapshot_would_last(t.vol); i++) { // until the log has begun anew
		ck_assert_int_eq(ft_truncate(&t, ROOT_INO + 1, i), 0);
		ck_assert_int_eq(fs_sync(t.fs), 0);
	}
	c = new_checker(&t);
	st.job = start(c, CONTROL_VERBOSE, 0);
	nap_ms(2000); // 20,000 lines are more than fits
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (unsigned i = 0; i < 400; i++) {
		struct fs_setattr attr = { .set = FS_SET_MODE, .mode = S_IFREG | (i & 0777) };
		struct stat out;

		for (uint64_t n = 0; n < 40; n++)
			ck_assert_int_eq(fs_setattr(t.fs, ROOT_INO + 1 + n * 450, &attr, &out), 0);
		ck_assert_int_eq(fs_sync(t.fs), 0);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	ck_assert_int_lt(end.tv_sec - begin.tv_sec, 10); // less than a lease
	do {
		st = (struct control_status){ .version = CONTROL_VERSION, .job = st.job };
		ck_assert_int_eq(checker_status(c, &st), 0);
	} while (st.state != CONTROL_DONE || st.text_len > 0);
	ck_assert_uint_eq(st.exit_status, EXIT_LEFT | EXIT_OPERATIONAL);
	ck_assert_msg(strstr(st.error, "changes too fast") != NULL, "%s", st.error);
	checker_destroy(c);
	ft_unmount(&t);
	bdev_close(t.dev);
}
END_TEST

// ---- the scrub ----

static void flip(struct ft *t, uint64_t ino, uint64_t off_blk)
{
	struct extent ext;
	uint8_t block[BLK_SIZE];
	uint64_t at;

	store_lock(t->vol->store);
	ck_assert_int_eq(extmap_next(t->vol, ino, off_blk, &ext), 0);
	store_unlock(t->vol->store);
	at = blk_to_bytes(ext.phys_blk + off_blk - ext.off_blk);
	ck_assert_int_eq(bdev_read(t->dev, block, BLK_SIZE, at), 0);
	block[100] ^= 4;
	ck_assert_int_eq(bdev_write(t->dev, block, BLK_SIZE, at), 0);
}

START_TEST(damaged_blocks_are_named)
{
	uint64_t ino, raw, gone;
	struct fs_entry e;
	struct checker *c;
	struct stat st;
	struct ft t;

	ft_new(&t, 64 * MIB);
	ino = write_file(&t, "large", 5 * MIB);
	raw = ft_create(&t, ROOT_INO, "raw");
	ck_assert_int_eq(fs_set_flags(t.fs, raw, 0x00800000 /* FS_NOCOW_FL */), 0);
	ft_write(&t, raw, report, 100000, 0);
	gone = write_file(&t, "gone", MIB);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, 0, 6 * MIB, MIB), 0); // unwritten
	ft_write(&t, ino, "deferred", 8, 3 * MIB);
	ck_assert_int_eq(fs_link(t.fs, ino, ROOT_INO, "again", &e), 0);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	flip(&t, ino, 0);
	flip(&t, ino, 700);
	flip(&t, ino, 701);
	flip(&t, raw, 3);
	flip(&t, gone, 1);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "gone"), 0); // but it is open
	st = ft_stat(&t, ino);
	c = new_checker(&t);
	ck_assert_uint_eq(finish(c, start(c, CONTROL_SCRUB | CONTROL_VERBOSE, 1000), report, sizeof(report)), EXIT_LEFT);
	ck_assert_msg(strstr(report, "large: damaged in bytes 0 to 4095, 2867200 to 2875391 [file-damaged]") != NULL ||
	              strstr(report, "again: damaged in bytes 0 to 4095, 2867200 to 2875391 [file-damaged]") != NULL, "%s", report);
	ck_assert_msg(strstr(report, " is also /") != NULL, "%s", report);
	ck_assert_msg(strstr(report, "4 damaged; 1 files without checksums left out") != NULL, "%s", report);
	ck_assert_msg(strstr(report, "2 files are damaged") != NULL, "%s", report);
	ck_assert_int_eq(st.st_atim.tv_nsec, ft_stat(&t, ino).st_atim.tv_nsec);
	checker_destroy(c);
	ft_unmount(&t);
	bdev_close(t.dev);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("online");
	TCase *tc = tcase_create("online"), *full = tcase_create("full");

	tcase_add_test(tc, a_snapshot_is_one_commit);
	tcase_add_loop_test(full, a_long_log_takes_the_snapshot_away, 0, 2);
	tcase_add_test(tc, who_may_what);
	tcase_add_test(tc, one_at_a_time);
	tcase_add_test(tc, under_load);
	tcase_add_test(full, a_full_report_stops_nobody);
	tcase_set_timeout(full, 120);
	tcase_add_test(tc, damaged_blocks_are_named);
	tcase_set_timeout(tc, 120);
	suite_add_tcase(suite, tc);
	suite_add_tcase(suite, full);
	return ft_main(suite);
}
