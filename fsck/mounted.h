// SPDX-License-Identifier: MIT
// fsck.hybridfs --online: has the daemon of a mounted volume check it (control.h), shows progress and passes on what it says.
#ifndef HYBRIDFS_FSCK_MOUNTED_H
#define HYBRIDFS_FSCK_MOUNTED_H

#include "fsck/fsck.h"

// f->device is the mount point. *status: enum fsck_exit, added up. 0, or a negative errno with f->why. When *f->stop is set the daemon is
// told to stop, and waited for.
int mounted_check(struct fsck *f, uint32_t rate_mib, unsigned *status) ATTR_MUST_USE;

#endif
