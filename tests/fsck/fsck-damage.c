// SPDX-License-Identifier: MIT
// Damages a volume for the tests of fsck, from within and from without:
//
//     fsck-damage IMAGE sql "STATEMENTS"    in one transaction of the volume
//     fsck-damage IMAGE next-ino N          the next inode number
//     fsck-damage IMAGE inodes N            the count of inodes
//     fsck-damage IMAGE poke OFFSET HEX     bytes of the image
//     fsck-damage IMAGE db-poke OFFSET HEX  bytes of the database
//     fsck-damage IMAGE smash TABLE         the root page of a table
//     fsck-damage IMAGE list                nothing: prints each name with the number of its inode
//     fsck-damage IMAGE open                nothing: opens the volume as a mount does, closes it
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "meta/volume.h"
#include "util/attr.h"
#include "util/log.h"

#define HEX_MAX 64

static int with_volume(struct bdev *dev, unsigned flags, int (*work)(struct volume *vol, const char *arg), const char *arg)
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
	close_rc = volume_close(vol);
	return rc != 0 ? rc : close_rc;
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

static int smash(struct bdev *dev, const char *table)
{
	struct root_query q = { .table = table };
	uint8_t bytes[16];
	uint64_t off;
	int rc = with_volume(dev, VOLUME_NO_ALLOC, lookup_root, (const char *)&q);

	memset(bytes, 0xff, sizeof(bytes));
	if (rc == 0)
		rc = db_offset(dev, (uint64_t)(q.page - 1) * 4096, &off);
	return rc != 0 ? rc : poke(dev, off, bytes, sizeof(bytes));
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
	if (strcmp(what, "next-ino") == 0)
		return with_volume(dev, VOLUME_NO_ALLOC, set_next_ino, arg);
	if (strcmp(what, "inodes") == 0)
		return with_volume(dev, VOLUME_NO_ALLOC, set_inodes, arg);
	if (strcmp(what, "smash") == 0)
		return smash(dev, arg);
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
		msg_error("usage: fsck-damage IMAGE sql|next-ino|inodes|poke|db-poke|smash|list|open …");
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
