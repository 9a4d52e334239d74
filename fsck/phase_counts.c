// SPDX-License-Identifier: MIT
// Phase 7: what inodes say about their names, against what was counted: link counts, sizes and parents of directories, and
// how many inodes there are.
//
// Phase 3 has read all rows and remembers what is needed here; repairs since then have kept that up to date.
#include <dirent.h>
#include <errno.h>

#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/rows.h"

static int get_nlink(struct fsck *f, const struct ino_info *info, int64_t *nlink)
{
	struct cursor c;
	int err;

	*nlink = info->nlink;
	if (info->nlink != NLINK_IN_ROW)
		return 0;
	err = cursor_open(f, &c, "SELECT nlink FROM inode WHERE ino = ?1", (int64_t)info->ino, 0);
	if (err == 0 && c.have)
		*nlink = c.key;
	cursor_close(&c);
	return err;
}

static int check_links(struct fsck *f, const struct ino_info *info, int64_t should)
{
	int64_t is;
	int err = get_nlink(f, info, &is);

	if (err != 0 || is == should || !PROBLEM(f, FP_LINK_COUNT, .ino = info->ino, .is = is, .should = should))
		return err;
	return SQL(f, "UPDATE inode SET nlink = ?2 WHERE ino = ?1", (int64_t)info->ino, should);
}

static int check_dir(struct fsck *f, const struct dir_info *dir)
{
	int64_t parent = (int64_t)dir->parent;
	int err = 0;

	if (dir->size != dir->n_entries && PROBLEM(f, FP_DIR_SIZE, .ino = dir->ino, .is = dir->size, .should = dir->n_entries))
		err = SQL(f, "UPDATE inode SET size = ?2 WHERE ino = ?1", (int64_t)dir->ino, dir->n_entries);
	if (err != 0 || dir->named_in == 0 || dir->parent == dir->named_in ||
	    !PROBLEM(f, FP_DIR_PARENT, .ino = dir->ino, .is = parent, .should = (int64_t)dir->named_in))
		return err;
	return SQL(f, "UPDATE inode SET parent = ?2 WHERE ino = ?1", (int64_t)dir->ino, (int64_t)dir->named_in);
}

static int check_inode(struct fsck *f, const struct ino_info *info)
{
	const struct dir_info *dir;
	int err;

	if (info->refs == 0 && info->ino != ROOT_INO)
		return 0; // without a name: said in phase 6
	if (info->type != DT_DIR)
		return check_links(f, info, info->refs);
	dir = dirtab_find(&f->dirs, info->ino);
	err = check_links(f, info, 2 + (int64_t)dir->n_subdirs);
	return err != 0 ? err : check_dir(f, dir);
}

static int check_all(struct fsck *f)
{
	int err = 0;

	progress_range(f, f->inodes.n);
	for (size_t i = 0; err == 0 && i < f->inodes.n && !fsck_stopping(f); i++) {
		err = check_inode(f, &f->inodes.v[i]);
		progress_at(f, i + 1);
		if (err == 0 && fsck_commit_due(f))
			err = fsck_commit(f);
	}
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
	int err = check_all(f);

	return err != 0 || fsck_stopping(f) ? err : check_total(f);
}
