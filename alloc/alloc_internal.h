// SPDX-License-Identifier: MIT
// Inside the allocator, above the engines. doc/ALLOCATOR.md tells how the parts work together; in one picture:
//
//      alloc.c    public functions: validation, ranges over metaslabs, epochs, streams
//      get.c      one alloc_get: window → goal → word → arenas → several pieces
//      arena.c    which arena serves a request, and where in it
//      pool.c     top tier: streams' windows and words for small requests, and taking them back
//      escrow.c   the volume's count of free blocks, spread over the arenas
//      metaslab.c one metaslab: load, unload, and the changes of state of its blocks, with the counts
//      limbo.c    blocks that are FREEING, by epoch
//      lock.c     an arena's lock
//      trim.c     what became free and is to be discarded, and blocks that are being discarded
//      check.c    alloc_check
//      engines.c  the list of engines; below them buddy.c, slab.c, bins.c (hybrid.h) and engine_*.c
//
// Block numbers named abs are the volume's. Others are relative to their arena (as engine.h has them), or to their
// metaslab where `struct mrun` is called r.
//
// Locks, in order: trim_lock → the store's (source->enter) → release_lock → arenas' locks (several only by ascending number) →
// pending_lock. All functions below that take an arena or a metaslab want the arena's lock held, unless they say otherwise.
#ifndef HYBRIDFS_ALLOC_ALLOC_INTERNAL_H
#define HYBRIDFS_ALLOC_ALLOC_INTERNAL_H

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#if __has_include(<sys/rseq.h>) && __has_builtin(__builtin_thread_pointer)
#include <sys/rseq.h>
#define CPU_IS_SHARED
#endif

#include "alloc/alloc.h"
#include "alloc/bits.h"
#include "alloc/engine.h"
#include "alloc/lock.h"
#include "util/blk.h"

#define SMALL_MAX_BLK 16u      // larger requests do not use words
#define WORD_BLK 64u           // 256 KiB
#define LARGE_BLK 256u         // 1 MiB
#define TOLERANT_BLK 128u      // from here on a request that may be split takes a part of the longest run
#define N_WORDS 64u
#define N_ROTORS 16u
#define ARENAS_MAX 16u
#define ARENA_SHIFT_MIN 24u    // 64 GiB: each arena keeps some runs of every length; together they shall be little
#define CACHE_LINES 128u       // processors fetch two lines of 64 bytes at once

// ---- limbo.c: a sparse bitmap of FREEING blocks, kept for unloaded metaslabs too ----

#define LIMBO_CHUNK_BLK 4096u

struct limbo_chunk {
	uint32_t n_set;
	uint64_t bits[LIMBO_CHUNK_BLK / 64];
};

struct limbo {
	struct limbo_chunk **chunks; // NULL while nothing is in limbo; a chunk is NULL while empty
	uint32_t n_chunks;           // of the metaslab
};

// Runs freed in one epoch, in the order of the frees.
struct batch {
	struct batch *next;
	uint64_t epoch;
	uint32_t n, cap;
	struct mrun *runs;
};

typedef atomic_int_fast64_t memcount;

int limbo_prepare(struct limbo *l, uint32_t start, uint32_t len, memcount *mem) ATTR_MUST_USE; // room for limbo_set
void limbo_set(struct limbo *l, uint32_t start, uint32_t len);
void limbo_clear(struct limbo *l, uint32_t start, uint32_t len, memcount *mem);
bool limbo_search(const struct limbo *l, uint32_t start, uint32_t len);
static inline bool limbo_any(const struct limbo *l, uint32_t start, uint32_t len)
{
	return l->chunks != NULL && limbo_search(l, start, len);
}
void limbo_overlay(const struct limbo *l, uint64_t *free_bits); // clears what is in limbo
uint32_t limbo_count(const struct limbo *l);
void limbo_free(struct limbo *l, memcount *mem);

// The batch of this epoch with room for one more run; NULL = no memory.
struct batch *batch_prepare(struct batch **list, uint64_t epoch, memcount *mem);
void batch_add(struct batch *b, uint32_t start, uint32_t len);
void batch_free(struct batch *b, memcount *mem);

// ---- structures ----

// owned = n_blk − free_blk − freeing_blk − out_blk.
struct metaslab {
	uint32_t n_blk;              // constant
	_Atomic uint32_t free_blk;   // in the free map; written under the lock, read without it as a hint
	atomic_bool loaded;          // the same
	atomic_bool warm;            // used since alloc_shrink() last looked
	// Below: under the arena's lock.
	bool pending;                // has batches and is, or is about to be, in the list of those
	uint32_t out_blk, freeing_blk;
	struct limbo limbo;
	struct batch *batches;
	struct metaslab *pending_next; // under pending_lock
	uint64_t *dirty;             // trim.c: a bit per span in which something became FREE; NULL: none
	_Atomic uint32_t n_dirty;    // of these; read without the lock as a hint
};

#define N_CELLS 64u       // buckets of the table of holds
#define CELL_BLK 1024u    // no hold crosses the border of a cell

struct arena {
	alignas(CACHE_LINES) struct lock lock;
	struct engine *engine;
	_Atomic uint64_t escrow;         // see escrow.c; written under the lock, read without it
	uint64_t first_abs;              // constant, as the next two
	uint32_t n_blk, first_ms, n_ms;
	// Written under the lock, read without it as hints.
	_Atomic uint64_t free_blk;       // sum of its metaslabs'
	_Atomic uint64_t unloaded_blk;   // of these, in metaslabs that are not loaded
	// Below: under the lock.
	uint32_t n_holds, n_windows;     // n_windows: those of them that are streams'
	uint32_t n_freeing_runs;         // the engine must be able to take them all
	struct alloc_hold *cells[N_CELLS]; // holds by cell
	struct mrun trimming;            // set apart while the device discards it; length 0: nothing is
};

struct word {
	alignas(CACHE_LINES) struct alloc_hold hold;
	struct lock refill_lock; // one refill at a time; before an arena's lock, only tried
};

struct alloc {
	uint64_t n_blks;
	uint64_t reserve_blk;
	uint32_t ms_shift;
	uint32_t n_ms, n_arenas;
	uint32_t arena_shift;            // log2 of an arena's blocks
	struct metaslab *ms;
	struct arena *arenas;
	const struct engine_ops *ops;
	const struct alloc_source *source;
	void *source_ctx;
	_Atomic uint32_t rotor[N_ROTORS]; // arenas in use by processors and localities that hash there
	pthread_mutex_t release_lock;     // one alloc_release at a time
	pthread_mutex_t pending_lock;
	struct metaslab *pending;         // metaslabs with batches
	struct word words[N_WORDS];       // for small requests, by origin
	pthread_rwlock_t trim_lock;       // written: one trim, the discard included; read: no trim. Before all others
	atomic_uint n_trims;              // those begun and those ended: odd while one is under way
	alloc_freed_fn trim_freed;        // under release_lock, as the next
	void *trim_ctx;
	atomic_bool trim_watched, trim_news;
	memcount memory;                  // without the engines'
	atomic_int_fast64_t freeing_blk;
	int64_t escrow_blk;               // what an arena gets at once into escrow: see escrow.c
	atomic_int_fast64_t aside_blk;    // being trimmed, counted nowhere else
	alignas(CACHE_LINES) atomic_int_fast64_t common_blk; // not in escrow; the reserve is in here
};

static inline struct arena *arena_of(const struct alloc *a, uint64_t abs) { return &a->arenas[abs >> a->arena_shift]; }
static inline struct metaslab *ms_of(const struct alloc *a, uint64_t abs) { return &a->ms[abs >> a->ms_shift]; }
static inline uint64_t ms_first_abs(const struct alloc *a, const struct metaslab *ms)
{
	return (uint64_t)(ms - a->ms) << a->ms_shift;
}
static inline struct arena *arena_of_ms(const struct alloc *a, const struct metaslab *ms)
{
	return arena_of(a, ms_first_abs(a, ms));
}
// Of a block relative to its arena.
static inline struct metaslab *ms_in(const struct alloc *a, const struct arena *ar, uint32_t blk)
{
	return &a->ms[ar->first_ms + (blk >> a->ms_shift)];
}

// ---- escrow.c ----
//
// The volume's count: FREE blocks minus those that running alloc_gets have reserved. A block leaves it before it leaves a free
// map or the pool and enters it after. So whoever has reserved n blocks will find n.

void escrow_init(struct alloc *a, uint64_t free_blk);
uint64_t escrow_count(struct alloc *a); // no locks held at the call

// An arena's escrow in one word: blocks, and above them how often they were changed, so that the same word twice means that nothing
// has happened between.
#define ESCROW_SHIFT 40
static_assert(ALLOC_MAX_BLKS <= 1ull << ESCROW_SHIFT, "a number of blocks fits below the number of changes");

static inline uint64_t escrow_peek(const struct arena *ar)
{
	return atomic_load_explicit(&ar->escrow, memory_order_relaxed) & ((1ull << ESCROW_SHIFT) - 1);
}

// With the arena's lock.
static inline void escrow_set(struct arena *ar, uint64_t blk)
{
	uint64_t changes = (atomic_load_explicit(&ar->escrow, memory_order_relaxed) >> ESCROW_SHIFT) + 1;

	atomic_store_explicit(&ar->escrow, changes << ESCROW_SHIFT | blk, memory_order_release);
}

// Takes n blocks out of the count, if the arena has them in escrow. With its lock.
static inline bool escrow_take_here(struct arena *ar, uint64_t n)
{
	uint64_t have = escrow_peek(ar);

	if (have < n)
		return false;
	escrow_set(ar, have - n);
	return true;
}

void escrow_spill(struct alloc *a, struct arena *ar); // the arena has more than it should; with its lock

// Puts n blocks into the count. With the arena's lock. While the reserve is short, all goes there.
static inline void escrow_give_here(struct alloc *a, struct arena *ar, uint64_t n)
{
	uint64_t have = escrow_peek(ar) + n;

	escrow_set(ar, have);
	if (have > 2 * (uint64_t)a->escrow_blk ||
	    atomic_load_explicit(&a->common_blk, memory_order_relaxed) < (int_fast64_t)a->reserve_blk)
		escrow_spill(a, ar);
}

// The same for whoever holds no lock, or the blocks of no arena. Takes: n = want, or what there is with `partial`; -ENOSPC; no
// locks held at the call; `home` is where to look first.
int escrow_take(struct alloc *a, struct arena *home, uint64_t want, bool partial, bool use_reserve, uint64_t *n) ATTR_MUST_USE;
void escrow_give(struct alloc *a, uint64_t n);

// Takes up to `want` blocks away that go on being counted: an eighth of what is above the reserve at most; 0 if that is less than
// `least`. With an arena's lock; escrow_call_in, without, has made sure that they are to be had.
void escrow_call_in(struct alloc *a, uint64_t want);
uint64_t escrow_set_aside(struct alloc *a, uint64_t want, uint64_t least);
void escrow_bring_back(struct alloc *a, uint64_t n);

// A hint. Newer C libraries share a word with the kernel that says so; reading it costs less than a call.
static inline unsigned current_cpu(void)
{
	int cpu = -1;

#ifdef CPU_IS_SHARED
	if (__rseq_size > 0)
		cpu = (int)*(const volatile uint32_t *)&((const struct rseq *)((const char *)__builtin_thread_pointer() + __rseq_offset))->cpu_id;
#endif
	if (cpu < 0)
		cpu = sched_getcpu();
	return cpu < 0 ? 0 : (unsigned)cpu;
}

uint32_t count_cpus(void);

// ---- metaslab.c ----

// Loads it if need be and takes its arena's lock; without the lock on error. Without the lock at the call.
int ms_lock_loaded(struct alloc *a, struct metaslab *ms) ATTR_MUST_USE;
bool ms_unload(struct alloc *a, struct metaslab *ms); // false: something is TAKEN or held, or it was not loaded
void ms_destroy(struct alloc *a, struct metaslab *ms);

// The engine's promise that the next take and its undoing need no memory. 0 or -ENOMEM. A take may leave one run more; every run
// that is FREEING, held or trimmed may need one when it comes back, and so may each part of a range that crosses metaslabs.
static inline int ms_reserve(struct arena *ar)
{
	const struct engine_ops *ops = ar->engine->ops;

	return ops->in_place ? 0 : ops->reserve(ar->engine, ar->n_freeing_runs + ar->n_holds + (ar->trimming.len > 0) + ar->n_ms + 2);
}

// All counts that follow a block out of the free map (n < 0) and back, except the volume's.
static inline void ms_count(struct arena *ar, struct metaslab *ms, int64_t n)
{
	uint32_t ms_free = atomic_load_explicit(&ms->free_blk, memory_order_relaxed);
	uint64_t ar_free = atomic_load_explicit(&ar->free_blk, memory_order_relaxed);

	atomic_store_explicit(&ms->free_blk, ms_free + (uint32_t)n, memory_order_relaxed);
	atomic_store_explicit(&ar->free_blk, ar_free + (uint64_t)n, memory_order_relaxed);
}

// Blocks that the engine has let go are in somebody's hands, or the pool's, now.
static inline void ms_took(struct alloc *a, struct arena *ar, uint32_t start, uint32_t len)
{
	struct metaslab *ms = ms_in(a, ar, start);

	ms->out_blk += len;
	ms_count(ar, ms, -(int64_t)len);
	if (!atomic_load_explicit(&ms->warm, memory_order_relaxed))
		atomic_store_explicit(&ms->warm, true, memory_order_relaxed);
}

// Blocks of the free run `run` leave the free map, into somebody's hands or the pool's; and come back.
void ms_take(struct alloc *a, struct arena *ar, struct mrun run, uint32_t start, uint32_t len);
void ms_give(struct alloc *a, struct arena *ar, struct metaslab *ms, uint32_t start, uint32_t len);

// A range inside one metaslab.
struct part {
	struct arena *ar;
	struct metaslab *ms;
	uint32_t start, len; // relative to the arena
	uint32_t ms_start;   // relative to the metaslab
};

// Each public change of state is a check (0 or error, why = what is wrong) that may get memory but changes nothing,
// and an apply that cannot fail.
struct ms_change {
	const char *verb;
	int (*check)(struct alloc *a, const struct part *p, uint64_t epoch, const char **why);
	void (*apply)(struct alloc *a, const struct part *p, uint64_t epoch);
};
extern const struct ms_change ms_put_change, ms_commit_change, ms_free_change;

void ms_release(struct alloc *a, struct metaslab *ms, uint64_t epoch); // batches up to epoch become FREE

// ---- trim.c ----

void trim_remember(struct alloc *a, struct metaslab *ms, struct mrun r);
// A range has become FREE; r: relative to the metaslab.
static inline void trim_note(struct alloc *a, struct metaslab *ms, struct mrun r)
{
	if (atomic_load_explicit(&a->trim_watched, memory_order_relaxed))
		trim_remember(a, ms, r);
}
void trim_forget(struct alloc *a, struct metaslab *ms);
void trim_tell(struct alloc *a); // with release_lock
bool trim_count_is_right(const struct metaslab *ms);

// ---- pool.c ----

static inline uint64_t hold_pack(uint64_t start_abs, uint64_t len) { return start_abs << 24 | len; }
static inline struct run hold_run(uint64_t packed) { return (struct run){ packed >> 24, packed & 0xffffff }; }
static inline struct run hold_peek(struct alloc_hold *h)
{
	return hold_run(atomic_load_explicit(&h->run, memory_order_acquire));
}

// Takes len blocks from the front, which is at goal_abs unless that is 0. False: it has not got them. No lock.
bool hold_take(struct alloc_hold *h, uint64_t goal_abs, uint64_t len, uint64_t *start_abs);
// Sets up to `len` blocks of the free run apart, from `start` on to the end of the cell. h->is_window is set; the hold is not opened.
void hold_open(struct alloc *a, struct arena *ar, struct alloc_hold *h, struct mrun run, uint32_t start, uint32_t len);
// Gives its rest back. hold_close takes the lock itself; both do nothing if it is not opened.
void hold_close(struct alloc *a, struct alloc_hold *h);
void hold_close_locked(struct alloc *a, struct arena *ar, struct alloc_hold *h);
bool hold_any(const struct arena *ar, uint32_t start, uint32_t len); // whether one has some of these blocks, or they are being trimmed
bool hold_ends_at(const struct arena *ar, uint32_t blk);             // whether one's end is there
uint64_t hold_sum(const struct arena *ar, uint32_t start, uint32_t len); // blocks held or trimmed in a range of whole metaslabs

// What a stream should hold behind a request of want blocks. Sequential: it begins where the one before ended.
uint32_t pool_window_wish(struct alloc_stream *s, bool sequential, uint64_t want);

struct word *pool_word(struct alloc *a, uint32_t origin); // for the small requests of this origin
// Sets blocks of the run apart for the word, whose hold is not opened.
void pool_word_open(struct alloc *a, struct arena *ar, struct word *word, struct mrun run);

void pool_reclaim(struct alloc *a, struct arena *ar); // all windows and words back to the free map
void pool_reclaim_all(struct alloc *a);               // takes the locks itself

// While more than a third of the arena is free, small requests that come together shall lie together, in words. Later the
// holes that others left are filled first: a word would be cut from a run that large requests need.
static inline bool is_plenty(const struct arena *ar)
{
	return atomic_load_explicit(&ar->free_blk, memory_order_relaxed) > ar->n_blk / 3;
}

// Whether n more blocks can be set apart without hurting: an eighth of the arena stays free, or all streams' windows together
// are no more than a quarter of what is free. With the lock.
static inline bool is_roomy(const struct arena *ar, uint64_t n)
{
	uint64_t free_blk = atomic_load_explicit(&ar->free_blk, memory_order_relaxed);

	return free_blk >= n + ar->n_blk / 8 || free_blk / 4 >= (ar->n_windows + 1) * (uint64_t)ALLOC_WINDOW_MAX_BLK;
}

// ---- arena.c: no locks held at the call ----

struct grab {
	struct alloc *a;
	struct alloc_stream *s; // may be NULL
	struct runlist *out;
	uint64_t left_blk;
	uint64_t goal_abs;      // 0 = none
	uint64_t end_abs;       // behind the last block got
	uint32_t origin;        // where the request comes from, as a hash: its locality, else its processor
	uint32_t wish_blk;      // to hold behind the request
	uint32_t grown_blk;     // what the stream has got in order before
	bool late;              // the stream is further on already and stays there
	bool contig;
	// `out` as it was
	uint32_t old_n;
	uint64_t old_last_len;
};

// Hands out [start, start + len) of a free run, with the lock held. 0 or -ENOMEM (nothing changed).
int grab_take(struct grab *g, struct arena *ar, struct mrun run, uint32_t start, uint32_t len) ATTR_MUST_USE;
int grab_add(struct grab *g, uint64_t start_abs, uint64_t len) ATTR_MUST_USE; // to `out`
void grab_open_window(struct grab *g, struct arena *ar); // behind the last block; with the lock held

#define FITS_GOOD (1u << FIT_EXACT | 1u << FIT_SPARE)

// The arena that the requests of an origin keep to.
static inline _Atomic uint32_t *arena_rotor(struct alloc *a, uint32_t origin) { return &a->rotor[origin % N_ROTORS]; }

// Without the lock: whether it may have a run of n blocks for one of the fits.
static inline bool arena_may_have(const struct alloc *a, const struct arena *ar, uint64_t n, unsigned fits)
{
	if (n > atomic_load_explicit(&ar->free_blk, memory_order_relaxed))
		return false;
	for (; fits != 0; fits &= fits - 1)
		if (a->ops->may_have(ar->engine, (uint32_t)n, (enum engine_fit)__builtin_ctz(fits)))
			return true;
	return false;
}

// A request that may be split takes a part of the longest run, so that what remains is long; one that may not, or that is
// small, the shortest one that will do.
static inline unsigned last_fit(bool contig, uint64_t n) { return 1u << (contig || n < TOLERANT_BLK ? FIT_BEST : FIT_LARGEST); }

// All that is left in one run, if an arena has one that fits well (arena_serve) or at all (arena_serve_any). 0 or error.
int arena_serve(struct grab *g) ATTR_MUST_USE;
int arena_serve_any(struct grab *g, bool sure) ATTR_MUST_USE; // sure: asks every arena, whatever the hints say
// Some of the longest runs that there are, or as much of them as is left. Takes nothing if no block is free in any map.
int arena_serve_pieces(struct grab *g) ATTR_MUST_USE;
// What a request for one run of n blocks may hope for when there is none: less than n, 0 if nothing is free.
uint64_t arena_next_best(struct alloc *a, uint64_t n);

// ---- alloc.c ----

void alloc_put_back(struct alloc *a, uint64_t start_abs, uint64_t len); // TAKEN → FREE of a range known to be right

#endif
