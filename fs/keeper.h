// SPDX-License-Identifier: MIT
// Keeps one CPU from halting while requests come to it.
//
// A CPU with nothing to do halts, and waking it costs 30 µs and more in a virtual machine: several times what a small request takes. The
// scheduler likes to wake whoever waits for a reply on another, idle CPU, so a busy single client pays this for every request. A keeper
// is a thread pinned to a CPU, of the scheduling class SCHED_IDLE: everybody else on that CPU goes first and at once, and to the scheduler
// the CPU counts as idle. It spins while requests come closer together than poll_us, and for that long after the last one.
//
//   ASLEEP (up = 0, in futex(2)) ---- keeper_note: requests have come close together ----> AWAKE (up = 1, spinning)
//          <---- no request for poll_us, or CPU time is scarce ----
//
// On a busy machine no CPU halts, and a spinning thread does harm although everybody goes first: the scheduler moves waiting threads to
// a CPU at the moment when it would halt. (With eight other programs running on two CPUs, keepers that did not mind that cost two clients
// three quarters of their speed.) So a keeper that finds that its CPU was somebody else's for a whole millisecond stops them all for a while.
//
// K1  Without requests it uses no time at all.
// K2  It never takes time from anybody who wants to run on its CPU, nor holds a lock: a thread that is not allowed to be SCHED_IDLE, or to
//     be on that CPU, ends.
#ifndef HYBRIDFS_FS_KEEPER_H
#define HYBRIDFS_FS_KEEPER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/attr.h"

// What the keepers of one mount share.
struct keepers {
	_Atomic uint64_t not_before_ns; // nobody is woken before that
	_Atomic uint64_t pause_ns;      // the next pause; twice as long each time, until CPU time was plentiful for a while
};

struct keeper {
	struct keepers *all;
	unsigned cpu;
	uint64_t poll_ns;
	pthread_t thread;
	atomic_bool stopping;
	uint64_t good_ns;         // the thread's: spun since CPU time was scarce last
	_Atomic uint32_t up;      // a futex
	_Atomic uint64_t last_ns; // when the last request came
	_Atomic uint64_t gap_ns;  // moving average of the times between two
};

void keepers_init(struct keepers *all);
int keeper_start(struct keeper *k, struct keepers *all, unsigned cpu, unsigned poll_us) ATTR_MUST_USE;

// A request has come, now. From any thread.
void keeper_note(struct keeper *k);

void keeper_end(struct keeper *k); // joins the thread

#endif
