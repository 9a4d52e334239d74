// SPDX-License-Identifier: MIT
// Keeps CPUs from halting while requests come.
//
// A CPU with nothing to do halts, and waking it costs 30 µs and more in a virtual machine: several times what a small request takes. The
// scheduler likes to wake whoever waits for a reply on another, idle CPU, so a busy single client pays this for every request. A keeper
// is a thread pinned to a CPU, of the scheduling class SCHED_IDLE: everybody else on that CPU goes first and at once, and to the scheduler
// the CPU counts as idle. It spins while requests come, to any CPU, closer together than poll_us, and for that long after the last one.
//
//   ASLEEP (up = 0, in futex(2)) ---- keepers_note: requests have come close together ----> AWAKE (up = 1, spinning)
//          <---- no request for poll_us, or none on this CPU for RECENT, or CPU time is scarce ----
//
// All of the CPUs that a client is moved between have to stay awake, not only the one where the last request came from: a client that goes to
// and fro between two of them would find each one halted. So who is woken wakes all that had a request lately. A CPU that no request
// comes from is nobody's: on a large machine only the few that clients run on are kept awake.
//
// On a busy machine no CPU halts, and a spinning thread does harm although everybody goes first: the scheduler moves waiting threads to
// a CPU at the moment when it would halt, and where it shares CPU time out among groups of threads first (control groups, or sessions), the class
// counts only inside a group. (With eight other programs running on two CPUs, keepers that did not mind that cost two clients
// three quarters of their speed.) So a keeper that finds that its CPU was somebody else's for a whole millisecond, and no request came from there
// meanwhile, stops them all for a while.
//
// K1  Without requests they use no time at all.
// K2  They never take time from anybody who wants to run on their CPU, nor hold a lock: a thread that is not allowed to be SCHED_IDLE, or to
//     be on that CPU, ends.
#ifndef HYBRIDFS_FS_KEEPER_H
#define HYBRIDFS_FS_KEEPER_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/attr.h"

struct keepers;

struct keeper {
	struct keepers *all;
	unsigned cpu;
	pthread_t thread;
	bool there;               // the thread was started
	// the thread's, because another CPU's plenty says nothing about this one:
	uint64_t good_ns;         // spun since CPU time was scarce last
	uint64_t pause_ns;        // how long it stops all next; twice as long each time, until CPU time was plentiful for a while
	// any thread's:
	_Atomic uint32_t up;      // a futex
	_Atomic uint64_t last_ns; // when the last request came from this CPU; 0: never
};

struct keepers {
	uint64_t poll_ns;
	unsigned n;
	struct keeper *of_cpu; // n of them
	atomic_bool stopping;
	_Atomic uint64_t last_ns;       // when the last request came
	_Atomic uint64_t gap_ns;        // moving average of the times between two
	_Atomic uint64_t not_before_ns; // nobody is woken before that
};

// One for each CPU of the set below n_cpus; a CPU whose thread cannot be had is only slower. poll_us = 0: none. -ENOMEM.
int keepers_start(struct keepers *all, const cpu_set_t *cpus, unsigned n_cpus, unsigned poll_us) ATTR_MUST_USE;

// A request has come from that CPU (< n_cpus), now. From any thread.
void keepers_note(struct keepers *all, unsigned cpu);

void keepers_end(struct keepers *all); // joins the threads; also after a failed start, or of {0}

#endif
