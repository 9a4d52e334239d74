// SPDX-License-Identifier: MIT
// The mount itself: putting a FUSE session on a directory, and taking it off again while it is being served.
//
// Lock: none; used by the daemon's main thread only. That thread may live in another mount namespace (namespace.h).
#ifndef HYBRIDFS_FS_MOUNTING_H
#define HYBRIDFS_FS_MOUNTING_H

#include <sys/types.h>

#include "fs/options.h"
#include "util/attr.h"
#include "util/errmsg.h"

struct fuse_session;

// Resolves the mount point to an absolute path, which the caller frees, after seeing that something can be mounted there.
int mount_check_point(const char *path, char **absolute, struct errmsg *why) ATTR_MUST_USE;

// A session with our operations and mount options for the device (an absolute path), not mounted yet.
int mount_create_session(const struct options *opts, const char *device, bool read_only, void *userdata, struct fuse_session **out,
                         struct errmsg *why) ATTR_MUST_USE;

// Mounts. What libfuse or fusermount3 say goes into `why`.
int mount_session(struct fuse_session *se, const char *mountpoint, struct errmsg *why) ATTR_MUST_USE;

// Writes the kernel's dirty pages back and unmounts, while other threads serve the session. The session ends when this succeeded.
// `dev` is st_dev of the mount: if something else is mounted over it by now, that stays. -EBUSY: somebody is using it.
int mount_take_off(const char *mountpoint, dev_t dev) ATTR_MUST_USE;

#endif
