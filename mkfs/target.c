// SPDX-License-Identifier: MIT
// The target: which file or device it is, whether it may be overwritten, and what becomes of it when the run fails.
//
// Sizes. On a block device, -s uses only the beginning. An image is resized by -s only with -f (or when it is empty):
// the name of an existing image beside a size is more often a mistake than a wish.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mkfs/mkfs.h"
#include "util/blk.h"
#include "util/log.h"
#include "util/size.h"

#define WAIT_MS 10000 // for a daemon that still writes after umount

static int create_image(const struct mkfs_config *cfg, struct target *t, bool replace, struct errmsg *why)
{
	t->volume_bytes = blk_to_bytes(bytes_to_blk_down(cfg->size_bytes));
	if (cfg->dry_run)
		return 0;
	t->was_blank = true;
	return bdev_create_file(cfg->device, t->volume_bytes, replace, &t->dev, why);
}

static int open_new(const struct mkfs_config *cfg, struct target *t, struct errmsg *why)
{
	int rc;

	if (cfg->size_bytes == 0) {
		errmsg_set(why, "%s does not exist: give a size with -s to create an image", cfg->device);
		return -ENOENT;
	}
	rc = create_image(cfg, t, false, why);
	t->created = rc == 0 && !cfg->dry_run;
	return rc;
}

static int check_use(const struct mkfs_config *cfg, struct target *t, struct errmsg *why)
{
	char loop[64];

	if (probe_loop_user(cfg->device, loop, sizeof(loop))) {
		errmsg_set(why, "%s is in use: %s is a loop device over it (losetup -d %s frees it)", cfg->device, loop,
		           loop);
		return -EBUSY;
	}
	if (t->dev->read_only && !cfg->dry_run) {
		errmsg_set(why, "%s may only be read: it is write-protected, or you lack the permission", cfg->device);
		return -EROFS;
	}
	return 0;
}

static int check_content(const struct mkfs_config *cfg, struct target *t, struct errmsg *why)
{
	char found[PROBE_TEXT_LEN];
	int rc;

	if (cfg->force)
		return 0;
	rc = probe_content(t->dev, found, why);
	if (rc <= 0)
		return rc;
	errmsg_set(why, "%s contains %s: use -f to overwrite it", cfg->device, found);
	return -EEXIST;
}

// An image whose size is to change is made anew: what it held is given up anyway, and it becomes sparse.
static int resize_image(const struct mkfs_config *cfg, struct target *t, struct errmsg *why)
{
	char have[SIZE_TEXT_LEN], want[SIZE_TEXT_LEN];

	if (t->dev->size_bytes > 0 && !cfg->force) {
		errmsg_set(why, "%s exists and has %s, not %s: leave -s out to keep its size, or use -f to change it",
		           cfg->device, size_format(t->dev->size_bytes, have), size_format(cfg->size_bytes, want));
		return -EEXIST;
	}
	bdev_close(t->dev);
	t->dev = NULL;
	return create_image(cfg, t, true, why);
}

static int choose_size(const struct mkfs_config *cfg, struct target *t, bool is_image, struct errmsg *why)
{
	char have[SIZE_TEXT_LEN], want[SIZE_TEXT_LEN];
	uint64_t want_bytes = blk_to_bytes(bytes_to_blk_down(cfg->size_bytes));

	t->volume_bytes = t->dev->size_bytes;
	if (is_image && cfg->size_bytes == 0 && t->dev->size_bytes == 0) {
		errmsg_set(why, "%s is empty: give a size with -s", cfg->device);
		return -EINVAL;
	}
	if (cfg->size_bytes == 0 || want_bytes == t->dev->size_bytes)
		return 0;
	if (is_image)
		return resize_image(cfg, t, why);
	if (want_bytes > t->dev->size_bytes) {
		errmsg_set(why, "%s has only %s, not %s", cfg->device, size_format(t->dev->size_bytes, have),
		           size_format(cfg->size_bytes, want));
		return -ENOSPC;
	}
	t->volume_bytes = want_bytes;
	return 0;
}

int target_open(const struct mkfs_config *cfg, struct target *t, struct errmsg *why)
{
	struct stat st;
	int rc;

	*t = (struct target){ 0 };
	if (stat(cfg->device, &st) != 0) {
		if (errno == ENOENT)
			return open_new(cfg, t, why);
		rc = -errno;
		errmsg_set(why, "%s: %s", cfg->device, strerror(-rc));
		return rc;
	}
	rc = bdev_open_file(cfg->device, cfg->dry_run ? BDEV_READ_ONLY : 0, WAIT_MS, &t->dev, why);
	if (rc == 0)
		rc = check_use(cfg, t, why);
	if (rc == 0)
		rc = check_content(cfg, t, why);
	if (rc == 0)
		rc = choose_size(cfg, t, S_ISREG(st.st_mode), why);
	if (rc != 0)
		target_close(t);
	return rc;
}

int target_wipe(const struct mkfs_config *cfg, struct target *t, struct errmsg *why)
{
	if (t->was_blank)
		return 0;
	if (cfg->verbose)
		msg_info("removing old signatures from %s", cfg->device);
	return probe_wipe(t->dev, why);
}

void target_fail(const struct mkfs_config *cfg, struct target *t)
{
	if (t->dev == NULL)
		return;
	if (t->created) {
		unlink(cfg->device);
		return;
	}
	// A device that failed takes no more writes: then nothing better can be done.
	if (probe_wipe_superblocks(t->dev) != 0)
		msg_error("%s: the superblocks could not be removed: do not use it", cfg->device);
}

void target_close(struct target *t)
{
	bdev_close(t->dev);
	t->dev = NULL;
}
