// SPDX-License-Identifier: MIT
// The crash states of a recorded log: which ones there are, which of them are worth looking at, and how each is made.
//
// A crash comes when the first n entries of the log have been sent. What a flush among them has passed is on the device; of the rest, the
// open epoch, any part may be, in any order:
//
//     prefix      all of it, as it was sent
//     dropped     without one request; in short epochs every subset
//     torn        of one request only the first sectors, or only the last ones; as the last one that was sent, or among all of its epoch
//     sliced      of each request only the first sectors, or only the last ones, as many of all of them: what copies of one thing that are in
//                 flight at once all lose, and an old beginning with a new end behind it
//     reordered   two requests that overlap, the other way round
//     duplicated  a request comes again after others that overlap it (a retry below us)
//     mixed       all of that at random, from a seed, and requests of which sectors or blocks are missing anywhere
//
// Every prefix, and of each epoch the systematic ones up to a bound; then random ones. States are equal when their contents are: each state has
// a digest of the whole device, computed from the log, so a content that was looked at need not be mounted again.
//
// A state is written "KIND:N:A:B". Single-threaded; memory is had.
#ifndef HYBRIDFS_TESTS_CRASH_STATES_H
#define HYBRIDFS_TESTS_CRASH_STATES_H

#include "block/testdev.h"

enum state_kind { STATE_PREFIX, STATE_DROPPED, STATE_TORN, STATE_SLICED, STATE_REORDERED, STATE_DUPLICATED, STATE_MIXED, STATE_N_KINDS };

struct state {
	enum state_kind kind;
	size_t n;      // entries sent
	uint64_t a, b; // dropped: entry, 0; or a mask of those that stay, 1. torn: entry, sectors that stay (from len + 1 on: sectors missing
	               // at the start, less len). sliced: sectors, 0 the first or 1 those behind them. reordered: the entry, and the one behind which it comes. duplicated: entry. mixed: seed
	uint32_t rank; // among its kind, when not all are looked at
};

#define STATE_TEXT_MAX 80u

const char *state_kind_name(enum state_kind kind);
void state_print(const struct state *state, char text[STATE_TEXT_MAX]);
int state_parse(const char *text, struct state *state); // 0 or -EINVAL

struct states {
	struct bdev *dev; // its log is the source; not owned
	struct state *list; // by n
	size_t n_list, n_epochs;
	// For digests, all by sector of the device:
	size_t n_sectors;
	uint64_t *durable; // hashes of what is there before the open epoch
	uint64_t *now;     // of a state under construction, where stamp is this one
	uint32_t *stamp;
	uint32_t generation;
	size_t n_durable;  // entries
	uint64_t digest;   // of durable
};

// All that is worth looking at of crashes when at least `from` entries were sent, at most about `max` of it, chosen by the seed: prefixes go first.
int states_init(struct states *s, struct bdev *dev, size_t from, size_t max, uint64_t seed) ATTR_MUST_USE;
void states_free(struct states *s);

// The content's digest; and the device, if `out` is not NULL. In rising order of n, this is fast. -EINVAL: the log has no such state.
int states_make(struct states *s, const struct state *state, uint64_t *digest, struct bdev **out) ATTR_MUST_USE;

// The device as a process leaves it that dies after n requests, without a power failure: what the open epoch has sent is there, but may
// still get lost. So the log of the new device begins with that; it is recording.
int states_replay(struct states *s, size_t n, struct bdev **out) ATTR_MUST_USE;

#endif
