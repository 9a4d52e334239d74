// SPDX-License-Identifier: MIT
// How many blocks are free, for the decision that there is no space: counted once for the volume, but not in one place.
//
// Each arena has some blocks in escrow. They are changed under its lock, which whoever takes blocks from it or gives them back
// holds anyway: so in most requests counting is one plain store, into a line that the processor has already. What is not in escrow is
// in the common count; requests that take no arena's lock (a window, a word) are served from there. An arena whose escrow is used up
// gets a portion of the common count while that has plenty; one that has grown too large gives some back.
//
//      common ---- escrow_take: top_up ----> escrow of an arena ---- escrow_take_here ----> reserved by an alloc_get
//        ^  ^                                  |          ^                                   |
//        |  +--------- escrow_spill -----------+          +-------- escrow_give_here ---------+
//        +------------------------------------- escrow_give ----------------------------------+
//
// When little is left, all of it may be in escrow, where it was given back: threads go on with what they have freed themselves. Nobody
// hears -ENOSPC by that: it is decided with the locks of all arenas, or by a count during which nothing was changed. On its way between
// common count and escrow a block is in both for a moment, never in neither.
//
// The reserve always lies in the common count: while that is short, nothing stays in escrow.
#include <errno.h>
#include <unistd.h>

#include "alloc/alloc_internal.h"

#define LOOKS 4 // at the escrows, before all arenas are locked
#define ESCROW_BLK_MAX (1 << 16) // 256 MiB

uint32_t count_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_CONF);

	return n < 1 ? 1 : (uint32_t)n;
}

void escrow_init(struct alloc *a, uint64_t free_blk)
{
	a->escrow_blk = (int64_t)min_u64(a->n_blks / a->n_arenas / 64, ESCROW_BLK_MAX);
	atomic_init(&a->common_blk, (int_fast64_t)free_blk);
}

static void lock_all(struct alloc *a)
{
	for (uint32_t i = 0; i < a->n_arenas; i++)
		lock_take(&a->arenas[i].lock);
}

static void unlock_all(struct alloc *a)
{
	for (uint32_t i = 0; i < a->n_arenas; i++)
		lock_drop(&a->arenas[i].lock);
}

// Exact with the locks of all arenas.
static uint64_t in_escrow(const struct alloc *a)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < a->n_arenas; i++)
		sum += escrow_peek(&a->arenas[i]);
	return sum;
}

// The sum without a lock; true if no escrow has changed between two looks at it: then all of them had what was seen at the moment
// when the common count was read. (Changes are only counted up: if their sum is the same, so is each of them.)
static bool look(const struct alloc *a, int_fast64_t *sum)
{
	uint64_t changes = 0, changes_after = 0;

	*sum = 0;
	for (uint32_t i = 0; i < a->n_arenas; i++) {
		uint64_t word = atomic_load(&a->arenas[i].escrow);

		*sum += (int_fast64_t)(word & ((1ull << ESCROW_SHIFT) - 1));
		changes += word >> ESCROW_SHIFT;
	}
	*sum += atomic_load(&a->common_blk);
	for (uint32_t i = 0; i < a->n_arenas; i++)
		changes_after += atomic_load(&a->arenas[i].escrow) >> ESCROW_SHIFT;
	return changes == changes_after;
}

// Asked at every operation of the filesystem: the locks only when the escrows never stand still.
uint64_t escrow_count(struct alloc *a)
{
	int_fast64_t sum;
	int tries = 0;

	while (!look(a, &sum))
		if (++tries == LOOKS) {
			lock_all(a);
			sum = (int_fast64_t)in_escrow(a) + atomic_load(&a->common_blk);
			unlock_all(a);
			break;
		}
	return (uint64_t)(sum + atomic_load(&a->aside_blk));
}

// ---- the common count ----

// Takes n blocks out of it if `floor` remain there. Others take and give at the same time.
static bool sub_common(struct alloc *a, int_fast64_t n, int_fast64_t floor)
{
	int_fast64_t have = atomic_load(&a->common_blk);

	while (have - n >= floor)
		if (atomic_compare_exchange_weak(&a->common_blk, &have, have - n))
			return true;
	return false;
}

void escrow_give(struct alloc *a, uint64_t n) { atomic_fetch_add(&a->common_blk, (int_fast64_t)n); }

// With the arena's lock.
static void move_to_common(struct alloc *a, struct arena *ar, uint64_t n)
{
	escrow_give(a, n);
	escrow_set(ar, escrow_peek(ar) - n);
}

void escrow_spill(struct alloc *a, struct arena *ar)
{
	uint64_t have = escrow_peek(ar);
	bool is_short = atomic_load(&a->common_blk) < (int_fast64_t)a->reserve_blk;

	move_to_common(a, ar, is_short ? have : have - min_u64(have, (uint64_t)a->escrow_blk));
}

// A portion for the arena while there is plenty, so that it does not ask again soon.
static void top_up(struct alloc *a, struct arena *ar)
{
	int_fast64_t plenty = (int_fast64_t)a->reserve_blk + 4 * a->escrow_blk;
	uint64_t have;

	if (a->escrow_blk == 0 || atomic_load_explicit(&a->common_blk, memory_order_relaxed) < plenty)
		return;
	lock_take(&ar->lock);
	have = escrow_peek(ar);
	escrow_set(ar, have + (uint64_t)a->escrow_blk);
	if (have >= (uint64_t)a->escrow_blk || !sub_common(a, a->escrow_blk, plenty - a->escrow_blk))
		escrow_set(ar, have);
	lock_drop(&ar->lock);
}

// ---- no space? ----

// Whether it is plain without a lock that there are no n blocks: a full volume is asked often.
static bool plainly_less(struct alloc *a, uint64_t n, bool use_reserve)
{
	int_fast64_t sum;

	return look(a, &sum) && sum - (use_reserve ? 0 : (int_fast64_t)a->reserve_blk) < (int_fast64_t)n;
}

// n blocks that there are in escrow, from `home` on. With all locks.
static void take_escrows(struct alloc *a, const struct arena *home, uint64_t n)
{
	for (uint32_t i = 0, first = (uint32_t)(home - a->arenas); n > 0; i++) {
		struct arena *ar = &a->arenas[(first + i) % a->n_arenas];
		uint64_t some = min_u64(n, escrow_peek(ar));

		escrow_set(ar, escrow_peek(ar) - some);
		n -= some;
	}
}

// With all locks: escrows stand still, the common count does not. What is in escrow goes first, but for what the reserve lacks.
static int take_anywhere(struct alloc *a, const struct arena *home, uint64_t want, bool partial, bool use_reserve, uint64_t *n)
{
	int_fast64_t kept = use_reserve ? 0 : (int_fast64_t)a->reserve_blk, usable, rest;
	int_fast64_t escrow;

	if (atomic_load(&a->common_blk) < (int_fast64_t)a->reserve_blk)
		for (uint32_t i = 0; i < a->n_arenas; i++)
			move_to_common(a, &a->arenas[i], escrow_peek(&a->arenas[i]));
	escrow = (int_fast64_t)in_escrow(a);
	do {
		usable = atomic_load(&a->common_blk) - kept + escrow;
		if (usable <= 0 || ((uint64_t)usable < want && !partial))
			return -ENOSPC;
		*n = min_u64(want, (uint64_t)usable);
		rest = (int_fast64_t)*n - escrow;
	} while (rest > 0 && !sub_common(a, rest, kept));
	take_escrows(a, home, min_u64(*n, (uint64_t)escrow));
	return 0;
}

int escrow_take(struct alloc *a, struct arena *home, uint64_t want, bool partial, bool use_reserve, uint64_t *n)
{
	int err;

	*n = want;
	if (sub_common(a, (int_fast64_t)want, (int_fast64_t)a->reserve_blk)) {
		top_up(a, home);
		return 0;
	}
	if (!partial && plainly_less(a, want, use_reserve))
		return -ENOSPC;
	lock_all(a);
	err = take_anywhere(a, home, want, partial, use_reserve, n);
	unlock_all(a);
	return err;
}

// ---- for a while ----

void escrow_call_in(struct alloc *a, uint64_t want)
{
	if (atomic_load(&a->common_blk) - (int_fast64_t)a->reserve_blk >= 8 * (int_fast64_t)want)
		return;
	for (uint32_t i = 0; i < a->n_arenas; i++) {
		lock_take(&a->arenas[i].lock);
		move_to_common(a, &a->arenas[i], escrow_peek(&a->arenas[i]));
		lock_drop(&a->arenas[i].lock);
	}
}

uint64_t escrow_set_aside(struct alloc *a, uint64_t want, uint64_t least)
{
	int_fast64_t spare = (atomic_load(&a->common_blk) - (int_fast64_t)a->reserve_blk) / 8;
	uint64_t n = spare < (int_fast64_t)least ? 0 : min_u64(want, (uint64_t)spare);

	if (!sub_common(a, (int_fast64_t)n, (int_fast64_t)a->reserve_blk))
		n = 0;
	a->aside_blk += (int64_t)n;
	return n;
}

void escrow_bring_back(struct alloc *a, uint64_t n)
{
	a->aside_blk -= (int64_t)n;
	escrow_give(a, n);
}
