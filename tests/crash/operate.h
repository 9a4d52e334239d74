// SPDX-License-Identifier: MIT
// One operation, done to the filesystem and to the model, which must agree on its outcome.
//
// The filesystem may refuse with ENOSPC what the model would do, and write less than asked for; then the model follows.
#ifndef HYBRIDFS_TESTS_CRASH_OPERATE_H
#define HYBRIDFS_TESTS_CRASH_OPERATE_H

#include "fs/fs.h"
#include "model.h"
#include "workload.h"

struct operate_result {
	bool refused;       // nothing has changed
	bool full;          // because there is no space
	uint64_t loose_ino; // see struct step
	uint64_t promised;  // by an fsync: this transaction is durable
	char why[512];
};

// `txn` is open. -EUCLEAN: they disagree.
int operate(struct fs *fs, struct model *m, const struct op *op, uint64_t txn, struct operate_result *res) ATTR_MUST_USE;

#endif
