// SPDX-License-Identifier: MIT
#include "fs/caller.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FIRST_USER_NS_INO 0xeffffffdu // of /proc/PID/ns/user, on every Linux

// The rest of the line of /proc/PID/status that begins with `key`; NULL: cannot be had. To be freed.
static char *read_status(pid_t pid, const char *key)
{
	char path[64], *line = NULL, *rest = NULL;
	size_t cap = 0;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/%ld/status", (long)pid);
	status = pid > 0 ? fopen(path, "re") : NULL;
	if (status == NULL)
		return NULL;
	while (rest == NULL && getline(&line, &cap, status) > 0)
		if (strncmp(line, key, strlen(key)) == 0)
			rest = strdup(line + strlen(key));
	free(line);
	fclose(status);
	return rest;
}

// In a user namespace of its own a process has capabilities that count for nothing outside. One that we may not look at is no user of ours.
static bool in_first_user_ns(pid_t pid)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%ld/ns/user", (long)pid);
	return stat(path, &st) == 0 && st.st_ino == FIRST_USER_NS_INO;
}

bool caller_is_capable(fuse_req_t req, int cap)
{
	const struct fuse_ctx *caller = fuse_req_ctx(req);
	char *text = read_status(caller->pid, "CapEff:");
	uint64_t caps;

	if (text == NULL)
		return caller->uid == 0;
	caps = strtoull(text, NULL, 16);
	free(text);
	return (caps >> cap & 1) != 0 && in_first_user_ns(caller->pid);
}

static bool is_in_group(fuse_req_t req, gid_t gid)
{
	const struct fuse_ctx *caller = fuse_req_ctx(req);
	char *text, *at, *end;
	bool found = false;

	if (caller->gid == gid)
		return true;
	text = read_status(caller->pid, "Groups:");
	for (at = text; !found && at != NULL; at = end) {
		unsigned long group = strtoul(at, &end, 10);

		if (end == at)
			break;
		found = group == gid;
	}
	free(text);
	return found;
}

bool caller_may_setgid(fuse_req_t req, gid_t gid) { return is_in_group(req, gid) || caller_is_capable(req, CAP_FSETID); }
