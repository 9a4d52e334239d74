// SPDX-License-Identifier: MIT
// Changing pages with their checksums. See image.h; the formats: "Database File Format" of SQLite, section "The
// Write-Ahead Log".
#include "image.h"

#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "util/blk.h"

#define SECTOR 512u
#define LOG_HEADER_BYTES 32u
#define FRAME_HEADER_BYTES 24u
#define FRAME_BYTES (FRAME_HEADER_BYTES + PAGE_BYTES)

void image_open(struct image *im, struct bdev *dev, const struct superblock *sb)
{
	*im = (struct image){ 0 };
	REQUIRE(sysfiles_init(&im->files, dev, sb) == 0);
	REQUIRE(dbpages_open(&im->files, &im->pages) == 0);
	for (uint32_t page = 1; page <= im->pages.n_pages; page++) // the last frame is the newest of its page
		im->n_frames = im->pages.frame[page] > im->n_frames ? im->pages.frame[page] : im->n_frames;
}

uint32_t image_n_pages(const struct image *im) { return im->pages.n_pages; }

uint64_t image_bytes(const struct image *im, enum image_part part)
{
	if (part == IMAGE_LOG)
		return LOG_HEADER_BYTES + im->n_frames * (uint64_t)FRAME_BYTES;
	return im->pages.n_pages * (uint64_t)PAGE_BYTES;
}

// In whole sectors: what lies beside stays as it is.
static void write_bytes(struct image *im, enum sysfile_id id, uint64_t at, const uint8_t *bytes, size_t n)
{
	uint64_t from = at / SECTOR * SECTOR, to = (at + n + SECTOR - 1) / SECTOR * SECTOR;
	uint8_t *sectors = malloc(to - from);

	REQUIRE(sectors != NULL && sysfile_read(&im->files, id, sectors, to - from, from) == 0);
	memcpy(sectors + (at - from), bytes, n);
	REQUIRE(sysfile_write(&im->files, id, sectors, to - from, from) == 0);
	free(sectors);
}

static void seal_page(struct image *im, uint32_t number)
{
	uint64_t at = (uint64_t)(number - 1) * PAGE_BYTES;
	uint8_t page[PAGE_BYTES];

	REQUIRE(sysfile_read(&im->files, SYSFILE_DB, page, sizeof(page), at) == 0);
	dbpage_seal(page, number);
	REQUIRE(sysfile_write(&im->files, SYSFILE_DB, page, sizeof(page), at) == 0);
}

static void change_db(struct image *im, uint64_t at, const uint8_t *bytes, unsigned n, bool sealed)
{
	write_bytes(im, SYSFILE_DB, at, bytes, n);
	for (uint64_t page = at / PAGE_BYTES; sealed && page <= (at + n - 1) / PAGE_BYTES; page++)
		seal_page(im, (uint32_t)page + 1);
}

static void change_log(struct image *im, uint64_t at, const uint8_t *bytes, unsigned n, bool sealed)
{
	write_bytes(im, SYSFILE_WAL, at, bytes, n);
	im->reseal_log |= sealed;
}

static void change_pages(struct image *im, uint64_t at, const uint8_t *bytes, unsigned n, bool sealed)
{
	uint32_t page = (uint32_t)(at / PAGE_BYTES) + 1, frame = im->pages.frame[page];
	uint64_t in_page = at % PAGE_BYTES, in_frame = FRAME_HEADER_BYTES + in_page;

	n = (unsigned)min_u64(n, PAGE_BYTES - in_page); // the next page stands elsewhere
	if (frame == 0)
		change_db(im, at, bytes, n, sealed);
	else
		change_log(im, LOG_HEADER_BYTES + (frame - 1) * (uint64_t)FRAME_BYTES + in_frame, bytes, n, sealed);
}

void image_change(struct image *im, enum image_part part, uint64_t at, const uint8_t *bytes, unsigned n, bool sealed)
{
	if (n == 0)
		return;
	switch (part) {
	case IMAGE_DB: change_db(im, at, bytes, n, sealed); return;
	case IMAGE_LOG: change_log(im, at, bytes, n, sealed); return;
	default: change_pages(im, at, bytes, n, sealed); return;
	}
}

void image_copy_page(struct image *im, uint32_t from, uint32_t to, bool sealed)
{
	uint8_t page[PAGE_BYTES];

	REQUIRE(dbpages_read(&im->pages, from, page) == 0);
	change_pages(im, (uint64_t)(to - 1) * PAGE_BYTES, page, PAGE_BYTES, sealed);
}

// ---- the log's checksums ----

struct chain {
	bool big_endian;
	uint32_t sum[2];
};

static uint32_t word_at(const struct chain *c, const uint8_t *b)
{
	uint32_t word;

	memcpy(&word, b, sizeof(word));
	return c->big_endian == (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) ? word : __builtin_bswap32(word);
}

static void chain_add(struct chain *c, const uint8_t *b, size_t n)
{
	for (size_t i = 0; i < n; i += 8) {
		c->sum[0] += word_at(c, b + i) + c->sum[1];
		c->sum[1] += word_at(c, b + i + 4) + c->sum[0];
	}
}

static void chain_put(const struct chain *c, uint8_t *to)
{
	for (int i = 0; i < 8; i++)
		to[i] = (uint8_t)(c->sum[i / 4] >> (24 - 8 * (i % 4)));
}

// Numbers of pages, sizes and salts stay as they are: who changed them meant it.
static void seal_log(struct image *im)
{
	size_t len = LOG_HEADER_BYTES + (size_t)im->n_frames * FRAME_BYTES, room = (len + SECTOR - 1) / SECTOR * SECTOR;
	uint8_t *log = malloc(room);
	struct chain c = { 0 };

	REQUIRE(log != NULL && sysfile_read(&im->files, SYSFILE_WAL, log, room, 0) == 0);
	c.big_endian = (log[3] & 1) != 0;
	chain_add(&c, log, 24);
	chain_put(&c, log + 24);
	for (size_t at = LOG_HEADER_BYTES; at < len; at += FRAME_BYTES) {
		chain_add(&c, log + at, 8);
		chain_add(&c, log + at + FRAME_HEADER_BYTES, PAGE_BYTES);
		chain_put(&c, log + at + 16);
	}
	REQUIRE(sysfile_write(&im->files, SYSFILE_WAL, log, room, 0) == 0);
	free(log);
}

void image_close(struct image *im)
{
	if (im->reseal_log)
		seal_log(im);
	dbpages_close(&im->pages);
	sysfiles_destroy(&im->files);
}
