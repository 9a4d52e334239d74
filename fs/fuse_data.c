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
	char *buf = transport_read_room(session_of(req)->transport, size);
	size_t done = 0;
	int rc = -EINVAL; // more than was agreed on

	if (buf != NULL)
		rc = fs_read(fs_of(req), ino, buf, size, (uint64_t)off, &done);
	if (rc != 0 && !short_is_good(fi, rc, done))
		reply_status(req, rc);
	else
		fuse_reply_buf(req, buf, done);
}

void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	size_t done = 0;
	int rc = 0;

	if ((fi->fh & TRANSPORT_FH_KILL_SUIDGID) != 0)
		rc = drop_suidgid(req, ino);
	if (rc == 0)
		rc = fs_write(fs_of(req), ino, buf, size, (uint64_t)off, fi->writepage ? FS_WRITE_LATE : 0, &done);
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

// What SEEK_DATA or SEEK_HOLE finds, and the hole that it goes by: [start, end), empty if the answer does not depend on one.
struct seek_result {
	int rc;
	uint64_t found, hole_start, hole_end;
};

#define TO_THE_END UINT64_MAX
#define SEEKERS_MAX (SESSION_MAX_THREADS / 2)

static struct seek_result seek_once(struct fs *fs, fuse_ino_t ino, uint64_t off, int whence)
{
	struct seek_result s;

	do { // again if the hole was written to between the two questions, and is none any more
		s = (struct seek_result){ .hole_start = off };
		s.rc = fs_lseek(fs, ino, off, whence, &s.found);
		s.hole_end = s.rc == 0 ? s.found : TO_THE_END;
		if (s.rc != 0 || whence != SEEK_HOLE)
			return s;
		s.hole_start = s.found;
		if (fs_lseek(fs, ino, s.found, SEEK_DATA, &s.hole_end) != 0)
			s.hole_end = TO_THE_END;
	} while (s.hole_end == s.hole_start);
	return s;
}

// Whether the kernel may have data where the answer goes by a hole.
static bool needs_pages(const struct seek_result *s) { return (s->rc == 0 || s->rc == -ENXIO) && s->hole_start < s->hole_end; }

// All of the file is data. Only the kernel knows what is behind the size that we know, when it caches writes.
static struct seek_result seek_blindly(struct session *session, fuse_ino_t ino, uint64_t off, int whence)
{
	struct seek_result s = { .rc = 0 };
	struct stat st;

	s.rc = fs_getattr(session->fs, ino, &st);
	if (s.rc != 0)
		return s;
	s.found = whence == SEEK_DATA ? off : (uint64_t)st.st_size;
	if (session->writeback && (whence == SEEK_HOLE || off >= (uint64_t)st.st_size))
		s.rc = -EAGAIN;
	else if (off >= (uint64_t)st.st_size)
		s.rc = -ENXIO;
	return s;
}

// What was written through mmap(2), or with writeback caching, may lie in the kernel only, in what is a hole for us. The kernel asks us without a
// thought of that. So the pages over the hole that decides are called in (there is nothing of worth in clean ones: zeros), and the question is
// asked again, until the answer is of what was called in.
static struct seek_result seek_with_pages(struct session *session, fuse_ino_t ino, uint64_t off, int whence, struct seek_result s)
{
	uint64_t known = 0; // the pages before it have been called in
	int r;

	while (needs_pages(&s) && s.hole_start >= known && known != TO_THE_END) {
		off_t len = s.hole_end == TO_THE_END ? 0 : (off_t)(s.hole_end - s.hole_start);

		known = s.hole_end;
		r = fuse_lowlevel_notify_inval_inode(session->se, ino, (off_t)s.hole_start, len);
		if (r != 0 && r != -ENOENT) // a page could not be written: what is not known to be a hole is none
			return seek_blindly(session, ino, off, whence);
		s = seek_once(session->fs, ino, off, whence);
	}
	return s;
}

// Calling in pages waits for requests that others are at, and for the WRITEs that come of it. So the threads that do it must never be all that there
// are. When SEEKERS_MAX are at it, others are told what is always allowed.
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct session *session = session_of(req);
	struct seek_result s = { .rc = -EINVAL };

	(void)fi;
	if (whence == SEEK_DATA || whence == SEEK_HOLE)
		s = seek_once(session->fs, ino, (uint64_t)off, whence);
	if (needs_pages(&s)) {
		if (atomic_fetch_add(&session->n_seekers, 1) < SEEKERS_MAX)
			s = seek_with_pages(session, ino, (uint64_t)off, whence, s);
		else
			s = seek_blindly(session, ino, (uint64_t)off, whence);
		atomic_fetch_sub(&session->n_seekers, 1);
	}
	if (s.rc != 0)
		reply_status(req, s.rc);
	else
		fuse_reply_lseek(req, (off_t)s.found);
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
