// SPDX-License-Identifier: MIT
// A history: a volume on the recording device, operations done to it and to the model one by one, and after each of them what the tree
// was, which transaction holds it, and what had been promised by then.
//
// Commits happen when the workload asks for them, or when the volume or its log is full; the interval is an hour. After each
// operation the background threads are waited for, so that the same history makes the same log each time (clock.c does the rest). Only
// OP_SYNC_BESIDE, OP_CHECKPOINT_BESIDE and discards run as they like: such histories differ a little from run to run (`varies`).
//
// The process may end in between and another one mount what it has left (OP_REMOUNT): after a clean unmount, or dead at one of the unmount's
// flushes. Then what it had sent without a flush is in the cache of the host, and a crash later on may still take it. If a transaction
// got lost with the process, which is its right when nothing was promised, the history is over there.
//
// H1  steps[i].text is the tree after steps[0 … i]. Step i is part of transactions first … last and of no other; nearly always these are
//     one. Only when something was committed while the operation ran they are two or more, and then the operation is in one of them,
//     or, if `loose`, in several of them a part.
// H2  marks[i]: from this length of the log on a crash must leave at least these steps. (Not: this transaction. One that has changed nothing
//     is durable at once, and no volume will ever name it.)
//
// What a crash may leave when its volume says "transaction n": the text of the last step with last <= n, or of any later step
// with first <= n. No text comes back once it was changed, since ctime goes on.
#ifndef HYBRIDFS_TESTS_CRASH_HISTORY_H
#define HYBRIDFS_TESTS_CRASH_HISTORY_H

#include <pthread.h>

#include "block/testdev.h"
#include "front.h"
#include "fs/fs.h"
#include "model.h"
#include "workload.h"

#define HISTORY_CACHE_BYTES (1u << 20)

struct step {
	uint64_t first, last; // transactions
	uint64_t loose_ino;   // not 0: by contract (fs.h, DESIGN.md) a crash may leave a part of it, in this file
	char *text, *what;
};

struct mark {
	size_t log_len, step;
};

struct history {
	struct bdev *dev; // with its log
	struct front front; // of it; what is mounted
	struct volume *vol; // NULL when the run is over
	struct fs *fs;
	struct model model;
	struct step *steps;
	size_t n_steps;
	struct mark *marks;
	size_t n_marks;
	size_t n_remounts;
	size_t focus;         // from this length of the log on crashes are worth looking at; what was before is preparation
	bool discard;
	bool varies;          // it is not exactly the same each time
	pthread_t syncer;     // of OP_SYNC_BESIDE
	bool syncing;
	pthread_t checkpointer; // of OP_CHECKPOINT_BESIDE
	atomic_bool checkpointed;
	unsigned n_refused;   // operations that both refused, or that did not fit
	unsigned n_full;      // of these the last
	uint64_t checkpoints; // of mounts that have ended
	char why[1024];       // beside -EUCLEAN: how filesystem and model disagree
};

// A volume with the prepared tree, at rest, and its model: what all histories begin with.
struct base {
	struct bdev *dev;
	struct model model;
};

int base_create(uint64_t size_bytes, struct base *out, char *why, size_t why_cap) ATTR_MUST_USE;
void base_free(struct base *base);

// Mounts a copy of the base and records. Errors: negative errno, why.
int history_begin(struct history *h, const struct base *base, bool discard) ATTR_MUST_USE;
// One operation. -EUCLEAN: the filesystem did something else than the model.
int history_do(struct history *h, const struct op *op) ATTR_MUST_USE;
uint64_t history_checkpoints(struct history *h); // restarts of the log so far
// What was done up to now is preparation.
void history_focus(struct history *h);
// Compares the whole tree with the model.
int history_compare(struct history *h) ATTR_MUST_USE;
void history_stop(struct history *h); // pulls the plug; log, steps and marks stay
void history_free(struct history *h);
// The log with what had been promised when, for people.
void history_print(const struct history *h);

// The last step that must be there when the first `log_len` entries of the log have been sent.
size_t history_promised(const struct history *h, size_t log_len);
// The last step that the tree `text` holds, if that may be what transaction `txn` left. Otherwise -1, and `why` says how it differs.
ssize_t history_match(const struct history *h, uint64_t txn, const char *text, char *why, size_t why_cap);

#endif
