// SPDX-License-Identifier: MIT
// Looking at a device after a crash: mount it, check it, read it; and doing to it what people do then, recorded.
//
// All in process: the volume is opened as the daemon opens it, the check is all phases of fsck with its answer "no".
#ifndef HYBRIDFS_TESTS_CRASH_LOOK_H
#define HYBRIDFS_TESTS_CRASH_LOOK_H

#include "block/testdev.h"
#include "meta/volume.h"

#define LOOK_WHY_MAX 16384u

struct look {
	uint64_t txn; // the last committed transaction, as the volume says before a new one
	char *text;   // the whole tree (listing.h)
	char why[LOOK_WHY_MAX];
};

// Mounts, which recovers; fsck must find nothing; reads the tree. `passive`: before that, fsck on the volume as it lies there, opened
// read-only, and the device must not be written. The device is changed. 0, or a negative errno and why.
int look_at(struct bdev *dev, bool passive, struct look *out) ATTR_MUST_USE;
void look_free(struct look *look);

// A mount from its beginning to a clean unmount; if the device is recording, it stops then.
int look_recover(struct bdev *dev, char *why, size_t why_cap) ATTR_MUST_USE;

// fsck in process, with all repairs if `repair`. 0 and what it has left (without `repair`: but for torn copies of the superblock); otherwise it could not go on.
int look_fsck(struct bdev *dev, bool repair, uint64_t *n_fixed, uint64_t *n_left, char *why, size_t why_cap) ATTR_MUST_USE;

#endif
