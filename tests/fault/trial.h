// SPDX-License-Identifier: MIT
// One run of a scenario, with or without a fault, and everything that must be true after it (trial.c, judge.c).
//
//   start image --> armed part: format | open, operations, close | fsck --> disarmed --> judge
//
// The reference is a run without faults: the tree after each operation, and what each read. A run with a fault is held against it:
//
// R1  An operation answers 0 or a clean errno. Without a fault so far: 0, and it reads what it read in the reference.
// R2  When an operation failed and the volume goes on, the tree is as before it or as after it; and it works when it is tried again.
// R3  When the volume has failed, nothing that changes anything works any more, everything can still be read, and after a failed write
//     or flush no other reaches the device.
// R4  Whatever is left on the medium, as it is and without what was not flushed: fsck -n finds nothing, it mounts, and the tree
//     is the one after some operation, from the last durable one to the one that failed.
// R5  No memory is lost.
// R6  A check says what it said without the fault, or that it could not be carried out; a repair that was interrupted is finished by
//     the next one.
#ifndef HYBRIDFS_TESTS_FAULT_TRIAL_H
#define HYBRIDFS_TESTS_FAULT_TRIAL_H

#include "inject.h"
#include "tree.h"
#include "workload.h"

#define STEPS_MAX 64
#define WHY_BYTES 8192

struct step {
	const struct op *op;
	unsigned round;
};

struct reference {
	const struct scenario *sc;
	struct bdev *start;               // the image that runs begin with
	struct step step[STEPS_MAX];
	unsigned n_steps;
	struct text tree[STEPS_MAX + 1];  // before each step; the last one: at the end
	uint64_t digest[STEPS_MAX];
};

struct trial {
	const struct reference *ref;
	struct reference *make;  // the reference that this run makes, or NULL
	struct bdev *dev;
	struct volume *vol;
	struct work work;
	unsigned at;             // the step that is next, or the one that failed
	unsigned low, high;      // trees that may be found on the medium
	const struct op *partial; // the operation at `high - 1` that may have been done in part, or NULL
	char *why;               // WHY_BYTES; "" = everything is as it should be
};

// Says what is wrong; the first one counts. Always false.
bool fault_wrong(struct trial *trial, const char *fmt, ...) ATTR_PRINTF(2, 3);

// Makes the reference, and the image that the next scenario begins with.
bool run_reference(const struct scenario *sc, struct bdev *start, struct reference *ref, struct bdev **next, char *why);

// One run by the plan that is armed (inject_arm() or inject_record() was called, then inject_disarm()): false with `why`.
bool run_case(const struct reference *ref, char *why);

// ---- judge.c ----

struct bdev *fault_clone(struct bdev *dev, bool only_durable);
int fault_fsck(struct bdev *dev, const char *mode); // in process: its exit status
bool fault_is_clean_errno(int err);
int fault_open(struct trial *trial, struct bdev *dev, const struct scenario *sc);
bool judge_live(struct trial *trial);   // R3, reading part: of a volume that is still open
bool judge_medium(struct trial *trial); // R4
bool judge_image(struct trial *trial, struct bdev *image, const char *what); // the same of one image
bool judge_device(struct trial *trial); // R3: nothing after the failure

#endif
