// SPDX-License-Identifier: MIT
// Inside the allocator: the structures of a metaslab and the functions that its files share. doc/ALLOCATOR.md tells how
// they work together; in one picture:
//
//      alloc.c    public functions: validation, ranges over metaslabs, epochs, counts
//      get.c      one alloc_get: window → goal → word → best fit → several pieces
//      pick.c     which metaslab serves a request
//      pool.c     top tier: streams' windows and words for small requests, and taking them back
//      slab.c     middle tier: spans of 1 MiB whose holes are shorter than a span
//      buddy.c    bottom tier: the free map and the size index: best fit, split, merge
//      limbo.c    blocks that are neither to be had nor owned: FREEING by epoch, and what the pool holds
//      metaslab.c one metaslab: load, unload, and the changes of state of its blocks, with the counts
//      bitset.c   a set of small integers with 64-way summaries
//      check.c    alloc_check
//
// Block numbers here are relative to their metaslab and 32 bits wide, unless the name says abs.
//
// Locks, in order: the store's (source->enter) → release_lock → metaslabs' locks (several only by ascending number) →
// pending_lock. All functions below that take a metaslab want its lock held, unless they say otherwise.
#ifndef HYBRIDFS_ALLOC_ALLOC_INTERNAL_H
#define HYBRIDFS_ALLOC_ALLOC_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/alloc.h"
#include "util/blk.h"

#define NIL UINT32_MAX

#define MS_SHIFT_MIN 12u
#define MS_SHIFT_MAX 26u

#define SPAN_SHIFT 8u
#define SPAN_BLK (1u << SPAN_SHIFT) // 1 MiB
#define SMALL_MAX_BLK 16u           // larger requests do not use words
#define WORD_BLK 64u                // 256 KiB
#define N_WORDS 8u                  // per metaslab
#define N_ROTORS 8u

// A run inside a metaslab; len 0 = none.
struct mrun {
	uint32_t start, len;
};

static inline uint32_t mrun_end(struct mrun r) { return r.start + r.len; }
static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

// ---- bits in an array of words (a set bit in a free map is a free block) ----

static inline bool bits_test(const uint64_t *bits, uint32_t pos) { return bits[pos / 64] >> (pos % 64) & 1; }

// The part of word `w` that [start, start + len) covers. The range must reach into the word.
static inline uint64_t bits_mask(uint32_t w, uint32_t start, uint32_t len)
{
	uint32_t from = start > w * 64 ? start - w * 64 : 0;
	uint32_t to = min_u32(start + len - w * 64, 64);

	return (~0ull >> (64 - (to - from))) << from;
}

void bits_set(uint64_t *bits, uint32_t start, uint32_t len);
void bits_clear(uint64_t *bits, uint32_t start, uint32_t len);
bool bits_any(const uint64_t *bits, uint32_t start, uint32_t len);
// First set / first clear position in [from, end), or end.
uint32_t bits_next_set(const uint64_t *bits, uint32_t from, uint32_t end);
uint32_t bits_next_clear(const uint64_t *bits, uint32_t from, uint32_t end);
// The lowest p >= floor such that [p, from) is all set.
uint32_t bits_set_back_to(const uint64_t *bits, uint32_t from, uint32_t floor);

// ---- bitset.c: a set of integers below n. Each operation takes at most 2 × levels steps: 6 for 2^18 ----

#define BITSET_LEVELS 4u

struct bitset {
	uint32_t n_levels;
	uint32_t n_words[BITSET_LEVELS];
	uint64_t *level[BITSET_LEVELS]; // [0]: the members; [k + 1] has a bit for each word of [k] that is not zero
};

int bitset_init(struct bitset *set, uint32_t n) ATTR_MUST_USE; // 0 or -ENOMEM
void bitset_free(struct bitset *set);                         // zero-initialised is allowed
size_t bitset_bytes(const struct bitset *set);
void bitset_add(struct bitset *set, uint32_t pos);
void bitset_remove(struct bitset *set, uint32_t pos);
uint32_t bitset_next(const struct bitset *set, uint32_t from); // smallest member >= from, or NIL
uint32_t bitset_prev(const struct bitset *set, uint32_t from); // largest member <= from, or NIL
bool bitset_summaries_hold(const struct bitset *set);

// ---- buddy.c: the free map of a loaded metaslab and the index of its free runs ----
//
// One bit per block is the truth. The index has one fixed entry per span and none per run: a span in which free runs start
// stands in the bin of the longest of them. So no operation needs memory, and no load of any shape outgrows 16 bytes
// per MiB. What makes it work is this:
//
// I1  A run of at least SPAN_BLK blocks is the longest one that starts in its span (a longer neighbour in the same
//     span would have to start after it, but it covers the rest of the span).

#define N_BINS 736u // see bin_of()

struct span {
	uint32_t prev, next; // in the list of its bin
	uint32_t len;        // of the longest run that starts in this span; 0: none starts here, not in the index
	uint32_t off;        // where in the span it starts
};

struct buddy {
	uint32_t n_blk, n_spans;
	uint64_t *bits;         // n_spans × SPAN_BLK of them; those beyond n_blk are never set
	struct span *spans;
	struct bitset starts;   // spans with len > 0
	struct bitset bins;     // bins with a span in them
	uint32_t head[N_BINS];  // first span, or NIL
};

// Lengths below 64 have a bin each, above there are 32 bins for each power of two.
static inline uint32_t bin_of(uint32_t len)
{
	uint32_t exp;

	if (len < 64)
		return len;
	exp = 31 - (uint32_t)__builtin_clz(len);
	return 64 + (exp - 6) * 32 + (len >> (exp - 5) & 31);
}

struct buddy *buddy_new(uint32_t n_blk); // all blocks free, index not built; NULL = no memory
void buddy_destroy(struct buddy *map);      // NULL is allowed
size_t buddy_bytes(const struct buddy *map);
uint32_t buddy_count_free(const struct buddy *map); // free blocks, counted
void buddy_build(struct buddy *map);             // the index from the bits

struct mrun buddy_run_at(const struct buddy *map, uint32_t blk); // the free run around a free block
// Takes [start, start + len) out of the free run `run` that holds it; gives a range back, merging with its neighbours.
void buddy_take(struct buddy *map, struct mrun run, uint32_t start, uint32_t len);
void buddy_give(struct buddy *map, uint32_t start, uint32_t len);

// A run of at least len blocks, as short as a search of at most 2 × FIT_SCAN entries finds, or len 0. With `all`, a
// run of that length is found if there is one; this may look at every run in the bin of len, at most n_blk / len.
#define FIT_SCAN 8u
struct mrun buddy_fit(const struct buddy *map, uint32_t len, bool all);
struct mrun buddy_top(const struct buddy *map);     // one from the highest bin; len 0 when nothing is free
uint32_t buddy_largest(const struct buddy *map);    // exact; looks at the whole highest bin
uint32_t buddy_top_bin(const struct buddy *map);    // 0 when nothing is free

// ---- slab.c: holes inside a span. At most SPAN_BLK / 2 of them, found in 4 words of the free map ----

// The next run that starts in span sp at or after `from`; len 0 = no more. Lengths are exact below SPAN_BLK; longer ones
// are cut somewhere above that.
struct mrun slab_next_hole(const struct buddy *map, uint32_t sp, uint32_t from);
struct mrun slab_longest(const struct buddy *map, uint32_t sp);
// The shortest hole of at least len (< SPAN_BLK) blocks in a span whose longest run is long enough.
struct mrun slab_best_hole(const struct buddy *map, uint32_t sp, uint32_t len);
// Where in a long free run a new slab opens.
uint32_t slab_open_at(struct mrun run);

// ---- limbo.c: a sparse bitmap, kept for unloaded metaslabs too ----

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
bool limbo_any(const struct limbo *l, uint32_t start, uint32_t len);
void limbo_overlay(const struct limbo *l, uint64_t *free_bits); // clears what is in limbo
uint32_t limbo_count(const struct limbo *l);
void limbo_free(struct limbo *l, memcount *mem);

// The batch of this epoch with room for one more run; NULL = no memory.
struct batch *batch_prepare(struct batch **list, uint64_t epoch, memcount *mem);
void batch_add(struct batch *b, uint32_t start, uint32_t len);
void batch_free(struct batch *b, memcount *mem);

// ---- metaslab.c ----
//
// free_blk = blocks free in the map + held_blk; blocks in limbo = held_blk + freeing_blk;
// owned = n_blk − free_blk − freeing_blk − taken_blk.
struct metaslab {
	pthread_mutex_t lock;
	// Written under the lock, read without it as hints by pick.c.
	_Atomic uint32_t free_blk;
	_Atomic uint32_t top_bin; // of the longest run, if loaded
	atomic_bool loaded;
	atomic_bool warm;         // used since alloc_shrink() last looked

	uint64_t first_abs; // constant
	uint32_t n_blk;     // constant
	// Below: under the lock.
	uint32_t taken_blk, held_blk, freeing_blk;
	struct buddy *map; // NULL = not loaded
	struct limbo limbo;
	struct batch *batches;
	struct alloc_stream *holders;    // streams with a window here
	struct mrun words[N_WORDS];      // for small requests, by locality
	bool pending;                    // has batches and is, or is about to be, in the list of those
	struct metaslab *pending_next;   // under pending_lock
};

struct alloc {
	uint64_t n_blks;
	uint64_t reserve_blk;
	uint32_t ms_shift;
	uint32_t n_ms;
	struct metaslab *ms;
	const struct alloc_source *source;
	void *source_ctx;
	// FREE blocks minus those that running alloc_gets have reserved: a block leaves this count before it leaves its
	// metaslab's count and enters it after. So whoever has reserved n blocks will find n.
	atomic_int_fast64_t free_blk;
	atomic_int_fast64_t freeing_blk;
	memcount memory;
	_Atomic uint32_t rotor[N_ROTORS]; // metaslabs in use by threads and localities that hash there
	pthread_mutex_t release_lock;     // one alloc_release at a time
	pthread_mutex_t pending_lock;
	struct metaslab *pending;         // metaslabs with batches
};

static inline struct metaslab *ms_of(const struct alloc *a, uint64_t abs) { return &a->ms[abs >> a->ms_shift]; }
static inline uint32_t ms_rel(const struct metaslab *ms, uint64_t abs) { return (uint32_t)(abs - ms->first_abs); }

int ms_lock_loaded(struct alloc *a, struct metaslab *ms) ATTR_MUST_USE; // takes the lock; without it on error
bool ms_unload(struct alloc *a, struct metaslab *ms); // false: something is TAKEN or held, or it was not loaded
void ms_destroy(struct alloc *a, struct metaslab *ms);

// Blocks of the free run `run` change state: into somebody's hands, or into the pool's (0 or -ENOMEM).
void ms_take(struct metaslab *ms, struct mrun run, uint32_t start, uint32_t len);
int ms_hold(struct alloc *a, struct metaslab *ms, struct mrun run, uint32_t start, uint32_t len) ATTR_MUST_USE;
// Held blocks change state: into somebody's hands, or back to the free map.
void ms_take_held(struct alloc *a, struct metaslab *ms, uint32_t start, uint32_t len);
void ms_unhold(struct alloc *a, struct metaslab *ms, uint32_t start, uint32_t len);

// Each public change of state is a check (0 or error, why = what is wrong) that may get memory but changes nothing,
// and an apply that cannot fail.
struct ms_change {
	const char *verb;
	int (*check)(struct alloc *a, struct metaslab *ms, struct mrun r, uint64_t epoch, const char **why);
	void (*apply)(struct alloc *a, struct metaslab *ms, struct mrun r, uint64_t epoch);
};
extern const struct ms_change ms_put_change, ms_commit_change, ms_free_change;

void ms_release(struct alloc *a, struct metaslab *ms, uint64_t epoch); // batches up to epoch become FREE

// Whether n more blocks can be held or left unused here without hurting: an eighth of the metaslab stays free in the map.
static inline bool ms_roomy(const struct metaslab *ms, uint64_t n)
{
	return atomic_load_explicit(&ms->free_blk, memory_order_relaxed) >= ms->held_blk + n + ms->n_blk / 8;
}

// ---- pool.c ----

// What a stream should hold behind a request of want blocks. Sequential: it begins where the one before ended.
uint32_t pool_window_wish(struct alloc_stream *s, bool sequential, uint64_t want);
// Holds up to `wish` blocks from `at` on for the stream, if they are free and the metaslab is roomy.
void pool_window_open(struct alloc *a, struct metaslab *ms, struct alloc_stream *s, uint32_t at, uint32_t wish);
bool pool_window_has(const struct alloc_stream *s, uint64_t goal_abs, uint64_t len); // [goal, goal + len) is held for it
// Hands these out; what lies before them in the window goes back to the map.
void pool_window_take(struct alloc *a, struct metaslab *ms, struct alloc_stream *s, uint64_t goal_abs, uint32_t len);
void pool_window_drop(struct alloc *a, struct metaslab *ms, struct alloc_stream *s);
// Whether some stream would like to go on at this block because its window ends there. Looks at 16 streams at most.
bool pool_window_ends_at(const struct metaslab *ms, uint32_t blk);

// The word for requests of this origin with at least len blocks (at most SMALL_MAX_BLK) in it, refilled if it is too
// short; NULL: there is none. The caller takes from its front by pool_word_take.
struct mrun *pool_word(struct alloc *a, struct metaslab *ms, uint32_t origin, uint32_t len);
void pool_word_take(struct alloc *a, struct metaslab *ms, struct mrun *word, uint32_t len);
// The same word as it is, if it begins at `at` and has len blocks.
struct mrun *pool_word_at(struct metaslab *ms, uint32_t origin, uint32_t at, uint32_t len);

void pool_reclaim(struct alloc *a, struct metaslab *ms); // all windows and words back to the free map
void pool_reclaim_all(struct alloc *a);                  // takes the locks itself

// ---- pick.c: hints only, takes no locks ----

#define PICK_TRIES 4u

// Where a request comes from, as a hash: its locality, or else its thread. Chooses the rotor and the word.
uint32_t pick_origin(uint32_t locality);
// The metaslab to try for n blocks in one run; NULL = none promises them. `again`: the rotor's own one has failed.
struct metaslab *pick_for_run(struct alloc *a, uint32_t origin, uint64_t n, bool again);
// The metaslab with the longest runs; NULL = no block is free in any map.
struct metaslab *pick_heaviest(struct alloc *a);
bool pick_may_have(const struct metaslab *ms, uint64_t n); // a run of n blocks could be there

// ---- alloc.c ----

void alloc_put_back(struct alloc *a, uint64_t start_abs, uint64_t len); // TAKEN → FREE of a range known to be right

#endif
