// SPDX-License-Identifier: MIT
// Phase 7: what inodes say about their names, against what was counted: link counts, sizes and parents of directories, and
// how many inodes there are.
#include <dirent.h>
#include <errno.h>

#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/rows.h"

#define SELECT_COUNTS "SELECT ino, parent, nlink, size FROM inode WHERE ino >= ?1 ORDER BY ino"

static int check_links(struct fsck *f, const struct ino_info *info, int64_t is, int64_t should)
{
	if (is == should || !PROBLEM(f, FP_LINK_COUNT, .ino = info->ino, .is = is, .should = should))
		return 0;
	return SQL(f, "UPDATE inode SET nlink = ?2 WHERE ino = ?1", (int64_t)info->ino, should);
}

static int check_dir(struct fsck *f, const struct ino_info *info, int64_t parent, int64_t size)
{
	const struct dir_info *dir = dirtab_find(&f->dirs, info->ino);
	int err = 0;

	if (size != dir->n_entries && PROBLEM(f, FP_DIR_SIZE, .ino = info->ino, .is = size, .should = dir->n_entries))
		err = SQL(f, "UPDATE inode SET size = ?2 WHERE ino = ?1", (int64_t)info->ino, dir->n_entries);
	if (err != 0 || dir->named_in == 0 || parent == (int64_t)dir->named_in ||
	    !PROBLEM(f, FP_DIR_PARENT, .ino = info->ino, .is = parent, .should = (int64_t)dir->named_in))
		return err;
	return SQL(f, "UPDATE inode SET parent = ?2 WHERE ino = ?1", (int64_t)info->ino, (int64_t)dir->named_in);
}

static int check_inode(struct fsck *f, const struct cursor *c)
{
	const struct ino_info *info = inotab_find(&f->inodes, (uint64_t)c->key);
	int64_t parent = cursor_int(c, 1), nlink = cursor_int(c, 2), size = cursor_int(c, 3), should;
	const struct dir_info *dir;
	int err;

	if (info == NULL || (info->refs == 0 && info->ino != ROOT_INO))
		return 0; // without a name: said in phase 6
	if (info->type != DT_DIR)
		return check_links(f, info, nlink, info->refs);
	dir = dirtab_find(&f->dirs, info->ino);
	should = 2 + (int64_t)dir->n_subdirs;
	err = check_links(f, info, nlink, should);
	return err != 0 ? err : check_dir(f, info, parent, size);
}

static int check_table(struct fsck *f)
{
	struct cursor c = { 0 };
	uint64_t done = 0;
	int err = cursor_open(f, &c, SELECT_COUNTS, INT64_MIN, 0);

	progress_range(f, f->inodes.n);
	while (err == 0 && c.have && !fsck_stopping(f)) {
		int64_t ino = c.key;

		err = check_inode(f, &c);
		progress_at(f, ++done);
		if (err == 0 && fsck_commit_due(f)) {
			cursor_close(&c);
			err = fsck_commit(f);
			if (err == 0 && ino < INT64_MAX)
				err = cursor_open(f, &c, SELECT_COUNTS, ino + 1, 0);
		} else if (err == 0) {
			err = cursor_next(f, &c);
		}
	}
	cursor_close(&c);
	return err;
}

static int check_total(struct fsck *f)
{
	int64_t is = store_n_inodes(f->vol->store), should = (int64_t)f->inodes.n;

	if (is == should || !PROBLEM(f, FP_INODE_COUNT, .is = is, .should = should))
		return 0;
	store_set_n_inodes(f->vol->store, should); // written with the commit
	return SQL(f, "INSERT OR REPLACE INTO config(key, value) VALUES('inodes', ?1)", should);
}

int phase_counts(struct fsck *f)
{
	int err = check_table(f);

	return err != 0 || fsck_stopping(f) ? err : check_total(f);
}
