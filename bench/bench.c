// SPDX-License-Identifier: MIT
#include "bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "util/size.h"

double bench_now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double cpu_now_s(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void bench_start(struct bench_timer *timer)
{
	timer->cpu_s = cpu_now_s();
	timer->wall_s = bench_now_s();
}

void bench_add(struct bench_report *report, const struct bench_result *result)
{
	VERIFY(report->n < BENCH_MAX_RESULTS);
	report->results[report->n++] = *result;
}

void bench_rate(struct bench_report *report, const char *name, const char *unit, double amount, const struct bench_timer *timer)
{
	struct bench_result result = {
		.name = name,
		.unit = unit,
		.seconds = bench_now_s() - timer->wall_s,
		.cpu_seconds = cpu_now_s() - timer->cpu_s,
	};

	if (result.seconds <= 0)
		result.seconds = 1e-9;
	result.value = amount / result.seconds;
	bench_add(report, &result);
}

void bench_skip(struct bench_report *report, const char *name, const char *reason)
{
	bench_add(report, &(struct bench_result){ .name = name, .skipped = reason });
}

// One phase per line in both forms, so that a shell script can read the JSON too.
void bench_print(const struct bench_report *report, bool json)
{
	if (json)
		printf("{\"program\": \"%s\", \"phases\": {\n", report->program);
	else
		printf("%-24s %14s %-5s %10s %10s\n", "phase", "value", "unit", "seconds", "cpu s");
	for (unsigned i = 0; i < report->n; i++) {
		const struct bench_result *r = &report->results[i];
		const char *comma = i + 1 < report->n ? "," : "";

		if (r->skipped != NULL)
			printf(json ? "\"%s\": {\"skipped\": \"%s\"}%s\n" : "%-24s skipped: %s%s\n", r->name, r->skipped,
			       json ? comma : "");
		else if (json)
			printf("\"%s\": {\"value\": %.3f, \"unit\": \"%s\", \"seconds\": %.6f, \"cpu_seconds\": %.6f}%s\n",
			       r->name, r->value, r->unit, r->seconds, r->cpu_seconds, comma);
		else
			printf("%-24s %14.1f %-5s %10.3f %10.3f\n", r->name, r->value, r->unit, r->seconds, r->cpu_seconds);
	}
	if (json)
		printf("}}\n");
}

bool bench_drop_caches(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
	bool ok;

	if (fd < 0)
		return false;
	sync();
	ok = write(fd, "3\n", 2) == 2;
	close(fd);
	return ok;
}

void bench_die(const char *fmt, ...)
{
	int err = errno;
	va_list args;

	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	if (err != 0)
		fprintf(stderr, ": %s", strerror(err));
	fputc('\n', stderr);
	exit(1);
}

uint64_t bench_parse_number(const char *option, const char *text)
{
	uint64_t n;

	if (size_parse(text, &n) < 0) {
		errno = 0;
		bench_die("--%s: '%s' is no number (sizes may end in K, M, G)", option, text);
	}
	return n;
}
