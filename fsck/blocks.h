// SPDX-License-Identifier: MIT
// Content and checksums of blocks, as the volume has them: a row of table deferred counts for more than the device.
//
// The store is locked, or nobody else uses it. Units: blocks. Errors: negative errno if fsck cannot go on.
#ifndef HYBRIDFS_FSCK_BLOCKS_H
#define HYBRIDFS_FSCK_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "util/attr.h"
#include "util/blk.h"

#define BLOCKS_MAX 256u // in one call: 1 MiB

struct fsck;

struct blocks {
	uint8_t *data;                       // BLOCKS_MAX blocks
	uint32_t crc[BLOCKS_MAX];
	uint64_t unreadable[BLOCKS_MAX / 64]; // bits: the device has given an error; zeros are in their place
	uint64_t no_crc[BLOCKS_MAX / 64];     // bits: there is no row for the block
};

int blocks_init(struct blocks *b) ATTR_MUST_USE;
void blocks_free(struct blocks *b);
static inline void *blocks_at(struct blocks *b, uint64_t i) { return b->data + blk_to_bytes(i); }
static inline bool blocks_bit(const uint64_t *bits, uint64_t i) { return (bits[i / 64] >> (i % 64) & 1) != 0; }

int blocks_read(struct fsck *f, struct blocks *b, uint64_t start_blk, uint64_t len_blk) ATTR_MUST_USE;     // data, unreadable
int blocks_get_crc(struct fsck *f, struct blocks *b, uint64_t start_blk, uint64_t len_blk) ATTR_MUST_USE;  // crc, no_crc
int blocks_set_crc(struct fsck *f, const struct blocks *b, uint64_t start_blk, uint64_t len_blk) ATTR_MUST_USE; // crc

#endif
