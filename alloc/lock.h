// SPDX-License-Identifier: MIT
// A lock that is taken for some 100 ns, millions of times a second, mostly by the same thread.
//
// Taking and dropping it are one atomic instruction each, compiled into the caller; a mutex of the C library takes some 70
// instructions for both, a tenth of an allocation. Who finds it taken looks again for a while before he sleeps: the holder
// is nearly always about to drop it. (The exception is an arena that loads a metaslab.)
//
//      FREE ---- lock_take ----> TAKEN ---- somebody is about to sleep ----> AWAITED
//       ^                          |                                            |
//       +------- lock_drop --------+--------- lock_drop, wakes one --------------+
//
// Any thread; not recursive. Nothing to destroy. All zero is FREE.
#ifndef HYBRIDFS_ALLOC_LOCK_H
#define HYBRIDFS_ALLOC_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum lock_state { LOCK_FREE, LOCK_TAKEN, LOCK_AWAITED };

struct lock {
	_Atomic uint32_t state;
};

void lock_wait(struct lock *lock); // takes it, sooner or later
void lock_wake(struct lock *lock);

static inline bool lock_try(struct lock *lock)
{
	uint32_t state = LOCK_FREE;

	return atomic_compare_exchange_strong_explicit(&lock->state, &state, LOCK_TAKEN, memory_order_acquire, memory_order_relaxed);
}

static inline void lock_take(struct lock *lock)
{
	if (!lock_try(lock))
		lock_wait(lock);
}

static inline void lock_drop(struct lock *lock)
{
	if (atomic_exchange_explicit(&lock->state, LOCK_FREE, memory_order_release) == LOCK_AWAITED)
		lock_wake(lock);
}

#endif
