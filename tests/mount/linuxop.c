// SPDX-License-Identifier: MIT
// What Linux knows beyond names and bytes, for the scripts of this folder. Exit status 0, or 1 with the error on stderr.
//
// linuxop.c         files without a name, file handles, the table of operations
// linuxop_locks.c   locks, leases, signals that interrupt calls
// linuxop_limits.c  limits, special files, a table of errors
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "linuxop.h"
#include "util/attr.h"

#define PIECE 65536
#define TMPFILE_PIECES 32

int complain(const char *what)
{
	fprintf(stderr, "linuxop: %s: %s\n", what, strerror(errno));
	return 1;
}

int wrong(const char *what)
{
	fprintf(stderr, "linuxop: %s\n", what);
	return 1;
}

// ---- files without a name ----

static int write_pieces(int fd)
{
	char piece[PIECE];

	for (int i = 0; i < TMPFILE_PIECES; i++) {
		memset(piece, 'a' + i % 26, sizeof(piece));
		if (pwrite(fd, piece, sizeof(piece), (off_t)i * PIECE) != PIECE)
			return -1;
	}
	return 0;
}

static bool has_pieces(const char *path)
{
	int fd = open(path, O_RDONLY);
	char piece[PIECE];
	bool good = fd >= 0;

	for (int i = 0; good && i < TMPFILE_PIECES; i++)
		good = pread(fd, piece, sizeof(piece), (off_t)i * PIECE) == PIECE && piece[0] == 'a' + i % 26 &&
		       memcmp(piece, piece + 1, PIECE - 1) == 0;
	return good && close(fd) == 0;
}

static nlink_t links(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 ? 1000000 : st.st_nlink;
}

static int name_it(int fd, const char *path)
{
	char proc[64];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, proc, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
}

static bool is_empty(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	while (dir != NULL && readdir(dir) != NULL)
		n++;
	return dir != NULL && closedir(dir) == 0 && n == 2;
}

// In an empty directory: made, written, named, named again, unnamed; then it is too late for another name.
static int op_tmpfile(char **arg)
{
	int fd = open(arg[0], O_TMPFILE | O_RDWR, 0640);
	char one[PATH_MAX], two[PATH_MAX];
	struct stat st;

	snprintf(one, sizeof(one), "%s/one", arg[0]);
	snprintf(two, sizeof(two), "%s/two", arg[0]);
	if (fd < 0 || fstat(fd, &st) < 0)
		return complain("O_TMPFILE");
	if (st.st_nlink != 0 || st.st_mode != (S_IFREG | 0640) || st.st_size != 0 || !is_empty(arg[0]))
		return wrong("what was made is not an empty file without a name");
	if (write_pieces(fd) < 0 || fsync(fd) < 0 || ftruncate(fd, (TMPFILE_PIECES - 1) * PIECE) < 0 || write_pieces(fd) < 0)
		return complain("writing without a name");
	if (name_it(fd, one) < 0)
		return complain("the first name");
	if (links(fd) != 1 || !has_pieces(one) || name_it(fd, one) == 0 || errno != EEXIST)
		return wrong("the first name");
	if (linkat(fd, "", AT_FDCWD, two, AT_EMPTY_PATH) < 0 && errno != ENOENT) // ENOENT: only root may
		return complain("the second name");
	if (access(two, F_OK) < 0 && link(one, two) < 0)
		return complain("the second name");
	if (links(fd) != 2 || unlink(one) < 0 || unlink(two) < 0 || links(fd) != 0)
		return wrong("the names do not go");
	if (name_it(fd, one) == 0 || errno != ENOENT)
		return wrong("a file that has lost its names gets a new one");
	close(fd);
	fd = open(arg[0], O_TMPFILE | O_RDWR | O_EXCL, 0600);
	if (fd < 0 || name_it(fd, one) == 0 || errno != ENOENT)
		return wrong("O_EXCL does not forbid names");
	return close(fd) < 0 || !is_empty(arg[0]) ? wrong("something is left") : 0;
}

// A file with a name that it got late, and one without that is as large, both durable; then waits for its end.
static int op_tmpfile_hold(char **arg)
{
	int named = open(arg[0], O_TMPFILE | O_RDWR, 0640), nameless = open(arg[0], O_TMPFILE | O_RDWR, 0600);
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/late", arg[0]);
	if (named < 0 || nameless < 0 || write_pieces(named) < 0 || write_pieces(nameless) < 0 || fsync(nameless) < 0)
		return complain("O_TMPFILE");
	if (name_it(named, path) < 0 || fsync(named) < 0)
		return complain(path);
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}

static int op_has_pieces(char **arg) { return has_pieces(arg[0]) ? 0 : wrong("not what was written"); }

// ---- file handles ----

struct stored_handle {
	struct file_handle head;
	unsigned char bytes[MAX_HANDLE_SZ];
};

static int op_handle_save(char **arg)
{
	struct stored_handle h = { .head.handle_bytes = MAX_HANDLE_SZ };
	int fd = open(arg[1], O_WRONLY | O_CREAT | O_TRUNC, 0644), mount_id;

	if (name_to_handle_at(AT_FDCWD, arg[0], &h.head, &mount_id, 0) < 0)
		return complain(arg[0]);
	return fd < 0 || write(fd, &h, sizeof(h)) != sizeof(h) || close(fd) < 0 ? complain(arg[1]) : 0;
}

// handle-open MOUNT HANDLE: what the handle opens, on stdout: the first line of a file, "directory", or the error's name.
static int op_handle_open(char **arg)
{
	int mnt = open(arg[0], O_RDONLY | O_DIRECTORY), in = open(arg[1], O_RDONLY), fd;
	struct stored_handle h;
	char text[256];
	struct stat st;
	ssize_t n;

	if (mnt < 0 || in < 0 || read(in, &h, sizeof(h)) != sizeof(h))
		return complain(arg[1]);
	fd = open_by_handle_at(mnt, &h.head, O_RDONLY);
	if (fd < 0) {
		puts(strerrorname_np(errno));
		return 0;
	}
	if (fstat(fd, &st) < 0)
		return complain("fstat");
	n = read(fd, text, sizeof(text) - 1);
	if (n < 0 && !S_ISDIR(st.st_mode))
		return complain("read");
	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
	puts(S_ISDIR(st.st_mode) ? "directory" : text);
	return close(fd) < 0 || close(mnt) < 0 || close(in) < 0;
}

// ---- the table ----

static const struct {
	const char *name;
	int n_args;
	int (*run)(char **arg);
} ops[] = {
	{ "errors", 1, op_errors },
	{ "handle-open", 2, op_handle_open },
	{ "handle-save", 2, op_handle_save },
	{ "has-pieces", 1, op_has_pieces },
	{ "interrupt", 2, op_interrupt },
	{ "lease", 1, op_lease },
	{ "links", 2, op_links },
	{ "locks", 1, op_locks },
	{ "long-path", 1, op_long_path },
	{ "socket", 1, op_socket },
	{ "subdirs", 2, op_subdirs },
	{ "tmpfile", 1, op_tmpfile },
	{ "tmpfile-hold", 1, op_tmpfile_hold },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc >= 2 && i < ARRAY_LEN(ops); i++)
		if (strcmp(argv[1], ops[i].name) == 0 && argc == 2 + ops[i].n_args)
			return ops[i].run(argv + 2);
	return wrong("unknown operation, or wrong number of arguments");
}
