// SPDX-License-Identifier: MIT
// Renaming: one name moves, replacing another if there is one, or two names change places. One critical section, so nobody ever
// sees both or none; in one transaction, so no crash does either.
//
// Goes on when the volume is full (TXN_FREE): the number of names does not grow. But with a whiteout it does (TXN_GROW).
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "fs/fs_internal.h"

struct rename {
	struct fs *fs;
	const char *name, *new_name;
	size_t len, new_len;
	unsigned flags;
	struct inode_row *whiteout; // comes to the old name; NULL: nothing does
	struct fs_acls whiteout_acls;
	struct inode_row dir_row, new_dir_row; // of the directories; the second is unused when both are one
	struct inode_row *dir, *new_dir;       // these, or both the first
	struct dirent_row ent, new_ent;
	struct inode_row row, new_row;         // what the names mean; new_* only if has_new
	bool has_new;
	bool orphan; // the replaced inode has lost its last name
	int64_t now;
};

// ---- reading ----

static int load(struct rename *rn, uint64_t parent, uint64_t new_parent)
{
	struct fs *fs = rn->fs;
	int r;

	rn->dir = &rn->dir_row;
	rn->new_dir = parent == new_parent ? &rn->dir_row : &rn->new_dir_row;
	r = fs_get_dir(fs, parent, rn->dir);
	if (r == 0 && rn->new_dir != rn->dir)
		r = fs_get_dir(fs, new_parent, rn->new_dir);
	if (r == 0)
		r = dirent_find(fs->st, parent, rn->name, rn->len, &rn->ent);
	if (r == 0)
		r = fs_get_child(fs, parent, &rn->ent, &rn->row);
	if (r != 0)
		return r;
	r = dirent_find(fs->st, new_parent, rn->new_name, rn->new_len, &rn->new_ent);
	rn->has_new = r == 0;
	if (r != 0)
		return r == -ENOENT ? 0 : r;
	return fs_get_child(fs, new_parent, &rn->new_ent, &rn->new_row);
}

// ---- validating ----

// Whether directory `ino` is `dir` or lies above it. The walk up may run in circles on a damaged volume: Brent's
// algorithm notices, with one comparison a step and no limit on the depth.
static int is_above(struct fs *fs, uint64_t ino, const struct inode_row *dir, bool *above)
{
	uint64_t at = dir->ino, up = dir->parent, mark = 0, steps = 0, next_mark = 1;
	struct inode_row row;
	int r;

	for (;;) {
		*above = at == ino;
		if (*above || at == ROOT_INO)
			return 0;
		if (up == mark || up == 0)
			return -EUCLEAN;
		if (++steps == next_mark) {
			mark = up;
			next_mark *= 2;
		}
		r = inode_get(fs->st, up, &row);
		if (r != 0)
			return r == -ENOENT ? -EUCLEAN : r;
		at = up;
		up = row.parent;
	}
}

// A directory must not become its own ancestor.
static int check_loop(struct rename *rn, const struct inode_row *moved, const struct inode_row *into)
{
	bool above;
	int r;

	if (!S_ISDIR(moved->mode))
		return 0;
	r = is_above(rn->fs, moved->ino, into, &above);
	return r == 0 && above ? -EINVAL : r;
}

// What a rename may replace.
static int check_replaced(struct rename *rn)
{
	bool empty;
	int r;

	if (!rn->has_new)
		return 0;
	if (S_ISDIR(rn->row.mode) != S_ISDIR(rn->new_row.mode))
		return S_ISDIR(rn->row.mode) ? -ENOTDIR : -EISDIR;
	if (!S_ISDIR(rn->new_row.mode))
		return 0;
	r = dirent_is_empty(rn->fs->st, rn->new_row.ino, &empty);
	return r == 0 && !empty ? -ENOTEMPTY : r;
}

// The counters of the directories, before they are counted down.
static int check_counters(const struct rename *rn)
{
	bool leaves = S_ISDIR(rn->row.mode), replaced = rn->has_new && S_ISDIR(rn->new_row.mode);

	if (rn->dir->size_bytes == 0 || (leaves && rn->dir->nlink < 3))
		return -EUCLEAN;
	return replaced && rn->new_dir->nlink < 3 ? -EUCLEAN : 0;
}

static int validate(struct rename *rn)
{
	int r = 0;

	if ((rn->flags & RENAME_NOREPLACE) != 0 && rn->has_new)
		return -EEXIST;
	if ((rn->flags & RENAME_EXCHANGE) != 0 && !rn->has_new)
		return -ENOENT;
	if (rn->dir != rn->new_dir)
		r = check_loop(rn, &rn->row, rn->new_dir);
	if (r == 0 && (rn->flags & RENAME_EXCHANGE) != 0 && rn->dir != rn->new_dir)
		r = check_loop(rn, &rn->new_row, rn->dir);
	if (r == 0 && (rn->flags & RENAME_EXCHANGE) == 0)
		r = check_replaced(rn);
	return r == 0 ? check_counters(rn) : r;
}

// ---- changing ----

// The inode belongs to `to` now; the link counts of both directories follow a subdirectory.
static int move_inode(struct rename *rn, struct inode_row *row, struct inode_row *from, struct inode_row *to)
{
	row->ctime_ns = rn->now;
	if (S_ISDIR(row->mode)) {
		row->parent = to->ino;
		from->nlink--;
		to->nlink++;
	}
	return inode_update(rn->fs->st, row);
}

static int replace_or_insert(struct rename *rn)
{
	struct store *st = rn->fs->st;
	int r;

	if (!rn->has_new) {
		r = dirent_insert(st, rn->new_dir->ino, rn->new_name, rn->new_len, rn->row.ino, rn->ent.type);
		rn->new_dir->size_bytes++;
		return r;
	}
	r = dirent_repoint(st, rn->new_dir->ino, rn->new_ent.cookie, rn->row.ino, rn->ent.type);
	if (r != 0)
		return r;
	if (S_ISDIR(rn->new_row.mode))
		rn->new_dir->nlink--;
	return fs_drop_link(rn->fs, &rn->new_row, rn->now, &rn->orphan);
}

// Whatever may be refused, before the first change. A whiteout inherits from its directory as everything else that is new there.
static int prepare_whiteout(struct rename *rn)
{
	fs_inherit(rn->fs, rn->whiteout, rn->dir);
	return fs_acl_inherit(rn->fs, rn->dir, rn->whiteout, 0, &rn->whiteout_acls);
}

// The kernel is not told of the whiteout and holds no reference: it looks the old name up anew.
static int leave_whiteout(struct rename *rn)
{
	struct inode_row *row = rn->whiteout;
	int r;

	row->atime_ns = row->mtime_ns = row->ctime_ns = row->btime_ns = rn->now;
	r = inode_insert(rn->fs->st, row);
	if (r == 0)
		r = fs_acl_store_inherited(rn->fs, row, &rn->whiteout_acls);
	return r == 0 ? dirent_repoint(rn->fs->st, rn->dir->ino, rn->ent.cookie, row->ino, DT_CHR) : r;
}

static int remove_or_white_out(struct rename *rn)
{
	if (rn->whiteout != NULL)
		return leave_whiteout(rn);
	rn->dir->size_bytes--;
	return dirent_delete(rn->fs->st, rn->dir->ino, rn->ent.cookie);
}

static int move(struct rename *rn)
{
	int r;

	r = replace_or_insert(rn);
	if (r == 0)
		r = remove_or_white_out(rn);
	return r == 0 ? move_inode(rn, &rn->row, rn->dir, rn->new_dir) : r;
}

static int exchange(struct rename *rn)
{
	struct store *st = rn->fs->st;
	int r;

	r = dirent_repoint(st, rn->dir->ino, rn->ent.cookie, rn->new_row.ino, rn->new_ent.type);
	if (r == 0)
		r = dirent_repoint(st, rn->new_dir->ino, rn->new_ent.cookie, rn->row.ino, rn->ent.type);
	if (r == 0)
		r = move_inode(rn, &rn->row, rn->dir, rn->new_dir);
	return r == 0 ? move_inode(rn, &rn->new_row, rn->new_dir, rn->dir) : r;
}

static int change_locked(struct rename *rn)
{
	int r;

	rn->now = fs_now_ns();
	r = (rn->flags & RENAME_EXCHANGE) != 0 ? exchange(rn) : move(rn);
	rn->dir->mtime_ns = rn->dir->ctime_ns = rn->now;
	rn->new_dir->mtime_ns = rn->new_dir->ctime_ns = rn->now;
	if (r == 0)
		r = inode_update(rn->fs->st, rn->dir);
	if (r == 0 && rn->new_dir != rn->dir)
		r = inode_update(rn->fs->st, rn->new_dir);
	return r;
}

static void touch_all(struct rename *rn, uint64_t txn)
{
	inode_touch(rn->fs, rn->dir->ino, txn);
	inode_touch(rn->fs, rn->new_dir->ino, txn);
	inode_touch(rn->fs, rn->row.ino, txn);
	if (!rn->has_new)
		return;
	inode_touch(rn->fs, rn->new_row.ino, txn);
	if (rn->orphan)
		inode_set_orphan(rn->fs, rn->new_row.ino);
}

static int check_arguments(struct rename *rn)
{
	int r;

	if ((rn->flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0 ||
	    rn->flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	r = fs_check_name(rn->name, &rn->len);
	return r == 0 ? fs_check_name(rn->new_name, &rn->new_len) : r;
}

static int rename_names(struct rename *rn, uint64_t parent, uint64_t new_parent)
{
	struct fs *fs = rn->fs;
	uint64_t txn;
	int r;

	r = check_arguments(rn);
	if (r == 0)
		r = fs_begin(fs, rn->whiteout != NULL ? TXN_GROW : TXN_FREE, &txn);
	if (r != 0)
		return r;
	r = load(rn, parent, new_parent);
	if (r == 0 && rn->has_new && rn->row.ino == rn->new_row.ino && (rn->flags & RENAME_NOREPLACE) == 0)
		goto out; // two names of one inode: POSIX wants nothing to happen
	if (r == 0)
		r = validate(rn);
	if (r == 0 && rn->whiteout != NULL)
		r = prepare_whiteout(rn);
	if (r == 0)
		r = change_locked(rn);
	if (r == 0)
		touch_all(rn, txn);
out:
	fs_end(fs);
	return r;
}

int fs_rename(struct fs *fs, uint64_t parent, const char *name, uint64_t new_parent, const char *new_name, unsigned flags)
{
	struct rename rn = { .fs = fs, .name = name, .new_name = new_name, .flags = flags };

	return rename_names(&rn, parent, new_parent);
}

int fs_rename_whiteout(struct fs *fs, uint64_t parent, const char *name, uint64_t new_parent, const char *new_name, unsigned flags,
                       const struct fs_cred *cred)
{
	struct inode_row whiteout = { .nlink = 1, .mode = S_IFCHR, .uid = cred->uid, .gid = cred->gid }; // and rdev 0
	struct rename rn = { .fs = fs, .name = name, .new_name = new_name, .flags = flags, .whiteout = &whiteout };

	if ((flags & RENAME_EXCHANGE) != 0)
		return -EINVAL;
	whiteout.ino = volume_new_ino(fs->vol);
	return rename_names(&rn, parent, new_parent);
}
