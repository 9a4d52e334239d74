// SPDX-License-Identifier: MIT
// Moving requests between the kernel and libfuse: on which way they come, on which thread, and what is put right on the way.
//
// libfuse mounts, parses requests and builds replies; everything between its session and the kernel goes through here. That has
// three reasons: the number of threads and their sleeping decide how fast a small request is answered; the INIT exchange can be given
// flags that the library does not know (transport_init.c); and there are two ways to the kernel, one small vtable
// (transport_internal.h) with two implementations:
//
//   transport_dev.c     /dev/fuse: read(2) and write(2). Always there.
//   transport_uring.c   FUSE over io_uring (Linux 6.14): a queue for each CPU, in whose threads requests arrive and are answered with one
//                       system call. Beside the first one, which goes on carrying what the kernel sends no other way (INIT, FORGET,
//                       INTERRUPT) and takes everything over when the rings fail.
//
// Owner:  the daemon. Create it after fuse_session_mount(), destroy it before fuse_session_destroy().
// Lock:   none needed by callers; create, start, stop and destroy belong to one thread.
// Errors: 0 or a negative errno.
//
// R1  Every request is processed and replied to on the thread that got it. One that takes long does not keep others waiting: on
//     /dev/fuse for more than two milliseconds (duty.h, Y1), on a ring at all (transport_uring.h, U2), as long as fewer than
//     max_threads are at such requests.
// R2  The session's userdata points to an object whose first member is the `struct transport *`.
// R3  SIGUSR1 belongs to the transport: it wakes its threads at the end.
// R4  For a WRITE, fuse_file_info.fh is not a file handle (this filesystem has none) but TRANSPORT_FH_* bits of the request.
//     fuse_file_info.writepage is as libfuse says: the data comes from the kernel's cache.
// R5  A TMPFILE (Linux 6.1), of which libfuse 3.14 does not know, comes as a CREATE with TRANSPORT_FLAG_NAMELESS in fuse_file_info.flags; the name
//     means nothing. It is the same request otherwise, and wants the same answer.
// R6  STATX, which libfuse 3.14 does not know, comes as BMAP, which Linux sends only to filesystems of type fuseblk. The reply is the struct
//     fuse_statx_out itself (fuse_reply_buf).
// R7  No request is lost between the two ways: the kernel is told of the rings only when all of them are ready to work, and until each has
//     a queue registered it holds requests back or sends them to /dev/fuse, which is read all the time.
#ifndef HYBRIDFS_FS_TRANSPORT_H
#define HYBRIDFS_FS_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"

struct fuse_session;
struct transport;

// The writer lacks CAP_FSETID: clear setuid and setgid (FUSE_WRITE_KILL_SUIDGID; only with transport_handles_killpriv()).
#define TRANSPORT_FH_KILL_SUIDGID (UINT64_C(1) << 0)

#define TRANSPORT_FLAG_NAMELESS (1 << 22) // __O_TMPFILE

#define TRANSPORT_MAX_WRITE (1u << 20) // bytes of data in one request

enum transport_kind {
	TRANSPORT_AUTO,  // rings where the kernel offers them, else /dev/fuse
	TRANSPORT_URING, // the same; whoever insists asks transport_over_uring()
	TRANSPORT_DEV,
};

struct transport_opts {
	enum transport_kind kind;
	unsigned poll_us; // how long to stay awake for the next request, while they keep coming; 0 = never
	unsigned max_threads; // 1 … 256, for /dev/fuse and for each CPU's queue; each costs TRANSPORT_MAX_WRITE of address space and,
	                      // while it has had writes, of memory
};

int transport_create(struct fuse_session *se, const struct transport_opts *opts, struct transport **out) ATTR_MUST_USE;

// Starts serving and returns.
int transport_start(struct transport *t) ATTR_MUST_USE;

// Whether requests come over rings. Not before the mount has answered something: then it is decided, and stays. If they do not,
// transport_why_not_uring() says why, in words that go after a colon.
bool transport_over_uring(struct transport *t);
const char *transport_why_not_uring(struct transport *t);

// Becomes readable (poll) when the session has ended: unmounted, aborted, or broken.
int transport_ended_fd(const struct transport *t);

// Asks the threads to leave although the session has not ended. They finish what they are at; transport_destroy() waits for them.
void transport_stop(struct transport *t);

// Waits for the threads and frees everything. NULL is allowed. Answers the error that ended the session, or 0.
int transport_destroy(struct transport *t);

// Whether the kernel leaves the clearing of setuid, setgid and file capabilities to us (FUSE_HANDLE_KILLPRIV_V2, Linux 5.12).
bool transport_handles_killpriv(const struct transport *t);

// The requests that there were, to the log: how many of each kind, their time, and the sizes of reads and writes.
void transport_log_requests(struct transport *t);

// Room for the data of a reply, on a thread that processes a READ: a reply made there is copied once less. NULL if `size` is too much.
// Valid until the reply, page-aligned, and not cleared.
void *transport_read_room(struct transport *t, size_t size);

#endif
