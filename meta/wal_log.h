// SPDX-License-Identifier: MIT
// The write-behind log under SQLite's WAL file: what SQLite has written gathers in memory, is sealed into segments, and
// reaches the device only when a segment is written. Private to the VFS (dbvfs.c); dbvfs.h tells the rules D1 and D2.
//
//   wal_log_write           wal_log_seal              wal_log_put              wal_log_drop
//   ------------> unsealed -------------> sealed ----------------> written ----------------> gone
//                                         (still serves reads until it is dropped)
//
// W1  A byte is read from the newest place that has it: unsealed, then segments from the newest, then the device.
// W2  Within unsealed or a segment the spans are in the order of writing; of overlapping spans the later one counts.
// W3  A generation begins when SQLite writes a log header at offset 0: it does so only when all that was committed stands
//     in the database file on stable storage. Unsealed bytes of the generation before are dropped then.
// W4  While the device may hold the header of one generation, no frame of the next is sent before the next one's header
//     is on stable storage. Otherwise a crash could leave the old header with a mere beginning of the old frames behind it,
//     and recovery would put pages back that the checkpoint had long passed. (SQLite syncs after the header for this
//     reason; it does not when the device says SQLITE_IOCAP_SEQUENTIAL, as ours does: a flush inside COMMIT
//     would be under the store's lock.)
// W5  After wal_log_invalidate() there is no log: segments that are still around are never sent.
//
// Locks: dev_lock (what was sent to the device; held during I/O and a growth) → lock (memory; held for copies).
// Errors: negative errno. Units: bytes.
#ifndef HYBRIDFS_META_WAL_LOG_H
#define HYBRIDFS_META_WAL_LOG_H

#include <pthread.h>

#include "meta/sysfile.h"

#define WAL_SECTOR 512u
#define WAL_HEADER_BYTES 32u

// Bytes [start, end) of the log. Memory begins at the sector border below `start` and is a multiple of sectors, so that the
// span is written to the device from where it stands.
struct wal_span {
	uint64_t start, end;
	uint8_t *sectors;
	size_t cap_bytes;
};

struct wal_segment {
	struct wal_segment *older;
	struct wal_span *spans; // in the order of writing
	uint32_t n_spans, cap_spans;
	bool dead;              // W5
};

struct wal_log {
	struct sysfiles *files;

	pthread_mutex_t lock;
	struct wal_segment *newest; // all that are in memory
	bool gathering;             // the newest one is not sealed yet
	bool valid;                 // the log begins with a WAL magic
	bool written;               // SQLite has written to this log, so `end` is known
	uint64_t end;               // highest end of a write in this generation

	pthread_mutex_t dev_lock;
	bool dev_has_header; // the device may hold a valid header: this one
	uint8_t dev_header[WAL_HEADER_BYTES];
	uint64_t dev_end;    // the device holds nothing of this generation from here on
	uint64_t tail_off;   // the sector last sent, as it stands there; UINT64_MAX = none
	uint8_t tail[WAL_SECTOR];
};

// `fresh`: whatever the device holds is no log, and is made so.
int wal_log_init(struct wal_log *log, struct sysfiles *files, bool fresh) ATTR_MUST_USE;
void wal_log_destroy(struct wal_log *log);

bool wal_log_exists(struct wal_log *log);
uint64_t wal_log_size(struct wal_log *log); // what SQLite is told
// Where the log ends. False if nothing was written since the start: only whoever read it can know (see dbvfs.c).
bool wal_log_end(struct wal_log *log, uint64_t *end);

// Bytes beyond the device and memory are zeros, counted in *missing (from the end).
int wal_log_read(struct wal_log *log, void *buf, size_t len, uint64_t off, size_t *missing) ATTR_MUST_USE;
int wal_log_write(struct wal_log *log, const void *buf, size_t len, uint64_t off) ATTR_MUST_USE;
int wal_log_invalidate(struct wal_log *log) ATTR_MUST_USE; // durable when it returns

struct wal_segment *wal_log_seal(struct wal_log *log);
int wal_log_put(struct wal_log *log, struct wal_segment *seg) ATTR_MUST_USE;
void wal_log_drop(struct wal_log *log, struct wal_segment *seg);

#endif
