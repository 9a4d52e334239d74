// SPDX-License-Identifier: MIT
// Messages for people: one line each, to stderr or to syslog.
//
// Process-wide, like syslog(3) itself: the one piece of state in the project that no context owns.
// Safe from any thread. At most LOG_BURST lines per LOG_INTERVAL_S seconds are written; what was
// suppressed is counted and said in one line when the interval ends.
#ifndef HYBRIDFS_UTIL_LOG_H
#define HYBRIDFS_UTIL_LOG_H

#include "util/attr.h"

#define LOG_BURST 50
#define LOG_INTERVAL_S 5

enum msg_level { MSG_ERROR, MSG_WARN, MSG_INFO, MSG_DEBUG };
enum msg_sink { MSG_TO_STDERR, MSG_TO_SYSLOG, MSG_TO_NOWHERE };

// Call before other threads run; `prog` must live as long as the process. Lines above `max` are dropped.
void msg_open(const char *prog, enum msg_sink sink, enum msg_level max);

void msg_log(enum msg_level level, const char *fmt, ...) ATTR_PRINTF(2, 3);

#define msg_error(...) msg_log(MSG_ERROR, __VA_ARGS__)
#define msg_warn(...) msg_log(MSG_WARN, __VA_ARGS__)
#define msg_info(...) msg_log(MSG_INFO, __VA_ARGS__)
#define msg_debug(...) msg_log(MSG_DEBUG, __VA_ARGS__)

#endif
