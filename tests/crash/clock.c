// SPDX-License-Identifier: MIT
// A clock and random numbers that repeat themselves. See clock.h.
#include "clock.h"

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define START_NS 1700000000000000000ll
#define TICK_NS 1000
#define COARSE_NS (8 * TICK_NS)

// Where the clock stands: the functions that it serves have no argument through which it could come.
static atomic_int_fast64_t *now_ns(void)
{
	static atomic_int_fast64_t now = START_NS;

	return &now;
}

void clock_reset(void)
{
	atomic_store(now_ns(), START_NS);
	sqlite3_test_control(SQLITE_TESTCTRL_PRNG_SEED, 20070717, NULL);
}

int clock_gettime(clockid_t id, struct timespec *out)
{
	int64_t now;

	if (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)
		return (int)syscall(SYS_clock_gettime, id, out);
	now = atomic_fetch_add(now_ns(), TICK_NS);
	if (id == CLOCK_REALTIME_COARSE)
		now -= now % COARSE_NS;
	*out = (struct timespec){ .tv_sec = now / 1000000000, .tv_nsec = now % 1000000000 };
	return 0;
}

ssize_t getrandom(void *buf, size_t len, unsigned flags)
{
	(void)flags;
	memset(buf, 0x5A, len);
	return (ssize_t)len;
}
