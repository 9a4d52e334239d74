// SPDX-License-Identifier: MIT
// The filesystem without FUSE: POSIX operations on inode numbers over a volume. The daemon (fuse_ops.c), `mkfs -d` and the tests all
// use these functions, so whatever is proved in process holds for a mount.
//
// Permissions are the kernel's business (default_permissions); this layer enforces what the kernel cannot: name lengths, types, link
// limits, loops, space.
//
// References: every successful fs_lookup/create/mknod/mkdir/symlink/link and every entry emitted by fs_readdirplus adds one reference
// to the inode; fs_forget() takes n away. An inode without a name lives until its last reference goes, then the reaper deletes it.
// All other functions take inode numbers on which the caller holds a reference (the root always has one).
//
// Locks: any thread. Inside: name operations run as one critical section under the store's lock; data operations lock the inode
// (struct inode, a rwlock: read shared, change exclusive) before joining a transaction; two inodes by ascending number. doc/LOCKING.md.
//
// Errors: 0 or a negative errno as POSIX and ext4 give it. -EUCLEAN for damage. -EROFS after a failure of the volume.
//
// F1  Bytes of the last block beyond the file's size are zeros on the device (or the block is unwritten).
// F2  A block that a durable transaction names is never overwritten: an overwrite goes to new blocks (copy on write), except blocks
//     allocated in the still open transaction.
// F3  A file is inline (INODE_INLINE, size <= INLINE_MAX_BYTES, no extents) or has extents, never both. New files start inline.
#ifndef HYBRIDFS_FS_FS_H
#define HYBRIDFS_FS_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "meta/volume.h"
#include "util/attr.h"

struct fs;

enum fs_atime { FS_RELATIME, FS_STRICTATIME, FS_NOATIME };

struct fs_opts {
	enum fs_atime atime;
	bool nodiratime;        // reading directories does not update their atime
	bool discard;           // tell the device in the background what was freed, if it can
	unsigned trim_delay_ms; // from a deletion to that; 0 = a few seconds
	bool nodatacow;         // files made through this context are FS_NOCOW_FL
};

// The volume is not owned. Starts the reaper, which finishes the orphans that a crash left (not on a read-only volume).
int fs_create_context(struct volume *vol, const struct fs_opts *opts, struct fs **out) ATTR_MUST_USE;
// Ends the trimmer and the reaper, deletes orphans that are still referenced (at unmount nobody can use them any more), gives windows back.
// The caller closes the volume after it.
void fs_destroy_context(struct fs *fs);
struct volume *fs_volume(struct fs *fs);
// With a writeback cache, mtime and ctime of regular files are set by the kernel when data changes in its cache, and told by fs_setattr(). The
// data itself comes later, so from here on it changes no times. Before the first operation.
void fs_leave_times_to_kernel(struct fs *fs);
// What an operation has answered: damage (-EUCLEAN) is remembered on the volume.
void fs_note_result(struct fs *fs, int rc);

struct fs_entry {
	uint64_t ino;
	struct stat st;
};

// Who creates: owner of the new inode. The umask counts unless the parent has a default ACL. A setgid parent gives its group (and, to
// directories, the bit); a non-member's setgid is the kernel's business.
struct fs_cred {
	uid_t uid;
	gid_t gid;
	mode_t umask;
};

// ---- names (fs_name.c, fs_rename.c) ----
// Names are bytes, 1 … 255 (longer: -ENAMETOOLONG), not "." or ".." except in lookup, which answers both ("..": a directory's parent).
int fs_lookup(struct fs *fs, uint64_t parent, const char *name, struct fs_entry *out) ATTR_MUST_USE;
void fs_forget(struct fs *fs, uint64_t ino, uint64_t n);
// Calls fn for each inode that is referenced, with no lock held; the root always is. -ENOMEM.
int fs_for_each_referenced(struct fs *fs, void (*fn)(void *ctx, uint64_t ino), void *ctx) ATTR_MUST_USE;
int fs_mknod(struct fs *fs, uint64_t parent, const char *name, mode_t mode, dev_t rdev, const struct fs_cred *cred,
             struct fs_entry *out) ATTR_MUST_USE; // regular files too
int fs_mkdir(struct fs *fs, uint64_t parent, const char *name, mode_t mode, const struct fs_cred *cred,
             struct fs_entry *out) ATTR_MUST_USE;
int fs_symlink(struct fs *fs, uint64_t parent, const char *name, const char *target, const struct fs_cred *cred,
               struct fs_entry *out) ATTR_MUST_USE;
// A regular file without a name, as open(2) with O_TMPFILE makes it; `dir` gives it what it would give a file with a name. fs_link() may give
// it one; without one it goes with its last reference, or with the first mount after a crash.
int fs_tmpfile(struct fs *fs, uint64_t dir, mode_t mode, const struct fs_cred *cred, struct fs_entry *out) ATTR_MUST_USE;
// -ENOENT for an inode that has lost its last name; one that never had any gets its first.
int fs_link(struct fs *fs, uint64_t ino, uint64_t new_parent, const char *name, struct fs_entry *out) ATTR_MUST_USE;
int fs_unlink(struct fs *fs, uint64_t parent, const char *name) ATTR_MUST_USE;
int fs_rmdir(struct fs *fs, uint64_t parent, const char *name) ATTR_MUST_USE;
// flags: RENAME_NOREPLACE, RENAME_EXCHANGE; others -EINVAL. Atomic, with the data of a replaced file.
int fs_rename(struct fs *fs, uint64_t parent, const char *name, uint64_t new_parent, const char *new_name,
              unsigned flags) ATTR_MUST_USE;
// The same, flags 0 or RENAME_NOREPLACE, and in the place of the old name a whiteout: the device 0:0, which says to overlayfs that there is
// nothing (RENAME_WHITEOUT).
int fs_rename_whiteout(struct fs *fs, uint64_t parent, const char *name, uint64_t new_parent, const char *new_name, unsigned flags,
                       const struct fs_cred *cred) ATTR_MUST_USE;
int fs_readlink(struct fs *fs, uint64_t ino, char *buf, size_t cap, size_t *len) ATTR_MUST_USE; // no NUL is added

// Directory entries after a cookie (0 = from the start), in cookie order: "." and ".." (cookies 1 and 2) first. emit() returns true if
// the entry fitted; false ends the scan (the entry is not counted). `st` has at least st_ino and the type in st_mode; with `plus` all of it,
// and an emitted entry (not "." and "..") has got a reference; except in directories of more than FS_PLUS_MAX entries, where st_nlink
// is 0: no attributes, no reference. (They do not fit into one request, so most names would come without anyway.) Stable under concurrent changes: an entry that exists during the whole
// walk is seen exactly once. emit() runs under the store's lock: it must not call back into the filesystem.
#define FS_PLUS_MAX 256u
typedef bool (*fs_emit_fn)(void *ctx, const char *name, const struct stat *st, uint64_t cookie);
int fs_readdir(struct fs *fs, uint64_t ino, uint64_t cookie, bool plus, fs_emit_fn emit, void *ctx) ATTR_MUST_USE;

// ---- attributes (fs_attr.c) ----
int fs_getattr(struct fs *fs, uint64_t ino, struct stat *st) ATTR_MUST_USE;
// With the time when the inode was made. It is also shown as the attribute FS_BTIME_NAME (seconds.nanoseconds), which cannot be changed and
// is not listed: nobody copies it.
#define FS_BTIME_NAME "system.hybridfs.btime"
int fs_getattr_btime(struct fs *fs, uint64_t ino, struct stat *st, struct timespec *btime) ATTR_MUST_USE;

enum fs_set {
	FS_SET_MODE = 1 << 0, FS_SET_UID = 1 << 1, FS_SET_GID = 1 << 2, FS_SET_SIZE = 1 << 3,
	FS_SET_ATIME = 1 << 4, FS_SET_MTIME = 1 << 5, FS_SET_ATIME_NOW = 1 << 6, FS_SET_MTIME_NOW = 1 << 7,
	FS_SET_CTIME = 1 << 8, // given by the kernel with a writeback cache; otherwise ctime becomes now
};
struct fs_setattr {
	unsigned set;
	mode_t mode;
	uid_t uid;
	gid_t gid;
	uint64_t size_bytes;
	struct timespec atime, mtime, ctime;
	bool kill_suidgid; // drop setuid, and setgid of a group-executable file (the caller lacks CAP_FSETID)
	bool kill_sgid;    // drop setgid of any file (and is not of its group)
};
int fs_setattr(struct fs *fs, uint64_t ino, const struct fs_setattr *attr, struct stat *out) ATTR_MUST_USE;
int fs_statfs(struct fs *fs, struct statvfs *out) ATTR_MUST_USE;

// Extended attributes, and ACLs under the names that Linux gives them (meta/acl.h). flags: XATTR_CREATE, XATTR_REPLACE, which do not count for
// ACLs, and FS_XATTR_KILL_SGID: whoever sets an access ACL is not of the file's group, and setgid goes.
#define FS_XATTR_KILL_SGID (1 << 30)
int fs_getxattr(struct fs *fs, uint64_t ino, const char *name, void *buf, size_t cap, size_t *len) ATTR_MUST_USE; // cap 0 asks for the length
int fs_setxattr(struct fs *fs, uint64_t ino, const char *name, const void *value, size_t len, int flags) ATTR_MUST_USE;
int fs_listxattr(struct fs *fs, uint64_t ino, char *buf, size_t cap, size_t *len) ATTR_MUST_USE;
int fs_removexattr(struct fs *fs, uint64_t ino, const char *name) ATTR_MUST_USE;

// Flags as chattr(1) sets them: FS_NOCOW_FL alone, of regular files (no checksums, overwritten in place) and of directories (new files in it
// get it). -EOPNOTSUPP for others, -EINVAL for a file that has blocks already.
int fs_get_flags(struct fs *fs, uint64_t ino, unsigned *flags) ATTR_MUST_USE;
int fs_set_flags(struct fs *fs, uint64_t ino, unsigned flags) ATTR_MUST_USE;

// ---- data (fs_read.c, fs_write.c, fs_alloc.c, fs_verify.c) ----
// Reads up to len bytes; *done is short only at the end of the file; buf may be written beyond it. Holes and unwritten ranges are zeros.
// -EIO, logged, when a block cannot be read or its checksum does not fit; *done then says how many bytes before it are good.
int fs_read(struct fs *fs, uint64_t ino, void *buf, size_t len, uint64_t off, size_t *done) ATTR_MUST_USE;
// Writes all or, when space ends, a prefix (*done > 0) or -ENOSPC. -EFBIG beyond FILE_MAX_BYTES. File capabilities go, unless the write is late:
// what comes from the kernel's cache was written by somebody before, when they went, and there may be new ones since.
enum { FS_WRITE_KILL_SUIDGID = 1 << 0, FS_WRITE_LATE = 1 << 1 };
int fs_write(struct fs *fs, uint64_t ino, const void *buf, size_t len, uint64_t off, unsigned flags, size_t *done) ATTR_MUST_USE;
// mode as in fallocate(2): 0, KEEP_SIZE, PUNCH_HOLE|KEEP_SIZE, ZERO_RANGE[|KEEP_SIZE]; others -EOPNOTSUPP.
int fs_fallocate(struct fs *fs, uint64_t ino, int mode, uint64_t off, uint64_t len) ATTR_MUST_USE;
int fs_lseek(struct fs *fs, uint64_t ino, uint64_t off, int whence, uint64_t *out) ATTR_MUST_USE; // SEEK_DATA, SEEK_HOLE; -ENXIO
int fs_copy_range(struct fs *fs, uint64_t in, uint64_t in_off, uint64_t out, uint64_t out_off, size_t len, size_t *done) ATTR_MUST_USE;

// Reads the next blocks of a file from its block *at_blk on, up to FS_VERIFY_BLK, from the device, and holds them against their checksums; moves
// *at_blk behind them. 1: there may be more; 0: that was the end, or there is no such file any more. No reference is needed. damaged() is called
// for each bad block, under the data lock; a negative errno of its ends the work. (fs_verify.c)
#define FS_VERIFY_BLK 256u
struct fs_verify {
	void *buf; // FS_VERIFY_BLK blocks, the caller's
	int (*damaged)(void *ctx, uint64_t ino, uint64_t off_blk);
	void *ctx;
	uint64_t read_blk; // out
	bool skipped;      // out: the file has no checksums
};
int fs_verify(struct fs *fs, uint64_t ino, uint64_t *at_blk, struct fs_verify *v) ATTR_MUST_USE;

// Tells the device which blocks in [start_bytes, start_bytes + len_bytes) of the volume are free, all of them, at once: what fstrim(8) asks for.
// Runs of free blocks shorter than min_bytes are passed over. -EINVAL: the range begins behind the volume, or is shorter than a block;
// -EOPNOTSUPP: the device cannot discard; -EINTR: cancelled() said so, which is asked now and then. (trimmer.c)
struct fs_trim {
	uint64_t start_bytes, len_bytes, min_bytes;
	bool (*cancelled)(void *ctx); // may be NULL
	void *ctx;
	uint64_t trimmed_bytes;       // out
};
int fs_trim(struct fs *fs, struct fs_trim *t) ATTR_MUST_USE;

// fsync and fdatasync of a file or directory: returns when its last change is durable.
int fs_fsync(struct fs *fs, uint64_t ino) ATTR_MUST_USE;
int fs_sync(struct fs *fs) ATTR_MUST_USE; // everything

#endif
