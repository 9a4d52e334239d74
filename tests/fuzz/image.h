// SPDX-License-Identifier: MIT
// The pages of a volume's database and its log, to be changed as the author of a hostile image would: with right
// checksums. Without them the first look would refuse the page, or end the log before it, and nothing behind would ever
// meet the damage.
//
// Pages count from 1. A page is either in the database file (checksum: meta/dbpage.h) or, newer, in a frame of the log
// (SQLite's checksums: a chain from the log's header on).
#ifndef HYBRIDFS_TESTS_FUZZ_IMAGE_H
#define HYBRIDFS_TESTS_FUZZ_IMAGE_H

#include "fsck/dbpages.h"

// PAGES: one after the other, each where its newest version stands.
enum image_part { IMAGE_DB, IMAGE_LOG, IMAGE_PAGES };

struct image {
	struct sysfiles files;
	struct dbpages pages;
	uint32_t n_frames; // of the log, up to its last commit
	bool reseal_log;
};

// `dev` has a valid superblock `sb`; everything else on it may be anything.
void image_open(struct image *im, struct bdev *dev, const struct superblock *sb);

// What of a part is in use.
uint64_t image_bytes(const struct image *im, enum image_part part);
uint32_t image_n_pages(const struct image *im);

// [at, at + n) of a part, inside it; n <= DBPAGE_USABLE.
void image_change(struct image *im, enum image_part part, uint64_t at, const uint8_t *bytes, unsigned n, bool sealed);
// One page's content over another's.
void image_copy_page(struct image *im, uint32_t from, uint32_t to, bool sealed);

// Brings the log's checksums in order if something in it was changed `sealed`; frees.
void image_close(struct image *im);

#endif
