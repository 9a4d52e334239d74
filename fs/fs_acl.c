// SPDX-License-Identifier: MIT
// ACLs of inodes: setting them, what chmod does to them, what new inodes inherit. Checking permissions against them is the kernel's business,
// as it is with the mode.
//
// What the kernel leaves to a FUSE daemon (and what this file does): the mode follows an access ACL that is set; the access ACL follows a
// chmod; new inodes get the parent's default ACL, and only without one does the umask count.
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/fs_internal.h"
#include "util/log.h"

static const struct acl_kind {
	const char *name;
	uint32_t flag; // of inode_row
} kinds[] = {
	[FS_ACL_ACCESS] = { ACL_ACCESS_NAME, INODE_ACL_ACCESS },
	[FS_ACL_DEFAULT] = { ACL_DEFAULT_NAME, INODE_ACL_DEFAULT },
};

bool fs_acl_is_name(const char *name) { return strcmp(name, ACL_ACCESS_NAME) == 0 || strcmp(name, ACL_DEFAULT_NAME) == 0; }

enum fs_acl_kind fs_acl_kind_of(const char *name)
{
	return strcmp(name, ACL_ACCESS_NAME) == 0 ? FS_ACL_ACCESS : FS_ACL_DEFAULT;
}

int fs_acl_load(struct fs *fs, const struct inode_row *row, enum fs_acl_kind kind, struct acl *acl)
{
	uint8_t bytes[ACL_MAX_BYTES];
	size_t len = 0;
	int r;

	acl->n = 0;
	if ((row->flags & kinds[kind].flag) == 0)
		return 0;
	r = xattr_get(fs->st, row->ino, kinds[kind].name, bytes, sizeof(bytes), &len);
	if (r == 0 && acl_decode(acl, bytes, len) == 0 && acl->n > 0)
		return 0;
	if (r != 0 && r != -ENODATA && r != -ERANGE)
		return r;
	msg_error("inode %llu: its attribute %s is damaged; run fsck.hybridfs", (unsigned long long)row->ino, kinds[kind].name);
	return -EUCLEAN;
}

int fs_acl_store(struct fs *fs, const struct inode_row *row, enum fs_acl_kind kind, const struct acl *acl)
{
	uint8_t bytes[ACL_MAX_BYTES];

	return xattr_set(fs->st, row->ino, kinds[kind].name, bytes, acl_encode(acl, bytes), 0);
}

static int drop(struct fs *fs, struct inode_row *row, const struct acl_kind *kind)
{
	int r;

	if ((row->flags & kind->flag) == 0)
		return 0;
	row->flags &= ~kind->flag;
	r = xattr_remove(fs->st, row->ino, kind->name);
	return r == -ENODATA ? 0 : r;
}

int fs_acl_set(struct fs *fs, struct inode_row *row, const char *name, const void *value, size_t len, bool kill_sgid)
{
	enum fs_acl_kind kind = fs_acl_kind_of(name);
	struct acl acl = { .n = 0 };
	bool keep;

	if (S_ISLNK(row->mode))
		return -EOPNOTSUPP;
	if (value != NULL && acl_decode(&acl, value, len) != 0)
		return -EINVAL;
	if (kind == FS_ACL_DEFAULT && !S_ISDIR(row->mode)) // A3
		return acl.n > 0 ? -EACCES : 0;
	keep = acl.n > 0;
	if (keep && kind == FS_ACL_ACCESS) {
		keep = acl_to_mode(&acl, &row->mode); // A1, A2
		if (kill_sgid)
			row->mode &= ~(uint32_t)S_ISGID;
	}
	if (!keep)
		return drop(fs, row, &kinds[kind]);
	row->flags |= kinds[kind].flag;
	return fs_acl_store(fs, row, kind, &acl);
}

// ---- inheritance ----

int fs_acl_inherit(struct fs *fs, const struct inode_row *dir, struct inode_row *row, mode_t umask, struct fs_acls *acls)
{
	int r;

	if (S_ISLNK(row->mode))
		return 0;
	if ((dir->flags & INODE_ACL_DEFAULT) == 0) {
		row->mode &= ~((uint32_t)umask & 0777);
		return 0;
	}
	r = fs_acl_load(fs, dir, FS_ACL_DEFAULT, &acls->def);
	if (r != 0)
		return r;
	acls->access = acls->def;
	if (acl_inherit(&acls->access, &row->mode))
		row->flags |= INODE_ACL_ACCESS;
	if (S_ISDIR(row->mode))
		row->flags |= INODE_ACL_DEFAULT;
	return 0;
}

int fs_acl_store_inherited(struct fs *fs, const struct inode_row *row, const struct fs_acls *acls)
{
	int r = 0;

	if ((row->flags & INODE_ACL_ACCESS) != 0)
		r = fs_acl_store(fs, row, FS_ACL_ACCESS, &acls->access);
	if (r == 0 && (row->flags & INODE_ACL_DEFAULT) != 0)
		r = fs_acl_store(fs, row, FS_ACL_DEFAULT, &acls->def);
	return r;
}
