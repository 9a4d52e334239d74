// SPDX-License-Identifier: MIT
// Inside meta/ only: the prepared statements of the store and how they are run.
#ifndef HYBRIDFS_META_STORE_INTERNAL_H
#define HYBRIDFS_META_STORE_INTERNAL_H

#include <stdatomic.h>

#include "meta/store.h"

// One line per statement: the SQL stands in store_sql.c.
enum stmt_id {
	STMT_BEGIN,
	STMT_BEGIN_READ,
	STMT_COMMIT,
	STMT_ROLLBACK,
	STMT_PAGE_COUNT,
	STMT_FREELIST_COUNT,
	STMT_CONFIG_GET,
	STMT_CONFIG_SET,
	STMT_INODE_GET,
	STMT_INODE_LAST,
	STMT_INODE_INSERT,
	STMT_INODE_UPDATE,
	STMT_INODE_DELETE,
	STMT_DIRENT_FIND,
	STMT_DIRENT_PROBE,
	STMT_DIRENT_INSERT,
	STMT_DIRENT_DELETE,
	STMT_DIRENT_REPOINT,
	STMT_DIRENT_SCAN,
	STMT_DIRENT_SCAN_PLUS,
	STMT_DIRENT_ANY,
	STMT_INLINE_GET,
	STMT_INLINE_SET,
	STMT_INLINE_DELETE,
	STMT_XATTR_GET,
	STMT_XATTR_SET,
	STMT_XATTR_REMOVE,
	STMT_XATTR_LIST,
	STMT_XATTR_DELETE_ALL,
	STMT_EXTENT_AT_OR_BEFORE,
	STMT_EXTENT_AFTER,
	STMT_EXTENT_BACKWARDS,
	STMT_EXTENT_INSERT,
	STMT_EXTENT_RESIZE,
	STMT_EXTENT_DELETE,
	STMT_ORPHAN_ADD,
	STMT_ORPHAN_REMOVE,
	STMT_ORPHAN_HAS,
	STMT_ORPHAN_LIST,
	STMT_METASLAB_LIST,
	STMT_METASLAB_GET,
	STMT_METASLAB_SET,
	STMT_SPACEMAP_ROWS,
	STMT_SPACEMAP_LAST,
	STMT_SPACEMAP_INSERT,
	STMT_SPACEMAP_REWRITE,
	STMT_SPACEMAP_DELETE,
	STMT_CSUM_GET,
	STMT_CSUM_SET,
	STMT_CSUM_DELETE,
	STMT_DEFERRED_NEXT,
	STMT_DEFERRED_LAST_TXN,
	STMT_DEFERRED_ANY,
	STMT_DEFERRED_UPDATE,
	STMT_DEFERRED_INSERT,
	STMT_DEFERRED_DELETE,
	STMT_DEFERRED_CLEAR,
	STMT_N
};

extern const char *const store_sql[STMT_N];

struct store {
	pthread_mutex_t lock;
	pthread_t owner; // who holds the lock; debug builds
	// Guarded by lock:
	sqlite3 *db;
	sqlite3_stmt *stmt[STMT_N];
	struct dbvfs *vfs;
	struct inode_cache *inodes; // NULL = rows are not remembered
	bool read_only, failed;
	bool shut;         // store_shut(): every statement is -EIO
	bool in_txn;       // between store_begin() and its end
	int64_t n_inodes;  // rows of inode; stored as config's "inodes" at each commit
	uint64_t hash_key; // of directory entries; constant after open
	void (*on_failure)(void *ctx, int err, const char *what);
	void *ctx;
	// Not guarded by it:
	atomic_uint_fast64_t large_bytes;
	// Used by one checkpointing thread at a time.
	sqlite3 *ckpt_db;

	// A snapshot of this store.
	pthread_mutex_t snap_lock; // the next three; a leaf
	pthread_cond_t snap_gone;
	struct store *snapshot;    // NULL = none
	bool snap_interruptible;   // its connection is open
	// This store is a snapshot:
	struct store *live;
	uint64_t log_max_bytes;
	atomic_bool revoked;
	bool (*on_steps)(void *ctx);
	void *on_steps_ctx;
};

// The statement, ready to be bound. Reset it (stmt_done) when its columns have been read.
static inline sqlite3_stmt *store_stmt(struct store *st, enum stmt_id id) { return st->stmt[id]; }

// Whether a statement may change rows now: 0 or -EROFS.
int store_may_write(struct store *st) ATTR_MUST_USE;

// Runs to the next row: 1 = a row, 0 = no more, negative errno.
int stmt_row(struct store *st, sqlite3_stmt *stmt, const char *what) ATTR_MUST_USE;

// Runs a statement that changes rows to its end and resets it. A failure is fatal for the volume (store.h). *changed may be NULL.
int stmt_write(struct store *st, sqlite3_stmt *stmt, const char *what, int *changed) ATTR_MUST_USE;

static inline void stmt_done(sqlite3_stmt *stmt) { sqlite3_reset(stmt); }

#endif
