// SPDX-License-Identifier: MIT
#include "fs/namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int namespace_enter(const char *ns, struct errmsg *why)
{
	char path[64];
	int fd, rc = 0;

	if (ns[strspn(ns, "0123456789")] == '\0') {
		snprintf(path, sizeof(path), "/proc/%s/ns/mnt", ns);
		ns = path;
	}
	fd = open(ns, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || unshare(CLONE_FS) < 0 || setns(fd, CLONE_NEWNS) < 0) { // setns wants a working directory that no thread shares
		rc = -errno;
		errmsg_set(why, "mount namespace %s cannot be entered: %s", ns, strerror(-rc));
	}
	if (fd >= 0)
		close(fd);
	return rc;
}
