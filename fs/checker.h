// SPDX-License-Identifier: MIT
// The checker: a thread of the daemon that checks the volume while it is mounted, for fsck.hybridfs --online (fsck/control.h).
//
//   none ---- START ----> RUNNING ---- finished, stopped, nobody asks any more ----> DONE ---- the report is fetched ----> none
//
// The check is fsck's own, over a snapshot (fsck/online.h). A scrub follows it, file by file, with the locks that reading takes (fs_verify), at a
// pace: no more than so many MiB a second, and no more than half of the device's time.
//
// The report waits in memory, CHECKER_TEXT_BYTES of it; when that is full the thread waits for whoever fetches it, while the lease lasts.
//
// Lock: internal. Any thread. Errors: negative errno, those of fsck/control.h.
#ifndef HYBRIDFS_FS_CHECKER_H
#define HYBRIDFS_FS_CHECKER_H

#include "fs/fs.h"
#include "fsck/control.h"
#include "util/attr.h"

struct checker;

#define CHECKER_TEXT_BYTES (1u << 20)
#define CHECKER_RATE_MIB 50u // of a scrub

int checker_create(struct fs *fs, struct checker **out) ATTR_MUST_USE;
void checker_destroy(struct checker *c); // ends the job and waits for its end; before the filesystem's context goes. NULL is allowed

int checker_start(struct checker *c, struct control_start *req) ATTR_MUST_USE;
int checker_status(struct checker *c, struct control_status *st) ATTR_MUST_USE;
int checker_stop(struct checker *c, const struct control_stop *req) ATTR_MUST_USE;

// One of the ioctls: `in` is what came with it. On success *out is the answer, of *out_size bytes. -ENOTTY: another ioctl.
union checker_answer {
	struct control_start start;
	struct control_status status;
};
int checker_ioctl(struct checker *c, uid_t caller, unsigned cmd, const void *in, size_t in_size, union checker_answer *out,
                  size_t *out_size) ATTR_MUST_USE;

#endif
