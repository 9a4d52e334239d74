// SPDX-License-Identifier: MIT
// The operations. Each draws its random arguments first, says what it will do, does it on both sides and compares the answers.
#include "model.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MAX_DEPTH 4
#define N_NAMES 14

// ---- arguments ----

static void pick_name(struct model *m, char *name)
{
	unsigned r = (unsigned)model_random(m, 200);

	if (r == 0) {
		memset(name, 'L', 256); // one byte too long
		name[256] = '\0';
	} else if (r <= 3) {
		memset(name, 'M', 255);
		snprintf(name + 252, 4, "%03u", r);
	} else if (r <= 6) {
		snprintf(name, 257, "odd \xff\xc3 name\n%u", r);
	} else {
		snprintf(name, 257, "n%u", (unsigned)model_random(m, N_NAMES));
	}
}

static const struct node *pick_node(struct model *m, mode_t type)
{
	size_t n = 0, chosen;

	model_list(m);
	for (size_t i = 0; i < m->n_nodes; i++)
		n += type == 0 || (m->nodes[i].mode & S_IFMT) == type;
	if (n == 0)
		return NULL;
	chosen = model_random(m, n);
	for (size_t i = 0; i < m->n_nodes; i++)
		if ((type == 0 || (m->nodes[i].mode & S_IFMT) == type) && chosen-- == 0)
			return &m->nodes[i];
	return NULL;
}

// A path that may or may not exist, in a folder that does (mostly).
static void pick_new(struct model *m, char path[PATH_LEN])
{
	const struct node *dir = model_chance(m, 30) ? NULL : pick_node(m, model_chance(m, 97) ? S_IFDIR : 0);
	unsigned depth = 0;
	char name[257];

	for (const char *p = dir != NULL ? dir->path : ""; *p != '\0'; p++)
		depth += *p == '/';
	pick_name(m, name);
	if (dir != NULL && depth < MAX_DEPTH - 1)
		snprintf(path, PATH_LEN, "%s/%s", dir->path, name);
	else
		snprintf(path, PATH_LEN, "%s", name);
}

// A path that exists, of a type (0 = any); sometimes any path, for the errors.
static void pick_old(struct model *m, mode_t type, char path[PATH_LEN])
{
	const struct node *node = model_chance(m, 92) ? pick_node(m, type) : NULL;

	if (node != NULL)
		snprintf(path, PATH_LEN, "%s", node->path);
	else
		pick_new(m, path);
}

static uint64_t pick_len(struct model *m)
{
	unsigned r = (unsigned)model_random(m, 100);

	if (r < 40)
		return 1 + model_random(m, 4096);
	if (r < 60)
		return 4096 * (1 + model_random(m, 16));
	if (r < 85)
		return 1 + model_random(m, 65536);
	if (r < 98)
		return 1 + model_random(m, 512 << 10);
	return 1 + model_random(m, MAX_IO);
}

// Offsets cluster near the start (small, inline files), at block borders, and now and then far out.
static uint64_t pick_off(struct model *m)
{
	unsigned r = (unsigned)model_random(m, 100);

	if (r < 25)
		return 0;
	if (r < 45)
		return model_random(m, 3000);
	if (r < 65)
		return 4096 * model_random(m, 64);
	if (r < 97)
		return model_random(m, 512 << 10);
	return model_random(m, 8 << 20);
}

static mode_t pick_mode(struct model *m, bool dir)
{
	mode_t mode = (dir ? 0700 : 0600) | (mode_t)model_random(m, 0200);

	if (model_chance(m, 10))
		mode |= dir ? S_ISVTX : S_ISUID;
	if (model_chance(m, 5))
		mode |= S_ISGID;
	return mode;
}

static struct timespec pick_past(struct model *m)
{
	return (struct timespec){ .tv_sec = PAST_S + (time_t)model_random(m, PAST_SPAN_S),
		                  .tv_nsec = (long)model_random(m, 1000000000) };
}

static void set_past(struct model *m, const struct pair *files)
{
	struct timespec now = pick_past(m), times[2] = { now, now };
	struct outcome out;

	BOTH(&out, futimens(files->fd[s], times));
	(void)model_agree(m, &out);
}

// A regular file to work on: one that stays open, or one opened for this operation. False if there is none.
struct use {
	struct pair files;
	struct pair *slot; // NULL: opened for this one
	char name[PATH_LEN];
};

static bool use_begin(struct model *m, struct use *use, int flags)
{
	struct pair *slot = &m->slots[model_random(m, MAX_SLOTS)];
	struct stat st;

	if (slot->fd[TESTED] >= 0 && model_chance(m, 40)) {
		use->slot = slot;
		use->files = *slot;
		snprintf(use->name, PATH_LEN, "(open file %d)", (int)(slot - m->slots));
		return true;
	}
	use->slot = NULL;
	pick_old(m, S_IFREG, use->name);
	model_note(m, "open '%s', flags 0%o", use->name, flags);
	if (!model_open(m, &use->files, use->name, flags, 0))
		return false;
	if (fstat(use->files.fd[REFERENCE], &st) < 0 || !S_ISREG(st.st_mode)) {
		model_close(&use->files);
		return false;
	}
	return true;
}

static void use_end(struct model *m, struct use *use)
{
	struct outcome out;
	struct stat st[N_SIDES];

	BOTH(&out, fstat(use->files.fd[s], &st[s]));
	if (model_agree(m, &out) && (st[TESTED].st_size != st[REFERENCE].st_size || st[TESTED].st_nlink != st[REFERENCE].st_nlink))
		model_fail(m, "'%s': size %lld, links %lu; reference: size %lld, links %lu", use->name, (long long)st[TESTED].st_size,
		           (unsigned long)st[TESTED].st_nlink, (long long)st[REFERENCE].st_size, (unsigned long)st[REFERENCE].st_nlink);
	if (use->slot == NULL)
		model_close(&use->files);
}

// Reads what was changed, with a margin on both sides.
static void look_again(struct model *m, const struct use *use, uint64_t off, uint64_t len)
{
	uint64_t before = off < 5000 ? off : 5000;

	model_compare_fds(m, &use->files, use->name, off - before, before + len + 5000);
}

// Random bytes, repeated letters or zeros, in the reference's buffer.
static void fill(struct model *m, uint64_t len)
{
	char *buf = m->buf[REFERENCE];
	unsigned kind = (unsigned)model_random(m, 10);

	if (kind < 2) {
		memset(buf, kind == 0 ? 0 : 'z', len);
		return;
	}
	for (uint64_t i = 0; i < len; i += 8) {
		uint64_t r = model_random(m, UINT64_MAX);

		memcpy(buf + i, &r, len - i < 8 ? len - i : 8);
	}
}

// ---- data ----

static void op_write(struct model *m)
{
	bool append = model_chance(m, 20);
	uint64_t off = pick_off(m), len = pick_len(m);
	struct outcome out;
	struct use use;

	if (!use_begin(m, &use, O_RDWR | (append ? O_APPEND : 0) | (model_chance(m, 3) ? O_SYNC : 0)))
		return;
	append = append && use.slot == NULL;
	model_note(m, "write '%s' at %llu, length %llu%s", use.name, (unsigned long long)off, (unsigned long long)len, append ? ", append" : "");
	fill(m, len);
	if (append)
		BOTH(&out, write(use.files.fd[s], m->buf[REFERENCE], len));
	else
		BOTH(&out, pwrite(use.files.fd[s], m->buf[REFERENCE], len, (off_t)off));
	if (model_agree(m, &out))
		look_again(m, &use, append ? 0 : off, len);
	use_end(m, &use);
}

static void op_read(struct model *m)
{
	uint64_t off = pick_off(m), len = pick_len(m);
	struct use use;

	if (!use_begin(m, &use, O_RDONLY))
		return;
	model_note(m, "read '%s' at %llu, length %llu", use.name, (unsigned long long)off, (unsigned long long)len);
	model_compare_fds(m, &use.files, use.name, off, len);
	use_end(m, &use);
}

// Never to the same size: whether that changes mtime depends on the call, which FUSE does not pass on.
static void op_truncate(struct model *m)
{
	uint64_t size = model_chance(m, 20) ? 0 : pick_off(m) + model_random(m, 2);
	struct outcome out;
	struct use use;
	struct stat st;

	if (!use_begin(m, &use, O_RDWR))
		return;
	if (fstat(use.files.fd[REFERENCE], &st) == 0 && (uint64_t)st.st_size == size)
		size++;
	model_note(m, "truncate '%s' to %llu", use.name, (unsigned long long)size);
	if (use.slot == NULL && model_chance(m, 50))
		BOTH(&out, ({ char p[PATH_LEN + 32]; snprintf(p, sizeof(p), "/proc/self/fd/%d/%s", m->root[s], use.name); truncate(p, (off_t)size); }));
	else
		BOTH(&out, ftruncate(use.files.fd[s], (off_t)size));
	if (model_agree(m, &out))
		look_again(m, &use, size < (uint64_t)st.st_size ? size : (uint64_t)st.st_size, 10000);
	use_end(m, &use);
}

// FALLOC_FL_ZERO_RANGE by hand, where the reference does not know it.
static int zero_range(struct model *m, int fd, int mode, uint64_t off, uint64_t len)
{
	uint64_t end = off + len;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -1;
	if ((mode & FALLOC_FL_KEEP_SIZE) != 0 && end > (uint64_t)st.st_size)
		end = (uint64_t)st.st_size;
	memset(m->buf[REFERENCE], 0, len);
	return end <= off || pwrite(fd, m->buf[REFERENCE], end - off, (off_t)off) == (ssize_t)(end - off) ? 0 : -1;
}

static void op_fallocate(struct model *m)
{
	static const int modes[] = { 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		                     FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE };
	int mode = modes[model_random(m, sizeof(modes) / sizeof(modes[0]))];
	uint64_t off = pick_off(m), len = pick_len(m);
	struct outcome out;
	struct use use;

	if (!use_begin(m, &use, O_RDWR))
		return;
	model_note(m, "fallocate '%s', mode 0x%x, at %llu, length %llu", use.name, mode, (unsigned long long)off, (unsigned long long)len);
	BOTH(&out, (mode & FALLOC_FL_ZERO_RANGE) != 0 && s == REFERENCE && !m->reference_zeroes ?
	                   zero_range(m, use.files.fd[s], mode, off, len) :
	                   fallocate(use.files.fd[s], mode, (off_t)off, (off_t)len));
	if (model_agree(m, &out)) {
		look_again(m, &use, off, len);
		set_past(m, &use.files);
	}
	use_end(m, &use);
}

static int64_t copy_all(int in, uint64_t in_off, int out, uint64_t out_off, uint64_t len)
{
	loff_t from = (loff_t)in_off, to = (loff_t)out_off;
	uint64_t left = len;

	while (left > 0) {
		ssize_t n = copy_file_range(in, &from, out, &to, left, 0);

		if (n < 0)
			return left == len ? -1 : (int64_t)(len - left);
		if (n == 0)
			break;
		left -= (uint64_t)n;
	}
	return (int64_t)(len - left);
}

static void op_copy_range(struct model *m)
{
	uint64_t in_off = pick_off(m), out_off = pick_off(m), len = pick_len(m);
	struct outcome out;
	struct use from, to;

	if (model_chance(m, 30)) { // whole blocks: what a clever implementation treats on its own
		in_off &= ~4095ull;
		out_off &= ~4095ull;
	}
	if (!use_begin(m, &from, O_RDONLY))
		return;
	if (use_begin(m, &to, O_RDWR)) {
		model_note(m, "copy_file_range '%s' at %llu to '%s' at %llu, length %llu", from.name, (unsigned long long)in_off, to.name,
		           (unsigned long long)out_off, (unsigned long long)len);
		BOTH(&out, copy_all(from.files.fd[s], in_off, to.files.fd[s], out_off, len));
		if (model_agree(m, &out))
			look_again(m, &to, out_off, len);
		use_end(m, &to);
	}
	use_end(m, &from);
}

static int mmap_write(struct model *m, int fd, uint64_t off, uint64_t len)
{
	uint64_t start = off & ~4095ull;
	size_t map_len = (size_t)(off + len - start);
	char *map = mmap(NULL, map_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)start);

	if (map == MAP_FAILED)
		return -1;
	memcpy(map + (off - start), m->buf[REFERENCE], len);
	if (msync(map, map_len, MS_SYNC) < 0)
		return -1;
	return munmap(map, map_len);
}

static void op_mmap(struct model *m)
{
	uint64_t off, len;
	struct outcome out;
	struct use use;
	struct stat st;

	if (!use_begin(m, &use, O_RDWR))
		return;
	if (fstat(use.files.fd[REFERENCE], &st) == 0 && st.st_size > 0) {
		off = model_random(m, (uint64_t)st.st_size);
		len = 1 + model_random(m, (uint64_t)st.st_size - off);
		len = len < 200000 ? len : 200000;
		model_note(m, "write '%s' through a mapping at %llu, length %llu", use.name, (unsigned long long)off, (unsigned long long)len);
		fill(m, len);
		BOTH(&out, mmap_write(m, use.files.fd[s], off, len));
		if (model_agree(m, &out)) {
			look_again(m, &use, off, len);
			set_past(m, &use.files);
		}
	}
	use_end(m, &use);
}

static void op_fsync(struct model *m)
{
	bool data_only = model_chance(m, 50);
	struct outcome out;
	struct use use;

	if (!use_begin(m, &use, O_RDWR))
		return;
	model_note(m, "%s '%s'", data_only ? "fdatasync" : "fsync", use.name);
	BOTH(&out, data_only ? fdatasync(use.files.fd[s]) : fsync(use.files.fd[s]));
	(void)model_agree(m, &out);
	use_end(m, &use);
}

static void op_slot(struct model *m)
{
	unsigned i = (unsigned)model_random(m, MAX_SLOTS);
	struct pair *slot = &m->slots[i];
	char path[PATH_LEN];
	struct stat st;

	if (slot->fd[TESTED] >= 0) {
		model_note(m, "close open file %u", i);
		model_close(slot);
		return;
	}
	pick_old(m, S_IFREG, path);
	model_note(m, "keep '%s' as open file %u", path, i);
	if (model_open(m, slot, path, O_RDWR, 0) && (fstat(slot->fd[REFERENCE], &st) < 0 || !S_ISREG(st.st_mode)))
		model_close(slot);
}

// ---- names ----

static void op_create(struct model *m)
{
	int flags = O_RDWR | O_CREAT | (model_chance(m, 30) ? O_EXCL : 0) | (model_chance(m, 20) ? O_TRUNC : 0);
	uint64_t len = model_chance(m, 20) ? 0 : pick_len(m);
	mode_t mode = 0600 | (mode_t)model_random(m, 0200);
	struct outcome out;
	char path[PATH_LEN];
	struct pair files;
	struct stat st;

	pick_new(m, path);
	model_note(m, "create '%s', flags 0%o, mode 0%o, then write %llu", path, flags, mode, (unsigned long long)len);
	m->stale = true;
	if (!model_open(m, &files, path, flags, mode))
		return;
	if (fstat(files.fd[REFERENCE], &st) == 0 && S_ISREG(st.st_mode) && len > 0) {
		fill(m, len);
		BOTH(&out, write(files.fd[s], m->buf[REFERENCE], len));
		(void)model_agree(m, &out);
		model_compare_fds(m, &files, path, 0, len + 1);
	}
	model_close(&files);
}

static int name_file(int fd, int root, const char *path)
{
	char proc[64];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, proc, root, path, AT_SYMLINK_FOLLOW);
}

// A file without a name: written, then it stays open like this, gets a name, or goes.
static void op_tmpfile(struct model *m)
{
	struct pair *slot = &m->slots[model_random(m, MAX_SLOTS)], files;
	bool exclusive = model_chance(m, 10);
	const struct node *dir = pick_node(m, S_IFDIR);
	uint64_t off = pick_off(m), len = pick_len(m);
	struct outcome out;
	char path[PATH_LEN];

	model_note(m, "O_TMPFILE in '%s'%s", dir != NULL ? dir->path : ".", exclusive ? ", O_EXCL" : "");
	if (!model_open(m, &files, dir != NULL ? dir->path : ".", O_TMPFILE | O_RDWR | (exclusive ? O_EXCL : 0), 0600 | (mode_t)model_random(m, 0200)))
		return;
	fill(m, len);
	BOTH(&out, pwrite(files.fd[s], m->buf[REFERENCE], len, (off_t)off));
	(void)model_agree(m, &out);
	model_compare_fds(m, &files, "(nameless)", 0, off + len + 1);
	if (slot->fd[TESTED] < 0 && model_chance(m, 40)) {
		*slot = files;
		return;
	}
	if (model_chance(m, 80)) {
		pick_new(m, path);
		model_note(m, "name it '%s'", path);
		BOTH(&out, name_file(files.fd[s], m->root[s], path));
		m->stale = true;
		if (model_agree(m, &out))
			model_compare_stat(m, path);
	}
	model_close(&files);
}

// A file that is open and perhaps has lost its names, or never had one, gets a name.
static void op_name_slot(struct model *m)
{
	unsigned i = (unsigned)model_random(m, MAX_SLOTS);
	struct pair *slot = &m->slots[i];
	struct outcome out;
	char path[PATH_LEN];

	if (slot->fd[TESTED] < 0)
		return;
	pick_new(m, path);
	model_note(m, "name open file %u '%s'", i, path);
	BOTH(&out, name_file(slot->fd[s], m->root[s], path));
	m->stale = true;
	if (model_agree(m, &out))
		model_compare_stat(m, path);
}

static void op_mkdir(struct model *m)
{
	mode_t mode = 0700 | (mode_t)model_random(m, 0100);
	struct outcome out;
	char path[PATH_LEN];

	pick_new(m, path);
	model_note(m, "mkdir '%s', mode 0%o", path, mode);
	BOTH(&out, mkdirat(m->root[s], path, mode));
	m->stale = true;
	if (model_agree(m, &out))
		model_compare_stat(m, path);
}

static void op_mknod(struct model *m)
{
	mode_t mode = (model_chance(m, 50) ? S_IFIFO : model_chance(m, 50) ? S_IFSOCK : S_IFREG) | 0600;
	struct outcome out;
	char path[PATH_LEN];

	pick_new(m, path);
	model_note(m, "mknod '%s', mode 0%o", path, mode);
	BOTH(&out, mknodat(m->root[s], path, mode, 0));
	m->stale = true;
	if (model_agree(m, &out))
		model_compare_stat(m, path);
}

static void op_symlink(struct model *m)
{
	char path[PATH_LEN], target[PATH_LEN];
	struct outcome out;

	pick_new(m, path);
	pick_name(m, target);
	model_note(m, "symlink '%s' to '%s'", path, target);
	BOTH(&out, symlinkat(target, m->root[s], path));
	m->stale = true;
	if (model_agree(m, &out))
		model_compare_stat(m, path);
}

static void op_link(struct model *m)
{
	char from[PATH_LEN], to[PATH_LEN];
	struct outcome out;

	pick_old(m, model_chance(m, 80) ? S_IFREG : 0, from);
	pick_new(m, to);
	model_note(m, "link '%s' to '%s'", from, to);
	BOTH(&out, linkat(m->root[s], from, m->root[s], to, 0));
	m->stale = true;
	if (model_agree(m, &out))
		model_compare_stat(m, from);
}

static void op_unlink(struct model *m)
{
	char path[PATH_LEN];
	struct outcome out;

	pick_old(m, model_chance(m, 80) ? S_IFREG : 0, path);
	model_note(m, "unlink '%s'", path);
	BOTH(&out, unlinkat(m->root[s], path, 0));
	m->stale = true;
	(void)model_agree(m, &out);
}

static void op_rmdir(struct model *m)
{
	char path[PATH_LEN];
	struct outcome out;

	pick_old(m, S_IFDIR, path);
	model_note(m, "rmdir '%s'", path);
	BOTH(&out, unlinkat(m->root[s], path, AT_REMOVEDIR));
	m->stale = true;
	(void)model_agree(m, &out);
}

static void op_rename(struct model *m)
{
	static const unsigned rare[] = { RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT, RENAME_WHITEOUT | RENAME_NOREPLACE };
	unsigned flags = model_chance(m, 70) ? 0 : rare[model_random(m, 4)];
	char from[PATH_LEN], to[PATH_LEN];
	struct outcome out;

	pick_old(m, 0, from);
	if (flags == RENAME_EXCHANGE || model_chance(m, 40))
		pick_old(m, 0, to);
	else
		pick_new(m, to);
	model_note(m, "rename '%s' to '%s', flags %u", from, to, flags);
	BOTH(&out, renameat2(m->root[s], from, m->root[s], to, flags));
	m->stale = true;
	if (model_agree(m, &out))
		model_compare_stat(m, to);
	model_compare_stat(m, from);
}

// ---- attributes ----

static void op_chmod(struct model *m)
{
	char path[PATH_LEN];
	struct outcome out;
	const struct node *node = pick_node(m, model_chance(m, 50) ? S_IFREG : S_IFDIR);
	mode_t mode;

	if (node == NULL)
		return;
	snprintf(path, PATH_LEN, "%s", node->path);
	mode = pick_mode(m, S_ISDIR(node->mode));
	model_note(m, "chmod '%s' to 0%o", path, mode);
	BOTH(&out, fchmodat(m->root[s], path, mode, 0));
	m->stale = true;
	if (model_agree(m, &out))
		model_compare_stat(m, path);
}

static void op_chown(struct model *m)
{
	uid_t uid = m->is_root ? (uid_t)model_random(m, 4) : (uid_t)-1;
	gid_t gid = m->is_root ? (gid_t)model_random(m, 4) : getegid();
	char path[PATH_LEN];
	struct outcome out;

	pick_old(m, 0, path);
	model_note(m, "chown '%s' to %u:%u", path, uid, gid);
	BOTH(&out, fchownat(m->root[s], path, uid, gid, AT_SYMLINK_NOFOLLOW));
	m->stale = true;
	if (model_agree(m, &out))
		model_compare_stat(m, path);
}

static void op_utimens(struct model *m)
{
	struct timespec times[2] = { pick_past(m), pick_past(m) };
	char path[PATH_LEN];
	struct outcome out;

	if (model_chance(m, 10))
		times[1].tv_nsec = UTIME_NOW;
	if (model_chance(m, 10))
		times[0].tv_nsec = UTIME_OMIT;
	pick_old(m, 0, path);
	model_note(m, "utimensat '%s', mtime %lld.%09ld", path, (long long)times[1].tv_sec, times[1].tv_nsec);
	BOTH(&out, utimensat(m->root[s], path, times, AT_SYMLINK_NOFOLLOW));
	if (model_agree(m, &out))
		model_compare_stat(m, path);
}

static void op_xattr(struct model *m)
{
	static const int flags[] = { 0, 0, XATTR_CREATE, XATTR_REPLACE };
	int flag = flags[model_random(m, 4)];
	bool remove = model_chance(m, 30);
	size_t len = (size_t)model_random(m, 200);
	char path[PATH_LEN], name[32], full[N_SIDES][PATH_LEN + 32];
	const struct node *node = pick_node(m, model_chance(m, 70) ? S_IFREG : S_IFDIR);
	struct outcome out;

	if (!m->xattrs || node == NULL)
		return;
	snprintf(path, PATH_LEN, "%s", node->path);
	snprintf(name, sizeof(name), "user.x%u", (unsigned)model_random(m, 6));
	FOR_SIDES(s)
		snprintf(full[s], sizeof(full[s]), "/proc/self/fd/%d/%s", m->root[s], path);
	fill(m, len);
	model_note(m, "%s '%s' %s, length %zu, flags %d", remove ? "removexattr" : "setxattr", path, name, len, flag);
	if (remove)
		BOTH(&out, lremovexattr(full[s], name));
	else
		BOTH(&out, lsetxattr(full[s], name, m->buf[REFERENCE], len, flag));
	if (model_agree(m, &out))
		model_compare_xattrs(m, path);
}

// ---- access control lists ----

static size_t put_acl_entry(char *at, unsigned tag, unsigned perm, uint32_t id)
{
	const uint16_t head[] = { htole16((uint16_t)tag), htole16((uint16_t)perm) };
	const uint32_t tail = htole32(id);

	memcpy(at, head, sizeof(head));
	memcpy(at + sizeof(head), &tail, sizeof(tail));
	return sizeof(head) + sizeof(tail);
}

// Mostly valid: owner, some users, group, some groups, mask, others; the owner keeps access, so that the test can go on.
static size_t make_acl(struct model *m, char *buf)
{
	unsigned n_users = (unsigned)model_random(m, 3), n_groups = (unsigned)model_random(m, 3);
	bool mask = n_users + n_groups > 0 ? !model_chance(m, 3) : model_chance(m, 20);
	const uint32_t version = htole32(2);
	size_t len = sizeof(version);

	memcpy(buf, &version, sizeof(version));
	len += put_acl_entry(buf + len, 0x01, 7, UINT32_MAX);
	for (unsigned i = 0; i < n_users; i++)
		len += put_acl_entry(buf + len, 0x02, (unsigned)model_random(m, 8), i * 7);
	len += put_acl_entry(buf + len, 0x04, (unsigned)model_random(m, 8), UINT32_MAX);
	for (unsigned i = 0; i < n_groups; i++)
		len += put_acl_entry(buf + len, 0x08, (unsigned)model_random(m, 8), i * 7);
	if (mask)
		len += put_acl_entry(buf + len, 0x10, (unsigned)model_random(m, 8), UINT32_MAX);
	if (!model_chance(m, 2))
		len += put_acl_entry(buf + len, 0x20, (unsigned)model_random(m, 8), UINT32_MAX);
	return len;
}

static void op_acl(struct model *m)
{
	const struct node *node = pick_node(m, model_chance(m, 50) ? S_IFREG : S_IFDIR);
	const char *name = model_chance(m, 50) ? MODEL_ACL_ACCESS : MODEL_ACL_DEFAULT;
	bool remove = model_chance(m, 30);
	char path[PATH_LEN], full[N_SIDES][PATH_LEN + 32], acl[128];
	struct outcome out;
	size_t len;

	if (!m->acls || node == NULL)
		return;
	snprintf(path, PATH_LEN, "%s", node->path);
	FOR_SIDES(s)
		snprintf(full[s], sizeof(full[s]), "/proc/self/fd/%d/%s", m->root[s], path);
	len = make_acl(m, acl);
	model_note(m, "%s '%s' %s, length %zu", remove ? "removexattr" : "setxattr", path, name, len);
	if (remove)
		BOTH(&out, lremovexattr(full[s], name));
	else
		BOTH(&out, lsetxattr(full[s], name, acl, len, 0));
	m->stale = true;
	(void)model_agree(m, &out);
	model_compare_stat(m, path);
	model_compare_acls(m, path);
}

static void op_stat(struct model *m)
{
	char path[PATH_LEN];

	pick_old(m, 0, path);
	model_note(m, "stat '%s'", path);
	model_compare_stat(m, path);
}

static void op_readdir(struct model *m)
{
	const struct node *node = pick_node(m, S_IFDIR);
	char path[PATH_LEN] = "";

	if (node != NULL)
		snprintf(path, PATH_LEN, "%s", node->path);
	model_note(m, "readdir '%s'", path);
	model_compare_dir(m, path);
}

// Weights are chosen so that a run of 5,000 ends with some hundred names and files of all kinds of shape.
static const struct {
	void (*op)(struct model *m);
	unsigned weight;
} ops[] = {
	{ op_create, 14 }, { op_write, 18 }, { op_read, 5 }, { op_truncate, 7 }, { op_fallocate, 7 },
	{ op_copy_range, 4 }, { op_mmap, 4 }, { op_fsync, 2 }, { op_slot, 4 }, { op_mkdir, 6 },
	{ op_mknod, 1 }, { op_symlink, 2 }, { op_link, 4 }, { op_unlink, 9 }, { op_rmdir, 4 },
	{ op_rename, 9 }, { op_chmod, 3 }, { op_chown, 2 }, { op_utimens, 4 }, { op_xattr, 5 },
	{ op_acl, 3 }, { op_stat, 2 }, { op_readdir, 2 }, { op_tmpfile, 4 }, { op_name_slot, 2 },
};

void model_step(struct model *m)
{
	unsigned total = 0, r;
	size_t i = 0;

	for (size_t k = 0; k < sizeof(ops) / sizeof(ops[0]); k++)
		total += ops[k].weight;
	for (r = (unsigned)model_random(m, total); r >= ops[i].weight; i++)
		r -= ops[i].weight;
	ops[i].op(m);
}
