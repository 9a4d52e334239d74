// SPDX-License-Identifier: MIT
// The superblock as it stands on the device. Bytes only; what they mean is in superblock.h.
//
// Integers are little-endian. For ever, in every later version of the format: the magic, the checksum and what it covers
// (all SB_SIZE bytes with the crc field taken as zero), version, generation, the feature words and the UUID keep
// their places, so that an old program can say what it does not understand.
#ifndef HYBRIDFS_BLOCK_SB_FORMAT_H
#define HYBRIDFS_BLOCK_SB_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "block/superblock.h"
#include "util/endian.h"

#define SB_MAGIC "HybridFS" // 8 bytes, no NUL
#define SB_MAGIC_LEN 8
#define SB_RESERVED_LEN 864

struct sb_extent_disk {
	le64 start_blk; // 0
	le64 len_blk;   // 8
};

struct sb_disk {
	uint8_t magic[SB_MAGIC_LEN];       // 0
	le32 crc32c;                       // 8
	le32 version;                      // 12
	le64 generation;                   // 16
	le64 compat;                       // 24
	le64 ro_compat;                    // 32
	le64 incompat;                     // 40
	uint8_t uuid[16];                  // 48
	uint8_t label[SB_LABEL_MAX + 1];   // 64: NUL-terminated
	le64 n_blks;                       // 128
	le64 created_ns;                   // 136: two's complement
	le32 blk_shift;                    // 144: 12
	le32 ms_shift;                     // 148
	le32 n_extents[SYSFILE_N];         // 152: database, write-ahead log
	uint8_t reserved[SB_RESERVED_LEN]; // 160: written as zeros, ignored when read
	struct sb_extent_disk extents[SYSFILE_N][SB_MAX_EXTENTS]; // 1024; those not in use are zeros
};

static_assert(sizeof(struct sb_extent_disk) == 16, "size of an extent");
static_assert(offsetof(struct sb_disk, magic) == 0, "magic");
static_assert(offsetof(struct sb_disk, crc32c) == 8, "crc32c");
static_assert(offsetof(struct sb_disk, version) == 12, "version");
static_assert(offsetof(struct sb_disk, generation) == 16, "generation");
static_assert(offsetof(struct sb_disk, compat) == 24, "compat");
static_assert(offsetof(struct sb_disk, ro_compat) == 32, "ro_compat");
static_assert(offsetof(struct sb_disk, incompat) == 40, "incompat");
static_assert(offsetof(struct sb_disk, uuid) == 48, "uuid");
static_assert(offsetof(struct sb_disk, label) == 64, "label");
static_assert(offsetof(struct sb_disk, n_blks) == 128, "n_blks");
static_assert(offsetof(struct sb_disk, created_ns) == 136, "created_ns");
static_assert(offsetof(struct sb_disk, blk_shift) == 144, "blk_shift");
static_assert(offsetof(struct sb_disk, ms_shift) == 148, "ms_shift");
static_assert(offsetof(struct sb_disk, n_extents) == 152, "n_extents");
static_assert(offsetof(struct sb_disk, reserved) == 160, "reserved");
static_assert(offsetof(struct sb_disk, extents) == 1024, "extents");
static_assert(sizeof(struct sb_disk) == SB_SIZE, "size of a superblock");

#endif
