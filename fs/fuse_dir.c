// SPDX-License-Identifier: MIT
// FUSE operations on names and directories.
#include <errno.h>
#include <stdio.h> // RENAME_*
#include <stdlib.h>
#include <string.h>

#include "fs/fuse_ops.h"

#define SYMLINK_MAX_BYTES 4096

// An absent name is worth remembering too: most of what a build or a shell looks up does not exist.
void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct fuse_entry_param absent = { .ino = 0, .entry_timeout = FUSE_CACHE_S };
	struct fs_entry entry;
	int rc = fs_lookup(fs_of(req), parent, name, &entry);

	if (rc == -ENOENT && strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
		fuse_reply_entry(req, &absent);
	else
		reply_entry(req, rc, &entry);
}

void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	fs_forget(fs_of(req), ino, n);
	fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		fs_forget(fs_of(req), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char target[SYMLINK_MAX_BYTES + 1];
	size_t len;
	int rc = fs_readlink(fs_of(req), ino, target, SYMLINK_MAX_BYTES, &len);

	if (rc != 0) {
		reply_status(req, rc);
		return;
	}
	target[len] = '\0';
	fuse_reply_readlink(req, target);
}

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct fs_cred cred = cred_of(req);
	struct fs_entry entry;

	reply_entry(req, fs_mknod(fs_of(req), parent, name, mode, rdev, &cred, &entry), &entry);
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct fs_cred cred = cred_of(req);
	struct fs_entry entry;

	reply_entry(req, fs_mkdir(fs_of(req), parent, name, mode, &cred, &entry), &entry);
}

void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct fs_cred cred = cred_of(req);
	struct fs_entry entry;

	reply_entry(req, fs_symlink(fs_of(req), parent, name, target, &cred, &entry), &entry);
}

void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name)
{
	struct fs_entry entry;

	reply_entry(req, fs_link(fs_of(req), ino, new_parent, new_name, &entry), &entry);
}

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name) { reply_status(req, fs_unlink(fs_of(req), parent, name)); }
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name) { reply_status(req, fs_rmdir(fs_of(req), parent, name)); }

// The kernel keeps what it has read of a directory until a name in it changes. But ".." changes when the directory itself moves.
static void drop_listing(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs_entry entry;

	if (fs_lookup(fs_of(req), parent, name, &entry) != 0)
		return;
	if (S_ISDIR(entry.st.st_mode))
		fuse_lowlevel_notify_inval_inode(session_of(req)->se, entry.ino, 0, 0);
	fs_forget(fs_of(req), entry.ino, 1);
}

void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name, unsigned flags)
{
	struct fs_cred cred = cred_of(req);
	int rc;

	if ((flags & RENAME_WHITEOUT) != 0)
		rc = fs_rename_whiteout(fs_of(req), parent, name, new_parent, new_name, flags & ~(unsigned)RENAME_WHITEOUT, &cred);
	else
		rc = fs_rename(fs_of(req), parent, name, new_parent, new_name, flags);
	if (rc == 0 && parent != new_parent) { // before the reply: until then the kernel lets nobody else rename these
		drop_listing(req, new_parent, new_name);
		if ((flags & RENAME_EXCHANGE) != 0)
			drop_listing(req, parent, name);
	}
	reply_status(req, rc);
}

// With no_open, ENOSYS makes the kernel create by MKNOD and open by itself, which saves the RELEASE that would follow a CREATE. For a file
// without a name it has no other way.
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fs_cred cred = cred_of(req);
	struct fs *fs = fs_of(req);
	struct fuse_entry_param e;
	struct fs_entry entry;
	int rc;

	if ((fi->flags & TRANSPORT_FLAG_NAMELESS) != 0) {
		rc = fs_tmpfile(fs, parent, mode, &cred, &entry);
	} else if (session_of(req)->no_open) {
		reply_status(req, -ENOSYS);
		return;
	} else {
		rc = fs_mknod(fs, parent, name, S_IFREG | (mode & 07777), 0, &cred, &entry);
	}
	if (rc != 0) {
		reply_status(req, rc);
		return;
	}
	fi->keep_cache = 1;
	e = entry_param(&entry);
	if (fuse_reply_create(req, &e, fi) == -ENOENT)
		fs_forget(fs, entry.ino, 1);
}

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	if (session_of(req)->no_opendir) {
		reply_status(req, -ENOSYS);
		return;
	}
	fi->keep_cache = 1;
	fi->cache_readdir = 1;
	fuse_reply_open(req, fi);
}

void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	reply_status(req, 0);
}

// ---- reading a directory ----

struct listing {
	fuse_req_t req;
	char *buf;
	size_t size, used;
};

static bool emit_name(void *ctx, const char *name, const struct stat *st, uint64_t cookie)
{
	struct listing *l = ctx;
	size_t n = fuse_add_direntry(l->req, l->buf + l->used, l->size - l->used, name, st, (off_t)cookie);

	if (n > l->size - l->used)
		return false;
	l->used += n;
	return true;
}

// Without an inode number an entry is only a name to the kernel, and no reference is counted.
static bool emit_name_and_attr(void *ctx, const char *name, const struct stat *st, uint64_t cookie)
{
	struct listing *l = ctx;
	struct fuse_entry_param e = entry_param(&(struct fs_entry){ .ino = st->st_ino, .st = *st });
	size_t n;

	if (st->st_nlink == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		e.ino = 0;
	n = fuse_add_direntry_plus(l->req, l->buf + l->used, l->size - l->used, name, &e, (off_t)cookie);
	if (n > l->size - l->used)
		return false;
	l->used += n;
	return true;
}

// An error after the first entries is told by the next request, which finds it again: these have their references already.
static void read_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct listing l = { .req = req, .buf = malloc(size), .size = size };
	int rc = -ENOMEM;

	if (l.buf != NULL)
		rc = fs_readdir(fs_of(req), ino, (uint64_t)off, plus, plus ? emit_name_and_attr : emit_name, &l);
	if (rc != 0 && l.used == 0)
		reply_status(req, rc);
	else
		fuse_reply_buf(req, l.buf, l.used);
	free(l.buf);
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	read_directory(req, ino, size, off, false);
}

void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	read_directory(req, ino, size, off, true);
}
