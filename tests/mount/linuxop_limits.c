// SPDX-License-Identifier: MIT
// Limits: how many links, how many subdirectories, how long a path; sockets; and what each call answers to what cannot be done.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#include "linuxop.h"
#include "util/attr.h"

#define NAME_LEN 255

int op_links(char **arg)
{
	unsigned n = (unsigned)atoi(arg[1]);
	char name[PATH_MAX];
	struct stat st;

	for (unsigned i = 1; i <= n; i++) {
		snprintf(name, sizeof(name), "%s.%u", arg[0], i);
		if (link(arg[0], name) < 0) {
			if (i != n || errno != EMLINK)
				return complain(name);
		} else if (i == n) {
			return wrong("one link too many");
		}
	}
	if (stat(arg[0], &st) < 0 || st.st_nlink != n || pathconf(arg[0], _PC_LINK_MAX) == 0)
		return wrong("not as many links as were made");
	for (unsigned i = 1; i < n; i++) {
		snprintf(name, sizeof(name), "%s.%u", arg[0], i);
		if (unlink(name) < 0)
			return complain(name);
	}
	return stat(arg[0], &st) < 0 || st.st_nlink != 1 ? wrong("links that do not go") : 0;
}

// The link count of a directory says how many subdirectories it has, however many these are.
int op_subdirs(char **arg)
{
	unsigned n = (unsigned)atoi(arg[1]), seen = 0;
	int dir = open(arg[0], O_RDONLY | O_DIRECTORY);
	struct dirent *ent;
	char name[32];
	struct stat st;
	DIR *list;

	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "sub-%u", i);
		if (mkdirat(dir, name, 0755) < 0)
			return complain(name);
	}
	if (fstat(dir, &st) < 0 || st.st_nlink != n + 2)
		return wrong("the link count of a directory");
	list = fdopendir(dup(dir));
	while (list != NULL && (ent = readdir(list)) != NULL)
		seen += ent->d_type == DT_DIR && ent->d_name[0] == 's';
	if (list == NULL || closedir(list) < 0 || seen != n)
		return wrong("the listing of a directory");
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "sub-%u", i);
		if (unlinkat(dir, name, AT_REMOVEDIR) < 0)
			return complain(name);
	}
	return fstat(dir, &st) < 0 || st.st_nlink != 2 || close(dir) < 0 ? wrong("the link count afterwards") : 0;
}

// A path of PATH_MAX bytes with its NUL is followed, one more is not; a tree that is deeper is reached step by step.
int op_long_path(char **arg)
{
	char path[PATH_MAX + 1], name[NAME_LEN + 1];
	size_t len = 0;
	int fd;

	memset(name, 'p', NAME_LEN);
	name[NAME_LEN] = '\0';
	if (chdir(arg[0]) < 0)
		return complain(arg[0]);
	while (len + NAME_LEN + 1 < PATH_MAX - 2) {
		if (mkdir(name, 0755) < 0 || chdir(name) < 0)
			return complain("mkdir");
		len += (size_t)sprintf(path + len, "%s/", name);
	}
	if (mkdir(name, 0755) < 0 || chdir(name) < 0 || mkdir(name, 0755) < 0 || chdir(arg[0]) < 0)
		return complain("deeper than a path can say");
	memset(path + len, 'f', PATH_MAX - len);
	path[PATH_MAX] = '\0';
	if (open(path, O_WRONLY | O_CREAT, 0644) >= 0 || errno != ENAMETOOLONG)
		return wrong("a path of PATH_MAX + 1 bytes");
	path[PATH_MAX - 1] = '\0';
	fd = open(path, O_WRONLY | O_CREAT, 0644);
	return fd < 0 || close(fd) < 0 || access(path, F_OK) < 0 ? complain("a path of PATH_MAX bytes") : 0;
}

// A socket's name: one side listens there, the other connects, and a third cannot have the same name.
int op_socket(char **arg)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "socket" };
	int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0), second = socket(AF_UNIX, SOCK_STREAM, 0);
	int at = -1;
	char c = 0;
	struct stat st;

	if (chdir(arg[0]) < 0 || bind(server, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(server, 1) < 0)
		return complain("bind");
	if (bind(second, (struct sockaddr *)&addr, sizeof(addr)) == 0 || errno != EADDRINUSE)
		return wrong("two sockets with one name");
	if (connect(client, (struct sockaddr *)&addr, sizeof(addr)) < 0 || (at = accept(server, NULL, NULL)) < 0)
		return complain("connect");
	if (write(client, "s", 1) != 1 || read(at, &c, 1) != 1 || c != 's')
		return complain("through a socket");
	return lstat("socket", &st) < 0 || !S_ISSOCK(st.st_mode) || open("socket", O_RDONLY) >= 0 || errno != ENXIO;
}

// ---- errors ----

// What is there: file, empty/, full/ with file in it, fifo, loop-a <-> loop-b, dangling, and long, a name of 256 bytes.
static char too_long[NAME_LEN + 2];

static int try_open(const char *path, int flags) { return open(path, flags, 0644); }
static int do_open_dir(void) { return try_open("empty", O_WRONLY); }
static int do_create_dir(void) { return try_open("empty", O_RDONLY | O_CREAT); }
static int do_trunc_dir(void) { return truncate("empty", 0); }
static int do_open_excl(void) { return try_open("file", O_WRONLY | O_CREAT | O_EXCL); }
static int do_open_excl_link(void) { return try_open("dangling", O_WRONLY | O_CREAT | O_EXCL); }
static int do_open_as_dir(void) { return try_open("file", O_RDONLY | O_DIRECTORY); }
static int do_open_nofollow(void) { return try_open("dangling", O_RDONLY | O_NOFOLLOW); }
static int do_open_missing(void) { return try_open("dangling", O_RDONLY); }
static int do_open_loop(void) { return try_open("loop-a", O_RDONLY); }
static int do_open_through_file(void) { return try_open("file/x", O_RDONLY | O_CREAT); }
static int do_open_fifo(void) { return try_open("fifo", O_WRONLY | O_NONBLOCK); }
static int do_open_long(void) { return try_open(too_long, O_RDONLY); }
static int do_create_long(void) { return try_open(too_long, O_RDONLY | O_CREAT); }
static int do_mkdir_long(void) { return mkdir(too_long, 0755); }
static int do_mknod_long(void) { return mkfifo(too_long, 0644); }
static int do_symlink_long(void) { return symlink("x", too_long); }
static int do_link_long(void) { return link("file", too_long); }
static int do_rename_long(void) { return rename("file", too_long); }
static int do_unlink_long(void) { return unlink(too_long); }
static int do_stat_long(void) { return access(too_long, F_OK); }
static int do_symlink_empty(void) { return symlink("", "new"); }
static int do_mkdir_existing(void) { return mkdir("file", 0755); }
static int do_mkdir_nowhere(void) { return mkdir("none/new", 0755); }
static int do_mkdir_dot(void) { return mkdir("empty/.", 0755); }
static int do_rmdir_full(void) { return rmdir("full"); }
static int do_rmdir_file(void) { return rmdir("file"); }
static int do_rmdir_dot(void) { return rmdir("empty/."); }
static int do_rmdir_dotdot(void) { return rmdir("empty/.."); }
static int do_unlink_dir(void) { return unlink("empty"); }
static int do_unlink_missing(void) { return unlink("none"); }
static int do_link_dir(void) { return link("empty", "new"); }
static int do_link_existing(void) { return link("file", "fifo"); }
static int do_link_missing(void) { return link("none", "new"); }
static int do_link_elsewhere(void) { return link("file", "/dev/hybridfs-new"); }
static int do_rename_elsewhere(void) { return rename("file", "/dev/hybridfs-new"); }
static int do_rename_into_itself(void) { return rename("full", "full/new"); }
static int do_rename_over_full(void) { return rename("empty", "full"); }
static int do_rename_over_dir(void) { return rename("file", "empty"); }
static int do_rename_dir_over(void) { return rename("empty", "file"); }
static int do_rename_missing(void) { return rename("none", "new"); }
static int do_rename_dot(void) { return rename("full/.", "new"); }
static int do_readlink_file(void) { char c; return (int)readlink("file", &c, 1); }
static int do_chdir_file(void) { return chdir("file"); }
static int do_truncate_far(void) { return truncate("file", INT64_MAX); }
static int do_truncate_below(void) { return truncate("file", -1); }
static int do_read_dir(void) { char c; return (int)read(open("empty", O_RDONLY), &c, 1); }
static int do_write_far(void) { return (int)pwrite(open("file", O_WRONLY), "x", 1, INT64_MAX - 1); }
static int do_seek_data_behind(void) { return (int)lseek(open("file", O_RDONLY), 1, SEEK_DATA); }
static int do_fallocate_read_only(void) { return posix_fallocate(open("file", O_RDONLY), 0, 1) == EBADF ? (errno = EBADF, -1) : 0; }
static int do_exec_data(void) { return execl("./file", "file", (char *)NULL); }

static const struct {
	const char *what;
	int (*run)(void);
	int err;
} errors[] = {
	{ "open a directory for writing", do_open_dir, EISDIR },
	{ "open a directory with O_CREAT", do_create_dir, EISDIR },
	{ "truncate a directory", do_trunc_dir, EISDIR },
	{ "O_EXCL, existing", do_open_excl, EEXIST },
	{ "O_EXCL, a dangling symlink", do_open_excl_link, EEXIST },
	{ "O_DIRECTORY of a file", do_open_as_dir, ENOTDIR },
	{ "O_NOFOLLOW of a symlink", do_open_nofollow, ELOOP },
	{ "a dangling symlink", do_open_missing, ENOENT },
	{ "a loop of symlinks", do_open_loop, ELOOP },
	{ "a file as a directory", do_open_through_file, ENOTDIR },
	{ "a fifo that nobody reads", do_open_fifo, ENXIO },
	{ "open, 256 bytes", do_open_long, ENAMETOOLONG },
	{ "create, 256 bytes", do_create_long, ENAMETOOLONG },
	{ "mkdir, 256 bytes", do_mkdir_long, ENAMETOOLONG },
	{ "mkfifo, 256 bytes", do_mknod_long, ENAMETOOLONG },
	{ "symlink, 256 bytes", do_symlink_long, ENAMETOOLONG },
	{ "link, 256 bytes", do_link_long, ENAMETOOLONG },
	{ "rename, 256 bytes", do_rename_long, ENAMETOOLONG },
	{ "unlink, 256 bytes", do_unlink_long, ENAMETOOLONG },
	{ "access, 256 bytes", do_stat_long, ENAMETOOLONG },
	{ "a symlink to nothing", do_symlink_empty, ENOENT },
	{ "mkdir, existing", do_mkdir_existing, EEXIST },
	{ "mkdir nowhere", do_mkdir_nowhere, ENOENT },
	{ "mkdir .", do_mkdir_dot, EEXIST },
	{ "rmdir, not empty", do_rmdir_full, ENOTEMPTY },
	{ "rmdir of a file", do_rmdir_file, ENOTDIR },
	{ "rmdir .", do_rmdir_dot, EINVAL },
	{ "rmdir ..", do_rmdir_dotdot, ENOTEMPTY },
	{ "unlink of a directory", do_unlink_dir, EISDIR },
	{ "unlink, missing", do_unlink_missing, ENOENT },
	{ "link of a directory", do_link_dir, EPERM },
	{ "link, existing", do_link_existing, EEXIST },
	{ "link, missing", do_link_missing, ENOENT },
	{ "link to another filesystem", do_link_elsewhere, EXDEV },
	{ "rename to another filesystem", do_rename_elsewhere, EXDEV },
	{ "rename into itself", do_rename_into_itself, EINVAL },
	{ "rename over a directory that is not empty", do_rename_over_full, ENOTEMPTY },
	{ "rename of a file over a directory", do_rename_over_dir, EISDIR },
	{ "rename of a directory over a file", do_rename_dir_over, ENOTDIR },
	{ "rename, missing", do_rename_missing, ENOENT },
	{ "rename of .", do_rename_dot, EBUSY },
	{ "readlink of a file", do_readlink_file, EINVAL },
	{ "chdir to a file", do_chdir_file, ENOTDIR },
	{ "truncate beyond the largest file", do_truncate_far, EFBIG },
	{ "truncate below 0", do_truncate_below, EINVAL },
	{ "read of a directory", do_read_dir, EISDIR },
	{ "write beyond the largest file", do_write_far, EFBIG },
	{ "SEEK_DATA behind the end", do_seek_data_behind, ENXIO },
	{ "fallocate of a file opened for reading", do_fallocate_read_only, EBADF },
	{ "exec of what may not be executed", do_exec_data, EACCES },
};

static int make_scenery(void)
{
	memset(too_long, 'l', NAME_LEN + 1);
	if (close(open("file", O_WRONLY | O_CREAT, 0644)) < 0 || mkdir("empty", 0755) < 0 || mkdir("full", 0755) < 0 ||
	    link("file", "full/file") < 0 || mkfifo("fifo", 0644) < 0 || symlink("loop-b", "loop-a") < 0 ||
	    symlink("loop-a", "loop-b") < 0 || symlink("none", "dangling") < 0)
		return -1;
	return 0;
}

int op_errors(char **arg)
{
	unsigned n_wrong = 0;

	if (chdir(arg[0]) < 0 || make_scenery() < 0)
		return complain(arg[0]);
	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		int rc, err;

		errno = 0;
		rc = errors[i].run();
		err = errno;
		if (rc == -1 && err == errors[i].err)
			continue;
		fprintf(stderr, "linuxop: %s: %s instead of %s\n", errors[i].what, rc == -1 ? strerrorname_np(err) : "no error",
		        strerrorname_np(errors[i].err));
		n_wrong++;
	}
	return n_wrong > 0;
}
