// SPDX-License-Identifier: MIT
// The naive filesystem that crash states are held against: a tree of nodes in memory with their contents as arrays of bytes.
//
// It knows what POSIX says of a name, a link count, a size and a byte, and nothing of blocks or transactions. What it cannot know
// (inode numbers, times) is told to it by whoever drives it. Its whole state is one text, a line for each name in sorted
// order, with hashes for contents; a mounted volume gives the same text (listing.h), so comparing trees is comparing strings.
//
// Nodes are numbered; 0 is the root. Functions with a result answer 0 or the negative errno that the filesystem is expected to give.
// Memory: a test cannot go on without it. Single-threaded.
#ifndef HYBRIDFS_TESTS_CRASH_MODEL_H
#define HYBRIDFS_TESTS_CRASH_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MODEL_NAME_CAP 24u // with the NUL
#define MODEL_XATTRS 4u
#define MODEL_FILE_MAX (4u << 20)

struct model_xattr {
	char name[MODEL_NAME_CAP];
	uint8_t *value;
	size_t len;
};

struct model_entry {
	char name[MODEL_NAME_CAP];
	unsigned node;
};

struct model_node {
	bool used;
	uint64_t ino;
	uint64_t refs;        // that the driver holds in the filesystem
	uint64_t changed_txn; // the newest transaction that an fsync of it must make durable
	mode_t mode;
	uid_t uid;
	gid_t gid;
	dev_t rdev;
	unsigned nlink;
	int64_t mtime_ns, ctime_ns;
	uint8_t *data; // of a file; the target of a symlink
	uint64_t size, cap;
	uint64_t hash;
	bool hashed;
	struct model_xattr xattrs[MODEL_XATTRS]; // sorted by name
	unsigned n_xattrs;
	struct model_entry *entries;             // of a directory, sorted by name
	unsigned n_entries;
};

struct model {
	struct model_node *nodes;
	unsigned n; // nodes that were ever used
};

void model_init(struct model *m, uint64_t root_ino);
void model_copy(struct model *to, const struct model *from);
void model_free(struct model *m);

// ---- names ----
// The node at an absolute path; -ENOENT.
int model_find(const struct model *m, const char *path);
// The directory of a path's last component and this component's name; -ENOENT.
int model_parent(const struct model *m, const char *path, const char **name);
int model_lookup(const struct model *m, unsigned dir, const char *name); // -ENOENT

unsigned model_add(struct model *m, unsigned dir, const char *name, mode_t mode, uint64_t ino); // the name is free
void model_link(struct model *m, unsigned node, unsigned dir, const char *name);                // likewise
// Takes a name away. True: it was the last one, and the node is still there for model_drop().
bool model_unlink(struct model *m, unsigned dir, const char *name);
void model_drop(struct model *m, unsigned node);
bool model_is_below(const struct model *m, unsigned node, unsigned dir); // node is dir or lies in its tree

// What the filesystem answers; nothing is changed.
int model_may_unlink(const struct model *m, unsigned dir, const char *name, bool rmdir);
int model_may_rename(const struct model *m, unsigned dir, const char *name, unsigned to, const char *to_name, unsigned flags);
// After model_may_rename(), and not of two names of one node: the node that has lost its last name, or -1.
// With RENAME_WHITEOUT the caller adds what comes to the old name.
int model_rename(struct model *m, unsigned dir, const char *name, unsigned to, const char *to_name, unsigned flags);

// ---- contents ----
void model_resize(struct model *m, unsigned node, uint64_t size);
void model_write(struct model *m, unsigned node, const void *data, uint64_t len, uint64_t off); // grows the file if need be
void model_zero(struct model *m, unsigned node, uint64_t off, uint64_t end);                    // up to the size
void model_set_xattr(struct model *m, unsigned node, const char *name, const void *value, size_t len);
bool model_has_room_for_xattr(const struct model *m, unsigned node, const char *name);
int model_remove_xattr(struct model *m, unsigned node, const char *name);                       // -ENODATA

// The tree as one text; the caller frees it.
char *model_text(struct model *m);

#endif
