// SPDX-License-Identifier: MIT
// Damages a volume for the tests of fsck, from within and from without:
//
//     fsck-damage IMAGE sql "STATEMENTS"    in one transaction of the volume
//     fsck-damage IMAGE mount-sql "STATEMENTS"  the same as a mount does it: the database may grow
//     fsck-damage IMAGE crash-sql "STATEMENTS"  the same, and no clean unmount: it stays in the log
//     fsck-damage IMAGE raw-sql "STATEMENTS" without the volume's own bookkeeping
//     fsck-damage IMAGE next-ino N          the next inode number
//     fsck-damage IMAGE inodes N            the count of inodes
//     fsck-damage IMAGE poke OFFSET HEX     bytes of the image
//     fsck-damage IMAGE db-poke OFFSET HEX  bytes of the database
//     fsck-damage IMAGE smash TABLE         the root page of a table
//     fsck-damage IMAGE smash-leaf TABLE    the first page of its tree that has no others below it
//     fsck-damage IMAGE flip-leaf TABLE     one bit of a row of this page
//     fsck-damage IMAGE smash-pages SEED N  N pages of the database, at random
//     fsck-damage IMAGE zero-log            the write-ahead log's header
//     fsck-damage IMAGE zero-db             the whole database
//     fsck-damage IMAGE flip INO            a bit of the first block of a file
//     fsck-damage IMAGE integrity           nothing: what SQLite's own check says; fails if it is not "ok"
//     fsck-damage IMAGE block INO           nothing: prints the checksum of a file's first block, and the block in hexadecimal
//     fsck-damage IMAGE extents INO         nothing: prints the extents of a file: offset, place, length, flags
//     fsck-damage IMAGE fill                gives all free blocks to a new file, unwritten
//     fsck-damage IMAGE list                nothing: prints each name with the number of its inode
//     fsck-damage IMAGE open                nothing: opens the volume as a mount does, closes it
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "meta/dbpage.h"
#include "meta/extmap.h"
#include "meta/rows.h"
#include "meta/volume.h"
#include "util/attr.h"
#include "util/log.h"

#define HEX_MAX 64

static int end_volume(struct volume *vol, bool crash)
{
	int rc;

	if (!crash)
		return volume_close(vol);
	rc = txn_commit(vol);
	volume_abandon(vol);
	return rc;
}

static int with_volume_then(struct bdev *dev, unsigned flags, int (*work)(struct volume *vol, const char *arg), const char *arg,
                            bool crash)
{
	struct volume_opts opts = { .flags = flags };
	struct errmsg why = { .text = "failed" };
	struct volume *vol;
	uint64_t id;
	int rc = volume_open(dev, &opts, &vol, &why), close_rc;

	if (rc != 0) {
		msg_error("%s", why.text);
		return rc;
	}
	rc = txn_begin(vol, TXN_FREE, &id);
	if (rc == 0) {
		store_lock(vol->store);
		rc = work(vol, arg);
		store_unlock(vol->store);
		txn_end(vol);
	}
	close_rc = end_volume(vol, crash);
	return rc != 0 ? rc : close_rc;
}

static int with_volume(struct bdev *dev, unsigned flags, int (*work)(struct volume *vol, const char *arg), const char *arg)
{
	return with_volume_then(dev, flags, work, arg, false);
}

static int run_sql(struct volume *vol, const char *sql)
{
	char *why = NULL;
	int before = sqlite3_total_changes(store_db(vol->store));

	if (sqlite3_exec(store_db(vol->store), sql, NULL, NULL, &why) != SQLITE_OK) {
		msg_error("%s: %s", sql, why);
		sqlite3_free(why);
		return -EINVAL;
	}
	if (sqlite3_total_changes(store_db(vol->store)) == before) {
		msg_error("%s: changes nothing", sql);
		return -EINVAL;
	}
	return 0;
}

// So that the transaction has something to write.
static int touch(struct volume *vol) { return run_sql(vol, "UPDATE config SET value = value WHERE key = 'txn'"); }

static int set_next_ino(struct volume *vol, const char *arg)
{
	atomic_store(&vol->next_ino, strtoull(arg, NULL, 0));
	return touch(vol);
}

static int set_inodes(struct volume *vol, const char *arg)
{
	store_set_n_inodes(vol->store, strtoll(arg, NULL, 0));
	return touch(vol);
}

static int do_nothing(struct volume *vol, const char *arg)
{
	(void)vol, (void)arg;
	return 0;
}

static int print_names(struct volume *vol, const char *arg)
{
	sqlite3_stmt *stmt = NULL;

	(void)arg;
	if (sqlite3_prepare_v2(store_db(vol->store), "SELECT CAST(name AS TEXT), ino FROM dirent", -1, &stmt, NULL) != SQLITE_OK)
		return -EINVAL;
	while (sqlite3_step(stmt) == SQLITE_ROW)
		printf("%s %lld\n", (const char *)sqlite3_column_text(stmt, 0), (long long)sqlite3_column_int64(stmt, 1));
	sqlite3_finalize(stmt);
	return 0;
}

static size_t parse_hex(const char *hex, uint8_t bytes[HEX_MAX])
{
	size_t n = 0;
	unsigned byte;

	while (n < HEX_MAX && sscanf(hex + 2 * n, "%2x", &byte) == 1)
		bytes[n++] = (uint8_t)byte;
	return n;
}

// Writes go in sectors: read, change, write.
static int poke(struct bdev *dev, uint64_t off, const uint8_t *bytes, size_t n)
{
	uint8_t sectors[1024];
	uint64_t base = off & ~511ull;
	int rc = bdev_read(dev, sectors, sizeof(sectors), base);

	if (rc != 0)
		return rc;
	memcpy(sectors + (off - base), bytes, n);
	rc = bdev_write(dev, sectors, sizeof(sectors), base);
	return rc != 0 ? rc : bdev_flush(dev);
}

static int poke_hex(struct bdev *dev, uint64_t off, const char *hex)
{
	uint8_t bytes[HEX_MAX];

	return poke(dev, off, bytes, parse_hex(hex, bytes));
}

// Where a byte of the database lies on the device.
static int db_offset(struct bdev *dev, uint64_t off, uint64_t *dev_off)
{
	struct superblock *sb = malloc(sizeof(*sb));
	int rc = sb == NULL ? -ENOMEM : sb_read(dev, sb, NULL, NULL);

	for (uint32_t i = 0; rc == 0 && i < sb->sysfile[SYSFILE_DB].n_extents; i++) {
		const struct run *ext = &sb->sysfile[SYSFILE_DB].extents[i];

		if (off < ext->len_blk * 4096) {
			*dev_off = ext->start_blk * 4096 + off;
			free(sb);
			return 0;
		}
		off -= ext->len_blk * 4096;
	}
	free(sb);
	return rc != 0 ? rc : -ERANGE;
}

// What lookup_root finds: passed through the only argument that with_volume's callback has beside the volume.
struct root_query {
	const char *table;
	int64_t page;
};

static int lookup_root(struct volume *vol, const char *arg)
{
	struct root_query *q = (struct root_query *)(uintptr_t)arg;
	sqlite3_stmt *stmt = NULL;
	int rc = -ENOENT;

	if (sqlite3_prepare_v2(store_db(vol->store), "SELECT rootpage FROM sqlite_schema WHERE name = ?1", -1, &stmt, NULL) !=
	    SQLITE_OK)
		return -EINVAL;
	sqlite3_bind_text(stmt, 1, q->table, -1, SQLITE_STATIC);
	if (sqlite3_step(stmt) == SQLITE_ROW) {
		q->page = sqlite3_column_int64(stmt, 0);
		rc = 0;
	}
	sqlite3_finalize(stmt);
	return rc;
}

static int lookup_first_block(struct volume *vol, const char *arg)
{
	struct root_query *q = (struct root_query *)(uintptr_t)arg;
	sqlite3_stmt *stmt = NULL;
	int rc = -ENOENT;

	if (sqlite3_prepare_v2(store_db(vol->store), "SELECT phys FROM extent WHERE ino = ?1 ORDER BY off", -1, &stmt, NULL) !=
	    SQLITE_OK)
		return -EINVAL;
	sqlite3_bind_int64(stmt, 1, strtoll(q->table, NULL, 0));
	if (sqlite3_step(stmt) == SQLITE_ROW) {
		q->page = sqlite3_column_int64(stmt, 0);
		rc = 0;
	}
	sqlite3_finalize(stmt);
	return rc;
}

static int flip(struct bdev *dev, const char *ino)
{
	struct root_query q = { .table = ino };
	uint8_t byte;
	int rc = with_volume(dev, VOLUME_NO_ALLOC, lookup_first_block, (const char *)&q);

	if (rc == 0)
		rc = bdev_read(dev, &byte, 1, (uint64_t)q.page * 4096);
	byte ^= 1;
	return rc != 0 ? rc : poke(dev, (uint64_t)q.page * 4096, &byte, 1);
}

// With its checksum in front, in decimal.
static int print_block(struct bdev *dev, const char *ino)
{
	struct root_query q = { .table = ino };
	uint8_t block[4096];
	int rc = with_volume(dev, VOLUME_NO_ALLOC, lookup_first_block, (const char *)&q);

	if (rc == 0)
		rc = bdev_read(dev, block, sizeof(block), (uint64_t)q.page * sizeof(block));
	if (rc == 0)
		printf("%u ", csum_block(block));
	for (size_t i = 0; rc == 0 && i < sizeof(block); i++)
		printf("%02x", block[i]);
	return rc;
}

static int print_extents(struct volume *vol, const char *ino)
{
	sqlite3_stmt *stmt = NULL;

	if (sqlite3_prepare_v2(store_db(vol->store), "SELECT off, phys, len, flags FROM extent WHERE ino = ?1 ORDER BY off", -1, &stmt,
	                       NULL) != SQLITE_OK)
		return -EINVAL;
	sqlite3_bind_int64(stmt, 1, strtoll(ino, NULL, 0));
	while (sqlite3_step(stmt) == SQLITE_ROW)
		printf("%lld %lld %lld %lld\n", (long long)sqlite3_column_int64(stmt, 0), (long long)sqlite3_column_int64(stmt, 1),
		       (long long)sqlite3_column_int64(stmt, 2), (long long)sqlite3_column_int64(stmt, 3));
	sqlite3_finalize(stmt);
	return 0;
}

// As if a file had been preallocated with all that is left: unwritten extents of a new inode in the root.
static int fill(struct bdev *dev)
{
	struct volume_opts opts = { 0 };
	struct inode_row row = { .parent = 0, .mode = S_IFREG | 0600, .nlink = 1 };
	struct errmsg why = { .text = "failed" };
	struct runlist got = { 0 };
	struct volume_space space;
	struct alloc_req req = { .flags = ALLOC_PARTIAL | ALLOC_USE_RESERVE };
	struct inode_row root;
	struct volume *vol;
	uint64_t id, off = 0;
	int rc = volume_open(dev, &opts, &vol, &why), close_rc;

	if (rc != 0)
		return rc;
	volume_get_space(vol, &space);
	req.want_blk = space.free_blk;
	rc = alloc_get(vol->alloc, NULL, &req, &got);
	if (rc == 0)
		rc = txn_begin(vol, TXN_FREE, &id);
	if (rc != 0)
		goto out;
	store_lock(vol->store);
	row.ino = volume_new_ino(vol);
	for (uint32_t i = 0; rc == 0 && i < got.n; i++) {
		struct extent ext = { off, got.runs[i].start_blk, got.runs[i].len_blk, true };

		rc = extmap_insert(vol, row.ino, &ext);
		off += ext.len_blk;
	}
	row.blocks_blk = off;
	if (rc == 0)
		rc = inode_insert(vol->store, &row);
	if (rc == 0)
		rc = dirent_insert(vol->store, ROOT_INO, "filled", 6, row.ino, 8);
	if (rc == 0)
		rc = inode_get(vol->store, ROOT_INO, &root);
	root.size_bytes++;
	if (rc == 0)
		rc = inode_update(vol->store, &root);
	store_unlock(vol->store);
	txn_end(vol);
out:
	runlist_free(&got);
	close_rc = volume_close(vol);
	return rc != 0 ? rc : close_rc;
}

static int smash_page(struct bdev *dev, int64_t page)
{
	uint8_t bytes[16];
	uint64_t off;
	int rc = db_offset(dev, (uint64_t)(page - 1) * 4096, &off);

	memset(bytes, 0xff, sizeof(bytes));
	return rc != 0 ? rc : poke(dev, off, bytes, sizeof(bytes));
}

// The last child of an interior page stands in its header.
static int down(struct bdev *dev, int64_t *page)
{
	uint8_t data[4096];
	uint64_t off;
	int rc = 0;

	for (unsigned depth = 0; rc == 0 && depth < 20; depth++) {
		rc = db_offset(dev, (uint64_t)(*page - 1) * sizeof(data), &off);
		if (rc == 0)
			rc = bdev_read(dev, data, sizeof(data), off);
		if (rc != 0 || data[0] > 5)
			return rc;
		*page = data[8] << 24 | data[9] << 16 | data[10] << 8 | data[11];
	}
	return rc;
}

static int smash(struct bdev *dev, const char *table, bool leaf)
{
	struct root_query q = { .table = table };
	int rc = with_volume(dev, VOLUME_NO_ALLOC, lookup_root, (const char *)&q);

	if (rc == 0 && leaf)
		rc = down(dev, &q.page);
	return rc != 0 ? rc : smash_page(dev, q.page);
}

// The first row that was put into a page stands at its end.
static int flip_leaf(struct bdev *dev, const char *table)
{
	struct root_query q = { .table = table };
	uint64_t off = 0;
	uint8_t byte = 0;
	int rc = with_volume(dev, VOLUME_NO_ALLOC, lookup_root, (const char *)&q);

	if (rc == 0)
		rc = down(dev, &q.page);
	if (rc == 0)
		rc = db_offset(dev, (uint64_t)(q.page - 1) * 4096 + DBPAGE_USABLE - 1, &off);
	if (rc == 0)
		rc = bdev_read(dev, &byte, 1, off);
	byte ^= 1;
	return rc != 0 ? rc : poke(dev, off, &byte, 1);
}

// How many pages the database has: its header tells.
static int db_pages(struct bdev *dev, uint32_t *n)
{
	uint8_t head[32];
	uint64_t off;
	int rc = db_offset(dev, 0, &off);

	if (rc == 0)
		rc = bdev_read(dev, head, sizeof(head), off);
	if (rc == 0)
		*n = (uint32_t)head[28] << 24 | (uint32_t)head[29] << 16 | (uint32_t)head[30] << 8 | head[31];
	return rc;
}

// Each page is overwritten in one of three ways: its header, some bytes in the middle, all of it.
static int smash_pages(struct bdev *dev, unsigned seed, unsigned n)
{
	uint8_t page[4096];
	uint32_t n_pages = 0;
	uint64_t off;
	int rc = db_pages(dev, &n_pages);

	for (unsigned i = 0; rc == 0 && i < n; i++) {
		unsigned from, len;

		rc = db_offset(dev, (uint64_t)((unsigned)rand_r(&seed) % n_pages) * sizeof(page), &off);
		if (rc == 0)
			rc = bdev_read(dev, page, sizeof(page), off);
		switch (rand_r(&seed) % 3) {
		case 0:
			from = 0, len = 16;
			break;
		case 1:
			from = (unsigned)rand_r(&seed) % 4000, len = 64;
			break;
		default:
			from = 0, len = sizeof(page);
			break;
		}
		for (unsigned j = from; j < from + len; j++)
			page[j] = (uint8_t)rand_r(&seed);
		if (rc == 0)
			rc = bdev_write(dev, page, sizeof(page), off);
	}
	return rc != 0 ? rc : bdev_flush(dev);
}

static int zero_sysfile(struct bdev *dev, enum sysfile_id id, bool all)
{
	static const uint8_t zeros[4096];
	struct superblock *sb = malloc(sizeof(*sb));
	int rc = sb == NULL ? -ENOMEM : sb_read(dev, sb, NULL, NULL);

	for (uint32_t i = 0; rc == 0 && i < (all ? sb->sysfile[id].n_extents : 1); i++)
		for (uint64_t blk = 0; rc == 0 && blk < (all ? sb->sysfile[id].extents[i].len_blk : 1); blk++)
			rc = bdev_write(dev, zeros, sizeof(zeros), (sb->sysfile[id].extents[i].start_blk + blk) * sizeof(zeros));
	free(sb);
	return rc != 0 ? rc : bdev_flush(dev);
}

// ---- the database without the volume ----

static int flush_dev(void *ctx) { return bdev_flush(ctx); }

static int expect_ok(void *ctx, int n, char **values, char **names)
{
	(void)ctx, (void)n, (void)names;
	if (strcmp(values[0], "ok") == 0)
		return 0;
	printf("%s\n", values[0]);
	return 1;
}

static int run_raw(struct bdev *dev, struct dbvfs *vfs, const char *sql)
{
	struct wal_segment *seg;
	sqlite3 *db = NULL;
	char *why = NULL;
	int rc = sqlite3_open_v2(DBVFS_FILE, &db, SQLITE_OPEN_READWRITE, dbvfs_name(vfs));

	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, sql, strcmp(sql, "PRAGMA integrity_check") == 0 ? expect_ok : NULL, NULL, &why);
	if (rc != SQLITE_OK)
		msg_error("%s: %s", sql, why != NULL ? why : sqlite3_errstr(rc));
	sqlite3_free(why);
	seg = dbvfs_wal_seal(vfs);
	if (rc == SQLITE_OK && seg != NULL)
		rc = dbvfs_wal_write(vfs, seg);
	dbvfs_wal_done(vfs, seg);
	if (rc == SQLITE_OK)
		rc = bdev_flush(dev);
	if (rc == SQLITE_OK)
		rc = sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	sqlite3_close(db);
	return rc == SQLITE_OK ? 0 : -EINVAL;
}

static int raw_sql(struct bdev *dev, const char *sql)
{
	struct dbvfs_hooks hooks = { .wal_sync = flush_dev, .ctx = dev };
	struct superblock *sb = malloc(sizeof(*sb));
	struct sysfiles *files = malloc(sizeof(*files));
	struct dbvfs *vfs = NULL;
	int rc = sb == NULL || files == NULL ? -ENOMEM : sb_read(dev, sb, NULL, NULL);

	if (rc == 0)
		rc = sysfiles_init(files, dev, sb);
	if (rc == 0) {
		rc = dbvfs_create(files, &hooks, false, &vfs);
		if (rc == 0)
			rc = run_raw(dev, vfs, sql);
		dbvfs_destroy(vfs);
		sysfiles_destroy(files);
	}
	free(files);
	free(sb);
	return rc != 0 ? rc : bdev_flush(dev);
}

static int run(struct bdev *dev, int argc, char **argv)
{
	const char *what = argv[2], *arg = argc > 3 ? argv[3] : "", *hex = argc > 4 ? argv[4] : "";
	uint64_t off;
	int rc;

	if (strcmp(what, "open") == 0)
		return with_volume(dev, 0, do_nothing, arg);
	if (strcmp(what, "list") == 0)
		return with_volume(dev, VOLUME_NO_ALLOC, print_names, arg);
	if (strcmp(what, "sql") == 0)
		return with_volume(dev, VOLUME_NO_ALLOC, run_sql, arg);
	if (strcmp(what, "mount-sql") == 0)
		return with_volume(dev, 0, run_sql, arg);
	if (strcmp(what, "crash-sql") == 0)
		return with_volume_then(dev, VOLUME_NO_ALLOC, run_sql, arg, true);
	if (strcmp(what, "next-ino") == 0)
		return with_volume(dev, VOLUME_NO_ALLOC, set_next_ino, arg);
	if (strcmp(what, "inodes") == 0)
		return with_volume(dev, VOLUME_NO_ALLOC, set_inodes, arg);
	if (strcmp(what, "flip") == 0)
		return flip(dev, arg);
	if (strcmp(what, "fill") == 0)
		return fill(dev);
	if (strcmp(what, "block") == 0)
		return print_block(dev, arg);
	if (strcmp(what, "extents") == 0)
		return with_volume(dev, VOLUME_NO_ALLOC, print_extents, arg);
	if (strcmp(what, "integrity") == 0)
		return raw_sql(dev, "PRAGMA integrity_check");
	if (strcmp(what, "raw-sql") == 0)
		return raw_sql(dev, arg);
	if (strcmp(what, "smash") == 0 || strcmp(what, "smash-leaf") == 0)
		return smash(dev, arg, strcmp(what, "smash-leaf") == 0);
	if (strcmp(what, "flip-leaf") == 0)
		return flip_leaf(dev, arg);
	if (strcmp(what, "smash-pages") == 0)
		return smash_pages(dev, (unsigned)strtoul(arg, NULL, 0), (unsigned)strtoul(hex, NULL, 0));
	if (strcmp(what, "zero-log") == 0)
		return zero_sysfile(dev, SYSFILE_WAL, false);
	if (strcmp(what, "zero-db") == 0)
		return zero_sysfile(dev, SYSFILE_DB, true);
	if (strcmp(what, "poke") == 0)
		return poke_hex(dev, strtoull(arg, NULL, 0), hex);
	if (strcmp(what, "db-poke") != 0)
		return -EINVAL;
	rc = db_offset(dev, strtoull(arg, NULL, 0), &off);
	return rc != 0 ? rc : poke_hex(dev, off, hex);
}

int main(int argc, char **argv)
{
	struct errmsg why;
	struct bdev *dev;
	int rc;

	msg_open("fsck-damage", MSG_TO_STDERR, MSG_WARN);
	if (argc < 3) {
		msg_error("usage: fsck-damage IMAGE sql|raw-sql|next-ino|inodes|poke|db-poke|smash|…|list|open …");
		return 2;
	}
	rc = bdev_open_file(argv[1], 0, 0, &dev, &why);
	if (rc != 0) {
		msg_error("%s", why.text);
		return 1;
	}
	rc = run(dev, argc, argv);
	if (rc != 0)
		msg_error("%s %s: %s", argv[1], argv[2], strerror(-rc));
	bdev_close(dev);
	return rc == 0 ? 0 : 1;
}
