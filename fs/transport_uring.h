// SPDX-License-Identifier: MIT
// Requests over io_uring: what the kernel and we tell each other, and what happens to an entry.
//
// The kernel has a queue for each possible CPU. A request goes to the queue of the CPU on which its process runs, there into a free entry:
// memory of ours (a header and TRANSPORT_MAX_WRITE of payload) that was registered through an io_uring. It arrives as a completion on that
// ring. The reply is written into the same memory, and one command commits it and makes the entry free for the next request.
//
//                register_entry                 completion, 0                transport_process
//   OURS, empty ---------------> THE KERNEL'S ------------------> AT WORK -------------------> ANSWERED
//                                 |        ^                                                      |
//             completion, error   |        |                     commit                           |
//                                 v        +------------------------------------------------------+
//                                GONE: refused, or the session has ended
//
// An entry belongs to a *lane*: a thread with a ring of its own. The kernel takes the entry that became free last (Linux 6.14 … 6.18), so
// the lane that has just worked gets the next request, and the others sleep. A request that takes long, a read from the device or an
// fsync, keeps one lane busy and nothing else: the next request goes to another lane, without a thread of ours that would have to notice,
// hand over, or be woken for the reply. (Handing slow work to other threads, and their replies back to the owner of one ring per CPU, was
// the alternative: two more wake-ups for each slow request, a guess beforehand which ones are slow, and a queue that stands still
// when the guess was wrong.)
//
// U1  Only the lane's thread touches its ring and its entries. The kernel copies a request in the context of that thread, too.
// U2  A queue has a free entry, or max_threads lanes: whoever gets a queue's last free entry sees to it that it gets another lane, before
//     the request is processed.
// U3  Each possible CPU's queue has an entry before the kernel sends anything to any (it waits for that). CPUs on which this process
//     may run when the mount begins get FIRST_LANES lanes. The queues of the others (offline, or outside of our cpuset) have one entry
//     each in one common lane, and get lanes of their own by U2 when somebody uses them.
// U4  Everything that can fail without the kernel's doing (memory, descriptors, threads, a forbidden io_uring_enter(2)) fails in create,
//     before the kernel is told of the rings: each ring has done an empty command by then.
// U5  An entry whose registration the kernel refuses is GONE; before the rings are in use the kernel then sends everything to /dev/fuse,
//     and after that the queue's other entries go on.
// U6  A lane leaves when all of its entries are GONE or the transport stops; never in the middle of a request.
//
// The first lane of a CPU is pinned to it, if that is allowed: the reply is there where the client waits. Further ones go where the
// scheduler likes: they have work only when one CPU has more than one request at a time.
#ifndef HYBRIDFS_FS_TRANSPORT_URING_H
#define HYBRIDFS_FS_TRANSPORT_URING_H

#include <assert.h>
#include <stdint.h>

// Commands of IORING_OP_URING_CMD on /dev/fuse, in sqe->cmd_op.
#define URING_REGISTER 1
#define URING_COMMIT_AND_FETCH 2

// In the second half of a submission entry of 128 bytes.
struct uring_cmd {
	uint64_t flags;     // 0
	uint64_t commit_id; // of the request that is answered
	uint16_t queue;     // the CPU
	uint8_t padding[6];
};
static_assert(sizeof(struct uring_cmd) == 24, "as in linux/fuse.h");

#define URING_OP_IN_BYTES 128

struct uring_header {
	char in_out[128]; // fuse_in_header; on the way back fuse_out_header
	char op_in[URING_OP_IN_BYTES]; // what follows it, but names and data, which are the payload
	uint64_t flags;
	uint64_t commit_id;
	uint32_t payload_bytes; // of the request; on the way back of the reply
	uint32_t padding;
	uint64_t reserved;
};
static_assert(sizeof(struct uring_header) == 288, "as in linux/fuse.h");

enum entry_state { ENTRY_OURS, ENTRY_KERNELS, ENTRY_AT_WORK, ENTRY_ANSWERED, ENTRY_GONE };

#endif
