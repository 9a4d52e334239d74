// SPDX-License-Identifier: MIT
// The FUSE operation ioctl, by what it is about:
//
//   of a file       FS_IOC_GETFLAGS, FS_IOC_SETFLAGS (chattr), FS_IOC_FSGETXATTR (asked by the kernel before it sets flags)
//   of the volume   FITRIM (fstrim), FS_IOC_GETFSLABEL, FS_IOC_SETFSLABEL, XFS_IOC_GOINGDOWN (the forced shutdown that XFS, ext4, F2FS
//                   and others have): any file or directory
//   of the daemon   fsck/control.h: the root directory
//
// All others are ENOTTY, which is what programs expect that try one.
//
// The kernel carries as many bytes as the number says, in the directions that it says. XFS_IOC_GOINGDOWN says that it is read, although its
// argument is what the caller gives: so only the argument's address arrives. The caller waits for the answer, so the argument is still
// there, and is read from the caller's memory, as a debugger would.
#include <errno.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fs/caller.h"
#include "fs/fuse_ops.h"
#include "util/blk.h"

// As in xfsprogs' xfs_fs.h.
#define IOC_GOINGDOWN _IOR('X', 125, uint32_t)
enum going_down {
	GOING_DOWN_FLUSH,     // everything becomes durable first, with what the kernel has not written yet
	GOING_DOWN_LOG_FLUSH, // everything that the daemon was told
	GOING_DOWN_NO_FLUSH,  // nothing: as a power cut
	GOING_DOWN_N,
};

// What only CAP_SYS_ADMIN may do elsewhere. A mount of root's asks for that, too: root of a container does not have it. That of an ordinary user
// is his, and he may not look at root's capabilities.
static bool may_administer(fuse_req_t req)
{
	uid_t caller = fuse_req_ctx(req)->uid, ours = geteuid();

	if (ours == 0)
		return caller_is_capable(req, CAP_SYS_ADMIN);
	return caller == 0 || caller == ours;
}

static void reply_ioctl(fuse_req_t req, int rc, const void *out, size_t size)
{
	if (rc != 0)
		reply_status(req, rc);
	else
		fuse_reply_ioctl(req, 0, out, size);
}

// ---- of the daemon ----

static void control_ioctl(fuse_req_t req, unsigned cmd, const void *in, size_t in_size, size_t out_size)
{
	union checker_answer *answer = malloc(sizeof(*answer));
	size_t size = 0;
	int rc = -ENOMEM;

	if (answer != NULL)
		rc = checker_ioctl(session_of(req)->checker, fuse_req_ctx(req)->uid, cmd, in, in_size, answer, &size);
	if (rc == 0 && size > out_size)
		rc = -EINVAL;
	reply_ioctl(req, rc, answer, size);
	free(answer);
}

// ---- of the volume ----

static bool trim_is_cancelled(void *req) { return fuse_req_interrupted(req) != 0; }

static void trim_ioctl(fuse_req_t req, const void *in, size_t in_size)
{
	struct fstrim_range range;
	struct fs_trim t = { .cancelled = trim_is_cancelled, .ctx = req };
	int rc = may_administer(req) ? 0 : -EPERM;

	if (rc == 0 && in_size < sizeof(range))
		rc = -EINVAL;
	if (rc == 0) {
		memcpy(&range, in, sizeof(range));
		t.start_bytes = range.start;
		t.len_bytes = range.len;
		t.min_bytes = range.minlen;
		rc = fs_trim(fs_of(req), &t);
		range.len = t.trimmed_bytes;
	}
	reply_ioctl(req, rc, &range, sizeof(range));
}

static void label_ioctl(fuse_req_t req, unsigned cmd, const void *in, size_t in_size)
{
	struct volume *vol = fs_volume(fs_of(req));
	char label[FSLABEL_MAX] = { 0 };
	int rc = 0;

	_Static_assert(sizeof(label) > SB_LABEL_MAX, "the ioctl's labels are longer than ours");
	if (cmd == (unsigned)FS_IOC_GETFSLABEL) {
		volume_get_label(vol, label);
		reply_ioctl(req, 0, label, sizeof(label));
		return;
	}
	memcpy(label, in, min_u64(in_size, sizeof(label)));
	if (!may_administer(req))
		rc = -EPERM;
	else if (memchr(label, '\0', sizeof(label)) == NULL)
		rc = -EINVAL;
	else
		rc = volume_set_label(vol, label);
	reply_ioctl(req, rc, NULL, 0);
}

// Where the caller's memory may not be read (an unprivileged daemon), the gentlest way counts.
static int read_going_down(fuse_req_t req, void *arg, uint32_t *how)
{
	struct iovec ours = { how, sizeof(*how) }, theirs = { arg, sizeof(*how) };
	ssize_t n = process_vm_readv(fuse_req_ctx(req)->pid, &ours, 1, &theirs, 1, 0);

	if (n < 0 && errno == EFAULT)
		return -EFAULT;
	if (n != sizeof(*how))
		*how = GOING_DOWN_FLUSH;
	return *how < GOING_DOWN_N ? 0 : -EINVAL;
}

static void drop_cache(void *ctx, uint64_t ino) { fuse_lowlevel_notify_inval_inode(ctx, ino, 0, 0); }

// What the kernel has cached of files and directories goes, attributes too, after dirty pages were written. The kernel waits for requests that
// others are at, never for this one.
static int drop_caches(fuse_req_t req)
{
	return fs_for_each_referenced(fs_of(req), drop_cache, session_of(req)->se);
}

static void going_down_ioctl(fuse_req_t req, void *arg)
{
	uint32_t how = GOING_DOWN_FLUSH;
	int rc = may_administer(req) ? read_going_down(req, arg, &how) : -EPERM, err;

	if (rc == 0 && how == GOING_DOWN_FLUSH)
		rc = drop_caches(req);
	if (rc == 0) {
		rc = volume_shut_down(fs_volume(fs_of(req)), how != GOING_DOWN_NO_FLUSH);
		err = drop_caches(req); // so that it does not go on answering for us
		rc = rc != 0 ? rc : err;
	}
	reply_ioctl(req, rc, NULL, 0);
}

// ---- of a file ----

// The kernel asks for flags with an int, whatever the number says; the attributes that XFS has are none here.
static void flags_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, const void *in, size_t in_size, size_t out_size)
{
	const struct fsxattr none = { 0 };
	unsigned value = 0;
	int rc = -ENOTTY;

	if (cmd == (unsigned)FS_IOC_GETFLAGS && out_size >= sizeof(value)) {
		rc = fs_get_flags(fs_of(req), ino, &value);
		reply_ioctl(req, rc, &value, sizeof(value));
		return;
	}
	if (cmd == (unsigned)FS_IOC_FSGETXATTR && out_size >= sizeof(none)) {
		reply_ioctl(req, 0, &none, sizeof(none));
		return;
	}
	if (cmd == (unsigned)FS_IOC_SETFLAGS && in_size >= sizeof(value)) {
		memcpy(&value, in, sizeof(value));
		rc = fs_set_flags(fs_of(req), ino, value);
	}
	reply_ioctl(req, rc, NULL, 0);
}

void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags, const void *in,
              size_t in_size, size_t out_size)
{
	(void)fi;
	(void)flags;
	if (ino == FUSE_ROOT_ID && _IOC_TYPE(cmd) == _IOC_TYPE(CONTROL_IOC_START))
		control_ioctl(req, cmd, in, in_size, out_size);
	else if (cmd == (unsigned)FITRIM && out_size >= sizeof(struct fstrim_range))
		trim_ioctl(req, in, in_size);
	else if ((cmd == (unsigned)FS_IOC_GETFSLABEL && out_size >= FSLABEL_MAX) || cmd == (unsigned)FS_IOC_SETFSLABEL)
		label_ioctl(req, cmd, in, in_size);
	else if (cmd == (unsigned)IOC_GOINGDOWN)
		going_down_ioctl(req, arg);
	else
		flags_ioctl(req, ino, cmd, in, in_size, out_size);
}
