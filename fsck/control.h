// SPDX-License-Identifier: MIT
// How fsck.hybridfs speaks with the daemon of a mounted volume: three ioctls on the root directory of the mount.
//
//   START   begins a job and answers its number. -EBUSY while another job runs, or its report is being fetched.
//   STATUS  how far the job is, and the next piece of its report. Must come every CONTROL_LEASE_S seconds: otherwise nobody is there
//           any more, and the job ends.
//   STOP    the job ends soon; STATUS goes on to tell.
//
// Who may: root, and the user that the daemon runs as; others get -EPERM. -EINVAL for another version, or values out of range; -ESRCH for the
// number of another job. The sizes are in the numbers of the ioctls, as always. A filesystem that does not know them answers -ENOTTY.
#ifndef HYBRIDFS_FSCK_CONTROL_H
#define HYBRIDFS_FSCK_CONTROL_H

#include <stdint.h>
#include <sys/ioctl.h>

#define CONTROL_VERSION 1u
#define CONTROL_LEASE_S 15u
#define CONTROL_TEXT_BYTES 3072u
#define CONTROL_RATE_MAX_MIB 1000000u

enum control_flags {
	CONTROL_SCRUB = 1 << 0,   // read and verify all data, too
	CONTROL_VERBOSE = 1 << 1, // phases, and identifiers of problems
};

enum control_state { CONTROL_RUNNING, CONTROL_DONE };

struct control_start {
	uint32_t version;  // in
	uint32_t flags;    // in
	uint32_t rate_mib; // in: MiB a second that a scrub may read at most; 0 = the default
	uint32_t reserved; // 0
	uint64_t job;      // out
};

struct control_status {
	uint32_t version; // in
	uint32_t state;   // out, as all that follows, but job: enum control_state. DONE: everything has been said when text_len is 0
	uint64_t job;     // in
	uint64_t cur, max;
	uint32_t pass, n_passes;
	char what[16];    // of the pass; ends with 0
	uint32_t exit_status; // when DONE: as of fsck (enum fsck_exit)
	uint32_t text_len;
	char text[CONTROL_TEXT_BYTES];
	char error[512];  // when DONE: why the job could not go on; ends with 0, empty = nothing
};

struct control_stop {
	uint32_t version; // in
	uint32_t reserved; // 0
	uint64_t job;     // in
};

#define CONTROL_IOC_START _IOWR('H', 0xf0, struct control_start)
#define CONTROL_IOC_STATUS _IOWR('H', 0xf1, struct control_status)
#define CONTROL_IOC_STOP _IOW('H', 0xf2, struct control_stop)

_Static_assert(sizeof(struct control_start) == 24, "the same for every compiler");
_Static_assert(sizeof(struct control_status) == 64 + CONTROL_TEXT_BYTES + 512, "the same for every compiler");
_Static_assert(sizeof(struct control_stop) == 16, "the same for every compiler");

#endif
