// SPDX-License-Identifier: MIT
// What the process behind a request may: its capabilities and groups, which FUSE does not hand on. From /proc, so it costs some tens of
// microseconds: ask only when the answer makes a difference.
//
// The process waits for the answer to its request, so it is still there, as it was. Where it cannot be looked at (no /proc, a process of another
// PID namespace), root is taken to be capable, and everybody to be in the group that the request names alone.
//
// Lock: none.
#ifndef HYBRIDFS_FS_CALLER_H
#define HYBRIDFS_FS_CALLER_H

#define FUSE_USE_VERSION 35
#include <fuse3/fuse_lowlevel.h>
#include <stdbool.h>
#include <sys/types.h>

// Whether the kernel's capable(cap) says yes: CAP_*, in the first user namespace.
bool caller_is_capable(fuse_req_t req, int cap);

// Whether it may keep or give away setgid of a file of this group.
bool caller_may_setgid(fuse_req_t req, gid_t gid);

#endif
