// SPDX-License-Identifier: MIT
// Looking at a device after a crash. See look.h.
#include "look.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/fs_internal.h"
#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "listing.h"

#define CACHE_BYTES (1u << 20)
#define INTERVAL_MS 3600000

static int open_volume(struct bdev *dev, struct volume **vol, char *why, size_t why_cap)
{
	struct volume_opts opts = { .commit_interval_ms = INTERVAL_MS, .cache_bytes = CACHE_BYTES };
	struct errmsg text = { "" };
	int err = volume_open(dev, &opts, vol, &text);

	if (err != 0)
		snprintf(why, why_cap, "it does not mount: %s (%s)", text.text, strerror(-err));
	return err;
}

static int open_fs(struct volume *vol, struct fs **fs, char *why, size_t why_cap)
{
	struct fs_opts opts = { .atime = FS_NOATIME };
	int err = fs_create_context(vol, &opts, fs);

	if (err != 0)
		snprintf(why, why_cap, "it does not mount: %s", strerror(-err));
	return err;
}

// ---- fsck ----

// A check that nobody interrupts. main.c of fsck has the same steps between its options and its summary.
static struct fsck *new_fsck(struct bdev *dev, enum fsck_mode mode)
{
	static const volatile sig_atomic_t never;
	struct fsck *f = calloc(1, sizeof(*f));

	VERIFY(f != NULL);
	f->device = "fsck";
	f->mode = mode;
	f->stop = &never;
	f->dev = dev;
	return f;
}

static int check_open_volume(struct fsck *f)
{
	int err = fsck_read_last_txn(f);

	return err != 0 ? err : fsck_check(f);
}

int look_fsck(struct bdev *dev, bool repair, uint64_t *n_fixed, uint64_t *n_left, char *why, size_t why_cap)
{
	struct fsck *f = new_fsck(dev, repair ? FSCK_YES : FSCK_NO);
	int err = phase_superblock(f);
	uint64_t torn_copies = repair ? 0 : f->n_left; // of the superblock: crashes leave such, and the other copies are there for it

	if (err == 0)
		err = fsck_open(f);
	if (err == 0)
		err = check_open_volume(f);
	if (f->vol != NULL && err == 0)
		err = volume_close(f->vol);
	else if (f->vol != NULL)
		volume_abandon(f->vol);
	*n_fixed = f->n_fixed;
	*n_left = f->n_left - torn_copies;
	if (err != 0)
		snprintf(why, why_cap, "fsck cannot go on: %s (%s)", f->why.text, strerror(-err));
	fsck_free(f);
	free(f);
	return err;
}

// fsck -n on the device as it lies there.
static int check_passively(struct bdev *dev, char *why, size_t why_cap)
{
	uint64_t fixed, left;
	int err;

	testdev_fail(dev, TESTDEV_WRITE, 1, EIO, true);
	err = look_fsck(dev, false, &fixed, &left, why, why_cap);
	if (err == 0 && testdev_fault_fired(dev)) {
		snprintf(why, why_cap, "fsck -n has written to the device");
		err = -EIO;
	}
	testdev_fail(dev, TESTDEV_WRITE, 0, 0, false);
	if (err == 0 && left > 0) {
		snprintf(why, why_cap, "fsck -n finds %" PRIu64 " problems before the volume is mounted", left);
		err = -EUCLEAN;
	}
	return err;
}

// The same phases on a volume that is mounted: opening it once more would double the price of a state. Meanwhile it says of itself that it is
// read-only, which is how fsck knows that it has nothing to repair.
static int check_mounted(struct volume *vol, char *why, size_t why_cap)
{
	struct fsck *f = new_fsck(vol->dev, FSCK_NO);
	int err;

	f->vol = vol;
	f->sb = vol->files.sb;
	vol->read_only = true;
	err = check_open_volume(f);
	vol->read_only = false;
	if (err != 0)
		snprintf(why, why_cap, "fsck on the mounted volume: %s (%s)", f->why.text, strerror(-err));
	if (err == 0 && f->n_left > 0) {
		snprintf(why, why_cap, "fsck finds %" PRIu64 " problems after the mount", f->n_left);
		err = -EUCLEAN;
	}
	fsck_free(f);
	free(f);
	return err;
}

// ---- mounting ----

static int read_tree(struct volume *vol, struct look *out)
{
	char where[256];
	struct fs *fs;
	int err = open_fs(vol, &fs, out->why, sizeof(out->why));

	if (err != 0)
		return err;
	err = listing_of_fs(fs, &out->text, where, sizeof(where));
	if (err != 0)
		snprintf(out->why, sizeof(out->why), "reading %s: %s", where, strerror(-err));
	atomic_store(&vol->failed, -EIO); // ends what runs in the background
	fs_destroy_context(fs);
	return err;
}

int look_at(struct bdev *dev, bool passive, struct look *out)
{
	struct volume *vol;
	int err = passive ? check_passively(dev, out->why, sizeof(out->why)) : 0;

	out->text = NULL;
	if (err == 0)
		err = open_volume(dev, &vol, out->why, sizeof(out->why));
	if (err != 0)
		return err;
	out->txn = txn_open_id(vol) - 1;
	err = check_mounted(vol, out->why, sizeof(out->why));
	if (err == 0)
		err = read_tree(vol, out);
	volume_abandon(vol);
	return err;
}

void look_free(struct look *look)
{
	free(look->text);
	look->text = NULL;
}

int look_recover(struct bdev *dev, char *why, size_t why_cap)
{
	struct volume *vol;
	struct fs *fs;
	int err;

	err = open_volume(dev, &vol, why, why_cap);
	if (err != 0)
		return err;
	err = open_fs(vol, &fs, why, why_cap);
	if (err != 0) {
		volume_abandon(vol);
		return err;
	}
	reaper_drain(fs);
	err = txn_commit(vol);
	fs_destroy_context(fs);
	if (err == 0)
		err = volume_close(vol);
	else
		volume_abandon(vol);
	if (err != 0)
		snprintf(why, why_cap, "the mount after the crash: %s", strerror(-err));
	testdev_record(dev, false);
	return err;
}
