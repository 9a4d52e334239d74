// SPDX-License-Identifier: MIT
// Fuzz target: the bytes say how a small volume is damaged (damage.h); then it is mounted and used, repaired, and used
// again.
//
// What must hold: no crash and no sanitizer's word; each answer is 0 or an errno; nothing is written where it must not
// be (guard.h); what fsck -y has repaired without a rest is clean for the next fsck and does not stop a mount.
//
// FUZZ_VERBOSE=1: what fsck and the damage's SQL say.
#include <stdio.h>
#include <stdlib.h>

#include "block/testdev.h"
#include "damage.h"
#include "exercise.h"
#include "fuzz.h"
#include "guard.h"
#include "prepared.h"
#include "util/log.h"

// Made once in a process: the function has no argument through which it could come.
static struct bdev *prepared(void)
{
	static struct bdev *dev;

	if (dev == NULL) {
		bool verbose = getenv("FUZZ_VERBOSE") != NULL;

		msg_open("fuzz", verbose ? MSG_TO_STDERR : MSG_TO_NOWHERE, MSG_DEBUG);
		dev = prepared_create();
	}
	return dev;
}

static void check_repairs(struct bdev *dev)
{
	struct repair first, second;
	struct exercise look;

	if (exercise_fsck(dev, &first) != 0 || first.n_left > 0)
		return;
	if (first.n_fixed > 0) { // else the second one would see what the first one has seen
		REQUIRE(exercise_fsck(dev, &second) == 0);
		REQUIRE(second.n_fixed == 0 && second.n_left == 0);
	}
	exercise_mount(dev, false, &look);
	REQUIRE(look.opened && look.n_damaged == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct exercise used;
	struct bdev *damaged, *dev;

	REQUIRE(testdev_clone(prepared(), &damaged) == 0);
	damage_apply(damaged, data, size);
	// By turns of the input's length, so that fsck meets the damage itself, too, not only what using it has left.
	dev = guard_create(damaged);
	if (size % 2 == 0)
		exercise_mount(dev, true, &used);
	check_repairs(dev);
	bdev_close(dev);
	return 0;
}
