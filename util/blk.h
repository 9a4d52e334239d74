// SPDX-License-Identifier: MIT
// The block: the unit of allocation, 4 KiB, numbered from 0 through the whole volume.
// Names ending in _blk are block numbers or counts of blocks, names ending in _bytes are bytes.
#ifndef HYBRIDFS_UTIL_BLK_H
#define HYBRIDFS_UTIL_BLK_H

#include <stdint.h>

#define BLK_SHIFT 12
#define BLK_SIZE (1u << BLK_SHIFT)

static inline uint64_t bytes_to_blk_down(uint64_t bytes) { return bytes >> BLK_SHIFT; }
static inline uint64_t bytes_to_blk_up(uint64_t bytes)
{
	return (bytes >> BLK_SHIFT) + ((bytes & (BLK_SIZE - 1)) != 0);
}
static inline uint64_t blk_to_bytes(uint64_t blk) { return blk << BLK_SHIFT; }

static inline uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

#endif
