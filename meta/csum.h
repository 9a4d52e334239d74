// SPDX-License-Identifier: MIT
// Checksums of file data: the crc32c of every block, by its place on the volume (table csum).
//
// A row holds the checksums of a chunk of CSUM_CHUNK_BLK blocks. What a transaction changes gathers in memory and is written when it
// closes, so that files that lie together cost one row together.
//
// CS1  A block of a written extent has its checksum since the transaction that has written the block, unless its file is
//     INODE_NODATACOW: these have none. As long as its write is deferred it is the one in that row (DW5 in deferred.h), which counts for more.
// CS2  What a row says of other blocks means nothing. The row of a chunk goes when the whole chunk is freed at once.
//
// Lock: the store's; for changes a transaction handle is joined, too. Units: blocks.
#ifndef HYBRIDFS_META_CSUM_H
#define HYBRIDFS_META_CSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"
#include "util/blk.h"
#include "util/crc32c.h"

#define CSUM_CHUNK_BLK 64u
#define CSUM_ROW_BYTES (CSUM_CHUNK_BLK * 4)

struct volume;
struct csums;

static inline uint32_t csum_block(const void *data) { return crc32c(data, BLK_SIZE); }

int csums_create(struct volume *vol, struct csums **out) ATTR_MUST_USE;
void csums_destroy(struct csums *cs); // NULL is allowed

// -EROFS once the store has failed: what was rolled back must not come back to readers.
int csum_set(struct volume *vol, uint64_t start_blk, uint64_t len_blk, const uint32_t *crc) ATTR_MUST_USE;

// The same for a block whose write is deferred: the table gets it only with others of the chunk, or when csum_settle() asks for it.
int csum_set_late(struct volume *vol, uint64_t blk, uint32_t crc) ATTR_MUST_USE;
void csum_settle(struct volume *vol, uint64_t blk); // nothing to do if there is nothing late

// As the open transaction has it. -ENODATA: there is none for one of the blocks, which for a block under CS1 is damage.
int csum_get(struct volume *vol, uint64_t start_blk, uint64_t len_blk, uint32_t *crc) ATTR_MUST_USE;

// The blocks are freed: rows of whole chunks go.
int csum_forget(struct volume *vol, uint64_t start_blk, uint64_t len_blk) ATTR_MUST_USE;

// ---- for txn.c ----
bool csums_is_clean(const struct csums *cs); // but for what is late
int csums_write(struct csums *cs) ATTR_MUST_USE; // the transaction closes: everything becomes rows but what is late
void csums_rolled_back(struct csums *cs);        // the store has failed: back to the last commit; NULL is allowed

#endif
