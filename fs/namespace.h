// SPDX-License-Identifier: MIT
// Working in another mount namespace, for mount(8) -N and umount(8) -N.
#ifndef HYBRIDFS_FS_NAMESPACE_H
#define HYBRIDFS_FS_NAMESPACE_H

#include "util/attr.h"
#include "util/errmsg.h"

// Puts the calling thread, and only this one, into the mount namespace `ns` (a path, or a process number). 0 or a negative errno.
int namespace_enter(const char *ns, struct errmsg *why) ATTR_MUST_USE;

#endif
