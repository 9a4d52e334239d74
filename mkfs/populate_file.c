// SPDX-License-Identifier: MIT
// One inode of the source: its data, its extended attributes, its owner, mode and times.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "mkfs/populate.h"
#include "util/blk.h"
#include "util/log.h"

#define XATTR_LIST_BYTES 65536u // Linux's limits of the list and of one value
#define XATTR_VALUE_BYTES 65536u

int populate_error(struct populate *p, const char *what, int rc)
{
	if (rc == -ENOSPC)
		errmsg_set(p->why, "%s: the volume is full: make it larger", p->path);
	else if (rc == -EINTR)
		errmsg_set(p->why, "interrupted");
	else
		errmsg_set(p->why, "%s: %s: %s", p->path, what, strerror(-rc));
	return rc;
}

// ---- data ----

static int copy_range(struct populate *p, int fd, uint64_t ino, uint64_t off, uint64_t end)
{
	while (off < end) {
		size_t want = min_u64(end - off, POPULATE_BUF_BYTES), done = 0;
		ssize_t got = pread(fd, p->buf, want, (off_t)off);
		int rc;

		if (got < 0)
			return populate_error(p, "read", -errno);
		if (got == 0)
			return 0; // it has become shorter meanwhile: the rest is a hole
		rc = fs_write(p->fs, ino, p->buf, (size_t)got, off, 0, &done);
		if (rc == 0 && done == 0)
			rc = -ENOSPC;
		if (rc == 0 && *p->cfg->stop)
			rc = -EINTR;
		if (rc != 0)
			return populate_error(p, "write", rc);
		off += done;
		p->data_bytes += done;
	}
	return 0;
}

// The next stretch of data at or after off; false when only a hole is left. A filesystem without SEEK_DATA: all is data.
static bool next_data(int fd, uint64_t off, uint64_t size, uint64_t *start, uint64_t *end)
{
	off_t data = lseek(fd, (off_t)off, SEEK_DATA), hole;

	if (data < 0 && errno == ENXIO)
		return false;
	*start = data < 0 ? off : (uint64_t)data;
	hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
	*end = hole < 0 ? size : min_u64((uint64_t)hole, size);
	return *start < size && *start < *end;
}

int populate_data(struct populate *p, int fd, uint64_t ino, uint64_t size_bytes)
{
	struct fs_setattr attr = { .set = FS_SET_SIZE, .size_bytes = size_bytes };
	uint64_t off = 0, start, end;
	struct stat st;
	int rc = 0;

	while (rc == 0 && off < size_bytes && next_data(fd, off, size_bytes, &start, &end)) {
		rc = copy_range(p, fd, ino, start, end);
		off = end;
	}
	if (rc != 0 || size_bytes == 0)
		return rc;
	rc = fs_setattr(p->fs, ino, &attr, &st); // a hole at the end
	return rc == 0 ? 0 : populate_error(p, "set size", rc);
}

// ---- extended attributes ----

static int copy_xattr(struct populate *p, const char *source, const char *name, uint64_t ino, uint8_t *value)
{
	ssize_t len = lgetxattr(source, name, value, XATTR_VALUE_BYTES);
	int rc;

	if (len < 0)
		return errno == ENODATA ? 0 : populate_error(p, name, -errno);
	rc = fs_setxattr(p->fs, ino, name, value, (size_t)len, 0);
	return rc == 0 ? 0 : populate_error(p, name, rc);
}

static int copy_xattrs(struct populate *p, int dirfd, const char *file, uint64_t ino)
{
	char *source = NULL, *list = malloc(XATTR_LIST_BYTES);
	uint8_t *value = malloc(XATTR_VALUE_BYTES);
	ssize_t len = 0;
	int rc = 0;

	// There is no llistxattrat(2); this form has no limit on the length of the whole path either.
	if (list == NULL || value == NULL || asprintf(&source, "/proc/self/fd/%d/%s", dirfd, file) < 0) {
		source = NULL;
		rc = populate_error(p, "extended attributes", -ENOMEM);
		goto out;
	}
	len = llistxattr(source, list, XATTR_LIST_BYTES);
	if (len < 0 && errno != ENOTSUP)
		rc = populate_error(p, "extended attributes", -errno);
	for (const char *name = list; rc == 0 && len > 0 && name < list + len; name += strlen(name) + 1)
		rc = copy_xattr(p, source, name, ino, value);
out:
	free(value);
	free(list);
	free(source);
	return rc;
}

// ---- owner, mode, times ----

int populate_attributes(struct populate *p, int dirfd, const char *name, const struct stat *st, uint64_t ino)
{
	struct fs_setattr owner = { .set = FS_SET_UID | FS_SET_GID | (S_ISLNK(st->st_mode) ? 0 : FS_SET_MODE),
		                    .uid = st->st_uid, .gid = st->st_gid, .mode = st->st_mode & 07777 };
	struct fs_setattr times = { .set = FS_SET_ATIME | FS_SET_MTIME, .atime = st->st_atim, .mtime = st->st_mtim };
	struct stat got;
	int rc = copy_xattrs(p, dirfd, name, ino);

	if (rc != 0)
		return rc;
	rc = fs_setattr(p->fs, ino, &owner, &got);
	if (rc == 0)
		rc = fs_setattr(p->fs, ino, &times, &got);
	return rc == 0 ? 0 : populate_error(p, "set attributes", rc);
}
