// SPDX-License-Identifier: MIT
// INIT, the table of operations, and what they share.
//
// What INIT asks for, and why:
//   no open, no opendir     nothing needs to be known about an open file: an inode lives as long as the kernel refers to it. Two
//                           round trips less for each open and close. Implies that data and directories stay cached.
//   no ATOMIC_O_TRUNC       without an OPEN request the flag would be lost; the kernel sends a SETATTR instead.
//   no ASYNC_DIO            with it the kernel does not drop cached pages once more after an asynchronous O_DIRECT write; what a buffered
//                           reader has brought into the cache meanwhile would stay there, stale, for ever (xfstests generic/451).
//                           The price, with libaio at depth 8 and 4 KiB: random reads 37,000/s instead of 97,000/s.
//   EXPLICIT_INVAL_DATA     instead of AUTO_INVAL_DATA, which throws a file's cached data away whenever its mtime has changed.
//   READDIRPLUS_AUTO        attributes with the names only when somebody wants them: a plain walk of a large directory does not have
//                           to make an inode of every entry, while `ls -l` gets everything in the same requests.
//   CACHE_SYMLINKS          as for data.
//   EXPORT_SUPPORT          "." and ".." can be looked up, so that NFS can export the mount.
//   HANDLE_KILLPRIV_V2      added by transport_init.c; with it writes need no request for security.capability first.
//   WRITEBACK_CACHE         only with -o writeback: it makes small writes cheaper but moves their errors to fsync(2). The times of changes of
//                           regular files then are the kernel's, which tells them by SETATTR.
//   POSIX_ACL, DONT_MASK    the kernel checks ACLs. Since a default ACL takes the place of the umask, it is fs_acl.c that applies that.
//   no splice               for requests of up to 1 MiB, copying is as fast as moving pages between pipes.
#include "fs/fuse_ops.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/stat.h>

#include "fs/caller.h"

#define MAX_BACKGROUND 64 // read-ahead, direct I/O and writeback requests in flight

// ---- replies ----

void reply_status(fuse_req_t req, int rc)
{
	fs_note_result(fs_of(req), rc);
	fuse_reply_err(req, -rc);
}

void reply_attr(fuse_req_t req, int rc, const struct stat *st)
{
	if (rc != 0)
		reply_status(req, rc);
	else
		fuse_reply_attr(req, st, FUSE_CACHE_S);
}

// Inode numbers are never reused, so the generation stays 0.
struct fuse_entry_param entry_param(const struct fs_entry *entry)
{
	return (struct fuse_entry_param){
		.ino = entry->ino,
		.attr = entry->st,
		.attr_timeout = FUSE_CACHE_S,
		.entry_timeout = FUSE_CACHE_S,
	};
}

void reply_entry(fuse_req_t req, int rc, const struct fs_entry *entry)
{
	struct fs *fs = fs_of(req); // req is gone after the reply
	struct fuse_entry_param e;

	if (rc != 0) {
		reply_status(req, rc);
		return;
	}
	e = entry_param(entry);
	if (fuse_reply_entry(req, &e) == -ENOENT) // the caller was killed meanwhile
		fs_forget(fs, entry->ino, 1);
}

struct fs_cred cred_of(fuse_req_t req)
{
	const struct fuse_ctx *caller = fuse_req_ctx(req);

	return (struct fs_cred){ .uid = caller->uid, .gid = caller->gid, .umask = caller->umask };
}

// ---- setuid and setgid ----

static bool has_suidgid(const struct stat *st)
{
	return S_ISREG(st->st_mode) && (st->st_mode & (S_ISUID | S_ISGID)) != 0;
}

bool must_kill_sgid(fuse_req_t req, const struct stat *st)
{
	return S_ISREG(st->st_mode) && (st->st_mode & (S_ISGID | S_IXGRP)) == S_ISGID && !caller_may_setgid(req, st->st_gid);
}

static int drop_bits(fuse_req_t req, fuse_ino_t ino, struct stat *st)
{
	struct fs_setattr change = { .kill_suidgid = true, .kill_sgid = must_kill_sgid(req, st) };
	int rc = fs_setattr(fs_of(req), ino, &change, st);

	if (rc == 0)
		fuse_lowlevel_notify_inval_inode(session_of(req)->se, ino, -1, 0); // attributes only: takes no lock of the file
	return rc;
}

int drop_suidgid(fuse_req_t req, fuse_ino_t ino)
{
	struct stat st;
	int rc = fs_getattr(fs_of(req), ino, &st);

	return rc != 0 || !has_suidgid(&st) ? rc : drop_bits(req, ino, &st);
}

int drop_suidgid_unless_capable(fuse_req_t req, fuse_ino_t ino)
{
	struct stat st;
	int rc;

	if (!transport_handles_killpriv(session_of(req)->transport))
		return 0;
	rc = fs_getattr(fs_of(req), ino, &st);
	if (rc != 0 || !has_suidgid(&st) || caller_is_capable(req, CAP_FSETID))
		return rc;
	return drop_bits(req, ino, &st);
}

// ---- INIT ----

static void want_if_offered(struct fuse_conn_info *conn, unsigned capability)
{
	conn->want |= conn->capable & capability;
}

static bool want_all_or_none(struct fuse_conn_info *conn, unsigned capabilities)
{
	if ((conn->capable & capabilities) != capabilities)
		return false;
	conn->want |= capabilities;
	return true;
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct session *s = userdata;

	conn->want &= ~(unsigned)(FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_SPLICE_READ |
	                          FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_ASYNC_DIO);
	want_if_offered(conn, FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
	                      FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_CACHE_SYMLINKS |
	                      FUSE_CAP_EXPORT_SUPPORT);
	if (s->writeback && want_all_or_none(conn, FUSE_CAP_WRITEBACK_CACHE))
		fs_leave_times_to_kernel(s->fs);
	s->acl = s->want_acl && want_all_or_none(conn, FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK);
	s->no_open = (conn->capable & FUSE_CAP_NO_OPEN_SUPPORT) != 0;
	s->no_opendir = (conn->capable & FUSE_CAP_NO_OPENDIR_SUPPORT) != 0;
	conn->max_write = TRANSPORT_MAX_WRITE;
	conn->max_background = MAX_BACKGROUND;
	conn->time_gran = 1;
}

const struct fuse_lowlevel_ops fuse_ops_table = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_rmdir,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.open = op_open,
	.read = op_read,
	.write = op_write,
	.flush = op_flush,
	.release = op_release,
	.fsync = op_fsync,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_releasedir,
	.fsyncdir = op_fsync,
	.statfs = op_statfs,
	.setxattr = op_setxattr,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.removexattr = op_removexattr,
	.create = op_create,
	.ioctl = op_ioctl,
	.fallocate = op_fallocate,
	.copy_file_range = op_copy_file_range,
	.lseek = op_lseek,
	.bmap = op_statx, // R6 of transport.h
};
