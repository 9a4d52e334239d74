// SPDX-License-Identifier: MIT
// Extended attributes. Who may use which is the kernel's business; what exists is ours: the namespaces user, trusted and security, and of
// system the ACLs (fs_acl.c) and the time when an inode was made.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/fs_internal.h"

static bool has_prefix(const char *name, const char *prefix) { return strncmp(name, prefix, strlen(prefix)) == 0; }

static bool is_btime(const char *name) { return strcmp(name, FS_BTIME_NAME) == 0; }

static int check_xattr_name(const char *name)
{
	static const char *const namespaces[] = { "user.", "trusted.", "security." };

	if (strlen(name) > XATTR_NAME_MAX_BYTES)
		return -ERANGE; // as Linux
	if (fs_acl_is_name(name) || is_btime(name))
		return 0;
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

static int give(const void *value, size_t value_len, void *buf, size_t cap, size_t *len)
{
	*len = value_len;
	if (cap == 0)
		return 0;
	if (value_len > cap)
		return -ERANGE;
	memcpy(buf, value, value_len);
	return 0;
}

static int get_acl(struct fs *fs, const struct inode_row *row, const char *name, void *buf, size_t cap, size_t *len)
{
	uint8_t bytes[ACL_MAX_BYTES];
	struct acl acl;
	int r;

	r = fs_acl_load(fs, row, fs_acl_kind_of(name), &acl);
	if (r != 0)
		return r;
	return acl.n > 0 ? give(bytes, acl_encode(&acl, bytes), buf, cap, len) : -ENODATA;
}

static int get_btime(const struct inode_row *row, void *buf, size_t cap, size_t *len)
{
	struct timespec ts = fs_to_timespec(row->btime_ns);
	char text[48];
	int n = snprintf(text, sizeof(text), "%lld.%09ld", (long long)ts.tv_sec, ts.tv_nsec);

	return give(text, (size_t)n, buf, cap, len);
}

// What is made from the inode's row.
static int get_system(struct fs *fs, uint64_t ino, const char *name, void *buf, size_t cap, size_t *len)
{
	struct inode_row row;
	int r;

	r = inode_get(fs->st, ino, &row);
	if (r != 0)
		return r;
	return is_btime(name) ? get_btime(&row, buf, cap, len) : get_acl(fs, &row, name, buf, cap, len);
}

int fs_getxattr(struct fs *fs, uint64_t ino, const char *name, void *buf, size_t cap, size_t *len)
{
	int r;

	r = check_xattr_name(name);
	if (r != 0)
		return r;
	store_lock(fs->st);
	if (has_prefix(name, "system."))
		r = get_system(fs, ino, name, buf, cap, len);
	else
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

static int change_locked(struct fs *fs, struct inode_row *row, const char *name, const void *value, size_t len, int flags)
{
	if (is_btime(name) || !type_may_have(row, name))
		return -EPERM;
	if (fs_acl_is_name(name))
		return fs_acl_set(fs, row, name, value, len, (flags & FS_XATTR_KILL_SGID) != 0);
	if (value == NULL)
		return xattr_remove(fs->st, row->ino, name);
	return xattr_set(fs->st, row->ino, name, value, len, flags);
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
	if (r == 0)
		r = change_locked(fs, &row, name, value, len, flags);
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
