// SPDX-License-Identifier: MIT
// fsck.hybridfs: what its parts share.
//
// Phases run one after another over one volume (the table is in phases.c). Each reads its tables in the order of their keys
// and merges them, so that nothing is looked up row by row; what must be known about all inodes at once is kept in two
// arrays (inotab.h) and one bit per block (blockmap.h).
//
// The database itself, if it is damaged, is written anew in free space from all rows that can still be read (salvage.c).
//
// Other repairs are SQL statements in the volume's own transactions, each of which leaves a volume that is no worse than before:
// an fsck that is killed can be run again. A repair may be followed by another problem that it brings to light (an extent is
// removed, so its blocks are lost, so the space map is rebuilt); the order of the phases sees to it that one run ends clean.
//
// A mounted volume is checked by its daemon, on a snapshot of it (online.h): the same phases, in the mode that answers no to everything.
//
// Single-threaded; the store's lock and a transaction handle are held from fsck_begin() to fsck_end(). Errors: a negative
// errno means that fsck cannot go on (exit 8), never that the volume is damaged.
#ifndef HYBRIDFS_FSCK_FSCK_H
#define HYBRIDFS_FSCK_FSCK_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "block/bdev.h"
#include "block/superblock.h"
#include "fsck/blockmap.h"
#include "fsck/inotab.h"
#include "fsck/problem.h"
#include "fsck/progress.h"
#include "fsck/shared.h"
#include "fsck/space.h"
#include "meta/volume.h"
#include "util/attr.h"

enum fsck_mode { FSCK_ASK, FSCK_NO, FSCK_PREEN, FSCK_YES };

enum fsck_exit { // or-able, as fsck(8) has them
	EXIT_CLEAN = 0,
	EXIT_CORRECTED = 1,
	EXIT_LEFT = 4,
	EXIT_OPERATIONAL = 8,
	EXIT_USAGE = 16,
	EXIT_CANCELLED = 32,
};

struct fsck {
	// the command line
	const char *device;
	enum fsck_mode mode;
	bool force, verbose, scrub;
	bool online;          // the volume is a snapshot of a mounted one
	FILE *out;            // what is found; NULL = standard output

	// the volume
	struct bdev *dev;
	struct superblock sb; // as found before the volume was opened
	struct volume *vol;   // NULL until then
	struct errmsg why;    // beside a negative errno

	// what came out
	uint64_t n_fixed, n_left;
	uint64_t n_damaged; // of n_left: files that only their owner can restore
	bool give_up;                       // -p met something serious
	const volatile sig_atomic_t *stop;  // SIGINT, SIGTERM
	struct progress progress;

	// what the phases know (freed by fsck_free)
	bool db_damaged; // its rows cannot be relied on: no further phase
	bool rebuild;    // … and its owner wants it rebuilt
	bool rebuilt;    // it was
	bool has_root;
	struct inotab inodes;
	struct dirtab dirs;
	struct blockmap owned;  // blocks that extents of files name
	struct blockmap summed; // those that have a checksum: of written extents of files that are not INODE_NODATACOW
	struct shared_list shared; // what two extents claim
	uint64_t n_deferred;    // rows of table deferred that are sound: blocks whose place on the device is out of date
	uint64_t lost_found;   // its inode number, 0 = not needed so far
	uint64_t n_inodes;     // for the summary
	uint64_t used_blk;     // for the summary: of files
	uint64_t summed_blk;   // of these, with checksums

	// free space for repairs, when it is known what is free (phase 5)
	bool has_space;
	struct space space;

	// the open batch of repairs
	bool locked;       // it holds the store's lock: from fsck_begin() to fsck_end(), which may fail in the middle of a phase
	uint64_t txn;      // its transaction's number
	uint64_t last_txn; // no row may be of a later one
	unsigned changes;  // statements in it
};

static inline FILE *fsck_out(const struct fsck *f) { return f->out != NULL ? f->out : stdout; }

static inline bool fsck_repairs(const struct fsck *f) { return f->vol != NULL && !f->vol->read_only; }

// The user or a serious problem wants the end: phases return 0 at their next row.
static inline bool fsck_stopping(const struct fsck *f) { return f->give_up || *f->stop != 0; }

// ---- phases.c ----
int fsck_check(struct fsck *f) ATTR_MUST_USE;    // all phases
bool fsck_looks_clean(struct fsck *f);           // what -p does to a volume without known errors
void fsck_free(struct fsck *f);
int fsck_read_last_txn(struct fsck *f) ATTR_MUST_USE;
bool fsck_report_copies(struct fsck *f, const struct sb_scan *scan); // of the superblock; true if one is to be rewritten
void fsck_print_summary(const struct fsck *f, bool quick);
int fsck_exit_status(const struct fsck *f, int err); // enum fsck_exit, added up

// ---- one phase each ----
int phase_superblock(struct fsck *f) ATTR_MUST_USE; // before the volume is open
int phase_database(struct fsck *f) ATTR_MUST_USE;
int phase_inodes(struct fsck *f) ATTR_MUST_USE;
int phase_space(struct fsck *f) ATTR_MUST_USE;
int phase_data(struct fsck *f) ATTR_MUST_USE;
int phase_names(struct fsck *f) ATTR_MUST_USE;
int phase_tree(struct fsck *f) ATTR_MUST_USE;
int phase_counts(struct fsck *f) ATTR_MUST_USE;

// ---- salvage.c ----
// Writes the database anew from what can be read of the old one. The volume is not open. False in *done: there was nothing to be read, or no
// room; the volume is as it was, and why has been said.
int salvage(struct fsck *f, bool *done) ATTR_MUST_USE;

// ---- scrub.c ----
int scrub(struct fsck *f) ATTR_MUST_USE; // after the phases; the volume is open, no transaction

// ---- lostfound.c ----
// Gives the inode a name in /lost+found, which is made if there is none. inodes and dirs are kept up to date.
int lostfound_add(struct fsck *f, uint64_t ino) ATTR_MUST_USE;

#endif
