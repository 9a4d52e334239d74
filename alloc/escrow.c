// SPDX-License-Identifier: MIT
// How many blocks are free, for the decision that there is no space: counted once for the volume, but not in one place.
//
// Each processor has some blocks in escrow, out of which it serves its requests and into which it puts what it gets back, so
// that processors do not fight for one cache line. Only when its escrow is used up or has grown too large does it move a
// portion from or to the common count, under a lock. Nobody hears -ENOSPC before all escrows were called in, so the count is
// exact. When little is left, all take from the common count.
//
// The reserve always lies in the common count: while that is short, nothing goes into escrow.
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "alloc/alloc_internal.h"

#define ESCROWS_MAX 64u
#define ESCROW_BLK_MAX (1 << 16) // 256 MiB

unsigned current_cpu(void)
{
	int cpu = sched_getcpu();

	return cpu < 0 ? 0 : (unsigned)cpu;
}

uint32_t count_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_CONF);

	return n < 1 ? 1 : (uint32_t)n;
}

int escrow_init(struct alloc *a, uint64_t free_blk)
{
	a->n_escrows = min_u32(count_cpus(), ESCROWS_MAX);
	a->escrow_blk = (int64_t)min_u64(a->n_blks / a->n_escrows / 64, ESCROW_BLK_MAX);
	a->escrows = aligned_alloc(CACHE_LINES, a->n_escrows * sizeof(struct escrow));
	if (a->escrows == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < a->n_escrows; i++)
		atomic_init(&a->escrows[i].blk, 0);
	atomic_init(&a->common_blk, (int_fast64_t)free_blk);
	atomic_init(&a->moving, 0);
	alloc_init_lock(&a->escrow_lock);
	return 0;
}

void escrow_destroy(struct alloc *a)
{
	pthread_mutex_destroy(&a->escrow_lock);
	free(a->escrows);
}

uint64_t escrow_count(struct alloc *a)
{
	int_fast64_t sum;

	pthread_mutex_lock(&a->escrow_lock);
	sum = atomic_load(&a->common_blk) + a->aside_blk;
	for (uint32_t i = 0; i < a->n_escrows; i++)
		sum += atomic_load(&a->escrows[i].blk);
	pthread_mutex_unlock(&a->escrow_lock);
	return (uint64_t)sum;
}

// Blocks on their way from an escrow to the common count are in neither: whoever sees `moving` has to take the lock.
static void move_to_common(struct alloc *a, struct escrow *e)
{
	atomic_fetch_add(&a->moving, 1);
	atomic_fetch_add(&a->common_blk, atomic_exchange(&e->blk, 0));
	atomic_fetch_sub(&a->moving, 1);
}

static void call_in(struct alloc *a)
{
	for (uint32_t i = 0; i < a->n_escrows; i++)
		if (atomic_load(&a->escrows[i].blk) != 0)
			move_to_common(a, &a->escrows[i]);
}

// Whether it is plain without the lock that there are no n blocks: a full volume is asked often. An escrow that is filled after it
// was looked at here was filled by somebody who gave blocks back meanwhile.
static bool plainly_less(struct alloc *a, uint64_t n, bool use_reserve)
{
	int_fast64_t kept = use_reserve ? 0 : (int_fast64_t)a->reserve_blk;

	if (atomic_load(&a->moving) != 0)
		return false;
	for (uint32_t i = 0; i < a->n_escrows; i++)
		if (atomic_load(&a->escrows[i].blk) != 0)
			return false;
	return atomic_load(&a->common_blk) - kept < (int_fast64_t)n && atomic_load(&a->moving) == 0;
}

// Takes n blocks out of the common count if `floor` remain there. Others take and give at the same time.
static bool sub_common(struct alloc *a, int_fast64_t n, int_fast64_t floor)
{
	int_fast64_t have = atomic_load(&a->common_blk);

	while (have - n >= floor)
		if (atomic_compare_exchange_weak(&a->common_blk, &have, have - n))
			return true;
	return false;
}

static int_fast64_t plenty(const struct alloc *a) { return (int_fast64_t)a->reserve_blk + 4 * a->escrow_blk; }

// With the lock.
static int take_common(struct alloc *a, struct escrow *own, uint64_t want, bool partial, bool use_reserve, uint64_t *n)
{
	int_fast64_t kept = use_reserve ? 0 : (int_fast64_t)a->reserve_blk, usable;

	if (atomic_load(&a->common_blk) - (int_fast64_t)want < (int_fast64_t)a->reserve_blk)
		call_in(a);
	do {
		usable = atomic_load(&a->common_blk) - kept;
		if (usable <= 0 || ((uint64_t)usable < want && !partial))
			return -ENOSPC;
		*n = min_u64(want, (uint64_t)usable);
	} while (!sub_common(a, (int_fast64_t)*n, kept));
	if (a->escrow_blk > 0 && sub_common(a, a->escrow_blk, plenty(a) - a->escrow_blk))
		atomic_fetch_add(&own->blk, a->escrow_blk);
	return 0;
}

// When little is free there are no escrows to speak of: everybody takes from the common count, still without the lock.
static bool take_directly(struct alloc *a, uint64_t want)
{
	return (a->escrow_blk == 0 || atomic_load_explicit(&a->common_blk, memory_order_relaxed) < plenty(a)) &&
	       sub_common(a, (int_fast64_t)want, (int_fast64_t)a->reserve_blk);
}

int escrow_take_more(struct alloc *a, unsigned cpu, uint64_t want, bool partial, bool use_reserve, uint64_t *n)
{
	int err;

	if (take_directly(a, want))
		return 0;
	if (!partial && plainly_less(a, want, use_reserve))
		return -ENOSPC;
	pthread_mutex_lock(&a->escrow_lock);
	err = take_common(a, &a->escrows[cpu % a->n_escrows], want, partial, use_reserve, n);
	pthread_mutex_unlock(&a->escrow_lock);
	return err;
}

void escrow_give(struct alloc *a, unsigned cpu, uint64_t n)
{
	struct escrow *own = &a->escrows[cpu % a->n_escrows];
	int_fast64_t have;

	if (a->escrow_blk == 0 || atomic_load_explicit(&a->common_blk, memory_order_relaxed) < plenty(a)) {
		atomic_fetch_add(&a->common_blk, (int_fast64_t)n);
		return;
	}
	have = atomic_fetch_add(&own->blk, (int_fast64_t)n) + (int_fast64_t)n;
	if (have <= 2 * a->escrow_blk)
		return;
	pthread_mutex_lock(&a->escrow_lock);
	move_to_common(a, own);
	pthread_mutex_unlock(&a->escrow_lock);
}

// ---- for a while ----

uint64_t escrow_set_aside(struct alloc *a, uint64_t want, uint64_t least)
{
	int_fast64_t spare;
	uint64_t n;

	pthread_mutex_lock(&a->escrow_lock);
	if (atomic_load(&a->common_blk) - (int_fast64_t)a->reserve_blk < 8 * (int_fast64_t)want)
		call_in(a);
	spare = (atomic_load(&a->common_blk) - (int_fast64_t)a->reserve_blk) / 8;
	n = spare < (int_fast64_t)least ? 0 : min_u64(want, (uint64_t)spare);
	if (!sub_common(a, (int_fast64_t)n, (int_fast64_t)a->reserve_blk))
		n = 0;
	a->aside_blk += (int64_t)n;
	pthread_mutex_unlock(&a->escrow_lock);
	return n;
}

void escrow_bring_back(struct alloc *a, uint64_t n)
{
	pthread_mutex_lock(&a->escrow_lock);
	a->aside_blk -= (int64_t)n;
	atomic_fetch_add(&a->common_blk, (int_fast64_t)n);
	pthread_mutex_unlock(&a->escrow_lock);
}
