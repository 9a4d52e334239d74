// SPDX-License-Identifier: MIT
// The device on which a history mounts its volume: a thin front of the recording one. It can let something happen between a request and the
// flush after it, which a device in memory is too fast for, and it can be a process that dies: from a chosen flush on nothing is sent any
// more, and what was sent before stays in the cache of the host.
#ifndef HYBRIDFS_TESTS_CRASH_FRONT_H
#define HYBRIDFS_TESTS_CRASH_FRONT_H

#include "block/bdev.h"

struct front {
	struct bdev dev;    // what the volume sees
	struct bdev *below; // not owned
	void (*at_flush)(void *ctx); // called by the next flush before it goes on, once; NULL = nothing. Set while no flush is under way
	void *ctx;
	atomic_bool armed;  // at_flush is still to be called
	atomic_int flushes_left; // the one after these fails, and with it the device; negative: none does
};

void front_init(struct front *f, struct bdev *below); // nothing to free
void front_arm(struct front *f, void (*at_flush)(void *ctx), void *ctx);
bool front_disarm(struct front *f); // true: it was called
void front_die_after(struct front *f, int flushes);
void front_revive(struct front *f); // the next process

#endif
