// SPDX-License-Identifier: MIT
// Phase 3: inodes with everything that belongs to them: inline data, extents, extended attributes, orphan rows.
//
// Five cursors, each in the order of inode numbers, are merged: rows of the four other tables whose number has no inode are
// left over from something and go. What the content of an inode must look like is in content.c.
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fsck/content.h"
#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/rows.h"
#include "util/attr.h"

#define INO_MAX (1ll << 62) // a volume never comes to it; leaves room to count on

// ---- rows without an inode ----

static const struct {
	const char *name, *select, *remove;
} satellites[SAT_N] = {
	[SAT_INLINE] = { "inline", "SELECT ino, data FROM inline WHERE ino >= ?1 ORDER BY ino",
	                 "DELETE FROM inline WHERE ino = ?1" },
	[SAT_EXTENT] = { "extent", "SELECT ino, off, phys, len, flags FROM extent WHERE ino >= ?1 ORDER BY ino, off",
	                 "DELETE FROM extent WHERE ino = ?1" },
	[SAT_XATTR] = { "xattr", "SELECT ino, name, length(value), CASE WHEN substr(name, 1, 7) = CAST('system.' AS BLOB) THEN value END"
	                " FROM xattr WHERE ino >= ?1 ORDER BY ino, name",
	                "DELETE FROM xattr WHERE ino = ?1" },
	[SAT_ORPHAN] = { "orphan", "SELECT ino FROM orphan WHERE ino >= ?1 ORDER BY ino",
	                 "DELETE FROM orphan WHERE ino = ?1" },
};

#define SELECT_INODES \
	"SELECT ino, parent, mode, nlink, uid, gid, rdev, flags, size, blocks FROM inode WHERE ino >= ?1 ORDER BY ino"

static void close_all(struct merge *m)
{
	cursor_close(&m->inode);
	for (int i = 0; i < SAT_N; i++)
		cursor_close(&m->sat[i]);
}

static int open_all(struct fsck *f, struct merge *m, int64_t from)
{
	int err = cursor_open(f, &m->inode, SELECT_INODES, from, 0);

	for (int i = 0; err == 0 && i < SAT_N; i++)
		err = cursor_open(f, &m->sat[i], satellites[i].select, from, 0);
	return err;
}

int merge_skip(struct fsck *f, struct cursor *c, int64_t ino)
{
	int err = 0;

	while (err == 0 && c->have && c->key == ino)
		err = cursor_next(f, c);
	return err;
}

static int drop_dangling(struct fsck *f, struct merge *m, int sat, int64_t before)
{
	struct cursor *c = &m->sat[sat];
	int err = 0;

	while (err == 0 && c->have && c->key < before && !fsck_stopping(f)) {
		int64_t ino = c->key;

		if (PROBLEM(f, FP_ROW_DANGLING, .name = satellites[sat].name, .is = ino))
			err = SQL(f, satellites[sat].remove, ino);
		if (err == 0)
			err = merge_skip(f, c, ino);
	}
	return err;
}

int merge_remove_inode(struct fsck *f, struct merge *m, uint64_t ino)
{
	int err = inode_delete(f->vol->store, ino);

	f->changes++;
	for (int i = 0; err == 0 && i < SAT_N; i++) {
		err = SQL(f, satellites[i].remove, (int64_t)ino);
		if (err == 0)
			err = merge_skip(f, &m->sat[i], (int64_t)ino);
	}
	return err;
}

// ---- the inode's own columns ----

static void read_row(const struct cursor *c, struct raw_inode *row)
{
	*row = (struct raw_inode){
		.ino = c->key,
		.parent = cursor_int(c, 1),
		.mode = cursor_int(c, 2),
		.nlink = cursor_int(c, 3),
		.uid = cursor_int(c, 4),
		.gid = cursor_int(c, 5),
		.rdev = cursor_int(c, 6),
		.flags = cursor_int(c, 7),
		.size = cursor_int(c, 8),
		.blocks = cursor_int(c, 9),
	};
}

static const char *type_name(int64_t mode)
{
	return S_ISDIR(mode) ? "a directory" : "a regular file";
}

static bool mode_is_valid(const struct raw_inode *row)
{
	if ((row->mode & ~(int64_t)(S_IFMT | 07777)) != 0)
		return false;
	switch (row->mode & S_IFMT) {
	case S_IFDIR:
		return true;
	case S_IFREG:
	case S_IFLNK:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return row->ino != ROOT_INO;
	default:
		return false;
	}
}

// Only directories have a parent: that tells what an inode without a type was.
static int check_mode(struct fsck *f, struct raw_inode *row)
{
	int64_t type = row->ino == ROOT_INO || row->parent != 0 ? S_IFDIR : S_IFREG, mode = (row->mode & 07777) | type;
	char octal[32];

	if (mode_is_valid(row))
		return 0;
	snprintf(octal, sizeof(octal), "%llo", (unsigned long long)row->mode);
	if (!PROBLEM(f, FP_INODE_MODE, .ino = (uint64_t)row->ino, .name = octal, .text = type_name(mode)))
		return 0;
	row->mode = mode;
	return SQL(f, "UPDATE inode SET mode = ?2 WHERE ino = ?1", row->ino, mode);
}

struct field {
	const char *name, *update;
	int64_t *value;
	int64_t max, repair;
};

static int check_fields(struct fsck *f, struct raw_inode *row)
{
	const struct field fields[] = {
		{ "nlink", "UPDATE inode SET nlink = ?2 WHERE ino = ?1", &row->nlink, UINT32_MAX, 1 },
		{ "uid", "UPDATE inode SET uid = ?2 WHERE ino = ?1", &row->uid, UINT32_MAX, 0 },
		{ "gid", "UPDATE inode SET gid = ?2 WHERE ino = ?1", &row->gid, UINT32_MAX, 0 },
		{ "rdev", "UPDATE inode SET rdev = ?2 WHERE ino = ?1", &row->rdev, UINT32_MAX, 0 },
		{ "parent", "UPDATE inode SET parent = ?2 WHERE ino = ?1", &row->parent, S_ISDIR(row->mode) ? INO_MAX : 0, 0 },
	};
	int err = 0;

	for (size_t i = 0; err == 0 && i < ARRAY_LEN(fields); i++) {
		const struct field *x = &fields[i];

		if (*x->value >= 0 && *x->value <= x->max)
			continue;
		if (!PROBLEM(f, FP_INODE_FIELD, .ino = (uint64_t)row->ino, .name = x->name, .is = *x->value, .should = x->repair))
			continue;
		*x->value = x->repair;
		err = SQL(f, x->update, row->ino, x->repair);
	}
	return err;
}

static int remember(struct fsck *f, const struct raw_inode *row)
{
	struct ino_info info = {
		.ino = (uint64_t)row->ino,
		.type = (uint8_t)IFTODT((mode_t)row->mode),
		.flags = (uint8_t)((row->orphan ? INO_ORPHAN : 0) | (row->nlink == 0 ? INO_DELETED : 0)),
		.nlink = row->nlink >= 0 && row->nlink < NLINK_IN_ROW ? (uint16_t)row->nlink : NLINK_IN_ROW,
	};
	struct dir_info dir = { .ino = (uint64_t)row->ino, .parent = (uint64_t)row->parent, .size = row->size };
	int err = inotab_add(&f->inodes, &info);

	if (err != 0 || !S_ISDIR(row->mode))
		return err;
	if (row->ino == ROOT_INO)
		dir.named_in = ROOT_INO; // it has no name and needs none
	return dirtab_add(&f->dirs, &dir);
}

static int check_inode(struct fsck *f, struct merge *m)
{
	struct raw_inode row;
	bool removed = false;
	int err = 0;

	read_row(&m->inode, &row);
	for (int i = 0; err == 0 && i < SAT_N; i++)
		err = drop_dangling(f, m, i, row.ino);
	if (err != 0)
		return err;
	if (row.ino < 1 || row.ino > INO_MAX) {
		if (PROBLEM(f, FP_INODE_NUMBER, .is = row.ino))
			return merge_remove_inode(f, m, (uint64_t)row.ino);
		for (int i = 0; err == 0 && i < SAT_N; i++)
			err = merge_skip(f, &m->sat[i], row.ino);
		return err;
	}
	row.orphan = m->sat[SAT_ORPHAN].have && m->sat[SAT_ORPHAN].key == row.ino;
	err = merge_skip(f, &m->sat[SAT_ORPHAN], row.ino);
	if (err == 0)
		err = check_mode(f, &row);
	if (err == 0)
		err = check_fields(f, &row);
	if (err == 0)
		err = content_check(f, m, &row, &removed);
	return err != 0 || removed ? err : remember(f, &row);
}

// ---- the whole table ----

static int check_root_exists(struct fsck *f)
{
	struct inode_row root = { .ino = ROOT_INO, .parent = ROOT_INO, .mode = S_IFDIR | 0755, .nlink = 2 };
	int64_t there;
	int err = sql_number(f, "SELECT ino FROM inode WHERE ino = 1", 0, &there);

	f->has_root = there == ROOT_INO;
	if (err != 0 || f->has_root || !PROBLEM(f, FP_ROOT_MISSING))
		return err;
	root.atime_ns = root.mtime_ns = root.ctime_ns = root.btime_ns = (int64_t)time(NULL) * 1000000000;
	f->has_root = true;
	f->changes++;
	return inode_insert(f->vol->store, &root);
}

static int check_next_ino(struct fsck *f)
{
	uint64_t highest = f->inodes.n > 0 ? f->inodes.v[f->inodes.n - 1].ino : ROOT_INO;
	int64_t next;
	int err = sql_number(f, "SELECT value FROM config WHERE key = 'next_ino'", 0, &next);

	if (err != 0 || next > (int64_t)highest)
		return err;
	if (!PROBLEM(f, FP_NEXT_INO, .is = next, .should = (int64_t)highest + 1))
		return 0;
	atomic_store(&f->vol->next_ino, highest + 1); // written with the commit
	return SQL(f, "INSERT OR REPLACE INTO config(key, value) VALUES('next_ino', ?1)", (int64_t)highest + 1);
}

static int check_table(struct fsck *f)
{
	struct merge m = { 0 };
	int64_t max = 0, last = INT64_MIN;
	int err = sql_number(f, "SELECT max(ino) FROM inode", 0, &max);

	progress_range(f, max > 0 ? (uint64_t)max : 0);
	if (err == 0)
		err = open_all(f, &m, INT64_MIN);
	while (err == 0 && m.inode.have && !fsck_stopping(f)) {
		last = m.inode.key;
		err = check_inode(f, &m);
		progress_at(f, last > 0 ? (uint64_t)last : 0);
		if (err == 0 && fsck_commit_due(f)) {
			close_all(&m);
			err = fsck_commit(f);
			if (err == 0)
				err = last == INT64_MAX ? 0 : open_all(f, &m, last + 1);
		} else if (err == 0) {
			err = cursor_next(f, &m.inode);
		}
	}
	for (int i = 0; err == 0 && i < SAT_N; i++)
		err = drop_dangling(f, &m, i, INT64_MAX);
	close_all(&m);
	return err;
}

int phase_inodes(struct fsck *f)
{
	int err = check_root_exists(f);

	if (err == 0)
		err = check_table(f);
	if (err == 0 && !fsck_stopping(f))
		err = check_next_ino(f);
	return err;
}
