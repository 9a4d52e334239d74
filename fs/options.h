// SPDX-License-Identifier: MIT
// The daemon's command line, in both conventions that it is called by.
//
//   hybridfs [-f] [-d] [-o options] DEVICE MOUNTPOINT          by a person, or by mount.fuse3
//   mount.hybridfs DEVICE MOUNTPOINT [-sfnv] [-N ns] [-o options] [-t type]     by mount(8)
//
// The second one is recognised by the name of the program, which begins with "mount.": there -f means "fake" and not
// "foreground". Options and operands may come in any order. The names below are also in --help and in hybridfs(8), and a
// test holds these against each other.
#ifndef HYBRIDFS_FS_OPTIONS_H
#define HYBRIDFS_FS_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

#include "alloc/engine.h"
#include "fs/fs.h"
#include "fs/transport.h"
#include "util/attr.h"
#include "util/errmsg.h"

// Exit codes of mount(8).
enum mount_exit {
	MOUNT_OK = 0,
	MOUNT_USAGE = 1,
	MOUNT_SYSTEM = 2,
	MOUNT_INTERNAL = 4,
	MOUNT_INTERRUPTED = 8,
	MOUNT_FAILED = 32,
};

enum options_action { OPTIONS_MOUNT, OPTIONS_HELP, OPTIONS_VERSION };

#define OPTIONS_KERNEL_LEN 128

struct options {
	enum options_action action;
	const char *device;     // as written; points into argv
	const char *mountpoint; // as written; points into argv
	const char *ns;         // mount namespace: a path or a process number; NULL = ours
	bool helper;            // called by mount(8)
	bool foreground;
	bool debug;             // implies foreground
	bool fake;              // everything but the mount: only the arguments are checked
	bool sloppy;            // unknown mount options are ignored
	bool read_only;
	bool norecovery;        // only with read_only, which implies it: nothing is ever written then
	bool allow_other;
	bool writeback;
	bool noacl;
	bool nodiratime;
	bool discard;           // freed space is trimmed
	bool nodatacow;
	unsigned commit_s;      // seconds between commits; 0 = the volume's default
	enum transport_kind transport;
	unsigned poll_us;       // see duty.h and keeper.h; 0 = never
	const struct engine_ops *engine; // of the allocator; NULL = the default one
	enum fs_atime atime;
	char kernel[OPTIONS_KERNEL_LEN]; // for the mount itself: "nosuid,nodev,…", or empty
};

// 0, or -EINVAL with a one-line explanation.
int options_parse(int argc, char **argv, struct options *out, struct errmsg *why) ATTR_MUST_USE;

void options_help(FILE *to);

#endif
