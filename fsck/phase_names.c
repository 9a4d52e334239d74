// SPDX-License-Identifier: MIT
// Phase 5: every entry of every directory, in the order (directory, cookie): is its name one, does it stand where a lookup
// finds it, and does it name an inode that exists? Counts on the way who names whom.
//
// A directory has one name: the entry in the directory that its own row calls parent. Entries elsewhere are decided about at
// the end, when it is known whether that one exists. Entries that must be filed anew are moved at the end as well: moved
// during the walk they could be met twice.
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/rows.h"
#include "util/array.h"
#include "util/attr.h"

// Something to do with an entry when the walk is over.
struct later {
	uint64_t parent, cookie, ino;
	bool rename; // its name cannot stay
};

struct later_list {
	struct later *v;
	size_t n, cap;
};

struct entry {
	uint64_t parent, cookie;
	int64_t ino, type;
	const void *name;
	int name_len;
};

// Names that were filed close before the present one: only these can be equal to it.
struct neighbour {
	uint64_t cookie;
	int name_len;
	char name[NAME_MAX_BYTES];
};

struct names {
	struct fsck *f;
	struct cursor at;
	uint64_t hash_key;
	uint64_t parent;            // of the group at hand
	struct dir_info *dir;       // what is known about it; NULL: the group is skipped. Directories are not added during the walk
	char printable[ESCAPED_NAME_LEN];
	struct neighbour near[DIRENT_PROBES];
	unsigned n_near;
	struct later_list misplaced; // entries to be filed anew
	struct later_list elsewhere; // entries of directories outside their parent
};

static int later_add(struct later_list *list, const struct later *item)
{
	struct later *more = array_more(list->v, list->n, &list->cap, sizeof(*more));

	if (more == NULL)
		return -ENOMEM;
	list->v = more;
	list->v[list->n++] = *item;
	return 0;
}

// ---- one entry ----

static int begin_group(struct names *n, uint64_t parent)
{
	const struct ino_info *info = inotab_find(&n->f->inodes, parent);

	n->parent = parent;
	n->n_near = 0;
	n->dir = info != NULL && info->type == DT_DIR ? dirtab_find(&n->f->dirs, parent) : NULL;
	if (n->dir != NULL || !PROBLEM(n->f, FP_DIRENT_PARENT, .parent = parent))
		return 0;
	return SQL(n->f, "DELETE FROM dirent WHERE parent = ?1", (int64_t)parent);
}

static void read_entry(const struct names *n, struct entry *e)
{
	e->parent = n->parent;
	e->cookie = (uint64_t)cursor_int(&n->at, 1);
	e->ino = cursor_int(&n->at, 2);
	e->type = cursor_int(&n->at, 3);
	e->name = sqlite3_column_blob(n->at.stmt, 4);
	e->name_len = sqlite3_column_bytes(n->at.stmt, 4);
}

static const char *printable(struct names *n, const struct entry *e)
{
	return escape_name(e->name, e->name_len, n->printable);
}

static bool name_is_valid(const struct entry *e)
{
	const char *name = e->name;

	if (name == NULL || e->name_len < 1 || e->name_len > (int)NAME_MAX_BYTES)
		return false;
	if (memchr(name, '/', (size_t)e->name_len) != NULL || memchr(name, '\0', (size_t)e->name_len) != NULL)
		return false;
	return !(name[0] == '.' && (e->name_len == 1 || (e->name_len == 2 && name[1] == '.')));
}

// Whether the name was met in the reach of its hash already; remembers it for those that follow.
static bool is_duplicate(struct names *n, const struct entry *e)
{
	unsigned kept = 0;
	bool found = false;

	for (unsigned i = 0; i < n->n_near; i++) {
		const struct neighbour *old = &n->near[i];

		if (e->cookie - old->cookie >= DIRENT_PROBES)
			continue;
		found |= old->name_len == e->name_len && memcmp(old->name, e->name, (size_t)e->name_len) == 0;
		if (kept != i)
			n->near[kept] = *old;
		kept++;
	}
	n->n_near = kept;
	if (kept < DIRENT_PROBES) {
		n->near[kept].cookie = e->cookie;
		n->near[kept].name_len = e->name_len;
		memcpy(n->near[kept].name, e->name, (size_t)e->name_len);
		n->n_near++;
	}
	return found;
}

static int check_place(struct names *n, const struct entry *e)
{
	struct later move = { e->parent, e->cookie, (uint64_t)e->ino, true };
	struct fsck *f = n->f;
	uint64_t hash;

	if (!name_is_valid(e))
		return PROBLEM(f, FP_DIRENT_NAME, .parent = e->parent, .name = printable(n, e), .ino = (uint64_t)e->ino)
			? later_add(&n->misplaced, &move) : 0;
	if (is_duplicate(n, e))
		return PROBLEM(f, FP_DIRENT_DUPLICATE, .parent = e->parent, .name = printable(n, e))
			? later_add(&n->misplaced, &move) : 0;
	hash = dirent_hash(n->hash_key, e->name, (size_t)e->name_len);
	if (e->cookie >= hash && e->cookie - hash < DIRENT_PROBES)
		return 0;
	move.rename = false;
	return PROBLEM(f, FP_DIRENT_COOKIE, .parent = e->parent, .name = printable(n, e)) ? later_add(&n->misplaced, &move) : 0;
}

// The entry stays: who is named, and how often.
static int count_entry(struct names *n, const struct entry *e, struct ino_info *info)
{
	struct dir_info *child;

	n->dir->n_entries++;
	info->refs++;
	if (info->type != DT_DIR)
		return 0;
	n->dir->n_subdirs++;
	child = dirtab_find(&n->f->dirs, info->ino);
	if (child->named_in == 0 && child->parent == e->parent) {
		child->named_in = e->parent;
		child->cookie = e->cookie;
		return 0;
	}
	return later_add(&n->elsewhere, &(struct later){ e->parent, e->cookie, info->ino, false });
}

static int check_entry(struct names *n)
{
	struct fsck *f = n->f;
	struct ino_info *info;
	struct entry e;
	int err;

	read_entry(n, &e);
	info = e.ino > 0 ? inotab_find(&f->inodes, (uint64_t)e.ino) : NULL;
	if (info == NULL) {
		if (!PROBLEM(f, FP_DIRENT_TARGET, .parent = e.parent, .name = printable(n, &e), .is = e.ino))
			return 0;
		return SQL(f, "DELETE FROM dirent WHERE parent = ?1 AND cookie = ?2", (int64_t)e.parent, (int64_t)e.cookie);
	}
	err = check_place(n, &e);
	if (err == 0 && e.type != info->type &&
	    PROBLEM(f, FP_DIRENT_TYPE, .parent = e.parent, .name = printable(n, &e), .is = e.type, .ino = info->ino,
	            .should = info->type))
		err = SQL(f, "UPDATE dirent SET type = ?3 WHERE parent = ?1 AND cookie = ?2", (int64_t)e.parent,
		          (int64_t)e.cookie, info->type);
	return err != 0 ? err : count_entry(n, &e, info);
}

// ---- what was put off ----

// *len is -1 if the entry is not there any more.
static int read_name(struct fsck *f, const struct later *item, char name[NAME_MAX_BYTES + 1], int *len)
{
	struct cursor c;
	int err = cursor_open(f, &c, "SELECT cookie, name FROM dirent WHERE parent = ?1 AND cookie = ?2", (int64_t)item->parent,
	                      (int64_t)item->cookie);

	*len = err == 0 && c.have ? sqlite3_column_bytes(c.stmt, 1) : -1;
	if (*len > (int)NAME_MAX_BYTES)
		*len = NAME_MAX_BYTES;
	if (*len > 0)
		memcpy(name, sqlite3_column_blob(c.stmt, 1), (size_t)*len);
	cursor_close(&c);
	return err;
}

// Under its own name if it can keep it, else as "#inode", "#inode.1" …
static int file_anew(struct names *n, const struct later *item)
{
	struct fsck *f = n->f;
	const struct ino_info *info = inotab_find(&f->inodes, item->ino);
	struct dir_info *dir = info->type == DT_DIR ? dirtab_find(&f->dirs, item->ino) : NULL;
	char name[NAME_MAX_BYTES + 1];
	struct dirent_row placed;
	int len, err = read_name(f, item, name, &len);

	if (err != 0 || len < 0) // removed as a second name of a directory
		return err;
	err = SQL(f, "DELETE FROM dirent WHERE parent = ?1 AND cookie = ?2", (int64_t)item->parent, (int64_t)item->cookie);
	if (err != 0)
		return err;
	err = item->rename ? -EEXIST : dirent_insert(f->vol->store, item->parent, name, (size_t)len, item->ino, info->type);
	for (unsigned i = 0; err == -EEXIST; i++) {
		len = i == 0 ? snprintf(name, sizeof(name), "#%llu", (unsigned long long)item->ino)
		             : snprintf(name, sizeof(name), "#%llu.%u", (unsigned long long)item->ino, i);
		err = dirent_insert(f->vol->store, item->parent, name, (size_t)len, item->ino, info->type);
	}
	f->changes++;
	if (err == 0 && dir != NULL && dir->named_in == item->parent && dir->cookie == item->cookie) {
		err = dirent_find(f->vol->store, item->parent, name, (size_t)len, &placed);
		if (err == 0)
			dir->cookie = placed.cookie;
	}
	return err;
}

// An entry of a directory in another directory than its parent: its only name, or one too many.
static int judge_elsewhere(struct names *n, const struct later *item)
{
	struct fsck *f = n->f;
	struct dir_info *child = dirtab_find(&f->dirs, item->ino), *dir = dirtab_find(&f->dirs, item->parent);
	char name[NAME_MAX_BYTES + 1], printable[ESCAPED_NAME_LEN];
	int len, err;

	if (child->named_in == 0) { // its row is wrong about the parent: phase 7 puts that right
		child->named_in = item->parent;
		child->cookie = item->cookie;
		return 0;
	}
	err = read_name(f, item, name, &len);
	if (err != 0 || !PROBLEM(f, FP_DIR_HARDLINK, .parent = item->parent, .name = escape_name(name, len, printable),
	                         .ino = item->ino))
		return err;
	dir->n_entries--;
	dir->n_subdirs--;
	inotab_find(&f->inodes, item->ino)->refs--;
	return SQL(f, "DELETE FROM dirent WHERE parent = ?1 AND cookie = ?2", (int64_t)item->parent, (int64_t)item->cookie);
}

static int finish(struct names *n, struct later_list *list, int (*one)(struct names *n, const struct later *item))
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < list->n && !fsck_stopping(n->f); i++) {
		err = one(n, &list->v[i]);
		if (err == 0 && fsck_commit_due(n->f))
			err = fsck_commit(n->f);
	}
	return err;
}

// ---- the whole table ----

// The condition would be evaluated for each row: it stands only where a batch of repairs has ended the walk.
#define SELECT_ENTRIES "SELECT parent, cookie, ino, type, name FROM dirent"
#define BEHIND_ENTRY " WHERE (parent, cookie) > (?1, ?2)"
#define IN_ORDER " ORDER BY parent, cookie"

static int walk(struct names *n)
{
	struct fsck *f = n->f;
	bool first = true;
	int err = cursor_open(f, &n->at, SELECT_ENTRIES IN_ORDER, 0, 0);

	progress_range(f, f->inodes.n > 0 ? f->inodes.v[f->inodes.n - 1].ino : 0);
	while (err == 0 && n->at.have && !fsck_stopping(f)) {
		int64_t parent = n->at.key;

		if (first || n->parent != (uint64_t)parent)
			err = begin_group(n, (uint64_t)parent);
		first = false;
		if (err == 0 && n->dir != NULL)
			err = check_entry(n);
		progress_at(f, (uint64_t)parent);
		if (err == 0 && fsck_commit_due(f)) {
			int64_t cookie = cursor_int(&n->at, 1);

			cursor_close(&n->at);
			err = fsck_commit(f);
			if (err == 0)
				err = cursor_open(f, &n->at, SELECT_ENTRIES BEHIND_ENTRY IN_ORDER, parent, cookie);
		} else if (err == 0) {
			err = cursor_next(f, &n->at);
		}
	}
	cursor_close(&n->at);
	return err;
}

int phase_names(struct fsck *f)
{
	struct names *n = calloc(1, sizeof(*n));
	int64_t key;
	int err;

	if (n == NULL)
		return -ENOMEM;
	n->f = f;
	err = sql_number(f, "SELECT value FROM config WHERE key = 'hash_key'", 0, &key);
	n->hash_key = (uint64_t)key;
	if (err == 0)
		err = walk(n);
	// Which entry of a directory is too many first: it must still be where it was found.
	if (err == 0)
		err = finish(n, &n->elsewhere, judge_elsewhere);
	if (err == 0)
		err = finish(n, &n->misplaced, file_anew);
	free(n->misplaced.v);
	free(n->elsewhere.v);
	free(n);
	return err;
}
