// SPDX-License-Identifier: MIT
// Rows of inode in memory, between rows.c and the table: what an operation reads was mostly written by the one before it, and what
// it writes is mostly written again before the transaction closes (a directory's times with every name in it).
//
//              read                        changed
//   (table) ---------> CLEAN <=============================> DIRTY     back: written, when the transaction closes or there are too many
//                                          changed
//   (new)   ------------------------------> NEW ----> CLEAN            written as a new row; deleted before that, no statement was run
//
// IC1  A row in the cache is as the open transaction has it, and then the table may be behind; any other is as the table has it. So the table
//      is read through here, or after inode_cache_flush().
// IC2  When a transaction is committed no row is DIRTY or NEW.
// IC3  After a rollback the cache is empty.
// IC4  It has a fixed number of places, and at most a quarter of them DIRTY or NEW: so is the work of closing bounded. Nothing here runs out of
//      memory: without a place a row is not remembered, or written at once.
//
// Owner: the store. Lock: the store's. A NULL cache remembers nothing. Errors: of the statements (store.h), fatal for the volume.
#ifndef HYBRIDFS_META_INODE_CACHE_H
#define HYBRIDFS_META_INODE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "meta/rows.h"
#include "util/attr.h"

struct inode_cache;

int inode_cache_create(struct store *st, struct inode_cache **out) ATTR_MUST_USE;
void inode_cache_destroy(struct inode_cache *ic);

bool inode_cache_get(struct inode_cache *ic, uint64_t ino, struct inode_row *row);
void inode_cache_remember(struct inode_cache *ic, const struct inode_row *row); // read from the table just now

// False: the table has to be changed, now. *err: a row that had to make room could not be written.
bool inode_cache_insert(struct inode_cache *ic, const struct inode_row *row, int *err) ATTR_MUST_USE;
bool inode_cache_update(struct inode_cache *ic, const struct inode_row *row, int *err) ATTR_MUST_USE; // all but btime
bool inode_cache_delete(struct inode_cache *ic, uint64_t ino) ATTR_MUST_USE; // true: it was NEW. In any case it is forgotten

bool inode_cache_is_clean(const struct inode_cache *ic);
int inode_cache_write(struct inode_cache *ic) ATTR_MUST_USE; // everything becomes rows and stays as CLEAN
int inode_cache_flush(struct inode_cache *ic) ATTR_MUST_USE; // and is forgotten: before somebody else reads or changes the table
void inode_cache_drop(struct inode_cache *ic);               // after a rollback

#endif
