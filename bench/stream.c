// SPDX-License-Identifier: MIT
// bench/stream: how fast a mounted directory moves the bytes of one file.
//
// Sequential writing and reading in requests of 1 MiB and 4 KiB, random 4 KiB reads and writes, buffered and direct, and random overwrites
// and appends of 4 KiB with an fsync each. Writing phases end with an fsync that counts. "Hot" reads come from the page cache; "cold" ones
// after it was emptied, which only root may do. Random operations go to --ops places that a fixed seed chooses.
//
// Works on one file in --dir and removes it.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"

#define SMALL 4096u
#define LARGE (1u << 20)
#define MB 1e6

struct stream {
	const char *dir;
	uint64_t size_bytes; // of the file: a multiple of LARGE
	uint64_t ops;        // of each random phase
	uint64_t appends;
	bool json;
	char name[64];
	char *buf; // LARGE bytes, aligned for O_DIRECT
	struct bench_report report;
};

static int open_file(const struct stream *s, int flags)
{
	int fd = open(s->name, flags, 0644);

	if (fd < 0)
		bench_die("open %s", s->name);
	return fd;
}

static void sync_and_close(const struct stream *s, int fd)
{
	if (fsync(fd) < 0 || close(fd) < 0)
		bench_die("fsync %s", s->name);
}

static void write_at(const struct stream *s, int fd, size_t len, uint64_t off)
{
	ssize_t n = pwrite(fd, s->buf, len, (off_t)off);

	if (n != (ssize_t)len) {
		errno = n < 0 ? errno : ENOSPC;
		bench_die("write %s", s->name);
	}
}

static void read_at(const struct stream *s, int fd, size_t len, uint64_t off)
{
	ssize_t n = pread(fd, s->buf, len, (off_t)off);

	if (n != (ssize_t)len) {
		errno = n < 0 ? errno : 0;
		bench_die("read %s", s->name);
	}
}

static void seq_write(struct stream *s, const char *name, size_t request)
{
	struct bench_timer timer;
	int fd;

	(void)unlink(s->name);
	bench_start(&timer);
	fd = open_file(s, O_WRONLY | O_CREAT | O_TRUNC);
	for (uint64_t off = 0; off < s->size_bytes; off += request)
		write_at(s, fd, request, off);
	sync_and_close(s, fd);
	bench_rate(&s->report, name, "MB/s", (double)s->size_bytes / MB, &timer);
}

// `name` NULL: not counted.
static void seq_read(struct stream *s, const char *name, size_t request)
{
	struct bench_timer timer;
	int fd;

	bench_start(&timer);
	fd = open_file(s, O_RDONLY);
	for (uint64_t off = 0; off < s->size_bytes; off += request)
		read_at(s, fd, request, off);
	close(fd);
	if (name != NULL)
		bench_rate(&s->report, name, "MB/s", (double)s->size_bytes / MB, &timer);
}

static void random_io(struct stream *s, const char *name, bool write, int flags)
{
	uint64_t blocks = s->size_bytes / SMALL, seed = 88172645463325252ull;
	struct bench_timer timer;
	int fd = open(s->name, (write ? O_RDWR : O_RDONLY) | flags);

	// Some filesystems refuse O_DIRECT at open, others at the first request.
	if ((fd < 0 || pread(fd, s->buf, SMALL, 0) < 0) && errno == EINVAL && (flags & O_DIRECT) != 0) {
		bench_skip(&s->report, name, "no O_DIRECT here");
		if (fd >= 0)
			close(fd);
		return;
	}
	if (fd < 0)
		bench_die("open %s", s->name);
	bench_start(&timer);
	for (uint64_t i = 0; i < s->ops; i++) {
		uint64_t off = bench_random(&seed) % blocks * SMALL;

		if (write)
			write_at(s, fd, SMALL, off);
		else
			read_at(s, fd, SMALL, off);
	}
	if (write && fsync(fd) < 0)
		bench_die("fsync %s", s->name);
	bench_rate(&s->report, name, "/s", (double)s->ops, &timer);
	close(fd);
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

// 4 KiB and an fsync, again and again: at random places of the file as it is, or at the end of a new one.
static void write_fsync(struct stream *s, const char *const names[3], bool append)
{
	double *took = calloc(s->appends, sizeof(*took));
	uint64_t seed = 88172645463325252ull;
	struct bench_timer timer;
	struct bench_result result;
	int fd;

	if (took == NULL)
		bench_die("memory");
	if (append)
		(void)unlink(s->name);
	fd = open_file(s, append ? O_WRONLY | O_CREAT | O_TRUNC : O_WRONLY);
	bench_start(&timer);
	for (uint64_t i = 0; i < s->appends; i++) {
		double before = bench_now_s();

		write_at(s, fd, SMALL, (append ? i : bench_random(&seed) % (s->size_bytes / SMALL)) * SMALL);
		if (fsync(fd) < 0)
			bench_die("fsync %s", s->name);
		took[i] = bench_now_s() - before;
	}
	bench_rate(&s->report, names[0], "/s", (double)s->appends, &timer);
	close(fd);
	qsort(took, s->appends, sizeof(*took), compare_doubles);
	result = s->report.results[s->report.n - 1];
	result.unit = "us";
	result.name = names[1];
	result.value = took[s->appends / 2] * 1e6;
	bench_add(&s->report, &result);
	result.name = names[2];
	result.value = took[s->appends * 99 / 100] * 1e6;
	bench_add(&s->report, &result);
	free(took);
}

static void cold_read(struct stream *s, const char *name, size_t request)
{
	if (bench_drop_caches())
		seq_read(s, name, request);
	else
		bench_skip(&s->report, name, "only root can empty the caches");
}

static void run(struct stream *s)
{
	static const char *const overwrite[] = { "overwrite_fsync", "overwrite_fsync_median", "overwrite_fsync_p99" };
	static const char *const append[] = { "append_fsync", "append_fsync_median", "append_fsync_p99" };
	uint64_t seed = 2463534242u;

	if (chdir(s->dir) < 0)
		bench_die("%s", s->dir);
	snprintf(s->name, sizeof(s->name), "bench-stream-%ld", (long)getpid());
	errno = posix_memalign((void **)&s->buf, SMALL, LARGE);
	if (errno != 0)
		bench_die("memory");
	for (size_t i = 0; i < LARGE; i += sizeof(seed)) { // nothing that could be compressed
		(void)bench_random(&seed);
		memcpy(s->buf + i, &seed, sizeof(seed));
	}

	seq_write(s, "seq_write_4k", SMALL);
	seq_write(s, "seq_write_1m", LARGE);
	seq_read(s, NULL, LARGE);
	seq_read(s, "seq_read_1m_hot", LARGE);
	seq_read(s, "seq_read_4k_hot", SMALL);
	cold_read(s, "seq_read_1m_cold", LARGE);
	cold_read(s, "seq_read_4k_cold", SMALL);
	random_io(s, "rand_read_4k", false, 0);
	random_io(s, "rand_write_4k", true, 0);
	random_io(s, "rand_read_4k_direct", false, O_DIRECT);
	random_io(s, "rand_write_4k_direct", true, O_DIRECT);
	write_fsync(s, overwrite, false);
	write_fsync(s, append, true);

	if (unlink(s->name) < 0)
		bench_die("unlink %s", s->name);
	bench_print(&s->report, s->json);
	free(s->buf);
}

static const char usage[] =
	"Usage: stream --dir DIR [options]\n"
	"Measures writing and reading one file in DIR, sequentially and at random places, and fsync.\n"
	"  --dir DIR      a folder on the filesystem to measure\n"
	"  --size BYTES   of the file, in whole MiB (256M)\n"
	"  --ops N        operations in each random phase (10000)\n"
	"  --appends N    overwrites, and appends, with an fsync each (1000)\n"
	"  --json         print JSON\n"
	"  -h, --help     this text\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "dir", required_argument, NULL, 'd' },
		{ "size", required_argument, NULL, 's' },
		{ "ops", required_argument, NULL, 'o' },
		{ "appends", required_argument, NULL, 'a' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct stream s = { .size_bytes = 256u << 20, .ops = 10000, .appends = 1000, .report = { .program = "stream" } };
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'd': s.dir = optarg; break;
		case 's': s.size_bytes = bench_parse_number("size", optarg); break;
		case 'o': s.ops = bench_parse_number("ops", optarg); break;
		case 'a': s.appends = bench_parse_number("appends", optarg); break;
		case 'j': s.json = true; break;
		case 'h': fputs(usage, stdout); return 0;
		default: fputs(usage, stderr); return 2;
		}
	}
	errno = 0;
	if (s.dir == NULL || optind != argc) {
		fputs(usage, stderr);
		return 2;
	}
	if (s.size_bytes == 0 || s.size_bytes % LARGE != 0 || s.ops == 0 || s.appends == 0 || s.appends > 10000000)
		bench_die("--size must be whole MiB, --ops and --appends at least 1");
	run(&s);
	return 0;
}
