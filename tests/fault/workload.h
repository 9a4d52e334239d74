// SPDX-License-Identifier: MIT
// What is done to a volume while requests fail: scenarios, each a list of operations of the filesystem core (workload.c), and how
// an operation is carried out (ops.c).
#ifndef HYBRIDFS_TESTS_FAULT_WORKLOAD_H
#define HYBRIDFS_TESTS_FAULT_WORKLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/fs.h"

struct work {
	struct fs *fs;
	uint64_t held;   // an inode that is kept in use without a name; 0 = none
	uint64_t digest; // of what the last operation has read
	unsigned round;  // of a repeated operation
};

enum op_flags {
	OP_DURABLE = 1 << 0, // when it has returned, everything before it is durable
	OP_PARTIAL = 1 << 1, // may have done a part of it when it fails: then the files at path and path2 may hold anything
	OP_READS = 1 << 2,   // changes nothing
};

struct op {
	const char *name;
	int (*run)(struct work *w, const struct op *op);
	const char *path, *path2;
	uint64_t off, len;
	int arg;
	unsigned flags;
	unsigned times; // 0 = 1
};

enum scenario_kind { RUN_FORMAT, RUN_SESSION, RUN_FSCK };

struct scenario {
	const char *name;
	enum scenario_kind kind;
	const struct op *ops; // ends with a name of NULL
	unsigned open_flags;  // of volume_open()
	bool discard;         // the device is trimmed
	bool unplug;          // ends by pulling the plug instead of closing
	const char *damage;   // SQL that is run on the volume before
	const char *fsck_mode; // "-n" or "-y"
	int fsck_status;      // without a fault
};

extern const struct scenario scenarios[];
extern const unsigned n_scenarios;

// One of everything that changes something, in TREE_PROBE, on a volume that may have failed: returns how many answers there are. The
// last one is of a sync.
int try_everything(struct fs *fs, int answers[], int max);

int op_create(struct work *w, const struct op *op);
int op_mkdir(struct work *w, const struct op *op);
int op_mkfifo(struct work *w, const struct op *op);
int op_symlink(struct work *w, const struct op *op);
int op_link(struct work *w, const struct op *op);
int op_unlink(struct work *w, const struct op *op);
int op_rmdir(struct work *w, const struct op *op);
int op_rename(struct work *w, const struct op *op);   // arg: a flag
int op_hold(struct work *w, const struct op *op);     // keeps path in use until op_release
int op_tmpfile(struct work *w, const struct op *op);  // made in the directory path, and kept like that
int op_name_held(struct work *w, const struct op *op);
int op_release(struct work *w, const struct op *op);
int op_read_held(struct work *w, const struct op *op);
int op_write_held(struct work *w, const struct op *op);
int op_write(struct work *w, const struct op *op);    // len bytes at off; arg: seed of the content
int op_truncate(struct work *w, const struct op *op); // to len
int op_chmod(struct work *w, const struct op *op);    // arg: mode
int op_chown(struct work *w, const struct op *op);    // arg: uid
int op_utimes(struct work *w, const struct op *op);
int op_setxattr(struct work *w, const struct op *op); // path2: name; len bytes; arg: seed
int op_setacl(struct work *w, const struct op *op);   // path2: name; for the user and the group whose number is arg
int op_removexattr(struct work *w, const struct op *op);
int op_fallocate(struct work *w, const struct op *op); // arg: mode
int op_copy(struct work *w, const struct op *op);      // len bytes from path at off to path2 at arg
int op_fsync(struct work *w, const struct op *op);
int op_sync(struct work *w, const struct op *op);
int op_wait_trim(struct work *w, const struct op *op);
int op_read(struct work *w, const struct op *op);
int op_stat(struct work *w, const struct op *op);
int op_readdir(struct work *w, const struct op *op);   // arg: with attributes
int op_readlink(struct work *w, const struct op *op);
int op_getxattr(struct work *w, const struct op *op);  // path2: name
int op_listxattr(struct work *w, const struct op *op);
int op_lseek(struct work *w, const struct op *op);     // from off; arg: whence
int op_statfs(struct work *w, const struct op *op);

#endif
