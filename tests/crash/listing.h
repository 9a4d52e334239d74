// SPDX-License-Identifier: MIT
// A tree as text: a line for each name, in the order of paths. The model and a mounted filesystem both write it.
//
// Everything that must survive a crash stands in the line: type and mode, owners, link count, size and a hash of the content (or the
// target of a symlink), device number, mtime and ctime, a hash of the extended attributes, and the inode's number, by which hard links are
// known. atime is not: reading may change it.
#ifndef HYBRIDFS_TESTS_CRASH_LISTING_H
#define HYBRIDFS_TESTS_CRASH_LISTING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "fs/fs.h"

struct listing {
	char *text;
	size_t len, cap;
};

void listing_add(struct listing *l, const char *path, const struct stat *st, uint64_t data_hash, uint64_t xattr_hash);

// Attributes hash as a chain over their names in sorted order.
uint64_t listing_hash_xattr(uint64_t before, const char *name, const void *value, size_t len);

// The whole tree of a mounted filesystem. 0 and the text, which the caller frees; a negative errno and the path at which it came.
int listing_of_fs(struct fs *fs, char **text, char *where, size_t where_cap);

#endif
