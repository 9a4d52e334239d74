// SPDX-License-Identifier: MIT
#include "fsck/damage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/rows.h"
#include "util/array.h"
#include "util/blk.h"

#define RANGES_MAX (1u << 20)
#define RANGES_SHOWN 8u
#define PATH_BYTES 6000u

struct name {
	uint64_t ino, parent, cookie;
};

struct report {
	struct fsck *f;
	const struct damage_list *list;
	struct name *names; // of damaged files
	size_t n_names, cap_names, next_name;
};

// ---- the list ----

int damage_add(struct damage_list *list, uint64_t ino, uint64_t off_blk, uint64_t len_blk)
{
	struct damage *more, *last = list->n > 0 ? &list->v[list->n - 1] : NULL;

	list->n_blk += len_blk;
	if (last != NULL && last->ino == ino && last->off_blk + last->len_blk == off_blk) {
		last->len_blk += len_blk;
		return 0;
	}
	if (list->n == RANGES_MAX)
		return 0;
	more = array_more(list->v, list->n, &list->cap, sizeof(*more));
	if (more == NULL)
		return -ENOMEM;
	list->v = more;
	list->v[list->n++] = (struct damage){ ino, off_blk, len_blk };
	return 0;
}

void damage_free(struct damage_list *list)
{
	free(list->v);
	*list = (struct damage_list){ 0 };
}

static int by_file(const void *a, const void *b)
{
	const struct damage *x = a, *y = b;

	if (x->ino != y->ino)
		return x->ino > y->ino ? 1 : -1;
	return (x->off_blk > y->off_blk) - (x->off_blk < y->off_blk);
}

// ---- names ----

static bool is_hit(const struct report *r, uint64_t ino)
{
	size_t lo = 0, hi = r->list->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (r->list->v[mid].ino < ino)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < r->list->n && r->list->v[lo].ino == ino;
}

static int add_name(struct report *r, const struct name *name)
{
	struct name *more = array_more(r->names, r->n_names, &r->cap_names, sizeof(*more));

	if (more == NULL)
		return -ENOMEM;
	r->names = more;
	r->names[r->n_names++] = *name;
	return 0;
}

static int by_ino(const void *a, const void *b)
{
	uint64_t x = ((const struct name *)a)->ino, y = ((const struct name *)b)->ino;

	return (x > y) - (x < y);
}

static int find_names(struct report *r)
{
	struct cursor c;
	int err = cursor_open(r->f, &c, "SELECT ino, parent, cookie FROM dirent", 0, 0);

	while (err == 0 && c.have) {
		struct name name = { (uint64_t)c.key, (uint64_t)cursor_int(&c, 1), (uint64_t)cursor_int(&c, 2) };

		if (is_hit(r, name.ino))
			err = add_name(r, &name);
		if (err == 0)
			err = cursor_next(r->f, &c);
	}
	cursor_close(&c);
	if (r->n_names > 0)
		qsort(r->names, r->n_names, sizeof(r->names[0]), by_ino);
	return err;
}

// Puts "/name" before what stands at *at. False: no room, or no such entry.
static bool prepend(struct fsck *f, uint64_t parent, uint64_t cookie, const char *buf, char **at)
{
	char name[ESCAPED_NAME_LEN];
	struct cursor c;
	size_t len = 0;

	if (cursor_open(f, &c, "SELECT cookie, name FROM dirent WHERE parent = ?1 AND cookie = ?2", (int64_t)parent,
	                (int64_t)cookie) == 0 && c.have) {
		escape_name(sqlite3_column_blob(c.stmt, 1), sqlite3_column_bytes(c.stmt, 1), name);
		len = strlen(name);
	}
	cursor_close(&c);
	if (len == 0 || (size_t)(*at - buf) < len + 1)
		return false;
	*at -= len;
	memcpy(*at, name, len);
	*--*at = '/';
	return true;
}

// The entry of a directory. The phases know it from all entries; after them, on another snapshot, the rows have to be asked.
static bool entry_of_dir(struct fsck *f, uint64_t ino, uint64_t *named_in, uint64_t *cookie)
{
	const struct dir_info *dir = dirtab_find(&f->dirs, ino);
	struct cursor c = { 0 };
	bool found;

	if (f->dirs.n > 0) {
		*named_in = dir != NULL ? dir->named_in : 0;
		*cookie = dir != NULL ? dir->cookie : 0;
		return *named_in != 0;
	}
	found = cursor_open(f, &c, "SELECT d.parent, d.cookie FROM inode i JOIN dirent d ON d.parent = i.parent AND d.ino = i.ino"
	                    " WHERE i.ino = ?1", (int64_t)ino, 0) == 0 && c.have;
	*named_in = found ? (uint64_t)c.key : 0;
	*cookie = found ? (uint64_t)cursor_int(&c, 1) : 0;
	cursor_close(&c);
	return found;
}

// The path of an entry, in buf. As much of it as is known. It ends, whatever the directories are: each step needs room.
static const char *path_of(struct fsck *f, const struct name *name, char buf[PATH_BYTES])
{
	uint64_t parent = name->parent, cookie;
	char *at = buf + PATH_BYTES - 1;
	bool more;

	*at = '\0';
	more = prepend(f, name->parent, name->cookie, buf, &at);
	while (more && parent != ROOT_INO)
		more = entry_of_dir(f, parent, &parent, &cookie) && prepend(f, parent, cookie, buf, &at);
	return at;
}

// "bytes 0 to 4095, 8192 to 12287" of the ranges [first, end).
static void describe(const struct report *r, size_t first, size_t end, char *buf, size_t cap)
{
	size_t n = (size_t)snprintf(buf, cap, "damaged in bytes ");

	for (size_t i = first; i < end && i < first + RANGES_SHOWN; i++) {
		const struct damage *p = &r->list->v[i];

		n += (size_t)snprintf(buf + n, cap - n, "%s%llu to %llu", i == first ? "" : ", ",
		                      (unsigned long long)blk_to_bytes(p->off_blk),
		                      (unsigned long long)blk_to_bytes(p->off_blk + p->len_blk) - 1);
	}
	if (end - first > RANGES_SHOWN)
		snprintf(buf + n, cap - n, " and %zu more ranges", end - first - RANGES_SHOWN);
}

static void report_file(struct report *r, size_t first, size_t end)
{
	uint64_t ino = r->list->v[first].ino;
	char path[PATH_BYTES], text[1024];
	bool said = false;

	describe(r, first, end, text, sizeof(text));
	for (; r->next_name < r->n_names && r->names[r->next_name].ino <= ino; r->next_name++) { // both in the order of ino
		const struct name *name = &r->names[r->next_name];

		if (!said)
			(void)PROBLEM(r->f, FP_FILE_DAMAGED, .ino = ino, .name = path_of(r->f, name, path), .text = text);
		else
			problem_note(r->f, "inode %llu is also %s", (unsigned long long)ino, path_of(r->f, name, path));
		said = true;
	}
	if (!said)
		(void)PROBLEM(r->f, FP_FILE_DAMAGED, .ino = ino, .name = "which has no name", .text = text);
	r->f->n_damaged++;
}

static int exists(struct fsck *f, uint64_t ino, bool *yes)
{
	struct cursor c;
	int err = cursor_open(f, &c, "SELECT ino FROM inode WHERE ino = ?1", (int64_t)ino, 0);

	*yes = err == 0 && c.have;
	cursor_close(&c);
	return err;
}

static int report_files(struct report *r)
{
	const struct damage_list *list = r->list;
	bool there = true;
	int err = 0;

	for (size_t i = 0, end; err == 0 && i < list->n; i = end) {
		for (end = i; end < list->n && list->v[end].ino == list->v[i].ino; end++)
			;
		if (r->f->online)
			err = exists(r->f, list->v[i].ino, &there);
		if (err == 0 && there)
			report_file(r, i, end);
	}
	return err;
}

int damage_report(struct fsck *f, struct damage_list *list, uint64_t read_blk, uint64_t skipped_files)
{
	struct report r = { .f = f, .list = list };
	int err = 0;

	if (list->n > 0) {
		qsort(list->v, list->n, sizeof(list->v[0]), by_file);
		err = find_names(&r);
	}
	if (err == 0)
		err = report_files(&r);
	free(r.names);
	problem_note(f, "scrub: %llu blocks read, %llu damaged; %llu files without checksums left out", (unsigned long long)read_blk,
	             (unsigned long long)list->n_blk, (unsigned long long)skipped_files);
	if (list->n_blk > 0)
		problem_note(f, "reading damaged bytes gives an I/O error: restore these files from a backup, or delete them");
	return err;
}
