// SPDX-License-Identifier: MIT
// A damaged volume, and fsck repairing it, recorded: what a crash leaves of that, another fsck must repair.
#ifndef HYBRIDFS_TESTS_CRASH_REPAIR_H
#define HYBRIDFS_TESTS_CRASH_REPAIR_H

#include "history.h"

// One to three kinds of damage by the seed, on a copy of the base, and a repair in its log. 0, or a negative errno and why.
int repair_record(const struct base *base, uint64_t seed, struct bdev **out, char *why, size_t why_cap) ATTR_MUST_USE;

// A second fsck repairs everything, and then the volume can be mounted and has no problems.
int repair_check(struct bdev *state, char *why, size_t why_cap) ATTR_MUST_USE;

#endif
