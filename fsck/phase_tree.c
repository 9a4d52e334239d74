// SPDX-License-Identifier: MIT
// Phase 6: is everything reachable from the root? Each directory is followed up through the entries that name it: the way
// ends at the root, at a directory without a name, or comes back to itself. Then every other inode must have a name, or be
// on its way out. All in memory; a repair gives the lost one a name in /lost+found.
//
// Each directory is walked over once: what was found connected is marked, so the whole is linear.
#include <dirent.h>
#include <errno.h>

#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/rows.h"

// A directory that was removed while somebody had it open: the next mount deletes it.
static bool is_being_deleted(const struct fsck *f, const struct dir_info *dir)
{
	const struct ino_info *info = inotab_find(&f->inodes, dir->ino);

	return dir->named_in == 0 && dir->n_entries == 0 && (info->flags & INO_DELETED) != 0;
}

// Takes a directory's entry away from its parent, so that it can get another one.
static int detach(struct fsck *f, struct dir_info *dir)
{
	struct dir_info *parent = dirtab_find(&f->dirs, dir->named_in);

	parent->n_entries--;
	parent->n_subdirs--;
	inotab_find(&f->inodes, dir->ino)->refs--;
	dir->named_in = 0;
	return SQL(f, "DELETE FROM dirent WHERE parent = ?1 AND cookie = ?2", (int64_t)parent->ino, (int64_t)dir->cookie);
}

static void mark_path(struct fsck *f, struct dir_info *from, enum dir_state state)
{
	for (struct dir_info *d = from; d != NULL && d->state == DIR_ON_PATH; d = dirtab_find(&f->dirs, d->named_in))
		d->state = state;
}

// The top of a path that does not lead to the root: *loop tells why. NULL if the path is all right, or given up before.
static struct dir_info *climb(struct fsck *f, struct dir_info *from, bool *loop)
{
	struct dir_info *d = from, *up;

	for (;;) {
		d->state = DIR_ON_PATH;
		up = d->named_in != 0 ? dirtab_find(&f->dirs, d->named_in) : NULL;
		*loop = up != NULL && up->state == DIR_ON_PATH;
		if (up == NULL || *loop)
			return d;
		if (up->state != DIR_UNSEEN) {
			mark_path(f, from, up->state);
			return NULL;
		}
		d = up;
	}
}

// dirs may move in memory when lost+found is made: the directories are found by number again after that.
static int check_directory(struct fsck *f, size_t i)
{
	struct dir_info *from = &f->dirs.v[i], *top;
	uint64_t from_ino = from->ino, top_ino;
	bool loop, repair;
	int err = 0;

	if (from->state != DIR_UNSEEN || is_being_deleted(f, from))
		return 0;
	top = climb(f, from, &loop);
	if (top == NULL)
		return 0;
	top_ino = top->ino;
	repair = PROBLEM(f, loop ? FP_DIR_LOOP : FP_DIR_UNCONNECTED, .ino = top_ino);
	if (!repair) {
		mark_path(f, from, DIR_GIVEN_UP);
		return 0;
	}
	if (loop)
		err = detach(f, top);
	if (err == 0)
		err = lostfound_add(f, top_ino); // marks it connected, which ends the loop
	if (err == 0)
		mark_path(f, dirtab_find(&f->dirs, from_ino), DIR_CONNECTED);
	return err;
}

static int check_directories(struct fsck *f)
{
	size_t n = f->dirs.n; // lost+found may come to it
	struct dir_info *root = dirtab_find(&f->dirs, ROOT_INO);
	int err = 0;

	root->state = DIR_CONNECTED;
	for (size_t i = 0; err == 0 && i < n && !fsck_stopping(f); i++) {
		err = check_directory(f, i);
		if (err == 0 && fsck_commit_due(f))
			err = fsck_commit(f);
	}
	return err;
}

static int check_nameless(struct fsck *f, size_t i)
{
	const struct ino_info *info = &f->inodes.v[i];
	uint64_t ino = info->ino;

	if (info->refs > 0 || ino == ROOT_INO)
		return 0;
	if ((info->flags & INO_DELETED) == 0) {
		if (info->type == DT_DIR || !PROBLEM(f, FP_UNCONNECTED, .ino = ino)) // directories: see above
			return 0;
		return lostfound_add(f, ino);
	}
	if ((info->flags & INO_ORPHAN) != 0 || !PROBLEM(f, FP_ORPHAN_MISSING, .ino = ino))
		return 0;
	f->inodes.v[i].flags |= INO_ORPHAN;
	return SQL(f, "INSERT OR IGNORE INTO orphan(ino) VALUES(?1)", (int64_t)ino);
}

int phase_tree(struct fsck *f)
{
	size_t n = f->inodes.n;
	int err;

	if (dirtab_find(&f->dirs, ROOT_INO) == NULL)
		return 0; // said in phase 3, and left as it is
	err = check_directories(f);
	progress_range(f, n);
	for (size_t i = 0; err == 0 && i < n && !fsck_stopping(f); i++) {
		err = check_nameless(f, i);
		if (err == 0 && fsck_commit_due(f))
			err = fsck_commit(f);
		progress_at(f, i + 1);
	}
	return err;
}
