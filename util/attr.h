// SPDX-License-Identifier: MIT
// Compiler attributes and the three kinds of check.
//
// ASSERT  debug builds: a bug in this program, never a fact about a device.
// VERIFY  every build: going on would write wrong bytes, so the process stops at once. Stopping is
//         always safe: the volume is then at its last committed transaction.
// Anything read from a device is neither: it is validated and answered with -EUCLEAN.
#ifndef HYBRIDFS_UTIL_ATTR_H
#define HYBRIDFS_UTIL_ATTR_H

#include <assert.h>

#define ATTR_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#define ATTR_MUST_USE __attribute__((warn_unused_result))
#define ATTR_NORETURN __attribute__((noreturn))
#define ATTR_UNUSED __attribute__((unused))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#ifdef NDEBUG
#define ASSERT(cond) ((void)0)
#else
#define ASSERT(cond) assert(cond)
#endif

ATTR_NORETURN void verify_failed(const char *cond, const char *file, int line);
#define VERIFY(cond) ((cond) ? (void)0 : verify_failed(#cond, __FILE__, __LINE__))

#endif
