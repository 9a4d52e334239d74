// SPDX-License-Identifier: MIT
// The naive filesystem. See model.h.
#include "model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "listing.h"
#include "util/attr.h"

static void *must(void *memory)
{
	VERIFY(memory != NULL);
	return memory;
}

static void *copy_bytes(const void *from, size_t len) { return len == 0 ? NULL : memcpy(must(malloc(len)), from, len); }

static unsigned new_node(struct model *m)
{
	for (unsigned i = 0; i < m->n; i++)
		if (!m->nodes[i].used)
			return i;
	m->nodes = must(reallocarray(m->nodes, m->n + 1, sizeof(*m->nodes)));
	return m->n++;
}

void model_init(struct model *m, uint64_t root_ino)
{
	*m = (struct model){ 0 };
	m->nodes = must(calloc(1, sizeof(*m->nodes)));
	m->n = 1;
	m->nodes[0] = (struct model_node){ .used = true, .ino = root_ino, .mode = S_IFDIR | 0755, .nlink = 2 };
}

static void free_node(struct model_node *node)
{
	for (unsigned i = 0; i < node->n_xattrs; i++)
		free(node->xattrs[i].value);
	free(node->entries);
	free(node->data);
	*node = (struct model_node){ 0 };
}

void model_free(struct model *m)
{
	for (unsigned i = 0; i < m->n; i++)
		free_node(&m->nodes[i]);
	free(m->nodes);
	*m = (struct model){ 0 };
}

void model_copy(struct model *to, const struct model *from)
{
	to->n = from->n;
	to->nodes = must(copy_bytes(from->nodes, from->n * sizeof(*from->nodes)));
	for (unsigned i = 0; i < to->n; i++) {
		struct model_node *node = &to->nodes[i];

		node->data = copy_bytes(node->data, node->size);
		node->cap = node->size;
		node->entries = copy_bytes(node->entries, node->n_entries * sizeof(*node->entries));
		for (unsigned x = 0; x < node->n_xattrs; x++)
			node->xattrs[x].value = copy_bytes(node->xattrs[x].value, node->xattrs[x].len);
	}
}

// ---- names ----

// Where a name is or would be.
static unsigned place_of(const struct model_node *dir, const char *name, bool *found)
{
	unsigned i = 0;

	while (i < dir->n_entries && strcmp(dir->entries[i].name, name) < 0)
		i++;
	*found = i < dir->n_entries && strcmp(dir->entries[i].name, name) == 0;
	return i;
}

int model_lookup(const struct model *m, unsigned dir, const char *name)
{
	bool found;
	unsigned i = place_of(&m->nodes[dir], name, &found);

	return found ? (int)m->nodes[dir].entries[i].node : -ENOENT;
}

int model_parent(const struct model *m, const char *path, const char **name)
{
	const char *slash;
	int dir = 0;

	for (path++; (slash = strchr(path, '/')) != NULL; path = slash + 1) {
		char part[MODEL_NAME_CAP];

		snprintf(part, sizeof(part), "%.*s", (int)(slash - path), path);
		dir = model_lookup(m, (unsigned)dir, part);
		if (dir < 0 || !S_ISDIR(m->nodes[dir].mode))
			return -ENOENT;
	}
	*name = path;
	return dir;
}

int model_find(const struct model *m, const char *path)
{
	const char *name;
	int dir = model_parent(m, path, &name);

	return dir < 0 || *name == '\0' ? dir : model_lookup(m, (unsigned)dir, name);
}

static void insert_name(struct model *m, unsigned dir, const char *name, unsigned node)
{
	struct model_node *d = &m->nodes[dir];
	bool found;
	unsigned i = place_of(d, name, &found);

	VERIFY(!found);
	d->entries = must(reallocarray(d->entries, d->n_entries + 1, sizeof(*d->entries)));
	memmove(&d->entries[i + 1], &d->entries[i], (d->n_entries - i) * sizeof(*d->entries));
	snprintf(d->entries[i].name, sizeof(d->entries[i].name), "%s", name);
	d->entries[i].node = node;
	d->n_entries++;
	if (S_ISDIR(m->nodes[node].mode))
		d->nlink++;
}

static unsigned remove_name(struct model *m, unsigned dir, const char *name)
{
	struct model_node *d = &m->nodes[dir];
	bool found;
	unsigned i = place_of(d, name, &found), node;

	VERIFY(found);
	node = d->entries[i].node;
	memmove(&d->entries[i], &d->entries[i + 1], (d->n_entries - i - 1) * sizeof(*d->entries));
	d->n_entries--;
	if (S_ISDIR(m->nodes[node].mode))
		d->nlink--;
	return node;
}

unsigned model_add(struct model *m, unsigned dir, const char *name, mode_t mode, uint64_t ino)
{
	unsigned node = new_node(m);

	m->nodes[node] = (struct model_node){ .used = true, .ino = ino, .refs = 1, .mode = mode, .nlink = S_ISDIR(mode) ? 2 : 1 };
	insert_name(m, dir, name, node);
	return node;
}

void model_link(struct model *m, unsigned node, unsigned dir, const char *name)
{
	insert_name(m, dir, name, node);
	m->nodes[node].nlink++;
}

// Of a node whose name is gone.
static bool drop_link(struct model *m, unsigned node)
{
	return S_ISDIR(m->nodes[node].mode) || --m->nodes[node].nlink == 0;
}

bool model_unlink(struct model *m, unsigned dir, const char *name) { return drop_link(m, remove_name(m, dir, name)); }

void model_drop(struct model *m, unsigned node) { free_node(&m->nodes[node]); }

bool model_is_below(const struct model *m, unsigned node, unsigned dir)
{
	if (node == dir)
		return true;
	for (unsigned i = 0; i < m->nodes[dir].n_entries; i++)
		if (model_is_below(m, node, m->nodes[dir].entries[i].node))
			return true;
	return false;
}

int model_may_unlink(const struct model *m, unsigned dir, const char *name, bool rmdir)
{
	int node = model_lookup(m, dir, name);

	if (node < 0)
		return node;
	if (!rmdir)
		return S_ISDIR(m->nodes[node].mode) ? -EISDIR : 0;
	if (!S_ISDIR(m->nodes[node].mode))
		return -ENOTDIR;
	return m->nodes[node].n_entries > 0 ? -ENOTEMPTY : 0;
}

// Something is in the way of a rename.
static int may_replace(const struct model *m, unsigned node, unsigned old)
{
	bool is_dir = S_ISDIR(m->nodes[node].mode), old_is_dir = S_ISDIR(m->nodes[old].mode);

	if (is_dir != old_is_dir)
		return is_dir ? -ENOTDIR : -EISDIR;
	return is_dir && m->nodes[old].n_entries > 0 ? -ENOTEMPTY : 0;
}

int model_may_rename(const struct model *m, unsigned dir, const char *name, unsigned to, const char *to_name, unsigned flags)
{
	int node = model_lookup(m, dir, name), old = model_lookup(m, to, to_name);

	if (node < 0)
		return node;
	if (flags == RENAME_EXCHANGE && old < 0)
		return old;
	if (flags == RENAME_NOREPLACE && old >= 0)
		return -EEXIST;
	if (model_is_below(m, to, (unsigned)node) || (flags == RENAME_EXCHANGE && model_is_below(m, dir, (unsigned)old)))
		return -EINVAL;
	return (flags == 0 || flags == RENAME_WHITEOUT) && old >= 0 && old != node ? may_replace(m, (unsigned)node, (unsigned)old) : 0;
}

int model_rename(struct model *m, unsigned dir, const char *name, unsigned to, const char *to_name, unsigned flags)
{
	int old = model_lookup(m, to, to_name), gone = -1;
	unsigned node;

	if (old >= 0)
		(void)remove_name(m, to, to_name);
	node = remove_name(m, dir, name);
	insert_name(m, to, to_name, node);
	if (flags == RENAME_EXCHANGE)
		insert_name(m, dir, name, (unsigned)old);
	else if (old >= 0 && drop_link(m, (unsigned)old))
		gone = old;
	return gone;
}

// ---- contents ----

void model_resize(struct model *m, unsigned node, uint64_t size)
{
	struct model_node *n = &m->nodes[node];

	VERIFY(size <= MODEL_FILE_MAX);
	if (size > n->cap) {
		n->data = must(realloc(n->data, size));
		n->cap = size;
	}
	if (size > n->size)
		memset(n->data + n->size, 0, size - n->size);
	n->size = size;
	n->hashed = false;
}

void model_write(struct model *m, unsigned node, const void *data, uint64_t len, uint64_t off)
{
	if (len == 0)
		return;
	if (off + len > m->nodes[node].size)
		model_resize(m, node, off + len);
	memcpy(m->nodes[node].data + off, data, len);
	m->nodes[node].hashed = false;
}

void model_zero(struct model *m, unsigned node, uint64_t off, uint64_t end)
{
	struct model_node *n = &m->nodes[node];

	if (end > n->size)
		end = n->size;
	if (off < end)
		memset(n->data + off, 0, end - off);
	n->hashed = false;
}

static unsigned xattr_place(const struct model_node *n, const char *name, bool *found)
{
	unsigned i = 0;

	while (i < n->n_xattrs && strcmp(n->xattrs[i].name, name) < 0)
		i++;
	*found = i < n->n_xattrs && strcmp(n->xattrs[i].name, name) == 0;
	return i;
}

bool model_has_room_for_xattr(const struct model *m, unsigned node, const char *name)
{
	bool found;

	(void)xattr_place(&m->nodes[node], name, &found);
	return found || m->nodes[node].n_xattrs < MODEL_XATTRS;
}

int model_remove_xattr(struct model *m, unsigned node, const char *name)
{
	struct model_node *n = &m->nodes[node];
	bool found;
	unsigned i = xattr_place(n, name, &found);

	if (!found)
		return -ENODATA;
	free(n->xattrs[i].value);
	memmove(&n->xattrs[i], &n->xattrs[i + 1], (n->n_xattrs - i - 1) * sizeof(n->xattrs[0]));
	n->n_xattrs--;
	return 0;
}

void model_set_xattr(struct model *m, unsigned node, const char *name, const void *value, size_t len)
{
	struct model_node *n = &m->nodes[node];
	bool found;
	unsigned i;

	(void)model_remove_xattr(m, node, name);
	i = xattr_place(n, name, &found);
	VERIFY(n->n_xattrs < MODEL_XATTRS);
	memmove(&n->xattrs[i + 1], &n->xattrs[i], (n->n_xattrs - i) * sizeof(n->xattrs[0]));
	snprintf(n->xattrs[i].name, sizeof(n->xattrs[i].name), "%s", name);
	n->xattrs[i].value = copy_bytes(value, len);
	n->xattrs[i].len = len;
	n->n_xattrs++;
}

// ---- the text ----

static uint64_t data_hash(struct model_node *n)
{
	if (!n->hashed)
		n->hash = XXH3_64bits(n->data != NULL ? (const void *)n->data : "", n->size);
	n->hashed = true;
	return n->hash;
}

static void add_node(struct model *m, unsigned node, const char *path, struct listing *l)
{
	struct model_node *n = &m->nodes[node];
	struct stat st = { .st_ino = n->ino, .st_mode = n->mode, .st_nlink = n->nlink, .st_uid = n->uid, .st_gid = n->gid,
		           .st_rdev = n->rdev, .st_size = (off_t)n->size,
		           .st_mtim = { n->mtime_ns / 1000000000, n->mtime_ns % 1000000000 },
		           .st_ctim = { n->ctime_ns / 1000000000, n->ctime_ns % 1000000000 } };
	uint64_t xattrs = 0;

	for (unsigned i = 0; i < n->n_xattrs; i++)
		xattrs = listing_hash_xattr(xattrs, n->xattrs[i].name, n->xattrs[i].value, n->xattrs[i].len);
	listing_add(l, path, &st, data_hash(n), xattrs);
	for (unsigned i = 0; i < n->n_entries; i++) {
		char below[256];

		snprintf(below, sizeof(below), "%s%s%s", path, path[1] != '\0' ? "/" : "", n->entries[i].name);
		add_node(m, n->entries[i].node, below, l);
	}
}

char *model_text(struct model *m)
{
	struct listing l = { 0 };

	add_node(m, 0, "/", &l);
	return l.text;
}
