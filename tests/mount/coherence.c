// SPDX-License-Identifier: MIT
// Two processes, one file, and every way to its bytes: mappings, read and write, direct I/O, holes, truncation, copy_file_range. They take
// turns: one changes the file in one way, then both look at it in all ways, and hold what they see against a model of their own. Both make
// the same random numbers, so both know what must be there.
//
//     coherence FILE MODEL SEED TURNS
//
// At the end the model is written to MODEL, for a comparison after a remount. Exit status 0, or 1 with the turn and the first wrong byte on stderr.
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define MAX_BYTES (64u * PAGE)

// Shared by both processes.
struct meeting {
	pthread_barrier_t barrier;
	uint64_t counter; // that the file's own counter is compared with
};

struct party {
	unsigned me; // 0 or 1
	struct meeting *meeting;
	uint64_t random;
	int cached, direct;
	unsigned char *map;     // MAX_BYTES of the file, shared; bytes behind the file's last page must not be touched
	unsigned char *aligned; // MAX_BYTES, for direct I/O
	unsigned char *model;   // MAX_BYTES; zeros behind size
	unsigned size;
	unsigned turn;
};

static void die(const struct party *p, const char *what)
{
	fprintf(stderr, "coherence: process %u, turn %u: %s: %s\n", p->me, p->turn, what, strerror(errno));
	exit(1);
}

static void check(const struct party *p, bool ok, const char *what)
{
	if (!ok)
		die(p, what);
}

static unsigned below(struct party *p, unsigned limit)
{
	p->random = p->random * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)((p->random >> 33) % limit);
}

static void meet(struct party *p)
{
	pthread_barrier_wait(&p->meeting->barrier);
}

static unsigned page_up(unsigned n)
{
	return (n + PAGE - 1) / PAGE * PAGE;
}

// The changes. Each is made to the model by both, and to the file by the one whose turn it is.

static void change_by_store(struct party *p, bool mine, unsigned start, unsigned len, int byte)
{
	len = start < p->size ? (len < p->size - start ? len : p->size - start) : 0;
	memset(p->model + start, byte, len);
	if (mine)
		memset(p->map + start, byte, len);
}

static void change_by_write(struct party *p, bool mine, unsigned start, unsigned len, int byte)
{
	memset(p->model + start, byte, len);
	p->size = start + len > p->size ? start + len : p->size;
	if (mine)
		check(p, pwrite(p->cached, p->model + start, len, start) == (ssize_t)len, "pwrite");
}

static void change_by_direct_write(struct party *p, bool mine, unsigned start, unsigned len, int byte)
{
	start -= start % PAGE;
	len = page_up(len);
	memset(p->model + start, byte, len);
	p->size = start + len > p->size ? start + len : p->size;
	memcpy(p->aligned, p->model + start, len);
	if (mine)
		check(p, pwrite(p->direct, p->aligned, len, start) == (ssize_t)len, "direct pwrite");
}

static void change_by_punch(struct party *p, bool mine, unsigned start, unsigned len, int byte)
{
	(void)byte;
	memset(p->model + start, 0, len);
	if (mine)
		check(p, fallocate(p->cached, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, len) == 0, "punching");
}

static void change_by_truncate(struct party *p, bool mine, unsigned start, unsigned len, int byte)
{
	(void)len, (void)byte;
	if (start < p->size)
		memset(p->model + start, 0, p->size - start);
	p->size = start;
	if (mine)
		check(p, ftruncate(p->cached, start) == 0, "ftruncate");
}

// From the first half of the file to the second: source and destination do not overlap.
static void change_by_copy(struct party *p, bool mine, unsigned start, unsigned len, int byte)
{
	off_t from = start / 2, to = MAX_BYTES / 2 + start / 2;

	(void)byte;
	len /= 2;
	if (from + len > p->size)
		return;
	memcpy(p->model + to, p->model + from, len);
	p->size = to + len > p->size ? (unsigned)to + len : p->size;
	for (ssize_t n; mine && len > 0; len -= (unsigned)n) {
		n = copy_file_range(p->cached, &from, p->cached, &to, len, 0);
		check(p, n > 0, "copy_file_range");
	}
}

static void (*const changes[])(struct party *, bool, unsigned, unsigned, int) = {
	change_by_store, change_by_write, change_by_store, change_by_write,
	change_by_direct_write, change_by_punch, change_by_truncate, change_by_copy,
};

static void change(struct party *p)
{
	unsigned way = below(p, sizeof(changes) / sizeof(changes[0])), len = 1 + below(p, 8 * PAGE);
	unsigned start = below(p, MAX_BYTES - page_up(len) + 1);

	changes[way](p, p->turn % 2 == p->me, start, len, 'a' + (int)below(p, 26));
}

// The looks.

static void compare(const struct party *p, const unsigned char *seen, unsigned start, unsigned len, const char *way)
{
	for (unsigned i = 0; i < len; i++) {
		if (seen[i] == p->model[start + i])
			continue;
		fprintf(stderr, "coherence: process %u, turn %u, %s: byte %u of %u is %02x instead of %02x\n", p->me, p->turn,
		        way, start + i, p->size, seen[i], p->model[start + i]);
		exit(1);
	}
}

// Both read the whole by random ways in a random order, so that each way comes first now and then.
static void look(struct party *p)
{
	unsigned first = below(p, 3);
	struct stat st;
	ssize_t n;

	check(p, fstat(p->cached, &st) == 0, "fstat");
	if (st.st_size != p->size) {
		fprintf(stderr, "coherence: process %u, turn %u: %lld bytes instead of %u\n", p->me, p->turn, (long long)st.st_size, p->size);
		exit(1);
	}
	for (unsigned way = first; way < first + 3; way++) {
		if (way % 3 == 0) { // a mapping has zeros behind the end, up to the end of the page
			compare(p, p->map, 0, page_up(p->size), "mapping");
			continue;
		}
		n = pread(way % 3 == 1 ? p->cached : p->direct, p->aligned, MAX_BYTES, 0);
		check(p, n == (ssize_t)p->size, way % 3 == 1 ? "pread" : "direct pread");
		compare(p, p->aligned, 0, p->size, way % 3 == 1 ? "read" : "direct read");
	}
}

// Both add to a number in the file, at the same time, through their mappings.
static void count_together(struct party *p)
{
	uint64_t *counter = (uint64_t *)p->map, seen;

	check(p, ftruncate(p->cached, PAGE) == 0, "ftruncate");
	meet(p);
	for (unsigned i = 0; i < 100000; i++) {
		__atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
		__atomic_fetch_add(&p->meeting->counter, 1, __ATOMIC_SEQ_CST);
		if (i % 1000 == 0)
			check(p, msync(p->map, PAGE, i % 2000 ? MS_SYNC : MS_ASYNC) == 0, "msync");
	}
	meet(p);
	check(p, pread(p->cached, &seen, sizeof(seen), 0) == sizeof(seen), "pread of a counter");
	errno = 0;
	check(p, seen == p->meeting->counter && *counter == seen, "additions of two processes are lost");
	meet(p);
	check(p, ftruncate(p->cached, 0) == 0, "ftruncate");
	meet(p);
}

// A private mapping keeps what is stored there to itself.
static void keep_private(struct party *p)
{
	unsigned char *own = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, p->cached, 0), byte;

	check(p, own != MAP_FAILED, "private mmap");
	if (p->size == 0)
		return;
	own[0] = (unsigned char)~p->model[0];
	check(p, pread(p->cached, &byte, 1, 0) == 1, "pread");
	errno = 0;
	check(p, byte == p->model[0] && p->map[0] == byte, "a private mapping changed the file");
	munmap(own, PAGE);
}

static unsigned char *take_memory(const struct party *p)
{
	unsigned char *pages = mmap(NULL, MAX_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(p, pages != MAP_FAILED, "mmap of memory");
	return pages;
}

static void take_part(struct party *p, const char *file, unsigned n_turns)
{
	p->cached = open(file, O_RDWR);
	p->direct = open(file, O_RDWR | O_DIRECT);
	check(p, p->cached >= 0 && p->direct >= 0, file);
	p->map = mmap(NULL, MAX_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, p->cached, 0);
	check(p, p->map != MAP_FAILED, "mmap");
	p->model = take_memory(p);
	p->aligned = take_memory(p);
	count_together(p);
	for (p->turn = 0; p->turn < n_turns; p->turn++) {
		change(p);
		meet(p);
		look(p);
		meet(p);
	}
	keep_private(p);
	check(p, fsync(p->cached) == 0, "fsync");
}

static void write_model(const struct party *p, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	check(p, fd >= 0 && write(fd, p->model, p->size) == (ssize_t)p->size && close(fd) == 0, path);
}

static struct meeting *make_meeting(void)
{
	struct meeting *m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_barrierattr_t attr;

	if (m == MAP_FAILED || pthread_barrierattr_init(&attr) != 0 || pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) != 0 ||
	    pthread_barrier_init(&m->barrier, &attr, 2) != 0)
		return NULL;
	return m;
}

int main(int argc, char **argv)
{
	struct party p = { .meeting = make_meeting() };
	pid_t other;
	int status, fd;

	if (argc != 5 || !p.meeting) {
		fprintf(stderr, "usage: coherence FILE MODEL SEED TURNS\n");
		return 2;
	}
	p.random = strtoull(argv[3], NULL, 0);
	fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0644);
	check(&p, fd >= 0 && close(fd) == 0, argv[1]);
	other = fork();
	check(&p, other >= 0, "fork");
	p.me = other == 0;
	take_part(&p, argv[1], (unsigned)atoi(argv[4]));
	if (p.me == 1)
		return 0;
	if (waitpid(other, &status, 0) != other || status != 0)
		return 1;
	write_model(&p, argv[2]);
	return 0;
}
