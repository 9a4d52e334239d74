// SPDX-License-Identifier: MIT
// FUSE operations on the contents of files.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/fuse_ops.h"
#include "util/blk.h"

// After ENOSYS the kernel opens and closes by itself.
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	if (session_of(req)->no_open) {
		reply_status(req, -ENOSYS);
		return;
	}
	fi->keep_cache = 1;
	fuse_reply_open(req, fi);
}

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	reply_status(req, 0);
}

// close(2) has nothing to wait for: errors of writing were told by write(2). After ENOSYS it is never asked again.
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	reply_status(req, -ENOSYS);
}

// A bad block in the middle: direct reads get what is before it. A buffered read that came short would make the kernel fill its pages
// with zeros, or take the file for shorter; after an error it asks again for each page, and only those with the block fail. Pages are also
// read through a file that is open with O_DIRECT (mmap): only a read that names its owner goes to the caller's memory.
static bool short_is_good(const struct fuse_file_info *fi, int rc, size_t done)
{
	return rc == -EIO && done > 0 && (fi->flags & O_DIRECT) != 0 && fi->lock_owner != 0;
}

void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	char *buf = malloc(max_u64(size, 1));
	size_t done = 0;
	int rc = -ENOMEM;

	if (buf != NULL)
		rc = fs_read(fs_of(req), ino, buf, size, (uint64_t)off, &done);
	if (rc != 0 && !short_is_good(fi, rc, done))
		reply_status(req, rc);
	else
		fuse_reply_buf(req, buf, done);
	free(buf);
}

void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	size_t done = 0;
	int rc = 0;

	if ((fi->fh & TRANSPORT_FH_KILL_SUIDGID) != 0)
		rc = drop_suidgid(req, ino);
	if (rc == 0)
		rc = fs_write(fs_of(req), ino, buf, size, (uint64_t)off, false, &done);
	if (rc != 0)
		reply_status(req, rc);
	else
		fuse_reply_write(req, done);
}

void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)datasync; // a transaction is durable as a whole
	(void)fi;
	reply_status(req, fs_fsync(fs_of(req), ino));
}

void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	int rc = drop_suidgid_unless_capable(req, ino);

	(void)fi;
	if (rc == 0)
		rc = fs_fallocate(fs_of(req), ino, mode, (uint64_t)off, (uint64_t)len);
	if (rc == -ENOSPC) // some blocks may be there: after an error the kernel does not ask
		fuse_lowlevel_notify_inval_inode(session_of(req)->se, ino, -1, 0);
	reply_status(req, rc);
}

void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	uint64_t found;
	int rc = -EINVAL;

	(void)fi;
	if (whence == SEEK_DATA || whence == SEEK_HOLE)
		rc = fs_lseek(fs_of(req), ino, (uint64_t)off, whence, &found);
	if (rc != 0)
		reply_status(req, rc);
	else
		fuse_reply_lseek(req, (off_t)found);
}

void op_copy_file_range(fuse_req_t req, fuse_ino_t in, off_t in_off, struct fuse_file_info *in_fi, fuse_ino_t out, off_t out_off,
                        struct fuse_file_info *out_fi, size_t len, int flags)
{
	size_t done = 0;
	int rc = flags == 0 ? drop_suidgid_unless_capable(req, out) : -EINVAL;

	(void)in_fi;
	(void)out_fi;
	if (rc == 0)
		rc = fs_copy_range(fs_of(req), in, (uint64_t)in_off, out, (uint64_t)out_off, len, &done);
	if (rc == 0 && done > 0) // of the target it knows by itself, but not that the source was read
		fuse_lowlevel_notify_inval_inode(session_of(req)->se, in, -1, 0);
	if (rc != 0)
		reply_status(req, rc);
	else
		fuse_reply_write(req, done);
}
