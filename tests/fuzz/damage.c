// SPDX-License-Identifier: MIT
// Changing the prepared volume as an input says. See damage.h.
#include "damage.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "block/superblock.h"
#include "fuzz.h"
#include "image.h"
#include "meta/volume.h"
#include "seal.h"
#include "util/blk.h"

#define INTERVAL_MS 3600000
#define SQL_MAX 2048u
#define EXPR_MAX 256u

enum kind { SET, COPY, REMOVE, BLOB, HOSTILE, BYTES, PAGE, SUPERBLOCK, N_KINDS };

#define COLUMNS_MAX 14u

struct table {
	const char *name, *key;
	const char *columns[COLUMNS_MAX];
};

// The key picks a row. The columns of a blob are last.
static const struct table tables[] = {
	{ "config", "key", { "key", "value" } },
	{ "inode", "ino", { "ino", "parent", "mode", "nlink", "uid", "gid", "rdev", "flags", "size", "blocks", "atime", "mtime", "ctime", "btime" } },
	{ "dirent", "parent, cookie", { "parent", "cookie", "ino", "type", "name" } },
	{ "extent", "ino, off", { "ino", "off", "phys", "len", "flags" } },
	{ "inline", "ino", { "ino", "data" } },
	{ "xattr", "ino, name", { "ino", "name", "value" } },
	{ "orphan", "ino", { "ino" } },
	{ "csum", "chunk", { "chunk", "crc" } },
	{ "deferred", "slot", { "slot", "phys", "txn", "crc", "pad", "data" } },
	{ "metaslab", "ms", { "ms", "free_blk", "largest_blk", "log_bytes", "base_bytes" } },
	{ "spacemap", "ms, seq", { "ms", "seq", "runs" } },
	{ "sqlite_schema", "rowid", { "type", "name", "tbl_name", "rootpage", "sql" } },
};

static const char *const hostile[] = {
	"DELETE FROM config",
	"DELETE FROM dirent",
	"DELETE FROM extent",
	"DELETE FROM csum",
	"DELETE FROM metaslab",
	"DELETE FROM spacemap",
	"DROP TABLE xattr",
	"DROP TABLE deferred",
	"CREATE INDEX i ON inode(size)",
	"CREATE TRIGGER t AFTER UPDATE ON inode BEGIN DELETE FROM dirent; END",
	"CREATE VIEW v AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c",
	"DROP TABLE xattr; CREATE VIEW xattr AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS ino, x AS name, x AS value FROM c",
	"CREATE TABLE sqlite_stat1(tbl, idx, stat); INSERT INTO sqlite_stat1 VALUES('dirent', 'dirent', '1 1')",
	"PRAGMA user_version = 99",
	"PRAGMA application_id = 0",
	"UPDATE extent SET phys = 3",
	"UPDATE extent SET phys = (SELECT min(phys) FROM extent)",
	"UPDATE extent SET flags = 1 - flags",
	"UPDATE inode SET flags = flags ^ 3",
	"UPDATE inode SET size = 8796093022208",
	"UPDATE inode SET nlink = 0",
	"UPDATE dirent SET ino = 1",
	"UPDATE deferred SET phys = phys - (SELECT min(phys) FROM deferred)",
	"UPDATE deferred SET data = x'00'",
	"INSERT OR IGNORE INTO deferred SELECT phys, phys, 1, 2566472073, x'', zeroblob(4096) FROM extent",
	"INSERT OR IGNORE INTO deferred SELECT slot + 1000, phys, txn, crc, pad, data FROM deferred",
	"UPDATE deferred SET slot = slot + (1 << 40)",
	"UPDATE deferred SET txn = (1 << 62) + 1",
	"UPDATE deferred SET txn = 1 << 61",
	"INSERT OR REPLACE INTO config VALUES('deferred_from', 9223372036854775807)",
	"INSERT OR REPLACE INTO config VALUES('deferred_from', 0)",
	"INSERT OR IGNORE INTO orphan SELECT ino FROM inode",
	"UPDATE metaslab SET free_blk = free_blk + 1",
	"UPDATE metaslab SET log_bytes = 1 << 40",
	"UPDATE spacemap SET runs = x''",
	"INSERT OR REPLACE INTO config VALUES('next_ino', 9223372036854775807)",
	"INSERT OR REPLACE INTO config VALUES('txn', 9223372036854775807)",
	"INSERT INTO xattr SELECT ino, x'757365722e00', zeroblob(70000) FROM inode LIMIT 5",
};

// ---- SQL ----

static const struct table *take_table(struct bytes *in) { return &tables[bytes_take(in, 1) % ARRAY_LEN(tables)]; }

static unsigned n_columns(const struct table *t)
{
	unsigned n = 0;

	while (n < COLUMNS_MAX && t->columns[n] != NULL)
		n++;
	return n;
}

// A row by its place in the order of keys.
static void row_expr(char *out, const char *what, const struct table *t, unsigned row)
{
	snprintf(out, EXPR_MAX, "SELECT %s FROM %s ORDER BY %s LIMIT 1 OFFSET (%u %% max(1, (SELECT count(*) FROM %s)))", what, t->name, t->key,
	         row, t->name);
}

static void take_value(struct bytes *in, const struct table *t, const char *column, char *out)
{
	static const char *const special[] = {
		"-1", "0", "1", "2", "4096", "2048", "2049", "65536", "2147483647", "4294967295", "4294967296", "2147483648", "8796093022208",
		"9223372036854775807", "-9223372036854775808", "NULL", "1e300", "''", "x''", "1 << 40", "1 << 62", "zeroblob(4096)",
		"zeroblob(256)", "zeroblob(2048)", "zeroblob(70000)", "x'2e2e'", "x'612f62'", "33188", "16877", "40960",
	};
	char row[EXPR_MAX];
	unsigned n;

	switch (bytes_take(in, 1) % 7) {
	case 0: snprintf(out, EXPR_MAX, "%d", (int)(int8_t)bytes_take(in, 1)); return;
	case 1: snprintf(out, EXPR_MAX, "%d", (int)(int16_t)bytes_take(in, 2)); return;
	case 2: snprintf(out, EXPR_MAX, "%" PRId64, (int64_t)bytes_take(in, 8)); return;
	case 3: snprintf(out, EXPR_MAX, "%s", special[bytes_take(in, 1) % ARRAY_LEN(special)]); return;
	case 4: snprintf(out, EXPR_MAX, "%s + %d", column, (int)(int8_t)bytes_take(in, 1)); return;
	case 5:
		row_expr(row, column, t, (unsigned)bytes_take(in, 2));
		snprintf(out, EXPR_MAX, "(%.*s)", (int)EXPR_MAX - 3, row);
		return;
	default:
		n = (unsigned)bytes_take(in, 1) % 32;
		out += sprintf(out, "x'");
		for (unsigned i = 0; i < n; i++)
			out += sprintf(out, "%02x", (unsigned)bytes_take(in, 1));
		sprintf(out, "'");
		return;
	}
}

static void take_set(struct bytes *in, char *sql)
{
	const struct table *t = take_table(in);
	const char *column = t->columns[bytes_take(in, 1) % n_columns(t)];
	char row[EXPR_MAX], value[EXPR_MAX];

	row_expr(row, t->key, t, (unsigned)bytes_take(in, 2));
	take_value(in, t, column, value);
	snprintf(sql, SQL_MAX, "UPDATE OR REPLACE %s SET %s = %s WHERE (%s) IN (%s)", t->name, column, value, t->key, row);
}

static void take_copy(struct bytes *in, char *sql)
{
	const struct table *t = take_table(in);
	unsigned changed = (unsigned)bytes_take(in, 1) % n_columns(t);
	char row[EXPR_MAX], value[EXPR_MAX], list[EXPR_MAX + 256];
	int len = 0;

	row_expr(row, "*", t, (unsigned)bytes_take(in, 2));
	take_value(in, t, t->columns[changed], value);
	for (unsigned i = 0; i < n_columns(t); i++)
		len += snprintf(list + len, sizeof(list) - (size_t)len, "%s%s", i == 0 ? "" : ", ", i == changed ? value : t->columns[i]);
	snprintf(sql, SQL_MAX, "INSERT OR REPLACE INTO %s SELECT %s FROM (%s)", t->name, list, row);
}

static void take_remove(struct bytes *in, char *sql)
{
	const struct table *t = take_table(in);
	char row[EXPR_MAX];

	row_expr(row, t->key, t, (unsigned)bytes_take(in, 2));
	snprintf(sql, SQL_MAX, "DELETE FROM %s WHERE (%s) IN (%s)", t->name, t->key, row);
}

static void take_blob(struct bytes *in, char *sql)
{
	const struct table *t = take_table(in);
	const char *column = t->columns[n_columns(t) - 1];
	char row[EXPR_MAX];
	unsigned at, byte;

	row_expr(row, t->key, t, (unsigned)bytes_take(in, 2));
	at = (unsigned)bytes_take(in, 2);
	byte = (unsigned)bytes_take(in, 1);
	snprintf(sql, SQL_MAX, "UPDATE OR REPLACE %s SET %s = CAST(substr(%s, 1, %u %% max(1, length(%s))) || x'%02x' || substr(%s, %u %% max(1, length(%s)) + 2)"
	         " AS BLOB) WHERE (%s) IN (%s)", t->name, column, column, at, column, byte, column, at, column, t->key, row);
}

// ---- one change ----

static void skip_bytes(struct bytes *in, uint64_t n)
{
	while (n-- > 0 && bytes_left(in))
		in->at++;
}

// The statement of the next change; empty for those of bytes, which are passed over.
static void take_sql(struct bytes *in, char *sql)
{
	*sql = '\0';
	switch (bytes_take(in, 1) % N_KINDS) {
	case SET: take_set(in, sql); return;
	case COPY: take_copy(in, sql); return;
	case REMOVE: take_remove(in, sql); return;
	case BLOB: take_blob(in, sql); return;
	case HOSTILE: snprintf(sql, SQL_MAX, "%s", hostile[bytes_take(in, 1) % ARRAY_LEN(hostile)]); return;
	case BYTES: skip_bytes(in, 4); break;
	case PAGE: skip_bytes(in, 4); return;
	case SUPERBLOCK: skip_bytes(in, 3); break;
	}
	skip_bytes(in, bytes_take(in, 1) % 32);
}

// As fsck opens it: whatever was there before must not be refused. What cannot be done is left out.
static void apply_sql(struct bdev *dev, struct bytes in)
{
	struct volume_opts opts = { .flags = VOLUME_NO_ALLOC, .commit_interval_ms = INTERVAL_MS, .cache_bytes = 1u << 20 };
	struct errmsg why = { "" };
	struct volume *vol = NULL;
	char sql[SQL_MAX];
	uint64_t txn;

	for (unsigned i = 0; i < DAMAGE_MAX && bytes_left(&in); i++) {
		take_sql(&in, sql);
		if (*sql == '\0')
			continue;
		if (vol == NULL) {
			REQUIRE(volume_open(dev, &opts, &vol, &why) == 0 && txn_begin(vol, TXN_FREE, &txn) == 0);
			store_lock(vol->store);
			sqlite3_db_config(store_db(vol->store), SQLITE_DBCONFIG_DEFENSIVE, 0, NULL);
			sqlite3_db_config(store_db(vol->store), SQLITE_DBCONFIG_ENABLE_VIEW, 1, NULL);
			sqlite3_exec(store_db(vol->store), "PRAGMA writable_schema = ON", NULL, NULL, NULL);
		}
		if (sqlite3_exec(store_db(vol->store), sql, NULL, NULL, NULL) != SQLITE_OK && getenv("FUZZ_VERBOSE") != NULL)
			fprintf(stderr, "%s: %s\n", sql, sqlite3_errmsg(store_db(vol->store)));
	}
	if (vol == NULL)
		return;
	store_unlock(vol->store);
	txn_end(vol);
	(void)!txn_commit(vol);
	volume_abandon(vol); // so that frames stay in the log
}

// ---- bytes ----

// Most damage gets right checksums, as its author would give them.
static bool take_sealed(unsigned top3) { return top3 != 7; }

static unsigned take_string(struct bytes *in, uint8_t *buf)
{
	unsigned n = (unsigned)bytes_take(in, 1) % 32;

	for (unsigned i = 0; i < n; i++)
		buf[i] = (uint8_t)bytes_take(in, 1);
	return n;
}

static void change_bytes(struct image *im, struct bytes *in)
{
	static const enum image_part parts[] = { IMAGE_DB, IMAGE_LOG, IMAGE_PAGES, IMAGE_PAGES };
	unsigned which = (unsigned)bytes_take(in, 1);
	enum image_part part = parts[which % ARRAY_LEN(parts)];
	uint64_t len = image_bytes(im, part), at = bytes_take(in, 3) % len;
	uint8_t buf[32];
	unsigned n = take_string(in, buf);

	image_change(im, part, at, buf, (unsigned)min_u64(n, len - at), take_sealed(which >> 5));
}

static void change_page(struct image *im, struct bytes *in)
{
	uint32_t from = (uint32_t)bytes_take(in, 2), to = (uint32_t)bytes_take(in, 2), n = image_n_pages(im);

	image_copy_page(im, 1 + from % n, 1 + (to & 0x1FFF) % n, take_sealed(to >> 13));
}

static void change_superblocks(struct bdev *dev, const struct superblock *sb, struct bytes *in)
{
	unsigned copies = (unsigned)bytes_take(in, 1);
	uint64_t at = bytes_take(in, 2) % (SB_SIZE - 32);
	uint8_t buf[32], copy[SB_SIZE];
	unsigned n = take_string(in, buf);
	struct run fixed[SB_COPIES];

	sb_fixed_runs(sb->n_blks, fixed);
	for (int i = 0; i < SB_COPIES; i++) {
		if ((copies >> i & 1) == 0)
			continue;
		REQUIRE(bdev_read(dev, copy, SB_SIZE, blk_to_bytes(fixed[i].start_blk)) == 0);
		memcpy(copy + at, buf, n);
		seal(copy);
		REQUIRE(bdev_write(dev, copy, SB_SIZE, blk_to_bytes(fixed[i].start_blk)) == 0);
	}
}

// Places are those of the volume before its superblocks change.
static void apply_bytes(struct bdev *dev, struct bytes in)
{
	struct superblock *sb = malloc(sizeof(*sb));
	struct errmsg why = { "" };
	struct image im = { 0 };
	struct bytes at;
	bool open = false; // to do so reads the whole log
	unsigned kind;
	char sql[SQL_MAX];

	REQUIRE(sb != NULL && sb_read(dev, sb, NULL, &why) == 0);
	for (unsigned i = 0; i < DAMAGE_MAX && bytes_left(&in); i++) {
		at = in;
		take_sql(&in, sql);
		kind = bytes_take(&at, 1) % N_KINDS;
		if (!open && (kind == BYTES || kind == PAGE)) {
			image_open(&im, dev, sb);
			open = true;
		}
		switch (kind) {
		case BYTES: change_bytes(&im, &at); break;
		case PAGE: change_page(&im, &at); break;
		case SUPERBLOCK: change_superblocks(dev, sb, &at); break;
		default: break;
		}
	}
	if (open)
		image_close(&im);
	free(sb);
}

void damage_apply(struct bdev *dev, const uint8_t *data, size_t size)
{
	struct bytes in = { data, size, 0 };

	apply_sql(dev, in);
	apply_bytes(dev, in);
}
