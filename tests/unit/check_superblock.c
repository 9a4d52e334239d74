// SPDX-License-Identifier: MIT
// The superblock: what is written comes back, whatever a crash leaves of it; what is damaged is refused and named.
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/sb_format.h"
#include "block/superblock.h"
#include "block/testdev.h"
#include "run_suite.h"
#include "util/blk.h"
#include "util/crc32c.h"
#include "util/log.h"

#define VOLUME_BYTES (64ull << 20)
#define VOLUME_BLKS (VOLUME_BYTES / BLK_SIZE)
#define OFF_LAST(volume_bytes) ((volume_bytes) - SB_SIZE)

// Each test is a process of its own.
static struct bdev *new_dev(uint64_t size_bytes)
{
	struct bdev *dev;

	msg_open("check_superblock", MSG_TO_NOWHERE, MSG_ERROR);
	ck_assert_int_eq(testdev_create(size_bytes, &dev), 0);
	return dev;
}

static struct superblock *new_sb(uint64_t volume_bytes)
{
	struct superblock *sb = calloc(1, sizeof(*sb));

	ck_assert_int_eq(sb_geometry(volume_bytes, sb, NULL), 0);
	sb->version = SB_FORMAT_VERSION;
	memcpy(sb->uuid, "0123456789abcdef", sizeof(sb->uuid));
	strcpy(sb->label, "a label");
	sb->created_ns = -5; // before the epoch
	sb->sysfile[SYSFILE_DB].n_extents = 2;
	sb->sysfile[SYSFILE_DB].extents[0] = (struct run){ 1000, 100 };
	sb->sysfile[SYSFILE_DB].extents[1] = (struct run){ 500, 200 };
	sb->sysfile[SYSFILE_WAL].n_extents = 1;
	sb->sysfile[SYSFILE_WAL].extents[0] = (struct run){ 700, 300 }; // between the two, touching both
	return sb;
}

static struct bdev *formatted_dev(uint64_t device_bytes, struct superblock *sb)
{
	struct bdev *dev = new_dev(device_bytes);

	ck_assert_int_eq(sb_write(dev, sb), 0);
	return dev;
}

static void scribble(struct bdev *dev, uint64_t off_bytes, size_t len_bytes, int byte)
{
	uint8_t *buf = malloc(len_bytes);

	memset(buf, byte, len_bytes);
	ck_assert_int_eq(bdev_write(dev, buf, len_bytes, off_bytes), 0);
	free(buf);
}

static void expect_contains(const struct errmsg *why, const char *part)
{
	ck_assert_msg(strstr(why->text, part) != NULL, "\"%s\" does not say \"%s\"", why->text, part);
}

// ---- one copy ----

START_TEST(encode_and_decode_round_trip)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	uint8_t buf[SB_SIZE];

	sb->generation = 77;
	sb->compat = 1ull << 63; // unknown ones of these two kinds are the caller's affair
	sb->ro_compat = 5;
	sb_encode(sb, buf);
	ck_assert_int_eq(sb_decode(buf, &back, NULL), 0);
	ck_assert_mem_eq(&back, sb, sizeof(back));
	free(sb);
}
END_TEST

START_TEST(bytes_stand_where_the_format_says)
{
	struct superblock *sb = new_sb(VOLUME_BYTES);
	uint8_t buf[SB_SIZE];

	sb->generation = 0x0102030405060708ull;
	sb_encode(sb, buf);
	ck_assert_mem_eq(buf, "HybridFS", 8);
	ck_assert_mem_eq(buf + 12, "\x03\0\0\0", 4);
	ck_assert_mem_eq(buf + 16, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
	ck_assert_mem_eq(buf + 48, "0123456789abcdef", 16);
	ck_assert_str_eq((char *)buf + 64, "a label");
	ck_assert_mem_eq(buf + 128, "\0\x40\0\0\0\0\0\0", 8); // 16384 blocks
	ck_assert_mem_eq(buf + 136, "\xfb\xff\xff\xff\xff\xff\xff\xff", 8);
	ck_assert_mem_eq(buf + 144, "\x0c\0\0\0\x0c\0\0\0\x02\0\0\0\x01\0\0\0", 16);
	ck_assert_mem_eq(buf + 1024, "\xe8\x03\0\0\0\0\0\0\x64\0\0\0\0\0\0\0", 16);
	ck_assert_mem_eq(buf + 1024 + 16 * SB_MAX_EXTENTS, "\xbc\x02\0\0\0\0\0\0\x2c\x01", 10);
	free(sb);
}
END_TEST

START_TEST(every_flipped_bit_is_noticed)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	uint8_t buf[SB_SIZE];

	sb_encode(sb, buf);
	for (size_t i = 0; i < SB_SIZE; i += i < 200 ? 1 : 61) {
		buf[i] ^= (uint8_t)(1 << i % 8);
		ck_assert_int_eq(sb_decode(buf, &back, NULL), i < SB_MAGIC_LEN ? -EINVAL : -EUCLEAN);
		buf[i] ^= (uint8_t)(1 << i % 8);
	}
	ck_assert_int_eq(sb_decode(buf, &back, NULL), 0);
	free(sb);
}
END_TEST

// Lies with a right checksum. Each changes a good superblock on the device.
static void sign(struct sb_disk *d)
{
	d->crc32c = to_le32(0);
	d->crc32c = to_le32(crc32c(d, sizeof(*d)));
}

static void set_extent(struct sb_disk *d, int file, int i, uint64_t start_blk, uint64_t len_blk)
{
	d->extents[file][i].start_blk = to_le64(start_blk);
	d->extents[file][i].len_blk = to_le64(len_blk);
}

static void lie_version_0(struct sb_disk *d) { d->version = to_le32(0); }
static void lie_version_old(struct sb_disk *d) { d->version = to_le32(SB_FORMAT_VERSION - 1); }
static void lie_version_new(struct sb_disk *d) { d->version = to_le32(SB_FORMAT_VERSION + 1); }
static void lie_incompat(struct sb_disk *d) { d->incompat = to_le64(1ull << 40); }
static void lie_generation(struct sb_disk *d) { d->generation = to_le64(UINT64_MAX); }
static void lie_label(struct sb_disk *d) { memset(d->label, 'x', sizeof(d->label)); }
static void lie_blk_shift(struct sb_disk *d) { d->blk_shift = to_le32(13); }
static void lie_ms_shift_low(struct sb_disk *d) { d->ms_shift = to_le32(SB_MS_SHIFT_MIN - 1); }
static void lie_ms_shift_high(struct sb_disk *d) { d->ms_shift = to_le32(SB_MS_SHIFT_MAX + 1); }
static void lie_ms_shift_64(struct sb_disk *d) { d->ms_shift = to_le32(64); }
static void lie_no_blks(struct sb_disk *d) { d->n_blks = to_le64(0); }
static void lie_few_blks(struct sb_disk *d) { d->n_blks = to_le64(SB_MIN_VOLUME_BYTES / BLK_SIZE - 1); }
static void lie_many_blks(struct sb_disk *d) { d->n_blks = to_le64(UINT64_MAX); }
static void lie_many_metaslabs(struct sb_disk *d)
{
	d->n_blks = to_le64(((uint64_t)SB_MAX_METASLABS << SB_MS_SHIFT_MIN) + 1);
}
static void lie_n_extents(struct sb_disk *d) { d->n_extents[SYSFILE_DB] = to_le32(SB_MAX_EXTENTS + 1); }
static void lie_n_extents_max(struct sb_disk *d) { d->n_extents[SYSFILE_WAL] = to_le32(UINT32_MAX); }
static void lie_empty(struct sb_disk *d) { set_extent(d, SYSFILE_DB, 0, 2000, 0); }
static void lie_past_end(struct sb_disk *d) { set_extent(d, SYSFILE_DB, 0, VOLUME_BLKS + 10, 5); }
static void lie_across_end(struct sb_disk *d) { set_extent(d, SYSFILE_DB, 0, VOLUME_BLKS - 10, 50); }
static void lie_overflow(struct sb_disk *d) { set_extent(d, SYSFILE_DB, 0, 2000, UINT64_MAX - 1000); }
static void lie_overflow_start(struct sb_disk *d) { set_extent(d, SYSFILE_DB, 0, UINT64_MAX - 1, 4); }
static void lie_on_first(struct sb_disk *d) { set_extent(d, SYSFILE_WAL, 0, 3, 10); }
static void lie_on_second(struct sb_disk *d) { set_extent(d, SYSFILE_WAL, 0, 250, 7); }
static void lie_on_last(struct sb_disk *d) { set_extent(d, SYSFILE_WAL, 0, VOLUME_BLKS - 10, 7); }
static void lie_overlap_same(struct sb_disk *d) { set_extent(d, SYSFILE_DB, 1, 1050, 10); }
static void lie_overlap_other(struct sb_disk *d) { set_extent(d, SYSFILE_WAL, 0, 700, 301); }
static void lie_twice(struct sb_disk *d) { set_extent(d, SYSFILE_DB, 1, 1000, 100); }

static const struct {
	void (*tell)(struct sb_disk *d);
	int rc;
	const char *says;
} lies[] = {
	{ lie_version_0, -EUCLEAN, "version 0" },
	{ lie_version_old, -ENOTSUP, "format version 2, of a time before" },
	{ lie_version_new, -ENOTSUP, "format version 4" },
	{ lie_incompat, -ENOTSUP, "features" },
	{ lie_generation, -EUCLEAN, "generation" },
	{ lie_label, -EUCLEAN, "label" },
	{ lie_blk_shift, -EUCLEAN, "2^13 bytes" },
	{ lie_ms_shift_low, -EUCLEAN, "2^11 blocks" },
	{ lie_ms_shift_high, -EUCLEAN, "2^27 blocks" },
	{ lie_ms_shift_64, -EUCLEAN, "2^64 blocks" },
	{ lie_no_blks, -EUCLEAN, "0 blocks" },
	{ lie_few_blks, -EUCLEAN, "2047 blocks" },
	{ lie_many_blks, -EUCLEAN, "18446744073709551615 blocks" },
	{ lie_many_metaslabs, -EUCLEAN, "16777217 blocks" },
	{ lie_n_extents, -EUCLEAN, "481 extents" },
	{ lie_n_extents_max, -EUCLEAN, "4294967295 extents" },
	{ lie_empty, -EUCLEAN, "block 2000, 0 blocks" },
	{ lie_past_end, -EUCLEAN, "block 16394" },
	{ lie_across_end, -EUCLEAN, "block 16374, 50" },
	{ lie_overflow, -EUCLEAN, "block 2000" },
	{ lie_overflow_start, -EUCLEAN, "block 18446744073709551614" },
	{ lie_on_first, -EUCLEAN, "overlaps" },
	{ lie_on_second, -EUCLEAN, "block 250" },
	{ lie_on_last, -EUCLEAN, "block 16374" },
	{ lie_overlap_same, -EUCLEAN, "overlaps" },
	{ lie_overlap_other, -EUCLEAN, "block 700, 301" },
	{ lie_twice, -EUCLEAN, "overlaps" },
};

START_TEST(signed_lies_are_refused)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	struct sb_disk disk;
	struct errmsg why;

	sb_encode(sb, &disk);
	lies[_i].tell(&disk);
	sign(&disk);
	ck_assert_int_eq(sb_decode(&disk, &back, &why), lies[_i].rc);
	expect_contains(&why, lies[_i].says);
	free(sb);
}
END_TEST

START_TEST(all_extents_fit)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	uint8_t buf[SB_SIZE];

	for (int f = 0; f < SYSFILE_N; f++) {
		sb->sysfile[f].n_extents = SB_MAX_EXTENTS;
		for (uint32_t i = 0; i < SB_MAX_EXTENTS; i++)
			sb->sysfile[f].extents[i] = (struct run){ 5000 - 4 * i + 2 * (uint32_t)f, 2 };
	}
	sb_encode(sb, buf);
	ck_assert_int_eq(sb_decode(buf, &back, NULL), 0);
	ck_assert_mem_eq(&back, sb, sizeof(back));
	sb->sysfile[SYSFILE_DB].n_extents = sb->sysfile[SYSFILE_WAL].n_extents = 0; // and so do none
	sb_encode(sb, buf);
	ck_assert_int_eq(sb_decode(buf, &back, NULL), 0);
	free(sb);
}
END_TEST

// ---- geometry ----

START_TEST(geometry_bounds)
{
	struct superblock sb = { 0 };
	struct errmsg why;

	ck_assert_int_eq(sb_geometry(SB_MIN_VOLUME_BYTES - 1, &sb, &why), -EINVAL);
	expect_contains(&why, "8 MiB");
	ck_assert_int_eq(sb_geometry(UINT64_MAX, &sb, NULL), -EINVAL);
	for (uint64_t bytes = SB_MIN_VOLUME_BYTES; bytes <= 1ull << 50; bytes += bytes / 5 + 1) {
		uint32_t n;

		ck_assert_int_eq(sb_geometry(bytes, &sb, NULL), 0);
		n = sb_n_metaslabs(&sb);
		ck_assert_uint_eq(sb.n_blks, bytes / BLK_SIZE);
		ck_assert_uint_ge(sb.ms_shift, SB_MS_SHIFT_MIN);
		ck_assert_uint_le(sb.ms_shift, SB_MS_SHIFT_MAX);
		ck_assert_uint_ge(n, 1);
		ck_assert_uint_le(n, SB_MAX_METASLABS);
		if (bytes > 4ull << 30 && bytes < 4ull << 40) { // "about 200" where nothing limits it
			ck_assert_uint_ge(n, 140);
			ck_assert_uint_le(n, 281);
		}
		if (bytes <= 64ull << 40)
			ck_assert_uint_le(sb.ms_shift, 22); // 16 GiB
	}
	ck_assert_int_eq(sb_geometry(1ull << 50, &sb, NULL), 0);
	ck_assert_uint_eq(sb_n_metaslabs(&sb), SB_MAX_METASLABS);
	ck_assert_int_eq(sb_geometry((1ull << 50) + BLK_SIZE, &sb, NULL), -EINVAL);
}
END_TEST

START_TEST(fixed_runs_cover_the_copies)
{
	struct run runs[SB_COPIES];

	sb_fixed_runs(VOLUME_BLKS, runs);
	ck_assert_uint_eq(runs[0].start_blk, 0);
	ck_assert_uint_eq(runs[1].start_blk, 256);
	ck_assert_uint_eq(runs[2].start_blk, VOLUME_BLKS - 4);
	for (int i = 0; i < SB_COPIES; i++)
		ck_assert_uint_eq(runs[i].len_blk, 4);
}
END_TEST

// ---- reading and writing ----

START_TEST(written_comes_back)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	struct bdev *dev = formatted_dev(VOLUME_BYTES, sb);
	struct sb_scan scan;

	ck_assert_uint_eq(sb->generation, 1);
	ck_assert_int_eq(sb_write(dev, sb), 0);
	ck_assert_uint_eq(sb->generation, 2);
	ck_assert_int_eq(sb_read(dev, &back, &scan, NULL), 0);
	ck_assert_mem_eq(&back, sb, sizeof(back));
	for (int i = 0; i < SB_COPIES; i++) {
		ck_assert_int_eq(scan.state[i], SB_COPY_VALID);
		ck_assert_uint_eq(scan.generation[i], 2);
		ck_assert(!scan.no_magic[i]);
	}
	ck_assert_int_eq(sb_read(dev, &back, NULL, NULL), 0);
	bdev_close(dev);
	free(sb);
}
END_TEST

static const uint64_t copy_offs[SB_COPIES] = { SB_OFF_FIRST, SB_OFF_SECOND, OFF_LAST(VOLUME_BYTES) };

START_TEST(one_copy_is_enough)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	struct bdev *dev = formatted_dev(VOLUME_BYTES, sb);
	struct sb_scan scan;

	for (int i = 0; i < SB_COPIES; i++)
		if (i != _i)
			scribble(dev, copy_offs[i] + (i == 0 ? 0 : 8192), 512, 0x55);
	ck_assert_int_eq(sb_read(dev, &back, &scan, NULL), 0);
	ck_assert_mem_eq(&back, sb, sizeof(back));
	for (int i = 0; i < SB_COPIES; i++) {
		ck_assert_int_eq(scan.state[i], i == _i ? SB_COPY_VALID : SB_COPY_BAD);
		ck_assert_int_eq(scan.no_magic[i], i == 0 && i != _i);
	}
	ck_assert_int_eq(sb_write(dev, &back), 0); // writing heals
	ck_assert_int_eq(sb_read(dev, &back, &scan, NULL), 0);
	for (int i = 0; i < SB_COPIES; i++)
		ck_assert_int_eq(scan.state[i], SB_COPY_VALID);
	bdev_close(dev);
	free(sb);
}
END_TEST

START_TEST(newest_wins_wherever_it_is)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	struct bdev *dev = formatted_dev(VOLUME_BYTES, sb);
	struct sb_scan scan;
	uint8_t buf[SB_SIZE];

	sb->generation = 9;
	sb_encode(sb, buf);
	ck_assert_int_eq(bdev_write(dev, buf, SB_SIZE, copy_offs[_i]), 0);
	ck_assert_int_eq(sb_read(dev, &back, &scan, NULL), 0);
	ck_assert_uint_eq(back.generation, 9);
	for (int i = 0; i < SB_COPIES; i++) {
		ck_assert_int_eq(scan.state[i], i == _i ? SB_COPY_VALID : SB_COPY_STALE);
		ck_assert_uint_eq(scan.generation[i], i == _i ? 9 : 1);
	}
	bdev_close(dev);
	free(sb);
}
END_TEST

START_TEST(foreign_content_is_not_hybridfs)
{
	struct superblock back;
	struct errmsg why;
	struct sb_scan scan;
	struct bdev *dev = new_dev(VOLUME_BYTES);

	ck_assert_int_eq(sb_read(dev, &back, &scan, &why), -EINVAL);
	expect_contains(&why, "no HybridFS");
	expect_contains(&why, dev->name);
	expect_contains(&why, "mkfs.hybridfs");
	ck_assert(scan.no_magic[0] && scan.no_magic[1] && scan.no_magic[2]);
	bdev_close(dev);
	for (uint64_t bytes = 0; bytes <= 32768; bytes += 4096) { // too small for a single copy, or for the second
		dev = new_dev(bytes);
		ck_assert_int_eq(sb_read(dev, &back, &scan, &why), -EINVAL);
		bdev_close(dev);
	}
}
END_TEST

START_TEST(all_copies_damaged)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	struct bdev *dev = formatted_dev(VOLUME_BYTES, sb);
	struct errmsg why;
	struct sb_scan scan;

	for (int i = 0; i < SB_COPIES; i++)
		scribble(dev, copy_offs[i] + 4096, 512, 0x55);
	ck_assert_int_eq(sb_read(dev, &back, &scan, &why), -EUCLEAN);
	expect_contains(&why, "damaged");
	ck_assert_int_eq(scan.state[0], SB_COPY_BAD);
	ck_assert(!scan.no_magic[0]);
	bdev_close(dev);
	free(sb);
}
END_TEST

START_TEST(a_newer_format_is_named)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	struct bdev *dev = formatted_dev(VOLUME_BYTES, sb);
	struct errmsg why;
	uint8_t buf[SB_SIZE];

	sb->generation = 2;
	sb->version = SB_FORMAT_VERSION + 6;
	sb_encode(sb, buf);
	ck_assert_int_eq(bdev_write(dev, buf, SB_SIZE, SB_OFF_FIRST), 0); // the two older copies are known, and stale
	ck_assert_int_eq(sb_read(dev, &back, NULL, &why), -ENOTSUP);
	expect_contains(&why, "format version 9");
	sb->version = SB_FORMAT_VERSION;
	sb->ro_compat = 8;
	sb_encode(sb, buf);
	ck_assert_int_eq(bdev_write(dev, buf, SB_SIZE, SB_OFF_FIRST), 0);
	ck_assert_int_eq(sb_read(dev, &back, NULL, &why), 0); // reading is the caller's right
	ck_assert_uint_eq(back.ro_compat, 8);
	bdev_close(dev);
	free(sb);
}
END_TEST

START_TEST(a_truncated_image_is_named)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	struct bdev *dev = new_dev(VOLUME_BYTES - BLK_SIZE);
	struct errmsg why;
	uint8_t buf[SB_SIZE];

	sb->generation = 3;
	sb_encode(sb, buf);
	ck_assert_int_eq(bdev_write(dev, buf, SB_SIZE, SB_OFF_FIRST), 0);
	ck_assert_int_eq(sb_read(dev, &back, NULL, &why), -EUCLEAN);
	expect_contains(&why, "truncated");
	expect_contains(&why, "it has 64.0 MiB (67104768 bytes)");
	expect_contains(&why, "needs 64 MiB (67108864 bytes)");
	ck_assert_uint_eq(back.n_blks, VOLUME_BLKS);
	ck_assert_int_eq(sb_write(dev, sb), -EINVAL); // S2 when writing
	ck_assert_uint_eq(sb->generation, 3);
	bdev_close(dev);
	free(sb);
}
END_TEST

START_TEST(a_volume_smaller_than_its_device)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	struct bdev *dev = formatted_dev(VOLUME_BYTES * 2 + 12288, sb);
	struct sb_scan scan;

	scribble(dev, SB_OFF_FIRST, SB_SIZE, 0);
	ck_assert_int_eq(sb_read(dev, &back, &scan, NULL), 0);
	ck_assert_mem_eq(&back, sb, sizeof(back));
	ck_assert_int_eq(scan.state[0], SB_COPY_BAD);
	ck_assert_int_eq(scan.state[1], SB_COPY_VALID);
	ck_assert_int_eq(scan.state[2], SB_COPY_VALID); // found at the end of the volume
	bdev_close(dev);
	free(sb);
}
END_TEST

// A larger volume with many generations was here before: its last copy must not come back from the dead.
START_TEST(leftovers_of_an_earlier_volume_do_not_win)
{
	struct superblock *old = new_sb(2 * VOLUME_BYTES), *sb = new_sb(VOLUME_BYTES), back;
	struct bdev *dev;
	struct sb_scan scan;
	uint8_t buf[SB_SIZE];

	old->generation = 1000;
	dev = formatted_dev(2 * VOLUME_BYTES, old);
	memcpy(sb->uuid, "the new one here", sizeof(sb->uuid));
	ck_assert_int_eq(sb_write(dev, sb), 0);
	ck_assert_int_eq(sb_read(dev, &back, &scan, NULL), 0);
	ck_assert_mem_eq(&back, sb, sizeof(back));
	ck_assert_int_eq(scan.state[2], SB_COPY_VALID);
	// The same at the place of the new volume's last copy, and with its size: only the UUID tells.
	memcpy(old, sb, sizeof(*old));
	old->generation = 1000;
	memcpy(old->uuid, "another one here", sizeof(sb->uuid));
	sb_encode(old, buf);
	ck_assert_int_eq(bdev_write(dev, buf, SB_SIZE, OFF_LAST(VOLUME_BYTES)), 0);
	ck_assert_int_eq(sb_read(dev, &back, &scan, NULL), 0);
	ck_assert_mem_eq(&back, sb, sizeof(back));
	ck_assert_int_eq(scan.state[2], SB_COPY_BAD);
	// A copy at the end of the device that belongs elsewhere, and nothing in front.
	ck_assert_int_eq(bdev_write(dev, buf, SB_SIZE, OFF_LAST(2 * VOLUME_BYTES)), 0);
	scribble(dev, SB_OFF_FIRST, SB_SIZE, 0);
	scribble(dev, SB_OFF_SECOND, SB_SIZE, 0);
	ck_assert_int_eq(sb_read(dev, &back, &scan, NULL), -EUCLEAN);
	bdev_close(dev);
	free(sb);
	free(old);
}
END_TEST

START_TEST(unreadable_copies)
{
	struct superblock *sb = new_sb(VOLUME_BYTES), back;
	struct bdev *dev = formatted_dev(VOLUME_BYTES, sb);
	struct errmsg why;
	struct sb_scan scan;

	for (int i = 0; i < SB_COPIES; i++) {
		testdev_fail(dev, TESTDEV_READ, (uint64_t)i + 1, EIO, false);
		ck_assert_int_eq(sb_read(dev, &back, &scan, NULL), 0);
		ck_assert_int_eq(scan.state[i], SB_COPY_UNREADABLE);
		ck_assert(!scan.no_magic[i]);
		ck_assert_mem_eq(&back, sb, sizeof(back));
	}
	// Error numbers that mean something else when a copy is decoded.
	testdev_fail(dev, TESTDEV_READ, 1, EOPNOTSUPP, true);
	ck_assert_int_eq(sb_read(dev, &back, &scan, &why), -EOPNOTSUPP);
	testdev_fail(dev, TESTDEV_READ, 1, EIO, true);
	ck_assert_int_eq(sb_read(dev, &back, &scan, &why), -EIO);
	expect_contains(&why, "cannot be read");
	bdev_close(dev);
	free(sb);
}
END_TEST

START_TEST(nonsense_is_not_written)
{
	struct superblock *sb = new_sb(VOLUME_BYTES);
	struct bdev *dev = new_dev(VOLUME_BYTES);

	testdev_fail(dev, TESTDEV_WRITE, 0, 0, false);
	sb->sysfile[SYSFILE_DB].extents[0].start_blk = 2;
	ck_assert_int_eq(sb_write(dev, sb), -EINVAL);
	sb->sysfile[SYSFILE_DB].extents[0].start_blk = 1000;
	sb->sysfile[SYSFILE_DB].n_extents = SB_MAX_EXTENTS + 1;
	ck_assert_int_eq(sb_write(dev, sb), -EINVAL);
	sb->sysfile[SYSFILE_DB].n_extents = 2;
	sb->version = 0;
	ck_assert_int_eq(sb_write(dev, sb), -EINVAL);
	ck_assert_uint_eq(sb->generation, 0);
	sb->version = SB_FORMAT_VERSION;
	sb->generation = INT64_MAX;
	ck_assert_int_eq(sb_write(dev, sb), -EOVERFLOW);
	ck_assert_uint_eq(testdev_count(dev, TESTDEV_WRITE), 0);
	bdev_close(dev);
	free(sb);
}
END_TEST

// ---- crashes ----

// Generation 1, then a recorded sb_write() of generation 2 with another label and other extents.
static struct bdev *rewritten_dev(struct superblock *old, struct superblock *new)
{
	struct bdev *dev = formatted_dev(VOLUME_BYTES, old);

	testdev_record(dev, true);
	*new = *old;
	strcpy(new->label, "another label");
	new->sysfile[SYSFILE_DB].n_extents = SB_MAX_EXTENTS; // so that most sectors change
	for (uint32_t i = 0; i < SB_MAX_EXTENTS; i++)
		new->sysfile[SYSFILE_DB].extents[i] = (struct run){ 2000 + 2 * i, 1 };
	ck_assert_int_eq(sb_write(dev, new), 0);
	return dev;
}

// Which of the two generations a state holds; anything else fails the test.
static uint64_t generation_of(struct bdev *state, const struct superblock *old, const struct superblock *new)
{
	struct superblock back;
	struct errmsg why = { "" };
	int rc = sb_read(state, &back, NULL, &why);

	ck_assert_msg(rc == 0, "%d: %s", rc, why.text);
	ck_assert_mem_eq(&back, back.generation == new->generation ? new : old, sizeof(back));
	return back.generation;
}

struct tear {
	size_t torn;               // this entry keeps only its sectors [from, to)
	uint64_t from_sector, to_sector;
	unsigned lost;             // bit i: entry i is lost
};

static bool keep_torn(void *ctx, size_t entry, uint64_t *from_sector, uint64_t *to_sector)
{
	const struct tear *t = ctx;

	if (entry == t->torn) {
		*from_sector = t->from_sector;
		*to_sector = t->to_sector;
	}
	return (t->lost >> entry & 1) == 0;
}

static uint64_t generation_after(struct bdev *dev, size_t n, struct tear t, const struct superblock *old,
                                 const struct superblock *new)
{
	struct bdev *state;
	uint64_t generation;

	ck_assert_int_eq(testdev_crash_state(dev, n, keep_torn, &t, &state), 0);
	generation = generation_of(state, old, new);
	// What is left can be written on, and that wins.
	if (t.from_sector % 7 == 0) {
		struct superblock next;

		ck_assert_int_eq(sb_read(state, &next, NULL, NULL), 0);
		ck_assert_int_eq(sb_write(state, &next), 0);
		ck_assert_int_eq(sb_read(state, &next, NULL, NULL), 0);
		ck_assert_uint_eq(next.generation, generation + 1);
	}
	bdev_close(state);
	return generation;
}

// At each prefix, each of the last writes torn at each sector from both sides, with each set of the others lost.
START_TEST(every_crash_leaves_old_or_new)
{
	struct superblock *old = new_sb(VOLUME_BYTES), *new = new_sb(VOLUME_BYTES);
	struct bdev *dev = rewritten_dev(old, new);
	const uint64_t sectors = SB_SIZE / TESTDEV_SECTOR;
	size_t len = testdev_log_len(dev), first_flush = 0;
	unsigned seen[2] = { 0, 0 };

	ck_assert_uint_eq(len, 5); // write, flush, write, write, flush
	while (testdev_log_at(dev, first_flush)->op != TESTDEV_FLUSH)
		first_flush++;
	ck_assert_uint_eq(first_flush, 1);
	ck_assert_int_eq(testdev_log_at(dev, len - 1)->op, TESTDEV_FLUSH);
	for (size_t n = 0; n <= len; n++)
		for (size_t torn = 0; torn < 4; torn++)
			for (uint64_t cut = 0; cut <= sectors; cut++)
				for (unsigned lost = 0; lost < 16; lost += 4) { // nothing, entry 2, 3, both
					struct tear head = { torn, 0, cut, lost }, tail = { torn, cut, sectors, lost };
					uint64_t g = generation_after(dev, n, head, old, new);
					uint64_t h = generation_after(dev, n, tail, old, new);

					// After the first flush there is no way back.
					if (n > first_flush)
						ck_assert(g == new->generation && h == new->generation);
					seen[g == new->generation]++;
					seen[h == new->generation]++;
				}
	ck_assert_uint_gt(seen[0], 0);
	ck_assert_uint_gt(seen[1], 0);
	bdev_close(dev);
	free(old);
	free(new);
}
END_TEST

// The n-th write or flush fails: the device stops, and what is on it is the old or the new generation.
START_TEST(every_failure_leaves_old_or_new)
{
	enum testdev_op op = _i == 0 ? TESTDEV_WRITE : TESTDEV_FLUSH;
	bool fired = true;

	for (uint64_t nth = 1; fired; nth++) {
		struct superblock *old = new_sb(VOLUME_BYTES), *new = new_sb(VOLUME_BYTES);
		struct bdev *dev = formatted_dev(VOLUME_BYTES, old), *state;
		int rc;

		*new = *old;
		strcpy(new->label, "another label");
		testdev_fail(dev, op, nth, EIO, false);
		rc = sb_write(dev, new);
		fired = testdev_fault_fired(dev);
		ck_assert_int_eq(rc, fired ? -EIO : 0);
		ck_assert_int_eq(bdev_failed(dev), fired);
		ck_assert_int_eq(testdev_clone(dev, &state), 0);
		ck_assert_uint_eq(new->generation, 2);
		if (nth == 1 && op == TESTDEV_WRITE)
			ck_assert_uint_eq(generation_of(state, old, new), 1);
		else
			ck_assert_uint_eq(generation_of(state, old, new), 2);
		ck_assert_uint_le(nth, 4);
		bdev_close(state);
		bdev_close(dev);
		free(old);
		free(new);
	}
}
END_TEST

static Suite *superblock_suite(void)
{
	Suite *s = suite_create("superblock");
	TCase *copy = tcase_create("copy"), *rw = tcase_create("read_write"), *crash = tcase_create("crash");

	tcase_add_test(copy, encode_and_decode_round_trip);
	tcase_add_test(copy, bytes_stand_where_the_format_says);
	tcase_add_test(copy, every_flipped_bit_is_noticed);
	tcase_add_loop_test(copy, signed_lies_are_refused, 0, (int)ARRAY_LEN(lies));
	tcase_add_test(copy, all_extents_fit);
	tcase_add_test(copy, geometry_bounds);
	tcase_add_test(copy, fixed_runs_cover_the_copies);
	suite_add_tcase(s, copy);
	tcase_add_test(rw, written_comes_back);
	tcase_add_loop_test(rw, one_copy_is_enough, 0, SB_COPIES);
	tcase_add_loop_test(rw, newest_wins_wherever_it_is, 0, SB_COPIES);
	tcase_add_test(rw, foreign_content_is_not_hybridfs);
	tcase_add_test(rw, all_copies_damaged);
	tcase_add_test(rw, a_newer_format_is_named);
	tcase_add_test(rw, a_truncated_image_is_named);
	tcase_add_test(rw, a_volume_smaller_than_its_device);
	tcase_add_test(rw, leftovers_of_an_earlier_volume_do_not_win);
	tcase_add_test(rw, unreadable_copies);
	tcase_add_test(rw, nonsense_is_not_written);
	suite_add_tcase(s, rw);
	tcase_set_timeout(crash, 60);
	tcase_add_test(crash, every_crash_leaves_old_or_new);
	tcase_add_loop_test(crash, every_failure_leaves_old_or_new, 0, 2);
	suite_add_tcase(s, crash);
	return s;
}

int main(void) { return run_suite(superblock_suite()); }
