// SPDX-License-Identifier: MIT
// Reading and writing the three copies, and believing none of them.
//
// A copy with a right checksum was written whole by some version of this program, or by somebody who wants to break
// it: each number is checked before it is used, in sb_decode(). What a single copy cannot tell (is it in its place, does
// it belong to the copies in front, is the device long enough) is checked in sb_read().
#include "block/superblock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/sb_format.h"
#include "util/blk.h"
#include "util/crc32c.h"
#include "util/size.h"

#define GENERATION_MAX ((uint64_t)INT64_MAX) // leaves room: a hostile image must not make the next one wrap to 0
#define METASLABS_WANTED_MAX 280u            // halved at the latest above this: 140 to 280, about 200
#define MS_SHIFT_USUAL_MAX 22u               // 16 GiB

static_assert(SB_BLKS * BLK_SIZE == SB_SIZE, "a copy is whole blocks");

// ---- one copy ----

static uint32_t checksum(const struct sb_disk *disk)
{
	struct sb_disk copy = *disk;

	copy.crc32c = to_le32(0);
	return crc32c(&copy, sizeof(copy));
}

void sb_encode(const struct superblock *sb, void *buf)
{
	struct sb_disk disk = { 0 };

	memcpy(disk.magic, SB_MAGIC, SB_MAGIC_LEN);
	disk.version = to_le32(sb->version);
	disk.generation = to_le64(sb->generation);
	disk.compat = to_le64(sb->compat);
	disk.ro_compat = to_le64(sb->ro_compat);
	disk.incompat = to_le64(sb->incompat);
	memcpy(disk.uuid, sb->uuid, sizeof(disk.uuid));
	memcpy(disk.label, sb->label, strnlen(sb->label, SB_LABEL_MAX));
	disk.n_blks = to_le64(sb->n_blks);
	disk.created_ns = to_le64((uint64_t)sb->created_ns);
	disk.blk_shift = to_le32(BLK_SHIFT);
	disk.ms_shift = to_le32(sb->ms_shift);
	for (int f = 0; f < SYSFILE_N; f++) {
		disk.n_extents[f] = to_le32(sb->sysfile[f].n_extents);
		for (uint32_t i = 0; i < sb->sysfile[f].n_extents && i < SB_MAX_EXTENTS; i++) {
			disk.extents[f][i].start_blk = to_le64(sb->sysfile[f].extents[i].start_blk);
			disk.extents[f][i].len_blk = to_le64(sb->sysfile[f].extents[i].len_blk);
		}
	}
	disk.crc32c = to_le32(checksum(&disk));
	memcpy(buf, &disk, sizeof(disk));
}

// Version and features come first: nothing below them means anything to us if we do not know them.
static int decode_identity(const struct sb_disk *disk, struct superblock *sb, struct errmsg *why)
{
	uint64_t unknown;

	sb->generation = from_le64(disk->generation);
	sb->version = from_le32(disk->version);
	sb->compat = from_le64(disk->compat);
	sb->ro_compat = from_le64(disk->ro_compat);
	sb->incompat = from_le64(disk->incompat);
	memcpy(sb->uuid, disk->uuid, sizeof(sb->uuid));
	if (sb->generation > GENERATION_MAX || sb->version == 0) {
		errmsg_set(why, "the superblock is damaged: generation %llu, version %u",
		           (unsigned long long)sb->generation, sb->version);
		return -EUCLEAN;
	}
	if (sb->version > SB_FORMAT_VERSION) {
		errmsg_set(why, "the volume has format version %u, this program knows up to %u: use a newer one",
		           sb->version, SB_FORMAT_VERSION);
		return -ENOTSUP;
	}
	if (sb->version < SB_FORMAT_VERSION) {
		errmsg_set(why, "the volume has format version %u, of a time before the first release: copy its files to a new volume with "
		           "the program that made it", sb->version);
		return -ENOTSUP;
	}
	unknown = sb->incompat & ~SB_INCOMPAT_KNOWN;
	if (unknown != 0) {
		errmsg_set(why, "the volume uses features that this program does not know (%#llx): use a newer one",
		           (unsigned long long)unknown);
		return -ENOTSUP;
	}
	return 0;
}

static bool geometry_is_sane(const struct superblock *sb)
{
	if (sb->ms_shift < SB_MS_SHIFT_MIN || sb->ms_shift > SB_MS_SHIFT_MAX)
		return false;
	return sb->n_blks >= bytes_to_blk_up(SB_MIN_VOLUME_BYTES) &&
	       sb->n_blks <= (uint64_t)SB_MAX_METASLABS << sb->ms_shift;
}

static int decode_geometry(const struct sb_disk *disk, struct superblock *sb, struct errmsg *why)
{
	sb->n_blks = from_le64(disk->n_blks);
	sb->ms_shift = from_le32(disk->ms_shift);
	sb->created_ns = (int64_t)from_le64(disk->created_ns);
	if (from_le32(disk->blk_shift) != BLK_SHIFT || !geometry_is_sane(sb)) {
		errmsg_set(why, "the superblock is damaged: %llu blocks of 2^%u bytes in metaslabs of 2^%u blocks",
		           (unsigned long long)sb->n_blks, from_le32(disk->blk_shift), sb->ms_shift);
		return -EUCLEAN;
	}
	if (memchr(disk->label, '\0', sizeof(disk->label)) == NULL) {
		errmsg_set(why, "the superblock is damaged: the label has no end");
		return -EUCLEAN;
	}
	memcpy(sb->label, disk->label, sizeof(sb->label));
	return 0;
}

static int decode_extents(const struct sb_disk *disk, struct superblock *sb, struct errmsg *why)
{
	for (int f = 0; f < SYSFILE_N; f++) {
		uint32_t n = from_le32(disk->n_extents[f]);

		if (n > SB_MAX_EXTENTS) {
			errmsg_set(why, "the superblock is damaged: %u extents of a system file, at most %u fit", n,
			           SB_MAX_EXTENTS);
			return -EUCLEAN;
		}
		sb->sysfile[f].n_extents = n;
		for (uint32_t i = 0; i < n; i++) {
			sb->sysfile[f].extents[i].start_blk = from_le64(disk->extents[f][i].start_blk);
			sb->sysfile[f].extents[i].len_blk = from_le64(disk->extents[f][i].len_blk);
		}
	}
	return 0;
}

static int compare_start(const void *a, const void *b)
{
	const struct run *x = a, *y = b;

	return (x->start_blk > y->start_blk) - (x->start_blk < y->start_blk);
}

// S1: sorted by start, each run must end where the next one begins or before.
static int check_extents(const struct superblock *sb, struct errmsg *why)
{
	struct run runs[SB_COPIES + SYSFILE_N * SB_MAX_EXTENTS];
	size_t n = SB_COPIES;

	sb_fixed_runs(sb->n_blks, runs);
	for (int f = 0; f < SYSFILE_N; f++) {
		memcpy(&runs[n], sb->sysfile[f].extents, sb->sysfile[f].n_extents * sizeof(runs[0]));
		n += sb->sysfile[f].n_extents;
	}
	qsort(runs, n, sizeof(runs[0]), compare_start);
	for (size_t i = 0; i < n; i++) {
		uint64_t limit = i + 1 < n ? runs[i + 1].start_blk : sb->n_blks;

		if (runs[i].len_blk > 0 && runs[i].start_blk <= limit && runs[i].len_blk <= limit - runs[i].start_blk)
			continue;
		errmsg_set(why, "the superblock is damaged: the system file extent at block %llu, %llu blocks long, is "
		           "empty, outside the volume or overlaps another",
		           (unsigned long long)runs[i].start_blk, (unsigned long long)runs[i].len_blk);
		return -EUCLEAN;
	}
	return 0;
}

int sb_decode(const void *buf, struct superblock *sb, struct errmsg *why)
{
	struct sb_disk disk;
	int rc;

	memset(sb, 0, sizeof(*sb));
	memcpy(&disk, buf, sizeof(disk));
	if (memcmp(disk.magic, SB_MAGIC, SB_MAGIC_LEN) != 0) {
		errmsg_set(why, "not a HybridFS superblock");
		return -EINVAL;
	}
	if (from_le32(disk.crc32c) != checksum(&disk)) {
		errmsg_set(why, "the superblock is damaged: wrong checksum");
		return -EUCLEAN;
	}
	rc = decode_identity(&disk, sb, why);
	if (rc == 0)
		rc = decode_geometry(&disk, sb, why);
	if (rc == 0)
		rc = decode_extents(&disk, sb, why);
	if (rc == 0)
		rc = check_extents(sb, why);
	return rc;
}

// ---- all copies ----

static uint64_t end_copy_off(uint64_t n_blks) { return blk_to_bytes(n_blks) - SB_SIZE; }

void sb_fixed_runs(uint64_t n_blks, struct run out[SB_COPIES])
{
	out[0] = (struct run){ bytes_to_blk_down(SB_OFF_FIRST), SB_BLKS };
	out[1] = (struct run){ bytes_to_blk_down(SB_OFF_SECOND), SB_BLKS };
	out[2] = (struct run){ n_blks - SB_BLKS, SB_BLKS };
}

// One copy as it was found.
struct found {
	int rc; // of reading and decoding
	bool unreadable;
	struct superblock sb;
	struct errmsg why;
};

// What one sb_read() knows; too big for the stack of a thread.
struct reading {
	struct bdev *dev;
	struct found copy[SB_COPIES];
	uint8_t buf[SB_SIZE];
};

// A copy of a later version is as good as any other for deciding which one is the newest.
static bool is_candidate(const struct found *c) { return !c->unreadable && (c->rc == 0 || c->rc == -ENOTSUP); }

static void read_copy(struct reading *r, int i, uint64_t off_bytes)
{
	struct found *c = &r->copy[i];

	memset(c, 0, sizeof(*c));
	if (r->dev->size_bytes < SB_SIZE || off_bytes > r->dev->size_bytes - SB_SIZE) {
		c->rc = -EINVAL; // no such place: nothing of ours is there
		return;
	}
	c->rc = bdev_read(r->dev, r->buf, SB_SIZE, off_bytes);
	c->unreadable = c->rc != 0;
	if (c->rc == 0)
		c->rc = sb_decode(r->buf, &c->sb, &c->why);
}

// The winner's index, or -1. On equal generations the earlier copy.
static int newest(const struct reading *r, int n_copies)
{
	int best = -1;

	for (int i = 0; i < n_copies; i++)
		if (is_candidate(&r->copy[i]) &&
		    (best < 0 || r->copy[i].sb.generation > r->copy[best].sb.generation))
			best = i;
	return best;
}

// The copy that was read at the end of something must say so itself, and belong to the copies in front: what an
// earlier and larger volume left there may well have the higher generation.
static void judge_end_copy(struct reading *r, uint64_t off_bytes, const struct found *front)
{
	struct found *end = &r->copy[SB_COPIES - 1];

	if (end->rc == 0 && end_copy_off(end->sb.n_blks) != off_bytes)
		end->rc = -EUCLEAN;
	if (is_candidate(end) && front != NULL && memcmp(end->sb.uuid, front->sb.uuid, sizeof(end->sb.uuid)) != 0)
		end->rc = -EUCLEAN;
	if (end->rc == -EUCLEAN && end->why.text[0] == '\0')
		errmsg_set(&end->why, "the superblock at the end belongs to another volume");
}

// At the end of the device, which needs no other copy to be found; then where the newest other copy says.
static void read_end_copy(struct reading *r)
{
	uint64_t off_bytes = r->dev->size_bytes < SB_SIZE ? 0 : r->dev->size_bytes - SB_SIZE;
	int front = newest(r, SB_COPIES - 1);

	if (front >= 0 && r->copy[front].rc == 0 && end_copy_off(r->copy[front].sb.n_blks) < off_bytes)
		off_bytes = end_copy_off(r->copy[front].sb.n_blks);
	read_copy(r, SB_COPIES - 1, off_bytes);
	judge_end_copy(r, off_bytes, front < 0 ? NULL : &r->copy[front]);
}

static void fill_scan(const struct reading *r, int best, struct sb_scan *scan)
{
	for (int i = 0; i < SB_COPIES; i++) {
		const struct found *c = &r->copy[i];

		scan->generation[i] = is_candidate(c) ? c->sb.generation : 0;
		scan->no_magic[i] = c->rc == -EINVAL && !c->unreadable;
		if (c->unreadable)
			scan->state[i] = SB_COPY_UNREADABLE;
		else if (!is_candidate(c))
			scan->state[i] = SB_COPY_BAD;
		else if (c->sb.generation == r->copy[best].sb.generation)
			scan->state[i] = SB_COPY_VALID;
		else
			scan->state[i] = SB_COPY_STALE;
	}
}

// No copy is valid. A damaged one says more than an unreadable one, and that more than none at all.
static int explain_none(const struct reading *r, struct errmsg *why)
{
	for (int i = 0; i < SB_COPIES; i++)
		if (r->copy[i].rc == -EUCLEAN && !r->copy[i].unreadable) {
			errmsg_set(why, "%s; no other copy is valid: restore the volume from a backup",
			           r->copy[i].why.text);
			return -EUCLEAN;
		}
	for (int i = 0; i < SB_COPIES; i++)
		if (r->copy[i].unreadable) {
			errmsg_set(why, "the superblocks cannot be read: %s", strerror(-r->copy[i].rc));
			return r->copy[i].rc;
		}
	errmsg_set(why, "there is no HybridFS volume here: format it with mkfs.hybridfs, or check the name");
	return -EINVAL;
}

// S2
static int check_device_size(const struct bdev *dev, const struct superblock *sb, struct errmsg *why)
{
	char have[SIZE_TEXT_LEN], need[SIZE_TEXT_LEN];
	uint64_t need_bytes = blk_to_bytes(sb->n_blks);

	if (need_bytes <= dev->size_bytes)
		return 0;
	errmsg_set(why, "the image or device was truncated: it has %s (%llu bytes), the volume needs %s "
	           "(%llu bytes); restore the rest",
	           size_format(dev->size_bytes, have), (unsigned long long)dev->size_bytes,
	           size_format(need_bytes, need), (unsigned long long)need_bytes);
	return -EUCLEAN;
}

int sb_read(struct bdev *dev, struct superblock *sb, struct sb_scan *scan, struct errmsg *why)
{
	struct reading *r = calloc(1, sizeof(*r));
	int best, rc;

	memset(sb, 0, sizeof(*sb));
	if (scan != NULL)
		memset(scan, 0, sizeof(*scan));
	if (r == NULL)
		return -ENOMEM;
	r->dev = dev;
	read_copy(r, 0, SB_OFF_FIRST);
	read_copy(r, 1, SB_OFF_SECOND);
	read_end_copy(r);
	best = newest(r, SB_COPIES);
	if (scan != NULL)
		fill_scan(r, best, scan);
	if (best < 0) {
		rc = explain_none(r, why);
	} else {
		*sb = r->copy[best].sb;
		rc = r->copy[best].rc;
		if (rc != 0)
			errmsg_set(why, "%s", r->copy[best].why.text);
		else
			rc = check_device_size(dev, sb, why);
	}
	if (rc != 0)
		errmsg_prefix(why, "%s", dev->name);
	free(r);
	return rc;
}

static int write_copies(struct bdev *dev, const struct superblock *sb, const void *buf)
{
	int rc = bdev_write(dev, buf, SB_SIZE, SB_OFF_FIRST);

	if (rc == 0)
		rc = bdev_flush(dev);
	// From here on the new generation wins; until here the two other copies are whole.
	if (rc == 0)
		rc = bdev_write(dev, buf, SB_SIZE, SB_OFF_SECOND);
	if (rc == 0)
		rc = bdev_write(dev, buf, SB_SIZE, end_copy_off(sb->n_blks));
	if (rc == 0)
		rc = bdev_flush(dev);
	return rc;
}

int sb_write(struct bdev *dev, struct superblock *sb)
{
	uint8_t *buf = malloc(SB_SIZE);
	struct superblock *check = malloc(sizeof(*check));
	int rc = -ENOMEM;

	if (buf == NULL || check == NULL)
		goto out;
	rc = -EOVERFLOW;
	if (sb->generation >= GENERATION_MAX)
		goto out;
	sb->generation++;
	sb_encode(sb, buf);
	rc = -EINVAL;
	if (sb_decode(buf, check, NULL) != 0 || blk_to_bytes(sb->n_blks) > dev->size_bytes) {
		sb->generation--;
		goto out;
	}
	rc = write_copies(dev, sb, buf);
out:
	free(check);
	free(buf);
	return rc;
}

int sb_geometry(uint64_t size_bytes, struct superblock *sb, struct errmsg *why)
{
	char min[SIZE_TEXT_LEN], max[SIZE_TEXT_LEN], have[SIZE_TEXT_LEN];
	uint64_t n_blks = bytes_to_blk_down(size_bytes);
	uint64_t max_blks = (uint64_t)SB_MAX_METASLABS << SB_MS_SHIFT_MAX;
	uint32_t shift = SB_MS_SHIFT_MIN;

	if (size_bytes < SB_MIN_VOLUME_BYTES || n_blks > max_blks) {
		errmsg_set(why, "a volume has between %s and %s, not %s", size_format(SB_MIN_VOLUME_BYTES, min),
		           size_format(blk_to_bytes(max_blks), max), size_format(size_bytes, have));
		return -EINVAL;
	}
	while (shift < MS_SHIFT_USUAL_MAX && n_blks > (uint64_t)METASLABS_WANTED_MAX << shift)
		shift++;
	while (n_blks > (uint64_t)SB_MAX_METASLABS << shift)
		shift++;
	sb->n_blks = n_blks;
	sb->ms_shift = shift;
	return 0;
}
