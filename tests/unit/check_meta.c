// SPDX-License-Identifier: MIT
// meta/: rows, directory cookies, extent maps against a model, free maps, orphans, opening a volume.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "meta/extmap.h"
#include "meta/freemap.h"
#include "meta/orphan.h"
#include "meta/rows.h"
#include "run_suite.h"
#include "util/blk.h"
#include "voltest.h"

#define MIB (1ull << 20)

// ---- rows ----

static void begin(struct volume *vol)
{
	uint64_t id;

	ck_assert_int_eq(txn_begin(vol, TXN_GROW, &id), 0);
	store_lock(vol->store);
}

static void end(struct volume *vol)
{
	store_unlock(vol->store);
	txn_end(vol);
}

static void add_file(struct volume *vol, uint64_t ino)
{
	struct inode_row row = { .ino = ino, .mode = S_IFREG | 0644, .nlink = 1, .btime_ns = -5, .mtime_ns = 1 };

	begin(vol);
	ck_assert_int_eq(inode_insert(vol->store, &row), 0);
	end(vol);
}

START_TEST(rows_survive_a_remount)
{
	struct bdev *dev = vt_format(32 * MIB);
	struct volume *vol = vt_open(dev);
	struct inode_row row;
	char buf[64];
	size_t len;

	add_file(vol, 77);
	begin(vol);
	ck_assert_int_eq(inline_set(vol->store, 77, "hello", 5), 0);
	ck_assert_int_eq(xattr_set(vol->store, 77, "user.a", "1", 1, XATTR_REPLACE), -ENODATA);
	ck_assert_int_eq(xattr_set(vol->store, 77, "user.a", "", 0, XATTR_CREATE), 0);
	ck_assert_int_eq(xattr_set(vol->store, 77, "user.b", "zwei", 4, 0), 0);
	ck_assert_int_eq(xattr_set(vol->store, 77, "user.b", "x", 1, XATTR_CREATE), -EEXIST);
	end(vol);
	ck_assert_int_eq(volume_close(vol), 0);

	vol = vt_open(dev);
	ck_assert(!vol->recovered);
	begin(vol);
	ck_assert_int_eq(inode_get(vol->store, 77, &row), 0);
	ck_assert_int_eq(row.btime_ns, -5);
	ck_assert_int_eq(inode_get(vol->store, 78, &row), -ENOENT);
	ck_assert_int_eq(inline_get(vol->store, 77, buf, sizeof(buf), &len), 0);
	ck_assert(len == 5 && memcmp(buf, "hello", 5) == 0);
	ck_assert_int_eq(inline_get(vol->store, 77, buf, 4, &len), -EUCLEAN);
	ck_assert_int_eq(xattr_list(vol->store, 77, buf, sizeof(buf), &len), 0);
	ck_assert(len == 14 && memcmp(buf, "user.a\0user.b", 14) == 0);
	ck_assert_int_eq(xattr_list(vol->store, 77, buf, 13, &len), -ERANGE);
	ck_assert_int_eq(xattr_get(vol->store, 77, "user.b", buf, 3, &len), -ERANGE);
	ck_assert_int_eq(xattr_get(vol->store, 77, "user.b", NULL, 0, &len), 0);
	ck_assert_uint_eq(len, 4);
	ck_assert_int_eq(xattr_remove(vol->store, 77, "user.b"), 0);
	ck_assert_int_eq(xattr_remove(vol->store, 77, "user.b"), -ENODATA);
	ck_assert_int_eq(store_n_inodes(vol->store), 2);
	end(vol);
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

struct scan {
	unsigned n;
	uint64_t last;
};

static int count_entry(void *ctx, const struct dirent_row *row, const struct inode_row *inode)
{
	struct scan *s = ctx;

	ck_assert_uint_gt(row->cookie, s->last);
	ck_assert_ptr_null(inode);
	s->last = row->cookie;
	s->n++;
	return 0;
}

START_TEST(directory_of_many_names)
{
	struct bdev *dev = vt_format(64 * MIB);
	struct volume *vol = vt_open(dev);
	struct dirent_row row;
	struct scan s = { 0 };
	char name[32];
	bool empty;

	begin(vol);
	ck_assert_int_eq(dirent_is_empty(vol->store, ROOT_INO, &empty), 0);
	ck_assert(empty);
	for (int i = 0; i < 5000; i++) {
		int len = snprintf(name, sizeof(name), "name %d", i);

		ck_assert_int_eq(dirent_insert(vol->store, ROOT_INO, name, (size_t)len, 1000 + (uint64_t)i, 8), 0);
	}
	ck_assert_int_eq(dirent_insert(vol->store, ROOT_INO, "name 7", 6, 1, 8), -EEXIST);
	ck_assert_int_eq(dirent_find(vol->store, ROOT_INO, "name 4999", 9, &row), 0);
	ck_assert_uint_eq(row.ino, 5999);
	ck_assert_str_eq(row.name, "name 4999");
	ck_assert_int_eq(dirent_delete(vol->store, ROOT_INO, row.cookie), 0);
	ck_assert_int_eq(dirent_find(vol->store, ROOT_INO, "name 4999", 9, &row), -ENOENT);
	ck_assert_int_eq(dirent_scan(vol->store, ROOT_INO, 0, false, count_entry, &s), 0);
	ck_assert_uint_eq(s.n, 4999);
	end(vol);
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

// Names that share a hash: the entries are put where the hash of "x" says, as if they had collided.
START_TEST(colliding_names)
{
	struct bdev *dev = vt_format(16 * MIB);
	struct volume *vol = vt_open(dev);
	struct dirent_row row;
	char sql[200];
	int64_t key = 0;
	uint64_t h;

	begin(vol);
	ck_assert_int_eq(store_config_get(vol->store, "hash_key", &key), 0);
	h = dirent_hash((uint64_t)key, "x", 1);
	for (int i = 0; i < DIRENT_PROBES - 1; i++) {
		snprintf(sql, sizeof(sql), "INSERT INTO dirent VALUES(1, %llu, 5, 8, CAST('other%d' AS BLOB))",
		         (unsigned long long)h + (unsigned)i, i);
		ck_assert_int_eq(sqlite3_exec(store_db(vol->store), sql, NULL, NULL, NULL), SQLITE_OK);
	}
	ck_assert_int_eq(dirent_insert(vol->store, 1, "x", 1, 9, 8), 0);
	ck_assert_int_eq(dirent_find(vol->store, 1, "x", 1, &row), 0);
	ck_assert_uint_eq(row.cookie, h + DIRENT_PROBES - 1);
	// Deleting a name in front of it does not hide it.
	ck_assert_int_eq(dirent_delete(vol->store, 1, h), 0);
	ck_assert_int_eq(dirent_find(vol->store, 1, "x", 1, &row), 0);
	ck_assert_int_eq(dirent_delete(vol->store, 1, row.cookie), 0);
	ck_assert_int_eq(dirent_insert(vol->store, 1, "x", 1, 9, 8), 0);
	ck_assert_int_eq(dirent_find(vol->store, 1, "x", 1, &row), 0);
	ck_assert_uint_eq(row.cookie, h);
	// Full: the sixteenth place is taken as well.
	snprintf(sql, sizeof(sql), "UPDATE dirent SET name = CAST('y' AS BLOB) WHERE cookie = %llu", (unsigned long long)h);
	ck_assert_int_eq(sqlite3_exec(store_db(vol->store), sql, NULL, NULL, NULL), SQLITE_OK);
	snprintf(sql, sizeof(sql), "INSERT INTO dirent VALUES(1, %llu, 5, 8, CAST('z' AS BLOB))",
	         (unsigned long long)h + DIRENT_PROBES - 1);
	ck_assert_int_eq(sqlite3_exec(store_db(vol->store), sql, NULL, NULL, NULL), SQLITE_OK);
	ck_assert_int_eq(dirent_insert(vol->store, 1, "x", 1, 9, 8), -ENOSPC);
	end(vol);
	volume_abandon(vol);
	bdev_close(dev);
}
END_TEST

// ---- extents against a model: for each file block the device block, 0 for a hole; unwritten has the top bit ----

#define MODEL_BLK 600
#define UNWRITTEN (1ull << 63)

static void check_model(struct volume *vol, uint64_t ino, const uint64_t *model)
{
	struct extent ext[MODEL_BLK];
	uint64_t seen[MODEL_BLK] = { 0 };
	unsigned n;

	store_lock(vol->store);
	ck_assert_int_eq(extmap_query(vol, ino, 0, MODEL_BLK, ext, MODEL_BLK, &n), 0);
	store_unlock(vol->store);
	for (unsigned i = 0; i < n; i++) {
		for (uint64_t k = 0; k < ext[i].len_blk; k++)
			seen[ext[i].off_blk + k] = (ext[i].phys_blk + k) | (ext[i].unwritten ? UNWRITTEN : 0);
		// E1: neighbours that could be one are one.
		if (i > 0)
			ck_assert(ext[i - 1].off_blk + ext[i - 1].len_blk != ext[i].off_blk ||
			          ext[i - 1].phys_blk + ext[i - 1].len_blk != ext[i].phys_blk ||
			          ext[i - 1].unwritten != ext[i].unwritten);
	}
	ck_assert_mem_eq(seen, model, sizeof(seen));
}

static void model_write(struct volume *vol, uint64_t ino, uint64_t *model, uint64_t off, uint64_t len, bool unwritten)
{
	struct runlist runs = { 0 };
	struct alloc_req req = { .goal_blk = off > 0 ? (model[off - 1] & ~UNWRITTEN) + 1 : 0, .want_blk = len };
	uint64_t removed;
	bool more;

	ck_assert_int_eq(alloc_get(vol->alloc, NULL, &req, &runs), 0);
	begin(vol);
	ck_assert_int_eq(extmap_remove(vol, ino, off, len, 0, &more, &removed), 0);
	ck_assert(!more);
	for (uint64_t k = off; k < off + len; k++)
		removed -= model[k] != 0;
	ck_assert_uint_eq(removed, 0);
	for (uint32_t r = 0; r < runs.n; r++) {
		struct extent e = { off, runs.runs[r].start_blk, runs.runs[r].len_blk, unwritten };

		ck_assert_int_eq(extmap_insert(vol, ino, &e), 0);
		for (uint64_t k = 0; k < e.len_blk; k++)
			model[off++] = (e.phys_blk + k) | (unwritten ? UNWRITTEN : 0);
	}
	end(vol);
	runlist_free(&runs);
}

static void model_mark(struct volume *vol, uint64_t ino, uint64_t *model, uint64_t off, uint64_t len, bool unwritten)
{
	begin(vol);
	ck_assert_int_eq(extmap_set_unwritten(vol, ino, off, len, unwritten), 0);
	end(vol);
	for (uint64_t k = off; k < off + len; k++)
		if (model[k] != 0)
			model[k] = (model[k] & ~UNWRITTEN) | (unwritten ? UNWRITTEN : 0);
}

static void model_punch(struct volume *vol, uint64_t ino, uint64_t *model, uint64_t off, uint64_t len)
{
	uint64_t removed;
	bool more;

	begin(vol);
	do
		ck_assert_int_eq(extmap_remove(vol, ino, off, len, 1, &more, &removed), 0);
	while (more);
	end(vol);
	memset(model + off, 0, len * sizeof(model[0]));
}

// What the space map says of every block must be what the model says.
static void check_free_map(struct volume *vol, const uint64_t *model)
{
	uint32_t n_ms = sb_n_metaslabs(&vol->files.sb);
	struct volume_space space;
	uint64_t used = 0, owned = 0;
	struct errmsg why;

	store_lock(vol->store);
	for (uint32_t ms = 0; ms < n_ms; ms++) {
		struct spacemap_bits bits;

		ck_assert_int_eq(freemap_read_bits(txn_freemap(vol), ms, &bits), 0);
		used += bits.used_blk;
		for (int k = 0; k < MODEL_BLK; k++) {
			uint64_t phys = model[k] & ~UNWRITTEN, start = phys & ((1ull << vol->files.sb.ms_shift) - 1), len;

			if (phys == 0 || phys >> vol->files.sb.ms_shift != ms)
				continue;
			ck_assert(spacemap_bits_next(&bits, true, &start, &len));
			ck_assert_uint_eq(start, phys & ((1ull << vol->files.sb.ms_shift) - 1));
		}
		spacemap_bits_free(&bits);
	}
	store_unlock(vol->store);
	for (int k = 0; k < MODEL_BLK; k++)
		owned += model[k] != 0;
	ck_assert_uint_eq(used, owned);
	ck_assert_msg(alloc_check(vol->alloc, &why) == 0, "%s", why.text);
	volume_get_space(vol, &space);
	ck_assert_uint_le(space.free_blk + owned, space.total_blk);
}

START_TEST(extents_against_a_model)
{
	struct bdev *dev = vt_format(32 * MIB);
	struct volume *vol = vt_open(dev);
	uint64_t model[MODEL_BLK] = { 0 };
	unsigned rng = vt_seed(31337);

	add_file(vol, 50);
	for (int i = 0; i < 3000; i++) {
		uint64_t off = vt_rand(&rng) % MODEL_BLK, len = 1 + vt_rand(&rng) % 40;

		len = min_u64(len, MODEL_BLK - off);
		switch (vt_rand(&rng) % 6) {
		case 0:
		case 1:
			model_write(vol, 50, model, off, len, false);
			break;
		case 2:
			model_write(vol, 50, model, off, len, true);
			break;
		case 3:
			model_mark(vol, 50, model, off, len, vt_rand(&rng) % 4 == 0);
			break;
		case 4:
			model_punch(vol, 50, model, off, len);
			break;
		case 5:
			if (vt_rand(&rng) % 8 == 0)
				ck_assert_int_eq(txn_commit(vol), 0);
			break;
		}
		if (i % 50 == 0)
			check_model(vol, 50, model);
		if (i % 500 == 499) {
			check_free_map(vol, model);
			ck_assert_int_eq(volume_close(vol), 0);
			vol = vt_open(dev);
			check_free_map(vol, model);
		}
	}
	model_punch(vol, 50, model, 0, MODEL_BLK);
	check_free_map(vol, model);
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

START_TEST(damaged_extent_is_an_error)
{
	struct bdev *dev = vt_format(16 * MIB);
	struct volume *vol = vt_open(dev);
	struct extent ext;

	msg_open("test", MSG_TO_NOWHERE, MSG_ERROR);
	add_file(vol, 50);
	begin(vol);
	ck_assert_int_eq(sqlite3_exec(store_db(vol->store), "INSERT INTO extent VALUES(50, 3, 1000000, 5, 0)", NULL, NULL, NULL),
	                 SQLITE_OK);
	ck_assert_int_eq(extmap_next(vol, 50, 0, &ext), -EUCLEAN);
	end(vol);
	volume_abandon(vol);
	bdev_close(dev);
}
END_TEST

// ---- orphans ----

static void expect_system(struct volume *vol, uint64_t start_blk, uint64_t len_blk)
{
	ck_assert(sysfiles_overlap(&vol->files, start_blk, len_blk));
	ck_assert(sysfiles_overlap(&vol->files, start_blk, 1)); // each end alone
	ck_assert(sysfiles_overlap(&vol->files, start_blk + len_blk - 1, 1));
	ck_assert(sysfiles_overlap(&vol->files, start_blk - (start_blk > 0), len_blk + 1));
}

START_TEST(system_blocks_belong_to_no_file)
{
	struct bdev *dev = vt_format(16 * MIB);
	struct volume *vol = vt_open(dev);
	struct run fixed[SB_COPIES];
	struct extent ext;
	char sql[96];

	msg_open("test", MSG_TO_NOWHERE, MSG_ERROR);
	sb_fixed_runs(vol->files.sb.n_blks, fixed);
	for (int i = 0; i < SB_COPIES; i++)
		expect_system(vol, fixed[i].start_blk, fixed[i].len_blk);
	for (int id = 0; id < SYSFILE_N; id++)
		for (uint32_t i = 0; i < vol->files.sb.sysfile[id].n_extents; i++)
			expect_system(vol, vol->files.sb.sysfile[id].extents[i].start_blk, vol->files.sb.sysfile[id].extents[i].len_blk);
	ck_assert(!sysfiles_overlap(&vol->files, fixed[SB_COPIES - 1].start_blk - 1, 1));

	add_file(vol, 60);
	begin(vol);
	snprintf(sql, sizeof(sql), "INSERT INTO extent VALUES(60, 0, %llu, 2, 0)", (unsigned long long)fixed[SB_COPIES - 1].start_blk - 1);
	ck_assert_int_eq(sqlite3_exec(store_db(vol->store), sql, NULL, NULL, NULL), SQLITE_OK);
	ck_assert_int_eq(extmap_next(vol, 60, 0, &ext), -EUCLEAN); // its second block is a superblock's
	ck_assert_int_eq(sqlite3_exec(store_db(vol->store), "UPDATE extent SET len = 1", NULL, NULL, NULL), SQLITE_OK);
	ck_assert_int_eq(extmap_next(vol, 60, 0, &ext), 0);
	end(vol);
	volume_abandon(vol);
	bdev_close(dev);
}
END_TEST

START_TEST(orphan_of_many_extents_goes_in_pieces)
{
	struct bdev *dev = vt_format(64 * MIB);
	struct volume *vol = vt_open(dev);
	struct volume_space before, after;
	struct inode_row row;
	uint64_t inos[4];
	unsigned n;

	volume_get_space(vol, &before);
	add_file(vol, 60);
	for (uint64_t i = 0; i < 3 * ORPHAN_PIECE_ROWS; i++) {
		struct runlist runs = { 0 };
		struct alloc_req req = { .want_blk = 1 };

		ck_assert_int_eq(alloc_get(vol->alloc, NULL, &req, &runs), 0);
		begin(vol);
		ck_assert_int_eq(extmap_insert(vol, 60, &(struct extent){ 2 * i, runs.runs[0].start_blk, 1, false }), 0);
		end(vol);
		runlist_free(&runs);
	}
	begin(vol);
	ck_assert_int_eq(inode_get(vol->store, 60, &row), 0);
	row.nlink = 0;
	row.blocks_blk = 3 * ORPHAN_PIECE_ROWS;
	ck_assert_int_eq(inode_update(vol->store, &row), 0);
	ck_assert_int_eq(orphan_add(vol, 60), 0);
	end(vol);
	ck_assert_int_eq(volume_close(vol), 0);

	vol = vt_open(dev);
	begin(vol);
	ck_assert_int_eq(orphan_list(vol, 0, inos, 4, &n), 0);
	end(vol);
	ck_assert(n == 1 && inos[0] == 60);
	ck_assert_int_eq(orphan_finish(vol, 60), 0);
	begin(vol);
	ck_assert_int_eq(inode_get(vol->store, 60, &row), -ENOENT);
	ck_assert_int_eq(orphan_list(vol, 0, inos, 4, &n), 0);
	end(vol);
	ck_assert_uint_eq(n, 0);
	ck_assert_int_eq(orphan_finish(vol, 60), 0);
	ck_assert_int_eq(txn_commit(vol), 0);
	volume_get_space(vol, &after);
	ck_assert_uint_eq(after.free_blk, before.free_blk);
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

// A single extent of written blocks may have any number of checksums: it goes in pieces, too.
START_TEST(a_long_extent_goes_in_pieces)
{
	struct bdev *dev = vt_format(64ull << 30);
	struct volume *vol = vt_open(dev);
	uint64_t len = (9ull << 30) / BLK_SIZE, left = len, off = 0, removed;
	struct runlist runs = { 0 };
	struct alloc_req req = { .want_blk = len };
	unsigned pieces = 0;
	bool more;

	add_file(vol, 60);
	ck_assert_int_eq(alloc_get(vol->alloc, NULL, &req, &runs), 0);
	begin(vol);
	for (uint32_t i = 0; i < runs.n; off += runs.runs[i++].len_blk)
		ck_assert_int_eq(extmap_insert(vol, 60, &(struct extent){ off, runs.runs[i].start_blk, runs.runs[i].len_blk, false }), 0);
	end(vol);
	do {
		begin(vol);
		ck_assert_int_eq(extmap_remove(vol, 60, 0, len, ORPHAN_PIECE_ROWS, &more, &removed), 0);
		end(vol);
		ck_assert_uint_le(removed, (4ull << 30) / BLK_SIZE);
		left -= removed;
		pieces++;
	} while (more);
	ck_assert_uint_eq(left, 0);
	ck_assert_uint_eq(pieces, 3);
	runlist_free(&runs);
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

// ---- opening ----

START_TEST(foreign_schema_is_refused)
{
	struct bdev *dev = vt_format(16 * MIB);
	struct volume *vol = vt_open(dev);
	struct volume_opts opts = { 0 };
	struct errmsg why = { "" };

	add_file(vol, 9);
	begin(vol);
	ck_assert_int_eq(sqlite3_exec(store_db(vol->store),
	                              "CREATE TRIGGER evil AFTER DELETE ON orphan BEGIN DELETE FROM inode; END", NULL, NULL,
	                              NULL), SQLITE_OK);
	end(vol);
	ck_assert_int_eq(volume_close(vol), 0);
	ck_assert_int_eq(volume_open(dev, &opts, &vol, &why), -EUCLEAN);
	ck_assert_ptr_nonnull(strstr(why.text, "fsck.hybridfs"));
	bdev_close(dev);
}
END_TEST

START_TEST(read_only_open_writes_nothing)
{
	struct bdev *dev = vt_format(16 * MIB), *crashed;
	struct volume *vol = vt_open(dev);
	struct inode_row row;
	uint64_t id, writes;

	add_file(vol, 70);
	ck_assert_int_eq(txn_commit(vol), 0);
	ck_assert_int_eq(testdev_clone(dev, &crashed), 0);
	volume_abandon(vol);
	writes = testdev_count(crashed, TESTDEV_WRITE);
	vol = vt_open_flags(crashed, VOLUME_READ_ONLY);
	ck_assert_int_eq(txn_begin(vol, TXN_FREE, &id), -EROFS);
	store_lock(vol->store);
	ck_assert_int_eq(inode_get(vol->store, 70, &row), 0); // out of the WAL
	ck_assert_int_eq(inode_delete(vol->store, 70), -EROFS);
	store_unlock(vol->store);
	ck_assert_int_eq(volume_close(vol), 0);
	ck_assert_uint_eq(testdev_count(crashed, TESTDEV_WRITE), writes);
	bdev_close(crashed);
	bdev_close(dev);
}
END_TEST

START_TEST(every_size_can_be_formatted)
{
	static const uint64_t size[] = { 8 * MIB, 8 * MIB + 12288, 17 * MIB, 1ull << 30, 16ull << 40, 1ull << 50 };

	for (size_t i = 0; i < ARRAY_LEN(size); i++) {
		struct bdev *dev = vt_format(size[i]);
		struct volume *vol = vt_open(dev);
		struct volume_space space;
		struct errmsg why;

		volume_get_space(vol, &space);
		ck_assert_uint_gt(space.avail_blk, space.total_blk / 4);
		add_file(vol, 9);
		ck_assert_msg(alloc_check(vol->alloc, &why) == 0, "%s", why.text);
		ck_assert_int_eq(volume_close(vol), 0);
		bdev_close(dev);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("meta");
	TCase *tc = tcase_create("meta");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, rows_survive_a_remount);
	tcase_add_test(tc, directory_of_many_names);
	tcase_add_test(tc, colliding_names);
	tcase_add_test(tc, extents_against_a_model);
	tcase_add_test(tc, damaged_extent_is_an_error);
	tcase_add_test(tc, system_blocks_belong_to_no_file);
	tcase_add_test(tc, orphan_of_many_extents_goes_in_pieces);
	tcase_add_test(tc, a_long_extent_goes_in_pieces);
	tcase_add_test(tc, foreign_schema_is_refused);
	tcase_add_test(tc, read_only_open_writes_nothing);
	tcase_add_test(tc, every_size_can_be_formatted);
	suite_add_tcase(s, tc);
	return run_suite(s);
}
