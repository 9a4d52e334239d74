// SPDX-License-Identifier: MIT
// The pages of the database as they stand on the device, without SQLite: the database file with the committed part of its log laid over it
// (https://www.sqlite.org/fileformat2.html, section 4). Nothing is written.
//
// Errors: negative errno. What is damaged is not an error here: a page is bytes.
#ifndef HYBRIDFS_FSCK_DBPAGES_H
#define HYBRIDFS_FSCK_DBPAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "meta/dbpage.h"
#include "meta/sysfile.h"
#include "util/blk.h"

#define PAGE_BYTES BLK_SIZE
#define PAGE_USABLE DBPAGE_USABLE // of these; behind them stands the checksum

struct dbpages {
	struct sysfiles *files; // not owned
	uint32_t n_pages;       // numbered from 1
	uint32_t *frame;        // by page: 1 + the number of its newest committed frame in the log; 0 = the database file has it
	bool header_ok;         // page 1 begins as it should; otherwise n_pages is what the file could hold
};

int dbpages_open(struct sysfiles *files, struct dbpages *out) ATTR_MUST_USE;
void dbpages_close(struct dbpages *p);
int dbpages_read(const struct dbpages *p, uint32_t page, uint8_t buf[PAGE_BYTES]) ATTR_MUST_USE; // -EINVAL: no such page

// Whether a page that was read fits its checksum. One from the log does: frames have checksums, too.
static inline bool dbpages_is_sound(const struct dbpages *p, uint32_t page, const uint8_t buf[PAGE_BYTES])
{
	return p->frame[page] != 0 || dbpage_is_sound(buf, page);
}

static inline uint32_t be16_at(const uint8_t *b) { return (uint32_t)b[0] << 8 | b[1]; }
static inline uint32_t be32_at(const uint8_t *b) { return be16_at(b) << 16 | be16_at(b + 2); }

#endif
