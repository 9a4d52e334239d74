// SPDX-License-Identifier: MIT
// The scenarios. Each begins with the volume that the one before it leaves, the first with a device of zeros. Short ones, since every
// request of each is failed in its turn; together they use every function of fs/fs.h.
#include "workload.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <unistd.h>

#include "meta/acl.h"
#include "meta/volume.h"
#include "tree.h"
#include "util/attr.h"

#ifndef RENAME_EXCHANGE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#endif
#define KIB 1024ull

static const struct op create_ops[] = {
	{ "mkdir", op_mkdir, .path = TREE_PROBE },
	{ "mkdir", op_mkdir, .path = TREE_PROBE "/empty" },
	{ "create", op_create, .path = TREE_PROBE "/small" },
	{ "create", op_create, .path = TREE_PROBE "/large" },
	{ "write", op_write, .path = TREE_PROBE "/large", .len = 40 * KIB, .flags = OP_PARTIAL },
	{ "mkdir", op_mkdir, .path = "/a" },
	{ "mkdir", op_mkdir, .path = "/a/b" },
	{ "create", op_create, .path = "/a/inline" },
	{ "write inline", op_write, .path = "/a/inline", .len = 100, .arg = 1 },
	{ "fsync", op_fsync, .path = "/a/inline", .flags = OP_DURABLE },
	{ "create", op_create, .path = "/a/big" },
	{ "write", op_write, .path = "/a/big", .len = 300 * KIB + 7, .arg = 2, .flags = OP_PARTIAL },
	{ "fsync", op_fsync, .path = "/a/big", .flags = OP_DURABLE },
	{ "create", op_create, .path = "/a/b/sparse" },
	{ "write far", op_write, .path = "/a/b/sparse", .off = 500 * KIB + 100, .len = 9 * KIB, .arg = 3, .flags = OP_PARTIAL },
	{ "symlink", op_symlink, .path = "/a/sym", .path2 = "b/sparse" },
	{ "mkfifo", op_mkfifo, .path = "/a/fifo" },
	{ "link", op_link, .path = "/a/inline", .path2 = "/a/b/hard" },
	{ "setxattr", op_setxattr, .path = "/a/big", .path2 = "user.small", .len = 20, .arg = 4 },
	{ "setxattr", op_setxattr, .path = "/a/b", .path2 = "user.large", .len = 20 * KIB, .arg = 5 },
	{ "fsync dir", op_fsync, .path = "/a/b", .flags = OP_DURABLE },
	{ "chmod", op_chmod, .path = "/a/inline", .arg = 0600 },
	{ "chown", op_chown, .path = "/a/big", .arg = 1001 },
	{ "utimes", op_utimes, .path = "/a/big" },
	{ 0 },
};

static const struct op names_ops[] = {
	{ "create", op_create, .path = "/x" },
	{ "create", op_create, .path = "/y" },
	{ "write", op_write, .path = "/y", .len = 10 * KIB, .arg = 10, .flags = OP_PARTIAL },
	{ "fsync dir", op_fsync, .path = "/", .flags = OP_DURABLE },
	{ "readdir", op_readdir, .path = "/a", .flags = OP_READS },
	{ "readdirplus", op_readdir, .path = "/a", .arg = 1, .flags = OP_READS },
	{ "readlink", op_readlink, .path = "/a/sym", .flags = OP_READS },
	{ "stat", op_stat, .path = "/a/b/hard", .flags = OP_READS },
	{ "rename", op_rename, .path = "/x", .path2 = "/a/b/x" },
	{ "rename over", op_rename, .path = "/y", .path2 = "/a/inline" },
	{ "exchange", op_rename, .path = "/a/big", .path2 = "/a/b/x", .arg = RENAME_EXCHANGE },
	{ "rename dir", op_rename, .path = "/a/b", .path2 = "/b", .arg = RENAME_NOREPLACE },
	{ "sync", op_sync, .flags = OP_DURABLE },
	{ "unlink", op_unlink, .path = "/b/hard" },
	{ "mkdir", op_mkdir, .path = "/b/dir" },
	{ "rmdir", op_rmdir, .path = "/b/dir" },
	{ "hold", op_hold, .path = "/b/x", .flags = OP_READS },
	{ "unlink held", op_unlink, .path = "/b/x" },
	{ "read held", op_read_held, .off = 100, .len = 200 * KIB, .flags = OP_READS },
	{ "write held", op_write_held, .off = 4096, .len = 4096, .arg = 11 },
	{ .name = "release", .run = op_release },
	{ "tmpfile", op_tmpfile, .path = "/a" },
	{ "write nameless", op_write_held, .len = 9000, .arg = 12 },
	{ "name it", op_name_held, .path = "/a/late" },
	{ .name = "release", .run = op_release },
	{ "whiteout", op_rename, .path = "/a/late", .path2 = "/a/later", .arg = RENAME_WHITEOUT },
	{ "tmpfile", op_tmpfile, .path = "/a" },
	{ "write nameless", op_write_held, .len = 9000, .arg = 13 },
	{ .name = "release", .run = op_release },
	{ "unlink fifo", op_unlink, .path = "/a/fifo" },
	{ "removexattr", op_removexattr, .path = "/b", .path2 = "user.large" },
	{ "default acl", op_setacl, .path = "/a", .path2 = ACL_DEFAULT_NAME, .arg = 7 },
	{ "create below it", op_create, .path = "/a/acl" },
	{ "mkdir below it", op_mkdir, .path = "/a/acls" },
	{ "chmod with an acl", op_chmod, .path = "/a/acl", .arg = 0640 },
	{ "access acl", op_setacl, .path = "/a/acls", .path2 = ACL_ACCESS_NAME, .arg = 8 },
	{ "fsync dir", op_fsync, .path = "/a", .flags = OP_DURABLE },
	{ "remove acl", op_removexattr, .path = "/a/acl", .path2 = ACL_ACCESS_NAME },
	{ "unlink", op_unlink, .path = "/a/acl" },
	{ "rmdir", op_rmdir, .path = "/a/acls" },
	{ "remove default acl", op_removexattr, .path = "/a", .path2 = ACL_DEFAULT_NAME },
	{ "fsync dir", op_fsync, .path = "/b", .flags = OP_DURABLE },
	{ 0 },
};

static const struct op data_ops[] = {
	{ "create", op_create, .path = "/d" },
	{ "write inline", op_write, .path = "/d", .len = 1000, .arg = 20 },
	{ "outgrow inline", op_write, .path = "/d", .off = 900, .len = 5000, .arg = 21, .flags = OP_PARTIAL },
	{ "append", op_write, .path = "/d", .off = 5900, .len = 250 * KIB, .arg = 22, .flags = OP_PARTIAL },
	{ "fsync", op_fsync, .path = "/d", .flags = OP_DURABLE },
	{ "overwrite 4 KiB", op_write, .path = "/d", .off = 8 * KIB, .len = 4 * KIB, .arg = 23, .flags = OP_PARTIAL },
	{ "overwrite unaligned", op_write, .path = "/d", .off = 20001, .len = 6001, .arg = 24, .flags = OP_PARTIAL },
	{ "fsync", op_fsync, .path = "/d", .flags = OP_DURABLE },
	{ "overwrite 100 KiB", op_write, .path = "/d", .off = 64 * KIB, .len = 100 * KIB, .arg = 25, .flags = OP_PARTIAL },
	{ "read", op_read, .path = "/d", .len = 256 * KIB, .flags = OP_READS },
	{ "fsync", op_fsync, .path = "/d", .flags = OP_DURABLE },
	{ "truncate down", op_truncate, .path = "/d", .len = 150 * KIB + 123, .flags = OP_PARTIAL },
	{ "truncate up", op_truncate, .path = "/d", .len = 170 * KIB, .flags = OP_PARTIAL },
	{ "read end", op_read, .path = "/d", .off = 149 * KIB, .len = 30 * KIB, .flags = OP_READS },
	{ "fsync", op_fsync, .path = "/d", .flags = OP_DURABLE },
	{ "punch", op_fallocate, .path = "/d", .off = 30 * KIB + 5, .len = 20 * KIB, .arg = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	  .flags = OP_PARTIAL },
	{ "zero range", op_fallocate, .path = "/d", .off = 90 * KIB, .len = 10 * KIB + 1, .arg = FALLOC_FL_ZERO_RANGE, .flags = OP_PARTIAL },
	{ "preallocate", op_fallocate, .path = "/d", .off = 160 * KIB, .len = 100 * KIB, .flags = OP_PARTIAL },
	{ "preallocate behind", op_fallocate, .path = "/d", .off = 260 * KIB, .len = 64 * KIB, .arg = FALLOC_FL_KEEP_SIZE, .flags = OP_PARTIAL },
	{ "fill", op_write, .path = "/d", .off = 180 * KIB, .len = 8 * KIB, .arg = 26, .flags = OP_PARTIAL },
	{ "seek hole", op_lseek, .path = "/d", .arg = SEEK_HOLE, .flags = OP_READS },
	{ "seek data", op_lseek, .path = "/d", .off = 35 * KIB, .arg = SEEK_DATA, .flags = OP_READS },
	{ "sync", op_sync, .flags = OP_DURABLE },
	{ "create", op_create, .path = "/copy" },
	{ "copy", op_copy, .path = "/d", .path2 = "/copy", .off = 10 * KIB, .len = 120 * KIB, .arg = 4096, .flags = OP_PARTIAL },
	{ "fsync", op_fsync, .path = "/copy", .flags = OP_DURABLE },
	{ "statfs", op_statfs, .flags = OP_READS },
	{ "shrink to nothing", op_truncate, .path = "/copy", .len = 0, .flags = OP_PARTIAL },
	{ "write inline", op_write, .path = "/copy", .len = 50, .arg = 27 },
	{ "unlink", op_unlink, .path = "/a/inline" },
	{ 0 },
};

// Enough for the log to be checkpointed and to start anew; a file that a crash leaves without a name; no end.
static const struct op log_ops[] = {
	{ "setxattr", op_setxattr, .path = "/d", .path2 = "user.churn", .len = 24 * KIB, .arg = 30 },
	{ "churn", op_setxattr, .path = "/d", .path2 = "user.churn", .len = 24 * KIB, .arg = 40, .times = 3 },
	{ "fsync", op_fsync, .path = "/d", .flags = OP_DURABLE },
	{ "churn", op_setxattr, .path = "/b", .path2 = "user.churn", .len = 40 * KIB, .arg = 50, .times = 4 },
	{ "fsync dir", op_fsync, .path = "/b", .flags = OP_DURABLE },
	{ "churn", op_setxattr, .path = "/a", .path2 = "user.churn", .len = 60 * KIB, .arg = 60 },
	{ "fsync dir", op_fsync, .path = "/a", .flags = OP_DURABLE },
	{ "churn", op_setxattr, .path = "/d", .path2 = "user.more", .len = 60 * KIB, .arg = 70 },
	{ "fsync", op_fsync, .path = "/d", .flags = OP_DURABLE },
	{ "churn", op_setxattr, .path = "/b", .path2 = "user.more", .len = 60 * KIB, .arg = 80 },
	{ "fsync dir", op_fsync, .path = "/b", .flags = OP_DURABLE },
	{ "churn", op_setxattr, .path = "/a", .path2 = "user.more", .len = 60 * KIB, .arg = 90 },
	{ "sync", op_sync, .flags = OP_DURABLE },
	{ "churn", op_setxattr, .path = "/d", .path2 = "user.churn", .len = 60 * KIB, .arg = 100 },
	{ "sync", op_sync, .flags = OP_DURABLE },
	{ "churn", op_setxattr, .path = "/d", .path2 = "user.more", .len = 60 * KIB, .arg = 110 },
	{ "sync", op_sync, .flags = OP_DURABLE },
	{ "churn", op_setxattr, .path = "/b", .path2 = "user.churn", .len = 60 * KIB, .arg = 120 },
	{ "sync", op_sync, .flags = OP_DURABLE },
	{ "churn", op_setxattr, .path = "/a", .path2 = "user.churn", .len = 60 * KIB, .arg = 130 },
	{ "sync", op_sync, .flags = OP_DURABLE },
	{ "churn", op_setxattr, .path = "/b", .path2 = "user.more", .len = 60 * KIB, .arg = 140 },
	{ "sync", op_sync, .flags = OP_DURABLE },
	{ "hold", op_hold, .path = "/copy", .flags = OP_READS },
	{ "write held", op_write_held, .len = 70 * KIB, .arg = 150, .flags = OP_PARTIAL, .path = "/copy" },
	{ "unlink held", op_unlink, .path = "/copy" },
	{ "sync", op_sync, .flags = OP_DURABLE },
	{ 0 },
};

static const struct op read_ops[] = {
	{ "stat", op_stat, .path = "/d", .flags = OP_READS },
	{ "read", op_read, .path = "/d", .len = 300 * KIB, .flags = OP_READS },
	{ "readdirplus", op_readdir, .path = "/", .arg = 1, .flags = OP_READS },
	{ "getxattr", op_getxattr, .path = "/d", .path2 = "user.more", .flags = OP_READS },
	{ "listxattr", op_listxattr, .path = "/b", .flags = OP_READS },
	{ "readlink", op_readlink, .path = "/a/sym", .flags = OP_READS },
	{ "statfs", op_statfs, .flags = OP_READS },
	{ 0 },
};

static const struct op recover_ops[] = {
	{ "read", op_read, .path = "/d", .len = 300 * KIB, .flags = OP_READS },
	{ "removexattr", op_removexattr, .path = "/d", .path2 = "user.more" },
	{ "overwrite", op_write, .path = "/d", .off = 4 * KIB, .len = 4 * KIB, .arg = 160, .flags = OP_PARTIAL },
	{ "fsync", op_fsync, .path = "/d", .flags = OP_DURABLE },
	{ "create", op_create, .path = "/new" },
	{ 0 },
};

static const struct op trim_ops[] = {
	{ "create", op_create, .path = "/t" },
	{ "write", op_write, .path = "/t", .len = 1024 * KIB, .arg = 170, .flags = OP_PARTIAL },
	{ "fsync", op_fsync, .path = "/t", .flags = OP_DURABLE },
	{ "unlink", op_unlink, .path = "/t" },
	{ "sync", op_sync, .flags = OP_DURABLE },
	{ "unlink", op_unlink, .path = "/d" },
	{ "sync", op_sync, .flags = OP_DURABLE },
	{ "wait", op_wait_trim, .flags = OP_READS },
	{ 0 },
};

static const char damage[] =
	"UPDATE inode SET nlink = nlink + 1 WHERE ino IN (SELECT ino FROM dirent WHERE name = CAST('new' AS BLOB));"
	"UPDATE inode SET size = size + 3 WHERE ino IN (SELECT ino FROM dirent WHERE name = CAST('b' AS BLOB));"
	"UPDATE inode SET blocks = blocks + 1 WHERE blocks > 0;"
	"UPDATE metaslab SET free_blk = free_blk - 1;"
	"UPDATE dirent SET type = 1 WHERE name = CAST('sym' AS BLOB);"
	"INSERT INTO inode SELECT ino + 100000, 0, mode, 1, uid, gid, rdev, flags, size, blocks, atime, mtime, ctime, btime"
	"  FROM inode WHERE ino IN (SELECT ino FROM dirent WHERE name = CAST('new' AS BLOB));"
	"INSERT INTO xattr VALUES(999999, x'757365722e78', x'00');";

const struct scenario scenarios[] = {
	{ .name = "format", .kind = RUN_FORMAT },
	{ "create", RUN_SESSION, .ops = create_ops },
	{ "names", RUN_SESSION, .ops = names_ops },
	{ "data", RUN_SESSION, .ops = data_ops },
	{ "log", RUN_SESSION, .ops = log_ops, .unplug = true },
	{ "read-only", RUN_SESSION, .ops = read_ops, .open_flags = VOLUME_READ_ONLY },
	{ "check", RUN_FSCK, .fsck_mode = "-n", .fsck_status = 0 },
	{ "recover", RUN_SESSION, .ops = recover_ops },
	{ "trim", RUN_SESSION, .ops = trim_ops, .discard = true },
	{ "repair", RUN_FSCK, .damage = damage, .fsck_mode = "-y", .fsck_status = 1 },
};
const unsigned n_scenarios = ARRAY_LEN(scenarios);
