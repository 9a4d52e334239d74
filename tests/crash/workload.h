// SPDX-License-Identifier: MIT
// What is done to the volumes: operations as data, the prepared tree, and the histories by their names.
//
//     ace:OP:PERSIST   one operation of the table, then a way to make it durable, then a small operation without one
//     two:SEED         two operations of the table and two ways
//     grow:SEED        large attributes, so that database and log outgrow their places and the superblock changes
//     log:SEED         what the log goes through: it starts anew, a checkpoint runs beside a commit, a process dies at one of the flushes of
//                      its unmount and the next one begins with what is in the host's cache; crashes from there on
//     long:SEED        hundreds of random operations with commits, restarts of the log, and, by the seed, a full volume, discards, or
//                      commits beside the operations
//
// (The bound, all short sequences of operations and ways to persist them on a small tree, is that of CrashMonkey and ACE, OSDI 2018.)
#ifndef HYBRIDFS_TESTS_CRASH_WORKLOAD_H
#define HYBRIDFS_TESTS_CRASH_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

enum op_kind {
	OP_MKNOD, // regular files, too
	OP_MKDIR, OP_RMDIR, OP_SYMLINK, OP_LINK, OP_UNLINK, OP_RENAME,
	OP_TMPFILE, // without a name, then written, then named: so it is there as a whole or not at all. With `to` it gets no name
	OP_TRUNCATE, OP_WRITE, OP_APPEND, OP_FALLOCATE, OP_COPY,
	OP_CHMOD, OP_CHOWN, OP_UTIMENS, OP_SETXATTR, OP_REMOVEXATTR,
	OP_FSYNC, OP_SYNC,
	OP_SYNC_BESIDE, // another thread begins to sync, and operations go on
	OP_CHECKPOINT_BESIDE, // a sync, and when it is at its first flush another thread checkpoints
	OP_GROW_DATABASE, // by len blocks, as a commit does that has left too little room: the superblock changes
	OP_REMOUNT,     // arg: 0 a clean unmount; n: the process dies at its n-th flush. Then the next mount
};

struct op {
	enum op_kind kind;
	const char *name; // in the table and in messages
	char path[48];
	char to[48];   // the second path of link, rename, copy; the target of symlink; the name of an xattr
	uint64_t off, len;
	unsigned arg;  // mode, flags, fallocate's mode
	unsigned seed; // of the bytes
};

// The prepared tree, as operations: op i, or NULL.
const struct op *workload_prepare(unsigned i);

// The table of single operations and the ways to make one durable.
unsigned workload_n_ops(void);
const struct op *workload_op(unsigned i);
unsigned workload_n_persists(void);
const char *workload_persist_name(unsigned i);

struct history;
struct base;

// Runs the history of this name, from history_begin() to history_stop(). -EINVAL: no such name.
int workload_run(const char *name, const struct base *base, struct history *h);

// xorshift64*
static inline uint64_t rnd_next(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545F4914F6CDD1Dull;
}
static inline uint64_t rnd_below(uint64_t *state, uint64_t n) { return rnd_next(state) % n; }
static inline uint64_t rnd_seeded(uint64_t seed)
{
	uint64_t state = (seed + 1) * 0x9E3779B97F4A7C15ull;

	(void)rnd_next(&state);
	return state;
}

#endif
