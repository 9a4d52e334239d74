// SPDX-License-Identifier: MIT
// Crash states of one history held against the contract (doc/DESIGN.md, design goals of prefix consistency and durability):
//
// J1  It mounts; fsck finds nothing; every file reads.
// J2  Its tree is that of the transaction that the volume names as its last one (history_match).
// J3  This tree is no older than what had been promised when the last request was sent (history_promised).
// J4  The same holds for a crash during the mount after the crash. After a power failure the tree stays the one that the first mount showed.
//     (After the death of the process alone, a power failure may still take what it had not flushed.)
// J5  What a crash leaves of a repair, another fsck repairs.
#ifndef HYBRIDFS_TESTS_CRASH_JUDGE_H
#define HYBRIDFS_TESTS_CRASH_JUDGE_H

#include <stdatomic.h>

#include "history.h"
#include "look.h"
#include "states.h"

struct counts { // shared by processes
	atomic_uint_fast64_t histories, steps, refused, full, checkpoints, remounts, epochs;
	atomic_uint_fast64_t by_kind[STATE_N_KINDS]; // mounted and compared
	atomic_uint_fast64_t recoveries, in_recovery; // mounts recorded; states of them
	atomic_uint_fast64_t repairs, in_repair;
	atomic_uint_fast64_t passive; // states that fsck has also seen unmounted
	atomic_uint_fast64_t equal;   // states whose content had been looked at
};

uint64_t counts_states(const struct counts *c); // all that were looked at

// Where a process is, so that whoever finds it dead or stuck can say how to get there again.
struct place {
	char history[64], state[STATE_TEXT_MAX], inner[STATE_TEXT_MAX];
	atomic_uint_fast64_t progress;
};

struct judge {
	struct counts *counts;
	struct place *place;
	const struct base *base;
	uint64_t seed;
	const char *only_state, *only_inner; // look at these; NULL = at all
	bool print_log;
	const char *save;                    // file for the device of a failure; NULL = none, if the history can be had again
	bool varies;                         // the present one cannot, not exactly
	char saved[128];                     // the device of the failure is in this file; "" = in none
	char why[LOOK_WHY_MAX + 256];
};

// Runs a history by its name (workload.h, or repair:SEED) and looks at about `max` of its states. 0, or -1 and j->why.
int judge_history(struct judge *j, const char *name, size_t max) ATTR_MUST_USE;

#endif
