// SPDX-License-Identifier: MIT
// A load for checks of a mounted volume: processes that create, overwrite, append, truncate, rename, link, delete and sync files, each in a folder of
// its own, until they are told to end (SIGTERM) or the time is over.
//
//   stress DIRECTORY PROCESSES SECONDS [SEED]
//   stress latency DIRECTORY SECONDS         creates files one after another; prints count, mean, 99th percentile and maximum in microseconds
//
// Exit status 0, or 1 with the operation that failed on stderr; a full volume is no failure.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FILES 64
#define BUF_BYTES (256u << 10)
#define SAMPLES_MAX (1u << 20)

static volatile sig_atomic_t end_wanted; // the only way to reach a signal handler

static void on_signal(int sig)
{
	(void)sig;
	end_wanted = 1;
}

struct load {
	uint64_t random;
	char *buf;
	char name[32], other[32];
};

static unsigned pick(struct load *l, unsigned below) // xorshift64*
{
	l->random ^= l->random >> 12;
	l->random ^= l->random << 25;
	l->random ^= l->random >> 27;
	return (unsigned)((l->random * 0x2545f4914f6cdd1dull >> 33) % below);
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int write_some(struct load *l, int flags)
{
	size_t len = 1 + pick(l, pick(l, 4) == 0 ? BUF_BYTES : 9000);
	int fd = open(l->name, O_RDWR | O_CREAT | flags, 0644), r = 0;

	if (fd < 0)
		return -1;
	memset(l->buf, (int)pick(l, 256), len);
	if ((flags & O_APPEND) == 0 && lseek(fd, (off_t)pick(l, 1u << 20), SEEK_SET) < 0)
		r = -1;
	if (r == 0 && write(fd, l->buf, len) < 0)
		r = -1;
	if (r == 0 && pick(l, 4) == 0)
		r = fsync(fd);
	return close(fd) < 0 ? -1 : r;
}

static int one_step(struct load *l)
{
	snprintf(l->name, sizeof(l->name), "f%u", pick(l, FILES));
	snprintf(l->other, sizeof(l->other), "f%u", pick(l, FILES));
	switch (pick(l, 9)) {
	case 0:
		return unlink(l->name);
	case 1:
		return rename(l->name, l->other);
	case 2:
		return truncate(l->name, (off_t)pick(l, 1u << 20));
	case 3:
		return link(l->name, l->other);
	case 4:
		return write_some(l, O_TRUNC);
	case 5:
		return write_some(l, O_APPEND);
	case 6:
		return mkdir("d", 0755) == 0 ? 0 : rmdir("d");
	default:
		return write_some(l, 0);
	}
}

static int run_load(const char *dir, unsigned number, double until_s, uint64_t seed)
{
	struct load l = { .random = seed * 2654435761u + number + 1, .buf = malloc(BUF_BYTES) };
	char own[32];

	snprintf(own, sizeof(own), "stress%u", number);
	if (l.buf == NULL || chdir(dir) < 0 || (mkdir(own, 0755) < 0 && errno != EEXIST) || chdir(own) < 0) {
		perror(own);
		return 1;
	}
	while (end_wanted == 0 && now_s() < until_s) {
		if (one_step(&l) == 0 || errno == ENOENT || errno == EEXIST || errno == ENOSPC || errno == EINTR)
			continue;
		fprintf(stderr, "stress: seed %llu, %s: %s\n", (unsigned long long)seed, l.name, strerror(errno));
		return 1;
	}
	return 0;
}

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

static int run_latency(const char *dir, double seconds)
{
	float *us = calloc(SAMPLES_MAX, sizeof(*us));
	double until = now_s() + seconds, sum = 0;
	unsigned n = 0;
	char name[32];

	if (us == NULL || chdir(dir) < 0) {
		perror(dir);
		return 1;
	}
	for (; n < SAMPLES_MAX && end_wanted == 0 && now_s() < until; n++) {
		double begin = now_s();
		int fd;

		snprintf(name, sizeof(name), "latency%u", n);
		fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
		if (fd < 0) {
			perror(name);
			return 1;
		}
		close(fd);
		us[n] = (float)((now_s() - begin) * 1e6);
		sum += us[n];
	}
	qsort(us, n, sizeof(us[0]), by_value);
	if (n > 0)
		printf("%u creates, mean %.0f us, 99%% %.0f us, max %.0f us\n", n, sum / n, (double)us[n - 1 - n / 100], (double)us[n - 1]);
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "latency%u", i);
		unlink(name);
	}
	free(us);
	return 0;
}

static int run_all(const char *dir, unsigned n, double seconds, uint64_t seed)
{
	double until = now_s() + seconds;
	int status, failed = 0;

	for (unsigned i = 0; i < n; i++) {
		pid_t child = fork();

		if (child == 0)
			_exit(run_load(dir, i, until, seed));
		if (child < 0) {
			perror("fork");
			return 1;
		}
	}
	for (unsigned left = n; left > 0;) {
		if (wait(&status) < 0) {
			if (errno == EINTR && end_wanted != 0)
				kill(0, SIGTERM); // our own group: see main()
			else if (errno != EINTR)
				return 1;
			continue;
		}
		left--;
		failed |= !WIFEXITED(status) || WEXITSTATUS(status) != 0;
	}
	return failed;
}

int main(int argc, char **argv)
{
	struct sigaction act = { .sa_handler = on_signal };

	sigaction(SIGTERM, &act, NULL);
	if (argc == 4 && strcmp(argv[1], "latency") == 0)
		return run_latency(argv[2], atof(argv[3]));
	if (argc < 4) {
		fprintf(stderr, "usage: stress DIRECTORY PROCESSES SECONDS [SEED] | stress latency DIRECTORY SECONDS\n");
		return 1;
	}
	if (setpgid(0, 0) < 0)
		perror("setpgid");
	return run_all(argv[1], (unsigned)atoi(argv[2]), atof(argv[3]), argc > 4 ? strtoull(argv[4], NULL, 0) : 1);
}
