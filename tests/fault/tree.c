// SPDX-License-Identifier: MIT
// See tree.h. The walk's own memory never fails: it runs between the faults.
#include "tree.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inject.h"
#include "util/blk.h"

#define NAMES_MAX 64
#define READ_BYTES 65536u

struct listing {
	char name[NAMES_MAX][256];
	unsigned n;
};

void text_add(struct text *text, const char *fmt, ...)
{
	va_list args;
	int n;

	if (text->cap - text->len < 4096) {
		inject_pause();
		text->cap = 2 * text->cap + 16384;
		text->at = realloc(text->at, text->cap);
		inject_resume();
		VERIFY(text->at != NULL);
	}
	va_start(args, fmt);
	n = vsnprintf(text->at + text->len, text->cap - text->len, fmt, args);
	va_end(args);
	VERIFY(n >= 0 && (size_t)n < text->cap - text->len);
	text->len += (size_t)n;
}

void text_free(struct text *text)
{
	free(text->at);
	*text = (struct text){ 0 };
}

uint64_t tree_hash(uint64_t hash, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;
	uint64_t word;

	for (; len >= sizeof(word); at += sizeof(word), len -= sizeof(word)) {
		memcpy(&word, at, sizeof(word));
		hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
		hash ^= hash >> 32;
	}
	for (; len > 0; at++, len--)
		hash = (hash ^ *at) * 0x100000001b3ull;
	return hash;
}

static bool list_one(void *ctx, const char *name, ATTR_UNUSED const struct stat *st, ATTR_UNUSED uint64_t cookie)
{
	struct listing *list = ctx;

	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return true;
	VERIFY(list->n < NAMES_MAX);
	snprintf(list->name[list->n++], sizeof(list->name[0]), "%s", name);
	return true;
}

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

static int add_content(struct fs *fs, uint64_t ino, const struct stat *st, struct text *out)
{
	static char buf[READ_BYTES];
	uint64_t hash = 0, off = 0;
	size_t done = 0;
	int err;

	do {
		err = fs_read(fs, ino, buf, sizeof(buf), off, &done);
		if (err != 0)
			return err;
		hash = tree_hash(hash, buf, done);
		off += done;
	} while (done == sizeof(buf));
	text_add(out, " %llu:%016llx", (unsigned long long)off, (unsigned long long)hash);
	return off == (uint64_t)st->st_size ? 0 : -ERANGE;
}

static int add_target(struct fs *fs, uint64_t ino, struct text *out)
{
	char target[4096];
	size_t len;
	int err = fs_readlink(fs, ino, target, sizeof(target), &len);

	if (err == 0)
		text_add(out, " -> %.*s", (int)(len < 200 ? len : 200), target);
	return err;
}

static int add_xattrs(struct fs *fs, uint64_t ino, struct text *out)
{
	static char names[4096], value[65536];
	size_t len = 0, value_len;
	int err = fs_listxattr(fs, ino, names, sizeof(names), &len);

	for (size_t at = 0; err == 0 && at < len; at += strlen(names + at) + 1) {
		err = fs_getxattr(fs, ino, names + at, value, sizeof(value), &value_len);
		if (err == 0)
			text_add(out, " %s=%zu:%016llx", names + at, value_len,
			         (unsigned long long)tree_hash(0, value, value_len));
	}
	return err;
}

static int add_inode(struct fs *fs, uint64_t ino, const char *path, struct text *out, bool *is_dir)
{
	struct stat st;
	int err = fs_getattr(fs, ino, &st);

	if (err != 0)
		return err;
	*is_dir = S_ISDIR(st.st_mode);
	text_add(out, "%s %o %u %u/%u", *path != '\0' ? path : "/", st.st_mode, (unsigned)st.st_nlink, st.st_uid, st.st_gid);
	if (S_ISREG(st.st_mode))
		err = add_content(fs, ino, &st, out);
	else if (S_ISLNK(st.st_mode))
		err = add_target(fs, ino, out);
	if (err == 0)
		err = add_xattrs(fs, ino, out);
	text_add(out, "\n");
	return err;
}

static int add_tree(struct fs *fs, uint64_t ino, const char *path, struct text *out)
{
	struct listing *list;
	bool is_dir = false;
	char child[1024];
	int err = add_inode(fs, ino, path, out, &is_dir);

	if (err != 0 || !is_dir)
		return err;
	list = calloc(1, sizeof(*list));
	VERIFY(list != NULL);
	err = fs_readdir(fs, ino, 0, false, list_one, list);
	qsort(list->name, list->n, sizeof(list->name[0]), by_name);
	for (unsigned i = 0; err == 0 && i < list->n; i++) {
		struct fs_entry e;

		snprintf(child, sizeof(child), "%.700s/%s", path, list->name[i]);
		if (strcmp(child, TREE_PROBE) == 0)
			continue;
		err = fs_lookup(fs, ino, list->name[i], &e);
		if (err == 0) {
			err = add_tree(fs, e.ino, child, out);
			fs_forget(fs, e.ino, 1);
		}
	}
	free(list);
	return err;
}

int tree_text(struct fs *fs, struct text *out)
{
	out->len = 0;
	return add_tree(fs, 1, "", out);
}

static bool line_is_of(const char *line, const char *path)
{
	size_t len = path != NULL ? strlen(path) : 0;

	return len > 0 && strncmp(line, path, len) == 0 && line[len] == ' ';
}

// Past the lines that do not count.
static const char *skip_lines(const char *at, const char *but, const char *but_too)
{
	while (line_is_of(at, but) || line_is_of(at, but_too))
		at += strcspn(at, "\n") + 1;
	return at;
}

bool tree_alike(const char *a, const char *b, const char *but, const char *but_too)
{
	for (;;) {
		size_t len;

		a = skip_lines(a, but, but_too);
		b = skip_lines(b, but, but_too);
		len = strcspn(a, "\n");
		if (*a == '\0' || *b == '\0')
			return *a == *b;
		if (len != strcspn(b, "\n") || memcmp(a, b, len) != 0)
			return false;
		a += len + 1;
		b += len + 1;
	}
}
