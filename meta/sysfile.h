// SPDX-License-Identifier: MIT
// The two system files inside the volume, the SQLite database and its write-ahead log: each a list of extents kept in the
// superblock, read and written by byte offset, growing by extents from the allocator.
//
// Growing: blocks from the allocator (TAKEN, the reserve may be used) → new superblock on stable storage → the new extents become
// usable. A crash in between leaves the old list, and blocks that nobody names. System files never shrink.
//
// The space map does not speak of system files: the blocks of the volume are exactly
//     free per space map  +  owned by extents of files (used per space map)  +  system extents  +  superblock copies,
// and whoever loads a metaslab marks the last two as used by sysfiles_mark().
//
// Lock: internal; reads and writes run in parallel, also beside a growth. Lock order: grow lock → allocator → map lock.
//       sysfile_grow() may load a metaslab: never call it with the store's lock held.
// Errors: negative errno. Reading beyond the capacity is -EINVAL.
#ifndef HYBRIDFS_META_SYSFILE_H
#define HYBRIDFS_META_SYSFILE_H

#include <pthread.h>
#include <stdbool.h>

#include "alloc/alloc.h"
#include "block/bdev.h"
#include "block/superblock.h"

struct sysfiles {
	struct bdev *dev;           // not owned
	struct alloc *alloc;        // not owned; NULL = cannot grow (set after the volume's allocator exists)
	pthread_mutex_t grow_lock;  // one growth or label change at a time; guards superblock writes
	pthread_rwlock_t map_lock;  // guards generation, label and extents of sb
	struct superblock sb;       // the current one, as on the device
};

int sysfiles_init(struct sysfiles *files, struct bdev *dev, const struct superblock *sb) ATTR_MUST_USE;
void sysfiles_destroy(struct sysfiles *files);

uint64_t sysfile_capacity_bytes(struct sysfiles *files, enum sysfile_id id);
int sysfile_read(struct sysfiles *files, enum sysfile_id id, void *buf, size_t len, uint64_t off) ATTR_MUST_USE;
int sysfile_write(struct sysfiles *files, enum sysfile_id id, const void *buf, size_t len, uint64_t off) ATTR_MUST_USE;

// Adds at least add_blk blocks, contiguous with the last extent if possible, else few large runs. -ENOSPC; -EFBIG when the
// extent list is full. On any error the file is as before.
int sysfile_grow(struct sysfiles *files, enum sysfile_id id, uint64_t add_blk) ATTR_MUST_USE;

// How many more extents the fuller one of the files can take.
uint64_t sysfiles_extents_left(struct sysfiles *files);

// Changes the label on the device.
int sysfiles_set_label(struct sysfiles *files, const char *label) ATTR_MUST_USE;

// Calls mark() for each run of system extents and superblock copies that intersects [start, start + len), clipped to it.
int sysfiles_mark(struct sysfiles *files, uint64_t start_blk, uint64_t len_blk,
                  int (*mark)(void *ctx, uint64_t start_blk, uint64_t len_blk), void *ctx) ATTR_MUST_USE;

// Whether any of these blocks is a system file's or a superblock copy's: then no file may own it, whatever a row says.
bool sysfiles_overlap(struct sysfiles *files, uint64_t start_blk, uint64_t len_blk);

#endif
