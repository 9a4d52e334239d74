// SPDX-License-Identifier: MIT
// Who has a device or an image that is busy: the mount point and the process, for the error message.
//
// Reads /proc and remembers nothing. The answers are hints for a person: other namespaces are not visible, and what
// was true may have ended. Nothing is decided by them except whether waiting makes sense.
#ifndef HYBRIDFS_BLOCK_HOLDER_H
#define HYBRIDFS_BLOCK_HOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

#define HOLDER_PROGRAM_LEN 64

// Whether a mount in this namespace has `path` (described by st) as its source; its mount point goes to buf, cut to fit.
bool holder_mount_point(const char *path, const struct stat *st, char *buf, size_t len_bytes);

// Whether /proc/locks names a process with a flock(2) on the file. `program` is "" if that process is gone or hidden.
bool holder_process(const struct stat *st, pid_t *pid, char program[HOLDER_PROGRAM_LEN]);

#endif
