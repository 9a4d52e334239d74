// SPDX-License-Identifier: MIT
// A right checksum for a superblock that was changed: so a hostile one looks.
#ifndef HYBRIDFS_TESTS_FUZZ_SEAL_H
#define HYBRIDFS_TESTS_FUZZ_SEAL_H

#include <string.h>

#include "block/sb_format.h"
#include "util/crc32c.h"

static inline void seal(uint8_t copy[SB_SIZE])
{
	le32 crc = to_le32(0);

	memcpy(copy + offsetof(struct sb_disk, crc32c), &crc, sizeof(crc));
	crc = to_le32(crc32c(copy, SB_SIZE));
	memcpy(copy + offsetof(struct sb_disk, crc32c), &crc, sizeof(crc));
}

#endif
