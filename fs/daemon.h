// SPDX-License-Identifier: MIT
// The life of the daemon: from a parsed command line to a volume that is closed again.
#ifndef HYBRIDFS_FS_DAEMON_H
#define HYBRIDFS_FS_DAEMON_H

#include "fs/options.h"

// In the background (the normal case): starts the daemon, returns when the mount serves or has failed, in the second case after one
// line on stderr. In the foreground: returns when the mount has ended. An exit code of mount(8).
enum mount_exit daemon_run(const struct options *opts) ATTR_MUST_USE;

#endif
