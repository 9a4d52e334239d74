// SPDX-License-Identifier: MIT
// What the tests of the filesystem core share: a mounted volume in memory, shorthands, and a check of everything that must be
// true of a volume at rest.
#ifndef HYBRIDFS_TESTS_FSTEST_H
#define HYBRIDFS_TESTS_FSTEST_H

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/fs.h"
#include "meta/deferred_rows.h"
#include "meta/extmap.h"
#include "meta/rows.h"
#include "run_suite.h"
#include "util/blk.h"
#include "voltest.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)

struct ft {
	struct bdev *dev;
	struct volume *vol;
	struct fs *fs;
};

static const struct fs_cred ft_cred = { .uid = 1000, .gid = 100 };

static inline void ft_mount(struct ft *t, struct bdev *dev)
{
	struct fs_opts opts = { .atime = FS_RELATIME };

	t->dev = dev;
	t->vol = vt_open(dev);
	ck_assert_int_eq(fs_create_context(t->vol, &opts, &t->fs), 0);
}

static inline void ft_new(struct ft *t, uint64_t size_bytes) { ft_mount(t, vt_format(size_bytes)); }

static inline void ft_unmount(struct ft *t)
{
	fs_destroy_context(t->fs);
	ck_assert_int_eq(volume_close(t->vol), 0);
}

static inline int64_t ft_sql(struct ft *t, const char *sql)
{
	sqlite3_stmt *stmt;
	int64_t value;

	ck_assert_msg(sqlite3_prepare_v2(store_db(t->vol->store), sql, -1, &stmt, NULL) == SQLITE_OK, "%s: %s", sql,
	              sqlite3_errmsg(store_db(t->vol->store)));
	ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
	value = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	return value;
}

static inline int64_t ft_locked_sql(struct ft *t, const char *sql)
{
	int64_t value;

	store_lock(t->vol->store);
	value = ft_sql(t, sql);
	store_unlock(t->vol->store);
	return value;
}

// Rows of deferred writes that a mount would finish.
static inline int64_t ft_live_rows(struct ft *t)
{
	return ft_locked_sql(t, "SELECT count(*) FROM deferred WHERE " DEFERRED_LIVE_SQL);
}

static inline int ft_add_len(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	(void)start_blk;
	*(uint64_t *)ctx += len_blk;
	return 0;
}

// Every block of every file can be read: its checksum is there and fits.
static inline void ft_check_data(struct ft *t)
{
	static uint8_t buf[1u << 20];
	struct { uint64_t ino, off, len; } ext[64];
	unsigned n;
	uint64_t ino = 0, off = 0;

	do {
		sqlite3_stmt *stmt;

		n = 0;
		store_lock(t->vol->store);
		ck_assert_int_eq(sqlite3_prepare_v2(store_db(t->vol->store), "SELECT e.ino, e.off, e.len FROM extent e JOIN inode i USING (ino)"
			" WHERE e.flags = 0 AND e.off * 4096 < i.size AND (e.ino, e.off) > (?1, ?2) ORDER BY e.ino, e.off LIMIT 64", -1, &stmt,
			NULL), SQLITE_OK);
		sqlite3_bind_int64(stmt, 1, (int64_t)ino);
		sqlite3_bind_int64(stmt, 2, (int64_t)off);
		for (; sqlite3_step(stmt) == SQLITE_ROW; n++) {
			ext[n].ino = ino = (uint64_t)sqlite3_column_int64(stmt, 0);
			ext[n].off = off = (uint64_t)sqlite3_column_int64(stmt, 1);
			ext[n].len = (uint64_t)sqlite3_column_int64(stmt, 2);
		}
		sqlite3_finalize(stmt);
		store_unlock(t->vol->store);
		for (unsigned i = 0; i < n; i++) {
			uint64_t at = ext[i].off * BLK_SIZE, end = at + ext[i].len * BLK_SIZE;
			size_t done = 1;
			int r = 0;

			for (; r == 0 && done > 0 && at < end; at += done)
				r = fs_read(t->fs, ext[i].ino, buf, min_u64(sizeof(buf), end - at), at, &done);
			ck_assert_msg(r == 0, "inode %llu cannot be read at %llu: %d", (unsigned long long)ext[i].ino,
			              (unsigned long long)at, r);
		}
	} while (n == 64);
}

// Invariants of rows, maps, checksums, counts and the allocator.
static inline void ft_check(struct ft *t)
{
	static const char *const none[] = { // each counts what must not be
		"SELECT count(*) FROM inode i WHERE blocks <> (SELECT coalesce(sum(len), 0) FROM extent e WHERE e.ino = i.ino)",
		"SELECT count(*) FROM (SELECT off, lag(off + len) OVER (PARTITION BY ino ORDER BY off) AS e FROM extent) WHERE e > off",
		"SELECT count(*) FROM (SELECT phys, lag(phys + len) OVER (ORDER BY phys) AS e FROM extent) WHERE e > phys",
		"SELECT count(*) FROM extent a JOIN extent b ON a.ino = b.ino AND b.off = a.off + a.len AND b.phys = a.phys + a.len"
		" AND a.flags = b.flags",
		"SELECT count(*) FROM extent WHERE ino NOT IN (SELECT ino FROM inode)",
		"SELECT count(*) FROM xattr WHERE ino NOT IN (SELECT ino FROM inode)",
		"SELECT count(*) FROM extent e JOIN inode i USING (ino) WHERE i.flags & 1",
		"SELECT count(*) FROM inode WHERE flags & 1 AND size > 0 AND ino NOT IN (SELECT ino FROM inline)",
		"SELECT count(*) FROM inline n LEFT JOIN inode i USING (ino) WHERE i.ino IS NULL OR NOT i.flags & 1 OR"
		" i.size <> length(n.data)",
		"SELECT count(*) FROM inode i WHERE mode & 61440 = 16384 AND nlink > 0 AND"
		" (size <> (SELECT count(*) FROM dirent d WHERE d.parent = i.ino) OR"
		" nlink <> 2 + (SELECT count(*) FROM dirent d WHERE d.parent = i.ino AND d.type = 4))",
		"SELECT count(*) FROM inode i WHERE mode & 61440 <> 16384 AND"
		" nlink <> (SELECT count(*) FROM dirent d WHERE d.ino = i.ino)",
		"SELECT count(*) FROM dirent d LEFT JOIN inode i USING (ino) WHERE i.ino IS NULL OR d.type <> i.mode >> 12 OR"
		" (d.type = 4 AND i.parent <> d.parent)",
		"SELECT count(*) FROM inode WHERE nlink = 0 AND ino NOT IN (SELECT ino FROM orphan)",
		"SELECT count(*) FROM deferred d WHERE " DEFERRED_LIVE_SQL
		" AND NOT EXISTS (SELECT 1 FROM extent e WHERE e.flags = 0 AND d.phys >= e.phys AND"
		" d.phys < e.phys + e.len)",
	};
	struct errmsg why = { "" };
	struct alloc_stats st;
	uint64_t system = 0, owned;

	ck_assert_int_eq(fs_sync(t->fs), 0);
	store_lock(t->vol->store);
	for (unsigned i = 0; i < ARRAY_LEN(none); i++)
		ck_assert_msg(ft_sql(t, none[i]) == 0, "%s", none[i]);
	ck_assert_msg(ft_sql(t, "SELECT integrity_check <> 'ok' FROM pragma_integrity_check(1)") == 0, "integrity_check");
	owned = (uint64_t)ft_sql(t, "SELECT coalesce(sum(len), 0) FROM extent");
	store_unlock(t->vol->store);
	ck_assert_msg(alloc_check(t->vol->alloc, &why) == 0, "%s", why.text);
	alloc_get_stats(t->vol->alloc, &st);
	ck_assert_int_eq(sysfiles_mark(&t->vol->files, 0, t->vol->files.sb.n_blks, ft_add_len, &system), 0);
	ck_assert_uint_eq(st.free_blk + st.freeing_blk + owned + system, t->vol->files.sb.n_blks);
	ft_check_data(t);
}

static inline void ft_end(struct ft *t)
{
	ft_check(t);
	ft_unmount(t);
	bdev_close(t->dev);
}

// Kill and mount again, the device as it is.
static inline void ft_crash(struct ft *t)
{
	struct bdev *after;

	ck_assert_int_eq(testdev_clone(t->dev, &after), 0);
	// The old one is taken down only to free its memory: nothing it writes now counts.
	fs_destroy_context(t->fs);
	volume_abandon(t->vol);
	bdev_close(t->dev);
	ft_mount(t, after);
}

// ---- shorthands: each operation works ----

static inline uint64_t ft_create(struct ft *t, uint64_t dir, const char *name)
{
	struct fs_entry e;
	int r = fs_mknod(t->fs, dir, name, S_IFREG | 0644, 0, &ft_cred, &e);

	ck_assert_msg(r == 0, "create %s: %d", name, r);
	return e.ino;
}

static inline uint64_t ft_mkdir(struct ft *t, uint64_t dir, const char *name)
{
	struct fs_entry e;
	int r = fs_mkdir(t->fs, dir, name, 0755, &ft_cred, &e);

	ck_assert_msg(r == 0, "mkdir %s: %d", name, r);
	return e.ino;
}

static inline int ft_lookup(struct ft *t, uint64_t dir, const char *name, uint64_t *ino)
{
	struct fs_entry e = { 0 };
	int r = fs_lookup(t->fs, dir, name, &e);

	if (ino != NULL)
		*ino = e.ino;
	if (r == 0)
		ck_assert_uint_eq(e.st.st_ino, e.ino);
	return r;
}

static inline struct stat ft_stat(struct ft *t, uint64_t ino)
{
	struct stat st;

	ck_assert_int_eq(fs_getattr(t->fs, ino, &st), 0);
	return st;
}

static inline void ft_write(struct ft *t, uint64_t ino, const void *buf, size_t len, uint64_t off)
{
	size_t done;
	int r = fs_write(t->fs, ino, buf, len, off, 0, &done);

	ck_assert_msg(r == 0 && done == len, "write %zu at %llu: %d, %zu", len, (unsigned long long)off, r, done);
}

static inline int ft_truncate(struct ft *t, uint64_t ino, uint64_t size)
{
	struct fs_setattr attr = { .set = FS_SET_SIZE, .size_bytes = size };
	struct stat st;
	int r = fs_setattr(t->fs, ino, &attr, &st);

	if (r == 0)
		ck_assert_uint_eq((uint64_t)st.st_size, size);
	return r;
}

// Bytes that look random, the same for the same seed. To be freed.
static inline uint8_t *ft_pattern(size_t len, unsigned seed)
{
	uint8_t *buf = malloc(len);
	unsigned state = seed * 2654435761u + 1;

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(vt_rand(&state) >> 8);
	return buf;
}

static inline uint64_t ft_durable_file(struct ft *t, const char *name, const void *buf, size_t len)
{
	uint64_t ino = ft_create(t, ROOT_INO, name);

	ft_write(t, ino, buf, len, 0);
	ck_assert_int_eq(fs_fsync(t->fs, ino), 0);
	return ino;
}

// The file holds exactly these bytes.
static inline void ft_expect(struct ft *t, uint64_t ino, const void *want, size_t len)
{
	uint8_t *got = malloc(len + 1);
	size_t done;
	int r;

	ck_assert_uint_eq((uint64_t)ft_stat(t, ino).st_size, len);
	memset(got, 0xa5, len + 1);
	r = fs_read(t->fs, ino, got, len + 1, 0, &done);
	ck_assert_msg(r == 0 && done == len, "read: %d, %zu of %zu", r, done, len);
	if (len > 0 && memcmp(got, want, len) != 0) {
		size_t i = 0;

		while (got[i] == ((const uint8_t *)want)[i])
			i++;
		ck_abort_msg("byte %zu of %zu is %02x, not %02x", i, len, got[i], ((const uint8_t *)want)[i]);
	}
	free(got);
}

static inline unsigned ft_extents(struct ft *t, uint64_t ino, struct extent *ext, unsigned max)
{
	unsigned n;

	store_lock(t->vol->store);
	ck_assert_int_eq(extmap_query(t->vol, ino, 0, FILE_MAX_BYTES / BLK_SIZE, ext, max, &n), 0);
	store_unlock(t->vol->store);
	return n;
}

static inline uint64_t ft_avail(struct ft *t)
{
	struct volume_space space;

	volume_get_space(t->vol, &space);
	return space.avail_blk;
}

static inline int ft_main(Suite *suite)
{
	msg_open("check", MSG_TO_NOWHERE, MSG_DEBUG);
	return run_suite(suite);
}

#endif
