// SPDX-License-Identifier: MIT
#include "model.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

uint64_t model_random(struct model *m, uint64_t below)
{
	uint64_t z = (m->rng += 0x9e3779b97f4a7c15ull); // splitmix64

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return (z ^ (z >> 31)) % below;
}

bool model_chance(struct model *m, unsigned percent)
{
	return model_random(m, 100) < percent;
}

void model_note(struct model *m, const char *fmt, ...)
{
	char *line = m->log[m->op % LOG_LINES];
	va_list args;
	int n;

	n = snprintf(line, LOG_LEN, "%llu: ", (unsigned long long)m->op);
	va_start(args, fmt);
	vsnprintf(line + n, LOG_LEN - (size_t)n, fmt, args);
	va_end(args);
	if (m->trace)
		fprintf(stderr, "%s\n", line);
}

void model_fail(struct model *m, const char *fmt, ...)
{
	uint64_t first = m->op >= LOG_LINES ? m->op - LOG_LINES + 1 : 0;
	va_list args;

	printf("The last operations:\n");
	for (uint64_t op = first; op <= m->op; op++)
		printf("  %s\n", m->log[op % LOG_LINES]);
	printf("DIFFERENT: ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\nTested: %s, reference: %s. Again:\n  %s\n", m->dir[TESTED], m->dir[REFERENCE], m->command);
	exit(1);
}

void model_die(const char *fmt, ...)
{
	int err = errno;
	va_list args;

	fprintf(stderr, "model: ");
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, ": %s\n", strerror(err));
	exit(2);
}

bool model_agree(struct model *m, const struct outcome *out)
{
	if (out->ret[TESTED] != out->ret[REFERENCE] || out->err[TESTED] != out->err[REFERENCE])
		model_fail(m, "tested: %lld (%s), reference: %lld (%s)", (long long)out->ret[TESTED],
		           strerror(out->err[TESTED]), (long long)out->ret[REFERENCE], strerror(out->err[REFERENCE]));
	return out->ret[TESTED] >= 0;
}

bool model_open(struct model *m, struct pair *files, const char *path, int flags, mode_t mode)
{
	struct outcome out;

	FOR_SIDES(s) {
		files->fd[s] = openat(m->root[s], path, flags | O_CLOEXEC | O_NONBLOCK, mode); // a FIFO must not block
		out.ret[s] = files->fd[s] < 0 ? -1 : 0;
		out.err[s] = files->fd[s] < 0 ? errno : 0;
	}
	return model_agree(m, &out);
}

void model_close(struct pair *files)
{
	FOR_SIDES(s)
		close(files->fd[s]);
	files->fd[TESTED] = -1;
}

static bool dir_is_empty(int fd)
{
	DIR *dir = fdopendir(dup(fd));
	const struct dirent *entry;
	bool empty = true;

	if (dir == NULL)
		model_die("reading a folder");
	while ((entry = readdir(dir)) != NULL)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			empty = false;
	closedir(dir);
	return empty;
}

static bool knows_acls(int fd) { return fgetxattr(fd, MODEL_ACL_ACCESS, NULL, 0) >= 0 || errno != EOPNOTSUPP; }

// What the two sides can do at all; the reference may know less (see model.h).
static void probe(struct model *m)
{
	m->is_root = geteuid() == 0;
	m->xattrs = true;
	FOR_SIDES(s) {
		int fd = openat(m->root[s], "probe", O_RDWR | O_CREAT, 0600);

		if (fd < 0)
			model_die("%s", m->dir[s]);
		if (fsetxattr(fd, "user.probe", "x", 1, 0) < 0) {
			if (s == TESTED)
				model_die("%s: user xattrs", m->dir[s]);
			printf("note: no user xattrs on the reference, they are left out\n");
			m->xattrs = false;
		}
		if (s == TESTED && !knows_acls(fd))
			model_die("%s: ACLs", m->dir[s]);
		m->acls = knows_acls(fd); // at the end: of the reference
		if (s == REFERENCE)
			m->reference_zeroes = fallocate(fd, 0x10 /* FALLOC_FL_ZERO_RANGE */, 0, 4096) == 0;
		close(fd);
		unlinkat(m->root[s], "probe", 0);
	}
}

static void open_roots(struct model *m)
{
	FOR_SIDES(s) {
		m->root[s] = open(m->dir[s], O_RDONLY | O_DIRECTORY);
		if (m->root[s] < 0)
			model_die("%s", m->dir[s]);
		m->buf[s] = malloc(MAX_IO);
		if (m->buf[s] == NULL)
			model_die("memory");
	}
	for (unsigned i = 0; i < MAX_SLOTS; i++)
		m->slots[i].fd[TESTED] = -1;
	m->stale = true;
}

static void close_all(struct model *m)
{
	for (unsigned i = 0; i < MAX_SLOTS; i++)
		if (m->slots[i].fd[TESTED] >= 0)
			model_close(&m->slots[i]);
	FOR_SIDES(s) {
		close(m->root[s]);
		free(m->buf[s]);
	}
	for (size_t i = 0; i < m->n_nodes; i++)
		free(m->nodes[i].path);
	free(m->nodes);
}

static void run(struct model *m)
{
	FOR_SIDES(s)
		if (!dir_is_empty(m->root[s])) {
			errno = ENOTEMPTY;
			model_die("%s", m->dir[s]);
		}
	probe(m);
	for (m->op = 1; m->op <= m->n_ops; m->op++) {
		model_step(m);
		if (m->op % m->every == 0)
			model_compare(m);
	}
	m->op--;
	model_compare(m);
}

static const char usage[] =
	"Usage: model --dir DIR --ref DIR [options]\n"
	"Does the same random operations in two empty folders and compares everything. Exit status 0: no difference.\n"
	"  --dir DIR        the filesystem under test\n"
	"  --ref DIR        the reference, for example on tmpfs\n"
	"  --seed N         of the random numbers (1)\n"
	"  --ops N          operations (5000)\n"
	"  --every N        compare the whole trees after each N (500)\n"
	"  --compare-only   only compare the trees as they are\n"
	"  --trace          print each operation\n"
	"  -h, --help       this text\n";

static void describe_command(struct model *m, const char *program, bool compare_only)
{
	int n = snprintf(m->command, sizeof(m->command), "%s --dir %s --ref %s", program, m->dir[TESTED], m->dir[REFERENCE]);

	if (n < 0 || (size_t)n >= sizeof(m->command))
		model_die("the paths are too long");
	if (compare_only)
		snprintf(m->command + n, sizeof(m->command) - (size_t)n, " --compare-only");
	else
		snprintf(m->command + n, sizeof(m->command) - (size_t)n, " --seed %llu --ops %llu --every %llu",
		         (unsigned long long)m->seed, (unsigned long long)m->n_ops, (unsigned long long)m->every);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "dir", required_argument, NULL, 'd' }, { "ref", required_argument, NULL, 'r' },
		{ "seed", required_argument, NULL, 's' }, { "ops", required_argument, NULL, 'o' },
		{ "every", required_argument, NULL, 'e' }, { "compare-only", no_argument, NULL, 'c' },
		{ "trace", no_argument, NULL, 't' }, { "help", no_argument, NULL, 'h' }, { NULL, 0, NULL, 0 },
	};
	static struct model m = { .seed = 1, .n_ops = 5000, .every = 500 };
	bool compare_only = false;
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'd': m.dir[TESTED] = optarg; break;
		case 'r': m.dir[REFERENCE] = optarg; break;
		case 's': m.seed = strtoull(optarg, NULL, 0); break;
		case 'o': m.n_ops = strtoull(optarg, NULL, 0); break;
		case 'e': m.every = strtoull(optarg, NULL, 0); break;
		case 'c': compare_only = true; break;
		case 't': m.trace = true; break;
		case 'h': fputs(usage, stdout); return 0;
		default: fputs(usage, stderr); return 2;
		}
	}
	if (m.dir[TESTED] == NULL || m.dir[REFERENCE] == NULL || optind != argc || m.every == 0) {
		fputs(usage, stderr);
		return 2;
	}
	describe_command(&m, argv[0], compare_only);
	setvbuf(stdout, NULL, _IOLBF, 0);
	umask(022);
	m.rng = m.seed;
	open_roots(&m);
	if (compare_only) {
		m.xattrs = fgetxattr(m.root[REFERENCE], "user.none", NULL, 0) < 0 && errno == ENODATA;
		m.acls = knows_acls(m.root[REFERENCE]);
		model_compare(&m);
		printf("same: %zu names\n", m.n_nodes);
	} else {
		printf("seed %llu: %s\n", (unsigned long long)m.seed, m.command);
		run(&m);
		printf("same after %llu operations: %zu names\n", (unsigned long long)m.n_ops, m.n_nodes);
	}
	close_all(&m);
	return 0;
}
