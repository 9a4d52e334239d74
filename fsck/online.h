// SPDX-License-Identifier: MIT
// The check of a mounted volume, for its daemon: the phases of fsck over a snapshot (volume.h), and the report of what a scrub has found.
//
// Nothing is repaired. What is found is damage, and not what is going on just now: the snapshot is one commit, and each commit is whole.
//
// One thread, which holds no lock of the live volume and waits for nothing that it does. When the volume changes so fast that its log has become too
// long, the snapshot is taken away: the check begins anew if nothing was found by then, ONLINE_TRIES times in all.
//
// Errors: negative errno, with f.why. -EINTR: stop() has said so.
#ifndef HYBRIDFS_FSCK_ONLINE_H
#define HYBRIDFS_FSCK_ONLINE_H

#include "fsck/damage.h"
#include "fsck/fsck.h"

#define ONLINE_TRIES 5u

struct online { // zero-initialised, then:
	struct volume *live;
	bool (*stop)(void *ctx); // asked often, on the thread that checks; the user wants the end
	void *ctx;
	struct fsck f;           // to be set: out, verbose, progress. For reading: n_left, sb, and the numbers for the summary
	// private
	volatile sig_atomic_t stopped; // what stop() has said last
};

int online_check(struct online *o) ATTR_MUST_USE;
bool online_stopping(struct online *o);
bool online_is_revoked(const struct online *o); // a snapshot is open and shall be closed at once: commits wait for that. Its thread only

// Numbers of regular files that have blocks, ascending, above `after`: at most `max`, *n says how many, 0 = no more.
int online_next_files(struct online *o, uint64_t after, uint64_t *inos, unsigned max, unsigned *n) ATTR_MUST_USE;

int online_report_damage(struct online *o, struct damage_list *list, uint64_t read_blk, uint64_t skipped_files) ATTR_MUST_USE;

#endif
