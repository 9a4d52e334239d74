// SPDX-License-Identifier: MIT
// Fuzz target: the bytes say how the superblocks of a device are changed; then they are read.
//
// The input: the device's size (1, in steps of 64 KiB from 7.5 MiB), then changes: which copies (1: bits 0 to 2 the
// copies, 3 without a right checksum, 4 a copy of the first one over the others, 5 a whole new one by sb_encode()),
// where (2), how many bytes (1), these.
//
// Held against a reader of a few lines: which copy wins. What was accepted satisfies S1 and S2, is the same after
// encoding and decoding, and a new generation can be written over it, into the three places of the copies and nowhere
// else.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/testdev.h"
#include "bytes.h"
#include "fuzz.h"
#include "seal.h"
#include "util/blk.h"
#include "util/log.h"

#define VOLUME_BLK 2048u // 8 MiB
#define CHANGES_MAX 16u

// ---- the device ----

static void plain(struct superblock *sb)
{
	memset(sb, 0, sizeof(*sb));
	sb->generation = 7;
	sb->version = SB_FORMAT_VERSION;
	memcpy(sb->uuid, "fuzz superblock", 16);
	strcpy(sb->label, "label");
	sb->n_blks = VOLUME_BLK;
	sb->ms_shift = SB_MS_SHIFT_MIN;
	sb->sysfile[SYSFILE_DB].n_extents = 2;
	sb->sysfile[SYSFILE_DB].extents[0] = (struct run){ SB_BLKS, 252 };
	sb->sysfile[SYSFILE_DB].extents[1] = (struct run){ 600, 8 };
	sb->sysfile[SYSFILE_WAL].n_extents = 1;
	sb->sysfile[SYSFILE_WAL].extents[0] = (struct run){ 260, 256 };
}

static void change(uint8_t copies[SB_COPIES][SB_SIZE], struct bytes *in)
{
	unsigned which = (unsigned)bytes_take(in, 1);
	size_t at = bytes_take(in, 2) % (SB_SIZE - 32), n = bytes_take(in, 1) % 32;
	struct superblock *sb = malloc(sizeof(*sb));
	uint8_t text[32];

	REQUIRE(sb != NULL);
	for (size_t i = 0; i < n; i++)
		text[i] = (uint8_t)bytes_take(in, 1);
	for (int i = 0; i < SB_COPIES; i++) {
		if ((which >> i & 1) == 0)
			continue;
		if ((which & 16) != 0)
			memcpy(copies[i], copies[0], SB_SIZE);
		memcpy(copies[i] + at, text, n);
		if ((which & 32) != 0 && sb_decode(copies[i], sb, NULL) == 0) {
			sb->generation += n;
			sb_encode(sb, copies[i]);
		}
		if ((which & 8) == 0)
			seal(copies[i]);
	}
	free(sb);
}

static struct bdev *make_device(struct bytes *in)
{
	uint8_t (*copies)[SB_SIZE] = calloc(SB_COPIES, SB_SIZE);
	struct superblock *sb = malloc(sizeof(*sb));
	uint64_t size = (7680u << 10) + bytes_take(in, 1) * 65536;
	uint64_t places[SB_COPIES] = { SB_OFF_FIRST, SB_OFF_SECOND, blk_to_bytes(VOLUME_BLK) - SB_SIZE };
	struct bdev *dev;

	REQUIRE(copies != NULL && sb != NULL && testdev_create(size, &dev) == 0);
	plain(sb);
	for (int i = 0; i < SB_COPIES; i++)
		sb_encode(sb, copies[i]);
	for (unsigned i = 0; i < CHANGES_MAX && bytes_left(in); i++)
		change(copies, in);
	for (int i = 0; i < SB_COPIES; i++)
		if (places[i] + SB_SIZE <= size)
			REQUIRE(bdev_write(dev, copies[i], SB_SIZE, places[i]) == 0);
	free(sb);
	free(copies);
	return dev;
}

// ---- the naive reader ----

// The copy at a place, if it may be believed. 0, or what sb_decode() says.
static int copy_at(struct bdev *dev, uint64_t off, struct superblock *sb)
{
	uint8_t *buf = malloc(SB_SIZE);
	int rc = -EINVAL;

	REQUIRE(buf != NULL);
	if (off <= dev->size_bytes - SB_SIZE) {
		REQUIRE(bdev_read(dev, buf, SB_SIZE, off) == 0);
		rc = sb_decode(buf, sb, NULL);
	}
	free(buf);
	return rc;
}

// The highest generation in front, 0 if there is none.
static uint64_t newest_in_front(struct bdev *dev)
{
	struct superblock *sb = malloc(sizeof(*sb));
	uint64_t newest = 0;

	REQUIRE(sb != NULL);
	if (copy_at(dev, SB_OFF_FIRST, sb) == 0)
		newest = sb->generation;
	if (copy_at(dev, SB_OFF_SECOND, sb) == 0 && sb->generation > newest)
		newest = sb->generation;
	free(sb);
	return newest;
}

// S1 and S2 with a byte for each block.
static void check_places(struct bdev *dev, const struct superblock *sb)
{
	uint8_t *used = calloc(sb->n_blks, 1);
	struct run runs[SB_COPIES + SYSFILE_N * SB_MAX_EXTENTS];
	unsigned n = SB_COPIES;

	REQUIRE(used != NULL && blk_to_bytes(sb->n_blks) <= dev->size_bytes); // S2
	sb_fixed_runs(sb->n_blks, runs);
	for (int id = 0; id < SYSFILE_N; id++)
		for (uint32_t i = 0; i < sb->sysfile[id].n_extents; i++)
			runs[n++] = sb->sysfile[id].extents[i];
	for (unsigned i = 0; i < n; i++) {
		REQUIRE(runs[i].len_blk > 0 && runs[i].len_blk <= sb->n_blks && runs[i].start_blk <= sb->n_blks - runs[i].len_blk);
		for (uint64_t blk = runs[i].start_blk; blk < runs[i].start_blk + runs[i].len_blk; blk++)
			REQUIRE(used[blk]++ == 0); // S1
	}
	REQUIRE(sb_n_metaslabs(sb) <= SB_MAX_METASLABS && memchr(sb->label, '\0', sizeof(sb->label)) != NULL);
	free(used);
}

static void check_round_trip(const struct superblock *sb)
{
	struct superblock *again = malloc(sizeof(*again));
	uint8_t *once = malloc(SB_SIZE), *twice = malloc(SB_SIZE);

	REQUIRE(again != NULL && once != NULL && twice != NULL);
	sb_encode(sb, once);
	REQUIRE(sb_decode(once, again, NULL) == 0);
	sb_encode(again, twice);
	REQUIRE(memcmp(once, twice, SB_SIZE) == 0 && again->generation == sb->generation && again->n_blks == sb->n_blks);
	free(again);
	free(once);
	free(twice);
}

static void check_write(struct bdev *dev, const struct superblock *sb)
{
	struct superblock *next = malloc(sizeof(*next)), *got = malloc(sizeof(*got));
	struct run fixed[SB_COPIES];
	struct errmsg why = { "" };
	int err;

	REQUIRE(next != NULL && got != NULL);
	*next = *sb;
	strcpy(next->label, "new");
	testdev_record(dev, true);
	err = sb_write(dev, next);
	REQUIRE(err == (sb->generation < INT64_MAX ? 0 : -EOVERFLOW));
	if (err == 0) {
		sb_fixed_runs(sb->n_blks, fixed);
		for (size_t i = 0; i < testdev_log_len(dev); i++) {
			const struct testdev_entry *e = testdev_log_at(dev, i);
			bool place = false;

			for (int k = 0; k < SB_COPIES; k++)
				place = place || e->off_bytes == blk_to_bytes(fixed[k].start_blk);
			REQUIRE(e->op == TESTDEV_FLUSH || (e->op == TESTDEV_WRITE && place && e->len_bytes == SB_SIZE));
		}
		REQUIRE(sb_read(dev, got, NULL, &why) == 0);
		REQUIRE(got->generation == sb->generation + 1 && strcmp(got->label, "new") == 0);
	}
	free(next);
	free(got);
}

static void check_accepted(struct bdev *dev, const struct superblock *sb)
{
	REQUIRE(sb->generation >= newest_in_front(dev));
	check_places(dev, sb);
	check_round_trip(sb);
	check_write(dev, sb);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct superblock *sb = malloc(sizeof(*sb));
	struct bytes in = { data, size, 0 };
	struct errmsg why = { "" };
	struct bdev *dev = make_device(&in);
	struct sb_scan scan;
	int err;

	msg_open("fuzz", MSG_TO_NOWHERE, MSG_ERROR);
	REQUIRE(sb != NULL);
	err = sb_read(dev, sb, &scan, &why);
	REQUIRE(err == 0 || err == -EINVAL || err == -EUCLEAN || err == -ENOTSUP);
	REQUIRE((err == 0) == (why.text[0] == '\0'));
	if (err == -EINVAL)
		REQUIRE(newest_in_front(dev) == 0);
	if (err == 0)
		check_accepted(dev, sb);
	bdev_close(dev);
	free(sb);
	return 0;
}
