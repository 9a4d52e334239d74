// SPDX-License-Identifier: MIT
// The database, written anew from the rows that can still be read.
//
// The new one is made as mkfs makes one (volume.c), with its own log, in blocks that are free by everything that was read: outside of the old
// database and its log, and of all blocks that a row names. One write of the superblock puts it in the place of the old. Until then the
// old one has not been touched, so fsck may be killed and begin again; from then on the new one is a volume that may be mounted, with a free map
// made of the same extents, and marked as having errors. The phases that follow find out what was lost.
//
// Two passes over the old pages: the first finds what is in use, the second one copies. The space map is not copied: it follows from the extents.
//
// If the key of the name hashes is lost, a new one is chosen, and each entry is filed by it.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "fsck/btree.h"
#include "fsck/dbpages.h"
#include "fsck/fsck.h"
#include "fsck/tables.h"
#include "meta/csum.h"
#include "meta/deferred_rows.h"
#include "meta/rows.h"
#include "meta/schema.h"
#include "meta/spacemap.h"

#define CACHE_BYTES (32u << 20)
#define LOG_BLK_MIN 256u
#define LOG_BLK_MAX 16384u

static const char *const inserts[T_N] = {
	[T_CONFIG] = "INSERT OR IGNORE INTO config VALUES(?1, ?2)",
	[T_INODE] = "INSERT OR IGNORE INTO inode VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
	[T_DIRENT] = "INSERT OR IGNORE INTO dirent VALUES(?1, ?2, ?3, ?4, ?5)",
	[T_EXTENT] = "INSERT OR IGNORE INTO extent VALUES(?1, ?2, ?3, ?4, ?5)",
	[T_CSUM] = "INSERT OR IGNORE INTO csum VALUES(?1, ?2)",
	[T_INLINE] = "INSERT OR IGNORE INTO inline VALUES(?1, ?2)",
	[T_XATTR] = "INSERT OR IGNORE INTO xattr VALUES(?1, ?2, ?3)",
	[T_ORPHAN] = "INSERT OR IGNORE INTO orphan VALUES(?1)",
	[T_DEFERRED] = "INSERT OR IGNORE INTO deferred VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
	[T_METASLAB] = "INSERT INTO metaslab(ms, free_blk, largest_blk, log_bytes, base_bytes) VALUES(?1, ?2, 0, ?3, ?3)",
	[T_SPACEMAP] = "INSERT INTO spacemap(ms, seq, runs) VALUES(?1, ?2, ?3)",
};

struct salvage {
	struct fsck *f;
	// the old one
	struct superblock sb;
	struct sysfiles files;
	struct dbpages pages;
	struct btree_scan scan;
	struct table tables[T_N];
	struct blockmap used; // what its rows name
	bool has_key;
	int64_t hash_key, next_ino, txn, deferred_from;
	bool has_txn;
	// the new one
	struct space space;
	struct alloc *alloc;
	struct superblock new_sb;
	struct sysfiles new_files;
	struct dbvfs *vfs;
	struct store *store;
	sqlite3_stmt *insert[T_N];
	uint64_t batch_rows, batch_bytes, log_bytes; // log_bytes: room for a batch
	int64_t n_inodes;
};

static bool same(const struct value *v, const char *text)
{
	return v->len == strlen(text) && memcmp(v->bytes, text, v->len) == 0;
}

// ---- the old database ----

// Every volume's tables were made by the same statements: so the root pages are those of any other database with them.
static int find_roots(struct salvage *s)
{
	sqlite3_stmt *stmt = NULL;
	sqlite3 *db = NULL;
	int rc = sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, schema_sql, NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(db, "SELECT rootpage FROM sqlite_schema WHERE name = ?1", -1, &stmt, NULL);
	for (int i = 0; rc == SQLITE_OK && i < T_N; i++) {
		sqlite3_bind_text(stmt, 1, s->tables[i].name, -1, SQLITE_STATIC);
		if (sqlite3_step(stmt) == SQLITE_ROW)
			s->tables[i].root = (uint32_t)sqlite3_column_int64(stmt, 0);
		rc = sqlite3_reset(stmt);
	}
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	return rc == SQLITE_OK ? 0 : -ENOMEM;
}

// A row of 256 bytes may be checksums or inline data: checksums are known by one of their blocks.
static bool belongs(void *ctx, const struct table *t, const struct value *row)
{
	struct salvage *s = ctx;
	uint64_t n_chunks = (s->sb.n_blks + CSUM_CHUNK_BLK - 1) / CSUM_CHUNK_BLK;
	uint8_t block[BLK_SIZE];

	if (t == &s->tables[T_DEFERRED])
		return row[5].len == BLK_SIZE && row[3].number == csum_block(row[5].bytes);
	if (t == &s->tables[T_ORPHAN])
		return false; // any page of small rows looks like that
	if (t != &s->tables[T_CSUM])
		return true;
	if (row[1].len != CSUM_ROW_BYTES || row[0].number < 0 || (uint64_t)row[0].number >= n_chunks)
		return false;
	for (uint64_t i = 0; i < CSUM_CHUNK_BLK; i++) {
		uint64_t blk = (uint64_t)row[0].number * CSUM_CHUNK_BLK + i;
		const uint8_t *le = row[1].bytes + 4 * i;
		uint32_t want = le[0] | (uint32_t)le[1] << 8 | (uint32_t)le[2] << 16 | (uint32_t)le[3] << 24;

		if (want != 0 && blk < s->sb.n_blks && bdev_read(s->f->dev, block, BLK_SIZE, blk_to_bytes(blk)) == 0 &&
		    csum_block(block) == want)
			return true;
	}
	return false;
}

static int note_blocks(struct salvage *s, int64_t start, int64_t len)
{
	int64_t n_blks = (int64_t)s->sb.n_blks;

	if (start < 0 || len <= 0 || len > n_blks || start > n_blks - len)
		return 0;
	return blockmap_mark(&s->used, (uint64_t)start, (uint64_t)len);
}

static void note_txn(struct salvage *s, int64_t txn)
{
	if (txn > s->txn && txn <= DEFERRED_MAX_TXN)
		s->txn = txn;
}

static void note_config(struct salvage *s, const struct value *row)
{
	int64_t v = row[1].number;

	if (same(&row[0], "hash_key")) {
		s->has_key = true;
		s->hash_key = v;
	} else if (same(&row[0], "next_ino")) {
		s->next_ino = v > s->next_ino ? v : s->next_ino;
	} else if (same(&row[0], "txn")) {
		s->has_txn = true;
		note_txn(s, v);
	} else if (same(&row[0], "deferred_from") && v <= DEFERRED_MAX_TXN) {
		s->deferred_from = v > s->deferred_from ? v : s->deferred_from;
		note_txn(s, v); // it was that one, or a later one
	}
}

// The first pass.
static int note_row(void *ctx, const struct table *t, const struct value *row)
{
	struct salvage *s = ctx;

	if (fsck_stopping(s->f))
		return -EINTR;
	switch (t - s->tables) {
	case T_CONFIG:
		note_config(s, row);
		return 0;
	case T_INODE:
		if (row[0].number >= s->next_ino && row[0].number < INT64_MAX)
			s->next_ino = row[0].number + 1;
		return 0;
	case T_EXTENT:
		return note_blocks(s, row[2].number, row[3].number);
	case T_DEFERRED:
		note_txn(s, row[2].number);
		return note_blocks(s, row[1].number, 1);
	default:
		return 0;
	}
}

static void show_progress(void *ctx, uint32_t page)
{
	progress_at(((struct salvage *)ctx)->f, page);
}

static int scan_pages(struct salvage *s, row_fn row)
{
	s->scan = (struct btree_scan){
		.pages = &s->pages,
		.tables = s->tables,
		.n_tables = T_N,
		.row = row,
		.belongs = belongs,
		.ctx = s,
		.progress = show_progress,
	};
	progress_range(s->f, s->pages.n_pages);
	return btree_scan(&s->scan);
}

static void report(struct salvage *s)
{
	problem_note(s->f, "the database has %llu pages; %s", (unsigned long long)s->pages.n_pages,
	             s->scan.free_list_ok ? "its list of free pages is sound"
	                                  : "its list of free pages is damaged: rows found outside their trees may be old");
	for (int i = 0; i < T_N; i++) {
		const struct table *t = &s->tables[i];

		if (i == T_METASLAB || i == T_SPACEMAP || (t->n_lost_pages == 0 && t->n_bad_rows == 0 && !s->f->verbose))
			continue;
		problem_note(s->f, "table %s: %llu rows read, %llu of them outside the tree; %llu pages and %llu more rows cannot be read",
		             t->name, (unsigned long long)t->n_rows, (unsigned long long)t->n_found,
		             (unsigned long long)t->n_lost_pages, (unsigned long long)t->n_bad_rows);
	}
	if (!s->has_key)
		problem_note(s->f, "the key of the name hashes is lost: all names are filed anew");
}

// ---- the new database ----

static int wal_sync(void *ctx) { return bdev_flush(((struct salvage *)ctx)->f->dev); }

// Blocks for one of the new files: as much as wanted, or the least that will do.
static int take_blocks(struct salvage *s, enum sysfile_id id, uint64_t want_blk, uint64_t least_blk)
{
	struct alloc_req req = { .want_blk = want_blk };
	struct runlist got = { 0 };
	int err = alloc_get(s->alloc, NULL, &req, &got);

	if (err == -ENOSPC && least_blk < want_blk) {
		req.want_blk = least_blk;
		err = alloc_get(s->alloc, NULL, &req, &got);
	}
	if (err == 0 && got.n > SB_MAX_EXTENTS)
		err = -ENOSPC;
	if (err == 0) {
		memset(s->new_sb.sysfile[id].extents, 0, sizeof(s->new_sb.sysfile[id].extents));
		memcpy(s->new_sb.sysfile[id].extents, got.runs, got.n * sizeof(got.runs[0]));
		s->new_sb.sysfile[id].n_extents = got.n;
	}
	runlist_free(&got);
	return err;
}

static int find_room(struct salvage *s)
{
	uint64_t n = s->pages.n_pages, log_blk = min_u64(max_u64(s->sb.n_blks / 64, LOG_BLK_MIN), LOG_BLK_MAX);
	int err = space_create(&s->space, &s->used, &s->files, &s->alloc);

	s->new_sb = s->sb;
	if (err == 0)
		err = take_blocks(s, SYSFILE_DB, n + n / 4 + 256, n + n / 16 + 32);
	if (err == 0)
		err = take_blocks(s, SYSFILE_WAL, log_blk, LOG_BLK_MIN);
	if (err == -ENOSPC)
		problem_note(s->f, "there is no room for a new database of %llu blocks on the volume: make it larger",
		             (unsigned long long)(n + n / 16 + 32 + LOG_BLK_MIN));
	return err;
}

static int create_store(struct salvage *s)
{
	struct dbvfs_hooks hooks = { .wal_sync = wal_sync, .ctx = s };
	struct store_config cfg = { .create = true, .cache_bytes = CACHE_BYTES };
	int err = dbvfs_create(&s->new_files, &hooks, true, &s->vfs);

	cfg.vfs = s->vfs;
	if (err == 0)
		err = store_open(&cfg, &s->store, &s->f->why);
	if (err != 0)
		return err;
	s->log_bytes = sysfile_capacity_bytes(&s->new_files, SYSFILE_WAL) / 4;
	store_lock(s->store);
	for (int i = 0; err == 0 && i < T_N; i++)
		if (sqlite3_prepare_v2(store_db(s->store), inserts[i], -1, &s->insert[i], NULL) != SQLITE_OK)
			err = -ENOMEM;
	if (err == 0)
		err = store_begin(s->store);
	store_unlock(s->store);
	return err;
}

// What gathered goes to the log, and from there into the database. Store locked.
static int settle(struct salvage *s)
{
	struct wal_segment *seg;
	int err = store_commit(s->store);

	if (err != 0)
		return err;
	seg = dbvfs_wal_seal(s->vfs);
	if (seg != NULL) {
		err = dbvfs_wal_write(s->vfs, seg);
		dbvfs_wal_done(s->vfs, seg);
	}
	if (err == 0)
		err = store_truncate_wal(s->store);
	s->batch_rows = s->batch_bytes = 0;
	return err;
}

static int run_insert(struct salvage *s, int table, bool *inserted)
{
	int rc = sqlite3_step(s->insert[table]);
	int err = store_error(s->store, rc, "write the database anew");

	*inserted = err == 0 && sqlite3_changes(store_db(s->store)) > 0;
	sqlite3_reset(s->insert[table]);
	return err;
}

static void bind_row(sqlite3_stmt *stmt, const struct table *t, const struct value *row)
{
	for (int i = 0; t->columns[i] != '\0'; i++) {
		if (row[i].type == 'i')
			sqlite3_bind_int64(stmt, i + 1, row[i].number);
		else if (row[i].type == 't')
			sqlite3_bind_text(stmt, i + 1, (const char *)row[i].bytes, (int)row[i].len, SQLITE_STATIC);
		else
			sqlite3_bind_blob(stmt, i + 1, row[i].len > 0 ? (const void *)row[i].bytes : "", (int)row[i].len, SQLITE_STATIC);
	}
}

// An entry by the new key. Invalid names are filed somewhere: phase 6 finds them.
static int insert_name(struct salvage *s, const struct value *row)
{
	uint64_t h = dirent_hash((uint64_t)s->hash_key, (const char *)row[4].bytes, row[4].len);
	bool inserted = false;
	int err = 0;

	for (uint64_t i = 0; err == 0 && !inserted && i < DIRENT_PROBES; i++) {
		sqlite3_bind_int64(s->insert[T_DIRENT], 2, (int64_t)(h + i));
		err = run_insert(s, T_DIRENT, &inserted);
	}
	return err;
}

// The second pass.
static int copy_row(void *ctx, const struct table *t, const struct value *row)
{
	struct salvage *s = ctx;
	long i = t - s->tables;
	bool inserted = true;
	int err;

	if (fsck_stopping(s->f))
		return -EINTR;
	if (i == T_CONFIG || i == T_METASLAB || i == T_SPACEMAP)
		return 0;
	if (i == T_DEFERRED && (!s->has_txn || row[2].number < s->deferred_from))
		return 0; // dead, or nobody knows: an old one would be written over what came after it
	bind_row(s->insert[i], t, row);
	err = i == T_DIRENT && !s->has_key ? insert_name(s, row) : run_insert(s, (int)i, &inserted);
	s->n_inodes += i == T_INODE && inserted;
	s->batch_rows++;
	for (int col = 0; t->columns[col] != '\0'; col++)
		s->batch_bytes += row[col].len + 8;
	// A row dirties a page, or few, if they do not come in order.
	if (err == 0 && (s->batch_rows * PAGE_BYTES > s->log_bytes * 2 || s->batch_bytes > s->log_bytes)) {
		err = settle(s);
		if (err == 0)
			err = store_begin(s->store);
	}
	return err;
}

static int write_space_map(struct salvage *s, uint32_t ms)
{
	struct spacemap_bits bits = { .n_blks = blockmap_ms_blks(&s->used, ms), .words = s->used.words[ms] };
	struct spacemap_buf buf = { 0 };
	bool inserted;
	int err;

	if (bits.words == NULL)
		return 0;
	for (uint64_t w = 0; w * 64 < bits.n_blks; w++)
		bits.used_blk += (uint64_t)__builtin_popcountll(bits.words[w]);
	err = spacemap_bits_condense(&bits, &buf);
	sqlite3_bind_int64(s->insert[T_METASLAB], 1, ms);
	sqlite3_bind_int64(s->insert[T_METASLAB], 2, (int64_t)(bits.n_blks - bits.used_blk));
	sqlite3_bind_int64(s->insert[T_METASLAB], 3, (int64_t)buf.len);
	if (err == 0)
		err = run_insert(s, T_METASLAB, &inserted);
	sqlite3_bind_int64(s->insert[T_SPACEMAP], 1, ms);
	sqlite3_bind_int64(s->insert[T_SPACEMAP], 2, s->txn);
	sqlite3_bind_blob64(s->insert[T_SPACEMAP], 3, buf.data, buf.len, SQLITE_STATIC);
	if (err == 0)
		err = run_insert(s, T_SPACEMAP, &inserted);
	spacemap_buf_free(&buf);
	return err;
}

static int write_config(struct salvage *s)
{
	const struct {
		const char *key;
		int64_t value;
	} rows[] = { { "hash_key", s->hash_key }, { "next_ino", s->next_ino }, { "txn", s->txn }, { "inodes", s->n_inodes },
		     { "deferred_from", s->deferred_from }, { "errors", 1 } };
	int err = 0;

	for (size_t i = 0; err == 0 && i < ARRAY_LEN(rows); i++)
		err = store_config_set(s->store, rows[i].key, rows[i].value);
	store_set_n_inodes(s->store, s->n_inodes);
	return err;
}

static int fill(struct salvage *s)
{
	int err;

	store_lock(s->store);
	err = scan_pages(s, copy_row);
	for (uint32_t ms = 0; err == 0 && ms < s->used.n_ms; ms++)
		err = write_space_map(s, ms);
	if (err == 0)
		err = write_config(s);
	if (err == 0)
		err = settle(s);
	store_unlock(s->store);
	return err != 0 ? err : bdev_flush(s->f->dev);
}

static void close_store(struct salvage *s)
{
	for (int i = 0; i < T_N; i++)
		sqlite3_finalize(s->insert[i]);
	store_close(s->store);
	if (s->vfs != NULL)
		dbvfs_destroy(s->vfs);
}

static int write_anew(struct salvage *s)
{
	int err = find_room(s);

	if (err != 0)
		return err;
	if (!s->has_key && getrandom(&s->hash_key, sizeof(s->hash_key), 0) != sizeof(s->hash_key))
		return -errno;
	err = sysfiles_init(&s->new_files, s->f->dev, &s->new_sb);
	if (err != 0)
		return err;
	err = create_store(s);
	if (err == 0)
		err = fill(s);
	close_store(s);
	sysfiles_destroy(&s->new_files);
	return err != 0 ? err : sb_write(s->f->dev, &s->new_sb); // from here on it is the volume's
}

// ---- both ----

static int read_old(struct salvage *s)
{
	int err = sb_read(s->f->dev, &s->sb, NULL, &s->f->why);

	if (err == 0)
		err = sysfiles_init(&s->files, s->f->dev, &s->sb);
	if (err != 0)
		return err;
	for (int i = 0; i < T_N; i++)
		s->tables[i] = table_forms[i];
	s->next_ino = ROOT_INO + 1;
	s->txn = 1;
	err = find_roots(s);
	if (err == 0)
		err = blockmap_init(&s->used, s->sb.n_blks, s->sb.ms_shift);
	if (err == 0)
		err = dbpages_open(&s->files, &s->pages);
	return err != 0 ? err : scan_pages(s, note_row);
}

static void free_all(struct salvage *s)
{
	alloc_destroy(s->alloc);
	dbpages_close(&s->pages);
	blockmap_free(&s->used);
	if (s->files.dev != NULL)
		sysfiles_destroy(&s->files);
	free(s);
}

int salvage(struct fsck *f, bool *done)
{
	struct salvage *s = calloc(1, sizeof(*s));
	int err;

	*done = false;
	if (s == NULL)
		return -ENOMEM;
	s->f = f;
	progress_phase(f, 2, 2, "salvage");
	err = read_old(s);
	if (err == 0 && s->tables[T_INODE].n_rows == 0) {
		problem_note(f, "nothing of the database can be read: it stays as it is");
		err = -ENOSPC;
	} else if (err == 0) {
		report(s);
		err = write_anew(s);
	}
	*done = err == 0;
	if (*done) {
		f->sb = s->new_sb;
		f->rebuilt = true;
	} else {
		f->n_fixed--;
		f->n_left++;
	}
	progress_hide(f);
	free_all(s);
	return err == -ENOSPC || err == -EINTR ? 0 : err;
}
