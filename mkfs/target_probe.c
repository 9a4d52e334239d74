// SPDX-License-Identifier: MIT
// What is on a device already: filesystems and partition tables by libblkid, and our own volumes by their superblock.
//
// libblkid wants a file descriptor. It gets one of its own, opened without O_EXCL: the lock that keeps others away is the
// bdev's, and is held all the time.
#include <blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/superblock.h"
#include "mkfs/mkfs.h"
#include "util/blk.h"

// ---- our own volumes ----

// Damaged ones count as well: fsck may be able to save them.
static bool holds_volume(struct bdev *dev, struct superblock *sb)
{
	struct sb_scan scan;
	int rc = sb_read(dev, sb, &scan, NULL);

	if (rc == 0 || rc == -ENOTSUP)
		return true;
	for (int i = 0; i < SB_COPIES; i++)
		if (scan.state[i] == SB_COPY_VALID || scan.state[i] == SB_COPY_STALE)
			return true;
	return rc == -EUCLEAN;
}

static int zero_copy(struct bdev *dev, uint64_t off_bytes)
{
	static const uint8_t zeros[SB_SIZE];

	if (dev->size_bytes < SB_SIZE || off_bytes > dev->size_bytes - SB_SIZE)
		return 0;
	return bdev_write(dev, zeros, sizeof(zeros), off_bytes);
}

// The last copy first, and the first copy last: at no moment is there a newest copy with a wrong place.
int probe_wipe_superblocks(struct bdev *dev)
{
	struct superblock *sb = malloc(sizeof(*sb));
	int rc = sb == NULL ? -ENOMEM : 0;

	if (rc == 0 && sb_read(dev, sb, NULL, NULL) == 0 && sb->n_blks > SB_BLKS)
		rc = zero_copy(dev, blk_to_bytes(sb->n_blks) - SB_SIZE);
	if (rc == 0 && dev->size_bytes >= SB_SIZE)
		rc = zero_copy(dev, dev->size_bytes - SB_SIZE);
	if (rc == 0)
		rc = zero_copy(dev, SB_OFF_SECOND);
	if (rc == 0)
		rc = zero_copy(dev, SB_OFF_FIRST);
	if (rc == 0)
		rc = bdev_flush(dev);
	free(sb);
	return rc;
}

// ---- everybody else's ----

// A prober over the whole device, superblocks and partition tables. The caller frees it and closes *fd.
static int prober_open(struct bdev *dev, int mode, blkid_probe *out, int *fd, struct errmsg *why)
{
	blkid_probe pr = NULL;
	int rc = -ENOMEM;

	*fd = open(dev->name, mode | O_CLOEXEC);
	if (*fd < 0) {
		rc = -errno;
		goto out;
	}
	pr = blkid_new_probe();
	if (pr == NULL || blkid_probe_set_device(pr, *fd, 0, 0) != 0)
		goto out;
	blkid_probe_enable_superblocks(pr, 1);
	blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_MAGIC | BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE |
	                                      BLKID_SUBLKS_LABEL | BLKID_SUBLKS_BADCSUM);
	blkid_probe_enable_partitions(pr, 1);
	blkid_probe_set_partitions_flags(pr, BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT);
	*out = pr;
	return 0;
out:
	errmsg_set(why, "%s cannot be searched for existing filesystems: %s", dev->name, strerror(-rc));
	blkid_free_probe(pr);
	if (*fd >= 0)
		close(*fd);
	return rc;
}

static void prober_close(blkid_probe pr, int fd)
{
	blkid_free_probe(pr);
	close(fd);
}

static const char *value_of(blkid_probe pr, const char *name)
{
	const char *value = NULL;

	return blkid_probe_lookup_value(pr, name, &value, NULL) == 0 ? value : NULL;
}

static void describe(blkid_probe pr, char found[PROBE_TEXT_LEN])
{
	const char *type = value_of(pr, "TYPE"), *table = value_of(pr, "PTTYPE");
	const char *usage = value_of(pr, "USAGE"), *label = value_of(pr, "LABEL");

	if (type == NULL)
		snprintf(found, PROBE_TEXT_LEN, "a partition table (%s)", table != NULL ? table : "of unknown type");
	else if (usage != NULL && strcmp(usage, "filesystem") != 0)
		snprintf(found, PROBE_TEXT_LEN, "%s (%s)", type, usage);
	else if (label != NULL)
		snprintf(found, PROBE_TEXT_LEN, "a filesystem of type %s labelled \"%s\"", type, label);
	else
		snprintf(found, PROBE_TEXT_LEN, "a filesystem of type %s", type);
}

int probe_content(struct bdev *dev, char found[PROBE_TEXT_LEN], struct errmsg *why)
{
	struct superblock *sb = malloc(sizeof(*sb));
	blkid_probe pr;
	bool ours;
	int rc, fd;

	if (sb == NULL)
		return -ENOMEM;
	ours = holds_volume(dev, sb);
	if (ours && sb->label[0] != '\0')
		snprintf(found, PROBE_TEXT_LEN, "a HybridFS volume labelled \"%s\"", sb->label);
	else if (ours)
		snprintf(found, PROBE_TEXT_LEN, "a HybridFS volume");
	free(sb);
	if (ours)
		return 1;
	rc = prober_open(dev, O_RDONLY, &pr, &fd, why);
	if (rc != 0)
		return rc;
	rc = blkid_do_probe(pr) == 0;
	if (rc == 1)
		describe(pr, found);
	prober_close(pr, fd);
	return rc;
}

static int wipe_signatures(struct bdev *dev, struct errmsg *why)
{
	blkid_probe pr;
	int fd, rc = prober_open(dev, O_RDWR, &pr, &fd, why);

	if (rc != 0)
		return rc;
	while (rc == 0 && blkid_do_probe(pr) == 0) {
		errno = EIO; // libblkid does not always say
		if (blkid_do_wipe(pr, 0) != 0)
			rc = -errno;
	}
	if (rc == 0 && fsync(fd) != 0)
		rc = -errno;
	if (rc != 0)
		errmsg_set(why, "the old signatures on %s cannot be removed: %s", dev->name, strerror(-rc));
	prober_close(pr, fd);
	return rc;
}

int probe_wipe(struct bdev *dev, struct errmsg *why)
{
	int rc = probe_wipe_superblocks(dev);

	if (rc != 0) {
		errmsg_set(why, "%s cannot be written: %s", dev->name, strerror(-rc));
		return rc;
	}
	return wipe_signatures(dev, why);
}

// ---- loop devices ----

static bool is_backing_file(const char *attribute, const struct stat *image)
{
	char line[4096];
	struct stat st;
	FILE *f = fopen(attribute, "re");
	bool same = false;

	if (f == NULL)
		return false;
	if (fgets(line, sizeof(line), f) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		same = stat(line, &st) == 0 && st.st_dev == image->st_dev && st.st_ino == image->st_ino;
	}
	fclose(f);
	return same;
}

bool probe_loop_user(const char *path, char *loop, size_t cap)
{
	static const char prefix[] = "/sys/block/";
	struct stat image;
	glob_t found;
	bool used = false;

	if (stat(path, &image) != 0 || !S_ISREG(image.st_mode))
		return false;
	if (glob("/sys/block/loop*/loop/backing_file", 0, NULL, &found) != 0)
		return false;
	for (size_t i = 0; i < found.gl_pathc && !used; i++) {
		const char *name = found.gl_pathv[i] + sizeof(prefix) - 1;

		used = is_backing_file(found.gl_pathv[i], &image);
		if (used)
			snprintf(loop, cap, "/dev/%.*s", (int)strcspn(name, "/"), name);
	}
	globfree(&found);
	return used;
}
