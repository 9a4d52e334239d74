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
//
// Tiers: see doc/ALLOCATOR.md. Streams (below) are the per-file part of the pool.
//
// Locks: internally locked; any thread. Order: source->enter() (the store's lock) → a metaslab's lock. alloc_get() may
// load, so it must NOT be called with the store's lock held; all other functions may be called either way.
//
// Invariants (checked by alloc_check):
// A1  Each block of a loaded metaslab is exactly one of FREE, TAKEN, OWNED, FREEING; the free map says FREE for the first only.
// A2  free_blk of a metaslab = number of FREE blocks (loaded: counted from its bitmap). The volume's count is their sum.
//     Blocks in streams' windows and in pools are still FREE in the counts that users see.
// A3  Every span of 1 MiB in which free runs start stands in the size index exactly once, in the bin of the longest of
//     them. (Shorter ones in the same span are found in the span's own bits.)
// A4  taken_blk of a metaslab = blocks handed out and neither committed nor put back.
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

struct alloc;
struct alloc_loader;

// Where the truth about a metaslab comes from. A new metaslab is all free; load() tells what is not, or not any more, in
// any order of calls to the two marking functions below (later calls win).
struct alloc_source {
	void (*enter)(void *ctx); // taken before the metaslab's lock, around load()
	void (*leave)(void *ctx);
	int (*load)(void *ctx, uint32_t ms, struct alloc_loader *loader); // 0 or negative errno (-EUCLEAN, -EIO …)
};
int alloc_loader_mark(struct alloc_loader *loader, uint64_t start_blk, uint64_t len_blk, bool used) ATTR_MUST_USE;

struct alloc_config {
	uint64_t n_blks;      // of the volume
	uint32_t ms_shift;    // log2 of a metaslab's blocks
	uint64_t reserve_blk; // only for requests with ALLOC_USE_RESERVE: keeps metadata and deletes going when full
	const uint64_t *ms_free_blk; // free blocks of each metaslab, n_metaslabs of them; copied
	const struct alloc_source *source;
	void *source_ctx;
};

int alloc_create(const struct alloc_config *cfg, struct alloc **out) ATTR_MUST_USE;
void alloc_destroy(struct alloc *a);

// A stream: one file being written. Keeps its blocks together: remembers where the last ones were and holds a window of
// free blocks after them, which doubles from 16 blocks to ALLOC_WINDOW_MAX_BLK as the stream goes on. Embed it in the
// inode; the caller serialises the uses of one stream, and ends it before its memory or the allocator goes
// away. The allocator may take windows back when space is short.
struct alloc_stream {
	struct alloc *a;                  // NULL until first used
	struct alloc_stream *prev, *next; // the allocator's list of streams with a window
	struct run window;                // protected by the allocator (start_blk: written by the caller's thread only)
	uint64_t goal_blk;                // block after the last one given
	uint32_t window_blk;              // size of the next window
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
};
void alloc_get_stats(struct alloc *a, struct alloc_stats *out);
void alloc_get_free(struct alloc *a, uint64_t *free_blk, uint64_t *freeing_blk); // these two alone, at next to no cost

// Largest free run of a metaslab: exact if loaded, otherwise 0. A hint for the metaslab's row.
uint64_t alloc_largest_run(struct alloc *a, uint32_t ms);

// Gives back windows and pools and drops cold metaslabs until memory_bytes <= target (best effort).
void alloc_shrink(struct alloc *a, uint64_t target_bytes);

// Recomputes all totals and indexes of the loaded metaslabs. 0, or -EUCLEAN with the first difference in `why`.
// Quiescent callers only (tests, debug builds).
int alloc_check(struct alloc *a, struct errmsg *why) ATTR_MUST_USE;

#endif
