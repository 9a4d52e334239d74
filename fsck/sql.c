// SPDX-License-Identifier: MIT
#include "fsck/sql.h"

#include <errno.h>
#include <string.h>

#include "util/blk.h"
#include "util/log.h"

#define COMMIT_INTERVAL_MS 3600000 // fsck commits by itself
#define ALLOC_BYTES_MAX (64u << 20)
#define CHANGES_MIN 8u
#define CHANGES_MAX 512u
#define WAL_BLKS_PER_CHANGE 32u    // a change touches a few pages: eight times as much room

// ---- batches ----

static int attach_space(struct fsck *f)
{
	struct volume *vol = f->vol;
	int err = space_create(&f->space, &f->owned, &vol->files, &vol->alloc);

	vol->alloc_bytes_max = ALLOC_BYTES_MAX;
	if (err == 0)
		vol->files.alloc = vol->alloc;
	return err;
}

int fsck_open(struct fsck *f)
{
	struct volume_opts opts = {
		.flags = VOLUME_NO_ALLOC | (f->mode == FSCK_NO ? VOLUME_READ_ONLY : 0),
		.commit_interval_ms = COMMIT_INTERVAL_MS,
	};

	int err = volume_open(f->dev, &opts, &f->vol, &f->why);

	return err == 0 && f->has_space ? attach_space(f) : err;
}

static int fail(struct fsck *f, const char *what, int err)
{
	if (f->why.text[0] == '\0')
		errmsg_set(&f->why, "%s: %s: %s", f->device, what, strerror(-err));
	return err;
}

int fsck_begin(struct fsck *f)
{
	int err = fsck_repairs(f) ? txn_begin(f->vol, TXN_FREE, &f->txn) : 0;

	if (err != 0)
		return fail(f, "no transaction", err);
	f->changes = 0;
	store_lock(f->vol->store);
	f->locked = true;
	return 0;
}

// A committed transaction that does not fit into the database file could never be checkpointed. The file cannot grow while it is in doubt
// what is free.
static int check_room(struct fsck *f)
{
	uint64_t used, total, cap = bytes_to_blk_down(sysfile_capacity_bytes(&f->vol->files, SYSFILE_DB));
	int err = store_page_counts(f->vol->store, &used, &total);

	if (err == 0 && total > cap && f->has_space)
		err = sysfile_grow(&f->vol->files, SYSFILE_DB, total - cap); // its source of free space does not want the store's lock
	else if (err == 0 && total > cap)
		err = -ENOSPC;
	if (err != -ENOSPC && err != -EFBIG)
		return err;
	store_fail(f->vol->store, -ENOSPC, "repair");
	errmsg_set(&f->why, "%s: the database has no room for the repairs", f->device);
	return -ENOSPC;
}

int fsck_end(struct fsck *f)
{
	int err = 0;

	if (fsck_repairs(f) && f->changes > 0)
		err = check_room(f);
	store_unlock(f->vol->store);
	f->locked = false;
	if (!fsck_repairs(f))
		return 0;
	txn_end(f->vol);
	if (err == 0)
		err = txn_commit(f->vol);
	return err == 0 ? 0 : fail(f, "commit", err);
}

bool fsck_commit_due(const struct fsck *f)
{
	uint64_t limit;

	if (f->changes < CHANGES_MIN)
		return false;
	limit = bytes_to_blk_down(sysfile_capacity_bytes(&f->vol->files, SYSFILE_WAL)) / WAL_BLKS_PER_CHANGE;
	return f->changes >= min_u64(limit, CHANGES_MAX);
}

// Closing empties the log, which is the only way to be sure that there is room in it.
static int reopen(struct fsck *f)
{
	int err = volume_close(f->vol);

	f->vol = NULL;
	if (err != 0)
		return fail(f, "write", err);
	return fsck_open(f);
}

int fsck_commit(struct fsck *f)
{
	int err = fsck_end(f);

	if (err == 0 && fsck_repairs(f) &&
	    dbvfs_wal_end_bytes(f->vol->vfs) > sysfile_capacity_bytes(&f->vol->files, SYSFILE_WAL) / 4)
		err = reopen(f);
	return err == 0 ? fsck_begin(f) : err;
}

int fsck_use_free_space(struct fsck *f)
{
	int err = fsck_commit(f);

	if (err != 0 || f->has_space)
		return err;
	f->has_space = true;
	return attach_space(f);
}

// ---- changes ----

int sql_prepare(struct fsck *f, const char *sql, sqlite3_stmt **out)
{
	int rc = sqlite3_prepare_v2(store_db(f->vol->store), sql, -1, out, NULL);

	return rc == SQLITE_OK ? 0 : fail(f, "database", store_error(f->vol->store, rc, sql));
}

int sql_finish(struct fsck *f, sqlite3_stmt *stmt)
{
	struct store *st = f->vol->store;
	int rc, err;

	// In autocommit mode SQLite has rolled back by itself: nothing may be written on its own.
	rc = sqlite3_get_autocommit(store_db(st)) ? SQLITE_READONLY : sqlite3_step(stmt);
	err = store_error(st, rc, "repair");
	sqlite3_finalize(stmt);
	f->changes++;
	if (err == 0)
		return 0;
	store_fail(st, err, "repair");
	return fail(f, "repair", err);
}

int sql_run(struct fsck *f, const char *sql, unsigned n, const int64_t *args)
{
	sqlite3_stmt *stmt = NULL;
	int err = sql_prepare(f, sql, &stmt);

	if (err != 0)
		return err;
	for (unsigned i = 0; i < n; i++)
		sqlite3_bind_int64(stmt, (int)i + 1, args[i]);
	return sql_finish(f, stmt);
}

int sql_number(struct fsck *f, const char *sql, int64_t none, int64_t *out)
{
	struct cursor c;
	int err = cursor_open(f, &c, sql, 0, 0);

	*out = err == 0 && c.have && sqlite3_column_type(c.stmt, 0) != SQLITE_NULL ? c.key : none;
	cursor_close(&c);
	return err;
}

// ---- cursors ----

int cursor_open(struct fsck *f, struct cursor *c, const char *sql, int64_t p1, int64_t p2)
{
	int err;

	*c = (struct cursor){ 0 };
	err = sql_prepare(f, sql, &c->stmt);
	if (err != 0)
		return err;
	// A statement without the parameter refuses it, which does no harm.
	sqlite3_bind_int64(c->stmt, 1, p1);
	sqlite3_bind_int64(c->stmt, 2, p2);
	return cursor_next(f, c);
}

int cursor_next(struct fsck *f, struct cursor *c)
{
	int rc = sqlite3_step(c->stmt);

	c->have = rc == SQLITE_ROW;
	if (c->have)
		c->key = sqlite3_column_int64(c->stmt, 0);
	if (c->have || rc == SQLITE_DONE)
		return 0;
	return fail(f, "the database cannot be read any further", store_error(f->vol->store, rc, "read"));
}

void cursor_close(struct cursor *c)
{
	sqlite3_finalize(c->stmt);
	*c = (struct cursor){ 0 };
}
