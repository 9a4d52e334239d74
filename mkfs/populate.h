// SPDX-License-Identifier: MIT
// Filling a new volume from a directory, through the same functions that serve a mount.
//
// What comes along: names, types, owners, modes, atime and mtime in nanoseconds, extended attributes, hard links, symbolic
// links, device nodes, sockets, FIFOs, and holes as holes. Directories on other filesystems are followed, as by cp -a.
// Not: ctime and btime, which are the new inode's own.
//
// Single-threaded. Errors: negative errno; `why` names the path.
#ifndef HYBRIDFS_MKFS_POPULATE_H
#define HYBRIDFS_MKFS_POPULATE_H

#include "fs/fs.h"
#include "mkfs/mkfs.h"

struct populate {
	const struct mkfs_config *cfg;
	struct fs *fs;
	struct errmsg *why;
	char *path;                // of the object at hand, for messages
	size_t path_len, path_cap;
	void *links;               // tree of struct link_seen: inodes with several names
	dev_t target_dev;          // the image itself, should it lie inside the directory
	ino_t target_ino;
	uint8_t *buf;              // POPULATE_BUF_BYTES
	uint64_t n_objects, data_bytes;
};

#define POPULATE_BUF_BYTES (1u << 20)

// Copies cfg->dir into the empty volume and makes it durable.
int populate(const struct mkfs_config *cfg, struct volume *vol, struct errmsg *why) ATTR_MUST_USE;

// ---- populate_file.c: what belongs to one inode ----

// Copies the data of an open file; the inode is empty.
int populate_data(struct populate *p, int fd, uint64_t ino, uint64_t size_bytes) ATTR_MUST_USE;

// Extended attributes of dirfd/name ("." for dirfd itself), then owner, mode and times, in an order in which none of them
// undoes another.
int populate_attributes(struct populate *p, int dirfd, const char *name, const struct stat *st, uint64_t ino) ATTR_MUST_USE;

// Sets p->why from the path, what failed and rc; returns rc.
int populate_error(struct populate *p, const char *what, int rc);

#endif
