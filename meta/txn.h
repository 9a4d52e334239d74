// SPDX-License-Identifier: MIT
// Transactions: group commit. Operations join the open transaction; it is closed and made durable as a whole.
//
//   OPEN ----------> CLOSING -------------> FLUSHING ---------------> DURABLE
//   operations       no new joins; joined   outside every lock:       waiters wake,
//   join and leave   ones leave; space map, [file data flush] →       frees of it are
//   (txn_begin/end)  checksums, deferred    WAL frames written →      released (alloc);
//                    writes are written;    flush                     its deferred writes
//                    COMMIT to                                        go to their places
//                    the WAL in memory;
//                    the next one opens
//
// While one is FLUSHING the next is OPEN. Whoever wants durability first does the work for all (leader); the others wait. A
// background thread commits every commit_interval and when much is dirty, and checkpoints beside it all.
//
// T1  An operation's changes are all made between its txn_begin and txn_end, so they are in one transaction.
// T2  Transaction n is durable only after n-1. File data that n names was flushed before n's WAL frames are written, or is in them (deferred.h).
// T3  After a crash the database is exactly the state at the end of some transaction ≥ the last one reported durable.
// T4  A block freed in n is given to the allocator only when n is durable.
// T5  After a failure (device, store) nothing becomes durable any more; begin answers -EROFS, waits answer the error. After
//     volume_shut_down() the same, but begin answers -EIO.
//
// Lock order: inode lock (fs/) → a joined handle → store lock → allocator. A joined handle never waits for an inode lock, for
// free space or for another transaction: closing waits for all handles. File data is written before or inside the handle.
#ifndef HYBRIDFS_META_TXN_H
#define HYBRIDFS_META_TXN_H

#include <stdbool.h>
#include <stdint.h>

#include "util/attr.h"

struct volume;
struct txn_mgr;

enum txn_kind {
	TXN_GROW, // may need database pages: -ENOSPC when the database cannot grow without the reserve
	TXN_FREE, // deletes, truncates, attribute changes: goes on when the volume is full
};

// Joins the open transaction; *id is its number. 0, -EROFS, -ENOSPC. Every success is paired with txn_end().
int txn_begin(struct volume *vol, enum txn_kind kind, uint64_t *id) ATTR_MUST_USE;
void txn_end(struct volume *vol);

// File data was written to the device that the joined transaction names: it costs a flush of its own.
void txn_data_written(struct volume *vol);

bool txn_has_data(struct volume *vol); // whether it does already, as a hint

// Besides what any operation does, the joined transaction changes up to n more pages of the database when it closes.
void txn_add_pages(struct volume *vol, unsigned n);

// Returns when transaction `id` is durable, committing it if need be. Never with a handle joined or a lock held.
int txn_wait_durable(struct volume *vol, uint64_t id) ATTR_MUST_USE;

// Makes everything durable that was done before the call. Same rules.
int txn_commit(struct volume *vol) ATTR_MUST_USE;

uint64_t txn_open_id(struct volume *vol);    // the number that txn_begin would give now
uint64_t txn_durable_id(struct volume *vol);

struct txn_stats {
	uint64_t commits, flushes, checkpoints, wal_bytes;
};
void txn_get_stats(struct volume *vol, struct txn_stats *out);

// ---- for volume.c ----
struct freemap;
int txn_init(struct volume *vol, uint64_t last_id, unsigned commit_interval_ms) ATTR_MUST_USE; // makes vol->txn
int txn_start(struct volume *vol) ATTR_MUST_USE; // opens transaction last_id + 1, starts the thread
int txn_stop(struct volume *vol) ATTR_MUST_USE;  // ends the thread, commits, empties the WAL into the database
void txn_halt(struct volume *vol);               // ends the thread without a commit, if it still runs
void txn_destroy(struct volume *vol);            // frees vol->txn
void txn_failed(struct volume *vol, int err, const char *what); // T5; logs once; any lock may be held
int txn_wal_sync(struct volume *vol);            // dbvfs's hook
struct freemap *txn_freemap(struct volume *vol);

// Space map of the open transaction; store lock held, handle joined. Called by extmap.c.
int txn_log_run(struct volume *vol, uint64_t start_blk, uint64_t len_blk, bool used) ATTR_MUST_USE;

#endif
