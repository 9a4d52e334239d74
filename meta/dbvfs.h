// SPDX-License-Identifier: MIT
// The SQLite VFS over the system files: what SQLite believes to be "volume.db" and "volume.db-wal" are extents of the device.
//
// The write-ahead log is written behind. SQLite's writes to the WAL go to memory; after a COMMIT the transaction manager
// seals what has gathered into a segment and later, outside every lock, writes it to the device and flushes. So a COMMIT
// costs memory copies only, and the order "file data, then flush, then WAL frames, then flush" is ours to choose.
//
// D1  A WAL byte is on the device only if its segment was written by dbvfs_wal_write(). Segments are written in sealing order.
// D2  SQLite reads of the WAL see the newest bytes: unsealed, sealed, device, in this order.
// D3  The database file is written only by a checkpoint, and SQLite syncs the WAL before that (synchronous=NORMAL): the sync
//     calls hooks.wal_sync, which returns only when all that was committed is durable. So no page of a
//     transaction that is not durable ever reaches the database file.
// D4  A sync of the database file is a device flush.
// D5  Every page in the database file carries its checksum (dbpage.h), verified when SQLite reads it: SQLITE_CORRUPT. So a connection that
//     makes the database must reserve DBPAGE_RESERVED bytes (SQLITE_FCNTL_RESERVE_BYTES); a first page without them is refused.
//
// The wal-index ("shm") is heap memory shared by all connections of this process; the device is locked against other
// processes, so nobody else can need it. Any other file that SQLite might want (journals, temporary files) is refused:
// connections use temp_store=MEMORY.
//
// WAL sectors: writes to the device are whole 512-byte sectors; the sector in which one segment ends and the next begins is
// rewritten with the same first bytes (sectors are written atomically or torn at sector borders).
//
// Checkpoints: by a connection that is not the writer's, without the lock under which the writer commits: SQLite keeps a
// connection locked while it calls hooks.wal_sync. A checkpoint may answer SQLITE_BUSY when a writer was just beginning the log anew
// (dbvfs_shm.h tells why): nothing has happened, it can be tried again.
//
// Lock: internal. wal_seal must be serialised with COMMIT by the caller (the store's lock); wal_write with itself.
#ifndef HYBRIDFS_META_DBVFS_H
#define HYBRIDFS_META_DBVFS_H

#include "meta/sysfile.h"

struct dbvfs;
struct wal_segment;

struct dbvfs_hooks {
	int (*wal_sync)(void *ctx); // see D3; 0 or negative errno
	void *ctx;
};

// Registers a VFS under a name unique in the process. `fresh`: mkfs, the database is empty whatever the device holds.
// Otherwise the database file is as large as its capacity (SQLite takes the real size from its header) and a WAL with a valid
// magic is offered for recovery.
int dbvfs_create(struct sysfiles *files, const struct dbvfs_hooks *hooks, bool fresh, struct dbvfs **out) ATTR_MUST_USE;
void dbvfs_destroy(struct dbvfs *vfs); // all connections are closed; unsealed and unwritten bytes are dropped

const char *dbvfs_name(const struct dbvfs *vfs);
#define DBVFS_FILE "volume.db" // what to open through it

// Everything written to the WAL since the last seal, or NULL. The segment goes on serving reads until wal_done.
struct wal_segment *dbvfs_wal_seal(struct dbvfs *vfs);
uint64_t wal_segment_bytes(const struct wal_segment *seg);

// Writes it to the device; grows the WAL file first if it is too small. No flush. On failure the volume has to stop.
int dbvfs_wal_write(struct dbvfs *vfs, struct wal_segment *seg) ATTR_MUST_USE;
void dbvfs_wal_done(struct dbvfs *vfs, struct wal_segment *seg); // drops it: written (or given up); NULL is allowed

uint64_t dbvfs_wal_end_bytes(struct dbvfs *vfs); // where SQLite's log ends at present: after a restart it is small again

// Why the last SQLITE_IOERR came: the negative errno of the device, 0 if none. For store_error().
int dbvfs_last_errno(struct dbvfs *vfs);

#endif
