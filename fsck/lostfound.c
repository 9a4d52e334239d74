// SPDX-License-Identifier: MIT
// /lost+found: where what has no name gets one, "#" and the number of its inode.
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/rows.h"

#define NAMES_TRIED 100u

// Enters the inode into a directory and counts it there.
static int enter(struct fsck *f, uint64_t parent, const char *name, uint64_t ino)
{
	struct ino_info *info = inotab_find(&f->inodes, ino);
	struct dir_info *dir = dirtab_find(&f->dirs, parent), *child;
	struct dirent_row placed;
	int err = dirent_insert(f->vol->store, parent, name, strlen(name), ino, info->type);

	if (err == 0)
		err = dirent_find(f->vol->store, parent, name, strlen(name), &placed);
	if (err != 0)
		return err;
	f->changes++;
	dir->n_entries++;
	info->refs++;
	if (info->type != DT_DIR)
		return 0;
	dir->n_subdirs++;
	child = dirtab_find(&f->dirs, ino);
	child->named_in = child->parent = parent;
	child->cookie = placed.cookie;
	child->state = DIR_CONNECTED;
	return SQL(f, "UPDATE inode SET parent = ?2 WHERE ino = ?1", (int64_t)ino, (int64_t)parent);
}

// A new, empty directory in the root. Its number is above all others, so that the tables stay sorted.
static int create(struct fsck *f, const char *name)
{
	uint64_t highest = f->inodes.v[f->inodes.n - 1].ino, next = atomic_load(&f->vol->next_ino);
	int64_t now_ns = (int64_t)time(NULL) * 1000000000;
	struct inode_row row = {
		.ino = next > highest ? next : highest + 1, .parent = ROOT_INO, .mode = S_IFDIR | 0700, .nlink = 2,
		.atime_ns = now_ns, .mtime_ns = now_ns, .ctime_ns = now_ns, .btime_ns = now_ns,
	};
	int err = inode_insert(f->vol->store, &row);

	if (err == 0)
		err = inotab_add(&f->inodes, &(struct ino_info){ .ino = row.ino, .type = DT_DIR, .nlink = (uint16_t)row.nlink });
	if (err == 0)
		err = dirtab_add(&f->dirs, &(struct dir_info){ .ino = row.ino });
	if (err != 0)
		return err;
	atomic_store(&f->vol->next_ino, row.ino + 1);
	f->lost_found = row.ino;
	return enter(f, ROOT_INO, name, row.ino);
}

static int find_or_create(struct fsck *f)
{
	struct dirent_row row;
	char name[32];
	int err = -EEXIST;

	for (unsigned i = 0; err == -EEXIST && i < NAMES_TRIED; i++) {
		const struct ino_info *info;

		snprintf(name, sizeof(name), i == 0 ? "lost+found" : "lost+found.%u", i);
		err = dirent_find(f->vol->store, ROOT_INO, name, strlen(name), &row);
		if (err == -ENOENT)
			return create(f, name);
		if (err != 0)
			return err;
		info = inotab_find(&f->inodes, row.ino);
		if (info != NULL && info->type == DT_DIR)
			f->lost_found = row.ino;
		else
			err = -EEXIST; // the name is taken by something else
	}
	return err;
}

int lostfound_add(struct fsck *f, uint64_t ino)
{
	char name[48];
	int err = f->lost_found == 0 ? find_or_create(f) : 0;

	if (err != 0)
		return err;
	for (unsigned i = 0; i < NAMES_TRIED; i++) {
		if (i == 0)
			snprintf(name, sizeof(name), "#%llu", (unsigned long long)ino);
		else
			snprintf(name, sizeof(name), "#%llu.%u", (unsigned long long)ino, i);
		err = enter(f, f->lost_found, name, ino);
		if (err != -EEXIST)
			return err;
	}
	return err;
}
