// SPDX-License-Identifier: MIT
// Finding out who has a busy device, from /proc/self/mountinfo and /proc/locks (proc(5)).
#include "block/holder.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

// One line of /proc/self/mountinfo, cut in place.
struct mount_line {
	unsigned major, minor; // st_dev of the files in it
	char *mount_point, *fs_type, *source;
};

static bool is_octal(char c) { return c >= '0' && c <= '7'; }

// The kernel writes space, tab, newline and backslash as \ooo.
static void unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from != '\0';) {
		if (from[0] == '\\' && is_octal(from[1]) && is_octal(from[2]) && is_octal(from[3])) {
			*to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to++ = *from++;
		}
	}
	*to = '\0';
}

// "42 27 7:0 / /mnt ro,relatime shared:1 - ext2 /dev/loop0 ro": before the lone "-" stands any number of fields.
static bool parse_mount_line(char *line, struct mount_line *out)
{
	char *save = NULL, *field[5], *word;

	line[strcspn(line, "\n")] = '\0';
	for (int i = 0; i < 5; i++) {
		field[i] = strtok_r(i == 0 ? line : NULL, " ", &save);
		if (field[i] == NULL)
			return false;
	}
	do {
		word = strtok_r(NULL, " ", &save);
	} while (word != NULL && strcmp(word, "-") != 0);
	out->mount_point = field[4];
	out->fs_type = strtok_r(NULL, " ", &save);
	out->source = strtok_r(NULL, " ", &save);
	if (out->source == NULL || sscanf(field[2], "%u:%u", &out->major, &out->minor) != 2)
		return false;
	unescape(out->mount_point);
	unescape(out->source);
	return true;
}

// A source is only text. Looking it up as a path is left to FUSE mounts, whose daemon may have been given another name
// of the same file: the source of a network mount could hang.
static bool is_mount_of(const struct mount_line *m, const char *path, const char *real, const struct stat *st)
{
	struct stat other;

	if (S_ISBLK(st->st_mode) && makedev(m->major, m->minor) == st->st_rdev)
		return true;
	if (m->source[0] != '/')
		return false; // "tmpfs", "host:/export": no path of this machine, even if a file here is called so
	if (strcmp(m->source, path) == 0 || (real != NULL && strcmp(m->source, real) == 0))
		return true;
	if (strncmp(m->fs_type, "fuse", 4) != 0 || stat(m->source, &other) != 0)
		return false;
	if (S_ISBLK(st->st_mode))
		return S_ISBLK(other.st_mode) && other.st_rdev == st->st_rdev;
	return other.st_dev == st->st_dev && other.st_ino == st->st_ino;
}

bool holder_mount_point(const char *path, const struct stat *st, char *buf, size_t len_bytes)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *real = realpath(path, NULL), *line = NULL;
	struct mount_line m;
	size_t cap = 0;
	bool found = false;

	while (f != NULL && !found && getline(&line, &cap, f) > 0)
		found = parse_mount_line(line, &m) && is_mount_of(&m, path, real, st);
	if (found)
		snprintf(buf, len_bytes, "%s", m.mount_point);
	if (f != NULL)
		fclose(f);
	free(line);
	free(real);
	return found;
}

// A program may call itself anything: keep the message to one line.
static void read_program(pid_t pid, char program[HOLDER_PROGRAM_LEN])
{
	char path[64];
	FILE *f;

	program[0] = '\0';
	snprintf(path, sizeof(path), "/proc/%ld/comm", (long)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return;
	if (fgets(program, HOLDER_PROGRAM_LEN, f) == NULL)
		program[0] = '\0';
	fclose(f);
	program[strcspn(program, "\n")] = '\0';
	for (char *c = program; *c != '\0'; c++)
		if (iscntrl((unsigned char)*c))
			*c = '?';
}

// "1: FLOCK  ADVISORY  WRITE 4274 fe:00:10952836 0 EOF". A waiter has "->" before FLOCK and does not match.
bool holder_process(const struct stat *st, pid_t *pid, char program[HOLDER_PROGRAM_LEN])
{
	FILE *f = fopen("/proc/locks", "re");
	char *line = NULL;
	size_t cap = 0;
	bool found = false;

	while (f != NULL && !found && getline(&line, &cap, f) > 0) {
		unsigned maj, min;
		unsigned long long ino;
		long holder;

		if (sscanf(line, "%*u: FLOCK %*s %*s %ld %x:%x:%llu", &holder, &maj, &min, &ino) != 4)
			continue;
		found = holder > 0 && makedev(maj, min) == st->st_dev && ino == st->st_ino;
		*pid = (pid_t)holder;
	}
	if (found)
		read_program(*pid, program);
	if (f != NULL)
		fclose(f);
	free(line);
	return found;
}
