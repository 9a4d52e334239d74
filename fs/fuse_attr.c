// SPDX-License-Identifier: MIT
// FUSE operations on attributes, extended attributes and the volume's numbers.
#include <errno.h>
#include <linux/capability.h>
#include <linux/fuse.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "fs/caller.h"
#include "fs/fuse_ops.h"

#define ACL_PREFIX "system.posix_acl_"
#define TRUSTED_PREFIX "trusted."

// What the kernel wants as the answer to STATX; older headers do not have it. Its struct fuse_statx is struct statx.
struct statx_out {
	uint64_t attr_valid_s;
	uint32_t attr_valid_ns, flags;
	uint64_t spare[2];
	struct statx st;
};
static_assert(sizeof(struct statx_out) == 288, "struct fuse_statx_out");

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	reply_attr(req, fs_getattr(fs_of(req), ino, &st), &st);
}

static struct statx_timestamp to_statx_time(struct timespec ts)
{
	return (struct statx_timestamp){ .tv_sec = ts.tv_sec, .tv_nsec = (uint32_t)ts.tv_nsec };
}

// The only request that can be told when a file was made.
void op_statx(fuse_req_t req, fuse_ino_t ino, size_t unused1, uint64_t unused2)
{
	struct statx_out out = { .attr_valid_s = (uint64_t)FUSE_CACHE_S };
	struct timespec btime;
	struct stat st;
	int rc = fs_getattr_btime(fs_of(req), ino, &st, &btime);

	(void)unused1;
	(void)unused2;
	if (rc != 0) {
		reply_status(req, rc);
		return;
	}
	out.st = (struct statx){
		.stx_mask = STATX_BASIC_STATS | STATX_BTIME,
		.stx_blksize = (uint32_t)st.st_blksize,
		.stx_nlink = (uint32_t)st.st_nlink,
		.stx_uid = st.st_uid,
		.stx_gid = st.st_gid,
		.stx_mode = (uint16_t)st.st_mode,
		.stx_ino = st.st_ino,
		.stx_size = (uint64_t)st.st_size,
		.stx_blocks = (uint64_t)st.st_blocks,
		.stx_atime = to_statx_time(st.st_atim),
		.stx_btime = to_statx_time(btime),
		.stx_ctime = to_statx_time(st.st_ctim),
		.stx_mtime = to_statx_time(st.st_mtim),
		.stx_rdev_major = major(st.st_rdev),
		.stx_rdev_minor = minor(st.st_rdev),
	};
	fuse_reply_buf(req, (const char *)&out, sizeof(out));
}

static unsigned set_bits(int to_set)
{
	static const struct {
		int fuse;
		unsigned ours;
	} map[] = {
		{ FUSE_SET_ATTR_MODE, FS_SET_MODE },
		{ FUSE_SET_ATTR_UID, FS_SET_UID },
		{ FUSE_SET_ATTR_GID, FS_SET_GID },
		{ FUSE_SET_ATTR_SIZE, FS_SET_SIZE },
		{ FUSE_SET_ATTR_ATIME, FS_SET_ATIME },
		{ FUSE_SET_ATTR_MTIME, FS_SET_MTIME },
		{ FUSE_SET_ATTR_ATIME_NOW, FS_SET_ATIME_NOW },
		{ FUSE_SET_ATTR_MTIME_NOW, FS_SET_MTIME_NOW },
		{ FUSE_SET_ATTR_CTIME, FS_SET_CTIME },
	};
	unsigned bits = 0;

	for (size_t i = 0; i < ARRAY_LEN(map); i++)
		if ((to_set & map[i].fuse) != 0)
			bits |= map[i].ours;
	return bits;
}

// A chown that changes neither owner nor group sets nothing at all, and the kernel lets it pass, whoever calls: it leaves out what would have been
// refused. The same request comes when a writer takes file capabilities away, whose next request says by itself what goes. So it counts only when
// it comes from whom chmod(2) would obey.
static bool is_empty_chown(fuse_req_t req, fuse_ino_t ino, unsigned set)
{
	struct stat st;

	if ((set & ~(unsigned)FS_SET_CTIME) != 0 || fs_getattr(fs_of(req), ino, &st) != 0 || (st.st_mode & (S_ISUID | S_ISGID)) == 0)
		return false;
	return fuse_req_ctx(req)->uid == st.st_uid || caller_is_capable(req, CAP_FOWNER);
}

// If clearing setuid and setgid is ours, a chown says so by being one; a truncation has a flag, which libfuse hands on without a name of its own.
static bool must_kill_suidgid(fuse_req_t req, fuse_ino_t ino, unsigned set, int to_set)
{
	if (!transport_handles_killpriv(session_of(req)->transport))
		return false;
	return (set & (FS_SET_UID | FS_SET_GID)) != 0 || (to_set & FATTR_KILL_SUIDGID) != 0 || is_empty_chown(req, ino, set);
}

void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct fs_setattr change = {
		.set = set_bits(to_set),
		.mode = attr->st_mode,
		.uid = attr->st_uid,
		.gid = attr->st_gid,
		.size_bytes = (uint64_t)attr->st_size,
		.atime = attr->st_atim,
		.mtime = attr->st_mtim,
		.ctime = attr->st_ctim,
	};
	struct stat st;

	(void)fi;
	change.kill_suidgid = must_kill_suidgid(req, ino, change.set, to_set);
	if (change.kill_suidgid)
		change.kill_sgid = fs_getattr(fs_of(req), ino, &st) == 0 && must_kill_sgid(req, &st);
	reply_attr(req, fs_setattr(fs_of(req), ino, &change, &st), &st);
}

void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;
	int rc = fs_statfs(fs_of(req), &st);

	(void)ino;
	if (rc != 0)
		reply_status(req, rc);
	else
		fuse_reply_statfs(req, &st);
}

// ---- extended attributes ----

// ACLs that the kernel would not check are not there: neither seen nor changed.
static bool is_hidden_acl(fuse_req_t req, const char *name)
{
	return !session_of(req)->acl && strncmp(name, ACL_PREFIX, strlen(ACL_PREFIX)) == 0;
}

// Whether a file's setgid goes because somebody who is not of its group sets its access ACL, as with chmod(2).
static bool acl_kills_sgid(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	struct stat st;

	return strcmp(name, ACL_PREFIX "access") == 0 && fs_getattr(fs_of(req), ino, &st) == 0 && (st.st_mode & S_ISGID) != 0 &&
	       !caller_may_setgid(req, st.st_gid);
}

void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	flags &= XATTR_CREATE | XATTR_REPLACE;
	if (is_hidden_acl(req, name)) {
		reply_status(req, -EOPNOTSUPP);
		return;
	}
	if (acl_kills_sgid(req, ino, name))
		flags |= FS_XATTR_KILL_SGID;
	reply_status(req, fs_setxattr(fs_of(req), ino, name, value, size, flags));
}

void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	reply_status(req, is_hidden_acl(req, name) ? -EOPNOTSUPP : fs_removexattr(fs_of(req), ino, name));
}

// Replies with `len` bytes of buf, or with the length alone if the caller has asked for that (size 0).
static void reply_xattr(fuse_req_t req, int rc, const char *buf, size_t size, size_t len)
{
	if (rc != 0)
		reply_status(req, rc);
	else if (size == 0)
		fuse_reply_xattr(req, len);
	else
		fuse_reply_buf(req, buf, len);
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	char *buf = size > 0 ? malloc(size) : NULL;
	size_t len = 0;
	int rc;

	if (is_hidden_acl(req, name))
		rc = -EOPNOTSUPP;
	else if (size > 0 && buf == NULL)
		rc = -ENOMEM;
	else
		rc = fs_getxattr(fs_of(req), ino, name, buf, size, &len);
	reply_xattr(req, rc, buf, size, len);
	free(buf);
}

// Takes the names with this prefix out of a list; returns how long it is then.
static size_t hide(char *list, size_t len, const char *prefix)
{
	size_t kept = 0, n;

	for (size_t at = 0; at < len; at += n) {
		n = strlen(list + at) + 1;
		if (strncmp(list + at, prefix, strlen(prefix)) == 0)
			continue;
		memmove(list + kept, list + at, n);
		kept += n;
	}
	return kept;
}

static bool has_prefix(const char *list, size_t len, const char *prefix)
{
	for (size_t at = 0; at < len; at += strlen(list + at) + 1)
		if (strncmp(list + at, prefix, strlen(prefix)) == 0)
			return true;
	return false;
}

// Reading trusted attributes is refused by the kernel, but the list of names goes to the process as we give it.
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	char *list = malloc(XATTR_LIST_MAX);
	size_t len = 0;
	int rc = -ENOMEM;

	if (list != NULL)
		rc = fs_listxattr(fs_of(req), ino, list, XATTR_LIST_MAX, &len);
	if (rc == -ERANGE)
		rc = -E2BIG; // no list is long enough
	if (rc == 0 && !session_of(req)->acl)
		len = hide(list, len, ACL_PREFIX);
	if (rc == 0 && has_prefix(list, len, TRUSTED_PREFIX) && !caller_is_capable(req, CAP_SYS_ADMIN))
		len = hide(list, len, TRUSTED_PREFIX);
	if (rc == 0 && size > 0 && len > size)
		rc = -ERANGE;
	reply_xattr(req, rc, list, size, len);
	free(list);
}
