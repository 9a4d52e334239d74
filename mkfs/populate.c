// SPDX-License-Identifier: MIT
// Walking the source tree: depth first, one open descriptor per level, each object reached from its parent's descriptor,
// so that the depth is not limited by the length of a path and a renamed directory cannot lead astray.
#include "mkfs/populate.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "meta/rows.h"
#include "util/log.h"
#include "util/size.h"

// An inode of the source with several names, and what it became. Holds one reference on the new inode.
struct link_seen {
	dev_t dev;
	ino_t ino;
	uint64_t new_ino;
};

// ---- the path, for messages ----

// *old_len is what path_pop() needs.
static int path_push(struct populate *p, const char *name, size_t *old_len)
{
	size_t need = p->path_len + strlen(name) + 2;
	char *bigger;

	*old_len = p->path_len;
	if (need > p->path_cap) {
		bigger = realloc(p->path, 2 * need);
		if (bigger == NULL)
			return populate_error(p, name, -ENOMEM);
		p->path = bigger;
		p->path_cap = 2 * need;
	}
	p->path_len += (size_t)sprintf(p->path + p->path_len, "/%s", name);
	return 0;
}

static void path_pop(struct populate *p, size_t old_len)
{
	p->path_len = old_len;
	p->path[old_len] = '\0';
}

// ---- hard links ----

static int compare_links(const void *a, const void *b)
{
	const struct link_seen *x = a, *y = b;

	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	return (x->ino > y->ino) - (x->ino < y->ino);
}

// The new inode's number if another name of it was copied before, else 0.
static uint64_t seen_link(struct populate *p, const struct stat *st)
{
	struct link_seen key = { st->st_dev, st->st_ino, 0 };
	struct link_seen **found;

	if (S_ISDIR(st->st_mode) || st->st_nlink < 2)
		return 0;
	found = tfind(&key, &p->links, compare_links);
	return found == NULL ? 0 : (*found)->new_ino;
}

// Takes over the caller's reference on new_ino.
static int keep_inode(struct populate *p, const struct stat *st, uint64_t new_ino)
{
	struct link_seen *seen;

	if (S_ISDIR(st->st_mode) || st->st_nlink < 2) {
		fs_forget(p->fs, new_ino, 1);
		return 0;
	}
	seen = malloc(sizeof(*seen));
	if (seen == NULL)
		goto no_memory;
	*seen = (struct link_seen){ st->st_dev, st->st_ino, new_ino };
	if (tsearch(seen, &p->links, compare_links) == NULL)
		goto no_memory;
	return 0;
no_memory:
	free(seen);
	fs_forget(p->fs, new_ino, 1);
	return populate_error(p, "hard link", -ENOMEM);
}

static void forget_links(struct populate *p)
{
	while (p->links != NULL) {
		struct link_seen *seen = *(struct link_seen **)p->links;

		fs_forget(p->fs, seen->new_ino, 1);
		tdelete(seen, &p->links, compare_links);
		free(seen);
	}
}

// ---- objects ----

static int copy_directory(struct populate *p, int fd, uint64_t ino);

static int make_symlink(struct populate *p, int dirfd, const char *name, uint64_t parent, const struct fs_cred *cred,
                        struct fs_entry *out)
{
	char target[SYMLINK_MAX_BYTES + 1];
	ssize_t len = readlinkat(dirfd, name, target, sizeof(target));

	if (len < 0)
		return -errno;
	if ((size_t)len == sizeof(target))
		return -ENAMETOOLONG;
	target[len] = '\0';
	return fs_symlink(p->fs, parent, name, target, cred, out);
}

// FUSE's and the volume's encoding of a device number has 32 bits, with 12 for the major and 20 for the minor number.
static bool rdev_fits(dev_t rdev) { return major(rdev) < (1u << 12) && minor(rdev) < (1u << 20); }

static int make_inode(struct populate *p, int dirfd, const char *name, const struct stat *st, uint64_t parent,
                      struct fs_entry *out)
{
	struct fs_cred cred = { .uid = st->st_uid, .gid = st->st_gid };

	if (S_ISDIR(st->st_mode))
		return fs_mkdir(p->fs, parent, name, st->st_mode & 07777, &cred, out);
	if (S_ISLNK(st->st_mode))
		return make_symlink(p, dirfd, name, parent, &cred, out);
	if ((S_ISBLK(st->st_mode) || S_ISCHR(st->st_mode)) && !rdev_fits(st->st_rdev))
		return -EOVERFLOW;
	return fs_mknod(p->fs, parent, name, st->st_mode, st->st_rdev, &cred, out);
}

// The content of a directory or a regular file. `st` becomes that of what was opened.
static int copy_content(struct populate *p, int dirfd, const char *name, struct stat *st, uint64_t ino)
{
	bool is_dir = S_ISDIR(st->st_mode);
	int fd, rc = 0;

	if (!is_dir && !S_ISREG(st->st_mode))
		return 0;
	fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | (is_dir ? O_DIRECTORY : 0));
	if (fd < 0)
		return populate_error(p, "open", -errno);
	if (fstat(fd, st) != 0)
		rc = populate_error(p, "stat", -errno);
	else if (!is_dir && !S_ISREG(st->st_mode))
		rc = populate_error(p, "it was replaced while being copied", -EAGAIN);
	else if (is_dir)
		rc = copy_directory(p, fd, ino); // closes fd
	else
		rc = populate_data(p, fd, ino, (uint64_t)st->st_size);
	if (!is_dir)
		close(fd);
	return rc;
}

static int copy_new(struct populate *p, int dirfd, const char *name, struct stat *st, uint64_t parent)
{
	struct fs_entry entry;
	int rc = make_inode(p, dirfd, name, st, parent, &entry);

	if (rc != 0)
		return populate_error(p, "create", rc);
	rc = copy_content(p, dirfd, name, st, entry.ino);
	if (rc == 0)
		rc = populate_attributes(p, dirfd, name, st, entry.ino);
	if (rc != 0) {
		fs_forget(p->fs, entry.ino, 1);
		return rc;
	}
	return keep_inode(p, st, entry.ino);
}

static int copy_link(struct populate *p, const char *name, uint64_t ino, uint64_t parent)
{
	struct fs_entry entry;
	int rc = fs_link(p->fs, ino, parent, name, &entry);

	if (rc != 0)
		return populate_error(p, "hard link", rc);
	fs_forget(p->fs, entry.ino, 1);
	return 0;
}

static int copy_object(struct populate *p, int dirfd, const char *name, uint64_t parent)
{
	struct stat st;
	uint64_t ino;

	if (*p->cfg->stop)
		return populate_error(p, "copy", -EINTR);
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
		return populate_error(p, "stat", -errno);
	if (S_ISREG(st.st_mode) && st.st_dev == p->target_dev && st.st_ino == p->target_ino) {
		msg_warn("%s: left out: it is the image itself", p->path);
		return 0;
	}
	p->n_objects++;
	ino = seen_link(p, &st);
	return ino != 0 ? copy_link(p, name, ino, parent) : copy_new(p, dirfd, name, &st, parent);
}

static bool is_dot(const char *name) { return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0')); }

static int copy_directory(struct populate *p, int fd, uint64_t ino)
{
	DIR *dir = fdopendir(fd);
	struct dirent *entry;
	size_t mark;
	int rc = 0;

	if (dir == NULL) {
		rc = populate_error(p, "open", -errno);
		close(fd);
		return rc;
	}
	while (rc == 0 && (errno = 0, entry = readdir(dir)) != NULL) {
		if (is_dot(entry->d_name))
			continue;
		rc = path_push(p, entry->d_name, &mark);
		if (rc == 0)
			rc = copy_object(p, dirfd(dir), entry->d_name, ino);
		if (rc == 0) // on an error the path is part of the message
			path_pop(p, mark);
	}
	if (rc == 0 && errno != 0)
		rc = populate_error(p, "read", -errno);
	closedir(dir);
	return rc;
}

// ---- the whole ----

static void raise_fd_limit(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		lim.rlim_cur = lim.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &lim);
	}
}

static int copy_root(struct populate *p)
{
	struct stat st;
	int top = open(p->cfg->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd, rc;

	if (top < 0)
		return populate_error(p, "open", -errno);
	fd = dup(top); // the walk closes its descriptor, the attributes come after it
	if (fd < 0 || fstat(top, &st) != 0) {
		rc = populate_error(p, "open", -errno);
		if (fd >= 0)
			close(fd);
	} else {
		rc = copy_directory(p, fd, ROOT_INO);
	}
	if (rc == 0)
		rc = populate_attributes(p, top, ".", &st, ROOT_INO);
	close(top);
	return rc;
}

static int prepare(struct populate *p)
{
	struct stat st;

	p->buf = malloc(POPULATE_BUF_BYTES);
	p->path = strdup(p->cfg->dir);
	if (p->buf == NULL || p->path == NULL) {
		errmsg_set(p->why, "%s: %s", p->cfg->dir, strerror(ENOMEM));
		return -ENOMEM;
	}
	p->path_len = strlen(p->path);
	p->path_cap = p->path_len + 1;
	if (stat(p->cfg->device, &st) == 0) {
		p->target_dev = st.st_dev;
		p->target_ino = st.st_ino;
	}
	raise_fd_limit();
	return 0;
}

static int copy_all(struct populate *p, struct volume *vol)
{
	static const struct fs_opts opts = { .atime = FS_NOATIME };
	int rc = fs_create_context(vol, &opts, &p->fs);

	if (rc != 0)
		return populate_error(p, "start", rc);
	rc = copy_root(p);
	forget_links(p);
	if (rc == 0) {
		rc = fs_sync(p->fs);
		if (rc != 0)
			errmsg_set(p->why, "%s: the volume cannot be written: %s", p->cfg->device, strerror(-rc));
	}
	fs_destroy_context(p->fs);
	return rc;
}

int populate(const struct mkfs_config *cfg, struct volume *vol, struct errmsg *why)
{
	struct populate p = { .cfg = cfg, .why = why };
	char size[SIZE_TEXT_LEN];
	int rc = prepare(&p);

	if (rc == 0)
		rc = copy_all(&p, vol);
	if (rc == 0 && cfg->verbose)
		msg_info("%llu objects with %s of data copied from %s", (unsigned long long)p.n_objects,
		         size_format(p.data_bytes, size), cfg->dir);
	free(p.path);
	free(p.buf);
	return rc;
}
