// SPDX-License-Identifier: MIT
// The allocator: who gets which blocks. In memory only: no I/O, no SQLite. What changed on the device is the business
// of the transaction (meta/), which tells the allocator when a change has become real.
//
// The life of a block:
//
//              alloc_get                 alloc_commit
//      FREE ---------------> TAKEN ---------------------> OWNED (an extent or a system file names it)
//       ^  <---------------    |                            |
//       |      alloc_put                                    | alloc_free (epoch = transaction)
//       |                                                   v
//       +------------------------------------------------ FREEING
//                     alloc_release(epoch)
//
// TAKEN, OWNED and FREEING blocks are never handed out. TAKEN is "in somebody's hands, not yet named by a transaction";
// FREEING is "freed by a transaction that is not durable": handing it out would let a crash find a live block overwritten.
//
// Metaslabs: the volume is cut into metaslabs of 2^ms_shift blocks. One is loaded (its free map built by asking the
// source) when somebody needs it, and may be dropped again when none of its blocks is TAKEN. A free into an unloaded
// metaslab only counts. FREEING runs are kept per metaslab by the allocator in both states and overlaid at load.
// Neighbouring metaslabs form an arena: one lock, and one engine (engine.h) that knows what is free in it.
//
// Tiers: see doc/ALLOCATOR.md. Streams (below) are the per-file part of the pool.
//
// Locks: internally locked; any thread. Order: source->enter() (the store's lock) → an arena's lock. alloc_get(),
// alloc_trim() and alloc_walk_free() may load, so they must NOT be called with the store's lock held; all other functions
// may be called either way. Blocks out of a stream's window or a word of the pool are had without any lock.
//
// Invariants (checked by alloc_check):
// A1  Each block of a loaded metaslab is exactly one of FREE, TAKEN, OWNED, FREEING; the free map says FREE for the first only.
// A2  free_blk of a metaslab = blocks that the free map says are FREE (loaded: counted). Their sum, what the pool
//     holds (streams' windows, words) and what is being trimmed is the count that users see.
// A3  The engine's own invariants (E1–E3; the hybrid one: H1–H3).
// A4  out_blk of a metaslab = blocks handed out and neither committed nor put back, and what the pool holds or is trimmed there.
//
// Units: blocks. Errors: negative errno; a bad free is -EINVAL, logged with its numbers, and changes nothing.
#ifndef HYBRIDFS_ALLOC_ALLOC_H
#define HYBRIDFS_ALLOC_ALLOC_H

#include <stdbool.h>
#include <stdint.h>

#include "util/attr.h"
#include "util/errmsg.h"
#include "util/run.h"

#define ALLOC_WINDOW_MAX_BLK 1024u // 4 MiB: the largest window of a stream
#define ALLOC_MAX_RUN_BLK (1u << 30)
#define ALLOC_MAX_BLKS (1ull << 40)  // 4 PiB: see alloc_hold.run
#define ALLOC_MS_SHIFT_MIN 12u
#define ALLOC_MS_SHIFT_MAX 30u

struct alloc;
struct alloc_loader;
struct engine_ops;

// Where the truth about a metaslab comes from. A new metaslab is all free; load() tells what is not, or not any more, in
// any order of calls to the two marking functions below (later calls win).
struct alloc_source {
	void (*enter)(void *ctx); // taken before the metaslab's lock, around load()
	void (*leave)(void *ctx);
	int (*load)(void *ctx, uint32_t ms, struct alloc_loader *loader); // 0 or negative errno (-EUCLEAN, -EIO …)
};
int alloc_loader_mark(struct alloc_loader *loader, uint64_t start_blk, uint64_t len_blk, bool used) ATTR_MUST_USE;
// The whole metaslab at once: a bit that is 1 is a used block, one that is 0 changes nothing. Bits beyond the metaslab's end are ignored.
int alloc_loader_mark_used_bits(struct alloc_loader *loader, const uint64_t *used_bits) ATTR_MUST_USE;

struct alloc_config {
	uint64_t n_blks;      // of the volume; at most ALLOC_MAX_BLKS
	uint32_t ms_shift;    // log2 of a metaslab's blocks: ALLOC_MS_SHIFT_MIN … ALLOC_MS_SHIFT_MAX
	uint64_t reserve_blk; // only for requests with ALLOC_USE_RESERVE: keeps metadata and deletes going when full
	const uint64_t *ms_free_blk; // free blocks of each metaslab, n_metaslabs of them; copied
	const struct alloc_source *source;
	void *source_ctx;
	const struct engine_ops *engine; // NULL = the hybrid one; see engine.h
};

int alloc_create(const struct alloc_config *cfg, struct alloc **out) ATTR_MUST_USE;
void alloc_destroy(struct alloc *a);

// A run of free blocks that is set apart. Its owner takes blocks from the front by compare-and-swap, without a lock; the
// allocator may take the rest back at any time in the same way.
struct alloc_hold {
	_Atomic uint64_t run;            // start_blk << 24 | len_blk
	uint64_t home_blk;               // its first block when it was opened; 0: not opened. The owner's.
	struct alloc_hold *prev, *next;  // among those of its arena; under the arena's lock
	bool linked, is_window;          // is in that list; belongs to a stream; under the arena's lock
};

// A stream: one file being written. Keeps its blocks together: remembers where the last ones were and holds a window of
// free blocks after them, which doubles from 16 blocks to ALLOC_WINDOW_MAX_BLK as the stream goes on. Embed it in the
// inode; the caller serialises the uses of one stream, and ends it before its memory or the allocator goes
// away. The allocator may take windows back when space is short.
struct alloc_stream {
	struct alloc *a;          // NULL until first used
	struct alloc_hold window;
	uint64_t goal_blk;        // block after the last one given
	uint32_t window_blk;      // size of the next window
	uint32_t in_order_blk;    // got one behind the other so far; at most ALLOC_WINDOW_MAX_BLK is counted
};
void alloc_stream_init(struct alloc_stream *s);
void alloc_stream_end(struct alloc_stream *s); // gives the window back; the stream may be used again

enum alloc_flags {
	ALLOC_CONTIG = 1 << 0,      // one run or -ENOSPC
	ALLOC_PARTIAL = 1 << 1,     // as many as there are (at least one) instead of -ENOSPC
	ALLOC_USE_RESERVE = 1 << 2, // may use the reserve
};

struct alloc_req {
	uint64_t goal_blk; // wanted start; 0 = none. First the goal is extended, then locality, then best fit, then split.
	uint64_t want_blk; // > 0, at most ALLOC_MAX_RUN_BLK (with ALLOC_PARTIAL: that much at most is given)
	unsigned flags;
	uint32_t locality; // hint: requests of the same value (a directory's inode number, folded) lie near each other; 0 = none
};

// FREE → TAKEN. Appends the runs to `out`: few and large ones first. -ENOSPC: not enough free blocks (nothing taken). `s` may
// be NULL. Without ALLOC_CONTIG it fails only if there are not enough blocks at all.
int alloc_get(struct alloc *a, struct alloc_stream *s, const struct alloc_req *req, struct runlist *out) ATTR_MUST_USE;

// TAKEN → FREE, at once: the blocks were never named by a transaction.
int alloc_put(struct alloc *a, uint64_t start_blk, uint64_t len_blk);

// TAKEN → OWNED: a transaction names them now.
int alloc_commit(struct alloc *a, uint64_t start_blk, uint64_t len_blk);

// OWNED → FREEING. Free again when alloc_release() is called with an epoch >= this one. May cross metaslabs.
int alloc_free(struct alloc *a, uint64_t start_blk, uint64_t len_blk, uint64_t epoch) ATTR_MUST_USE;

// FREEING → FREE of everything freed with an epoch <= this one: its transaction is durable.
void alloc_release(struct alloc *a, uint64_t epoch);

struct alloc_stats {
	uint64_t total_blk, free_blk; // free: FREE, windows and pools included, reserve included
	uint64_t freeing_blk;         // not yet in free_blk
	uint64_t reserve_blk;
	uint32_t n_metaslabs, n_loaded;
	uint64_t memory_bytes;
	const char *engine; // its name
};
void alloc_get_stats(struct alloc *a, struct alloc_stats *out);
void alloc_get_free(struct alloc *a, uint64_t *free_blk, uint64_t *freeing_blk); // these two alone, at next to no cost

// Largest free run of a metaslab: exact if loaded, otherwise 0. Looks at all of its runs: for tests and tools.
uint64_t alloc_largest_run(struct alloc *a, uint32_t ms);

// Calls fn for each free run, by address; loads what is not loaded. Windows and pools are given back first. A non-zero result of fn ends it
// and is returned. fn must not call the allocator.
typedef int (*alloc_free_fn)(void *ctx, uint64_t start_blk, uint64_t len_blk);
int alloc_walk_free(struct alloc *a, alloc_free_fn fn, void *ctx) ATTR_MUST_USE;

// ---- trim ----
//
// Tells the device which blocks hold nothing any more. Only FREE blocks are ever discarded, and nobody is given one while it is.

// From now on the allocator remembers where something becomes FREE, and calls freed() at the end of each alloc_release() in which
// there was something new to remember: with no arena's lock, but it must not call the allocator. NULL: it no longer does either; no call is running.
typedef void (*alloc_freed_fn)(void *ctx);
void alloc_trim_watch(struct alloc *a, alloc_freed_fn freed, void *ctx);

// A walk through [next_blk, end_blk) by address. The caller's; begins with the last three zero.
struct alloc_trim {
	uint64_t next_blk, end_blk; // next_blk moves on; the walk has ended when they are equal
	uint64_t min_blk, max_blk;  // of one discard; shorter free runs are passed over
	bool all;                   // everything that is free, not only what became so since it was last trimmed; loads every metaslab for that
	bool loaded_it;             // the allocator's, as the next
	uint64_t claimed_blk;
};

// One step of the walk: finds the next run, calls discard() for it without any lock that others need, and makes it allocatable again.
// *done_blk: its length; 0 if the search has not found one yet or the walk has ended. Returns discard()'s error (the walk
// goes on behind the run), that of loading a metaslab (likewise), or -EAGAIN: the volume is so full that no block can be spared for the time of a discard.
// One at a time: further callers wait.
typedef int (*alloc_discard_fn)(void *ctx, uint64_t start_blk, uint64_t len_blk);
int alloc_trim(struct alloc *a, struct alloc_trim *t, alloc_discard_fn discard, void *ctx, uint64_t *done_blk) ATTR_MUST_USE;

// While the allocator uses more than limit_bytes: gives windows and words back and drops cold metaslabs until three quarters
// of that are in use (best effort). Costs next to nothing otherwise.
void alloc_shrink(struct alloc *a, uint64_t limit_bytes);

// Recomputes all totals and indexes of the loaded metaslabs. 0, or -EUCLEAN with the first difference in `why`.
// Quiescent callers only (tests, debug builds).
int alloc_check(struct alloc *a, struct errmsg *why) ATTR_MUST_USE;

#endif
