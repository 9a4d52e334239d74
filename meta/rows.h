// SPDX-License-Identifier: MIT
// Typed access to the rows of inode, dirent, inline and xattr. The only place, with extmap.c and orphan.c, that knows their SQL.
//
// Lock: the store's lock is held by the caller of every function. Writing functions are called inside a transaction handle
// (txn_begin). Errors: negative errno; -ENOENT for a missing row; a failed write is fatal for the volume (store.h).
// A row read from the device is validated (type, ranges): -EUCLEAN if it cannot be.
#ifndef HYBRIDFS_META_ROWS_H
#define HYBRIDFS_META_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "meta/store.h"

#define ROOT_INO 1u
#define NAME_MAX_BYTES 255u
#define SYMLINK_MAX_BYTES 4095u
#define INLINE_MAX_BYTES 2048u    // larger files live in extents
#define FILE_MAX_BYTES (8ull << 40) // 8 TiB; block offsets of extents are below FILE_MAX_BYTES / 4096
#define LINK_MAX_N 65000u
#define XATTR_NAME_MAX_BYTES 255u
#define XATTR_VALUE_MAX_BYTES 65536u

enum inode_flags {
	INODE_INLINE = 1 << 0, // the data (file) or target (symlink) is in table inline; it has no extents
	INODE_NODATACOW = 1 << 1, // file: blocks have no checksums and are overwritten in place; directory: new files in it are such
	INODE_ACL_ACCESS = 1 << 2, // there is a row of xattr with it (meta/acl.h, A4)
	INODE_ACL_DEFAULT = 1 << 3, // of directories
};

struct inode_row {
	uint64_t ino;
	uint64_t parent;      // of a directory; 0 for everything else. The root's parent is the root
	uint32_t mode;        // type and permissions, as st_mode
	uint32_t nlink;       // 0 = orphan. Directories: 2 + subdirectories
	uint32_t uid, gid;
	uint32_t rdev;        // makedev encoding of FUSE (32 bits)
	uint32_t flags;
	uint64_t size_bytes;  // directories: number of entries
	uint64_t blocks_blk;  // 4 KiB blocks owned by extents
	int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
};

int inode_get(struct store *st, uint64_t ino, struct inode_row *row) ATTR_MUST_USE;
int inode_last(struct store *st, uint64_t *ino) ATTR_MUST_USE; // the highest number in the table
int inode_insert(struct store *st, const struct inode_row *row) ATTR_MUST_USE;
int inode_update(struct store *st, const struct inode_row *row) ATTR_MUST_USE; // all columns but ino and btime
int inode_delete(struct store *st, uint64_t ino) ATTR_MUST_USE;                // the row only

// Names. A directory's entries are ordered by cookie: a keyed 63-bit hash of the name, moved on by up to DIRENT_PROBES - 1 when
// another name has it. So a cookie never changes while the entry lives: readdir can go on after it.
#define DIRENT_PROBES 16
#define DIRENT_COOKIE_MIN 16u // smaller ones are free for "." and ".."

struct dirent_row {
	uint64_t cookie, ino;
	uint8_t type; // DT_*
	uint8_t name_len;
	char name[NAME_MAX_BYTES + 1]; // NUL-terminated for convenience; may not contain '/' or NUL
};

int dirent_find(struct store *st, uint64_t parent, const char *name, size_t len, struct dirent_row *row) ATTR_MUST_USE;
// -EEXIST if the name is there; -ENOSPC if all probes of its hash are taken.
int dirent_insert(struct store *st, uint64_t parent, const char *name, size_t len, uint64_t ino,
                  uint8_t type) ATTR_MUST_USE;
int dirent_delete(struct store *st, uint64_t parent, uint64_t cookie) ATTR_MUST_USE;
// Points an existing entry at another inode.
int dirent_repoint(struct store *st, uint64_t parent, uint64_t cookie, uint64_t ino, uint8_t type) ATTR_MUST_USE;
// Entries with a cookie greater than `after`, in order, until fn returns non-zero (that ends it and is returned when negative;
// positive ends it with 0). With want_inode the inode's row comes along (NULL otherwise).
typedef int (*dirent_fn)(void *ctx, const struct dirent_row *row, const struct inode_row *inode);
int dirent_scan(struct store *st, uint64_t parent, uint64_t after, bool want_inode, dirent_fn fn, void *ctx) ATTR_MUST_USE;
int dirent_is_empty(struct store *st, uint64_t parent, bool *empty) ATTR_MUST_USE;

// Inline data: 0 … INLINE_MAX_BYTES of a file, or a symlink's target.
int inline_get(struct store *st, uint64_t ino, void *buf, size_t cap, size_t *len) ATTR_MUST_USE; // -EUCLEAN if larger than cap
int inline_set(struct store *st, uint64_t ino, const void *buf, size_t len) ATTR_MUST_USE;        // insert or replace
int inline_delete(struct store *st, uint64_t ino) ATTR_MUST_USE;                                  // 0 also if there is none

// Extended attributes, full names with prefix ("user.x").
int xattr_get(struct store *st, uint64_t ino, const char *name, void *buf, size_t cap, size_t *len) ATTR_MUST_USE; // cap 0: length only; -ERANGE; -ENODATA
int xattr_set(struct store *st, uint64_t ino, const char *name, const void *value, size_t len, int flags) ATTR_MUST_USE; // XATTR_CREATE/REPLACE: -EEXIST/-ENODATA
int xattr_remove(struct store *st, uint64_t ino, const char *name) ATTR_MUST_USE; // -ENODATA
int xattr_list(struct store *st, uint64_t ino, char *buf, size_t cap, size_t *len) ATTR_MUST_USE; // as listxattr(2)
int xattr_delete_all(struct store *st, uint64_t ino) ATTR_MUST_USE;

#endif
