// SPDX-License-Identifier: MIT
// How the operations of a scenario are carried out. An operation is at most one call that changes something, so that it is whole or
// not there at all. Nothing here asks for memory: what fails is the filesystem's.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "inject.h"
#include "meta/acl.h"
#include "tree.h"
#include "util/attr.h"
#include "util/blk.h"
#include "workload.h"

#define BUF_BYTES (1u << 20)
#define TRIM_WAIT_MS 60

static const struct fs_cred cred = { .uid = 1000, .gid = 100 };

// Of the one thread that works.
static uint8_t *buffer(void)
{
	static uint8_t bytes[BUF_BYTES];

	return bytes;
}

static void fill(uint8_t *buf, size_t len, unsigned seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (size_t i = 0; i < len; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		buf[i] = (uint8_t)x;
	}
}

// ---- paths ----

// A reference on the inode of a path (its first len bytes), for the caller to forget.
static int find(struct fs *fs, const char *path, size_t len, uint64_t *ino)
{
	uint64_t at = 1;
	int err = 0;

	for (size_t i = 0; err == 0 && i < len;) {
		size_t n = strcspn(path + ++i, "/");
		struct fs_entry e;
		char name[256];

		n = n < len - i ? n : len - i;
		if (n == 0)
			break;
		snprintf(name, sizeof(name), "%.*s", (int)n, path + i);
		i += n;
		err = fs_lookup(fs, at, name, &e);
		if (at != 1)
			fs_forget(fs, at, 1);
		if (err == 0)
			at = e.ino;
	}
	*ino = at;
	return err;
}

static void drop(struct fs *fs, uint64_t ino)
{
	if (ino != 1)
		fs_forget(fs, ino, 1);
}

static int find_parent(struct fs *fs, const char *path, uint64_t *dir, const char **name)
{
	const char *slash = strrchr(path, '/');

	*name = slash + 1;
	return find(fs, path, (size_t)(slash - path), dir);
}

// ---- names ----

static int make(struct work *w, const char *path, mode_t mode)
{
	struct fs_entry e;
	const char *name;
	uint64_t dir;
	int err = find_parent(w->fs, path, &dir, &name);

	if (err != 0)
		return err;
	if (S_ISDIR(mode))
		err = fs_mkdir(w->fs, dir, name, mode & 07777, &cred, &e);
	else
		err = fs_mknod(w->fs, dir, name, mode, 0, &cred, &e);
	if (err == 0)
		fs_forget(w->fs, e.ino, 1);
	drop(w->fs, dir);
	return err;
}

int op_create(struct work *w, const struct op *op) { return make(w, op->path, S_IFREG | 0644); }
int op_mkdir(struct work *w, const struct op *op) { return make(w, op->path, S_IFDIR | 0755); }
int op_mkfifo(struct work *w, const struct op *op) { return make(w, op->path, S_IFIFO | 0600); }

int op_symlink(struct work *w, const struct op *op)
{
	struct fs_entry e;
	const char *name;
	uint64_t dir;
	int err = find_parent(w->fs, op->path, &dir, &name);

	if (err != 0)
		return err;
	err = fs_symlink(w->fs, dir, name, op->path2, &cred, &e);
	if (err == 0)
		fs_forget(w->fs, e.ino, 1);
	drop(w->fs, dir);
	return err;
}

static int add_name(struct fs *fs, uint64_t ino, const char *path)
{
	struct fs_entry e;
	const char *name;
	uint64_t dir;
	int err = find_parent(fs, path, &dir, &name);

	if (err != 0)
		return err;
	err = fs_link(fs, ino, dir, name, &e);
	if (err == 0)
		fs_forget(fs, e.ino, 1);
	drop(fs, dir);
	return err;
}

int op_link(struct work *w, const struct op *op)
{
	uint64_t ino;
	int err = find(w->fs, op->path, strlen(op->path), &ino);

	if (err != 0)
		return err;
	err = add_name(w->fs, ino, op->path2);
	drop(w->fs, ino);
	return err;
}

int op_name_held(struct work *w, const struct op *op) { return add_name(w->fs, w->held, op->path); }

static int remove_name(struct work *w, const struct op *op, int (*how)(struct fs *fs, uint64_t dir, const char *name))
{
	const char *name;
	uint64_t dir;
	int err = find_parent(w->fs, op->path, &dir, &name);

	if (err != 0)
		return err;
	err = how(w->fs, dir, name);
	drop(w->fs, dir);
	return err;
}

int op_unlink(struct work *w, const struct op *op) { return remove_name(w, op, fs_unlink); }
int op_rmdir(struct work *w, const struct op *op) { return remove_name(w, op, fs_rmdir); }

int op_rename(struct work *w, const struct op *op)
{
	const char *name, *new_name;
	uint64_t dir, new_dir;
	int err = find_parent(w->fs, op->path, &dir, &name);

	if (err != 0)
		return err;
	err = find_parent(w->fs, op->path2, &new_dir, &new_name);
	if (err == 0) {
		if (op->arg == RENAME_WHITEOUT)
			err = fs_rename_whiteout(w->fs, dir, name, new_dir, new_name, 0, &cred);
		else
			err = fs_rename(w->fs, dir, name, new_dir, new_name, (unsigned)op->arg);
		drop(w->fs, new_dir);
	}
	drop(w->fs, dir);
	return err;
}

// ---- a file in use without a name ----

int op_hold(struct work *w, const struct op *op)
{
	uint64_t ino;
	int err = find(w->fs, op->path, strlen(op->path), &ino);

	if (err == 0)
		w->held = ino;
	return err;
}

int op_tmpfile(struct work *w, const struct op *op)
{
	struct fs_entry e;
	uint64_t dir;
	int err = find(w->fs, op->path, strlen(op->path), &dir);

	if (err != 0)
		return err;
	err = fs_tmpfile(w->fs, dir, 0600, &cred, &e);
	if (err == 0)
		w->held = e.ino;
	drop(w->fs, dir);
	return err;
}

int op_release(struct work *w, ATTR_UNUSED const struct op *op)
{
	if (w->held != 0)
		fs_forget(w->fs, w->held, 1);
	w->held = 0;
	return 0;
}

static int read_digest(struct work *w, uint64_t ino, uint64_t off, size_t len)
{
	size_t done;
	int err = fs_read(w->fs, ino, buffer(), len, off, &done);

	if (err == 0)
		w->digest = tree_hash(done + 1, buffer(), done);
	return err;
}

static int write_pattern(struct work *w, uint64_t ino, const struct op *op)
{
	size_t done;
	int err;

	VERIFY(op->len <= BUF_BYTES);
	fill(buffer(), op->len, (unsigned)op->arg + w->round);
	err = fs_write(w->fs, ino, buffer(), op->len, op->off, 0, &done);
	return err == 0 && done < op->len ? -ENOSPC : err;
}

int op_read_held(struct work *w, const struct op *op) { return read_digest(w, w->held, op->off, op->len); }
int op_write_held(struct work *w, const struct op *op) { return write_pattern(w, w->held, op); }

// ---- attributes and data: all of them find the file, do one thing, and let it go ----

static int with_file(struct work *w, const struct op *op, int (*what)(struct work *w, uint64_t ino, const struct op *op))
{
	uint64_t ino;
	int err = find(w->fs, op->path, strlen(op->path), &ino);

	if (err != 0)
		return err;
	err = what(w, ino, op);
	drop(w->fs, ino);
	return err;
}

static int set_attr(struct work *w, uint64_t ino, const struct fs_setattr *attr)
{
	struct stat st;

	return fs_setattr(w->fs, ino, attr, &st);
}

static int do_truncate(struct work *w, uint64_t ino, const struct op *op)
{
	return set_attr(w, ino, &(struct fs_setattr){ .set = FS_SET_SIZE, .size_bytes = op->len });
}

static int do_chmod(struct work *w, uint64_t ino, const struct op *op)
{
	return set_attr(w, ino, &(struct fs_setattr){ .set = FS_SET_MODE, .mode = (mode_t)op->arg });
}

static int do_chown(struct work *w, uint64_t ino, const struct op *op)
{
	return set_attr(w, ino, &(struct fs_setattr){ .set = FS_SET_UID, .uid = (uid_t)op->arg });
}

static int do_utimes(struct work *w, uint64_t ino, ATTR_UNUSED const struct op *op)
{
	return set_attr(w, ino, &(struct fs_setattr){ .set = FS_SET_ATIME_NOW | FS_SET_MTIME, .mtime = { 1000000000, 7 } });
}

static int do_setxattr(struct work *w, uint64_t ino, const struct op *op)
{
	fill(buffer(), op->len, (unsigned)op->arg + w->round);
	return fs_setxattr(w->fs, ino, op->path2, buffer(), op->len, 0);
}

static int do_setacl(struct work *w, uint64_t ino, const struct op *op)
{
	const struct acl acl = { .n = 6, .entries = { { ACL_USER_OBJ, 7, 0 }, { ACL_USER, 6, (uint32_t)op->arg }, { ACL_GROUP_OBJ, 5, 0 },
	                                              { ACL_GROUP, 4, (uint32_t)op->arg }, { ACL_MASK, 6, 0 }, { ACL_OTHER, 1, 0 } } };
	uint8_t bytes[ACL_MAX_BYTES];

	return fs_setxattr(w->fs, ino, op->path2, bytes, acl_encode(&acl, bytes), 0);
}

static int do_removexattr(struct work *w, uint64_t ino, const struct op *op) { return fs_removexattr(w->fs, ino, op->path2); }

static int do_fallocate(struct work *w, uint64_t ino, const struct op *op)
{
	return fs_fallocate(w->fs, ino, op->arg, op->off, op->len);
}

static int do_copy(struct work *w, uint64_t ino, const struct op *op)
{
	uint64_t to;
	size_t done;
	int err = find(w->fs, op->path2, strlen(op->path2), &to);

	if (err != 0)
		return err;
	err = fs_copy_range(w->fs, ino, op->off, to, (uint64_t)op->arg, op->len, &done);
	drop(w->fs, to);
	return err == 0 && done < op->len ? -ENOSPC : err;
}

static int do_fsync(struct work *w, uint64_t ino, ATTR_UNUSED const struct op *op) { return fs_fsync(w->fs, ino); }
static int do_read(struct work *w, uint64_t ino, const struct op *op) { return read_digest(w, ino, op->off, op->len); }

static int do_stat(struct work *w, uint64_t ino, ATTR_UNUSED const struct op *op)
{
	struct stat st;
	int err = fs_getattr(w->fs, ino, &st);

	if (err == 0)
		w->digest = (uint64_t)st.st_size * 31 + st.st_mode * 7 + st.st_nlink;
	return err;
}

static int do_readlink(struct work *w, uint64_t ino, ATTR_UNUSED const struct op *op)
{
	size_t len;
	int err = fs_readlink(w->fs, ino, (char *)buffer(), BUF_BYTES, &len);

	if (err == 0)
		w->digest = tree_hash(1, buffer(), len);
	return err;
}

static int do_getxattr(struct work *w, uint64_t ino, const struct op *op)
{
	size_t len;
	int err = fs_getxattr(w->fs, ino, op->path2, buffer(), BUF_BYTES, &len);

	if (err == 0)
		w->digest = tree_hash(1, buffer(), len);
	return err;
}

static int do_listxattr(struct work *w, uint64_t ino, ATTR_UNUSED const struct op *op)
{
	size_t len;
	int err = fs_listxattr(w->fs, ino, (char *)buffer(), BUF_BYTES, &len);

	if (err == 0)
		w->digest = tree_hash(1, buffer(), len);
	return err;
}

static int do_lseek(struct work *w, uint64_t ino, const struct op *op) { return fs_lseek(w->fs, ino, op->off, op->arg, &w->digest); }

struct dir_scan {
	struct fs *fs;
	uint64_t sum;        // of names and types: the order is by hash
	uint64_t refs[64];
	uint64_t cookie;     // of the last one
	unsigned n;
	bool plus;
};

static bool scan_one(void *ctx, const char *name, const struct stat *st, uint64_t cookie)
{
	struct dir_scan *scan = ctx;

	scan->cookie = cookie;
	scan->sum += tree_hash(st->st_mode & S_IFMT, name, strlen(name));
	if (scan->plus && st->st_nlink > 0 && strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
		VERIFY(scan->n < ARRAY_LEN(scan->refs));
		scan->refs[scan->n++] = st->st_ino;
	}
	return true;
}

// As the kernel does it: until nothing more comes. An error is told by a call that has nothing else to tell.
static int do_readdir(struct work *w, uint64_t ino, const struct op *op)
{
	struct dir_scan scan = { .fs = w->fs, .plus = op->arg != 0 };
	uint64_t from;
	int err;

	do {
		from = scan.cookie;
		err = fs_readdir(w->fs, ino, from, scan.plus, scan_one, &scan);
	} while (err == 0 && scan.cookie != from);
	for (unsigned i = 0; i < scan.n; i++)
		fs_forget(w->fs, scan.refs[i], 1);
	w->digest = scan.sum;
	return err;
}

int op_write(struct work *w, const struct op *op) { return with_file(w, op, write_pattern); }
int op_truncate(struct work *w, const struct op *op) { return with_file(w, op, do_truncate); }
int op_chmod(struct work *w, const struct op *op) { return with_file(w, op, do_chmod); }
int op_chown(struct work *w, const struct op *op) { return with_file(w, op, do_chown); }
int op_utimes(struct work *w, const struct op *op) { return with_file(w, op, do_utimes); }
int op_setxattr(struct work *w, const struct op *op) { return with_file(w, op, do_setxattr); }
int op_setacl(struct work *w, const struct op *op) { return with_file(w, op, do_setacl); }
int op_removexattr(struct work *w, const struct op *op) { return with_file(w, op, do_removexattr); }
int op_fallocate(struct work *w, const struct op *op) { return with_file(w, op, do_fallocate); }
int op_copy(struct work *w, const struct op *op) { return with_file(w, op, do_copy); }
int op_fsync(struct work *w, const struct op *op) { return with_file(w, op, do_fsync); }
int op_read(struct work *w, const struct op *op) { return with_file(w, op, do_read); }
int op_stat(struct work *w, const struct op *op) { return with_file(w, op, do_stat); }
int op_readdir(struct work *w, const struct op *op) { return with_file(w, op, do_readdir); }
int op_readlink(struct work *w, const struct op *op) { return with_file(w, op, do_readlink); }
int op_getxattr(struct work *w, const struct op *op) { return with_file(w, op, do_getxattr); }
int op_listxattr(struct work *w, const struct op *op) { return with_file(w, op, do_listxattr); }
int op_lseek(struct work *w, const struct op *op) { return with_file(w, op, do_lseek); }
int op_sync(struct work *w, ATTR_UNUSED const struct op *op) { return fs_sync(w->fs); }

int op_statfs(struct work *w, ATTR_UNUSED const struct op *op)
{
	struct statvfs st;
	int err = fs_statfs(w->fs, &st);

	if (err == 0)
		w->digest = st.f_blocks * 3 + st.f_bsize;
	return err;
}

// Until the trimmer has sent something; not for ever, since it may have given up.
int op_wait_trim(ATTR_UNUSED struct work *w, ATTR_UNUSED const struct op *op)
{
	struct timespec ms = { .tv_nsec = 1000000 };

	for (int i = 0; i < TRIM_WAIT_MS && atomic_load(&inject_state()->count[FAULT_DISCARD]) == 0; i++)
		nanosleep(&ms, NULL);
	return 0;
}

// ---- everything at once ----

int try_everything(struct fs *fs, int answers[], int max)
{
	static const struct op all[] = {
		{ "create", op_create, .path = TREE_PROBE "/new" },
		{ "mkdir", op_mkdir, .path = TREE_PROBE "/dir" },
		{ "symlink", op_symlink, .path = TREE_PROBE "/sym", .path2 = "target" },
		{ "write", op_write, .path = TREE_PROBE "/small", .len = 100 },
		{ "write", op_write, .path = TREE_PROBE "/large", .len = 20000, .off = 100 },
		{ "truncate", op_truncate, .path = TREE_PROBE "/large", .len = 5000 },
		{ "setxattr", op_setxattr, .path = TREE_PROBE "/small", .path2 = "user.p", .len = 50 },
		{ "chmod", op_chmod, .path = TREE_PROBE "/small", .arg = 0700 },
		{ "fallocate", op_fallocate, .path = TREE_PROBE "/large", .off = 100000, .len = 100000 },
		{ "rename", op_rename, .path = TREE_PROBE "/small", .path2 = TREE_PROBE "/moved" },
		{ "link", op_link, .path = TREE_PROBE "/large", .path2 = TREE_PROBE "/linked" },
		{ "unlink", op_unlink, .path = TREE_PROBE "/large" },
		{ "whiteout", op_rename, .path = TREE_PROBE "/linked", .path2 = TREE_PROBE "/white", .arg = RENAME_WHITEOUT },
		{ "tmpfile", op_tmpfile, .path = TREE_PROBE },
		{ "rmdir", op_rmdir, .path = TREE_PROBE "/empty" },
		{ .name = "sync", .run = op_sync },
	};
	struct work w = { .fs = fs };
	int n = 0;

	for (; n < (int)ARRAY_LEN(all) && n < max; n++)
		answers[n] = all[n].run(&w, &all[n]);
	return n;
}
