// SPDX-License-Identifier: MIT
// Who reads the next request, and how it waits for it.
//
// One thread at a time has the duty: it waits at /dev/fuse. The others work on requests or are parked, outside of the kernel's queue.
//
//   PARKED ---- duty_take ----> ON DUTY ---- duty_read, duty_leave ----> WORKING ---- duty_done ----> duty_take again
//
// Waking a sleeping thread costs more than most requests. So the thread on duty works a brief request off itself and takes
// the duty again, with nobody woken; only before a request of a kind that has been slow lately does it hand the duty over. What is slow
// is measured, per kind of request. And while requests keep coming it polls for a bounded time before it sleeps.
//
// Measured (two-CPU virtual machine, otherwise idle, create + write 4 KiB + close by one client, medians of 3): all threads asleep in
// read(2), 8,200/s; one on duty without polling, 7,600/s; with polling for 200 µs, 12,300/s. Two clients: 11,100, 15,600, 17,900/s. With
// two endless loops beside it: 6,700, 8,400, 7,800/s.
//
// Y1  A request that turns out to be slow although its kind is brief keeps others waiting for at most two periods of the watchdog.
// Y2  Polling uses a CPU only while requests come closer together than poll_us, and stops for a while when somebody else wanted
//     that CPU. Without requests nothing runs at all, the watchdog included.
//
// Lock: internal. The fields of the thread on duty pass from one to the next under it.
#ifndef HYBRIDFS_FS_DUTY_H
#define HYBRIDFS_FS_DUTY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/attr.h"

#define DUTY_N_KINDS 64u // opcodes of FUSE are smaller; others share the last one

struct duty {
	int fd;           // /dev/fuse, non-blocking
	_Atomic uint64_t poll_ns; // 0 = never poll
	void (*more)(void *ctx); // nobody is parked: starts another thread if it may. Called with the lock held
	void *ctx;

	pthread_mutex_t lock;
	pthread_cond_t parked_cv;   // the duty is free, or it is time to leave
	pthread_cond_t watchdog_cv; // there is something to watch, or it is time to leave
	// under lock:
	bool taken;
	unsigned n_parked;
	uint64_t n_left;            // times that the duty was left
	bool watching;              // the watchdog is up
	pthread_t watchdog;

	atomic_bool stopping;
	_Atomic uint32_t service_ns[DUTY_N_KINDS]; // moving average per kind of request

	// of the thread on duty:
	uint64_t gap_ns;            // moving average of the waits for a request
	uint64_t no_poll_until_ns;
	uint64_t backoff_ns;        // how long polling stops when it is stolen next
	unsigned good_polls;        // in a row
};

int duty_init(struct duty *d, int fd, unsigned poll_us, void (*more)(void *ctx), void *ctx) ATTR_MUST_USE;
void duty_stop_polling(struct duty *d);
void duty_stop(struct duty *d);    // duty_take() answers false from now on. The one on duty has to be woken by a signal
void duty_destroy(struct duty *d); // all threads have left

bool duty_take(struct duty *d);
// The next request: its length, 0 when the session has ended or it is time to leave, or a negative errno.
ssize_t duty_read(struct duty *d, void *buf, size_t cap);
void duty_leave(struct duty *d, uint32_t kind);
void duty_done(struct duty *d, uint32_t kind, uint64_t since_ns); // the request that was begun at that time is done
uint64_t duty_now_ns(void);

#endif
