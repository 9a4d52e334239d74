// SPDX-License-Identifier: MIT
// An engine: the free map of one arena and the choice of the run that serves a request. Here the published allocators of
// the field stand beside the hybrid one, behind the same functions, so that they can be tested against one reference,
// measured in one run (bench/alloc) and chosen at mount (-o alloc=NAME).
//
// An engine knows which blocks are FREE and nothing else: states, counts, epochs, pools and loading are the arena's business.
//
// Units: blocks, relative to the arena, 32 bits: an arena has at most ENGINE_MAX_BLK of them. Ranges are (start, len).
// Parts: an arena is opened part by part (metaslabs: multiples of 2^part_shift). Blocks in a part that is not open are used.
// A free run never crosses the border of a part.
// Lock: the caller holds the arena's lock, except for create, destroy and may_have.
// Errors: only open and reserve can fail, with -ENOMEM. Arguments were validated by the caller; an engine ASSERTs.
//
// Invariants (held against a naive reference in tests/unit/check_engine.c, and by check):
// E1  A block is free exactly if it was free when its part was opened or was given since, and was not taken since.
// E2  Runs are maximal: two free neighbours in the same part belong to one run.
// E3  longest() finds a run if any block is free. find(FIT_BEST) finds one of at least len blocks if there is one.
#ifndef HYBRIDFS_ALLOC_ENGINE_H
#define HYBRIDFS_ALLOC_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"
#include "util/errmsg.h"

#define ENGINE_MAX_BLK (UINT32_MAX - 1)
#define EXTENT_MAX_BLK 1024u // 4 MiB: the longest extent of a file; see FIT_SPARE

// A range inside an arena or a metaslab; len 0 = none.
struct mrun {
	uint32_t start, len;
};

static inline uint32_t mrun_end(struct mrun r) { return r.start + r.len; }

// How tight a run has to be, from the best to the last resort. An engine that has a policy of its own implements FIT_BEST.
enum engine_fit {
	FIT_EXACT,   // a run of just this length
	FIT_SPARE,   // one whose rest can still serve any request of one extent
	FIT_BEST,    // one of at least this length, if there is one (E3)
	FIT_LARGEST, // the same, but from the longest run that there is
	N_FITS
};

struct engine_config {
	uint32_t n_blk;      // of the arena
	uint32_t part_shift; // log2 of a part's blocks
};

struct engine; // each engine embeds it as its first member

struct engine_ops {
	const char *name;
	const char *about; // one line for --help
	unsigned fits;     // bit mask of the enum engine_fit values that find() tells apart; always with FIT_BEST
	bool in_place;     // needs no memory for give and take: reserve always succeeds

	int (*create)(const struct engine_config *cfg, struct engine **out); // no part is open; sets engine.ops
	void (*destroy)(struct engine *e);

	// Opens the part at `start` (len: its blocks): a bit that is 1 is a free block. Bits beyond len are 0.
	int (*open)(struct engine *e, uint32_t start, uint32_t len, const uint64_t *free_bits);
	void (*close)(struct engine *e, uint32_t start, uint32_t len);
	// Gets memory so that n more calls of give or take cannot fail. Asked anew before each burst, never cumulative.
	int (*reserve)(struct engine *e, uint32_t n);

	void (*give)(struct engine *e, uint32_t start, uint32_t len);  // used → free, inside one part
	// free → used, a part of `run`, which a function below has returned since the last change.
	void (*take)(struct engine *e, struct mrun run, uint32_t start, uint32_t len);

	// find and take in one: tries the fits of the mask in their order, takes len blocks from the front of the run. False: none fits.
	// NULL: the caller does it by find and take. Only engines that are in_place have it: nobody has called reserve.
	bool (*grab)(struct engine *e, uint32_t len, unsigned fits, uint32_t *start);

	// Somebody is about to look at this range or to give it. Without the lock. May be NULL.
	void (*prefetch)(const struct engine *e, uint32_t start, uint32_t len);
	bool (*any_free)(const struct engine *e, uint32_t start, uint32_t len);
	struct mrun (*run_at)(struct engine *e, uint32_t blk);         // the run around a block; len 0: it is used
	struct mrun (*next_run)(struct engine *e, uint32_t from);      // first run that ends behind `from`, by address
	// A run of at least len blocks, to be taken from its start (so it may be the rest of a run, from a cursor on); len 0: none.
	struct mrun (*find)(struct engine *e, uint32_t len, enum engine_fit fit);
	// Within 1/8 of the longest if that is at least 256 blocks; else some run.
	struct mrun (*longest)(struct engine *e);

	// Whether find(len, fit) could succeed: false is certain unless somebody gives meanwhile; for FIT_EXACT and FIT_SPARE
	// nearly so. Without the lock.
	bool (*may_have)(const struct engine *e, uint32_t len, enum engine_fit fit);
	// Not much less (1/8) than what longest() would return; may be more until that is called. Without the lock.
	uint32_t (*longest_hint)(const struct engine *e);
	size_t (*bytes)(const struct engine *e);                       // memory in use. Without the lock.
	int (*check)(struct engine *e, struct errmsg *why);            // recomputes every index: 0 or -EUCLEAN, -ENOMEM
};

struct engine {
	const struct engine_ops *ops;
};

extern const struct engine_ops engine_hybrid; // buddy.c: pool → slab → buddy, see doc/ALLOCATOR.md
extern const struct engine_ops engine_df;     // ZFS: dynamic fit
extern const struct engine_ops engine_cf;     // ZFS: cursor fit
extern const struct engine_ops engine_ndf;    // ZFS: new dynamic fit (clumps)
extern const struct engine_ops engine_avl;    // Ceph: first fit from an aligned cursor, then best fit
extern const struct engine_ops engine_stupid; // Ceph: interval sets in bins of powers of two
extern const struct engine_ops engine_bitmap; // bits under a tree of (start, longest, end) summaries

extern const struct engine_ops *const engines[]; // all of them, the default first; ends with NULL
const struct engine_ops *engine_by_name(const char *name); // NULL = there is none

#endif
