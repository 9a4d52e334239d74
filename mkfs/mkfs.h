// SPDX-License-Identifier: MIT
// mkfs.hybridfs: what its parts share. The order of work is
//
//     options (main.c) → target_open: lock, look, refuse → target_wipe → volume_format → populate → summary
//
// Nothing is written before target_open() has agreed, and a run that fails leaves nothing that mounts: a created image is
// removed, on anything else the superblocks are zeros (target_fail).
//
// Single-threaded, apart from the threads that a volume has while it is being filled. Errors: negative errno with `why`.
#ifndef HYBRIDFS_MKFS_MKFS_H
#define HYBRIDFS_MKFS_MKFS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "block/bdev.h"
#include "util/attr.h"
#include "util/errmsg.h"

struct mkfs_config {
	const char *device;
	const char *label;   // NULL = none
	const char *dir;     // fill from here; NULL = empty volume
	uint8_t uuid[16];
	uint64_t size_bytes; // 0 = all of the device
	bool force, dry_run, quiet, verbose, keep_blocks;
	const volatile sig_atomic_t *stop; // set when the user wants to end
};

// ---- target.c: the device or image that becomes a volume ----

struct target {
	struct bdev *dev;      // NULL in a dry run for an image that does not exist
	uint64_t volume_bytes; // what the volume will use
	bool created;          // the image did not exist before
	bool was_blank;        // nothing to wipe: just created
};

// Opens, locks and, if asked for with a size, creates. Refuses what is mounted or in use, read-only, too small, or holds
// something, the last unless cfg->force.
int target_open(const struct mkfs_config *cfg, struct target *t, struct errmsg *why) ATTR_MUST_USE;

// Removes the signatures of whatever was there, so that no prober sees it beside the new volume.
int target_wipe(const struct mkfs_config *cfg, struct target *t, struct errmsg *why) ATTR_MUST_USE;

// After an error: see above. target_close() follows.
void target_fail(const struct mkfs_config *cfg, struct target *t);
void target_close(struct target *t);

// ---- target_probe.c: what is on it already ----

#define PROBE_TEXT_LEN 256

// Fills `found` with words like: an ext4 filesystem labelled "x". 1 = something is there, 0 = nothing known, negative errno.
int probe_content(struct bdev *dev, char found[PROBE_TEXT_LEN], struct errmsg *why) ATTR_MUST_USE;

// The loop device that has this image as its backing file, if any: "/dev/loop3".
bool probe_loop_user(const char *path, char *loop, size_t cap);

// Zeros the superblocks of a HybridFS volume, then all that libblkid knows.
int probe_wipe(struct bdev *dev, struct errmsg *why) ATTR_MUST_USE;
int probe_wipe_superblocks(struct bdev *dev) ATTR_MUST_USE;

#endif
