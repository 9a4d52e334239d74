// SPDX-License-Identifier: MIT
// Single operations that no everyday program does, for the scripts of this folder. Exit status 0, or 1 with the error on stderr.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "block/superblock.h"
#include "util/attr.h"

#define PAGE 4096

static int complain(const char *what)
{
	fprintf(stderr, "fsop: %s: %s\n", what, strerror(errno));
	return 1;
}

static int wrong(const char *what)
{
	fprintf(stderr, "fsop: %s\n", what);
	return 1;
}

static int op_rename(char **arg)
{
	static const char *const names[] = { "0", "noreplace", "exchange", NULL, "whiteout", "whiteout-noreplace" }; // by their bits
	unsigned flags = (unsigned)strtoul(arg[2], NULL, 0);

	for (unsigned i = 0; i < ARRAY_LEN(names); i++)
		flags = names[i] != NULL && strcmp(arg[2], names[i]) == 0 ? i : flags;
	return renameat2(AT_FDCWD, arg[0], AT_FDCWD, arg[1], flags) < 0 ? complain(arg[1]) : 0;
}

// Writes every other page of three through a mapping, and sees that read(2) sees it and the untouched page is zeros.
static int op_mmap(char **arg)
{
	int fd = open(arg[0], O_RDWR | O_CREAT | O_TRUNC, 0644);
	char page[PAGE], zeros[PAGE] = { 0 };
	char *map;

	if (fd < 0 || ftruncate(fd, 3 * PAGE) < 0)
		return complain(arg[0]);
	map = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return complain("mmap");
	memset(map, 'a', PAGE);
	memset(map + 2 * PAGE, 'c', PAGE);
	if (pread(fd, page, PAGE, 2 * PAGE) != PAGE || memcmp(page, map + 2 * PAGE, PAGE) != 0)
		return wrong("read does not see what was written through the mapping");
	if (pread(fd, page, PAGE, PAGE) != PAGE || memcmp(page, zeros, PAGE) != 0)
		return wrong("an untouched page is not zeros");
	if (pwrite(fd, "x", 1, 0) != 1 || map[0] != 'x')
		return wrong("the mapping does not see what was written");
	return munmap(map, 3 * PAGE) < 0 || close(fd) < 0 ? complain(arg[0]) : 0;
}

// Direct and buffered accesses of one file see each other.
static int op_direct(char **arg)
{
	int direct = open(arg[0], O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0644), cached = open(arg[0], O_RDWR);
	char *buf, page[PAGE];

	if (direct < 0 || cached < 0 || posix_memalign((void **)&buf, PAGE, PAGE) != 0)
		return complain(arg[0]);
	for (int i = 0; i < 32; i++) {
		memset(buf, 'a' + i % 26, PAGE);
		if (pwrite(direct, buf, PAGE, (off_t)i * PAGE) != PAGE)
			return complain("direct write");
		if (pread(cached, page, PAGE, (off_t)i * PAGE) != PAGE || memcmp(page, buf, PAGE) != 0)
			return wrong("a cached read does not see the direct write");
		memset(page, 'A' + i % 26, PAGE);
		if (pwrite(cached, page, PAGE, (off_t)i * PAGE) != PAGE)
			return complain("cached write");
		if (pread(direct, buf, PAGE, (off_t)i * PAGE) != PAGE || memcmp(page, buf, PAGE) != 0)
			return wrong("a direct read does not see the cached write");
	}
	free(buf);
	return close(direct) < 0 || close(cached) < 0 ? complain(arg[0]) : 0;
}

static sigjmp_buf lost_page;

static void on_sigbus(int sig)
{
	siglongjmp(lost_page, sig);
}

// Reads a file with a bad block, which is not the last, through a mapping of a descriptor for direct access: the last page can be had, and
// the size stays what it is.
static int op_map_direct(char **arg)
{
	int fd = open(arg[0], O_RDONLY | O_DIRECT);
	struct stat before, after;
	volatile unsigned n_lost = 0;
	volatile bool last_lost = false;
	const volatile char *map;

	if (fd < 0 || fstat(fd, &before) < 0)
		return complain(arg[0]);
	map = mmap(NULL, (size_t)before.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED || signal(SIGBUS, on_sigbus) == SIG_ERR)
		return complain("mmap");
	for (volatile off_t at = 0; at < before.st_size; at += PAGE) {
		last_lost = sigsetjmp(lost_page, 1) != 0;
		if (last_lost)
			n_lost++;
		else
			(void)map[at];
	}
	if (fstat(fd, &after) < 0)
		return complain(arg[0]);
	if (last_lost || after.st_size != before.st_size)
		return wrong("everything behind a bad block is lost");
	printf("%u\n", n_lost);
	return close(fd) < 0 ? complain(arg[0]) : 0;
}

// Appends N lines of one letter and a number, each by one write.
static int op_append(char **arg)
{
	int fd = open(arg[0], O_WRONLY | O_APPEND | O_CREAT, 0644);
	char line[64];

	if (fd < 0)
		return complain(arg[0]);
	for (int i = 0, n = atoi(arg[2]); i < n; i++) {
		int len = snprintf(line, sizeof(line), "%s %d %.*s\n", arg[1], i, i % 30, "..............................");

		if (write(fd, line, (size_t)len) != len)
			return complain("append");
	}
	return close(fd) < 0 ? complain(arg[0]) : 0;
}

// Makes N files, then walks the directory once and deletes each file when it is seen. Every one must be seen exactly once.
static int op_readdir_delete(char **arg)
{
	int n = atoi(arg[1]), seen = 0, fd;
	char name[32];
	bool *was = calloc((size_t)n, sizeof(*was));
	struct dirent *e;
	DIR *dir;

	if (was == NULL || chdir(arg[0]) < 0)
		return complain(arg[0]);
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "file-%d", i);
		fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
		if (fd < 0 || close(fd) < 0)
			return complain(name);
	}
	dir = opendir(".");
	if (dir == NULL)
		return complain(arg[0]);
	while ((e = readdir(dir)) != NULL) {
		int i = -1;

		if (sscanf(e->d_name, "file-%d", &i) != 1)
			continue;
		if (i < 0 || i >= n || was[i])
			return wrong("a name was seen twice");
		was[i] = true;
		seen++;
		if (unlink(e->d_name) < 0)
			return complain(e->d_name);
	}
	closedir(dir);
	free(was);
	return seen == n ? 0 : wrong("a name was not seen");
}

// Whether a listing of the directory says the same of its ".." as stat(2).
static int op_dotdot(char **arg)
{
	DIR *dir = opendir(arg[0]);
	const struct dirent *ent;
	struct stat st;
	bool same = false;

	if (dir == NULL || fstatat(dirfd(dir), "..", &st, 0) < 0)
		return complain(arg[0]);
	while ((ent = readdir(dir)) != NULL)
		same |= strcmp(ent->d_name, "..") == 0 && ent->d_ino == st.st_ino;
	closedir(dir);
	return same ? 0 : wrong("the listing has another inode for ..");
}

// An open file without a name: can be written and read, and has no link.
static int op_unlinked(char **arg)
{
	int fd = open(arg[0], O_RDWR | O_CREAT | O_EXCL, 0644);
	char page[PAGE];
	struct stat st;

	memset(page, 'u', sizeof(page));
	if (fd < 0 || write(fd, page, PAGE) != PAGE || unlink(arg[0]) < 0)
		return complain(arg[0]);
	if (access(arg[0], F_OK) == 0)
		return wrong("the name is still there");
	for (int i = 1; i < 512; i++)
		if (pwrite(fd, page, PAGE, (off_t)i * PAGE) != PAGE)
			return complain("write without a name");
	if (fsync(fd) < 0 || fchmod(fd, 0600) < 0 || fstat(fd, &st) < 0)
		return complain("without a name");
	if (st.st_nlink != 0 || st.st_size != 512 * PAGE || pread(fd, page, 1, 511 * PAGE) != 1 || page[0] != 'u')
		return wrong("the file without a name is not what was written");
	return close(fd) < 0 ? complain(arg[0]) : 0;
}

// The first data and the first hole after an offset.
static int op_seek(char **arg)
{
	int fd = open(arg[0], O_RDONLY);
	off_t from = (off_t)strtoll(arg[1], NULL, 0), data, hole;

	if (fd < 0)
		return complain(arg[0]);
	data = lseek(fd, from, SEEK_DATA);
	hole = lseek(fd, from, SEEK_HOLE);
	printf("%lld %lld\n", (long long)data, (long long)hole);
	return close(fd) < 0 ? complain(arg[0]) : 0;
}

// Whether data at [start, end) is found from `from` on, and nothing of it taken for a hole.
static bool data_is_found(int fd, off_t from, off_t start, off_t end)
{
	off_t data = lseek(fd, from, SEEK_DATA), hole = lseek(fd, start, SEEK_HOLE);

	if (data <= start && data > start - 65536 && hole >= end)
		return true;
	fprintf(stderr, "data at %lld to %lld: found at %lld, a hole at %lld\n", (long long)start, (long long)end, (long long)data,
	        (long long)hole);
	return false;
}

// SEEK_DATA and SEEK_HOLE of what the kernel need not have written yet.
static int op_seek_dirty(char **arg)
{
	enum { MIB = 1 << 20 };
	int fd = open(arg[0], O_RDWR | O_CREAT | O_EXCL, 0600);
	char *map;

	if (fd < 0 || ftruncate(fd, 4 * MIB) < 0 || fsync(fd) < 0 || pwrite(fd, "x", 1, MIB) != 1)
		return complain(arg[0]);
	if (!data_is_found(fd, 0, MIB, MIB + 1))
		return 1;
	map = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return complain("mmap");
	map[2 * MIB] = 'y';
	map[3 * MIB] = 'z';
	if (!data_is_found(fd, MIB + 65536, 2 * MIB, 2 * MIB + 1) || !data_is_found(fd, 2 * MIB + 65536, 3 * MIB, 3 * MIB + 1))
		return 1;
	if (pwrite(fd, "end", 3, 5 * MIB) != 3 || !data_is_found(fd, 4 * MIB, 5 * MIB, 5 * MIB + 3))
		return 1;
	if (lseek(fd, 5 * MIB, SEEK_HOLE) != 5 * MIB + 3)
		return wrong("the end is not where it is");
	memset(map + 3 * MIB, 'w', MIB); // joins data and hole: the next hole decides
	if (!data_is_found(fd, 3 * MIB, 3 * MIB, 4 * MIB))
		return 1;
	return munmap(map, 4 * MIB) < 0 || close(fd) < 0 ? complain(arg[0]) : 0;
}

enum { SEEKERS_N = 40, SEEKER_ROUNDS = 10, SEEKER_PAGES = 256 }; // more processes than the daemon has threads

// With a writeback cache it may be refused when many do it at once.
static off_t seek_again(int fd, off_t off, int whence)
{
	off_t at;

	while ((at = lseek(fd, off, whence)) < 0 && errno == EAGAIN)
		continue;
	return at;
}

static int seek_in_rounds(const char *dir, int no)
{
	char name[PATH_MAX], *map;
	off_t data, hole;
	int fd;

	snprintf(name, sizeof(name), "%s/%d", dir, no);
	fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0 || ftruncate(fd, SEEKER_PAGES * PAGE) < 0)
		return complain(name);
	map = mmap(NULL, SEEKER_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return complain("mmap");
	for (int round = 0; round < SEEKER_ROUNDS; round++) {
		if (ftruncate(fd, 0) < 0 || ftruncate(fd, SEEKER_PAGES * PAGE) < 0)
			return complain(name);
		for (int page = 0; page < SEEKER_PAGES; page += 2)
			map[page * PAGE] = 'x';
		hole = seek_again(fd, 0, SEEK_HOLE);
		data = seek_again(fd, PAGE, SEEK_DATA);
		if (hole < PAGE || data < PAGE || data > 2 * PAGE) {
			fprintf(stderr, "%s, round %d: a hole at %lld, data at %lld\n", name, round, (long long)hole, (long long)data);
			return 1;
		}
	}
	return unlink(name) < 0 ? complain(name) : 0;
}

// SEEK_DATA and SEEK_HOLE by many at once, each in a file of his own with dirty pages.
static int op_seek_many(char **arg)
{
	int failed = 0, status;

	for (int i = 0; i < SEEKERS_N; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return complain("fork");
		if (pid == 0)
			_exit(seek_in_rounds(arg[0], i));
	}
	while (wait(&status) >= 0)
		failed |= status;
	return failed != 0;
}

static bool has_capabilities(int fd) { return fgetxattr(fd, "security.capability", NULL, 0) > 0; }

// File capabilities that come after a write, or after a change through a mapping, stay when the kernel hands on what it was: they go with the
// next write.
static int op_late_write(char **arg)
{
	const struct vfs_cap_data cap = { .magic_etc = VFS_CAP_REVISION_2, .data[0].permitted = 1u << 13 }; // CAP_NET_RAW
	int fd = open(arg[0], O_RDWR | O_CREAT | O_EXCL, 0700);
	char *map;

	if (fd < 0 || ftruncate(fd, 2 * PAGE) < 0)
		return complain(arg[0]);
	map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return complain("mmap");
	if (pwrite(fd, "w", 1, PAGE) != 1)
		return complain("write");
	map[0] = 'm';
	if (fsetxattr(fd, "security.capability", &cap, sizeof(cap), 0) < 0 || fsync(fd) < 0)
		return complain(arg[0]);
	if (!has_capabilities(fd))
		return wrong("a late write has taken away capabilities that are younger");
	if (pwrite(fd, "w", 1, PAGE) != 1)
		return complain("write");
	if (has_capabilities(fd))
		return wrong("a write has left the capabilities");
	return unlink(arg[0]) < 0 ? complain(arg[0]) : 0;
}

static int op_ioctl(char **arg)
{
	int fd = open(arg[0], O_RDONLY);

	if (fd < 0)
		return complain(arg[0]);
	if (ioctl(fd, _IO('~', 1)) == 0 || errno != ENOTTY)
		return complain("an unknown ioctl is not ENOTTY");
	return close(fd) < 0 ? complain(arg[0]) : 0;
}

// XFS_IOC_GOINGDOWN, asked for as programs do: how is 0 to flush everything, 1 to flush the log, 2 to flush nothing.
static int op_shutdown(char **arg)
{
	uint32_t how = (uint32_t)strtoul(arg[1], NULL, 0);
	int fd = open(arg[0], O_RDONLY);

	return fd < 0 || ioctl(fd, _IOR('X', 125, uint32_t), &how) < 0 || close(fd) < 0 ? complain(arg[0]) : 0;
}

// A dirty page of a mapping and a file that is open while the volume is shut down: everything is EIO, also what the kernel has in its cache.
static int op_shutdown_open(char **arg)
{
	char file[4096], page[PAGE];
	int fd;
	char *map;

	snprintf(file, sizeof(file), "%s/file", arg[0]);
	fd = open(file, O_RDWR);
	if (fd < 0 || read(fd, page, PAGE) != PAGE)
		return complain(file);
	map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return complain("mmap");
	memset(map, 'm', PAGE);
	if (op_shutdown(arg) != 0)
		return 1;
	if (pread(fd, page, PAGE, 0) >= 0 || errno != EIO)
		return wrong("reading goes on");
	if (pwrite(fd, page, PAGE, 0) >= 0 || errno != EIO)
		return wrong("writing goes on");
	if (fsync(fd) == 0 || errno != EIO)
		return wrong("fsync goes on");
	return 0;
}

// The program's only business is the error of close(2), or of fsync(2) before it.
static int op_fill(char **arg)
{
	static char buf[1 << 16];
	int fd = open(arg[0], O_WRONLY | O_CREAT | O_TRUNC, 0644);
	off_t mib = strtol(arg[1], NULL, 0);
	bool sync = strcmp(arg[2], "fsync") == 0;

	if (fd < 0)
		return complain(arg[0]);
	memset(buf, 'f', sizeof(buf));
	for (off_t n = 0; n < mib << 4; n++)
		if (write(fd, buf, sizeof(buf)) != sizeof(buf))
			return complain("write");
	if (sync && fsync(fd) < 0)
		return complain("fsync");
	return close(fd) < 0 ? complain("close") : 0;
}

// Prints the label of the volume; label-set gives it another.
static int op_label(char **arg)
{
	char label[FSLABEL_MAX];
	int fd = open(arg[0], O_RDONLY);

	if (fd < 0 || ioctl(fd, FS_IOC_GETFSLABEL, label) < 0 || close(fd) < 0)
		return complain(arg[0]);
	printf("%s\n", label);
	return 0;
}

static int op_label_set(char **arg)
{
	char label[FSLABEL_MAX] = { 0 };
	int fd = open(arg[0], O_RDONLY);

	strncpy(label, arg[1], sizeof(label) - 1);
	return fd < 0 || ioctl(fd, FS_IOC_SETFSLABEL, label) < 0 || close(fd) < 0 ? complain(arg[0]) : 0;
}

static int op_fsync(char **arg)
{
	int fd = open(arg[0], O_RDONLY);

	return fd < 0 || fsync(fd) < 0 || close(fd) < 0 ? complain(arg[0]) : 0;
}

// The errors of extended attributes, as ext4 gives them, and the largest of all.
static int op_xattr_limits(char **arg)
{
	static char big[XATTR_SIZE_MAX + 1], got[XATTR_SIZE_MAX + 1];
	char longest[XATTR_NAME_MAX + 2];
	const char *file = arg[0];
	const struct {
		const char *what;
		long ret;
		int err, want;
	} tries[] = {
#define TRY(want, expr) { #expr, (errno = 0, (long)(expr)), errno, want }
		TRY(0, (memset(big, 'b', sizeof(big)), memset(longest, 'n', sizeof(longest)), memcpy(longest, "user.", 5), 0)),
		TRY(ENODATA, setxattr(file, "user.a", "1234", 4, XATTR_REPLACE)),
		TRY(0, setxattr(file, "user.a", "1234", 4, XATTR_CREATE)),
		TRY(EEXIST, setxattr(file, "user.a", "1234", 4, XATTR_CREATE)),
		TRY(0, setxattr(file, "user.a", "", 0, XATTR_REPLACE)),
		TRY(0, setxattr(file, "user.a", "1234", 4, 0)),
		TRY(EINVAL, setxattr(file, "user.a", "1234", 4, XATTR_CREATE << 4)),
		TRY(ERANGE, getxattr(file, "user.a", got, 3)),
		TRY(ERANGE, listxattr(file, got, 6)),
		TRY(ENODATA, getxattr(file, "user.b", got, 3)),
		TRY(ENODATA, removexattr(file, "user.b")),
		TRY(0, setxattr(file, "user.big", big, XATTR_SIZE_MAX, 0)),
		TRY(0, getxattr(file, "user.big", got, XATTR_SIZE_MAX)),
		TRY(0, memcmp(big, got, XATTR_SIZE_MAX)),
		TRY(E2BIG, setxattr(file, "user.big", big, XATTR_SIZE_MAX + 1, 0)),
		TRY(0, (longest[XATTR_NAME_MAX] = '\0', setxattr(file, longest, "x", 1, 0))),
		TRY(0, getxattr(file, longest, got, 1)),
		TRY(0, removexattr(file, longest)),
		TRY(ERANGE, (longest[XATTR_NAME_MAX] = 'n', longest[XATTR_NAME_MAX + 1] = '\0', setxattr(file, longest, "x", 1, 0))),
		TRY(EINVAL, setxattr(file, "user.", "x", 1, 0)),
		TRY(EOPNOTSUPP, setxattr(file, "user", "x", 1, 0)),
		TRY(EOPNOTSUPP, setxattr(file, "other.x", "x", 1, 0)),
		TRY(EOPNOTSUPP, getxattr(file, "other.x", got, 1)),
		TRY(EOPNOTSUPP, setxattr(file, "system.x", "x", 1, 0)),
		TRY(EOPNOTSUPP, getxattr(file, "system.x", got, 1)),
		TRY(EOPNOTSUPP, removexattr(file, "system.x")),
#undef TRY
	};

	for (size_t i = 0; i < ARRAY_LEN(tries); i++)
		if ((tries[i].want == 0) != (tries[i].ret >= 0) || tries[i].err != tries[i].want) {
			errno = tries[i].err;
			return complain(tries[i].what);
		}
	return 0;
}

static int op_create(char **arg)
{
	int fd = open(arg[0], O_WRONLY | O_CREAT | O_EXCL, (mode_t)strtoul(arg[1], NULL, 8));

	return fd < 0 || close(fd) < 0 ? complain(arg[0]) : 0;
}

static int op_euid(char **arg)
{
	(void)arg;
	printf("%ld\n", (long)geteuid());
	return 0;
}

// Makes an image that a later version of the format might have written.
static int op_set_version(char **arg)
{
	static struct superblock sb;
	static unsigned char buf[SB_SIZE];
	struct bdev *dev;
	struct errmsg why = { "" };
	int rc = bdev_open_file(arg[0], 0, 0, &dev, &why);

	if (rc != 0 || sb_read(dev, &sb, NULL, &why) != 0)
		return wrong(why.text);
	sb.version = (uint32_t)atoi(arg[1]);
	sb_encode(&sb, buf);
	rc = bdev_write(dev, buf, SB_SIZE, SB_OFF_FIRST);
	if (rc == 0)
		rc = bdev_write(dev, buf, SB_SIZE, SB_OFF_SECOND);
	if (rc == 0)
		rc = bdev_write(dev, buf, SB_SIZE, sb.n_blks * 4096 - SB_SIZE);
	bdev_close(dev);
	return rc == 0 ? 0 : wrong(strerror(-rc));
}

static const struct {
	const char *name;
	int n_args;
	int (*run)(char **arg);
} ops[] = {
	{ "append", 3, op_append },
	{ "create", 2, op_create },
	{ "direct", 1, op_direct },
	{ "dotdot", 1, op_dotdot },
	{ "euid", 0, op_euid },
	{ "fill", 3, op_fill },
	{ "fsync", 1, op_fsync },
	{ "ioctl", 1, op_ioctl },
	{ "label", 1, op_label },
	{ "label-set", 2, op_label_set },
	{ "late-write", 1, op_late_write },
	{ "map-direct", 1, op_map_direct },
	{ "mmap", 1, op_mmap },
	{ "readdir-delete", 2, op_readdir_delete },
	{ "rename", 3, op_rename },
	{ "seek", 2, op_seek },
	{ "seek-dirty", 1, op_seek_dirty },
	{ "seek-many", 1, op_seek_many },
	{ "set-version", 2, op_set_version },
	{ "shutdown", 2, op_shutdown },
	{ "shutdown-open", 2, op_shutdown_open },
	{ "unlinked", 1, op_unlinked },
	{ "xattr-limits", 1, op_xattr_limits },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc >= 2 && i < ARRAY_LEN(ops); i++)
		if (strcmp(argv[1], ops[i].name) == 0 && argc == 2 + ops[i].n_args)
			return ops[i].run(argv + 2);
	return wrong("unknown operation, or wrong number of arguments");
}
