// SPDX-License-Identifier: MIT
// Everything that is done to a volume of which nothing is known: it is mounted, each operation is called on each file,
// it is checked and repaired.
#ifndef HYBRIDFS_TESTS_FUZZ_EXERCISE_H
#define HYBRIDFS_TESTS_FUZZ_EXERCISE_H

#include <stdbool.h>
#include <stdint.h>

#include "block/bdev.h"

// Opens read-write as the daemon does, if it can be opened. Walks the tree and calls all operations of fs.h on what is
// found; `change` = false: only those that read. Every answer must be 0 or an errno. What came out: how many answers
// said -EUCLEAN.
struct exercise {
	bool opened;
	unsigned n_files, n_damaged;
};
void exercise_mount(struct bdev *dev, bool change, struct exercise *out);

// fsck -y. 0: it came to its end; the counts are those of its exit status.
struct repair {
	uint64_t n_fixed, n_left; // n_left without files that only their owner can restore
};
int exercise_fsck(struct bdev *dev, struct repair *out) ATTR_MUST_USE;

#endif
