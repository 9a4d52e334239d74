// SPDX-License-Identifier: MIT
// The FUSE operations: each parses its request, calls one function of fs.h, and replies exactly once.
//
// Split by what they are about: fuse_ops.c (INIT, the table, what all share), fuse_dir.c (names and directories),
// fuse_attr.c (attributes, extended attributes, statfs), fuse_data.c (contents), fuse_ioctl.c.
//
// Lock: none. Any number of operations run at once, each on its transport thread; the kernel already serialises what must be.
// Errors: fs.h answers negative errnos; the sign is flipped in the reply_* functions and nowhere else.
//
// The kernel may keep for ever what it is told (names, absent names, attributes, data, directories): the daemon is the only
// writer of its device, and every change comes through the kernel. The changes that the kernel does not foresee are told to it:
// see drop_suidgid(), op_rename(), op_copy_file_range(), op_fallocate().
#ifndef HYBRIDFS_FS_FUSE_OPS_H
#define HYBRIDFS_FS_FUSE_OPS_H

#define FUSE_USE_VERSION 35
#include <fuse3/fuse_lowlevel.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "fs/checker.h"
#include "fs/fs.h"
#include "fs/transport.h"

#define FUSE_CACHE_S (365.0 * 86400) // "for ever": a year

#define SESSION_MAX_THREADS 16u // at requests, on each way that they come

// The session's userdata. Set up by the daemon before the session starts.
struct session {
	struct transport *transport; // first member: rule R2 of transport.h
	struct fuse_session *se;
	struct fs *fs;
	struct checker *checker;
	atomic_uint n_seekers;       // threads at an lseek that waits for the kernel's pages: see op_lseek()
	bool writeback, want_acl;    // wanted by the user
	// Written while INIT is answered, read only after it:
	bool no_open, no_opendir;    // the kernel opens by itself once it was told ENOSYS
	bool acl;                    // it asks for ACLs and checks them
};

extern const struct fuse_lowlevel_ops fuse_ops_table;

static inline struct session *session_of(fuse_req_t req) { return fuse_req_userdata(req); }
static inline struct fs *fs_of(fuse_req_t req) { return session_of(req)->fs; }

// ---- shared by the operations (fuse_ops.c) ----
void reply_status(fuse_req_t req, int rc);
void reply_attr(fuse_req_t req, int rc, const struct stat *st);
// A new or looked-up name. If the kernel did not take the reply, the reference is given back.
void reply_entry(fuse_req_t req, int rc, const struct fs_entry *entry);
struct fuse_entry_param entry_param(const struct fs_entry *entry);
struct fs_cred cred_of(fuse_req_t req);

// Before a process without CAP_FSETID changes the contents of a file: clears setuid and setgid, and makes the kernel ask for the
// mode anew, because it would go on with the one that it knows, even in exec(2). 0 or a negative errno.
int drop_suidgid(fuse_req_t req, fuse_ino_t ino) ATTR_MUST_USE;
// The same where the request does not say what the process may, if the kernel leaves it to us at all.
int drop_suidgid_unless_capable(fuse_req_t req, fuse_ino_t ino) ATTR_MUST_USE;
// Without execution for the group, setgid is no privilege, and goes only when the process is not of that group.
bool must_kill_sgid(fuse_req_t req, const struct stat *st);

// ---- fuse_dir.c ----
void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n);
void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void op_readlink(fuse_req_t req, fuse_ino_t ino);
void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name, unsigned flags);
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t new_parent, const char *new_name);
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi);
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

// ---- fuse_attr.c ----
void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi);
void op_statx(fuse_req_t req, fuse_ino_t ino, size_t unused1, uint64_t unused2);
void op_statfs(fuse_req_t req, fuse_ino_t ino);
void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags);
void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

// ---- fuse_data.c ----
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi);
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi); // of directories too
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void op_copy_file_range(fuse_req_t req, fuse_ino_t in, off_t in_off, struct fuse_file_info *in_fi, fuse_ino_t out, off_t out_off,
                        struct fuse_file_info *out_fi, size_t len, int flags);

// ---- fuse_ioctl.c ----
void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags, const void *in,
              size_t in_size, size_t out_size);

#endif
