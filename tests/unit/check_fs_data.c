// SPDX-License-Identifier: MIT
// fs/: the data of files. The heart is a random test against a buffer in memory that also holds every write to the device against
// F2 and mounts what a power failure would leave.
#include <linux/falloc.h>
#include <stdio.h>

#include "fstest.h"

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO FALLOC_FL_ZERO_RANGE
#define KEEP FALLOC_FL_KEEP_SIZE

static struct ft t;

static uint8_t *pattern(size_t len, unsigned seed)
{
	uint8_t *buf = malloc(len);

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(i / 4096 * 31 + i % 251 + seed) | 1; // never 0
	return buf;
}

static bool is_inline(uint64_t ino)
{
	struct inode_row row;

	store_lock(t.vol->store);
	ck_assert_int_eq(inode_get(t.vol->store, ino, &row), 0);
	store_unlock(t.vol->store);
	return (row.flags & INODE_INLINE) != 0;
}

// ---- small files ----

START_TEST(inline_files)
{
	uint8_t want[INLINE_MAX_BYTES] = { 0 };
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_expect(&t, ino, "", 0);
	ft_write(&t, ino, "abc", 3, 10);
	memcpy(want + 10, "abc", 3);
	ft_expect(&t, ino, want, 13);
	ck_assert_int_eq(ft_truncate(&t, ino, 12), 0);
	ck_assert_int_eq(ft_truncate(&t, ino, 20), 0);
	want[12] = 0;
	ft_expect(&t, ino, want, 20);
	ft_write(&t, ino, "end", 3, INLINE_MAX_BYTES - 3);
	memcpy(want + INLINE_MAX_BYTES - 3, "end", 3);
	ft_expect(&t, ino, want, INLINE_MAX_BYTES);
	ck_assert(is_inline(ino) && ft_stat(&t, ino).st_blocks == 0);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, PUNCH, 11, 1), 0);
	want[11] = 0;
	ft_expect(&t, ino, want, INLINE_MAX_BYTES);
	ck_assert_int_eq(ft_truncate(&t, ino, 0), 0);
	ft_expect(&t, ino, "", 0);
	ft_end(&t);
}
END_TEST

// From inline to blocks by each way that leads there, and back by size 0.
START_TEST(inline_to_blocks)
{
	uint8_t *want = pattern(3 * BLK_SIZE, 1);
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	for (unsigned way = 0; way < 6; way++) {
		uint8_t *now = calloc(1, 3 * BLK_SIZE);
		size_t len = 0;

		ino = ft_create(&t, ROOT_INO, "f");
		ft_write(&t, ino, want, 1000, 0);
		memcpy(now, want, 1000);
		switch (way) {
		case 0: // over the end
			ft_write(&t, ino, want, 3000, 500);
			memcpy(now + 500, want, 3000);
			len = 3500;
			break;
		case 1: // far behind
			ft_write(&t, ino, want, 100, 2 * BLK_SIZE + 50);
			memcpy(now + 2 * BLK_SIZE + 50, want, 100);
			len = 2 * BLK_SIZE + 150;
			break;
		case 2: // all of it anew
			ft_write(&t, ino, want, 3 * BLK_SIZE, 0);
			memcpy(now, want, 3 * BLK_SIZE);
			len = 3 * BLK_SIZE;
			break;
		case 3:
			ck_assert_int_eq(ft_truncate(&t, ino, 2 * BLK_SIZE + 1), 0);
			len = 2 * BLK_SIZE + 1;
			break;
		case 4:
			ck_assert_int_eq(fs_fallocate(t.fs, ino, 0, 0, 9000), 0);
			len = 9000;
			break;
		case 5:
			ck_assert_int_eq(fs_fallocate(t.fs, ino, ZERO | KEEP, 10, 20), 0);
			memset(now + 10, 0, 20);
			len = 1000;
			break;
		}
		ck_assert(!is_inline(ino) && ft_stat(&t, ino).st_blocks >= 8);
		ft_expect(&t, ino, now, len);
		ft_check(&t);
		ck_assert_int_eq(ft_truncate(&t, ino, 100), 0);
		ft_expect(&t, ino, now, 100);
		ck_assert_int_eq(ft_truncate(&t, ino, 0), 0);
		ck_assert(is_inline(ino) && ft_stat(&t, ino).st_blocks == 0);
		ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), 0);
		free(now);
	}
	free(want);
	ft_end(&t);
}
END_TEST

// ---- blocks ----

START_TEST(sequential_writes_are_contiguous)
{
	uint8_t *buf = pattern(8 * MIB, 3);
	struct extent ext[8];
	uint64_t ino;

	ft_new(&t, 128 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	for (unsigned i = 0; i < 8 * MIB / (128 * KIB); i++) {
		ft_write(&t, ino, buf + i * 128 * KIB, 128 * KIB, i * 128 * KIB);
		if (i % 10 == 9)
			ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	}
	ft_expect(&t, ino, buf, 8 * MIB);
	ck_assert_uint_le(ft_extents(&t, ino, ext, 8), 2);
	free(buf);
	ft_end(&t);
}
END_TEST

// Small appends stay in the block they began, in one transaction and over several. More than a few blocks move.
START_TEST(appends_stay_and_large_overwrites_move)
{
	uint8_t *buf = pattern(17 * BLK_SIZE, 5);
	struct extent a, b;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, buf, 3000, 0);
	ck_assert_uint_eq(ft_extents(&t, ino, &a, 1), 1);
	for (unsigned at = 3000; at < 3500; at += 10)
		ft_write(&t, ino, buf + at, 10, at);
	ck_assert_uint_eq(ft_extents(&t, ino, &b, 1), 1);
	ck_assert_uint_eq(a.phys_blk, b.phys_blk);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	ft_write(&t, ino, buf + 3500, 10, 3500);
	ck_assert_uint_eq(ft_extents(&t, ino, &b, 1), 1);
	ck_assert_uint_eq(a.phys_blk, b.phys_blk);
	ft_expect(&t, ino, buf, 3510);
	ft_write(&t, ino, buf, 17 * BLK_SIZE, 0);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	ck_assert_uint_eq(ft_extents(&t, ino, &a, 1), 1);
	ft_write(&t, ino, buf, 17 * BLK_SIZE, 0);
	ck_assert_uint_eq(ft_extents(&t, ino, &b, 1), 1);
	ck_assert_uint_ne(a.phys_blk, b.phys_blk);
	ft_expect(&t, ino, buf, 17 * BLK_SIZE);
	free(buf);
	ft_end(&t);
}
END_TEST

// Preallocated blocks are written where they are, also after they have become durable.
START_TEST(preallocated_blocks_stay)
{
	uint8_t *buf = pattern(64 * KIB, 6), *want = calloc(1, MIB);
	struct extent a, b[4];
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ck_assert_int_eq(fs_fallocate(t.fs, ino, 0, 0, MIB), 0);
	ck_assert_uint_eq(ft_extents(&t, ino, &a, 1), 1);
	ck_assert(a.unwritten && a.len_blk == 256);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	ft_write(&t, ino, buf, 10000, 100);
	memcpy(want + 100, buf, 10000);
	ft_expect(&t, ino, want, MIB);
	ck_assert_uint_eq(ft_extents(&t, ino, b, 4), 2);
	ck_assert(b[0].phys_blk == a.phys_blk && !b[0].unwritten && b[0].len_blk == 3 && b[1].unwritten);
	ft_crash(&t); // nothing of the write was committed
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "f", &ino), 0);
	memset(want, 0, MIB);
	ft_expect(&t, ino, want, MIB);
	free(buf);
	free(want);
	ft_end(&t);
}
END_TEST

// Space for a long range ends after its first piece: the size stays, because whoever got the error goes on with it.
START_TEST(failed_allocation_keeps_the_size)
{
	uint64_t ino, half = 1500 * MIB;

	ft_new(&t, 2900 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ck_assert_int_eq(fs_fallocate(t.fs, ino, 0, 0, half), 0);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, 0, half, 2000 * MIB), -ENOSPC);
	ck_assert_int_eq(ft_stat(&t, ino).st_size, (int64_t)half);
	ck_assert_int_eq(ft_truncate(&t, ino, half), 0);
	ck_assert_int_eq(ft_stat(&t, ino).st_blocks, (int64_t)half / 512);
	ft_end(&t);
}
END_TEST

START_TEST(limits)
{
	uint8_t *buf = pattern(2 * BLK_SIZE, 7), got[10];
	uint64_t ino, dir, at;
	size_t done;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	dir = ft_mkdir(&t, ROOT_INO, "d");
	ck_assert_int_eq(fs_write(t.fs, ino, buf, 1, FILE_MAX_BYTES, 0, &done), -EFBIG);
	ck_assert_int_eq(fs_write(t.fs, ino, buf, 8192, FILE_MAX_BYTES - 100, 0, &done), 0);
	ck_assert_uint_eq(done, 100);
	ck_assert_int_eq(ft_stat(&t, ino).st_size, (int64_t)FILE_MAX_BYTES);
	ck_assert_int_eq(fs_read(t.fs, ino, got, 10, FILE_MAX_BYTES - 5, &done), 0);
	ck_assert_uint_eq(done, 5);
	ck_assert_mem_eq(got, buf + 95, 5);
	ck_assert_int_eq(fs_lseek(t.fs, ino, 0, SEEK_DATA, &at), 0);
	ck_assert_uint_eq(at, FILE_MAX_BYTES - BLK_SIZE);
	ck_assert_int_eq(ft_truncate(&t, ino, FILE_MAX_BYTES + 1), -EFBIG);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, 0, FILE_MAX_BYTES, 1), -EFBIG);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, 0, 0, 0), -EINVAL);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, FALLOC_FL_COLLAPSE_RANGE, 0, BLK_SIZE), -EOPNOTSUPP);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, FALLOC_FL_PUNCH_HOLE, 0, BLK_SIZE), -EOPNOTSUPP);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, PUNCH, 0, FILE_MAX_BYTES), 0);
	ck_assert_int_eq(ft_stat(&t, ino).st_blocks, 0);
	ck_assert_int_eq(fs_write(t.fs, dir, buf, 1, 0, 0, &done), -EISDIR);
	ck_assert_int_eq(fs_read(t.fs, dir, got, 1, 0, &done), -EISDIR);
	ck_assert_int_eq(ft_truncate(&t, dir, 0), -EISDIR);
	ck_assert_int_eq(fs_lseek(t.fs, ino, FILE_MAX_BYTES, SEEK_HOLE, &at), -ENXIO);
	ck_assert_int_eq(fs_lseek(t.fs, ino, 0, SEEK_CUR, &at), -EINVAL);
	free(buf);
	ft_end(&t);
}
END_TEST

START_TEST(seeking)
{
	uint8_t *buf = pattern(BLK_SIZE, 8);
	uint64_t ino, at;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, buf, BLK_SIZE, 10 * BLK_SIZE);
	ft_write(&t, ino, buf, 100, 20 * BLK_SIZE);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, KEEP, 11 * BLK_SIZE, 5 * BLK_SIZE), 0);
	ck_assert_int_eq(fs_lseek(t.fs, ino, 5, SEEK_DATA, &at), 0);
	ck_assert_uint_eq(at, 10 * BLK_SIZE);
	ck_assert_int_eq(fs_lseek(t.fs, ino, 10 * BLK_SIZE + 7, SEEK_DATA, &at), 0);
	ck_assert_uint_eq(at, 10 * BLK_SIZE + 7);
	ck_assert_int_eq(fs_lseek(t.fs, ino, 10 * BLK_SIZE + 7, SEEK_HOLE, &at), 0);
	ck_assert_uint_eq(at, 11 * BLK_SIZE);
	ck_assert_int_eq(fs_lseek(t.fs, ino, 11 * BLK_SIZE, SEEK_DATA, &at), 0);
	ck_assert_uint_eq(at, 20 * BLK_SIZE);
	ck_assert_int_eq(fs_lseek(t.fs, ino, 3, SEEK_HOLE, &at), 0);
	ck_assert_uint_eq(at, 3);
	ck_assert_int_eq(fs_lseek(t.fs, ino, 20 * BLK_SIZE + 1, SEEK_HOLE, &at), 0);
	ck_assert_uint_eq(at, 20 * BLK_SIZE + 100);
	ck_assert_int_eq(ft_truncate(&t, ino, 30 * BLK_SIZE), 0);
	ck_assert_int_eq(fs_lseek(t.fs, ino, 21 * BLK_SIZE, SEEK_DATA, &at), -ENXIO);
	free(buf);
	ft_end(&t);
}
END_TEST

START_TEST(copying)
{
	uint8_t *buf = pattern(3 * MIB, 9);
	uint64_t a, b;
	size_t done;

	ft_new(&t, 64 * MIB);
	a = ft_create(&t, ROOT_INO, "a");
	b = ft_create(&t, ROOT_INO, "b");
	ft_write(&t, a, buf, 3 * MIB, 0);
	ck_assert_int_eq(fs_copy_range(t.fs, a, 100, b, 0, 4 * MIB, &done), 0);
	ck_assert_uint_eq(done, 3 * MIB - 100);
	ft_expect(&t, b, buf + 100, done);
	ck_assert_int_eq(fs_copy_range(t.fs, a, 0, a, 10, 20, &done), -EINVAL);
	ck_assert_int_eq(fs_copy_range(t.fs, a, 0, a, 20, 20, &done), 0);
	memcpy(buf + 20, buf, 20);
	ft_expect(&t, a, buf, 3 * MIB);
	ck_assert_int_eq(fs_copy_range(t.fs, a, 3 * MIB, b, 0, 20, &done), 0);
	ck_assert_uint_eq(done, 0);
	free(buf);
	ft_end(&t);
}
END_TEST

// ---- a full volume ----

static uint64_t fill(uint64_t ino, const uint8_t *buf, size_t step)
{
	uint64_t at = 0;
	size_t done;
	int r;

	while ((r = fs_write(t.fs, ino, buf, step, at, 0, &done)) == 0)
		at += done;
	ck_assert_int_eq(r, -ENOSPC);
	return at;
}

START_TEST(full_volume)
{
	uint8_t *buf = pattern(MIB, 11);
	uint64_t ino, free_before, free_now, small;
	struct fs_entry e;
	size_t done;

	ft_new(&t, 32 * MIB);
	small = ft_create(&t, ROOT_INO, "small");
	ft_write(&t, small, buf, 10000, 0);
	ino = ft_create(&t, ROOT_INO, "f");
	ck_assert_int_eq(fs_sync(t.fs), 0);
	free_before = ft_avail(&t);
	for (unsigned round = 0; round < 3; round++) {
		uint64_t size = fill(ino, buf, round == 1 ? 3 * BLK_SIZE + 5 : MIB);

		free_now = ft_avail(&t);
		ck_assert_uint_le(free_now, 128); // what metadata may keep for itself
		ck_assert_uint_ge(bytes_to_blk_up(size) + 512, free_before);
		ft_check(&t);
		// Existing bytes can be overwritten, in pieces and across transactions.
		ft_write(&t, small, buf + 1, 9000, 500);
		ck_assert_int_eq(fs_sync(t.fs), 0);
		ft_write(&t, small, buf, 10000, 0);
		// Deleting and truncating work, and give the space back to whoever asks next, at once.
		if (round == 0)
			ck_assert_int_eq(ft_truncate(&t, ino, 4097), 0);
		ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), 0);
		fs_forget(t.fs, ino, 1);
		ino = ft_create(&t, ROOT_INO, "f");
		ft_write(&t, ino, buf, MIB, 0);
	}
	ft_expect(&t, small, buf, 10000);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, 0, 0, 64 * MIB), -ENOSPC);
	ck_assert_int_eq(fs_fallocate(t.fs, ino, 0, 0, 4 * MIB), 0);
	ck_assert_int_eq(fs_mknod(t.fs, ROOT_INO, "more", S_IFREG | 0600, 0, &ft_cred, &e), 0);
	ck_assert_int_eq(fs_write(t.fs, e.ino, buf, MIB, 0, 0, &done), 0);
	free(buf);
	ft_end(&t);
}
END_TEST

START_TEST(failed_read_is_an_error)
{
	uint8_t *buf = pattern(BLK_SIZE, 12);
	uint64_t ino;
	size_t done;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, buf, BLK_SIZE, 0);
	testdev_fail(t.dev, TESTDEV_READ, 1, EIO, false);
	ck_assert_int_eq(fs_read(t.fs, ino, buf, BLK_SIZE, 0, &done), -EIO);
	ck_assert_uint_eq(done, 0);
	testdev_fail(t.dev, TESTDEV_READ, 1, EIO, false);
	ck_assert_int_eq(fs_write(t.fs, ino, buf, 10, 5, 0, &done), -EIO); // cannot compose the block
	testdev_fail(t.dev, TESTDEV_READ, 0, 0, false);
	ft_write(&t, ino, buf, 10, 0);
	ft_expect(&t, ino, buf, BLK_SIZE);
	free(buf);
	ft_end(&t);
}
END_TEST

START_TEST(failed_write_stops_the_volume)
{
	uint8_t *buf = pattern(MIB, 13);
	struct errmsg why;
	uint64_t ino;
	size_t done;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, buf, 9000, 0);
	ck_assert_int_eq(fs_fsync(t.fs, ino), 0);
	testdev_fail(t.dev, TESTDEV_WRITE, 1, EIO, false);
	ck_assert_int_eq(fs_write(t.fs, ino, buf, MIB, 0, 0, &done), -EIO);
	ck_assert_int_ne(fs_write(t.fs, ino, buf, MIB, 0, 0, &done), 0);
	ck_assert_msg(alloc_check(t.vol->alloc, &why) == 0, "%s", why.text);
	ft_expect(&t, ino, buf, 9000);
	ft_crash(&t);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "f", &ino), 0);
	ft_expect(&t, ino, buf, 9000);
	free(buf);
	ft_end(&t);
}
END_TEST

// ---- against a model ----

#define MODEL_MAX (2 * MIB)
#define MODEL_EXTENTS 1200u

struct model {
	uint64_t ino, size, durable_size;
	uint8_t *now, *durable; // MODEL_MAX bytes each; zeros beyond the size
	struct extent named[MODEL_EXTENTS]; // extents of the durable state
	unsigned n_named;
	unsigned seed;
	uint64_t txn; // that was open after the last commit
};

// Offsets and lengths near block borders, small and large.
static uint64_t some_len(struct model *m)
{
	uint64_t len = 1 + vt_rand(&m->seed) % (1u << (vt_rand(&m->seed) % 20));

	return vt_rand(&m->seed) % 4 == 0 ? blk_to_bytes(bytes_to_blk_up(len)) : len;
}

static uint64_t some_off(struct model *m)
{
	uint64_t off = vt_rand(&m->seed) % (vt_rand(&m->seed) % 4 == 0 ? MODEL_MAX : m->size + 1);

	return vt_rand(&m->seed) % 3 == 0 ? blk_to_bytes(bytes_to_blk_down(off)) : off;
}

static void grow_to(struct model *m, uint64_t size)
{
	if (m->size < size)
		m->size = size;
}

static void model_step(struct model *m)
{
	uint64_t off = some_off(m), len = min_u64(some_len(m), MODEL_MAX - off);
	unsigned what = vt_rand(&m->seed) % 20;

	if (len == 0)
		return;
	if (what < 10) {
		uint8_t *buf = pattern(len, vt_rand(&m->seed));

		ft_write(&t, m->ino, buf, len, off);
		memcpy(m->now + off, buf, len);
		grow_to(m, off + len);
		free(buf);
	} else if (what < 13) {
		ck_assert_int_eq(ft_truncate(&t, m->ino, off), 0);
		if (off < m->size)
			memset(m->now + off, 0, m->size - off);
		m->size = off;
	} else if (what < 15) {
		ck_assert_int_eq(fs_fallocate(t.fs, m->ino, PUNCH, off, len), 0);
		memset(m->now + off, 0, len);
	} else if (what < 17) {
		bool keep = vt_rand(&m->seed) % 2 == 0;

		ck_assert_int_eq(fs_fallocate(t.fs, m->ino, ZERO | (keep ? KEEP : 0), off, len), 0);
		memset(m->now + off, 0, len);
		grow_to(m, keep ? 0 : off + len);
	} else {
		bool keep = vt_rand(&m->seed) % 2 == 0;

		ck_assert_int_eq(fs_fallocate(t.fs, m->ino, keep ? KEEP : 0, off, len), 0);
		grow_to(m, keep ? 0 : off + len);
	}
}

// Every byte between a SEEK_HOLE and the next SEEK_DATA is zero.
static void check_seek(const struct model *m)
{
	uint64_t at = 0, hole, data;
	int r;

	while (at < m->size) {
		ck_assert_int_eq(fs_lseek(t.fs, m->ino, at, SEEK_HOLE, &hole), 0);
		if (hole >= m->size)
			return;
		r = fs_lseek(t.fs, m->ino, hole, SEEK_DATA, &data);
		ck_assert(r == 0 || r == -ENXIO);
		if (r == -ENXIO)
			data = m->size;
		ck_assert_uint_gt(data, hole);
		for (uint64_t i = hole; i < data; i++)
			if (m->now[i] != 0)
				ck_abort_msg("byte %llu is data in a hole", (unsigned long long)i);
		at = data;
	}
}

// Whether the write leaves the extent's bytes as they are: deferred writes of the durable state are copied to their places at any time.
static bool leaves_as_it_is(const struct model *m, const struct testdev_entry *write, const struct extent *x)
{
	uint64_t start = max_u64(write->off_bytes, blk_to_bytes(x->phys_blk));
	uint64_t end = min_u64(write->off_bytes + write->len_bytes, blk_to_bytes(x->phys_blk + x->len_blk));
	uint64_t at = blk_to_bytes(x->off_blk) + start - blk_to_bytes(x->phys_blk), known;

	if (end <= start || x->unwritten || at >= m->durable_size)
		return true;
	known = min_u64(end - start, m->durable_size - at);
	return memcmp((const char *)write->data + (start - write->off_bytes), m->durable + at, known) == 0;
}

// F2: since the last commit nothing was written over blocks that it names, but what they hold in it.
static void check_not_overwritten(const struct model *m)
{
	for (size_t i = 0; i < testdev_log_len(t.dev); i++) {
		const struct testdev_entry *e = testdev_log_at(t.dev, i);

		for (unsigned x = 0; e->op == TESTDEV_WRITE && x < m->n_named; x++)
			if (!leaves_as_it_is(m, e, &m->named[x]))
				ck_abort_msg("a write at %llu changes a durable extent at %llu", (unsigned long long)e->off_bytes,
				             (unsigned long long)blk_to_bytes(m->named[x].phys_blk));
	}
}

static bool keep_some(void *ctx, size_t entry, uint64_t *from, uint64_t *to)
{
	unsigned *seed = ctx;
	unsigned what = vt_rand(seed) % 3;

	(void)entry;
	if (what == 0 && *to - *from > 1) // torn
		*to = *from + 1 + vt_rand(seed) % (*to - *from - 1);
	return what != 2;
}

// Power fails now: the volume is as it was at the last commit, whatever part of the writes since then has reached the medium.
static void check_power_failure(struct model *m)
{
	struct ft after;
	struct bdev *dev;
	uint64_t ino;

	ck_assert_int_eq(testdev_crash_state(t.dev, testdev_log_len(t.dev), keep_some, &m->seed, &dev), 0);
	ft_mount(&after, dev);
	ck_assert_int_eq(ft_lookup(&after, ROOT_INO, "f", &ino), 0);
	ft_expect(&after, ino, m->durable, m->durable_size);
	ft_end(&after);
}

// The volume may commit by itself when its log is long. Then what the model takes for the durable state is too old.
static bool nobody_committed(const struct model *m)
{
	return txn_open_id(t.vol) == m->txn;
}

static void commit(struct model *m)
{
	ck_assert_int_eq(fs_fsync(t.fs, m->ino), 0);
	m->txn = txn_open_id(t.vol);
	memcpy(m->durable, m->now, MODEL_MAX);
	m->durable_size = m->size;
	m->n_named = ft_extents(&t, m->ino, m->named, MODEL_EXTENTS);
	ck_assert_uint_lt(m->n_named, MODEL_EXTENTS);
	testdev_record(t.dev, true); // empties the log
}

START_TEST(random_changes_against_a_model)
{
	struct model *m = calloc(1, sizeof(*m));
	unsigned n_checked = 0;

	m->seed = vt_seed(20240607 + (unsigned)_i);
	m->now = calloc(1, MODEL_MAX);
	m->durable = calloc(1, MODEL_MAX);
	ft_new(&t, 64 * MIB);
	m->ino = ft_create(&t, ROOT_INO, "f");
	commit(m);
	for (unsigned i = 0; i < 600; i++) {
		model_step(m);
		if (i % 5 == 0)
			ft_expect(&t, m->ino, m->now, m->size);
		if (i % 20 == 0)
			check_seek(m);
		if (vt_rand(&m->seed) % 8 != 0)
			continue;
		testdev_record(t.dev, false);
		if (nobody_committed(m)) {
			n_checked++;
			check_not_overwritten(m);
			if (vt_rand(&m->seed) % 6 == 0)
				check_power_failure(m);
		}
		commit(m);
	}
	testdev_record(t.dev, false);
	ck_assert_uint_gt(n_checked, 20);
	ft_check(&t);
	ft_expect(&t, m->ino, m->now, m->size);
	ft_unmount(&t);
	ft_mount(&t, t.dev);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "f", &m->ino), 0);
	ft_expect(&t, m->ino, m->now, m->size);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), 0);
	ft_end(&t);
	free(m->now);
	free(m->durable);
	free(m);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("fs_data");
	TCase *tc = tcase_create("data");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, inline_files);
	tcase_add_test(tc, inline_to_blocks);
	tcase_add_test(tc, sequential_writes_are_contiguous);
	tcase_add_test(tc, appends_stay_and_large_overwrites_move);
	tcase_add_test(tc, preallocated_blocks_stay);
	tcase_add_test(tc, failed_allocation_keeps_the_size);
	tcase_add_test(tc, limits);
	tcase_add_test(tc, seeking);
	tcase_add_test(tc, copying);
	tcase_add_test(tc, full_volume);
	tcase_add_test(tc, failed_read_is_an_error);
	tcase_add_test(tc, failed_write_stops_the_volume);
	tcase_add_loop_test(tc, random_changes_against_a_model, 0, 4);
	suite_add_tcase(s, tc);
	return ft_main(s);
}
