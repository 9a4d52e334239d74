// SPDX-License-Identifier: MIT
// The store: the one SQLite connection that reads and writes the volume's tables, always inside an open transaction.
//
// Lock: store_lock() guards the connection, its statements and the space-map delta. Everything in rows.h, extmap.h and
// below is called with it held. It is held for microseconds: no device I/O of file data, no waiting for a transaction, under it.
//
// Errors: every SQLite result is converted in store_error(): SQLITE_CORRUPT/NOTADB → -EUCLEAN, FULL → -ENOSPC, NOMEM → -ENOMEM,
// IOERR → the device's errno or -EIO, READONLY → -EROFS, anything else → -EIO with a log line.
// INTERRUPT → -EINTR, without one.
// A failed *write* statement is fatal for the volume (half an operation stands in the transaction): the store rolls the
// transaction back, answers every later write with -EROFS and tells its owner through on_failure (called once, lock held).
#ifndef HYBRIDFS_META_STORE_H
#define HYBRIDFS_META_STORE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "meta/dbvfs.h"
#include "util/attr.h"
#include "util/errmsg.h"

struct store;

struct store_config {
	struct dbvfs *vfs;
	bool create;          // make the schema (mkfs)
	bool read_only;       // no transaction is opened for writing; every write statement is -EROFS
	bool cache_inodes;    // remember rows of inode (inode_cache.h)
	size_t cache_bytes;   // SQLite's page cache
	void (*on_failure)(void *ctx, int err, const char *what); // may be NULL
	void *ctx;
	// A snapshot: a store of its own, read-only, whose reads are all of one commit of this store, which goes on changing. -EBUSY: it has
	// one. The log of `live` cannot start anew meanwhile, so when a checkpoint finds it longer than log_max_bytes, the snapshot is
	// revoked: its reads fail with -EINTR from then on. If it is longer by another eighth, the checkpoint waits until the snapshot is closed;
	// so whoever reads a snapshot waits for nothing that a commit of `live` could be needed for.
	struct store *live;
	uint64_t log_max_bytes;
};

int store_open(const struct store_config *cfg, struct store **out, struct errmsg *why) ATTR_MUST_USE;
void store_close(struct store *st); // rolls back what is open

bool store_is_revoked(const struct store *snapshot); // any thread; no lock
// Calls fn after each few thousand steps of SQLite, on the thread that runs them; true interrupts what is running. Store lock held.
void store_on_steps(struct store *st, bool (*fn)(void *ctx), void *ctx);

void store_lock(struct store *st);
void store_unlock(struct store *st);
void store_assert_locked(struct store *st);

// For fsck and tests: the raw connection, to be asked for before each use (what is remembered of rows is written and forgotten). Lock held.
sqlite3 *store_db(struct store *st);

// For txn.c only: rows that are remembered reach the table before the transaction is committed.
bool store_rows_are_written(struct store *st);
int store_write_rows(struct store *st) ATTR_MUST_USE;

// Transaction brackets, for txn.c only.
int store_begin(struct store *st) ATTR_MUST_USE;
int store_commit(struct store *st) ATTR_MUST_USE;
int store_rollback(struct store *st) ATTR_MUST_USE;
void store_fail(struct store *st, int err, const char *what); // what a failed write statement does
bool store_has_failed(struct store *st);
void store_shut(struct store *st); // from now on nothing can be read or written: -EIO
uint64_t store_changes(struct store *st); // rows changed since the connection was opened

// Bytes of values larger than a row usually is (attributes) that were written since the store was opened. No lock.
uint64_t store_large_bytes(struct store *st);

int64_t store_n_inodes(struct store *st); // inodes, counted as they come and go
void store_set_n_inodes(struct store *st, int64_t n); // fsck, which has counted them

// Pages of the database: in use (without its free list), as of now.
int store_page_counts(struct store *st, uint64_t *used_pages, uint64_t *total_pages) ATTR_MUST_USE;

// A second connection for checkpoints; used by one thread at a time, without the store's lock.
// 0 when everything in the log was copied to the database (the next writer starts the log anew), 1 when something is left.
int store_checkpoint(struct store *st) ATTR_MUST_USE;

// Copies everything and empties the log (nobody has a transaction open): the end of a clean unmount.
int store_truncate_wal(struct store *st) ATTR_MUST_USE;

// Checkpoints at mount, before the first transaction: how many frames the log held.
int store_recovered_frames(struct store *st);

// The first cookie that an entry of this name may have (rows.h). `key` is config's hash_key.
uint64_t dirent_hash(uint64_t key, const char *name, size_t len);

int store_error(struct store *st, int sqlite_rc, const char *what);

// config: small named values. -ENOENT.
int store_config_get(struct store *st, const char *key, int64_t *value) ATTR_MUST_USE;
int store_config_set(struct store *st, const char *key, int64_t value) ATTR_MUST_USE;

#endif
