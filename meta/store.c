// SPDX-License-Identifier: MIT
// The store: opening the database defensively, running statements, converting errors, checkpoints.
//
// Images come from strangers: the schema is compared with ours text for text, triggers and views are off, no function of the
// schema is trusted, and a damaged page is an error. What SQLite itself checks on the way (cell sizes, page links) is turned on.
#include "meta/store.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "meta/dbpage.h"
#include "meta/inode_cache.h"
#include "meta/schema.h"
#include "meta/store_internal.h"
#include "util/log.h"

#define BUSY_TIMEOUT_MS 60000
#define STEPS_PER_CALL 2000  // of SQLite's virtual machine: well below a millisecond
#define REVOKE_AGAIN_NS 5000000L

// ---- errors ----

int store_error(struct store *st, int rc, const char *what)
{
	int err;

	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return 0;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_FORMAT:
		err = -EUCLEAN;
		break;
	case SQLITE_FULL:
		err = -ENOSPC;
		break;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_INTERRUPT:
		return -EINTR;
	case SQLITE_IOERR:
		err = (rc == SQLITE_IOERR_NOMEM) ? -ENOMEM : dbvfs_last_errno(st->vfs);
		err = err != 0 ? err : -EIO;
		break;
	default:
		err = -EIO;
		break;
	}
	msg_error("database: %s: %s (%d)", what, st->db != NULL ? sqlite3_errmsg(st->db) : sqlite3_errstr(rc), rc);
	return err;
}

void store_fail(struct store *st, int err, const char *what)
{
	store_assert_locked(st);
	if (st->failed)
		return;
	st->failed = true;
	if (!sqlite3_get_autocommit(st->db))
		sqlite3_exec(st->db, "ROLLBACK", NULL, NULL, NULL);
	inode_cache_drop(st->inodes);
	if (st->on_failure != NULL)
		st->on_failure(st->ctx, err, what);
}

bool store_has_failed(struct store *st)
{
	store_assert_locked(st);
	return st->failed;
}

void store_shut(struct store *st)
{
	store_assert_locked(st);
	st->shut = true;
	inode_cache_drop(st->inodes); // what is read from now on is read by a statement
}

// ---- the lock ----

void store_lock(struct store *st)
{
	pthread_mutex_lock(&st->lock);
	st->owner = pthread_self();
}

void store_unlock(struct store *st)
{
	store_assert_locked(st);
	st->owner = 0;
	pthread_mutex_unlock(&st->lock);
}

void store_assert_locked(struct store *st)
{
	ASSERT(pthread_equal(st->owner, pthread_self()));
	(void)st;
}

sqlite3 *store_db(struct store *st)
{
	store_assert_locked(st);
	if (inode_cache_flush(st->inodes) != 0)
		msg_debug("rows could not be written: the store has failed");
	return st->db;
}

// ---- statements ----

// After an I/O error or without memory, SQLite rolls the whole transaction back even if it was only reading: then what the
// operations before have done is gone, and the volume must not go on as if it were there.
static int read_failed(struct store *st, int rc, const char *what)
{
	int err = store_error(st, rc, what);

	if (st->in_txn && sqlite3_get_autocommit(st->db))
		store_fail(st, err, what);
	return err;
}

int stmt_row(struct store *st, sqlite3_stmt *stmt, const char *what)
{
	int rc;

	store_assert_locked(st);
	if (st->shut) {
		sqlite3_reset(stmt);
		return -EIO;
	}
	rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW)
		return 1;
	if (rc == SQLITE_DONE)
		return 0;
	return read_failed(st, rc, what);
}

// After a failure SQLite may have rolled back by itself: in autocommit mode a write would commit on its own.
int store_may_write(struct store *st)
{
	store_assert_locked(st);
	if (st->shut)
		return -EIO;
	return st->failed || st->read_only || sqlite3_get_autocommit(st->db) ? -EROFS : 0;
}

int stmt_write(struct store *st, sqlite3_stmt *stmt, const char *what, int *changed)
{
	int rc, err = store_may_write(st);

	if (err != 0) {
		sqlite3_reset(stmt);
		return err;
	}
	rc = sqlite3_step(stmt);
	err = store_error(st, rc, what);
	if (err == 0 && changed != NULL)
		*changed = sqlite3_changes(st->db);
	sqlite3_reset(stmt);
	if (err != 0)
		store_fail(st, err, what);
	return err;
}

static int run_bracket(struct store *st, enum stmt_id id, const char *what)
{
	sqlite3_stmt *stmt = store_stmt(st, id);
	int rc;

	store_assert_locked(st);
	rc = sqlite3_step(stmt);
	sqlite3_reset(stmt);
	return store_error(st, rc, what);
}

int store_begin(struct store *st)
{
	int err;

	if (st->failed)
		return -EROFS;
	err = run_bracket(st, st->read_only ? STMT_BEGIN_READ : STMT_BEGIN, "begin");
	if (err != 0)
		store_fail(st, err, "begin");
	st->in_txn = err == 0 && !st->read_only;
	return err;
}

int store_commit(struct store *st)
{
	int err;

	if (st->failed)
		return -EROFS;
	st->in_txn = false;
	err = run_bracket(st, STMT_COMMIT, "commit");
	if (err != 0)
		store_fail(st, err, "commit");
	return err;
}

int store_rollback(struct store *st)
{
	st->in_txn = false;
	inode_cache_drop(st->inodes);
	if (sqlite3_get_autocommit(st->db))
		return 0;
	return run_bracket(st, STMT_ROLLBACK, "rollback");
}

bool store_rows_are_written(struct store *st) { return inode_cache_is_clean(st->inodes); }

int store_write_rows(struct store *st) { return inode_cache_write(st->inodes); }

uint64_t store_changes(struct store *st)
{
	store_assert_locked(st);
	return (uint64_t)sqlite3_total_changes64(st->db);
}

uint64_t store_large_bytes(struct store *st) { return atomic_load(&st->large_bytes); }

int64_t store_n_inodes(struct store *st)
{
	store_assert_locked(st);
	return st->n_inodes;
}

void store_set_n_inodes(struct store *st, int64_t n)
{
	store_assert_locked(st);
	st->n_inodes = n;
}

static int read_number(struct store *st, enum stmt_id id, const char *what, uint64_t *value)
{
	sqlite3_stmt *stmt = store_stmt(st, id);
	int rc = stmt_row(st, stmt, what);

	if (rc == 1)
		*value = (uint64_t)sqlite3_column_int64(stmt, 0);
	stmt_done(stmt);
	return rc < 0 ? rc : (rc == 1 ? 0 : -ENOENT);
}

int store_page_counts(struct store *st, uint64_t *used_pages, uint64_t *total_pages)
{
	uint64_t total = 0, unused = 0;
	int err;

	err = read_number(st, STMT_PAGE_COUNT, "page count", &total);
	if (err == 0)
		err = read_number(st, STMT_FREELIST_COUNT, "free list", &unused);
	if (err != 0)
		return err;
	*total_pages = total;
	*used_pages = total > unused ? total - unused : 0;
	return 0;
}

// ---- config ----

int store_config_get(struct store *st, const char *key, int64_t *value)
{
	uint64_t v = 0;
	int err;

	sqlite3_bind_text(store_stmt(st, STMT_CONFIG_GET), 1, key, -1, SQLITE_STATIC);
	err = read_number(st, STMT_CONFIG_GET, "read config", &v);
	if (err == 0)
		*value = (int64_t)v;
	return err;
}

int store_config_set(struct store *st, const char *key, int64_t value)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_CONFIG_SET);

	sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 2, value);
	return stmt_write(st, stmt, "write config", NULL);
}

// ---- snapshots ----

bool store_is_revoked(const struct store *snapshot) { return atomic_load(&snapshot->revoked); }

static int on_steps(void *arg)
{
	struct store *st = arg;

	return store_is_revoked(st) || (st->on_steps != NULL && st->on_steps(st->on_steps_ctx));
}

void store_on_steps(struct store *st, bool (*fn)(void *ctx), void *ctx)
{
	store_assert_locked(st);
	st->on_steps = fn;
	st->on_steps_ctx = ctx;
	sqlite3_progress_handler(st->db, STEPS_PER_CALL, on_steps, st);
}

static int snapshot_register(struct store *st)
{
	struct store *live = st->live;
	int err = 0;

	pthread_mutex_lock(&live->snap_lock);
	if (live->snapshot != NULL)
		err = -EBUSY;
	else
		live->snapshot = st;
	pthread_mutex_unlock(&live->snap_lock);
	return err;
}

static void snapshot_set_interruptible(struct store *st, bool yes)
{
	pthread_mutex_lock(&st->live->snap_lock);
	if (st->live->snapshot == st)
		st->live->snap_interruptible = yes;
	pthread_mutex_unlock(&st->live->snap_lock);
}

// Many commits may have piled up in the log behind the snapshot. They are copied here, as far as they are now; otherwise the next commit
// would do it, with everybody waiting. Errors are the device's, and the others' to notice.
static void copy_backlog(struct store *st)
{
	if (st->db == NULL || st->live->read_only || dbvfs_wal_end_bytes(st->vfs) < st->log_max_bytes / 4)
		return;
	if (sqlite3_wal_checkpoint_v2(st->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL) != SQLITE_OK)
		msg_debug("checkpoint behind a snapshot: %s", sqlite3_errmsg(st->db));
}

static void snapshot_unregister(struct store *st)
{
	struct store *live = st->live;

	pthread_mutex_lock(&live->snap_lock);
	if (live->snapshot == st) {
		live->snapshot = NULL;
		pthread_cond_broadcast(&live->snap_gone);
	}
	pthread_mutex_unlock(&live->snap_lock);
}

// The transaction begins with the first read: from there on everything is of one commit.
static int snapshot_begin(struct store *st)
{
	snapshot_set_interruptible(st, true);
	store_on_steps(st, NULL, NULL);
	return store_begin(st);
}

// Interrupts again and again, because only what runs at that moment is interrupted; what begins later meets on_steps(). Waits only if the
// log has no place left: the commits that wait for this checkpoint wait, too.
static void revoke_long_snapshot(struct store *st)
{
	uint64_t log_bytes = dbvfs_wal_end_bytes(st->vfs), max;
	struct timespec until;

	pthread_mutex_lock(&st->snap_lock);
	while (st->snapshot != NULL && log_bytes > (max = st->snapshot->log_max_bytes)) {
		atomic_store(&st->snapshot->revoked, true);
		if (st->snap_interruptible)
			sqlite3_interrupt(st->snapshot->db);
		if (log_bytes <= max + max / 8)
			break;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += REVOKE_AGAIN_NS;
		if (until.tv_nsec >= 1000000000L) {
			until.tv_nsec -= 1000000000L;
			until.tv_sec++;
		}
		pthread_cond_timedwait(&st->snap_gone, &st->snap_lock, &until);
	}
	pthread_mutex_unlock(&st->snap_lock);
}

// ---- checkpoints ----

int store_checkpoint(struct store *st)
{
	int in_log = 0, copied = 0, rc;

	revoke_long_snapshot(st);
	rc = sqlite3_wal_checkpoint_v2(st->ckpt_db, NULL, SQLITE_CHECKPOINT_PASSIVE, &in_log, &copied);
	if (rc == SQLITE_BUSY)
		return 1;
	if (rc != SQLITE_OK) {
		msg_error("checkpoint: %s (%d)", sqlite3_errmsg(st->ckpt_db), rc);
		if ((rc & 0xff) == SQLITE_IOERR && dbvfs_last_errno(st->vfs) != 0)
			return dbvfs_last_errno(st->vfs);
		return (rc & 0xff) == SQLITE_FULL ? -ENOSPC : -EIO;
	}
	return copied < in_log;
}

int store_truncate_wal(struct store *st)
{
	int rc = sqlite3_wal_checkpoint_v2(st->ckpt_db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);

	if (rc == SQLITE_OK)
		return 0;
	msg_error("last checkpoint: %s (%d)", sqlite3_errmsg(st->ckpt_db), rc);
	return -EIO;
}

int store_recovered_frames(struct store *st)
{
	int in_log = 0;

	sqlite3_wal_checkpoint_v2(st->ckpt_db, NULL, SQLITE_CHECKPOINT_PASSIVE, &in_log, NULL);
	return in_log > 0 ? in_log : 0;
}

// ---- opening ----

static void configure_sqlite(void)
{
	// Global memory statistics cost a lock at each allocation. Ignored if SQLite is in use already.
	sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

static int exec_all(sqlite3 *db, const char *const *sql, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int rc = sqlite3_exec(db, sql[i], NULL, NULL, NULL);

		if (rc != SQLITE_OK)
			return rc;
	}
	return SQLITE_OK;
}

static int open_connection(const struct store_config *cfg, sqlite3 **db)
{
	static const char *const pragmas[] = {
		"PRAGMA trusted_schema = OFF",
		"PRAGMA cell_size_check = ON",
		"PRAGMA secure_delete = OFF",
		"PRAGMA temp_store = MEMORY",
		"PRAGMA cache_spill = OFF", // a transaction reaches the log whole, at COMMIT
		"PRAGMA wal_autocheckpoint = 0",
		"PRAGMA mmap_size = 0",
		"PRAGMA synchronous = NORMAL", // no sync at COMMIT, but before and after a checkpoint
	};
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	int rc, flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_READWRITE | (cfg->create ? SQLITE_OPEN_CREATE : 0);

	pthread_once(&once, configure_sqlite);
	rc = sqlite3_open_v2(DBVFS_FILE, db, flags, dbvfs_name(cfg->vfs));
	if (rc != SQLITE_OK)
		return rc;
	sqlite3_extended_result_codes(*db, 1);
	// A connection that meets a COMMIT in the wal-index takes the writer's lock for a moment to look again. Whoever wanted it then
	// must wait for this moment, not fail.
	sqlite3_busy_timeout(*db, BUSY_TIMEOUT_MS);
	sqlite3_db_config(*db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_db_config(*db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
	sqlite3_db_config(*db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
	if (!cfg->create)
		sqlite3_db_config(*db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	return exec_all(*db, pragmas, ARRAY_LEN(pragmas));
}

static int create_schema(sqlite3 *db)
{
	static const char *const setup[] = {
		"PRAGMA page_size = 4096",
		"PRAGMA journal_mode = MEMORY", // for the first page only: the VFS knows no rollback journal
		"PRAGMA journal_mode = WAL",
		"BEGIN IMMEDIATE",
		schema_sql,
	};
	int reserved = DBPAGE_RESERVED, rc;
	char *numbers;

	rc = sqlite3_file_control(db, "main", SQLITE_FCNTL_RESERVE_BYTES, &reserved);
	if (rc == SQLITE_OK)
		rc = exec_all(db, setup, ARRAY_LEN(setup));
	if (rc != SQLITE_OK)
		return rc;
	numbers = sqlite3_mprintf("PRAGMA user_version = %d; PRAGMA application_id = %d; COMMIT", SCHEMA_VERSION,
	                          SCHEMA_APPLICATION_ID);
	if (numbers == NULL)
		return SQLITE_NOMEM;
	rc = sqlite3_exec(db, numbers, NULL, NULL, NULL);
	sqlite3_free(numbers);
	return rc;
}

// All of a database's schema as one string, or NULL.
static char *schema_text(sqlite3 *db, int *rc)
{
	sqlite3_stmt *stmt = NULL;
	char *text = NULL;

	*rc = sqlite3_prepare_v2(db, "SELECT group_concat(type || ' ' || name || ' ' || coalesce(sql, ''), ';') FROM"
	                         " (SELECT * FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY name)",
	                         -1, &stmt, NULL);
	if (*rc == SQLITE_OK && (*rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		const unsigned char *got = sqlite3_column_text(stmt, 0);

		if (got != NULL || sqlite3_errcode(db) != SQLITE_NOMEM)
			text = strdup(got != NULL ? (const char *)got : "");
		*rc = text != NULL ? SQLITE_OK : SQLITE_NOMEM;
	}
	sqlite3_finalize(stmt);
	return text;
}

// The schema on the device must be ours, text for text: a stranger's CHECK, index or trigger would run in our process.
static int check_schema(struct store *st, struct errmsg *why)
{
	sqlite3 *ours = NULL;
	char *want = NULL, *have = NULL;
	int rc, err = 0;

	rc = sqlite3_open_v2(":memory:", &ours, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(ours, schema_sql, NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		want = schema_text(ours, &rc);
	sqlite3_close(ours);
	if (want == NULL)
		return -ENOMEM;
	have = schema_text(st->db, &rc);
	if (have == NULL) { // damage, or only an error on the way
		err = store_error(st, rc, "read the schema");
		err = err != 0 ? err : -EUCLEAN;
		errmsg_set(why, "the database's tables cannot be read: %s%s",
		           rc == SQLITE_NOMEM ? sqlite3_errstr(rc) : sqlite3_errmsg(st->db),
		           err == -EUCLEAN ? "; run fsck.hybridfs" : "");
	} else if (strcmp(want, have) != 0) {
		err = -EUCLEAN;
		errmsg_set(why, "the database's tables are not those of a HybridFS volume of this version; run fsck.hybridfs");
	}
	free(want);
	free(have);
	return err;
}

static int prepare_all(struct store *st)
{
	for (int i = 0; i < STMT_N; i++) {
		int rc = sqlite3_prepare_v3(st->db, store_sql[i], -1, SQLITE_PREPARE_PERSISTENT, &st->stmt[i], NULL);

		if (rc != SQLITE_OK)
			return rc;
	}
	return SQLITE_OK;
}

static int open_and_prepare(struct store *st, const struct store_config *cfg, struct errmsg *why)
{
	char pragma[64];
	int rc, err;

	rc = open_connection(cfg, &st->db);
	if (rc == SQLITE_OK && cfg->create)
		rc = create_schema(st->db);
	if (rc == SQLITE_OK && !cfg->create) {
		err = check_schema(st, why);
		if (err != 0)
			return err;
	}
	if (rc == SQLITE_OK) {
		snprintf(pragma, sizeof(pragma), "PRAGMA cache_size = -%zu", cfg->cache_bytes / 1024);
		rc = sqlite3_exec(st->db, pragma, NULL, NULL, NULL);
	}
	if (rc == SQLITE_OK)
		rc = prepare_all(st);
	if (rc == SQLITE_OK && !cfg->read_only)
		rc = open_connection(cfg, &st->ckpt_db);
	if (rc == SQLITE_OK)
		return 0;
	err = store_error(st, rc, "open");
	errmsg_set(why, "cannot open the database inside the volume: %s; run fsck.hybridfs",
	           st->db != NULL ? sqlite3_errmsg(st->db) : sqlite3_errstr(rc));
	return err != 0 ? err : -EIO;
}

// What a snapshot adds to being open.
static int open_snapshot(struct store *st, const struct store_config *cfg, struct errmsg *why)
{
	int err = snapshot_register(st);

	if (err == 0)
		err = open_and_prepare(st, cfg, why);
	return err == 0 ? snapshot_begin(st) : err;
}

static int read_constants(struct store *st)
{
	int64_t key = 0;
	int err;

	err = store_config_get(st, "hash_key", &key);
	if (err == 0)
		err = store_config_get(st, "inodes", &st->n_inodes);
	st->hash_key = (uint64_t)key;
	return err == -ENOENT ? -EUCLEAN : err;
}

int store_open(const struct store_config *cfg, struct store **out, struct errmsg *why)
{
	struct store *st = calloc(1, sizeof(*st));
	pthread_mutexattr_t attr;
	int err;

	if (st == NULL)
		return -ENOMEM;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP); // held for microseconds
	pthread_mutex_init(&st->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_mutex_init(&st->snap_lock, NULL);
	pthread_cond_init(&st->snap_gone, NULL);
	st->vfs = cfg->vfs;
	st->live = cfg->live;
	st->log_max_bytes = cfg->log_max_bytes;
	st->read_only = cfg->read_only;
	st->on_failure = cfg->on_failure;
	st->ctx = cfg->ctx;
	store_lock(st);
	err = cfg->cache_inodes ? inode_cache_create(st, &st->inodes) : 0;
	if (err == 0)
		err = cfg->live != NULL ? open_snapshot(st, cfg, why) : open_and_prepare(st, cfg, why);
	if (err == 0 && !cfg->create) {
		err = read_constants(st);
		if (err != 0 && err != -EINTR)
			errmsg_set(why, "the database inside the volume lacks its settings; run fsck.hybridfs");
	}
	store_unlock(st);
	if (err != 0) {
		store_close(st);
		return err;
	}
	*out = st;
	return 0;
}

void store_close(struct store *st)
{
	if (st == NULL)
		return;
	if (st->live != NULL)
		snapshot_set_interruptible(st, false);
	store_lock(st);
	for (int i = 0; i < STMT_N; i++)
		sqlite3_finalize(st->stmt[i]);
	if (st->db != NULL && !sqlite3_get_autocommit(st->db))
		sqlite3_exec(st->db, "ROLLBACK", NULL, NULL, NULL);
	if (st->live != NULL) {
		snapshot_unregister(st);
		copy_backlog(st);
	}
	sqlite3_close(st->ckpt_db);
	sqlite3_close(st->db);
	inode_cache_destroy(st->inodes);
	store_unlock(st);
	pthread_cond_destroy(&st->snap_gone);
	pthread_mutex_destroy(&st->snap_lock);
	pthread_mutex_destroy(&st->lock);
	free(st);
}
