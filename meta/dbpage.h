// SPDX-License-Identifier: MIT
// Checksums of the database's own pages. SQLite leaves DBPAGE_RESERVED bytes free at the end of each page (its header says so); there
// stand, for the page in the database file, its number and a crc32c of everything before: what was written wrongly shows, and what was
// written to a wrong place, too. In the log, pages have SQLite's own checksums and these bytes mean nothing.
// (SQLite's extension cksumvfs does the same with another checksum.)
#ifndef HYBRIDFS_META_DBPAGE_H
#define HYBRIDFS_META_DBPAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "util/blk.h"
#include "util/crc32c.h"
#include "util/endian.h"

#define DBPAGE_RESERVED 8
#define DBPAGE_USABLE (BLK_SIZE - DBPAGE_RESERVED)
#define DBPAGE_RESERVED_AT 20u // the byte of the database's header that says DBPAGE_RESERVED

struct dbpage_tail {
	le32 number; // from 1
	le32 crc;    // of all bytes before it
};

_Static_assert(sizeof(struct dbpage_tail) == DBPAGE_RESERVED, "the tail fills the reserved bytes");

static inline void dbpage_seal(uint8_t page[BLK_SIZE], uint32_t number)
{
	struct dbpage_tail tail = { .number = to_le32(number) };

	memcpy(page + DBPAGE_USABLE, &tail.number, sizeof(tail.number));
	tail.crc = to_le32(crc32c(page, BLK_SIZE - sizeof(tail.crc)));
	memcpy(page + DBPAGE_USABLE, &tail, sizeof(tail));
}

static inline bool dbpage_is_sound(const uint8_t page[BLK_SIZE], uint32_t number)
{
	struct dbpage_tail tail;

	memcpy(&tail, page + DBPAGE_USABLE, sizeof(tail));
	return from_le32(tail.number) == number && from_le32(tail.crc) == crc32c(page, BLK_SIZE - sizeof(tail.crc));
}

#endif
