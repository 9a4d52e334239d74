// SPDX-License-Identifier: MIT
// What the connections of one VFS share in memory: the wal-index, its lock slots, and the lock on the database file.
//
// SQLite keeps these in a mapped file and in fcntl() locks, so that processes can meet there. The device belongs to this process
// alone, so the heap and counters do. The wal-index is gone when the last connection has unmapped it; the next
// one finds none and recovers it from the log.
//
// A checkpoint and a restart of the log shut each other out here. In SQLite before 3.51.3 (the "WAL-reset bug" of its WAL page)
// a checkpoint reads the wal-index's header, and if a writer begins the log anew just then, it goes on with the numbers
// of the old log: pages of committed transactions are lost. The race is in SQLite, but both sides ask for slots first: a
// checkpoint for WAL_CKPT_LOCK, a restart for all of the readers' slots at once. While one has its slots the other is told
// SQLITE_BUSY. A writer then goes on appending; a checkpoint is simply tried again later.
//
// Lock: internal. Results are SQLite's codes, as the VFS methods pass them on.
#ifndef HYBRIDFS_META_DBVFS_SHM_H
#define HYBRIDFS_META_DBVFS_SHM_H

#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/attr.h"

struct dbvfs_conn; // what one connection holds, below

struct dbvfs_shm {
	pthread_mutex_t lock;

	// wal-index
	void **regions; // each of region_bytes
	int n_regions, region_bytes;
	unsigned n_mapped; // connections
	unsigned slot_shared[SQLITE_SHM_NLOCK];
	bool slot_exclusive[SQLITE_SHM_NLOCK];
	const struct dbvfs_conn *checkpointer; // who has WAL_CKPT_LOCK
	const struct dbvfs_conn *restarter;    // who has all readers' slots

	// the database file
	unsigned n_shared;                  // connections at SHARED or above
	const struct dbvfs_conn *reserved;  // who holds RESERVED or more, if it came that way
	const struct dbvfs_conn *pending;   // who holds PENDING or EXCLUSIVE: no new SHARED
};

struct dbvfs_conn { // zero-initialised: holds nothing. Guarded by the lock above.
	bool mapped;
	unsigned slots_shared, slots_exclusive; // bit per slot
	int file_level;                         // SQLITE_LOCK_NONE … SQLITE_LOCK_EXCLUSIVE
};

int dbvfs_shm_init(struct dbvfs_shm *shm) ATTR_MUST_USE; // 0 or negative errno
void dbvfs_shm_destroy(struct dbvfs_shm *shm);

int dbvfs_shm_map(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int region, int region_bytes, bool extend,
                  void volatile **out) ATTR_MUST_USE;
int dbvfs_shm_lock(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int first, int n, int flags) ATTR_MUST_USE;
void dbvfs_shm_barrier(struct dbvfs_shm *shm);
void dbvfs_shm_unmap(struct dbvfs_shm *shm, struct dbvfs_conn *conn);

int dbvfs_file_lock(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int level) ATTR_MUST_USE;
void dbvfs_file_unlock(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int level);
bool dbvfs_file_is_reserved(struct dbvfs_shm *shm);

// Where the committed part of the log ends according to the wal-index, 0 if it is empty or there is no wal-index.
uint64_t dbvfs_shm_log_end(struct dbvfs_shm *shm);

#endif
