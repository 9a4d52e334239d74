// SPDX-License-Identifier: MIT
// Operations on the filesystem and on the model. See operate.h.
//
// Each op_* function finds its nodes in the model, asks the model what must come out, asks the filesystem to do it, and lets the
// model follow. A path that the model does not know makes the operation one that is refused by both (-ENOENT).
#include "operate.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/blk.h"

static const struct fs_cred cred = { .uid = 1000, .gid = 100 };

struct doing {
	struct fs *fs;
	struct model *m;
	const struct op *op;
	uint64_t txn;
	struct operate_result *res;
};

// Both answers are there. 0: go on with the model; 1: refused by both; -EUCLEAN.
static int agree(struct doing *d, int expected, int got)
{
	if (expected == 0 && got == 0)
		return 0;
	d->res->refused = true;
	d->res->full = got == -ENOSPC;
	if (expected == got || (expected == 0 && got == -ENOSPC))
		return 1;
	snprintf(d->res->why, sizeof(d->res->why), "answered '%s', but '%s' was expected", strerror(-got), strerror(-expected));
	return -EUCLEAN;
}

static int done(int agreed) { return agreed < 0 ? agreed : 0; }

static int absent(struct doing *d) { return done(agree(d, -ENOENT, -ENOENT)); }

static void touch(struct doing *d, int node)
{
	if (node >= 0)
		d->m->nodes[node].changed_txn = d->txn;
}

static struct model_node *node_of(struct doing *d, int node) { return &d->m->nodes[node]; }

// The last name is gone, and so is the kernel's interest.
static void drop(struct doing *d, int node)
{
	fs_forget(d->fs, node_of(d, node)->ino, node_of(d, node)->refs);
	model_drop(d->m, (unsigned)node);
}

static void fill(uint8_t *buf, uint64_t len, unsigned seed)
{
	uint64_t state = rnd_seeded(seed);

	for (uint64_t i = 0; i < len; i += 8) {
		uint64_t word = rnd_next(&state);

		memcpy(buf + i, &word, len - i < 8 ? len - i : 8);
	}
}

// ---- names ----

static int op_make(struct doing *d)
{
	const struct op *op = d->op;
	const char *name;
	int dir = model_parent(d->m, op->path, &name), r;
	bool is_link = op->kind == OP_SYMLINK;
	mode_t mode = op->kind == OP_MKDIR ? S_IFDIR | op->arg : is_link ? S_IFLNK | 0777 : op->arg;
	struct fs_entry entry;
	unsigned node;

	if (dir < 0)
		return absent(d);
	if (op->kind == OP_MKDIR)
		r = fs_mkdir(d->fs, node_of(d, dir)->ino, name, op->arg, &cred, &entry);
	else if (is_link)
		r = fs_symlink(d->fs, node_of(d, dir)->ino, name, op->to, &cred, &entry);
	else
		r = fs_mknod(d->fs, node_of(d, dir)->ino, name, op->arg, (dev_t)op->len, &cred, &entry);
	r = agree(d, model_lookup(d->m, (unsigned)dir, name) >= 0 ? -EEXIST : 0, r);
	if (r != 0)
		return done(r);
	node = model_add(d->m, (unsigned)dir, name, mode, entry.ino);
	d->m->nodes[node].uid = cred.uid;
	d->m->nodes[node].gid = cred.gid;
	if (S_ISCHR(mode) || S_ISBLK(mode))
		d->m->nodes[node].rdev = (dev_t)op->len;
	if (is_link)
		model_write(d->m, node, op->to, strlen(op->to), 0);
	touch(d, dir);
	touch(d, (int)node);
	return 0;
}

// What it answers is that of the step which fails; then the file goes with its reference.
static int make_tmpfile(struct doing *d, int dir, const char *name, struct fs_entry *entry)
{
	const struct op *op = d->op;
	uint8_t *buf = malloc(op->len + 1);
	size_t wrote = 0;
	int r;

	VERIFY(buf != NULL);
	r = fs_tmpfile(d->fs, node_of(d, dir)->ino, op->arg, &cred, entry);
	if (r == 0) {
		fill(buf, op->len, op->seed);
		r = fs_write(d->fs, entry->ino, buf, op->len, 0, 0, &wrote);
		if (r == 0 && wrote < op->len)
			r = -ENOSPC;
		if (r == 0 && name != NULL)
			r = fs_link(d->fs, entry->ino, node_of(d, dir)->ino, name, entry);
		if (r != 0 || name == NULL)
			fs_forget(d->fs, entry->ino, 1);
	}
	free(buf);
	return r;
}

static int op_tmpfile(struct doing *d)
{
	const struct op *op = d->op;
	bool named = op->to[0] == '\0', exists;
	const char *name;
	int dir = model_parent(d->m, op->path, &name), r;
	struct fs_entry entry;
	unsigned node;
	uint8_t *buf;

	if (dir < 0)
		return absent(d);
	r = make_tmpfile(d, dir, named ? name : NULL, &entry);
	exists = named && model_lookup(d->m, (unsigned)dir, name) >= 0;
	r = agree(d, exists && r != -ENOSPC ? -EEXIST : 0, r); // a full volume shows before the name does
	if (r != 0 || !named)
		return done(r);
	node = model_add(d->m, (unsigned)dir, name, S_IFREG | op->arg, entry.ino);
	d->m->nodes[node].refs = 2;
	d->m->nodes[node].uid = cred.uid;
	d->m->nodes[node].gid = cred.gid;
	buf = malloc(op->len + 1);
	VERIFY(buf != NULL);
	fill(buf, op->len, op->seed);
	model_write(d->m, node, buf, op->len, 0);
	free(buf);
	touch(d, dir);
	touch(d, (int)node);
	return 0;
}

static int op_link(struct doing *d)
{
	const char *name;
	int node = model_find(d->m, d->op->path), dir = model_parent(d->m, d->op->to, &name), expected, r;
	struct fs_entry entry;

	if (node < 0 || dir < 0)
		return absent(d);
	expected = model_lookup(d->m, (unsigned)dir, name) >= 0 ? -EEXIST : 0;
	if (S_ISDIR(node_of(d, node)->mode))
		expected = -EPERM;
	r = agree(d, expected, fs_link(d->fs, node_of(d, node)->ino, node_of(d, dir)->ino, name, &entry));
	if (r != 0)
		return done(r);
	node_of(d, node)->refs++;
	model_link(d->m, (unsigned)node, (unsigned)dir, name);
	touch(d, node);
	touch(d, dir);
	return 0;
}

static int op_unlink(struct doing *d)
{
	bool rmdir = d->op->kind == OP_RMDIR;
	const char *name;
	int dir = model_parent(d->m, d->op->path, &name), node, r;
	uint64_t ino;

	if (dir < 0)
		return absent(d);
	node = model_lookup(d->m, (unsigned)dir, name);
	ino = node_of(d, dir)->ino;
	r = rmdir ? fs_rmdir(d->fs, ino, name) : fs_unlink(d->fs, ino, name);
	r = agree(d, model_may_unlink(d->m, (unsigned)dir, name, rmdir), r);
	if (r != 0)
		return done(r);
	touch(d, dir);
	touch(d, node);
	if (model_unlink(d->m, (unsigned)dir, name))
		drop(d, node);
	return 0;
}

static int rename_in_fs(struct doing *d, int dir, const char *name, int to, const char *to_name)
{
	uint64_t ino = node_of(d, dir)->ino, to_ino = node_of(d, to)->ino;

	if (d->op->arg == RENAME_WHITEOUT)
		return fs_rename_whiteout(d->fs, ino, name, to_ino, to_name, 0, &cred);
	return fs_rename(d->fs, ino, name, to_ino, to_name, d->op->arg);
}

static int add_whiteout(struct doing *d, int dir, const char *name)
{
	struct fs_entry entry;
	unsigned node;
	int r = fs_lookup(d->fs, node_of(d, dir)->ino, name, &entry);

	if (r != 0) {
		snprintf(d->res->why, sizeof(d->res->why), "left no whiteout: %s", strerror(-r));
		return -EUCLEAN;
	}
	node = model_add(d->m, (unsigned)dir, name, S_IFCHR, entry.ino);
	d->m->nodes[node].uid = cred.uid;
	d->m->nodes[node].gid = cred.gid;
	touch(d, (int)node);
	return 0;
}

static int op_rename(struct doing *d)
{
	const char *name, *to_name;
	int dir = model_parent(d->m, d->op->path, &name), to = model_parent(d->m, d->op->to, &to_name), gone, r;

	if (dir < 0 || to < 0)
		return absent(d);
	r = rename_in_fs(d, dir, name, to, to_name);
	r = agree(d, model_may_rename(d->m, (unsigned)dir, name, (unsigned)to, to_name, d->op->arg), r);
	if (r != 0)
		return done(r);
	if (model_lookup(d->m, (unsigned)dir, name) == model_lookup(d->m, (unsigned)to, to_name))
		return 0; // two names of one file: nothing happens
	touch(d, dir);
	touch(d, to);
	touch(d, model_lookup(d->m, (unsigned)dir, name));
	touch(d, model_lookup(d->m, (unsigned)to, to_name));
	gone = model_rename(d->m, (unsigned)dir, name, (unsigned)to, to_name, d->op->arg);
	if (gone >= 0)
		drop(d, gone);
	return d->op->arg == RENAME_WHITEOUT ? add_whiteout(d, dir, name) : 0;
}

// ---- data ----

static int file_of(struct doing *d, const char *path)
{
	int node = model_find(d->m, path);

	return node >= 0 && S_ISREG(node_of(d, node)->mode) ? node : -ENOENT;
}

static int op_write(struct doing *d)
{
	int node = file_of(d, d->op->path), r;
	uint64_t off, len = d->op->len;
	uint8_t *buf;
	size_t wrote = 0;

	if (node < 0)
		return absent(d);
	off = d->op->kind == OP_APPEND ? node_of(d, node)->size : d->op->off;
	if (off + len > MODEL_FILE_MAX)
		return absent(d);
	buf = malloc(len);
	VERIFY(buf != NULL);
	fill(buf, len, d->op->seed);
	r = agree(d, 0, fs_write(d->fs, node_of(d, node)->ino, buf, len, off, 0, &wrote));
	if (r == 0) {
		model_write(d->m, (unsigned)node, buf, wrote, off);
		touch(d, node);
	}
	free(buf);
	return done(r);
}

static int op_copy(struct doing *d)
{
	int from = file_of(d, d->op->path), to = file_of(d, d->op->to), r;
	uint64_t size, len;
	uint8_t *buf;
	size_t copied = 0;

	if (from < 0 || to < 0 || from == to)
		return absent(d);
	size = node_of(d, from)->size;
	len = d->op->off < size ? min_u64(d->op->len, size - d->op->off) : 0;
	if (len == 0 || d->op->arg + len > MODEL_FILE_MAX)
		return absent(d);
	r = fs_copy_range(d->fs, node_of(d, from)->ino, d->op->off, node_of(d, to)->ino, d->op->arg, d->op->len, &copied);
	r = agree(d, 0, r);
	if (r != 0)
		return done(r);
	buf = malloc(len);
	VERIFY(buf != NULL);
	memcpy(buf, node_of(d, from)->data + d->op->off, len);
	model_write(d->m, (unsigned)to, buf, copied, d->op->arg);
	free(buf);
	touch(d, to);
	d->res->loose_ino = node_of(d, to)->ino;
	return 0;
}

static int op_fallocate(struct doing *d)
{
	int node = file_of(d, d->op->path), mode = (int)d->op->arg, r;
	uint64_t end = d->op->off + d->op->len;

	if (node < 0 || end > MODEL_FILE_MAX)
		return absent(d);
	r = fs_fallocate(d->fs, node_of(d, node)->ino, mode, d->op->off, d->op->len);
	d->res->loose_ino = node_of(d, node)->ino;
	if (r == -ENOSPC && (mode & FALLOC_FL_ZERO_RANGE)) { // its first half may have been done
		model_zero(d->m, (unsigned)node, d->op->off, end);
		return 0;
	}
	r = agree(d, 0, r);
	if (r != 0)
		return done(r);
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		model_zero(d->m, (unsigned)node, d->op->off, end);
	touch(d, node);
	if (!(mode & FALLOC_FL_KEEP_SIZE) && end > node_of(d, node)->size)
		model_resize(d->m, (unsigned)node, end);
	return 0;
}

// ---- attributes ----

static int op_setattr(struct doing *d)
{
	int node = model_find(d->m, d->op->path), r;
	struct fs_setattr attr = { 0 };
	struct stat st;

	if (node < 0 || (d->op->kind == OP_TRUNCATE && file_of(d, d->op->path) < 0))
		return absent(d);
	switch (d->op->kind) {
	case OP_TRUNCATE:
		attr.set = FS_SET_SIZE;
		attr.size_bytes = d->op->len;
		break;
	case OP_CHMOD:
		attr.set = FS_SET_MODE;
		attr.mode = (node_of(d, node)->mode & S_IFMT) | d->op->arg;
		break;
	case OP_CHOWN:
		attr.set = FS_SET_UID | FS_SET_GID;
		attr.uid = d->op->arg;
		attr.gid = d->op->arg + 1;
		break;
	default:
		attr.set = FS_SET_MTIME;
		attr.mtime = (struct timespec){ .tv_sec = d->op->arg, .tv_nsec = 7 };
		break;
	}
	r = agree(d, 0, fs_setattr(d->fs, node_of(d, node)->ino, &attr, &st));
	if (r != 0)
		return done(r);
	if (d->op->kind == OP_TRUNCATE)
		model_resize(d->m, (unsigned)node, attr.size_bytes);
	if (d->op->kind == OP_CHMOD)
		node_of(d, node)->mode = attr.mode;
	if (d->op->kind == OP_CHOWN) {
		node_of(d, node)->uid = attr.uid;
		node_of(d, node)->gid = attr.gid;
	}
	touch(d, node);
	return 0;
}

static int op_xattr(struct doing *d)
{
	int node = model_find(d->m, d->op->path), r;
	uint64_t ino;
	uint8_t *value;

	// user.* is for files and directories.
	if (node < 0 || !(S_ISREG(node_of(d, node)->mode) || S_ISDIR(node_of(d, node)->mode)) ||
	    (d->op->kind == OP_SETXATTR && !model_has_room_for_xattr(d->m, (unsigned)node, d->op->to)))
		return absent(d);
	ino = node_of(d, node)->ino;
	if (d->op->kind == OP_REMOVEXATTR) {
		r = fs_removexattr(d->fs, ino, d->op->to);
		r = agree(d, model_remove_xattr(d->m, (unsigned)node, d->op->to), r);
		touch(d, r == 0 ? node : -1);
		return done(r);
	}
	value = malloc(d->op->len + 1);
	VERIFY(value != NULL);
	fill(value, d->op->len, d->op->seed);
	r = agree(d, 0, fs_setxattr(d->fs, ino, d->op->to, value, d->op->len, 0));
	if (r == 0) {
		model_set_xattr(d->m, (unsigned)node, d->op->to, value, d->op->len);
		touch(d, node);
	}
	free(value);
	return done(r);
}

// ---- durability ----

static int op_sync(struct doing *d)
{
	int node = d->op->kind == OP_FSYNC ? model_find(d->m, d->op->path) : 0, r;

	if (node < 0)
		return absent(d);
	r = d->op->kind == OP_FSYNC ? fs_fsync(d->fs, node_of(d, node)->ino) : fs_sync(d->fs);
	r = agree(d, 0, r);
	if (r != 0)
		return done(r);
	for (unsigned i = 0; i < d->m->n; i++)
		if (d->m->nodes[i].used && (d->op->kind != OP_FSYNC || (int)i == node))
			d->res->promised = max_u64(d->res->promised, d->m->nodes[i].changed_txn);
	return 0;
}

int operate(struct fs *fs, struct model *m, const struct op *op, uint64_t txn, struct operate_result *res)
{
	struct doing d = { .fs = fs, .m = m, .op = op, .txn = txn, .res = res };

	switch (op->kind) {
	case OP_MKNOD:
	case OP_MKDIR:
	case OP_SYMLINK:
		return op_make(&d);
	case OP_TMPFILE:
		return op_tmpfile(&d);
	case OP_LINK:
		return op_link(&d);
	case OP_UNLINK:
	case OP_RMDIR:
		return op_unlink(&d);
	case OP_RENAME:
		return op_rename(&d);
	case OP_WRITE:
	case OP_APPEND:
		return op_write(&d);
	case OP_COPY:
		return op_copy(&d);
	case OP_FALLOCATE:
		return op_fallocate(&d);
	case OP_TRUNCATE:
	case OP_CHMOD:
	case OP_CHOWN:
	case OP_UTIMENS:
		return op_setattr(&d);
	case OP_SETXATTR:
	case OP_REMOVEXATTR:
		return op_xattr(&d);
	case OP_FSYNC:
	case OP_SYNC:
	case OP_CHECKPOINT_BESIDE: // history.c has prepared it
		return op_sync(&d);
	case OP_GROW_DATABASE:
	case OP_SYNC_BESIDE:
	case OP_REMOUNT:
		return 0; // history.c has begun it, or does it
	}
	return -EINVAL;
}
