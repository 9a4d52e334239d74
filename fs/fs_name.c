// SPDX-License-Identifier: MIT
// Names: lookup, and everything that makes or removes one name. Renaming is in fs_rename.c, listing in fs_dir.c.
//
// Each operation is one critical section under the store's lock inside a transaction handle: read, validate, change. A
// reference is taken before the first change, because taking it can fail and a change cannot be undone.
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fs/fs_internal.h"
#include "meta/orphan.h"
#include "util/log.h"

static uint8_t mode_to_dtype(uint32_t mode) { return (mode & S_IFMT) >> 12; }

int fs_check_name(const char *name, size_t *len)
{
	*len = strlen(name);
	if (*len > NAME_MAX_BYTES)
		return -ENAMETOOLONG;
	if (*len == 0)
		return -ENOENT;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strchr(name, '/') != NULL)
		return -EINVAL;
	return 0;
}

int fs_get_dir(struct fs *fs, uint64_t ino, struct inode_row *row)
{
	int r;

	r = inode_get(fs->st, ino, row);
	if (r != 0)
		return r;
	if (!S_ISDIR(row->mode))
		return -ENOTDIR;
	return row->nlink == 0 ? -ENOENT : 0;
}

int fs_get_child(struct fs *fs, uint64_t parent, const struct dirent_row *ent, struct inode_row *row)
{
	int r;

	r = inode_get(fs->st, ent->ino, row);
	if (r == -ENOENT || (r == 0 && (mode_to_dtype(row->mode) != ent->type || row->nlink == 0 ||
	                                (S_ISDIR(row->mode) && (row->parent != parent || row->nlink < 2))))) {
		msg_error("directory %llu: entry %llu and inode %llu contradict each other; run fsck.hybridfs",
		          (unsigned long long)parent, (unsigned long long)ent->cookie, (unsigned long long)ent->ino);
		return -EUCLEAN;
	}
	return r;
}

int fs_drop_link(struct fs *fs, struct inode_row *row, int64_t now, bool *orphan)
{
	int r;

	if (S_ISDIR(row->mode))
		row->nlink = row->size_bytes = 0;
	else
		row->nlink--;
	row->ctime_ns = now;
	*orphan = row->nlink == 0;
	r = inode_update(fs->st, row);
	return r == 0 && *orphan ? orphan_add(fs->vol, row->ino) : r;
}

// ---- lookup ----

// "." and "..": answered from the inode's own row. By "." the kernel finds an inode again of which it knows only the number (NFS file
// handles), so it need not be a directory; but it needs a name, because what is being deleted gets no new references (I1).
static int lookup_dot(struct fs *fs, uint64_t parent, const char *name, struct inode_row *row)
{
	bool up = strcmp(name, "..") == 0;
	int r;

	r = inode_get(fs->st, parent, row);
	if (r == 0 && row->nlink == 0)
		r = -ENOENT;
	if (r == 0 && up && !S_ISDIR(row->mode))
		r = -ENOTDIR;
	if (r != 0 || !up)
		return r;
	r = inode_get(fs->st, row->parent, row);
	return r == -ENOENT ? -EUCLEAN : r;
}

static int lookup_name(struct fs *fs, uint64_t parent, const char *name, size_t len, struct inode_row *row)
{
	struct dirent_row ent;
	int r;

	r = dirent_find(fs->st, parent, name, len, &ent);
	if (r == 0)
		return fs_get_child(fs, parent, &ent, row);
	if (r != -ENOENT)
		return r;
	r = fs_get_dir(fs, parent, row); // there is no such name: is it at least a directory?
	return r == 0 ? -ENOENT : r;
}

int fs_lookup(struct fs *fs, uint64_t parent, const char *name, struct fs_entry *out)
{
	struct inode_row row;
	size_t len;
	bool dot;
	int r;

	dot = strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
	r = dot ? 0 : fs_check_name(name, &len);
	if (r != 0)
		return r;
	store_lock(fs->st);
	r = dot ? lookup_dot(fs, parent, name, &row) : lookup_name(fs, parent, name, len, &row);
	if (r == 0)
		r = inode_ref(fs, row.ino, parent);
	store_unlock(fs->st);
	if (r != 0)
		return r;
	out->ino = row.ino;
	fs_row_to_stat(&row, &out->st);
	return 0;
}

void fs_forget(struct fs *fs, uint64_t ino, uint64_t n) { inode_unref(fs, ino, n); }

// ---- making ----

struct new_node {
	struct inode_row row; // all but ino, times and the parent's influence
	const char *target;   // of a symlink
	bool nameless;        // until fs_link() gives it a name
	mode_t umask;
};

// Names the inode in the directory; dir's row is changed, not yet written. The first change of each operation that makes a
// name, so the only one that may still be refused.
static int add_name(struct fs *fs, struct inode_row *dir, const char *name, size_t len, const struct inode_row *row, int64_t now)
{
	int r;

	r = dirent_insert(fs->st, dir->ino, name, len, row->ino, mode_to_dtype(row->mode));
	if (r != 0)
		return r;
	dir->size_bytes++;
	dir->nlink += S_ISDIR(row->mode) ? 1 : 0;
	dir->mtime_ns = dir->ctime_ns = now;
	return 0;
}

void fs_inherit(const struct fs *fs, struct inode_row *row, const struct inode_row *dir)
{
	if (S_ISDIR(row->mode))
		row->parent = dir->ino;
	if (S_ISDIR(row->mode) || S_ISREG(row->mode))
		row->flags |= dir->flags & INODE_NODATACOW;
	if (S_ISREG(row->mode) && fs->nodatacow)
		row->flags |= INODE_NODATACOW;
	if ((dir->mode & S_ISGID) == 0)
		return;
	row->gid = dir->gid;
	if (S_ISDIR(row->mode))
		row->mode |= S_ISGID;
}

// Store lock held, handle joined. The reference is taken.
static int make_locked(struct fs *fs, uint64_t parent, const char *name, size_t len, struct new_node *node)
{
	struct inode_row dir, *row = &node->row;
	int64_t now = fs_now_ns();
	struct fs_acls acls;
	int r;

	r = fs_get_dir(fs, parent, &dir);
	if (r != 0)
		return r;
	if (S_ISDIR(row->mode) && dir.nlink == UINT32_MAX)
		return -EMLINK;
	fs_inherit(fs, row, &dir);
	r = fs_acl_inherit(fs, &dir, row, node->umask, &acls);
	if (r != 0)
		return r;
	row->atime_ns = row->mtime_ns = row->ctime_ns = row->btime_ns = now;
	r = node->nameless ? 0 : add_name(fs, &dir, name, len, row, now);
	if (r == 0)
		r = inode_insert(fs->st, row);
	if (r == 0 && node->target != NULL)
		r = inline_set(fs->st, row->ino, node->target, row->size_bytes);
	if (r == 0)
		r = fs_acl_store_inherited(fs, row, &acls);
	if (r != 0)
		return r;
	return node->nameless ? orphan_add(fs->vol, row->ino) : inode_update(fs->st, &dir);
}

// The name of a nameless one is not looked at.
static int make_node(struct fs *fs, uint64_t parent, const char *name, struct new_node *node, const struct fs_cred *cred,
                     struct fs_entry *out)
{
	size_t len = 0;
	uint64_t txn;
	int r;

	r = node->nameless ? 0 : fs_check_name(name, &len);
	if (r != 0)
		return r == -EINVAL ? -EEXIST : r; // "." and ".." are always there
	node->row.uid = cred->uid;
	node->row.gid = cred->gid;
	node->umask = cred->umask;
	r = fs_begin(fs, TXN_GROW, &txn);
	if (r != 0)
		return r;
	node->row.ino = volume_new_ino(fs->vol);
	r = inode_ref_new(fs, node->row.ino, parent);
	if (r == 0) {
		r = make_locked(fs, parent, name, len, node);
		if (r != 0)
			inode_unref(fs, node->row.ino, 1);
	}
	if (r == 0 && node->nameless)
		inode_set_namable(fs, node->row.ino, true);
	if (r == 0) {
		inode_touch(fs, parent, txn);
		inode_touch(fs, node->row.ino, txn);
	}
	fs_end(fs);
	if (r != 0)
		return r;
	out->ino = node->row.ino;
	fs_row_to_stat(&node->row, &out->st);
	return 0;
}

// FUSE's encoding in 32 bits: minor 8 bits, major 12 bits, 12 more bits of the minor.
static int encode_rdev(mode_t mode, dev_t rdev, uint32_t *out)
{
	*out = 0;
	if (!S_ISCHR(mode) && !S_ISBLK(mode))
		return 0;
	if (major(rdev) > 0xfff || minor(rdev) > 0xfffff)
		return -EINVAL;
	*out = (minor(rdev) & 0xff) | major(rdev) << 8 | (minor(rdev) & ~0xffu) << 12;
	return 0;
}

int fs_mknod(struct fs *fs, uint64_t parent, const char *name, mode_t mode, dev_t rdev, const struct fs_cred *cred,
             struct fs_entry *out)
{
	struct new_node node = { .row = { .nlink = 1 } };
	int r;

	if ((mode & S_IFMT) == 0)
		mode |= S_IFREG;
	if (S_ISDIR(mode) || S_ISLNK(mode))
		return -EPERM; // as mknod(2)
	if (!S_ISREG(mode) && !S_ISCHR(mode) && !S_ISBLK(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode))
		return -EINVAL;
	r = encode_rdev(mode, rdev, &node.row.rdev);
	if (r != 0)
		return r;
	node.row.mode = mode & (S_IFMT | 07777);
	node.row.flags = S_ISREG(mode) ? INODE_INLINE : 0;
	return make_node(fs, parent, name, &node, cred, out);
}

int fs_tmpfile(struct fs *fs, uint64_t dir, mode_t mode, const struct fs_cred *cred, struct fs_entry *out)
{
	struct new_node node = { .row = { .mode = S_IFREG | (mode & 07777), .flags = INODE_INLINE }, .nameless = true };

	return make_node(fs, dir, NULL, &node, cred, out);
}

int fs_mkdir(struct fs *fs, uint64_t parent, const char *name, mode_t mode, const struct fs_cred *cred, struct fs_entry *out)
{
	struct new_node node = { .row = { .nlink = 2, .mode = S_IFDIR | (mode & 07777) } };

	return make_node(fs, parent, name, &node, cred, out);
}

int fs_symlink(struct fs *fs, uint64_t parent, const char *name, const char *target, const struct fs_cred *cred,
               struct fs_entry *out)
{
	struct new_node node = { .row = { .nlink = 1, .mode = S_IFLNK | 0777, .flags = INODE_INLINE }, .target = target };

	node.row.size_bytes = strlen(target);
	if (node.row.size_bytes > SYMLINK_MAX_BYTES)
		return -ENAMETOOLONG;
	if (node.row.size_bytes == 0)
		return -ENOENT;
	return make_node(fs, parent, name, &node, cred, out);
}

int fs_readlink(struct fs *fs, uint64_t ino, char *buf, size_t cap, size_t *len)
{
	char target[SYMLINK_MAX_BYTES];
	struct inode_row row;
	int r;

	store_lock(fs->st);
	r = inode_get(fs->st, ino, &row);
	if (r == 0 && !S_ISLNK(row.mode))
		r = -EINVAL;
	if (r == 0) {
		r = inline_get(fs->st, ino, target, sizeof(target), len);
		if (r == -ENOENT || (r == 0 && *len != row.size_bytes))
			r = -EUCLEAN;
	}
	store_unlock(fs->st);
	if (r != 0)
		return r;
	*len = min_u64(*len, cap);
	memcpy(buf, target, *len);
	fs_update_atime(fs, &row);
	return 0;
}

static int link_locked(struct fs *fs, struct inode_row *row, uint64_t parent, const char *name, size_t len)
{
	int64_t now = fs_now_ns();
	struct inode_row dir;
	int r;

	r = fs_get_dir(fs, parent, &dir);
	if (r != 0)
		return r;
	if (S_ISDIR(row->mode))
		return -EPERM;
	if (row->nlink == 0 && !inode_is_namable(fs, row->ino))
		return -ENOENT; // on its way to being deleted
	if (row->nlink >= LINK_MAX_N)
		return -EMLINK;
	r = add_name(fs, &dir, name, len, row, now);
	if (r == 0 && row->nlink == 0) {
		r = orphan_remove(fs->vol, row->ino);
		inode_set_namable(fs, row->ino, false);
	}
	if (r != 0)
		return r;
	row->nlink++;
	row->ctime_ns = now;
	r = inode_update(fs->st, row);
	return r == 0 ? inode_update(fs->st, &dir) : r;
}

// The orphan row of a file without a name also stands for what a truncate has left to do. It goes with the first name, so nothing may be
// left then: *locked is the file with its data lock held, or NULL if it does not need that.
static int lock_nameless(struct fs *fs, uint64_t ino, struct inode **locked)
{
	struct inode *in;
	int r;

	*locked = NULL;
	if (!inode_is_namable(fs, ino))
		return 0;
	in = inode_pin(fs, ino);
	if (in == NULL)
		return -ENOMEM;
	r = inode_lock_change(fs, in);
	if (r == 0)
		*locked = in;
	else
		inode_unpin(fs, in);
	return r;
}

static void unlock_nameless(struct fs *fs, struct inode *in)
{
	if (in == NULL)
		return;
	pthread_rwlock_unlock(&in->lock);
	inode_unpin(fs, in);
}

int fs_link(struct fs *fs, uint64_t ino, uint64_t new_parent, const char *name, struct fs_entry *out)
{
	struct inode_row row;
	struct inode *nameless;
	uint64_t txn;
	size_t len;
	int r;

	r = fs_check_name(name, &len);
	if (r != 0)
		return r == -EINVAL ? -EEXIST : r;
	r = lock_nameless(fs, ino, &nameless);
	if (r != 0)
		return r;
	r = fs_begin(fs, TXN_GROW, &txn);
	if (r != 0)
		goto out;
	r = inode_get(fs->st, ino, &row);
	if (r == 0)
		r = inode_ref(fs, ino, new_parent);
	if (r == 0) {
		r = link_locked(fs, &row, new_parent, name, len);
		if (r != 0)
			inode_unref(fs, ino, 1);
	}
	if (r == 0) {
		inode_touch(fs, new_parent, txn);
		inode_touch(fs, ino, txn);
		out->ino = ino;
		fs_row_to_stat(&row, &out->st);
	}
	fs_end(fs);
out:
	unlock_nameless(fs, nameless);
	return r;
}

// ---- removing ----

static int check_removable(struct fs *fs, const struct inode_row *row, bool dir)
{
	bool empty;
	int r;

	if (S_ISDIR(row->mode) != dir)
		return dir ? -ENOTDIR : -EISDIR;
	if (!dir)
		return 0;
	r = dirent_is_empty(fs->st, row->ino, &empty);
	return r == 0 && !empty ? -ENOTEMPTY : r;
}

static int remove_locked(struct fs *fs, uint64_t parent, const char *name, size_t len, bool dir, struct inode_row *row,
                         bool *orphan)
{
	struct inode_row up;
	struct dirent_row ent;
	int64_t now = fs_now_ns();
	int r;

	r = fs_get_dir(fs, parent, &up);
	if (r == 0)
		r = dirent_find(fs->st, parent, name, len, &ent);
	if (r == 0)
		r = fs_get_child(fs, parent, &ent, row);
	if (r == 0)
		r = check_removable(fs, row, dir);
	if (r == 0 && (up.size_bytes == 0 || (dir && up.nlink < 3)))
		r = -EUCLEAN; // it has an entry, and a subdirectory
	if (r != 0)
		return r;
	r = dirent_delete(fs->st, parent, ent.cookie);
	if (r == 0)
		r = fs_drop_link(fs, row, now, orphan);
	if (r != 0)
		return r;
	up.size_bytes--;
	up.nlink -= dir ? 1 : 0;
	up.mtime_ns = up.ctime_ns = now;
	return inode_update(fs->st, &up);
}

static int remove_name(struct fs *fs, uint64_t parent, const char *name, bool dir)
{
	struct inode_row row;
	bool orphan = false;
	uint64_t txn;
	size_t len;
	int r;

	r = fs_check_name(name, &len);
	if (r != 0)
		return r;
	r = fs_begin(fs, TXN_FREE, &txn);
	if (r != 0)
		return r;
	r = remove_locked(fs, parent, name, len, dir, &row, &orphan);
	if (r == 0) {
		inode_touch(fs, parent, txn);
		inode_touch(fs, row.ino, txn);
	}
	if (r == 0 && orphan)
		inode_set_orphan(fs, row.ino);
	fs_end(fs);
	return r;
}

int fs_unlink(struct fs *fs, uint64_t parent, const char *name) { return remove_name(fs, parent, name, false); }

int fs_rmdir(struct fs *fs, uint64_t parent, const char *name)
{
	if (strcmp(name, "..") == 0)
		return -ENOTEMPTY; // as rmdir(2)
	return remove_name(fs, parent, name, true);
}
