// SPDX-License-Identifier: MIT
// Fault injection for the whole process: the n-th request of one kind fails, once or from then on.
//
// Four injectors ask inject_strike() before each request: the device (inject_dev.c) before read, write, flush and discard; memory
// (inject_mem.c: malloc and its relatives, SQLite's and libc's calls included); SQLite's files (inject_vfs.c). A request
// that fails has not been carried out.
//
// Call sites: a request comes from a site, the innermost SITE_FRAMES return addresses above the injector. Sites stand in
// shared memory, so that the cases, each a forked process, tell which they have reached and failed.
//
// State: interposed malloc has no context argument, so there is one injector per process (inject_state()).
// Lock: requests come from any thread; arming and reading are for a moment when no other thread changes the plan.
#ifndef HYBRIDFS_TESTS_FAULT_INJECT_H
#define HYBRIDFS_TESTS_FAULT_INJECT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "block/bdev.h"

enum fault_kind { FAULT_READ, FAULT_WRITE, FAULT_FLUSH, FAULT_DISCARD, FAULT_MEM, FAULT_VFS, FAULT_KINDS };

// A sanitizer's runtime asks for memory before it is ready for code that it has instrumented.
#define INJECT_EARLY __attribute__((no_sanitize("address", "undefined")))

#define SITE_FRAMES 6
#define SITES_MAX 65536u // a power of two
#define SEQ_MAX 1000000u // requests of one kind in one run

struct site {
	atomic_uint_fast64_t hash; // 0 = unused
	void *frame[SITE_FRAMES];  // innermost first; NULL behind the last
	atomic_int kind;           // enum fault_kind
	atomic_int scenario;       // in which it was reached first
	atomic_bool reached;       // in an armed part
	atomic_bool failed;        // at least once, in whatever way
	atomic_bool struck[2];     // was the first to fail in a case: [0] transient, [1] persistent
};

struct injector {
	// The plan. Set while disarmed.
	enum fault_kind kind;
	uint64_t nth;        // 1 …; 0 = none
	uint64_t site;       // with nth 0: the first request from this site; 0 = none
	bool persistent;
	bool recording;      // note the site of each request in seq
	bool verbose;        // messages are printed
	int scenario;        // the present one's number
	void *base;          // the return address of the harness's innermost function that runs a case
	// What happens.
	atomic_bool armed;
	atomic_bool fired, broken;
	atomic_uint_fast64_t count[FAULT_KINDS]; // requests while armed
	atomic_uint_fast64_t live;               // blocks of memory that are allocated, always counted
	_Atomic(struct bdev *) failed_dev;       // on which a write or flush was failed
	atomic_uint n_after_failure;             // writes and flushes that it got after that
	uint32_t *seq[FAULT_KINDS];              // sites by number of request, from 0
	struct site *sites;                      // SITES_MAX, shared between processes
	struct bdev *fsck_dev;                   // what "open" of a device by name gives
};

struct injector *inject_state(void);
const char *inject_kind_name(enum fault_kind kind);

int inject_init(void); // once, before any fork
// Makes the plan hold: counts start at 0. inject_disarm() ends it; what has happened can be read until the next arming.
void inject_arm(enum fault_kind kind, uint64_t nth, uint64_t site, bool persistent);
void inject_record(void); // arms without any fault and notes the sites
void inject_disarm(void);

// Whether this request has to fail. `caller` is the return address of the injector's function.
bool inject_strike(enum fault_kind kind, void *caller);

// The harness's own requests, made in between, neither count nor fail. Of this thread; nests.
void inject_pause(void);
void inject_resume(void);

// Devices: makes a device in memory fail by plan. It stays open when it is closed by its user: inject_dev_free() ends it.
void inject_dev(struct bdev *dev);
void inject_dev_free(struct bdev *dev);

struct site *inject_site(uint64_t hash); // NULL if there is none
void inject_print_site(FILE *out, const struct site *site);

#endif
