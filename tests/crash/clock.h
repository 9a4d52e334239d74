// SPDX-License-Identifier: MIT
// The same history must make the same log each time, so that a failure can be looked at again: a clock that ticks when it is asked, and
// random numbers that are not. The program's own clock_gettime() and getrandom() take the place of the C library's; SQLite's generator
// is seeded. Monotonic clocks are real.
#ifndef HYBRIDFS_TESTS_CRASH_CLOCK_H
#define HYBRIDFS_TESTS_CRASH_CLOCK_H

// Sets clock and generators to where each history begins.
void clock_reset(void);

#endif
