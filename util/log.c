// SPDX-License-Identifier: MIT
#include "util/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <syslog.h>
#include <time.h>

static struct {
	pthread_mutex_t lock;
	const char *prog;
	enum msg_sink sink;
	enum msg_level max;
	time_t interval_start_s; // rate limit: lines in this interval
	unsigned lines, suppressed;
} log_state = { PTHREAD_MUTEX_INITIALIZER, "hybridfs", MSG_TO_STDERR, MSG_INFO, 0, 0, 0 };

void msg_open(const char *prog, enum msg_sink sink, enum msg_level max)
{
	log_state.prog = prog;
	log_state.sink = sink;
	log_state.max = max;
	if (sink == MSG_TO_SYSLOG)
		openlog(prog, LOG_PID, LOG_DAEMON);
}

static void write_line(enum msg_level level, const char *text)
{
	static const int priority[] = { LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_DEBUG };

	if (log_state.sink == MSG_TO_SYSLOG)
		syslog(priority[level], "%s", text);
	else if (log_state.sink == MSG_TO_STDERR)
		fprintf(stderr, "%s: %s\n", log_state.prog, text);
}

// Returns whether this line may be written. Debug output is never limited: somebody asked for it.
static bool rate_allows(enum msg_level level)
{
	struct timespec now;
	char text[80];

	if (level == MSG_DEBUG)
		return true;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec - log_state.interval_start_s >= LOG_INTERVAL_S) {
		if (log_state.suppressed > 0) {
			snprintf(text, sizeof(text), "%u messages suppressed", log_state.suppressed);
			write_line(MSG_WARN, text);
		}
		log_state.interval_start_s = now.tv_sec;
		log_state.lines = log_state.suppressed = 0;
	}
	if (log_state.lines >= LOG_BURST) {
		log_state.suppressed++;
		return false;
	}
	log_state.lines++;
	return true;
}

void msg_log(enum msg_level level, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	if (level > log_state.max)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&log_state.lock);
	if (rate_allows(level))
		write_line(level, text);
	pthread_mutex_unlock(&log_state.lock);
}

void verify_failed(const char *cond, const char *file, int line)
{
	char text[256];

	snprintf(text, sizeof(text), "internal error at %s:%d (%s): stopped before anything wrong is written",
	         file, line, cond);
	write_line(MSG_ERROR, text);
	abort();
}
