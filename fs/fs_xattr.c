// SPDX-License-Identifier: MIT
// Extended attributes. Who may use which is the kernel's business; what exists is ours: the namespaces user, trusted and security.
// POSIX ACLs (system.posix_acl_*) would have to be enforced, not only stored, so they are refused.
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/fs_internal.h"

static bool has_prefix(const char *name, const char *prefix) { return strncmp(name, prefix, strlen(prefix)) == 0; }

static int check_xattr_name(const char *name)
{
	static const char *const namespaces[] = { "user.", "trusted.", "security." };

	if (strlen(name) > XATTR_NAME_MAX_BYTES)
		return -ERANGE; // as Linux
	for (unsigned i = 0; i < ARRAY_LEN(namespaces); i++)
		if (has_prefix(name, namespaces[i]))
			return name[strlen(namespaces[i])] == '\0' ? -EINVAL : 0;
	return -EOPNOTSUPP;
}

// user.* belongs to what users own for its content: files and directories.
static bool type_may_have(const struct inode_row *row, const char *name)
{
	return !has_prefix(name, "user.") || S_ISREG(row->mode) || S_ISDIR(row->mode);
}

int fs_getxattr(struct fs *fs, uint64_t ino, const char *name, void *buf, size_t cap, size_t *len)
{
	int r;

	r = check_xattr_name(name);
	if (r != 0)
		return r;
	store_lock(fs->st);
	r = xattr_get(fs->st, ino, name, buf, cap, len);
	store_unlock(fs->st);
	return r;
}

int fs_listxattr(struct fs *fs, uint64_t ino, char *buf, size_t cap, size_t *len)
{
	int r;

	store_lock(fs->st);
	r = xattr_list(fs->st, ino, buf, cap, len);
	store_unlock(fs->st);
	return r;
}

// Stores (value != NULL) or removes. The attribute comes first: it may be refused, the row may not.
static int change_xattr(struct fs *fs, uint64_t ino, const char *name, const void *value, size_t len, int flags)
{
	struct inode_row row;
	struct inode *in;
	uint64_t txn;
	int r;

	in = inode_pin(fs, ino);
	if (in == NULL)
		return -ENOMEM;
	r = fs_begin(fs, value != NULL ? TXN_GROW : TXN_FREE, &txn);
	if (r != 0)
		goto out;
	r = inode_get(fs->st, ino, &row);
	if (r == 0 && !type_may_have(&row, name))
		r = -EPERM;
	if (r == 0)
		r = value != NULL ? xattr_set(fs->st, ino, name, value, len, flags) : xattr_remove(fs->st, ino, name);
	if (r == 0) {
		in->no_caps = false; // it may have some now
		row.ctime_ns = fs_now_ns();
		r = inode_update(fs->st, &row);
		inode_touch(fs, ino, txn);
	}
	fs_end(fs);
out:
	inode_unpin(fs, in);
	return r;
}

int fs_setxattr(struct fs *fs, uint64_t ino, const char *name, const void *value, size_t len, int flags)
{
	int r;

	r = check_xattr_name(name);
	if (r != 0)
		return r;
	if (len > XATTR_VALUE_MAX_BYTES)
		return -E2BIG;
	return change_xattr(fs, ino, name, len > 0 ? value : "", len, flags);
}

int fs_removexattr(struct fs *fs, uint64_t ino, const char *name)
{
	int r;

	r = check_xattr_name(name);
	return r == 0 ? change_xattr(fs, ino, name, NULL, 0, 0) : r;
}
