// SPDX-License-Identifier: MIT
// What the two benchmark programs share: clocks, the list of results and how it is printed.
//
// A result is one phase: how fast (value, in its unit), how long by the wall clock, and how much CPU time this process (the client,
// not a daemon behind the mount) used. A phase that cannot run here is in the list with the reason instead.
//
// Errors: a benchmark that cannot go on says why and exits with 1 (bench_die).
#ifndef HYBRIDFS_BENCH_BENCH_H
#define HYBRIDFS_BENCH_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "util/attr.h"

#define BENCH_MAX_RESULTS 24

struct bench_result {
	const char *name;    // static
	const char *unit;    // "/s", "MB/s" (10^6 bytes), "us" (the only one of which less is better)
	double value;
	double seconds, cpu_seconds;
	const char *skipped; // static; NULL if the phase ran
};

struct bench_report {
	const char *program;
	struct bench_result results[BENCH_MAX_RESULTS];
	unsigned n;
};

struct bench_timer {
	double wall_s, cpu_s;
};

void bench_start(struct bench_timer *timer);
// Adds a result that took from bench_start() until now: value = amount / seconds.
void bench_rate(struct bench_report *report, const char *name, const char *unit, double amount, const struct bench_timer *timer);
void bench_add(struct bench_report *report, const struct bench_result *result);
void bench_skip(struct bench_report *report, const char *name, const char *reason);
void bench_print(const struct bench_report *report, bool json);

double bench_now_s(void);

// Empties the page, dentry and inode caches. False when that is not allowed (not root).
bool bench_drop_caches(void);

// A small fast generator; state may be any number but 0.
static inline uint64_t bench_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

ATTR_NORETURN ATTR_PRINTF(1, 2) void bench_die(const char *fmt, ...); // appends strerror(errno) when errno is set
uint64_t bench_parse_number(const char *option, const char *text); // sizes with K, M, G; dies on nonsense

#endif
