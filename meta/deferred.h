// SPDX-License-Identifier: MIT
// Deferred writes: blocks whose content travels in the transaction itself, as rows of table deferred, and reaches its place on the
// device later. So a small overwrite of live blocks is atomic without moving them, and what little a transaction writes needs no flush of its own.
// (The idea is BlueStore's; so is the name.)
//
//                       close: a row            durable, copied               flushed              close: given up
//   put ----> OPEN(n) ------------------> CLOSED(n) -------------> COPIED ------------------> SETTLED ---------------> gone
//   note ---> OPEN(n), on the device ------------------------> COPIED
//
//   put in any state: OPEN(n), the row is replaced when n closes.    cancel in any state: gone, with its row.
//
// Rows have slots, which are used again and again: a row that takes the place of an equally long one costs two pages of the database and
// nothing else, where adding and deleting rows by the number of their block costs six (measured: 30 KiB of log for an fsync of 4 KiB). What
// stands in a slot that was given up is dead: config's "deferred_from" is the first transaction whose rows count.
//
// DW1  A block is written in place only when the transaction that has its row is durable.
// DW2  A row is given up (deleted, overwritten with another block, or passed by "deferred_from") by a transaction m only if the block was written
//     in place before a flush that m's log comes after, or if m frees the block. So whatever subset of writes a crash leaves, the row is there
//     as long as the block may be torn.
// DW3  Readers get the content from here until the write in place has returned.
// DW4  At most one live row for each block, and only for blocks of written extents that have checksums.
// DW5  What was put has its checksum in its row. Table csum gets it with the transaction that gives the row up, at the latest: so many overwrites
//     share the pages of that table. (What was noted has it there from the beginning: a new block has no older one.)
//
// Recovery: the live rows that a mount finds are written in place, with their checksums, flushed, and settled. Doing it again does no harm. A
// volume that is opened read-only, or by fsck, is not recovered: it looks the rows up ("passive").
//
// Who copies: the committer, between the durability of one transaction and the closing of the next. Blocks that are freed
// meanwhile become allocatable only at the next one's end, so a copy never hits a block that belongs to somebody else by then. It waits until
// a batch has gathered or the commit interval is over: each block that was copied makes the next flush longer (by 35 us on a virtual
// disk), many together cost little more than one.
//
// Lock: the store's, except where stated. Units: blocks; data is BLK_SIZE bytes each.
#ifndef HYBRIDFS_META_DEFERRED_H
#define HYBRIDFS_META_DEFERRED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"
#include "util/blk.h"

#define DEFERRED_WRITE_MAX_BLK 16u  // 64 KiB: a larger overwrite is cheaper in new blocks
#define DEFERRED_NOTE_MAX_BLK 16u   // new data of one transaction that goes without a flush of its own
#define DEFERRED_BATCH_MAX_BLK 256u // so many make the committer copy, and as many rows are given up at once; fewer on a small volume
#define DEFERRED_SLOT_MAX ((1u << 20) - 1)
#define DEFERRED_TXN_MAX_BLK 2048u  // 8 MiB: when a transaction holds as much it is closed

struct volume;
struct deferred;
struct deferred_blk; // an entry with a buffer

int deferred_create(struct volume *vol, bool passive, struct deferred **out) ATTR_MUST_USE;
void deferred_destroy(struct deferred *d); // NULL is allowed

// Recovers: see above. Nothing to do if passive. -EUCLEAN if a row is not a block of data.
int deferred_recover(struct volume *vol) ATTR_MUST_USE;

// Entries for `n` blocks, got before the store is locked, since nothing may fail inside. Unused ones are given back the same way.
int deferred_reserve(unsigned n, struct deferred_blk **list) ATTR_MUST_USE;
void deferred_unreserve(struct deferred_blk *list);
struct deferred_blk *deferred_next(struct deferred_blk *e); // in the list
void *deferred_buf(struct deferred_blk *e); // its BLK_SIZE bytes, to be filled before put or note

// The open transaction overwrites a block with the first entry's buffer: takes the entry off the list, and sets the block's checksum.
int deferred_put(struct volume *vol, struct deferred_blk **list, uint64_t phys_blk, uint32_t crc) ATTR_MUST_USE;

// The open transaction has new blocks, whose data has been written to the device already. True: fewer than DEFERRED_NOTE_MAX_BLK
// with these, so that `n` entries may be noted. False: the transaction flushes its data before its log; nothing needs to be noted.
bool deferred_may_note(struct volume *vol, unsigned n);
void deferred_note(struct volume *vol, struct deferred_blk **list, uint64_t phys_blk, uint32_t crc);

// The blocks are freed.
int deferred_cancel(struct volume *vol, uint64_t start_blk, uint64_t len_blk) ATTR_MUST_USE;

// How many of the len_blk blocks are alike, and whether the device does not have their content (*pending). < 0 only if passive.
int deferred_span(struct volume *vol, uint64_t start_blk, uint64_t len_blk, uint64_t *span_blk, bool *pending) ATTR_MUST_USE;
int deferred_read(struct volume *vol, uint64_t phys_blk, void *data) ATTR_MUST_USE; // of a pending block

// ---- for txn.c ----
unsigned deferred_open_blk(struct deferred *d);                // put or noted in the open transaction; any lock
bool deferred_is_empty(const struct deferred *d);              // no row is live
// Transaction `id` closes: rows of OPEN entries in, SETTLED ones out if they are many. To be followed by csums_write().
int deferred_close(struct deferred *d, uint64_t id) ATTR_MUST_USE;
// Instead of it, at the end: everything is SETTLED, and all rows are deleted.
int deferred_clear(struct deferred *d) ATTR_MUST_USE;

// For the committer, after a flush that has made everything durable that was closed, while nobody closes: what was COPIED is SETTLED;
// what is CLOSED is copied if it has become much. Takes the store's lock, writes without it. An error is
// the device's: then the volume has to stop.
int deferred_durable(struct deferred *d) ATTR_MUST_USE;
int deferred_copy(struct deferred *d) ATTR_MUST_USE; // all of CLOSED, now; same rules
bool deferred_wants_copy(struct deferred *d); // something is CLOSED; any lock

// The store has failed and rolled back: from now on the rows tell, as of the last commit. NULL is allowed.
void deferred_rolled_back(struct deferred *d);

#endif
