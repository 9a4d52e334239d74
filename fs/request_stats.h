// SPDX-License-Identifier: MIT
// Counts the kernel's requests: how many of each kind, how long they took, and how large reads and writes were.
//
// What a filesystem in user space costs is mostly the number of these, so users, tests and benches can look: SIGUSR2 makes the daemon log
// them. Counted is what the kernel sends, before anything of it is put right (transport.h, R5 and R6).
//
// Lock: none. Any thread counts; a reader may see a request in one number and not yet in another.
#ifndef HYBRIDFS_FS_REQUEST_STATS_H
#define HYBRIDFS_FS_REQUEST_STATS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define REQUEST_KINDS 64u // opcodes of FUSE are smaller; all others share the last one
#define REQUEST_SIZES 10u // up to 4 KiB, 8 KiB, … 1 MiB, and more

enum request_transfer { REQUEST_READ, REQUEST_WRITE, REQUEST_TRANSFERS };

struct request_stats {
	struct {
		atomic_uint_fast64_t n, ns;
	} kinds[REQUEST_KINDS];
	struct {
		atomic_uint_fast64_t bytes, of_size[REQUEST_SIZES];
	} transfers[REQUEST_TRANSFERS]; // what was asked for
};

// A request as the kernel sent it, len bytes of it, took ns from its arrival to the end of its processing.
struct request_kind {
	uint32_t opcode;
	uint32_t bytes; // that a READ or WRITE is of; else 0
};
struct request_kind request_kind_of(const void *req, size_t len);
void request_stats_count(struct request_stats *s, struct request_kind kind, uint64_t ns);

// All of it to the log, in few lines: the kinds that there were, their mean time, and of READ and WRITE the sizes.
void request_stats_log(struct request_stats *s);

#endif
