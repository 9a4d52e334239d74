// SPDX-License-Identifier: MIT
// Writes files, makes them durable, and notes each in a log on another filesystem; later tells whether all that the log promises is there.
//
//     durable write DIR LOG SEED     until a call fails, as it does when the daemon behind DIR is killed
//     durable verify DIR LOG         exit status 1 if a file of the log is missing, torn or older than noted
//
// A file's content follows from its header (number, version, length) alone, so a file is whole or not, whatever was noted. Every
// third file is replaced: new version under another name, fsync, rename, fsync of the folder. The others are
// written once, under their own name; an fsync or fdatasync of the file must be enough.
// A line of the log, "number version", is written after fsync has returned.
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_FILES 400
#define MAX_LEN (1u << 20)

struct header {
	uint64_t number, version, len_bytes; // len: of the whole file
};

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull); // splitmix64

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void make_content(const struct header *h, char *buf)
{
	uint64_t state = h->number << 32 ^ h->version;

	memcpy(buf, h, sizeof(*h));
	for (uint64_t i = sizeof(*h); i < h->len_bytes; i += sizeof(state)) {
		uint64_t r = next_random(&state);

		memcpy(buf + i, &r, h->len_bytes - i < sizeof(r) ? h->len_bytes - i : sizeof(r));
	}
}

// Small files, which live in the database, block-sized ones and large ones.
static uint64_t pick_len(uint64_t *rng)
{
	static const uint64_t limits[] = { 1000, 5000, 70000, MAX_LEN };

	return sizeof(struct header) + next_random(rng) % (limits[next_random(rng) % 4] - sizeof(struct header));
}

static bool write_file(const char *path, const struct header *h, char *buf, bool data_only)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	bool ok;

	if (fd < 0)
		return false;
	make_content(h, buf);
	ok = write(fd, buf, h->len_bytes) == (ssize_t)h->len_bytes && (data_only ? fdatasync(fd) : fsync(fd)) == 0;
	close(fd);
	return ok;
}

static bool sync_folder(void)
{
	int fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0 && fsync(fd) == 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

// Version 0: a new file of its own name; later versions replace it by rename.
static bool write_version(struct header *h, uint64_t *rng, char *buf)
{
	char path[64], temporary[64];

	snprintf(path, sizeof(path), "file-%llu", (unsigned long long)h->number);
	h->len_bytes = pick_len(rng);
	if (h->version == 0)
		return write_file(path, h, buf, next_random(rng) % 2 == 0);
	snprintf(temporary, sizeof(temporary), "new-%llu", (unsigned long long)h->number);
	return write_file(temporary, h, buf, false) && rename(temporary, path) == 0 && sync_folder();
}

static int do_write(FILE *log, uint64_t seed, char *buf)
{
	uint64_t rng = seed, next_version[N_FILES] = { 0 };
	unsigned long written = 0;

	for (;; written++) {
		struct header h = { .number = next_random(&rng) % N_FILES };

		if (h.number % 3 != 0) // only every third is ever replaced; the others wait for their turn to be new
			while (h.number < N_FILES && h.number % 3 != 0 && next_version[h.number] > 0)
				h.number++;
		if (h.number >= N_FILES)
			h.number = 0;
		h.version = next_version[h.number];
		if (!write_version(&h, &rng, buf))
			break;
		next_version[h.number]++;
		if (fprintf(log, "%llu %llu\n", (unsigned long long)h.number, (unsigned long long)h.version) < 0 || fflush(log) != 0) {
			perror("durable: log");
			return 2;
		}
	}
	printf("durable: %lu files noted, then: %s\n", written, strerror(errno));
	return 0;
}

// 0 whole and at least as new as noted
static int verify_file(uint64_t number, uint64_t noted_version, char *buf, char *expected)
{
	struct header h;
	char path[64];
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "file-%llu", (unsigned long long)number);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		printf("LOST: %s: %s\n", path, strerror(errno));
		return 1;
	}
	len = read(fd, buf, MAX_LEN + 1);
	close(fd);
	if (len < (ssize_t)sizeof(h)) {
		printf("TORN: %s has %zd bytes\n", path, len);
		return 1;
	}
	memcpy(&h, buf, sizeof(h));
	if (h.number != number || h.len_bytes != (uint64_t)len) {
		printf("TORN: %s has %zd bytes, its header says file %llu with %llu bytes\n", path, len,
		       (unsigned long long)h.number, (unsigned long long)h.len_bytes);
		return 1;
	}
	make_content(&h, expected);
	if (memcmp(buf, expected, (size_t)len) != 0) {
		printf("TORN: %s, version %llu, %zd bytes\n", path, (unsigned long long)h.version, len);
		return 1;
	}
	if (h.version < noted_version) {
		printf("OLD: %s is version %llu, durable was %llu\n", path, (unsigned long long)h.version, (unsigned long long)noted_version);
		return 1;
	}
	return 0;
}

static int do_verify(FILE *log, char *buf)
{
	unsigned long long number, version, newest[N_FILES];
	char *expected = malloc(MAX_LEN);
	unsigned n = 0;
	int bad = 0;

	if (expected == NULL)
		return 2;
	memset(newest, 0xff, sizeof(newest));
	while (fscanf(log, "%llu %llu", &number, &version) == 2)
		if (number < N_FILES)
			newest[number] = version;
	for (number = 0; number < N_FILES; number++) {
		if (newest[number] == ~0ull)
			continue;
		bad |= verify_file(number, newest[number], buf, expected);
		n++;
	}
	printf("durable: %u files verified, %s\n", n, bad ? "NOT all whole" : "all whole");
	free(expected);
	return bad;
}

int main(int argc, char **argv)
{
	bool writes = argc == 5 && strcmp(argv[1], "write") == 0;
	char *buf = malloc(MAX_LEN + 1);
	FILE *log;
	int status;

	if (!writes && !(argc == 4 && strcmp(argv[1], "verify") == 0)) {
		fprintf(stderr, "Usage: durable write DIR LOG SEED | durable verify DIR LOG\n");
		free(buf);
		return 2;
	}
	log = fopen(argv[3], writes ? "w" : "r");
	if (buf == NULL || log == NULL || chdir(argv[2]) < 0) {
		perror("durable");
		return 2;
	}
	status = writes ? do_write(log, strtoull(argv[4], NULL, 0), buf) : do_verify(log, buf);
	fclose(log);
	free(buf);
	return status;
}
