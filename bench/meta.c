// SPDX-License-Identifier: MIT
// bench/meta: how fast a mounted directory handles many small files.
//
// Phases, each over all files, by all threads at once: create + write + close, stat (again, and with cold caches), readdir, open + read +
// close (again, and with cold caches), unlink. Each thread has folders of its own with --per-dir files each. "Hot" is the second
// time in a row: the first one is not counted. "Cold" comes after the kernel's caches were emptied, which only root may do; a
// daemon behind the mount keeps its memory.
//
// Works in a new subfolder of --dir and leaves nothing behind.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/bench.h"

struct meta_opts {
	const char *dir;
	uint64_t files;
	unsigned threads;
	size_t size_bytes; // of each file
	uint64_t per_dir;
	bool json;
};

struct worker {
	const struct meta_opts *opts;
	pthread_t thread;
	pthread_barrier_t *start;
	void (*phase)(struct worker *w);
	unsigned number;
	uint64_t files; // this one's share
	char *buf;      // size_bytes
	uint64_t done;
};

struct path {
	char text[64];
};

// Relative to the working directory, which is the benchmark's folder.
static struct path dir_path(const struct worker *w, uint64_t dir)
{
	struct path p;

	snprintf(p.text, sizeof(p.text), "t%u-d%llu", w->number, (unsigned long long)dir);
	return p;
}

static struct path file_path(const struct worker *w, uint64_t file)
{
	struct path p;

	snprintf(p.text, sizeof(p.text), "t%u-d%llu/f%llu", w->number, (unsigned long long)(file / w->opts->per_dir),
	         (unsigned long long)file);
	return p;
}

static uint64_t n_dirs(const struct worker *w)
{
	return (w->files + w->opts->per_dir - 1) / w->opts->per_dir;
}

static void phase_mkdir(struct worker *w)
{
	for (uint64_t i = 0; i < n_dirs(w); i++)
		if (mkdir(dir_path(w, i).text, 0755) < 0)
			bench_die("mkdir %s", dir_path(w, i).text);
}

static void phase_rmdir(struct worker *w)
{
	for (uint64_t i = 0; i < n_dirs(w); i++)
		if (rmdir(dir_path(w, i).text) < 0)
			bench_die("rmdir %s", dir_path(w, i).text);
}

static void phase_create(struct worker *w)
{
	for (uint64_t i = 0; i < w->files; i++, w->done++) {
		struct path p = file_path(w, i);
		int fd = open(p.text, O_WRONLY | O_CREAT | O_EXCL, 0644);

		if (fd < 0)
			bench_die("create %s", p.text);
		if (w->opts->size_bytes > 0 && write(fd, w->buf, w->opts->size_bytes) != (ssize_t)w->opts->size_bytes)
			bench_die("write %s", p.text);
		if (close(fd) < 0)
			bench_die("close %s", p.text);
	}
}

static void phase_stat(struct worker *w)
{
	for (uint64_t i = 0; i < w->files; i++, w->done++) {
		struct path p = file_path(w, i);
		struct stat st;

		if (stat(p.text, &st) < 0)
			bench_die("stat %s", p.text);
		if ((size_t)st.st_size != w->opts->size_bytes) {
			errno = 0;
			bench_die("%s has %lld bytes instead of %zu", p.text, (long long)st.st_size, w->opts->size_bytes);
		}
	}
}

static void phase_readdir(struct worker *w)
{
	uint64_t seen = 0;

	for (uint64_t i = 0; i < n_dirs(w); i++) {
		struct path p = dir_path(w, i);
		DIR *dir = opendir(p.text);
		const struct dirent *entry;

		if (dir == NULL)
			bench_die("opendir %s", p.text);
		while ((entry = readdir(dir)) != NULL)
			seen += entry->d_name[0] != '.';
		closedir(dir);
	}
	if (seen != w->files) {
		errno = 0;
		bench_die("readdir gave %llu names instead of %llu", (unsigned long long)seen, (unsigned long long)w->files);
	}
	w->done += seen;
}

static void phase_read(struct worker *w)
{
	for (uint64_t i = 0; i < w->files; i++, w->done++) {
		struct path p = file_path(w, i);
		int fd = open(p.text, O_RDONLY);

		if (fd < 0)
			bench_die("open %s", p.text);
		if (read(fd, w->buf, w->opts->size_bytes) != (ssize_t)w->opts->size_bytes)
			bench_die("read %s", p.text);
		close(fd);
	}
}

static void phase_unlink(struct worker *w)
{
	for (uint64_t i = 0; i < w->files; i++, w->done++)
		if (unlink(file_path(w, i).text) < 0)
			bench_die("unlink %s", file_path(w, i).text);
}

static void *run_worker(void *arg)
{
	struct worker *w = arg;

	pthread_barrier_wait(w->start);
	w->phase(w);
	return NULL;
}

// Runs a phase by all workers; `name` NULL: not counted.
static void run_phase(struct bench_report *report, const char *name, struct worker *workers, void (*phase)(struct worker *))
{
	unsigned n = workers[0].opts->threads;
	pthread_barrier_t start;
	struct bench_timer timer;
	uint64_t done = 0;

	pthread_barrier_init(&start, NULL, n + 1);
	for (unsigned i = 0; i < n; i++) {
		workers[i].start = &start;
		workers[i].phase = phase;
		workers[i].done = 0;
		errno = pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]);
		if (errno != 0)
			bench_die("thread");
	}
	bench_start(&timer);
	pthread_barrier_wait(&start);
	for (unsigned i = 0; i < n; i++) {
		pthread_join(workers[i].thread, NULL);
		done += workers[i].done;
	}
	if (name != NULL)
		bench_rate(report, name, "/s", (double)done, &timer);
	pthread_barrier_destroy(&start);
}

static void run_cold_phase(struct bench_report *report, const char *name, struct worker *workers, void (*phase)(struct worker *))
{
	if (bench_drop_caches())
		run_phase(report, name, workers, phase);
	else
		bench_skip(report, name, "only root can empty the caches");
}

static void run(const struct meta_opts *opts)
{
	struct bench_report report = { .program = "meta" };
	struct worker *workers = calloc(opts->threads, sizeof(*workers));
	char folder[] = "bench-meta-XXXXXX";

	if (workers == NULL)
		bench_die("memory");
	if (chdir(opts->dir) < 0)
		bench_die("%s", opts->dir);
	if (mkdtemp(folder) == NULL || chdir(folder) < 0)
		bench_die("%s/%s", opts->dir, folder);
	for (unsigned i = 0; i < opts->threads; i++) {
		workers[i].opts = opts;
		workers[i].number = i;
		workers[i].files = opts->files / opts->threads + (i < opts->files % opts->threads);
		workers[i].buf = malloc(opts->size_bytes + 1);
		if (workers[i].buf == NULL)
			bench_die("memory");
		memset(workers[i].buf, 'a' + (int)(i % 26), opts->size_bytes);
	}

	run_phase(&report, NULL, workers, phase_mkdir);
	run_phase(&report, "create_write_close", workers, phase_create);
	run_phase(&report, NULL, workers, phase_stat);
	run_phase(&report, "stat_hot", workers, phase_stat);
	run_cold_phase(&report, "stat_cold", workers, phase_stat);
	run_cold_phase(&report, "readdir_cold", workers, phase_readdir);
	run_phase(&report, "readdir_hot", workers, phase_readdir);
	run_cold_phase(&report, "open_read_close_cold", workers, phase_read);
	run_phase(&report, NULL, workers, phase_read);
	run_phase(&report, "open_read_close_hot", workers, phase_read);
	run_phase(&report, "unlink", workers, phase_unlink);
	run_phase(&report, NULL, workers, phase_rmdir);

	if (chdir("..") < 0 || rmdir(folder) < 0)
		bench_die("rmdir %s", folder);
	bench_print(&report, opts->json);
	for (unsigned i = 0; i < opts->threads; i++)
		free(workers[i].buf);
	free(workers);
}

static const char usage[] =
	"Usage: meta --dir DIR [options]\n"
	"Measures creating, listing, reading and deleting many small files in DIR.\n"
	"  --dir DIR      a folder on the filesystem to measure\n"
	"  --files N      files altogether (20000)\n"
	"  --threads N    threads, each with folders of its own (1)\n"
	"  --size BYTES   of each file (4K)\n"
	"  --per-dir N    files in one folder (1000)\n"
	"  --json         print JSON\n"
	"  -h, --help     this text\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "dir", required_argument, NULL, 'd' },
		{ "files", required_argument, NULL, 'f' },
		{ "threads", required_argument, NULL, 't' },
		{ "size", required_argument, NULL, 's' },
		{ "per-dir", required_argument, NULL, 'p' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct meta_opts opts = { .files = 20000, .threads = 1, .size_bytes = 4096, .per_dir = 1000 };
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'd': opts.dir = optarg; break;
		case 'f': opts.files = bench_parse_number("files", optarg); break;
		case 't': opts.threads = (unsigned)bench_parse_number("threads", optarg); break;
		case 's': opts.size_bytes = bench_parse_number("size", optarg); break;
		case 'p': opts.per_dir = bench_parse_number("per-dir", optarg); break;
		case 'j': opts.json = true; break;
		case 'h': fputs(usage, stdout); return 0;
		default: fputs(usage, stderr); return 2;
		}
	}
	errno = 0;
	if (opts.dir == NULL || optind != argc) {
		fputs(usage, stderr);
		return 2;
	}
	if (opts.threads == 0 || opts.threads > 1024 || opts.files < opts.threads || opts.per_dir == 0)
		bench_die("at least one thread, at most 1024, a file for each of them and one per folder");
	run(&opts);
	return 0;
}
