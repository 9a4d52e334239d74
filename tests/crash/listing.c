// SPDX-License-Identifier: MIT
// A tree as text, and the text of a mounted filesystem. See listing.h.
#include "listing.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "meta/rows.h"
#include "util/attr.h"

#define LINE_MAX_BYTES 512u
#define NAMES_MAX 512u      // of one directory; workloads stay far below
#define DEPTH_MAX 16u       // a loop in the tree ends here
#define PIECE_BYTES 65536u
#define XATTR_LIST_MAX 4096u

void listing_add(struct listing *l, const char *path, const struct stat *st, uint64_t data_hash, uint64_t xattr_hash)
{
	bool is_dir = S_ISDIR(st->st_mode);

	if (l->len + LINE_MAX_BYTES > l->cap) {
		l->cap = l->cap == 0 ? 8192 : 2 * l->cap;
		l->text = realloc(l->text, l->cap);
		VERIFY(l->text != NULL);
	}
	l->len += (size_t)snprintf(l->text + l->len, LINE_MAX_BYTES,
	                           "%s #%" PRIu64 " mode %o owner %u:%u links %u size %" PRIu64 " data %016" PRIx64 " rdev %" PRIx64
	                           " xattrs %016" PRIx64 " mtime %" PRId64 " ctime %" PRId64 "\n",
	                           path, (uint64_t)st->st_ino, st->st_mode, st->st_uid, st->st_gid, (unsigned)st->st_nlink,
	                           is_dir ? 0 : (uint64_t)st->st_size, is_dir ? 0 : data_hash, (uint64_t)st->st_rdev, xattr_hash,
	                           (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec,
	                           (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec);
}

uint64_t listing_hash_xattr(uint64_t before, const char *name, const void *value, size_t len)
{
	uint64_t h = XXH3_64bits_withSeed(name, strlen(name) + 1, before);

	return XXH3_64bits_withSeed(len > 0 ? value : "", len, h);
}

// ---- of a mounted filesystem ----

struct found { // a directory's entry
	char name[256];
	struct stat st;
};

struct dir_scan {
	struct found *list;
	unsigned n;
};

static bool collect(void *ctx, const char *name, const struct stat *st, uint64_t cookie)
{
	struct dir_scan *scan = ctx;

	(void)cookie;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return true;
	if (scan->n == NAMES_MAX)
		return false;
	snprintf(scan->list[scan->n].name, sizeof(scan->list[0].name), "%s", name);
	scan->list[scan->n++].st = *st;
	return true;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct found *)a)->name, ((const struct found *)b)->name);
}

static int hash_file(struct fs *fs, const struct stat *st, uint64_t *hash)
{
	uint8_t *data = malloc((size_t)st->st_size + PIECE_BYTES);
	uint64_t at = 0;
	size_t done;
	int r = 0;

	VERIFY(data != NULL);
	do { // to the end, and not only to the size
		r = fs_read(fs, st->st_ino, data + at, PIECE_BYTES, at, &done);
		at += r == 0 ? done : 0;
	} while (r == 0 && done == PIECE_BYTES && at <= (uint64_t)st->st_size);
	if (r == 0 && at != (uint64_t)st->st_size)
		r = -EUCLEAN;
	*hash = XXH3_64bits(data, at);
	free(data);
	return r;
}

static int hash_data(struct fs *fs, const struct stat *st, uint64_t *hash)
{
	char target[4096];
	size_t len = 0;
	int r = 0;

	if (S_ISREG(st->st_mode))
		return hash_file(fs, st, hash);
	if (S_ISLNK(st->st_mode))
		r = fs_readlink(fs, st->st_ino, target, sizeof(target), &len);
	*hash = XXH3_64bits(target, len);
	return r;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int hash_xattrs(struct fs *fs, uint64_t ino, uint64_t *hash)
{
	char list[XATTR_LIST_MAX], *names[64];
	uint8_t value[PIECE_BYTES];
	size_t len, value_len;
	unsigned n = 0;
	int r = fs_listxattr(fs, ino, list, sizeof(list), &len);

	*hash = 0;
	for (size_t at = 0; r == 0 && at < len && n < 64; at += strlen(list + at) + 1)
		names[n++] = list + at;
	qsort(names, n, sizeof(names[0]), by_text);
	for (unsigned i = 0; r == 0 && i < n; i++) {
		r = fs_getxattr(fs, ino, names[i], value, sizeof(value), &value_len);
		if (r == 0)
			*hash = listing_hash_xattr(*hash, names[i], value, value_len);
	}
	return r;
}

struct walk {
	struct fs *fs;
	struct listing text;
	char path[4096]; // of where it is, also after an error
};

static int add_dir(struct walk *w, uint64_t ino, unsigned depth);

static int add_inode(struct walk *w, const struct stat *st, unsigned depth)
{
	uint64_t data, xattrs;
	int r = hash_data(w->fs, st, &data);

	if (r == 0)
		r = hash_xattrs(w->fs, st->st_ino, &xattrs);
	if (r != 0)
		return r;
	listing_add(&w->text, w->path, st, data, xattrs);
	return S_ISDIR(st->st_mode) ? add_dir(w, st->st_ino, depth) : 0;
}

static int add_dir(struct walk *w, uint64_t ino, unsigned depth)
{
	struct dir_scan scan = { .list = malloc(NAMES_MAX * sizeof(struct found)) };
	size_t len = strlen(w->path);
	int r;

	VERIFY(scan.list != NULL);
	r = depth == DEPTH_MAX ? -ELOOP : fs_readdir(w->fs, ino, 0, true, collect, &scan);
	qsort(scan.list, scan.n, sizeof(scan.list[0]), by_name);
	for (unsigned i = 0; r == 0 && i < scan.n; i++) {
		snprintf(w->path + len, sizeof(w->path) - len, "%s%s", len > 1 ? "/" : "", scan.list[i].name);
		r = add_inode(w, &scan.list[i].st, depth + 1);
	}
	if (r == 0)
		w->path[len] = '\0';
	for (unsigned i = 0; i < scan.n; i++)
		fs_forget(w->fs, scan.list[i].st.st_ino, 1); // readdir with attributes gives a reference
	free(scan.list);
	return r;
}

int listing_of_fs(struct fs *fs, char **text, char *where, size_t where_cap)
{
	struct walk w = { .fs = fs, .path = "/" };
	struct stat st;
	int r = fs_getattr(fs, ROOT_INO, &st);

	if (r == 0)
		r = add_inode(&w, &st, 0);
	snprintf(where, where_cap, "%s", w.path);
	if (r != 0) {
		free(w.text.text);
		return r;
	}
	*text = w.text.text;
	return 0;
}
